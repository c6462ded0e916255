package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// must fails the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writing returns a function that writes text, and then returns err.
func writing(text string, err error) func(tmp *os.File) error {
	return func(tmp *os.File) error {
		_, writeErr := tmp.WriteString(text)
		return errors.Join(writeErr, err)
	}
}

// wantFile checks what a directory has: a file "keys.db" with a text, and nothing else, or nothing
// if the text is empty.
func wantFile(t testing.TB, dir, text string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names, want []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if text != "" {
		want = []string{"keys.db"}
	}
	if !slices.Equal(names, want) {
		t.Errorf("the directory has %q, want %q", names, want)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "keys.db")); string(got) != text {
		t.Errorf("the file has %q, want %q", got, text)
	}
}

func TestCreateMakesAWholeFileOrNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	errFull := errors.New("full")
	if err := Create(path, writing("half", errFull)); !errors.Is(err, errFull) {
		t.Errorf("got %v, want the error of the function", err)
	}
	wantFile(t, dir, "")
	must(t, Create(path, writing("old", nil)))
	wantFile(t, dir, "old")
	if err := Create(path, writing("new", nil)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	wantFile(t, dir, "old")
}

func TestReplacePutsAWholeFileInThePlaceOfAnotherAndKeepsItsMode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	errFull := errors.New("full")
	must(t, Replace(path, writing("old", nil)))
	must(t, os.Chmod(path, 0o640))
	if err := Replace(path, writing("half", errFull)); !errors.Is(err, errFull) {
		t.Errorf("got %v, want the error of the function", err)
	}
	wantFile(t, dir, "old")
	must(t, os.WriteFile(path+".new", []byte("longer than what comes"), 0o600)) // left by a crash
	must(t, Replace(path, writing("new", nil)))
	wantFile(t, dir, "new")
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o640 {
		t.Errorf("the file's mode is %v, %v, want -rw-r-----", info.Mode(), err)
	}
}

func TestAWriteThatPanicsLeavesNoFile(t *testing.T) {
	for _, call := range []func(path string, write func(tmp *os.File) error) error{Create, Replace} {
		dir := t.TempDir()
		func() {
			defer func() { _ = recover() }()
			_ = call(filepath.Join(dir, "keys.db"), func(*os.File) error { panic("a reader of the caller's") })
		}()
		wantFile(t, dir, "")
	}
}

func TestALockHasOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, Create(path, writing("a", nil)))
	var files [2]*os.File
	for i := range files {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		files[i] = f
	}
	want := func(f *os.File, want bool) {
		t.Helper()
		if locked, err := IsLocked(files[1]); err != nil || locked == want {
			t.Errorf("IsLocked: got %t, %v, want %t", locked, err, !want)
		}
		if locked, err := Lock(f, -1); err != nil || locked != want {
			t.Errorf("Lock: got %t, %v, want %t", locked, err, want)
		}
	}
	want(files[0], true)
	want(files[1], false)
	Unlock(files[0])
	want(files[1], true)
}

func TestAFileIsNamedWithoutLinksTooAndNeverReplacesAnother(t *testing.T) {
	dir := t.TempDir()
	tmp, path := filepath.Join(dir, "tmp"), filepath.Join(dir, "keys.db")
	noLinks := func(string, string) error { return errors.ErrUnsupported }
	must(t, os.WriteFile(tmp, []byte("mine"), 0o600))
	must(t, link(noLinks, tmp, path))
	must(t, os.WriteFile(tmp, []byte("another's"), 0o600))
	for _, hard := range []func(string, string) error{noLinks, os.Link} {
		if err := link(hard, tmp, path); err == nil {
			t.Error("it has replaced a file")
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Errorf("the file has %q, want %q", got, "mine")
	}
}

func TestSyncDirAcceptsADirectoryThatMayNotBeRead(t *testing.T) {
	if os.Getuid() == 0 || runtime.GOOS == "windows" {
		t.Skip("there is no such directory for root, nor on Windows")
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o300))
	must(t, SyncDir(dir))
}
