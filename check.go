package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/check"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Check reads everything in the store, and yields everything that is wrong: damaged pages of the
// file, records that do not match their checksum, indexes that disagree with records, and broken
// rules. Each finding is an error that wraps [ErrCorrupt], or [ErrNewerFormat] for a record of a
// later version. If there is no finding, the store is sound. If a page cannot be read, Check goes
// on after it, and compares nothing with the page. Logins and writes go on meanwhile.
//
// If Check cannot go on to the end, the last element wraps [ErrClosed], [ErrInTransaction], ctx's
// error, or [ErrInterrupted] if the file has outgrown its map (see [Store.View]). Then call Check
// again.
func (s *Store) Check(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		if err := s.canWait(); err != nil {
			yield(wrapf(err, "check"))
			return
		}
		for err := range s.engineFindings(ctx) {
			if !yield(err) || !errors.Is(err, ErrCorrupt) {
				return
			}
		}
		// Not by View, because the body of the caller's loop may call the store.
		err := s.viewLong(ctx, func(tx *Tx) error {
			return tx.eachFinding(ctx, func(f check.Finding) error {
				if !yield(f.Err) {
					return errStopped
				}
				return nil
			})
		})
		if err != nil && err != errStopped {
			yield(wrapf(err, "check"))
		}
	}
}

// errStopped means that the caller of Check has left the loop.
var errStopped = errors.New("stopped")

// engineFindings yields the findings of the engine about itself, if the engine can check itself.
func (s *Store) engineFindings(ctx context.Context) iter.Seq[error] {
	if e, ok := s.engine.(EngineChecker); ok {
		return e.CheckEngine(ctx)
	}
	return func(func(error) bool) {}
}

// Repair makes again, in one transaction, everything that [Store.Check] finds wrong and that can be
// derived from the records: indexes, and the engine's numbering of its commits. It returns the
// number of repaired findings. A user, key or group with a record that is older than its last
// change is disabled, because that change may have disabled or deleted it. A damaged record, and
// anything else that cannot be derived, stays as it is. [Store.Check] still yields it, and
// [Salvage] takes the whole records to a new file.
//
// Writers wait until Repair has ended. Before the transaction, Repair reads the pages of the file
// and can end with [ErrInterrupted], as [Store.Check] does.
//
// Repair returns [ErrCorrupt] and changes nothing if pages of the engine are damaged, because then
// it cannot find all records. Otherwise it returns an error of [Store.Update].
func (s *Store) Repair(ctx context.Context) (repaired int, err error) {
	for err := range s.engineFindings(ctx) {
		if !errors.Is(err, ErrNumbering) {
			return 0, wrapf(err, "repair")
		}
	}
	repaired, err = write(ctx, s, func(tx *Tx) (n int, err error) {
		if n, err = tx.repairEngine(ctx); err != nil {
			return n, err
		}
		err = tx.eachFinding(ctx, func(f check.Finding) error {
			if f.Fix != check.NoFix {
				n++
			}
			return tx.fix(f)
		})
		return n, err
	})
	s.cache.Clear()
	if err == nil {
		err = s.learnHandles(ctx)
	}
	return repaired, wrapf(err, "repair")
}

// fix puts a finding right, if that is possible.
func (tx *Tx) fix(f check.Finding) error {
	switch f.Fix {
	case check.Put:
		return tx.put(f.Entry.Table, f.Entry.Key, f.Entry.Value)
	case check.Delete:
		return tx.delete(f.Entry.Table, f.Entry.Key)
	case check.DeleteKey:
		return tx.DeleteKey(f.Key.Owner, f.Key.ID)
	}
	return nil
}

// repairEngine repairs the numbering of the engine, and disables what is of an earlier state. It
// returns the number of repaired findings.
func (tx *Tx) repairEngine(ctx context.Context) (repaired int, err error) {
	e, ok := tx.etx.(EngineRepairer)
	if !ok {
		return 0, nil
	}
	repaired, stale, err := e.RepairEngine(ctx)
	for _, entry := range stale {
		if err == nil {
			err = tx.disableStale(entry.Table, entry.Key)
		}
	}
	return repaired, err
}

// disableStale disables the user, key or group of an entry. If the entry cannot be read, there is a
// finding.
func (tx *Tx) disableStale(table string, key []byte) error {
	id, _ := uuid.FromBytes(key)
	switch table {
	case tableUsers:
		u, err := tx.getUser(id)
		if u != nil && tx.setDisabled(&u.Flag, true) {
			return tx.putUser(u)
		}
		return unlessCorrupt(err)
	case tableKeys:
		k, err := tx.getKey(id)
		if k != nil && tx.setDisabled(&k.Flag, true) {
			return tx.putKey(k)
		}
		return unlessCorrupt(err)
	case tableGroups:
		g, err := tx.getGroup(string(key))
		if g != nil && tx.setDisabled(&g.Flag, true) {
			return tx.putRecord(tableGroups, key, g.Encode())
		}
		return unlessCorrupt(err)
	}
	return nil
}

// unlessCorrupt returns nil for ErrCorrupt.
func unlessCorrupt(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}

// eachFinding calls fn with everything that is wrong in the tables, and returns the error that ends
// the search.
func (tx *Tx) eachFinding(ctx context.Context, fn func(check.Finding) error) error {
	report := func(f check.Finding) error {
		// A finding may come of an interruption, because what could not be read looks like
		// something that is not there.
		if _, err := tx.etx.Get(tableMeta, nil); errors.Is(err, ErrInterrupted) {
			return err
		}
		return fn(f)
	}
	for _, err := range tx.inspectDomain() {
		if err := report(check.Finding{Err: err}); err != nil {
			return err
		}
	}
	for f, err := range check.Findings(ctx, tx.checked()) {
		if err == nil {
			f.Err = corrupt(f.Err)
			err = report(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// corrupt returns the error of a finding as one that is ErrCorrupt or ErrNewerFormat.
func corrupt(err error) error {
	switch {
	case errors.Is(err, ErrCorrupt):
		return err
	case errors.Is(err, record.ErrNewer):
		return recordError(err)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// inspectDomain returns what is wrong in the table meta.
func (tx *Tx) inspectDomain() (findings []error) {
	d, err := readDomain(metaRecords(tx.etx))
	switch now := *tx.store.domain; {
	case err != nil:
		findings = append(findings, err)
	case d == nil:
		findings = append(findings, errNoFormat)
	default:
		now.Tags, _ = now.Tags.Take(d.Tags) // the tag secrets may have changed since
		if now.Replica = *tx.store.replica.Load(); tx.store.follower != nil {
			now.Replica = d.Replica // which another process may have just changed
		}
		now.Replica.Shared = now.Replica.Shared || d.Replica.Shared
		if !maps.EqualFunc(d.Records(), now.Records(), bytes.Equal) {
			findings = append(findings, fmt.Errorf("%w: the domain is not the one that the store was opened with", ErrCorrupt))
		}
	}
	if _, err := loadClock(tx.etx); err != nil {
		findings = append(findings, err)
	}
	return findings
}

// checked returns the tables of the store as package check looks at them.
func (tx *Tx) checked() check.Tables {
	skipper, skips := tx.etx.(DamageSkipper)
	return check.Tables{
		Get: tx.etx.Get,
		Scan: func(table string, from []byte) iter.Seq2[check.Entry, error] {
			return func(yield func(check.Entry, error) bool) {
				tx.etx.Scan(table, from, nil)(func(e Entry, err error) bool { return yield(check.Entry(e), err) })
			}
		},
		NextReadable: func(table string, from []byte) []byte {
			if !skips {
				return nil
			}
			return skipper.NextReadable(table, from)
		},
		Verifier: tx.store.checkVerifier,
		Hash: func(key, value []byte) error {
			own, err := decodeHash(key, value)
			if err == nil {
				_, err = parseVerifier(own.PHC)
			}
			return err
		},
		Shared: tx.isShared(), Unfinished: tx.store.isUnfinished(),
	}
}
