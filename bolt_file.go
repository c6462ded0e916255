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
	e := newClosedEngine(path)
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
