package boltengine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// How a compacted file takes the place of the engine's file, and how other processes wait
// meanwhile.
//
// On most systems the new file is opened and locked, and then renamed over the old file, which is
// open and locked, too. So another process finds a lock at every moment. Windows can do the same on
// NTFS since version 10.
//
// Where it cannot, Windows replaces no file that is open. Then the old file is closed first, and
// its lock ends. The lock of the new file keeps other processes off, because they look for that
// lock, too. A process that waits has no file open between its attempts.

// replaceBy puts the file of dst, which is open, in the place of the engine's file, for the holder
// of the turn. On success the engine has the file, and dst has none.
//
// Errors: the operating system's error or errReadersLast, after which the engine goes on with the
// old file; [ErrSyncFailed].
func (e *Engine) replaceBy(dst *Engine) error {
	mark, err := boltpage.ReadMark(dst.file)
	if err != nil {
		return translate(err)
	}
	if err := durable.TryRename(dst.path, e.path); err != nil {
		if durable.ReplacesOpenFiles {
			return err
		}
		return e.replaceClosed(dst, mark)
	}
	e.gate.lock()
	oldDB, oldFile := e.db, e.file
	e.db, e.file, e.readers = dst.db, dst.file, &readerCount{}
	e.lastCommit.Store(&knownCommit{e.db, int(mark.Commit), mark})
	e.gate.unlock()
	dst.db, dst.file = nil, nil
	// Closing the old file waits for its readers, and nothing else should wait for them. A failure
	// to close it loses nothing.
	e.oldFiles.Go(func() { _ = e.closeFile(oldDB, oldFile) })
	// The next commits are only in the new file, so its name must last before they are made.
	if err := durable.SyncDir(filepath.Dir(e.path)); err != nil {
		e.health.failWrites(ErrSyncFailed)
		return err
	}
	return nil
}

// asideFile is a compacted file that did not get the name of the engine's file, while the engine
// could not open its file again. It is open and locked.
type asideFile struct {
	db   *bbolt.DB
	file *os.File
	path string
	mark boltpage.Mark // of its last commit

	old    fs.FileInfo // the engine's file
	commit int         // the last commit of old
}

// errReadersLast means that the old file cannot be closed.
var errReadersLast = errors.New("a View or a Backup goes on, and the file cannot be replaced before it ends")

// OnOldFileClosed is called when a compaction has closed the old file, on a system that replaces no
// open file. Tests set it.
var OnOldFileClosed = func() {}

// replaceClosed is replaceBy for a system that replaces no open file. It closes the old file first,
// and for that nobody may read. If replaceClosed fails and dst still has its file, it can be tried
// again.
func (e *Engine) replaceClosed(dst *Engine, mark boltpage.Mark) (err error) {
	e.gate.lock()
	defer e.gate.unlock()
	select {
	case <-e.readers.none():
	default:
		return errReadersLast
	}
	aside := &asideFile{db: dst.db, file: dst.file, path: dst.path, mark: mark}
	if aside.old, err = e.file.Stat(); err != nil {
		return err
	}
	m, _ := boltpage.ReadMeta(e.file)
	aside.commit = int(m.Commit)
	closeErr := e.releaseLocked()
	e.db, e.file, e.aside = nil, nil, aside
	dst.db, dst.file = nil, nil
	OnOldFileClosed()
	// A process that waits for the lock opens the file for a moment every 50 ms. Nobody should wait
	// longer for the gate than it takes to come between two such moments.
	if err := durable.RenameWithin(150*time.Millisecond, aside.path, e.path); err != nil {
		// If the old file cannot be opened now, the next call tries again, and says why.
		if e.openOldLocked(reopenSettings()) == nil {
			dst.db, dst.file, e.aside = aside.db, aside.file, nil
		}
		return errors.Join(closeErr, err)
	}
	e.db, e.file, e.aside = aside.db, aside.file, nil
	e.lastCommit.Store(&knownCommit{aside.db, int(aside.mark.Commit), aside.mark})
	return closeErr
}

// openAgain opens the engine's file again, if the last attempt to do so failed; see asideFile.
func (e *Engine) openAgain() error {
	e.gate.lock()
	defer e.gate.unlock()
	return e.openAgainLocked(tryAgainSettings())
}

// openAgainLocked is openAgain for the holder of the gate. Until openAgainLocked succeeds, the lock
// of the compacted file keeps other processes off, so that nothing changes in the engine's file.
//
// Errors: [ErrLocked], or the operating system's error, while another program has the file open.
func (e *Engine) openAgainLocked(settings *bbolt.Options) error {
	if e.aside == nil {
		return nil
	}
	if err := e.openOldLocked(settings); err != nil {
		return err
	}
	return e.dropAsideLocked()
}

// openOldLocked opens the file in whose place aside should have been put.
func (e *Engine) openOldLocked(settings *bbolt.Options) (err error) {
	if e.db, e.file, err = openDB(e.path, settings); err != nil {
		return err
	}
	mark, err := e.checkReopened(e.aside.old, e.aside.commit)
	if err != nil {
		_ = e.releaseLocked()
		e.db, e.file = nil, nil
		e.health.failReads(err)
		return err
	}
	e.lastCommit.Store(&knownCommit{e.db, e.aside.commit, mark})
	return nil
}

// dropAsideLocked closes and removes a compacted file that did not get the name.
func (e *Engine) dropAsideLocked() error {
	aside := e.aside
	if aside == nil {
		return nil
	}
	e.aside = nil
	err := contain(aside.db.Close)
	return errors.Join(err, durable.Remove(aside.path))
}

// removeUnlessAside removes the compacted file at path, unless it is set aside.
func (e *Engine) removeUnlessAside(path string) {
	e.gate.lock()
	needed := e.aside != nil
	e.gate.unlock()
	if !needed {
		_ = durable.Remove(path)
	}
}

// openFile opens the file. If another process has the lock, openFile waits for as long as settings
// say.
func (e *Engine) openFile(settings *bbolt.Options) error {
	if durable.ReplacesOpenFiles {
		return e.tryOpenFile(settings)
	}
	end := time.Now().Add(settings.Timeout)
	once := *settings
	once.Timeout = 1
	for {
		err := e.tryOpenFile(&once)
		if durable.IsHeld(err) {
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		}
		if !errors.Is(err, ErrLocked) && !durable.IsBusy(err) || !time.Now().Before(end) {
			return err
		}
		time.Sleep(50 * time.Millisecond) // as bbolt does, which would keep the file open meanwhile
	}
}

// tryOpenFile opens the file. If another process compacts the file while tryOpenFile waits for the
// lock, tryOpenFile gets the old file, which is no longer at the path. Then it begins again.
func (e *Engine) tryOpenFile(settings *bbolt.Options) (err error) {
	for {
		if e.db, e.file, err = openDB(e.path, settings); err != nil {
			return err
		}
		replaced, err := e.isReplaced()
		if err == nil && !replaced {
			err = e.checkNotBeingReplaced()
		}
		if err == nil && !replaced {
			return nil
		}
		if err := errors.Join(err, e.release()); err != nil {
			return err
		}
	}
}

// checkNotBeingReplaced returns [ErrLocked] if another process is putting a compacted file in the
// place of the file, and had to give up the lock of the file for that.
func (e *Engine) checkNotBeingReplaced() error {
	if durable.ReplacesOpenFiles {
		return nil
	}
	f, err := durable.OpenFile(durable.Beside(e.path, compactSuffix), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	locked, err := durable.IsLocked(f)
	if err == nil && locked {
		err = ErrLocked
	}
	return err
}

// reopenSettings are bbolt's settings for an engine that opens its file again. The time to wait for
// the lock is the default, whatever it was at the first opening.
func reopenSettings() *bbolt.Options {
	settings := defaultSettings()
	settings.Timeout = DefaultLockTimeout
	return settings
}

// tryAgainSettings are reopenSettings with no time to wait.
func tryAgainSettings() *bbolt.Options {
	settings := defaultSettings()
	settings.Timeout = 1
	return settings
}
