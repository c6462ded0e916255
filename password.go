package latchkey

import (
	"context"

	"github.com/latchkeydb/latchkey/internal/phc"
)

// HashPassword hashes a password with argon2id, at the store's cost and with a new salt, and
// returns the verifier as a PHC string. The store does not keep the verifier; [Tx.AppTable] is a
// place for it. Unlike tokens, passwords can be guessed: in production, open the store with
// [DefaultCost] or more. HashPassword waits for a permit to hash, as long as ctx lasts.
//
// It returns [ErrBusy], [ErrClosed] or ctx's error.
func (s *Store) HashPassword(ctx context.Context, password string) (verifier string, err error) {
	err = s.hashInTurn(ctx, hashPassword, s.cost, func() {
		v := newVerifier([]byte(password), s.cost)
		verifier = v.String()
	})
	return verifier, wrapf(err, "hash password")
}

// CheckPassword reports whether a verifier was made from a password. Pass an empty verifier if
// there is no such user: then CheckPassword takes as long as for a verifier of the store's cost and
// reports false, so that the time does not tell whether the user exists.
//
// It returns [ErrCorrupt] if verifier is no PHC string of argon2id, [ErrCostTooHigh], [ErrBusy],
// [ErrClosed] or ctx's error.
func (s *Store) CheckPassword(ctx context.Context, verifier, password string) (ok bool, err error) {
	v, err := parseVerifier(verifier)
	if verifier == "" {
		v.Cost, err = phc.Cost(s.cost), nil
	}
	if err == nil {
		err = s.hashInTurn(ctx, hashCheck, Cost(v.Cost), func() { ok = v.Matches([]byte(password)) && verifier != "" })
	}
	return ok, wrapf(err, "check password")
}

// NeedsRehash reports whether the verifier of a password has another cost than the store's. If so,
// replace the verifier by a new one of [Store.HashPassword] as soon as [Store.CheckPassword] has
// accepted the password. NeedsRehash reports false for a string that is no verifier.
func (s *Store) NeedsRehash(verifier string) bool {
	v, err := parseVerifier(verifier)
	return err == nil && Cost(v.Cost) != s.cost
}

// hashInTurn runs hash when it has a permit of a kind.
func (s *Store) hashInTurn(ctx context.Context, kind hashKind, cost Cost, hash func()) error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.background.Done()
	if err := s.hasher.begin(kind); err != nil {
		return err
	}
	defer s.hasher.end(kind)
	if err := s.hasher.acquire(ctx, kind, cost); err != nil {
		return err
	}
	defer s.hasher.release(cost)
	s.counters.Add(statHashes, 1)
	hash()
	return nil
}
