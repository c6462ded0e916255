package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

func TestAnErrorOfTheSystemComesWithAdvice(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.ENOSPC, "make room on the disk"},
		{syscall.EDQUOT, "quota"},
		{syscall.EFBIG, "ulimit -f"},
		{syscall.EOVERFLOW, "ulimit -f"},
		{syscall.EROFS, "mount the file system for writing"},
		{syscall.EIO, "the disk fails"},
		{syscall.EINVAL, "move the store to a local disk"},
		{syscall.ENODEV, "move the store to a local disk"},
		{syscall.ENOSYS, "has no locks"},
		{syscall.EOPNOTSUPP, "has no locks"},
		{syscall.ENOTSUP, "has no locks"},
		{syscall.ENOLCK, "has no locks"},
		{syscall.ESTALE, "mount it again"},
		{syscall.ENOTCONN, "mount it again"},
		{syscall.ENOMEM, "ulimit -v"},
		{syscall.EMFILE, "ulimit -n"},
		{syscall.ENFILE, "the system's limit"},
		{syscall.EBUSY, "mount point"},
		{syscall.ETXTBSY, "a program that is running"},
		{syscall.ENAMETOOLONG, "shorter name"},
		{syscall.EILSEQ, "a name that the file system can hold"},
		{syscall.ELOOP, "in a circle"},
		{syscall.EISDIR, "name a file"},
		{syscall.ENXIO, "a socket or a device"},
		{syscall.EXDEV, "mount its directory instead"},
		{syscall.EPERM, "immutable"},
		{syscall.EACCES, "who may read and write"},
		{syscall.EEXIST, "choose another name"},
		{syscall.EPROTO, "latchkey doctor"}, // and every other error of the system
	} {
		for _, err := range []error{
			&fs.PathError{Op: "open", Path: "keys.db", Err: tt.err},
			&os.LinkError{Op: "rename", Old: "keys.db.new", New: "keys.db", Err: tt.err},
			fmt.Errorf("latchkey: open keys.db: %w", tt.err),
		} {
			wantReport(t, err, exitFailed, tt.want)
		}
	}
	wantReport(t, syscall.ENOENT, exitNotFound, "make the directory first")
	if runtime.GOOS != "windows" { // where it is also the number of a directory that is missing
		wantReport(t, syscall.ENOTDIR, exitNotFound, "a part of the path is a file")
	}
}

// wantReport checks the exit status of err, and that its line has want in it.
func wantReport(t *testing.T, err error, status int, want string) {
	t.Helper()
	var stderr bytes.Buffer
	if got := (&cli{stderr: &stderr}).report(&cobra.Command{}, err); got != status || !strings.Contains(stderr.String(), want) {
		t.Errorf("%v: got %d, %q; want %d, %q", err, got, stderr.String(), status, want)
	}
}

func TestAnErrorWhoseTextAloneIsLeftComesWithAdvice(t *testing.T) {
	wantReport(t, fmt.Errorf("update: file resize error: truncate keys.db: %s", syscall.EFBIG), exitFailed, "ulimit -f")
	wantReport(t, fmt.Errorf("update: mmap allocate error: %s", syscall.ENOMEM), exitFailed, "ulimit -v")
}

func TestTheAdviceForAFailedChangeComesBeforeThatForTheDisk(t *testing.T) {
	wantReport(t, fmt.Errorf("%w: %w", latchkey.ErrCommitUnknown, syscall.EIO), exitFailed, "check whether the change was made")
	wantReport(t, latchkey.ErrSyncFailed, exitFailed, "check the disk")
}

func TestAnErrorOfStandardOutputSaysThatTheOutputIsIncomplete(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.ENOSPC}
	wantReport(t, full, exitFailed, "the output is incomplete")
	wantReport(t, &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}, exitFailed, "the output is incomplete")
	c := &cli{stderr: io.Discard}
	if status := c.report(&cobra.Command{}, errors.Join(latchkey.ErrInvalidToken, full)); status != exitRefused {
		t.Errorf("a refused token whose answer cannot be written: got status %d, want %d", status, exitRefused)
	}
}
