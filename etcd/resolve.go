package etcd

import (
	"context"
	"errors"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// This file finds out what became of a transaction whose answer was lost.

// resolve finds out what became of a transaction, by its random number. With fence, the transaction
// may still be on its way, so resolve first moves the fence, which stops it. Then resolve waits for
// the watch to come so far.
func (e *engine) resolve(members []*member, random [8]byte, fence bool) (outcome, error) {
	ctx, cancel := context.WithTimeout(e.ctx, 2*e.opts.timeout())
	defer cancel()
	var revision int64
	var err error
	if fence {
		revision, err = e.fence.move(ctx, e)
	} else {
		revision, err = e.revision(ctx)
	}
	if err != nil {
		return outcome{}, err
	}
	at, changed, err := e.feed.seen(ctx, random, revision)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{revision: at, applied: make([]bool, len(members))}
	for i, m := range members {
		// A member that has changed nothing may run again.
		o.applied[i] = slices.ContainsFunc(m.writes, func(w write) bool { return changed[w.key] })
	}
	return o, nil
}

// arrival is a commit that try waits for.
type arrival struct {
	restarts int   // how often the feed had begun anew when try began to wait
	revision int64 // 0 until the commit has arrived
	changed  map[string]bool
}

// expect makes the feed keep what the commit with a random number changes.
func (f *feed) expect(random [8]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expected[random] = &arrival{restarts: f.restarts}
}

func (f *feed) forget(random [8]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.expected, random)
}

// arrive notes the keys that a commit has changed.
func (a *arrival) arrive(revision int64, raw []*clientv3.Event) {
	a.revision, a.changed = revision, make(map[string]bool)
	for _, ev := range raw {
		if ev.Kv.ModRevision == revision {
			a.changed[string(ev.Kv.Key)] = true
		}
	}
}

// seen waits until everything up to a revision has arrived. It returns the revision of the commit
// that was expected, and the keys that the commit has changed. The revision is 0 if there was no
// such commit. It returns an error if the feed has begun anew since expect was called.
func (f *feed) seen(ctx context.Context, random [8]byte, revision int64) (at int64, changed map[string]bool, err error) {
	_ = f.requestProgress(ctx) // the probes ask again
	err = f.wait(ctx, func(f *feed) (bool, error) {
		a := f.expected[random]
		if f.restarts != a.restarts {
			return false, errors.New("the watch has lost events")
		}
		at, changed = a.revision, a.changed
		return at != 0 || f.position >= revision, nil
	})
	return at, changed, err
}

// fence is a key that every transaction of this engine compares. After a put to it, no transaction
// that was sent before can take effect any more. The key is not there as long as all commits had an
// answer. It stays when the engine is closed, because a transaction can come late, and goes by a
// lease.
type fence struct {
	key      string
	revision int64 // its modification revision, or 0
	used     bool
	unsure   bool // revision can be wrong
}

// fenceStays is for how many seconds the key of a fence stays. No request is under way so long.
const fenceStays = 3600

// current returns the comparison with the fence. Like move and suspect, it is called by one
// goroutine at a time.
func (f *fence) current(e *engine) (clientv3.Cmp, error) {
	if f.unsure {
		r, err := ask(e.ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) { return e.client.Get(ctx, f.key) })
		if err != nil {
			return clientv3.Cmp{}, err
		}
		f.revision, f.unsure = 0, false
		if len(r.Kvs) > 0 {
			f.revision = r.Kvs[0].ModRevision
		}
	}
	return modified(f.key, f.revision), nil
}

// suspect makes the next transaction read the fence. A put of move whose answer was lost may have
// moved it late, or the lease may have ended.
func (f *fence) suspect() { f.unsure = f.used }

// move moves the fence, and returns the revision.
func (f *fence) move(ctx context.Context, e *engine) (int64, error) {
	f.used, f.unsure = true, true
	r, err := repeat(ctx, e, e.opts.timeout(), func(ctx context.Context) (*clientv3.PutResponse, error) {
		lease, err := e.client.Grant(ctx, fenceStays)
		if err != nil {
			return nil, err
		}
		return e.client.Put(ctx, f.key, "", clientv3.WithLease(lease.ID))
	})
	if err != nil {
		return 0, err
	}
	f.revision, f.unsure = r.Header.Revision, false
	return f.revision, nil
}
