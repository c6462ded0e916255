//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package durable

import (
	"io/fs"
	"os"
)

// tryLock does nothing, because Windows renames nothing over a file that is open.
func tryLock(*os.File) (locked bool, err error) { return true, nil }

// Unlock does nothing, because a lock ends here when its file is closed.
func Unlock(*os.File) {}

func copyOwner(*os.File, fs.FileInfo) error { return nil }
