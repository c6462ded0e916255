package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newTestHasher makes a hasher with a bound of some units of LightCost's memory, of which running
// hashes share half, and with some slots.
func newTestHasher(units int64, slots int) *hasher {
	h := newHasher(units*LightCost.bytes(), 1024, &counters{})
	h.slots = slots
	return h
}

func TestPermitsAreGivenInTheOrderOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHasher(10, 1)
		mustAcquire(t, h, LightCost)
		var order []int
		for i := range 5 {
			go func() {
				if h.acquire(t.Context(), hashLogin, LightCost) == nil {
					order = append(order, i)
					h.release(LightCost)
				}
			}()
			synctest.Wait() // until it waits in the queue
		}
		h.release(LightCost)
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		wantIdle(t, h)
	})
}

func TestTheKindsOfHashesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHasher(10, 1)
		mustAcquire(t, h, LightCost) // of the kind hashLogin
		var order []hashKind
		ask := func(kind hashKind) {
			go func() {
				if h.acquire(t.Context(), kind, LightCost) == nil {
					order = append(order, kind)
					h.release(LightCost)
				}
			}()
			synctest.Wait() // until it waits in its queue
		}
		for range 3 { // the flood
			ask(hashLogin)
		}
		ask(hashKey)
		ask(hashPassword)
		ask(hashCheck)
		ask(hashKey)
		h.release(LightCost)
		synctest.Wait()
		if want := []hashKind{hashCheck, hashPassword, hashKey, hashLogin, hashKey, hashLogin, hashLogin}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		wantIdle(t, h)
	})
}

func TestALargeHashIsNotOvertakenBySmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHasher(6, 10)
		mustAcquire(t, h, units(2))
		ctx, cancel := context.WithCancel(t.Context())
		large := make(chan error, 1)
		go func() { large <- h.acquire(ctx, hashLogin, units(3)) }()
		synctest.Wait()
		small := make(chan error, 1)
		go func() { small <- h.acquire(t.Context(), hashLogin, units(1)) }()
		synctest.Wait()
		if h.waiting() != 2 {
			t.Fatalf("%d wait, want both: the small one came later", h.waiting())
		}

		cancel() // now the small hash is at the front
		synctest.Wait()
		if err := <-large; !errors.Is(err, context.Canceled) {
			t.Errorf("the large one: got error %v, want Canceled", err)
		}
		select {
		case err := <-small:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Fatal("the small one still waits, though it fits")
		}
		h.release(units(1))
		h.release(units(2))
		wantIdle(t, h)
	})
}

func TestHashesStayWithinMemoryAndProcessors(t *testing.T) {
	for _, tt := range []struct {
		name      string
		memory    int64 // in units
		slots     int
		size      uint32 // of a hash, in units
		want      int    // permits at once
		wantUnits int64
	}{
		{"memory is the bound", 10, 100, 2, 2, 4},
		{"memory is the bound, and half of it is used up", 12, 100, 2, 3, 6},
		{"one hash takes more than half of the memory", 3, 100, 2, 1, 2},
		{"one hash takes all memory", 2, 100, 2, 1, 2},
		{"processors are the bound", 100, 3, 2, 3, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newTestHasher(tt.memory, tt.slots)
				ctx, cancel := context.WithCancel(t.Context())
				var callers sync.WaitGroup
				for range 20 {
					callers.Go(func() {
						if h.acquire(ctx, hashLogin, units(tt.size)) == nil {
							<-ctx.Done()
							h.release(units(tt.size))
						}
					})
				}
				synctest.Wait()
				if got := 20 - h.waiting(); got != tt.want {
					t.Errorf("%d permits are out, want %d", got, tt.want)
				}
				cancel()
				callers.Wait()
				if got, want := h.peakBytes(), tt.wantUnits*LightCost.bytes(); got != want {
					t.Errorf("the peak is %d bytes, want %d", got, want)
				}
				wantIdle(t, h)
			})
		})
	}
}

func TestTheGarbageOfHashesCountsUntilItIsCollected(t *testing.T) {
	h := newTestHasher(8, 2)
	mustAcquire(t, h, units(3)) // this hash runs all the time, and is no garbage
	before := collections()
	for range 20 {
		mustAcquire(t, h, units(1))
		h.mu.Lock()
		if held := h.used + h.garbage.bytes(); held > h.limit || held < h.used {
			t.Errorf("%d bytes are taken, %d of them by hashes that run, and the bound is %d", held, h.used, h.limit)
		}
		h.mu.Unlock()
		h.release(units(1))
	}
	if n := collections() - before; n < 3 {
		t.Errorf("%d collections for 20 hashes with room for 5, want at least 3", n)
	}
	h.release(units(3))
	wantIdle(t, h)
}

func TestNoCollectionIsUnderWayWhenTheHasherIsClosed(t *testing.T) {
	h := newTestHasher(2, 1)
	for range 2 { // after these there is no room for a third
		mustAcquire(t, h, units(1))
		h.release(units(1))
	}
	waits := make(chan error, 1)
	go func() { waits <- h.acquire(t.Context(), hashLogin, units(1)) }()
	waitUntil(t, "a collection begins", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.garbage.collecting > 0 || len(waits) > 0
	})
	h.close()
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("(*hasher).collect")) {
		t.Error("its goroutine is left behind")
	}
	<-waits
}

func TestAHashLargerThanAllMemoryIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHasher(2, 1)
		mustAcquire(t, h, units(1)) // so that another caller would wait until its context ends
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.acquire(ctx, hashLogin, units(3)); !errors.Is(err, ErrCostTooHigh) {
			t.Errorf("got error %v, want ErrCostTooHigh", err)
		}
		h.release(units(1))
		wantIdle(t, h)
	})
}

func TestAPermitThatComesAsItsWaiterLeavesIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHasher(1000, 1)
		left := 0
		for range 100 {
			mustAcquire(t, h, LightCost)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- h.acquire(ctx, hashLogin, LightCost) }()
			synctest.Wait()

			h.mu.Lock() // so that both happen at the same moment for the waiter
			cancel()
			h.releaseLocked(LightCost.bytes())
			h.mu.Unlock()
			if <-got == nil {
				h.release(LightCost)
			} else {
				left++
			}
			wantIdle(t, h)
		}
		if left == 0 {
			t.Error("the waiter never left: the test shows nothing")
		}
	})
}

func TestMintingHashesAsManyKeysAtOnceAsThereAreProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		s.hasher.slots = 3
		giveBack := takePermits(t, s)
		outcome := make(chan error, 1)
		go func() {
			_, _, err := s.MintKeys(t.Context(), 10, nil)
			outcome <- err
		}()
		synctest.Wait()
		if n := s.hasher.waiting(); n != 3 {
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
				if s.hasher.waiting() == 0 {
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
	s.hasher.mu.Lock()
	if running := s.hasher.running; running != 0 {
		t.Errorf("%d hashes run after Close", running)
	}
	s.hasher.mu.Unlock()
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

func TestNoPermitIsLostWhenCallersComeAndGo(t *testing.T) {
	h := newTestHasher(10, 4)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range uint32(200) {
				cost := units(1 + i%3)
				ctx, cancel := context.WithCancel(context.Background())
				if i%2 == 0 {
					go cancel()
				}
				if h.acquire(ctx, hashLogin, cost) == nil {
					h.release(cost)
				}
				cancel()
			}
		})
	}
	workers.Wait()
	wantIdle(t, h)
	if h.peakBytes() > h.limit/2 {
		t.Errorf("the peak is %d bytes, and half of the bound %d", h.peakBytes(), h.limit/2)
	}
}

func TestNoPermitIsLostWhenTheHasherClosesAsWaitersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			h := newTestHasher(10, 1)
			mustAcquire(t, h, LightCost)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- h.acquire(ctx, hashLogin, LightCost) }()
			synctest.Wait()

			h.mu.Lock() // so that both happen at the same moment for the waiter
			cancel()
			h.closeLocked()
			h.mu.Unlock()
			if err := <-got; !errors.Is(err, ErrClosed) && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v or %v", err, ErrClosed, context.Canceled)
			}
			h.release(LightCost)
			wantIdle(t, h)
		}
	})
}
