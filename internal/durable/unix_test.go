//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package durable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAFileIsReplacedAlsoWhereItsOwnerCannotBeKept(t *testing.T) {
	for _, tt := range []struct {
		name    string
		refused func(uid, gid int) bool
		want    os.FileMode
	}{
		{"owner and group", func(int, int) bool { return true }, 0o604},
		{"the owner", func(uid, _ int) bool { return uid >= 0 }, 0o664},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keys.db")
			must(t, os.WriteFile(path, []byte("old"), 0o600))
			if err := os.Chown(path, 1234, 2345); err != nil {
				t.Skip("only root can give a file away: ", err)
			}
			must(t, os.Chmod(path, 0o664))
			system := chown
			chown = func(f *os.File, uid, gid int) error {
				if tt.refused(uid, gid) {
					return &os.PathError{Op: "chown", Path: f.Name(), Err: syscall.EPERM}
				}
				return system(f, uid, gid)
			}
			defer func() { chown = system }()
			must(t, Replace(path, writing("new", nil)))
			wantFile(t, dir, "new")
			if info, err := os.Stat(path); err != nil || info.Mode() != tt.want {
				t.Errorf("the mode is %v, %v, want %v", info.Mode(), err, tt.want)
			}
		})
	}
}

func TestAStrictUmaskDoesNotKeepTheOwnerOut(t *testing.T) {
	for _, umask := range []int{0, 0o277, 0o777} {
		before := syscall.Umask(umask)
		path := filepath.Join(t.TempDir(), "keys.db")
		err := os.Chmod(filepath.Dir(path), 0o700)
		if err == nil {
			err = Create(path, func(tmp *os.File) error {
				f, err := os.OpenFile(tmp.Name(), os.O_RDWR, 0) // as bbolt does
				if err != nil {
					return err
				}
				return f.Close()
			})
		}
		syscall.Umask(before)
		must(t, err)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("umask %o: the mode is %v, %v, want -rw-------", umask, info.Mode(), err)
		}
	}
}
