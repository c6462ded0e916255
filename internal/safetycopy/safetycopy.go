// Package safetycopy puts the safety copy of a store in the place of a file that is damaged or
// gone.
//
//   - open.go opens a store, and finds out whether its safety copy is needed.
package safetycopy

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// damagedSuffix is what the name of a damaged file gets when a safety copy replaces the file.
const damagedSuffix = ".damaged"

// Name returns the path of the safety copy of the file at path.
func Name(path string) string { return path + ".safety" }

// ErrReplaced means that another program has put another file in the place of a file that was
// damaged or gone.
var ErrReplaced = errors.New("another program has replaced the file")

// A Restorer copies a backup from r to tmp, and checks the copy.
type Restorer func(ctx context.Context, r io.Reader, tmp *os.File) error

// MoveAway gives the thing at path, which is no file, the name of a damaged file. If a crash
// follows, there is nothing at path, and the next opening recovers the store.
func MoveAway(path string) error {
	kept := path + damagedSuffix
	if err := durable.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.Rename(path, kept); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// ReplaceLost makes the file at path from its safety copy. It returns fs.ErrNotExist if there is no
// safety copy.
func ReplaceLost(path string, restore Restorer) error {
	safe, err := durable.OpenFile(Name(path), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer safe.Close()
	return durable.Create(path, func(tmp *os.File) error {
		if err := durable.CopyAccessList(tmp, Name(path)); err != nil {
			return err
		}
		return restore(context.Background(), safe, tmp)
	})
}

// ReplaceDamaged puts the safety copy in the place of the damaged file at path. It closes the
// damaged file, and keeps it under another name.
//
// There is a file at path at all times, so that a crash never leaves room for a new and empty
// store. ReplaceDamaged holds the lock of the damaged file. So a program that has the file open
// keeps it, and if several programs find the damage, only one of them replaces the file.
//
// Where an open file cannot be replaced, ReplaceDamaged closes the damaged file before it replaces
// it, and the lock ends. There ReplaceDamaged also holds the lock of the safety copy, until the
// file is replaced.
//
// Errors: [ErrReplaced]; fs.ErrNotExist if there is no safety copy; boltengine.ErrLocked; the
// errors of restore; the operating system's error.
func ReplaceDamaged(path string, damaged *os.File, restore Restorer) error {
	defer damaged.Close()
	if err := boltengine.LockNow(damaged); err != nil {
		return err
	}
	defer durable.Unlock(damaged)
	safe, err := durable.OpenFile(Name(path), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer safe.Close()
	if !durable.ReplacesOpenFiles {
		if err := boltengine.LockNow(safe); err != nil {
			return err
		}
	}
	info, err := damaged.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(now, info) {
		return ErrReplaced
	}
	if err := keepDamaged(path, damaged); err != nil {
		return err
	}
	if !durable.ReplacesOpenFiles {
		_ = damaged.Close()
	}
	return durable.Replace(path, func(tmp *os.File) error { return restore(context.Background(), safe, tmp) })
}

// keepDamaged gives the damaged file at path a second name. A link does not read the file, whose
// pages may be unreadable, and takes no space. If the file system has no links, keepDamaged copies
// the file.
func keepDamaged(path string, damaged *os.File) error {
	kept := path + damagedSuffix
	info, err := damaged.Stat()
	if err != nil {
		return err
	}
	if was, err := os.Stat(kept); err == nil && os.SameFile(was, info) {
		// An earlier recovery ended before it replaced the file.
		return durable.SyncDir(filepath.Dir(path))
	}
	if err := durable.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(path, kept) == nil {
		return durable.SyncDir(filepath.Dir(path))
	}
	return durable.Replace(kept, func(tmp *os.File) error {
		if err := durable.CopyAccessList(tmp, path); err != nil {
			return err
		}
		_, err := io.Copy(tmp, damaged)
		return err
	})
}
