package replication_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// lose takes a record out of the store of an edge, as if it had never come.
func (s *site) lose(table string, key []byte) {
	s.t.Helper()
	must(s.t, s.below().Update(s.t.Context(), func(t *merge.Tables) error { return t.Forget(table, key) }))
}

// idOf returns the bytes of an ID.
func idOf(id uuid.UUID) []byte { return id[:] }

// inOrder returns what a comparison wants, as a list.
func inOrder(items []replication.Item) (all []string) {
	for _, i := range items {
		all = append(all, fmt.Sprintf("%s/%s", i.Table, i.Key))
	}
	slices.Sort(all)
	return all
}

func TestAComparisonMendsEachKindOfDifference(t *testing.T) {
	for _, restored := range []bool{false, true} {
		for push := replication.PushNothing; push <= replication.PushAll; push += replication.PushAll {
			t.Run(fmt.Sprintf("restored=%v,push=%d", restored, push), func(t *testing.T) {
				w := newWorld(t, replication.HubOptions{})
				users := map[string]latchkey.User{}
				for _, name := range []string{"same", "lost", "older", "deleted", "moved", "own", "undead"} {
					users[name] = w.user(name, "north")
				}
				key := w.key(users["same"].ID, "k")
				e := w.join(push, "north")
				e.sync()
				stray := e.user("stray", "north")
				fresh := e.user("fresh", "north")
				must(t, e.SetUserMetadata(t.Context(), users["own"].ID, map[string]string{"a": "edge"}))
				e.lose(record.TableUsers, idOf(users["lost"].ID))
				must(t, w.SetUserMetadata(t.Context(), users["older"].ID, map[string]string{"a": "hub"}))
				must(t, w.DeleteUser(t.Context(), users["deleted"].ID))
				must(t, w.SetUserGroup(t.Context(), users["moved"].ID, "south"))
				must(t, e.DeleteUser(t.Context(), users["undead"].ID))
				hidden := w.user("hidden", "south")
				if restored {
					e.cursor.Era = uuid.New()
				}
				wanted := e.compare(map[string]bool{usersAt(fresh): true, usersAt(users["own"]): true})
				want := []string{usersAt(users["own"])}
				if push == replication.PushAll {
					want = append(want, usersAt(fresh))
				}
				if restored && push == replication.PushAll {
					want = append(want, usersAt(stray))
				}
				if restored { // it may have lost what the edge knows
					want = append(want, usersAt(users["older"]))
				}
				want = append(want, at(record.TableDeadUsers, users["undead"].ID))
				slices.Sort(want)
				if got := inOrder(wanted); !slices.Equal(got, want) {
					t.Errorf("the hub wants\n%q\nwant\n%q", got, want)
				}
				has := e.has(liveTables...)
				for name, expected := range map[string]bool{
					"same": true, "lost": true, "older": true, "deleted": false, "moved": false, "own": true,
				} {
					if got := has[usersAt(users[name])]; (got != "") != expected {
						t.Errorf("the edge has the user %s: %v", name, got != "")
					}
				}
				if has[keysAt(key)] == "" {
					t.Error("the edge has lost a key")
				}
				if (has[usersAt(stray)] != "") != (restored && push == replication.PushAll) {
					t.Error("a record of the edge alone that nobody changed is there, or gone")
				}
				if (has[usersAt(fresh)] != "") != (push == replication.PushAll) {
					t.Error("a record that was made at the edge is there, or gone")
				}
				for _, name := range []string{"same", "lost", "older"} {
					if has[usersAt(users[name])] != w.has(liveTables...)[usersAt(users[name])] {
						t.Errorf("the edge has another version of the user %s", name)
					}
				}
				if e.heardOf(hidden.ID[:]) {
					t.Error("the edge has heard of a record of another group")
				}
				if status := e.status(); status.Matched || !status.Compared.Equal(w.now) {
					t.Errorf("the status is %+v", status)
				}
				if e.hello(); e.how != replication.Resume {
					t.Errorf("after the comparison the edge gets %d", e.how)
				}
			})
		}
	}
}

func TestStoresThatAgreeSendNothing(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	ada, eve := w.user("ada", "north"), w.user("eve", "south")
	for i := range 30 {
		w.key(ada.ID, fmt.Sprint("k", i))
		w.key(eve.ID, fmt.Sprint("k", i))
		if i%2 == 0 {
			w.serverKey(fmt.Sprint("s", i), "north")
		}
		if i == 18 {
			break
		}
	}
	must(t, w.DisableGroup(t.Context(), "north"))
	for _, groups := range [][]string{{"north"}, {"south"}, {"north", "south"}, {"*"}, {"none"}} {
		e := w.join(replication.PushNothing, groups...)
		e.sync()
		e.got = nil
		e.compare(nil)
		if len(e.got) > 0 || !e.status().Matched {
			t.Errorf("groups %q: the edge gets %d messages", groups, len(e.got))
		}
	}
	// The sums follow each kind of change.
	e := w.join(replication.PushNothing, "north")
	e.sync()
	for i, change := range []func() error{
		func() error {
			_, err := w.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}, Group: "north"})
			return err
		},
		func() error { return w.SetUserMetadata(t.Context(), ada.ID, map[string]string{"a": "b"}) },
		func() error { return w.SetUserGroup(t.Context(), eve.ID, "north") },
		func() error { return w.SetUserGroup(t.Context(), ada.ID, "south") },
		func() error { return w.DeleteUser(t.Context(), eve.ID) },
		func() error { return w.SetUserGroup(t.Context(), ada.ID, "north") },
		func() error { return w.DisableGroup(t.Context(), "north") },
		func() error { w.key(ada.ID, "new"); return nil },
		func() error { return w.DeleteUser(t.Context(), ada.ID) },
	} {
		must(t, change())
		e.got = nil
		e.compare(nil)
		if e.status().Matched {
			t.Errorf("change %d is not seen", i)
		}
		e.drain()
		e.compare(nil)
		if !e.status().Matched {
			t.Errorf("after change %d hub and edge do not agree", i)
		}
	}
}

func TestARestoredHubLosesNoRevocationThatAnEdgeKnows(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	ada := w.user("ada", "north")
	keys := map[string]latchkey.Key{}
	for _, name := range []string{"disabled", "deleted", "rotated", "renamed", "claimed"} {
		keys[name] = w.key(ada.ID, name)
	}
	e := w.join(replication.PushNothing, "north")
	e.sync()
	backup := memory.CopyEngine(engine)
	must(t, w.DisableKey(t.Context(), ada.ID, keys["disabled"].ID))
	must(t, w.DeleteKey(t.Context(), ada.ID, keys["deleted"].ID))
	must(t, w.RenameKey(t.Context(), ada.ID, keys["renamed"].ID, "other"))
	_, token, err := w.RotateKey(t.Context(), ada.ID, keys["rotated"].ID, latchkey.Rotation{})
	must(t, err)
	e.drain()
	must(t, e.DisableKey(t.Context(), ada.ID, keys["claimed"].ID))
	claim := e.copy(record.TableKeys, idOf(keys["claimed"].ID))
	if why := e.push(replication.PushRequest{Claims: []record.Copy{claim}}); why != "" {
		t.Fatal(why)
	}
	restored := openWorld(t, backup, replication.HubOptions{})
	e.w = restored
	if e.hello(); e.how != replication.CompareFirst || e.feed.Welcome.At.Era == e.cursor.Era {
		t.Fatalf("the edge gets %+v", e.feed.Welcome)
	}
	// The edge brings what is signed, and then what the comparison wants, as it would.
	var signed []replication.Record
	for _, at := range slices.Sorted(maps.Keys(e.signed)) {
		signed = append(signed, e.signed[at])
	}
	if why := e.push(replication.PushRequest{Signed: signed}); why != "" {
		t.Fatal(why)
	}
	var claims []record.Copy
	for _, i := range e.compare(nil) {
		claims = append(claims, e.copy(i.Table, i.Key))
	}
	if k, err := e.Key(t.Context(), ada.ID, keys["claimed"].ID); err != nil || !k.Disabled {
		t.Errorf("the edge has lost its own disabling: %v, %v", k.Disabled, err)
	}
	e.policy = e.feed.Welcome.Policy
	if why := e.push(replication.PushRequest{Claims: claims}); why != "" {
		t.Fatal(why)
	}
	e.sync()
	waiting, err := restored.hub.Claims(t.Context())
	must(t, err)
	if len(waiting) != 1 || uuid.UUID(waiting[0].Copy.Key) != keys["claimed"].ID || !slices.Equal(waiting[0].Actions, []string{"key.disabled"}) {
		t.Errorf("the claims are %+v", waiting)
	}
	must(t, restored.hub.ConfirmClaim(t.Context(), waiting[0].Number))
	e.sync()
	for name, s := range map[string]*site{"hub": restored.site, "edge": e.site} {
		for _, disabled := range []string{"disabled", "claimed"} {
			if k, err := s.Key(t.Context(), ada.ID, keys[disabled].ID); err != nil || !k.Disabled {
				t.Errorf("at the %s the key that was %s is not disabled: %v", name, disabled, err)
			}
		}
		if _, err := s.Key(t.Context(), ada.ID, keys["deleted"].ID); err == nil {
			t.Errorf("at the %s the deleted key is back", name)
		}
		if _, err := s.Login(t.Context(), token); err != nil {
			t.Errorf("at the %s the rotated token: %v", name, err)
		}
		if k, err := s.Key(t.Context(), ada.ID, keys["renamed"].ID); err != nil || k.Name != "renamed" {
			t.Errorf("at the %s the renamed key is %q, %v", name, k.Name, err)
		}
	}
	e.compare(nil)
	if !e.status().Matched {
		t.Error("in the end hub and edge do not agree")
	}
}

func TestTheSecretOfAHubIsThereWithItsFirstEdge(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	ada := w.user("ada", "north")
	key := w.key(ada.ID, "phone")
	e := w.join(replication.PushNothing, "north")
	backup := memory.CopyEngine(engine) // before the edge has said anything
	e.sync()
	must(t, w.DisableKey(t.Context(), ada.ID, key.ID))
	e.drain()
	restored := openWorld(t, backup, replication.HubOptions{})
	e.w = restored
	e.hello()
	signed := slices.Collect(maps.Values(e.signed))
	if why := e.push(replication.PushRequest{Signed: signed}); why != "" || len(signed) == 0 {
		t.Fatalf("the hub takes back %d records: %s", len(signed), why)
	}
	if k, err := restored.Key(t.Context(), ada.ID, key.ID); err != nil || !k.Disabled {
		t.Errorf("the restored hub has a key that is disabled: %v, %v", k.Disabled, err)
	}
}

func TestAHostileComparisonIsRefused(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	ada := w.user("ada", "north")
	e := w.join(replication.PushNothing, "north")
	e.sync()
	for name, r := range map[string]replication.CompareRequest{
		"a sum of a table that has none": {Summaries: []replication.Summary{{Table: record.TableDeadKeys}}},
		"a sum twice":                    {Summaries: []replication.Summary{{Table: record.TableKeys}, {Table: record.TableKeys}}},
		"a range of no table":            {Listed: []replication.Summary{{Table: "meta"}}},
		"a range twice":                  {Listed: []replication.Summary{{Table: record.TableKeys}, {Table: record.TableKeys}}},
		"an item of no table":            {Listed: []replication.Summary{{Table: record.TableKeys}}, Items: []replication.Item{{Table: "meta", Key: []byte("tags")}}},
		"an item without a key":          {Listed: []replication.Summary{{Table: record.TableKeys}}, Items: []replication.Item{{Table: record.TableKeys}}},
		"an item with a short key":       {Listed: []replication.Summary{{Table: record.TableKeys}}, Items: []replication.Item{{Table: record.TableKeys, Key: ada.ID[:3]}}},
	} {
		r.Policy = e.policy.Version
		if reply, err := w.hub.Compare(t.Context(), e.id, r); err == nil {
			t.Errorf("%s: the hub replies %+v", name, reply)
		}
	}
	reply, err := w.hub.Compare(t.Context(), e.id, replication.CompareRequest{Policy: e.policy.Version + 1})
	if err != nil || reply.Refused == "" {
		t.Errorf("an outdated policy: %+v, %v", reply, err)
	}
}
