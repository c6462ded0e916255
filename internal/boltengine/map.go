package boltengine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// bbolt reads its file through a memory map. A commit that needs a larger map waits for all readers
// to end, and every new reader waits for the commit. So the engine decides itself when the map
// grows:
//
//   - Ahead of need. When a file has filled a part of its map, and nobody reads at the end of a
//     commit, the engine opens the file again with a larger map.
//   - At need. bbolt refuses a commit that needs a larger map, because guardMap has told it to. The
//     engine interrupts its own long readers, waits for the others, and makes the commit once more.

const (
	// smallestMap is the size in bytes of the smallest map that is made with room to grow.
	smallestMap = 1 << 20
	// mapStep is by how many bytes bbolt enlarges a map of at least that size. It doubles smaller
	// ones.
	mapStep = 1 << 30
)

// MapSize is the size in bytes of the map with which a file is opened, if the file is smaller: 1
// GiB on 64-bit machines, and 64 MiB on others. On Windows it is 0, because Windows makes the file
// as large as its map. Tests change it.
var MapSize = func() int {
	switch {
	case runtime.GOOS == "windows":
		return 0
	case strconv.IntSize < 64:
		return 64 << 20
	}
	return 1 << 30
}()

// newMapSize is the size in bytes of the map with which a file is made, if the system does not let
// the map grow ahead of need. The file is as large then.
const newMapSize = smallestMap

// mapSizeFor returns the size of the map that bbolt makes when size bytes are to fit into it.
func mapSizeFor(size int64) int64 {
	for step := int64(32 << 10); step <= mapStep; step *= 2 {
		if size <= step {
			return step
		}
	}
	return (size + mapStep - 1) / mapStep * mapStep
}

// guardMap makes bbolt refuse a commit with bolterrors.ErrMaxSizeReached if it needs a larger map.
// The map of db has at least size bytes.
//
// bbolt refuses to let the file grow beyond MaxSize, and looks at that before it enlarges the map.
// It adds AllocSize to the size that it needs, unless a map of that size has less than AllocSize.
// On Windows it looks at the size of the next map, because the file becomes as large.
func guardMap(db *bbolt.DB, size int64) {
	size = min(size, math.MaxInt-allocSize)
	db.AllocSize = int(min(allocSize, size/2))
	db.MaxSize = int(size) + db.AllocSize - 1
	if runtime.GOOS == "windows" {
		db.MaxSize = int(size)
	}
}

// guardedMap returns the size that guardMap was called with.
func guardedMap(db *bbolt.DB) int64 {
	if runtime.GOOS == "windows" {
		return (int64(db.MaxSize) + 1) &^ 1 // see guardExactly
	}
	return int64(db.MaxSize - db.AllocSize + 1)
}

// guardExactly makes up for what guardMap cannot do on Windows. A commit that needs exactly the
// size of the map makes a new map of the same size, and bbolt does not refuse that. A commit takes
// pages one by one, so it comes upon that size on its way to a larger one. So if a batch may come
// so far, bbolt refuses it as soon as it lets the file grow at all.
func guardExactly(db *bbolt.DB, b *batch) {
	if runtime.GOOS != "windows" {
		return
	}
	size := guardedMap(db)
	db.MaxSize = int(size)
	if size-b.used <= b.mayTake() {
		db.MaxSize--
	}
}

// mayTake returns how many bytes of new pages the commit of a batch takes at most. A write copies
// the pages from the root of its table to a leaf, and may split or join some of them. Besides, a
// commit writes the root page and the list of free pages, which has 8 bytes for a page.
func (b *batch) mayTake() int64 {
	const perWrite, perCommit = 12 * boltpage.PageSize, 16 * boltpage.PageSize
	n := perCommit + b.used/boltpage.PageSize*8
	for i := range b.writes.len() {
		w := b.writes.at(i)
		n += perWrite + int64(len(w.key)+len(w.value))
	}
	return n
}

// unguarded runs fn, which commits to db, and lets bbolt enlarge the map. Nobody may read db.
func unguarded(db *bbolt.DB, file *os.File, fn func() error) error {
	size := guardedMap(db)
	db.MaxSize = 0
	err := fn()
	m, _ := boltpage.ReadMeta(file)
	// bbolt maps one page more than it uses.
	guardMap(db, max(size, mapSizeFor(int64(m.End+1)*boltpage.PageSize)))
	return err
}

// commitWithLargerMap makes the commit of a batch that bbolt has refused, because it needs a larger
// map. It waits until nobody reads.
func (e *Engine) commitWithLargerMap(b *batch) error {
	letIn := e.keepReadersOut()
	defer letIn()
	if err := e.compareFile(); err != nil { // it may have taken long
		e.failChanged(err)
		return err
	}
	return unguarded(e.db, e.file, func() error {
		err := e.health.guard(stuckWriters, func() (err error) {
			if b.tx, err = e.db.Begin(true); err != nil {
				return err
			}
			for i := range b.writes.len() {
				if err := b.writes.at(i).apply(b.tx); err != nil {
					return errors.Join(err, b.tx.Rollback())
				}
			}
			if b.mark, err = newMark(b.tx, b.before); err != nil {
				return errors.Join(err, b.tx.Rollback())
			}
			return nil
		})
		if err != nil {
			return err
		}
		return e.commitTx(b)
	})
}

// keepReadersOut waits until nobody reads the file, and keeps everybody from beginning to, until
// letIn is called. Meanwhile EngineHealth tells that readers hold the writers up.
func (e *Engine) keepReadersOut() (letIn func()) {
	e.gate.lock()
	e.noEntry = make(chan struct{})
	readers := e.readers
	e.gate.unlock()
	allow := readers.interruptLong()
	now := time.Now()
	e.heldUp.Store(&now)
	<-readers.none()
	e.heldUp.Store(nil)
	return func() {
		allow()
		e.gate.lock()
		defer e.gate.unlock()
		close(e.noEntry)
		e.noEntry = nil
	}
}

// enterGate locks the gate as soon as readers may enter.
func (e *Engine) enterGate(ctx context.Context) error {
	for {
		if err := e.gate.lockWithin(ctx); err != nil {
			return err
		}
		noEntry := e.noEntry
		if noEntry == nil {
			return nil
		}
		e.gate.unlock()
		select {
		case <-noEntry:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readerFinding returns an [ErrReaderHoldsUp] if a writer waits for a reader.
func (e *Engine) readerFinding() error {
	since := e.heldUp.Load()
	if since == nil {
		return nil
	}
	return fmt.Errorf("%w since %s", ErrReaderHoldsUp, since.Format(time.RFC3339))
}

// enlargeMap opens the file again with a larger map, if used bytes are a large part of the present
// one and nobody reads. The caller holds the turn, and there is no batch. If there can be no larger
// map, everything stays as it is.
func (e *Engine) enlargeMap(used int64) {
	if e.health.canWrite() != nil || e.db == nil || e.db == e.unenlarged {
		return
	}
	size := guardedMap(e.db)
	if size-used >= min(size/2, mapStep/2) {
		return
	}
	e.gate.lock()
	defer e.gate.unlock()
	if e.readers.any() {
		return
	}
	if err := e.openLargerLocked(size + 1); err != nil {
		e.unenlarged = e.db
	}
}

// openLargerLocked opens the file again with a map of at least size bytes, for the holder of the
// gate and the turn. Nobody reads.
//
// The lock of the file does not end meanwhile, because it belongs to all duplicates of a
// descriptor. bbolt would end the lock when it closes a file. So the file is closed before bbolt
// closes it.
func (e *Engine) openLargerLocked(size int64) error {
	if size > math.MaxInt {
		return errors.ErrUnsupported
	}
	file, err := durable.Duplicate(e.file)
	if err != nil {
		return err
	}
	settings := tryAgainSettings()
	settings.InitialMmapSize = int(size)
	settings.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return file, nil }
	var db *bbolt.DB
	err = contain(func() (err error) {
		db, err = bbolt.Open(e.path, 0o600, settings)
		return err
	})
	if err != nil {
		_ = file.Close()
		// bbolt has given up the lock.
		if locked, lockErr := durable.Lock(e.file, -1); lockErr != nil || !locked {
			e.health.failReads(fmt.Errorf("%w: the lock was lost while the map could not be enlarged", ErrLocked))
		}
		return err
	}
	if mark, err := boltpage.ReadMark(file); err != nil || mark != e.lastCommit.Load().mark {
		closeUnlocked(db, file)
		return ErrFileChanged
	}
	guardMap(db, mapSizeFor(size))
	oldDB, oldFile := e.db, e.file
	e.db, e.file = db, file
	last := *e.lastCommit.Load()
	last.db = db
	e.lastCommit.Store(&last)
	closeUnlocked(oldDB, oldFile)
	return nil
}

// closeUnlocked closes a file without giving up its lock, which a duplicate of the file has, too.
func closeUnlocked(db *bbolt.DB, file *os.File) {
	_ = file.Close()
	_ = contain(db.Close) // which complains about the file
}

// needsLargerMap reports whether a commit failed because of guardMap.
func needsLargerMap(err error) bool { return errors.Is(err, bolterrors.ErrMaxSizeReached) }
