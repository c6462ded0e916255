// Package boltengine keeps tables of bytes in a bbolt file, and trusts no page of the file.
//
// An [Engine] reads and writes one file. A [Follower] reads a file that others replace. Package
// latchkey makes an engine of its own of them, and says there what an engine promises. This package
// does not know what is in the tables.
package boltengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

const (
	// allocSize is how much a file grows at a time. bbolt's default is 16 MiB, which is much for a
	// device with few keys.
	allocSize = 128 << 10
	// maxBatch bounds how many transactions share a commit. Without a bound the first of them might
	// wait for ever.
	maxBatch = 256
)

// Open checks all pages of a file of up to MaxExactCheck pages, which is 16 MiB. Of a file of up to
// MaxOpenCheck pages, 256 MiB, it leaves out most leaves. Of a larger file it checks no pages,
// because opening should not take longer the more keys there are. Pages that are left out are
// checked when they are used. Tests change the numbers.
var (
	MaxExactCheck uint64 = 4 << 10
	MaxOpenCheck  uint64 = 64 << 10
)

// Engine keeps tables in the buckets of one bbolt file.
//
// Write transactions take turns. If others wait when a writer ends its turn, the writer leaves its
// changes in the open bbolt transaction, hands the turn on, and waits. The last writer in line
// commits for all. So waiting writers share a sync, a lone writer waits for nobody, and every
// function runs in its caller's goroutine.
type Engine struct {
	path   string // of the file itself
	given  string // the path as it was given, which may lead to the file by links
	health health
	turns  turns

	gate       gate          // held while a transaction begins; guards the rest of this block
	db         *bbolt.DB     // nil if the file could not be opened again
	file       *os.File      // the file of db, so that it can be closed where bbolt cannot close it
	noEntry    chan struct{} // closed when readers may begin again, and nil while they may
	committing bool          // while a commit is under way, a reader that begins may wait for it
	aside      *asideFile    // set while db is nil because a compaction lost the file
	readers    *readerCount  // the read transactions of db that have begun

	track      atomic.Pointer[map[string]bool] // the tables that were declared as tracked
	news       announcements
	checked    boltpage.Checked
	lastCommit atomic.Pointer[knownCommit] // the last commit that is known to be on disk
	identity   atomic.Pointer[identity]    // of file, or of a file before it, or nil
	commits    atomic.Uint64
	closeOnce  sync.Once
	unmark     func() // of durable.MarkOpen

	batch  *batch                       // the open batch, or nil, for the holder of the turn
	missed atomic.Pointer[missedWrites] // what a compaction has to make up for, while there is one

	compacting gate           // held by a compaction, from its beginning to its end
	oldFiles   sync.WaitGroup // the files that compactions replaced, and that others still read

	heldUp     atomic.Pointer[time.Time] // since when a writer waits for a reader, or nil
	unenlarged *bbolt.DB                 // its map cannot be enlarged ahead
}

// knownCommit is a commit of a file. id is its number, and mark tells it from the commits of other
// files.
type knownCommit struct {
	db   *bbolt.DB
	id   int
	mark boltpage.Mark
}

// outlives reports whether tx sees an older state than that of the commit. When bbolt cannot read a
// meta page, it goes back to the commit before.
func (c *knownCommit) outlives(tx *bbolt.Tx) bool {
	seen := tx.ID()
	if tx.Writable() {
		seen--
	}
	return c != nil && c.db == tx.DB() && seen < c.id
}

// Options say how a file is opened.
type Options struct {
	ReadOnly  bool
	MustExist bool // OpenOrCreate makes no file
	// LockTimeout is how long opening waits for another process to close the file. 0 means
	// DefaultLockTimeout, because bbolt itself would wait for ever.
	LockTimeout time.Duration
}

// DefaultLockTimeout is how long opening waits for another process to close the file, unless its
// caller says otherwise.
const DefaultLockTimeout = time.Second

// OpenOrCreate is [Open], except that it makes the file if there is none. A new file is written
// with mode 0600 under another name and synced before it gets its own name. So a power cut leaves a
// whole file or none.
//
// Errors: those of [Open].
func OpenOrCreate(path string, opts Options) (*Engine, error) {
	err := checkRegular(path)
	if errors.Is(err, fs.ErrNotExist) && !opts.ReadOnly && !opts.MustExist {
		err = createFile(durable.Resolve(path))
	}
	if err != nil {
		return nil, err
	}
	return Open(path, opts)
}

// Open opens a bbolt file that is there already.
//
// Errors: [ErrLocked]; [ErrNotStore]; [ErrCorrupt]; [ErrFileChanged]; the operating system's error.
func Open(path string, opts Options) (*Engine, error) {
	// Later the file may be replaced. The new file must be put where the file is now, even if the
	// program has changed its directory, or a link has changed.
	//
	// To follow links, Windows must be allowed to list each directory on the way. In a sandbox it
	// may not be, although it can open the file.
	given, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	path = given
	if real, err := filepath.EvalSymlinks(given); err == nil {
		path = real
	}
	e := newClosedEngine(path)
	e.given, e.health.readOnly = given, opts.ReadOnly
	settings := defaultSettings()
	settings.ReadOnly = opts.ReadOnly
	settings.Timeout = cmp.Or(opts.LockTimeout, DefaultLockTimeout)
	if err := e.openFile(settings); err != nil {
		return nil, err
	}
	if err := e.prepare(); err != nil {
		_ = e.release()
		return nil, translate(err)
	}
	e.unmark = durable.MarkOpen(e.path)
	return e, nil
}

// newClosedEngine returns an engine that has no file open yet.
func newClosedEngine(path string) *Engine {
	return &Engine{path: path, gate: newGate(), compacting: newGate(), readers: &readerCount{}}
}

// prepare checks the file that was opened, and makes it ready for writing.
func (e *Engine) prepare() error {
	if err := e.checkFile(); err != nil {
		return err
	}
	if e.health.readOnly {
		return nil
	}
	if err := e.rewriteLastMeta(); err != nil {
		return err
	}
	// A crash may have left these files. No compaction is under way, because only the holder of the
	// lock compacts.
	_ = durable.Remove(durable.Beside(e.path, compactSuffix))
	durable.RemoveLeftovers(e.path)
	return nil
}

// openDB opens a bbolt file that is there already. It also returns the file, so that the file can
// be closed where bbolt cannot close it. If the address space is limited, openDB makes do with a
// smaller map.
func openDB(path string, settings *bbolt.Options) (db *bbolt.DB, file *os.File, err error) {
	for {
		db, file, err = openMappedDB(path, settings)
		if settings.InitialMmapSize == 0 || !errors.Is(err, syscall.ENOMEM) {
			return db, file, err
		}
		if settings.InitialMmapSize /= 4; settings.InitialMmapSize < smallestMap {
			settings.InitialMmapSize = 0 // as large as the file
		}
	}
}

func openMappedDB(path string, settings *bbolt.Options) (db *bbolt.DB, file *os.File, err error) {
	settings.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		// bbolt would make a missing file, and fill an empty file. A power cut between its steps
		// leaves a damaged file.
		f, err := durable.OpenFile(name, flag&^os.O_CREATE)
		if err != nil {
			return nil, err
		}
		if err := boltpage.CheckUnlocked(f, settings.ReadOnly); err != nil {
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
	if err != nil {
		if file != nil { // bbolt has closed the file, unless it panicked
			durable.Unlock(file)
			_ = file.Close()
		}
		return nil, nil, translate(err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, contain(db.Close))
	}
	guardMap(db, mapSizeFor(max(info.Size(), int64(settings.InitialMmapSize))))
	return db, file, nil
}

func defaultSettings() *bbolt.Options {
	return &bbolt.Options{
		PageSize:     boltpage.PageSize,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true, // they take a lock in every read transaction
		// Where address space costs nothing, the map is large from the beginning.
		InitialMmapSize: MapSize,
	}
}

// checkFile returns an error for a file that is not a store, or not a whole store, before anything
// touches pages that are missing.
func (e *Engine) checkFile() error {
	// When a meta page cannot be read, bbolt goes on with the other meta page. The commit of that
	// page may be the commit before the last, in which a key may be enabled that was disabled
	// since. A power cut does not damage a meta page, because only its first 80 bytes count.
	m, sound := boltpage.ReadMeta(e.file)
	if sound < 2 {
		return corrupt("a meta page cannot be read, and with it perhaps the last change")
	}
	mark, err := boltpage.ReadMark(e.file)
	if err != nil {
		return translate(err)
	}
	e.lastCommit.Store(&knownCommit{e.db, int(m.Commit), mark})
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
			if err := newTables(tx, nil).CheckMarker(m); err != nil {
				return err
			}
			// A reader can do without a page that is damaged.
			if e.health.readOnly || pages.Count() > MaxOpenCheck {
				return nil
			}
			for finding := range pages.FindDamage(context.Background(), m, pages.Count() > MaxExactCheck) {
				return finding
			}
			return nil
		})
	})
}

// release closes the file.
func (e *Engine) release() error {
	e.gate.lock()
	defer e.gate.unlock()
	err := e.releaseLocked()
	e.db, e.file = nil, nil
	return errors.Join(err, e.dropAsideLocked())
}

// releaseLocked is release for the holder of the gate. After a panic bbolt cannot end its map of
// the file, and Windows neither shortens nor replaces a file that is mapped. So releaseLocked ends
// the map. Before that it waits for all readers, because the system may map something else in its
// place.
func (e *Engine) releaseLocked() error {
	if e.db != nil && e.health.stuckness() != notStuck {
		<-e.readers.none()
		_ = contain(func() error { return durable.Unmap(e.db.Info().Data) })
	}
	return e.closeFile(e.db, e.file)
}

// closeFile closes a bbolt file. If bbolt is stuck, closeFile does not call bbolt, which might wait
// for ever.
func (e *Engine) closeFile(db *bbolt.DB, file *os.File) error {
	switch {
	case db != nil && e.health.stuckness() == notStuck:
		return contain(db.Close)
	case file != nil:
		durable.Unlock(file)
		return file.Close()
	}
	return nil
}

// View runs fn in a read transaction.
func (e *Engine) View(ctx context.Context, fn func(*Tx) error) error {
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

// newReader returns the transaction that the function of a View gets. newTables reads from the map,
// and the file may have been cut short since tx began.
func (e *Engine) newReader(tx *bbolt.Tx) (etx *Tx, err error) {
	err = readPages(func() (err error) {
		etx = &Tx{tx: tx, tables: newTables(tx, &e.checked)}
		etx.mark, err = etx.tables.Mark(commitOf(tx))
		return err
	})
	return etx, err
}

// newTables returns the tables that tx sees. If tx writes, they are the tables of the last commit.
// They are valid as long as tx. They must be made and used where faults are contained.
func newTables(tx *bbolt.Tx, checked *boltpage.Checked) *boltpage.Tables {
	return boltpage.NewTables(mappedPages(tx, checked), commitOf(tx).Root, tx.Writable())
}

// commitOf returns the number of the commit that tx sees, or makes, and its root page.
func commitOf(tx *bbolt.Tx) boltpage.Meta {
	return boltpage.Meta{Commit: uint64(tx.ID()), Root: uint64(tx.Cursor().Bucket().Root())}
}

// mappedPages returns the pages that tx sees. It asks bbolt for the place of the map, and bbolt
// then reads the first byte of the map. So the caller must contain faults.
func mappedPages(tx *bbolt.Tx, checked *boltpage.Checked) *boltpage.Pages {
	data := tx.DB().Info().Data
	mapped := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&data))), tx.Size())
	return boltpage.MappedPages(mapped, checked)
}

// view runs fn in a read transaction of bbolt. It contains faults in bbolt, but not in fn. fn also
// gets the file that tx reads.
func (e *Engine) view(ctx context.Context, fn func(*bbolt.Tx, *os.File) error) error {
	r, err := e.beginView(ctx)
	if err != nil {
		return err
	}
	defer e.endRead(r)
	return fn(r.tx, r.file)
}

// beginView is beginRead for callers of the engine.
func (e *Engine) beginView(ctx context.Context) (reader, error) {
	for {
		if err := e.health.canRead(); err != nil {
			return reader{}, err
		}
		r, err := e.beginRead(ctx)
		if !errors.Is(err, bolterrors.ErrInvalidMapping) {
			return r, translate(err)
		}
		if err := e.waitForReopen(ctx); err != nil {
			return reader{}, err
		}
	}
}

// waitForReopen waits for a commit to open the file again. A commit does that if it needs a larger
// map and the system refuses one. The file is open again when the commit's turn ends.
func (e *Engine) waitForReopen(ctx context.Context) error {
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	e.endTurn()
	return nil
}

// reader is a read transaction of bbolt, the file that it reads, the count in which it counts, and
// the last commit that was known when it began.
type reader struct {
	tx         *bbolt.Tx
	file       *os.File
	readers    *readerCount
	lastCommit *knownCommit
}

// beginRead begins a read transaction, which endRead ends. It waits no longer than ctx lasts.
//
// Errors: those of canLook; bbolt's errors; boltpage.ErrLastLost; ctx's error.
func (e *Engine) beginRead(ctx context.Context) (reader, error) {
	if err := e.enterGate(ctx); err != nil {
		return reader{}, err
	}
	if !e.committing {
		return e.beginReadInGate()
	}
	// If the commit needs a larger map, it waits for all readers to end, and beginReadInGate waits
	// for the commit.
	type begun struct {
		r   reader
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
				e.endRead(b.r)
			}
		}()
		return reader{}, ctx.Err()
	}
}

// beginReadInGate begins a read transaction for the holder of the gate, and unlocks the gate.
// Transactions begin one at a time, because bbolt holds a lock while it reads the meta pages. A
// fault leaves that lock locked, and a goroutine that waits for it then would wait for ever.
func (e *Engine) beginReadInGate() (reader, error) {
	r, err := e.beginReadLocked()
	e.gate.unlock()
	if err != nil {
		return reader{}, err
	}
	if r.lastCommit.outlives(r.tx) {
		e.endRead(r)
		return reader{}, boltpage.ErrLastLost
	}
	return r, nil
}

func (e *Engine) beginReadLocked() (r reader, err error) {
	if err := e.health.canLook(); err != nil {
		return r, err
	}
	if err := e.openAgainLocked(tryAgainSettings()); err != nil {
		return r, err
	}
	if e.db == nil { // the engine was closed after the caller asked for its health
		return r, ErrClosed
	}
	r.file, r.readers, r.lastCommit = e.file, e.readers, e.lastCommit.Load()
	err = e.health.guard(stuckAll, func() (err error) {
		r.tx, err = e.db.Begin(false)
		return err
	})
	if err == nil {
		r.readers.add()
	}
	return r, err
}

// endRead ends a read transaction, for which it needs a lock of bbolt. A fault while a transaction
// begins can leave that lock locked for ever. After a compaction, closing the old file holds the
// lock of that file until its last reader ends. So endRead waits for the lock only if it can hold
// the gate, and only if r reads the file in use. Otherwise a goroutine rolls back. The rollback
// cannot be skipped: a writer that needs a larger map waits for every open reader, and new readers
// wait for that writer.
func (e *Engine) endRead(r reader) {
	r.readers.done()
	rollback := func() { _ = e.health.guard(stuckAll, r.tx.Rollback) }
	if e.health.stuckness() == stuckAll {
		return
	}
	if !e.gate.tryLock() {
		go rollback()
		return
	}
	defer e.gate.unlock()
	if e.db == r.tx.DB() {
		rollback()
	} else {
		go rollback()
	}
}

// gate is a lock. A goroutine can wait for it for as long as a context lasts.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) lock()   { g <- struct{}{} }
func (g gate) unlock() { <-g }

// lockWithin locks the gate, or returns the error of ctx if ctx ends first.
func (g gate) lockWithin(ctx context.Context) error {
	if g.tryLock() { // without ctx.Done, which makes a channel when it is first called
		return nil
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) tryLock() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

// Path returns the path of the file itself, without links.
func (e *Engine) Path() string { return e.path }

// Close waits for transactions under way, and closes the file. It is idempotent.
func (e *Engine) Close() (err error) {
	e.closeOnce.Do(func() { err = e.close() })
	return err
}

func (e *Engine) close() error {
	e.health.setLife(engineClosing)
	e.news.announce()
	e.compacting.lock() // it goes on to its end
	defer e.compacting.unlock()
	if err := e.takeTurn(context.Background()); err != nil {
		return err
	}
	defer e.endTurn()
	e.commitBatch()
	e.health.setLife(engineClosed)
	defer e.unmark()
	err := e.release()
	e.oldFiles.Wait()
	return err
}

// Format prints the path of the file and nothing of its contents.
func (e *Engine) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "bbolt engine on %s", e.path) }

// Commits returns the number of commits since the engine was opened. Each commit costs two syncs.
func (e *Engine) Commits() uint64 { return e.commits.Load() }

// CheckEngine yields what is wrong with the pages of the file, and then where the numbering
// disagrees with the entries. A finding about the numbering is an [ErrNumbering].
func (e *Engine) CheckEngine(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		more, sound := true, true
		report := func(err error) { more, sound = more && yield(translate(err)), false }
		for checked := false; !checked; {
			err := e.viewLong(ctx, func(l *longReader) (err error) {
				checked, err = l.checkPages(ctx, func(finding error) bool {
					report(finding)
					return more
				})
				return err
			})
			if err != nil {
				report(err)
				return
			}
		}
		if !more {
			return
		}
		err := e.ViewLong(ctx, func(tx *Tx) error {
			return checkNumbering(ctx, tx, func(finding error) bool {
				report(finding)
				return more
			})
		})
		if err != nil && (sound || !errors.Is(err, ErrCorrupt)) {
			report(err)
		}
	}
}

// checkPages yields what is wrong with the pages that l sees. It reports false, and has yielded
// nothing, if there was a commit since l began.
func (l *longReader) checkPages(ctx context.Context, yield func(error) bool) (checked bool, err error) {
	if err := l.enter(); err != nil {
		return false, err
	}
	entered := true
	defer func() {
		if entered {
			l.leave()
		}
	}()
	// The caller of yield may take long, and l can be interrupted meanwhile.
	report := func(finding error) (more bool) {
		l.leave()
		entered = false
		more = yield(finding)
		err = l.enter()
		entered = err == nil
		return more && entered
	}
	m, sound := boltpage.ReadMeta(l.r.file)
	if sound == 2 && m.Commit != uint64(l.r.tx.ID()) {
		return false, nil
	}
	if sound < 2 && !report(corrupt("a meta page cannot be read")) {
		return true, err
	}
	pages := boltpage.NewPages(l.r.file, uint64(l.r.tx.Size()/boltpage.PageSize))
	ctx = longContext{ctx, l}
	for finding := range pages.FindDamage(ctx, m, false) {
		if !report(finding) {
			return true, err
		}
	}
	if err := ctx.Err(); err != nil {
		return true, err
	}
	return true, contain(func() error { return newTables(l.r.tx, nil).CheckMarker(m) })
}
