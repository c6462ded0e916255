package latchkey

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/salvage"
)

// Backup writes a copy of the store, as it is at one moment, to w. The copy is itself the file of a
// store. [Restore] checks the copy and puts it in place. The copy has the secrets of the domain, so
// keep it as safe as the file.
//
// Logins and writes go on meanwhile, even if w takes nothing more. Space that they free is not used
// again until the backup is done, so a slow w makes the file grow. If the file outgrows its map
// (see [Store.View]), Backup ends with [ErrInterrupted], and what w has is of no use. Begin again.
// Use a fast w, such as a file. Backup looks at ctx between two writes to w.
//
// It returns w's error, ctx's error, [ErrInterrupted], [ErrClosed], [ErrInTransaction],
// [ErrCorrupt], or [errors.ErrUnsupported] if the engine cannot make backups.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if err := s.canWait(); err != nil {
		return err
	}
	e, ok := s.engine.(EngineBackuper)
	if !ok {
		return wrapf(errors.ErrUnsupported, "backup")
	}
	return wrapf(e.WriteBackup(ctx, w), "backup")
}

// Restore makes the file of a store at path from a copy that [Store.Backup] wrote. It checks the
// whole copy first, so a copy that is damaged or cut short is never put in place. If path is a
// symbolic link to a file that does not exist, Restore makes that file, as [Open] does. Changes
// that were made after the backup are lost: keys that were disabled or deleted since then are as
// they were before. The restored store is another replica of the domain, and knows that there are
// others.
//
// It returns [ErrCorrupt], [ErrNotStore] or [ErrNewerFormat] if the copy cannot be used;
// [fs.ErrExist] if there is a file at path, which stays as it is; [ErrInvalidOptions] if path is
// empty; r's error; ctx's error; or the operating system's error.
func Restore(ctx context.Context, r io.Reader, path string) error {
	_, err := os.Stat(path)
	switch {
	case path == "":
		err = errNoPath
	case err == nil:
		err = fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
		err = durable.Create(durable.Resolve(path), func(tmp *os.File) error { return restore(ctx, r, tmp) })
	}
	return wrapf(err, "restore %s", path)
}

// restore copies a backup from r to tmp, and checks the copy.
func restore(ctx context.Context, r io.Reader, tmp *os.File) error {
	if err := boltengine.CopyBackup(ctx, tmp, r); err != nil {
		return err
	}
	if err := checkCopy(ctx, tmp.Name()); err != nil {
		return err
	}
	return salvage.NewReplica(ctx, tmp.Name())
}

// checkCopy opens the store in a file that no other program knows, and returns the first finding of
// Check.
func checkCopy(ctx context.Context, path string) error {
	opts := &Options{ReadOnly: true}
	e, err := openBoltFile(path, opts)
	if err != nil {
		return err
	}
	s, err := newStore(e, opts, alone)
	if err != nil {
		return errors.Join(err, e.Close())
	}
	defer s.Close()
	for finding := range s.Check(ctx) {
		return finding
	}
	return nil
}

// Compact returns unused space to the file system. In a domain that never had another store, it
// first forgets the IDs of deleted keys, except those that were imported or are in a configuration:
// [ParseMintedKey], [Store.EnsureKey]. Their tokens stay unknown, and no other key gets their IDs.
// A domain with several stores needs all of them, so that nothing that was deleted comes back.
//
// Compact copies the data to a new file beside the old
// file, and then puts the new file in the place of the old one. There must be room for both. After
// a crash, one of the two is there, and it is whole.
//
// Logins, other reads and writes go on meanwhile. Writes wait only while the new file gets its
// place, which takes about as long as a commit. The space of the old file is free when the last
// View or Backup that began before has ended. Compact does not wait for them, except on a system
// that cannot replace a file that is open. There Compact needs a moment without readers. If there
// is no such moment within two seconds, Compact returns an error that says so.
//
// It returns ctx's error; [ErrInterrupted] if more than 16 MiB were written meanwhile, or if the
// file has outgrown its map; [ErrReadOnly]; [ErrClosed]; [ErrInTransaction]; [ErrCorrupt];
// [ErrSyncFailed]; [ErrFileChanged]; the operating system's error; or [errors.ErrUnsupported] if
// the engine cannot be compacted.
func (s *Store) Compact(ctx context.Context) error {
	if err := s.canWait(); err != nil {
		return err
	}
	e, ok := s.engine.(EngineCompacter)
	if !ok {
		return wrapf(errors.ErrUnsupported, "compact")
	}
	err := s.dropTombstones(ctx)
	if err == nil {
		err = e.Compact(ctx)
	}
	return wrapf(err, "compact")
}

// dropTombstones deletes the tombstones that tell nothing in a domain with one store.
func (s *Store) dropTombstones(ctx context.Context) (err error) {
	for _, table := range []string{tableDeadKeys, tableDeadUsers} {
		for after, more := []byte(nil), true; more && err == nil; {
			var last []byte
			err = s.Update(ctx, func(tx *Tx) (err error) {
				if last = nil; !tx.isShared() {
					last, err = tx.tables().DropTombstones(table, after, min(lastUseChunk, s.maxWrites-2))
				}
				return err
			})
			after, more = last, last != nil
		}
	}
	return err
}
