package counters_test

import (
	"sync"
	"testing"

	"github.com/latchkeydb/latchkey/internal/counters"
)

func TestNoCountIsLostWhenManyCount(t *testing.T) {
	const callers, times = 8, 100_000
	var c counters.Set
	var workers sync.WaitGroup
	for range callers {
		workers.Go(func() {
			for range times {
				c.Add(0, 1)
			}
			c.Add(counters.Most-1, 2)
		})
	}
	workers.Wait()
	if got := c.Sum(0); got != callers*times {
		t.Errorf("hits: got %d, want %d", got, callers*times)
	}
	if got := c.Sum(counters.Most - 1); got != callers*2 {
		t.Errorf("misses: got %d, want %d", got, callers*2)
	}
}
