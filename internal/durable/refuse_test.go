package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// refuseSync makes syncs of directories fail with err until the test ends.
func refuseSync(t *testing.T, err error) {
	system := syncDir
	syncDir = func(*os.File) error { return &os.PathError{Op: "sync", Path: "dir", Err: err} }
	t.Cleanup(func() { syncDir = system })
}

func TestAFileSystemThatCannotSyncADirectoryIsNoFailure(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such call")
	}
	for _, errno := range []syscall.Errno{syscall.EINVAL, syscall.ENOTSUP, syscall.ENOSYS} {
		t.Run(errno.Error(), func(t *testing.T) {
			refuseSync(t, errno)
			dir := t.TempDir()
			path := filepath.Join(dir, "keys.db")
			must(t, Create(path, writing("old", nil)))
			must(t, Replace(path, writing("new", nil)))
			wantFile(t, dir, "new")
		})
	}
}

func TestADirectoryThatFailsToSyncIsAFailure(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such call")
	}
	refuseSync(t, syscall.EIO)
	if err := Create(filepath.Join(t.TempDir(), "keys.db"), writing("old", nil)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
}

func TestReplaceFollowsNoLinkAndTakesOverNoFile(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "keys.db"), filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	if os.Symlink(victim, path+".new") != nil {
		t.Skip("there are no symbolic links here")
	}
	must(t, Replace(path, writing("mine", nil)))
	wantFile(t, dir, "mine")
	if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
		t.Errorf("the file that the link leads to has %q, %v", got, err)
	}

	must(t, os.Remove(path))
	must(t, os.WriteFile(path+".new", nil, 0o666))
	must(t, os.Chmod(path+".new", 0o666))
	planted, err := os.Open(path + ".new") // by somebody who wants to read what is written to it
	must(t, err)
	defer planted.Close()
	err = Replace(path, writing("mine", nil))
	if IsBusy(err) {
		return // on Windows Replace cannot remove the file, and does not use it
	}
	must(t, err)
	mine, err := os.Stat(path)
	must(t, err)
	theirs, err := planted.Stat()
	must(t, err)
	if os.SameFile(mine, theirs) {
		t.Error("the file is the one that was planted")
	}
	if runtime.GOOS != "windows" && mine.Mode() != 0o600 {
		t.Errorf("the file's mode is %v, want -rw-------", mine.Mode())
	}
}

func TestANameNearTheLimitWorks(t *testing.T) {
	for _, n := range []int{200, 240, 248, 251, 255} {
		dir := t.TempDir()
		path := filepath.Join(dir, strings.Repeat("n", n))
		must(t, Create(path, writing("old", nil)))
		must(t, Replace(path, writing("new", nil)))
		if got, err := os.ReadFile(path); err != nil || string(got) != "new" {
			t.Errorf("%d bytes: the file has %q, %v", n, got, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%d bytes: the directory has %v, %v", n, entries, err)
		}
		beside := Beside(path, ".compact")
		must(t, os.WriteFile(beside, nil, 0o600))
	}
	if got := Beside(filepath.Join("dir", "keys.db"), ".compact"); got != filepath.Join("dir", "keys.db.compact") {
		t.Errorf("a short name has the temporary name %q", got)
	}
	err := Create(filepath.Join(t.TempDir(), strings.Repeat("n", 300)), writing("old", nil))
	if err == nil {
		t.Error("a name of 300 bytes was taken")
	}
}

func TestErrorsNameTheFileThatWasToBeMade(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing", "keys.db")
	for _, err := range []error{Create(missing, writing("old", nil)), Replace(missing, writing("old", nil))} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing+":") {
			t.Errorf("got %v, want fs.ErrNotExist for %s", err, missing)
		}
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	full := func(tmp *os.File) error { return &os.PathError{Op: "write", Path: tmp.Name(), Err: syscall.ENOSPC} }
	for _, err := range []error{Create(path, full), Replace(path, full)} {
		if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), ".new") {
			t.Errorf("got %v, want ENOSPC without a temporary name", err)
		}
	}
}

func TestANamedErrorHasNoTemporaryName(t *testing.T) {
	path := filepath.Join("dir", "keys.db")
	for _, temporary := range []string{path + ".compact", path + ".new", Beside(path, ".compact")} {
		err := Named(&os.PathError{Op: "write", Path: temporary, Err: syscall.ENOSPC}, path)
		if want := "write " + path + ": " + syscall.ENOSPC.Error(); err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	other := &os.PathError{Op: "write", Path: filepath.Join("dir", "other.db"), Err: syscall.ENOSPC}
	if err := Named(other, path); err != error(other) {
		t.Errorf("the error of another file became %v", err)
	}
}

func TestWhatACrashLeftIsRemovedUnlessSomebodyFillsIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	for _, name := range []string{"keys.db", "keys.db.new-123", "keys.db.new-", "keys.db.new-1a", "other.db.new-123", "keys.db.new-7"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, "keys.db.new-9"), 0o700))
	busy, err := OpenFile(filepath.Join(dir, "keys.db.new-7"), os.O_RDWR)
	must(t, err)
	defer busy.Close()
	if locked, err := Lock(busy, -1); err != nil || !locked {
		t.Fatal(locked, err)
	}
	RemoveLeftovers(path)
	var names []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := "keys.db keys.db.new- keys.db.new-1a keys.db.new-7 keys.db.new-9 other.db.new-123"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}
