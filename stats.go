package latchkey

import (
	"context"
	"time"
)

// Stats are the counters of a store. The counters below ClockResets begin at 0 when the store is
// opened.
type Stats struct {
	Sequence uint64 // the number of the last commit; several changes can share one
	Users    uint64 // without deleted ones
	Keys     uint64 // without deleted ones, with server keys

	ClockResets uint64 // how often [Store.ResetClock] was called since the store was made

	Hits      uint64 // logins that the cache decided
	Misses    uint64 // logins with genuine tokens that the cache could not decide
	Malformed uint64 // logins refused because the string is not in the form of a token
	Forged    uint64 // logins refused because this domain did not make the token
	Unknown   uint64 // logins refused because the key or the token is gone, or the secret is wrong
	Refused   uint64 // logins refused with a good token: disabled, expired, or from another network
	Busy      uint64 // calls refused with [ErrBusy]

	CacheSize int           // the number of tokens in the cache now
	Hashes    uint64        // argon2 hashes that were computed, for logins, passwords and new keys
	HashWait  time.Duration // the time that all callers together have waited for a permit to hash
	HashPeak  int64         // the most memory that argon2 was permitted at once, in bytes
	Rehashed  uint64        // verifiers that were replaced by one at the store's cost

	// Commits is the number of commits of the engine since it was opened, or 0 if the engine does
	// not count them. A commit of bbolt costs two syncs.
	Commits uint64
}

// Stats returns the store's counters. It takes one read transaction, however large the store is.
//
// It returns [ErrClosed], [ErrCorrupt], [ErrNewerFormat] or ctx's error.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var out Stats
	err := s.View(ctx, func(tx *Tx) (err error) {
		out.Sequence = tx.etx.Sequence()
		if out.Users, err = tx.etx.Count(tableUsers); err != nil {
			return err
		}
		out.Keys, err = tx.etx.Count(tableKeys)
		return err
	})
	if err != nil {
		return Stats{}, wrapf(err, "read stats")
	}
	out = Stats{
		Sequence: out.Sequence,
		Users:    out.Users,
		Keys:     out.Keys,

		ClockResets: s.clock.Kept().Resets,

		Hits:      s.counters.Sum(statHits),
		Misses:    s.counters.Sum(statMisses),
		Malformed: s.counters.Sum(statMalformed),
		Forged:    s.counters.Sum(statForged),
		Unknown:   s.counters.Sum(statUnknown),
		Refused:   s.counters.Sum(statRefused),
		Busy:      s.counters.Sum(statBusy),

		CacheSize: s.cache.Size(),
		Hashes:    s.counters.Sum(statHashes),
		HashWait:  time.Duration(s.counters.Sum(statHashWait)),
		HashPeak:  s.hasher.Peak(),
		Rehashed:  s.counters.Sum(statRehashed),
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
)
