// Package memory has stores that are gone with the process. One that need not outlive it does without the syncs of a file:
// eleven to open it and make a user, which on a slow disk are a tenth of a second.
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

// engine keeps its tables in memory. A table is never changed: who writes makes another that shares what stays as it was,
// so a reader keeps the state that it began with, and neither waits for the other.
type engine struct {
	readOnly bool
	state    atomic.Pointer[tables]
	turn     chan struct{} // whoever writes has put one in
	life     sync.RWMutex  // read-locked by transactions, locked by Close
	closed   atomic.Bool
}

// tables are the tables by name.
type tables map[string]*btree.BTreeG[latchkey.Entry]

// degree is of middling size: nodes of 16 to 31 entries are copied when they change.
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
		return err // select takes either of two that are ready
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

// enter begins a transaction, which Close waits for.
func (e *engine) enter() error {
	if e.closed.Load() { // else it would wait for Close, which waits for the transactions under way
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

// ceiling finds the first entry of a table from a key on.
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

// writable returns a table that this transaction can write to: its own copy, once it has one.
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
