package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Identity tells a file from every other file that exists at the same time.
type Identity struct{ major, minor, inode uint64 }

// IdentityOf returns the identity of a file that is open.
func IdentityOf(f *os.File) (id Identity, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return id, err
	}
	controlErr := c.Control(func(fd uintptr) { id, err = identity(int(fd), "", unix.AT_EMPTY_PATH) })
	if err != nil {
		err = &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return id, errors.Join(controlErr, err)
}

// IdentityAt returns the identity of the file at path.
func IdentityAt(path string) (Identity, error) {
	id, err := identity(unix.AT_FDCWD, path, 0)
	if err != nil {
		return id, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return id, nil
}

// identity asks for no more than the number of the file. Linux 6.13 and later note whether somebody
// has asked for the times of a file, as os.Stat does: the next write then has to note a new time,
// which the next sync waits for.
func identity(dir int, path string, flags int) (Identity, error) {
	var st unix.Statx_t
	for {
		switch err := unix.Statx(dir, path, flags, unix.STATX_INO, &st); err {
		case nil:
			return Identity{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}, nil
		case unix.EINTR:
		case unix.ENOSYS, unix.EPERM: // before Linux 4.11, or where a filter forbids the call
			return oldIdentity(dir, path, flags)
		default:
			return Identity{}, err
		}
	}
}

// oldIdentity is identity for systems without the call statx.
func oldIdentity(dir int, path string, flags int) (id Identity, err error) {
	var st unix.Stat_t
	if flags&unix.AT_EMPTY_PATH != 0 {
		err = unix.Fstat(dir, &st)
	} else {
		err = unix.Fstatat(dir, path, &st, 0)
	}
	return Identity{uint64(unix.Major(uint64(st.Dev))), uint64(unix.Minor(uint64(st.Dev))), st.Ino}, err
}

// Is reports whether two identities are of one file.
func (i Identity) Is(other Identity) bool { return i == other }
