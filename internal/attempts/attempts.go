// Package attempts remembers whether what a store does in the background succeeds.
package attempts

import (
	"fmt"
	"sync"
	"time"
)

// An Outcome is the outcome of the last attempt at something that the store does in the background.
// It is safe for concurrent use.
type Outcome struct {
	mu    sync.Mutex
	err   error     // of the last attempt
	since time.Time // of the first of the attempts that failed one after another
}

// Attempted records an attempt that ended with err.
func (o *Outcome) Attempted(err error, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil && o.err == nil {
		o.since = now
	}
	o.err = err
}

// Finding returns the last error as a finding of a kind, or nil.
func (o *Outcome) Finding(kind error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("%w since %s: %w", kind, o.since.Format(time.RFC3339), o.err)
}
