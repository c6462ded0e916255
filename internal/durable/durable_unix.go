//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package durable

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
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

// IsLocked reports whether somebody has the lock that [Lock] takes on f.
//
// Errors: the operating system's error.
func IsLocked(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err == nil {
		Unlock(f)
	}
	return false, err
}

// Unlock gives up the lock on f, whether [Lock] or bbolt took it. Closing f does not give up the
// lock while f is still mapped, as after a panic in bbolt.
func Unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// copyOwner gives f the owner and the group of another file, or only the group where the owner may
// not be given. It reports whether f has the group.
func copyOwner(f *os.File, other fs.FileInfo) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	is, ok := mine.Sys().(*syscall.Stat_t)
	should, also := other.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !also:
		return false
	case is.Uid == should.Uid && is.Gid == should.Gid:
		return true
	case chown(f, int(should.Uid), int(should.Gid)) == nil:
		return true
	}
	return is.Gid == should.Gid || chown(f, -1, int(should.Gid)) == nil
}

// chown is the system's call, for tests of systems that refuse it.
var chown = (*os.File).Chown

// Duplicate returns a duplicate of f. The two share the lock of bbolt, which ends when both are
// closed, or when [Unlock] ends it.
//
// Errors: [errors.ErrUnsupported] where duplicates share no lock; the operating system's error.
func Duplicate(f *os.File) (*os.File, error) {
	if runtime.GOOS == "android" {
		return nil, errors.ErrUnsupported
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), f.Name()), nil
}
