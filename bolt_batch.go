package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
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
	if e.readOnly {
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

// takeTurn waits until nobody else writes. Whoever has the turn must call endTurn.
func (e *boltEngine) takeTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	if !e.taken {
		e.taken = true
		e.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	e.queue = append(e.queue, turn)
	e.mu.Unlock()

	select {
	case <-turn:
		if err := ctx.Err(); err != nil {
			e.endTurn() // perhaps with a batch to commit for others
			return err
		}
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	for i, waiting := range e.queue {
		if waiting == turn {
			e.queue = append(e.queue[:i], e.queue[i+1:]...)
			e.mu.Unlock()
			return ctx.Err()
		}
	}
	e.mu.Unlock()
	<-turn // it came at the same moment
	e.endTurn()
	return ctx.Err()
}

// endTurn hands the turn to the next in line. If there is none, or the batch is full, it commits first.
func (e *boltEngine) endTurn() {
	for {
		e.mu.Lock()
		waiting := len(e.queue) > 0
		if b := e.batch; b == nil || waiting && b.members < boltMaxBatch && b.damage == nil {
			e.taken = waiting
			if waiting {
				close(e.queue[0])
				e.queue = e.queue[1:]
			}
			e.mu.Unlock()
			return
		}
		e.mu.Unlock()
		e.commitBatch()
	}
}

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
	if e.closed {
		return nil, ErrClosed
	}
	if e.unwritable.Load() || e.unreadable.Load() {
		return nil, errStuck
	}
	if e.broken != nil {
		return nil, e.broken
	}
	if e.batch == nil {
		b := &boltBatch{removed: make(map[string][][]byte), done: make(chan struct{})}
		err := e.begin(context.Background(), &e.unwritable, func() (err error) {
			if b.tx, err = e.db.Begin(true); err == nil {
				b.tables = newBoltTables(b.tx, nil)
			}
			return err
		}, nil)
		if err != nil {
			return nil, boltError(err)
		}
		if e.last.Load().outlives(b.tx) {
			b.damage = boltError(boltpage.ErrLastLost)
		}
		e.batch = b
	}
	e.batch.members++
	return e.batch, nil
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
		if err := e.contain(&e.unwritable, b.tx.Rollback); err != nil {
			e.broken = boltError(err)
		}
		return b.damage
	}
	if e.unreadable.Load() {
		e.broken = errStuck
		return errStuck
	}
	id := b.tx.ID()
	e.setCommitting(true)
	err := e.contain(&e.unwritable, b.tx.Commit)
	e.setCommitting(false)
	if err == nil {
		e.commits.Add(1)
		e.last.Store(&boltCommit{e.db, id})
		return nil
	}
	visible, lookErr := e.lastCommit(id)
	switch {
	case errors.Is(lookErr, bolterrors.ErrInvalidMapping):
		// A commit that needs a larger map, and is refused one, gives up the smaller first. It has written nothing.
		if err := e.reopen(id - 1); err != nil {
			e.broken = err
		}
	case visible || lookErr != nil:
		// The meta page was written, and what failed is its sync.
		e.broken = ErrSyncFailed
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	case syncFailed(err):
		// After a failed sync the kernel may take for clean what never reached the disk: nothing can be built on it.
		e.broken = ErrSyncFailed
	case errors.Is(err, ErrCorrupt):
		e.broken = err
	}
	return boltError(err)
}

func (e *boltEngine) setCommitting(is bool) {
	e.gate.lock()
	defer e.gate.unlock()
	e.committing = is
}

// lastCommit tells whether the transaction id is the one that readers now see.
func (e *boltEngine) lastCommit(id int) (visible bool, err error) {
	err = e.viewAlsoWhenClosing(context.Background(), func(tx *bbolt.Tx, _ *os.File) error {
		visible = tx.ID() == id
		return nil
	})
	return visible, err
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
