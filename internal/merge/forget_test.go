package merge_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
)

var (
	phone  = uuid.UUID{0x1a, 15: 2}
	backup = uuid.UUID{0x5e, 15: 1}
)

// inHome changes a record to one of the group home.
func inHome[T record.User | record.Key](r *T) {
	groups := record.Groups{}.Set("home", stamp(7, here))
	switch r := any(r).(type) {
	case *record.User:
		r.Groups = groups
	case *record.Key:
		r.Groups = groups
	}
}

// withHandle changes a key to one that came from outside the store.
func withHandle(k *record.Key) {
	k.Foreign = true
	k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{2}, Handle: record.Handle{7}})
}

// everything is a user with two keys, a server key, and a group.
func everything() []record.Copy {
	return []record.Copy{
		user(ada, []string{"ada", "lovelace"}, inHome[record.User]), key(laptop, ada, "laptop"), key(phone, ada, "phone", withHandle),
		key(backup, record.ServerOwner, "backup", inHome[record.Key]), copyOf(record.TableGroups, []byte("home"), nil),
	}
}

func (s *store) plant(table string, key []byte, value string) { s.values[at(table, key)] = value }

func TestWhatIsForgottenLeavesNothingAndCanComeBack(t *testing.T) {
	s := newStore(domain)
	s.merge(t, everything()...)
	all := maps.Clone(s.values)
	hash := rehash.ID{Key: laptop, Verifier: record.VerifierID{1}}.TableKey()
	s.plant(record.TableHashes, hash, "of laptop")
	s.plant(record.TableLastUse, hash, string(record.Seal(record.TableLastUse, hash, record.EncodeLastUse(1))))
	s.merge(t, later(key(laptop, ada, "laptop")), later(copyOf(record.TableDeadKeys, laptop[:], nil)), later(user(ada, nil)), later(copyOf(record.TableGroups, []byte("home"), nil)))
	s.stale = newStore(domain).stale

	must(t, s.tables(t).Forget(record.TableUsers, ada[:]))
	if !slices.Contains(s.stale.Users, ada) {
		t.Error("the user's keys log in from the cache")
	}
	if _, left := s.values[at(record.TableHashes, hash)]; left {
		t.Error("the hash of a forgotten key is left")
	}
	if _, left := s.values[at(record.TableLastUse, hash)]; left {
		t.Error("the last use of a forgotten key is left")
	}
	must(t, s.tables(t).Forget(record.TableKeys, backup[:]))
	must(t, s.tables(t).Forget(record.TableGroups, []byte("home")))
	if !slices.Contains(s.stale.Keys, backup) || !slices.Contains(s.stale.Groups, "home") {
		t.Error("the key or the group logs in from the cache")
	}
	if len(s.values) > 0 {
		t.Errorf("the store has %x", slices.Sorted(maps.Keys(s.values)))
	}
	if len(s.forgotten) != 5 {
		t.Errorf("%d records were deleted as forgotten ones, want 5", len(s.forgotten))
	}

	s.merge(t, everything()...)
	if !maps.Equal(s.values, all) {
		t.Error("the records have not come back as they were")
	}
}

func TestATombstoneCanBeForgotten(t *testing.T) {
	s := newStore(domain)
	s.merge(t, everything()...)
	all := maps.Clone(s.values)
	s.merge(t, copyOf(record.TableDeadUsers, ada[:], nil))
	must(t, s.tables(t).Forget(record.TableDeadKeys, laptop[:]))
	must(t, s.tables(t).Forget(record.TableDeadKeys, phone[:]))
	s.merge(t, key(laptop, ada, "laptop"))
	if _, there := s.values[at(record.TableKeys, laptop[:])]; there {
		t.Error("the key of a deleted user is back")
	}
	must(t, s.tables(t).Forget(record.TableDeadUsers, ada[:]))
	must(t, s.tables(t).Forget(record.TableDeadKeys, laptop[:]))
	s.merge(t, everything()...)
	if !maps.Equal(s.values, all) {
		t.Error("the records have not come back as they were")
	}
}

func TestForgettingKeepsWhatIsNotOfTheRecord(t *testing.T) {
	s := newStore(domain)
	s.merge(t, user(ada, []string{"both"}), user(bob, []string{"both"}), key(laptop, bob, "laptop"))
	s.plant(record.TableNames, record.NameKey(ada, "wrong", laptop), "")
	must(t, s.tables(t).Forget(record.TableUsers, ada[:]))
	if !slices.Contains(s.stale.Users, bob) {
		t.Error("the cache does not know that the identity has one user again")
	}
	if _, there := s.values[at(record.TableKeys, laptop[:])]; !there {
		t.Error("a key of another user is forgotten")
	}
	s.wantIndexed(t)

	admin := reservedKey(t)
	s.plant(admin.Table, admin.Key, string(admin.Sealed))
	for name, err := range map[string]error{
		"forget":  s.tables(t).Forget(record.TableKeys, admin.Key),
		"replace": s.tables(t).Replace(key(backup, record.ServerOwner, "mine")),
	} {
		if !errors.Is(err, merge.ErrReserved) {
			t.Errorf("%s a key with reserved scopes: %v", name, err)
		}
	}
	for _, table := range []string{record.TableMeta, record.TableReplica, record.TableLastUse} {
		if err := s.tables(t).Forget(table, ada[:]); !errors.Is(err, merge.ErrInvalid) {
			t.Errorf("forget an entry of %s: %v", table, err)
		}
	}
}

// reservedKey returns a copy of a key with reserved scopes.
func reservedKey(t testing.TB) record.Copy {
	return key(backup, record.ServerOwner, "admin", func(k *record.Key) {
		k.Scopes = record.Register[[]string]{Value: []string{"latchkey:admin"}, Stamp: stamp(1, here)}
	})
}

func TestAReplacedRecordIsTheOneOfTheCopyWhateverMergingSays(t *testing.T) {
	disabled := func(k *record.Key) { k.Flag = k.Flag.Disable(record.Writer{1}) }
	for _, tt := range []struct {
		name   string
		ours   []record.Copy
		theirs record.Copy
		want   []record.Copy // nil for theirs alone
	}{
		{"a disabled key", []record.Copy{key(laptop, ada, "laptop", disabled)}, key(laptop, ada, "laptop"), nil},
		{"a renamed key", []record.Copy{key(laptop, ada, "desktop", func(k *record.Key) { k.Name.Stamp = stamp(9, there) })}, key(laptop, ada, "laptop"), nil},
		{"a deleted key", []record.Copy{copyOf(record.TableDeadKeys, laptop[:], record.KeyTombstone{Owner: ada}.Encode())}, key(laptop, ada, "laptop"), nil},
		{"a key of another owner", []record.Copy{key(laptop, bob, "laptop")}, key(laptop, ada, "laptop"), nil},
		{"a live key", []record.Copy{key(laptop, ada, "laptop")}, copyOf(record.TableDeadKeys, laptop[:], record.KeyTombstone{Owner: ada}.Encode()), nil},
		{"a key that there is not", nil, key(laptop, ada, "laptop"), nil},
		{"a user with more identities", []record.Copy{user(ada, []string{"ada", "lovelace"})}, user(ada, []string{"ada"}), nil},
		{"a deleted user", []record.Copy{copyOf(record.TableDeadUsers, ada[:], nil)}, user(ada, []string{"ada"}), nil},
		{"a user with a key", []record.Copy{user(ada, []string{"lovelace"}), key(laptop, ada, "laptop")}, user(ada, []string{"ada"}),
			[]record.Copy{key(laptop, ada, "laptop"), user(ada, []string{"ada"})}},
		{"a tombstone with another group", []record.Copy{copyOf(record.TableDeadUsers, ada[:], record.UserTombstone{Groups: record.Groups{}.Set("home", stamp(2, here))}.Encode())},
			copyOf(record.TableDeadUsers, ada[:], nil), nil},
		{"a live user of a group", []record.Copy{user(ada, []string{"ada"}, inHome[record.User])}, copyOf(record.TableDeadUsers, ada[:], nil), nil},
		{"a disabled group", []record.Copy{copyOf(record.TableGroups, []byte("home"), record.Group{Flag: record.Flag{}.Disable(record.Writer{1})}.Encode())},
			copyOf(record.TableGroups, []byte("home"), nil), nil},
		{"a new key", []record.Copy{key(laptop, ada, "laptop")}, record.Copy{Table: record.TableKeys, Key: laptop[:]}, []record.Copy{}},
		{"a tombstone of a key that there is not", []record.Copy{copyOf(record.TableDeadKeys, laptop[:], record.KeyTombstone{Owner: ada}.Encode())},
			record.Copy{Table: record.TableKeys, Key: laptop[:]}, []record.Copy{}},
		{"a new group", []record.Copy{copyOf(record.TableGroups, []byte("home"), nil)}, record.Copy{Table: record.TableGroups, Key: []byte("home")}, []record.Copy{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(domain)
			s.merge(t, tt.ours...)
			s.stale = newStore(domain).stale
			must(t, s.tables(t).Replace(tt.theirs))
			want := tt.want
			if want == nil {
				want = []record.Copy{tt.theirs}
			}
			if got := s.copies(); !sameCopies(got, want) {
				t.Errorf("the store has\n%+v\nwant\n%+v", got, want)
			}
			if tt.ours != nil && s.stale.None() && tt.ours[0].Table[:4] != "dead" {
				t.Error("the cache was not told")
			}
			s.wantIndexed(t)
			if len(tt.theirs.Sealed) > 0 {
				s.merge(t, tt.theirs)
				if got := s.copies(); !sameCopies(got, want) {
					t.Errorf("merged again, the store has\n%+v", got)
				}
			}
		})
	}
}

func TestAReplacedVerifierLosesItsHashAndItsUses(t *testing.T) {
	s := newStore(domain)
	s.merge(t, key(laptop, ada, "laptop", withHandle))
	hash := rehash.ID{Key: laptop, Verifier: record.VerifierID{1}}.TableKey()
	s.plant(record.TableHashes, hash, "of another secret")
	must(t, s.tables(t).Replace(key(laptop, ada, "laptop", func(k *record.Key) { k.Verifiers.All[0].PHC = "$second" })))
	if _, left := s.values[at(record.TableHashes, hash)]; left {
		t.Error("the hash of the former secret is left")
	}
	s.wantIndexed(t)
}

func TestARecordOfALaterVersionReplacesOneThatIsKnown(t *testing.T) {
	s := newStore(domain)
	s.merge(t, user(ada, []string{"ada"}), key(laptop, ada, "laptop"))
	must(t, s.tables(t).Replace(later(key(laptop, ada, "laptop"))))
	if aside, err := s.tables(t).IsAside(laptop, ada, ""); err != nil || !aside {
		t.Errorf("the login does not depend on it: %v", err)
	}
	must(t, s.tables(t).Replace(key(laptop, ada, "laptop")))
	if aside, err := s.tables(t).IsAside(laptop, ada, ""); err != nil || aside {
		t.Errorf("the login still depends on it: %v", err)
	}
	s.wantIndexed(t)
}

func TestAHostileCopyReplacesNothing(t *testing.T) {
	for i, c := range []record.Copy{
		key(laptop, ada, "a\x00b"), user(ada, []string{"a\x00b"}), copyOf(record.TableGroups, []byte("*"), nil),
		copyOf(record.TableKeys, laptop[:], []byte{0xff}), copyOf(record.TableMeta, []byte(record.MetaDomain), nil), reservedKey(t),
		copyOf(record.TableLastUse, append(laptop[:], make([]byte, 8)...), record.EncodeLastUse(1)),
	} {
		s := newStore(domain)
		if err := s.tables(t).Replace(c); !errors.Is(err, merge.ErrInvalid) && !errors.Is(err, merge.ErrReserved) {
			t.Errorf("%d: %v", i, err)
		}
		if len(s.values) > 0 {
			t.Errorf("%d: the store has %v", i, fmt.Sprint(s.values))
		}
	}
}
