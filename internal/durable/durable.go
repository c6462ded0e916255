// Package durable makes and replaces files so that a power cut leaves the old state or the new.
//
// [Create] and [Replace] write a whole file under another name, sync it, give it its own name, and
// sync the directory. [Lock] takes the lock that bbolt takes on its files.
//
// On Windows a file that is open cannot be renamed, replaced or removed, unless every program that
// has it open allows that. [OpenFile] allows it. Virus scanners, indexers and programs that
// synchronize folders do not, and they open every new file for some milliseconds. So [Rename] and
// [Remove] try for up to two seconds.
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
	return fill(tmp, path, write, nameNew)
}

// Replace makes a file at path that write fills, in the place of the file that is there. The new
// file can be opened by the same programs as the old file; see [CopyAccess]. If there is none, its
// mode is 0600.
//
// The file is written under the name path + ".new", which is the same each time, so that crashes
// leave no more than one such file. Two calls for one path must not run at once: only the holder of
// a store's lock may call Replace.
//
// Errors: write's error, or the operating system's error.
func Replace(path string, write func(tmp *os.File) error) error {
	tmp, err := OpenFile(path+".new", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	writeAlike := func(tmp *os.File) error {
		if err := tmp.Truncate(0); err != nil { // a crash may have left something
			return err
		}
		if err := CopyAccess(tmp, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return write(tmp)
	}
	return fill(tmp, path, writeAlike, Rename)
}

// fill has write fill tmp, syncs and closes it, and has name give it the name path.
func fill(tmp *os.File, path string, write func(tmp *os.File) error, name func(tmp, path string) error) error {
	defer func() {
		_ = tmp.Close() // if write panics
		_ = Remove(tmp.Name())
	}()
	err := write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := name(tmp.Name(), path); err != nil {
		return err
	}
	return syncName(path)
}

// Rename gives the file old the name new, in the place of a file that is there. On Windows Rename
// cannot replace a file that is open, unless it was opened with [OpenFile] and the system can do
// that. Windows 10 on NTFS can.
//
// Errors: the operating system's error.
func Rename(old, new string) error {
	return retry(func() error { return rename(old, new) })
}

// Remove removes the file at path.
//
// Errors: [fs.ErrNotExist]; the operating system's error.
func Remove(path string) error {
	return retry(func() error { return os.Remove(path) })
}

// retry calls fn until its error no longer says that another program has the file open, for up to
// two seconds. The pauses between the calls grow from 1 ms to 50 ms.
func retry(fn func() error) error {
	end := time.Now().Add(2 * time.Second)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := fn()
		if !IsBusy(err) || !time.Now().Before(end) {
			return err
		}
		time.Sleep(pause)
	}
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

// CopyAccess gives f the owner and the mode of the file at path, so that the same programs can open
// both. On Windows it gives f the access list of the file, and f keeps its own owner.
//
// Errors: the operating system's error.
func CopyAccess(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := copyOwner(f, info); err != nil {
		return err
	}
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	return CopyAccessList(f, path)
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
// and reports whether it has got the lock.
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
