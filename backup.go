package latchkey

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/latchkeydb/latchkey/internal/durable"
)

// Backup writes a copy of the store, as it is at one moment, to w. The copy is a store's file itself: [Restore] checks
// it and puts it in place. Logins and writes go on meanwhile; what they free is not used again until the backup is
// done, so a slow w lets the file grow, and holds up others if it outgrows its map (see [Store.View]): have a fast w, such
// as a file. It holds the domain's secrets: keep it as safe as the file.
//
// It returns w's error, ctx's, [ErrClosed], [ErrCorrupt], or [errors.ErrUnsupported] if the engine has no backup.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if s.closed.Load() {
		return ErrClosed
	}
	e, ok := s.engine.(EngineBackuper)
	if !ok {
		return wrapf(errors.ErrUnsupported, "backup")
	}
	return wrapf(e.WriteBackup(ctx, w), "backup")
}

// Restore makes a store's file at path from what [Store.Backup] wrote. It checks all of it first, so a backup that was
// cut short or damaged is never put in place: it returns [ErrCorrupt] then, or [ErrNewerFormat]; [fs.ErrExist] if there is a
// file at path, which it leaves alone; r's error, ctx's, or the operating system's. If path is a symbolic link that leads to
// nothing, Restore makes the file where the link leads, as [Open] does.
//
// A backup is as old as it is: keys that were disabled or deleted since are as they were before.
func Restore(ctx context.Context, r io.Reader, path string) error {
	_, err := os.Stat(path)
	switch {
	case err == nil:
		err = fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		err = durable.Create(durable.Resolve(path), func(tmp *os.File) error { return restore(ctx, r, tmp) })
	}
	return wrapf(err, "restore %s", path)
}

// restore makes a file of a backup that it has checked.
func restore(ctx context.Context, r io.Reader, tmp *os.File) error {
	n, err := io.Copy(&contextWriter{ctx: ctx, w: tmp}, r)
	if err == nil && n == 0 {
		err = corrupt("the backup is empty")
	}
	if err != nil {
		return err
	}
	return checkCopy(ctx, tmp.Name())
}

// checkCopy opens the store in a file that nobody else knows of, and returns what Check finds first.
func checkCopy(ctx context.Context, path string) error {
	opts := &Options{ReadOnly: true}
	e, err := openBolt(path, opts)
	if err != nil {
		return err
	}
	s, err := newStore(e, opts)
	if err != nil {
		return errors.Join(err, e.Close())
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
// It returns ctx's error, [ErrReadOnly], [ErrClosed], [ErrCorrupt], [ErrSyncFailed], [fs.ErrExist] if there is another file
// in the store's place by now, the operating system's error, or [errors.ErrUnsupported] if the engine cannot.
func (s *Store) Compact(ctx context.Context) error {
	if s.closed.Load() {
		return ErrClosed
	}
	e, ok := s.engine.(EngineCompacter)
	if !ok {
		return wrapf(errors.ErrUnsupported, "compact")
	}
	return wrapf(e.Compact(ctx), "compact")
}
