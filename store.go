package latchkey

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// A Store is an open handle on one body of users and keys. It is safe for concurrent use. Close it when done.
type Store struct {
	engine           Engine
	domain           *domain
	tokens           *tokenFormat
	cost             Cost
	maxKeys          int
	appServicesNames bool
	readOnly         bool
	clock            func() time.Time
	random           *randomSource
	cache            *cache
	hasher           *hasher
	flight           *singleflight
	rehashes         *rehashes
	counters         *counters

	closeOnce  sync.Once
	closed     atomic.Bool
	closing    chan struct{}  // closed when closed is set
	mu         sync.Mutex     // held to set closed, and to add to background
	background sync.WaitGroup // hashes, which may go on when their caller has left, and safety copies
}

// Open opens the store in the file at path, and makes the file, with mode 0600, if there is none. opts may be nil.
//
// Only one process can have the file open, unless all open it with [Options].ReadOnly. Open returns [ErrLocked] with the
// path when another holds the file for longer than [Options].LockTimeout; [ErrNewerFormat] for a file of a later format;
// [ErrCorrupt] for a file that is damaged or no store; [ErrFileGone] for none beside a safety copy; [ErrReadOnly] with
// [Options].ReadOnly for a file in which the making of a store was interrupted; [ErrInvalidOptions]; or the operating
// system's error, such as [fs.ErrNotExist] for a missing directory. None of these changes the file. [ErrCommitUnknown] says that a
// new store may not have reached the disk.
//
// To open a file for writing is to write one page of it again, as it is, and to sync it: after a crash or a failed sync,
// what the system shows of a file need not be on the disk yet.
func Open(path string, opts *Options) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, wrapf(err, "open %s", path)
	}
	if opts.recoverFromSafetyCopy() {
		return openOrRecover(path, opts)
	}
	return openUnlessGone(path, opts)
}

// openFile opens the store in the file at path, and starts to keep its safety copy.
func openFile(path string, opts *Options) (*Store, error) {
	e, err := openOrCreateBolt(path, opts)
	if err != nil {
		return nil, err
	}
	s, err := newStore(e, opts)
	if err != nil {
		_ = e.Close()
		return nil, wrapf(wayOut(path, err), "open %s", path)
	}
	if every := opts.safetyCopyEvery(); every > 0 {
		s.goBackground(func() { s.keepSafetyCopy(e.path, every) })
	}
	return s, nil
}

// OpenWith opens the store that e holds, and starts a new one, a domain of its own, if e is empty. On success the
// store owns e and closes it. Of opts it uses all but LockTimeout, SafetyCopyEvery and RecoverFromSafetyCopy, which are about files. It
// returns [ErrInvalidOptions], [ErrNewerFormat], [ErrCorrupt], [ErrReadOnly] if e is empty and ReadOnly, or e's errors.
func OpenWith(e Engine, opts *Options) (*Store, error) {
	s, err := newStore(e, opts)
	return s, wrapf(err, "open store")
}

// newStore makes a Store of the engine that it owns from then on, unless it returns an error.
func newStore(e Engine, opts *Options) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	c := &counters{}
	s := &Store{
		engine:           e,
		cost:             opts.cost(),
		maxKeys:          opts.maxKeysPerUser(),
		appServicesNames: opts.appServicesNames(),
		readOnly:         opts.readOnly(),
		clock:            opts.now(),
		random:           opts.random(),
		cache:            newCache(opts.cacheSize()),
		hasher:           newHasher(opts.hashMemory(), c),
		flight:           newSingleflight(opts.hashQueue()),
		rehashes:         newRehashes(),
		counters:         c,
		closing:          make(chan struct{}),
	}
	d, err := openDomain(context.Background(), e, opts, s.random)
	if err != nil {
		return nil, err
	}
	if opts != nil && opts.TokenPrefix != "" && opts.TokenPrefix != d.prefix {
		return nil, fmt.Errorf("%w: TokenPrefix is %q, but the store was made with %q", ErrInvalidOptions, opts.TokenPrefix, d.prefix)
	}
	s.domain, s.tokens = d, d.tokenFormat()
	return s, nil
}

// Close waits for calls under way and closes the store. What waits for a permit to hash ends with [ErrClosed], and so does
// the minting of many keys, after the hashes that run. Every later call but Close returns [ErrClosed]; closing again does
// nothing. It must not be called from inside [Store.Update] or [Store.View], which it waits for.
func (s *Store) Close() (err error) {
	s.closeOnce.Do(func() { err = s.close() })
	return err
}

func (s *Store) close() error {
	s.mu.Lock()
	s.closed.Store(true)
	s.mu.Unlock()
	close(s.closing)
	s.hasher.close()
	s.cache.clear()
	s.background.Wait()
	return s.engine.Close()
}

// enter begins something that Close waits for, until background.Done is called; or it returns false when the store is
// closed.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.background.Add(1)
	return true
}

// goBackground runs fn in a goroutine that Close waits for, or returns false when the store is closed.
func (s *Store) goBackground(fn func()) bool {
	if !s.enter() {
		return false
	}
	go func() {
		defer s.background.Done()
		fn()
	}()
	return true
}

// untilClosed returns a context that ends when the store begins to close.
func (s *Store) untilClosed() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Update runs fn in a write transaction. When it returns nil, everything fn did is on disk. When fn fails, nothing of it
// can be seen, and fn's error comes back as it is. fn may run more than once (an engine that lost a race runs it again),
// so it changes nothing outside tx that it does not set afresh. tx ends with fn.
//
// fn must not call the store's own methods, which would wait for it to end; tx has the same operations. Hashing is not
// among them, because it is slow and others wait to write: mint keys before, with [Store.MintKey]. An operation of tx that
// fails when it has begun to write, as damage and disks can make it, fails the transaction, even if fn goes on and returns
// nil; one that is refused leaves nothing behind.
//
// It returns [ErrReadOnly], [ErrClosed], [ErrCorrupt], [ErrNewerFormat] where fn meets a record of a later version, ctx's error
// if ctx ends before fn begins, [ErrSyncFailed], or [ErrCommitUnknown], the one error that leaves open whether the change happened.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	if s.readOnly {
		return ErrReadOnly
	}
	var done effects
	// Also after an error: a commit whose last sync failed can be visible all the same, and a stale entry is a login.
	defer func() { s.cache.release(done.stale) }()

	err := s.engine.Update(ctx, func(etx EngineTx) error {
		tx := s.newTx(etx)
		if err := fn(tx); err != nil {
			return err
		}
		e, err := tx.finish()
		if err != nil {
			return err
		}
		// Before the commit, for it can be seen before this call returns.
		s.cache.hold(e.stale)
		e.stale.add(done.stale) // which an earlier run of fn holds
		done = e
		return nil
	})
	switch {
	case errors.Is(err, ErrCommitUnknown):
		s.cache.clear()
	case err == nil:
		s.rehashes.done(done.rehashes)
		s.counters.add(statRehashed, done.rehashed)
	}
	return err
}

// View runs fn in a read transaction, which sees one state of the whole store, and returns fn's error as it is. tx ends
// with fn. Writers do not wait for it, except that a bbolt file cannot outgrow its map while a View or a Backup lasts
// (1 GiB, 64 MiB on 32-bit machines, on Windows the next power of two): whoever writes then waits, and so does whoever
// begins to read meanwhile, as long as its context lasts. Keep it short, and call none of the store's own methods from fn.
// It returns [ErrClosed], [ErrCorrupt], [ErrNewerFormat] or ctx's error.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.engine.View(ctx, func(etx EngineTx) error {
		return fn(s.newTx(etx))
	})
}

// read returns what fn returns from a read transaction, and the zero value beside an error.
func read[T any](ctx context.Context, s *Store, fn func(tx *Tx) (T, error)) (value T, err error) {
	err = s.View(ctx, func(tx *Tx) (err error) {
		value, err = fn(tx)
		return err
	})
	return orZero(value, err)
}

// write returns what fn returns from a write transaction, and the zero value beside an error, so that
// the caller of a commit that failed gets nothing that is half made.
func write[T any](ctx context.Context, s *Store, fn func(tx *Tx) (T, error)) (value T, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		value, err = fn(tx)
		return err
	})
	return orZero(value, err)
}

func orZero[T any](value T, err error) (T, error) {
	if err != nil {
		value = *new(T)
	}
	return value, err
}

func (s *Store) newTx(etx EngineTx) *Tx {
	return &Tx{store: s, etx: etx, replica: s.domain.replica}
}

// DomainID identifies what the store and its replicas share.
func (s *Store) DomainID() uuid.UUID { return s.domain.id }

// ReplicaID identifies the store among the replicas of its domain. [Salvage] makes another replica, which may lack some of
// the last changes.
func (s *Store) ReplicaID() uuid.UUID { return s.domain.replica }

// Format keeps the domain's secrets out of whatever prints a Store.
func (s *Store) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.Store") }

// now is the clock's time in what records can hold.
func (s *Store) now() time.Time {
	now := s.clock().UTC().Truncate(time.Millisecond)
	switch first := time.UnixMilli(0).UTC(); {
	case now.Before(first):
		return first
	case now.After(lastTime):
		return lastTime
	}
	return now
}

// newID makes an ID of version 7 by the store's clock.
func (s *Store) newID() (uuid.UUID, error) { return s.random.id(s.now()) }
