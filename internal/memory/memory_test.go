package memory

import (
	"context"
	"sync"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
)

func TestTheEngineInMemoryKeepsEveryLaw(t *testing.T) {
	var engines sync.Map // by directory; an engine takes over the state of the one before it
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		e := newEngine(opts != nil && opts.ReadOnly)
		if before, ok := engines.Swap(dir, e); ok {
			e.state.Store(before.(*engine).state.Load())
		}
		return e, nil
	})
}

func TestTheSharedEngineKeepsEveryLaw(t *testing.T) {
	var engines sync.Map // by directory
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		first := NewShared()
		before, ok := engines.LoadOrStore(dir, first)
		if !ok {
			return first, nil
		}
		e := before.(*Shared).Open()
		e.readOnly = opts != nil && opts.ReadOnly
		return e, nil
	})
}

func TestACopyAndItsEngineGoSeparateWays(t *testing.T) {
	ctx := context.Background()
	put := func(e latchkey.Engine, value string) {
		t.Helper()
		err := e.Update(ctx, func(tx latchkey.EngineTx) error { return tx.Put("table", []byte("key"), []byte(value)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	first := NewEngine()
	put(first, "before")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := CopyEngine(first)
	third := CopyEngine(second)
	put(second, "after")
	for e, want := range map[latchkey.Engine]string{second: "after", third: "before"} {
		err := e.View(ctx, func(tx latchkey.EngineTx) error {
			got, err := tx.Get("table", []byte("key"))
			if string(got) != want || tx.Sequence() == 0 {
				t.Errorf("got %q after commit %d, want %q", got, tx.Sequence(), want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
