package latchkey

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/attempts"
	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/clock"
	"github.com/latchkeydb/latchkey/internal/counters"
	"github.com/latchkeydb/latchkey/internal/flight"
	"github.com/latchkeydb/latchkey/internal/follow"
	"github.com/latchkeydb/latchkey/internal/inside"
	"github.com/latchkeydb/latchkey/internal/random"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
	"github.com/latchkeydb/latchkey/internal/safetycopy"
	"github.com/latchkeydb/latchkey/internal/tokenform"
	"github.com/latchkeydb/latchkey/internal/unburied"
)

// A Store is an open handle on one body of users and keys. It is safe for concurrent use. Close it
// when done.
type Store struct {
	engine           Engine
	domain           *record.Meta
	tokens           tokenform.Current
	cost             Cost
	maxKeys          int
	appServicesNames bool
	readOnly         bool
	maxWrites        int // of one transaction
	clock            *clock.Kept
	onChange         func(tx *Tx, c Change) error // may be nil
	gate             func() error                 // may be nil
	replica          atomic.Pointer[record.Replica]
	follower         *follow.Follower // nil unless other processes can write
	unburied         *unburied.Yard   // nil unless the engine may be full; see ErrNoSpace
	random           *random.Source
	cache            *cache.Cache[answer]
	hasher           *hasher
	flight           *flight.Group
	foreign          *foreignKeys // nil without Options.Foreign
	rehashes         *rehash.Queue
	unended          sync.Map // key ID → unendedToken
	counters         *counters.Set
	safetyCopy       attempts.Outcome
	lastUses         lastUseBatches
	writer           atomic.Pointer[record.Writer] // for disablings; nil if the store only reads
	refused          atomic.Pointer[refusal]       // nil unless all logins are refused
	recovered        bool                          // this opening used the safety copy
	transactions     *inside.Mark                  // of goroutines in View or Update

	closeOnce sync.Once
	closed    atomic.Bool
	closing   chan struct{} // closed when closed is set
	mu        sync.Mutex    // guards findings, the setting of closed, and background.Add
	findings  []func(context.Context) error
	// background counts hashes, which may go on after their caller has left, and the goroutine of
	// the safety copy.
	background sync.WaitGroup
	watchers   sync.WaitGroup // the goroutines that look at the file and at the clock
}

// Open opens the store in the file at path. If there is no file, Open makes one with mode 0600.
// opts may be nil.
//
// Only one Store at a time can have the file open, in this process or in another, unless all of
// them are opened with [Options].ReadOnly.
//
// After a crash or a failed sync, the operating system may show data that never reached the disk.
// So opening a file for writing rewrites and syncs the meta page of the last commit. From then on,
// everything that can be read is durable.
//
// Open returns [ErrLocked] if the file is open elsewhere for longer than [Options].LockTimeout;
// [ErrNewerFormat] if a later version wrote the file; [ErrNotStore] if the file never was a store;
// [ErrCorrupt] if the file is damaged; [ErrFileGone] if the file is missing and its safety copy
// exists; [ErrReadOnly] if [Options].ReadOnly is set and the making of the store was interrupted;
// [ErrUnfinished]; [ErrInvalidOptions]; or the operating system's error, such as [fs.ErrNotExist]
// if the directory is missing, or if the file is missing and [Options] has ReadOnly or MustExist.
// An opening that fails with one of these does not change the store, although on Windows the file
// can become longer, up to the size of its map. [ErrCommitUnknown] means that a new store may not
// have reached the disk.
func Open(path string, opts *Options) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, wrapf(err, "open %s", path)
	}
	if err := checkPath(path); err != nil {
		return nil, err
	}
	open := openUnlessGone
	if opts.recoverFromSafetyCopy() {
		open = openOrRecover
	}
	s, err := open(path, opts)
	return s, nameHolders(err, path)
}

// openFile opens the store in the file at path, and begins to keep its safety copy.
func openFile(path string, opts *Options) (*Store, error) {
	e, err := openFileEngine(path, opts)
	if err != nil {
		return nil, err
	}
	var s *Store
	defer func() {
		if s == nil { // also when Options.InsecureRand or Options.Now panics
			_ = e.Close()
		}
	}()
	s, err = newStore(e, opts, alone)
	if err != nil {
		return nil, wrapOpen(safetycopy.WayOut(path, err), path)
	}
	if every := opts.safetyCopyEvery(); every > 0 {
		s.goBackground(func() { s.keepSafetyCopy(e.Path(), every) })
	}
	if every := opts.fileCheckEvery(); every > 0 {
		s.watchers.Go(func() { s.watchFile(every) })
	}
	return s, nil
}

// openFileEngine opens the engine of a file: one that follows the file, if it only reads.
func openFileEngine(path string, opts *Options) (e boltEngine, err error) {
	if opts.readOnly() {
		e.boltFile, err = openFollowed(path, opts)
	} else {
		e.boltFile, err = openBolt(path, opts)
	}
	return e, err
}

// OpenWith opens the store that e holds. If e is empty, OpenWith starts a new store in it, with a
// domain of its own. On success the store owns e and closes it. OpenWith uses all of opts but
// LockTimeout, FileCheckEvery, SafetyCopyEvery and RecoverFromSafetyCopy, which are about files.
//
// It returns [ErrInvalidOptions]; [ErrNewerFormat]; [ErrCorrupt]; [ErrUnfinished]; if e is empty,
// [ErrReadOnly] with [Options].ReadOnly, and [fs.ErrNotExist] with [Options].MustExist; or an error
// of e.
func OpenWith(e Engine, opts *Options) (*Store, error) {
	s, err := newStore(e, opts, amongOthers)
	return s, wrapf(err, "open store")
}

// newStore makes a Store, which owns e unless newStore fails. among is alone or amongOthers.
func newStore(e Engine, opts *Options, among func(*Store, Engine) (begin func())) (*Store, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	c := &counters.Set{}
	s := &Store{
		engine:           e,
		cost:             opts.cost(),
		maxKeys:          opts.maxKeysPerUser(),
		appServicesNames: opts.appServicesNames(),
		readOnly:         opts.readOnly(),
		maxWrites:        math.MaxInt,
		clock:            newStoreClock(opts),
		onChange:         opts.onChange(),
		gate:             opts.gate(),
		random:           opts.random(),
		cache:            cache.New(opts.cacheSize(), maxUsesAside, (*answer).holder),
		hasher:           newHasher(opts.hashMemory(), opts.hashQueue(), c),
		flight:           flight.New(opts.hashQueue()),
		foreign:          newForeignKeys(opts, c),
		rehashes:         rehash.New(),
		counters:         c,
		transactions:     inside.New(),
		closing:          make(chan struct{}),
	}
	if !s.readOnly {
		s.drawWriter()
	}
	if b, ok := e.(EngineBounder); ok {
		s.maxWrites = b.MaxWrites()
	}
	e.Track(trackedTables...)
	begin := among(s, e)
	d, err := openDomain(context.Background(), e, opts, s.random)
	if err != nil {
		return nil, err
	}
	if opts != nil && opts.TokenPrefix != "" && opts.TokenPrefix != d.Prefix {
		return nil, fmt.Errorf("%w: TokenPrefix is %q, but the store was made with %q, which it keeps", ErrInvalidOptions, opts.TokenPrefix, d.Prefix)
	}
	if given := opts.domain(); given != nil && given.ID != d.ID {
		return nil, fmt.Errorf("%w: Domain is %s, but the store was made in the domain %s, which it keeps", ErrInvalidOptions, given.ID, d.ID)
	}
	s.domain = d
	s.replica.Store(&d.Replica)
	s.tokens.Begin(d.Prefix, d.Tags)
	if err := s.readClock(context.Background()); err != nil {
		return nil, err
	}
	if err := s.learnHandles(context.Background()); err != nil {
		return nil, err
	}
	if err := s.mergeLater(context.Background()); err != nil {
		return nil, err
	}
	if s.lastUses.every = opts.lastUseEvery(); s.lastUses.every > 0 {
		s.lastUses.due = time.Now().Add(s.lastUses.every)
	}
	s.watchers.Go(func() { s.clock.Run(s.closing, s.writeLastUsesIfDue) })
	begin()
	return s, nil
}

// Close waits for calls in progress, and closes the store. Calls that wait for a permit to hash end
// with [ErrClosed]. The minting of several keys ends with [ErrClosed] after the hashes that are
// running. After Close has begun, every call but Close returns [ErrClosed]. Closing a closed store
// does nothing. Close writes the last uses of keys. If Close cannot write them, they are lost, and
// Close does not report that.
//
// If a function of [Store.Update] or [Store.View] calls Close, Close returns [ErrInTransaction],
// and the store stays open. Any other error is the engine's, and the store is closed all the same.
func (s *Store) Close() (err error) {
	if s.transactions.Around() {
		return wrapf(ErrInTransaction, "close")
	}
	s.closeOnce.Do(func() { err = s.close() })
	return err
}

func (s *Store) close() error {
	s.mu.Lock()
	s.closed.Store(true)
	s.mu.Unlock()
	close(s.closing)
	s.hasher.Close(ErrClosed)
	if s.foreign != nil {
		s.foreign.hasher.Close(ErrClosed)
	}
	s.background.Wait()
	s.watchers.Wait()
	if s.lastUses.every > 0 {
		_ = s.writeLastUses(context.Background())
	}
	s.cache.Clear()
	return s.engine.Close()
}

// enter begins something that Close waits for, until background.Done is called. It reports false if
// the store is closed.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.background.Add(1)
	return true
}

// goBackground runs fn in a goroutine that Close waits for. It reports false if the store is
// closed.
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

// Update runs fn in a write transaction. When Update returns nil, everything that fn did is on
// disk. When fn returns an error, nothing that fn did can be seen, and Update returns the error
// unchanged.
//
// fn may run more than once, because an engine that lost a race runs it again. So fn must not
// change anything outside tx, unless each run sets it afresh. tx is not valid after fn has
// returned.
//
// fn must not call methods of the store, because most of them would wait for fn to end. A call that
// would wait returns [ErrInTransaction] at once. fn must not wait for another goroutine that calls
// the store either. The store does not recognise such a call, so the call waits as long as its
// context lasts. tx has the operations of the store on users and keys, except those that hash,
// because hashing is slow and other writers wait meanwhile. Mint keys before the transaction, with
// [Store.MintKey].
//
// If an operation of tx fails after it has begun to write, for example because it meets damage, the
// whole transaction fails, even if fn ignores the error. An operation that fails before it has
// written anything leaves the transaction as it was.
//
// Update returns [ErrReadOnly]; [ErrClosed]; [ErrInTransaction]; [ErrCorrupt]; [ErrNewerFormat] if
// fn meets a record of a later version; ctx's error if ctx ends before fn begins;
// [ErrTransactionTooLarge]; [ErrFileChanged]; [ErrSyncFailed]; [ErrUnavailable]; [ErrNoSpace]; the
// operating system's error, for example if the disk is full; or [ErrCommitUnknown], which alone
// leaves open whether the change happened.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := s.canWait(); err != nil {
		return err
	}
	return s.update(ctx, fn)
}

// update is Update also while the store closes.
func (s *Store) update(ctx context.Context, fn func(tx *Tx) error) error {
	if s.readOnly {
		return ErrReadOnly
	}
	var done effects
	holds := uint64(0) // of the tag secrets
	// Release after an error too. A commit whose last sync failed can be visible all the same, and
	// a stale entry would then let a revoked key log in.
	defer func() {
		s.cache.Release(done.stale)
		if s.tokens.Release(holds, s.readTagSecrets); holds > 0 && s.follower != nil {
			s.follower.Poke()
		}
	}()

	err := s.engine.Update(ctx, func(etx EngineTx) error {
		tx := s.newTx(etx)
		tx.onChange, tx.actor = s.onChange, actorFrom(ctx)
		err := s.transactions.Run(func() error {
			if err := fn(tx); err != nil {
				return err
			}
			if err := tx.endUnended(); err != nil {
				return err
			}
			return tx.callHook()
		})
		if err != nil {
			return err
		}
		e, err := tx.finish()
		if err != nil {
			return err
		}
		// Before the commit, because the commit can be seen before Update returns.
		s.cache.Hold(e.stale)
		if tx.newTags != nil {
			s.tokens.Hold(*tx.newTags)
			holds++
		}
		e.stale.Add(done.stale) // an earlier run of fn holds these
		done = e
		return nil
	})
	if errors.Is(err, ErrFileChanged) {
		s.lookAtFile(ctx)
	}
	switch {
	case errors.Is(err, ErrCommitUnknown):
		s.cache.Clear()
	case err == nil:
		if done.clock != nil {
			s.clock.Adopt(*done.clock)
		}
		s.rehashes.Done(done.rehashes)
		for key, t := range done.ended {
			s.unended.CompareAndDelete(key, t)
		}
		s.counters.Add(statRehashed, done.rehashed)
	}
	return err
}

// View runs fn in a read transaction, which sees one state of the whole store. It returns fn's
// error unchanged. tx is not valid after fn has returned. fn must not call methods of the store, as
// in [Store.Update].
//
// Keep fn short. Writers do not wait for a View, with one exception: a bbolt file cannot outgrow
// its memory map while a View lasts. The first map has 1 GiB, or 64 MiB on 32-bit machines; on
// Windows it has the next power of two above the size of the file. Except on Windows, the engine
// enlarges the map ahead of need, at a moment when nobody reads. A writer that needs a larger map
// all the same waits until each View has ended, and [Store.Health] says so with
// [ErrReaderHoldsUp]. Calls that begin to read meanwhile wait for the writer, as long as their
// contexts last.
//
// It returns [ErrClosed]; [ErrInTransaction]; [ErrCorrupt]; [ErrNewerFormat] if fn meets a record
// of a later version; ctx's error; [ErrUnavailable]; [ErrInterrupted] if the history of an engine
// such as etcd was compacted meanwhile; or, if the engine had to open its file again and could not,
// [ErrFileChanged] or the operating system's error.
func (s *Store) View(ctx context.Context, fn func(tx *Tx) error) error {
	if err := s.canWait(); err != nil {
		return err
	}
	return s.engine.View(ctx, func(etx EngineTx) error {
		return s.transactions.Run(func() error { return fn(s.newTx(etx)) })
	})
}

// Wait waits until there is a commit with a sequence greater than after. Transactions that begin
// afterwards see that commit. To wait for news, read [Tx.Sequence] in a [Store.View] that finds
// nothing new, and pass it as after.
//
// It returns [ErrClosed], also if Close begins meanwhile; [ErrInTransaction]; or ctx's error.
func (s *Store) Wait(ctx context.Context, after uint64) error {
	err := s.canWait()
	if err == nil {
		err = s.engine.Wait(ctx, after)
	}
	return wrapf(err, "wait for a commit after %d", after)
}

// canWait returns an error for a call that must not wait for a transaction: ErrClosed after Close
// has begun, and ErrInTransaction for a call by the function of a transaction, which may wait for
// ever.
func (s *Store) canWait() error {
	switch {
	case s.closed.Load():
		return ErrClosed
	case s.transactions.Around():
		return ErrInTransaction
	}
	return nil
}

// viewLong is View for a function that reads for long. If a writer would have to wait for fn, the
// operations of tx return [ErrInterrupted].
func (s *Store) viewLong(ctx context.Context, fn func(tx *Tx) error) error {
	e, ok := s.engine.(EngineLongViewer)
	if !ok {
		return s.engine.View(ctx, func(etx EngineTx) error { return fn(s.newTx(etx)) })
	}
	return e.ViewLong(ctx, func(etx EngineTx) error { return fn(s.newTx(etx)) })
}

// read returns the result of fn, which it runs in a read transaction. Beside an error it returns
// the zero value. read runs fn again if the engine has dropped the state that fn was reading.
func read[T any](ctx context.Context, s *Store, fn func(tx *Tx) (T, error)) (value T, err error) {
	for {
		err = s.View(ctx, func(tx *Tx) (err error) {
			value, err = fn(tx)
			return err
		})
		if !errors.Is(err, ErrInterrupted) {
			return orZero(value, err)
		}
	}
}

// write returns the result of fn, which it runs in a write transaction. Beside an error it returns
// the zero value, so that the caller of a commit that failed gets nothing that is half made.
func write[T any](ctx context.Context, s *Store, fn func(tx *Tx) (T, error)) (value T, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		value, err = fn(tx)
		return err
	})
	return orZero(value, err)
}

// pageSize is how many elements inPages reads in one transaction. It is small, because a bbolt file
// cannot outgrow its map during the transaction.
const pageSize = 256

// inPages yields what list yields after a cursor. Each page is read in a transaction of its own,
// and no transaction is open while the body of the loop runs. cursor returns the cursor behind an
// element. An error names what is listed, and the cursor.
func inPages[T, C any](
	ctx context.Context, s *Store, what string, after C, list func(tx *Tx, after C) iter.Seq2[T, error], cursor func(T) C,
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		after := after // a second loop begins where the first one did
		for {
			page := make([]T, 0, pageSize)
			err := s.View(ctx, func(tx *Tx) error {
				for element, err := range list(tx, after) {
					if err != nil {
						return err
					}
					if page = append(page, element); len(page) == pageSize {
						break
					}
				}
				return nil
			})
			for _, element := range page {
				after = cursor(element)
				if !yield(element, nil) {
					return
				}
			}
			if err != nil {
				yield(*new(T), wrapf(err, "%s after %v", what, after))
				return
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

func orZero[T any](value T, err error) (T, error) {
	if err != nil {
		value = *new(T)
	}
	return value, err
}

func (s *Store) newTx(etx EngineTx) *Tx {
	return &Tx{store: s, etx: etx}
}

// DomainID returns the ID of the domain. A domain is all the stores that share users and keys.
func (s *Store) DomainID() uuid.UUID { return s.domain.ID }

// TokenPrefix returns what every token of the domain begins with, before an underscore.
func (s *Store) TokenPrefix() string { return s.domain.Prefix }

// ReplicaID returns the ID of this store among the replicas of its domain. A store that [Salvage]
// or [Restore] has made, or that was recovered from its safety copy, has a new ID, because it may
// lack some of the last changes. So has a store whose engine was restored, see [RestoreWatcher].
func (s *Store) ReplicaID() uuid.UUID { return s.replica.Load().ID }

// Format keeps the secrets of the domain out of anything that prints a Store.
func (s *Store) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.Store") }
