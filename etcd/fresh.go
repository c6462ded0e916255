package etcd

import (
	"context"
	"time"
)

// This file knows how old the engine's knowledge of the commits of other processes is, and so
// whether logins may be answered from the cache.

// Fresh reports whether changed was called for everything that was committed longer ago than the
// bound. It reads the monotonic clock alone, because reading both clocks takes twice as long.
// noticeSuspension compares them.
func (e *engine) Fresh() bool {
	fresh := e.feed.fresh.Load()
	if fresh == nil {
		return false
	}
	age := time.Since(*fresh)
	return age <= e.opts.watchAge() || age <= e.opts.Unreachable && e.feed.unreachable.Load()
}

// noticeSuspension looks at the clocks twenty times in each WatchAge. While a machine is suspended,
// the wall clock goes on, and the monotonic clock may stop. Then nothing is known to be fresh.
func (f *feed) noticeSuspension() {
	ticker := time.NewTicker(f.e.opts.watchAge() / 20)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if fresh := f.fresh.Load(); fresh != nil && f.sleptSince(*fresh) {
				f.fresh.CompareAndSwap(fresh, nil)
			}
		case <-f.e.ctx.Done():
			return
		}
	}
}

// sleptSince reports whether the wall clock has counted more than the monotonic clock since a
// moment.
func (f *feed) sleptSince(moment time.Time) bool {
	now := time.Now()
	return now.Round(0).Sub(moment.Round(0))-now.Sub(moment) > f.e.opts.watchAge()/4
}

// know notes that every commit before a moment was passed on.
func (f *feed) know(moment time.Time) {
	if f.sleptSince(moment) {
		f.fresh.Store(nil) // what was on its way is older than it seems
		return
	}
	f.fresh.Store(&moment)
}

// lagging is how many probes in a row have an answer, and a watch that does not come so far, before
// the feed tries another watch.
const lagging = 8

// probe is a moment at which etcd's revision was asked for, and the answer.
type probe struct {
	asked    time.Time
	revision int64
}

// probe asks etcd four times in each WatchAge how far it is, until the engine is closed.
func (f *feed) probe() {
	ticker := time.NewTicker(f.e.opts.watchAge() / 4)
	defer ticker.Stop()
	for {
		f.probeOnce(f.e.ctx)
		select {
		case <-ticker.C:
		case <-f.e.ctx.Done():
			return
		}
	}
}

// probeOnce asks for the revision of etcd, and for the progress of the watch. When the watch has
// come as far as that revision, every commit from before the question has arrived. A member that is
// cut off from the others cannot make the watch look younger than it is, because the revision is
// one that a majority knows.
func (f *feed) probeOnce(ctx context.Context) {
	s, err := repeat(ctx, f.e, f.e.opts.watchAge()/2, f.look)
	if f.unreachable.Store(err != nil); err != nil {
		return
	}
	if s.broken != nil {
		f.restart(s.broken)
		return
	}
	f.mu.Lock()
	if s.restarts != f.restarts {
		f.mu.Unlock()
		return
	}
	f.newest = max(f.newest, s.revision)
	f.proof, f.before = s.last, commitSeen{}
	if f.probes = append(f.probes, s.probe); len(f.probes) > 64 {
		f.probes = f.probes[1:]
	}
	f.lag++
	f.settle()
	if f.lag > 0 && f.lag%lagging == 0 {
		f.silent++
		f.stopWatch()
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(f.e.ctx, f.e.opts.watchAge()/2)
	defer cancel()
	_ = f.requestProgress(ctx)
}

// settle ends the probes that the watch has reached. It is called with the lock.
func (f *feed) settle() {
	for len(f.probes) > 0 && f.probes[0].revision <= f.position {
		f.know(f.probes[0].asked)
		f.probes = f.probes[1:]
		f.lag = 0
	}
}
