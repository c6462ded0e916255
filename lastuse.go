package latchkey

import (
	"context"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/attempts"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A login notes the minute in its entry of the cache, if the entry has an earlier minute. The login
// reads no clock for that, because the goroutine of the store's clock moves the minute on. A batch
// writes the minutes to the table of last uses, one entry for each verifier. So no login writes.

// lastUseChunk is the number of last uses in one transaction of a batch. A change that comes
// meanwhile waits for no more than one such transaction.
const lastUseChunk = 8_000

// lastUseRetry is after how long a batch is tried again if it failed, or Options.LastUseEvery if
// that is shorter.
const lastUseRetry = time.Minute

// maxUsesAside bounds the number of last uses that are kept of tokens that are not in the cache.
const maxUsesAside = 1 << 16

// lastUseBatches tells when the next batch is due.
type lastUseBatches struct {
	every   time.Duration // 0 means never
	due     time.Time     // not to be read while running
	running atomic.Bool
	state   attempts.Outcome
}

// writeLastUsesIfDue begins a batch if it is time. The goroutine of the clock calls it each second.
func (s *Store) writeLastUsesIfDue() {
	b := &s.lastUses
	if b.every == 0 || b.running.Load() || time.Now().Before(b.due) {
		return
	}
	b.running.Store(true)
	s.goBackground(func() {
		defer b.running.Store(false)
		err := s.writeLastUses(context.Background())
		b.state.Attempted(err, s.now())
		wait := b.every
		if err != nil {
			wait = min(wait, lastUseRetry)
		}
		b.due = time.Now().Add(wait)
	})
}

// writeLastUses writes the last uses that are not on disk yet, in the order of their keys.
func (s *Store) writeLastUses(ctx context.Context) error {
	// A third leaves room for what the transaction reads of each key on an engine that bounds both.
	for uses := range slices.Chunk(s.cache.Unwritten(), min(lastUseChunk, s.maxWrites/3)) {
		var raised []lastuse.Use
		var seen uint64
		raise := func(tx *Tx) (err error) {
			raised, err = tx.raisedLastUses(uses)
			seen = tx.Sequence()
			return err
		}
		// The keys are read before the transaction, because other changes wait for it. Where
		// other processes can change the keys meanwhile, the transaction reads them itself.
		isRead := s.follower == nil && s.viewLong(ctx, raise) == nil
		err := s.update(ctx, func(tx *Tx) error {
			if !isRead || tx.Sequence() != seen {
				if err := raise(tx); err != nil {
					return err
				}
			}
			for _, u := range raised {
				if err := tx.putRecord(tableLastUse, u.ID[:], record.EncodeLastUse(u.Minute)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.cache.Wrote(uses)
	}
	return nil
}

// raisedLastUses returns the entries that last uses change in the table.
func (tx *Tx) raisedLastUses(uses []lastuse.Use) (raised []lastuse.Use, err error) {
	t := tx.tables()
	for _, u := range uses {
		k, err := tx.getKey(u.ID.Key())
		if err == nil && k != nil {
			if u, err = t.RaisedUse(k, u.ID.Verifier(), u.Minute); u.Minute > 0 {
				raised = append(raised, u)
			}
		}
		if unlessCorrupt(err) != nil {
			return nil, err
		}
	}
	return lastuse.Sort(raised), nil // two verifiers of a key can have the same entry
}

// addLastUses sets when a key and its tokens were used last. No time is after the store's.
func (tx *Tx) addLastUses(key *Key, k *record.Key) error {
	uses, err := merge.AppendUses(tx.store.cache.LastUses(k.ID), tx.etx, k)
	if err != nil {
		return recordError(err)
	}
	later := func(t *time.Time, used time.Time) {
		if used.After(*t) {
			*t = used
		}
	}
	for _, u := range uses {
		if u.Minute == 0 {
			continue
		}
		used := time.Unix(min(int64(u.Minute), tx.now().Unix()/60)*60, 0).UTC()
		later(&key.LastUsed, used)
		i := 0
		if len(key.Tokens) > 1 {
			id := tokenID(u.ID.Verifier())
			i = max(slices.IndexFunc(key.Tokens, func(t KeyToken) bool { return t.ID == id }), 0)
		}
		if len(key.Tokens) > 0 {
			later(&key.Tokens[i].LastUsed, used)
		}
	}
	return nil
}

// UnusedSince is [Store.AllKeys] for the keys that have not been used since t, as
// [KeyFilter].UnusedSince says.
func (s *Store) UnusedSince(ctx context.Context, t time.Time) iter.Seq2[Key, error] {
	return s.AllKeys(ctx, KeyFilter{UnusedSince: setTime(t)}, uuid.Nil)
}

// UnusedSince is [Store.UnusedSince] in a transaction.
func (tx *Tx) UnusedSince(t time.Time) iter.Seq2[Key, error] {
	return tx.AllKeys(KeyFilter{UnusedSince: setTime(t)}, uuid.Nil)
}

// unusedSince reports whether a key has not been used since t. A use is known to the minute, and
// counts until its minute is over.
func (k *Key) unusedSince(t time.Time) bool {
	return k.Created.Before(t) && (k.LastUsed.IsZero() || !k.LastUsed.Add(time.Minute).After(t))
}
