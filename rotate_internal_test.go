package latchkey

import (
	"errors"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

func rotateServerKey(t testing.TB, s *Store, key Key, r Rotation) (token string) {
	t.Helper()
	_, token, err := s.RotateServerKey(t.Context(), key.ID, r)
	must(t, err)
	return token
}

func hashesOf(t testing.TB, s *Store) (n uint64) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *Tx) (err error) {
		n, err = tx.etx.Count(tableHashes)
		return err
	}))
	return n
}

func TestTheHashesOfEndedTokensGo(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *Store, key Key){
		"no overlap": func(t *testing.T, s *Store, key Key) { rotateServerKey(t, s, key, Rotation{}) },
		"a second overlap": func(t *testing.T, s *Store, key Key) {
			rotateServerKey(t, s, key, Rotation{Overlap: time.Hour})
			if n := hashesOf(t, s); n != 1 {
				t.Errorf("during the first overlap there are %d hashes, want 1", n)
			}
			rotateServerKey(t, s, key, Rotation{Overlap: time.Hour})
		},
		"first use": func(t *testing.T, s *Store, key Key) {
			wantLogin(t, s, rotateServerKey(t, s, key, Rotation{Overlap: time.Hour, UntilUsed: true}), key.ID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, key, token := openWithOldKey(t)
			loginAndRehash(t, s, token, key.ID)
			addUser(t, s, "ada")
			if n := hashesOf(t, s); n != 1 {
				t.Fatalf("there are %d hashes, want 1", n)
			}
			end(t, s, key)
			if n := hashesOf(t, s); n != 0 {
				t.Errorf("%d hashes are left", n)
			}
			wantRefused(t, s, token, ErrInvalidToken)
			wantSound(t, s)
		})
	}
}

func TestAStoreThatNeverHadAReplicaForgetsEndedTokens(t *testing.T) {
	s := open(t, nil)
	key, _ := addServerKey(t, s, "laptop")
	for range 3 {
		rotateServerKey(t, s, key, Rotation{})
		rotateServerKey(t, s, key, Rotation{Overlap: time.Hour})
	}
	vs := storedKey(t, s, key.ID).Verifiers
	if len(vs.All) != 2 || vs.Superseded != nil {
		t.Errorf("the record has %+v", vs)
	}
}

// Another replica may have the verifiers, so the record keeps that they have ended.
func TestAStoreWithReplicasKeepsVerifiersThatHaveEnded(t *testing.T) {
	s := open(t, nil)
	key, first := addServerKey(t, s, "laptop")
	before := storedKey(t, s, key.ID)
	s = share(t, s)
	second := rotateServerKey(t, s, key, Rotation{Overlap: time.Hour, UntilUsed: true})
	wantLogin(t, s, second, key.ID)
	used := storedKey(t, s, key.ID)
	if len(used.Verifiers.Good(s.now())) != 1 || len(used.Verifiers.All) != 2 {
		t.Errorf("after the first use: %+v", used.Verifiers)
	}
	third := rotateServerKey(t, s, key, Rotation{})
	wantRefused(t, s, first, ErrInvalidToken)
	wantRefused(t, s, second, ErrInvalidToken)
	wantLogin(t, s, third, key.ID)
	merged, err := before.Merge(storedKey(t, s, key.ID))
	must(t, err)
	if good := merged.Verifiers.Good(s.now()); len(good) != 1 || tokenID(good[0].ID) == tokenID(before.Verifiers.All[0].ID) {
		t.Errorf("merged with a replica that heard of nothing: %+v", merged.Verifiers)
	}
}

func TestAKeyWithoutAGoodTokenCannotBeRotated(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	k := storedKey(t, s, key.ID)
	k.Verifiers = record.Verifiers{Sealed: true}
	must(t, s.Update(t.Context(), func(tx *Tx) error { return tx.putKey(&k) }))
	before := stats(t, s).Hashes
	_, _, err := s.RotateServerKey(t.Context(), key.ID, Rotation{})
	if !errors.Is(err, ErrInvalidRotation) {
		t.Errorf("got %v, want ErrInvalidRotation", err)
	}
	wantHashes(t, s, before, 0)
	wantRefused(t, s, token, ErrInvalidToken)
}

func TestACachedTokenThatHasEndedIsReadAgainAndNotHashed(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := open(t, &Options{Cost: LightCost, Now: func() time.Time { return now }, TestClock: true})
	key, old := addServerKey(t, s, "laptop")
	token := rotateServerKey(t, s, key, Rotation{Overlap: time.Minute})
	wantLogin(t, s, old, key.ID)
	wantLogin(t, s, token, key.ID)
	if n := s.cache.Size(); n != 2 {
		t.Errorf("the cache has %d entries, want 2", n)
	}
	before := stats(t, s)
	now = now.Add(time.Minute)
	wantRefused(t, s, old, ErrInvalidToken)
	now = now.Add(-time.Second)
	wantLogin(t, s, old, key.ID)
	now = now.Add(time.Minute)
	wantRefused(t, s, old, ErrInvalidToken)
	after := stats(t, s)
	if after.Hashes != before.Hashes || after.Unknown != before.Unknown+2 {
		t.Errorf("%d hashes, %d logins of unknown tokens; want 0 and 2", after.Hashes-before.Hashes, after.Unknown-before.Unknown)
	}
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	if n := s.cache.Size(); n != 0 {
		t.Errorf("after the disabling the cache has %d entries", n)
	}
}

// A slow login with the old token began before the rotation, and ends after it.
func TestALoginThatHashesDuringARotationIsRefused(t *testing.T) {
	s := open(t, nil)
	key, old := addServerKey(t, s, "laptop")
	minted, token, err := s.MintToken(t.Context(), ServerOwner, key.ID)
	must(t, err)
	giveBack := takePermits(t, s)
	outcome := loginAside(t.Context(), s, old)
	for stats(t, s).Misses == 0 {
	}
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		_, err := tx.RotateServerKey(key.ID, Rotation{}, minted)
		return err
	}))
	giveBack()
	if err := <-outcome; !errors.Is(err, ErrInvalidToken) {
		t.Errorf("got %v, want ErrInvalidToken", err)
	}
	wantLogin(t, s, token, key.ID)
}
