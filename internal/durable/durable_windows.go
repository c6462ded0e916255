package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf16"

	"golang.org/x/sys/windows"
)

// ReplacesOpenFiles reports whether [Rename] can always replace a file that is open.
const ReplacesOpenFiles = false

// shareAll lets others open a file, and rename, replace and remove it.
const shareAll = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE

// OpenFile opens a file as [os.OpenFile] does, and knows its flags O_RDONLY, O_RDWR, O_CREATE and
// O_EXCL. While the file is open, it can be renamed, replaced and removed, if the system can do
// that.
//
// Errors: the operating system's error.
func OpenFile(path string, flag int) (*os.File, error) {
	access := uint32(windows.GENERIC_READ)
	if flag&os.O_RDWR != 0 {
		access |= windows.GENERIC_WRITE
	}
	create := uint32(windows.OPEN_EXISTING)
	switch flag & (os.O_CREATE | os.O_EXCL) {
	case os.O_CREATE | os.O_EXCL:
		create = windows.CREATE_NEW
	case os.O_CREATE:
		create = windows.OPEN_ALWAYS
	}
	if h, err := createFile(path, access, create); err == nil {
		return os.NewFile(uintptr(h), path), nil
	}
	// os.OpenFile can open names of more than 260 characters on every system, and its errors say
	// what was done.
	return os.OpenFile(path, flag, 0o600)
}

func createFile(path string, access, create uint32) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	return windows.CreateFile(name, access, shareAll, nil, create, windows.FILE_ATTRIBUTE_NORMAL, 0)
}

// DiskErrors are the errors of a disk that is full, that fails, or that is protected against
// writing. Package syscall has other numbers for ENOSPC, EIO and EROFS, which Windows never
// returns.
var DiskErrors = []syscall.Errno{
	windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED,
	windows.ERROR_IO_DEVICE, windows.ERROR_CRC, windows.ERROR_WRITE_PROTECT,
}

// IsBusy reports whether err may mean that another program has the file open. Windows returns
// ERROR_ACCESS_DENIED for a rename over a file that is open, and for a file that was removed while
// it is open, but also where a permission is missing.
func IsBusy(err error) bool { return IsHeld(err) || errors.Is(err, windows.ERROR_ACCESS_DENIED) }

// IsHeld reports whether err says that another program has the file open.
func IsHeld(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}

// rename gives the file old the name new. An [os.Root] renames with POSIX semantics, that is also
// over a file that is open, where the system and the file system can do that.
func rename(old, new string) error {
	if dir := filepath.Dir(new); dir == filepath.Dir(old) {
		if root, err := os.OpenRoot(dir); err == nil {
			err = root.Rename(filepath.Base(old), filepath.Base(new))
			_ = root.Close()
			if err == nil {
				return nil
			}
		}
	}
	return os.Rename(old, new)
}

// nameNew gives the file tmp the name path, and never replaces another file. It renames: a link
// leaves a second name behind when another program has the file open.
func nameNew(tmp, path string) error {
	return retry(patience, func() error {
		from, err := windows.UTF16PtrFromString(tmp)
		if err != nil {
			return err
		}
		to, err := windows.UTF16PtrFromString(path)
		if err != nil {
			return err
		}
		err = windows.MoveFileEx(from, to, 0)
		if err == nil {
			return nil
		}
		if errors.Is(err, fs.ErrExist) || IsBusy(err) {
			return &os.LinkError{Op: "rename", Old: tmp, New: path, Err: err}
		}
		return link(os.Link, tmp, path) // which can have longer names on old systems
	})
}

// syncName makes the name of the file at path survive a power cut. Windows cannot sync a directory.
// NTFS logs all changes of names in their order, and the sync of a file brings the log to the disk.
func syncName(path string) error {
	f, err := OpenFile(path, os.O_RDWR)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// tryLock takes the lock on f, and reports whether it was free.
func tryLock(f *os.File) (locked bool, err error) {
	return lockByte(f, windows.LOCKFILE_EXCLUSIVE_LOCK)
}

// IsLocked reports whether somebody has the lock that [Lock] takes on f.
//
// Errors: the operating system's error.
func IsLocked(f *os.File) (bool, error) {
	shared, err := lockByte(f, 0)
	if shared {
		Unlock(f)
	}
	return err == nil && !shared, err
}

func lockByte(f *os.File, flags uint32) (locked bool, err error) {
	flags |= windows.LOCKFILE_FAIL_IMMEDIATELY
	err = windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, lockedByte())
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// Unlock gives up the lock on f, whether [Lock] or bbolt took it.
func Unlock(f *os.File) { _ = windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, lockedByte()) }

// lockedByte returns the place of the byte that bbolt locks. No file is so long that it has the
// byte.
func lockedByte() *windows.Overlapped {
	return &windows.Overlapped{Offset: 1<<32 - 1, OffsetHigh: 1<<32 - 1}
}

// Unmap ends the map of a file at an address. Windows neither shortens nor replaces a file while it
// is mapped.
//
// Errors: the operating system's error.
func Unmap(address uintptr) error { return windows.UnmapViewOfFile(address) }

// copyOwner does nothing, because only an administrator may give a file to another user.
func copyOwner(*os.File, fs.FileInfo) bool { return true }

// isTooLong reports whether the name of a file is longer than NTFS allows.
func isTooLong(path string) bool { return len(utf16.Encode([]rune(filepath.Base(path)))) > 255 }

// IsReserved reports whether Windows keeps the name of a file for a device, as CON and NUL.db, or
// for a stream of another file, as keys.db:x.
func IsReserved(path string) bool {
	base := filepath.Base(path)
	return base != ".." && !filepath.IsLocal(base)
}

// CopyAccessList gives f the access list of the file at path. Until then f has the list that its
// directory hands down. On a file system without access lists CopyAccessList does nothing.
//
// Errors: the operating system's error.
func CopyAccessList(f *os.File, path string) error {
	list, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return &os.PathError{Op: "read the access list of", Path: path, Err: err}
	}
	// f itself was not opened with the right to change its list.
	h, err := createFile(f.Name(), windows.WRITE_DAC, windows.OPEN_EXISTING)
	if err == nil {
		err = windows.SetKernelObjectSecurity(h, windows.DACL_SECURITY_INFORMATION, list)
		_ = windows.CloseHandle(h)
	}
	if errors.Is(err, windows.ERROR_NOT_SUPPORTED) || errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "set the access list of", Path: f.Name(), Err: err}
	}
	return nil
}

// Duplicate returns [errors.ErrUnsupported], because bbolt cannot lock a duplicate here.
func Duplicate(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }
