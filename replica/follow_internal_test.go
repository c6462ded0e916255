package replica

import (
	"testing"
	"time"
)

func TestAnEdgeConfirmsAFewThingsAtOnceAndThenAtIntervals(t *testing.T) {
	var p pace
	now := time.Unix(1_800_000_000, 0)
	next := func(want time.Duration) {
		t.Helper()
		if got := p.next(now); got != want {
			t.Errorf("it waits %v, want %v", got, want)
		}
	}
	for range ackBurst {
		next(0)
	}
	next(ackEvery)
	next(2 * ackEvery)
	now = now.Add(3 * ackEvery) // both have happened, and one more could have
	next(0)
	next(ackEvery)
	now = now.Add((ackBurst + 2) * ackEvery)
	for range ackBurst {
		next(0)
	}
	next(ackEvery)
}
