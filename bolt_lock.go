//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package latchkey

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// tryLock takes bbolt's lock on f, alone, and reports whether it could.
func tryLock(f *os.File) (locked bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// unlock gives up bbolt's lock on f. Closing f does not where it is still mapped, as after a panic in bbolt.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// setOwner gives f to whom another file belongs.
func setOwner(f *os.File, other fs.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	is, ok := mine.Sys().(*syscall.Stat_t)
	should, also := other.Sys().(*syscall.Stat_t)
	if !ok || !also || is.Uid == should.Uid && is.Gid == should.Gid {
		return nil
	}
	return f.Chown(int(should.Uid), int(should.Gid))
}
