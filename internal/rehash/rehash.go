// Package rehash keeps hashes that wait to be written.
package rehash

import (
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A Hash is the hash of a verifier's secret at the store's cost. The next write stores it.
type Hash struct {
	ID
	Old  string // the verifier in the key's record
	Hint string // see the table of hashes
	New  string // empty until the hash is finished
}

// An ID names a verifier of a key.
type ID struct {
	Key      uuid.UUID
	Verifier record.VerifierID
}

// TableKey returns the key of an entry in the table of hashes.
func (id ID) TableKey() []byte { return slices.Concat(id.Key[:], id.Verifier[:]) }

// A Queue has verifiers that wait for the next write, so that a login never has to write. It is
// safe for concurrent use.
type Queue struct {
	mu      sync.Mutex
	pending map[ID]Hash
}

// Max bounds the number of verifiers that wait. A key that finds no room is hashed anew after
// another cold login.
const Max = 256

// New returns an empty queue.
func New() *Queue { return &Queue{pending: make(map[ID]Hash)} }

// Len returns how many verifiers have a place.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending)
}

// Begin reserves a place for a verifier that will be computed. It reports false if there is no
// place, or if the same verifier of the key is being replaced already.
func (q *Queue) Begin(h Hash) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if have, ok := q.pending[h.ID]; ok && have.Old == h.Old || len(q.pending) >= Max {
		return false
	}
	q.pending[h.ID] = h
	return true
}

// End puts a computed verifier into its place. If there is none, End gives the place up.
func (q *Queue) End(h Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending[h.ID].Old != h.Old {
		return // a later rehash has taken the place
	}
	if h.New == "" {
		delete(q.pending, h.ID)
	} else {
		q.pending[h.ID] = h
	}
}

// Ready returns the verifiers that can be written.
func (q *Queue) Ready() (ready []Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, h := range q.pending {
		if h.New != "" {
			ready = append(ready, h)
		}
	}
	return ready
}

// Done forgets verifiers that need not be written any more.
func (q *Queue) Done(written []Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, h := range written {
		if q.pending[h.ID] == h {
			delete(q.pending, h.ID)
		}
	}
}

// An Own is the hash of a verifier's secret at the store's own cost. For a foreign verifier, whose
// ID says nothing about the secret, there is also a hint, so that a string with the handle of the
// key is mostly refused without a hash.
type Own struct{ PHC, Hint string }

// The fields of a record in the table of hashes.
const (
	ownPHC  = 1
	ownHint = 2
)

// Encode returns the message of the hash.
func (o Own) Encode() []byte {
	var m record.Message
	m.Bytes(ownPHC, []byte(o.PHC))
	m.Bytes(ownHint, []byte(o.Hint))
	return m
}

// DecodeOwn reads the message of a hash.
//
// Errors: [record.ErrDamaged].
func DecodeOwn(message []byte) (o Own, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return o, err
		}
		switch f.Num {
		case ownPHC:
			o.PHC = string(f.Bytes)
		case ownHint:
			o.Hint = string(f.Bytes)
		}
	}
	return o, nil
}
