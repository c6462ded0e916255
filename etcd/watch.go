package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// feed follows the commits of all processes, by one watch over the prefix. It knows how far the
// watch has come, and for which moment it is sure to know all commits.
type feed struct {
	e       *engine
	changed atomic.Pointer[func([]latchkey.TrackedChange)] // nil unless the store watches

	// fresh is a moment, and every commit before it was passed to changed. It is nil if there is
	// no such moment yet, or the machine was suspended since then.
	fresh       atomic.Pointer[time.Time]
	unreachable atomic.Bool // the last question to etcd had no answer

	restarting sync.Mutex // locked by restart

	mu       sync.Mutex
	news     chan struct{} // closed when something below changes, and made anew
	position int64         // every event up to this revision has arrived
	last     uint64        // the greatest sequence that the engine knows of
	recent   []event       // the last events, in the order of their revisions
	since    int64         // recent has every event after this revision
	expected map[[8]byte]*arrival
	probes   []probe // that wait for the watch to come so far
	lag      int     // how many probes in a row had an answer, and the watch did not come so far
	newest   int64   // the greatest revision of which etcd told
	cluster  uint64
	proof    commitSeen // the commit that the last probe has read
	told     commitSeen // the last commit that has arrived
	before   commitSeen // what told was when etcd was asked first since its last answer
	restored error      // what EngineHealth says since etcd was restored
	restores uint64     // how often etcd was restored
	renewed  uint64     // for how many of these the store has begun a new incarnation
	restarts int        // how often the watch lost events, or etcd was restored

	watcher   clientv3.Watcher   // has the watch under way
	stopWatch context.CancelFunc // of the watch under way
	silent    int                // how often the watch was stopped because it did not come so far
}

// event is the change of one entry.
type event struct {
	revision int64
	table    string
	key      string
	deleted  bool
}

// mostRecent is how many events the feed keeps, for Changes.
const mostRecent = 20_000

// arrival is a commit that try waits for.
type arrival struct {
	restarts int   // how often the feed had begun anew when try began to wait
	revision int64 // 0 until the commit has arrived
	changed  map[string]bool
}

// lagging is how many probes in a row have an answer, and a watch that does not come so far, before
// the feed tries another watch.
const lagging = 8

// probe is a moment at which etcd's revision was asked for, and the answer.
type probe struct {
	asked    time.Time
	revision int64
}

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

// ErrRestored means that etcd went back to an earlier state, because somebody has restored a
// snapshot. Keys that were revoked after the snapshot are good again, so revoke them again.
// [latchkey.Store.Health] returns ErrRestored until the engine is closed. The store has forgotten
// what it remembered, and has another replica ID as soon as it can write one.
//
// An engine notices a restoration that happens while the engine is open. With a mirror, it also
// notices one that happened since the mirror was last open.
var ErrRestored = errors.New("etcd was restored from an earlier state; revoke again what was revoked since then")

func newFeed(e *engine) *feed {
	return &feed{e: e, stopWatch: func() {}, news: make(chan struct{}), expected: make(map[[8]byte]*arrival)}
}

// begin begins to watch. first has read the present state, after the moment asked. The watch begins
// after the revision from, which is earlier if a mirror has the state of that revision.
// restored is the ErrRestored of the mirror, or nil.
func (f *feed) begin(asked time.Time, first *tx, from int64, restored error) {
	f.mu.Lock()
	f.position, f.since, f.newest, f.cluster = from, from, first.revision, first.cluster
	if first.commitRevision != 0 {
		f.proof = commitSeen{first.commitRevision, string(first.random[:])}
	}
	if restored != nil {
		f.noteRestoreLocked(restored)
	}
	f.mu.Unlock()
	f.tell(nil) // because of the commits between Watch and now
	f.know(asked)
	if m := f.e.mirror; m != nil {
		f.e.running.Go(m.run)
	}
	f.e.running.Go(f.watch)
	f.e.running.Go(f.probe)
	f.e.running.Go(f.noticeSuspension)
}

// tell calls changed, if the store watches.
func (f *feed) tell(changes []latchkey.TrackedChange) {
	if changed := f.changed.Load(); changed != nil {
		(*changed)(changes)
	}
}

// Watch makes the engine call changed for each commit of any process. It does not wait until the
// engine has found etcd. Another call of Watch replaces changed.
func (e *engine) Watch(changed func([]latchkey.TrackedChange)) {
	e.feed.changed.Store(&changed)
	e.running.Go(func() {
		for attempt := 0; e.ctx.Err() == nil; attempt++ {
			if err := e.start(e.ctx); !errors.Is(err, latchkey.ErrUnavailable) {
				return // another error is one that a transaction will return
			}
			_ = pause(e.ctx, attempt)
		}
	})
}

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

// announce wakes everything that waits for the feed.
func (f *feed) announce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.announceLocked()
}

func (f *feed) announceLocked() {
	close(f.news)
	f.news = make(chan struct{})
}

// learn notes a sequence of which the engine knows otherwise than by the watch.
func (f *feed) learn(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sequence > f.last {
		f.last = sequence
		f.announceLocked()
	}
}

// isGoneLocked reports whether a sequence is from before etcd was restored, and etcd has not come
// so far again.
func (f *feed) isGoneLocked(sequence uint64) bool {
	return f.restored != nil && sequence > uint64(f.newest) && sequence != math.MaxUint64
}

// wait waits until done, which is called under the lock, reports true or an error.
func (f *feed) wait(ctx context.Context, done func(f *feed) (bool, error)) error {
	for {
		f.mu.Lock()
		ok, err := done(f)
		news := f.news
		f.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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

// changes returns the changes after since that tx sees, of all tables and in no order. ok is false
// if the feed does not reach back so far.
func (f *feed) changes(t *tx, since uint64) (changes []latchkey.TrackedChange, ok bool) {
	if since > uint64(t.revision) {
		return nil, true
	}
	// The watch is a moment behind a commit.
	ctx, cancel := context.WithTimeout(t.ctx, time.Second)
	defer cancel()
	last := make(map[[2]string]event)
	err := f.wait(ctx, func(f *feed) (bool, error) {
		if int64(since) < f.since || !f.e.Fresh() {
			return false, errTooOld
		}
		if f.position < int64(t.sequence) { // it is negative while the feed begins again
			return false, nil
		}
		from, _ := slices.BinarySearchFunc(f.recent, int64(since)+1, func(e event, revision int64) int { return cmp.Compare(e.revision, revision) })
		for _, e := range f.recent[from:] {
			if e.revision > t.revision {
				break
			}
			last[[2]string{e.table, e.key}] = e
		}
		return true, nil
	})
	if err != nil {
		return nil, false
	}
	for e := range maps.Values(last) {
		if !e.deleted {
			changes = append(changes, latchkey.TrackedChange{Sequence: uint64(e.revision), Table: e.table, Key: []byte(e.key)})
		}
	}
	return changes, true
}

var errTooOld = errors.New("the feed does not reach back so far")

// newWatcher returns a watcher for one watch, and a function that ends it. The watch does not share
// a stream with another one, because etcd answers about the progress of a stream only when no watch
// on it is behind. The client chooses the member, unless a watch was silent: then the members get
// the watch in turn.
func (f *feed) newWatcher(silent int) (w clientv3.Watcher, end func()) {
	client := f.e.client
	if endpoints := client.Endpoints(); silent > 0 && len(endpoints) > 1 {
		if conn, err := client.Dial(endpoints[silent%len(endpoints)]); err == nil {
			w = clientv3.NewWatchFromWatchClient(pb.NewWatchClient(conn), client)
			return w, func() { w.Close(); conn.Close() }
		}
	}
	w = clientv3.NewWatcher(client)
	return w, func() { w.Close() }
}

// requestProgress asks etcd how far the watch has come. The watch gets the answer.
func (f *feed) requestProgress(ctx context.Context) error {
	f.mu.Lock()
	w := f.watcher
	f.mu.Unlock()
	if w == nil {
		return errors.New("there is no watch")
	}
	return w.RequestProgress(clientv3.WithRequireLeader(ctx))
}

// watch watches until the engine is closed.
func (f *feed) watch() {
	for attempt := 0; f.e.ctx.Err() == nil; attempt++ {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(f.e.ctx))
		f.restarting.Lock() // waits until a restart knows from where to go on
		f.mu.Lock()
		from, restarts := f.position+1, f.restarts
		w, end := f.newWatcher(f.silent)
		f.watcher, f.stopWatch = w, cancel
		f.mu.Unlock()
		f.restarting.Unlock()
		for r := range w.Watch(ctx, f.e.keys.prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify()) {
			if r.CompactRevision != 0 {
				f.restart(nil)
			}
			if r.Err() != nil || !f.accept(&r, restarts) {
				break
			}
			attempt = 0
		}
		cancel()
		end()
		_ = pause(f.e.ctx, attempt)
	}
}

// accept takes one response of a watch that began after so many restarts. It reports false if the
// watch has to begin again.
func (f *feed) accept(r *clientv3.WatchResponse, restarts int) bool {
	f.mirror(r, restarts)
	if r.IsProgressNotify() {
		return f.advance(r.Header.Revision, restarts, nil, nil)
	}
	if len(r.Events) == 0 {
		return true
	}
	var changes []latchkey.TrackedChange
	var events []event
	for _, ev := range r.Events {
		if table, key, ok := f.e.keys.split(string(ev.Kv.Key)); ok {
			events = append(events, event{revision: ev.Kv.ModRevision, table: table, key: key, deleted: ev.Type == clientv3.EventTypeDelete})
			changes = append(changes, latchkey.TrackedChange{Sequence: uint64(ev.Kv.ModRevision), Table: table, Key: []byte(key)})
		}
	}
	if len(changes) > 0 {
		f.tell(changes)
	}
	return f.advance(r.Events[len(r.Events)-1].Kv.ModRevision, restarts, events, r.Events)
}

// advance notes that everything up to a revision has arrived, and was passed on. It reports false
// if the feed has begun again meanwhile.
func (f *feed) advance(revision int64, restarts int, events []event, raw []*clientv3.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if restarts != f.restarts {
		return false
	}
	f.position = max(f.position, revision)
	f.newest = max(f.newest, revision)
	for _, ev := range raw {
		if string(ev.Kv.Key) != f.e.keys.commit() {
			continue
		}
		f.last = max(f.last, uint64(ev.Kv.ModRevision))
		if ev.Type == clientv3.EventTypePut {
			f.told = commitSeen{ev.Kv.ModRevision, string(ev.Kv.Value)}
			if a := f.expected[[8]byte(append(bytes.Clone(ev.Kv.Value), make([]byte, 8)...))]; a != nil {
				a.arrive(ev.Kv.ModRevision, raw)
			}
		}
	}
	if n := len(events); n > 0 {
		f.last = max(f.last, uint64(events[n-1].revision))
		f.recent = append(f.recent, events...)
		if over := len(f.recent) - mostRecent; over > mostRecent/4 {
			f.since = f.recent[over-1].revision
			f.recent = append([]event(nil), f.recent[over:]...)
		}
	}
	f.settle()
	f.announceLocked()
	return true
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

// settle ends the probes that the watch has reached. It is called with the lock.
func (f *feed) settle() {
	for len(f.probes) > 0 && f.probes[0].revision <= f.position {
		f.know(f.probes[0].asked)
		f.probes = f.probes[1:]
		f.lag = 0
	}
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

// restart makes the feed begin at the present revision, because events were lost. why is an
// ErrRestored. If why is nil, restart looks whether etcd was restored. If etcd does not answer, the
// next probe or watch calls restart again.
func (f *feed) restart(why error) {
	f.restarting.Lock()
	defer f.restarting.Unlock()
	ctx, cancel := context.WithTimeout(f.e.ctx, f.e.opts.timeout())
	defer cancel()
	if why == nil {
		s, err := f.look(ctx)
		if err != nil {
			return
		}
		why = s.broken
	}
	asked := time.Now()
	r, err := f.e.client.Get(ctx, f.e.keys.commit())
	if err != nil {
		return
	}
	f.mu.Lock()
	f.restarts++
	f.position = -1 // settles no probe before changed has returned
	f.stopWatch()   // because a restored member can be silent until it has reached the old revision
	f.recent, f.probes, f.proof, f.told, f.before = nil, nil, commitIn(r.Kvs), commitSeen{}, commitSeen{}
	f.e.mirror.lose(r.Header.Revision)
	if why != nil {
		f.noteRestoreLocked(why) // before changed is called
	}
	f.mu.Unlock()
	f.tell(nil)
	f.mu.Lock()
	f.position, f.since, f.newest, f.cluster = r.Header.Revision, r.Header.Revision, r.Header.Revision, r.Header.ClusterId
	if why != nil {
		f.last = 0
	}
	if len(r.Kvs) > 0 {
		f.last = max(f.last, uint64(r.Kvs[0].ModRevision))
	}
	f.mu.Unlock()
	f.know(asked)
	f.announce()
}

// noteRestoreLocked notes that etcd was restored. why is an ErrRestored.
func (f *feed) noteRestoreLocked(why error) {
	f.restored = why
	f.restores++
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

// derivedRandom returns the random number of a commit that had to remove the commit key.
func derivedRandom(cluster uint64, revision int64) (random [8]byte) {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, cluster), uint64(revision))
	sum := sha256.Sum256(b)
	copy(random[:], sum[:])
	return random
}

// EngineHealth says what is wrong with etcd, and with the watch.
func (e *engine) EngineHealth(ctx context.Context) error {
	if e.closed.Load() {
		return latchkey.ErrClosed
	}
	var errs []error
	f := e.feed
	f.mu.Lock()
	restored, lag := f.restored, f.lag
	f.mu.Unlock()
	if restored != nil {
		errs = append(errs, restored)
	}
	switch {
	case !e.started.Load():
	case f.unreachable.Load():
		errs = append(errs, fmt.Errorf("%w: etcd does not answer", latchkey.ErrUnavailable))
	case lag > lagging:
		errs = append(errs, errors.New("etcd answers, but not about the progress of the watch, so logins are not answered from the cache: connect to the members of etcd and not to its gRPC proxy"))
	}
	return errors.Join(append(errs, e.mirror.health(), e.checkSpace(ctx))...)
}

// checkSpace returns an error if a member has an alarm, or has used 80 % of its quota.
func (e *engine) checkSpace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.opts.watchAge())
	defer cancel()
	var errs []error
	for _, endpoint := range e.client.Endpoints() {
		s, err := e.client.Status(ctx, endpoint)
		if err != nil {
			continue // EngineHealth reports an etcd that does not answer
		}
		for _, problem := range s.Errors {
			errs = append(errs, fmt.Errorf("etcd member %s: %s", endpoint, problem))
		}
		if s.DbSizeQuota > 0 && s.DbSize > s.DbSizeQuota/5*4 {
			errs = append(errs, fmt.Errorf("etcd member %s: it uses %s of its quota: compact and defragment it, or raise the quota",
				endpoint, fmt.Sprintf("%d %%", 100*s.DbSize/s.DbSizeQuota)))
		}
	}
	return errors.Join(errs...)
}
