package latchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Principal is who a login turned out to be.
type Principal struct {
	KeyID   uuid.UUID `json:"key_id"`
	KeyName string    `json:"key_name"`
	// Owner is the key's owner: a user's ID, or [ServerOwner]. The methods that read, rename, disable, enable and delete keys
	// accept it.
	Owner uuid.UUID `json:"owner"`
	// UserID is the key's owner. For a server key it is [uuid.Nil], which owns nothing and can be given no keys.
	UserID    uuid.UUID `json:"user_id,omitzero"`
	ServerKey bool      `json:"server_key"` // the key is a server key
}

// Login decides whether a token is good, and whose it is. It is meant to be called for every request: a key that has
// logged in before costs two short hashes and neither disk nor lock; a token that this domain did not make costs less.
// Only the first login of a key costs an argon2 hash, for which it may wait; ctx bounds that wait.
//
// A login that begins after [Store.DisableKey], [Store.DeleteKey], [Store.DisableUser] or [Store.DeleteUser] has returned
// does not succeed.
//
// It returns [ErrInvalidToken] for whatever is not a good token, without telling why; and to a holder who has proven the
// secret, [ErrKeyDisabled], [ErrKeyExpired] or [ErrUserDisabled], the first that applies. Other errors decide nothing
// about the token: [ErrBusy], [ErrClosed], [ErrCorrupt], [ErrNewerFormat], [ErrCostTooHigh], ctx's error.
func (s *Store) Login(ctx context.Context, token string) (Principal, error) {
	if s.closed.Load() {
		return Principal{}, ErrClosed
	}
	var t parsedToken
	if !s.tokens.parse(token, &t) {
		s.counters.add(statMalformed, 1)
		return Principal{}, ErrInvalidToken
	}
	// Before anything that depends on which keys there are.
	if !s.tokens.genuine(&t) {
		s.counters.add(statForged, 1)
		return Principal{}, ErrInvalidToken
	}
	if e := s.cache.get(t.keyDigits()); e != nil && e.matches(&t) {
		s.counters.add(statHits, 1)
		if err := e.refusal(s.clock); err != nil {
			s.counters.add(statRefused, 1)
			return Principal{}, err
		}
		return e.principal, nil
	}
	s.counters.add(statMisses, 1)
	return s.loginCold(ctx, t) // by value: here t stays off the heap
}

// answer is what the store tells the holder of a key who has proven its secret.
type answer struct {
	principal    Principal
	disabled     error // the refusal if the key is disabled; else nil
	expires      int64 // Unix seconds; 0 for never
	expired      error // the refusal from then on
	userDisabled error // the refusal if the user is disabled; else nil
}

// refusal returns why a login is refused, or nil.
func (a *answer) refusal(clock func() time.Time) error {
	switch {
	case a.disabled != nil:
		return a.disabled
	case a.expires != 0 && clock().Unix() >= a.expires:
		return a.expired
	}
	return a.userDisabled
}

// loginCold reads the key's verifier, hashes the secret, and then reads all that the answer depends on.
// So a key that was revoked while loginCold hashed is refused, and is not remembered.
func (s *Store) loginCold(ctx context.Context, t parsedToken) (Principal, error) {
	id, secret, ok := t.decode()
	if !ok {
		s.counters.add(statUnknown, 1)
		return Principal{}, ErrInvalidToken
	}
	for {
		phc, found, err := s.lookUpVerifier(ctx, id)
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		proven := false
		if found {
			if proven, err = s.prove(ctx, id, secret, phc); err != nil {
				return Principal{}, wrapf(err, "login")
			}
		}
		if !proven {
			s.counters.add(statUnknown, 1)
			return Principal{}, ErrInvalidToken
		}
		mark := s.cache.mark(id)
		a, now, err := s.lookUp(ctx, id)
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		if a == nil || now != phc { // the key was deleted or hashed anew meanwhile
			continue
		}
		e := newCacheEntry(&t, a)
		s.cache.put(e, mark)
		if err := e.refusal(s.clock); err != nil {
			s.counters.add(statRefused, 1)
			return Principal{}, err
		}
		return e.principal, nil
	}
}

// lookUpVerifier returns the verifier of a key, unless the key was deleted or never was.
func (s *Store) lookUpVerifier(ctx context.Context, id uuid.UUID) (phc string, found bool, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		k, err := tx.getKey(id)
		if err == nil && k != nil && !k.deleted {
			phc, found = k.verifier, true
		}
		return err
	})
	return phc, found, err
}

// lookUp returns the answer to the holder of a key, and the key's verifier. It returns nil if there is
// no such key any more.
func (s *Store) lookUp(ctx context.Context, id uuid.UUID) (a *answer, phc string, err error) {
	err = s.View(ctx, func(tx *Tx) (err error) {
		a, phc, err = tx.lookUp(id)
		return err
	})
	return a, phc, err
}

func (tx *Tx) lookUp(id uuid.UUID) (a *answer, phc string, err error) {
	k, err := tx.getKey(id)
	if err != nil || k == nil || k.deleted {
		return nil, "", err
	}
	if err := tx.checkLatest(keyKind, id, k.sequence); err != nil {
		return nil, "", err
	}
	a = &answer{principal: Principal{KeyID: id, KeyName: k.name, Owner: k.owner, ServerKey: k.owner == ServerOwner}}
	if k.disabled {
		a.disabled = loginError(id, ErrKeyDisabled)
	}
	if !k.expires.IsZero() {
		a.expires, a.expired = k.expires.Unix(), loginError(id, ErrKeyExpired)
	}
	if k.owner == ServerOwner {
		return a, k.verifier, nil
	}
	a.principal.UserID = k.owner
	u, err := tx.getUser(k.owner)
	if err != nil {
		return nil, "", err
	}
	if u == nil || u.deleted {
		return nil, "", errMissing("owner", k.owner)
	}
	if err := tx.checkLatest(userKind, u.id, u.sequence); err != nil {
		return nil, "", err
	}
	if u.disabled {
		a.userDisabled = loginError(id, ErrUserDisabled)
	}
	return a, k.verifier, nil
}

func loginError(key uuid.UUID, err error) error {
	return fmt.Errorf("latchkey: login with key %s: %w", key, err)
}

// prove reports whether secret is the one that the verifier phc of a key was made from. Callers that
// ask the same at the same time share one hash.
//
// It returns ErrBusy, ErrCorrupt, ErrCostTooHigh, ErrClosed or ctx's error.
func (s *Store) prove(ctx context.Context, id uuid.UUID, secret [secretSize]byte, phc string) (bool, error) {
	v, err := parseVerifier(phc)
	if err != nil {
		return false, err
	}
	c, first := s.flight.join(id, secret, phc)
	if c == nil {
		s.counters.add(statBusy, 1)
		return false, ErrBusy
	}
	if first {
		// In the background, because the hash goes on for other callers if this one leaves.
		started := s.goBackground(func() {
			ok, err := s.compare(c, id, &secret, &v, phc)
			s.flight.done(c, ok, err)
		})
		if !started {
			s.flight.done(c, false, ErrClosed)
		}
		s.prefetch(ctx, id)
	}
	return s.flight.wait(ctx, c)
}

// prefetch reads what lookUp will read after the hash, so that the disk brings the pages while the
// hash runs.
func (s *Store) prefetch(ctx context.Context, id uuid.UUID) { _, _, _ = s.lookUp(ctx, id) }

// compare waits for a permit, and then hashes secret and compares the hash with the verifier v. It
// hashes nothing if no caller waits for the result any more.
func (s *Store) compare(c *hashCall, id uuid.UUID, secret *[secretSize]byte, v *verifier, phc string) (ok bool, err error) {
	if err := s.hasher.acquire(c.ctx, v.cost); err != nil {
		return false, err
	}
	if begun := s.flight.begin(c); begun {
		s.counters.add(statHashes, 1)
		ok = v.matches(secret[:])
	} else {
		err = context.Canceled
	}
	s.hasher.release(v.cost)
	if ok && v.cost != s.cost {
		s.hashAnew(id, secret, phc)
	}
	return ok, err
}
