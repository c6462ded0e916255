package latchkey

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

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
			err := safetycopy.RepeatInterrupted(ctx, func() error { return s.makeSafetyCopy(ctx, path) })
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
	if opts.readOnly() || !safetycopy.IsLeft(durable.Resolve(path)) {
		return openFile(path, opts)
	}
	err := fmt.Errorf("%w, and its safety copy is there", ErrFileGone)
	if opts.mustExist() {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return nil, wrapf(err, "open %s", path)
}

// openOrRecover opens the store at path. If the file is damaged or gone, openOrRecover puts the
// safety copy in its place first.
func openOrRecover(path string, opts *Options) (*Store, error) {
	once := *opts
	once.LockTimeout = -1
	o := safetycopy.Opener[*Store]{
		Open: func(path string) (*Store, error) { return openFile(path, &once) }, Restore: restore, Wrap: wrapOpen,
	}
	s, recovered, err := o.OpenOrRecover(path, opts.lockTimeout())
	if err != nil {
		return nil, err
	}
	s.recovered = recovered
	return s, nil
}
