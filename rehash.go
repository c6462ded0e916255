package latchkey

import (
	"context"
	"errors"
	"sync"

	"github.com/google/uuid"
)

// rehash is a verifier at the store's cost. The next write puts it in the place of an old one.
type rehash struct {
	id       uuid.UUID
	old, new string
}

// rehashes are verifiers that wait for the next write, so that a login never has to write.
type rehashes struct {
	mu      sync.Mutex
	pending map[uuid.UUID]rehash // an empty new means that the hash is not finished
}

// maxRehashes bounds the number of verifiers that wait. A key that finds no room is hashed anew
// after another cold login.
const maxRehashes = 256

func newRehashes() *rehashes { return &rehashes{pending: make(map[uuid.UUID]rehash)} }

// hashAnew begins to compute a verifier at the store's cost. The login that has proven the secret
// does not wait for it.
func (s *Store) hashAnew(id uuid.UUID, secret *[secretSize]byte, old string) {
	h := rehash{id: id, old: old}
	if s.readOnly || !s.rehashes.begin(h) {
		return
	}
	s.goBackground(func() {
		v, err := s.hasher.hash(context.Background(), secret[:], s.cost) // Close ends the wait
		if err == nil {
			h.new = v.String()
		}
		s.rehashes.end(h)
	})
}

// begin reserves a place for a verifier that will be computed. It reports false if there is no
// place, or if the same verifier of the key is being replaced already.
func (r *rehashes) begin(h rehash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.pending[h.id]; ok && have.old == h.old || len(r.pending) >= maxRehashes {
		return false
	}
	r.pending[h.id] = h
	return true
}

// end puts a computed verifier into its place. If there is none, end gives the place up.
func (r *rehashes) end(h rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[h.id].old != h.old {
		return // a later rehash has taken the place
	}
	if h.new == "" {
		delete(r.pending, h.id)
	} else {
		r.pending[h.id] = h
	}
}

// ready returns the verifiers that can be written.
func (r *rehashes) ready() (ready []rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.pending {
		if h.new != "" {
			ready = append(ready, h)
		}
	}
	return ready
}

// done forgets verifiers that need not be written any more.
func (r *rehashes) done(written []rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range written {
		if r.pending[h.id] == h {
			delete(r.pending, h.id)
		}
	}
}

// applyRehashes writes the verifiers that wait. It leaves out a verifier if its key does not have
// the old one any more. It returns all verifiers that waited, and the number of those that it
// wrote.
func (tx *Tx) applyRehashes() (pending []rehash, written uint64, err error) {
	pending = tx.store.rehashes.ready()
	for _, h := range pending {
		k, err := tx.getKey(h.id)
		if err == nil && k != nil {
			err = tx.checkLatest(keyKind, h.id, k.sequence)
		}
		if errors.Is(err, ErrCorrupt) {
			continue // damage of this key is no reason to refuse the change of another
		}
		if err != nil {
			return nil, 0, err
		}
		if k == nil || k.deleted || k.verifier != h.old {
			continue
		}
		now, err := tx.nextChange(keyKind, k.id, &k.sequence)
		if err != nil {
			return nil, 0, err
		}
		k.verifier, k.hashed = h.new, now
		if err := tx.putKey(k); err != nil {
			return nil, 0, err
		}
		written++
	}
	return pending, written, nil
}
