// Package memory makes stores in memory, which end with the process. Such a store needs no syncs. A
// store in a file takes eleven syncs to be opened and to get its first user, which is a tenth of a
// second on a slow disk.
package memory

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/google/btree"

	"github.com/latchkeydb/latchkey"
)

// Open makes a new store. Its errors are those of [latchkey.OpenWith].
func Open(opts *latchkey.Options) (*latchkey.Store, error) {
	return latchkey.OpenWith(newEngine(false), opts)
}

// engine keeps its tables in memory. A table never changes. A writer makes a new table, which
// shares the unchanged part with the old one. So a reader keeps the state that it began with, and
// readers and writers do not wait for each other.
type engine struct {
	readOnly bool
	state    atomic.Pointer[tables]
	turn     chan struct{} // has one element while a writer has its turn
	life     sync.RWMutex  // read-locked by transactions, locked by Close
	closed   atomic.Bool
}

// tables are the tables by name.
type tables map[string]*btree.BTreeG[latchkey.Entry]

// degree is the degree of the B-trees. Its nodes of 16 to 31 entries are of medium size, because a
// change copies each node on its way.
const degree = 16

func less(a, b latchkey.Entry) bool { return bytes.Compare(a.Key, b.Key) < 0 }

func newEngine(readOnly bool) *engine {
	e := &engine{readOnly: readOnly, turn: make(chan struct{}, 1)}
	e.state.Store(&tables{})
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
	tx := &engineTx{tables: *e.state.Load(), readOnly: true}
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
	tx := &engineTx{tables: maps.Clone(*e.state.Load()), own: make(map[string]bool)}
	defer tx.end()
	if err := fn(tx); err != nil {
		return err
	}
	e.state.Store(&tx.tables)
	return nil
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
	e.life.Lock()
	defer e.life.Unlock()
	return nil
}

type engineTx struct {
	tables   tables
	own      map[string]bool // the tables that this transaction has copied
	readOnly bool
	ended    bool
}

func (tx *engineTx) end() { tx.ended = true }

func (tx *engineTx) Get(table string, key []byte) ([]byte, error) {
	if tx.ended {
		return nil, latchkey.ErrClosed
	}
	if t := tx.tables[table]; t != nil {
		if e, ok := t.Get(latchkey.Entry{Key: key}); ok {
			return append([]byte{}, e.Value...), nil
		}
	}
	return nil, nil
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
func (tx *engineTx) ceiling(table string, from []byte) (first latchkey.Entry, ok bool) {
	if t := tx.tables[table]; t != nil {
		t.AscendGreaterOrEqual(latchkey.Entry{Key: from}, func(e latchkey.Entry) bool {
			first, ok = e, true
			return false
		})
	}
	return first, ok
}

func (tx *engineTx) Put(table string, key, value []byte) error {
	t, err := tx.writable(table)
	if err == nil {
		t.ReplaceOrInsert(latchkey.Entry{Key: bytes.Clone(key), Value: bytes.Clone(value)})
	}
	return err
}

func (tx *engineTx) Delete(table string, key []byte) error {
	t, err := tx.writable(table)
	if err == nil {
		t.Delete(latchkey.Entry{Key: key})
	}
	return err
}

// writable returns a table that this transaction may change: its own copy, which it makes at the
// first write.
func (tx *engineTx) writable(table string) (*btree.BTreeG[latchkey.Entry], error) {
	switch {
	case tx.ended:
		return nil, latchkey.ErrClosed
	case tx.readOnly:
		return nil, latchkey.ErrReadOnly
	}
	if !tx.own[table] {
		if t := tx.tables[table]; t != nil {
			tx.tables[table] = t.Clone()
		} else {
			tx.tables[table] = btree.NewG(degree, less)
		}
		tx.own[table] = true
	}
	return tx.tables[table], nil
}
