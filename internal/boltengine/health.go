package boltengine

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// After a fault, an engine on bbolt can still do some things. Its health says which, and which
// error callers get for the others.

// health says whether an engine may read, and whether it may write.
//
//	state           reached by                                  reading    writing
//	sound           opening                                     yes        yes
//	unwritable      a failed sync, or damage met by a commit    yes        the cause
//	unreadable      a file that could not be opened again       the cause  the cause
//	aside           a compaction on Windows; see asideFile      the cause  the cause
//	stuck writers   a panic of bbolt with their lock held       yes        errStuck
//	stuck           a panic of bbolt with any lock held         errStuck   errStuck
//	closing         a call of Close                             ErrClosed  yes
//	closed          Close, when its turn has come               ErrClosed  ErrClosed
//	read-only       Options.ReadOnly                            yes        ErrReadOnly
//
// Several states can hold at once. Then the lowest of the rows that have an error counts. An engine
// never leaves a state, except that closing becomes closed, and aside becomes sound. The engine
// keeps the state aside itself.
type health struct {
	readOnly bool

	mu         sync.Mutex // guards what follows
	unwritable error      // the cause, in the state of that name
	unreadable error      // the cause, in the state of that name
	stuck      stuckness
	life       engineLife
}

// stuckness says which calls of bbolt might wait for ever for a lock that a panic has left locked.
type stuckness int

const (
	notStuck stuckness = iota
	stuckWriters
	stuckAll
)

type engineLife int

const (
	engineOpen engineLife = iota
	engineClosing
	engineClosed
)

// errStuck is the error of calls that might wait for ever.
var errStuck = fmt.Errorf("%w: close it", ErrCorrupt)

// canRead returns nil if callers of the engine may read, and otherwise why they may not.
func (h *health) canRead() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life != engineOpen {
		return ErrClosed
	}
	return h.canLookLocked()
}

// canLook returns nil if the engine itself may read, which it also does while it is closing.
func (h *health) canLook() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.canLookLocked()
}

func (h *health) canLookLocked() error {
	if h.stuck == stuckAll {
		return errStuck
	}
	return h.unreadable
}

// canWrite returns nil if the engine may write, and otherwise why it may not.
func (h *health) canWrite() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.readOnly:
		return ErrReadOnly
	case h.life == engineClosed:
		return ErrClosed
	case h.stuck != notStuck:
		return errStuck
	case h.unreadable != nil:
		return h.unreadable
	}
	return h.unwritable
}

// failWrites ends all writing, for a cause. The first cause stays.
func (h *health) failWrites(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unwritable = firstError(h.unwritable, cause)
}

// failReads ends all reading and writing, for a cause. The first cause stays.
func (h *health) failReads(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unreadable = firstError(h.unreadable, cause)
}

// setStuck marks calls of bbolt as stuck, for as long as the engine exists.
func (h *health) setStuck(s stuckness) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stuck = max(h.stuck, s)
}

func (h *health) stuckness() stuckness {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stuck
}

func (h *health) setLife(l engineLife) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.life = l
}

// guard runs fn, which calls bbolt where it holds locks, with its faults contained. After a panic
// the calls that s names are stuck.
func (h *health) guard(s stuckness, fn func() error) error {
	returned := false
	err := contain(func() error {
		err := fn()
		returned = true
		return err
	})
	if !returned {
		h.setStuck(s)
	}
	return err
}

// contain runs fn, which calls bbolt. On a damaged file bbolt panics, and it touches memory that
// the file no longer backs. contain returns [ErrCorrupt] for both.
func contain(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // a fault
			err = corrupt("the file cannot be read, or is shorter than it was")
		default:
			err = corrupt("%v", r)
		}
	}()
	return fn()
}

// readPages runs fn, which reads pages, with its faults contained and its errors in this package's
// words.
func readPages(fn func() error) error { return translate(contain(fn)) }

// corrupt returns an [ErrCorrupt] that says what was found.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// translate puts the errors of bbolt and of package boltpage into this package's words.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var damage *boltpage.Error
	if errors.As(err, &damage) && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	var foreign *boltpage.ForeignError
	if errors.As(err, &foreign) && !errors.Is(err, ErrNotStore) {
		return fmt.Errorf("%w: %w", ErrNotStore, err)
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return ErrLocked // "timeout" would add nothing
	}
	for _, e := range []struct{ theirs, ours error }{
		{bolterrors.ErrDatabaseNotOpen, ErrClosed},
		{bolterrors.ErrDatabaseReadOnly, ErrReadOnly},
		{bolterrors.ErrInvalid, ErrCorrupt},
		{bolterrors.ErrVersionMismatch, ErrCorrupt},
		{bolterrors.ErrChecksum, ErrCorrupt},
	} {
		if errors.Is(err, e.theirs) && !errors.Is(err, e.ours) {
			return fmt.Errorf("%w: %w", e.ours, err)
		}
	}
	// When a file cannot grow, bbolt keeps only the text of the system's error.
	for _, errno := range durable.DiskErrors {
		if !errors.Is(err, errno) && strings.HasSuffix(err.Error(), errno.Error()) {
			return fmt.Errorf("%w: %w", err, errno)
		}
	}
	return err
}
