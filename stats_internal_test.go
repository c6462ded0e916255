package latchkey

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wantMoved does something, and fails the test unless the statistics move as want says. CacheSize and HashPeak, which
// go up and down, are not looked at; nor is HashWait, in which the scheduler has a say.
func wantMoved(t testing.TB, s *Store, what string, want Stats, do func() error) {
	t.Helper()
	before := statsInside(t, s)
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	after := statsInside(t, s)
	got := Stats{
		Sequence:  after.Sequence - before.Sequence,
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
	s := openInside(t, &Options{Cost: LightCost, Now: func() time.Time { return now }})
	var user User
	var key Key
	var token string
	less := ^uint64(0) // one less

	wantMoved(t, s, "a new user", Stats{Sequence: 1, Users: 1, Commits: 1}, func() (err error) {
		user, err = s.CreateUser(ctx, UserSpec{Identity{ProviderLocalUserpass, "ada"}})
		return err
	})
	wantMoved(t, s, "a new key", Stats{Sequence: 1, Keys: 1, Hashes: 1, Commits: 1}, func() (err error) {
		key, token, err = s.CreateKey(ctx, user.ID, KeySpec{Name: "laptop", Expires: now.Add(time.Hour)})
		return err
	})
	wantMoved(t, s, "a refused change", Stats{}, func() error {
		return wanted(s.DeleteKey(ctx, ServerOwner, key.ID), ErrKeyNotFound)
	})
	login := func(token string, want error) func() error {
		return func() error {
			_, err := s.Login(ctx, token)
			return wanted(err, want)
		}
	}
	wantMoved(t, s, "a malformed token", Stats{Malformed: 1}, login("lk_", ErrInvalidToken))
	wantMoved(t, s, "a forged token", Stats{Forged: 1}, login(forge(token), ErrInvalidToken))
	wantMoved(t, s, "a first login", Stats{Misses: 1, Hashes: 1}, login(token, nil))
	wantMoved(t, s, "a second login", Stats{Hits: 1}, login(token, nil))
	now = now.Add(time.Hour)
	wantMoved(t, s, "an expired key", Stats{Hits: 1, Refused: 1}, login(token, ErrKeyExpired))
	now = now.Add(-time.Hour)

	wantMoved(t, s, "disabling", Stats{Sequence: 1, Commits: 1}, func() error { return s.DisableKey(ctx, user.ID, key.ID) })
	wantMoved(t, s, "a disabled key", Stats{Misses: 1, Hashes: 1, Refused: 1}, login(token, ErrKeyDisabled))
	wantMoved(t, s, "a disabled key again", Stats{Hits: 1, Refused: 1}, login(token, ErrKeyDisabled))
	wantMoved(t, s, "enabling", Stats{Sequence: 1, Commits: 1}, func() error { return s.EnableKey(ctx, user.ID, key.ID) })
	wantMoved(t, s, "enabling what is enabled", Stats{}, func() error { return s.EnableKey(ctx, user.ID, key.ID) })

	wantMoved(t, s, "deleting a user and a key", Stats{Sequence: 2, Users: less, Keys: less, Commits: 1}, func() error {
		return s.DeleteUser(ctx, user.ID)
	})
	wantMoved(t, s, "a deleted key", Stats{Misses: 1, Unknown: 1}, login(token, ErrInvalidToken))
}

// wanted is nil if err is want, and err or something that says so otherwise.
func wanted(err, want error) error {
	switch {
	case errors.Is(err, want):
		return nil
	case err == nil:
		return errors.New("got no error")
	}
	return err
}

// forge changes the tag of a token to one that is not its own.
func forge(token string) string {
	if last := len(token) - 1; token[last] == '0' {
		return token[:last] + "1"
	}
	return token[:len(token)-1] + "0"
}

func TestASecretThatIsNotTheKeysCountsAsUnknown(t *testing.T) {
	s := openInside(t, nil)
	key, _ := addServerKey(t, s, "laptop")
	other := s.tokens.format(key.ID, [secretSize]byte{1}) // only who has the tag secret can make it
	wantMoved(t, s, "a wrong secret", Stats{Misses: 1, Hashes: 1, Unknown: 1}, func() error {
		_, err := s.Login(t.Context(), other)
		return wanted(err, ErrInvalidToken)
	})
}

func TestAWrongSecretOfACachedKeyIsNoHit(t *testing.T) {
	s := openInside(t, nil)
	key, token := addServerKey(t, s, "laptop")
	wantLoginInside(t, s, token, key.ID)
	other := s.tokens.format(key.ID, [secretSize]byte{1})
	wantMoved(t, s, "a wrong secret", Stats{Misses: 1, Hashes: 1, Unknown: 1}, func() error {
		_, err := s.Login(t.Context(), other)
		return wanted(err, ErrInvalidToken)
	})
	wantMoved(t, s, "the right one", Stats{Hits: 1}, func() error {
		_, err := s.Login(t.Context(), token)
		return err
	})
}

func TestABusyLoginCountsAsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, &Options{Cost: LightCost, HashQueue: 1})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		giveBack := takePermits(t, s)
		first := loginAside(t.Context(), s, one)
		synctest.Wait()
		wantMoved(t, s, "one too many", Stats{Misses: 1, Busy: 1}, func() error {
			_, err := s.Login(t.Context(), two)
			return wanted(err, ErrBusy)
		})
		giveBack()
		synctest.Wait()
		wantOutcome(t, first, nil)
	})
}

func TestHashWaitIsTheTimeThatCallersWaitedForAPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		_, token := addServerKey(t, s, "laptop")
		giveBack := takePermits(t, s)
		for _, patience := range []time.Duration{3 * time.Second, 5 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := s.Login(ctx, token); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got error %v, want DeadlineExceeded", err)
			}
			cancel()
		}
		synctest.Wait()
		if st := statsInside(t, s); st.HashWait != 8*time.Second {
			t.Errorf("got %v, want 8s", st.HashWait)
		}
		giveBack()
	})
}

func TestCacheSizeAndHashPeakAreWhatIsInUse(t *testing.T) {
	s := openInside(t, &Options{Cost: LightCost, CacheSize: 2})
	if st := statsInside(t, s); st.CacheSize != 0 || st.HashPeak != 0 {
		t.Errorf("a new store: got %d keys and a peak of %d, want 0 and 0", st.CacheSize, st.HashPeak)
	}
	for i, name := range []string{"one", "two", "three"} {
		key, token := addServerKey(t, s, name)
		wantLoginInside(t, s, token, key.ID)
		if st := statsInside(t, s); st.CacheSize != min(i+1, 2) || st.HashPeak != LightCost.bytes() {
			t.Errorf("after %d logins: got %d keys and a peak of %d", i+1, st.CacheSize, st.HashPeak)
		}
	}
}

func TestStatisticsOfLoginsBeginWhenTheStoreIsOpened(t *testing.T) {
	s := openInside(t, nil)
	key, token := addServerKey(t, s, "laptop")
	wantLoginInside(t, s, token, key.ID)
	s = reopenInside(t, s, nil)
	want := Stats{Sequence: 1, Keys: 1}
	if got := statsInside(t, s); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestNoCountIsLostWhenManyCount(t *testing.T) {
	const callers, times = 8, 100_000
	var c counters
	var workers sync.WaitGroup
	for range callers {
		workers.Go(func() {
			for range times {
				c.add(statHits, 1)
			}
			c.add(statMisses, 2)
		})
	}
	workers.Wait()
	if got := c.sum(statHits); got != callers*times {
		t.Errorf("hits: got %d, want %d", got, callers*times)
	}
	if got := c.sum(statMisses); got != callers*2 {
		t.Errorf("misses: got %d, want %d", got, callers*2)
	}
}

func TestStatsOfAClosedStoreAreRefused(t *testing.T) {
	s := openInside(t, nil)
	closeInside(t, s)
	if _, err := s.Stats(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("got error %v, want ErrClosed", err)
	}
}
