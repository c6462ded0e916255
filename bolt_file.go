package latchkey

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// This file makes, backs up, compacts and reopens the file of an engine. A new file is first
// written whole under another name and synced, so that a power cut leaves the old state or the new.

// compactSuffix ends the name of the file that a compaction writes beside the store's file. A crash
// may leave that file behind. The next opening removes it.
const compactSuffix = ".compact"

// checkPath returns an error for a path that cannot be the path of a store.
func checkPath(path string) error {
	if path == "" {
		return wrapf(errNoPath, "open")
	}
	if durable.IsReserved(path) {
		err := fmt.Errorf("%w: Windows keeps the name for a device, or for a stream of a file", ErrNotStore)
		return wrapf(err, "open %s", path)
	}
	return nil
}

// checkRegular returns an error if path is not a regular file. Opening a pipe could take for ever.
func checkRegular(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is %s", ErrNotStore, fileKind(info.Mode()))
	}
	return err
}

// fileKind says what kind of thing is at a path.
func fileKind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "no regular file"
}

// openRegular opens a regular file for reading. For anything else it returns an error.
func openRegular(path string) (*os.File, error) {
	if err := checkRegular(path); err != nil {
		return nil, err
	}
	return durable.OpenFile(path, os.O_RDONLY)
}

// createBoltFile makes a file that has nothing but the marker. If another process has made the file
// meanwhile, the file of that process stays.
func createBoltFile(path string) error {
	err := durable.Create(path, func(tmp *os.File) error { return initBoltFile(tmp.Name()) })
	if errors.Is(err, fs.ErrExist) {
		return durable.SyncDir(filepath.Dir(path)) // the other process may not have done so yet
	}
	return err
}

// newBoltEngine makes an empty bbolt file, and opens it as an engine for its caller alone.
func newBoltEngine(path string) (*boltEngine, error) {
	e := &boltEngine{path: path, gate: newBoltGate()}
	settings := boltSettings()
	settings.InitialMmapSize = 0 // it is small, and grows when nobody reads it
	settings.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = durable.OpenFile(name, flag)
		e.file = f
		return f, err
	}
	err := e.health.guard(stuckWriters, func() (err error) {
		e.db, err = bbolt.Open(path, 0o600, settings)
		return err
	})
	if err != nil {
		_ = e.release() // bbolt has closed the file, unless it panicked
		return nil, err
	}
	e.db.AllocSize = boltAllocSize
	return e, nil
}

// initBoltFile turns an empty file into a bbolt file that has nothing but the marker.
func initBoltFile(path string) error {
	e, err := newBoltEngine(path)
	if err != nil {
		return err
	}
	err = e.health.guard(stuckWriters, func() error { return e.db.Update(setMarker) })
	if releaseErr := e.release(); err == nil {
		err = releaseErr
	}
	return boltError(err)
}

// rewriteLastMeta makes the readable contents and the name of the file durable. A process that was
// killed may have left data that it had not synced. After a failed sync, Linux shows data that
// never reached the disk, and does not write it unless a program writes it again. Of such data only
// the meta page of the last commit counts, because the pages that it leads to were synced before.
// So rewriteLastMeta writes that page again, and syncs it.
func (e *boltEngine) rewriteLastMeta() error {
	last, _ := boltpage.ReadMeta(e.file)
	page, at := make([]byte, boltpage.PageSize), int64(last.Commit%2)*boltpage.PageSize
	if _, err := e.file.ReadAt(page, at); err != nil {
		return err
	}
	if _, err := e.file.WriteAt(page, at); err != nil {
		return err
	}
	if err := e.file.Sync(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(e.path))
}

// WriteBackup writes the file, as it is at one moment, to w. [Store.Backup] calls it.
func (e *boltEngine) WriteBackup(ctx context.Context, w io.Writer) error {
	return e.view(ctx, func(tx *bbolt.Tx, _ *os.File) error {
		out := &contextWriter{ctx: ctx, w: &panicWriter{w: w}}
		err := contain(func() error {
			_, err := tx.WriteTo(&metaWriter{w: out})
			return err
		})
		if p := out.w.(*panicWriter); p.panicked {
			panic(p.value)
		}
		if out.err != nil {
			return out.err // of some errors bbolt keeps only the text
		}
		return err
	})
}

// metaWriter puts each meta page where its commit belongs: the page of the even commit first. bbolt
// writes the page of the last commit first. If that is an odd commit, the next commit would write
// over the page of the last commit, and leave the page of the commit before.
type metaWriter struct {
	w    io.Writer
	head []byte // as much of the meta pages as has come
}

func (w *metaWriter) Write(p []byte) (n int, err error) {
	const size = 2 * boltpage.PageSize
	if len(w.head) == size {
		return w.w.Write(p)
	}
	n = min(len(p), size-len(w.head))
	if w.head = append(w.head, p[:n]...); len(w.head) < size {
		return n, nil
	}
	last, before := w.head[:boltpage.PageSize], w.head[boltpage.PageSize:]
	pages := slices.Concat(last, before)
	if m, _ := boltpage.ReadMeta(bytes.NewReader(w.head)); m.Commit%2 == 1 {
		pages = slices.Concat(before, last)
	}
	for id := range uint64(2) {
		binary.LittleEndian.PutUint64(pages[id*boltpage.PageSize:], id)
	}
	if _, err := w.w.Write(pages); err != nil || n == len(p) {
		return n, err
	}
	more, err := w.w.Write(p[n:])
	return n + more, err
}

// panicWriter catches a panic of a caller's writer, so that it is not taken for a panic of bbolt.
type panicWriter struct {
	w        io.Writer
	panicked bool
	value    any
}

var errPanicked = errors.New("panic")

func (w *panicWriter) Write(p []byte) (n int, err error) {
	w.panicked = true
	defer func() {
		if w.panicked {
			w.value, err = recover(), errPanicked
		}
	}()
	n, err = w.w.Write(p)
	w.panicked = false
	return n, err
}

// contextWriter writes to w until ctx ends. It is for one call, and ctx is the context of that
// call.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
	err error
}

func (w *contextWriter) Write(p []byte) (n int, err error) {
	if w.err = w.ctx.Err(); w.err == nil {
		n, w.err = w.w.Write(p)
	}
	return n, w.err
}

// Compact copies the pages in use to a new file, and puts it in the place of the old file. Writers
// wait meanwhile. Readers do not. [Store.Compact] calls it.
func (e *boltEngine) Compact(ctx context.Context) error {
	if e.health.readOnly {
		return ErrReadOnly
	}
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	defer e.endTurn()
	e.commitBatch()
	// Among others, an engine that is stuck is refused here, because it could not close the old
	// file.
	if err := e.health.canWrite(); err != nil {
		return err
	}
	if err := e.openAgain(); err != nil {
		return err
	}
	if err := e.compareFile(); err != nil {
		e.failChanged(err)
		return err
	}
	compact := durable.Beside(e.path, compactSuffix)
	defer e.removeUnlessAside(compact)
	if err := e.copyTo(ctx, compact); err != nil {
		return e.copyError(boltError(err))
	}
	return e.replaceBy(ctx, compact)
}

// copyError returns what is wrong after a copy failed with err. If err says that there is damage,
// it may be in the store, or only in the copy, if the disk loses what is written to it.
func (e *boltEngine) copyError(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	for finding := range e.CheckEngine(context.Background()) {
		return finding
	}
	return fmt.Errorf("the copy is damaged, the store is not: %v", err)
}

// copyTo makes a bbolt file at path, which has the entries of this one.
func (e *boltEngine) copyTo(ctx context.Context, path string) error {
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
	dst, err := newBoltEngine(path)
	if err != nil {
		return err
	}
	err = dst.health.guard(stuckWriters, func() error { return e.fillCopy(ctx, dst) })
	if releaseErr := dst.release(); err == nil {
		err = releaseErr
	}
	return err
}

// fillCopy copies the entries of e to dst, which is empty.
func (e *boltEngine) fillCopy(ctx context.Context, dst *boltEngine) error {
	dst.db.NoSync = true // once, at the end
	if err := e.copyTables(ctx, dst.db); err != nil {
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

// copyTables copies all entries to dst, in transactions of bounded size. It reads only pages that
// it has checked.
func (e *boltEngine) copyTables(ctx context.Context, dst *bbolt.DB) error {
	return e.view(ctx, func(tx *bbolt.Tx, _ *os.File) error {
		tables := newBoltTables(tx, nil)
		names := scanPages(tables.FindTable, nil)
		for {
			table, err := readNext(names)
			if err != nil || table.Key == nil {
				return err
			}
			find := func(key []byte) (boltpage.Node, []byte, error) { return tables.Find(string(table.Key), key) }
			if err := copyTable(ctx, dst, table.Key, scanPages(find, nil)); err != nil {
				return err
			}
		}
	})
}

func copyTable(ctx context.Context, dst *bbolt.DB, name []byte, next func() (Entry, error)) error {
	const perTx = 4 << 20
	entry, err := readNext(next)
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
			for n := 0; entry.Key != nil && n < perTx; {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := out.Put(entry.Key, entry.Value); err != nil {
					return err
				}
				n += len(entry.Key) + len(entry.Value)
				if entry, err = readNext(next); err != nil {
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

// reopen opens the file again, for an engine that has lost its map and whose last commit is known.
// If reopen fails, or if it finds another file or another last commit, the engine neither reads nor
// writes from then on.
func (e *boltEngine) reopen(commit int) {
	e.gate.lock()
	defer e.gate.unlock()
	if err := e.reopenLocked(commit); err != nil {
		e.health.failReads(err)
	}
}

func (e *boltEngine) reopenLocked(commit int) error {
	before, err := e.file.Stat()
	closeErr := e.releaseLocked()
	if err := errors.Join(err, closeErr); err != nil {
		return err
	}
	if e.db, e.file, err = openDB(e.path, reopenSettings()); err != nil {
		return err
	}
	mark, err := e.checkReopened(before, commit)
	if err != nil {
		closeErr := e.releaseLocked()
		e.db, e.file = nil, nil
		return errors.Join(err, closeErr)
	}
	e.lastCommit.Store(&boltCommit{e.db, commit, mark})
	return nil
}

// checkReopened returns an error unless the file is the one that was open before, and has the same
// last commit.
func (e *boltEngine) checkReopened(before fs.FileInfo, commit int) (boltpage.Mark, error) {
	now, err := e.file.Stat()
	if err != nil {
		return boltpage.Mark{}, err
	}
	if !os.SameFile(before, now) {
		return boltpage.Mark{}, fmt.Errorf("%w: there is another file at %s", ErrFileChanged, e.given)
	}
	mark, err := boltpage.ReadMark(e.file)
	if err == nil && mark.Commit != uint64(commit) {
		err = boltpage.ErrLastLost
	}
	return mark, boltError(err)
}
