package boltengine

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
	"runtime"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// This file makes, backs up and reopens the file of an engine. A new file is first written whole
// under another name and synced, so that a power cut leaves the old state or the new.

// compactSuffix ends the name of the file that a compaction writes beside the store's file. A crash
// may leave that file behind. The next opening removes it.
const compactSuffix = ".compact"

// checkRegular returns an error if path is not a regular file. Opening a pipe could take for ever.
func checkRegular(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is %s", ErrNotStore, durable.Kind(info.Mode()))
	}
	return err
}

// OpenRegular opens a regular file for reading. For anything else it returns [ErrNotStore].
func OpenRegular(path string) (*os.File, error) {
	if err := checkRegular(path); err != nil {
		return nil, err
	}
	return durable.OpenFile(path, os.O_RDONLY)
}

// LockNow takes bbolt's lock on f, without waiting.
//
// Errors: [ErrLocked]; the operating system's error.
func LockNow(f *os.File) error {
	locked, err := durable.Lock(f, -1)
	if err == nil && !locked {
		err = ErrLocked
	}
	return err
}

// createFile makes a file that has nothing but the marker. If another process has made the file
// meanwhile, the file of that process stays.
func createFile(path string) error {
	err := durable.Create(path, func(tmp *os.File) error { return Init(tmp.Name()) })
	if errors.Is(err, fs.ErrExist) {
		return durable.SyncDir(filepath.Dir(path)) // the other process may not have done so yet
	}
	return err
}

// newEngine makes an empty bbolt file, and opens it as an engine for its caller alone.
func newEngine(path string) (*Engine, error) {
	e := newClosedEngine(path)
	settings := defaultSettings()
	settings.InitialMmapSize = 0 // it is small, and grows when nobody reads it
	if runtime.GOOS == "windows" {
		settings.InitialMmapSize = newMapSize
	}
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
	e.db.AllocSize = allocSize
	return e, nil
}

// Init turns an empty file into a bbolt file that has nothing but the marker.
func Init(path string) error {
	e, err := newEngine(path)
	if err != nil {
		return err
	}
	err = e.health.guard(stuckWriters, func() error { return e.db.Update(setMarker) })
	if releaseErr := e.release(); err == nil {
		err = releaseErr
	}
	return translate(err)
}

// rewriteLastMeta makes the readable contents and the name of the file durable. A process that was
// killed may have left data that it had not synced. After a failed sync, Linux shows data that
// never reached the disk, and does not write it unless a program writes it again. Of such data only
// the meta page of the last commit counts, because the pages that it leads to were synced before.
// So rewriteLastMeta writes that page again, and syncs it.
func (e *Engine) rewriteLastMeta() error {
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

// WriteBackup writes the file, as it is at one moment, to w.
//
// While w takes its time, a writer can end the transaction that WriteBackup reads.
func (e *Engine) WriteBackup(ctx context.Context, w io.Writer) error {
	return e.viewLong(ctx, func(l *longReader) error {
		pages, size, err := l.metaPages()
		if err != nil {
			return err
		}
		out := &contextWriter{ctx: ctx, w: w}
		if _, err := out.Write(pages); err != nil {
			return err
		}
		buf := make([]byte, backupChunk)
		for at := int64(len(pages)); at < size; at += int64(len(buf)) {
			buf = buf[:min(backupChunk, size-at)]
			if err := l.readPages(buf, at); err != nil {
				return err
			}
			if _, err := out.Write(buf); err != nil {
				return err
			}
		}
		return nil
	})
}

// readPages fills buf with pages of the file, from at on.
func (l *longReader) readPages(buf []byte, at int64) error {
	return l.read(func() error {
		_, err := l.r.file.ReadAt(buf, at)
		if err == io.EOF {
			err = corrupt("the file is cut short")
		}
		return err
	})
}

// CopyBackup copies a backup, which [Engine.WriteBackup] has written, from r to w.
//
// Errors: [ErrCorrupt] if there is nothing to copy; ctx's error; r's error; w's error.
func CopyBackup(ctx context.Context, w io.Writer, r io.Reader) error {
	n, err := io.Copy(&contextWriter{ctx: ctx, w: w}, r)
	if err == nil && n == 0 {
		err = corrupt("the backup is empty")
	}
	return err
}

// contextWriter writes to w until ctx ends. It is for one call, and ctx is the context of that
// call.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w *contextWriter) Write(p []byte) (n int, err error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err = w.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// backupChunk is how many bytes WriteBackup writes at once.
const backupChunk = 128 << 10

// metaPages returns the meta pages of a copy of the file, as l sees it, and the size of the copy.
//
// It puts each meta page where its commit belongs: the page of the even commit first. bbolt writes
// the page of the last commit first. If that is an odd commit, the next commit would write over the
// page of the last commit, and leave the page of the commit before.
func (l *longReader) metaPages() (pages []byte, size int64, err error) {
	w := headWriter{}
	err = l.read(func() error {
		return contain(func() error {
			size = l.r.tx.Size()
			_, err := l.r.tx.WriteTo(&w)
			return err
		})
	})
	const two = 2 * boltpage.PageSize
	if len(w.head) < two {
		return nil, 0, err
	}
	last, before := w.head[:boltpage.PageSize], w.head[boltpage.PageSize:two]
	pages = slices.Concat(last, before)
	if m, _ := boltpage.ReadMeta(bytes.NewReader(w.head)); m.Commit%2 == 1 {
		pages = slices.Concat(before, last)
	}
	for id := range uint64(2) {
		binary.LittleEndian.PutUint64(pages[id*boltpage.PageSize:], id)
	}
	return pages, size, nil
}

// headWriter takes the meta pages, and nothing more.
type headWriter struct{ head []byte }

func (w *headWriter) Write(p []byte) (int, error) {
	if len(w.head) >= 2*boltpage.PageSize {
		return 0, io.ErrShortWrite
	}
	w.head = append(w.head, p...)
	return len(p), nil
}

// reopen opens the file again, for an engine that has lost its map and whose last commit is known.
// If reopen fails, or if it finds another file or another last commit, the engine neither reads nor
// writes from then on.
func (e *Engine) reopen(commit int) {
	e.gate.lock()
	defer e.gate.unlock()
	if err := e.reopenLocked(commit); err != nil {
		e.health.failReads(err)
	}
}

func (e *Engine) reopenLocked(commit int) error {
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
	e.lastCommit.Store(&knownCommit{e.db, commit, mark})
	return nil
}

// checkReopened returns an error unless the file is the one that was open before, and has the same
// last commit.
func (e *Engine) checkReopened(before fs.FileInfo, commit int) (boltpage.Mark, error) {
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
	return mark, translate(err)
}
