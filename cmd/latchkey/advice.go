package main

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// This file has the advice for errors of the operating system. The systems' own numbers are in
// advice_linux.go and advice_windows.go.

// advice is what to do about some errors.
type advice struct {
	text string
	errs []error
}

// systemAdvice lists the errors of the operating system that a person can meet. The first error
// that fits counts.
var systemAdvice = slices.Concat(ownAdvice, []advice{
	{"make room on the disk", []error{syscall.ENOSPC}},
	{"make room within the quota", []error{syscall.EDQUOT}},
	{"the file system or a limit (ulimit -f) allows no larger file; raise the limit, or use another file system", []error{syscall.EFBIG, syscall.EOVERFLOW}},
	{"mount the file system for writing, or name a file on another one", []error{syscall.EROFS}},
	{"the disk fails; copy what can still be read, and see latchkey help salvage", []error{syscall.EIO}},
	{"the file system cannot map a file into memory, or lacks another call that a store needs (shared folders of virtual machines often do); move the store to a local disk", []error{syscall.EINVAL, syscall.ENODEV}},
	{"the file system or the sandbox has no locks, or lacks another call that a store needs; move the store to a local disk", []error{syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.ENOTSUP, syscall.ENOLCK}},
	{"the file system has lost its server; mount it again, and repeat the command", []error{syscall.ESTALE, syscall.ENOTCONN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ETIMEDOUT}},
	{"let the process have more memory or address space (ulimit -v), or end other programs", []error{syscall.ENOMEM}},
	{"raise the number of files that a process may have open (ulimit -n)", []error{syscall.EMFILE}},
	{"end programs that have many files open, or raise the system's limit", []error{syscall.ENFILE}},
	{"something else uses the file, or it is a mount point; end that use, or name another file", []error{syscall.EBUSY}},
	{"the file is a program that is running, or is used for swapping; correct the name", []error{syscall.ETXTBSY}},
	{"choose a shorter name or a shorter path", []error{syscall.ENAMETOOLONG}},
	{"choose a name that the file system can hold", []error{syscall.EILSEQ}},
	{"the links lead in a circle; correct them", []error{syscall.ELOOP}},
	{"a part of the path is a file; correct the path", []error{syscall.ENOTDIR}},
	{"name a file", []error{syscall.EISDIR}},
	{"it is a socket or a device; name a file", []error{syscall.ENXIO}},
	{"the file is mounted by itself; mount its directory instead, or name a file in another directory", []error{syscall.EXDEV}},
	{"the system forbids it; check the file's owner, and whether the file is immutable or a security policy protects it", []error{syscall.EPERM}},
})

// portableAdvice lists the errors that every system has.
var portableAdvice = []advice{
	{"make the directory first", []error{fs.ErrNotExist}},
	{"run the command as the user who owns the file, or check who may read and write the file and its directory", []error{fs.ErrPermission}},
	{"choose another name, or move that file away", []error{fs.ErrExist}},
}

// adviceFor returns the advice for an error of the operating system, or "" if err is none.
func adviceFor(err error) string {
	for _, a := range slices.Concat(systemAdvice, portableAdvice) {
		for _, e := range a.errs {
			if errors.Is(err, e) {
				return a.text
			}
		}
	}
	// bbolt keeps only the text of some errors.
	for _, a := range systemAdvice {
		for _, e := range a.errs {
			if strings.HasSuffix(err.Error(), ": "+e.Error()) {
				return a.text
			}
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return "the operating system refuses it; latchkey doctor shows what can be seen of the file"
	}
	return ""
}

// isOutput reports whether err comes from writing to standard output.
func isOutput(err error) bool {
	var e *fs.PathError
	return errors.As(err, &e) && e.Op == "write" && e.Path == os.Stdout.Name()
}
