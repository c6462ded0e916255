// Package permits bounds how much is hashed at once: in bytes of memory, and in hashes by the
// number of processors.
package permits

import (
	"context"
	"errors"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
)

// A Pool gives permits to hash. More hashes at once than processors would only take turns and hold
// memory meanwhile.
//
// Each kind of hash has a queue of its own, and the kinds take turns, so that a flood of one kind
// does not make the others wait. Within a kind, callers get their permits in the order in which
// they asked.
//
// argon2 allocates its memory anew for each hash, and the memory of a finished hash stays in use
// until it is collected. So running hashes get half of the bound. When the garbage of finished
// hashes fills the rest, and the program itself gives no occasion to collect it, the next hash
// waits for a collection.
type Pool struct {
	// Slots is how many hashes may run at once: the number of processors. Tests change it.
	Slots int

	limit    int64 // bytes
	maxCalls int   // calls of each kind that may be in progress

	mu      sync.Mutex
	used    int64 // bytes of the hashes that run
	running int   // hashes that run
	garbage garbage
	calls   []int // in progress, by kind
	queues  [][]*waiter
	last    int   // the kind that the last permit was given to
	closed  error // what Close was called with
	peak    int64 // the most that used has been

	collects sync.WaitGroup // collections that the pool has begun
}

type waiter struct {
	kind  int
	bytes int64
	ready chan struct{} // closed when err is known
	err   error         // nil for a permit
}

// New makes a pool of limit bytes for kinds of hashes, which are numbered from 0. Of each kind,
// maxCalls calls may be in progress.
func New(limit int64, kinds, maxCalls int) *Pool {
	return &Pool{
		Slots: runtime.GOMAXPROCS(0), limit: limit, maxCalls: maxCalls,
		calls: make([]int, kinds), queues: make([][]*waiter, kinds),
	}
}

// Begin begins a call that will ask for permits of a kind, and reports whether it may go on. If so,
// the caller must call End. If not, too many calls of the kind are in progress already.
func (p *Pool) Begin(kind int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls[kind] >= p.maxCalls {
		return false
	}
	p.calls[kind]++
	return true
}

// End ends a call of a kind.
func (p *Pool) End(kind int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[kind]--
}

// ErrTooLarge means that a hash needs more memory than all hashes together may have.
var ErrTooLarge = errors.New("a hash needs more memory than there is for hashes")

// Acquire waits for a permit of a kind for a hash that takes bytes of memory. The caller gives the
// permit back with Release.
//
// Errors: ErrTooLarge; what Close was called with; ctx's error.
func (p *Pool) Acquire(ctx context.Context, kind int, bytes int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiter{kind: kind, bytes: bytes, ready: make(chan struct{})}
	if bytes > p.limit {
		return ErrTooLarge
	}
	p.mu.Lock()
	if p.closed != nil {
		p.mu.Unlock()
		return p.closed
	}
	p.queues[kind] = append(p.queues[kind], w)
	p.admitLocked()
	p.mu.Unlock()

	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queues[kind], w); i >= 0 {
		p.queues[kind] = slices.Delete(p.queues[kind], i, i+1)
		// If w was next and too large to begin, smaller hashes behind it may begin now.
		p.admitLocked()
		return ctx.Err()
	}
	if w.err == nil {
		p.releaseLocked(w.bytes) // w got its permit in the same moment
	}
	return ctx.Err()
}

// Release gives back a permit for bytes.
func (p *Pool) Release(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(bytes)
}

func (p *Pool) releaseLocked(bytes int64) {
	p.used -= bytes
	p.running--
	p.garbage.add(bytes)
	p.admitLocked()
}

// nextLocked returns the caller that gets the next permit: the first of the next kind that has
// callers, or nil.
func (p *Pool) nextLocked() *waiter {
	for i := range p.queues {
		if queue := p.queues[(p.last+1+i)%len(p.queues)]; len(queue) > 0 {
			return queue[0]
		}
	}
	return nil
}

// admitLocked gives permits to the callers that are next, as long as there is room. It begins a
// collection if nothing but garbage is in the way.
func (p *Pool) admitLocked() {
	for w := p.nextLocked(); w != nil && p.freeLocked(w.bytes); w = p.nextLocked() {
		if p.used+p.garbage.bytes()+w.bytes > p.limit {
			if p.garbage.beginCollection() {
				p.collects.Go(p.collect)
			}
			return
		}
		p.used += w.bytes
		p.running++
		p.peak = max(p.peak, p.used)
		close(w.ready)
		p.queues[w.kind], p.last = p.queues[w.kind][1:], w.kind
	}
}

// freeLocked reports whether a hash may begin if the garbage leaves enough memory for it.
func (p *Pool) freeLocked(bytes int64) bool {
	return p.running < p.Slots && p.used+bytes <= max(p.limit/2, bytes)
}

// collect collects the garbage of finished hashes, and admits the callers for which there is room
// then.
func (p *Pool) collect() {
	runtime.GC() // waits for a collection in progress, and then does another
	p.mu.Lock()
	defer p.mu.Unlock()
	p.garbage.endCollection()
	p.admitLocked()
}

// Close ends the pool: callers that wait for a permit, or ask for one later, get cause. It waits
// until no goroutine of the pool is left.
func (p *Pool) Close(cause error) {
	p.mu.Lock()
	p.closeLocked(cause)
	p.mu.Unlock()
	p.collects.Wait()
}

func (p *Pool) closeLocked(cause error) {
	p.closed = cause
	for kind, queue := range p.queues {
		for _, w := range queue {
			w.err = cause
			close(w.ready)
		}
		p.queues[kind] = nil
	}
}

// Waiting returns the number of callers that wait for a permit.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, queue := range p.queues {
		n += len(queue)
	}
	return n
}

// Running returns the number of hashes that have a permit.
func (p *Pool) Running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

// Idle reports whether no call is in progress, and no permit is out.
func (p *Pool) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for kind, queue := range p.queues {
		if len(queue) > 0 || p.calls[kind] > 0 {
			return false
		}
	}
	return p.used == 0 && p.running == 0
}

// Peak returns the most memory, in bytes, that permits were given for at once.
func (p *Pool) Peak() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peak
}

// garbage is an account of the memory that finished hashes leave to the garbage collector.
type garbage struct {
	batches    []garbageBatch // oldest first
	collecting int64          // bytes that a collection of the pool is collecting
}

// garbageBatch is the garbage of hashes that ended between two collections.
type garbageBatch struct {
	collections uint64 // that the program had done by then
	bytes       int64
}

// add counts the memory of a hash that has just ended.
func (g *garbage) add(bytes int64) {
	now := collections()
	if n := len(g.batches); n > 0 && g.batches[n-1].collections == now {
		g.batches[n-1].bytes += bytes
		return
	}
	g.batches = append(g.batches, garbageBatch{now, bytes})
}

// bytes returns how much of the garbage may not have been collected yet. A collection that was in
// progress when a hash ended may have missed the memory of the hash. The next collection does not.
func (g *garbage) bytes() int64 {
	now := collections()
	for len(g.batches) > 0 && g.batches[0].collections+2 <= now {
		g.batches = g.batches[1:]
	}
	return g.collecting + g.sum()
}

func (g *garbage) sum() (bytes int64) {
	for _, b := range g.batches {
		bytes += b.bytes
	}
	return bytes
}

// beginCollection reports whether the caller must now collect, and then call endCollection. It
// reports false if there is no garbage, or if a collection is in progress.
func (g *garbage) beginCollection() bool {
	if len(g.batches) == 0 || g.collecting > 0 {
		return false
	}
	g.collecting, g.batches = g.sum(), nil
	return true
}

// endCollection forgets the garbage that was there when the collection began.
func (g *garbage) endCollection() { g.collecting = 0 }

// collections returns the number of garbage collections that the program has done.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
