package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// A compaction makes nobody wait. It copies the state of one moment to a new file, while others
// write. The engine notes their changes, and the compaction makes these in the new file, too. Only
// for the last few of them, and to put the new file in place, does it take the turn.

// maxMissed bounds how many bytes of changes an engine notes for a compaction.
var maxMissed = 16 << 20

// fewMissed is how many bytes of changes a compaction makes while it has the turn. They take no
// longer than a commit, nearly all of which is its syncs.
const fewMissed = 64 << 10

// missedWrites is the changes that were committed since a compaction began to copy, and that the
// new file lacks.
type missedWrites struct {
	mu       sync.Mutex
	writes   []write
	mark     boltpage.Mark // of the last commit
	size     int
	overflow bool // there were more changes than maxMissed
}

// add notes the changes of a commit.
func (m *missedWrites) add(writes *writes, mark boltpage.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark = mark
	for i := range writes.len() {
		w := writes.at(i)
		if w.old != nil {
			w.old = []byte{} // nobody undoes the write
		}
		m.size += len(w.table) + len(w.key) + len(w.value)
		if m.overflow = m.overflow || m.size > maxMissed; m.overflow {
			m.writes = nil
			return
		}
		m.writes = append(m.writes, w)
	}
}

// few reports whether so few changes are left that a compaction can make them with the turn.
func (m *missedWrites) few() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size <= fewMissed && !m.overflow
}

// take returns the changes, and the mark of the last commit, and forgets the changes.
//
// Errors: [ErrInterrupted] if there were too many.
func (m *missedWrites) take() ([]write, boltpage.Mark, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.overflow {
		return nil, m.mark, fmt.Errorf("%w: more than %d MiB were written meanwhile", ErrInterrupted, maxMissed>>20)
	}
	writes := m.writes
	m.writes, m.size = nil, 0
	return writes, m.mark, nil
}

// Compact copies the pages in use to a new file, and puts it in the place of the old file. Readers
// and writers go on meanwhile.
func (e *Engine) Compact(ctx context.Context) error {
	if e.health.readOnly {
		return ErrReadOnly
	}
	if err := e.compacting.lockWithin(ctx); err != nil {
		return err
	}
	defer e.compacting.unlock()
	path := durable.Beside(e.path, compactSuffix)
	r, missed, err := e.beginCompaction(ctx)
	if err != nil {
		return err
	}
	defer e.endCompaction()
	defer e.removeUnlessAside(path)
	if err := e.copyTo(ctx, r, path); err != nil {
		return e.copyError(ctx, translate(err))
	}
	db, file, err := openDB(path, reopenSettings())
	if err != nil {
		return e.copyError(ctx, err)
	}
	dst := newClosedEngine(path)
	dst.db, dst.file = db, file
	defer dst.release()
	if err := dst.catchUp(ctx, missed); err != nil {
		return err
	}
	return e.finishCompaction(ctx, dst, missed)
}

// beginCompaction begins to read what is to be copied, and to note the changes that are committed
// from then on. If it returns no error, the caller must call endRead and endCompaction.
func (e *Engine) beginCompaction(ctx context.Context) (r reader, missed *missedWrites, err error) {
	if err := e.takeTurn(ctx); err != nil {
		return r, nil, err
	}
	defer e.endTurn()
	e.commitBatch()
	if err := e.checkReplaceable(); err != nil {
		return r, nil, err
	}
	if r, err = e.beginRead(ctx); err != nil {
		return r, nil, translate(err)
	}
	e.missed.Store(&missedWrites{})
	return r, e.missed.Load(), nil
}

// endCompaction ends the noting of changes.
func (e *Engine) endCompaction() { e.missed.Store(nil) }

// checkReplaceable returns an error if the file may not be replaced, to the holder of the turn.
func (e *Engine) checkReplaceable() error {
	// Among others, an engine that is stuck is refused here, because it could not close the old
	// file.
	if err := e.health.canWrite(); err != nil {
		return err
	}
	if err := e.openAgain(); err != nil {
		return err
	}
	err := e.compareFile()
	e.failChanged(err)
	return err
}

// catchUp makes changes in the file of a compaction until few are left, or as many come as it
// makes.
func (dst *Engine) catchUp(ctx context.Context, missed *missedWrites) error {
	for range 16 {
		if missed.few() {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := dst.makeMissed(missed); err != nil {
			return err
		}
	}
	return nil
}

// makeMissed makes and syncs the changes that the file of a compaction lacks.
func (dst *Engine) makeMissed(missed *missedWrites) error {
	writes, mark, err := missed.take()
	if err != nil || len(writes) == 0 {
		return err
	}
	err = dst.health.guard(stuckWriters, func() error {
		return unguarded(dst.db, dst.file, func() error { return dst.makeWrites(writes, mark) })
	})
	return translate(err)
}

func (dst *Engine) makeWrites(writes []write, mark boltpage.Mark) error {
	dst.db.NoSync = true // once, at the end
	defer func() { dst.db.NoSync = false }()
	err := dst.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range writes {
			if err := w.apply(tx); err != nil {
				return err
			}
		}
		_, err := writeMark(tx, mark.Sequence, mark.Random)
		return err
	})
	if err != nil {
		return err
	}
	if err := dst.db.Update(setMarker); err != nil { // see fill
		return err
	}
	return dst.db.Sync()
}

// finishCompaction puts the file of a compaction in the place of the engine's file. Where no open
// file can be replaced, finishCompaction needs a moment at which nobody reads, and no other program
// has the file open. It looks for such a moment for two seconds, and makes nobody wait meanwhile.
func (e *Engine) finishCompaction(ctx context.Context, dst *Engine, missed *missedWrites) error {
	giveUp := time.NewTimer(2 * time.Second)
	defer giveUp.Stop()
	for {
		err := e.tryFinishCompaction(ctx, dst, missed)
		again := make(<-chan struct{})
		switch {
		case errors.Is(err, errReadersLast):
			again = e.noReaders()
		case !durable.IsBusy(err) || dst.db == nil:
			return err
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-again:
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-giveUp.C:
			return err
		}
	}
}

// noReaders returns a channel that is closed as soon as nobody reads the file.
func (e *Engine) noReaders() <-chan struct{} {
	e.gate.lock()
	defer e.gate.unlock()
	return e.readers.none()
}

func (e *Engine) tryFinishCompaction(ctx context.Context, dst *Engine, missed *missedWrites) error {
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	defer e.endTurn()
	e.commitBatch()
	if err := e.checkReplaceable(); err != nil {
		return err
	}
	if err := dst.makeMissed(missed); err != nil {
		return err
	}
	return e.replaceBy(dst)
}

// copyError returns what is wrong after a copy failed with err. If err says that there is damage,
// it may be in the store, or only in the copy, if the disk loses what is written to it.
func (e *Engine) copyError(ctx context.Context, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return durable.Named(err, e.path)
	}
	for finding := range e.CheckEngine(ctx) {
		return finding
	}
	return fmt.Errorf("the copy is damaged, the store is not: %v", err)
}

// copyTo makes a bbolt file at path, which has the entries that r sees, and ends r.
func (e *Engine) copyTo(ctx context.Context, r reader, path string) error {
	l := e.newLongReader(r)
	defer l.end()
	if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// bbolt would follow a link, or take over a file, that somebody has put there meanwhile.
	f, err := durable.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_ = f.Chmod(0o600) // a strict umask may keep the owner from opening it once more
	durable.CopyAccess(f, e.path)
	if err := f.Close(); err != nil {
		return err
	}
	dst, err := newEngine(path)
	if err != nil {
		return err
	}
	err = dst.health.guard(stuckWriters, func() error { return dst.fill(ctx, l) })
	if releaseErr := dst.release(); err == nil {
		err = releaseErr
	}
	return err
}

// fill copies the entries that src sees to dst, which is empty.
func (dst *Engine) fill(ctx context.Context, src *longReader) error {
	dst.db.NoSync = true // once, at the end
	if err := copyTables(ctx, src, dst.db); err != nil {
		return err
	}
	// One more commit, so that both meta pages are of a state that has everything. It also writes
	// another copy of the root, where the domain's secrets are. Without them nothing can be
	// salvaged.
	if err := dst.db.Update(setMarker); err != nil {
		return err
	}
	return dst.db.Sync()
}

// copyTables copies all entries that src sees to dst, in transactions of bounded size. It reads
// only pages that it has checked.
func copyTables(ctx context.Context, src *longReader, dst *bbolt.DB) error {
	var tables *boltpage.Tables
	var mark boltpage.Mark
	err := src.read(func() error {
		return readPages(func() (err error) {
			tables = newTables(src.r.tx, nil)
			mark, err = tables.Mark(commitOf(src.r.tx))
			return err
		})
	})
	if err != nil {
		return err
	}
	err = dst.Update(func(tx *bbolt.Tx) error {
		_, err := writeMark(tx, mark.Sequence, mark.Random)
		return err
	})
	if err != nil {
		return err
	}
	names := scanPages(tables.FindTable, nil)
	for {
		table, err := src.readNext(names)
		if err != nil || table.Key == nil {
			return err
		}
		if string(table.Key) == boltpage.Marker {
			continue
		}
		var tally boltpage.Tally
		err = src.read(func() error {
			return readPages(func() (err error) {
				tally, err = tables.Tally(string(table.Key))
				return err
			})
		})
		if err != nil {
			return err
		}
		find := func(key []byte) (boltpage.Node, []byte, error) { return tables.Find(string(table.Key), key) }
		next := scanPages(find, nil)
		if err := copyTable(ctx, dst, table.Key, tally, func() (Entry, error) { return src.readNext(next) }); err != nil {
			return err
		}
	}
}

func copyTable(ctx context.Context, dst *bbolt.DB, name []byte, tally boltpage.Tally, next func() (Entry, error)) error {
	const perTx = 4 << 20
	entry, err := next()
	if err != nil {
		return err
	}
	for entry.Key != nil {
		err := dst.Update(func(tx *bbolt.Tx) error {
			out, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			out.FillPercent = 0.9 // the entries come in order
			if err := out.SetSequence(uint64(tally)); err != nil {
				return err
			}
			for n := 0; entry.Key != nil && n < perTx; {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := out.Put(entry.Key, entry.Value); err != nil {
					return err
				}
				n += len(entry.Key) + len(entry.Value)
				if entry, err = next(); err != nil {
					return err
				}
			}
			return setMarker(tx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
