package latchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A ReplicaRecord is a user, a key, a group, or what is left of a deleted one, as a store has it,
// for another store of the domain. It has stored verifiers. Printing and marshaling a ReplicaRecord
// show nothing of it.
type ReplicaRecord struct{ r concealed[replicaRecord] }

type replicaRecord struct {
	record.Copy
	at merge.Position
}

// A RecordCursor says how far a reader of [Store.Records] has come. The zero RecordCursor is the
// beginning. A RecordCursor with a Sequence alone stands behind everything that the commits up to
// the sequence have changed. Only the store that gave a RecordCursor can go on from it.
type RecordCursor struct {
	Sequence uint64 // of a commit
	// Last is the last record of that commit that the reader has seen. It is empty after all of
	// them. It is not text.
	Last string
}

// Cursor returns where [Store.Records] goes on after the record. For a record that did not come
// from there it returns the zero RecordCursor.
func (r ReplicaRecord) Cursor() RecordCursor { return RecordCursor(r.get().at) }

// Export returns the record in the form that docs/replication.md describes. The form has stored
// verifiers, so it must not be logged. If r is empty, so is the form.
func (r ReplicaRecord) Export() []byte {
	if r.r == nil {
		return nil
	}
	return r.get().Encode()
}

// ParseReplicaRecord reads what [ReplicaRecord.Export] returned.
//
// It returns [ErrInvalidRecord], or [ErrNewerFormat] if a later version made the form.
func ParseReplicaRecord(b []byte) (ReplicaRecord, error) {
	c, err := record.DecodeCopy(b)
	switch {
	case errors.Is(err, record.ErrNewer):
		err = fmt.Errorf("%w: %w", ErrNewerFormat, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrInvalidRecord, err)
	}
	if err != nil {
		return ReplicaRecord{}, wrapf(err, "parse a record of another replica")
	}
	return ReplicaRecord{conceal(replicaRecord{Copy: c})}, nil
}

// Format keeps the record out of anything that prints it.
func (r ReplicaRecord) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.ReplicaRecord") }

func (r ReplicaRecord) get() (none replicaRecord) {
	if r.r == nil {
		return none
	}
	return r.r()
}

// Records yields the users, keys, groups and tombstones that commits after since have changed, each
// once, as it is now, in the order of its last change. A record that changes while Records runs is
// left to the next call. To go on later, pass the cursor of the last record that was yielded.
// [Store.Wait] waits for news; see [Tx.Sequence].
//
// No transaction is open while the body of the loop runs, so a slow reader holds nobody up, and the
// body may call the store. All changes of the largest commit must fit in memory, without records.
//
// Keys with scopes that begin with "latchkey:" stay in the store. Tag secrets travel by
// [Store.DomainSecrets], and last uses by [Store.LastUses]. The rest of a store does not travel.
// The first call writes that the domain has several stores, because from then on the store must
// keep what merging needs.
//
// A damaged record does not keep back the others: Records leaves it out, and yields [ErrCorrupt] in
// the end. An error, also [ErrReadOnly] or one of [Store.Update], is yielded once, as the last
// element.
func (s *Store) Records(ctx context.Context, since RecordCursor) iter.Seq2[ReplicaRecord, error] {
	return func(yield func(ReplicaRecord, error) bool) {
		after := merge.Position(since) // a second loop begins where the first one did
		damage, err := error(nil), s.share(ctx)
		end := uint64(0)
		if err == nil {
			err = s.View(ctx, func(tx *Tx) error { end = tx.Sequence(); return nil })
		}
		for err == nil {
			var changes []merge.Change
			changes, err = read(ctx, s, func(tx *Tx) ([]merge.Change, error) { return tx.tables().ChangesAfter(after, end, pageSize) })
			if len(changes) == 0 {
				break
			}
			for chunk := range slices.Chunk(changes, pageSize) {
				var page []merge.Copied
				page, err = read(ctx, s, func(tx *Tx) (page []merge.Copied, err error) {
					page, damaged, err := tx.tables().Copies(s.domain.ID, chunk)
					damage = cmp.Or(damage, damaged)
					return page, recordError(err)
				})
				for _, c := range page {
					if !yield(ReplicaRecord{conceal(replicaRecord{c.Copy, c.At})}, nil) {
						return
					}
				}
				if err != nil {
					break
				}
			}
			after = merge.Position{Sequence: changes[len(changes)-1].Sequence}
		}
		if err = cmp.Or(err, recordError(damage)); err != nil {
			yield(ReplicaRecord{}, wrapf(err, "records after %d", since.Sequence))
		}
	}
}

// LastUses yields the last uses of tokens since a time, for [Store.Merge] of another store, in the
// order of their keys. It first writes those that are not on disk yet.
//
// An error, one of [Store.Update], is yielded once, as the last element.
func (s *Store) LastUses(ctx context.Context, since time.Time) iter.Seq2[ReplicaRecord, error] {
	return func(yield func(ReplicaRecord, error) bool) {
		if err := s.canWait(); err == nil && s.lastUses.every > 0 {
			if err := s.writeLastUses(ctx); err != nil {
				yield(ReplicaRecord{}, wrapf(err, "last uses"))
				return
			}
		}
		list := func(tx *Tx, after string) iter.Seq2[ReplicaRecord, error] {
			return func(yield func(ReplicaRecord, error) bool) {
				tx.tables().LastUses(s.domain.ID, after, since)(func(c record.Copy, err error) bool {
					return yield(ReplicaRecord{conceal(replicaRecord{Copy: c})}, recordError(err))
				})
			}
		}
		inPages(ctx, s, "last uses", "", list, func(r ReplicaRecord) string { return string(r.get().Key) })(yield)
	}
}
