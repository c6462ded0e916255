// Package migrate copies a store from one engine to another, for example from a file to etcd.
//
//	from, err := latchkey.OpenBoltEngine("keys.db", &latchkey.Options{ReadOnly: true})
//	to, err := latchkey.OpenBoltEngine("copy.db", nil)
//	report, err := migrate.Copy(ctx, from, to, nil)
//	store, err := latchkey.OpenWith(to, nil)
//
// # What it promises
//
// The copy has every entry of the store, with the tokens, the deleted keys and the records of
// applications. When everything is copied, [Copy] reads the copy again and compares digests. Only
// then the copy becomes a store. Before that, opening it returns [latchkey.ErrUnfinished]. A
// copying that was cut short goes on when Copy is called again, and what is there already is not
// written again.
//
// The copy is another replica of the domain, as a restored backup is, and knows that there are
// others. Its engine numbers its commits anew, so the copy of a hub does not get what the hub has
// noted about the commits of the store. The edges of a hub compare what they have with the copy,
// and follow it from then on.
//
// The store must not change meanwhile. A file that is open for reading only cannot change. On any
// other engine, Copy returns [ErrChanged] when it sees another commit. Afterwards nobody should use
// the old store any more, because a key that is disabled in one of the two stays good in the other.
package migrate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
)

var (
	// ErrChanged means that the store was changed while it was being copied. Stop the programs that
	// write to it, and copy again. Entries that are there already are not copied again.
	ErrChanged = errors.New("the store was changed while it was being copied")
	// ErrNotEmpty means that the engine for the copy has something else already: a store, or the
	// unfinished copy of another store. It stays as it is.
	ErrNotEmpty = errors.New("the place for the copy is not empty")
	// ErrTakenOver means that another call of [Copy] has begun to copy to the same place. That call
	// goes on.
	ErrTakenOver = errors.New("another copying to the same place has begun")
	// ErrDiffers means that the copy does not have what was written to it. The copy stays
	// unfinished. Look for the fault in the engine or its disk.
	ErrDiffers = errors.New("the copy differs from what was written to it")
)

// Options changes how a store is copied. A nil *Options, or one with only zero fields, is the
// default.
type Options struct {
	// Progress is called after each step. It must return soon.
	Progress func(Progress)

	// DryRun makes [Copy] only look whether it can copy, and count. Nothing is written.
	DryRun bool
}

// Progress says how far [Copy] has come.
type Progress struct {
	Comparing   bool   // everything is copied, and the copy is being read again
	Done, Total uint64 // entries
}

// Report says what [Copy] has done.
type Report struct {
	Entries uint64 // of the copy; after a dry run, of the store
	Bytes   uint64 // in the keys and values of the entries
	Written uint64 // entries that this call wrote or deleted
	Resumed bool   // the call went on with an unfinished copy
	// Digest is the digest of the entries as the copy has them, without the record of the replica.
	// It is zero after a dry run.
	Digest Digest
}

// The bounds of one transaction. An engine that bounds its transactions may have a lower bound of
// the entries.
const (
	maxEntries = 10_000
	maxBytes   = 1 << 20
)

// Copy copies the store in from to the engine to, which must be empty or have an unfinished copy of
// the same store. Nothing else may use to before Copy returns. Copy closes neither of the engines.
// The store that was copied is as it was.
//
// Errors: [ErrChanged]; [ErrNotEmpty]; [ErrTakenOver]; [ErrDiffers]; [fs.ErrNotExist] if there is
// no store in from; [latchkey.ErrUnfinished] if from has an unfinished copy; [latchkey.ErrCorrupt]
// or [latchkey.ErrNewerFormat] if the store cannot be read; [latchkey.ErrCommitUnknown]; another
// error of an engine; ctx's error.
func Copy(ctx context.Context, from, to latchkey.Engine, opts *Options) (Report, error) {
	c := copying{from: from, to: to, maxWrites: maxEntries, run: uuid.New()}
	if opts != nil {
		c.opts = *opts
	}
	if b, ok := to.(latchkey.EngineBounder); ok {
		c.maxWrites = min(maxEntries, b.MaxWrites())
	}
	from.Track(record.TrackedTables()...)
	to.Track(record.TrackedTables()...)
	err := c.all(ctx)
	if err != nil {
		err = fmt.Errorf("copy the store: %w", err)
	}
	return c.report, err
}

// copying is one call of Copy.
type copying struct {
	from, to  latchkey.Engine
	opts      Options
	maxWrites int
	run       uuid.UUID // of this call

	meta   *record.Meta // of the store
	format []byte       // the record of the format
	at     commit       // of the store
	total  int64        // entries
	report Report
}

// commit names one state of an engine.
type commit struct {
	sequence uint64
	random   [8]byte
}

func commitOf(ctx context.Context, e latchkey.Engine) (c commit, err error) {
	c.sequence, c.random, err = e.Commit(ctx)
	return c, err
}

func (c *copying) all(ctx context.Context) error {
	if err := c.look(ctx); err != nil {
		return err
	}
	if c.opts.DryRun {
		c.report.Entries = uint64(c.total)
		return c.to.View(ctx, c.mayBegin)
	}
	if err := c.begin(ctx); err != nil {
		return err
	}
	for _, table := range record.Tables() {
		if err := c.table(ctx, table); err != nil {
			return err
		}
	}
	if err := c.compare(ctx); err != nil {
		return err
	}
	return c.finish(ctx)
}

// look reads what the store is, and how much it has.
func (c *copying) look(ctx context.Context) (err error) {
	if c.at, err = commitOf(ctx, c.from); err != nil {
		return err
	}
	return c.from.View(ctx, func(tx latchkey.EngineTx) (err error) {
		get := func(key []byte) ([]byte, error) { return tx.Get(record.TableMeta, key) }
		if c.meta, err = record.ReadMeta(get); err != nil {
			return storeError(err)
		}
		if c.meta == nil {
			mark, err := get([]byte(record.MetaMigration))
			if err == nil && mark != nil {
				err = latchkey.ErrUnfinished
			}
			return cmp.Or(err, fmt.Errorf("%w: there is no store to copy", fs.ErrNotExist))
		}
		if c.format, err = get([]byte(record.MetaFormat)); err != nil {
			return err
		}
		c.total = -ownEntries
		for _, table := range record.Tables() {
			n, err := tx.Count(table)
			if err != nil {
				return err
			}
			c.total += int64(n)
		}
		return nil
	})
}

// storeError returns an error of package record as callers know it.
func storeError(err error) error {
	switch {
	case errors.Is(err, record.ErrDamaged):
		return fmt.Errorf("%w: %w", latchkey.ErrCorrupt, err)
	case errors.Is(err, record.ErrNewer):
		return fmt.Errorf("%w: %w", latchkey.ErrNewerFormat, err)
	}
	return err
}

// mayBegin returns ErrNotEmpty unless a copying to the engine of tx may begin or go on.
func (c *copying) mayBegin(tx latchkey.EngineTx) error {
	m, err := readMark(tx)
	if err != nil {
		return err
	}
	c.report.Resumed = m.replica != uuid.Nil
	switch {
	case m.replica == c.meta.Replica.ID:
		return nil
	case c.report.Resumed:
		return fmt.Errorf("%w: there is an unfinished copy of another store", ErrNotEmpty)
	}
	for _, table := range record.Tables() {
		for _, err := range tx.Scan(table, nil, nil) {
			return cmp.Or(err, ErrNotEmpty)
		}
	}
	return nil
}

// begin marks the engine as one that has an unfinished copy.
func (c *copying) begin(ctx context.Context) error {
	return c.to.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := c.mayBegin(tx); err != nil {
			return err
		}
		return mark{run: c.run, replica: c.meta.Replica.ID}.write(tx)
	})
}

// table makes a table of the copy the same as the one of the store.
func (c *copying) table(ctx context.Context, table string) error {
	for r := (span{table: table}); !r.last; r.from = r.to {
		entries, err := c.read(ctx, c.from, c.at, c.maxWrites, &r)
		if err == nil && table == record.TableReplica {
			entries, err = renumbered(entries)
		}
		if err != nil {
			return err
		}
		for more := true; more; {
			if more, err = c.write(ctx, r, entries); err != nil {
				return err
			}
		}
		for _, e := range entries {
			c.report.Entries++
			c.report.Bytes += uint64(len(e.Key) + len(e.Value))
			c.report.Digest.add(table, e)
		}
		c.progress(Progress{Done: c.report.Entries, Total: uint64(c.total)})
	}
	return nil
}

// renumbered returns entries of the table replica without the numbers of commits.
func renumbered(entries []latchkey.Entry) (kept []latchkey.Entry, err error) {
	for _, e := range entries {
		if e.Value, err = record.Renumbered(e.Key, e.Value); err != nil {
			return nil, storeError(err)
		}
		if e.Value != nil {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

func (c *copying) progress(p Progress) {
	if c.opts.Progress != nil {
		p.Done = min(p.Done, p.Total)
		c.opts.Progress(p)
	}
}

// A span is the part of a table with from ≤ key < to. The last one has no to.
type span struct {
	table    string
	from, to []byte
	last     bool
}

// read reads the entries of the next span, which is large enough for most entries or maxBytes, and
// ends the span there. The engine must still be at a commit.
func (c *copying) read(ctx context.Context, e latchkey.Engine, at commit, most int, r *span) (entries []latchkey.Entry, err error) {
	err = e.View(ctx, func(tx latchkey.EngineTx) error {
		entries, r.to, r.last = nil, nil, true
		if tx.Sequence() != at.sequence {
			return ErrChanged
		}
		size := 0
		for entry, err := range tx.Scan(r.table, r.from, nil) {
			if err != nil {
				return err
			}
			size += len(entry.Key) + len(entry.Value)
			if len(entries) > 0 && (size > maxBytes || len(entries) == most) {
				r.to, r.last = entry.Key, false
				return nil
			}
			if !isOwn(r.table, entry.Key) {
				entries = append(entries, entry)
			}
		}
		return nil
	})
	return entries, err
}

// ownEntries is how many entries of a store are its own: the format and the replica.
const ownEntries = 2

// isOwn reports whether each of the two engines has an entry of its own under a key. The format is
// written with the last commit.
func isOwn(table string, key []byte) bool {
	switch string(key) {
	case record.MetaFormat, record.MetaReplica, record.MetaMigration:
		return table == record.TableMeta
	}
	return false
}

// write deletes what a span of the copy has too much, or else writes what the span lacks. It
// reports whether there can be more to do, because one transaction does not take everything.
func (c *copying) write(ctx context.Context, r span, entries []latchkey.Entry) (more bool, err error) {
	written := 0
	err = c.to.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := c.isOurs(tx); err != nil {
			return err
		}
		missing, tooMany, err := differences(tx, r, entries)
		if err != nil {
			return err
		}
		more, written = len(tooMany) > 0, 0
		for _, key := range tooMany[:min(len(tooMany), c.maxWrites, maxBytes/latchkey.MaxEngineKey)] {
			if err := tx.Delete(r.table, key); err != nil {
				return err
			}
			written++
		}
		if more {
			return nil
		}
		for _, e := range missing {
			if err := tx.Put(r.table, e.Key, e.Value); err != nil {
				return err
			}
			written++
		}
		return nil
	})
	if err == nil {
		c.report.Written += uint64(written)
	}
	return more, err
}

// differences returns the entries that a span lacks, and the keys that it has too much.
func differences(tx latchkey.EngineTx, r span, want []latchkey.Entry) (missing []latchkey.Entry, tooMany [][]byte, err error) {
	for e, err := range tx.Scan(r.table, r.from, r.to) {
		if err != nil {
			return nil, nil, err
		}
		if isOwn(r.table, e.Key) {
			continue
		}
		for len(want) > 0 && bytes.Compare(want[0].Key, e.Key) < 0 {
			missing, want = append(missing, want[0]), want[1:]
		}
		if len(want) == 0 || !bytes.Equal(want[0].Key, e.Key) {
			tooMany = append(tooMany, e.Key)
			continue
		}
		if !bytes.Equal(want[0].Value, e.Value) {
			missing = append(missing, want[0])
		}
		want = want[1:]
	}
	return append(missing, want...), tooMany, nil
}

// compare reads the copy again, and compares its digest with the one of the store.
func (c *copying) compare(ctx context.Context) error {
	at, err := commitOf(ctx, c.to)
	if err != nil {
		return err
	}
	has, n := Digest{}, uint64(0)
	for _, table := range record.Tables() {
		for r := (span{table: table}); !r.last; r.from = r.to {
			entries, err := c.read(ctx, c.to, at, math.MaxInt, &r)
			if errors.Is(err, ErrChanged) {
				err = ErrTakenOver
			}
			if err != nil {
				return err
			}
			for _, e := range entries {
				n++
				has.add(table, e)
			}
			c.progress(Progress{Comparing: true, Done: n, Total: uint64(c.total)})
		}
	}
	if n != c.report.Entries || has != c.report.Digest {
		return fmt.Errorf("%w: it has %d entries with the digest %s, in place of %d with the digest %s",
			ErrDiffers, n, has, c.report.Entries, c.report.Digest)
	}
	return nil
}

// finish makes a store of the copy. The store is a replica of its own.
func (c *copying) finish(ctx context.Context) error {
	at, err := commitOf(ctx, c.from)
	if err == nil && at != c.at {
		err = ErrChanged
	}
	if err != nil {
		return err
	}
	replica := record.Replica{ID: uuid.New(), Shared: true}
	return c.to.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := c.isOurs(tx); err != nil {
			return err
		}
		if err := putMeta(tx, record.MetaReplica, replica.Encode()); err != nil {
			return err
		}
		if err := tx.Put(record.TableMeta, []byte(record.MetaFormat), c.format); err != nil {
			return err
		}
		return tx.Delete(record.TableMeta, []byte(record.MetaMigration))
	})
}
