package latchkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

const (
	// boltAllocSize is how much a file grows at a time. bbolt's own 16 MiB is much for a device with few keys.
	boltAllocSize = 128 << 10
	// boltMaxBatch bounds how many transactions share a commit, so that the first of them is not kept waiting for ever.
	boltMaxBatch = 256
)

// Up to how many pages Open checks a file: all of a file of up to 16 MiB, or some twenty thousand keys; all but most of the
// leaves of one of up to 256 MiB; nothing of a larger one. Opening should not take longer the more keys there are. What it
// does not look at is checked when it is used.
var (
	boltMaxExactCheck uint64 = 4 << 10
	boltMaxOpenCheck  uint64 = 64 << 10
)

// What package boltpage takes for damage is what an engine refuses to write: the build fails unless their limits are alike.
var (
	_ = [1]struct{}{}[MaxEngineKey-boltpage.MaxKey]
	_ = [1]struct{}{}[MaxEngineValue-boltpage.MaxValue]
)

// boltEngine keeps tables in the buckets of one bbolt file.
//
// Write transactions take turns. Whoever ends a turn while others wait for theirs leaves its changes in the open bbolt
// transaction, hands the turn on, and waits; the last in line commits for all. So waiting writers share a sync, a lone
// writer waits for nobody, and every function runs in its caller's goroutine.
type boltEngine struct {
	path   string
	health boltHealth
	turns  boltTurns

	gate       boltGate  // to hold when a transaction begins, and to change the rest of this block
	db         *bbolt.DB // nil if there is none any more
	file       *os.File  // bbolt's own, to close it where bbolt cannot
	committing bool      // a reader that begins may have to wait for the commit

	checked    boltpage.Checked
	lastCommit atomic.Pointer[boltCommit] // the last one that is known to be on disk
	commits    atomic.Uint64
	closeOnce  sync.Once

	batch *boltBatch // the open batch, for the holder of the turn
}

// boltCommit is a commit, by its number in a file.
type boltCommit struct {
	db *bbolt.DB
	id int
}

// outlives tells whether tx sees an older state than that of the commit: bbolt goes back to the one before when it cannot
// read a meta page.
func (c *boltCommit) outlives(tx *bbolt.Tx) bool {
	seen := tx.ID()
	if tx.Writable() {
		seen--
	}
	return c != nil && c.db == tx.DB() && seen < c.id
}

// OpenBoltEngine opens the bbolt file at path as an [Engine], and makes it if there is none. Of opts it uses ReadOnly and
// LockTimeout. [Open] calls it; call it yourself to put an engine of your own between bbolt and the store.
//
// The file is made with mode 0600 under another name, synced, and then given its own, so that a power cut leaves a
// whole file or none. It returns [ErrLocked], [ErrCorrupt] if the file is not a store, or the operating system's error.
func OpenBoltEngine(path string, opts *Options) (Engine, error) {
	e, err := openOrCreateBolt(path, opts)
	if err != nil {
		return nil, err // and not an Engine that holds a nil *boltEngine
	}
	return e, nil
}

func openOrCreateBolt(path string, opts *Options) (*boltEngine, error) {
	err := checkRegular(path)
	if errors.Is(err, fs.ErrNotExist) && !opts.readOnly() {
		err = createBoltFile(durable.Resolve(path))
	}
	if err != nil {
		return nil, wrapf(err, "open store")
	}
	e, err := openBoltEngine(path, opts)
	if err != nil {
		return nil, wrapf(wayOut(path, err), "open %s", path)
	}
	return e, nil
}

func openBoltEngine(path string, opts *Options) (*boltEngine, error) {
	// What is put in the file's place later goes to where the file is now, wherever the program or a link has moved.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	e := &boltEngine{path: path, health: boltHealth{readOnly: opts.readOnly()}, gate: newBoltGate()}
	settings := boltSettings()
	settings.ReadOnly = opts.readOnly()
	settings.Timeout = opts.lockTimeout()
	if err := e.openFile(settings); err != nil {
		return nil, err
	}
	if err := e.prepare(); err != nil {
		_ = e.release()
		return nil, boltError(err)
	}
	return e, nil
}

// openFile opens the file. A process that waited for the lock while the file was compacted has got the old file, which no
// longer has the name. Then openFile begins again.
func (e *boltEngine) openFile(settings *bbolt.Options) (err error) {
	for {
		if e.db, e.file, err = openDB(e.path, settings); err != nil {
			return err
		}
		replaced, err := e.isReplaced()
		if err == nil && !replaced {
			return nil
		}
		if err := errors.Join(err, e.release()); err != nil {
			return err
		}
	}
}

// prepare checks the file that was opened, and makes it ready for writing.
func (e *boltEngine) prepare() error {
	if err := e.checkFile(); err != nil {
		return err
	}
	if e.health.readOnly {
		return nil
	}
	if err := e.rewriteLastMeta(); err != nil {
		return err
	}
	// What a compaction left that a power cut ended; only the holder of the lock makes one.
	_ = os.Remove(e.path + compactSuffix)
	return nil
}

// isReplaced tells whether the file that is open is no longer the one at its path.
func (e *boltEngine) isReplaced() (bool, error) {
	mine, err := e.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(e.path)
	if err != nil {
		return false, err
	}
	return !os.SameFile(mine, there), nil
}

// openDB opens a bbolt file that is there already. It returns the file too, to close it where bbolt cannot.
func openDB(path string, settings *bbolt.Options) (db *bbolt.DB, file *os.File, err error) {
	settings.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		// bbolt would make a missing file, and fill an empty one, in steps that a power cut can come between.
		f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
		if err != nil {
			return nil, err
		}
		if err := checkUnlocked(f, settings.ReadOnly); err != nil {
			f.Close()
			return nil, err
		}
		file = f
		return f, nil
	}
	err = contain(func() (err error) {
		db, err = bbolt.Open(path, 0o600, settings)
		return err
	})
	if db != nil {
		db.AllocSize = boltAllocSize
	}
	if err != nil {
		if file != nil { // bbolt has closed it, unless it panicked
			durable.Unlock(file)
			_ = file.Close()
		}
		return nil, nil, boltError(err)
	}
	return db, file, nil
}

// checkUnlocked refuses a file that bbolt must not open. The lock on the file need not be held.
func checkUnlocked(f *os.File, readOnly bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return corrupt("the file is empty; delete it to start a new store")
	}
	if info.Size() < 2*boltpage.PageSize {
		return corrupt("%d bytes are less than a store has", info.Size())
	}
	return boltpage.CheckUnlocked(f, readOnly)
}

func boltSettings() *bbolt.Options {
	return &bbolt.Options{
		PageSize:     boltpage.PageSize,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true, // they take a lock in every read transaction
		// Where address space costs nothing the file can grow without a new map, for which all readers would have to end.
		InitialMmapSize: boltMapSize(),
	}
}

// boltMapSize is 1 GiB on 64-bit machines, and 64 MiB on others. Windows makes the file as large as its map.
func boltMapSize() int {
	switch {
	case runtime.GOOS == "windows":
		return 0
	case strconv.IntSize < 64:
		return 64 << 20
	}
	return 1 << 30
}

// checkFile refuses a file that is not a store, or not the whole of one, before anything touches the missing pages.
func (e *boltEngine) checkFile() error {
	// bbolt goes on with the other meta page. That is the commit before the last, in which a key may be enabled that was
	// disabled since. No power cut does this to a page of which only the first 80 bytes count.
	m, sound := boltpage.ReadMeta(e.file)
	if sound < 2 {
		return corrupt("a meta page cannot be read, and with it perhaps the last change")
	}
	e.lastCommit.Store(&boltCommit{e.db, int(m.Commit)})
	return e.view(context.Background(), func(tx *bbolt.Tx, file *os.File) error {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return corrupt("the file is cut short: it has %d bytes of %d", info.Size(), tx.Size())
		}
		return contain(func() error {
			pages := mappedPages(tx, nil)
			if err := newBoltTables(tx, nil).CheckMarker(m); err != nil {
				return err
			}
			// Who only reads can do without a page that is damaged.
			if e.health.readOnly || pages.Count() > boltMaxOpenCheck {
				return nil
			}
			for finding := range pages.FindDamage(context.Background(), m, pages.Count() > boltMaxExactCheck) {
				return finding
			}
			return nil
		})
	})
}

// setMarker makes a transaction's root page tell that it is this commit's.
func setMarker(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte(boltpage.Marker))
	if err != nil {
		return err
	}
	return b.SetSequence(uint64(tx.ID()))
}

// release closes the file.
func (e *boltEngine) release() error {
	e.gate.lock()
	defer e.gate.unlock()
	return e.releaseLocked()
}

func (e *boltEngine) releaseLocked() error { return e.closeFile(e.db, e.file) }

// closeFile closes a bbolt file, by way of bbolt where bbolt can still be trusted with it.
func (e *boltEngine) closeFile(db *bbolt.DB, file *os.File) error {
	switch {
	case db != nil && e.health.stuckness() == notStuck:
		return contain(db.Close)
	case file != nil:
		durable.Unlock(file)
		return file.Close()
	}
	return nil
}

func (e *boltEngine) View(ctx context.Context, fn func(EngineTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.view(ctx, func(tx *bbolt.Tx, _ *os.File) error {
		etx, err := e.newReader(tx)
		if err != nil {
			return err
		}
		defer func() { etx.ended = true }()
		return fn(etx)
	})
}

// newReader returns what fn of a View gets. To ask bbolt where its map is reads from the map, which can have gone since
// the transaction began.
func (e *boltEngine) newReader(tx *bbolt.Tx) (etx *boltTx, err error) {
	err = contain(func() error {
		etx = &boltTx{tx: tx, tables: newBoltTables(tx, &e.checked)}
		return nil
	})
	return etx, err
}

// newBoltTables returns the tables that tx sees, or, if it writes, those of the last commit. They are valid as long as tx.
// They are made and used where faults are contained.
func newBoltTables(tx *bbolt.Tx, checked *boltpage.Checked) *boltpage.Tables {
	root := uint64(tx.Cursor().Bucket().Root())
	return boltpage.NewTables(mappedPages(tx, checked), root, tx.Writable())
}

// mappedPages returns the pages that tx sees. bbolt reads the first byte of its map to tell where that is.
func mappedPages(tx *bbolt.Tx, checked *boltpage.Checked) *boltpage.Pages {
	data := tx.DB().Info().Data
	mapped := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&data))), tx.Size())
	return boltpage.MappedPages(mapped, checked)
}

// view runs fn in a read transaction of bbolt. It contains faults in bbolt, but not in fn. fn also gets the file.
func (e *boltEngine) view(ctx context.Context, fn func(*bbolt.Tx, *os.File) error) error {
	for {
		if err := e.health.canRead(); err != nil {
			return err
		}
		r, err := e.beginRead(ctx)
		if errors.Is(err, bolterrors.ErrInvalidMapping) {
			if err := e.waitForReopen(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return boltError(err)
		}
		defer e.endRead(r.tx)
		return fn(r.tx, r.file)
	}
}

// waitForReopen waits while a commit that was refused a larger map opens the file again. The commit does that before its
// turn ends.
func (e *boltEngine) waitForReopen(ctx context.Context) error {
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	e.endTurn()
	return nil
}

// boltReader is a read transaction of bbolt, with the file that it reads, and the last commit that was known when it began.
type boltReader struct {
	tx         *bbolt.Tx
	file       *os.File
	lastCommit *boltCommit
}

// beginRead begins a read transaction, which endRead ends. It does not wait longer than ctx lasts.
//
// Errors: bbolt's errors, boltpage.ErrLastLost, the engine's health, or ctx's error.
func (e *boltEngine) beginRead(ctx context.Context) (boltReader, error) {
	if err := e.gate.lockWithin(ctx); err != nil {
		return boltReader{}, err
	}
	if !e.committing {
		return e.beginReadInGate()
	}
	// A commit that needs a larger map waits for all readers to end, and beginReadInGate then waits for the commit.
	type begun struct {
		r   boltReader
		err error
	}
	result := make(chan begun, 1)
	go func() {
		r, err := e.beginReadInGate()
		result <- begun{r, err}
	}()
	select {
	case b := <-result:
		return b.r, b.err
	case <-ctx.Done():
		go func() {
			if b := <-result; b.err == nil {
				e.endRead(b.r.tx)
			}
		}()
		return boltReader{}, ctx.Err()
	}
}

// beginReadInGate is beginRead for the holder of the gate, which it unlocks. Transactions begin one at a time: bbolt reads
// the meta pages with a lock held, and a fault there leaves it locked, so nobody may be waiting for it then.
func (e *boltEngine) beginReadInGate() (boltReader, error) {
	r, err := e.beginReadLocked()
	e.gate.unlock()
	if err != nil {
		return boltReader{}, err
	}
	if r.lastCommit.outlives(r.tx) {
		e.endRead(r.tx)
		return boltReader{}, boltpage.ErrLastLost
	}
	return r, nil
}

func (e *boltEngine) beginReadLocked() (r boltReader, err error) {
	if err := e.health.canLook(); err != nil {
		return r, err
	}
	r.file, r.lastCommit = e.file, e.lastCommit.Load()
	err = e.health.guard(stuckAll, func() (err error) {
		r.tx, err = e.db.Begin(false)
		return err
	})
	return r, err
}

// endRead ends a reader, for which it needs bbolt's lock. A fault when a transaction begins can leave that locked for ever,
// and closing the file that a compaction has replaced holds it as long as others read that. So endRead waits for it only
// while it holds the gate, and only for the file in use; else it leaves the waiting to a goroutine. It cannot leave it out: a
// writer that needs a larger map waits for all readers to end, and whoever begins to read waits for the writer.
func (e *boltEngine) endRead(tx *bbolt.Tx) {
	rollback := func() { _ = e.health.guard(stuckAll, tx.Rollback) }
	if e.health.stuckness() == stuckAll {
		return
	}
	if !e.gate.tryLock() {
		go rollback()
		return
	}
	defer e.gate.unlock()
	if e.db == tx.DB() {
		rollback()
	} else {
		go rollback()
	}
}

// boltGate is a lock that can be waited for as long as a context lasts.
type boltGate chan struct{}

func newBoltGate() boltGate { return make(boltGate, 1) }

func (g boltGate) lock()   { g <- struct{}{} }
func (g boltGate) unlock() { <-g }

// lockWithin locks the gate, unless ctx ends before.
func (g boltGate) lockWithin(ctx context.Context) error {
	if g.tryLock() { // most contexts make a channel when they are first asked for it
		return nil
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g boltGate) tryLock() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (e *boltEngine) Close() (err error) {
	e.closeOnce.Do(func() { err = e.close() })
	return err
}

func (e *boltEngine) close() error {
	e.health.setLife(engineClosing)
	if err := e.takeTurn(context.Background()); err != nil {
		return err
	}
	defer e.endTurn()
	e.commitBatch()
	e.health.setLife(engineClosed)
	return wrapf(e.release(), "close %s", e.path)
}

// Format keeps what is in the file out of whatever prints an engine.
func (e *boltEngine) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "bbolt engine on %s", e.path) }

// Commits counts the commits since the engine was opened; each costs two syncs. [Stats] shows it.
func (e *boltEngine) Commits() uint64 { return e.commits.Load() }

// CheckEngine yields what is wrong with the pages of the file. [Store.Check] calls it.
func (e *boltEngine) CheckEngine(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		more := true
		report := func(err error) { more = more && yield(boltError(err)) }
		for checked := false; !checked; {
			err := e.view(ctx, func(tx *bbolt.Tx, file *os.File) error {
				m, sound := boltpage.ReadMeta(file)
				if sound == 2 && m.Commit != uint64(tx.ID()) {
					return nil // there was a commit since: begin again with that
				}
				checked = true
				if sound < 2 {
					report(corrupt("a meta page cannot be read"))
				}
				if !more {
					return nil
				}
				pages := boltpage.NewPages(file, uint64(tx.Size()/boltpage.PageSize))
				for finding := range pages.FindDamage(ctx, m, false) {
					if report(finding); !more {
						break
					}
				}
				if !more || ctx.Err() != nil {
					return ctx.Err()
				}
				return contain(func() error { return newBoltTables(tx, nil).CheckMarker(m) })
			})
			if err != nil {
				report(err)
				return
			}
		}
	}
}
