package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// mirror keeps a copy of all entries in a bbolt file. The feed passes to the mirror what the watch
// tells, and one goroutine writes that to the file. View reads the file while the file has
// everything that this process knows of.
//
// The file is only a cache. If the mirror cannot go on with it, the mirror makes a new file. It
// reads all entries page by page, and between two pages it applies the changes that have arrived. A
// page has the newest state, so some changes are older than the page to which they are applied.
// When everything up to the revision of the newest page is applied, the file has the state of one
// revision. The file is not believed before.
type mirror struct {
	e    *engine
	path string

	mu       sync.Mutex
	news     chan struct{}  // closed when something below changes, and made anew
	arrived  []arrivedBatch // what the file does not have yet
	size     int            // of arrived, in bytes
	reached  int64          // everything up to this revision has arrived
	wanted   int64          // the revision of the last change that has arrived
	applied  int64          // the file has everything up to this revision
	numbered bool           // the file has the commit key, so the sequence is known
	usable   bool           // the file has the state of one revision
	lost     bool           // the file cannot go on
	behind   bool           // a View has waited in vain
	err      error          // why there is no file to read, for EngineHealth
	db       latchkey.Engine

	// Only open and the goroutine of the mirror use these.
	saved   mirrorState
	savedAt time.Time
}

// arrivedBatch is one response of the watch. It has all changes of its revisions.
type arrivedBatch struct {
	events []*clientv3.Event
	size   int // in bytes
}

// mirrorState is up to where the file has everything, and the last commit of that moment.
type mirrorState struct {
	revision int64
	commit   commitSeen // its revision is 0 if there was no commit key
}

// mirrorOf says of what a file is the mirror.
type mirrorOf struct {
	Format  int      `json:"format"`
	Prefix  string   `json:"prefix"`
	Cluster uint64   `json:"cluster"`
	Tracked []string `json:"tracked"`
}

// The tables of the file. An entry is in the table mirrorEntries + its table. If its table is
// tracked, the table mirrorRevisions + its table has the revision of its last change, and
// mirrorIndex leads from that revision to the entry.
const (
	mirrorMeta      = "mirror"
	mirrorIndex     = "index"
	mirrorEntries   = "e"
	mirrorRevisions = "r"
)

// The keys of mirrorMeta. A file has mirrorMark from its beginning, and mirrorIdentity from the
// moment when it is complete.
var (
	mirrorMark     = []byte("mark")
	mirrorIdentity = []byte("identity")
	mirrorAt       = []byte("at")
)

const (
	mirrorFormat  = 1
	mostArrived   = 64 << 20         // bytes that wait for the file, before the mirror gives it up
	mostApplied   = 4 << 20          // bytes of one transaction, unless one batch has more
	mirrorPatient = time.Second / 10 // how long a View waits for the file
	saveInterval  = time.Minute      // how often the file notes the revision while nothing changes
)

// errMirrorLost means that the mirror has to be made anew.
var errMirrorLost = errors.New("the mirror has not got all changes")

func newMirror(e *engine, path string) *mirror {
	return &mirror{e: e, path: path, news: make(chan struct{})}
}

// open opens the file, and decides whether it can go on. first has read the present state of etcd.
// open returns the revision from which the watch has to begin. restored is an ErrRestored if etcd
// was restored since the file was open last, or nil.
//
// Errors: [latchkey.ErrLocked]; [latchkey.ErrNotStore] if the file is something else than a mirror;
// the error of asking etcd.
func (m *mirror) open(first *tx) (from int64, restored, err error) {
	if m == nil {
		return first.revision, nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reached, m.lost = first.revision, true
	if m.db, err = m.openFile(); err == nil {
		err = m.recall(first)
	}
	switch {
	case err == nil:
		from = m.saved.revision
		m.reached, m.wanted, m.applied = from, from, from
		m.numbered, m.usable, m.lost = true, true, false
		return from, nil, nil
	case errors.Is(err, ErrRestored):
		return first.revision, err, nil
	case errors.Is(err, errMirrorLost), errors.Is(err, latchkey.ErrCorrupt):
		return first.revision, nil, nil
	}
	if m.db != nil {
		_ = m.db.Close()
		m.db = nil
	}
	return 0, nil, fmt.Errorf("the mirror: %w", err)
}

// openFile opens the file if it is a mirror, or makes it.
func (m *mirror) openFile() (latchkey.Engine, error) {
	db, err := latchkey.OpenBoltEngine(m.path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		// For the caller, that error means that there is no store.
		return nil, fmt.Errorf("there is no directory for %s: make the directory first", m.path)
	}
	if err != nil {
		return nil, err
	}
	err = db.View(context.Background(), func(tx latchkey.EngineTx) error {
		mark, err := tx.Get(mirrorMeta, mirrorMark)
		if err == nil && mark == nil && tx.Sequence() != 0 {
			err = fmt.Errorf("%w: %s has other data than a mirror: give the mirror a path of its own", latchkey.ErrNotStore, m.path)
		}
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// recall reads up to where the file has everything. It returns ErrRestored if etcd was restored
// since, and errMirrorLost if etcd's history does not go on from there for another reason.
func (m *mirror) recall(first *tx) error {
	var identity, at []byte
	err := m.db.View(first.ctx, func(tx latchkey.EngineTx) (err error) {
		if identity, err = tx.Get(mirrorMeta, mirrorIdentity); err != nil {
			return err
		}
		at, err = tx.Get(mirrorMeta, mirrorAt)
		return err
	})
	if err != nil {
		return err
	}
	var of mirrorOf
	if json.Unmarshal(identity, &of) != nil || of.Prefix != m.e.keys.prefix || of.Format != mirrorFormat {
		return errMirrorLost
	}
	if of.Cluster != first.cluster {
		return fmt.Errorf("%w: the cluster ID was %x and is %x", ErrRestored, of.Cluster, first.cluster)
	}
	state, ok := readMirrorState(at)
	if !ok {
		return errMirrorLost
	}
	if first.revision < state.revision {
		return fmt.Errorf("%w: the revision was %d and is %d", ErrRestored, state.revision, first.revision)
	}
	if state.commit.revision == 0 || !bytes.Equal(identity, m.identity(first.cluster)) {
		return errMirrorLost
	}
	r, err := ask(first.ctx, m.e, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return m.e.client.Get(ctx, m.e.keys.commit(), clientv3.WithRev(state.revision))
	})
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return m.recallEntries(first.ctx, state.revision)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return errMirrorLost // a member that is behind
	case err != nil:
		return err
	case state.commit != commitIn(r.Kvs):
		return fmt.Errorf("%w: the commit at revision %d is another one, or is gone", ErrRestored, state.commit.revision)
	}
	m.saved, m.savedAt = state, time.Now()
	return nil
}

// recallEntries compares the last entries of a file that has everything up to a revision, because
// etcd has compacted its history. The file is lost in either case.
func (m *mirror) recallEntries(ctx context.Context, revision int64) error {
	last, err := m.lastEntries(revision)
	if err != nil {
		return err
	}
	broken, err := ask(ctx, m.e, func(ctx context.Context) (broken, err error) { return m.e.compareEntries(ctx, last) })
	return cmp.Or(err, broken, errMirrorLost)
}

// lastEntries returns the last entries of the file that were changed.
func (m *mirror) lastEntries(revision int64) (last []event, err error) {
	// The index can be read in one direction alone.
	for back := int64(1000); ; back *= 10 {
		last = last[:0]
		from := max(revision-back, 0)
		err := m.db.View(m.e.ctx, func(tx latchkey.EngineTx) error {
			for entry, err := range tx.Scan(mirrorIndex, binary.BigEndian.AppendUint64(nil, uint64(from+1)), nil) {
				table, key, ok := strings.Cut(string(entry.Value), "\x00")
				if err == nil && (len(entry.Key) < 8 || !ok) {
					err = latchkey.ErrCorrupt
				}
				if err != nil {
					return err
				}
				last = append(last, event{revision: int64(binary.BigEndian.Uint64(entry.Key)), table: table, key: key})
				if len(last) > 10*sample {
					last = append(last[:0], last[len(last)-sample:]...)
				}
			}
			return nil
		})
		if err != nil || len(last) >= sample || from == 0 {
			return last[max(0, len(last)-sample):], err
		}
	}
}

// identity returns what a complete file of this engine says of itself.
func (m *mirror) identity(cluster uint64) []byte {
	tracked := m.e.trackedTables()
	slices.Sort(tracked)
	b, _ := json.Marshal(mirrorOf{Format: mirrorFormat, Prefix: m.e.keys.prefix, Cluster: cluster, Tracked: tracked})
	return b
}

func (s mirrorState) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.revision))
	b = binary.BigEndian.AppendUint64(b, uint64(s.commit.revision))
	return append(b, s.commit.random...)
}

func readMirrorState(b []byte) (s mirrorState, ok bool) {
	if len(b) < 16 {
		return s, false
	}
	s.revision = int64(binary.BigEndian.Uint64(b))
	s.commit = commitSeen{int64(binary.BigEndian.Uint64(b[8:])), string(b[16:])}
	return s, true
}

// mirror passes a response of a watch that began after so many restarts to the mirror. The feed
// does so before it tells anybody, so that a View never reads the file without a change that was
// told before.
func (f *feed) mirror(r *clientv3.WatchResponse, restarts int) {
	if f.e.mirror == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if restarts == f.restarts {
		f.e.mirror.take(r)
	}
}

// take notes what has arrived.
func (m *mirror) take(r *clientv3.WatchResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(r.Events); n > 0 {
		b := arrivedBatch{events: r.Events}
		for _, ev := range r.Events {
			b.size += len(ev.Kv.Key) + len(ev.Kv.Value) + 200
		}
		m.arrived, m.size = append(m.arrived, b), m.size+b.size
		m.wanted = r.Events[n-1].Kv.ModRevision
		m.reached = max(m.reached, m.wanted)
	} else if r.IsProgressNotify() {
		m.reached = max(m.reached, r.Header.Revision)
	}
	if m.size > mostArrived {
		m.loseLocked()
	}
	m.announceLocked()
}

// lose makes the mirror begin anew, because the watch has lost changes, or etcd was restored. The
// watch begins again after the revision from.
func (m *mirror) lose(from int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reached, m.wanted = from, 0 // the revision may go back
	m.loseLocked()
}

func (m *mirror) loseLocked() {
	m.usable, m.lost = false, true
	m.arrived, m.size = nil, 0
	m.announceLocked()
}

func (m *mirror) announceLocked() {
	close(m.news)
	m.news = make(chan struct{})
}

// run keeps the file up to date until the engine is closed.
func (m *mirror) run() {
	defer m.close()
	for failures := 0; ; {
		m.mu.Lock()
		lost := m.lost
		m.mu.Unlock()
		var err error
		if lost {
			if m.awaitRenewal() != nil {
				return
			}
			err = m.make()
		}
		if err == nil {
			failures = 0
			err = m.follow()
		}
		if m.e.ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		m.loseLocked()
		if m.err = nil; !errors.Is(err, errMirrorLost) {
			m.err = fmt.Errorf("the mirror cannot be kept: %w", err)
			failures++
		}
		m.mu.Unlock()
		m.rest(failures)
	}
}

// awaitRenewal waits until the store has begun a new incarnation, if etcd was restored. Until then
// the old file stays, so that a process that opens it after a crash notices the restoration again.
func (m *mirror) awaitRenewal() error {
	f := m.e.feed
	return f.wait(m.e.ctx, func(f *feed) (bool, error) {
		return f.changed.Load() == nil || m.e.opts.ReadOnly || f.restores == f.renewed, nil
	})
}

// rest waits before the mirror is made anew, the longer the more often that has failed, and at most
// a minute.
func (m *mirror) rest(failures int) {
	if failures == 0 {
		return
	}
	timer := time.NewTimer(min(50*time.Millisecond<<min(failures, 11), time.Minute))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.e.ctx.Done():
	}
}

// close notes in the file up to where it has everything, and closes it.
func (m *mirror) close() {
	m.mu.Lock()
	db, usable, applied := m.db, m.usable, m.applied
	m.db, m.usable = nil, false
	m.mu.Unlock()
	if db == nil {
		return
	}
	if usable && applied > m.saved.revision {
		_ = m.write(db, applied, nil, nil)
	}
	_ = db.Close()
}

// follow applies what arrives until the mirror is lost.
func (m *mirror) follow() error {
	for {
		if err := m.applyNext(); err != nil {
			return err
		}
	}
}

// applyNext waits until something has arrived, and applies it.
func (m *mirror) applyNext() error {
	for {
		m.mu.Lock()
		switch {
		case m.lost:
			m.mu.Unlock()
			return errMirrorLost
		case len(m.arrived) > 0 || m.reached > m.applied:
			m.mu.Unlock()
			return m.applyArrived()
		}
		news := m.news
		m.mu.Unlock()
		select {
		case <-news:
		case <-m.e.ctx.Done():
			return m.e.ctx.Err()
		}
	}
}

// applyArrived applies some of what has arrived, in one transaction of the file.
func (m *mirror) applyArrived() error {
	m.mu.Lock()
	db := m.db
	n, size := 0, 0
	for n < len(m.arrived) && (n == 0 || size+m.arrived[n].size <= mostApplied) {
		size += m.arrived[n].size
		n++
	}
	batches, revision := m.arrived[:n:n], m.reached
	if n < len(m.arrived) {
		last := batches[n-1].events
		revision = last[len(last)-1].Kv.ModRevision
	}
	m.arrived, m.size = m.arrived[n:], m.size-size
	m.mu.Unlock()

	var events []*clientv3.Event
	for _, b := range batches {
		events = append(events, b.events...)
	}
	if len(events) > 0 || time.Since(m.savedAt) > saveInterval {
		if err := m.write(db, revision, events, nil); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.lost {
		m.applied, m.numbered, m.behind = revision, m.saved.commit.revision != 0, false
	}
	m.announceLocked()
	return nil
}

// write applies events, and notes that the file then has everything up to a revision. identity is
// not nil if that makes the file complete.
func (m *mirror) write(db latchkey.Engine, revision int64, events []*clientv3.Event, identity []byte) error {
	state := mirrorState{revision, m.saved.commit}
	err := db.Update(context.Background(), func(tx latchkey.EngineTx) error {
		state.commit = m.saved.commit
		for _, ev := range events {
			deleted := ev.Type == clientv3.EventTypeDelete
			if string(ev.Kv.Key) == m.e.keys.commit() {
				state.commit = commitSeen{}
				if !deleted {
					state.commit = commitSeen{ev.Kv.ModRevision, string(ev.Kv.Value)}
				}
				continue
			}
			if err := m.apply(tx, string(ev.Kv.Key), ev.Kv.Value, ev.Kv.ModRevision, deleted); err != nil {
				return err
			}
		}
		if identity != nil {
			if err := tx.Put(mirrorMeta, mirrorIdentity, identity); err != nil {
				return err
			}
		}
		return tx.Put(mirrorMeta, mirrorAt, state.bytes())
	})
	if err == nil {
		m.saved, m.savedAt = state, time.Now()
	}
	return err
}

// apply puts or deletes one entry.
func (m *mirror) apply(tx latchkey.EngineTx, full string, value []byte, revision int64, deleted bool) error {
	table, name, ok := m.e.keys.split(full)
	if !ok {
		return nil
	}
	key := []byte(name)
	if m.e.isTracked(table) {
		if err := applyRevision(tx, table, key, revision, deleted); err != nil {
			return err
		}
	}
	if deleted {
		return tx.Delete(mirrorEntries+table, key)
	}
	return tx.Put(mirrorEntries+table, key, value)
}

// applyRevision notes the revision of an entry's last change.
func applyRevision(tx latchkey.EngineTx, table string, key []byte, revision int64, deleted bool) error {
	old, err := tx.Get(mirrorRevisions+table, key)
	if err != nil {
		return err
	}
	if old != nil {
		if err := tx.Delete(mirrorIndex, indexKey(old, table, key)); err != nil {
			return err
		}
	}
	if deleted {
		return tx.Delete(mirrorRevisions+table, key)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(revision))
	if err := tx.Put(mirrorRevisions+table, key, b); err != nil {
		return err
	}
	return tx.Put(mirrorIndex, indexKey(b, table, key), []byte(table+"\x00"+string(key)))
}

// indexKey returns the key of an entry in mirrorIndex. It has a digest in place of the entry's
// table and key, because a key of the file can be no longer than theirs.
func indexKey(revision []byte, table string, key []byte) []byte {
	digest := sha256.Sum256([]byte(table + "\x00" + string(key)))
	return append(bytes.Clone(revision), digest[:16]...)
}

// health returns why there is no file to read.
func (m *mirror) health() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// ready returns the file if View can read it. It waits a moment for what has arrived.
func (m *mirror) ready(ctx context.Context) (latchkey.Engine, bool) {
	if m == nil || !m.e.Fresh() {
		return nil, false
	}
	f := m.e.feed
	f.mu.Lock()
	last := int64(f.last)
	f.mu.Unlock()
	var timeout <-chan time.Time
	m.mu.Lock()
	defer m.mu.Unlock()
	target := max(last, m.wanted)
	for {
		switch {
		case !m.usable || !m.numbered:
			return nil, false
		case m.applied >= target:
			return m.db, true
		case m.behind:
			return nil, false
		}
		if timeout == nil {
			timer := time.NewTimer(mirrorPatient)
			defer timer.Stop()
			timeout = timer.C
		}
		news := m.news
		m.mu.Unlock()
		waited := true
		select {
		case <-news:
		case <-timeout:
			waited = false
		case <-ctx.Done():
			waited = false
		}
		m.mu.Lock()
		if !waited {
			m.behind = m.behind || ctx.Err() == nil
			return nil, false
		}
	}
}

// view runs fn on the file. done is false if fn has not run, because the file cannot be read now.
func (m *mirror) view(ctx context.Context, fn func(latchkey.EngineTx) error) (done bool, err error) {
	db, ok := m.ready(ctx)
	if !ok {
		return false, nil
	}
	err = db.View(ctx, func(tx latchkey.EngineTx) error {
		at, err := tx.Get(mirrorMeta, mirrorAt)
		state, ok := readMirrorState(at)
		if err != nil || !ok {
			m.damaged()
			return nil
		}
		if state.commit.revision == 0 {
			return nil // a deletion at a full quota has arrived a moment ago
		}
		done = true
		return fn(&mirrorTx{tx: tx, m: m, sequence: uint64(state.commit.revision)})
	})
	return done, err
}

// damaged makes the mirror begin anew, because its file is damaged.
func (m *mirror) damaged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loseLocked()
}
