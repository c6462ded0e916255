package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// How writers share a commit. They take turns within one open bbolt transaction, the batch; whoever ends a turn while others
// wait for theirs leaves the batch open, and the last in line commits for all. docs/decisions/03-shared-commits.md has why.

// boltBatch is a bbolt transaction that several writers share.
type boltBatch struct {
	tx      *bbolt.Tx
	tables  *boltpage.Tables
	removed map[string][][]byte // the keys, by table
	members int
	dirty   bool          // a member that succeeded wrote something
	damage  error         // what was found where bbolt has written already, or must read to commit
	done    chan struct{} // closed when err is known
	err     error
}

func (e *boltEngine) Update(ctx context.Context, fn func(EngineTx) error) error {
	if e.health.readOnly {
		return ErrReadOnly
	}
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	batch, err := e.join()
	if err != nil {
		e.endTurn()
		return err
	}
	err = e.runMember(batch, fn)
	// Also where fn failed or wrote nothing: its answer may rest on what another member wrote, and is true once that is on
	// disk.
	<-batch.done
	if batch.err != nil {
		return batch.err
	}
	return err
}

// runMember runs fn and ends the turn, even when fn panics or ends its goroutine.
func (e *boltEngine) runMember(batch *boltBatch, fn func(EngineTx) error) (err error) {
	etx := &boltTx{tx: batch.tx, tables: batch.tables, batch: batch}
	keep := false
	defer func() {
		if keep {
			batch.dirty = batch.dirty || etx.writes > 0
		} else {
			etx.undo()
		}
		etx.ended = true
		e.endTurn()
	}()
	err = fn(etx)
	keep = err == nil
	return err
}

// boltTurns hands out the right to write, to one holder at a time, in the order in which they asked.
type boltTurns struct {
	mu    sync.Mutex
	queue []chan struct{} // closed when the turn has come
	taken bool
}

// ask asks for the turn, and returns a channel that is closed when it has come.
func (t *boltTurns) ask() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	turn := make(chan struct{})
	if t.taken {
		t.queue = append(t.queue, turn)
	} else {
		t.taken = true
		close(turn)
	}
	return turn
}

// leave takes back a request for the turn, and reports whether it could: the turn may have come.
func (t *boltTurns) leave(turn <-chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.queue, func(waiting chan struct{}) bool { return waiting == turn })
	if i < 0 {
		return false
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	return true
}

// pass gives the holder's turn to the next in line. It reports false if nobody waits, and the holder keeps the turn.
func (t *boltTurns) pass() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.passLocked()
}

// release gives the holder's turn to the next in line, or to nobody.
func (t *boltTurns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = t.passLocked()
}

func (t *boltTurns) passLocked() bool {
	if len(t.queue) == 0 {
		return false
	}
	close(t.queue[0])
	t.queue = t.queue[1:]
	return true
}

// takeTurn waits until nobody else writes. The caller must call endTurn after it has returned nil.
func (e *boltEngine) takeTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	turn := e.turns.ask()
	select {
	case <-turn:
		if ctx.Err() == nil {
			return nil
		}
	case <-ctx.Done():
		if e.turns.leave(turn) {
			return ctx.Err()
		}
	}
	e.endTurn() // perhaps with a batch to commit for others
	return ctx.Err()
}

// endTurn hands the turn to the next in line, with the open batch. If there is nobody, or the batch takes no more members, it
// commits first.
func (e *boltEngine) endTurn() {
	if b := e.batch; b == nil || b.full() || !e.turns.pass() {
		e.commitBatch()
		e.turns.release()
	}
}

// full reports whether a batch takes no more members.
func (b *boltBatch) full() bool { return b.members >= boltMaxBatch || b.damage != nil }

// commitBatch commits the open batch, if there is one, and tells its members.
func (e *boltEngine) commitBatch() {
	if b := e.batch; b != nil {
		e.batch = nil
		b.err = e.commit(b)
		close(b.done)
	}
}

// join returns the batch that waits for its commit, or begins one.
func (e *boltEngine) join() (*boltBatch, error) {
	if err := e.health.canWrite(); err != nil {
		return nil, err
	}
	if e.batch == nil {
		b, err := e.beginWrite()
		if err != nil {
			return nil, boltError(err)
		}
		e.batch = b
	}
	e.batch.members++
	return e.batch, nil
}

// beginWrite begins the transaction of a batch, for the holder of the turn. While a reader begins, beginWrite waits; it does
// not wait for a commit, which its holder of the turn makes.
func (e *boltEngine) beginWrite() (*boltBatch, error) {
	e.gate.lock()
	defer e.gate.unlock()
	if err := e.health.canWrite(); err != nil {
		return nil, err
	}
	b := &boltBatch{removed: make(map[string][][]byte), done: make(chan struct{})}
	err := e.health.guard(stuckWriters, func() (err error) {
		if b.tx, err = e.db.Begin(true); err == nil {
			b.tables = newBoltTables(b.tx, nil)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if e.lastCommit.Load().outlives(b.tx) {
		b.damage = boltError(boltpage.ErrLastLost)
	}
	return b, nil
}

// commit ends the batch's transaction and says what its members are told.
func (e *boltEngine) commit(b *boltBatch) error {
	if b.dirty && b.damage == nil {
		b.damage = readPages(func() error {
			if err := b.tables.CheckCommit(uint64(b.tx.ID()), b.removed); err != nil {
				return err
			}
			return setMarker(b.tx)
		})
	}
	if !b.dirty || b.damage != nil {
		if err := e.health.guard(stuckWriters, b.tx.Rollback); err != nil {
			e.health.failWrites(boltError(err))
		}
		return b.damage
	}
	if err := e.health.canLook(); err != nil {
		return err // a commit might wait for ever
	}
	id := b.tx.ID()
	e.setCommitting(true)
	err := e.health.guard(stuckWriters, b.tx.Commit)
	e.setCommitting(false)
	if err == nil {
		e.commits.Add(1)
		e.lastCommit.Store(&boltCommit{e.db, id})
		return nil
	}
	visible, lookErr := e.isVisible(id)
	switch {
	case errors.Is(lookErr, bolterrors.ErrInvalidMapping):
		// A commit that needs a larger map, and is refused one, gives up the smaller first. It has written nothing.
		e.reopen(id - 1)
	case visible || lookErr != nil:
		// The meta page was written, and what failed is its sync.
		e.health.failWrites(ErrSyncFailed)
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	case syncFailed(err):
		// After a failed sync the kernel may take for clean what never reached the disk: nothing can be built on it.
		e.health.failWrites(ErrSyncFailed)
	case errors.Is(err, ErrCorrupt):
		e.health.failWrites(err)
	}
	return boltError(err)
}

func (e *boltEngine) setCommitting(is bool) {
	e.gate.lock()
	defer e.gate.unlock()
	e.committing = is
}

// isVisible reports whether the commit id is the one that readers now see. It also looks while the engine is closing.
func (e *boltEngine) isVisible(id int) (visible bool, err error) {
	r, err := e.beginRead(context.Background())
	if err != nil {
		return false, err
	}
	defer e.endRead(r.tx)
	return r.tx.ID() == id, nil
}

// syncFailed tells a failed sync from a failed write. bbolt calls fdatasync directly on Linux and reports the bare
// errno; elsewhere it is File.Sync's; and when the file was grown it keeps nothing but the text.
func syncFailed(err error) bool {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Op == "sync"
	}
	var errno syscall.Errno
	return errors.As(err, &errno) || strings.HasPrefix(err.Error(), "file sync error")
}
