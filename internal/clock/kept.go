package clock

import (
	"sync/atomic"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A Kept is the clock of a store, and the time that the store's file has.
type Kept struct {
	*Clock
	kept atomic.Pointer[record.Clock]
}

// Keep returns a clock that knows nothing of a file yet.
func Keep(c *Clock) *Kept {
	k := &Kept{Clock: c}
	k.Set(record.Clock{})
	return k
}

// Kept returns the time that the file has.
func (k *Kept) Kept() *record.Clock { return k.kept.Load() }

// Set makes the clock believe that the file has a time.
func (k *Kept) Set(has record.Clock) { k.kept.Store(&has) }

// Adopt takes over what a file has.
func (k *Kept) Adopt(has record.Clock) {
	for {
		kept := k.kept.Load()
		if has.Resets < kept.Resets {
			return // read before a reset
		}
		if !k.kept.CompareAndSwap(kept, &has) {
			continue
		}
		if has.Resets > kept.Resets {
			k.Reset(has.Time)
		} else {
			k.Raise(has.Time)
		}
		return
	}
}
