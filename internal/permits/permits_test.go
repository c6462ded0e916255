package permits

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const unit = 64 << 10

// The kinds of hashes in these tests.
const (
	kindA = iota
	kindB
	kindC
	kindD
	kinds
)

var errClosed = errors.New("closed")

func mustAcquire(t *testing.T, p *Pool, bytes int64) {
	t.Helper()
	if err := p.Acquire(t.Context(), kindA, bytes); err != nil {
		t.Fatal(err)
	}
}

func wantIdle(t *testing.T, p *Pool) {
	t.Helper()
	if !p.Idle() {
		t.Error("a permit is out, or a caller waits")
	}
}

// newTestPool makes a pool with a bound of some units of memory, of which running
// hashes share half, and with some slots.
func newTestPool(units int64, slots int) *Pool {
	p := New(units*unit, kinds, 1024)
	p.Slots = slots
	return p
}

func TestPermitsAreGivenInTheOrderOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(10, 1)
		mustAcquire(t, p, unit)
		var order []int
		for i := range 5 {
			go func() {
				if p.Acquire(t.Context(), kindA, unit) == nil {
					order = append(order, i)
					p.Release(unit)
				}
			}()
			synctest.Wait() // until it waits in the queue
		}
		p.Release(unit)
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		wantIdle(t, p)
	})
}

func TestTheKindsOfHashesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(10, 1)
		mustAcquire(t, p, unit) // of the kind kindA
		var order []int
		ask := func(kind int) {
			go func() {
				if p.Acquire(t.Context(), kind, unit) == nil {
					order = append(order, kind)
					p.Release(unit)
				}
			}()
			synctest.Wait() // until it waits in its queue
		}
		for range 3 { // the flood
			ask(kindA)
		}
		ask(kindD)
		ask(kindC)
		ask(kindB)
		ask(kindD)
		p.Release(unit)
		synctest.Wait()
		if want := []int{kindB, kindC, kindD, kindA, kindD, kindA, kindA}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		wantIdle(t, p)
	})
}

func TestALargeHashIsNotOvertakenBySmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(6, 10)
		mustAcquire(t, p, 2*unit)
		ctx, cancel := context.WithCancel(t.Context())
		large := make(chan error, 1)
		go func() { large <- p.Acquire(ctx, kindA, 3*unit) }()
		synctest.Wait()
		small := make(chan error, 1)
		go func() { small <- p.Acquire(t.Context(), kindA, 1*unit) }()
		synctest.Wait()
		if p.Waiting() != 2 {
			t.Fatalf("%d wait, want both: the small one came later", p.Waiting())
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
		p.Release(1 * unit)
		p.Release(2 * unit)
		wantIdle(t, p)
	})
}

func TestHashesStayWithinMemoryAndProcessors(t *testing.T) {
	for _, tt := range []struct {
		name      string
		memory    int64 // in units
		slots     int
		size      int64 // of a hash, in units
		want      int   // permits at once
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
				p := newTestPool(tt.memory, tt.slots)
				ctx, cancel := context.WithCancel(t.Context())
				var callers sync.WaitGroup
				for range 20 {
					callers.Go(func() {
						if p.Acquire(ctx, kindA, tt.size*unit) == nil {
							<-ctx.Done()
							p.Release(tt.size * unit)
						}
					})
				}
				synctest.Wait()
				if got := 20 - p.Waiting(); got != tt.want {
					t.Errorf("%d permits are out, want %d", got, tt.want)
				}
				cancel()
				callers.Wait()
				if got, want := p.Peak(), tt.wantUnits*unit; got != want {
					t.Errorf("the peak is %d bytes, want %d", got, want)
				}
				wantIdle(t, p)
			})
		})
	}
}

func TestTheGarbageOfHashesCountsUntilItIsCollected(t *testing.T) {
	p := newTestPool(8, 2)
	mustAcquire(t, p, 3*unit) // this hash runs all the time, and is no garbage
	before := collections()
	for range 20 {
		mustAcquire(t, p, 1*unit)
		p.mu.Lock()
		if held := p.used + p.garbage.bytes(); held > p.limit || held < p.used {
			t.Errorf("%d bytes are taken, %d of them by hashes that run, and the bound is %d", held, p.used, p.limit)
		}
		p.mu.Unlock()
		p.Release(1 * unit)
	}
	if n := collections() - before; n < 3 {
		t.Errorf("%d collections for 20 hashes with room for 5, want at least 3", n)
	}
	p.Release(3 * unit)
	wantIdle(t, p)
}

func TestNoCollectionIsUnderWayWhenThePoolIsClosed(t *testing.T) {
	p := newTestPool(2, 1)
	for range 2 { // after these there is no room for a third
		mustAcquire(t, p, 1*unit)
		p.Release(1 * unit)
	}
	waits := make(chan error, 1)
	go func() { waits <- p.Acquire(t.Context(), kindA, 1*unit) }()
	begun := false
	for end := time.Now().Add(time.Minute); !begun; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("no collection began within a minute")
		}
		p.mu.Lock()
		begun = p.garbage.collecting > 0 || len(waits) > 0
		p.mu.Unlock()
	}
	p.Close(errClosed)
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("(*Pool).collect")) {
		t.Error("its goroutine is left behind")
	}
	<-waits
}

func TestAHashLargerThanAllMemoryIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(2, 1)
		mustAcquire(t, p, 1*unit) // so that another caller would wait until its context ends
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Acquire(ctx, kindA, 3*unit); !errors.Is(err, ErrTooLarge) {
			t.Errorf("got error %v, want ErrTooLarge", err)
		}
		p.Release(1 * unit)
		wantIdle(t, p)
	})
}

func TestAPermitThatComesAsItsWaiterLeavesIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(1000, 1)
		left := 0
		for range 100 {
			mustAcquire(t, p, unit)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- p.Acquire(ctx, kindA, unit) }()
			synctest.Wait()

			p.mu.Lock() // so that both happen at the same moment for the waiter
			cancel()
			p.releaseLocked(unit)
			p.mu.Unlock()
			if <-got == nil {
				p.Release(unit)
			} else {
				left++
			}
			wantIdle(t, p)
		}
		if left == 0 {
			t.Error("the waiter never left: the test shows nothing")
		}
	})
}

func TestNoPermitIsLostWhenCallersComeAndGo(t *testing.T) {
	p := newTestPool(10, 4)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range int64(200) {
				size := (1 + i%3) * unit
				ctx, cancel := context.WithCancel(context.Background())
				if i%2 == 0 {
					go cancel()
				}
				if p.Acquire(ctx, kindA, size) == nil {
					p.Release(size)
				}
				cancel()
			}
		})
	}
	workers.Wait()
	wantIdle(t, p)
	if p.Peak() > p.limit/2 {
		t.Errorf("the peak is %d bytes, and half of the bound %d", p.Peak(), p.limit/2)
	}
}

func TestNoPermitIsLostWhenThePoolClosesAsWaitersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			p := newTestPool(10, 1)
			mustAcquire(t, p, unit)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- p.Acquire(ctx, kindA, unit) }()
			synctest.Wait()

			p.mu.Lock() // so that both happen at the same moment for the waiter
			cancel()
			p.closeLocked(errClosed)
			p.mu.Unlock()
			if err := <-got; !errors.Is(err, errClosed) && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v or %v", err, errClosed, context.Canceled)
			}
			p.Release(unit)
			wantIdle(t, p)
		}
	})
}
