package durable

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheIdentityIsTheSameWithoutStatx(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("a"), 0o600))
	for _, at := range []string{path, "/proc/self/stat", "/dev/null"} {
		now, err := identity(unix.AT_FDCWD, at, 0)
		old, oldErr := oldIdentity(unix.AT_FDCWD, at, 0)
		if err != nil || oldErr != nil || !now.Is(old) {
			t.Errorf("%s: got %v, %v without statx, and %v, %v with it", at, old, oldErr, now, err)
		}
	}
	for _, f := range []func(int, string, int) (Identity, error){identity, oldIdentity} {
		if _, err := f(unix.AT_FDCWD, path+"2", 0); err != unix.ENOENT {
			t.Errorf("got error %v for a missing file", err)
		}
	}
}
