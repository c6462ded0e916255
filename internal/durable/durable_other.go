//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package durable

import (
	"io/fs"
	"os"
)

// tryLock does nothing, because these systems have no such lock.
func tryLock(*os.File) (locked bool, err error) { return true, nil }

// IsLocked reports false, because these systems have no such lock.
func IsLocked(*os.File) (bool, error) { return false, nil }

// Unlock does nothing, because a lock ends here when its file is closed.
func Unlock(*os.File) {}

func copyOwner(*os.File, fs.FileInfo) bool { return true }

// Duplicate returns [errors.ErrUnsupported], because duplicates share no lock here.
func Duplicate(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }
