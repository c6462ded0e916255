package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// A store in a file looks at its file at each interval of Options.FileCheckEvery. A store that is
// open for writing only compares, because a commit has to be the first to know. A store that is
// open for reading follows its file: it goes on with the file that has been put in its place.

// refusal is the reason why all logins are refused, while there is one.
type refusal struct{ err error }

// watchFile looks at the file until the store begins to close.
func (s *Store) watchFile(every time.Duration) {
	ctx, cancel := s.untilClosed()
	defer cancel()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			s.lookAtFile(ctx)
		}
	}
}

// lookAtFile looks at the file once. If another file or other bytes are in its place, logins are
// refused from then on, until they are gone again.
func (s *Store) lookAtFile(ctx context.Context) {
	var finding error
	switch e := s.engine.(type) {
	case *followedFile:
		var moved bool
		if moved, finding = e.follow(); moved {
			s.cache.clear() // the new file is in use, so no answer of the old one is kept
		}
	case *boltEngine:
		var err error
		if finding, err = e.lookAtFile(ctx); err != nil {
			return
		}
	}
	var r *refusal
	if errors.Is(finding, ErrFileChanged) && !errors.Is(finding, ErrFileGone) {
		r = &refusal{wrapf(finding, "login")}
	}
	s.refused.Store(r)
}

// followedFile is an engine for reading a file that others replace. It is the engine of the file
// that is at the path, and becomes the engine of the next one.
type followedFile struct {
	path    string
	opts    *Options
	current atomic.Pointer[followed]

	// changing is the stamp of an overwritten file at the last look. Only the goroutine that looks
	// uses it.
	changing fileStamp
	// finding is what the last look found.
	finding atomic.Pointer[refusal]
}

// followed is one of the files that were at the path.
type followed struct {
	*boltEngine
	stamp    fileStamp
	domain   []byte // the encoding of its domain
	sequence uint64 // of its last change
}

// fileStamp tells a file that was overwritten from one that was not.
type fileStamp struct {
	size int64
	time time.Time
}

func stampOf(info fs.FileInfo) fileStamp { return fileStamp{info.Size(), info.ModTime()} }

// openFollowed opens the file at path for reading.
func openFollowed(path string, opts *Options) (*followedFile, error) {
	given, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &followedFile{path: given, opts: opts}
	next, err := f.open(path) // so that an error has the path as the caller gave it
	if err != nil {
		return nil, err
	}
	f.current.Store(next)
	return f, nil
}

// open opens the file that is at the path now. path is f.path, or a name of it that is valid now.
func (f *followedFile) open(path string) (*followed, error) {
	e, err := openOrCreateBolt(path, f.opts)
	if err != nil {
		return nil, err
	}
	next := &followed{boltEngine: e}
	err = e.View(context.Background(), func(etx EngineTx) error {
		tx := &Tx{etx: etx}
		d, err := loadDomain(etx)
		if err != nil || d == nil {
			return err // a file without a store is reported by newStore
		}
		st, err := tx.readState()
		if err == nil {
			next.domain, next.sequence = d.encode(), st.sequence
		}
		return err
	})
	if err == nil {
		var info fs.FileInfo
		if info, err = e.file.Stat(); err == nil {
			next.stamp = stampOf(info)
		}
	}
	if err != nil {
		_ = e.Close()
		return nil, wrapOpen(wayOut(path, err), path)
	}
	return next, nil
}

// follow looks at the path once, and goes over to another file if that may be followed. It reports
// whether it did.
//
// Errors: [ErrFileChanged] while the file at the path cannot be followed; [ErrFileGone] besides if
// there is none.
func (f *followedFile) follow() (moved bool, err error) {
	moved, err = f.followNow()
	f.finding.Store(&refusal{err})
	return moved, err
}

func (f *followedFile) followNow() (moved bool, err error) {
	now := f.current.Load()
	there, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %w: there is no file at %s", ErrFileChanged, ErrFileGone, f.path)
	}
	if err != nil {
		return false, err
	}
	mine, err := now.file.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(mine, there) {
		stamp := stampOf(there)
		if stamp == now.stamp {
			return false, nil
		}
		// The file was overwritten in place. Whoever does that may not have finished, so the file
		// must stay as it is from one look to the next.
		if stamp != f.changing {
			f.changing = stamp
			return false, fmt.Errorf("%w: another program is writing to %s", ErrFileChanged, f.path)
		}
	}
	next, err := f.open(f.path)
	if err != nil {
		return false, fmt.Errorf("%w: the file at %s cannot be followed: %w", ErrFileChanged, f.path, err)
	}
	if why := now.whyNot(next); why != "" {
		_ = next.Close()
		return false, fmt.Errorf("%w: the file at %s cannot be followed: %s", ErrFileChanged, f.path, why)
	}
	f.current.Store(next)
	go now.Close() // which waits for those that read it
	return true, nil
}

// whyNot says why the next file may not be followed, or nothing.
func (now *followed) whyNot(next *followed) string {
	switch {
	case !bytes.Equal(now.domain, next.domain):
		return "it is a store of another domain"
	case next.sequence < now.sequence:
		return "it is older than the file before it"
	}
	return ""
}

// View runs fn on the file in use.
func (f *followedFile) View(ctx context.Context, fn func(EngineTx) error) error {
	return f.view(ctx, (*boltEngine).View, fn)
}

// ViewLong runs fn on the file in use. [Store.Check] calls ViewLong.
func (f *followedFile) ViewLong(ctx context.Context, fn func(EngineTx) error) error {
	return f.view(ctx, (*boltEngine).ViewLong, fn)
}

// view runs fn with one of the methods View and ViewLong of the file in use.
func (f *followedFile) view(ctx context.Context, method func(*boltEngine, context.Context, func(EngineTx) error) error, fn func(EngineTx) error) error {
	for {
		e, ran := f.current.Load(), false
		err := method(e.boltEngine, ctx, func(etx EngineTx) error { ran = true; return fn(etx) })
		if ran || !errors.Is(err, ErrClosed) || f.current.Load() == e {
			return err
		}
	}
}

// Update returns [ErrReadOnly].
func (f *followedFile) Update(context.Context, func(EngineTx) error) error { return ErrReadOnly }

// Close closes the file in use.
func (f *followedFile) Close() error { return f.current.Load().Close() }

// WriteBackup writes the file in use. [Store.Backup] calls WriteBackup.
func (f *followedFile) WriteBackup(ctx context.Context, w io.Writer) error {
	return f.current.Load().WriteBackup(ctx, w)
}

// Compact returns [ErrReadOnly]. [Store.Compact] calls Compact.
func (f *followedFile) Compact(ctx context.Context) error { return f.current.Load().Compact(ctx) }

// CheckEngine yields what is wrong with the file in use. [Store.Check] calls CheckEngine.
func (f *followedFile) CheckEngine(ctx context.Context) iter.Seq[error] {
	return f.current.Load().CheckEngine(ctx)
}

// Commits returns 0, because a store that is open for reading makes none.
func (f *followedFile) Commits() uint64 { return 0 }

// EngineHealth returns what the last look at the file found. [Store.Health] calls EngineHealth.
func (f *followedFile) EngineHealth(context.Context) error {
	if r := f.finding.Load(); r != nil {
		return errors.Join(r.err, f.current.Load().health.findings())
	}
	return f.current.Load().health.findings()
}

// Format prints the path and nothing of the file's contents.
func (f *followedFile) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "bbolt engine on %s", f.path) }

var (
	_ EngineBackuper  = (*followedFile)(nil)
	_ EngineCompacter = (*followedFile)(nil)
	_ EngineChecker   = (*followedFile)(nil)
	_ CommitCounter   = (*followedFile)(nil)
	_ EngineHealther  = (*followedFile)(nil)
	_ EngineHealther  = (*boltEngine)(nil)

	_ EngineLongViewer = (*followedFile)(nil)
)
