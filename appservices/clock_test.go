package appservices_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestAClockStandsUntilItIsMovedOrRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
		c := appservices.NewClock(start)
		want := func(after time.Duration) {
			t.Helper()
			if got := c.Now(); !got.Equal(start.Add(after)) || got.Location() != time.UTC {
				t.Fatalf("the clock shows %v, want %v after %v", got, after, start)
			}
		}
		want(0)
		time.Sleep(time.Minute) // time in the bubble, which passes at once
		want(0)
		c.Advance(time.Hour)
		time.Sleep(time.Minute)
		want(time.Hour)

		c.Run()
		if !c.Running() {
			t.Error("it does not run")
		}
		time.Sleep(time.Minute)
		want(time.Hour + time.Minute)
		c.Run()
		c.Advance(-time.Minute)
		want(time.Hour)
		time.Sleep(time.Second)
		want(time.Hour + time.Second)
		c.Set(start)
		want(0)
		time.Sleep(time.Second)
		want(time.Second)

		c.Stop()
		if c.Running() {
			t.Error("it runs")
		}
		time.Sleep(time.Minute)
		want(time.Second)
		c.Stop()
		c.Set(start)
		want(0)
	})
}
