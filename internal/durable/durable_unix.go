//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package durable

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// tryLock takes the lock on f, and reports whether it was free.
func tryLock(f *os.File) (locked bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// Unlock gives up the lock on f, whether [Lock] or bbolt took it. Closing f does not give up the
// lock while f is still mapped, as after a panic in bbolt.
func Unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// copyOwner gives f the owner of another file.
func copyOwner(f *os.File, other fs.FileInfo) error {
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
