package replication_test

import (
	"testing"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

func TestAnEdgeGetsTheRecordsOfItsGroupsAndNoOthers(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t, replication.HubOptions{})
		var e *till
		if !first { // everything comes as changes
			e = w.join(replication.PushNothing, "north")
			e.sync()
		}
		ada, bob, eve := w.user("ada", "north"), w.user("bob", "south"), w.user("eve", "")
		adas, bobs, eves := w.key(ada.ID, "a"), w.key(bob.ID, "b"), w.key(eve.ID, "e")
		till, other, none := w.serverKey("till", "north"), w.serverKey("other", "south"), w.serverKey("none", "")
		must(t, w.DisableGroup(t.Context(), "north"))
		must(t, w.DisableGroup(t.Context(), "south"))
		gone := w.key(bob.ID, "gone")
		must(t, w.DeleteKey(t.Context(), bob.ID, gone.ID))
		if first {
			e = w.join(replication.PushNothing, "north")
		}
		e.sync()
		e.wantLike(usersAt(ada), keysAt(adas), keysAt(till), record.TableGroups+"/north")
		for _, id := range [][]byte{bob.ID[:], eve.ID[:], bobs.ID[:], eves.ID[:], other.ID[:], none.ID[:], gone.ID[:], []byte("south")} {
			if e.heardOf(id) {
				t.Errorf("first copy %v: the edge has heard of %x", first, id)
			}
		}
		all := w.join(replication.PushNothing, "*")
		all.sync()
		all.wantLike(usersAt(ada), usersAt(bob), usersAt(eve), keysAt(adas), keysAt(bobs), keysAt(eves),
			keysAt(till), keysAt(other), keysAt(none), record.TableGroups+"/north", record.TableGroups+"/south")
	}
}
