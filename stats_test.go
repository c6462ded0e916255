package latchkey_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// wantMoved calls do, and fails the test unless the statistics change by want. It ignores CacheSize
// and HashPeak, which go up and down, and HashWait, which depends on the scheduler.
func wantMoved(t testing.TB, s *latchkey.Store, what string, want latchkey.Stats, do func() error) {
	t.Helper()
	before := stats(t, s)
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	after := stats(t, s)
	got := latchkey.Stats{
		Sequence:  min(after.Sequence-before.Sequence, 1), // an engine can leave numbers out
		Users:     after.Users - before.Users,
		Keys:      after.Keys - before.Keys,
		Hits:      after.Hits - before.Hits,
		Misses:    after.Misses - before.Misses,
		Malformed: after.Malformed - before.Malformed,
		Forged:    after.Forged - before.Forged,
		Unknown:   after.Unknown - before.Unknown,
		Refused:   after.Refused - before.Refused,
		Busy:      after.Busy - before.Busy,
		Hashes:    after.Hashes - before.Hashes,
		Rehashed:  after.Rehashed - before.Rehashed,
		Commits:   after.Commits - before.Commits,
	}
	if got != want {
		t.Errorf("%s: the statistics moved by\n%+v, want\n%+v", what, got, want)
	}
}

func TestEachStatisticMovesAsItsCommentSays(t *testing.T) {
	ctx := t.Context()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return now }, TestClock: true})
	var user latchkey.User
	var key latchkey.Key
	var token string
	less := ^uint64(0) // one less

	wantMoved(t, s, "a new user", latchkey.Stats{Sequence: 1, Users: 1, Commits: 1}, func() (err error) {
		user, err = s.CreateUser(ctx, latchkey.UserSpec{Identity: email("ada")})
		return err
	})
	wantMoved(t, s, "a new key", latchkey.Stats{Sequence: 1, Keys: 1, Hashes: 1, Commits: 1}, func() (err error) {
		key, token, err = s.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop", Expires: now.Add(time.Hour)})
		return err
	})
	wantMoved(t, s, "a refused change", latchkey.Stats{}, func() error {
		return wanted(s.DeleteKey(ctx, latchkey.ServerOwner, key.ID), latchkey.ErrKeyNotFound)
	})
	login := func(token string, want error) func() error {
		return func() error {
			_, err := s.Login(ctx, token)
			return wanted(err, want)
		}
	}
	wantMoved(t, s, "a malformed token", latchkey.Stats{Malformed: 1}, login("lk_", latchkey.ErrInvalidToken))
	wantMoved(t, s, "a forged token", latchkey.Stats{Forged: 1}, login(changeLast(token), latchkey.ErrInvalidToken))
	wantMoved(t, s, "a first login", latchkey.Stats{Misses: 1, Hashes: 1}, login(token, nil))
	wantMoved(t, s, "a second login", latchkey.Stats{Hits: 1}, login(token, nil))
	now = now.Add(time.Hour)
	wantMoved(t, s, "an expired key", latchkey.Stats{Hits: 1, Refused: 1}, login(token, latchkey.ErrKeyExpired))
	now = now.Add(-time.Hour)

	wantMoved(t, s, "disabling", latchkey.Stats{Sequence: 1, Commits: 1}, func() error { return s.DisableKey(ctx, user.ID, key.ID) })
	wantMoved(t, s, "a disabled key", latchkey.Stats{Misses: 1, Hashes: 1, Refused: 1}, login(token, latchkey.ErrKeyDisabled))
	wantMoved(t, s, "a disabled key again", latchkey.Stats{Hits: 1, Refused: 1}, login(token, latchkey.ErrKeyDisabled))
	wantMoved(t, s, "enabling", latchkey.Stats{Sequence: 1, Commits: 1}, func() error { return s.EnableKey(ctx, user.ID, key.ID) })
	wantMoved(t, s, "enabling what is enabled", latchkey.Stats{}, func() error { return s.EnableKey(ctx, user.ID, key.ID) })

	wantMoved(t, s, "deleting a user and a key", latchkey.Stats{Sequence: 1, Users: less, Keys: less, Commits: 1}, func() error {
		return s.DeleteUser(ctx, user.ID)
	})
	wantMoved(t, s, "a deleted key", latchkey.Stats{Misses: 1, Unknown: 1}, login(token, latchkey.ErrInvalidToken))
}

// wanted returns nil if err is want, and otherwise an error.
func wanted(err, want error) error {
	switch {
	case errors.Is(err, want):
		return nil
	case err == nil:
		return errors.New("got no error")
	}
	return err
}

func TestCacheSizeAndHashPeakAreWhatIsInUse(t *testing.T) {
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, CacheSize: 2})
	if st := stats(t, s); st.CacheSize != 0 || st.HashPeak != 0 {
		t.Errorf("a new store: got %d keys and a peak of %d, want 0 and 0", st.CacheSize, st.HashPeak)
	}
	for i, name := range []string{"one", "two", "three"} {
		key, token := addKey(t, s, latchkey.ServerOwner, name)
		wantLogin(t, s, token, key.ID)
		if st := stats(t, s); st.CacheSize != min(i+1, 2) || st.HashPeak != int64(latchkey.LightCost.Memory)<<10 {
			t.Errorf("after %d logins: got %d keys and a peak of %d", i+1, st.CacheSize, st.HashPeak)
		}
	}
}

func TestStatisticsOfLoginsBeginWhenTheStoreIsOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	key, token := addKey(t, s, latchkey.ServerOwner, "laptop")
	wantLogin(t, s, token, key.ID)
	before := stats(t, s)
	closeStore(t, s)
	s = openAt(t, path, light())
	got := stats(t, s)
	want := latchkey.Stats{Sequence: got.Sequence, Keys: 1}
	if got != want || got.Sequence <= before.Sequence { // Close wrote the last use
		t.Errorf("got %+v, want %+v, and a sequence after %d", got, want, before.Sequence)
	}
}
