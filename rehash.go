package latchkey

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A verifier is hashed at the cost of the store that made its key. If this store has another cost,
// it hashes the secret again after a login, and keeps the result beside the record, because the
// record may be replicated to stores with other costs.

// rehash is the hash of a verifier's secret at the store's cost. The next write stores it.
type rehash struct {
	hashID
	old  string // the verifier in the key's record
	hint string // see ownHash
	new  string // empty until the hash is finished
}

// hashID names a verifier of a key.
type hashID struct {
	key      uuid.UUID
	verifier record.VerifierID
}

// tableKey returns the key of an entry in the table of hashes.
func (id hashID) tableKey() []byte { return slices.Concat(id.key[:], id.verifier[:]) }

// rehashes are verifiers that wait for the next write, so that a login never has to write.
type rehashes struct {
	mu      sync.Mutex
	pending map[hashID]rehash
}

// maxRehashes bounds the number of verifiers that wait. A key that finds no room is hashed anew
// after another cold login.
const maxRehashes = 256

func newRehashes() *rehashes { return &rehashes{pending: make(map[hashID]rehash)} }

// hashAnew begins to compute a verifier at the store's cost. The login that has proven the secret
// does not wait for it.
func (s *Store) hashAnew(v *storedVerifier, secret *[tokenform.SecretSize]byte) {
	h := rehash{hashID: hashID{v.key, v.id}, old: v.phc}
	if v.isForeign() {
		hint := record.Hint(secret[:])
		h.hint = string(hint[:])
	}
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
	if have, ok := r.pending[h.hashID]; ok && have.old == h.old || len(r.pending) >= maxRehashes {
		return false
	}
	r.pending[h.hashID] = h
	return true
}

// end puts a computed verifier into its place. If there is none, end gives the place up.
func (r *rehashes) end(h rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[h.hashID].old != h.old {
		return // a later rehash has taken the place
	}
	if h.new == "" {
		delete(r.pending, h.hashID)
	} else {
		r.pending[h.hashID] = h
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
		if r.pending[h.hashID] == h {
			delete(r.pending, h.hashID)
		}
	}
}

// applyRehashes writes the hashes that wait, as far as there is room. It leaves out a hash if its
// key does not have the verifier any more. It returns the hashes that need not wait any more, and
// the number of those that it wrote.
func (tx *Tx) applyRehashes() (pending []rehash, written uint64, err error) {
	pending = tx.store.rehashes.ready()
	pending = pending[:min(len(pending), max(tx.room(), 0))]
	for _, h := range pending {
		k, err := tx.getKey(h.key)
		if errors.Is(err, ErrCorrupt) {
			continue // damage of this key is no reason to refuse the change of another
		}
		if err != nil {
			return nil, 0, err
		}
		if k == nil || !hasVerifier(k, &storedVerifier{id: h.verifier, phc: h.old}, tx.now()) || tx.isAtCost(h.hashID) {
			continue
		}
		var m record.Message
		m.Bytes(hashPHC, []byte(h.new))
		m.Bytes(hashHint, []byte(h.hint))
		if err := tx.putRecord(tableHashes, h.tableKey(), m); err != nil {
			return nil, 0, err
		}
		written++
	}
	return pending, written, nil
}

// The fields of a record in the table of hashes.
const (
	hashPHC  = 1
	hashHint = 2
)

// An ownHash is the hash of a verifier's secret at the store's own cost. For a foreign verifier,
// whose ID says nothing about the secret, there is also a hint, so that a string with the handle of
// the key is mostly refused without a hash.
type ownHash struct{ phc, hint string }

// getHash returns the hash of a verifier's secret at the store's own cost, or the zero ownHash.
func (tx *Tx) getHash(key uuid.UUID, verifier record.VerifierID) (ownHash, error) {
	id := hashID{key, verifier}.tableKey()
	sealed, err := tx.etx.Get(tableHashes, id)
	if err != nil || sealed == nil {
		return ownHash{}, err
	}
	return decodeHash(id, sealed)
}

func decodeHash(key, sealed []byte) (h ownHash, err error) {
	message, err := openRecord(tableHashes, key, sealed)
	if err != nil {
		return h, err
	}
	for f, err := range record.Fields(message) {
		if err != nil {
			return h, recordError(err)
		}
		switch f.Num {
		case hashPHC:
			h.phc = string(f.Bytes)
		case hashHint:
			h.hint = string(f.Bytes)
		}
	}
	return h, nil
}

// isAtCost reports whether there is a hash at the store's own cost already. Another transaction may
// have written it, which shares its commit with this one.
func (tx *Tx) isAtCost(id hashID) bool {
	own, err := tx.getHash(id.key, id.verifier)
	if err != nil || own.phc == "" {
		return false
	}
	v, err := parseVerifier(own.phc)
	return err == nil && Cost(v.Cost) == tx.store.cost
}

// deleteHashes deletes the hashes of a key and its entries in the index of handles, except those
// of verifiers in kept that are not retired.
func (tx *Tx) deleteHashes(k *record.Key, kept record.Verifiers) error {
	for _, v := range k.Verifiers.All {
		if left, found := kept.Find(v.ID); found && !left.Retired {
			continue
		}
		if v.Handle != (record.Handle{}) {
			if err := tx.delete(tableHandles, record.HandleKey(v.Handle, k.ID)); err != nil {
				return err
			}
		}
		if err := tx.delete(tableHashes, hashID{k.ID, v.ID}.tableKey()); err != nil {
			return err
		}
	}
	return nil
}
