package replication_test

import (
	"slices"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// merged merges a copy at an edge, as a change that was made there.
func (e *till) merged(c record.Copy) {
	e.t.Helper()
	must(e.t, e.below().Update(e.t.Context(), func(t *merge.Tables) error { _, err := t.Record(c); return err }))
}

func TestAUserThatWasMadeInTwoGroupsStaysInTheHubsGroup(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushAll, "*")
	e.sync()
	at := w.user("ada", "north").ID
	e.now = day0.Add(-time.Hour) // so the user is older at the edge
	e.user("ada", "zenith")
	if why := e.push(replication.PushRequest{Records: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	u, err := w.User(t.Context(), at)
	if err != nil || u.Group != "north" {
		t.Errorf("the user is in group %q, %v", u.Group, err)
	}
	e.sync()
	if got, want := e.has(record.TableUsers), w.has(record.TableUsers); got["users/"+string(at[:])] != want["users/"+string(at[:])] {
		t.Errorf("the edge has %x, and the hub %x", got, want)
	}
}

func TestAClaimThatNobodyCanConfirmIsRefusedAtOnce(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushAll, "south")
	e.sync()
	w.user("ada", "north")
	at := e.user("ada", "south").ID
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 0 {
		t.Errorf("the hub has the claims %v, %v", claims, err)
	}
	e.sync()
	if got := e.has(record.TableUsers); len(got) != 0 {
		t.Errorf("the edge has %q", got)
	}
}

func TestAClaimOfARecordThatHasMovedWaits(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "south")
	at := w.user("ada", "south").ID
	e.sync()
	must(t, w.SetUserGroup(t.Context(), at, "north"))
	must(t, e.DisableUser(t.Context(), at))
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 1 || !slices.Equal(claims[0].Actions, []string{"user.disabled"}) {
		t.Errorf("the hub has the claims %v, %v", claims, err)
	}
}

func TestTheKeysOfAUserComeBackWithTheUser(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "south")
	at := w.user("ada", "south").ID
	e.sync()
	must(t, e.DeleteUser(t.Context(), at))
	w.key(at, "laptop")
	e.sync() // the key comes when the edge has deleted its owner
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableDeadUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 1 {
		t.Fatalf("the hub has the claims %v, %v", claims, err)
	}
	must(t, w.hub.RefuseClaim(t.Context(), claims[0].Number))
	w.key(at, "phone") // comes before the user does
	e.sync()
	if got, want := e.has(record.TableUsers, record.TableKeys), w.has(record.TableUsers, record.TableKeys); len(got) != 3 || len(want) != 3 {
		t.Errorf("the edge has %d records, and the hub %d", len(got), len(want))
	}
}

func TestADeviceThatJoinsAgainUnderAnotherPolicyCompares(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "south")
	w.user("ada", "south")
	w.user("bob", "north")
	e.sync()
	must(t, w.hub.DropEdge(t.Context(), e.id))
	e.id = w.serverKey("again", "", "latchkey:replica").ID
	must(t, w.hub.AddEdge(t.Context(), e.id, "till", replication.Policy{Groups: []string{"north"}}, w.now))
	e.hello()
	if e.how != replication.CompareFirst {
		t.Errorf("the edge goes on from its cursor: %d", e.how)
	}
}

func TestAClaimThatIsConfirmedMovesNobody(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	e.sync()
	at := w.user("ada", "").ID
	e.user("ada", "south")
	must(t, e.DisableUser(t.Context(), at))
	if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, at[:])}}); why != "" {
		t.Fatal(why)
	}
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 1 {
		t.Fatalf("the hub has the claims %v, %v", claims, err)
	}
	must(t, w.hub.ConfirmClaim(t.Context(), claims[0].Number))
	if u, err := w.User(t.Context(), at); err != nil || u.Group != "" || !u.Disabled {
		t.Errorf("the user is %+v, %v", u, err)
	}
	e.sync()
	if got, want := e.has(record.TableUsers), w.has(record.TableUsers); got["users/"+string(at[:])] != want["users/"+string(at[:])] {
		t.Error("hub and edge have different users")
	}
}

func TestASignedCopyWithoutTheMACIsAClaim(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	at := w.user("ada", "").ID
	e.sync()
	must(t, e.DisableUser(t.Context(), at))
	copies := []replication.Record{{Copy: e.copy(record.TableUsers, at[:]), MAC: make([]byte, 16)}}
	if why := e.push(replication.PushRequest{Signed: copies}); why != "" {
		t.Fatal(why)
	}
	u, err := w.User(t.Context(), at)
	must(t, err)
	claims, err := w.hub.Claims(t.Context())
	if err != nil || len(claims) != 1 || u.Disabled {
		t.Errorf("the hub has the claims %v, %v, and the user is disabled: %t", claims, err, u.Disabled)
	}
}

func TestNoDisablingIsCountedTwiceAfterARecordWasReplaced(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	at := w.user("ada", "").ID
	e.sync()
	before := e.copy(record.TableUsers, at[:])
	must(t, e.DisableUser(t.Context(), at))
	first := e.copy(record.TableUsers, at[:])
	must(t, e.below().Update(t.Context(), func(tables *merge.Tables) error { return tables.Replace(before) }))
	must(t, e.DisableUser(t.Context(), at))
	if second := e.copy(record.TableUsers, at[:]); string(second.Sealed) == string(first.Sealed) {
		t.Error("two disablings are the same one")
	}
}
