package replication_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/migrate"
)

// A copy whose engine numbers its commits anew has no number of then.
func TestAHubTakesNoNumberOfThenForOneOfNow(t *testing.T) {
	for name, renumber := range map[string]func(*testing.T, latchkey.Engine) latchkey.Engine{
		"migrated": func(t *testing.T, e latchkey.Engine) latchkey.Engine {
			copied := memory.NewEngine()
			_, err := migrate.Copy(t.Context(), e, copied, nil)
			must(t, err)
			return copied
		},
		"salvaged": func(t *testing.T, e latchkey.Engine) latchkey.Engine {
			broken, out := filepath.Join(t.TempDir(), "broken.db"), filepath.Join(t.TempDir(), "out.db")
			writeFile(t, e, broken)
			_, err := latchkey.Salvage(t.Context(), broken, out)
			must(t, err)
			salvaged, err := latchkey.OpenBoltEngine(out, nil)
			must(t, err)
			return salvaged
		},
	} {
		t.Run(name, func(t *testing.T) { testRenumbered(t, renumber) })
	}
}

// writeFile writes the entries of an engine to a new bbolt file.
func writeFile(t *testing.T, e latchkey.Engine, path string) {
	file, err := latchkey.OpenBoltEngine(path, nil)
	must(t, err)
	file.Track(record.TrackedTables()...)
	must(t, e.View(t.Context(), func(from latchkey.EngineTx) error {
		return file.Update(t.Context(), func(to latchkey.EngineTx) error {
			for _, table := range record.Tables() {
				for entry, err := range from.Scan(table, nil, nil) {
					must(t, err)
					must(t, to.Put(table, entry.Key, entry.Value))
				}
			}
			return nil
		})
	}))
	must(t, file.Close())
}

func testRenumbered(t *testing.T, renumber func(*testing.T, latchkey.Engine) latchkey.Engine) {
	w := newWorld(t, replication.HubOptions{KeepTombstones: 10 * day})
	ada := w.user("ada", "north")
	e, away := w.join(replication.PushAll, "north"), w.join(replication.PushAll, "north")
	first, second, third := w.key(ada.ID, "first"), w.key(ada.ID, "second"), w.key(ada.ID, "third")
	for i := range 200 { // so that the numbers are greater than those of the copy
		must(t, w.RenameKey(t.Context(), ada.ID, third.ID, fmt.Sprint(i)))
	}
	for _, e := range []*till{e, away} {
		e.sync()
	}
	must(t, w.DeleteKey(t.Context(), ada.ID, first.ID))
	for _, e := range []*till{e, away} {
		e.drain()
	}
	if n := w.pass(30); n != 1 {
		t.Fatalf("%d tombstones went, so this test shows nothing", n)
	}
	copied := renumber(t, memory.CopyEngine(w.engine))
	before, now := w.ReplicaID(), w.now
	w = openWorld(t, copied, w.o)
	if w.now = now; w.ReplicaID() == before {
		t.Error("the replica ID is the same")
	}
	must(t, w.DeleteKey(t.Context(), ada.ID, second.ID))
	if n := w.pass(20); n != 0 {
		t.Errorf("%d tombstones went, and no edge has them", n)
	}
	for _, e := range []*till{e, away} {
		e.w, e.now = w, w.now
		if e.hello(); e.how != replication.CompareFirst {
			t.Errorf("the edge gets %d", e.how)
		}
		e.sync()
		w.wantGone(second)
		if e.hello(); e.how == replication.CompareFirst {
			t.Error("an edge that has compared has to compare again")
		}
		e.drain()
	}
	must(t, w.DeleteKey(t.Context(), ada.ID, third.ID))
	for _, e := range []*till{e, away} {
		e.drain()
	}
	if n := w.pass(1); n != 1 {
		t.Errorf("%d tombstones went, want the one that is old", n)
	}
	for _, e := range []*till{e, away} {
		_, err := e.Key(t.Context(), ada.ID, second.ID)
		if !errors.Is(err, latchkey.ErrKeyNotFound) {
			t.Errorf("an edge has the key that was deleted, or %v", err)
		}
	}
}
