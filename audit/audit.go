// Package audit keeps a trail of the changes to a store: each change, its time and its actor. The
// trail is in the store, and each entry is written in the transaction of its change. So there is no
// change without an entry, and no entry without a change.
//
//	trail := audit.New(nil)
//	store, err := latchkey.Open("keys.db", &latchkey.Options{OnChange: trail.Record})
//	err = store.DisableKey(latchkey.WithActor(ctx, "ada"), owner, key)
//	err = store.View(ctx, func(tx *latchkey.Tx) error {
//		for entry, err := range audit.Entries(tx, 0) {
//			...
//		}
//	})
//
// # The chain
//
// Entries are only ever appended. Each entry begins with the SHA-256 of the entry before it, over
// the bytes as they are stored. A [Head] is the number and the hash of the last entry. It is 80
// characters long, and it stands for all entries up to it. Keep heads elsewhere: in a log, on
// paper, in another system. [Verify] then shows that the trail still has what it had when the head
// was taken.
//
// The chain is bounded. When it has more entries than [Options].MaxEntries, the oldest go, in the
// transaction of the next change. The rest is still a chain.
//
// # Several chains
//
// Each entry follows the entry before it. So on an engine that several processes share, such as
// etcd, changes of all processes wait for each other if they write one chain. With [Options].Chain,
// each process appends to a [Chain] of its own. Chains have nothing in common that a change reads
// or writes, except that a chain puts its name in a list when it begins.
//
// Each chain has its own numbers, its own bound, and its own head. The head has the name of the
// chain. [Chains] returns the names, [All] yields the entries of all chains in one list, and
// [VerifyAll] verifies all chains. Between two chains, only the times of the entries say which
// entry was first, and each time is from the clock of the process that has made the change.
//
// Keep heads of all chains. A chain of which no head was kept can be removed as a whole, and
// nothing shows it.
//
// # What the trail proves
//
// With a head that was kept elsewhere, an attacker with access to the file cannot change or insert
// an entry up to that head, or remove one from the middle, without [Verify] noticing. The oldest
// entries can be removed, because pruning does the same. Entries after the last head that was kept
// prove nothing: an attacker with access to the file can write them anew, with all their hashes,
// and so can the program itself. Without any head kept elsewhere, the chain shows damage, but no
// intent.
//
// The trail does not prove the name of the actor, which the program gives by [latchkey.WithActor].
// A trail that was pruned proves nothing about the entries that are gone. A backup has the trail of
// its time, so a restored store lacks the entries since, and [Verify] says so if it is given a
// later head.
//
// The trail has the names of keys and groups, scopes, networks, IDs, and actors. They stay in it
// when the user or key is deleted.
//
// # A trail that is broken
//
// If the trail cannot be continued, because the file is damaged or somebody has written it, a
// change that takes something away, such as disabling a key, goes through without an entry, because
// damage must not keep a leaked key good. Every other change is refused, so that nobody gets access
// that the trail does not show. [Trail.Health] and [Verify] tell about it. Keep a copy of the file,
// and call [Begin], which begins the trail anew. If the pages of the file are damaged,
// [latchkey.Salvage] it first.
//
// Each store has a trail of its own. Replication does not carry it.
package audit

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/plainjson"
)

// TableName is the name of the trail's [latchkey.AppTable].
const TableName = "audit"

// Options changes how a trail is kept. A nil *Options, or one with only zero fields, is the
// default.
type Options struct {
	// MaxEntries is how many entries the chain has at most. The default is 100,000, which take
	// about 40 MB in a file. A negative number is no bound.
	MaxEntries int
	// Chain is the chain to which the trail is appended. The default is the default chain. Several
	// processes that have one store can append to one chain each, so that their changes do not wait
	// for each other.
	Chain Chain
}

func (o *Options) chain() Chain {
	if o == nil {
		return ""
	}
	return o.Chain
}

func (o *Options) maxEntries() uint64 {
	switch {
	case o == nil || o.MaxEntries == 0:
		return 100_000
	case o.MaxEntries < 0:
		return 0
	}
	return uint64(o.MaxEntries)
}

// A Trail writes the trail of one store. It is safe for concurrent use.
type Trail struct {
	max   uint64
	chain Chain

	mu      sync.Mutex
	broken  error // of the last call of Record, if the trail was broken
	without int   // calls of Record since then that let a change go through without an entry
}

// New returns a trail. opts may be nil.
func New(opts *Options) *Trail { return &Trail{max: opts.maxEntries(), chain: opts.chain()} }

// Chain returns the chain to which the trail is appended.
func (t *Trail) Chain() Chain { return t.chain }

// An Entry is one change in the trail.
type Entry struct {
	Chain  Chain           `json:"chain,omitempty"`
	Number uint64          `json:"number"` // from 1 on, in its chain
	Change latchkey.Change `json:"change"`
	Hash   Hash            `json:"hash"` // of the entry
}

// Head returns the head that the trail had when the entry was the last one.
func (e Entry) Head() Head { return Head{Chain: e.Chain, Number: e.Number, Hash: e.Hash} }

// The trail's table has the entries of the default chain, each under 'e' and its number, and beside
// them the head under 'h' and the anchor under 'a'. The anchor is the head of the entries that were
// pruned. An entry is the hash of the entry before it, its own number, and the change in JSON. The
// records of a chain with a name have the same keys behind a prefix.
var (
	anchorKey = []byte{'a'}
	headKey   = []byte{'h'}
	entries   = []byte{'e'}
	behind    = []byte{'f'} // the first key behind the entries
)

func entryKey(number uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, number) }

// prunedAtOnce is how many entries one change removes at most. It is more than one, so that the
// trail shrinks when MaxEntries is lowered, and little, so that no change is slow.
const prunedAtOnce = 8

// Record appends a change to the trail. It is made for [latchkey.Options].OnChange. If the trail is
// broken, Record returns nil for a change that takes something away, and [Trail.Health] has the
// error.
//
// Errors: [ErrBroken]; [ErrChain]; an error of [latchkey.AppTable].
func (t *Trail) Record(tx *latchkey.Tx, c latchkey.Change) error {
	r, err := t.chain.records(tx)
	if err == nil {
		err = t.chain.explain(t.append(r, c))
	}
	if err != nil && !errors.Is(err, ErrBroken) {
		return err
	}
	takesAway := !slices.ContainsFunc(c.Actions, func(a latchkey.Action) bool { return !slices.Contains(takingAway, a) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = err
	switch {
	case err == nil:
		t.without = 0
	case !takesAway:
		return fmt.Errorf("the change cannot be recorded, and is refused: %w", err)
	default:
		t.without++
	}
	return nil
}

// takingAway are the actions that go through without an entry if the trail is broken.
var takingAway = []latchkey.Action{
	latchkey.ActionUserDeleted, latchkey.ActionUserDisabled, latchkey.ActionIdentityUnlinked,
	latchkey.ActionKeyDeleted, latchkey.ActionKeyDisabled, latchkey.ActionKeyTokenEnded,
	latchkey.ActionGroupDisabled, latchkey.ActionTagSecretRetired,
}

// isBroken reports whether err means that the trail is broken, and not that nothing can be written.
func isBroken(err error) bool {
	return errors.Is(err, ErrBroken) || errors.Is(err, latchkey.ErrCorrupt) || errors.Is(err, latchkey.ErrNewerFormat)
}

// Health returns the error of the last call of [Trail.Record] if the trail was broken then, with
// the number of changes that went through without an entry. Otherwise it returns nil.
func (t *Trail) Health() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken == nil {
		return nil
	}
	return fmt.Errorf("%w; changes without an entry: %d", t.broken, t.without)
}

func (t *Trail) append(table records, c latchkey.Change) error {
	last, err := head(table)
	if err != nil {
		return err
	}
	last, err = put(table, last, c)
	if err != nil || t.max == 0 {
		return err
	}
	// The change has its entry. If the old entries are broken, Verify says so.
	if err := prune(table, last.Number, t.max, prunedAtOnce); !isBroken(err) {
		return err
	}
	return nil
}

// put writes the entry after last, and the head, which it returns.
func put(table records, last Head, c latchkey.Change) (next Head, err error) {
	value, err := encodeEntry(last, c)
	if err != nil {
		return Head{}, err
	}
	if last == (Head{}) {
		if err := table.note(); err != nil {
			return Head{}, err
		}
	}
	next = Head{Number: last.Number + 1, Hash: hashOf(value)}
	if err := table.Put(entryKey(next.Number), value); err != nil {
		return Head{}, err
	}
	return next, table.Put(headKey, next.encode())
}

func encodeEntry(last Head, c latchkey.Change) ([]byte, error) {
	change, err := plainjson.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return append(binary.BigEndian.AppendUint64(last.Hash[:], last.Number+1), change...), nil
}

// Prune removes the oldest entries, until there are at most so many. A trail of many entries is
// better pruned in steps, because all of them go in one transaction.
//
// Errors: [ErrBroken]; an error of [latchkey.AppTable].
func Prune(tx *latchkey.Tx, keep uint64) error { return Chain("").Prune(tx, keep) }

// Prune removes the oldest entries of the chain, as [Prune] does.
func (c Chain) Prune(tx *latchkey.Tx, keep uint64) error {
	table, err := c.records(tx)
	if err != nil {
		return err
	}
	last, err := head(table)
	if err == nil {
		err = prune(table, last.Number, keep, last.Number)
	}
	return c.explain(err)
}

// ActionBegun is the action of the first entry of a trail that [Begin] has begun.
const ActionBegun latchkey.Action = "audit.begun"

// Begin begins a trail, or begins a broken one anew. It removes all entries that are there, so copy
// the file before. The first entry has the action [ActionBegun]. The numbers of entries go on, and
// a [Head] from before is [ErrPruned].
//
// A trail also begins without Begin, with the first change that [Trail.Record] records.
//
// Errors: [ErrBroken] if what is there cannot be removed; an error of [latchkey.AppTable].
func Begin(tx *latchkey.Tx, actor string) error { return Chain("").Begin(tx, actor) }

// Begin begins the chain, or begins a broken one anew, as [Begin] does.
func (c Chain) Begin(tx *latchkey.Tx, actor string) error {
	table, err := c.records(tx)
	if err != nil {
		return err
	}
	return c.explain(begin(table, latchkey.Change{Actions: []latchkey.Action{ActionBegun}, Time: tx.Now(), Actor: actor}))
}

// begin removes all entries, and puts the first one.
func begin(table records, first latchkey.Change) error {
	last, err := removeAll(table)
	if err != nil {
		return err
	}
	anchor := Head{}
	if last > 0 && last < math.MaxUint64-2 {
		anchor.Number = last + 1 // no known head has it
	}
	if err := table.Put(anchorKey, anchor.encode()); err != nil {
		return err
	}
	if err := table.note(); err != nil {
		return err
	}
	_, err = put(table, anchor, first)
	return err
}

// removeAll removes all entries, and returns the greatest number that the trail is known to have
// had.
func removeAll(table records) (last uint64, err error) {
	for _, key := range [][]byte{anchorKey, headKey} {
		if h, err := getHead(table, key); err == nil {
			last = max(last, h.Number)
		} else if !isBroken(err) {
			return 0, err
		}
	}
	for damaged := uint64(0); ; {
		err := removeReadable(table, &last)
		if err == nil || !isBroken(err) {
			return last, err
		}
		first := firstNumber(table)
		if first == damaged {
			return 0, fmt.Errorf("%w: entry %d cannot be removed: %w", ErrBroken, first, err)
		}
		damaged, last = first, max(last, first)
		if err := table.Delete(entryKey(first)); err != nil {
			return 0, err
		}
	}
}

// removeReadable removes entries up to the first that cannot be read.
func removeReadable(table records, last *uint64) error {
	for e, err := range table.Scan(entries, behind) {
		if err == nil {
			err = table.Delete(e.Key)
		}
		if err != nil {
			return err
		}
		if number, err := entryNumber(e.Key); err == nil {
			*last = max(*last, number)
		}
	}
	return nil
}

// firstNumber returns the number of the first entry, which need not be readable.
func firstNumber(table records) uint64 {
	low, high := uint64(0), uint64(math.MaxUint64)
	for low < high {
		middle := low + (high-low)/2
		if isEmpty(table, entryKey(middle+1)) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// isEmpty reports whether there is no entry before a key.
func isEmpty(table records, to []byte) bool {
	for range table.Scan(entries, to) {
		return false
	}
	return true
}

// prune removes the oldest of the entries up to last until keep are left, but at most so many at
// once.
func prune(table records, last, keep, atOnce uint64) error {
	if last <= keep {
		return nil
	}
	anchor, err := getHead(table, anchorKey)
	if err != nil {
		return err
	}
	gone := anchor
	for e, err := range table.Scan(entryKey(anchor.Number+1), entryKey(last-keep+1)) {
		if err != nil {
			return err
		}
		number, err := entryNumber(e.Key)
		if err != nil {
			return err
		}
		if err := table.Delete(e.Key); err != nil {
			return err
		}
		if gone = (Head{Number: number, Hash: hashOf(e.Value)}); gone.Number-anchor.Number >= atOnce {
			break
		}
	}
	if gone == anchor {
		return nil
	}
	return table.Put(anchorKey, gone.encode())
}

// head returns the head of the trail. If a salvage has lost the record of the head, it is found
// from the last entry.
func head(table records) (Head, error) {
	b, err := table.Get(headKey)
	if err != nil {
		return Head{}, err
	}
	if b != nil {
		return decodeHead(b)
	}
	last, err := getHead(table, anchorKey)
	if err != nil {
		return Head{}, err
	}
	for e, err := range table.Scan(entryKey(last.Number+1), behind) {
		if err != nil {
			return Head{}, err
		}
		number, err := entryNumber(e.Key)
		if err != nil {
			return Head{}, err
		}
		last = Head{Number: number, Hash: hashOf(e.Value)}
	}
	return last, nil
}

// getHead returns the head that is stored under a key, or the zero Head if there is none.
func getHead(table records, key []byte) (Head, error) {
	b, err := table.Get(key)
	if err != nil || b == nil {
		return Head{}, err
	}
	return decodeHead(b)
}

// CurrentHead returns the head of the trail. The head of a trail without any entry ever is the zero
// Head.
//
// Errors: [ErrBroken]; an error of [latchkey.AppTable].
func CurrentHead(tx *latchkey.Tx) (Head, error) { return Chain("").Head(tx) }

// Head returns the head of the chain, as [CurrentHead] does.
func (c Chain) Head(tx *latchkey.Tx) (Head, error) {
	table, err := c.records(tx)
	if err != nil {
		return Head{}, err
	}
	h, err := head(table)
	if err != nil || h == (Head{}) {
		return Head{}, c.explain(err)
	}
	h.Chain = c
	return h, nil
}

// Entries yields the entries with greater numbers than one, in order; 0 is the beginning. The last
// number that was yielded is where to go on. A trail that is long is better read in several
// transactions, because no transaction should last while somebody looks at the entries.
//
// An error is the last element: [ErrBroken] if an entry cannot be read, or an error of
// [latchkey.AppTable]. Only [Verify] looks whether the entries are a chain.
func Entries(tx *latchkey.Tx, after uint64) iter.Seq2[Entry, error] {
	return Chain("").Entries(tx, after)
}

// Entries yields the entries of the chain, as [Entries] does.
func (c Chain) Entries(tx *latchkey.Tx, after uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		table, err := c.records(tx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		if after == ^uint64(0) {
			return
		}
		for e, err := range table.Scan(entryKey(after+1), behind) {
			var entry Entry
			if err == nil {
				entry, _, err = decodeEntry(e)
			}
			if err == nil {
				entry.Chain = c
			}
			if !yield(entry, c.explain(err)) || err != nil {
				return
			}
		}
	}
}

// decodeEntry returns an entry, and the hash of the entry before it.
func decodeEntry(e latchkey.Entry) (entry Entry, before Hash, err error) {
	number, err := entryNumber(e.Key)
	if err != nil {
		return Entry{}, Hash{}, err
	}
	n := len(before)
	if len(e.Value) < n+8 || binary.BigEndian.Uint64(e.Value[n:]) != number {
		return Entry{}, Hash{}, broken(number, "it does not have its own number")
	}
	entry.Number, entry.Hash = number, hashOf(e.Value)
	if err := json.Unmarshal(e.Value[n+8:], &entry.Change); err != nil {
		return Entry{}, Hash{}, broken(number, "its change cannot be read")
	}
	return entry, Hash(e.Value[:n]), nil
}

func entryNumber(key []byte) (uint64, error) {
	if len(key) != len(entries)+8 {
		return 0, fmt.Errorf("%w: an entry under the key %x", ErrBroken, key)
	}
	return binary.BigEndian.Uint64(key[len(entries):]), nil
}

// Verify looks at every entry of the trail. It returns nil if they are a chain that ends with the
// trail's head, and if the chain has every head that is known from before.
//
// Errors: [ErrBroken], as a [BrokenError] that says where; [ErrPruned] if all is well, but a known
// head is older than the oldest entry; an error of [latchkey.AppTable].
func Verify(tx *latchkey.Tx, known ...Head) error { return Chain("").Verify(tx, known...) }

// Verify looks at every entry of the chain, as [Verify] does.
//
// Errors: those of [Verify]; [ErrChain], also if a known head is the one of another chain.
func (c Chain) Verify(tx *latchkey.Tx, known ...Head) error {
	table, err := c.records(tx)
	if err != nil {
		return err
	}
	known = slices.Clone(known)
	for i := range known {
		if h := &known[i]; *h != (Head{}) {
			if h.Chain != c {
				return fmt.Errorf("%w: the known head %d is one of the chain %.80q", ErrChain, h.Number, string(h.Chain))
			}
			h.Chain = ""
		}
	}
	return c.explain(verify(table, known))
}

func verify(table records, known []Head) error {
	last, err := getHead(table, anchorKey)
	if err != nil {
		return err
	}
	wanted := map[uint64]Hash{}
	pruned := false
	for _, h := range known {
		if h == (Head{}) {
			continue // the head of every trail before its first entry
		}
		if hash, twice := wanted[h.Number]; twice && hash != h.Hash {
			return broken(h.Number, "two known heads of the entry differ")
		}
		wanted[h.Number] = h.Hash
		pruned = pruned || h.Number < last.Number
	}
	check := func(h Head) error {
		if hash, known := wanted[h.Number]; known && hash != h.Hash {
			return broken(h.Number, "it is not the entry of the known head")
		}
		return nil
	}
	if err := check(last); err != nil {
		return err
	}
	for e, err := range table.Scan(entries, behind) {
		if err != nil {
			return err
		}
		entry, before, err := decodeEntry(e)
		if err != nil {
			return err
		}
		switch {
		case entry.Number <= last.Number:
			return broken(entry.Number, "it was pruned, and is there")
		case entry.Number != last.Number+1:
			return broken(last.Number+1, "it is missing")
		case before != last.Hash:
			return broken(entry.Number, "it does not follow from the entry before")
		}
		last = entry.Head()
		if err := check(last); err != nil {
			return err
		}
	}
	return verifyEnd(table, last, known, pruned)
}

// verifyEnd checks the head of a trail, whose last entry is last.
func verifyEnd(table records, last Head, known []Head, pruned bool) error {
	h, err := head(table)
	if err != nil {
		return err
	}
	switch {
	case h.Number > last.Number:
		return broken(last.Number+1, "it is missing")
	case h != last:
		return broken(last.Number, "it is not the entry of the trail's head")
	}
	for _, k := range known {
		if k.Number > last.Number {
			return broken(last.Number+1, "it is missing, and a known head comes after it")
		}
	}
	if pruned {
		return ErrPruned
	}
	return nil
}

// The errors of the package.
var (
	// ErrBroken means that the trail is no chain, or not the chain that a known head is from.
	// Somebody has written the file, or the file is damaged or older. Keep a copy of the file. The
	// error is a [BrokenError] where the place is known.
	ErrBroken = errors.New("the audit trail is broken")
	// ErrPruned means that a known head is older than the oldest entry of the trail, so it cannot
	// be compared. The entries that are there are a chain. Keep later heads.
	ErrPruned = errors.New("the entry of a known head was pruned")
	// ErrChain means that a chain cannot have the name, or that a known head is the head of another
	// chain.
	ErrChain = errors.New("not a chain of the audit trail")
)

// A BrokenError says where a trail is broken.
type BrokenError struct {
	Chain  Chain
	Number uint64 // of the first entry that is wrong
	Reason string
}

// Error returns the chain if it has a name, the number of the entry, and the reason.
func (e *BrokenError) Error() string {
	if e.Chain != "" {
		return fmt.Sprintf("%v: chain %s: entry %d: %s", ErrBroken, string(e.Chain), e.Number, e.Reason)
	}
	return fmt.Sprintf("%v: entry %d: %s", ErrBroken, e.Number, e.Reason)
}

// Is reports whether target is [ErrBroken].
func (e *BrokenError) Is(target error) bool { return target == ErrBroken }

func broken(number uint64, reason string) error { return &BrokenError{Number: number, Reason: reason} }
