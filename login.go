package latchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A Principal is the holder of a key that has logged in.
type Principal struct {
	KeyID   uuid.UUID `json:"key_id"`
	KeyName string    `json:"key_name"`
	// Owner is the owner of the key: a user's ID, or [ServerOwner]. The methods that read, rename,
	// disable, enable and delete keys accept it.
	Owner uuid.UUID `json:"owner"`
	// UserID is the ID of the user that owns the key. For a server key it is [uuid.Nil], which owns
	// nothing and cannot be given a key.
	UserID    uuid.UUID `json:"user_id,omitzero"`
	ServerKey bool      `json:"server_key"` // no user owns the key
	// Scopes are the permissions of the key.
	Scopes Scopes `json:"scopes,omitzero"`
}

// Login checks a token, and returns its principal. Call it for every request: the login of a key
// that has logged in before takes two short hashes, and neither the disk nor a lock. A token that
// this domain did not make takes less. Only the first login of a key takes an argon2 hash. Login
// waits for that hash, as long as ctx lasts.
//
// A login that begins after [Store.DisableKey], [Store.DeleteKey], [Store.DisableUser] or
// [Store.DeleteUser] has returned does not succeed.
//
// Login returns [ErrInvalidToken] for every string that is not a good token, without telling why.
// To a caller that has proven the secret, it returns the first of [ErrKeyDisabled], [ErrKeyExpired]
// and [ErrUserDisabled] that applies. The other errors say nothing about the token: [ErrBusy],
// [ErrClosed], [ErrFileChanged], [ErrCorrupt], [ErrNewerFormat], [ErrCostTooHigh], and ctx's error.
func (s *Store) Login(ctx context.Context, token string) (Principal, error) {
	if s.closed.Load() {
		return Principal{}, ErrClosed
	}
	if r := s.refused.Load(); r != nil {
		return Principal{}, r.err
	}
	var t parsedToken
	if !s.tokens.parse(token, &t) {
		s.counters.add(statMalformed, 1)
		return Principal{}, ErrInvalidToken
	}
	// Before everything that depends on which keys exist.
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
	return s.loginCold(ctx, t) // by value, so that t stays off the heap here
}

// answer is what the store tells a caller that has proven the secret of a key.
type answer struct {
	principal    Principal
	disabled     error // the refusal if the key is disabled; else nil
	expires      int64 // Unix seconds; 0 means never
	expired      error // the refusal from then on
	userDisabled error // the refusal if the user is disabled; else nil
}

// refusal returns the reason why a login is refused, or nil.
func (a *answer) refusal(clock func() time.Time) error {
	switch {
	case a.disabled != nil:
		return a.disabled
	case a.expires != 0 && clock().Unix() >= a.expires:
		return a.expired
	}
	return a.userDisabled
}

// loginCold reads the verifier of the key, hashes the secret, and then reads everything that the
// answer depends on. So a key that is revoked while loginCold hashes is refused, and is not
// remembered.
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
		if a == nil || now != phc { // the key was deleted or got another verifier meanwhile
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

// lookUpVerifier returns the verifier of a key. It does not find a key that was deleted.
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

// lookUp returns the answer to the holder of a key, and the verifier of the key. It returns nil if
// the key does not exist any more.
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

// prove reports whether phc, the verifier of a key, was made from secret. Callers that ask the same
// question at the same time share one hash.
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

// prefetch reads the pages that lookUp will need after the hash, so that the disk delivers them
// while the hash runs.
func (s *Store) prefetch(ctx context.Context, id uuid.UUID) { _, _, _ = s.lookUp(ctx, id) }

// compare waits for a permit, hashes secret, and reports whether v was made from it. It hashes
// nothing if no caller waits for the result any more.
func (s *Store) compare(c *hashCall, id uuid.UUID, secret *[secretSize]byte, v *verifier, phc string) (ok bool, err error) {
	if err := s.hasher.acquire(c.ctx, hashLogin, v.cost); err != nil {
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
