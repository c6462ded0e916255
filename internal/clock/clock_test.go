package clock

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

var start = time.Date(2027, 3, 4, 5, 6, 7, 8_000_000, time.UTC)

// wall is a wall clock that the test sets.
type wall struct {
	ahead atomic.Int64 // of the system's clock
	reads atomic.Int64
}

func (w *wall) now() time.Time {
	w.reads.Add(1)
	return time.Now().Add(time.Duration(w.ahead.Load()))
}

func (w *wall) set(t time.Time) { w.ahead.Store(int64(time.Until(t))) }

// run runs a test with a clock whose wall clock begins at start, in a bubble whose own clock begins
// in the year 2000.
func run(t *testing.T, least time.Time, test func(t *testing.T, c *Clock, w *wall)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wall{}
		w.set(start)
		c := New(w.now, least)
		done := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { c.Run(done, func() {}) })
		test(t, c, w)
		close(done)
		running.Wait()
	})
}

func want(t *testing.T, c *Clock, at time.Time) {
	t.Helper()
	if got := c.Now(); !got.Equal(at) {
		t.Errorf("it is %s, want %s", got, at)
	}
	if got := c.Unix(); got != at.Unix() {
		t.Errorf("it is the second %d, want %d", got, at.Unix())
	}
}

// wait lets a time pass, and then the goroutine of Run.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestTheTimeIsTheWallClocksWhileThatGoesForward(t *testing.T) {
	run(t, start.Add(-time.Hour), func(t *testing.T, c *Clock, w *wall) {
		want(t, c, start)
		wait(1500 * time.Millisecond)
		want(t, c, start.Add(1500*time.Millisecond))
		w.set(start.Add(time.Hour))
		want(t, c, start.Add(time.Hour))
		if c.Ahead() != 0 {
			t.Errorf("it is %s ahead", c.Ahead())
		}
	})
}

func TestTheTimeGoesOnByTheMonotonicClockWhileTheWallClockIsBehind(t *testing.T) {
	run(t, start.Add(time.Hour), func(t *testing.T, c *Clock, w *wall) {
		want(t, c, start.Add(time.Hour)) // the least time
		wait(3 * time.Second)
		want(t, c, start.Add(time.Hour+3*time.Second))
		w.set(time.Unix(0, 0))
		wait(30 * time.Minute)
		want(t, c, start.Add(90*time.Minute+3*time.Second))
		w.set(start.Add(90 * time.Minute))
		want(t, c, start.Add(90*time.Minute+3*time.Second))
		w.set(start.Add(2 * time.Hour))
		want(t, c, start.Add(2*time.Hour))
	})
}

func TestAWallClockThatJumpedAheadIsSeenWithinASecondAlthoughNobodyAsks(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		w.set(start.Add(8 * time.Hour)) // the machine was suspended, for example
		wait(Every)
		w.set(start)
		want(t, c, start.Add(8*time.Hour+Every))
		wait(time.Hour)
		want(t, c, start.Add(9*time.Hour+Every))
	})
}

func TestTheSystemsClockIsReadBesideTheMonotonicClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(nil, start)
		want(t, c, start)
		time.Sleep(time.Hour)
		want(t, c, start.Add(time.Hour))
		if ahead := start.Sub(time.Now().Add(-time.Hour)); c.Ahead() != ahead {
			t.Errorf("it is ahead by %s, want %s", c.Ahead(), ahead)
		}
		c = New(nil, time.Unix(0, 0))
		want(t, c, time.Now())
	})
}

func TestASmallLeadIsGivenUpByAThousandthAndALargeOneIsKept(t *testing.T) {
	for _, tt := range []struct{ lead, after, left time.Duration }{
		{500 * time.Microsecond, Every, 0},
		{time.Second, 100 * time.Second, 900 * time.Millisecond},
		{time.Second, 2000 * time.Second, 0},
		{Tolerance, 1000 * time.Second, Tolerance - time.Second},
		{Tolerance + time.Second, 1000 * time.Second, Tolerance + time.Second},
	} {
		run(t, start.Add(tt.lead), func(t *testing.T, c *Clock, w *wall) {
			wait(tt.after)
			if got := time.Duration(c.line.Load().at(time.Since(c.opened))-w.now().UnixMicro()) * time.Microsecond; got != tt.left {
				t.Errorf("a lead of %s is one of %s after %s, want %s", tt.lead, got, tt.after, tt.left)
			}
		})
	}
}

func TestAJumpThatOnlyACallHasSeenIsKeptAndMovedOn(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		w.set(start.Add(8 * time.Hour))
		want(t, c, start.Add(8*time.Hour))
		w.set(start)
		want(t, c, start.Add(8*time.Hour))
		wait(time.Hour)
		want(t, c, start.Add(9*time.Hour))
	})
}

func TestTheTimeStandsForAMillisecondRatherThanGoBack(t *testing.T) {
	run(t, start.Add(time.Second), func(t *testing.T, c *Clock, w *wall) {
		told := start.Add(time.Second)
		want(t, c, told)
		c.look() // takes a millisecond away
		want(t, c, told)
		time.Sleep(time.Millisecond)
		want(t, c, told)
		time.Sleep(time.Millisecond)
		want(t, c, told.Add(time.Millisecond))
	})
}

func TestManyReadersNeverSeeTheTimeGoBack(t *testing.T) {
	c := New(nil, time.Now().Add(time.Second))
	var told atomic.Int64
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 2000 {
				before := told.Load()
				now := c.Now().UnixMilli()
				if now < before {
					t.Errorf("it is %d after %d", now, before)
				}
				if now > before {
					told.CompareAndSwap(before, now)
				}
				c.look() // takes a millisecond away
			}
		})
	}
	readers.Wait()
}

func TestResetGoesBackToTheWallClockAndNeverBeforeTheLeast(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		w.set(start.AddDate(10, 0, 0))
		want(t, c, start.AddDate(10, 0, 0))
		w.set(start.Add(time.Hour))
		c.Reset(start)
		want(t, c, start.Add(time.Hour))
		w.set(start.AddDate(-10, 0, 0))
		c.Reset(start.AddDate(-5, 0, 0))
		want(t, c, start)
		wait(time.Minute)
		want(t, c, start.Add(time.Minute))
	})
}

func TestACallThatBeganBeforeAResetDoesNotBringTheOldTimeBack(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		old := c.line.Load()
		c.Reset(start)
		old.tell(start.AddDate(10, 0, 0).UnixMicro())
		old.raise(start.AddDate(10, 0, 0).UnixMicro())
		want(t, c, start)
	})
}

func TestRaiseOnlyMovesTheTimeForward(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		c.Raise(start.Add(-time.Hour))
		want(t, c, start)
		c.Raise(start.Add(time.Hour))
		want(t, c, start.Add(time.Hour))
		wait(time.Minute)
		want(t, c, start.Add(time.Hour+time.Minute))
	})
}

func TestTheMinuteIsThatOfTheLastLookAndNoClockIsRead(t *testing.T) {
	run(t, start, func(t *testing.T, c *Clock, w *wall) {
		wait(5 * time.Minute)
		w.set(start.Add(-time.Hour))
		before := w.reads.Load()
		if got, want := c.Minute(), uint32(start.Add(5*time.Minute).Unix()/60); got != want {
			t.Errorf("it is minute %d, want %d", got, want)
		}
		if allocs := testing.AllocsPerRun(10, func() { c.Minute() }); allocs != 0 || w.reads.Load() != before {
			t.Errorf("%v allocations, and %d readings of the clock", allocs, w.reads.Load()-before)
		}
		wait(5 * time.Minute)
		if got, want := c.Minute(), uint32(start.Add(10*time.Minute).Unix()/60); got != want {
			t.Errorf("it is minute %d later, want %d", got, want)
		}
	})
}

func TestATestClockGoesBackAndStandsAndNobodyElseReadsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := start
		c := NewTest(func() time.Time { return at })
		done, ticks := make(chan struct{}), atomic.Int64{}
		go c.Run(done, func() { ticks.Add(1) })
		defer close(done)
		wait(2 * Every)
		if n := ticks.Load(); n != 2 {
			t.Errorf("after two intervals there were %d calls", n)
		}
		want(t, c, start)
		time.Sleep(time.Hour)
		want(t, c, start)
		at = time.Unix(60, 0)
		want(t, c, time.Unix(60, 0))
		if c.Minute() != 1 || c.Ahead() != 0 || !c.IsTest() {
			t.Errorf("it is minute %d, %s ahead", c.Minute(), c.Ahead())
		}
		c.Raise(start)
		c.Reset(start)
		want(t, c, time.Unix(60, 0))
	})
}

func TestATimeOutOfRangeIsTheNearestInRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ now, want time.Time }{
			{time.Time{}, time.Unix(0, 0)},
			{time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)},
			{time.Date(12026, 1, 2, 3, 4, 5, 0, time.UTC), record.LastTime},
		} {
			now := func() time.Time { return tt.now }
			want(t, NewTest(now), tt.want)
			want(t, New(now, time.Unix(0, 0)), tt.want)
		}
		c := New(nil, record.LastTime)
		time.Sleep(time.Hour)
		want(t, c, record.LastTime)
	})
}
