package main

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey"
)

// A storeTable gives numbers to open stores, so that no Go pointer leaves the library. A login only
// reads the map, which changes by being replaced.
type storeTable struct {
	mu   sync.Mutex // guards changes
	last atomic.Uint64
	open atomic.Pointer[map[uint64]*latchkey.Store]
}

var stores storeTable

// add gives a number to a store. The first number is 1, and no number is used again.
func (t *storeTable) add(s *latchkey.Store) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.copy()
	number := t.last.Load() + 1
	next[number] = s
	t.open.Store(&next)
	t.last.Store(number)
	return number
}

// find returns the store with a number.
//
// It returns errHandle if no store ever had the number, and latchkey.ErrClosed if the store was
// closed.
func (t *storeTable) find(number uint64) (*latchkey.Store, error) {
	if open := t.open.Load(); open != nil {
		if s := (*open)[number]; s != nil {
			return s, nil
		}
	}
	if number == 0 || number > t.last.Load() {
		return nil, errHandle
	}
	return nil, latchkey.ErrClosed
}

// remove takes a store out of the table, and returns it.
//
// It returns the errors of find.
func (t *storeTable) remove(number uint64) (*latchkey.Store, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.find(number)
	if err == nil {
		next := t.copy()
		delete(next, number)
		t.open.Store(&next)
	}
	return s, err
}

// copy returns a copy of the map. t.mu is held.
func (t *storeTable) copy() map[uint64]*latchkey.Store {
	if open := t.open.Load(); open != nil {
		return maps.Clone(*open)
	}
	return map[uint64]*latchkey.Store{}
}
