package boltengine

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

// Follower is an engine for reading a file that others replace. It is the engine of the file that
// is at the path, and becomes the engine of the next one.
type Follower struct {
	path    string
	open    func(path string) (*Engine, Version, error)
	current atomic.Pointer[followed]

	// changing is the stamp of an overwritten file at the last look. Only the goroutine that looks
	// uses it.
	changing fileStamp
	// finding is what the last look found.
	finding atomic.Pointer[error]
}

// followed is one of the files that were at the path.
type followed struct {
	*Engine
	version Version
}

// Version says which state of which data a file has.
type Version struct {
	domain   []byte
	sequence uint64
	stamp    fileStamp
}

// fileStamp tells a file that was overwritten from one that was not.
type fileStamp struct {
	size int64
	time time.Time
}

func stampOf(info fs.FileInfo) fileStamp { return fileStamp{info.Size(), info.ModTime()} }

// Version returns the version of the file. read reads the bytes that tell the file's domain from
// others, and the number of the last change.
//
// Errors: read's error; the errors of View; the operating system's error.
func (e *Engine) Version(read func(*Tx) (domain []byte, sequence uint64, err error)) (v Version, err error) {
	err = e.View(context.Background(), func(tx *Tx) (err error) {
		v.domain, v.sequence, err = read(tx)
		return err
	})
	if err != nil {
		return Version{}, err
	}
	info, err := e.file.Stat()
	if err != nil {
		return Version{}, err
	}
	v.stamp = stampOf(info)
	return v, nil
}

// whyNot says why a file with the version next may not be followed, or nothing.
func (now Version) whyNot(next Version) string {
	switch {
	case !bytes.Equal(now.domain, next.domain):
		return "it is a store of another domain"
	case next.sequence < now.sequence:
		return "it is older than the file before it"
	}
	return ""
}

// Follow opens the file at path. open opens the file that is at a path, for reading, and tells its
// version.
//
// Errors: open's error; the operating system's error.
func Follow(path string, open func(path string) (*Engine, Version, error)) (*Follower, error) {
	given, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	e, version, err := open(path) // so that an error has the path as the caller gave it
	if err != nil {
		return nil, err
	}
	f := &Follower{path: given, open: open}
	f.current.Store(&followed{e, version})
	return f, nil
}

// LookAtFile looks at the path once, and goes over to another file if that may be followed. It
// reports whether it did. Its error is always nil.
//
// The finding is [ErrFileChanged] while the file at the path cannot be followed, and [ErrFileGone]
// besides if there is none; or the operating system's error.
func (f *Follower) LookAtFile(context.Context) (moved bool, finding, err error) {
	moved, finding = f.follow()
	f.finding.Store(&finding)
	return moved, finding, nil
}

func (f *Follower) follow() (moved bool, err error) {
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
		if stamp == now.version.stamp {
			return false, nil
		}
		// The file was overwritten in place, and the program that does it may not have finished. So
		// the file must stay as it is from one look to the next.
		if stamp != f.changing {
			f.changing = stamp
			return false, fmt.Errorf("%w: another program is writing to %s", ErrFileChanged, f.path)
		}
	}
	e, version, err := f.open(f.path)
	if err != nil {
		return false, fmt.Errorf("%w: the file at %s cannot be followed: %w", ErrFileChanged, f.path, err)
	}
	if why := now.version.whyNot(version); why != "" {
		_ = e.Close()
		return false, fmt.Errorf("%w: the file at %s cannot be followed: %s", ErrFileChanged, f.path, why)
	}
	f.current.Store(&followed{e, version})
	go now.Close() // which waits for those that read it
	return true, nil
}

// View runs fn on the file in use.
func (f *Follower) View(ctx context.Context, fn func(*Tx) error) error {
	return f.view(ctx, (*Engine).View, fn)
}

// ViewLong runs fn on the file in use.
func (f *Follower) ViewLong(ctx context.Context, fn func(*Tx) error) error {
	return f.view(ctx, (*Engine).ViewLong, fn)
}

// view runs fn with one of the methods View and ViewLong of the file in use.
func (f *Follower) view(ctx context.Context, method func(*Engine, context.Context, func(*Tx) error) error, fn func(*Tx) error) error {
	for {
		e, ran := f.current.Load(), false
		err := method(e.Engine, ctx, func(tx *Tx) error { ran = true; return fn(tx) })
		if ran || !errors.Is(err, ErrClosed) || f.current.Load() == e {
			return err
		}
	}
}

// Update returns [ErrReadOnly].
func (f *Follower) Update(context.Context, func(*Tx) error) error { return ErrReadOnly }

// Path returns the path of the file in use, without links.
func (f *Follower) Path() string { return f.current.Load().Path() }

// Close closes the file in use.
func (f *Follower) Close() error { return f.current.Load().Close() }

// WriteBackup writes the file in use to w.
func (f *Follower) WriteBackup(ctx context.Context, w io.Writer) error {
	return f.current.Load().WriteBackup(ctx, w)
}

// Compact returns [ErrReadOnly].
func (f *Follower) Compact(ctx context.Context) error { return f.current.Load().Compact(ctx) }

// CheckEngine yields what is wrong with the file in use.
func (f *Follower) CheckEngine(ctx context.Context) iter.Seq[error] {
	return f.current.Load().CheckEngine(ctx)
}

// Commits returns 0, because an engine that is open for reading makes none.
func (f *Follower) Commits() uint64 { return 0 }

// EngineHealth returns what the last look at the file found.
func (f *Follower) EngineHealth(context.Context) error {
	findings := f.current.Load().health.findings()
	if finding := f.finding.Load(); finding != nil {
		return errors.Join(*finding, findings)
	}
	return findings
}

// Format prints the path and nothing of the file's contents.
func (f *Follower) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "bbolt engine on %s", f.path) }
