package boltengine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/sorted"
)

// The engine numbers its commits, and keeps track of the entries of some tables. The sequence of a
// commit is in the marker, in the root page. The number of entries of a table, and whether the
// table is tracked, is beside the number of the table's root page. package boltpage says how the
// entries of tracked tables and the change index look.

// Track declares tables as tracked. The file says of each table whether it is tracked, so Track
// counts only when the first entry of a table is written.
func (e *Engine) Track(tables ...string) {
	e.news.mu.Lock()
	defer e.news.mu.Unlock()
	tracked := maps.Clone(e.trackedTables())
	for _, table := range tables {
		tracked[table] = true
	}
	e.track.Store(&tracked)
}

// trackedTables returns the tables that were declared as tracked. The caller does not change them.
func (e *Engine) trackedTables() map[string]bool {
	if tracked := e.track.Load(); tracked != nil {
		return *tracked
	}
	return map[string]bool{}
}

// Commit returns the sequence and the random number of the last commit.
func (e *Engine) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	if err := ctx.Err(); err != nil {
		return 0, random, err
	}
	if err := e.health.canRead(); err != nil {
		return 0, random, err
	}
	last := e.lastCommit.Load().mark
	return last.Sequence, last.Random, nil
}

// Wait waits for a commit with a sequence greater than after. No other process commits while this
// one has the file open.
func (e *Engine) Wait(ctx context.Context, after uint64) error {
	for {
		news := e.news.next()
		if sequence, _, err := e.Commit(ctx); err != nil || sequence > after {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
		}
	}
}

// announcements wakes the callers that wait for a commit.
type announcements struct {
	mu   sync.Mutex
	wake chan struct{} // closed at the next commit, or nil if nobody waits
}

// next returns a channel that is closed at the next commit, or when the engine begins to close.
func (n *announcements) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wake == nil {
		n.wake = make(chan struct{})
	}
	return n.wake
}

func (n *announcements) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wake != nil {
		close(n.wake)
		n.wake = nil
	}
}

// setCommitted notes a commit that this engine has made.
func (e *Engine) setCommitted(c *knownCommit) {
	e.lastCommit.Store(c)
	e.news.announce()
}

// writeMark writes the mark of the commit that tx makes into its root page, and returns the mark.
// Of the mark before, it keeps the random number of the file.
func writeMark(tx *bbolt.Tx, sequence uint64, random [8]byte) (boltpage.Mark, error) {
	mark := boltpage.Mark{Commit: uint64(tx.ID()), Sequence: sequence, Random: random}
	b, err := tx.CreateBucketIfNotExists([]byte(boltpage.Marker))
	if err != nil {
		return mark, err
	}
	if copy(mark.File[:], b.Get([]byte(boltpage.MarkerFile))) == 0 {
		rand.Read(mark.File[:])
	}
	if err := b.SetSequence(mark.Commit); err != nil {
		return mark, err
	}
	for _, e := range []struct {
		key   string
		value []byte
	}{
		{boltpage.MarkerFile, bytes.Clone(mark.File[:])},
		{boltpage.MarkerRandom, bytes.Clone(mark.Random[:])},
		{boltpage.MarkerSequence, binary.BigEndian.AppendUint64(nil, sequence)},
	} {
		if err := b.Put([]byte(e.key), e.value); err != nil { // bbolt keeps the slices
			return mark, err
		}
	}
	return mark, nil
}

// newMark writes the mark of the commit after before.
func newMark(tx *bbolt.Tx, before boltpage.Mark) (boltpage.Mark, error) {
	var random [8]byte
	rand.Read(random[:])
	if before.Sequence >= boltpage.MaxSequence {
		return before, errors.New("the file has no more numbers for commits")
	}
	return writeMark(tx, before.Sequence+1, random)
}

// setMarker writes the mark of a commit that changes no entry, or is the first of its file. It has
// the sequence and the random number of the commit before.
func setMarker(tx *bbolt.Tx) error {
	var sequence uint64
	var random [8]byte
	rand.Read(random[:])
	if b := tx.Bucket([]byte(boltpage.Marker)); b != nil {
		copy(random[:], b.Get([]byte(boltpage.MarkerRandom)))
		if v := b.Get([]byte(boltpage.MarkerSequence)); len(v) == 8 {
			sequence = binary.BigEndian.Uint64(v)
		}
	}
	_, err := writeMark(tx, sequence, random)
	return err
}

// Sequence returns the sequence of the last commit that the transaction sees.
func (tx *Tx) Sequence() uint64 { return tx.mark.Sequence }

// pending returns the sequence that the commit of a writer will have.
func (tx *Tx) pending() uint64 { return tx.mark.Sequence + 1 }

// tally returns the tally of a table as the transaction sees it, after something was read from the
// table.
func (tx *Tx) tally(table string) (tally boltpage.Tally, err error) {
	if !tx.hasChanged(table) {
		return tx.tables.Tally(table) // which is in memory
	}
	err = contain(func() error {
		if b := tx.tx.Bucket([]byte(table)); b != nil {
			tally = boltpage.Tally(b.Sequence())
		}
		return nil
	})
	return tally, err
}

// Count returns the number of entries of a table.
func (tx *Tx) Count(table string) (uint64, error) {
	if _, err := tx.getRaw(table, nil); err != nil {
		return 0, err
	}
	tally, err := tx.tally(table)
	return tally.Entries(), translate(err)
}

// Get returns the value of key, or nil if there is none.
func (tx *Tx) Get(table string, key []byte) ([]byte, error) {
	raw, err := tx.getRaw(table, key)
	if err != nil || raw == nil {
		return nil, err
	}
	_, value, err := tx.split(table, key, raw)
	return value, err
}

// Scan yields the entries with from ≤ key < to in the order of their keys.
func (tx *Tx) Scan(table string, from, to []byte) iter.Seq2[Entry, error] {
	raw := tx.scanRaw(table, from, to)
	return func(yield func(Entry, error) bool) {
		for e, err := range raw {
			if err == nil {
				_, e.Value, err = tx.split(table, e.Key, e.Value)
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// SequenceOf returns the sequence of the last change of an entry.
func (tx *Tx) SequenceOf(table string, key []byte) (uint64, error) {
	raw, err := tx.getRaw(table, key)
	if err != nil || raw == nil {
		return 0, err
	}
	place, _, err := tx.split(table, key, raw)
	return place.Sequence(), err
}

// split returns the value of an entry, and the place of its last change if the table is tracked.
// raw is what a page has as the value of the entry.
//
// Errors: [ErrCorrupt], also if the page is of an earlier state.
func (tx *Tx) split(table string, key, raw []byte) (place boltpage.Place, value []byte, err error) {
	tally, err := tx.tally(table)
	if err != nil || !tally.Tracked() {
		return 0, raw, translate(err)
	}
	place, value, ok := boltpage.SplitTracked(raw)
	if !ok {
		return 0, nil, errNoPlace(table, key)
	}
	switch listed, err := tx.isListed(place, table, key); {
	case err != nil:
		return 0, nil, err
	case !listed:
		return 0, nil, corrupt("the entry %x of table %s is of an earlier state", key, table)
	}
	return place, value, nil
}

// isListed reports whether the change index has an entry at a place.
func (tx *Tx) isListed(place boltpage.Place, table string, key []byte) (bool, error) {
	listed, err := tx.getRaw(boltpage.Changes, place.Key())
	return bytes.Equal(listed, boltpage.ChangedEntry(table, key)), err
}

// Changes yields the changes after a sequence, from the change index.
func (tx *Tx) Changes(since uint64) iter.Seq2[TrackedChange, error] {
	return func(yield func(TrackedChange, error) bool) {
		if since >= boltpage.MaxSequence {
			return
		}
		var commit []TrackedChange // of one commit, in the order in which they were made
		for e, err := range tx.scanRaw(boltpage.Changes, boltpage.NewPlace(since+1, 0).Key(), nil) {
			var c TrackedChange
			if err == nil {
				c, err = newTrackedChange(e)
			}
			if err != nil {
				yield(TrackedChange{}, err)
				return
			}
			if len(commit) > 0 && commit[0].Sequence != c.Sequence {
				if !yieldSorted(commit, yield) {
					return
				}
				commit = commit[:0]
			}
			commit = append(commit, c)
		}
		yieldSorted(commit, yield)
	}
}

// newTrackedChange returns the change that an entry of the change index lists.
func newTrackedChange(e Entry) (c TrackedChange, err error) {
	place, table, key, ok := boltpage.SplitChange(e.Key, e.Value)
	if !ok {
		return c, corrupt("the change index has the entry %x", e.Key)
	}
	return TrackedChange{place.Sequence(), table, key}, nil
}

// yieldSorted yields the changes of one commit in the order of their tables and keys. It reports
// whether the caller of yield goes on.
func yieldSorted(commit []TrackedChange, yield func(TrackedChange, error) bool) (more bool) {
	sorted.Func(commit, func(a, b TrackedChange) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key))
	})
	for _, c := range commit {
		if !yield(c, nil) {
			return false
		}
	}
	return true
}

// TrackedChange is the last change of an entry of a tracked table.
type TrackedChange struct {
	Sequence uint64 // of the commit
	Table    string
	Key      []byte
}

// change sets key to value, or removes key if value is nil. In a tracked table it moves the entry
// to the next place in the change index.
func (tx *Tx) change(table string, key, value []byte) (err error) {
	old, err := tx.getOld(table, key)
	switch {
	case err != nil:
		return err
	case tx.batch == nil:
		return ErrReadOnly
	case old == nil && value == nil:
		return nil
	}
	tracked, err := tx.isTracked(table, value == nil)
	if err != nil {
		return err
	}
	if !tracked {
		return tx.replace(write{table: table, key: key, value: value, old: old})
	}
	before := tx.writes
	defer func() {
		if err != nil && tx.writes > before {
			tx.halfDone = err
		}
	}()
	if old != nil {
		// An entry of an earlier state must not become the latest by being written again.
		place, _, err := tx.split(table, key, old)
		if err != nil {
			return err
		}
		if err := tx.put(boltpage.Changes, place.Key(), nil); err != nil {
			return err
		}
	}
	if value == nil {
		return tx.replace(write{table: table, key: key, old: old})
	}
	return tx.putListed(table, key, value, old)
}

// putListed sets key to value in a tracked table, over the raw value old, and lists the entry at
// the next place in the change index.
func (tx *Tx) putListed(table string, key, value, old []byte) error {
	if tx.batch.changes > boltpage.MaxNumber {
		return ErrTransactionTooLarge
	}
	place := boltpage.NewPlace(tx.pending(), tx.batch.changes)
	tx.batch.changes++
	if err := tx.put(boltpage.Changes, place.Key(), boltpage.ChangedEntry(table, key)); err != nil {
		return err
	}
	return tx.replace(write{table: table, key: key, value: boltpage.JoinTracked(place, value), old: old, tracked: true})
}

// isTracked reports whether a writer must keep track of a table, from which something was read. A
// table becomes tracked with its first entry.
func (tx *Tx) isTracked(table string, removal bool) (bool, error) {
	tally, err := tx.tally(table)
	switch {
	case err != nil:
		return false, translate(err)
	case tally.Tracked() || !tx.batch.tracked[table] || removal:
		return tally.Tracked(), nil
	case tally.Entries() > 0:
		return false, fmt.Errorf("table %q has entries from before it was tracked", table)
	case table == "" || len(table) > boltpage.MaxTrackedName || strings.Contains(table, "\x00"):
		return false, fmt.Errorf("table %.80q cannot be tracked: its name must have 1 to %d bytes, none of them zero", table, boltpage.MaxTrackedName)
	}
	return true, nil
}

// Track does nothing, because the file says which tables are tracked.
func (f *Follower) Track(...string) {}

// Commit returns the sequence and the random number of the last commit in the file in use.
func (f *Follower) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	err = f.retry(func(e *Engine) (err error) {
		sequence, random, err = e.Commit(ctx)
		return err
	})
	return sequence, random, err
}

// Wait waits until a file with a later commit is in use.
func (f *Follower) Wait(ctx context.Context, after uint64) error {
	return f.retry(func(e *Engine) error { return e.Wait(ctx, after) })
}

// retry calls fn with the file in use. If that file is closed because another one has taken its
// place, retry calls fn again.
func (f *Follower) retry(fn func(e *Engine) error) error {
	for {
		now := f.current.Load()
		if err := fn(now.Engine); !errors.Is(err, ErrClosed) || f.current.Load() == now {
			return err
		}
	}
}
