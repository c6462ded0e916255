package appservicestest

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey"
)

// memory is an engine that keeps its tables in memory. A store that need not outlive its test does without the syncs of a
// file: eleven to open it and make a user, which on a slow disk are a tenth of a second.
//
// A table is a treap that is never changed: who writes copies the path to what changes, so a reader keeps the state
// that it began with, and neither waits for the other.
type memory struct {
	readOnly bool
	state    atomic.Pointer[map[string]*node]
	turn     chan struct{} // whoever writes has put one in
	life     sync.RWMutex  // read-locked by transactions, locked by Close
	closed   atomic.Bool
}

func newMemory(readOnly bool) *memory {
	m := &memory{readOnly: readOnly, turn: make(chan struct{}, 1)}
	m.state.Store(&map[string]*node{})
	return m
}

func (m *memory) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.enter(); err != nil {
		return err
	}
	defer m.life.RUnlock()
	tx := &memoryTx{tables: *m.state.Load(), readOnly: true}
	defer tx.end()
	return fn(tx)
}

func (m *memory) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if m.readOnly {
		return latchkey.ErrReadOnly
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err // select takes either of two that are ready
	}
	if err := m.enter(); err != nil {
		return err
	}
	defer m.life.RUnlock()
	tx := &memoryTx{tables: maps.Clone(*m.state.Load())}
	defer tx.end()
	if err := fn(tx); err != nil {
		return err
	}
	m.state.Store(&tx.tables)
	return nil
}

// enter begins a transaction, which Close waits for.
func (m *memory) enter() error {
	if m.closed.Load() { // else it would wait for Close, which waits for the transactions under way
		return latchkey.ErrClosed
	}
	m.life.RLock()
	if m.closed.Load() {
		m.life.RUnlock()
		return latchkey.ErrClosed
	}
	return nil
}

func (m *memory) Close() error {
	m.closed.Store(true)
	m.life.Lock()
	defer m.life.Unlock()
	return nil
}

type memoryTx struct {
	tables   map[string]*node
	readOnly bool
	ended    bool
}

func (tx *memoryTx) end() { tx.ended = true }

func (tx *memoryTx) Get(table string, key []byte) ([]byte, error) {
	if tx.ended {
		return nil, latchkey.ErrClosed
	}
	if n := tx.tables[table].ceiling(key, false); n != nil && bytes.Equal(n.key, key) {
		return append([]byte{}, n.value...), nil
	}
	return nil, nil
}

func (tx *memoryTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	from, to = bytes.Clone(from), bytes.Clone(to)
	return func(yield func(latchkey.Entry, error) bool) {
		for last, above := from, false; ; above = true {
			if tx.ended {
				yield(latchkey.Entry{}, latchkey.ErrClosed)
				return
			}
			n := tx.tables[table].ceiling(last, above)
			if n == nil || to != nil && bytes.Compare(n.key, to) >= 0 {
				return
			}
			last = n.key
			if !yield(latchkey.Entry{Key: bytes.Clone(n.key), Value: append([]byte{}, n.value...)}, nil) {
				return
			}
		}
	}
}

func (tx *memoryTx) Put(table string, key, value []byte) error {
	if err := tx.writable(); err != nil {
		return err
	}
	less, _, more := tx.tables[table].split(key)
	n := &node{key: bytes.Clone(key), value: bytes.Clone(value), priority: rand.Uint32()}
	tx.tables[table] = join(join(less, n), more)
	return nil
}

func (tx *memoryTx) Delete(table string, key []byte) error {
	if err := tx.writable(); err != nil {
		return err
	}
	less, _, more := tx.tables[table].split(key)
	tx.tables[table] = join(less, more)
	return nil
}

func (tx *memoryTx) writable() error {
	switch {
	case tx.ended:
		return latchkey.ErrClosed
	case tx.readOnly:
		return latchkey.ErrReadOnly
	}
	return nil
}

// node is a subtree of a treap: ordered by key from left to right, and by priority from top to bottom. Random priorities
// keep it as flat as if the keys had come in random order (Seidel and Aragon, "Randomized search trees", 1996). nil is the
// empty one.
type node struct {
	key, value  []byte
	priority    uint32
	left, right *node
}

// ceiling finds the least key that is at least key, or above it.
func (n *node) ceiling(key []byte, above bool) (found *node) {
	for n != nil {
		if c := bytes.Compare(n.key, key); c > 0 || c == 0 && !above {
			found, n = n, n.left
		} else {
			n = n.right
		}
	}
	return found
}

// split takes a treap apart at key.
func (n *node) split(key []byte) (less, equal, more *node) {
	if n == nil {
		return nil, nil, nil
	}
	switch c := bytes.Compare(n.key, key); {
	case c < 0:
		less, equal, more = n.right.split(key)
		return n.with(n.left, less), equal, more
	case c > 0:
		less, equal, more = n.left.split(key)
		return less, equal, n.with(more, n.right)
	}
	return n.left, n, n.right
}

// join puts together two treaps of which the keys of one are less than those of the other.
func join(less, more *node) *node {
	switch {
	case less == nil:
		return more
	case more == nil:
		return less
	case less.priority > more.priority:
		return less.with(less.left, join(less.right, more))
	}
	return more.with(join(less, more.left), more.right)
}

func (n *node) with(left, right *node) *node {
	return &node{key: n.key, value: n.value, priority: n.priority, left: left, right: right}
}
