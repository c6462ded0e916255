package latchkey

import (
	"context"
	"errors"
	"math"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/follow"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/unburied"
)

// Several processes can have an engine open that is an EngineWatcher. A store on such an engine
// forgets answers as soon as the engine tells of a change. It believes what it remembers only while
// the engine is fresh. Otherwise each login reads.

// alone begins a store on an engine that no other process writes to. A program that opens only
// files never names amongOthers, and so does not contain the code that follows other processes.
func alone(*Store, Engine) (begin func()) { return func() {} }

// amongOthers lets an engine, if it can, tell a new store of changes. begin starts to follow them.
func amongOthers(s *Store, e Engine) (begin func()) {
	w, ok := e.(EngineWatcher)
	if !ok {
		return alone(s, e)
	}
	s.cache.CountHolders()
	restores, _ := e.(RestoreWatcher)
	s.follower = follow.New(follow.Memory{
		Answers: s.cache,
		Learn: func(h record.Handle) {
			if s.foreign != nil {
				s.foreign.Add(h)
			}
		},
		Shared:   func() bool { r := s.replica.Load(); return r == nil || r.Shared },
		Restores: restores,
		Renew:    s.renew,
		Reread:   s.reread,
	}, w.Fresh)
	w.Watch(func(changes []TrackedChange) {
		if changes == nil {
			s.follower.Lost()
			return
		}
		s.follower.Changed(follow.Entries(changes, func(c TrackedChange) (string, []byte) { return c.Table, c.Key }))
	})
	return s.follow
}

// follow begins to read again what other processes have changed, and to write the tombstones for
// which there was no space, until the store begins to close.
func (s *Store) follow() {
	run := func(run func(context.Context)) {
		s.watchers.Go(func() {
			ctx, cancel := s.untilClosed()
			defer cancel()
			run(ctx)
		})
	}
	run(s.follower.Run)
	if !s.readOnly {
		s.unburied = unburied.New(s.domain.ID, s.updateTables, below{s}.View)
		run(s.unburied.Run)
	}
}

// updateTables is Update for the tables as package merge changes them.
func (s *Store) updateTables(ctx context.Context, fn func(*merge.Tables) error) error {
	return s.update(ctx, func(tx *Tx) error { return fn(tx.tables()) })
}

// isUnfinished reports whether a deletion may have left entries whose records are gone: on an
// engine that may have been full, or that takes a deletion in steps. Elsewhere such entries are
// damage.
func (s *Store) isUnfinished() bool { return s.follower != nil || s.maxWrites < math.MaxInt }

// renew begins a new incarnation, because the engine was restored.
func (s *Store) renew(ctx context.Context) error {
	if s.readOnly {
		return nil
	}
	id, before := s.random.UUID(), *s.replica.Load()
	return s.updateTables(ctx, func(t *merge.Tables) error { return t.BeginRestored(id, before) })
}

// reread reads again what the store remembers, as far as n says. If there is another domain in the
// engine, logins are refused until the former one is there again.
func (s *Store) reread(ctx context.Context, n follow.News) error {
	if n.All || n.Meta {
		if err := s.rereadDomain(ctx); err != nil {
			return err
		}
	}
	if n.All {
		if err := s.learnHandles(ctx); err != nil {
			return err
		}
	}
	if n.All || n.Clock {
		if err := s.readClock(ctx); unlessCorrupt(err) != nil { // Check tells about damage
			return err
		}
	}
	stale, err := read(ctx, s, func(tx *Tx) (cache.Stale, error) { return n.Others(tx.tables()) })
	s.cache.Drop(stale)
	return err
}

// rereadDomain reads the domain and the tag secrets again.
func (s *Store) rereadDomain(ctx context.Context) error {
	d, err := read(ctx, s, func(tx *Tx) (*record.Meta, error) { return loadDomain(tx.etx) })
	if err != nil {
		return err
	}
	if d == nil || d.ID != s.domain.ID {
		s.refused.Store(&refusal{wrapf(ErrFileChanged, "login")})
		return nil
	}
	s.refused.Store(nil)
	if was := s.replica.Swap(&d.Replica); d.Replica.Shared && !was.Shared {
		s.cache.Clear() // what is remembered may depend on more than before
	}
	if !s.tokens.Reload(s.readTagSecrets) {
		return errNotNow
	}
	return nil
}

// errNotNow says that the tag secrets cannot be read while this process changes them.
var errNotNow = errors.New("a commit changes the tag secrets")
