package latchkey

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestTheIDsOfOneBatchAreInOrder(t *testing.T) {
	for name, step := range map[string]int64{"one millisecond": 0, "many milliseconds": 1} {
		t.Run(name, func(t *testing.T) {
			var reads atomic.Int64
			s := open(t, &Options{Cost: LightCost, TestClock: true, Now: func() time.Time {
				// Every 50th reading finds the next millisecond.
				return time.UnixMilli(1_767_323_045_678 + step*reads.Add(1)/50)
			}})
			var wg sync.WaitGroup
			var batches [4][]drawnKey
			for i := range batches {
				wg.Go(func() { batches[i] = s.draw(1000) })
			}
			wg.Wait()
			seen := make(map[uuid.UUID]bool)
			for _, batch := range batches {
				if !slices.IsSortedFunc(batch, func(a, b drawnKey) int { return compareIDs(a.id, b.id) }) {
					t.Error("the IDs of a batch are not in order")
				}
				for _, d := range batch {
					sec, nsec := d.id.Time().UnixTime()
					if !time.Unix(sec, nsec).Equal(d.created) || d.id.Version() != 7 || d.id.Variant() != uuid.RFC4122 || seen[d.id] {
						t.Fatalf("the ID %s is not one of version 7 for %s, or not the first", d.id, d.created)
					}
					seen[d.id] = true
				}
			}
		})
	}
}

func TestIDsAreInTheOrderOfTheClockWhenItGoesBack(t *testing.T) {
	now := time.UnixMilli(1_767_323_045_678)
	s := open(t, &Options{Cost: LightCost, Now: func() time.Time { return now }, TestClock: true})
	later := s.draw(3)
	now = now.Add(-time.Hour)
	earlier := s.draw(3)
	now = now.Add(2 * time.Hour)
	latest := s.draw(3)
	all := slices.Concat(earlier, later, latest)
	if !slices.IsSortedFunc(all, func(a, b drawnKey) int { return compareIDs(a.id, b.id) }) {
		t.Error("the IDs are not in the order of the clock")
	}
}
