package boltengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/latchkeydb/latchkey/internal/durable"
)

// whileCopying is a context that calls do when a compaction asks, in the middle of copying, whether
// the context has ended.
type whileCopying struct {
	context.Context
	e    inside
	once *sync.Once
	do   func()
}

func (c whileCopying) Err() error {
	if _, err := os.Stat(durable.Beside(c.e.path, compactSuffix)); err == nil {
		c.once.Do(c.do)
	}
	return c.Context.Err()
}

// compactWhile compacts the file, and calls do while the compaction copies.
func (e inside) compactWhile(ctx context.Context, do func()) error {
	e.t.Helper()
	done := false
	err := e.Compact(whileCopying{ctx, e, new(sync.Once), func() {
		done = true
		e.turns.mu.Lock()
		taken := e.turns.taken
		e.turns.mu.Unlock()
		if taken {
			e.t.Error("the compaction has the turn while it copies")
			return
		}
		do()
	}})
	if !done {
		e.t.Error("the compaction copied nothing")
	}
	return err
}

func TestWritesGoOnWhileACompactionCopiesAndAreInTheNewFile(t *testing.T) {
	e := openInside(t)
	for _, key := range []string{"changed", "deleted", "kept"} {
		must(t, e.set(key, "1"))
	}
	must(t, e.compactWhile(t.Context(), func() {
		must(t, e.set("changed", "2"))
		must(t, e.Update(t.Context(), func(tx *Tx) error { return tx.Delete("t", []byte("deleted")) }))
		must(t, e.set("new", "1"))
		errRefused := errors.New("refused")
		err := e.Update(t.Context(), func(tx *Tx) error {
			return errors.Join(tx.Delete("t", []byte("kept")), tx.Put("t", []byte("spoilt"), nil), errRefused)
		})
		if !errors.Is(err, errRefused) {
			t.Errorf("Update: got %v, want the function's error", err)
		}
		must(t, e.Update(t.Context(), func(tx *Tx) error { return tx.Put("another table", []byte("a"), []byte("1")) }))
	}))
	e.want("changed=2 kept=1 new=1")
	must(t, e.set("after", "1"))
	e = e.reopen()
	e.want("after=1 changed=2 kept=1 new=1")
	must(t, e.View(t.Context(), func(tx *Tx) error {
		if v, err := tx.Get("another table", []byte("a")); err != nil || string(v) != "1" {
			t.Errorf("the new table has %q, %v", v, err)
		}
		return nil
	}))
}

func TestMoreChangesThanOneRoundTakesAreInTheNewFile(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	var want []string
	must(t, e.compactWhile(t.Context(), func() {
		for i := range 8 {
			key, value := fmt.Sprint("b", i), strings.Repeat(fmt.Sprint(i), fewMissed/4)
			must(t, e.set(key, value))
			want = append(want, key+"="+value)
		}
	}))
	e.reopen().want("a=1 " + strings.Join(want, " "))
}

func TestACompactionThatCannotNoteAllChangesIsInterruptedAndChangesNothing(t *testing.T) {
	defer func(n int) { maxMissed = n }(maxMissed)
	maxMissed = 1000
	e := openInside(t)
	must(t, e.set("a", "1"))
	err := e.compactWhile(t.Context(), func() { must(t, e.set("b", strings.Repeat("x", 1001))) })
	if !errors.Is(err, ErrInterrupted) {
		t.Errorf("Compact: got %v, want ErrInterrupted", err)
	}
	must(t, e.set("b", "1"))
	e.want("a=1 b=1")
	wantNoCopy(t, e)
	must(t, e.Compact(t.Context()))
	e.reopen().want("a=1 b=1")
}

// wantNoCopy fails the test if a compaction has left its file.
func wantNoCopy(t testing.TB, e inside) {
	t.Helper()
	if _, err := os.Stat(durable.Beside(e.path, compactSuffix)); !os.IsNotExist(err) {
		t.Errorf("looking for the file of the compaction: got %v, want that there is none", err)
	}
}

func TestACompactionWhoseContextEndsWhileItCopiesChangesNothing(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	if err := e.compactWhile(ctx, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("Compact: got %v, want context.Canceled", err)
	}
	wantNoCopy(t, e)
	must(t, e.set("b", "1"))
	e.reopen().want("a=1 b=1")
}

func TestACompactionThatWaitsForAnotherOneEndsWithItsContext(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	must(t, e.compactWhile(t.Context(), func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Compact(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the second compaction: got %v, want context.Canceled", err)
		}
	}))
	e.reopen().want("a=1")
}

func TestCloseLetsACompactionEnd(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	closed := make(chan error)
	must(t, e.compactWhile(t.Context(), func() {
		go func() { closed <- e.Close() }()
		waitFor(t, "Close to begin", func() bool { return e.health.canRead() != nil })
	}))
	must(t, <-closed)
	wantNoCopy(t, e)
	e.reopen().want("a=1")
}

func TestACompactionWaitsForNoReader(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("Wine cannot replace a file while somebody reads it")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	client, w := io.Pipe()
	backup := make(chan error)
	go func() { backup <- e.WriteBackup(context.Background(), w) }()
	_, err := io.ReadFull(client, make([]byte, 1)) // the client stops here
	must(t, err)
	must(t, e.View(t.Context(), func(tx *Tx) error {
		must(t, e.Compact(t.Context()))
		must(t, e.set("a", "2"))
		e.want("a=2")
		if v, err := tx.Get("t", []byte("a")); err != nil || string(v) != "1" {
			t.Errorf("the View that began before has %q, %v", v, err)
		}
		return nil
	}))
	must(t, client.Close())
	if err := <-backup; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("WriteBackup: got %v", err)
	}
	e.reopen().want("a=2")
}
