package latchkey

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/mint"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Rotation says what becomes of the old token when a key gets a new one. The zero Rotation ends
// the old token at once.
type Rotation struct {
	// Overlap is how long the old token stays good beside the new one, rounded up to a full second
	// of the store's clock. It must not be negative.
	Overlap time.Duration
	// UntilUsed ends the old token at the first login with the new one, if that comes before the
	// end of the overlap. It needs an Overlap.
	UntilUsed bool
}

func (r Rotation) check() error {
	switch {
	case r.Overlap < 0:
		return fmt.Errorf("%w: the overlap is negative", ErrInvalidRotation)
	case r.UntilUsed && r.Overlap == 0:
		return fmt.Errorf("%w: UntilUsed needs an overlap, which ends the old token if nobody uses the new one", ErrInvalidRotation)
	}
	return nil
}

// A KeyToken is what the store tells about one token of a key.
type KeyToken struct {
	ID   string    // see [Principal].TokenID
	Ends time.Time // to the second, in UTC; the zero time means never
	// TagSecret is the number of the tag secret that the token was made under; see [TagSecret]. A
	// token from elsewhere has none, and then Foreign is true.
	TagSecret uint64
	Foreign   bool
	// LastUsed is when the token was last used, as [Key].LastUsed is for the key. When a token
	// leaves [Key].Tokens, its last use counts for the oldest token that stays.
	LastUsed time.Time
}

// tokenID returns the ID of a verifier as callers see it.
func tokenID(id record.VerifierID) string { return hex.EncodeToString(id[:]) }

// RotateKey gives a key of owner a new token, and returns the key and the token. The token cannot
// be seen again. Everything else of the key stays, so a disabled or expired key stays disabled or
// expired. r says when the old token ends. Without an overlap, a login with the old token does not
// succeed if it begins after RotateKey has returned.
//
// At most two tokens of a key are good. A rotation during an overlap ends the older token at once.
// The newer token is then the old one, and stays good for the new overlap. If a new token gets
// lost, for example in a crash, rotate the key again. RotateKey waits for a permit to hash, as long
// as ctx lasts.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it, or if owner
// is [ServerOwner]; [ErrInvalidRotation]; [ErrBusy]; or an error of [Store.Update]. After
// [ErrCommitUnknown] the old token may have ended.
func (s *Store) RotateKey(ctx context.Context, owner, id uuid.UUID, r Rotation) (Key, string, error) {
	if owner == ServerOwner {
		return Key{}, "", wrapf(ErrKeyNotFound, "rotate key %s", id)
	}
	return s.rotateKey(ctx, owner, id, r)
}

// RotateServerKey is [Store.RotateKey] for a server key.
//
// It returns the errors of [Store.RotateKey].
func (s *Store) RotateServerKey(ctx context.Context, id uuid.UUID, r Rotation) (Key, string, error) {
	return s.rotateKey(ctx, ServerOwner, id, r)
}

func (s *Store) rotateKey(ctx context.Context, owner, id uuid.UUID, r Rotation) (key Key, token string, err error) {
	err = r.check()
	if err == nil && s.readOnly && !s.closed.Load() {
		err = ErrReadOnly
	}
	var minted MintedKey
	if err == nil {
		minted, token, err = s.mintToken(ctx, owner, id)
	}
	if err == nil {
		key, err = write(ctx, s, func(tx *Tx) (Key, error) { return tx.rotate(owner, id, r, minted, false) })
	}
	if err != nil {
		return Key{}, "", wrapf(err, "rotate key %s", id)
	}
	return key, token, nil
}

// MintToken draws the secret of a new token for a key of owner, a user or [ServerOwner], and hashes
// it. It returns a MintedKey for [Tx.RotateKey] or [Tx.RotateServerKey], and the token, which is
// good only after the rotation. Nothing is written. MintToken waits for a permit to hash, as long
// as ctx lasts.
//
// It returns [ErrKeyNotFound], [ErrInvalidRotation], [ErrBusy], or an error of [Store.View].
func (s *Store) MintToken(ctx context.Context, owner, id uuid.UUID) (MintedKey, string, error) {
	minted, token, err := s.mintToken(ctx, owner, id)
	return minted, token, wrapf(err, "mint a token of key %s", id)
}

func (s *Store) mintToken(ctx context.Context, owner, id uuid.UUID) (MintedKey, string, error) {
	d, err := s.drawToken(ctx, owner, id)
	if err != nil {
		return MintedKey{}, "", err
	}
	minted, tokens, err := s.mintKeys(ctx, []drawnKey{d}, nil)
	if err != nil {
		return MintedKey{}, "", err
	}
	return minted[0], tokens[0], nil
}

// drawToken makes the secret of a new token for a key.
func (s *Store) drawToken(ctx context.Context, owner, id uuid.UUID) (d drawnKey, err error) {
	d.id, d.cost = id, s.cost
	err = s.View(ctx, func(tx *Tx) error {
		k, err := tx.liveKey(owner, id)
		if err != nil {
			return err
		}
		current, err := tx.currentVerifier(k)
		d.replaces = current.ID
		return err
	})
	if err == nil {
		s.random.Fill(d.secret[:])
		d.verifier = record.NewVerifierID(d.secret[:], s.random.Fill)
	}
	return d, err
}

// currentVerifier returns the verifier that a rotation replaces: the newest one that is good.
//
// It returns ErrInvalidRotation if none is good.
func (tx *Tx) currentVerifier(k *record.Key) (record.Verifier, error) {
	good := k.Verifiers.Good(tx.now())
	if len(good) == 0 {
		return record.Verifier{}, fmt.Errorf("%w: no token of the key is good; make another key", ErrInvalidRotation)
	}
	return good[len(good)-1], nil
}

// RotateKey is [Store.RotateKey] in a transaction. minted must come from a call of
// [Store.MintToken] after the last rotation of the key.
//
// It returns [ErrInvalidMintedKey] or the errors of [Store.RotateKey].
func (tx *Tx) RotateKey(owner, id uuid.UUID, r Rotation, minted MintedKey) (Key, error) {
	if owner == ServerOwner {
		return Key{}, ErrKeyNotFound
	}
	return tx.rotate(owner, id, r, minted, true)
}

// RotateServerKey is [Tx.RotateKey] for a server key.
//
// It returns the errors of [Tx.RotateKey].
func (tx *Tx) RotateServerKey(id uuid.UUID, r Rotation, minted MintedKey) (Key, error) {
	return tx.rotate(ServerOwner, id, r, minted, true)
}

// rotate replaces the current verifier of a key by a minted one. If strict is set, the current one
// must be the same as when the token was minted. Otherwise a caller that kept the MintedKey could
// bring back a token that has ended.
func (tx *Tx) rotate(owner, id uuid.UUID, r Rotation, minted MintedKey, strict bool) (key Key, err error) {
	if err := r.check(); err != nil {
		return Key{}, err
	}
	err = tx.changeKey(owner, id, func(k *record.Key, _ record.Stamp) (bool, error) {
		current, err := tx.currentVerifier(k)
		if err != nil {
			return false, err
		}
		var m mint.Key
		if minted.m != nil {
			m = minted.m()
		}
		if m.ID != id || m.Domain != tx.store.domain.ID || strict && m.Replaces != current.ID {
			return false, ErrInvalidMintedKey
		}
		if err := tx.checkTag(m.Verifier); err != nil {
			return false, err
		}
		next := current.Next(m.Verifier.ID, m.Verifier.PHC)
		next.UntilUsed, next.Tag = r.UntilUsed, m.Verifier.Tag
		vs := k.Verifiers.Add(next)
		if r.Overlap == 0 {
			vs = vs.Supersede(next.ID)
		} else {
			vs = vs.Overlap(current.ID, next.ID, tx.now().Add(r.Overlap).Add(time.Second-1))
		}
		err = tx.setVerifiers(k, vs)
		if err == nil {
			key, err = tx.toKey(k)
		}
		return true, err
	})
	return orZero(key, err)
}

// setVerifiers gives a key other verifiers, and deletes the hashes of those that are retired. In a
// store that never had a replica, retired verifiers are forgotten.
func (tx *Tx) setVerifiers(k *record.Key, vs record.Verifiers) error {
	if !tx.isShared() {
		vs = vs.Forget()
	}
	err := tx.tables().EndVerifiers(k, vs)
	k.Verifiers = vs
	return err
}

// An unendedToken is an old token that should have ended at the first login with the new one, but
// whose end could not be written. This process takes its verifier for retired.
type unendedToken struct {
	old   record.VerifierID
	end   time.Time // of the overlap
	cause string    // why the end could not be written
}

// endReplaced ends the token that was replaced by the one that logs in for the first time, and
// returns the answer to the login, which is one step with the end. It ends nothing if the login is
// refused. If the store cannot write, this process refuses the old token from then on, and a later
// write ends it.
//
// It returns ErrClosed, ctx's error, or an error of lookUp.
func (s *Store) endReplaced(ctx context.Context, v *storedVerifier, old *record.Verifier, from netip.Addr) (*answer, error) {
	a, err := write(ctx, s, func(tx *Tx) (*answer, error) {
		a, err := tx.lookUp(v)
		if err != nil || a == nil || a.replaced == nil || a.refusal(s.clock, from) != nil {
			return a, err
		}
		if err := tx.endToken(v.key, old.ID); err != nil {
			return nil, err
		}
		return tx.lookUp(v)
	})
	switch {
	case err == nil || errors.Is(err, ErrClosed):
		return a, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	s.unended.Store(v.key, unendedToken{old.ID, old.End, err.Error()})
	s.cache.Drop(cache.Stale{Keys: []uuid.UUID{v.key}})
	return s.lookUp(context.WithoutCancel(ctx), v)
}

// endToken retires a verifier, unless it is gone.
func (tx *Tx) endToken(key uuid.UUID, old record.VerifierID) error {
	k, err := tx.getKey(key)
	if err != nil || k == nil {
		return err
	}
	if _, found := k.Verifiers.Find(old); !found {
		return nil
	}
	tx.forgetKey(key)
	if err := tx.setVerifiers(k, k.Verifiers.Retire(old)); err != nil {
		return err
	}
	return tx.putKey(k)
}

// unendedWrites is how many writes the end of one token takes at most, with those of a hook.
const unendedWrites = 32

// endUnended ends tokens whose end could not be written before, if the transaction has changed
// something, and as far as there is room.
func (tx *Tx) endUnended() (err error) {
	if tx.writes == 0 || tx.merging { // the hook of an edge must hear of an end that was made here
		return nil
	}
	tx.ended = make(map[uuid.UUID]unendedToken)
	room := tx.room() / unendedWrites
	tx.store.unended.Range(func(key, value any) bool {
		if len(tx.ended) >= room {
			return false
		}
		id, t := key.(uuid.UUID), value.(unendedToken)
		switch err = tx.endToken(id, t.old); {
		case err == nil:
			tx.ended[id] = t
		case errors.Is(err, ErrCorrupt):
			err = nil // damage of this key is no reason to refuse the change of another
		}
		return err == nil
	})
	return err
}

// unendedFinding returns what Health tells about tokens whose end could not be written, or nil.
func (s *Store) unendedFinding() (finding error) {
	s.unended.Range(func(key, value any) bool {
		if t := value.(unendedToken); s.now().Before(t.end) {
			finding = fmt.Errorf("%w: the old token of key %s, for one: %s", ErrRotationNotDurable, key, t.cause)
		}
		return finding == nil
	})
	return finding
}
