package merge_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// all is the filter of a receiver that gets all records.
func all(string, []byte, []byte) (bool, error) { return true, nil }

// copyPage copies a page of a table behind a key to another store, and returns the last key.
func (s *store) copyPage(t testing.TB, to *store, table string, after []byte, most int, gets func(table string, key, sealed []byte) (bool, error)) []byte {
	t.Helper()
	p, err := s.tables(t).CopyTable(table, after, most, gets)
	must(t, err)
	must(t, p.Damage)
	must(t, to.tables(t).PutEntries(table, p.Entries))
	return p.Last
}

// copyTo copies all tables to another store.
func (s *store) copyTo(t testing.TB, to *store, most int, gets func(table string, key, sealed []byte) (bool, error)) {
	t.Helper()
	for _, table := range merge.CopiedTables() {
		for last := s.copyPage(t, to, table, nil, most, gets); last != nil; {
			last = s.copyPage(t, to, table, last, most, gets)
		}
	}
}

// mixed is everything, and some of what a store has seldom.
func mixed(t testing.TB, s *store) {
	s.merge(t, everything()...)
	s.merge(t, user(bob, []string{"ada"}), // an identity that two users have
		key(uuid.UUID{0x1a, 15: 9}, ada, "gone"))
	for _, c := range []record.Copy{
		copyOf(record.TableDeadKeys, []byte("0123456789abcdef"), record.KeyTombstone{Owner: ada}.Encode()),
		copyOf(record.TableDeadUsers, []byte("fedcba9876543210"), nil),
	} {
		s.plant(c.Table, c.Key, string(c.Sealed))
	}
}

func TestAFirstCopyHasAllThatTravelsAndNothingElse(t *testing.T) {
	hub := newStore(domain)
	mixed(t, hub)
	want := maps.Clone(hub.values)
	admin := key(uuid.UUID{0x5e, 15: 7}, record.ServerOwner, "admin", func(k *record.Key) {
		k.Scopes = record.Register[[]string]{Value: []string{"latchkey:admin"}, Stamp: stamp(1, here)}
		k.Groups = record.Groups{}.Set("home", stamp(2, here))
		withHandle(k)
	})
	k, err := record.Unseal(admin.Table, admin.Key, admin.Sealed, record.DecodeKey)
	must(t, err)
	hub.plant(admin.Table, admin.Key, string(admin.Sealed))
	for _, e := range k.Index() {
		hub.plant(e.Table, e.Key, string(e.Value))
	}
	for _, table := range []string{record.TableMeta, record.TableHashes, record.TableLastUse, record.TableReplica, record.TableData} {
		hub.plant(table, []byte("stays"), "here")
	}
	hub.merge(t, later(key(laptop, ada, "laptop")))
	for _, most := range []int{1, 100, 1 << 20} {
		edge := newStore(domain)
		hub.copyTo(t, edge, most, all)
		if !maps.Equal(edge.values, want) {
			t.Errorf("with pages of %d bytes the copy has\n%x\nwant\n%x", most, slices.Sorted(maps.Keys(edge.values)), slices.Sorted(maps.Keys(want)))
		}
		edge.wantIndexed(t)
	}
}

func TestAFirstCopyOfAGroupNamesNobodyElse(t *testing.T) {
	hub, edge := newStore(domain), newStore(domain)
	mixed(t, hub)
	hub.copyTo(t, edge, 1<<20, func(table string, key, sealed []byte) (bool, error) {
		switch table {
		case record.TableKeys:
			k, err := record.Unseal(table, key, sealed, record.DecodeKey)
			return err == nil && k.Owner == ada, err
		case record.TableUsers:
			return uuid.UUID(key) == ada, nil
		}
		return false, nil
	})
	edge.wantIndexed(t)
	for at, value := range edge.values {
		if bytes.Contains([]byte(at+value), bob[:]) || bytes.Contains([]byte(at), backup[:]) {
			t.Errorf("the copy has %x: %x", at, value)
		}
	}
	if len(edge.copies()) != 4 { // the user and three keys
		t.Errorf("the copy has %d records", len(edge.copies()))
	}
}

func TestADamagedRecordIsLeftOutOfAFirstCopyAndTold(t *testing.T) {
	hub := newStore(domain)
	mixed(t, hub)
	hub.plant(record.TableKeys, laptop[:], "damage")
	p, err := hub.tables(t).CopyTable(record.TableKeys, nil, 1<<20, all)
	must(t, err)
	if !errors.Is(p.Damage, record.ErrDamaged) || len(p.Entries) != 3 || p.Last != nil {
		t.Errorf("%d entries, damage %v", len(p.Entries), p.Damage)
	}
}

func TestAPageLooksAtABoundedNumberOfEntries(t *testing.T) {
	hub := newStore(domain)
	for i := range 5000 {
		g := copyOf(record.TableGroups, fmt.Appendf(nil, "%04d", i), nil)
		hub.plant(g.Table, g.Key, string(g.Sealed))
	}
	none := func(string, []byte, []byte) (bool, error) { return false, nil }
	p, err := hub.tables(t).CopyTable(record.TableGroups, nil, 1, none)
	must(t, err)
	if len(p.Entries) > 0 || string(p.Last) != "4095" {
		t.Errorf("the page has %d entries, and ends with %q", len(p.Entries), p.Last)
	}
	if p, err = hub.tables(t).CopyTable(record.TableGroups, p.Last, 1, none); err != nil || p.Last != nil {
		t.Errorf("the second page ends with %q: %v", p.Last, err)
	}
}

func TestEntriesThatCannotBeOfTheTableAreRefused(t *testing.T) {
	entry := func(c record.Copy) merge.Entry { return merge.Entry{Key: c.Key, Value: c.Sealed} }
	one, two := entry(key(laptop, ada, "laptop")), entry(key(phone, ada, "phone"))
	for _, tt := range []struct {
		name    string
		table   string
		entries []merge.Entry
	}{
		{"out of order", record.TableKeys, []merge.Entry{two, one}},
		{"twice", record.TableKeys, []merge.Entry{one, one}},
		{"a wrong checksum", record.TableKeys, []merge.Entry{{Key: one.Key, Value: two.Value}}},
		{"a record of another table", record.TableUsers, []merge.Entry{one}},
		{"a short key", record.TableGroups, []merge.Entry{{Value: record.Seal(record.TableGroups, nil, nil)}}},
		{"a long key", record.TableGroups, []merge.Entry{entry(copyOf(record.TableGroups, make([]byte, record.MaxGroup+1), nil))}},
		{"a table that is not copied", record.TableMeta, []merge.Entry{entry(copyOf(record.TableMeta, []byte(record.MetaTags), nil))}},
		{"a key with reserved scopes", record.TableKeys, []merge.Entry{entry(key(laptop, ada, "laptop", func(k *record.Key) {
			k.Scopes = record.Register[[]string]{Value: []string{"a", "latchkey:admin"}, Stamp: stamp(1, there)}
		}))}},
		{"an entry that the store has", record.TableGroups, []merge.Entry{entry(copyOf(record.TableGroups, []byte("home"), nil))}},
		{"an entry before one that the store has", record.TableGroups, []merge.Entry{entry(copyOf(record.TableGroups, []byte("alpha"), nil))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(domain)
			s.merge(t, copyOf(record.TableGroups, []byte("home"), nil))
			if err := s.tables(t).PutEntries(tt.table, tt.entries); !errors.Is(err, merge.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

func TestACopiedRecordOfALaterVersionIsKeptAside(t *testing.T) {
	s := newStore(domain)
	c := later(key(laptop, ada, "laptop"))
	must(t, s.tables(t).PutEntries(c.Table, []merge.Entry{{Key: c.Key, Value: c.Sealed}}))
	must(t, s.tables(t).PutEntries(record.TableNames, []merge.Entry{{Key: record.NameKey(ada, "laptop", laptop), Value: []byte{}}}))
	if aside, err := s.tables(t).IsAside(laptop, ada, ""); err != nil || !aside || len(s.values) != 1 {
		t.Errorf("the store has %d entries: %v", len(s.values), err)
	}
}

// The records change while the copy is under way. After the changes since it began, the copy has
// what the hub has, and indexes that belong to the records.
func TestAFirstCopyOfAStoreThatChangesAgreesInTheEnd(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 14))
		hub, edge, n := newStore(domain), newStore(domain), uint64(10)
		owner := func() uuid.UUID { return []uuid.UUID{ada, bob}[random.IntN(2)] }
		change := func() record.Copy {
			n++
			id, by := owner(), stamp(n, there)
			group := func(g *record.Groups) {
				if random.IntN(2) == 0 {
					*g = g.Set([]string{"", "home", "away"}[random.IntN(3)], by)
				}
			}
			linked := random.IntN(2) == 0
			subject := []string{"ada", "bob", "lovelace"}[random.IntN(3)]
			switch random.IntN(10) {
			case 0:
				return copyOf(record.TableDeadKeys, phone[:], record.KeyTombstone{Owner: ada}.Encode())
			case 1, 2, 3, 4:
				return user(id, nil, func(u *record.User) {
					*u = u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: subject, Stamp: by, Unlinked: !linked})
					group(&u.Groups)
				})
			default:
				return key(uuid.UUID{0x1a, 15: byte(1 + random.IntN(4))}, ada, []string{"a", "b", "c"}[random.IntN(3)], func(k *record.Key) {
					k.Name.Stamp = by
					if linked {
						k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{2}, Handle: record.Handle{7}})
					} else if random.IntN(2) == 0 {
						k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{2}, Handle: record.Handle{7}}).Retire(record.VerifierID{2})
					}
				})
			}
		}
		for range random.IntN(8) {
			hub.merge(t, change())
		}
		changed := map[string]record.Copy{} // since the copy began
		for _, table := range merge.CopiedTables() {
			for last := []byte(nil); ; {
				for range random.IntN(3) {
					c := change()
					hub.merge(t, c)
					changed[at(c.Table, c.Key)] = c
					if c.Table == record.TableDeadKeys {
						delete(changed, at(record.TableKeys, c.Key))
					}
				}
				if last = hub.copyPage(t, edge, table, last, 1, all); last == nil {
					break
				}
			}
		}
		var since []record.Copy
		for _, c := range hub.copies() {
			if _, ok := changed[at(c.Table, c.Key)]; ok {
				since = append(since, c)
			}
		}
		random.Shuffle(len(since), func(i, j int) { since[i], since[j] = since[j], since[i] })
		tables := edge.tables(t)
		tables.Reindex = true
		for _, c := range since {
			_, err := tables.Record(c)
			must(t, err)
		}
		if !sameCopies(hub.copies(), edge.copies()) {
			t.Fatalf("seed %d: the edge has\n%v\nthe hub\n%v", seed, edge.copies(), hub.copies())
		}
		hub.wantIndexed(t)
		edge.wantIndexed(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestARecordThatTheStoreHasGetsItsIndexesBack(t *testing.T) {
	s := newStore(uuid.New())
	mixed(t, s)
	maps.DeleteFunc(s.values, func(k, _ string) bool {
		table, _, _ := strings.Cut(k, "\x00")
		return !slices.Contains(record.TrackedTables(), table)
	})
	tables := s.tables(t)
	tables.Reindex = true
	for _, c := range s.copies() {
		_, err := tables.Record(c)
		must(t, err)
	}
	s.wantIndexed(t)
}
