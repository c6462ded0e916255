package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Backup writes a copy of the store, as it is at one moment, to w. The copy is a store's file itself: [Restore] checks
// it and puts it in place. Logins and writes go on meanwhile; what they free is not used again until the backup is
// done, so a slow w lets the file grow. It holds the domain's secrets: keep it as safe as the file.
//
// It returns w's error, ctx's, [ErrClosed], [ErrCorrupt], or [errors.ErrUnsupported] if the engine has no backup.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if s.closed.Load() {
		return ErrClosed
	}
	e, ok := s.engine.(interface {
		WriteBackup(context.Context, io.Writer) error
	})
	if !ok {
		return wrapf(errors.ErrUnsupported, "backup")
	}
	return wrapf(e.WriteBackup(ctx, w), "backup")
}

// Restore makes a store's file at path from what [Store.Backup] wrote. It checks all of it first, so a backup that was
// cut short or damaged is never put in place: it returns [ErrCorrupt] then, or [ErrVersion]; [fs.ErrExist] if there is a
// file at path, which it leaves alone; r's error, ctx's, or the operating system's.
//
// A backup is as old as it is: keys that were disabled or deleted since are as they were before.
func Restore(ctx context.Context, r io.Reader, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return wrapf(fs.ErrExist, "restore %s", path)
	}
	return wrapf(restore(ctx, r, path, false), "restore %s", path)
}

// restore makes the file at path of a backup that it has checked.
func restore(ctx context.Context, r io.Reader, path string, replace bool) error {
	return writeFile(path, replace, func(tmp *os.File) error {
		if _, err := io.Copy(&contextWriter{ctx: ctx, w: tmp}, r); err != nil {
			return err
		}
		return checkFile(ctx, tmp.Name())
	})
}

// checkFile opens the store in a file and returns what Check finds first.
func checkFile(ctx context.Context, path string) error {
	s, err := Open(path, &Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer s.Close()
	for finding := range s.Check(ctx) {
		return finding
	}
	return nil
}

// Compact gives space that is no longer in use back to the file system. It copies what is in use to a new file beside
// the old one, for which there must be room, and then puts it in the old one's place: a crash leaves the one or the
// other, whole. Logins and other readings go on; writes wait.
//
// It returns ctx's error, [ErrReadOnly], [ErrClosed], [ErrCorrupt], [ErrSyncFailed], the operating system's error, or
// [errors.ErrUnsupported] if the engine cannot.
func (s *Store) Compact(ctx context.Context) error {
	if s.closed.Load() {
		return ErrClosed
	}
	e, ok := s.engine.(interface{ Compact(context.Context) error })
	if !ok {
		return wrapf(errors.ErrUnsupported, "compact")
	}
	return wrapf(e.Compact(ctx), "compact")
}

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
	last := uint64(0)
	for {
		if st, err := s.Stats(ctx); err == nil && st.Sequence != last {
			// What is committed between the two is copied, and counts as new the next time.
			if s.makeSafetyCopy(ctx, path) == nil {
				last = st.Sequence
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
	return writeFile(path+safetySuffix, true, func(tmp *os.File) error {
		if err := s.Backup(ctx, tmp); err != nil {
			return err
		}
		return checkFile(ctx, tmp.Name())
	})
}

// useSafetyCopy puts the safety copy in the place of the file at path, which it keeps under another name. There is a file
// at path at any time, so that no crash makes room for a new, empty store.
func useSafetyCopy(path string) error {
	f, err := os.Open(path + safetySuffix)
	if err != nil {
		return wrapf(err, "use safety copy")
	}
	defer f.Close()
	err = copyFile(path, path+damagedSuffix)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = restore(context.Background(), f, path, true)
	}
	return wrapf(err, "use safety copy")
}

// lost tells whether a file is gone and its safety copy is there.
func lost(path string) bool {
	_, err := os.Lstat(path)
	_, copyErr := os.Lstat(path + safetySuffix)
	return errors.Is(err, fs.ErrNotExist) && copyErr == nil
}

// wayOut adds to ErrCorrupt what can be done about the file at path.
func wayOut(path string, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	hint := "Restore a backup, or Salvage what is left"
	if _, statErr := os.Lstat(path + safetySuffix); statErr == nil {
		hint = "open it with UseSafetyCopy, " + hint
	}
	return fmt.Errorf("%w (%s)", err, hint)
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeFile(to, true, func(tmp *os.File) error {
		_, err := io.Copy(tmp, f)
		return err
	})
}
