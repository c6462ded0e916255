// Package memory makes stores in memory, which end with the process. Such a store needs no syncs. A
// store in a file takes eleven syncs to be opened and to get its first user, which is a tenth of a
// second on a slow disk.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"iter"
	"maps"
	"math"
	"sync"
	"sync/atomic"

	"github.com/google/btree"

	"github.com/latchkeydb/latchkey"
)

// Open makes a new store. Its errors are those of [latchkey.OpenWith].
func Open(opts *latchkey.Options) (*latchkey.Store, error) {
	return latchkey.OpenWith(newEngine(false), opts)
}

// NewEngine makes an empty engine, for [latchkey.OpenWith].
func NewEngine() latchkey.Engine { return newEngine(false) }

// CopyEngine makes an engine that has what another engine of this package has now, or had when it
// was closed. Neither engine sees what the other one writes from then on.
func CopyEngine(e latchkey.Engine) latchkey.Engine {
	from, ok := e.(*engine)
	if !ok {
		from = e.(*Shared).engine
	}
	c := newEngine(false)
	c.state.Store(from.state.Load())
	return c
}

// engine keeps its tables in memory. A table never changes. A writer makes a new table, which
// shares the unchanged part with the old one. So a reader keeps the state that it began with, and
// readers and writers do not wait for each other.
type engine struct {
	*body
	readOnly bool
	life     sync.RWMutex // read-locked by transactions, locked by Close
	closed   atomic.Bool
}

// body is the data of one engine, or of several that share them.
type body struct {
	state atomic.Pointer[state]
	turn  chan struct{} // has one element while a writer has its turn

	mu      sync.Mutex // guards the fields below
	tracked map[string]bool
	news    chan struct{} // closed at the next commit, and when an engine is closed
	watches []*Shared
}

// state is what one commit has left. A state that is published does not change.
type state struct {
	tables   map[string]*table
	changes  *btree.BTreeG[latchkey.TrackedChange]
	sequence uint64
	random   [8]byte
}

type table = btree.BTreeG[entry]

// entry is an entry, and the sequence of the commit that last changed it.
type entry struct {
	latchkey.Entry
	sequence uint64
}

func keyed(key []byte) entry { return entry{Entry: latchkey.Entry{Key: key}} }

// degree is the degree of the B-trees. Its nodes of 16 to 31 entries are of medium size, because a
// change copies each node on its way.
const degree = 16

func less(a, b entry) bool { return bytes.Compare(a.Key, b.Key) < 0 }

func earlier(a, b latchkey.TrackedChange) bool {
	return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key)) < 0
}

func newEngine(readOnly bool) *engine {
	e := &engine{readOnly: readOnly, body: &body{turn: make(chan struct{}, 1), tracked: make(map[string]bool), news: make(chan struct{})}}
	e.state.Store(&state{tables: make(map[string]*table), changes: btree.NewG(degree, earlier)})
	return e
}

func (e *engine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.RUnlock()
	tx := &engineTx{state: *e.state.Load(), readOnly: true}
	defer tx.end()
	return fn(tx)
}

func (e *engine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.readOnly {
		return latchkey.ErrReadOnly
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err // if both cases are ready, select may choose the first
	}
	if err := e.enter(); err != nil {
		return err
	}
	defer e.life.RUnlock()
	tx := e.begin()
	defer tx.end()
	if err := fn(tx); err != nil {
		return err
	}
	if tx.wrote {
		tx.state.sequence++
		rand.Read(tx.state.random[:])
		e.publish(tx)
		e.announce()
	}
	return nil
}

// begin returns the transaction of a writer.
func (e *engine) begin() *engineTx {
	e.mu.Lock()
	defer e.mu.Unlock()
	tx := &engineTx{state: *e.state.Load(), own: make(map[string]bool), tracked: maps.Clone(e.tracked)}
	tx.state.tables = maps.Clone(tx.state.tables)
	return tx
}

func (e *engine) Track(tables ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, table := range tables {
		e.tracked[table] = true
	}
}

func (e *engine) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	if err := ctx.Err(); err != nil {
		return 0, random, err
	}
	if e.closed.Load() {
		return 0, random, latchkey.ErrClosed
	}
	last := e.state.Load()
	return last.sequence, last.random, nil
}

func (e *engine) Wait(ctx context.Context, after uint64) error {
	for {
		e.mu.Lock()
		news := e.news
		e.mu.Unlock()
		if sequence, _, err := e.Commit(ctx); err != nil || sequence > after {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
		}
	}
}

// announce wakes every Wait.
func (b *body) announce() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.news)
	b.news = make(chan struct{})
}

// enter begins a transaction, which Close then waits for.
func (e *engine) enter() error {
	// Without this check, a caller would wait for Close, which waits for the transactions in
	// progress.
	if e.closed.Load() {
		return latchkey.ErrClosed
	}
	e.life.RLock()
	if e.closed.Load() {
		e.life.RUnlock()
		return latchkey.ErrClosed
	}
	return nil
}

func (e *engine) Close() error {
	e.closed.Store(true)
	e.announce()
	e.life.Lock()
	defer e.life.Unlock()
	return nil
}

type engineTx struct {
	state    state
	own      map[string]bool // the tables that this transaction has copied
	tracked  map[string]bool
	changed  []latchkey.TrackedChange // for those that watch
	readOnly bool
	wrote    bool
	put      bool
	ended    bool
}

func (tx *engineTx) end() { tx.ended = true }

func (tx *engineTx) Get(table string, key []byte) ([]byte, error) {
	if tx.ended {
		return nil, latchkey.ErrClosed
	}
	if e, ok := tx.get(table, key); ok {
		return append([]byte{}, e.Value...), nil
	}
	return nil, nil
}

func (tx *engineTx) get(table string, key []byte) (e entry, ok bool) {
	if t := tx.state.tables[table]; t != nil {
		return t.Get(keyed(key))
	}
	return e, false
}

func (tx *engineTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	from, to = bytes.Clone(from), bytes.Clone(to)
	return func(yield func(latchkey.Entry, error) bool) {
		for next := from; ; {
			if tx.ended {
				yield(latchkey.Entry{}, latchkey.ErrClosed)
				return
			}
			e, ok := tx.ceiling(table, next)
			if !ok || to != nil && bytes.Compare(e.Key, to) >= 0 {
				return
			}
			next = append(bytes.Clone(e.Key), 0)
			if !yield(latchkey.Entry{Key: bytes.Clone(e.Key), Value: append([]byte{}, e.Value...)}, nil) {
				return
			}
		}
	}
}

// ceiling returns the first entry of a table whose key is from or greater.
func (tx *engineTx) ceiling(table string, from []byte) (first entry, ok bool) {
	if t := tx.state.tables[table]; t != nil {
		t.AscendGreaterOrEqual(keyed(from), func(e entry) bool {
			first, ok = e, true
			return false
		})
	}
	return first, ok
}

func (tx *engineTx) Put(table string, key, value []byte) error {
	t, err := tx.writable(table)
	if err != nil {
		return err
	}
	e := entry{latchkey.Entry{Key: bytes.Clone(key), Value: bytes.Clone(value)}, tx.state.sequence + 1}
	tx.wrote, tx.put = true, true
	tx.changed = append(tx.changed, latchkey.TrackedChange{Table: table, Key: e.Key})
	old, replaced := t.ReplaceOrInsert(e)
	tx.forgetChange(table, old, replaced)
	if tx.tracked[table] {
		tx.state.changes.ReplaceOrInsert(latchkey.TrackedChange{Sequence: e.sequence, Table: table, Key: e.Key})
	}
	return nil
}

func (tx *engineTx) Delete(table string, key []byte) error {
	t, err := tx.writable(table)
	if err != nil {
		return err
	}
	old, deleted := t.Delete(keyed(key))
	if deleted {
		tx.wrote = true
		tx.changed = append(tx.changed, latchkey.TrackedChange{Table: table, Key: old.Key})
	}
	tx.forgetChange(table, old, deleted)
	return nil
}

// forgetChange removes the last change of an entry that there was.
func (tx *engineTx) forgetChange(table string, old entry, was bool) {
	if was && tx.tracked[table] {
		tx.state.changes.Delete(latchkey.TrackedChange{Sequence: old.sequence, Table: table, Key: old.Key})
	}
}

// writable returns a table that this transaction may change: its own copy, which it makes at the
// first write.
func (tx *engineTx) writable(table string) (*table, error) {
	switch {
	case tx.ended:
		return nil, latchkey.ErrClosed
	case tx.readOnly:
		return nil, latchkey.ErrReadOnly
	}
	if len(tx.own) == 0 {
		tx.state.changes = tx.state.changes.Clone()
	}
	if !tx.own[table] {
		if t := tx.state.tables[table]; t != nil {
			tx.state.tables[table] = t.Clone()
		} else {
			tx.state.tables[table] = btree.NewG(degree, less)
		}
		tx.own[table] = true
	}
	return tx.state.tables[table], nil
}

func (tx *engineTx) Sequence() uint64 { return tx.state.sequence }

func (tx *engineTx) Changes(since uint64) iter.Seq2[latchkey.TrackedChange, error] {
	return func(yield func(latchkey.TrackedChange, error) bool) {
		if tx.ended {
			yield(latchkey.TrackedChange{}, latchkey.ErrClosed)
			return
		}
		if since == math.MaxUint64 {
			return
		}
		tx.state.changes.AscendGreaterOrEqual(latchkey.TrackedChange{Sequence: since + 1}, func(c latchkey.TrackedChange) bool {
			if tx.ended {
				yield(latchkey.TrackedChange{}, latchkey.ErrClosed)
				return false
			}
			c.Key = bytes.Clone(c.Key)
			return yield(c, nil)
		})
	}
}

func (tx *engineTx) SequenceOf(table string, key []byte) (uint64, error) {
	if tx.ended {
		return 0, latchkey.ErrClosed
	}
	e, _ := tx.get(table, key)
	return e.sequence, nil
}

func (tx *engineTx) Count(table string) (uint64, error) {
	if tx.ended {
		return 0, latchkey.ErrClosed
	}
	if t := tx.state.tables[table]; t != nil {
		return uint64(t.Len()), nil
	}
	return 0, nil
}
