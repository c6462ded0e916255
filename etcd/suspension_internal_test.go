package etcd

import (
	"testing"
	"time"
	"unsafe"
)

// beforeSleep returns the time as it was before the machine slept, when the monotonic clock
// stopped.
func beforeSleep(t *testing.T, sleep time.Duration) time.Time {
	t.Helper()
	moment := time.Now().Add(-sleep)
	second := unsafe.Add(unsafe.Pointer(&moment), unsafe.Sizeof(uint64(0)))
	monotonic := (*int64)(second)
	*monotonic += int64(sleep)
	now := time.Now()
	if wall := now.Round(0).Sub(moment.Round(0)); wall < sleep || now.Sub(moment) > wall-sleep/2 {
		t.Fatal("package time keeps the monotonic clock elsewhere")
	}
	return moment
}

func TestAMachineThatSleptKnowsNothing(t *testing.T) {
	e := New(nil, "prefix").(*engine)
	e.opts.WatchAge = 30 * time.Minute // so that a busy machine is no slow one
	if e.feed.know(time.Now()); !e.Fresh() {
		t.Error("the engine is not fresh by an answer of now")
	}
	if e.feed.know(beforeSleep(t, time.Hour)); e.Fresh() {
		t.Error("the engine is fresh by an answer from before a sleep")
	}
	if e.feed.know(time.Now()); !e.Fresh() {
		t.Error("the engine is not fresh by an answer after the sleep")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestASleepIsNoticed(t *testing.T) {
	e := NewWith(nil, "prefix", Options{WatchAge: 100 * time.Millisecond}).(*engine)
	slept := beforeSleep(t, time.Hour)
	e.feed.fresh.Store(&slept)
	e.running.Go(e.feed.noticeSuspension)
	for e.feed.fresh.Load() != nil { // ends by the timeout of go test
		time.Sleep(time.Millisecond)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
