//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package latchkey

import (
	"os"
	"syscall"
)

// unlock gives up bbolt's lock on f. Closing f does not where it is still mapped, as after a panic in bbolt.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
