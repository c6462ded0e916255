package memory

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey"
)

// A Shared is an engine that has its data in common with others, as engines of several processes
// do. It hears of a commit a moment after the commit can be seen. Its bound is zero: it is fresh
// only while it has heard of every commit.
type Shared struct {
	*engine
	behind atomic.Int64 // the commits that it has not heard of

	restores, renewed atomic.Uint64

	mu    sync.Mutex // guards the fields below
	wake  sync.Cond
	queue [][]latchkey.TrackedChange
	deaf  bool
	ended bool
	faults

	done chan struct{} // closed when the goroutine that calls changed has ended
}

// faults are what a Shared does wrong on purpose.
type faults struct {
	unavailable bool
	full        bool
}

// NewShared makes an empty engine that can share its data with others.
func NewShared() *Shared { return newEngine(false).share() }

// Open makes another engine with the same data, as another process would.
func (e *Shared) Open() *Shared { return (&engine{body: e.body}).share() }

func (e *engine) share() *Shared {
	s := &Shared{engine: e}
	s.wake.L = &s.mu
	return s
}

// Watch implements [latchkey.EngineWatcher].
func (e *Shared) Watch(changed func([]latchkey.TrackedChange)) {
	e.done = make(chan struct{})
	e.turn <- struct{}{} // so that no commit is under way
	e.body.mu.Lock()
	e.watches = append(e.watches, e)
	e.body.mu.Unlock()
	<-e.turn
	go func() {
		defer close(e.done)
		for e.hearOne(changed) {
		}
	}()
}

// hearOne waits for a commit, calls changed, and reports whether the engine is still open.
func (e *Shared) hearOne(changed func([]latchkey.TrackedChange)) bool {
	e.mu.Lock()
	for !e.ended && (e.deaf || len(e.queue) == 0) {
		e.wake.Wait()
	}
	if e.ended {
		e.mu.Unlock()
		return false
	}
	changes := e.queue[0]
	e.queue = e.queue[1:]
	e.mu.Unlock()
	changed(changes)
	e.behind.Add(-1)
	return true
}

// Fresh implements [latchkey.EngineWatcher].
func (e *Shared) Fresh() bool { return e.behind.Load() == 0 }

// SetDeaf sets whether the engine hears of no commits for the time being.
func (e *Shared) SetDeaf(deaf bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deaf = deaf
	e.wake.Signal()
}

// Lose makes the engine forget the commits that it has not heard of, and tell that anything may
// have changed.
func (e *Shared) Lose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.behind.Add(1 - int64(len(e.queue)))
	e.queue = [][]latchkey.TrackedChange{nil}
	e.wake.Signal()
}

// Restore gives all engines with the data an earlier state, which [CopyEngine] has kept. The
// engines that are open notice that at once.
func (e *Shared) Restore(earlier latchkey.Engine) {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	e.body.mu.Lock()
	watches := e.watches
	e.body.mu.Unlock()
	for _, w := range watches {
		w.behind.Add(1)
	}
	e.state.Store(earlier.(*engine).state.Load())
	for _, w := range watches {
		w.restores.Add(1)
		w.Lose()
		w.behind.Add(-1)
	}
}

// Restored implements [latchkey.RestoreWatcher].
func (e *Shared) Restored() uint64 {
	if n := e.restores.Load(); n != e.renewed.Load() {
		return n
	}
	return 0
}

// Renewed implements [latchkey.RestoreWatcher].
func (e *Shared) Renewed(times uint64) { e.renewed.Store(times) }

// SetUnavailable sets whether the engine cannot reach its data.
func (e *Shared) SetUnavailable(unavailable bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unavailable = unavailable
}

// SetFull sets whether the engine is full, so that transactions that put something fail.
func (e *Shared) SetFull(full bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.full = full
}

func (e *Shared) fault() faults {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.faults
}

// View implements [latchkey.Engine].
func (e *Shared) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.fault().unavailable {
		return latchkey.ErrUnavailable
	}
	return e.engine.View(ctx, fn)
}

// Update implements [latchkey.Engine].
func (e *Shared) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	f := e.fault()
	if f.unavailable {
		return latchkey.ErrUnavailable
	}
	if !f.full {
		return e.engine.Update(ctx, fn)
	}
	return e.engine.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if tx.(*engineTx).put {
			return latchkey.ErrNoSpace
		}
		return nil
	})
}

// Close implements [latchkey.Engine].
func (e *Shared) Close() error {
	e.body.mu.Lock()
	for i, w := range e.watches {
		if w == e {
			e.watches = append(e.watches[:i:i], e.watches[i+1:]...)
			break
		}
	}
	e.body.mu.Unlock()
	e.mu.Lock()
	e.ended = true
	e.wake.Signal()
	e.mu.Unlock()
	if e.done != nil {
		<-e.done
	}
	return e.engine.Close()
}

// publish shows a commit, and tells it to the engines that watch. None of them is fresh from the
// moment when the commit can be seen.
func (b *body) publish(tx *engineTx) {
	b.mu.Lock()
	watches := b.watches
	b.mu.Unlock()
	for _, w := range watches {
		w.behind.Add(1)
	}
	b.state.Store(&tx.state)
	for _, w := range watches {
		changes := make([]latchkey.TrackedChange, len(tx.changed))
		for i, c := range tx.changed {
			c.Key = bytes.Clone(c.Key)
			changes[i] = c
		}
		w.mu.Lock()
		w.queue = append(w.queue, changes)
		w.wake.Signal()
		w.mu.Unlock()
	}
}
