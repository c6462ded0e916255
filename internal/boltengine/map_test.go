package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// openSmallMap opens an engine with a map of size bytes, of which little is used.
func openSmallMap(t *testing.T, size int) inside {
	t.Helper()
	smallMaps(t, size)
	return openInside(t)
}

// smallMaps makes the first map of every file that the test opens size bytes large.
func smallMaps(t *testing.T, size int) {
	before := MapSize
	MapSize = size
	t.Cleanup(func() { MapSize = before })
}

// outgrow writes size bytes.
func (e inside) outgrow(size int) error {
	return e.Update(context.Background(), func(tx *Tx) error {
		for i := 0; size > 0; i++ {
			if err := tx.Put("large", fmt.Append(nil, i), make([]byte, min(size, boltpage.MaxValue))); err != nil {
				return err
			}
			size -= boltpage.MaxValue
		}
		return nil
	})
}

// hold begins a View, and returns when it has begun. end ends the View.
func (e inside) hold() (end func()) {
	e.t.Helper()
	begun, ending, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- e.View(context.Background(), func(*Tx) error {
			close(begun)
			<-ending
			return nil
		})
	}()
	<-begun
	return func() {
		e.t.Helper()
		close(ending)
		must(e.t, <-ended)
	}
}

const smallMap = 1 << 20

func TestAWriterThatNeedsALargerMapInterruptsABackupToAClientThatHasStopped(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("a", "1"))
	client, w := io.Pipe()
	backup := make(chan error)
	go func() { backup <- e.WriteBackup(context.Background(), w) }()
	_, err := io.ReadFull(client, make([]byte, 1)) // the client stops here
	must(t, err)
	must(t, e.outgrow(2*smallMap))
	e.want("a=1")
	go func() { _, _ = io.Copy(io.Discard, client) }()
	if err := <-backup; !errors.Is(err, ErrInterrupted) {
		t.Errorf("WriteBackup: got %v, want ErrInterrupted", err)
	}
	must(t, e.WriteBackup(t.Context(), io.Discard))
	e.reopen().want("a=1")
}

func TestAWriterThatNeedsALargerMapInterruptsALongView(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("a", "1"))
	must(t, e.set("b", "1"))
	err := e.ViewLong(t.Context(), func(tx *Tx) error {
		for entry, err := range tx.Scan("t", nil, nil) {
			if string(entry.Key) != "a" {
				return err
			}
			must(t, e.outgrow(2*smallMap))
		}
		t.Error("the scan went on after the interruption")
		return nil
	})
	if !errors.Is(err, ErrInterrupted) {
		t.Errorf("ViewLong: got %v, want ErrInterrupted", err)
	}
	err = e.ViewLong(t.Context(), func(tx *Tx) error {
		must(t, e.outgrow(4*smallMap))
		if _, err := tx.Get("t", []byte("a")); !errors.Is(err, ErrInterrupted) {
			t.Errorf("Get: got %v, want ErrInterrupted", err)
		}
		return nil
	})
	must(t, err)
	must(t, e.ViewLong(t.Context(), func(tx *Tx) error {
		_, err := tx.Get("t", []byte("a"))
		return err
	}))
	e.reopen().want("a=1 b=1")
}

func TestAWriterThatNeedsALargerMapInterruptsACompaction(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("a", "1"))
	must(t, e.set("b", "1"))
	err := e.compactWhile(t.Context(), func() { must(t, e.outgrow(2*smallMap)) })
	if !errors.Is(err, ErrInterrupted) {
		t.Errorf("Compact: got %v, want ErrInterrupted", err)
	}
	wantNoCopy(t, e)
	must(t, e.Compact(t.Context()))
	e.reopen().want("a=1 b=1")
}

func TestAWriterThatNeedsALargerMapInterruptsACheckOfPages(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("a", "1"))
	var findings []error
	err := e.viewLong(t.Context(), func(l *longReader) error {
		l.r.file = brokenMeta(t, e) // so that there is a finding at once
		_, err := l.checkPages(t.Context(), func(finding error) bool {
			findings = append(findings, finding)
			must(t, e.outgrow(2*smallMap))
			return true
		})
		return err
	})
	if !errors.Is(err, ErrInterrupted) || len(findings) != 1 {
		t.Errorf("got %v after the findings %v, want ErrInterrupted after one", err, findings)
	}
	for finding := range e.CheckEngine(t.Context()) {
		t.Error(finding)
	}
}

// brokenMeta opens a file like that of the engine, in which a meta page is broken.
func brokenMeta(t *testing.T, e inside) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "broken")
	content, err := os.ReadFile(e.path)
	must(t, err)
	clear(content[:100])
	must(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestAWriterThatNeedsALargerMapWaitsForAViewAndHealthSaysSo(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("a", "1"))
	end := e.hold()
	written := make(chan error)
	go func() { written <- e.outgrow(2 * smallMap) }()
	held := waitFor(t, "a finding", func() bool { return errors.Is(e.EngineHealth(t.Context()), ErrReaderHoldsUp) })
	if held {
		for name, call := range map[string]func(context.Context) error{
			"View":    func(ctx context.Context) error { return e.View(ctx, func(*Tx) error { return nil }) },
			"Compact": e.Compact,
		} {
			ctx, cancel := context.WithCancel(t.Context())
			if err := call(endsWhenAsked{ctx, cancel}); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want context.Canceled", name, err)
			}
		}
	}
	end()
	must(t, <-written)
	must(t, e.EngineHealth(t.Context()))
	e.want("a=1")
	must(t, e.set("b", "1"))
	e.reopen().want("a=1 b=1")
}

// endsWhenAsked is a context that ends when somebody waits for its end.
type endsWhenAsked struct {
	context.Context
	cancel context.CancelFunc
}

func (c endsWhenAsked) Done() <-chan struct{} {
	c.cancel()
	return c.Context.Done()
}

// Members of a batch have succeeded or failed by the time when bbolt refuses their commit.
func TestACommitThatIsMadeOnceMoreHasAllChangesOfItsBatch(t *testing.T) {
	e := openSmallMap(t, smallMap)
	must(t, e.set("old", "1"))
	errRefused := errors.New("refused")
	e.wantCommits(1, func() {
		e.together(
			e.mustSet("a", "1"),
			func() {
				err := e.Update(t.Context(), func(tx *Tx) error {
					return errors.Join(tx.Put("t", []byte("a"), []byte("spoilt")), tx.Delete("t", []byte("old")), errRefused)
				})
				if !errors.Is(err, errRefused) {
					t.Errorf("Update: got %v, want the function's error", err)
				}
			},
			func() { must(t, e.outgrow(2*smallMap)) },
			e.mustSet("b", "1"),
		)
	})
	e.want("a=1 b=1 old=1")
	e.reopen().want("a=1 b=1 old=1")
}

func TestAMapGrowsAheadOfNeedAndKeepsTheLock(t *testing.T) {
	if _, err := durable.Duplicate(nil); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the map cannot be enlarged ahead of need here")
	}
	e := openSmallMap(t, smallMap)
	before := e.db
	must(t, e.set("a", "1"))
	for i := 0; e.db == before && i < 100; i++ {
		must(t, e.Update(t.Context(), func(tx *Tx) error {
			return tx.Put("small", fmt.Append(nil, i), make([]byte, boltpage.PageSize))
		}))
	}
	if e.lastCommit.Load().db != e.db {
		t.Error("the last commit is not known any more")
	}
	if size := guardedMap(e.db); size != 2*smallMap {
		t.Errorf("the map has %d bytes, want %d", size, 2*smallMap)
	}
	if _, err := Open(e.path, Options{LockTimeout: 1}); !errors.Is(err, ErrLocked) {
		t.Errorf("opening it again: got %v, want ErrLocked", err)
	}
	defer e.hold()() // for which nobody waits
	must(t, e.set("b", "1"))
	must(t, e.outgrow(smallMap/2))
	must(t, e.EngineHealth(t.Context()))
	e.want("a=1 b=1")
}

func TestAFileWhoseMapGrewAheadIsWholeWhenItIsOpenedAgain(t *testing.T) {
	e := openSmallMap(t, smallMap)
	for i := range 40 {
		must(t, e.set(fmt.Sprint(i), strings.Repeat("x", 30<<10)))
	}
	must(t, e.Compact(t.Context()))
	for i := range 40 {
		must(t, e.set(fmt.Sprint(i), "1"))
	}
	e = e.reopen()
	must(t, e.set("a", "1"))
}

func TestAMapThatCannotGrowAheadOfNeedKeepsTheOldOneAndTheLock(t *testing.T) {
	if runtime.GOOS != "linux" || strconv.IntSize < 64 {
		t.Skip("needs a size that the system cannot map")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	e.gate.lock()
	err := e.openLargerLocked(int64(1) << 47)
	e.gate.unlock()
	if err == nil {
		t.Error("got no error")
	}
	if _, err := Open(e.path, Options{LockTimeout: 1}); !errors.Is(err, ErrLocked) {
		t.Errorf("opening it again: got %v, want ErrLocked", err)
	}
	must(t, e.set("b", "1"))
	e.reopen().want("a=1 b=1")
}
