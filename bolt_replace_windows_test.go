package latchkey_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/windows"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/boltengine"
)

// compactError compacts e and returns the error.
func compactError(t testing.TB, e latchkey.Engine) error {
	t.Helper()
	return e.(latchkey.EngineCompacter).Compact(t.Context())
}

// A virus scanner opens a file without allowing others to replace it.
func TestACompactionThatAScannerKeepsFromTheFileChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "keys.db")
		e := boltFile(t, path, nil)
		setEntry(t, e, "a", "1")
		scanner, err := os.Open(path)
		must(t, err)
		if err := compactError(t, e); !errors.Is(err, windows.ERROR_ACCESS_DENIED) && !errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
			t.Errorf("got %v, want an error that says that the file is open", err)
		}
		setEntry(t, e, "b", "1")
		wantFiles(t, dir, "keys.db")
		wantLocked(t, path)
		must(t, scanner.Close())
		must(t, compactError(t, e))
		wantEntry(t, e, "a", "1")
		wantEntry(t, e, "b", "1")
		wantFiles(t, dir, "keys.db")
		must(t, e.Close())
	})
}

func TestACompactionWaitsForAScanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		e := boltFile(t, path, nil)
		setEntry(t, e, "a", "1")
		scanner, err := os.Open(path)
		must(t, err)
		go func() {
			time.Sleep(time.Second)
			_ = scanner.Close()
		}()
		must(t, compactError(t, e))
		wantEntry(t, e, "a", "1")
		must(t, e.Close())
	})
}

func TestACompactionGivesUpOnAReaderThatGoesOn(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") == "" {
		t.Skip("Windows 10 replaces an open file")
	}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		e := boltFile(t, filepath.Join(dir, "keys.db"), nil)
		setEntry(t, e, "a", "1")
		reading, end := make(chan struct{}), make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			must(t, e.View(t.Context(), func(latchkey.EngineTx) error {
				close(reading)
				<-end
				return nil
			}))
		})
		<-reading
		if compactError(t, e) == nil {
			t.Error("the compaction has not met the reader")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantError(t, e.(latchkey.EngineCompacter).Compact(ctx), context.Canceled)
		wantEntry(t, e, "a", "1")
		wantFiles(t, dir, "keys.db")
		close(end)
		reader.Wait()
		must(t, compactError(t, e))
		wantEntry(t, e, "a", "1")
		must(t, e.Close())
	})
}

// The lock of the old file ends before the new file has its name, and another program may take it.
func TestACompactionThatLosesTheFileToAnotherProgramHasItAgainWhenThatLetsItGo(t *testing.T) {
	for _, tt := range []struct {
		name string
		next func(e latchkey.Engine, t testing.TB)
	}{
		{"View", func(e latchkey.Engine, t testing.TB) { wantEntry(t, e, "a", "1") }},
		{"Update", func(e latchkey.Engine, t testing.TB) { setEntry(t, e, "b", "1") }},
		{"Compact", func(e latchkey.Engine, t testing.TB) { must(t, compactError(t, e)) }},
		{"Close", func(e latchkey.Engine, t testing.TB) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "keys.db")
				e := boltFile(t, path, nil)
				setEntry(t, e, "a", "1")
				release := stealLock(t, path)
				if compactError(t, e) == nil {
					t.Fatal("the other program has not got the file")
				}
				wantError(t, e.View(t.Context(), func(latchkey.EngineTx) error { return nil }), latchkey.ErrLocked)
				wantError(t, e.Update(t.Context(), func(latchkey.EngineTx) error { return nil }), latchkey.ErrLocked)
				release()
				wantLocked(t, path) // for all but e
				tt.next(e, t)
				must(t, e.Close())
				wantFiles(t, dir, "keys.db")
				e = boltFile(t, path, &latchkey.Options{LockTimeout: -1})
				wantEntry(t, e, "a", "1")
				must(t, e.Close())
			})
		})
	}
}

// stealLock takes the lock of the file at path when a compaction gives it up. release gives it
// back.
func stealLock(t testing.TB, path string) (release func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	boltengine.OnOldFileClosed = func() {
		boltengine.OnOldFileClosed = func() {}
		at := &windows.Overlapped{Offset: 1<<32 - 1, OffsetHigh: 1<<32 - 1} // where bbolt locks
		must(t, windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at))
	}
	return func() { must(t, f.Close()) }
}

// A sandbox can let a program pass through a directory that it may not list. Wine 8 hides the files
// in Linux's /dev from such a list.
func TestAFileInADirectoryThatCannotBeListedOpens(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") == "" {
		t.Skip("there is no such directory")
	}
	const parent = `Z:\dev\shm`
	if _, err := filepath.EvalSymlinks(parent); err == nil {
		t.Fatal("the directory can be listed")
	}
	path := filepath.Join(parent, filepath.Base(t.TempDir())+".db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "a", "1")
	must(t, e.Close())
	must(t, os.Remove(path))
}

func TestOpenWaitsForAProgramThatLetsNobodyElseOpenTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		must(t, boltFile(t, path, nil).Close())
		name, err := windows.UTF16PtrFromString(path)
		must(t, err)
		scanner, err := windows.CreateFile(name, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING, 0, 0)
		must(t, err)
		_, err = latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: time.Minute})
		wantError(t, err, latchkey.ErrLocked)
		go func() {
			time.Sleep(time.Second)
			_ = windows.CloseHandle(scanner)
		}()
		must(t, boltFile(t, path, &latchkey.Options{LockTimeout: time.Minute}).Close())
	})
}

func TestANameThatWindowsKeepsIsNoStore(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, boltFile(t, "keys.db", nil).Close())
	for _, path := range []string{"CON", "nul", "NUL.db", `.\aux`, "keys.db:x", `.\keys.db:x:$DATA`} {
		for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, {RecoverFromSafetyCopy: true}} {
			_, err := latchkey.Open(path, opts)
			wantError(t, err, latchkey.ErrNotStore)
		}
		_, err := latchkey.OpenBoltEngine(path, nil)
		wantError(t, err, latchkey.ErrNotStore)
		if err := latchkey.Restore(t.Context(), strings.NewReader(""), path); err == nil || errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("Restore to %s: got %v, want an error about the name", path, err)
		}
	}
	wantFiles(t, ".", "keys.db")
	for _, path := range []string{"console.db", "C-keys.db", "con-keys"} {
		must(t, boltFile(t, path, nil).Close())
	}
}
