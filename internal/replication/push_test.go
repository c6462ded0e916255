package replication_test

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// A scene is a hub and an edge with the same records, in the group north.
type scene struct {
	w         *world
	e         *till
	ada       latchkey.User
	key       latchkey.Key // of ada
	token     string
	server    latchkey.Key
	elsewhere latchkey.User // in the group south, which the edge does not get
	far       latchkey.Key  // of elsewhere
	hidden    latchkey.Key  // of elsewhere, too
}

func newScene(t *testing.T, push replication.Push, o replication.HubOptions) *scene {
	t.Helper()
	s := &scene{w: newWorld(t, o)}
	s.ada, s.elsewhere = s.w.user("ada", "north"), s.w.user("eve", "south")
	var err error
	s.key, s.token, err = s.w.CreateKey(t.Context(), s.ada.ID, latchkey.KeySpec{Name: "laptop"})
	must(t, err)
	s.far, s.hidden = s.w.key(s.elsewhere.ID, "far"), s.w.key(s.elsewhere.ID, "hidden")
	s.server = s.w.serverKey("till", "north")
	s.e = s.w.join(push, "north")
	s.e.sync()
	return s
}

// pushes has each change of a record (docs/formats.md, "Merging") with the least policy that may
// push it.
var pushes = []struct {
	name   string
	needs  replication.Push
	never  bool               // nobody may push it
	before func(*scene) error // at the hub, before the edge gets the records
	change func(*scene) error // at the edge
	table  string
	key    func(*scene) []byte
	stays  bool // the hub keeps its own group, and writes it again
}{
	{name: "deleted: a key", needs: replication.PushAll, table: record.TableDeadKeys, key: keyID,
		change: func(s *scene) error { return s.e.DeleteKey(s.ctx(), s.ada.ID, s.key.ID) }},
	{name: "deleted: a server key", needs: replication.PushAll, table: record.TableDeadKeys, key: serverID,
		change: func(s *scene) error { return s.e.DeleteKey(s.ctx(), latchkey.ServerOwner, s.server.ID) }},
	{name: "deleted: a user", needs: replication.PushAll, table: record.TableDeadUsers, key: userID,
		change: func(s *scene) error { return s.e.DeleteUser(s.ctx(), s.ada.ID) }},
	{name: "disabled: a key", needs: replication.PushRevocations, table: record.TableKeys, key: keyID,
		change: func(s *scene) error { return s.e.DisableKey(s.ctx(), s.ada.ID, s.key.ID) }},
	{name: "disabled: a user", needs: replication.PushRevocations, table: record.TableUsers, key: userID,
		change: func(s *scene) error { return s.e.DisableUser(s.ctx(), s.ada.ID) }},
	{name: "disabled: a group", needs: replication.PushRevocations, table: record.TableGroups, key: groupName,
		change: func(s *scene) error { return s.e.DisableGroup(s.ctx(), "north") }},
	{name: "enabled: a key", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		before: func(s *scene) error { return s.w.DisableKey(s.ctx(), s.ada.ID, s.key.ID) },
		change: func(s *scene) error { return s.e.EnableKey(s.ctx(), s.ada.ID, s.key.ID) }},
	{name: "enabled: a user", needs: replication.PushAll, table: record.TableUsers, key: userID,
		before: func(s *scene) error { return s.w.DisableUser(s.ctx(), s.ada.ID) },
		change: func(s *scene) error { return s.e.EnableUser(s.ctx(), s.ada.ID) }},
	{name: "enabled: a group", needs: replication.PushAll, table: record.TableGroups, key: groupName,
		before: func(s *scene) error { return s.w.DisableGroup(s.ctx(), "north") },
		change: func(s *scene) error { return s.e.EnableGroup(s.ctx(), "north") }},
	{name: "enabled: what was disabled here", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			must(s.e.t, s.e.DisableKey(s.ctx(), s.ada.ID, s.key.ID))
			return s.e.EnableKey(s.ctx(), s.ada.ID, s.key.ID)
		}},
	{name: "verifiers: a rotation", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			_, _, err := s.e.RotateKey(s.ctx(), s.ada.ID, s.key.ID, latchkey.Rotation{})
			return err
		}},
	{name: "verifiers: a rotation with overlap", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			_, _, err := s.e.RotateKey(s.ctx(), s.ada.ID, s.key.ID, latchkey.Rotation{Overlap: time.Hour})
			return err
		}},
	{name: "verifiers: the end of a token by the first use of the next", needs: replication.PushUse, table: record.TableKeys, key: keyID,
		before: func(s *scene) (err error) {
			_, s.token, err = s.w.RotateKey(s.ctx(), s.ada.ID, s.key.ID, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
			return err
		},
		change: func(s *scene) error {
			_, err := s.e.Login(s.ctx(), s.token)
			return err
		}},
	{name: "verifiers: the end of a token without a next one", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Verifiers = k.Verifiers.Retire(k.Verifiers.All[0].ID)
			return s.e.put(c, k.Encode())
		}},
	{name: "name", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error { return s.e.RenameKey(s.ctx(), s.ada.ID, s.key.ID, "desktop") }},
	{name: "expiry", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			return s.e.SetExpiry(s.ctx(), s.ada.ID, s.key.ID, day0.Add(time.Hour))
		}},
	{name: "scopes", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			return s.e.SetScopes(s.ctx(), s.ada.ID, s.key.ID, latchkey.NewScopes("a"))
		}},
	{name: "networks", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			return s.e.SetNetworks(s.ctx(), s.ada.ID, s.key.ID, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
		}},
	{name: "metadata: of a key", needs: replication.PushAll, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			return s.e.SetMetadata(s.ctx(), s.ada.ID, s.key.ID, map[string]string{"a": "b"})
		}},
	{name: "metadata: of a user", needs: replication.PushAll, table: record.TableUsers, key: userID,
		change: func(s *scene) error {
			return s.e.SetUserMetadata(s.ctx(), s.ada.ID, map[string]string{"a": "b"})
		}},
	{name: "group: of a user", needs: replication.PushAll, stays: true, table: record.TableUsers, key: userID,
		change: func(s *scene) error { return s.e.SetUserGroup(s.ctx(), s.ada.ID, "east") }},
	{name: "group: of a server key", needs: replication.PushAll, stays: true, table: record.TableKeys, key: serverID,
		change: func(s *scene) error { return s.e.SetKeyGroup(s.ctx(), s.server.ID, "east") }},
	{name: "identities: linked", needs: replication.PushAll, table: record.TableUsers, key: userID,
		change: func(s *scene) error {
			_, err := s.e.LinkIdentity(s.ctx(), s.ada.ID, latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "7"})
			return err
		}},
	{name: "identities: unlinked", needs: replication.PushAll, table: record.TableUsers, key: userID,
		before: func(s *scene) error {
			_, err := s.w.LinkIdentity(s.ctx(), s.ada.ID, latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "7"})
			return err
		},
		change: func(s *scene) error {
			_, err := s.e.UnlinkIdentity(s.ctx(), s.ada.ID, latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "7"})
			return err
		}},
	{name: "identities: that of a user elsewhere", never: true, table: record.TableUsers, key: userID,
		change: func(s *scene) error {
			_, err := s.e.LinkIdentity(s.ctx(), s.ada.ID, latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "eve"})
			return err
		}},
	{name: "created: a user", needs: replication.PushAll, table: record.TableUsers,
		change: func(s *scene) error { s.e.last = s.e.user("bob", "north").ID; return nil }},
	{name: "created: a user elsewhere", never: true, table: record.TableUsers,
		change: func(s *scene) error { s.e.last = s.e.user("bob", "south").ID; return nil }},
	{name: "created: a user in no group", never: true, table: record.TableUsers,
		change: func(s *scene) error { s.e.last = s.e.user("bob", "").ID; return nil }},
	{name: "created: a key", needs: replication.PushAll, table: record.TableKeys,
		change: func(s *scene) error { s.e.last = s.e.key(s.ada.ID, "new").ID; return nil }},
	{name: "created: a server key", needs: replication.PushAll, table: record.TableKeys,
		change: func(s *scene) error { s.e.last = s.e.serverKey("new", "north").ID; return nil }},
	{name: "created: a server key with reserved scopes", never: true, table: record.TableKeys,
		change: func(s *scene) error { s.e.last = s.e.serverKey("new", "north", "latchkey:admin").ID; return nil }},
	{name: "created at another time", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Created = k.Created.Add(-time.Hour)
			return s.e.put(c, k.Encode())
		}},
	{name: "owner", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Owner = latchkey.ServerOwner
			k.Groups = record.Groups{{Value: "north", Stamp: record.Stamp{Counter: 1, Replica: s.e.ReplicaID()}}}
			return s.e.put(c, k.Encode())
		}},
	{name: "an enabling of disablings to come", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Flag.Writers = []record.WriterCount{{Writer: record.NewWriter(), Disabled: 1, Enabled: 9}}
			return s.e.put(c, k.Encode())
		}},
	{name: "a counter that is far ahead", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Name = k.Name.Set("x", record.Stamp{Counter: 1<<32 + 10, Replica: s.e.ReplicaID()})
			return s.e.put(c, k.Encode())
		}},
	{name: "a fact that is far ahead: disabled many times", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(s.e.t, err)
			k.Flag.Writers = []record.WriterCount{{Writer: record.NewWriter(), Disabled: 1<<32 + 1}}
			return s.e.put(c, k.Encode())
		}},
	{name: "a record of a later version", never: true, table: record.TableKeys, key: keyID,
		change: func(s *scene) error {
			c := s.e.copy(record.TableKeys, s.key.ID[:])
			c.Sealed = record.SealAs(record.Version+1, c.Table, c.Key, []byte{8, 1})
			s.e.made = &c
			return nil
		}},
}

// group returns the group of a user or of a server key.
func (s *site) group(table string, id []byte) string {
	s.t.Helper()
	if table == record.TableUsers {
		u, err := s.User(s.t.Context(), uuid.UUID(id))
		must(s.t, err)
		return u.Group
	}
	k, err := s.Key(s.t.Context(), latchkey.ServerOwner, uuid.UUID(id))
	must(s.t, err)
	return k.Group
}

func keyID(s *scene) []byte     { return s.key.ID[:] }
func serverID(s *scene) []byte  { return s.server.ID[:] }
func userID(s *scene) []byte    { return s.ada.ID[:] }
func groupName(s *scene) []byte { return []byte("north") }

func TestAnEdgePushesWhatItsPolicyPermitsAndNothingElse(t *testing.T) {
	for _, p := range pushes {
		t.Run(p.name, func(t *testing.T) {
			for push := replication.PushNothing; push <= replication.PushAll; push++ {
				s := newScene(t, push, replication.HubOptions{})
				if p.before != nil {
					must(t, p.before(s))
					s.e.drain()
				}
				must(t, p.change(s))
				key := s.e.last[:]
				if p.key != nil {
					key = p.key(s)
				}
				c := s.e.made
				if c == nil {
					made := s.e.copy(p.table, key)
					c = &made
				}
				before := s.w.has(record.TrackedTables()...)
				refused := s.e.push(replication.PushRequest{Records: []record.Copy{*c}})
				after := s.w.has(record.TrackedTables()...)
				if permitted := push >= p.needs && !p.never; permitted != (refused == "") {
					t.Fatalf("with policy %d the hub says %q", push, refused)
				}
				status := s.e.status()
				if refused != "" {
					if !maps.Equal(before, after) {
						t.Errorf("with policy %d a push that was refused changed something", push)
					}
					if status.Refusals != 1 || status.Refusal != refused || !status.Refused.Equal(s.w.now) {
						t.Errorf("the refusal is recorded as %d, %q, %v", status.Refusals, status.Refusal, status.Refused)
					}
					continue
				}
				if got := after[p.table+"/"+string(key)]; p.stays {
					if !strings.Contains(got, "north") || s.w.group(p.table, key) != "north" {
						t.Errorf("the edge has moved a record to %q", s.w.group(p.table, key))
					}
				} else if got != string(c.Sealed) {
					t.Errorf("with policy %d the hub does not have what was pushed", push)
				}
				if status.Refusals != 0 {
					t.Error("a push that was taken is recorded as refused")
				}
				s.e.sync() // and the edge and the hub agree
				if got := s.e.has(liveTables...)[p.table+"/"+string(key)]; got != s.w.has(liveTables...)[p.table+"/"+string(key)] {
					t.Error("edge and hub do not agree")
				}
			}
		})
	}
}

func TestAPushIsRefusedWhole(t *testing.T) {
	s := newScene(t, replication.PushRevocations, replication.HubOptions{})
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	must(t, s.e.RenameKey(t.Context(), latchkey.ServerOwner, s.server.ID, "mine"))
	before := s.w.has(record.TrackedTables()...)
	refused := s.e.push(replication.PushRequest{Records: []record.Copy{
		s.e.copy(record.TableKeys, s.key.ID[:]), s.e.copy(record.TableKeys, s.server.ID[:]),
	}})
	if refused == "" || !maps.Equal(before, s.w.has(record.TrackedTables()...)) {
		t.Errorf("the hub says %q, and has taken a part", refused)
	}
	w := s.w // the refusal outlives the hub
	w.open()
	if status := s.e.status(); status.Refusals != 1 || status.Refusal != refused {
		t.Errorf("after a restart the refusal is %d, %q", status.Refusals, status.Refusal)
	}
}

func TestRefusalsCostACommitAMinute(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	sequence := func() (n uint64) {
		must(t, s.w.below().View(t.Context(), func(t *merge.Tables) error { n = t.Sequence(); return nil }))
		return n
	}
	refuse := func(key latchkey.Key) {
		t.Helper()
		if s.e.push(replication.PushRequest{Records: []record.Copy{s.e.copy(record.TableKeys, key.ID[:])}}) == "" {
			t.Fatal("the push was taken")
		}
	}
	other := s.e.serverKey("other", "north")
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	refuse(s.key)
	before := sequence()
	for range 3 {
		refuse(other) // for another reason
		refuse(s.key)
	}
	if after := sequence(); after != before {
		t.Errorf("six refusals more took %d commits", after-before)
	}
	s.w.now = s.w.now.Add(time.Minute)
	refuse(other)
	if after := sequence(); after != before+1 {
		t.Errorf("one a minute later took %d commits", after-before)
	}
	if status := s.e.status(); status.Refusals != 8 {
		t.Errorf("the hub counts %d refusals, want 8", status.Refusals)
	}
}

func TestARecordElsewhereIsNeverPushed(t *testing.T) {
	s := newScene(t, replication.PushAll, replication.HubOptions{})
	other := s.w.join(replication.PushAll, "*")
	other.sync()
	north := record.Groups{{Value: "north", Stamp: record.Stamp{Counter: 9, Replica: s.e.ReplicaID()}}}
	user := other.copy(record.TableUsers, s.elsewhere.ID[:])
	u, err := record.Unseal(user.Table, user.Key, user.Sealed, record.DecodeUser)
	must(t, err)
	moved := *u
	moved.Groups = u.Groups.Set("north", record.Stamp{Counter: 9, Replica: s.e.ReplicaID()})
	disabled := *u
	disabled.Flag = u.Flag.Disable(record.NewWriter())
	key := other.copy(record.TableKeys, s.far.ID[:])
	k, err := record.Unseal(key.Table, key.Key, key.Sealed, record.DecodeKey)
	must(t, err)
	k.Flag = k.Flag.Disable(record.NewWriter())
	fresh := record.Key{ID: uuid.Must(uuid.NewV7()), Owner: s.elsewhere.ID, Created: day0, Verifiers: k.Verifiers}
	fresh.Name = fresh.Name.Set("x", record.Stamp{Counter: 1, Replica: s.e.ReplicaID()})
	dead := u.Tombstone()
	dead.Groups = north
	seal := func(table string, id uuid.UUID, message []byte) record.Copy {
		return record.Copy{Domain: s.w.DomainID(), Table: table, Key: id[:], Sealed: record.Seal(table, id[:], message)}
	}
	before := s.w.has(record.TrackedTables()...)
	for name, c := range map[string]record.Copy{
		"a user, moved into the edge's group": seal(record.TableUsers, u.ID, moved.Encode()),
		"a user, disabled":                    seal(record.TableUsers, u.ID, disabled.Encode()),
		"a user, deleted":                     seal(record.TableDeadUsers, u.ID, u.Tombstone().Encode()),
		"a user, deleted in the edge's group": seal(record.TableDeadUsers, u.ID, dead.Encode()),
		"a key, disabled":                     seal(record.TableKeys, k.ID, k.Encode()),
		"a key, deleted":                      seal(record.TableDeadKeys, k.ID, k.Tombstone().Encode()),
		"a new key":                           seal(record.TableKeys, fresh.ID, fresh.Encode()),
		"the key of nobody":                   seal(record.TableKeys, fresh.ID, (&record.Key{ID: fresh.ID, Owner: uuid.New(), Created: day0, Name: fresh.Name}).Encode()),
		"a group":                             {Domain: s.w.DomainID(), Table: record.TableGroups, Key: []byte("south"), Sealed: record.Seal(record.TableGroups, []byte("south"), record.Group{Flag: record.Flag{}.Disable(record.NewWriter())}.Encode())},
		"the credential of an edge":           seal(record.TableDeadKeys, s.e.id, record.KeyTombstone{ID: s.e.id, Owner: record.ServerOwner, Groups: north}.Encode()),
		"a record of another domain":          {Domain: uuid.New(), Table: record.TableUsers, Key: s.ada.ID[:], Sealed: s.e.copy(record.TableUsers, s.ada.ID[:]).Sealed},
	} {
		if refused := s.e.push(replication.PushRequest{Records: []record.Copy{c}}); refused == "" {
			t.Errorf("%s: the hub has taken it", name)
		}
		s.e.push(replication.PushRequest{Claims: []record.Copy{c}})
		if claims, err := s.w.hub.Claims(t.Context()); err != nil || len(claims) > 0 {
			t.Errorf("%s: the hub has taken it as a claim: %+v, %v", name, claims, err)
		}
		if !maps.Equal(before, s.w.has(record.TrackedTables()...)) {
			t.Fatalf("%s: it has changed something", name)
		}
	}
	s.e.got = nil
	must(t, s.w.SetUserMetadata(t.Context(), s.ada.ID, map[string]string{"a": "b"}))
	s.e.drain()
	for _, m := range s.e.got {
		if r, ok := m.(replication.Replace); ok && len(r.Copy.Sealed) > 0 && names(m, s.elsewhere.ID[:]) {
			t.Errorf("the edge is told of a record elsewhere: %+v", m)
		}
	}
	// A claim above had the ID of the key, and nothing had the ID of the other one.
	if s.e.heardOf(s.hidden.ID[:]) {
		t.Error("the edge has heard of a key of a user that it claimed something of")
	}
}

func TestAPushThatBringsNoNewsIsTaken(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	var all []record.Copy
	for _, c := range []struct {
		table string
		key   []byte
	}{{record.TableUsers, s.ada.ID[:]}, {record.TableKeys, s.key.ID[:]}, {record.TableKeys, s.server.ID[:]}} {
		all = append(all, s.e.copy(c.table, c.key))
	}
	must(t, s.w.DisableUser(t.Context(), s.ada.ID))
	must(t, s.w.DeleteKey(t.Context(), s.ada.ID, s.key.ID))
	if refused := s.e.push(replication.PushRequest{Records: all}); refused != "" {
		t.Errorf("older versions of what the hub has: %s", refused)
	}
}

func TestAnOutdatedPolicyComesFirst(t *testing.T) {
	s := newScene(t, replication.PushAll, replication.HubOptions{})
	must(t, s.w.hub.SetPolicy(t.Context(), s.e.id, []string{"north"}, replication.PushNothing))
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	r := replication.PushRequest{Records: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])}}
	if got := s.e.push(r); !strings.HasPrefix(got, "policy ") {
		t.Errorf("the hub says %q", got)
	}
	if b := s.e.next(1000); len(b.Messages) != 1 || b.End || s.e.policy.Push != replication.PushNothing {
		t.Errorf("the edge gets %+v", b)
	}
	if got := s.e.push(r); got == "" || strings.HasPrefix(got, "policy ") {
		t.Errorf("under the new policy the hub says %q", got)
	}
}

func TestAValueThatTheEdgeDidNotKnowIsWrittenAgain(t *testing.T) {
	s := newScene(t, replication.PushAll, replication.HubOptions{})
	// The edge writes often, so that its stamps are higher. It has not heard of the hub's value.
	for i := range 3 {
		must(t, s.e.SetExpiry(t.Context(), s.ada.ID, s.key.ID, day0.Add(time.Duration(100+i)*time.Hour)))
		must(t, s.e.SetScopes(t.Context(), s.ada.ID, s.key.ID, latchkey.NewScopes("edge", string(rune('a'+i)))))
	}
	must(t, s.w.SetExpiry(t.Context(), s.ada.ID, s.key.ID, day0.Add(time.Hour)))
	if refused := s.e.push(replication.PushRequest{Records: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])}}); refused != "" {
		t.Fatal(refused)
	}
	s.e.sync()
	for name, store := range map[string]*site{"hub": s.w.site, "edge": s.e.site} {
		k, err := store.Key(t.Context(), s.ada.ID, s.key.ID)
		must(t, err)
		if !k.Expires.Equal(day0.Add(time.Hour)) {
			t.Errorf("at the %s the key expires at %v, not when the hub said", name, k.Expires)
		}
		if !k.Scopes.Has("edge") {
			t.Errorf("at the %s the scopes that the hub did not change are not the edge's", name)
		}
	}
	// Now the edge knows, and its value counts.
	must(t, s.e.SetExpiry(t.Context(), s.ada.ID, s.key.ID, day0.Add(7*time.Hour)))
	if refused := s.e.push(replication.PushRequest{Records: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])}}); refused != "" {
		t.Fatal(refused)
	}
	k, err := s.w.Key(t.Context(), s.ada.ID, s.key.ID)
	must(t, err)
	if !k.Expires.Equal(day0.Add(7 * time.Hour)) {
		t.Errorf("the key expires at %v", k.Expires)
	}
}

func TestLastUsesNeedThePolicyAndAKeyOfTheEdge(t *testing.T) {
	for push := replication.PushNothing; push <= replication.PushAll; push++ {
		s := newScene(t, push, replication.HubOptions{})
		use := func(k latchkey.Key, minute time.Time) record.Copy {
			c := s.w.copy(record.TableKeys, k.ID[:])
			r, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(t, err)
			id := lastuse.Join(k.ID, r.Verifiers.All[0].ID)
			return record.Copy{Domain: c.Domain, Table: record.TableLastUse, Key: id[:],
				Sealed: record.Seal(record.TableLastUse, id[:], record.EncodeLastUse(uint32(minute.Unix()/60)))}
		}
		s.w.now = day0.Add(time.Hour)
		refused := s.e.push(replication.PushRequest{Uses: []record.Copy{use(s.key, day0.Add(time.Minute))}})
		if (refused == "") != (push >= replication.PushUse) {
			t.Errorf("with policy %d the hub says %q", push, refused)
		}
		k, err := s.w.Key(t.Context(), s.ada.ID, s.key.ID)
		must(t, err)
		if k.LastUsed.IsZero() != (refused != "") {
			t.Errorf("with policy %d the last use is %v", push, k.LastUsed)
		}
		if push < replication.PushUse {
			continue
		}
		if refused := s.e.push(replication.PushRequest{Uses: []record.Copy{use(s.far, day0)}}); refused == "" {
			t.Error("the last use of a key elsewhere is taken")
		}
		if refused := s.e.push(replication.PushRequest{Uses: []record.Copy{use(s.key, day0.Add(1000*time.Hour))}}); refused != "" {
			t.Error(refused)
		}
		if k, err = s.w.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || k.LastUsed.After(s.w.now) {
			t.Errorf("a last use from the future is believed: %v, %v", k.LastUsed, err)
		}
	}
}

func TestARecordWithAMACIsTakenWhateverThePolicy(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	ada := w.user("ada", "north")
	key, other := w.key(ada.ID, "a"), w.key(ada.ID, "b")
	e := w.join(replication.PushNothing, "north")
	e.sync()
	backup := memory.CopyEngine(engine)
	must(t, w.DisableKey(t.Context(), ada.ID, key.ID))
	must(t, w.DeleteKey(t.Context(), ada.ID, other.ID))
	e.drain()
	disabled, deleted := e.signed[keysAt(key)], e.signed[at(record.TableDeadKeys, other.ID)]
	if disabled.MAC == nil || deleted.MAC == nil || e.signed[usersAt(ada)].MAC != nil {
		t.Fatal("revocations have no MAC, or what revokes nothing has one")
	}
	restored := openWorld(t, backup, replication.HubOptions{})
	e.w = restored
	forged := disabled
	forged.MAC = append([]byte{}, forged.MAC...)
	forged.MAC[3] ^= 1
	swapped := deleted
	swapped.MAC = disabled.MAC
	short := disabled
	short.MAC = short.MAC[:8]
	none := disabled
	none.MAC = nil
	stranger := newWorld(t, replication.HubOptions{})
	s := stranger.join(replication.PushNothing, "*")
	must(t, stranger.DisableGroup(t.Context(), "north"))
	s.sync()
	foreign := s.signed[record.TableGroups+"/north"]
	foreign.Copy.Domain = w.DomainID()
	for name, r := range map[string]replication.Record{"forged": forged, "of another record": swapped, "cut short": short, "none": none, "of another hub": foreign} {
		before := restored.has(record.TrackedTables()...)
		if refused := e.push(replication.PushRequest{Signed: []replication.Record{r}}); refused != "" {
			t.Errorf("a MAC that is %s is no claim: %s", name, refused)
		}
		if !maps.Equal(before, restored.has(record.TrackedTables()...)) {
			t.Errorf("a MAC that is %s has changed something", name)
		}
	}
	if refused := e.push(replication.PushRequest{Signed: []replication.Record{disabled, deleted}}); refused != "" {
		t.Fatal(refused)
	}
	k, err := restored.Key(t.Context(), ada.ID, key.ID)
	must(t, err)
	if !k.Disabled {
		t.Error("a restored hub has lost a disabling")
	}
	if _, err := restored.Key(t.Context(), ada.ID, other.ID); err == nil {
		t.Error("a restored hub has lost a deletion")
	}
}

// put writes a record of an edge that no call would write.
func (e *till) put(c record.Copy, message []byte) error {
	c.Sealed = record.Seal(c.Table, c.Key, message)
	e.made = &c
	return nil
}

func (s *scene) ctx() context.Context { return s.e.t.Context() }

// status returns what the hub knows of the edge.
func (e *till) status() replication.EdgeStatus {
	e.t.Helper()
	all, err := e.w.hub.Edges(e.t.Context(), e.w.now)
	must(e.t, err)
	for _, s := range all {
		if s.ID == e.id {
			return s
		}
	}
	e.t.Fatal("the hub does not know the edge")
	return replication.EdgeStatus{}
}

// A meddler is a store that calls something just before a transaction begins.
type meddler struct {
	access.Store
	before func()
}

func (m *meddler) Update(ctx context.Context, fn func(*merge.Tables) error) error {
	if before := m.before; before != nil {
		m.before = nil
		before()
	}
	return m.Store.Update(ctx, fn)
}

func TestAPushIsJudgedByThePolicyOfItsTransaction(t *testing.T) {
	for _, tt := range []struct {
		name    string
		meddle  func(*scene) error
		want    bool // to get the new policy first
		wantErr error
	}{
		{"narrowed", func(s *scene) error {
			return s.w.hub.SetPolicy(s.ctx(), s.e.id, []string{"north"}, replication.PushNothing)
		}, true, nil},
		{"dropped", func(s *scene) error { return s.w.hub.DropEdge(s.ctx(), s.e.id) }, false, replication.ErrUnknownEdge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, replication.PushAll, replication.HubOptions{})
			m := &meddler{Store: s.w.below()}
			var err error
			s.w.hub, err = replication.OpenHub(t.Context(), m, replication.HubOptions{Random: rand.Reader})
			must(t, err)
			s.e.sync()
			must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
			m.before = func() { must(t, tt.meddle(s)) }
			reply, err := s.w.hub.Push(t.Context(), s.e.id, replication.PushRequest{
				Cursor: s.e.cursor, Policy: s.e.policy.Version, Records: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])},
			}, s.w.now)
			if !errors.Is(err, tt.wantErr) || (reply.Policy != 0) != tt.want {
				t.Errorf("got %+v, %v; want a policy %t, %v", reply, err, tt.want, tt.wantErr)
			}
			if _, err := s.w.Login(t.Context(), s.token); err != nil {
				t.Errorf("the push was taken: %v", err)
			}
		})
	}
}

func TestAClaimBringsNothingIntoAnotherGroup(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	moved := func(counter uint64) record.Groups { // from a group of the edge
		var g record.Groups
		g = g.Set("north", record.Stamp{Counter: counter, Replica: s.e.ReplicaID()})
		return g.Set("south", record.Stamp{Counter: counter + 1, Replica: s.e.ReplicaID()})
	}
	edit := func(c record.Copy, change func(*record.User, *record.Key)) record.Copy {
		t.Helper()
		if c.Table == record.TableUsers {
			u, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeUser)
			must(t, err)
			change(u, nil)
			c.Sealed = record.Seal(c.Table, c.Key, u.Encode())
		} else {
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(t, err)
			change(nil, k)
			c.Sealed = record.Seal(c.Table, c.Key, k.Encode())
		}
		return c
	}
	user, server := s.e.user("bob", "north"), s.e.serverKey("new", "north")
	must(t, s.e.DisableUser(t.Context(), s.ada.ID))
	why := s.e.push(replication.PushRequest{Claims: []record.Copy{
		edit(s.e.copy(record.TableUsers, user.ID[:]), func(u *record.User, _ *record.Key) { u.Groups = moved(1) }),
		edit(s.e.copy(record.TableKeys, server.ID[:]), func(_ *record.User, k *record.Key) { k.Groups = moved(1) }),
		edit(s.e.copy(record.TableUsers, s.ada.ID[:]), func(u *record.User, _ *record.Key) { u.Groups = moved(20) }),
	}})
	claims, err := s.w.hub.Claims(t.Context())
	must(t, err)
	for _, c := range claims {
		must(t, s.w.hub.ConfirmClaim(t.Context(), c.Number))
	}
	if len(claims) != 1 {
		t.Errorf("the hub says %q and has %d claims, want that of ada alone: %+v", why, len(claims), claims)
	}
	ada, err := s.w.User(t.Context(), s.ada.ID)
	must(t, err)
	if !ada.Disabled || ada.Group != "north" {
		t.Errorf("after the confirmation ada is %+v", ada)
	}
	if _, err := s.w.User(t.Context(), user.ID); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("the user of another group: %v", err)
	}
}

func TestANumberOfAClaimStandsForOneThing(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	claim := func() uint64 {
		t.Helper()
		if why := s.e.push(replication.PushRequest{Claims: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])}}); why != "" {
			t.Fatal(why)
		}
		claims, err := s.w.hub.Claims(t.Context())
		must(t, err)
		if len(claims) != 1 {
			t.Fatalf("the hub has the claims %+v, want one", claims)
		}
		return claims[0].Number
	}
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	seen := claim()
	if again := claim(); again != seen {
		t.Errorf("the same again has the number %d, want %d", again, seen)
	}
	// A thief of the edge puts a token of their own into the claim.
	_, _, err := s.e.RotateKey(t.Context(), s.ada.ID, s.key.ID, latchkey.Rotation{})
	must(t, err)
	changed := claim()
	if err := s.w.hub.ConfirmClaim(t.Context(), seen); !errors.Is(err, replication.ErrNoClaim) {
		t.Errorf("confirming what was replaced: %v", err)
	}
	if _, err := s.w.Login(t.Context(), s.token); err != nil {
		t.Errorf("the token was ended: %v", err)
	}
	must(t, s.w.hub.ConfirmClaim(t.Context(), changed))
}

func TestARecordThatIsNewHasNoCounterFarAhead(t *testing.T) {
	s := newScene(t, replication.PushAll, replication.HubOptions{})
	far := record.Stamp{Counter: 1 << 40, Replica: s.e.ReplicaID()}
	id := uuid.Must(uuid.NewV7())
	u := record.User{ID: id, Created: day0}
	u.Groups = u.Groups.Set("north", far)
	k := record.Key{ID: id, Owner: record.ServerOwner, Created: day0, Groups: u.Groups}
	k.Name = k.Name.Set("new", record.Stamp{Counter: 1, Replica: s.e.ReplicaID()})
	for table, message := range map[string][]byte{record.TableUsers: u.Encode(), record.TableKeys: k.Encode()} {
		c := record.Copy{Domain: s.w.DomainID(), Table: table, Key: id[:], Sealed: record.Seal(table, id[:], message)}
		if why := s.e.push(replication.PushRequest{Records: []record.Copy{c}}); !strings.Contains(why, "too far ahead") {
			t.Errorf("%s: %q", table, why)
		}
	}
}
