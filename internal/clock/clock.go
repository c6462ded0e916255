// Package clock tells a time that never runs backwards, although the clock that it goes by may.
package clock

import (
	"sync/atomic"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Every is how often Run looks at the clock.
const Every = time.Second

// Tolerance is how far the time can be ahead of the clock and still go back to it by itself. A
// clock that is corrected now and then, and the drift of the monotonic clock, stay far below it.
const Tolerance = 10 * time.Minute

// slew is how much of the lead over the clock the time gives up in each interval of Every. The time
// then runs slower by a thousandth. A quartz drifts less. And a thousandth is so little that nobody
// gains much by holding a clock back to make a key last longer.
const slew = Every / 1000

// A Clock tells the time of a store. Its time goes by the monotonic clock of the system, and jumps
// forward when the wall clock is ahead of it. It has no parts of a millisecond. A Clock is safe for
// concurrent use.
type Clock struct {
	given  func() time.Time // the wall clock, or nil for the system's
	test   bool             // the wall clock is believed, whatever it says
	least  time.Time        // no earlier time is believed
	opened time.Time        // from which the monotonic clock counts
	line   atomic.Pointer[line]
}

// line is a time that never runs backwards. Reset begins another one.
type line struct {
	// base is what the time was when the clock was opened, in microseconds since 1970. It grows
	// when the wall clock is ahead, and shrinks by slew. So it is the time less what the monotonic
	// clock has counted.
	base   atomic.Int64
	latest atomic.Int64 // the latest time that was told, in milliseconds since 1970
}

// New returns a clock whose time begins at the wall clock's time, or at least if that is later. now
// is the wall clock. If now is nil, the wall clock is the system's.
func New(now func() time.Time, least time.Time) *Clock {
	c := &Clock{given: now, least: least, opened: time.Now()}
	c.Reset(least)
	return c
}

// NewTest returns a clock whose time is the wall clock's, also when the wall clock goes back.
func NewTest(now func() time.Time) *Clock { return &Clock{given: now, test: true} }

// Least returns the time before which no time is believed.
func (c *Clock) Least() time.Time { return c.least }

// IsTest reports whether the time is the wall clock's, also when the wall clock goes back.
func (c *Clock) IsTest() bool { return c.test }

// Now returns the time, in UTC.
func (c *Clock) Now() time.Time { return time.UnixMilli(c.milli()).UTC() }

// Unix returns the time in seconds since 1970. It takes no lock and allocates nothing.
func (c *Clock) Unix() int64 { return c.milli() / 1000 }

func (c *Clock) milli() int64 {
	if c.test {
		return c.Wall().UnixMilli()
	}
	l := c.line.Load()
	if c.given == nil {
		return l.tell(l.at(time.Since(c.opened)))
	}
	wall := c.Wall() // before the monotonic clock, so that a pause between both moves nothing ahead
	return l.tell(l.follow(wall, time.Since(c.opened)))
}

// at returns the time in microseconds, after the monotonic clock has counted open.
func (l *line) at(open time.Duration) int64 { return l.base.Load() + open.Microseconds() }

// follow moves the time forward to the wall clock's, unless it is there already, and returns the
// time as at does.
func (l *line) follow(wall time.Time, open time.Duration) int64 {
	l.raise(wall.UnixMicro() - open.Microseconds())
	return l.at(open)
}

// raise moves base forward, unless it is there already.
func (l *line) raise(base int64) {
	for old := l.base.Load(); old < base && !l.base.CompareAndSwap(old, base); {
		old = l.base.Load()
	}
}

// tell returns a time in milliseconds that at has returned, or the latest time that was told if
// that is later.
func (l *line) tell(at int64) int64 {
	now := min(at, record.LastTime.UnixMicro()) / 1000
	for {
		latest := l.latest.Load()
		if now <= latest {
			return latest
		}
		if l.latest.CompareAndSwap(latest, now) {
			return now
		}
	}
}

// Minute returns the time in minutes since 1970, as Run saw it last. It reads no clock and takes no
// lock. A test clock has no such time, so Minute reads it.
func (c *Clock) Minute() uint32 {
	if c.test {
		return uint32(c.milli() / 60_000)
	}
	return uint32(c.line.Load().latest.Load() / 60_000)
}

// Wall returns the wall clock's time, in the range of the times that a record can have.
func (c *Clock) Wall() time.Time {
	now := time.Now
	if c.given != nil {
		now = c.given
	}
	t := now()
	switch first := time.UnixMilli(0); {
	case t.Before(first):
		return first
	case t.After(record.LastTime):
		return record.LastTime
	}
	return t
}

// Ahead returns how far the time is ahead of the wall clock.
func (c *Clock) Ahead() time.Duration { return c.Now().Sub(c.Wall()) }

// Run looks at the wall clock at each interval of Every, and then calls each, until done is closed.
func (c *Clock) Run(done <-chan struct{}, each func()) {
	ticks := time.NewTicker(Every)
	defer ticks.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticks.C:
			if !c.test {
				c.look()
			}
			each()
		}
	}
}

// look compares the time with the wall clock. It moves the time forward if the wall clock is ahead.
// It lets the time run slower if the time is ahead by no more than Tolerance.
func (c *Clock) look() {
	l := c.line.Load()
	wall, open := c.Wall(), time.Since(c.opened)
	now := l.follow(wall, open)
	l.tell(now)
	if ahead := now - wall.UnixMicro(); ahead <= Tolerance.Microseconds() {
		base := now - open.Microseconds()
		l.base.CompareAndSwap(base, base-min(ahead, slew.Microseconds()))
	}
}

// Raise moves the time forward to t, unless it is there already.
func (c *Clock) Raise(t time.Time) {
	if !c.test {
		c.line.Load().raise(t.UnixMicro() - time.Since(c.opened).Microseconds())
	}
}

// Reset lets the time go on from t, or from the wall clock's time if that is later. So the time may
// go back, this once.
func (c *Clock) Reset(t time.Time) {
	if c.test {
		return
	}
	start := max(t.UnixMicro(), c.least.UnixMicro(), c.Wall().UnixMicro())
	// Another line, so that a call that has read the old one cannot bring its time back.
	l := &line{}
	l.base.Store(start - time.Since(c.opened).Microseconds())
	l.latest.Store(start / 1000)
	c.line.Store(l)
}
