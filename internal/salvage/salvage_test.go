package salvage

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
)

// anyIdentity has no rule for identities. The tests of the root package try the rules.
var anyIdentity = Identities{
	Valid: func(string, string) bool { return true },
	Lost:  "custom-function",
}

// userWith returns a user with an identity.
func userWith(id uuid.UUID, subject string) record.User {
	u := record.User{ID: id}
	return u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: subject, Stamp: u.Next(uuid.New())})
}

// takeUser takes the record of a user as it was changed in a commit.
func (s *salvage) takeUser(u record.User, commit uint64) {
	sealed := record.Seal(record.TableUsers, u.ID[:], u.Encode())
	s.take(2, u.ID[:], boltpage.JoinTracked(boltpage.NewPlace(commit, 0), sealed), false, false)
}

// takeChange takes an entry of the change index.
func (s *salvage) takeChange(user uuid.UUID, commit uint64) {
	s.take(2, boltpage.NewPlace(commit, 0).Key(), boltpage.ChangedEntry(record.TableUsers, user[:]), false, false)
}

func TestTheLatestVersionOfARecordIsTaken(t *testing.T) {
	id := uuid.New()
	for _, commits := range [][]uint64{{1, 2}, {2, 1}} {
		s := newSalvage(anyIdentity)
		for _, commit := range commits {
			s.takeUser(userWith(id, []string{1: "first", 2: "second"}[commit]), commit)
		}
		s.decode()
		if u := s.Users[id]; u == nil || !u.Has("local-userpass", "second") {
			t.Errorf("versions in the order %d: got %+v, want the second", commits, u)
		}
	}
}

func TestARecordWithALaterChangeComesBackDisabled(t *testing.T) {
	for changed, disabled := range map[uint64]bool{0: false, 1: false, 2: false, 3: true} {
		s, id := newSalvage(anyIdentity), uuid.New()
		s.takeUser(userWith(id, "ada"), 2)
		s.takeChange(id, changed)
		s.takeChange(id, 1)
		s.decode()
		if u := s.Users[id]; u == nil || u.Flag.IsDisabled() != disabled || (s.Counts.Uncertain == 1) != disabled {
			t.Errorf("read from commit 2, and changed in %d: got %+v, %d uncertain", changed, u, s.Counts.Uncertain)
		}
	}
}

func TestNothingIsMadeOfADamagedEntryOfTheChangeIndex(t *testing.T) {
	for _, table := range record.TrackedTables() {
		for _, key := range []string{"short", "seventeen bytes..", string(make([]byte, record.MaxGroup+1))} {
			if table == record.TableGroups && len(key) <= record.MaxGroup {
				continue
			}
			s := newSalvage(anyIdentity)
			s.take(2, boltpage.NewPlace(2, 0).Key(), boltpage.ChangedEntry(table, []byte(key)), false, false)
			s.decode()
			s.reconcile()
			s.encode()
			if len(s.Records) != 0 {
				t.Errorf("a change of %q in table %s: got %+v, want nothing", key, table, s.Records)
			}
		}
	}
}

// A page with the records of a user and a key can fall back in the place of a page with tombstones.
func TestAUserAndAKeyStayDeletedIfOnlyTheChangeIndexSaysSo(t *testing.T) {
	for _, userThere := range []bool{true, false} {
		s, owner := newSalvage(anyIdentity), uuid.UUID{1}
		key := record.Key{ID: uuid.UUID{2}, Owner: record.ServerOwner}
		owned := record.Key{ID: uuid.UUID{3}, Owner: owner}
		if userThere {
			s.takeUser(userWith(owner, "ada"), 1)
		}
		for _, k := range []record.Key{key, owned} {
			s.take(2, k.ID[:], boltpage.JoinTracked(boltpage.NewPlace(1, 1), record.Seal(record.TableKeys, k.ID[:], k.Encode())), false, false)
		}
		s.take(2, boltpage.NewPlace(2, 0).Key(), boltpage.ChangedEntry(record.TableDeadKeys, key.ID[:]), false, false)
		s.take(2, boltpage.NewPlace(3, 0).Key(), boltpage.ChangedEntry(record.TableDeadUsers, owner[:]), false, false)
		s.decode()
		s.reconcile()
		s.encode()
		if len(s.Users) != 0 || len(s.Keys) != 0 {
			t.Errorf("user there: %t: got the users %v and the keys %v", userThere, s.Users, s.Keys)
		}
		dead := map[string]bool{}
		for _, r := range s.Records {
			dead[r.Table+string(r.Key)] = true
		}
		for _, at := range []entryKey{keyOf(record.TableDeadKeys, key.ID), keyOf(record.TableDeadKeys, owned.ID), keyOf(record.TableDeadUsers, owner)} {
			if !dead[at.table+at.key] {
				t.Errorf("user there: %t: there is no tombstone in %s for %x", userThere, at.table, at.key)
			}
		}
	}
}

func TestAnIdentityStaysWithTheUserWhoGotItLast(t *testing.T) {
	low, high := uuid.UUID{1}, uuid.UUID{2}
	for _, last := range []uuid.UUID{low, high} {
		s := newSalvage(anyIdentity)
		for _, id := range []uuid.UUID{low, high} {
			commit := uint64(1)
			if id == last {
				commit = 2
			}
			s.takeUser(userWith(id, "ada"), commit)
		}
		s.decode()
		s.reconcile()
		for id, u := range s.Users {
			lost := u.Has("custom-function", "lost:"+id.String())
			if u.Has("local-userpass", "ada") != (id == last) || lost == (id == last) {
				t.Errorf("%s got the identity last: %s has %+v", last, id, u.Linked())
			}
		}
	}
}

func TestTheLastUseOfAKeyThatIsGoneDoesNotComeBack(t *testing.T) {
	s := newSalvage(anyIdentity)
	s.takeUser(userWith(uuid.UUID{1}, "ada"), 1)
	there := record.Key{ID: uuid.UUID{2}, Owner: uuid.UUID{1}}
	s.take(2, there.ID[:], boltpage.JoinTracked(boltpage.NewPlace(1, 1), record.Seal(record.TableKeys, there.ID[:], there.Encode())), false, false)
	verifier, gone := [8]byte{7}, uuid.UUID{3}
	used := lastuse.Join(there.ID, verifier)
	for _, u := range []lastuse.Use{{ID: used, Minute: 2}, {ID: used, Minute: 1}, {ID: lastuse.Join(gone, verifier), Minute: 3}} {
		s.take(2, u.ID[:], record.Seal(record.TableLastUse, u.ID[:], record.EncodeLastUse(u.Minute)), false, false)
	}
	s.decode()
	s.reconcile()
	s.encode()
	var uses []Record
	for _, r := range s.Records {
		if r.Table == record.TableLastUse {
			uses = append(uses, r)
		}
	}
	if want := []Record{{Table: record.TableLastUse, Key: used[:], Message: record.EncodeLastUse(2)}}; !reflect.DeepEqual(uses, want) {
		t.Errorf("got the last uses %v, want %v", uses, want)
	}
}

func TestWhatReplicationKeepsComesBackIfItIsOfEachLastCommit(t *testing.T) {
	s := newSalvage(anyIdentity)
	s.candidates = []func(uint64) bool{func(page uint64) bool { return page != 3 }, func(page uint64) bool { return page != 2 }}
	s.data = []map[entryKey][]byte{{}, {}}
	take := func(page uint64, table, key, message string) {
		s.take(page, []byte(key), record.Seal(table, []byte(key), []byte(message)), false, false)
	}
	take(2, record.TableReplica, "cursor", "1")
	take(3, record.TableReplica, "cursor", "2")
	take(4, record.TableReplica, "secret", "both")
	take(4, record.TableData, "secret", "of an application")
	later := append([]byte("keys\x00"), make([]byte, 16)...)
	sealed := record.SealAs(record.Version+1, record.TableKeys, later[5:], []byte("unreadable"))
	s.take(2, later, sealed, false, true)
	s.take(2, append([]byte("meta\x00"), later[5:]...), record.SealAs(record.Version+1, record.TableMeta, later[5:], nil), false, true)
	s.encode()
	want := []Record{
		{Table: record.TableLater, Key: later, Sealed: sealed},
		{Table: record.TableData, Key: []byte("secret"), Message: []byte("of an application")},
		{Table: record.TableReplica, Key: []byte("secret"), Message: []byte("both"), Sealed: record.Seal(record.TableReplica, []byte("secret"), []byte("both"))},
	}
	if !reflect.DeepEqual(s.Records, want) || s.Counts.Data != 1 {
		t.Errorf("got %v and %+v, want %v", s.Records, s.Counts, want)
	}
}
