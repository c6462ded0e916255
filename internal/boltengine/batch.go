package boltengine

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

// Writers share commits. They take turns within one open bbolt transaction, the batch. If others
// wait when a writer ends its turn, the batch stays open. The last writer in line commits for all.
// docs/decisions/03-shared-commits.md says why.

// batch is a bbolt transaction that several writers share.
type batch struct {
	tx      *bbolt.Tx
	tables  *boltpage.Tables
	changed map[string]bool     // the tables that were written to
	before  boltpage.Mark       // of the last commit
	tracked map[string]bool     // the tables that were declared as tracked
	changes uint64              // how many changes of tracked tables were made
	removed map[string][][]byte // the keys that were removed, by table
	writes  writes
	used    int64 // how much of the file was in use before, in bytes
	members int
	mark    boltpage.Mark // of the commit
	dirty   bool          // a member that succeeded wrote something
	damage  error         // why the batch cannot be committed
	done    chan struct{} // closed when err is known
	err     error         // of the commit
}

// Update runs fn in a write transaction, which may share its commit with others.
func (e *Engine) Update(ctx context.Context, fn func(*Tx) error) error {
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
	// Update waits for the commit even if fn failed or wrote nothing. The result of fn may rest on
	// the writes of another member, and is true only when these are on disk.
	<-batch.done
	if batch.err != nil {
		return batch.err
	}
	return err
}

// runMember runs fn as a member of a batch, and ends the turn. It does so even if fn panics or ends
// its goroutine. If fn does not return nil, runMember undoes what fn wrote.
func (e *Engine) runMember(batch *batch, fn func(*Tx) error) (err error) {
	etx := &Tx{tx: batch.tx, tables: batch.tables, batch: batch, mark: batch.before, first: batch.writes.len()}
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
	err = firstError(fn(etx), etx.halfDone)
	keep = err == nil
	return err
}

// turns hands out the turn, which is the right to write. One goroutine at a time holds the turn, in
// the order in which the goroutines asked.
type turns struct {
	mu    sync.Mutex
	queue []chan struct{} // one for each goroutine that waits, closed when its turn has come
	taken bool            // a goroutine holds the turn
}

// ask asks for the turn. It returns a channel that is closed when the turn has come.
func (t *turns) ask() <-chan struct{} {
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

// leave takes back a request for the turn. It reports false if the turn has come already, so that
// the caller holds it.
func (t *turns) leave(turn <-chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.queue, func(waiting chan struct{}) bool { return waiting == turn })
	if i < 0 {
		return false
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	return true
}

// pass hands the turn from its holder to the next in line. It reports false if nobody waits. Then
// the holder keeps the turn.
func (t *turns) pass() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.passLocked()
}

// release takes the turn from its holder, and hands it to the next in line, if there is one.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = t.passLocked()
}

func (t *turns) passLocked() bool {
	if len(t.queue) == 0 {
		return false
	}
	close(t.queue[0])
	t.queue = t.queue[1:]
	return true
}

// takeTurn waits for the turn, but no longer than ctx lasts. If takeTurn returns nil, the caller
// must call endTurn.
func (e *Engine) takeTurn(ctx context.Context) error {
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
	e.endTurn() // the turn may have come with an open batch, which must be committed
	return ctx.Err()
}

// endTurn hands the turn to the next in line, with the open batch. If nobody waits, or if the batch
// takes no more members, endTurn first commits the batch.
func (e *Engine) endTurn() {
	if b := e.batch; b == nil || b.full() || !e.turns.pass() {
		e.commitBatch()
		e.turns.release()
	}
}

// full reports whether a batch takes no more members.
func (b *batch) full() bool { return b.members >= maxBatch || b.damage != nil }

// commitBatch commits the open batch, if there is one, and tells its members the result.
func (e *Engine) commitBatch() {
	if b := e.batch; b != nil {
		e.batch = nil
		b.err = e.commit(b)
		close(b.done)
		e.enlargeMap(b.used)
	}
}

// join makes the holder of the turn a member of the open batch. If there is none, join begins a
// batch.
func (e *Engine) join() (*batch, error) {
	if err := e.health.canWrite(); err != nil {
		return nil, err
	}
	if e.batch == nil {
		b, err := e.beginWrite()
		if err != nil {
			return nil, translate(err)
		}
		e.batch = b
	}
	e.batch.members++
	return e.batch, nil
}

// beginWrite begins a batch, for the holder of the turn. It waits for readers that are beginning.
// No commit is under way, because only the holder of the turn commits.
func (e *Engine) beginWrite() (*batch, error) {
	e.gate.lock()
	defer e.gate.unlock()
	if err := e.health.canWrite(); err != nil {
		return nil, err
	}
	if err := e.openAgainLocked(tryAgainSettings()); err != nil {
		return nil, err
	}
	b := &batch{before: e.lastCommit.Load().mark, tracked: e.trackedTables(), changed: make(map[string]bool), removed: make(map[string][][]byte), done: make(chan struct{})}
	err := e.health.guard(stuckWriters, func() (err error) {
		if b.tx, err = e.db.Begin(true); err == nil {
			b.tables, b.used = newTables(b.tx, nil), b.tx.Size()
		}
		return err
	})
	if err != nil {
		if changed := e.compareFile(); changed != nil { // err may come of it
			e.failChanged(changed)
			err = changed
		}
		return nil, err
	}
	if e.lastCommit.Load().outlives(b.tx) {
		b.damage = translate(boltpage.ErrLastLost)
	}
	return b, nil
}

// commit ends the transaction of a batch. It returns the error that the members get.
func (e *Engine) commit(b *batch) error {
	if b.dirty && b.damage == nil {
		b.damage = readPages(func() (err error) {
			if err := b.tables.CheckCommit(uint64(b.tx.ID()), b.removed); err != nil {
				return err
			}
			b.mark, err = newMark(b.tx, b.before)
			return err
		})
	}
	if err := e.compareBatch(b); err != nil {
		b.damage = err // what was found besides, by the members too, may come of it
		e.failChanged(err)
	}
	if !b.dirty || b.damage != nil {
		if err := e.health.guard(stuckWriters, b.tx.Rollback); err != nil {
			e.health.failWrites(translate(err))
		}
		return b.damage
	}
	if err := e.health.canLook(); err != nil {
		return err // a commit might wait for ever for bbolt's lock
	}
	id := b.tx.ID()
	guardExactly(e.db, b)
	err := e.commitTx(b)
	if needsLargerMap(err) {
		err = e.commitWithLargerMap(b)
	}
	if err == nil {
		e.commits.Add(1)
		if missed := e.missed.Load(); missed != nil {
			missed.add(&b.writes, b.mark)
		}
		if err := e.comparePath(); err != nil {
			e.failChanged(err)
			return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
		}
		return nil
	}
	visible, lookErr := e.isVisible(id)
	switch {
	case errors.Is(lookErr, bolterrors.ErrInvalidMapping):
		// The commit needed a larger map, and the system refused one. bbolt has given up the
		// smaller map by then. The commit has written nothing.
		e.reopen(id - 1)
	case visible || lookErr != nil:
		// The meta page was written, and then its sync failed.
		if visible {
			e.setCommitted(&knownCommit{e.db, id, b.mark})
		}
		e.health.failWrites(ErrSyncFailed)
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	case syncFailed(err):
		// After a failed sync, the kernel may take pages for clean that never reached the disk. So
		// nothing more can be written.
		e.health.failWrites(ErrSyncFailed)
	case errors.Is(err, ErrCorrupt):
		e.health.failWrites(err)
	}
	return translate(err)
}

// commitTx commits the transaction of a batch.
func (e *Engine) commitTx(b *batch) error {
	id := b.tx.ID()
	e.setCommitting(true)
	defer e.setCommitting(false)
	err := e.health.guard(stuckWriters, b.tx.Commit)
	if err == nil {
		e.setCommitted(&knownCommit{e.db, id, b.mark})
	}
	return err
}

// failChanged ends all writing if err is an [ErrFileChanged].
func (e *Engine) failChanged(err error) {
	if errors.Is(err, ErrFileChanged) {
		e.health.failWrites(err)
	}
}

// setCommitting sets whether a commit is under way.
func (e *Engine) setCommitting(is bool) {
	e.gate.lock()
	defer e.gate.unlock()
	e.committing = is
}

// isVisible reports whether readers see the commit id as the last one. Unlike view, it also reads
// while the engine is closing.
func (e *Engine) isVisible(id int) (visible bool, err error) {
	r, err := e.beginRead(context.Background())
	if err != nil {
		return false, err
	}
	defer e.endRead(r)
	return r.tx.ID() == id, nil
}

// syncFailed reports whether err comes from a failed sync, and not from a failed write. On Linux
// bbolt calls fdatasync itself, and returns the bare errno. On other systems the error is that of
// File.Sync. When the file has grown, bbolt keeps only the text of the error.
func syncFailed(err error) bool {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Op == "sync"
	}
	var errno syscall.Errno
	return errors.As(err, &errno) || strings.HasPrefix(err.Error(), "file sync error")
}
