package appservices

import (
	"sync"
	"time"
)

// A Clock is a clock that a test can move, for [Options].Now and the store's options, which must
// have TestClock too. With a Clock, a test does not have to wait until a session ends. A Clock is
// for times from 1970 to 2105. At other times the IDs are wrong, because they begin with the time
// in seconds as four bytes. A Clock is safe for concurrent use.
type Clock struct {
	mu      sync.Mutex
	running bool
	at      time.Time     // the time while the clock stands
	ahead   time.Duration // the lead over the system's clock while it runs
}

// NewClock returns a clock that stands at t until it is moved, or until Run is called.
func NewClock(t time.Time) *Clock { return &Clock{at: t} }

// Now returns the clock's time in UTC.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *Clock) nowLocked() time.Time {
	if c.running {
		return time.Now().Add(c.ahead).UTC()
	}
	return c.at.UTC()
}

// Set moves the clock to t. A running clock goes on from t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(t)
}

func (c *Clock) setLocked(t time.Time) { c.at, c.ahead = t, time.Until(t) }

// Advance moves the clock forward by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked().Add(d))
}

// Run lets the clock run at the speed of the system's clock. The difference between the two clocks
// stays what it is now.
func (c *Clock) Run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked())
	c.running = true
}

// Stop stops the clock at its present time.
func (c *Clock) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked())
	c.running = false
}

// Running reports whether the clock runs.
func (c *Clock) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}
