package replication_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/migrate"
)

func TestAHubThatWasMigratedTakesNoNumberOfThenForOneOfNow(t *testing.T) {
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
	copied := memory.NewEngine()
	_, err := migrate.Copy(t.Context(), memory.CopyEngine(w.engine), copied, nil)
	must(t, err)
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
