package replica

import (
	"sync/atomic"
	"time"
)

// A hubClock tells the time of the hub once the edge has heard it, and before that the time of the
// device. It is the Options.Now of the edge's store.
type hubClock struct {
	device func() time.Time
	heard  atomic.Pointer[heardTime]
}

// A heardTime is a time of the hub, and when it came.
type heardTime struct {
	hub    time.Time
	device time.Time
	at     time.Time // has a reading of the monotonic clock
}

// newHubClock returns a clock. device is the clock of the device, or nil for the system's.
func newHubClock(device func() time.Time) *hubClock {
	if device == nil {
		device = func() time.Time { return time.Now().Round(0) } // the wall clock alone
	}
	return &hubClock{device: device}
}

// hear takes over the time of the hub, which came at a time that has a reading of the monotonic
// clock.
func (c *hubClock) hear(hub, at, device time.Time) {
	c.heard.Store(&heardTime{hub: hub, device: device, at: at})
}

// Now returns the time of the hub. The hub's time goes on by the monotonic clock of the device.
// That clock may stand still while the device sleeps, and then the wall clock is ahead of it. But
// the wall clock is also ahead if somebody has corrected it. So a lead of the wall clock counts
// only as far as the wall clock's own time.
func (c *hubClock) Now() time.Time {
	device := c.device()
	h := c.heard.Load()
	if h == nil {
		return device
	}
	least := h.hub.Add(time.Since(h.at))
	most := h.hub.Add(device.Sub(h.device))
	switch {
	case most.Before(least) || device.Before(least):
		return least
	case device.Before(most):
		return device
	}
	return most
}
