package appservices

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A signingKey is the key that signs an app's tokens, in the form of its record: the ID of the
// replica that the key belongs to (16 bytes), the number of the key (8 bytes), and the key (32
// bytes). A store that was salvaged is another replica and makes another key, because a salvage may
// have lost the record that a session was ended. The keys of a store are numbered from 1.
//
// An app holds its key by an atomic pointer, which fmt does not follow, so that no printed value
// shows the key.
type signingKey struct{ record []byte }

const signingKeySize = 32

func newSigningKey(replica uuid.UUID, number uint64, secret []byte) *signingKey {
	record := binary.BigEndian.AppendUint64(replica[:], number)
	return &signingKey{append(record, secret...)}
}

// storedSigningKey returns the key in the store, or nil if the store has no key of its replica.
// number is the number of the stored key, of whichever replica.
func storedSigningKey(tx *latchkey.Tx, replica uuid.UUID) (k *signingKey, number uint64, err error) {
	record, err := data(tx).Get(keySigning)
	if err != nil || len(record) != len(replica)+8+signingKeySize {
		return nil, 0, err
	}
	k = &signingKey{bytes.Clone(record)}
	if !k.isOf(replica) {
		return nil, k.number(), nil
	}
	return k, k.number(), nil
}

func (k *signingKey) isOf(replica uuid.UUID) bool { return bytes.HasPrefix(k.record, replica[:]) }

func (k *signingKey) number() uint64 { return binary.BigEndian.Uint64(k.record[len(uuid.UUID{}):]) }

func (k *signingKey) secret() []byte { return k.record[len(k.record)-signingKeySize:] }

// loadSigningKey reads the app's key. If the store has no key of its replica, loadSigningKey makes
// one.
func (a *app) loadSigningKey(ctx context.Context) error {
	var k *signingKey
	err := a.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		k, err = a.presentSigningKey(tx)
		return err
	})
	if err != nil || k != nil {
		return err
	}
	return a.makeSigningKey(ctx, false)
}

// followReplica makes sure that the app's key is of the store's replica. Another replica ID comes
// while the store is open if its engine was restored from an earlier state.
func (a *app) followReplica(ctx context.Context) error {
	replica := a.store.ReplicaID()
	if a.signing.Load().isOf(replica) {
		return nil
	}
	return a.loadSigningKey(ctx)
}

// makeSigningKey makes another key for the app. It does nothing if the store has a key of its
// replica already and replace is false.
func (a *app) makeSigningKey(ctx context.Context, replace bool) error {
	secret := a.h.random(signingKeySize)
	var k *signingKey
	err := a.store.Update(ctx, func(tx *latchkey.Tx) error {
		stored, number, err := storedSigningKey(tx, a.store.ReplicaID())
		if err != nil {
			return err
		}
		if k = stored; k != nil && !replace {
			return nil
		}
		k = newSigningKey(a.store.ReplicaID(), number+1, secret)
		return data(tx).Put(keySigning, k.record)
	})
	if err == nil {
		a.signWith(k)
	}
	return err
}

// presentSigningKey returns the key in the store, or nil if the store has no key of its replica.
// The app signs with this key from then on. It differs from the app's key if another handler of the
// store has replaced it.
func (a *app) presentSigningKey(tx *latchkey.Tx) (*signingKey, error) {
	k, _, err := storedSigningKey(tx, a.store.ReplicaID())
	if err == nil && k != nil {
		a.signWith(k)
	}
	return k, err
}

// askForSigningKey reads the app's key, because another handler of the store may have replaced it
// and signed a token with the new one. It reads at most once a second, because strangers can send
// tokens with wrong signatures.
func (a *app) askForSigningKey(ctx context.Context) (err error) {
	a.asking.Do(func() {
		err = a.store.View(ctx, func(tx *latchkey.Tx) error {
			_, err := a.presentSigningKey(tx)
			return err
		})
	})
	return err
}

// signWith makes k the app's key, unless the app has a later one of the replica. A slow reader of
// the store may have read a key that was replaced meanwhile.
func (a *app) signWith(k *signingKey) {
	for {
		have := a.signing.Load()
		later := have != nil && have.number() >= k.number() && have.isOf(uuid.UUID(k.record[:len(uuid.UUID{})]))
		if later || a.signing.CompareAndSwap(have, k) {
			return
		}
	}
}

// EndSessions ends all sessions of an app, because it replaces the key that signs them. Users have
// to log in again. Call it after a copy of the store's file was stolen: the file has the key, and
// with the key a thief can make a session of any user. appID may be empty if all app IDs are names
// of one app.
//
// When EndSessions returns nil, the old sessions are refused, also by other handlers of the store.
//
// Errors: [ErrNoApp], and the errors of [latchkey.Store.Update].
func (h *Handler) EndSessions(ctx context.Context, appID string) error {
	a, err := h.named(ctx, appID)
	if err == nil {
		err = a.makeSigningKey(ctx, true)
	}
	if err != nil {
		return fmt.Errorf("appservices: end sessions: %w", err)
	}
	return nil
}
