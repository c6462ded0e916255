package replication_test

import (
	"crypto/rand"
	"maps"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// A target is a hub with records in the group of an edge, in others and in none.
type target struct {
	engine latchkey.Engine
	edges  [replication.PushAll + 1]uuid.UUID
	keys   map[string][][]byte // by table, of records inside and outside the group
	inside map[string]bool
}

func newTarget(t testing.TB) *target {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	x := &target{engine: engine, keys: map[string][][]byte{}, inside: map[string]bool{}}
	add := func(table string, id []byte, inside bool) {
		x.keys[table] = append(x.keys[table], id)
		x.inside[table+"/"+string(id)] = inside
	}
	for _, group := range []string{"north", "south", ""} {
		in := group == "north"
		u, dead := w.user("u"+group, group), w.user("d"+group, group)
		k, gone, server := w.key(u.ID, "k"), w.key(u.ID, "gone"), w.serverKey("s"+group, group)
		must(t, w.DisableKey(t.Context(), u.ID, k.ID))
		must(t, w.DeleteUser(t.Context(), dead.ID))
		must(t, w.DeleteKey(t.Context(), u.ID, gone.ID))
		add(record.TableUsers, u.ID[:], in)
		add(record.TableUsers, dead.ID[:], in)
		add(record.TableKeys, k.ID[:], in)
		add(record.TableKeys, gone.ID[:], in)
		add(record.TableKeys, server.ID[:], in)
		if group != "" {
			must(t, w.DisableGroup(t.Context(), group))
			add(record.TableGroups, []byte(group), in)
		}
	}
	admin := w.serverKey("admin", "north", "latchkey:admin")
	add(record.TableKeys, admin.ID[:], false)
	for push := range x.edges {
		id := w.serverKey("edge"+string(rune('0'+push)), "", "latchkey:replica").ID
		add(record.TableKeys, id[:], false)
		must(t, w.hub.AddEdge(t.Context(), id, "", replication.Policy{Groups: []string{"north"}, Push: replication.Push(push)}, day0))
		x.edges[push] = id
	}
	return x
}

// FuzzHubPush pushes records whose messages are hostile, under a right seal. Whatever they are, the
// hub does not panic, and nothing changes that the policy of the edge does not permit.
func FuzzHubPush(f *testing.F) {
	x := newTarget(f)
	start := openSite(f, memory.CopyEngine(x.engine), latchkey.DomainSecrets{})
	for table, keys := range x.keys {
		for i, key := range keys {
			for _, of := range []string{table, "dead" + table} {
				must(f, start.below().View(f.Context(), func(t *merge.Tables) error {
					sealed, err := t.Get(of, key)
					if err == nil && sealed != nil {
						message, err := record.Open(of, key, sealed)
						must(f, err)
						for push := range x.edges {
							f.Add(uint8(push), uint8(i), uint8(len(of)), uint8(0), []byte(message))
							f.Add(uint8(push), uint8(i), uint8(len(of)), uint8(1), append([]byte(message), message...))
						}
					}
					return err
				}))
			}
		}
	}
	tables := record.TrackedTables()
	f.Fuzz(func(t *testing.T, push, which, of, how uint8, message []byte) {
		if len(message) > 4000 {
			return
		}
		p := replication.Push(push % uint8(len(x.edges)))
		table := tables[int(of)%len(tables)]
		live := strings.TrimPrefix(table, "dead")
		key := x.keys[live][int(which)%len(x.keys[live])]
		if how&8 != 0 { // of a record that the hub does not have
			fresh := uuid.UUID{0: which, 6: 0x70, 8: 0x80, 15: 1}
			key = fresh[:]
		}
		s := openSite(t, memory.CopyEngine(x.engine), latchkey.DomainSecrets{})
		hub, err := replication.OpenHub(t.Context(), s.below(), replication.HubOptions{Random: rand.Reader, AcceptClaims: how&4 != 0})
		must(t, err)
		edges, err := hub.Edges(t.Context(), day0)
		must(t, err)
		c := record.Copy{Domain: s.DomainID(), Table: table, Key: key, Sealed: record.Seal(table, key, message)}
		r := replication.PushRequest{Records: []record.Copy{c}}
		switch how & 3 {
		case 1:
			r = replication.PushRequest{Claims: []record.Copy{c}}
		case 2:
			r = replication.PushRequest{Signed: []replication.Record{{Copy: c, MAC: message}}}
		case 3:
			r.Records = append(r.Records, c)
		}
		for _, e := range edges {
			if e.ID == x.edges[p] {
				r.Policy = e.Policy.Version
			}
		}
		before := s.has(tables...)
		reply, err := hub.Push(t.Context(), x.edges[p], r, s.now)
		must(t, err)
		after := s.has(tables...)
		if reply.Policy != 0 {
			t.Fatal("the policy is outdated")
		}
		claims := len(r.Claims)+len(r.Signed) > 0 // a wrong MAC makes a claim
		if claims && how&4 != 0 {
			p = max(p, replication.PushRevocations)
		} else if claims {
			p = replication.PushNothing
		}
		if (p < replication.PushRevocations || reply.Refused != "") && !maps.Equal(before, after) {
			t.Fatalf("with policy %d a push has changed something: %q", p, reply.Refused)
		}
		for at, value := range before {
			of, key, _ := strings.Cut(at, "/")
			inside := x.inside[strings.TrimPrefix(of, "dead")+"/"+key]
			switch now := after[at]; {
			case now == value:
			case !inside:
				t.Errorf("the record %s outside the group has changed", of)
			case p < replication.PushAll && without(t, of, key, value) != without(t, of, key, now):
				t.Errorf("with policy %d the record %s has changed in more than its flag", p, of)
			}
		}
		for at := range after {
			if before[at] == "" && p < replication.PushAll && !strings.HasPrefix(at, "groups/north") {
				t.Errorf("with policy %d there is a new record in %.8s", p, at)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// without returns a record without its flag.
func without(t testing.TB, table, key, sealed string) string {
	t.Helper()
	switch table {
	case record.TableUsers:
		u, err := record.Unseal(table, []byte(key), []byte(sealed), record.DecodeUser)
		must(t, err)
		u.Flag = record.Flag{}
		return string(u.Encode())
	case record.TableKeys:
		k, err := record.Unseal(table, []byte(key), []byte(sealed), record.DecodeKey)
		must(t, err)
		k.Flag = record.Flag{}
		return string(k.Encode())
	case record.TableGroups:
		g, err := record.UnsealGroup(key, []byte(sealed))
		must(t, err)
		g.Flag = record.Flag{}
		return string(g.Encode())
	}
	return sealed
}
