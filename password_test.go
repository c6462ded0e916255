package latchkey_test

import (
	"context"
	"errors"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestAPasswordMatchesItsVerifier(t *testing.T) {
	s := open(t)
	for _, password := range []string{"hunter22", "", "\x00", "pässwörd"} {
		verifier, err := s.HashPassword(t.Context(), password)
		must(t, err)
		for _, other := range []string{password, password + "x", "hunter2", "hunter22\x00"} {
			ok, err := s.CheckPassword(t.Context(), verifier, other)
			must(t, err)
			if ok != (other == password) {
				t.Errorf("password %q, given %q: got %t", password, other, ok)
			}
		}
	}
}

func TestAPasswordHasAnotherVerifierEachTime(t *testing.T) {
	s := open(t)
	a, err := s.HashPassword(t.Context(), "hunter22")
	must(t, err)
	b, err := s.HashPassword(t.Context(), "hunter22")
	must(t, err)
	if a == b {
		t.Error("two verifiers of one password are alike")
	}
}

func TestAnEmptyVerifierCostsAHashAndMatchesNothing(t *testing.T) {
	s := open(t)
	for _, password := range []string{"", "hunter22"} {
		before := hashes(t, s)
		ok, err := s.CheckPassword(t.Context(), "", password)
		must(t, err)
		if ok {
			t.Errorf("%q matches", password)
		}
		if n := hashes(t, s) - before; n != 1 {
			t.Errorf("%q: %d hashes were run, want 1", password, n)
		}
	}
}

func TestAVerifierOutOfBoundsIsRefusedUnhashed(t *testing.T) {
	opts := light()
	opts.HashMemory = 1 << 20
	s := openWith(t, opts)
	before := hashes(t, s)
	for verifier, want := range map[string]error{
		"hunter22":    latchkey.ErrCorrupt,
		"$argon2id$v": latchkey.ErrCorrupt,
		"$argon2id$v=19$m=4194304,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": latchkey.ErrCorrupt,
		"$argon2id$v=19$m=65536,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":   latchkey.ErrCostTooHigh,
	} {
		if _, err := s.CheckPassword(t.Context(), verifier, "hunter22"); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", verifier, err, want)
		}
	}
	if n := hashes(t, s) - before; n != 0 {
		t.Errorf("%d hashes were run", n)
	}
}

func TestAPasswordIsNotHashedAfterItsContextHasEnded(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.HashPassword(ctx, "hunter22")
	wantError(t, err, context.Canceled)
	_, err = s.CheckPassword(ctx, "", "hunter22")
	wantError(t, err, context.Canceled)
}

func hashes(t testing.TB, s *latchkey.Store) uint64 {
	t.Helper()
	stats, err := s.Stats(t.Context())
	must(t, err)
	return stats.Hashes
}

func TestAVerifierOfAnotherCostNeedsRehash(t *testing.T) {
	s := open(t)
	verifier, err := s.HashPassword(t.Context(), "hunter22")
	must(t, err)
	opts := light()
	opts.Cost.Passes++
	other := openWith(t, opts)
	if s.NeedsRehash(verifier) || !other.NeedsRehash(verifier) {
		t.Errorf("got %t and %t, want that only the store of the other cost hashes anew", s.NeedsRehash(verifier), other.NeedsRehash(verifier))
	}
	if s.NeedsRehash("") || s.NeedsRehash("hunter22") {
		t.Error("what is no verifier needs a hash")
	}
}
