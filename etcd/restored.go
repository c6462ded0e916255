package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// This file notices that etcd was restored while the engine is open. If etcd was restored before,
// mirror.recall notices it.

// ErrRestored means that etcd went back to an earlier state, because somebody has restored a
// snapshot. Keys that were revoked after the snapshot are good again, so revoke them again.
// [latchkey.Store.Health] returns ErrRestored until the engine is closed. The store has forgotten
// what it remembered, and has another replica ID as soon as it can write one.
//
// An engine notices a restoration that happens while the engine is open. With a mirror, it also
// notices one that happened since the mirror was last open.
var ErrRestored = errors.New("etcd was restored from an earlier state; revoke again what was revoked since then")

// commitSeen is a commit that etcd has told of. An etcd that says otherwise was restored.
type commitSeen struct {
	revision int64
	random   string
}

// commitIn returns the commit that the commit key has, or the zero value.
func commitIn(kvs []*mvccpb.KeyValue) commitSeen {
	if len(kvs) == 0 {
		return commitSeen{}
	}
	return commitSeen{kvs[0].ModRevision, string(kvs[0].Value)}
}

// sight is what look has seen.
type sight struct {
	probe
	last     commitSeen // its revision is 0 if there is no commit key
	restarts int        // of the feed, before etcd was asked
	broken   error      // an ErrRestored, or nil
}

// look compares what the feed knows with what etcd has.
//
// look compares two commits: the one that the last probe has read, and the last one that had
// arrived when etcd was asked for the first time since then. A commit that arrives later may be one
// of the other history, because a watch also goes on after a restoration. If etcd has compacted its
// history, look compares the last entries instead.
func (f *feed) look(ctx context.Context) (s sight, err error) {
	f.mu.Lock()
	proof, newest, cluster := f.proof, f.newest, f.cluster
	if f.before.revision == 0 {
		f.before = f.told
	}
	before := f.before
	s.restarts = f.restarts
	f.mu.Unlock()
	s.asked = time.Now()
	var known []commitSeen
	ops := []clientv3.Op{clientv3.OpGet(f.e.keys.commit())}
	for _, c := range []commitSeen{proof, before} {
		if c.revision != 0 {
			known, ops = append(known, c), append(ops, clientv3.OpGet(f.e.keys.commit(), clientv3.WithRev(c.revision)))
		}
	}
	// One request, because each may meet a silent member.
	r, err := f.e.client.Txn(ctx).Then(ops...).Commit()
	compacted := errors.Is(err, rpctypes.ErrCompacted)
	if known != nil && (compacted || errors.Is(err, rpctypes.ErrFutureRev)) {
		known = nil
		r, err = f.e.client.Txn(ctx).Then(ops[0]).Commit()
	}
	if err != nil {
		return s, err
	}
	s.revision, s.last = r.Header.Revision, commitIn(r.Responses[0].GetResponseRange().Kvs)
	switch {
	case r.Header.ClusterId != cluster:
		s.broken = fmt.Errorf("%w: the cluster ID was %x and is %x", ErrRestored, cluster, r.Header.ClusterId)
		return s, nil
	case s.revision < newest:
		s.broken = fmt.Errorf("%w: the revision was %d and is %d", ErrRestored, newest, s.revision)
		return s, nil
	case compacted && proof == s.last && (before.revision == 0 || before == s.last):
		return s, nil
	case compacted:
		f.mu.Lock()
		entries := slices.Clone(f.recent[max(0, len(f.recent)-sample):])
		f.mu.Unlock()
		s.broken, err = f.e.compareEntries(ctx, entries)
		return s, err
	}
	for i, c := range known {
		if commitIn(r.Responses[1+i].GetResponseRange().Kvs) != c {
			s.broken = fmt.Errorf("%w: the commit at revision %d is another one, or is gone", ErrRestored, c.revision)
		}
	}
	return s, nil
}

// sample is how many entries are compared at most.
const sample = 100

// compareEntries compares the last entries that were changed with what etcd has. An entry that was
// last modified before the change that is known shows that etcd was restored.
func (e *engine) compareEntries(ctx context.Context, known []event) (broken, err error) {
	ops := []clientv3.Op{clientv3.OpGet(e.keys.commit(), clientv3.WithKeysOnly())}
	for _, ev := range known {
		ops = append(ops, clientv3.OpGet(e.keys.table(ev.table)+ev.key, clientv3.WithKeysOnly()))
	}
	r, err := e.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	for i, ev := range known {
		for _, kv := range r.Responses[1+i].GetResponseRange().Kvs {
			if kv.ModRevision < ev.revision {
				broken = fmt.Errorf("%w: an entry that was modified at revision %d was last modified at %d", ErrRestored, ev.revision, kv.ModRevision)
			}
		}
	}
	return broken, nil
}

// noteRestoreLocked notes that etcd was restored. why is an ErrRestored.
func (f *feed) noteRestoreLocked(why error) {
	f.restored = why
	f.restores++
}

// isGoneLocked reports whether a sequence is from before etcd was restored, and etcd has not come
// so far again.
func (f *feed) isGoneLocked(sequence uint64) bool {
	return f.restored != nil && sequence > uint64(f.newest) && sequence != math.MaxUint64
}

// Restored returns how often the engine has noticed that etcd was restored, and 0 if the store has
// begun a new incarnation since.
func (e *engine) Restored() uint64 {
	e.feed.mu.Lock()
	defer e.feed.mu.Unlock()
	if e.feed.restores == e.feed.renewed {
		return 0
	}
	return e.feed.restores
}

// Renewed notes that the store has begun a new incarnation since Restored returned times.
func (e *engine) Renewed(times uint64) {
	e.feed.mu.Lock()
	defer e.feed.mu.Unlock()
	e.feed.renewed = max(e.feed.renewed, times)
	e.feed.announceLocked()
}
