package etcd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
