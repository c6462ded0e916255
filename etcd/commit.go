package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/latchkeydb/latchkey"
)

// errConflict means that an Update has to run its function again.
var errConflict = errors.New("another transaction has changed what this one has read")

// queue has the transactions that are ready to commit. While one group of them is under way, the
// others gather.
type queue struct {
	mu      sync.Mutex
	waiting []*member
	sending bool
}

// member is one transaction in the queue or in a group.
type member struct {
	*tx
	compares []clientv3.Cmp
	ops      []clientv3.Op
	done     chan error // gets one error
}

// The most operations and bytes of one transaction of etcd. The server allows this number of
// operations and of comparisons in a transaction with all that are nested in it.
const (
	mostOps       = 128
	mostGroupSize = 1_450_000
)

// grace is how long a caller whose context has ended waits for the outcome of a commit under way.
const grace = 2 * time.Second

// commit commits t with others. It returns errConflict if the function of t has to run again. If
// ctx ends before etcd was asked, commit returns ctx's error.
func (e *engine) commit(t *tx) error {
	m := &member{tx: t, done: make(chan error, 1)}
	if err := m.prepare(); err != nil {
		return err
	}
	q := &e.queue
	q.mu.Lock()
	q.waiting = append(q.waiting, m)
	if !q.sending {
		q.sending = true
		e.running.Go(e.sendGroups)
	}
	q.mu.Unlock()

	select {
	case err := <-m.done:
		return err
	case <-t.ctx.Done():
	}
	if q.remove(m) {
		return t.ctx.Err()
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-m.done:
		return err
	case <-timer.C:
		return fmt.Errorf("%w: %w while etcd was committing", latchkey.ErrCommitUnknown, t.ctx.Err())
	}
}

// prepare makes the comparisons and operations of a transaction.
func (m *member) prepare() error {
	t := m.tx
	if t.whole {
		if t.commitRevision == 0 {
			return t.e.makeCommitKey(t.ctx)
		}
		m.compares = append(m.compares, modified(t.e.keys.commit(), t.commitRevision))
	}
	for key, s := range t.reads {
		m.compares = append(m.compares, modified(key, s.modified))
	}
	for _, r := range t.ranges {
		m.compares = append(m.compares, clientv3.Compare(clientv3.ModRevision(r.from), "<", t.revision+1).WithRange(r.to))
	}
	for _, w := range t.writes {
		if w.delete {
			m.ops = append(m.ops, clientv3.OpDelete(w.key))
		} else {
			m.ops = append(m.ops, clientv3.OpPut(w.key, string(w.value)))
		}
	}
	return nil
}

// modified compares the modification revision of a key. It is 0 if the key is not there.
func modified(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// makeCommitKey puts the commit key, which a new store does not have, and which a commit at a full
// quota has removed. Without it, a transaction that depends on everything cannot see that something
// was deleted. makeCommitKey returns errConflict, because the transaction has to begin again.
func (e *engine) makeCommitKey(ctx context.Context) error {
	var random [8]byte
	rand.Read(random[:])
	key := e.keys.commit()
	_, err := ask(ctx, e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return e.client.Txn(ctx).If(modified(key, 0)).Then(clientv3.OpPut(key, string(random[:]))).Commit()
	})
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w: the transaction reads too much for one that only deletes", latchkey.ErrNoSpace)
	}
	if err != nil {
		return err
	}
	return errConflict
}

// remove takes a member out of the queue. It reports false if the member is in a group already.
func (q *queue) remove(m *member) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, m)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

// sendGroups sends groups until the queue is empty.
func (e *engine) sendGroups() {
	for {
		e.queue.mu.Lock()
		g := e.queue.take()
		e.queue.sending = len(g.members) > 0
		e.queue.mu.Unlock()
		if len(g.members) == 0 {
			return
		}
		e.send(g)
	}
}

// group is the members that one transaction of etcd commits, in the order in which they take
// effect. etcd compares for all members before it writes for any. So no member may have read what
// an earlier one writes. No two members may write one key, because etcd refuses that.
type group struct {
	members []*member
	writes  map[string]bool
	largest int // the number of operations or comparisons of the largest member
	size    int // in bytes
}

// take forms a group of the members that wait, and leaves those that do not fit.
func (q *queue) take() (g group) {
	g.writes = make(map[string]bool)
	q.waiting = slices.DeleteFunc(q.waiting, func(m *member) bool {
		ops := max(g.largest, len(m.ops), len(m.compares))
		size := g.size + m.requestSize()
		// The other operations are the commit key's, and one for each member. A comparison is the
		// fence's.
		if len(g.members) > 0 && (len(g.members)+2+ops > mostOps || size > mostGroupSize || m.meets(g.writes)) {
			return false
		}
		g.members, g.largest, g.size = append(g.members, m), ops, size
		for _, w := range m.writes {
			g.writes[w.key] = true
		}
		return true
	})
	return g
}

// requestSize returns about how many bytes the member has in a request.
func (m *member) requestSize() int {
	n := m.size
	for _, c := range m.compares {
		n += len(c.KeyBytes()) + len(c.GetCompare().RangeEnd) + 16
	}
	return n
}

// meets reports whether the member has read or writes one of these keys.
func (m *member) meets(writes map[string]bool) bool {
	return m.dependsOn(writes) || slices.ContainsFunc(m.writes, func(w write) bool { return writes[w.key] })
}

// dependsOn reports whether the member has read one of these keys.
func (m *member) dependsOn(writes map[string]bool) bool {
	if m.whole && len(writes) > 0 {
		return true
	}
	if len(m.reads) == 0 && len(m.ranges) == 0 {
		return false
	}
	for key := range writes {
		if _, read := m.reads[key]; read {
			return true
		}
		if slices.ContainsFunc(m.ranges, func(r *span) bool { return r.from <= key && key < r.to }) {
			return true
		}
	}
	return false
}

// send commits a group, and tells each member the outcome.
func (e *engine) send(g group) {
	var random [8]byte
	rand.Read(random[:])
	o, err := e.try(g.members, random, clientv3.OpPut(e.keys.commit(), string(random[:])))
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.sendDeletions(g)
	case tooLarge(err) && len(g.members) > 1:
		// The server has lower limits than usual.
		for _, m := range g.members {
			e.send(group{members: []*member{m}})
		}
	case tooLarge(err):
		g.members[0].done <- fmt.Errorf("%w: %v", latchkey.ErrTransactionTooLarge, err)
	default:
		e.tell(g.members, o, err)
	}
}

// tooLarge reports whether err is the word of a server, or of gRPC on the way there, for a request
// that is too large.
func tooLarge(err error) bool {
	if _, ok := errors.AsType[rpctypes.EtcdError](err); !ok {
		return status.Code(err) == codes.ResourceExhausted
	}
	return errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrRequestTooLarge)
}

// sendDeletions commits, at a full quota, the members of a group that only delete. The others fail.
// etcd accepts no put then, so these commits remove the commit key.
func (e *engine) sendDeletions(g group) {
	var deletions []*member
	for _, m := range g.members {
		if slices.ContainsFunc(m.writes, func(w write) bool { return !w.delete }) {
			m.done <- fmt.Errorf("%w: compact and defragment etcd, and then disarm its alarm", latchkey.ErrNoSpace)
		} else {
			deletions = append(deletions, m)
		}
	}
	if len(deletions) > 0 {
		o, err := e.try(deletions, [8]byte{}, clientv3.OpDelete(e.keys.commit()))
		e.tell(deletions, o, err)
	}
}

// tell gives each member the outcome, and lets those members that wait in vain run again.
func (e *engine) tell(members []*member, o outcome, err error) {
	writes := make(map[string]bool)
	for i, m := range members {
		if err == nil && o.applied[i] {
			for _, w := range m.writes {
				writes[w.key] = true
			}
		}
	}
	if len(writes) > 0 {
		e.commits.Add(1)
		e.feed.learn(uint64(o.revision))
	}
	for i, m := range members {
		switch {
		case err != nil:
			m.done <- err
		case o.applied[i]:
			m.done <- nil
		default:
			m.done <- errConflict
		}
	}
	if len(writes) == 0 {
		return
	}
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	e.queue.waiting = slices.DeleteFunc(e.queue.waiting, func(m *member) bool {
		lost := m.revision < o.revision && m.dependsOn(writes)
		if lost {
			m.done <- errConflict
		}
		return lost
	})
}

// outcome says which members of a group were applied, and at which revision.
type outcome struct {
	revision int64
	applied  []bool
}

// try asks etcd once to commit members. first is what to do to the commit key, and random what is
// put there, or zero. If etcd's answer leaves open whether that took place, try finds out by
// random. If it cannot, it returns [latchkey.ErrCommitUnknown].
func (e *engine) try(members []*member, random [8]byte, first clientv3.Op) (outcome, error) {
	if e.feed.unreachable.Load() {
		// Nothing has to be found out about a transaction that was not sent.
		if _, err := e.revision(e.ctx); err != nil {
			return outcome{}, err
		}
	}
	fence, err := e.fence.current(e)
	if err != nil {
		return outcome{}, err
	}
	var request clientv3.Op
	if len(members) == 1 {
		m := members[0]
		request = clientv3.OpTxn(append([]clientv3.Cmp{fence}, m.compares...), append([]clientv3.Op{first}, m.ops...), nil)
	} else {
		ops := []clientv3.Op{first}
		for _, m := range members {
			ops = append(ops, clientv3.OpTxn(m.compares, m.ops, nil))
		}
		request = clientv3.OpTxn([]clientv3.Cmp{fence}, ops, nil)
	}
	e.feed.expect(random)
	defer e.feed.forget(random)
	// A silent member gets a quarter of the time. Another member then tells the outcome.
	ctx, cancel := context.WithTimeout(e.ctx, e.opts.timeout()/4)
	defer cancel()
	response, err := e.client.Do(ctx, request)
	switch {
	case err == nil:
		txn := response.Txn()
		o := outcome{revision: txn.Header.Revision, applied: make([]bool, len(members))}
		for i := range members {
			o.applied[i] = txn.Succeeded && (len(members) == 1 || txn.Responses[1+i].GetResponseTxn().Succeeded)
		}
		if !txn.Succeeded {
			e.fence.suspect()
		}
		return o, nil
	case refused(err):
		return outcome{}, e.explain(e.ctx, err)
	case random == [8]byte{}:
		return outcome{}, fmt.Errorf("%w: %v", latchkey.ErrCommitUnknown, err)
	}
	// A server that runs out of space while it applies a transaction says the same as one that had
	// no space before. The transaction is not on its way any more then.
	full := errors.Is(err, rpctypes.ErrNoSpace)
	o, resolveErr := e.resolve(members, random, !full)
	switch {
	case resolveErr != nil:
		return o, fmt.Errorf("%w: %v (%v)", latchkey.ErrCommitUnknown, err, resolveErr)
	case full && !slices.Contains(o.applied, true):
		return o, err
	}
	return o, nil
}

// refused reports whether err is the word of a server that has not applied the transaction, and
// never will.
func refused(err error) bool {
	return tooLarge(err) || slices.ContainsFunc([]error{
		rpctypes.ErrTooManyRequests, rpctypes.ErrDuplicateKey,
		rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed,
	}, func(e error) bool { return errors.Is(err, e) })
}
