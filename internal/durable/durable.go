// Package durable makes and replaces files so that a power cut leaves the old state or the new.
//
// [Create] and [Replace] write a whole file under another name, sync it, give it its own name, and
// sync the directory. [Lock] takes the lock that bbolt takes on its files.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Create makes a file at path, with mode 0600, that write fills. A file that is at path already
// stays as it is.
//
// Errors: [fs.ErrExist] if there is a file at path; write's error; the operating system's error.
func Create(path string, write func(tmp *os.File) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	return fill(tmp, write, func() error { return link(os.Link, tmp.Name(), path) })
}

// Replace makes a file at path that write fills, in the place of the file that is there. The new
// file has the owner and the mode of the old file. If there is none, its mode is 0600.
//
// The file is written under the name path + ".new", which is the same each time, so that crashes
// leave no more than one such file. Two calls for one path must not run at once: only the holder of
// a store's lock may call Replace.
//
// Errors: write's error, or the operating system's error.
func Replace(path string, write func(tmp *os.File) error) error {
	tmp, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	writeAlike := func(tmp *os.File) error {
		switch old, err := os.Stat(path); {
		case err == nil:
			if err := CopyAccess(tmp, old); err != nil {
				return err
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		return write(tmp)
	}
	return fill(tmp, writeAlike, func() error { return os.Rename(tmp.Name(), path) })
}

// fill has write fill tmp, syncs and closes it, and has name give it another name.
func fill(tmp *os.File, write func(tmp *os.File) error, name func() error) error {
	defer os.Remove(tmp.Name())
	err := write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := name(); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(tmp.Name()))
}

// link gives the file tmp the name path, by hard, which is [os.Link]. Unlike a rename, a link never
// replaces a file that has appeared meanwhile. On a file system without links, link renames.
func link(hard func(old, name string) error, tmp, path string) error {
	err := hard(tmp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	return os.Rename(tmp, path)
}

// CopyAccess gives f the owner and the mode of another file, so that the same programs can open it.
//
// Errors: the operating system's error.
func CopyAccess(f *os.File, other fs.FileInfo) error {
	if err := copyOwner(f, other); err != nil {
		return err
	}
	return f.Chmod(other.Mode().Perm())
}

// SyncDir makes a new name in the directory dir survive a power cut. On Windows it does nothing,
// because Windows needs no such call. A directory that may not be read cannot be synced, which is
// not an error.
//
// Errors: the operating system's error.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// Resolve returns the path that path leads to by symbolic links, even if there is no file there.
func Resolve(path string) string {
	for range 40 { // as many as Linux follows
		to, err := os.Readlink(path)
		if err != nil { // it is no link
			return path
		}
		if !filepath.IsAbs(to) {
			dir := filepath.Dir(path)
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
			}
			to = filepath.Join(dir, to)
		}
		path = to
	}
	return path
}

// Lock takes the lock that bbolt takes on a file that it writes to. It waits for at most timeout,
// and reports whether it has got the lock. On Windows it reports true and does nothing.
//
// Errors: the operating system's error.
func Lock(f *os.File, timeout time.Duration) (locked bool, err error) {
	for end := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		locked, err = tryLock(f)
		if locked || err != nil || !time.Now().Before(end) {
			return locked, err
		}
	}
}
