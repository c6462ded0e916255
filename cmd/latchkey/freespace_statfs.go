//go:build darwin || dragonfly || freebsd || linux

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace returns how many bytes a program without privileges can still write to the disk of dir.
func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if int64(s.Bavail) < 0 { // where root has used more than others may
		return 0, nil
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil
}
