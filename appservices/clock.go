package appservices

import (
	"sync"
	"time"
)

// A Clock tells a time that can be moved, for [Options].Now and the store's: so a test sees in no time how a session
// ends. It is for times from 1970 to 2105, since IDs begin with four bytes of seconds: at others they are wrong. It is
// safe for concurrent use.
type Clock struct {
	mu      sync.Mutex
	running bool
	at      time.Time     // what it shows while it stands
	ahead   time.Duration // of the system's clock, while it runs
}

// NewClock returns a clock that stands at t until it is moved, or runs.
func NewClock(t time.Time) *Clock { return &Clock{at: t} }

// Now is what the clock shows, in UTC.
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

// Set puts the clock to t, from where it goes on if it runs.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(t)
}

func (c *Clock) setLocked(t time.Time) { c.at, c.ahead = t, time.Until(t) }

// Advance puts the clock forward by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked().Add(d))
}

// Run lets the clock go on with the system's, as far ahead of it or behind it as it is now.
func (c *Clock) Run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked())
	c.running = true
}

// Stop lets the clock stand at what it shows.
func (c *Clock) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(c.nowLocked())
	c.running = false
}

// Running tells whether the clock goes on by itself.
func (c *Clock) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}
