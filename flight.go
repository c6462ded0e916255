package latchkey

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// singleflight keeps the hashes of logins that wait for a permit or are running. Logins that
// present the same token at the same time share one hash. The number of hashes is bounded. Unlike
// the singleflight of golang.org/x/sync, it counts the callers of a hash, so that it can cancel a
// hash that nobody waits for.
type singleflight struct {
	limit int

	mu    sync.Mutex
	calls map[[sha256.Size]byte]*hashCall
}

// hashCall is one hash, and the callers that share it.
type hashCall struct {
	key    [sha256.Size]byte
	ctx    context.Context // ends when the last caller has left before the hash began
	cancel context.CancelFunc

	// The mutex of singleflight guards these.
	callers int
	begun   bool // the hash is running

	// These are written once, before finished is closed, and read only after it.
	ok       bool
	err      error
	finished chan struct{}
}

func newSingleflight(limit int) *singleflight {
	return &singleflight{limit: limit, calls: make(map[[sha256.Size]byte]*hashCall)}
}

// join adds a caller to the hash of a key, a secret and a verifier. If there is no such hash, join
// makes one and reports that the caller is its first. The first caller must make sure that done is
// called. join returns nil if there are too many hashes.
func (g *singleflight) join(id uuid.UUID, secret [secretSize]byte, phc string) (c *hashCall, first bool) {
	key := sha256.Sum256(slices.Concat(id[:], secret[:], []byte(phc)))
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		c.callers++
		return c, false
	}
	if len(g.calls) >= g.limit {
		return nil, false
	}
	c = &hashCall{key: key, callers: 1, finished: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	g.calls[key] = c
	return c, true
}

// wait returns what done was called with, or ctx's error if ctx ends first.
func (g *singleflight) wait(ctx context.Context, c *hashCall) (ok bool, err error) {
	select {
	case <-c.finished:
		return c.ok, c.err
	case <-ctx.Done():
		g.leave(c)
		return false, ctx.Err()
	}
}

// begin reports whether any caller still waits for a call that has its permit. If so, the call
// stays in the map until it is done, even without callers, so that a caller that comes back joins
// it.
func (g *singleflight) begin(c *hashCall) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.begun = c.callers > 0
	return c.begun
}

// leave takes a caller off a call. Without callers, a call that has not begun is cancelled.
func (g *singleflight) leave(c *hashCall) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.callers--; c.callers == 0 && !c.begun {
		c.cancel()
		g.removeLocked(c)
	}
}

// done ends a call with its result.
func (g *singleflight) done(c *hashCall, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.cancel()
	g.removeLocked(c)
	c.ok, c.err = ok, err
	close(c.finished)
}

// removeLocked takes c out of the map, unless another call has taken its place.
func (g *singleflight) removeLocked(c *hashCall) {
	if g.calls[c.key] == c {
		delete(g.calls, c.key)
	}
}
