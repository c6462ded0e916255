package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// must fails the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inside is an engine of which the test controls the turns and the writes.
type inside struct {
	*Engine
	t testing.TB
}

// openInside opens an engine in a new file.
func openInside(t testing.TB) inside {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, createFile(path))
	return openInsideFile(t, path)
}

func openInsideFile(t testing.TB, path string) inside {
	t.Helper()
	e, err := Open(path, Options{})
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return inside{e, t}
}

// reopen closes the engine, opens its file again, and checks the file.
func (e inside) reopen() inside {
	e.t.Helper()
	_ = e.Close()
	again := openInsideFile(e.t, e.path)
	for finding := range again.CheckEngine(context.Background()) {
		e.t.Errorf("after reopening: %v", finding)
	}
	return again
}

// set puts one entry and returns the error of Update.
func (e inside) set(key, value string) error {
	return e.Update(context.Background(), func(tx *Tx) error { return tx.Put("t", []byte(key), []byte(value)) })
}

// mustSet returns a function that sets an entry, and fails the test for any error.
func (e inside) mustSet(key, value string) func() {
	return func() {
		e.t.Helper()
		if err := e.set(key, value); err != nil {
			e.t.Errorf("set %s: %v", key, err)
		}
	}
}

// want fails the test unless the engine has the given entries, as in "a=1 b=2".
func (e inside) want(entries string) {
	e.t.Helper()
	var got []string
	must(e.t, e.View(context.Background(), func(tx *Tx) error {
		for entry, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%s=%s", entry.Key, entry.Value))
		}
		return nil
	}))
	if got := strings.Join(got, " "); got != entries {
		e.t.Errorf("the engine has %q, want %q", got, entries)
	}
}

// wantCommits runs do, and fails the test unless that takes n commits.
func (e inside) wantCommits(n uint64, do func()) {
	e.t.Helper()
	before := e.Commits()
	do()
	if got := e.Commits() - before; got != n {
		e.t.Errorf("it took %d commits, want %d", got, n)
	}
}

// waitQueued waits until n writers wait for their turn.
func (e inside) waitQueued(n int) {
	e.t.Helper()
	waitFor(e.t, fmt.Sprint(n, " writers in the queue"), func() bool {
		e.turns.mu.Lock()
		defer e.turns.mu.Unlock()
		return len(e.turns.queue) == n
	})
}

// waitFor waits until holds returns true, and reports whether it did within a minute. If not, it
// fails the test.
func waitFor(t testing.TB, what string, holds func() bool) bool {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Errorf("waited a minute for %s", what)
			return false
		}
	}
	return true
}

// together runs members, which share a commit. It holds the turn until all members wait for their
// turns, in order, and returns when all have ended.
func (e inside) together(members ...func()) {
	e.t.Helper()
	must(e.t, e.takeTurn(context.Background()))
	var group sync.WaitGroup
	for i, member := range members {
		group.Go(member)
		e.waitQueued(i + 1)
	}
	e.endTurn()
	group.Wait()
}

// times makes n members. Each sets an entry of its own.
func (e inside) times(n int) (members []func()) {
	for i := range n {
		members = append(members, e.mustSet(fmt.Sprintf("%04d", i), "."))
	}
	return members
}

func TestWritersThatWaitShareOneCommit(t *testing.T) {
	e := openInside(t)
	e.wantCommits(1, func() { e.together(e.times(64)...) })
	e.wantCommits(1, func() { e.together(e.times(maxBatch)...) })
	e.wantCommits(2, func() { e.together(e.times(maxBatch + 1)...) })
}

func TestALoneWriterCommitsAtOnceAndOnlyWhatItWrote(t *testing.T) {
	e := openInside(t)
	for range 3 {
		e.wantCommits(1, func() { must(t, e.set("a", "1")) })
	}
	errRefused := errors.New("refused")
	for _, fn := range []func(tx *Tx) error{
		func(*Tx) error { return nil },
		func(tx *Tx) error { return tx.Delete("t", []byte("never there")) },
		func(tx *Tx) error { return errors.Join(tx.Put("t", []byte("b"), nil), errRefused) },
	} {
		e.wantCommits(0, func() {
			if err := e.Update(t.Context(), fn); err != nil && !errors.Is(err, errRefused) {
				t.Error(err)
			}
			e.want("a=1")
		})
	}
}

func TestAMemberOfABatchThatFailsLosesOnlyItsOwnWrites(t *testing.T) {
	e := openInside(t)
	must(t, e.set("old", "1"))
	errRefused := errors.New("refused")
	// Each member that fails undoes changes of every kind, to entries from before the batch and to
	// entries of another member.
	spoil := func(tx *Tx) error {
		key := []byte("old")
		err := tx.Put("t", key, []byte("spoilt"))
		copy(key, "its caller's again")
		return errors.Join(err,
			tx.Delete("t", []byte("old")), tx.Put("t", []byte("old"), nil),
			tx.Delete("t", []byte("a")), tx.Put("t", []byte("a"), []byte("spoilt")),
			tx.Put("t", []byte("new"), []byte("spoilt")), tx.Put("table", []byte("new"), []byte("spoilt")))
	}
	panicked := "not yet"
	e.wantCommits(1, func() {
		e.together(
			e.mustSet("a", "1"),
			func() {
				err := e.Update(t.Context(), func(tx *Tx) error { return errors.Join(spoil(tx), errRefused) })
				if !errors.Is(err, errRefused) {
					t.Errorf("Update: got %v, want the function's error", err)
				}
			},
			func() {
				defer func() { panicked = recover().(string) }()
				_ = e.Update(t.Context(), func(tx *Tx) error {
					_ = spoil(tx)
					panic("to its own caller")
				})
			},
			func() {
				_ = e.Update(t.Context(), func(tx *Tx) error {
					_ = spoil(tx)
					runtime.Goexit()
					return nil
				})
				t.Error("Update has returned after runtime.Goexit")
			},
			e.mustSet("b", "1"),
		)
	})
	if panicked != "to its own caller" {
		t.Errorf("the caller recovered %q", panicked)
	}
	e = e.reopen()
	e.want("a=1 b=1 old=1")
	must(t, e.View(t.Context(), func(tx *Tx) error {
		for entry := range tx.Scan("table", nil, nil) {
			t.Errorf("a table that was made by members that failed has %q", entry.Key)
		}
		return nil
	}))
}

func TestABatchOfFailuresCommitsNothing(t *testing.T) {
	e := openInside(t)
	fail := func() {
		_ = e.Update(t.Context(), func(tx *Tx) error {
			return errors.Join(tx.Put("t", []byte("a"), nil), errors.New("refused"))
		})
	}
	e.wantCommits(0, func() { e.together(fail, fail, fail) })
	e.want("")
}

// A member that has read another member's write gets no answer before that write is on disk.
func TestAMemberThatReadAnUncommittedWriteGetsTheErrorOfItsCommit(t *testing.T) {
	e := openInside(t)
	must(t, e.set("seed", "1"))
	hookWrites(e, func(write writeAt, b []byte, off int64) (int, error) { return 0, errDiskFull })
	errRefused := errors.New("refused")
	reader := func(end error) func() {
		return func() {
			err := e.Update(t.Context(), func(tx *Tx) error {
				if v, err := tx.Get("t", []byte("a")); err != nil || string(v) != "1" {
					t.Errorf("Get: got %q, %v", v, err)
				}
				return end
			})
			if !errors.Is(err, errDiskFull) || errors.Is(err, errRefused) {
				t.Errorf("Update: got %v, want the commit's error alone", err)
			}
		}
	}
	writer := func() {
		if err := e.set("a", "1"); !errors.Is(err, errDiskFull) {
			t.Errorf("Update: got %v, want the commit's error", err)
		}
	}
	e.together(writer, reader(nil), reader(errRefused))
	e.want("seed=1")
}

// handover is a context that ends at the moment when the turn comes. Done waits until the test has
// let both happen.
type handover struct {
	context.Context
	asked, both chan struct{}
}

func (h handover) Done() <-chan struct{} {
	close(h.asked)
	<-h.both
	return h.Context.Done()
}

func TestAContextThatEndsAsTheTurnComesRunsNothingAndLeavesNothingUncommitted(t *testing.T) {
	e := openInside(t)
	for i := range 50 { // chance decides which of the two the waiter sees first
		ctx, cancel := context.WithCancel(t.Context())
		h := handover{ctx, make(chan struct{}), make(chan struct{})}
		ran := false
		canceled := func() {
			err := e.Update(h, func(*Tx) error {
				ran = true
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Update: got %v, want the context's error", err)
			}
		}
		go func() {
			<-h.asked
			cancel()
			e.waitQueued(0) // the turn is the waiter's, with the first member's batch
			close(h.both)
		}()
		key := fmt.Sprintf("%02d", i)
		e.together(e.mustSet(key, "1"), canceled)
		if ran {
			t.Fatal("a function ran whose context had ended before")
		}
	}
	e.wantCommits(1, e.mustSet("last", "1"))
}

func TestContextsThatEndAtAnyMomentLoseNothingAndBlockNobody(t *testing.T) {
	e := openInside(t)
	var group sync.WaitGroup
	var mu sync.Mutex
	var acknowledged, refused []string
	for w := range 16 {
		group.Go(func() {
			for i := range 40 {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(2) == 0 {
					go cancel()
				}
				key := fmt.Sprintf("%02d-%02d", w, i)
				err := e.Update(ctx, func(tx *Tx) error { return tx.Put("t", []byte(key), nil) })
				cancel()
				mu.Lock()
				if err == nil {
					acknowledged = append(acknowledged, key)
				} else {
					refused = append(refused, key)
				}
				mu.Unlock()
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	group.Wait()
	e = e.reopen()
	must(t, e.View(t.Context(), func(tx *Tx) error {
		for _, key := range acknowledged {
			if v, err := tx.Get("t", []byte(key)); v == nil {
				t.Errorf("%s was acknowledged and is lost: %v", key, err)
			}
		}
		for _, key := range refused {
			if v, err := tx.Get("t", []byte(key)); v != nil || err != nil {
				t.Errorf("%s was refused and is there: %v", key, err)
			}
		}
		return nil
	}))
}

func TestCloseCommitsEarlierWritesAndRefusesLaterOnes(t *testing.T) {
	e := openInside(t)
	closing := func() { must(t, e.Close()) }
	after := func() {
		if err := e.set("after", "1"); !errors.Is(err, ErrClosed) {
			t.Errorf("Update: got %v, want ErrClosed", err)
		}
	}
	e.together(e.mustSet("a", "1"), e.mustSet("b", "1"), closing, after, after)
	e.reopen().want("a=1 b=1")
}

// writeAt is the type of the function by which bbolt writes to its file.
type writeAt func(b []byte, off int64) (int, error)

// hookWrites puts hook between bbolt and its file, in the place that bbolt's own tests use.
func hookWrites(e inside, hook func(write writeAt, b []byte, off int64) (int, error)) {
	field := reflect.ValueOf(e.db).Elem().FieldByName("ops").FieldByName("writeAt")
	at := (*func(b []byte, off int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	write := *at
	*at = func(b []byte, off int64) (int, error) { return hook(write, b, off) }
}

// isMeta reports whether a write at off is the last step of a commit.
func isMeta(off int64) bool { return off < 2*boltpage.PageSize }

// errDiskFull is the error of a write to a full disk.
var errDiskFull = &fs.PathError{Op: "write", Path: "keys.db", Err: syscall.ENOSPC}

func TestAWriteThatFailsTakesItsCommitBackAndTheNextOneWorks(t *testing.T) {
	for failing := 1; ; failing++ {
		e := openInside(t)
		must(t, e.set("a", "1"))
		writes := 0
		hookWrites(e, func(write writeAt, b []byte, off int64) (int, error) {
			if writes++; writes != failing {
				return write(b, off)
			}
			if !isMeta(off) {
				_, _ = write(b[:len(b)/2], off)
			}
			return 0, errDiskFull
		})
		err := e.set("a", "2")
		if err == nil {
			if failing < 4 {
				t.Errorf("a commit took %d writes, want data, the list of free pages and a meta page at least", failing-1)
			}
			e.reopen().want("a=2")
			return
		}
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrCommitUnknown) {
			t.Errorf("with write %d failing: got %v, want the disk's error alone", failing, err)
		}
		e.want("a=1")
		e.mustSet("b", "1")()
		e.want("a=1 b=1")
		e.reopen().want("a=1 b=1")
	}
}

func TestAFileThatCannotGrowTakesItsCommitBackAndTheNextOneWorks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows makes the file as large as its map")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	allocSize := e.db.AllocSize
	e.db.AllocSize = math.MinInt / 2 // so that bbolt asks for a negative size
	if err := e.set("large", strings.Repeat("x", boltpage.MaxValue)); err == nil || errors.Is(err, ErrCommitUnknown) {
		t.Errorf("Update: got %v, want the system's error", err)
	}
	e.want("a=1")
	e.db.AllocSize = allocSize
	must(t, e.set("b", "1"))
	e.want("a=1 b=1")
	e.reopen().want("a=1 b=1")
}

// refuseMaps makes the next commit that takes new pages ask for a larger map, which the system
// refuses.
func (e inside) refuseMaps() {
	e.db.MmapFlags = 0x40000 // MAP_HUGETLB, which is for files of another file system
	size := reflect.ValueOf(e.db).Elem().FieldByName("datasz")
	*(*int)(unsafe.Pointer(size.UnsafeAddr())) = 1
}

// The system can refuse a larger map if there is not enough memory or, on Windows, not enough
// space. bbolt has given up the smaller map by then.
func TestAMapThatCannotGrowTakesItsCommitBackAndTheNextOneWorks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a flag of Linux that refuses to map a file")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	large := strings.Repeat("x", boltpage.MaxValue)
	for i := range 2 {
		e.refuseMaps()
		if err := e.set("large", large); err == nil || errors.Is(err, ErrCommitUnknown) || errors.Is(err, ErrCorrupt) {
			t.Errorf("Update: got %v, want the system's error", err)
		}
		e.want("a=1")
		must(t, e.set("a", "1"))
		if _, err := Open(e.path, Options{LockTimeout: 1}); !errors.Is(err, ErrLocked) {
			t.Errorf("round %d: opening it again: got %v, want ErrLocked", i, err)
		}
	}
	must(t, e.set("b", "1"))
	e.reopen().want("a=1 b=1")
}

func TestReadersNoticeNothingOfAMapThatCannotGrow(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a flag of Linux that refuses to map a file")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := e.View(t.Context(), func(*Tx) error { return nil }); err != nil {
					t.Errorf("View: got %v", err)
					return
				}
			}
		})
	}
	for range 50 {
		e.refuseMaps()
		if err := e.set("large", strings.Repeat("x", boltpage.MaxValue)); err == nil {
			t.Error("Update: got no error")
		}
	}
	close(stop)
	readers.Wait()
}

// Another store has the name by then, and this engine does not know what that store has.
func TestAStoreThatLosesItsMapDoesNotGoOnInAnotherFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a flag of Linux that refuses to map a file")
	}
	e, other := openInside(t), openInside(t)
	must(t, e.set("a", "1"))
	must(t, other.set("b", "1"))
	must(t, other.Close())
	must(t, os.Rename(other.path, e.path))
	e.refuseMaps()
	if err := e.set("large", strings.Repeat("x", boltpage.MaxValue)); err == nil {
		t.Error("Update: got no error")
	}
	if err := e.set("a", "2"); !errors.Is(err, ErrFileChanged) {
		t.Errorf("a later Update: got %v, want ErrFileChanged", err)
	}
	if err := e.View(t.Context(), func(*Tx) error { return nil }); err != nil {
		t.Errorf("a later View: got %v, want what the file had that is open", err)
	}
	must(t, e.Close())
	openInsideFile(t, e.path).want("b=1")
}

// An engine that is closing still has to find out whether a commit failed.
func TestACommitThatFailsWhileTheEngineClosesIsKnownToHaveFailed(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	hookWrites(e, func(writeAt, []byte, int64) (int, error) { return 0, errDiskFull })
	e.together(
		func() {
			if err := e.set("b", "1"); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrCommitUnknown) {
				t.Errorf("Update: got %v, want the disk's error alone", err)
			}
		},
		func() { must(t, e.Close()) },
	)
	e.reopen().want("a=1")
}

// failSyncs makes all syncs fail after the first write for which fails returns true. The writes
// succeed. For that, failSyncs closes bbolt's file, and writes to the file by another descriptor.
func failSyncs(e inside, fails func(off int64) bool) {
	other, err := os.OpenFile(e.path, os.O_RDWR, 0)
	must(e.t, err)
	e.t.Cleanup(func() { other.Close() })
	hookWrites(e, func(_ writeAt, b []byte, off int64) (int, error) {
		if fails(off) {
			e.file.Close()
		}
		return other.WriteAt(b, off)
	})
}

// wantNoMoreWrites fails the test unless an engine whose file cannot be synced takes no more
// writes, and closes.
func (e inside) wantNoMoreWrites() {
	e.t.Helper()
	for range 2 {
		if err := e.set("later", "1"); !errors.Is(err, ErrSyncFailed) {
			e.t.Errorf("a later Update: got %v, want ErrSyncFailed", err)
		}
	}
	_ = e.Close()
	if err := e.set("later", "1"); !errors.Is(err, ErrClosed) {
		e.t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

func TestASyncThatFailsBeforeTheLastStepTakesTheCommitBackAndEndsAllWriting(t *testing.T) {
	e := openInside(t)
	for range 4 { // so that there are free pages, and the file need not grow
		must(t, e.set("a", "1"))
	}
	failSyncs(e, func(off int64) bool { return true })
	for _, err := range e.setTogether("a", "b") {
		if err == nil || errors.Is(err, ErrCommitUnknown) {
			t.Errorf("Update: got %v, want the sync's error", err)
		}
	}
	e.want("a=1")
	e.wantNoMoreWrites()
	e.reopen().want("a=1")
}

func TestASyncThatFailsInTheLastStepIsErrCommitUnknownAndEndsAllWriting(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	failSyncs(e, isMeta)
	for _, err := range e.setTogether("a", "b") {
		if !errors.Is(err, ErrCommitUnknown) {
			t.Errorf("Update: got %v, want ErrCommitUnknown", err)
		}
	}
	e.wantNoMoreWrites()
	e.reopen().want("a=2 b=2") // nothing has lost power
}

// setTogether sets two entries to 2 in one commit, and returns the errors of both Updates.
func (e inside) setTogether(a, b string) (errs [2]error) {
	e.together(
		func() { errs[0] = e.set(a, "2") },
		func() { errs[1] = e.set(b, "2") },
	)
	return errs
}

func TestAFailedSyncIsNotTakenForAFailedWrite(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"fdatasync of Linux", syscall.EIO, true},
		{"File.Sync", &fs.PathError{Op: "sync", Path: "keys.db", Err: syscall.EIO}, true},
		{"a sync after growing, of which bbolt keeps the text", fmt.Errorf("file sync error: %s", syscall.EIO), true},
		{"a write", errDiskFull, false},
		{"a short write", fmt.Errorf("write: %w", io.ErrShortWrite), false},
		{"growing, of which bbolt keeps the text", fmt.Errorf("file resize error: %s", syscall.ENOSPC), false},
		{"mapping, of which bbolt keeps the text", fmt.Errorf("mmap allocate error: %s", syscall.ENOMEM), false},
		{"a file that may not grow", bolterrors.ErrMaxSizeReached, false},
		{"damage", fmt.Errorf("%w: page 7", ErrCorrupt), false},
	} {
		if got := syncFailed(tt.err); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestDamageThatACommitMeetsEndsAllWritingAndNothingElse(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	hookWrites(e, func(writeAt, []byte, int64) (int, error) { panic("as bbolt does when it meets damage") })
	for range 2 {
		if err := e.set("b", "1"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Update: got %v, want ErrCorrupt", err)
		}
		e.want("a=1")
	}
	e.reopen().want("a=1")
}

// bbolt has panicked while it held its lock for writers. Closing the old file would wait for that
// lock.
func TestAStuckStoreIsNotCompacted(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	_ = e.health.guard(stuckWriters, func() error {
		_, _ = e.db.Begin(true)
		panic("as bbolt does when it can read neither meta page")
	})
	for _, err := range []error{e.set("b", "1"), e.Compact(t.Context())} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
	}
	e.reopen().want("a=1")
}

// Windows changes no file that is mapped. So Close ends the map, which no reader may use then.
func TestCloseOfAStuckStoreWaitsForItsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openInside(t)
		must(t, e.set("a", "1"))
		end := make(chan struct{})
		var reader, closer sync.WaitGroup
		reader.Go(func() {
			must(t, e.View(t.Context(), func(*Tx) error {
				<-end
				return nil
			}))
		})
		synctest.Wait()
		_ = e.health.guard(stuckWriters, func() error { panic("as bbolt does") })
		closed := false
		closer.Go(func() {
			_ = e.Close()
			closed = true
		})
		synctest.Wait()
		if closed {
			t.Error("Close has not waited")
		}
		close(end)
		reader.Wait()
		closer.Wait()
	})
}

// A disk can go at any moment, even when a transaction has just begun. A fault that is not
// contained ends the program.
func TestAFileThatIsGoneWhenAReaderHasJustBegunIsAnError(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not shorten a file that is mapped")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	err := e.view(t.Context(), func(tx *bbolt.Tx, _ *os.File) error {
		must(t, os.Truncate(e.path, 0))
		_, err := e.newReader(tx)
		return err
	})
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}

// remapLock returns the lock of bbolt that readers share. A commit locks it to make the map larger.
func (e inside) remapLock() *sync.RWMutex {
	field := reflect.ValueOf(e.db).Elem().FieldByName("mmaplock")
	return (*sync.RWMutex)(unsafe.Pointer(field.UnsafeAddr()))
}

// A commit that needs a larger map waits for all readers, and a reader that begins waits for the
// commit.
func TestAReaderThatBeginsDoesNotWaitForACommitLongerThanItsContext(t *testing.T) {
	e := openInside(t)
	e.setCommitting(true)
	remap := e.remapLock()
	remap.Lock()
	ctx, cancel := context.WithCancel(t.Context())
	view := func() <-chan error {
		result := make(chan error, 1)
		go func() { result <- e.View(ctx, func(*Tx) error { return nil }) }()
		return result
	}
	first := view()
	waitFor(t, "the first reader to hold the gate", func() bool { return len(e.gate) == 1 })
	second := view()
	cancel()
	for _, result := range []<-chan error{first, second} {
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
	remap.Unlock()
	ended := waitFor(t, "the end of the reader that began after its context had ended", func() bool {
		if len(e.gate) == 1 || !remap.TryLock() {
			return false
		}
		remap.Unlock()
		return true
	})
	if !ended {
		e.health.setStuck(stuckAll) // or Close would wait for the reader
		return
	}
	e.setCommitting(false)
	must(t, e.set("a", "1"))
	e.want("a=1")
}

func TestEachStateOfAnEngineAllowsWhatItsTableSays(t *testing.T) {
	errCause, errOther := errors.New("the cause"), errors.New("another cause")
	type step = func(h *health)
	unwritable := func(h *health) { h.failWrites(errCause) }
	unreadable := func(h *health) { h.failReads(errCause) }
	stuckWriting := func(h *health) { h.setStuck(stuckWriters) }
	stuckReading := func(h *health) { h.setStuck(stuckAll) }
	closes := func(h *health) { h.setLife(engineClosing) }
	hasClosed := func(h *health) { h.setLife(engineClosed) }
	for _, tt := range []struct {
		name              string
		steps             []step
		read, look, write error
	}{
		{"sound", nil, nil, nil, nil},
		{"unwritable", []step{unwritable}, nil, nil, errCause},
		{"unwritable for two causes", []step{unwritable, func(h *health) { h.failWrites(errOther) }}, nil, nil, errCause},
		{"unreadable", []step{unreadable}, errCause, errCause, errCause},
		{"unreadable for two causes", []step{unreadable, func(h *health) { h.failReads(errOther) }}, errCause, errCause, errCause},
		{"stuck writers", []step{stuckWriting}, nil, nil, errStuck},
		{"stuck", []step{stuckReading, stuckWriting}, errStuck, errStuck, errStuck},
		{"closing", []step{closes}, ErrClosed, nil, nil},
		{"closed", []step{closes, hasClosed}, ErrClosed, nil, ErrClosed},
		{"unreadable and stuck", []step{stuckReading, unreadable}, errStuck, errStuck, errStuck},
		{"unwritable and stuck writers", []step{stuckWriting, unwritable}, nil, nil, errStuck},
		{"stuck and closed", []step{stuckReading, hasClosed}, ErrClosed, errStuck, ErrClosed},
		{"unreadable and closing", []step{unreadable, closes}, ErrClosed, errCause, errCause},
	} {
		for _, readOnly := range []bool{false, true} {
			h := health{readOnly: readOnly}
			for _, step := range tt.steps {
				step(&h)
			}
			if got := h.canRead(); got != tt.read {
				t.Errorf("%s, read-only %t: reading: got %v, want %v", tt.name, readOnly, got, tt.read)
			}
			if got := h.canLook(); got != tt.look {
				t.Errorf("%s, read-only %t: looking: got %v, want %v", tt.name, readOnly, got, tt.look)
			}
			write := tt.write
			if readOnly {
				write = ErrReadOnly
			}
			if got := h.canWrite(); got != write {
				t.Errorf("%s, read-only %t: writing: got %v, want %v", tt.name, readOnly, got, write)
			}
		}
	}
}
