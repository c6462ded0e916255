package latchkey

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A RefusedRecord is a record that [Store.Merge] did not merge.
type RefusedRecord struct {
	Index int   // in the argument of Merge
	Err   error // says why
}

// Merge merges records of other stores of the domain, in any order, any number of times. Stores
// that have merged the same records have the same users, keys and groups. docs/replication.md has
// the rules. The ones that matter most: a deletion wins for good, and so does a disabling that no
// enabling has seen.
//
// When Merge returns nil, what it has merged is on disk, and no login that begins afterwards
// succeeds with a key that a record has disabled or deleted, or with a token that it has ended.
// Merge takes as many transactions as it needs, so other writers get their turn.
//
// [Options].OnChange is called for each user, key and group that Merge changes, as for a call that
// makes the change here. The time of the [Change] is that of the merge, and the actor is the one of
// ctx. A record that the store has already is no change, and neither is the tombstone of a record
// that the store never had. If the hook returns an error, Merge ends with it.
//
// A record that is wrong is refused, and the others are merged. The error of a [RefusedRecord] is
// [ErrInvalidRecord], or [ErrNotPermitted] for a key with reserved scopes. If records cannot be
// merged because of what this store has, Merge goes on with the others, and returns [ErrCorrupt],
// [ErrNewerFormat] or [ErrTransactionTooLarge] in the end. It returns any other error of
// [Store.Update] at once. After an error, records may be missing, so merge all of them again.
func (s *Store) Merge(ctx context.Context, records []ReplicaRecord) (refused []RefusedRecord, err error) {
	err = s.share(ctx)
	m := merge.Run{Domain: s.domain.ID, AtOnce: min(256, max(s.maxWrites/16, 1)), Failed: isMergeFailure}
	for _, r := range records {
		m.Copies = append(m.Copies, r.get().Copy)
	}
	if err == nil {
		err = m.Merge(func(step func(*merge.Tables) error) error {
			return below{s}.Update(ctx, step)
		})
	}
	for _, r := range m.Refused {
		refused = append(refused, RefusedRecord{r.Index, mergeError(r.Err)})
	}
	return refused, wrapf(mergeError(err), "merge %d records", len(records))
}

// mergeError returns an error of package merge as callers know it.
func mergeError(err error) error {
	switch {
	case errors.Is(err, merge.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalidRecord, err)
	case errors.Is(err, merge.ErrReserved):
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	}
	return recordError(err)
}

// isMergeFailure reports whether an error says that one record cannot be merged, and nothing about
// the others.
func isMergeFailure(err error) bool {
	err = recordError(err)
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerFormat) || errors.Is(err, ErrTransactionTooLarge)
}

// tables returns the tables of the store as package merge changes them.
func (tx *Tx) tables() *merge.Tables {
	return &merge.Tables{
		Get: tx.etx.Get,
		Scan: func(table string, from, to []byte) iter.Seq2[merge.Entry, error] {
			return func(yield func(merge.Entry, error) bool) {
				tx.etx.Scan(table, from, to)(func(e Entry, err error) bool { return yield(merge.Entry(e), err) })
			}
		},
		Changes: func(since uint64) iter.Seq2[merge.Change, error] {
			return func(yield func(merge.Change, error) bool) {
				tx.etx.Changes(since)(func(c TrackedChange, err error) bool { return yield(merge.Change(c), err) })
			}
		},
		Sequence: tx.Sequence, Count: tx.etx.Count, SequenceOf: tx.etx.SequenceOf, Put: tx.put, Delete: tx.delete, DeleteForgotten: tx.deleteForgotten,
		PutCopied: func(table string, key, value []byte) error {
			tx.writes++
			return tx.etx.Put(table, key, value)
		},
		DeleteOnly: tx.etx.Delete,
		DropCached: func(s cache.Stale) { tx.stale.Add(s) },
		Now:        tx.now,
		LearnHandle: func(h record.Handle) {
			if tx.store.foreign != nil {
				tx.store.foreign.Add(h)
			}
		},
		CheckPHC: func(s string) error {
			_, err := parseVerifier(s)
			return err
		},
		Merging:    tx.merging,
		Room:       tx.room,
		Writes:     func() int { return tx.writes },
		DrawWriter: tx.store.drawWriter,
		BuryAtOnce: min(256, max(tx.store.maxWrites/25, 1)),
	}
}

// share writes that the domain has several stores, unless it is known.
func (s *Store) share(ctx context.Context) error {
	if s.replica.Load().Shared {
		return s.canWait()
	}
	return s.changeReplica(ctx, func(t *merge.Tables) (record.Replica, error) { return t.Share(*s.replica.Load()) })
}

// changeReplica changes the record of the replica to what change writes and returns.
func (s *Store) changeReplica(ctx context.Context, change func(*merge.Tables) (record.Replica, error)) error {
	r, err := write(ctx, s, func(tx *Tx) (record.Replica, error) { return change(tx.tables()) })
	if err == nil {
		s.replica.Store(&r)
	}
	return err
}

// isShared reports whether the domain has or had another store, so that records must keep what
// merging needs.
func (tx *Tx) isShared() bool {
	if !tx.sharing && !tx.alone {
		tx.sharing = record.IsShared(metaRecords(tx.etx))
		tx.alone = !tx.sharing
	}
	return tx.sharing
}

// mergeLater merges the records that were of a later version when they came, and are not any more.
func (s *Store) mergeLater(ctx context.Context) error {
	if !s.replica.Load().Shared || s.readOnly {
		return nil
	}
	m := merge.Run{Domain: s.domain.ID, AtOnce: 1, Failed: isMergeFailure}
	err := s.View(ctx, func(tx *Tx) (err error) {
		m.Copies, err = tx.tables().KnownLater(s.domain.ID)
		return err
	})
	if err == nil && len(m.Copies) > 0 {
		err = m.Merge(func(step func(*merge.Tables) error) error {
			return s.updateTables(ctx, step)
		})
	}
	return mergeError(err)
}
