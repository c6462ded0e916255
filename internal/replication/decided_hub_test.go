package replication_test

import (
	"slices"
	"testing"

	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// The two users were made at once, so either can be the later one. The claim of the earlier one
// changes nothing.
func TestAnEdgeDoesNotKeepWhatItClaimsForNothing(t *testing.T) {
	for range 8 {
		w := newWorld(t, replication.HubOptions{})
		e := w.join(replication.PushAll, "south")
		at := w.user("ada", "south").ID
		must(t, w.SetUserGroup(t.Context(), at, "north"))
		e.sync()
		e.user("ada", "south")
		if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
			t.Fatal(why)
		}
		claims, err := w.hub.Claims(t.Context())
		must(t, err)
		for _, c := range claims {
			must(t, w.hub.RefuseClaim(t.Context(), c.Number))
		}
		e.sync()
		if got := e.has(record.TableUsers); len(got) != 0 {
			t.Fatalf("the edge has %q", got)
		}
	}
}

func TestAnEdgeDoesNotKeepWhatTheHubHasDeletedSinceTheClaim(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "south")
	e.sync()
	at := e.user("ada", "south").ID
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	w.user("ada", "north")
	must(t, w.DeleteUser(t.Context(), at))
	e.sync()
	if got := e.has(record.TableUsers); len(got) != 0 {
		t.Errorf("the edge has %q", got)
	}
}

func TestAClaimOfADeletionWaitsForTheRecord(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e, other := w.join(replication.PushNothing, "south"), w.join(replication.PushAll, "south")
	e.sync()
	at := e.user("ada", "south").ID
	user := e.copy(record.TableUsers, at[:])
	must(t, e.DeleteUser(t.Context(), at))
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableDeadUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	e.sync()
	other.sync()
	if why := other.push(replication.PushRequest{Records: []record.Copy{user}}); why != "" {
		t.Fatal(why)
	}
	e.sync()
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 1 || !slices.Equal(claims[0].Actions, []string{"user.deleted"}) {
		t.Errorf("the hub has the claims %v, %v", claims, err)
	}
}

// The edge has forgotten the tombstone, and makes the user again.
func TestAnEdgeDoesNotKeepWhatTheHubHadDeletedBefore(t *testing.T) {
	for _, claims := range []bool{false, true} {
		w := newWorld(t, replication.HubOptions{})
		at := w.user("ada", "south").ID
		user := w.copy(record.TableUsers, at[:])
		must(t, w.DeleteUser(t.Context(), at))
		e := w.join(replication.PushAll, "south")
		e.sync()
		must(t, e.below().Update(t.Context(), func(t *merge.Tables) error { return t.Forget(record.TableDeadUsers, at[:]) }))
		e.merged(user)
		r := replication.PushRequest{Records: []record.Copy{user}}
		if claims {
			r.Records, r.Claims = nil, r.Records
		}
		if why := e.push(r); why != "" {
			t.Fatal(why)
		}
		e.sync()
		if got := e.has(record.TableUsers); len(got) != 0 {
			t.Errorf("claims %v: the edge has %q", claims, got)
		}
	}
}

func TestAKeyThatCameBackBeforeItsOwnerFollowsTheOwner(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	knows, other := w.join(replication.PushAll, "*"), w.join(replication.PushNothing, "north")
	backup := memory.CopyEngine(engine)
	ada := w.user("ada", "north")
	key := w.key(ada.ID, "phone")
	must(t, w.DisableKey(t.Context(), ada.ID, key.ID))
	knows.sync()
	restored := openWorld(t, backup, replication.HubOptions{})
	knows.w, other.w = restored, restored
	user := knows.copy(record.TableUsers, ada.ID[:])
	signed := knows.signed[keysAt(key)]
	knows.hello()
	if why := knows.push(replication.PushRequest{Signed: []replication.Record{signed}}); why != "" {
		t.Fatal(why)
	}
	other.sync()
	knows.sync()
	if why := knows.push(replication.PushRequest{Records: []record.Copy{user}}); why != "" {
		t.Fatal(why)
	}
	other.sync()
	if got := other.has(record.TableUsers, record.TableKeys); len(got) != 2 {
		t.Errorf("the edge has %d records", len(got))
	}
}
