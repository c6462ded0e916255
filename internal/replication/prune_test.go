package replication_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

const day = 24 * time.Hour

// prune prunes, and returns how many tombstones went.
func (w *world) prune() int {
	w.t.Helper()
	n, err := w.hub.Prune(w.t.Context(), w.now)
	must(w.t, err)
	return n
}

// pass lets days pass, with a Prune each.
func (w *world) pass(days int) (pruned int) {
	for range days {
		w.now = w.now.Add(day)
		pruned += w.prune()
	}
	return pruned
}

func TestATombstoneStaysUntilItIsOldAndEveryEdgeHasPassedIt(t *testing.T) {
	w := newWorld(t, replication.HubOptions{KeepTombstones: 10 * day, DropAfter: 100 * day})
	ada := w.user("ada", "north")
	e, away := w.join(replication.PushNothing, "north"), w.join(replication.PushNothing, "north")
	stranger := w.join(replication.PushNothing, "south")
	for _, e := range []*till{e, away, stranger} {
		e.sync()
	}
	away.feed.Close()
	key := w.key(ada.ID, "a")
	anonymous, err := w.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}, Group: "north"})
	must(t, err)
	derived := w.user("bob", "north")
	e.drain()
	must(t, w.DeleteKey(t.Context(), ada.ID, key.ID))
	must(t, w.DeleteUser(t.Context(), anonymous.ID))
	must(t, w.DeleteUser(t.Context(), derived.ID))
	e.drain()
	stranger.drain()
	dead := func(s *site) int { return len(s.has(record.TableDeadKeys, record.TableDeadUsers)) }
	if n := w.pass(30); n != 0 || dead(w.site) != 3 {
		t.Fatalf("%d tombstones went although an edge has not passed them", n)
	}
	away.sync()
	if dead(away.site) != 3 {
		t.Fatalf("the edge that was away has %d tombstones", dead(away.site))
	}
	if n := w.prune(); n != 2 || dead(w.site) != 1 {
		t.Fatalf("%d tombstones went, and %d are left; want the key and the anonymous user to go", n, dead(w.site))
	}
	for _, e := range []*till{e, away} {
		e.drain()
		if dead(e.site) != 1 || e.has(record.TableDeadUsers)[at(record.TableDeadUsers, derived.ID)] == "" {
			t.Errorf("an edge has %d tombstones", dead(e.site))
		}
	}
	stranger.drain()
	if stranger.heardOf(key.ID[:]) {
		t.Error("an edge of another group hears of a tombstone that goes")
	}
	// The notes of what went do not stay for good either.
	w.pass(1)
	notes := func() (n int) {
		for at := range w.has(record.TableReplica) {
			if len(at) > 19 && at[8:19] == "hub/pruned/" {
				n++
			}
		}
		return n
	}
	if n := notes(); n != 0 {
		t.Errorf("%d notes of tombstones are left", n)
	}
}

func TestATombstoneIsNotPrunedEarly(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	w.prune()
	e.sync()
	k := w.serverKey("a", "")
	must(t, w.DeleteKey(t.Context(), latchkey.ServerOwner, k.ID))
	for range 450 {
		e.drain()
		e.push(replication.PushRequest{})
		n := w.pass(1)
		if age := w.now.Sub(day0); n > 0 {
			if age < 400*day {
				t.Errorf("a tombstone goes after %v", age)
			}
			return
		}
	}
	t.Error("the tombstone stays for good")
}

func TestAnEdgeThatIsSilentForTooLongComparesAnew(t *testing.T) {
	w := newWorld(t, replication.HubOptions{KeepTombstones: 10 * day, DropAfter: 20 * day})
	ada := w.user("ada", "north")
	key := w.key(ada.ID, "a")
	e, other := w.join(replication.PushAll, "north"), w.join(replication.PushNothing, "north")
	e.sync()
	other.sync()
	e.feed.Close()
	must(t, w.DeleteKey(t.Context(), ada.ID, key.ID))
	pruned := 0
	for range 60 {
		other.drain()
		pruned += w.pass(1)
	}
	if pruned != 1 || !e.status().Dropped || other.status().Dropped {
		t.Fatalf("%d tombstones went, dropped: %v", pruned, e.status().Dropped)
	}
	own := e.copy(record.TableKeys, key.ID[:])
	if e.hello(); e.how != replication.CompareFirst || e.status().Dropped {
		t.Fatalf("the edge gets %d", e.how)
	}
	// A change that it made meanwhile does not bring the key back, before the comparison or in it.
	if why := e.push(replication.PushRequest{Records: []record.Copy{own}}); why == "" {
		t.Error("a deleted key returns from an edge that was away")
	}
	if wanted := e.compare(map[string]bool{keysAt(key): true}); len(wanted) > 0 {
		t.Errorf("the hub wants %+v", wanted)
	}
	e.sync()
	e.wantLike(usersAt(ada))
	w.wantGone(key)
	// A new record is welcome.
	fresh := e.key(ada.ID, "fresh")
	e.now = w.now
	fresh = e.key(ada.ID, "fresher")
	if why := e.push(replication.PushRequest{Records: []record.Copy{e.copy(record.TableKeys, fresh.ID[:])}}); why != "" {
		t.Error(why)
	}
}

// wantGone fails the test if the store has a key.
func (w *world) wantGone(k latchkey.Key) {
	w.t.Helper()
	if w.has(record.TableKeys)[keysAt(k)] != "" {
		w.t.Errorf("the hub has the key %s", k.ID)
	}
}

func TestASignedCopyOfAKeyThatWasPrunedDoesNotBringItBack(t *testing.T) {
	w := newWorld(t, replication.HubOptions{KeepTombstones: 10 * day})
	k := w.serverKey("a", "north")
	must(t, w.DisableKey(t.Context(), latchkey.ServerOwner, k.ID))
	must(t, w.EnableKey(t.Context(), latchkey.ServerOwner, k.ID))
	e := w.join(replication.PushNothing, "north")
	e.sync()
	signed := e.signed[keysAt(k)]
	if signed.MAC == nil {
		t.Fatal("the key has no MAC")
	}
	must(t, w.DeleteKey(t.Context(), latchkey.ServerOwner, k.ID))
	e.drain()
	pruned := 0
	for range 20 {
		e.drain()
		pruned += w.pass(1)
	}
	if pruned != 1 {
		t.Fatalf("%d tombstones went", pruned)
	}
	if why := e.push(replication.PushRequest{Signed: []replication.Record{signed}}); why != "" {
		t.Error(why)
	}
	w.wantGone(k)
}

func TestTheTombstoneOfAForeignKeyStays(t *testing.T) {
	w := newWorld(t, replication.HubOptions{KeepTombstones: 10 * day})
	id := uuid.Must(uuid.NewV7())
	foreign := record.KeyTombstone{ID: id, Owner: record.ServerOwner, Foreign: true}
	(&till{site: w.site}).merged(record.Copy{Domain: w.DomainID(), Table: record.TableDeadKeys, Key: id[:], Sealed: record.Seal(record.TableDeadKeys, id[:], foreign.Encode())})
	if n := w.pass(30); n != 0 {
		t.Errorf("%d tombstones went", n)
	}
}
