package safetycopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// An Opener opens the store at a path, whose file may be damaged or gone.
type Opener[S any] struct {
	// Open opens the file. It does not wait for a lock.
	Open    func(path string) (S, error)
	Restore Restorer
	// Wrap adds to an error the file that could not be opened.
	Wrap func(err error, path string) error
}

// OpenOrRecover opens the store at path. If the file is damaged or gone, OpenOrRecover puts the
// safety copy in its place first, and sets recovered. It waits for a time for other programs.
//
// Between two attempts OpenOrRecover has no file open. On Windows another program could not replace
// the file otherwise.
func (o Opener[S]) OpenOrRecover(path string, wait time.Duration) (s S, recovered bool, err error) {
	for end := time.Now().Add(wait); ; {
		s, recovered, err = o.try(path)
		if errors.Is(err, ErrReplaced) {
			continue
		}
		if !errors.Is(err, boltengine.ErrLocked) && !durable.IsBusy(err) || !time.Now().Before(end) {
			return s, recovered, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// try is OpenOrRecover without waiting.
//
// Errors: [ErrReplaced]; boltengine.ErrLocked, or an error that durable.IsBusy knows, if another
// program has the file or its safety copy open; the errors of o.
func (o Opener[S]) try(given string) (s S, recovered bool, err error) {
	path := durable.Resolve(given) // the safety copy is beside the file itself
	// The file is held open, so that another file is not mistaken for this one.
	f, err := boltengine.OpenRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch err = ReplaceLost(path, o.Restore); {
		case err == nil:
			s, err = o.Open(given)
			return s, true, err
		case errors.Is(err, fs.ErrExist):
			return s, false, ErrReplaced
		case errors.Is(err, fs.ErrNotExist): // there is no safety copy either
			s, err = o.Open(given)
			return s, false, err
		}
		return s, false, useError(err, path)
	}
	if errors.Is(err, boltengine.ErrNotStore) {
		if _, statErr := os.Stat(Name(path)); statErr != nil {
			return s, false, o.Wrap(err, path)
		}
		if err := MoveAway(path); err != nil {
			return s, false, useError(err, path)
		}
		return s, false, ErrReplaced
	}
	if err != nil {
		return s, false, o.Wrap(err, path)
	}
	s, err = o.Open(given)
	if !errors.Is(err, boltengine.ErrCorrupt) && !errors.Is(err, boltengine.ErrNotStore) {
		_ = f.Close()
		return s, false, err
	}
	copyErr := ReplaceDamaged(path, f, o.Restore)
	switch {
	case errors.Is(copyErr, ErrReplaced):
		return s, false, ErrReplaced
	case errors.Is(copyErr, fs.ErrNotExist): // there is no safety copy
		return s, false, err
	case copyErr != nil:
		return s, false, fmt.Errorf("%w; use safety copy %s: %w", err, Name(path), copyErr)
	}
	s, err = o.Open(given)
	return s, true, err
}

func useError(err error, path string) error {
	return fmt.Errorf("latchkey: use safety copy %s: %w", Name(path), err)
}

// IsLeft reports whether the file at path is gone and its safety copy is there.
func IsLeft(path string) bool {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = os.Stat(Name(path))
	return err == nil
}

// RepeatInterrupted calls fn until it ends with another error than boltengine.ErrInterrupted, or
// ctx ends.
func RepeatInterrupted(ctx context.Context, fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, boltengine.ErrInterrupted) || ctx.Err() != nil {
			return err
		}
	}
}

// WayOut adds to boltengine.ErrCorrupt and boltengine.ErrNotStore the ways out for the file at
// path.
func WayOut(path string, err error) error {
	_, statErr := os.Lstat(Name(path))
	way := ""
	switch {
	case errors.Is(err, boltengine.ErrCorrupt) && statErr == nil:
		way = "open it with RecoverFromSafetyCopy, Restore a backup, or Salvage what is left"
	case errors.Is(err, boltengine.ErrCorrupt):
		way = "Restore a backup, or Salvage what is left"
	case errors.Is(err, boltengine.ErrNotStore) && statErr == nil:
		way = "if it was a store, open it with RecoverFromSafetyCopy"
	case errors.Is(err, boltengine.ErrNotStore):
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
