package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"go.etcd.io/bbolt"
)

// How the bbolt file comes to be, is copied, and is replaced. In each case a whole file is made under another name,
// synced, and then given its own, so that a power cut leaves the old state or the new.

// compactSuffix names what a compaction writes beside the file. A crash leaves it behind; the next Open removes it.
const compactSuffix = ".compact"

// createBolt makes a file that has nothing but the marker. If another process made the file meanwhile, that one stays.
func createBolt(path string) error {
	err := writeFile(path, false, func(tmp *os.File) error { return fillBolt(tmp.Name()) })
	if errors.Is(err, fs.ErrExist) {
		return syncDir(filepath.Dir(path)) // whoever made it may not have come to that yet
	}
	return err
}

// newBolt makes bbolt's own kind of empty file, as an engine that nobody else knows of.
func newBolt(path string) (*boltEngine, error) {
	e := &boltEngine{path: path}
	settings := boltSettings()
	settings.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(name, flag, mode)
		e.file = f
		return f, err
	}
	err := e.contain(&e.unwritable, func() (err error) {
		e.db, err = bbolt.Open(path, 0o600, settings)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, e.release())
	}
	e.db.AllocSize = boltAllocSize
	return e, nil
}

// fillBolt makes a bbolt file of an empty one, with nothing but the marker.
func fillBolt(path string) error {
	e, err := newBolt(path)
	if err != nil {
		return err
	}
	err = e.contain(&e.unwritable, func() error {
		return e.db.Update(setMarker)
	})
	return boltError(errors.Join(err, e.release()))
}

// writeFile makes a file at path, with mode 0600, that write fills. It returns fs.ErrExist if there is one already, unless
// it may replace that.
func writeFile(path string, replace bool, write func(tmp *os.File) error) error {
	tmp, err := newTemp(path, replace)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(tmp.Name(), path)
	} else {
		err = linkOrRename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// newTemp opens what is to be the file at path. What only the holder of a store's lock replaces has one name, so that a
// crash does not leave more each time.
func newTemp(path string, replace bool) (*os.File, error) {
	if replace {
		return os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	return os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
}

// linkOrRename gives a file its name. A link never replaces a file that has appeared since, as a rename would; not every
// file system has links.
func linkOrRename(tmp, path string) error {
	err := os.Link(tmp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	return os.Rename(tmp, path)
}

// syncDir makes a new name in dir survive a power cut. Windows has no such call and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// settle has the disk keep what is seen of the file, and its name. A process that was killed can have left what it had
// not synced. And after a sync that failed, Linux shows what the disk has not got, and never writes it again, unless it is
// written anew. Of all that only the meta page of the last commit counts: what it leads to was synced before.
func (e *boltEngine) settle() error {
	last, _ := (&pageFile{r: e.file}).meta()
	page, at := make([]byte, boltPageSize), int64(last.tx%2)*boltPageSize
	if _, err := e.file.ReadAt(page, at); err != nil {
		return err
	}
	if _, err := e.file.WriteAt(page, at); err != nil {
		return err
	}
	if err := e.file.Sync(); err != nil {
		return err
	}
	err := syncDir(filepath.Dir(e.path))
	if errors.Is(err, fs.ErrPermission) { // what may not be read cannot be synced; whoever makes stores there has done it
		return nil
	}
	return err
}

// WriteBackup writes the file as it is at one moment. [Store.Backup] calls it.
func (e *boltEngine) WriteBackup(ctx context.Context, w io.Writer) error {
	return e.view(func(tx *bbolt.Tx, _ *os.File) error {
		out := &contextWriter{ctx: ctx, w: w}
		err := contain(func() error {
			_, err := tx.WriteTo(out)
			return err
		})
		return firstError(out.err, err) // bbolt keeps no more than the text of some
	})
}

// contextWriter is a writer for one call, which ends with the call's context.
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

// Compact copies what is in use to a new file and puts it in the place of the old one. Writers wait, readers do not.
// [Store.Compact] calls it.
func (e *boltEngine) Compact(ctx context.Context) error {
	if e.readOnly {
		return ErrReadOnly
	}
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	defer e.endTurn()
	e.commitBatch()
	switch {
	case e.closed:
		return ErrClosed
	case e.broken != nil:
		return e.broken
	}
	compact := e.path + compactSuffix
	defer os.Remove(compact)
	if err := e.copyTo(ctx, compact); err != nil {
		return e.copyError(boltError(err))
	}
	return e.replaceBy(compact)
}

// copyError is the error of a copy. A disk that loses what is written to the copy damages that alone.
func (e *boltEngine) copyError(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	for finding := range e.CheckEngine() {
		return finding
	}
	return fmt.Errorf("the copy is damaged, the store is not: %v", err)
}

// copyTo makes a bbolt file at path of what is in use in this one.
func (e *boltEngine) copyTo(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := newBolt(path)
	if err != nil {
		return err
	}
	dst.db.NoSync = true // once, at the end
	err = dst.contain(&dst.unwritable, func() error {
		if err := copyBuckets(ctx, dst.db, e.db); err != nil {
			return err
		}
		// Once more, for both meta pages to have the whole.
		return errors.Join(dst.db.Update(setMarker), dst.db.Sync())
	})
	return errors.Join(err, dst.release())
}

// copyBuckets copies everything in src, in transactions of bounded size.
func copyBuckets(ctx context.Context, dst, src *bbolt.DB) error {
	const perTx = 4 << 20
	return src.View(func(from *bbolt.Tx) error {
		return from.ForEach(func(name []byte, b *bbolt.Bucket) error {
			cursor := b.Cursor()
			k, v := cursor.First()
			for first := true; first || k != nil; first = false {
				if err := ctx.Err(); err != nil {
					return err
				}
				err := dst.Update(func(to *bbolt.Tx) error {
					out, err := to.CreateBucketIfNotExists(name)
					if err != nil {
						return err
					}
					out.FillPercent = 0.9 // the entries come in order
					for n := 0; k != nil && n < perTx; k, v = cursor.Next() {
						if err := out.Put(k, v); err != nil {
							return err
						}
						n += len(k) + len(v)
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// replaceBy puts the bbolt file at path in the place of the engine's own. The new file is locked before it has the name,
// so that no other process can come between; Windows does not rename open files, and there it can: it gets the old
// file, and this engine ErrLocked.
func (e *boltEngine) replaceBy(path string) error {
	settings := boltSettings()
	settings.Timeout = (*Options)(nil).lockTimeout()
	if runtime.GOOS == "windows" {
		e.swap.Lock()
		defer e.swap.Unlock()
		err := e.release()
		if err == nil {
			err = os.Rename(path, e.path)
			var openErr error
			e.db, e.file, openErr = openBoltFile(e.path, settings)
			err = errors.Join(err, openErr)
		}
		if e.db == nil {
			e.broken = err
		}
		return err
	}
	db, file, err := openBoltFile(path, settings)
	if err != nil {
		return err
	}
	if err := os.Rename(path, e.path); err != nil {
		return errors.Join(err, db.Close())
	}
	e.swap.Lock()
	old := e.db
	e.db, e.file = db, file
	e.swap.Unlock()
	// What is committed next is in the new file alone: its name must last before that.
	if err = syncDir(filepath.Dir(e.path)); err != nil {
		e.broken = ErrSyncFailed
	}
	return errors.Join(err, contain(old.Close)) // which waits for those who still read the old file
}
