package merge_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/frame"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/vector"
)

func TestRecordsArriveAsTheVectorsSayInEveryOrder(t *testing.T) {
	var vectors struct {
		Domain   uuid.UUID
		Arrivals []struct {
			About          string
			Arriving, Left []vector.Hex
			Ordered        bool
			Refused        []int
		}
	}
	vector.Read(t, "arrivals.json", &vectors)
	if len(vectors.Arrivals) < 10 {
		t.Fatal("there are too few vectors")
	}
	for _, v := range vectors.Arrivals {
		t.Run(v.About, func(t *testing.T) {
			var copies, left []record.Copy
			for _, b := range v.Arriving {
				copies = append(copies, mustDecode(t, b))
			}
			for _, b := range v.Left {
				left = append(left, mustDecode(t, b))
			}
			slices.SortFunc(left, func(a, b record.Copy) int {
				return strings.Compare(at(a.Table, a.Key), at(b.Table, b.Key))
			})
			orders := 30
			if v.Ordered {
				orders = 1
			}
			for i := range orders {
				s := newStore(vectors.Domain)
				order := copies
				if i > 0 { // and some of them twice
					order = append(slices.Clone(copies), copies[:rand.IntN(len(copies))]...)
					rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				}
				if refused := s.merge(t, order...); !slices.Equal(refused, v.Refused) {
					t.Errorf("refused: %v, want %v", refused, v.Refused)
				}
				if got := s.copies(); !sameCopies(got, left) {
					t.Errorf("order %d leaves\n%+v\nwant\n%+v", i, got, left)
				}
				s.wantIndexed(t)
			}
		})
	}
}

func mustDecode(t testing.TB, b []byte) record.Copy {
	t.Helper()
	c, err := record.DecodeCopy(b)
	must(t, err)
	return c
}

func TestStreamsAreAsTheVectorsSay(t *testing.T) {
	var vectors struct {
		Domain          uuid.UUID
		Copies, Refused []map[string]any
		Streams         []struct {
			About  string
			Bodies []vector.Hex
			Stream vector.Hex
		}
	}
	vector.Read(t, "copies.json", &vectors)
	for _, v := range vectors.Streams {
		var stream []byte
		for _, b := range v.Bodies {
			stream = frame.Append(stream, b)
		}
		if !bytes.Equal(stream, v.Stream) {
			t.Errorf("%s: %x, want %x", v.About, stream, v.Stream)
		}
		r := bytes.NewReader(v.Stream)
		for i, want := range v.Bodies {
			if got, err := frame.Read(r, record.MaxCopy); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: body %d is %x, %v", v.About, i, got, err)
			}
		}
	}
}

var (
	domain = uuid.UUID{0xdd, 15: 1}
	ada    = uuid.UUID{0xad, 15: 1}
	bob    = uuid.UUID{0xb0, 15: 1}
	laptop = uuid.UUID{0x1a, 15: 1}
	here   = uuid.UUID{0xaa, 15: 1}
	there  = uuid.UUID{0xaa, 15: 2}
)

func stamp(counter uint64, replica uuid.UUID) record.Stamp {
	return record.Stamp{Counter: counter, Replica: replica}
}

func copyOf(table string, key, message []byte) record.Copy {
	return record.Copy{Domain: domain, Table: table, Key: key, Sealed: record.Seal(table, key, message)}
}

// user returns a copy of a user with identities, after a change.
func user(id uuid.UUID, subjects []string, changes ...func(*record.User)) record.Copy {
	u := record.User{ID: id}
	for i, subject := range subjects {
		u = u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: subject, Stamp: stamp(uint64(i+1), here)})
	}
	for _, change := range changes {
		change(&u)
	}
	return copyOf(record.TableUsers, id[:], u.Encode())
}

// key returns a copy of a key of an owner, after some changes.
func key(id, owner uuid.UUID, name string, changes ...func(*record.Key)) record.Copy {
	k := record.Key{ID: id, Owner: owner, Name: record.Register[string]{Value: name, Stamp: stamp(1, here)}}
	k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{1}, PHC: "$first"})
	for _, change := range changes {
		change(&k)
	}
	return copyOf(record.TableKeys, id[:], k.Encode())
}

func TestHostileRecordsAreRefusedAndChangeNothing(t *testing.T) {
	owned := []record.Copy{
		user(ada, []string{"ada"}), key(laptop, ada, "laptop"), key(uuid.UUID{0x5e, 15: 1}, record.ServerOwner, "backup"),
	}
	tombstone := record.KeyTombstone{Owner: bob}
	for _, tt := range []struct {
		name string
		copy record.Copy
		want error
	}{
		{"a tombstone of the owner of the server keys", copyOf(record.TableDeadUsers, record.ServerOwner[:], nil), merge.ErrInvalid},
		{"a user who is the owner of the server keys", user(record.ServerOwner, []string{"root"}), merge.ErrInvalid},
		{"a user without an ID", user(uuid.Nil, []string{"root"}), merge.ErrInvalid},
		{"a later version of the owner of the server keys", later(copyOf(record.TableUsers, record.ServerOwner[:], nil)), merge.ErrInvalid},
		{"a zero byte in a name", key(laptop, ada, "a\x00b"), merge.ErrInvalid},
		{"an empty name", key(laptop, ada, ""), merge.ErrInvalid},
		{"a name that is no text", key(laptop, ada, "\xff"), merge.ErrInvalid},
		{"a zero byte in a subject", user(bob, []string{"a\x00b"}), merge.ErrInvalid},
		{"a zero byte in a provider", user(bob, nil, func(u *record.User) {
			*u = u.SetIdentity(record.Identity{Provider: "a\x00b", Subject: "bob", Stamp: stamp(1, here)})
		}), merge.ErrInvalid},
		{"a group for all groups", copyOf(record.TableGroups, []byte("*"), nil), merge.ErrInvalid},
		{"a user in the group for all groups", user(bob, []string{"bob"}, func(u *record.User) { u.Groups = u.Groups.Set("*", stamp(2, here)) }), merge.ErrInvalid},
		{"a zero byte in a group", copyOf(record.TableDeadUsers, bob[:], record.UserTombstone{Groups: record.Groups{}.Set("a\x00b", stamp(2, here))}.Encode()), merge.ErrInvalid},
		{"a user's key with a group", key(laptop, ada, "laptop", func(k *record.Key) { k.Groups = k.Groups.Set("home", stamp(2, here)) }), merge.ErrInvalid},
		{"a verifier that is none", key(laptop, ada, "laptop", func(k *record.Key) {
			k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{2}, PHC: "secret"})
		}), merge.ErrInvalid},
		{"another owner", key(laptop, bob, "laptop"), merge.ErrInvalid},
		{"a tombstone of another owner", copyOf(record.TableDeadKeys, laptop[:], tombstone.Encode()), merge.ErrInvalid},
		{"reserved scopes", key(laptop, ada, "laptop", func(k *record.Key) {
			k.Scopes = record.Register[[]string]{Value: []string{"latchkey:admin"}, Stamp: stamp(9, here)}
		}), merge.ErrReserved},
		{"another domain", record.Copy{Domain: bob, Table: record.TableGroups, Key: []byte("home"), Sealed: record.Seal(record.TableGroups, []byte("home"), nil)}, merge.ErrInvalid},
		{"an application's table", copyOf(record.TableData, []byte("notes\x00a"), nil), merge.ErrInvalid},
		{"the domain", copyOf(record.TableMeta, []byte(record.MetaDomain), nil), merge.ErrInvalid},
		{"too large", key(laptop, ada, "laptop", func(k *record.Key) {
			var m record.Message
			m.Bytes(900, make([]byte, record.MaxSize-200))
			k.Unknown = record.Unknown(m)
		}), nil},
		{"no user", copyOf(record.TableUsers, bob[:], []byte{0xff}), merge.ErrInvalid},
		{"a last use after the year 9999", copyOf(record.TableLastUse, append(laptop[:], make([]byte, 8)...), record.EncodeLastUse(1<<32-1)), merge.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(domain)
			s.merge(t, owned...)
			before := fmt.Sprint(s.values)
			r := merge.Run{Domain: domain, Copies: []record.Copy{tt.copy}, AtOnce: 3, Failed: func(error) bool { return false }}
			must(t, r.Merge(func(step func(*merge.Tables) error) error { return step(s.tables(t)) }))
			if tt.want == nil {
				if len(r.Refused) > 0 {
					t.Errorf("refused: %v", r.Refused[0].Err)
				}
				return
			}
			if len(r.Refused) != 1 || !errors.Is(r.Refused[0].Err, tt.want) {
				t.Errorf("refused: %v, want %v", r.Refused, tt.want)
			}
			if fmt.Sprint(s.values) != before {
				t.Error("the store has changed")
			}
			s.wantIndexed(t)
		})
	}
}

func TestAMergedRecordThatIsTooLargeIsRefused(t *testing.T) {
	grown := func(field int) record.Copy {
		return key(laptop, ada, "laptop", func(k *record.Key) {
			var m record.Message
			m.Bytes(field, make([]byte, record.MaxSize/2))
			k.Unknown = record.Unknown(m)
		})
	}
	s := newStore(domain)
	if refused := s.merge(t, grown(900), grown(901)); !slices.Equal(refused, []int{1}) {
		t.Errorf("refused: %v", refused)
	}
	s.wantIndexed(t)
}

func TestAKeyOfOneStoreGetsNothingFromAnother(t *testing.T) {
	s := newStore(domain)
	admin := record.Key{ID: laptop, Owner: record.ServerOwner, Name: record.Register[string]{Value: "admin", Stamp: stamp(1, here)}}
	admin.Scopes = record.Register[[]string]{Value: []string{"latchkey:admin"}, Stamp: stamp(1, here)}
	c := copyOf(record.TableKeys, laptop[:], admin.Encode())
	s.values[at(c.Table, c.Key)] = string(c.Sealed)
	if refused := s.merge(t, key(laptop, record.ServerOwner, "mine", func(k *record.Key) {
		k.Verifiers = k.Verifiers.Add(record.Verifier{ID: record.VerifierID{2}, PHC: "$mine"})
	})); !slices.Equal(refused, []int{0}) {
		t.Errorf("refused: %v", refused)
	}
}

func TestManyKeysOfADeletedUserGoInSeveralTransactions(t *testing.T) {
	s := newStore(domain)
	s.most = 12
	copies := []record.Copy{user(ada, []string{"ada"})}
	for i := range 23 {
		copies = append(copies, key(uuid.UUID{0x1a, 15: byte(i + 1)}, ada, fmt.Sprint(i)))
	}
	copies = append(copies, key(uuid.UUID{0x5e, 15: 1}, bob, "stays"), copyOf(record.TableDeadUsers, ada[:], nil))
	if refused := s.merge(t, copies...); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if !slices.Contains(s.stale.Users, ada) {
		t.Error("keys that are left after the first transaction log in from the cache")
	}
	count := map[string]int{}
	for _, c := range s.copies() {
		count[c.Table]++
	}
	if count[record.TableUsers] != 0 || count[record.TableKeys] != 1 || count[record.TableDeadKeys] != 23 {
		t.Errorf("the store has %v", count)
	}
	s.wantIndexed(t)
}

func TestAWrongEntryInAnIndexDoesNotKeepAUserFromBeingDeleted(t *testing.T) {
	s := newStore(domain)
	s.merge(t, user(ada, []string{"ada"}), key(laptop, bob, "bob's"))
	for i := range 9 {
		s.values[at(record.TableNames, record.NameKey(ada, "nothing", uuid.UUID{0x70, 15: byte(i + 1)}))] = ""
	}
	s.values[at(record.TableNames, record.NameKey(ada, "bob's", laptop))] = ""
	if refused := s.merge(t, copyOf(record.TableDeadUsers, ada[:], nil)); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if _, there := s.values[at(record.TableKeys, laptop[:])]; !there {
		t.Error("a key of another user is gone")
	}
	s.wantIndexed(t)
}

// later returns a copy of a record as a later build has written it.
func later(c record.Copy) record.Copy {
	c.Sealed = record.SealAs(record.Version+1, c.Table, c.Key, []byte("unreadable"))
	return c
}

func TestARecordOfALaterVersionIsKeptAsideAndNothingIsLost(t *testing.T) {
	disabled := func(k *record.Key) { k.Flag = k.Flag.Disable(record.Writer{1}) }
	s := newStore(domain)
	s.merge(t, user(ada, []string{"ada"}), key(laptop, ada, "laptop", disabled))
	ours := s.copies()
	isAside := func() bool {
		aside, err := s.tables(t).IsAside(laptop, ada, "home")
		must(t, err)
		return aside
	}
	for _, c := range []record.Copy{
		key(laptop, ada, "laptop"), user(ada, nil), copyOf(record.TableGroups, []byte("home"), nil),
		copyOf(record.TableDeadKeys, laptop[:], nil), copyOf(record.TableDeadUsers, ada[:], nil),
	} {
		if isAside() {
			t.Error("the login depends on a later version before it has come")
		}
		s.stale = newStore(domain).stale
		s.merge(t, later(c))
		if !isAside() || s.stale.None() {
			t.Errorf("a later version of %s/%x has come, and the login does not depend on it", c.Table, c.Key)
		}
		if !sameCopies(s.copies(), ours) {
			t.Errorf("a later version of %s/%x has changed what the store has", c.Table, c.Key)
		}
		delete(s.values, at(record.TableLater, merge.LaterKey(c.Table, c.Key)))
	}
	// A later use has no say in the login.
	s.merge(t, later(copyOf(record.TableLastUse, append(laptop[:], make([]byte, 8)...), nil)))
	if isAside() {
		t.Error("a last use of a later version refuses the login")
	}

	// A later build merges both.
	c := key(laptop, ada, "desktop", func(k *record.Key) { k.Name.Stamp.Counter = 5 })
	s.values[at(record.TableLater, merge.LaterKey(c.Table, c.Key))] = string(c.Sealed)
	known, err := s.tables(t).KnownLater(domain)
	must(t, err)
	if !sameCopies(known, []record.Copy{c}) {
		t.Fatalf("a later build knows %+v", known)
	}
	s.merge(t, known...)
	k, err := record.Unseal(record.TableKeys, laptop[:], []byte(s.values[at(record.TableKeys, laptop[:])]), record.DecodeKey)
	must(t, err)
	if !k.Flag.IsDisabled() || k.Name.Value != "desktop" || isAside() {
		t.Errorf("a later build has %+v", k)
	}
	s.wantIndexed(t)
}

func TestUnknownFieldsSurviveAnOlderReplica(t *testing.T) {
	var m record.Message
	m.Bytes(900, []byte("from a later build"))
	full := []record.Copy{
		user(ada, []string{"ada"}, func(u *record.User) { u.Unknown = record.Unknown(m) }),
		key(laptop, ada, "laptop", func(k *record.Key) {
			k.Unknown = record.Unknown(m)
			k.Verifiers.All[0].Unknown = record.Unknown(m)
		}),
		copyOf(record.TableGroups, []byte("home"), m),
		copyOf(record.TableDeadUsers, bob[:], m),
	}
	older, newer := newStore(domain), newStore(domain)
	older.merge(t, full...)
	// The older replica changes the key, so it writes the record anew.
	older.merge(t, key(laptop, ada, "desktop", func(k *record.Key) { k.Name.Stamp = stamp(5, there) }))
	newer.merge(t, older.copies()...)
	count := 0
	for _, c := range newer.copies() {
		count += strings.Count(string(c.Sealed), "from a later build")
	}
	if count != 5 {
		t.Errorf("%d fields of the later build are left, want 5", count)
	}
}

func FuzzRecord(f *testing.F) {
	for _, c := range []record.Copy{user(ada, []string{"ada", "lovelace"}), key(laptop, ada, "laptop"), copyOf(record.TableDeadUsers, ada[:], nil), copyOf(record.TableGroups, []byte("home"), nil)} {
		message, _ := record.Open(c.Table, c.Key, c.Sealed)
		f.Add(c.Table, c.Key, message, message)
	}
	f.Fuzz(func(t *testing.T, table string, key, a, b []byte) {
		var copies []record.Copy
		for _, message := range [][]byte{a, b} {
			c, err := record.DecodeCopy(copyOf(table, key, message).Encode())
			if err == nil {
				copies = append(copies, c)
			}
		}
		first, second := newStore(domain), newStore(domain)
		refused := first.merge(t, copies...)
		first.wantIndexed(t)
		slices.Reverse(copies)
		if refused != nil || second.merge(t, copies...) != nil {
			return
		}
		if !sameCopies(first.copies(), second.copies()) {
			t.Errorf("in two orders:\n%+v\n%+v", first.copies(), second.copies())
		}
		before := first.copies()
		first.merge(t, copies...)
		if !sameCopies(first.copies(), before) {
			t.Errorf("merged again:\n%+v\n%+v", first.copies(), before)
		}
	})
}
