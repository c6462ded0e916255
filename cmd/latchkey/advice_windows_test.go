package main

import (
	"io/fs"
	"syscall"
	"testing"
)

func TestAnErrorOfWindowsComesWithAdvice(t *testing.T) {
	for number, want := range map[syscall.Errno]string{
		5:    "another program has the file open",
		19:   "protected against writing",
		23:   "the disk fails",
		32:   "another program has the file open",
		33:   "another program has the file open",
		39:   "make room on the disk",
		112:  "make room on the disk",
		1117: "the disk fails",
		1224: "another program has the file open",
		1295: "quota",
		1392: "chkdsk",
		1455: "more memory",
		9999: "latchkey doctor", // and every other error of the system
	} {
		wantReport(t, &fs.PathError{Op: "open", Path: "keys.db", Err: number}, exitFailed, want)
	}
	wantReport(t, syscall.Errno(3), exitNotFound, "make the directory first")
}
