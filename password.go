package latchkey

import (
	"context"
	"fmt"
)

// HashPassword makes a verifier of a password: an argon2id hash under a salt of its own, at the store's cost, as a PHC
// string. The store does not keep it; see [Tx.AppTable]. Passwords, other than tokens, can be guessed, so where they are real
// the store's cost is [DefaultCost] or more. ctx bounds the wait for a permit to hash.
//
// It returns [ErrBusy], [ErrClosed] or ctx's error.
func (s *Store) HashPassword(ctx context.Context, password string) (verifier string, err error) {
	err = s.hashInTurn(ctx, s.cost, func() {
		v := newVerifier([]byte(password), s.cost)
		verifier = v.String()
	})
	return verifier, wrapf(err, "hash password")
}

// CheckPassword reports whether a password is the one that a verifier was made of. An empty verifier takes as long as one
// of the store's cost, and no password is its own: it is for a name that nobody has, so that the time does not tell.
//
// It returns [ErrCorrupt] if the verifier is none, [ErrCostTooHigh], [ErrBusy], [ErrClosed] or ctx's error.
func (s *Store) CheckPassword(ctx context.Context, verifier, password string) (ok bool, err error) {
	v, err := parseVerifier(verifier)
	if verifier == "" {
		v.cost, err = s.cost, nil
	}
	if err == nil {
		err = s.hashInTurn(ctx, v.cost, func() { ok = v.matches([]byte(password)) && verifier != "" })
	}
	return ok, wrapf(err, "check password")
}

// hashInTurn runs hash when it has a permit, unless as many wait for one already as logins may.
func (s *Store) hashInTurn(ctx context.Context, cost Cost, hash func()) error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.background.Done()
	if waiting := s.hasher.waiting(); waiting > 0 && waiting >= s.flight.limit {
		s.counters.add(statBusy, 1)
		return fmt.Errorf("%w: %d wait for a hash", ErrBusy, waiting)
	}
	if err := s.hasher.acquire(ctx, cost); err != nil {
		return err
	}
	defer s.hasher.release(cost)
	s.counters.add(statHashes, 1)
	hash()
	return nil
}
