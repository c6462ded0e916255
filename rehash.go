package latchkey

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A verifier is hashed at the cost of the store that made its key. If this store has another cost,
// it hashes the secret again after a login, and keeps the result beside the record, because the
// record may be replicated to stores with other costs.

// hashAnew begins to compute a verifier at the store's cost. The login that has proven the secret
// does not wait for it.
func (s *Store) hashAnew(v *storedVerifier, secret *[tokenform.SecretSize]byte) {
	h := rehash.Hash{ID: rehash.ID{Key: v.key, Verifier: v.id}, Old: v.phc}
	if v.isForeign() {
		hint := record.Hint(secret[:])
		h.Hint = string(hint[:])
	}
	if s.readOnly || !s.rehashes.Begin(h) {
		return
	}
	s.goBackground(func() {
		v, err := s.hasher.hash(context.Background(), secret[:], s.cost) // Close ends the wait
		if err == nil {
			h.New = v.String()
		}
		s.rehashes.End(h)
	})
}

// applyRehashes writes the hashes that wait, as far as there is room. It leaves out a hash if its
// key does not have the verifier any more. It returns the hashes that need not wait any more, and
// the number of those that it wrote.
func (tx *Tx) applyRehashes() (pending []rehash.Hash, written uint64, err error) {
	pending = tx.store.rehashes.Ready()
	pending = pending[:min(len(pending), max(tx.room(), 0))]
	for _, h := range pending {
		k, err := tx.getKey(h.Key)
		if errors.Is(err, ErrCorrupt) {
			continue // damage of this key is no reason to refuse the change of another
		}
		if err != nil {
			return nil, 0, err
		}
		if k == nil || !hasVerifier(k, &storedVerifier{id: h.Verifier, phc: h.Old}, tx.now()) || tx.isAtCost(h.ID) {
			continue
		}
		if err := tx.putRecord(tableHashes, h.TableKey(), rehash.Own{PHC: h.New, Hint: h.Hint}.Encode()); err != nil {
			return nil, 0, err
		}
		written++
	}
	return pending, written, nil
}

// getHash returns the hash of a verifier's secret at the store's own cost, or the zero Own.
func (tx *Tx) getHash(key uuid.UUID, verifier record.VerifierID) (rehash.Own, error) {
	id := rehash.ID{Key: key, Verifier: verifier}.TableKey()
	sealed, err := tx.etx.Get(tableHashes, id)
	if err != nil || sealed == nil {
		return rehash.Own{}, err
	}
	return decodeHash(id, sealed)
}

func decodeHash(key, sealed []byte) (rehash.Own, error) {
	message, err := openRecord(tableHashes, key, sealed)
	if err != nil {
		return rehash.Own{}, err
	}
	h, err := rehash.DecodeOwn(message)
	return h, recordError(err)
}

// isAtCost reports whether there is a hash at the store's own cost already. Another transaction may
// have written it, which shares its commit with this one.
func (tx *Tx) isAtCost(id rehash.ID) bool {
	own, err := tx.getHash(id.Key, id.Verifier)
	if err != nil || own.PHC == "" {
		return false
	}
	v, err := parseVerifier(own.PHC)
	return err == nil && Cost(v.Cost) == tx.store.cost
}
