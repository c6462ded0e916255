// Package flight lets callers that ask the same question at the same time share one answer.
package flight

import (
	"context"
	"sync"
)

// A Key tells questions apart. It is a hash of the question.
type Key [32]byte

// A Group keeps the calls that wait to begin or are running, of which there is a bounded number.
// Unlike the singleflight of golang.org/x/sync, it counts the callers of a call, so that it can
// cancel a call that nobody waits for.
type Group struct {
	limit int

	mu    sync.Mutex
	calls map[Key]*Call
}

// A Call is one answer in the making, and the callers that share it.
type Call struct {
	// Context ends when the last caller has left before the call began.
	Context context.Context

	key    Key
	cancel context.CancelFunc

	// The mutex of the group guards these.
	callers int
	begun   bool // the call is running

	// These are written once, before finished is closed, and read only after it.
	ok       bool
	err      error
	finished chan struct{}
}

// New makes a group of at most limit calls.
func New(limit int) *Group { return &Group{limit: limit, calls: make(map[Key]*Call)} }

// Join adds a caller to the call of a key. If there is no such call, Join makes one and reports
// that the caller is its first. The first caller must make sure that Done is called. Join returns
// nil if there are too many calls.
func (g *Group) Join(key Key) (c *Call, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		c.callers++
		return c, false
	}
	if len(g.calls) >= g.limit {
		return nil, false
	}
	c = &Call{key: key, callers: 1, finished: make(chan struct{})}
	c.Context, c.cancel = context.WithCancel(context.Background())
	g.calls[key] = c
	return c, true
}

// Wait returns what Done was called with, or ctx's error if ctx ends first.
func (g *Group) Wait(ctx context.Context, c *Call) (ok bool, err error) {
	select {
	case <-c.finished:
		return c.ok, c.err
	case <-ctx.Done():
		g.Leave(c)
		return false, ctx.Err()
	}
}

// Begin reports whether any caller still waits for a call that has its permit. If so, the call
// stays in the map until it is done, even without callers, so that a caller that comes back joins
// it.
func (g *Group) Begin(c *Call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.begun = c.callers > 0
	return c.begun
}

// Leave takes a caller off a call. Without callers, a call that has not begun is cancelled.
func (g *Group) Leave(c *Call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.callers--; c.callers == 0 && !c.begun {
		c.cancel()
		g.removeLocked(c)
	}
}

// Done ends a call with its result.
func (g *Group) Done(c *Call, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.cancel()
	g.removeLocked(c)
	c.ok, c.err = ok, err
	close(c.finished)
}

// removeLocked takes c out of the map, unless another call has taken its place.
func (g *Group) removeLocked(c *Call) {
	if g.calls[c.key] == c {
		delete(g.calls, c.key)
	}
}
