package admin

import (
	"sync/atomic"
	"time"
)

// SetWallClock moves the wall clock of the page's sessions against the clock of timers, until the
// function is called.
func SetWallClock(by *atomic.Int64) (done func()) {
	before := now
	now = func() time.Time { return before().Add(time.Duration(by.Load())) }
	return func() { now = before }
}
