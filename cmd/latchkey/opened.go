package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/replica"
)

// An openedStore is a store that the command has open, and whose audit trail the command keeps. If
// the store is one of an edge, the edge notes each change for the hub, or refuses it.
type openedStore struct {
	*latchkey.Store
	trail *audit.Trail
	edge  *replica.Edge // nil unless the store is one of an edge, and is open for writing
}

// close closes the store.
func (s *openedStore) close() error {
	if s.edge != nil {
		return s.edge.Close()
	}
	return s.Close()
}

// served returns the options for administering the store.
func (s *openedStore) served() admin.Options { return admin.Options{Trail: s.trail, Edge: s.edge} }

// watch logs the health of the store, until the function that it returns is called.
func (s *openedStore) watch(ctx context.Context, log *slog.Logger) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	health := func(ctx context.Context) error { return errors.Join(s.Health(ctx), s.trail.Health()) }
	watching.Go(func() { watchHealth(ctx, time.Tick(healthEvery), health, log) })
	return func() {
		cancel()
		watching.Wait()
	}
}

// isEdge reports whether the store at path is one of an edge, which has its credential in a file
// beside the store.
func isEdge(path string) bool {
	if etcd.IsURL(path) {
		return false
	}
	_, err := os.Lstat(edgeFile(path))
	return err == nil
}

// edgeFile returns the file with the credential of the edge whose store is at path.
func edgeFile(path string) string { return durable.Beside(durable.Resolve(path), ".edge") }

// openTrailed opens the store at path, and keeps its audit trail by appending to chain. A store of
// an edge that is opened only for reading is opened as any other store, because nothing in it
// changes.
func openTrailed(ctx context.Context, path string, opts replica.Options, chain audit.Chain, wait time.Duration) (*openedStore, error) {
	trail := keepTrail(&opts.Store, chain)
	return await(ctx, func() (*openedStore, error) {
		s := &openedStore{trail: trail}
		var err error
		if isEdge(path) && !opts.Store.ReadOnly {
			s.edge, err = openEdge(path, opts, wait)
			if err == nil {
				s.Store = s.edge.Store()
			}
		} else {
			s.Store, err = openStore(path, opts.Store, wait)
		}
		if err == nil && ctx.Err() != nil { // nobody waits for the store any more
			return nil, errors.Join(ctx.Err(), s.close())
		}
		return s, err
	})
}

// openEdge opens the edge at path, as openStore opens a store.
func openEdge(path string, opts replica.Options, wait time.Duration) (*replica.Edge, error) {
	withWaiting(&opts.Store, wait)
	e, err := replica.Open(path, &opts)
	if err != nil {
		return nil, err
	}
	if opts.Store.Foreign = schemesOf(e.Store()); opts.Store.Foreign == nil {
		return e, nil
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return replica.Open(path, &opts)
}

// openStore opens the store at path, or makes a new one if path is no URL. It waits for another
// program that has the store open.
func openStore(path string, opts latchkey.Options, wait time.Duration) (*latchkey.Store, error) {
	withWaiting(&opts, wait)
	open := func() (*latchkey.Store, error) {
		if etcd.IsURL(path) {
			return openOnEtcd(path, opts, false)
		}
		return latchkey.Open(path, &opts)
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	if opts.Foreign = schemesOf(s); opts.Foreign == nil {
		return s, nil
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return open()
}

// withWaiting sets how long opening a store waits for another program, and how much memory a hash
// may use.
func withWaiting(opts *latchkey.Options, wait time.Duration) {
	opts.LockTimeout = wait
	if wait == 0 {
		opts.LockTimeout = -1 // do not wait; zero would mean the default
	}
	// A command computes one hash, so a hash of any cost may have the memory.
	opts.HashMemory = cmp.Or(opts.HashMemory, 1<<30)
}
