package etcd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// Options are the settings of an engine. The zero value has the defaults.
type Options struct {
	// ReadOnly makes the engine refuse to write.
	ReadOnly bool

	// WatchAge is how old the engine's knowledge of the commits of other processes may be for
	// logins to be answered from the cache. The default is 2 seconds, the least 100 milliseconds.
	// While the knowledge is older, logins read etcd.
	WatchAge time.Duration

	// Unreachable is for how long logins may be answered from the cache while etcd cannot be
	// reached. A change that another process makes meanwhile is not seen. The default is 0: if
	// WatchAge has passed, a login returns [latchkey.ErrUnavailable].
	Unreachable time.Duration

	// Timeout bounds the time that the engine waits for an answer of etcd. The default is 5
	// seconds. A call whose context ends earlier does not wait so long. While etcd cannot be
	// reached, a transaction waits for its first answer for half of WatchAge.
	Timeout time.Duration

	// AcceptFaultyServers makes the engine work with releases of etcd that are known to lose
	// acknowledged writes, or to tell wrongly how far a watch has come.
	AcceptFaultyServers bool

	// Mirror is the path of a bbolt file in which the engine keeps a copy of all entries. While the
	// copy is up to date, View reads the file, and does not ask etcd. A View can then see a state
	// that is as old as WatchAge, but has everything that this engine has committed or told. The
	// file is only a cache, with mode 0600: the engine makes it anew when it has to. Engines cannot
	// share a file. The first transaction returns [latchkey.ErrLocked] if another engine has the
	// file, and [latchkey.ErrNotStore] if the file is something else than a mirror. A file that is
	// too damaged to tell is never deleted: the engine appends .damaged to its name.
	Mirror string
}

const leastWatchAge = 100 * time.Millisecond

func (o Options) watchAge() time.Duration {
	if o.WatchAge == 0 {
		return 2 * time.Second
	}
	return max(o.WatchAge, leastWatchAge)
}

func (o Options) timeout() time.Duration {
	if o.Timeout == 0 {
		return 5 * time.Second
	}
	return o.Timeout
}

// New makes an engine that keeps its data in etcd, under keys that begin with prefix. If prefix
// does not end in a slash, New appends one. The prefix of one store must not begin with the prefix
// of another store. The engine does not use etcd before its first transaction, whose errors are
// also those of finding etcd: [latchkey.ErrUnavailable], and [ErrFaultyServer].
//
// Closing the engine does not close the client, which must stay open until then. Give the client a
// DialKeepAliveTime and a DialKeepAliveTimeout, so that it leaves a member that has vanished, and a
// Logger, because it otherwise writes warnings to standard error while etcd does not answer.
func New(client *clientv3.Client, prefix string) latchkey.Engine {
	return NewWith(client, prefix, Options{})
}

// NewWith is [New] with options.
func NewWith(client *clientv3.Client, prefix string, opts Options) latchkey.Engine {
	e := &engine{
		client:   client,
		keys:     newKeyspace(prefix),
		opts:     opts,
		starting: make(chan struct{}, 1),
		losing:   make(chan struct{}, 1),
		tracked:  make(map[string]bool),
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.feed = newFeed(e)
	if opts.Mirror != "" {
		e.mirror = newMirror(e, opts.Mirror)
	}
	var id [8]byte
	rand.Read(id[:])
	e.fence.key = e.keys.fences() + hex.EncodeToString(id[:])
	return e
}

// Format prints nothing of what the engine has.
func (e *engine) Format(f fmt.State, _ rune) { fmt.Fprint(f, "etcd engine") }

// engine is the engine. Its life goes from New over start to Close.
type engine struct {
	client *clientv3.Client
	keys   keyspace
	opts   Options

	reason *reason // nil unless Open made the engine

	life    sync.RWMutex // read-locked by transactions, locked by Close
	closed  atomic.Bool
	ctx     context.Context // ends when the engine is closed and no transaction is under way
	stop    context.CancelFunc
	running sync.WaitGroup // the goroutines of the engine

	losing   chan struct{} // has one element while a transaction that has met others runs again
	starting chan struct{} // has one element while start is at work
	started  atomic.Bool

	mu      sync.Mutex // guards tracked
	tracked map[string]bool

	feed    *feed
	mirror  *mirror // nil without the option
	common  common
	reaches sync.Map // the reach of the last page that was read, by the name of the table
	queue   queue
	fence   fence
	commits atomic.Uint64
}

var (
	_ latchkey.EngineBounder  = (*engine)(nil)
	_ latchkey.EngineHealther = (*engine)(nil)
	_ latchkey.CommitCounter  = (*engine)(nil)
	_ latchkey.EngineWatcher  = (*engine)(nil)
	_ latchkey.RestoreWatcher = (*engine)(nil)
)

func (e *engine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.life.RUnlock()
	if done, err := e.mirror.view(ctx, fn); done {
		return err
	}
	t := &tx{e: e, ctx: ctx, readOnly: true}
	defer t.end()
	if err := t.begin(); err != nil {
		return err
	}
	return fn(t)
}

func (e *engine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.opts.ReadOnly {
		return latchkey.ErrReadOnly
	}
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.life.RUnlock()
	var again []string
	for attempt := 0; ; attempt++ {
		t := &tx{e: e, ctx: ctx, reads: make(map[string]seen), again: again}
		if err := t.run(fn); !errors.Is(err, errConflict) {
			return err
		}
		again = t.asked()
		if attempt == 0 {
			// If all of them ran again at once, all but one would meet that one again. But a
			// transaction that meets every commit may not hold up the others for long.
			select {
			case e.losing <- struct{}{}:
				defer func() { <-e.losing }()
			case <-time.After(e.opts.timeout()):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// run runs fn in t, and commits. Its error is errConflict if fn has to run again.
func (t *tx) run(fn func(latchkey.EngineTx) error) error {
	defer t.end()
	err := fn(t)
	switch {
	case t.outdated:
		return errConflict
	case err != nil:
		return err
	case t.err != nil:
		return t.err
	case len(t.writes) == 0:
		return nil
	}
	t.e.common.note(t.reads)
	return t.e.commit(t)
}

// pause waits before a transaction that met others runs again. It waits longer from attempt to
// attempt, up to 64 milliseconds, and at random, so that the transactions do not meet again.
func pause(ctx context.Context, attempt int) error {
	most := 500 * time.Microsecond << min(attempt, 7)
	timer := time.NewTimer(mathrand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *engine) Track(tables ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, table := range tables {
		e.tracked[table] = true
	}
}

// isTracked reports whether a table is tracked.
func (e *engine) isTracked(table string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tracked[table]
}

func (e *engine) trackedTables() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.tracked))
}

func (e *engine) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	if err := e.enter(ctx); err != nil {
		return 0, random, err
	}
	defer e.life.RUnlock()
	t := &tx{e: e, ctx: ctx, readOnly: true}
	defer t.end()
	if err := t.begin(); err != nil {
		return 0, random, err
	}
	return t.sequence, t.random, nil
}

func (e *engine) Wait(ctx context.Context, after uint64) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	e.life.RUnlock() // Close does not wait for Wait
	return e.feed.wait(ctx, func(f *feed) (bool, error) {
		if e.closed.Load() {
			return false, latchkey.ErrClosed
		}
		return f.last > after || f.isGoneLocked(after), nil
	})
}

// MaxWrites is below the limit of etcd, 128 operations, by what the engine adds.
func (e *engine) MaxWrites() int { return 120 }

func (e *engine) Commits() uint64 { return e.commits.Load() }

// enter begins a call, which Close then waits for. The first call finds etcd.
func (e *engine) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Without this check, a caller would wait for Close, which waits for the transactions in
	// progress.
	if e.closed.Load() {
		return latchkey.ErrClosed
	}
	e.life.RLock()
	if e.closed.Load() {
		e.life.RUnlock()
		return latchkey.ErrClosed
	}
	if err := e.start(ctx); err != nil {
		e.life.RUnlock()
		return err
	}
	return nil
}

// start looks at the servers, and begins to watch. If it fails, the next call tries again.
func (e *engine) start(ctx context.Context) error {
	if e.started.Load() {
		return nil
	}
	select {
	case e.starting <- struct{}{}:
		defer func() { <-e.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.started.Load() {
		return nil
	}
	if err := e.checkVersions(ctx); err != nil {
		return err
	}
	now := time.Now()
	first := &tx{e: e, ctx: ctx, readOnly: true}
	if err := first.begin(); err != nil {
		return err
	}
	from, restored, err := e.mirror.open(first)
	if err != nil {
		return err
	}
	e.feed.begin(now, first, from, restored)
	e.started.Store(true)
	return nil
}

func (e *engine) Close() error {
	e.closed.Store(true)
	e.feed.announce()
	e.life.Lock()
	defer e.life.Unlock()
	e.stop()
	e.running.Wait()
	return nil
}
