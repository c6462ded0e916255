package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// A program cannot keep others from deleting, moving, replacing or overwriting its file. A write to
// such a file would be lost, or would damage it. So an engine compares its file with what it knows,
// before each commit and after.

// compareFile returns nil if the file that is open is the file at the path, and its last commit is
// the one that the engine knows. The caller holds the turn, or the gate while no commit is under
// way.
//
// Errors: [ErrFileChanged]; [ErrFileGone] besides if there is no file at the path; the operating
// system's error if the path cannot be looked at. Damage is not compareFile's to report, so it
// returns nil for it.
func (e *Engine) compareFile() error { return e.compare(e.readMark) }

// compareBatch is compareFile for a batch that is about to be committed. It reads the map. If it
// read the file itself, the system would note the time of the read, and would have to write that.
func (e *Engine) compareBatch(b *batch) error {
	return e.compare(func() (mark boltpage.Mark, err error) {
		err = contain(func() (err error) {
			mark, err = mappedPages(b.tx, nil).ReadMark()
			return err
		})
		if err != nil {
			return e.readMark() // the file may be longer than the map, or shorter
		}
		return mark, nil
	})
}

// readMark reads the mark of the last commit from the file.
func (e *Engine) readMark() (boltpage.Mark, error) { return boltpage.ReadMark(e.file) }

// compare is compareFile with a function that reads the mark of the last commit.
func (e *Engine) compare(read func() (boltpage.Mark, error)) error {
	if err := e.comparePath(); err != nil {
		return err
	}
	mark, err := read()
	var damage *boltpage.Error
	switch last := e.lastCommit.Load(); {
	case errors.As(err, &damage), err == nil && mark == last.mark:
		return nil
	}
	return fmt.Errorf("%w: another program has written to %s", ErrFileChanged, e.given)
}

// comparePath is compareFile without the last commit.
func (e *Engine) comparePath() error {
	replaced, err := e.isReplaced()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w: there is no file at %s", ErrFileChanged, ErrFileGone, e.given)
	case err != nil:
		return err
	case replaced:
		return fmt.Errorf("%w: there is another file at %s", ErrFileChanged, e.given)
	}
	return nil
}

// isReplaced reports whether another file is at the path of the file that is open.
func (e *Engine) isReplaced() (bool, error) {
	mine := e.identity.Load()
	if mine == nil || mine.file != e.file {
		id, err := durable.IdentityOf(e.file)
		if err != nil {
			return false, err
		}
		mine = &identity{e.file, id}
		e.identity.Store(mine)
	}
	there, err := durable.IdentityAt(e.given)
	if err != nil {
		return false, err
	}
	return !mine.Is(there), nil
}

// identity is the identity of a file that is open. It never changes.
type identity struct {
	file *os.File
	durable.Identity
}

// EngineHealth tells whether the file is at its path, is unchanged, and can be written.
//
// Errors: [ErrFileChanged], and [ErrFileGone] besides if there is no file at the path;
// [ErrReaderHoldsUp] while a writer waits for a reader; [ErrSyncFailed]; [ErrCorrupt] if damage or
// a panic of bbolt has ended reading or writing; ctx's error.
func (e *Engine) EngineHealth(ctx context.Context) error {
	_, fileErr, err := e.LookAtFile(ctx)
	if err != nil {
		return err
	}
	h := e.health.findings()
	if errors.Is(h, ErrFileChanged) && fileErr != nil {
		h = nil // fileErr says it as it is now
	}
	return errors.Join(fileErr, e.readerFinding(), h)
}

// LookAtFile compares the file when no commit is under way. A commit compares it by itself. An
// engine never moves to another file.
//
// The finding is [ErrFileChanged], and [ErrFileGone] besides if there is no file at the path; or
// the operating system's error.
//
// Errors: ctx's error.
func (e *Engine) LookAtFile(ctx context.Context) (moved bool, finding, err error) {
	if err := e.gate.lockWithin(ctx); err != nil {
		return false, nil, err
	}
	defer e.gate.unlock()
	if e.committing || e.file == nil || e.health.isClosed() {
		return false, nil, nil
	}
	return false, e.compareFile(), nil
}

// findings returns the causes for which the engine neither reads nor writes, or does not write.
func (h *health) findings() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stuck != notStuck {
		return errStuck
	}
	return firstError(h.unreadable, h.unwritable)
}

func (h *health) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life == engineClosed
}
