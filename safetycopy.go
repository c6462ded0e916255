package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/safetycopy"
)

// A safety copy is a backup that the store makes of itself, beside its file.

// keepSafetyCopy makes a copy at once, and then at each interval if anything has changed. It
// returns when the store begins to close.
func (s *Store) keepSafetyCopy(path string, every time.Duration) {
	ctx, cancel := s.untilClosed()
	defer cancel()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for last, made := uint64(0), false; ; {
		if st, err := s.Stats(ctx); err == nil && (!made || st.Commits != last) {
			// A commit between Stats and the copy is in the copy, and counts as new for the next
			// one.
			err := repeatInterrupted(ctx, func() error { return s.makeSafetyCopy(ctx, path) })
			if err == nil {
				last, made = st.Commits, true
			}
			if ctx.Err() == nil {
				s.safetyCopy.Attempted(err, s.now())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}

// repeatInterrupted calls fn until it ends with another error than [ErrInterrupted], or ctx ends.
func repeatInterrupted(ctx context.Context, fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, ErrInterrupted) || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Store) makeSafetyCopy(ctx context.Context, path string) error {
	return durable.Replace(safetycopy.Name(path), func(tmp *os.File) error {
		if err := durable.CopyAccessList(tmp, path); err != nil {
			return err
		}
		if err := s.Backup(ctx, tmp); err != nil {
			return err
		}
		return checkCopy(ctx, tmp.Name())
	})
}

// openUnlessGone opens the store at path. If the file is gone and its safety copy is there, it
// returns ErrFileGone and makes no new store, because the first safety copy of the new store would
// replace the copy of the old one.
func openUnlessGone(path string, opts *Options) (*Store, error) {
	file := durable.Resolve(path)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !opts.readOnly() {
		if _, err := os.Stat(safetycopy.Name(file)); err == nil {
			err := fmt.Errorf("%w, and its safety copy is there", ErrFileGone)
			if opts.mustExist() {
				err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
			}
			return nil, wrapf(err, "open %s", path)
		}
	}
	return openFile(path, opts)
}

// openOrRecover opens the store at path. If the file is damaged or gone, openOrRecover puts the
// safety copy in its place first.
//
// Between two attempts openOrRecover has no file open. On Windows another program could not replace
// the file otherwise.
func openOrRecover(path string, opts *Options) (*Store, error) {
	once := *opts
	once.LockTimeout = -1
	for end := time.Now().Add(opts.lockTimeout()); ; {
		s, err := tryOpenOrRecover(path, &once)
		if errors.Is(err, safetycopy.ErrReplaced) {
			continue
		}
		if !errors.Is(err, ErrLocked) && !durable.IsBusy(err) || !time.Now().Before(end) {
			return s, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tryOpenOrRecover is openOrRecover without waiting.
//
// Errors: safetycopy.ErrReplaced; [ErrLocked], or an error that durable.IsBusy knows, if another
// program has the file or its safety copy open; the errors of [Open].
func tryOpenOrRecover(given string, opts *Options) (*Store, error) {
	path := durable.Resolve(given) // the safety copy is beside the file itself
	// The file is held open, so that another file is not mistaken for this one.
	f, err := boltengine.OpenRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch err = safetycopy.ReplaceLost(path, restore); {
		case err == nil:
			return openRecovered(given, opts)
		case errors.Is(err, fs.ErrExist):
			return nil, safetycopy.ErrReplaced
		case errors.Is(err, fs.ErrNotExist): // there is no safety copy either
			return openFile(given, opts)
		}
		return nil, wrapf(err, "use safety copy %s", safetycopy.Name(path))
	}
	if errors.Is(err, ErrNotStore) {
		if _, statErr := os.Stat(safetycopy.Name(path)); statErr != nil {
			return nil, wrapf(err, "open %s", path)
		}
		if err := safetycopy.MoveAway(path); err != nil {
			return nil, wrapf(err, "use safety copy %s", safetycopy.Name(path))
		}
		return nil, safetycopy.ErrReplaced
	}
	if err != nil {
		return nil, wrapOpen(err, path)
	}
	s, err := openFile(given, opts)
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotStore) {
		_ = f.Close()
		return s, err
	}
	copyErr := safetycopy.ReplaceDamaged(path, f, restore)
	if errors.Is(copyErr, safetycopy.ErrReplaced) {
		return nil, safetycopy.ErrReplaced
	}
	if errors.Is(copyErr, fs.ErrNotExist) { // there is no safety copy
		return nil, err
	}
	if copyErr != nil {
		return nil, fmt.Errorf("%w; use safety copy %s: %w", err, safetycopy.Name(path), copyErr)
	}
	return openRecovered(given, opts)
}

// openRecovered opens the store at path, which is a safety copy now.
func openRecovered(path string, opts *Options) (*Store, error) {
	s, err := openFile(path, opts)
	if err == nil {
		s.recovered = true
	}
	return s, err
}

// wayOut adds to ErrCorrupt and ErrNotStore the ways out for the file at path.
func wayOut(path string, err error) error {
	_, statErr := os.Lstat(safetycopy.Name(path))
	way := ""
	switch {
	case errors.Is(err, ErrCorrupt) && statErr == nil:
		way = "open it with RecoverFromSafetyCopy, Restore a backup, or Salvage what is left"
	case errors.Is(err, ErrCorrupt):
		way = "Restore a backup, or Salvage what is left"
	case errors.Is(err, ErrNotStore) && statErr == nil:
		way = "if it was a store, open it with RecoverFromSafetyCopy"
	case errors.Is(err, ErrNotStore):
		way = "if it was a store, Restore a backup"
	default:
		return err
	}
	return &wayOutError{err, way}
}

// wayOutError is an error with a way out for a Go program. The command latchkey finds the way by
// its method, and shows a way out for a person in its place.
type wayOutError struct {
	error
	way string
}

func (e *wayOutError) Error() string  { return e.error.Error() + " (" + e.way + ")" }
func (e *wayOutError) Unwrap() error  { return e.error }
func (e *wayOutError) WayOut() string { return e.way }
