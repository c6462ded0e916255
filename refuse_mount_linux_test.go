package latchkey_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// mount mounts the file at from over the file at path, as a container does, until the test ends.
func mount(t *testing.T, from, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	if err := syscall.Mount(from, path, "", syscall.MS_BIND, ""); err != nil {
		t.Skip("mounting a file needs the rights of root: ", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(path, 0)) })
}

func TestAStoreThatIsAMountPointWorksAndWhatCannotReplaceItSaysWhy(t *testing.T) {
	volume, dir := t.TempDir(), t.TempDir()
	file, path := filepath.Join(volume, "keys.db"), filepath.Join(dir, "keys.db")
	token := keepCopy(t, file)
	mount(t, file, path)
	s, err := latchkey.Open(path, light())
	must(t, err)
	mustLogin(t, s, token)
	ada := addUser(t, s, "grace")
	err = s.Compact(t.Context())
	if err == nil || !strings.Contains(err.Error(), "mount its directory") {
		t.Errorf("Compact: got %v, want an error that says what to do", err)
	}
	must(t, s.DisableUser(t.Context(), ada)) // the store goes on
	wantFiles(t, dir, "keys.db")
	must(t, s.Close())

	must(t, os.Rename(file+".safety", path+".safety"))
	damage(t, path)
	opts := light()
	opts.RecoverFromSafetyCopy = true
	_, err = latchkey.Open(path, opts)
	if err == nil || !strings.Contains(err.Error(), "mount its directory") || !strings.Contains(err.Error(), path+".safety") {
		t.Errorf("recovery: got %v, want an error that says what to do and where the good copy is", err)
	}
}
