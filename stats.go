package latchkey

import (
	"context"
	"sync/atomic"
	"time"
	"unsafe"
)

// Stats is what a store tells about itself. The counts of logins begin when the store is opened.
type Stats struct {
	Sequence uint64 // of the last committed change
	Users    uint64 // not counting deleted ones
	Keys     uint64 // not counting deleted ones; server keys included

	Hits      uint64 // logins that the cache decided
	Misses    uint64 // logins of genuine tokens that it could not decide
	Malformed uint64 // refused: not in the form of a token
	Forged    uint64 // refused: in the form of a token, but not made by this domain
	Unknown   uint64 // refused: the tag is right, but the key is gone, or has another secret
	Refused   uint64 // refused: proven, but the key or its user is disabled, or the key has expired
	Busy      uint64 // refused: [ErrBusy]

	CacheSize int           // keys in the cache now
	Hashes    uint64        // argon2 hashes computed, for logins and for new keys
	HashWait  time.Duration // time spent waiting for a permit to hash, all callers together
	HashPeak  int64         // the most bytes of argon2 memory that were in use at once
	Rehashed  uint64        // verifiers brought to the store's cost

	Commits uint64 // commits of the engine since it was opened; bbolt's cost two syncs each. 0 if it does not count them
}

// Stats reads the store's counters. It costs one read transaction, however large the store is. It returns [ErrClosed],
// [ErrCorrupt], [ErrNewerFormat] or ctx's error.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var st storeState
	err := s.View(ctx, func(tx *Tx) error {
		p, err := tx.readState()
		if err != nil {
			return err
		}
		st = *p
		return nil
	})
	if err != nil {
		return Stats{}, wrapf(err, "read stats")
	}
	out := Stats{
		Sequence: st.sequence,
		Users:    st.users,
		Keys:     st.keys,

		Hits:      s.counters.sum(statHits),
		Misses:    s.counters.sum(statMisses),
		Malformed: s.counters.sum(statMalformed),
		Forged:    s.counters.sum(statForged),
		Unknown:   s.counters.sum(statUnknown),
		Refused:   s.counters.sum(statRefused),
		Busy:      s.counters.sum(statBusy),

		CacheSize: s.cache.size(),
		Hashes:    s.counters.sum(statHashes),
		HashWait:  time.Duration(s.counters.sum(statHashWait)),
		HashPeak:  s.hasher.peakBytes(),
		Rehashed:  s.counters.sum(statRehashed),
	}
	if e, ok := s.engine.(CommitCounter); ok {
		out.Commits = e.Commits()
	}
	return out, nil
}

const (
	statHits = iota
	statMisses
	statMalformed
	statForged
	statUnknown
	statRefused
	statBusy
	statHashes
	statHashWait
	statRehashed
	statCount
)

// counters are spread over stripes, so that processors that count at the same time seldom meet on a cache line.
type counters struct {
	stripes [16]struct {
		n [statCount]atomic.Uint64
		_ [128 - statCount*8%128]byte
	}
}

func (c *counters) add(stat int, n uint64) {
	// Where its stack is tells a goroutine from others, and costs nothing to know. A random stripe would have each line go
	// back and forth between processors.
	var here byte
	stripe := uint32(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b1 >> 28
	c.stripes[stripe].n[stat].Add(n)
}

func (c *counters) sum(stat int) (n uint64) {
	for i := range c.stripes {
		n += c.stripes[i].n[stat].Load()
	}
	return n
}
