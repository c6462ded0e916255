package admin

import "net/http"

// showClock answers with the store's time.
func (c *call) showClock() error {
	if _, err := c.query(); err != nil {
		return err
	}
	s, err := c.store.Stats(c.r.Context())
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, Clock{Now: c.store.Now(), Resets: s.ClockResets})
}

// resetClock sets the store's time to the clock of the machine.
func (c *call) resetClock() error {
	if _, err := c.query(); err != nil {
		return err
	}
	reset := ClockReset{Before: c.store.Now()}
	if err := c.store.ResetClock(c.r.Context()); err != nil {
		return err
	}
	reset.After = c.store.Now()
	return c.answer(http.StatusOK, reset)
}
