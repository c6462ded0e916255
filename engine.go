package latchkey

import (
	"context"
	"io"
	"iter"
)

// An Engine keeps the data of a [Store]. It has named tables, each of which is an ordered map from
// bytes to bytes. [OpenBoltEngine] opens the engine that comes with the package, and [OpenWith]
// opens a store on any other engine. Package enginetest checks that an engine keeps the promises
// below. Every method of Store relies on them.
//
// An Engine is safe for concurrent use. After Close its methods return [ErrClosed]. A function that
// View or Update runs must not call the engine, and must not wait for another function that does,
// because transactions may share a commit and so wait for each other.
//
// An engine numbers its commits, and can leave numbers out. The number of a commit is its sequence,
// which is greater than the sequence of every commit before it. An Update that writes nothing, or
// that fails, is no commit. Updates that share a commit share its sequence. A commit also has a
// random number. Sequences and random numbers are as durable as the entries.
//
// An engine may also implement [EngineBackuper], [EngineCompacter], [EngineChecker],
// [EngineLongViewer], [EngineHealther], [EngineBounder], [EngineWatcher], [RestoreWatcher] and
// [CommitCounter], and its transactions may implement [DamageSkipper] and [EngineRepairer]. The
// store uses the ones that it finds. An engine that wraps another one passes them on.
//
// An engine whose data are somewhere else can be cut off from them. Then its methods return
// [ErrUnavailable]. An engine that is full refuses to write with [ErrNoSpace].
type Engine interface {
	// View runs fn in a read transaction, and returns fn's error as it is. If ctx ends before fn
	// begins, View returns ctx's error. The transaction sees one state of the whole engine, with
	// every Update that returned before View was called, and nothing that is committed while the
	// transaction lasts. The transaction does not wait for writers. In it, Put and Delete return
	// [ErrReadOnly].
	View(ctx context.Context, fn func(tx EngineTx) error) error

	// Update runs fn in a write transaction. The effect of write transactions is as if they ran one
	// after another. When Update returns nil, what fn wrote is visible to every transaction that
	// begins afterwards and survives a power cut. When fn fails, nothing of it is ever visible, and
	// Update returns fn's error as it is. The engine may run fn more than once, and only the last
	// run counts. If ctx ends before fn begins, Update returns ctx's error. If ctx ends later, that
	// does not take back a commit.
	//
	// When the commit itself fails, nothing of it is visible, with one exception: after
	// [ErrCommitUnknown], the change may or may not be there. An engine that cannot sync refuses
	// later Updates with [ErrSyncFailed]. On an engine opened for reading only, Update returns
	// [ErrReadOnly] and does not run fn.
	//
	// An engine may bound its transactions, see [EngineBounder]. A larger one fails with
	// [ErrTransactionTooLarge].
	Update(ctx context.Context, fn func(tx EngineTx) error) error

	// Track declares tables whose changes the engine keeps track of, see [EngineTx]. It must be
	// called before the first transaction, at each opening, and with the same tables. It may be
	// called more than once. A table must be tracked before its first entry is written. The name of
	// a tracked table has 1 to [MaxTrackedName] bytes, and none of them is zero.
	Track(tables ...string)

	// Commit returns the sequence and the random number of the last commit. Two different commits
	// do not have the same random number. Two copies of an engine, each of which was written to,
	// can have commits with the same sequence, and the random number tells these commits apart.
	//
	// Errors: [ErrClosed]; ctx's error.
	Commit(ctx context.Context) (sequence uint64, random [8]byte, err error)

	// Wait waits until a commit with a sequence greater than after is visible to transactions that
	// begin afterwards. On some engines this can be a commit of another process. If somebody has
	// restored the data of such an engine, and after is from before, Wait returns as well.
	//
	// Errors: [ErrClosed], also if Close begins while Wait waits; ctx's error.
	Wait(ctx context.Context, after uint64) error

	// Close waits for transactions under way, and frees what the engine holds. It is idempotent.
	Close() error
}

// An EngineTx is one transaction of an [Engine]. It must not be used by two goroutines at once.
// After the function that got it has returned, its methods return [ErrClosed].
//
// A key has 1 to [MaxEngineKey] bytes, and a value 0 to [MaxEngineValue] bytes. The caller may keep
// and change a slice that a method has returned. After a call, the caller may change the slices
// that it passed. A table that was never written is empty.
type EngineTx interface {
	// Get returns the value of key, or nil if there is none. An empty value is not nil. Get sees
	// what its own transaction wrote.
	Get(table string, key []byte) ([]byte, error)

	// Scan yields the entries with from ≤ key < to in the order of their keys, compared as bytes.
	// A nil from means the beginning of the table, and a nil to means its end. The body of the
	// loop may write to the table: each step goes to the next greater key that there is at that
	// moment. An error is yielded once, as the last element.
	Scan(table string, from, to []byte) iter.Seq2[Entry, error]

	// Put sets the value of key.
	Put(table string, key, value []byte) error

	// Delete removes key, if it is there.
	Delete(table string, key []byte) error

	// Sequence returns the sequence of the last commit that the transaction sees. In an Update of
	// an [EngineWatcher], commits of entries that the transaction does not read can come between
	// that commit and the transaction's own. In any other Update, no commit comes between.
	Sequence() uint64

	// Changes yields the entries of tracked tables that commits after the sequence since have
	// changed: each entry once, by its last change, in the order of sequences. Changes with one
	// sequence come in the order of their tables, and then of their keys. An entry that was deleted
	// is not yielded. The body of the loop must not write to the tables. An error is yielded once,
	// as the last element.
	//
	// In an Update, what the transaction itself has written counts as changed by a commit after
	// Sequence.
	Changes(since uint64) iter.Seq2[TrackedChange, error]

	// SequenceOf returns the sequence of the commit that last changed an entry of a tracked table,
	// as Changes yields it. It returns 0 if there is no such entry.
	SequenceOf(table string, key []byte) (uint64, error)

	// Count returns the number of entries of a table, with those that the transaction itself has
	// written. Except on an [EngineWatcher], it takes no longer for a large table than a small one.
	Count(table string) (uint64, error)
}

// An Entry is one key of a table with its value.
type Entry struct{ Key, Value []byte }

// A TrackedChange is the last change of an entry of a tracked table.
type TrackedChange struct {
	Sequence uint64 // of the commit
	Table    string
	Key      []byte
}

// An EngineBackuper is an [Engine] that can be backed up. [Store.Backup] needs it.
type EngineBackuper interface {
	// WriteBackup writes a file that [OpenBoltEngine] opens, with the state of one moment, to w.
	WriteBackup(ctx context.Context, w io.Writer) error
}

// An EngineCompacter is an [Engine] that can give unused space back. [Store.Compact] needs it.
type EngineCompacter interface {
	// Compact gives the space that is not in use back to the file system. Transactions go on
	// meanwhile. Compact returns [ErrInterrupted] if it has to be called again.
	Compact(ctx context.Context) error
}

// An EngineChecker is an [Engine] that can look for damage below its entries. [Store.Check] and
// [Store.Repair] use it.
type EngineChecker interface {
	// CheckEngine yields an error for each place that is damaged. If the engine derives the
	// sequences or counts from something else than the entries, it also yields where that disagrees
	// with the entries, as an [ErrNumbering].
	CheckEngine(ctx context.Context) iter.Seq[error]
}

// A CommitCounter is an [Engine] that counts its commits, for [Stats].
type CommitCounter interface {
	// Commits returns the number of commits since the engine was opened.
	Commits() uint64
}

// An EngineBounder is an [Engine] that bounds its transactions.
type EngineBounder interface {
	// MaxWrites returns the number of calls of Put and Delete that a transaction can always make,
	// as long as their keys and values have no more than 1 MiB together. It is at least 100. A
	// transaction that makes more can fail with [ErrTransactionTooLarge].
	MaxWrites() int
}

// An EngineWatcher is an [Engine] whose data other processes can read and change at the same time,
// through engines of their own. A transaction also sees every Update of another process that
// returned before the transaction began.
type EngineWatcher interface {
	// Watch makes the engine call changed for the commits of all processes, its own included, that
	// are later than the call of Watch. changed gets all entries that a commit has put or deleted,
	// of all tables, or those of several commits at once. nil means that anything may have changed,
	// for example after a time in which the engine heard nothing. Sequence need not be set. The
	// calls come one after another, and may go on until Close has returned. changed waits for
	// nothing. Stores call Watch before the first transaction. A second call replaces changed.
	Watch(changed func(changes []TrackedChange))

	// Fresh reports whether changed has returned for everything that was committed longer ago than
	// a bound, which the engine documents. The store believes what it remembers only while Fresh
	// reports true, and asks at each login. So Fresh takes no lock, and waits for nothing.
	Fresh() bool
}

// A RestoreWatcher is an [EngineWatcher] that notices when somebody has restored its data from an
// earlier state. The store then draws another replica ID, because commits are lost that others have
// seen, and other commits have their sequences.
type RestoreWatcher interface {
	// Restored returns how often the engine has noticed that its data were restored, or 0 if
	// Renewed was called with that number. After each time, the engine calls changed with nil.
	Restored() uint64

	// Renewed tells the engine that the store has another replica ID since Restored returned times.
	// An engine that can notice a restoration when it is opened keeps what it needs for that until
	// then.
	Renewed(times uint64)
}

// An EngineRepairer is an [EngineTx] that can make the numbering of its engine again.
// [Store.Repair] uses it.
type EngineRepairer interface {
	// RepairEngine repairs, in an Update, what [EngineChecker] yields as an [ErrNumbering], and
	// returns the number of these findings. stale has the entries that are older than their last
	// change, each with the sequence of that change, which is lost. From then on, the engine treats
	// these entries as up to date.
	//
	// Errors: [ErrReadOnly]; [ErrCorrupt]; ctx's error.
	RepairEngine(ctx context.Context) (repaired int, stale []TrackedChange, err error)
}

// An EngineLongViewer is an [Engine] that can read for long without making writers wait.
// [Store.Check] uses it.
type EngineLongViewer interface {
	// ViewLong is View, except that the methods of tx return [ErrInterrupted] from the moment when
	// a writer would have to wait for the transaction.
	ViewLong(ctx context.Context, fn func(tx EngineTx) error) error
}

// An EngineHealther is an [Engine] that can tell how it is. [Store.Health] uses it.
type EngineHealther interface {
	// EngineHealth returns what is wrong with the engine and what it relies on, joined by
	// [errors.Join], or nil. It waits for no transaction.
	EngineHealth(ctx context.Context) error
}

// A DamageSkipper is an [EngineTx] that can find its way past damage. [Store.Check] and
// [Store.Repair] use it.
type DamageSkipper interface {
	// NextReadable finds the next part of a table, at the key from or later, that cannot be read.
	// It returns the first key after that part from which the table can be read again, or nil if
	// there is no such part or no such key.
	NextReadable(table string, from []byte) []byte
}

var (
	_ EngineBackuper  = boltEngine{}
	_ EngineCompacter = boltEngine{}
	_ EngineChecker   = boltEngine{}
	_ EngineHealther  = boltEngine{}
	_ CommitCounter   = boltEngine{}
	_ DamageSkipper   = boltTx{}
	_ EngineRepairer  = boltTx{}

	_ EngineLongViewer = boltEngine{}
)

// The sizes in bytes of the largest key and the largest value, and of the longest name of a tracked
// table. Every [Engine] must accept these sizes, and may refuse larger ones.
const (
	MaxEngineKey   = 512
	MaxEngineValue = 64 << 10
	MaxTrackedName = 64
)
