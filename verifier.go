package latchkey

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

// A Cost is what it takes to compute one argon2id hash (RFC 9106). The zero Cost stands for [DefaultCost].
type Cost struct {
	Memory uint32 // KiB, from 8 × Lanes to 1,048,576
	Passes uint32 // over the memory, from 1 to 64
	Lanes  uint8  // computed in parallel, from 1 to 16
}

// Named costs. A token's secret has 256 random bits and cannot be guessed at any cost, so the cost is not what keeps a
// stolen file safe; it is there for those whose rules ask for a slow hash. docs/decisions has the argument and figures.
var (
	// DefaultCost is one of the settings that the OWASP Password Storage Cheat Sheet lists as equal for argon2id, and
	// the one that lets a device of 64 MB hash two at once.
	DefaultCost = Cost{Memory: 7 << 10, Passes: 5, Lanes: 1}
	// LightCost is for small devices and tests: 64 KiB, one pass. NIST SP 800-63B asks for no slow hash at all where a
	// secret has 112 random bits or more.
	LightCost = Cost{Memory: 64, Passes: 1, Lanes: 1}
)

// Bounds on what is read from a file, before argon2 sees it: argon2 allocates what it is told, and panics on zero.
const (
	maxCostMemory = 1 << 20 // KiB
	maxCostPasses = 64
	maxCostLanes  = 16
	saltSize      = 16 // RFC 9106 recommends it
	hashSize      = 32
)

func (c Cost) valid() bool {
	return c.Lanes >= 1 && c.Lanes <= maxCostLanes && c.Passes >= 1 && c.Passes <= maxCostPasses &&
		c.Memory >= 8*uint32(c.Lanes) && c.Memory <= maxCostMemory
}

func (c Cost) bytes() int64 { return int64(c.Memory) << 10 }

// verifier is what is kept for a secret, a PHC string taken apart:
// $argon2id$v=19$m=7168,t=5,p=1$<salt>$<hash>, both in base64 without padding
// (https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md).
type verifier struct {
	cost Cost
	salt [saltSize]byte
	hash [hashSize]byte
}

var phcBase64 = base64.RawStdEncoding.Strict()

func (v *verifier) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, v.cost.Memory, v.cost.Passes, v.cost.Lanes,
		phcBase64.EncodeToString(v.salt[:]), phcBase64.EncodeToString(v.hash[:]))
}

// parseVerifier reads a PHC string. It accepts just what String writes, with a cost within bounds; else ErrCorrupt.
func parseVerifier(phc string) (v verifier, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || len(parts[3]) > 40 || len(parts[4]) > 64 || len(parts[5]) > 64 {
		return v, fmt.Errorf("%w: a verifier that is no PHC string", ErrCorrupt)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &v.cost.Memory, &v.cost.Passes, &v.cost.Lanes); err != nil {
		return v, fmt.Errorf("%w: a verifier without a cost", ErrCorrupt)
	}
	salt, _ := phcBase64.DecodeString(parts[4])
	hash, _ := phcBase64.DecodeString(parts[5])
	copy(v.salt[:], salt)
	copy(v.hash[:], hash)
	if !v.cost.valid() || v.String() != phc {
		return v, fmt.Errorf("%w: a verifier out of bounds", ErrCorrupt)
	}
	return v, nil
}

// newVerifier hashes a new secret under a new salt.
func newVerifier(secret []byte, cost Cost) verifier {
	v := verifier{cost: cost}
	rand.Read(v.salt[:])
	v.hash = v.compute(secret)
	return v
}

func (v *verifier) compute(secret []byte) (hash [hashSize]byte) {
	copy(hash[:], argon2.IDKey(secret, v.salt[:], v.cost.Passes, v.cost.Memory, v.cost.Lanes, hashSize))
	return hash
}

// matches reports, in constant time, whether secret is the one that the verifier was made from.
func (v *verifier) matches(secret []byte) bool {
	hash := v.compute(secret)
	return subtle.ConstantTimeCompare(hash[:], v.hash[:]) == 1
}

// hasher bounds how much is hashed at once: in bytes of memory, and in hashes by the number of processors, since more
// would only take turns and hold memory while they wait. Waiters are served in the order they came.
//
// argon2 allocates its memory anew for each hash, and what a hash leaves is memory still until it is collected. So half
// of the bound is for hashes that run; when they have left the rest full of garbage, and the program itself gives no
// occasion to collect it, the next hash waits for a collection.
type hasher struct {
	limit int64 // bytes
	slots int
	waits *counters

	mu         sync.Mutex
	used       int64 // bytes of the hashes that run
	running    int
	left       []hashGarbage // oldest first
	collecting int64         // bytes that a collection is under way for
	queue      []*hashWaiter
	closed     bool
	peak       int64 // the most that used has been

	collects sync.WaitGroup // collections that the hasher has begun
}

// hashGarbage is what hashes left behind, and how many collections had been done when they ended. A collection that was
// under way then can have missed it; the one after that has not.
type hashGarbage struct {
	collections uint64
	bytes       int64
}

type hashWaiter struct {
	bytes int64
	ready chan struct{} // closed when err is known
	err   error         // why there is no permit
}

func newHasher(limit int64, waits *counters) *hasher {
	return &hasher{limit: limit, slots: runtime.GOMAXPROCS(0), waits: waits}
}

// acquire waits for a permit to hash at cost. Give it back with release. It returns ErrCostTooHigh, ErrClosed or ctx's
// error.
func (h *hasher) acquire(ctx context.Context, cost Cost) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &hashWaiter{bytes: cost.bytes(), ready: make(chan struct{})}
	if w.bytes > h.limit {
		return fmt.Errorf("%w: %d KiB", ErrCostTooHigh, cost.Memory)
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ErrClosed
	}
	h.queue = append(h.queue, w)
	h.admitLocked()
	h.mu.Unlock()

	start := time.Now()
	defer func() { h.waits.add(statHashWait, uint64(time.Since(start))) }()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, q := range h.queue {
		if q == w {
			h.queue = append(h.queue[:i], h.queue[i+1:]...)
			h.admitLocked() // a large one may have stood before small ones
			return ctx.Err()
		}
	}
	if w.err == nil {
		h.releaseLocked(w.bytes) // it was admitted at the same moment
	}
	return ctx.Err()
}

func (h *hasher) release(cost Cost) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.releaseLocked(cost.bytes())
}

// close gives no more permits: whoever waits for one, or asks for one later, gets ErrClosed. No goroutine is left behind.
func (h *hasher) close() {
	h.mu.Lock()
	h.closeLocked()
	h.mu.Unlock()
	h.collects.Wait()
}

func (h *hasher) closeLocked() {
	h.closed = true
	for _, w := range h.queue {
		w.err = ErrClosed
		close(w.ready)
	}
	h.queue = nil
}

func (h *hasher) releaseLocked(bytes int64) {
	h.used -= bytes
	h.running--
	now := collections()
	if last := len(h.left) - 1; last >= 0 && h.left[last].collections == now {
		h.left[last].bytes += bytes
	} else {
		h.left = append(h.left, hashGarbage{now, bytes})
	}
	h.admitLocked()
}

// freeLocked reports whether a hash may begin as soon as there is memory for it.
func (h *hasher) freeLocked(bytes int64) bool {
	return h.running < h.slots && h.used+bytes <= max(h.limit/2, bytes)
}

// heldLocked is the memory of hashes that run, and of those that ended and may not have been collected yet.
func (h *hasher) heldLocked() int64 {
	now := collections()
	for len(h.left) > 0 && h.left[0].collections+2 <= now {
		h.left = h.left[1:]
	}
	held := h.used + h.collecting
	for _, g := range h.left {
		held += g.bytes
	}
	return held
}

// collections is how many garbage collections the program has done.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func (h *hasher) takeLocked(bytes int64) {
	h.used += bytes
	h.running++
	h.peak = max(h.peak, h.used)
}

func (h *hasher) admitLocked() {
	for len(h.queue) > 0 && h.freeLocked(h.queue[0].bytes) {
		if h.heldLocked()+h.queue[0].bytes > h.limit {
			if len(h.left) > 0 && h.collecting == 0 {
				for _, g := range h.left {
					h.collecting += g.bytes
				}
				h.left = nil
				h.collects.Go(h.collect)
			}
			return
		}
		h.takeLocked(h.queue[0].bytes)
		close(h.queue[0].ready)
		h.queue = h.queue[1:]
	}
}

// collect has the garbage that hashes left collected, and lets in whom there is memory for then.
func (h *hasher) collect() {
	runtime.GC() // waits for one that is under way, and does one of its own
	h.mu.Lock()
	defer h.mu.Unlock()
	h.collecting = 0
	h.admitLocked()
}

// peakBytes is the most memory that hashes were permitted at once.
func (h *hasher) peakBytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peak
}

// waiting tells how many wait for a permit.
func (h *hasher) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.queue)
}

// hash makes the verifier of a new secret, when there is a permit.
func (h *hasher) hash(ctx context.Context, secret []byte, cost Cost) (verifier, error) {
	if err := h.acquire(ctx, cost); err != nil {
		return verifier{}, err
	}
	defer h.release(cost)
	h.waits.add(statHashes, 1)
	return newVerifier(secret, cost), nil
}
