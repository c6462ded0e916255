package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/latchkeydb/latchkey/internal/durable"
)

// The safety copy is a backup that the store makes of itself, beside its file.

const (
	safetySuffix  = ".safety"
	damagedSuffix = ".damaged"
)

// keepSafetyCopy makes a copy at once and then every so often, until the store closes, whenever something has changed.
func (s *Store) keepSafetyCopy(path string, every time.Duration) {
	ctx, cancel := s.untilClosed()
	defer cancel()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for last, made := uint64(0), false; ; {
		if st, err := s.Stats(ctx); err == nil && (!made || st.Commits != last) {
			// What is committed between the two is copied, and counts as new the next time.
			if s.makeSafetyCopy(ctx, path) == nil {
				last, made = st.Commits, true
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

func (s *Store) makeSafetyCopy(ctx context.Context, path string) error {
	return durable.Replace(path+safetySuffix, func(tmp *os.File) error {
		if err := s.Backup(ctx, tmp); err != nil {
			return err
		}
		return checkCopy(ctx, tmp.Name())
	})
}

// openUnlessGone opens the store at path, and starts no new one beside the safety copy of another, which the first copy of
// the new one would replace.
func openUnlessGone(path string, opts *Options) (*Store, error) {
	file := durable.Resolve(path)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !opts.readOnly() {
		if _, err := os.Stat(file + safetySuffix); err == nil {
			return nil, wrapf(ErrFileGone, "open %s", path)
		}
	}
	return openFile(path, opts)
}

// openOrRecover opens the store at path, and puts the safety copy in the place of a file that is damaged or gone.
func openOrRecover(path string, opts *Options) (*Store, error) {
	path = durable.Resolve(path) // where the copy is, too
	for {
		f, err := openRegular(path) // so that no other file is taken for this one
		if errors.Is(err, fs.ErrNotExist) {
			err = replaceLost(path)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, wrapf(err, "use safety copy")
			}
			return openFile(path, opts)
		}
		if err != nil {
			return nil, wrapf(err, "open store")
		}
		s, err := openFile(path, opts)
		if !errors.Is(err, ErrCorrupt) {
			_ = f.Close()
			return s, err
		}
		switch copyErr := replaceDamaged(path, f, opts.lockTimeout()); {
		case errors.Is(copyErr, errReplaced):
		case errors.Is(copyErr, fs.ErrNotExist): // there is no copy
			return nil, err
		case copyErr != nil:
			return nil, fmt.Errorf("%w; use safety copy: %w", err, copyErr)
		default:
			return openFile(path, opts)
		}
	}
}

// replaceLost makes the file at path of its safety copy, unless there is one.
func replaceLost(path string) error {
	safe, err := os.Open(path + safetySuffix)
	if err != nil {
		return err
	}
	defer safe.Close()
	return durable.Create(path, func(tmp *os.File) error { return restore(context.Background(), safe, tmp) })
}

// errReplaced: somebody else has put another file in the place of a damaged one.
var errReplaced = errors.New("there is another file by now")

// replaceDamaged puts the safety copy in the place of the file at path, which it closes, and keeps under another name.
// There is a file at path at any time, so that no crash makes room for a new, empty store. It holds the lock of the damaged
// file: a program that still has it open keeps it, and of several programs that find the damage only one replaces it.
func replaceDamaged(path string, damaged *os.File, timeout time.Duration) error {
	defer damaged.Close()
	// As [OpenBoltEngine] waits for it.
	locked, err := durable.Lock(damaged, timeout)
	if err != nil {
		return err
	}
	if !locked {
		return ErrLocked
	}
	defer durable.Unlock(damaged)
	info, err := damaged.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(now, info) {
		return errReplaced
	}
	safe, err := os.Open(path + safetySuffix)
	if err != nil {
		return err
	}
	defer safe.Close()
	if err := keepDamaged(path, damaged); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // which renames nothing over a file that is open
		_ = damaged.Close()
	}
	return durable.Replace(path, func(tmp *os.File) error { return restore(context.Background(), safe, tmp) })
}

// keepDamaged gives the damaged file at path another name besides. A link reads nothing of it, for there may be pages that
// cannot be read, and takes no space; where there are no links the file is copied.
func keepDamaged(path string, damaged *os.File) error {
	kept := path + damagedSuffix
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(path, kept) == nil {
		return durable.SyncDir(filepath.Dir(path))
	}
	return durable.Replace(kept, func(tmp *os.File) error {
		_, err := io.Copy(tmp, damaged)
		return err
	})
}

// wayOut adds to ErrCorrupt what can be done about the file at path.
func wayOut(path string, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	hint := "Restore a backup, or Salvage what is left"
	if _, statErr := os.Lstat(path + safetySuffix); statErr == nil {
		hint = "open it with RecoverFromSafetyCopy, " + hint
	}
	return fmt.Errorf("%w (%s)", err, hint)
}
