package latchkey

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"time"
)

// hasher bounds how much is hashed at once: in bytes of memory, and in hashes by the number of
// processors. More hashes at once than processors would only take turns and hold memory meanwhile.
//
// Each kind of hash has a queue of its own, and the kinds take turns, so that a flood of one kind
// does not make the others wait. Within a kind, callers get their permits in the order in which
// they asked.
//
// argon2 allocates its memory anew for each hash, and the memory of a finished hash stays in use
// until it is collected. So running hashes get half of the bound. When the garbage of finished
// hashes fills the rest, and the program itself gives no occasion to collect it, the next hash
// waits for a collection.
type hasher struct {
	limit    int64 // bytes
	slots    int   // hashes that may run at once
	maxCalls int   // calls of each kind that may be in progress
	counters *counters

	mu      sync.Mutex
	used    int64 // bytes of the hashes that run
	running int   // hashes that run
	garbage hashGarbage
	calls   [hashKinds]int // in progress
	queues  [hashKinds][]*hashWaiter
	last    hashKind // the kind that the last permit was given to
	closed  bool
	peak    int64 // the most that used has been

	collects sync.WaitGroup // collections that the hasher has begun
}

// A hashKind is a purpose of hashes.
type hashKind int

const (
	hashLogin    hashKind = iota // the first login of a key
	hashCheck                    // the check of a password
	hashPassword                 // a new password
	hashKey                      // a new key, or a key that is hashed anew
	hashKinds
)

type hashWaiter struct {
	kind  hashKind
	bytes int64
	ready chan struct{} // closed when err is known
	err   error         // nil for a permit
}

func newHasher(limit int64, maxCalls int, c *counters) *hasher {
	return &hasher{limit: limit, slots: runtime.GOMAXPROCS(0), maxCalls: maxCalls, counters: c}
}

// begin begins a call that will ask for permits of a kind. If begin returns nil, the caller must
// call end.
//
// It returns ErrBusy if too many calls of the kind are in progress already.
func (h *hasher) begin(kind hashKind) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.calls[kind]; n >= h.maxCalls {
		h.counters.add(statBusy, 1)
		return fmt.Errorf("%w: there are %d of the kind", ErrBusy, n)
	}
	h.calls[kind]++
	return nil
}

func (h *hasher) end(kind hashKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[kind]--
}

// hash makes the verifier of a key's secret, after it has waited for a permit. Its errors are those
// of acquire.
func (h *hasher) hash(ctx context.Context, secret []byte, cost Cost) (verifier, error) {
	if err := h.acquire(ctx, hashKey, cost); err != nil {
		return verifier{}, err
	}
	defer h.release(cost)
	h.counters.add(statHashes, 1)
	return newVerifier(secret, cost), nil
}

// acquire waits for a permit of a kind to hash at cost. The caller gives the permit back with
// release.
//
// It returns ErrCostTooHigh, ErrClosed or ctx's error.
func (h *hasher) acquire(ctx context.Context, kind hashKind, cost Cost) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &hashWaiter{kind: kind, bytes: cost.bytes(), ready: make(chan struct{})}
	if w.bytes > h.limit {
		return fmt.Errorf("%w: %d KiB", ErrCostTooHigh, cost.Memory)
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ErrClosed
	}
	h.queues[kind] = append(h.queues[kind], w)
	h.admitLocked()
	h.mu.Unlock()

	start := time.Now()
	defer func() { h.counters.add(statHashWait, uint64(time.Since(start))) }()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.queues[kind], w); i >= 0 {
		h.queues[kind] = slices.Delete(h.queues[kind], i, i+1)
		// If w was next and too large to begin, smaller hashes behind it may begin now.
		h.admitLocked()
		return ctx.Err()
	}
	if w.err == nil {
		h.releaseLocked(w.bytes) // w got its permit in the same moment
	}
	return ctx.Err()
}

func (h *hasher) release(cost Cost) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releaseLocked(cost.bytes())
}

func (h *hasher) releaseLocked(bytes int64) {
	h.used -= bytes
	h.running--
	h.garbage.add(bytes)
	h.admitLocked()
}

// nextLocked returns the caller that gets the next permit: the first of the next kind that has
// callers, or nil.
func (h *hasher) nextLocked() *hashWaiter {
	for i := range hashKinds {
		if queue := h.queues[(h.last+1+i)%hashKinds]; len(queue) > 0 {
			return queue[0]
		}
	}
	return nil
}

// admitLocked gives permits to the callers that are next, as long as there is room. It begins a
// collection if nothing but garbage is in the way.
func (h *hasher) admitLocked() {
	for w := h.nextLocked(); w != nil && h.freeLocked(w.bytes); w = h.nextLocked() {
		if h.used+h.garbage.bytes()+w.bytes > h.limit {
			if h.garbage.beginCollection() {
				h.collects.Go(h.collect)
			}
			return
		}
		h.used += w.bytes
		h.running++
		h.peak = max(h.peak, h.used)
		close(w.ready)
		h.queues[w.kind], h.last = h.queues[w.kind][1:], w.kind
	}
}

// freeLocked reports whether a hash may begin if the garbage leaves enough memory for it.
func (h *hasher) freeLocked(bytes int64) bool {
	return h.running < h.slots && h.used+bytes <= max(h.limit/2, bytes)
}

// collect collects the garbage of finished hashes, and admits the callers for which there is room
// then.
func (h *hasher) collect() {
	runtime.GC() // waits for a collection in progress, and then does another
	h.mu.Lock()
	defer h.mu.Unlock()
	h.garbage.endCollection()
	h.admitLocked()
}

// close ends the hasher: callers that wait for a permit, or ask for one later, get ErrClosed. It
// waits until no goroutine of the hasher is left.
func (h *hasher) close() {
	h.mu.Lock()
	h.closeLocked()
	h.mu.Unlock()
	h.collects.Wait()
}

func (h *hasher) closeLocked() {
	h.closed = true
	for kind, queue := range h.queues {
		for _, w := range queue {
			w.err = ErrClosed
			close(w.ready)
		}
		h.queues[kind] = nil
	}
}

// waiting returns the number of callers that wait for a permit.
func (h *hasher) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, queue := range h.queues {
		n += len(queue)
	}
	return n
}

// peakBytes returns the most memory, in bytes, that permits were given for at once.
func (h *hasher) peakBytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peak
}

// hashGarbage is an account of the memory that finished hashes leave to the garbage collector.
type hashGarbage struct {
	batches    []garbageBatch // oldest first
	collecting int64          // bytes that a collection of the hasher is collecting
}

// garbageBatch is the garbage of hashes that ended between two collections.
type garbageBatch struct {
	collections uint64 // that the program had done by then
	bytes       int64
}

// add counts the memory of a hash that has just ended.
func (g *hashGarbage) add(bytes int64) {
	now := collections()
	if n := len(g.batches); n > 0 && g.batches[n-1].collections == now {
		g.batches[n-1].bytes += bytes
		return
	}
	g.batches = append(g.batches, garbageBatch{now, bytes})
}

// bytes returns how much of the garbage may not have been collected yet. A collection that was in
// progress when a hash ended may have missed the memory of the hash. The next collection does not.
func (g *hashGarbage) bytes() int64 {
	now := collections()
	for len(g.batches) > 0 && g.batches[0].collections+2 <= now {
		g.batches = g.batches[1:]
	}
	return g.collecting + g.sum()
}

func (g *hashGarbage) sum() (bytes int64) {
	for _, b := range g.batches {
		bytes += b.bytes
	}
	return bytes
}

// beginCollection reports whether the caller must now collect, and then call endCollection. It
// reports false if there is no garbage, or if a collection is in progress.
func (g *hashGarbage) beginCollection() bool {
	if len(g.batches) == 0 || g.collecting > 0 {
		return false
	}
	g.collecting, g.batches = g.sum(), nil
	return true
}

// endCollection forgets the garbage that was there when the collection began.
func (g *hashGarbage) endCollection() { g.collecting = 0 }

// collections returns the number of garbage collections that the program has done.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
