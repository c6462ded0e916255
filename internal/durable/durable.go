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
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Create makes a file at path, with mode 0600, that write fills. A file that is at path already
// stays as it is.
//
// Errors: [fs.ErrExist] if there is a file at path; write's error; the operating system's error.
func Create(path string, write func(tmp *os.File) error) error {
	if IsReserved(path) {
		return &os.PathError{Op: "create", Path: path, Err: errReserved}
	}
	prefix := filepath.Base(path) + newInfix
	if isTooLong(filepath.Join(filepath.Dir(path), prefix+"4294967295")) { // at most
		prefix = shortName(path, newInfix)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), prefix+"*")
	if err != nil {
		return Named(err, path)
	}
	written := false
	err = fill(tmp, path, func(tmp *os.File) error {
		err := write(tmp)
		written = err == nil
		return err
	}, nameNew)
	// The maker of the file at path may have removed tmp.
	if !written || errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(path); statErr == nil {
			return &os.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
	}
	return err
}

var errReserved = errors.New("the name is one that Windows keeps for a device, or for a stream of a file")

// newInfix is between the name of a file and the digits in the temporary name that [Create] fills
// the file under.
const newInfix = ".new-"

// RemoveLeftovers removes the temporary files of calls of [Create] for path that a crash ended. It
// leaves alone a file that another process has locked, as bbolt locks the file that it fills.
func RemoveLeftovers(path string) {
	for _, prefix := range []string{filepath.Base(path) + newInfix, shortName(path, newInfix)} {
		for _, name := range namesWith(filepath.Dir(path), prefix) {
			removeUnlocked(filepath.Join(filepath.Dir(path), name))
		}
	}
}

// namesWith returns the names in dir that are prefix and digits.
func namesWith(dir, prefix string) (names []string) {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	all, _ := d.Readdirnames(-1)
	for _, name := range all {
		digits, found := strings.CutPrefix(name, prefix)
		if found && digits != "" && strings.Trim(digits, "0123456789") == "" {
			names = append(names, name)
		}
	}
	return names
}

func removeUnlocked(path string) {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return
	}
	f, err := OpenFile(path, os.O_RDWR)
	if err != nil {
		return
	}
	locked, _ := Lock(f, -1)
	_ = f.Close()
	if locked {
		_ = Remove(path)
	}
}

// Beside returns the name of a temporary file beside path: path and suffix, or a short name that is
// made of them where the file system has no room for such a long name.
func Beside(path, suffix string) string {
	long := path + suffix
	if isTooLong(long) {
		return filepath.Join(filepath.Dir(path), shortName(path, suffix))
	}
	return long
}

// shortName returns a short name that is the same for the same file and suffix, and that no other
// file is likely to have.
func shortName(path, suffix string) string {
	sum := sha256.Sum256([]byte(filepath.Base(path)))
	return fmt.Sprintf(".%x%s", sum[:8], suffix)
}

// Replace makes a file at path that write fills, in the place of the file that is there. The new
// file can be opened by the same programs as the old file; see [CopyAccess]. If there is none, its
// mode is 0600.
//
// The file is written under the name path + ".new", or under a short name where that name is too
// long. The name is the same each time, so that crashes leave no more than one such file. Replace
// removes what has that name, and makes a new file: it neither follows a link nor takes over a file
// that somebody else has put there. Two calls for one path must not run at once: only the holder of
// a store's lock may call Replace.
//
// Errors: write's error, or the operating system's error. The error says so if the file at path is
// a mount point, which no file can replace.
func Replace(path string, write func(tmp *os.File) error) error {
	name := Beside(path, ".new")
	if err := Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return Named(err, path)
	}
	writeAlike := func(tmp *os.File) error {
		if _, err := os.Stat(path); err == nil {
			CopyAccess(tmp, path)
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
	_ = tmp.Chmod(0o600) // a strict umask may keep the owner from opening it once more
	err := write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	closeErr := tmp.Close()
	if err == nil {
		err = closeErr
	}
	if err == nil {
		err = name(tmp.Name(), path)
	}
	if err != nil {
		return Named(err, path)
	}
	return syncName(path)
}

// Named returns the operating system's error err with the name of the file that was to be made, in
// place of a temporary name that nobody knows.
func Named(err error, path string) error {
	switch e := err.(type) {
	case *os.PathError:
		if isTemporary(e.Path, path) {
			return &os.PathError{Op: e.Op, Path: path, Err: e.Err}
		}
	case *os.LinkError:
		if isTemporary(e.Old, path) {
			return &os.PathError{Op: "replace", Path: path, Err: e.Err}
		}
	}
	return err
}

// isTemporary reports whether name is a temporary name of the file at path.
func isTemporary(name, path string) bool {
	if filepath.Clean(filepath.Dir(name)) != filepath.Clean(filepath.Dir(path)) {
		return false
	}
	return strings.HasPrefix(filepath.Base(name), filepath.Base(path)+".") || strings.HasPrefix(filepath.Base(name), shortName(path, "."))
}

// Rename gives the file old the name new, in the place of a file that is there. On Windows Rename
// cannot replace a file that is open, unless it was opened with [OpenFile] and the system can do
// that. Windows 10 on NTFS can.
//
// Errors: the operating system's error. The error says so if new is a mount point, such as a single
// file that a container has mounted: no file can replace a mount point.
func Rename(old, new string) error {
	return RenameWithin(patience, old, new)
}

// RenameWithin is [Rename] with a limit of its own to the time in which it tries again.
//
// Errors: those of [Rename].
func RenameWithin(limit time.Duration, old, new string) error {
	return retry(limit, func() error { return TryRename(old, new) })
}

// TryRename is [Rename] without a second attempt.
//
// Errors: those of [Rename].
func TryRename(old, new string) error {
	err := rename(old, new)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("%w; if %s is a mount point, no file can replace it: mount its directory instead", Named(err, new), new)
	}
	return err
}

// Remove removes the file at path.
//
// Errors: [fs.ErrNotExist]; the operating system's error.
func Remove(path string) error {
	return retry(patience, func() error { return os.Remove(path) })
}

// patience is how long a change of a name is tried. A virus scanner usually has a file open for
// some milliseconds.
const patience = 2 * time.Second

// retry calls fn until its error no longer says that another program has the file open, for up to
// limit. The pauses between the calls grow from 1 ms to 50 ms.
func retry(limit time.Duration, fn func() error) error {
	end := time.Now().Add(limit)
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

// CopyAccess gives f the owner, the group and the mode of the file at path, so that the same
// programs can open both, as far as the system lets it. Replacing a file must not demand more
// rights than writing to it, so a failure is no error. If f keeps another group, the group gets no
// rights. On Windows CopyAccess gives f the access list of the file, and f keeps its own owner.
func CopyAccess(f *os.File, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	mode := info.Mode().Perm()
	if !copyOwner(f, info) {
		mode &^= 0o070
	}
	_ = f.Chmod(mode)
	_ = CopyAccessList(f, path)
}

// Kind returns the words for a thing that is no regular file, such as "a directory".
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "no regular file"
}

// SyncDir makes a new name in the directory dir survive a power cut. On Windows it does nothing,
// because Windows needs no such call. A directory that may not be read cannot be synced, which is
// not an error. Neither is it an error if the file system has no such call, as older CIFS,
// VirtualBox folders and HFS: it answers with EINVAL, ENOTSUP or ENOSYS.
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
	err = syncDir(d)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

// syncDir is the system's call, for tests of systems that refuse it.
var syncDir = (*os.File).Sync

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
