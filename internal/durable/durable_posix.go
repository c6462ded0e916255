//go:build !windows

package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// ReplacesOpenFiles reports whether [Rename] can always replace a file that is open.
const ReplacesOpenFiles = true

// OpenFile opens a file as [os.OpenFile] does. It makes a new file with mode 0600. While the file
// is open, it can be renamed, replaced and removed.
//
// Errors: the operating system's error.
func OpenFile(path string, flag int) (*os.File, error) { return os.OpenFile(path, flag, 0o600) }

// DiskErrors are the errors of a disk that is full or that fails.
var DiskErrors = []syscall.Errno{syscall.ENOSPC, syscall.EIO}

// IsBusy reports whether err may mean that another program has the file open. On this system it
// never does.
func IsBusy(error) bool { return false }

// IsHeld reports whether err says that another program has the file open. On this system it never
// does.
func IsHeld(error) bool { return false }

func rename(old, new string) error { return os.Rename(old, new) }

// nameNew gives the file tmp the name path, and never replaces another file.
func nameNew(tmp, path string) error { return link(os.Link, tmp, path) }

// syncName makes the name of the file at path survive a power cut.
func syncName(path string) error { return SyncDir(filepath.Dir(path)) }

// isTooLong reports whether the file system cannot hold such a long name.
func isTooLong(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, syscall.ENAMETOOLONG)
}

// IsReserved reports whether the system keeps the name of a file for other things. Only Windows
// does.
func IsReserved(string) bool { return false }

// Unmap ends a map of a file on Windows, where a file that is mapped cannot be changed. Here Unmap
// does nothing.
func Unmap(uintptr) error { return nil }

// CopyAccessList gives f the access list of the file at path on Windows. Here it does nothing.
func CopyAccessList(*os.File, string) error { return nil }
