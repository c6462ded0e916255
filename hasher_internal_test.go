package latchkey

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

func TestMintingHashesAsManyKeysAtOnceAsThereAreProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		s.hasher.Slots = 3
		giveBack := takePermits(t, s)
		outcome := make(chan error, 1)
		go func() {
			_, _, err := s.MintKeys(t.Context(), 10, nil)
			outcome <- err
		}()
		synctest.Wait()
		if n := s.hasher.Waiting(); n != 3 {
			t.Errorf("%d hashes wait for a permit at once, want 3", n)
		}
		giveBack()
		if err := <-outcome; err != nil {
			t.Error(err)
		}
		wantIdle(t, s.hasher)
	})
}

func TestCloseEndsTheWaitForAPermit(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, s *Store) error{
		"MintKeys":      func(ctx context.Context, s *Store) error { _, _, err := s.MintKeys(ctx, 10, nil); return err },
		"HashPassword":  func(ctx context.Context, s *Store) error { _, err := s.HashPassword(ctx, "hunter22"); return err },
		"CheckPassword": func(ctx context.Context, s *Store) error { _, err := s.CheckPassword(ctx, "", "hunter22"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				giveBack := takePermits(t, s)
				outcome := make(chan error, 1)
				go func() { outcome <- call(t.Context(), s) }()
				synctest.Wait()
				if s.hasher.Waiting() == 0 {
					t.Fatal("it does not wait")
				}
				closeStore(t, s) // this deadlocks if Close waits for the permit
				if err := <-outcome; !errors.Is(err, ErrClosed) {
					t.Errorf("got %v, want %v", err, ErrClosed)
				}
				giveBack()
				wantIdle(t, s.hasher)
			})
		})
	}
}

func TestCloseWaitsForTheHashOfAPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		begun, end := make(chan struct{}), make(chan struct{})
		hashed := make(chan error, 1)
		go func() { hashed <- s.hashInTurn(t.Context(), hashCheck, LightCost, func() { close(begun); <-end }) }()
		<-begun
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait")
		default:
		}
		close(end)
		if err := errors.Join(<-closed, <-hashed); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseWaitsForTheHashesOfNewKeys(t *testing.T) {
	s := open(t, &Options{}) // its hashes take longer than Close would
	begun := make(chan struct{})
	outcome := make(chan error, 1)
	go func() {
		_, _, err := s.MintKeys(t.Context(), 1<<16, func(done, _ int) {
			if done == 1 {
				close(begun)
			}
		})
		outcome <- err
	}()
	<-begun
	closeStore(t, s)
	if running := s.hasher.Running(); running != 0 {
		t.Errorf("%d hashes run after Close", running)
	}
	if err := <-outcome; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	wantIdle(t, s.hasher)
}

func TestACallIsBusyWhenTheQueueOfItsKindIsFull(t *testing.T) {
	kinds := []struct {
		name string
		call func(ctx context.Context, s *Store, tokens []string) error
	}{
		{"a first login", func(ctx context.Context, s *Store, tokens []string) error {
			_, err := s.Login(ctx, tokens[0])
			return err
		}},
		{"a check of a password", func(ctx context.Context, s *Store, _ []string) error {
			_, err := s.CheckPassword(ctx, "", "hunter22")
			return err
		}},
		{"a new password", func(ctx context.Context, s *Store, _ []string) error {
			_, err := s.HashPassword(ctx, "hunter22")
			return err
		}},
		{"new keys", func(ctx context.Context, s *Store, _ []string) error {
			_, _, err := s.MintKeys(ctx, 10, nil)
			return err
		}},
	}
	for i, flood := range kinds {
		t.Run(flood.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, &Options{Cost: LightCost, HashQueue: 2})
				tokens := make([]string, 3) // each of another key
				for n := range tokens {
					_, tokens[n] = addServerKey(t, s, fmt.Sprint("key-", n))
				}
				giveBack := takePermits(t, s)
				outcomes := make(chan error, 10)
				start := func(call func(context.Context, *Store, []string) error, tokens []string) {
					go func() { outcomes <- call(t.Context(), s, tokens) }()
					synctest.Wait()
				}
				start(flood.call, tokens[0:])
				start(flood.call, tokens[1:])
				before := stats(t, s).Busy
				if err := flood.call(t.Context(), s, tokens[2:]); !errors.Is(err, ErrBusy) {
					t.Errorf("with two of its kind in the queue it returns %v, want %v", err, ErrBusy)
				}
				if n := stats(t, s).Busy - before; n != 1 {
					t.Errorf("%d calls count as refused for it, want 1", n)
				}
				waiting := 2
				for n, other := range kinds {
					if n != i {
						start(other.call, tokens)
						waiting++
					}
				}
				if len(outcomes) > 0 {
					t.Fatalf("a call of another kind is refused: %v", <-outcomes)
				}
				giveBack()
				for range waiting {
					if err := <-outcomes; err != nil {
						t.Error(err)
					}
				}
				if err := flood.call(t.Context(), s, tokens[2:]); err != nil {
					t.Errorf("when nobody waits: %v", err)
				}
				wantIdle(t, s.hasher)
			})
		})
	}
}
