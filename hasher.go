package latchkey

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkeydb/latchkey/internal/counters"
	"github.com/latchkeydb/latchkey/internal/permits"
	"github.com/latchkeydb/latchkey/internal/phc"
)

// hasher makes hashes one after another, as memory and processors allow.
type hasher struct {
	*permits.Pool
	counters *counters.Set
}

// A hashKind is a purpose of hashes. No kind makes another wait.
type hashKind int

const (
	hashLogin    hashKind = iota // the first login of a key
	hashCheck                    // the check of a password
	hashPassword                 // a new password
	hashKey                      // a new key, or a key that is hashed anew
	hashKinds
)

func newHasher(limit int64, maxCalls int, c *counters.Set) *hasher {
	return &hasher{permits.New(limit, int(hashKinds), maxCalls), c}
}

// begin begins a call that will ask for permits of a kind. If begin returns nil, the caller must
// call end.
//
// It returns ErrBusy if too many calls of the kind are in progress already.
func (h *hasher) begin(kind hashKind) error {
	if !h.Begin(int(kind)) {
		h.counters.Add(statBusy, 1)
		return fmt.Errorf("%w: too many calls of the kind are in progress", ErrBusy)
	}
	return nil
}

func (h *hasher) end(kind hashKind) { h.End(int(kind)) }

// hash makes the verifier of a key's secret, after it has waited for a permit, unless cost is the
// least. Its errors are those of acquire.
func (h *hasher) hash(ctx context.Context, secret []byte, cost Cost) (phc.Verifier, error) {
	if cost != Cost(phc.Least) {
		if err := h.acquire(ctx, hashKey, cost); err != nil {
			return phc.Verifier{}, err
		}
		defer h.release(cost)
	}
	h.counters.Add(statHashes, 1)
	return newVerifier(secret, cost), nil
}

// acquire waits for a permit of a kind to hash at cost. The caller gives the permit back with
// release.
//
// It returns ErrCostTooHigh, ErrClosed or ctx's error.
func (h *hasher) acquire(ctx context.Context, kind hashKind, cost Cost) error {
	start := time.Now()
	err := h.Acquire(ctx, int(kind), cost.bytes())
	h.counters.Add(statHashWait, uint64(time.Since(start)))
	if errors.Is(err, permits.ErrTooLarge) {
		return fmt.Errorf("%w: %d KiB", ErrCostTooHigh, cost.Memory)
	}
	return err
}

func (h *hasher) release(cost Cost) { h.Release(cost.bytes()) }
