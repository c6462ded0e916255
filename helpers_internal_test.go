package latchkey

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

// openInside opens a store in a new file, for tests that look into it or damage it. Nil options are those of LightCost.
func openInside(t testing.TB, opts *Options) *Store {
	t.Helper()
	return openInsideFile(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

func openInsideFile(t testing.TB, path string, opts *Options) *Store {
	t.Helper()
	if opts == nil {
		opts = &Options{Cost: LightCost}
	}
	s, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeInside(t, s) })
	return s
}

// reopenInside closes a store and opens its file again.
func reopenInside(t testing.TB, s *Store, opts *Options) *Store {
	t.Helper()
	closeInside(t, s)
	return openInsideFile(t, s.engine.(*boltEngine).path, opts)
}

func closeInside(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func addServerKey(t testing.TB, s *Store, name string) (Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), KeySpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return key, token
}

func wantLoginInside(t testing.TB, s *Store, token string, id uuid.UUID) {
	t.Helper()
	if who, err := s.Login(t.Context(), token); err != nil || who.KeyID != id {
		t.Fatalf("login: got %s, %v, want %s", who.KeyID, err, id)
	}
}

func statsInside(t testing.TB, s *Store) Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// wantHashes fails the test unless argon2 ran n times since the count before.
func wantHashes(t testing.TB, s *Store, before, n uint64) {
	t.Helper()
	if got := statsInside(t, s).Hashes - before; got != n {
		t.Errorf("argon2 ran %d times, want %d", got, n)
	}
}

// verifierOf is what the file has for a key.
func verifierOf(t testing.TB, s *Store, id uuid.UUID) (phc string) {
	t.Helper()
	err := s.View(t.Context(), func(tx *Tx) error {
		k, err := tx.getKey(id)
		if k != nil {
			phc = k.verifier
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return phc
}

// takePermits takes all permits to hash, so that no login gets past the line until they are given back.
func takePermits(t testing.TB, s *Store) (giveBack func()) {
	t.Helper()
	smallest := Cost{Memory: 8, Passes: 1, Lanes: 1}
	for range s.hasher.slots {
		mustAcquire(t, s.hasher, smallest)
	}
	return func() {
		for range s.hasher.slots {
			s.hasher.release(smallest)
		}
	}
}

// loginAside begins a login in a goroutine of its own. Its error comes on the channel.
func loginAside(ctx context.Context, s *Store, token string) <-chan error {
	outcome := make(chan error, 1)
	go func() {
		_, err := s.Login(ctx, token)
		outcome <- err
	}()
	return outcome
}

// wantOutcome fails the test unless a login has ended, with want.
func wantOutcome(t testing.TB, outcome <-chan error, want error) {
	t.Helper()
	select {
	case err := <-outcome:
		if !errors.Is(err, want) {
			t.Errorf("login: got error %v, want %v", err, want)
		}
	default:
		t.Errorf("the login still waits, want %v", want)
	}
}

// wantWaiting fails the test if a login has ended.
func wantWaiting(t testing.TB, outcome <-chan error) {
	t.Helper()
	select {
	case err := <-outcome:
		t.Fatalf("login: got error %v, want it to wait", err)
	default:
	}
}

// wantOutcomeOf logs in, and fails the test unless that ends with want.
func wantOutcomeOf(t testing.TB, s *Store, token string, want error) {
	t.Helper()
	if _, err := s.Login(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("login: got error %v, want %v", err, want)
	}
}

// secretOf returns the secret in a token.
func secretOf(t testing.TB, s *Store, token string) [secretSize]byte {
	t.Helper()
	var parsed parsedToken
	if !s.tokens.parse(token, &parsed) {
		t.Fatal("it is no token")
	}
	_, secret, _ := parsed.decode()
	return secret
}

func wantSound(t testing.TB, s *Store) {
	t.Helper()
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

// recordOf is a key's record as the engine has it.
func recordOf(t testing.TB, s *Store, id uuid.UUID) (record []byte) {
	t.Helper()
	err := s.View(t.Context(), func(tx *Tx) (err error) {
		record, err = tx.etx.Get(tableKeys, id[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}
