package latchkey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// sealedAs returns a record as a build of another version would write it.
func sealedAs(version byte, table string, key, sealed []byte) []byte {
	body := append([]byte{version}, sealed[1:len(sealed)-4]...)
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(slices.Concat([]byte(table), key, body), castagnoli)
	return binary.BigEndian.AppendUint32(body, sum)
}

func TestARecordOfALaterVersionIsErrNewerFormat(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "backup")
	k := storedKey(t, s, key.ID)
	plant(t, s, tableKeys, k.ID[:], sealedAs(record.Version+1, tableKeys, k.ID[:], sealedKey(k)))
	for name, call := range map[string]func() error{
		"Key":       func() error { _, err := s.Key(t.Context(), ServerOwner, key.ID); return err },
		"Keys":      func() error { _, err := s.Keys(t.Context(), ServerOwner); return err },
		"DeleteKey": func() error { return s.DeleteKey(t.Context(), ServerOwner, key.ID) },
		"Login":     func() error { _, err := s.Login(t.Context(), token); return err },
	} {
		if err := call(); !errors.Is(err, ErrNewerFormat) {
			t.Errorf("%s: got %v, want %v", name, err, ErrNewerFormat)
		}
	}
}

// futureFields returns fields that this version does not know.
func futureFields() record.Unknown {
	var m record.Message
	m.Number(100, 1<<63)
	m.Bytes(101, []byte("later"))
	m.Bytes(101, []byte("and again"))
	return record.Unknown(m)
}

func TestUnknownFieldsSurviveEveryChange(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user.ID, "laptop")

	u, k := storedUser(t, s, user.ID), storedKey(t, s, key.ID)
	u.Unknown, u.Identities[0].Unknown, k.Unknown, k.Verifiers.All[0].Unknown = futureFields(), futureFields(), futureFields(), futureFields()
	plant(t, s, tableUsers, u.ID[:], sealedUser(u))
	plant(t, s, tableKeys, k.ID[:], sealedKey(k))

	other := Identity{ProviderLocalUserpass, "lovelace"}
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"DisableUser", func() error { return s.DisableUser(t.Context(), user.ID) }},
		{"EnableUser", func() error { return s.EnableUser(t.Context(), user.ID) }},
		{"LinkIdentity", func() error { _, err := s.LinkIdentity(t.Context(), user.ID, other); return err }},
		{"UnlinkIdentity", func() error { _, err := s.UnlinkIdentity(t.Context(), user.ID, other); return err }},
		{"RenameKey", func() error { return s.RenameKey(t.Context(), user.ID, key.ID, "desktop") }},
		{"DisableKey", func() error { return s.DisableKey(t.Context(), user.ID, key.ID) }},
		{"EnableKey", func() error { return s.EnableKey(t.Context(), user.ID, key.ID) }},
	} {
		before := stats(t, s).Sequence
		must(t, step.call())
		if stats(t, s).Sequence == before {
			t.Errorf("%s wrote no record, so it shows nothing", step.name)
		}
		u, k := storedUser(t, s, u.ID), storedKey(t, s, k.ID)
		for what, unknown := range map[string]record.Unknown{
			"user": u.Unknown, "identity": u.Identities[0].Unknown, "key": k.Unknown, "verifier": k.Verifiers.All[0].Unknown,
		} {
			if !bytes.Equal(unknown, futureFields()) {
				t.Errorf("after %s the %s has the unknown fields %x, want %x", step.name, what, unknown, futureFields())
			}
		}
	}
	wantLogin(t, s, token, key.ID)

	// The unknown fields may have personal data, so a tombstone keeps none of them.
	must(t, s.DeleteUser(t.Context(), user.ID))
	wantTombstones(t, s, u, k)
}

func TestATombstoneKeepsNothingButWhatMergingNeeds(t *testing.T) {
	s := open(t, nil)
	user, err := s.CreateUser(t.Context(), UserSpec{Identity: email("ada"), Group: "plant", Metadata: map[string]string{"city": "Ockham"}})
	must(t, err)
	key, _, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: "laptop", Expires: time.Now().Add(time.Hour), Scopes: NewScopes("read")})
	must(t, err)
	must(t, s.RenameKey(t.Context(), user.ID, key.ID, "desktop"))
	must(t, s.DisableKey(t.Context(), user.ID, key.ID))
	must(t, s.DisableUser(t.Context(), user.ID))
	u, k := storedUser(t, s, user.ID), storedKey(t, s, key.ID)
	must(t, s.DeleteUser(t.Context(), user.ID))
	wantTombstones(t, s, u, k)
}

// wantTombstones fails the test unless the user and the key with the records u and k have become
// tombstones.
func wantTombstones(t *testing.T, s *Store, u record.User, k record.Key) {
	t.Helper()
	if got, want := userTombstone(t, s, u.ID), (record.UserTombstone{ID: u.ID, Groups: u.Groups}); !reflect.DeepEqual(got, want) {
		t.Errorf("the user's tombstone is %+v, want %+v", got, want)
	}
	if got, want := keyTombstone(t, s, k.ID), (record.KeyTombstone{ID: k.ID, Owner: k.Owner, Groups: k.Groups}); !reflect.DeepEqual(got, want) {
		t.Errorf("the key's tombstone is %+v, want %+v", got, want)
	}
	must(t, s.View(t.Context(), func(tx *Tx) error {
		for table, id := range map[string]uuid.UUID{tableUsers: u.ID, tableKeys: k.ID} {
			if has, err := tx.has(table, id[:]); has || err != nil {
				t.Errorf("table %s has the deleted record, %v", table, err)
			}
		}
		return nil
	}))
	// Nothing that is derived from the records is left.
	for _, entry := range dump(t, s) {
		table, _, _ := strings.Cut(entry, "/")
		if slices.Contains([]string{tableIdentities, tableNames, tableMembers, tableHashes, tableLastUse}, table) {
			t.Errorf("%s is left", entry)
		}
	}
}

func TestAStampSaysWhichWriteSetItsField(t *testing.T) {
	s := open(t, nil)
	at := func(counter uint64) record.Stamp { return record.Stamp{Counter: counter, Replica: s.ReplicaID()} }
	if s.ReplicaID() == uuid.Nil || s.ReplicaID() == s.DomainID() {
		t.Errorf("the replica has the ID %s, and its domain %s", s.ReplicaID(), s.DomainID())
	}
	addUser(t, s, "before") // the counters of two records have nothing to do with each other
	user := addUser(t, s, "ada")
	_, err := s.LinkIdentity(t.Context(), user.ID, Identity{ProviderCustomToken, "1"})
	must(t, err)
	must(t, s.DisableUser(t.Context(), user.ID))
	linked := storedUser(t, s, user.ID).Linked()
	if len(linked) != 2 || linked[0].Stamp != at(1) || linked[1].Stamp != at(2) {
		t.Errorf("the user has the identities %+v, want stamps of the counters 1 and 2", linked)
	}

	key, _, err := s.CreateServerKey(t.Context(), KeySpec{Name: "backup", Scopes: NewScopes("read"), Group: "plant"})
	must(t, err)
	k := storedKey(t, s, key.ID)
	if k.Name.Stamp != at(1) || k.Scopes.Stamp != at(1) || k.Groups[0].Stamp != at(1) {
		t.Errorf("a new key has the stamps %v, %v and %v, want %v", k.Name.Stamp, k.Scopes.Stamp, k.Groups[0].Stamp, at(1))
	}
	for field, stamp := range map[string]record.Stamp{"expires": k.Expires.Stamp, "networks": k.Networks.Stamp, "metadata": k.Metadata.Stamp} {
		if stamp != (record.Stamp{}) {
			t.Errorf("%s was never set, and has the stamp %v", field, stamp)
		}
	}
	must(t, s.RenameKey(t.Context(), ServerOwner, key.ID, "restore"))
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	renamed := storedKey(t, s, key.ID)
	if renamed.Scopes.Stamp != at(1) || renamed.Name.Stamp != at(2) {
		t.Errorf("the renamed key has the stamps %v and %v", renamed.Scopes.Stamp, renamed.Name.Stamp)
	}
}

func TestTheLargestKeysOfIndexesAreWithinWhatEveryEngineServes(t *testing.T) {
	long := strings.Repeat("x", names.MaxLength)
	longest := slices.MaxFunc(providers, func(a, b Provider) int { return len(a) - len(b) })
	for what, key := range map[string][]byte{
		"an identity": Identity{longest, long}.indexKey(),
		"a name":      record.NameKey(ServerOwner, long, ServerOwner),
		"a member":    record.MemberKey(strings.Repeat("x", MaxGroup), ServerOwner),
	} {
		if n := len(key); n > MaxEngineKey {
			t.Errorf("the key of %s can have %d bytes, and %d is the most", what, n, MaxEngineKey)
		}
	}
	if record.MaxSize > MaxEngineValue {
		t.Errorf("a record can have %d bytes, and %d is the most", record.MaxSize, MaxEngineValue)
	}
}

// share makes a store one of a domain with replicas.
func share(t *testing.T, s *Store) *Store {
	t.Helper()
	r := *s.replica.Load()
	r.Shared = true
	plant(t, s, tableMeta, metaReplica, record.Seal(tableMeta, metaReplica, r.Encode()))
	return reopen(t, s, nil)
}

func TestAStoreWithoutReplicasKeepsNothingForThem(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	key, token := addServerKey(t, s, "backup")
	other := Identity{ProviderCustomToken, "1"}
	for range 3 {
		must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
		before := stats(t, s)
		must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
		if after := stats(t, s); after.Commits != before.Commits {
			t.Error("a second disabling has written something")
		}
		must(t, s.EnableKey(t.Context(), ServerOwner, key.ID))
		_, err := s.LinkIdentity(t.Context(), user.ID, other)
		must(t, err)
		_, err = s.UnlinkIdentity(t.Context(), user.ID, other)
		must(t, err)
		s = reopen(t, s, nil)
	}
	if f := storedKey(t, s, key.ID).Flag; !reflect.DeepEqual(f, record.Flag{Base: 3}) {
		t.Errorf("the flag is %+v, want the sum of its disablings", f)
	}
	if all := storedUser(t, s, user.ID).Identities; len(all) != 1 {
		t.Errorf("the user has the identities %+v, want one", all)
	}
	wantLogin(t, s, token, key.ID)
}

// An enabling takes the name of the process out of the flag, and the process would count from 1
// again, in another store's eyes.
func TestAnEnablingGivesTheProcessAnotherNameForItsDisablings(t *testing.T) {
	s := open(t, nil)
	key, _ := addServerKey(t, s, "backup")
	var last record.Writer
	for range 3 {
		must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
		writers := storedKey(t, s, key.ID).Flag.Writers
		if len(writers) != 1 || writers[0].Writer == last || writers[0].Disabled != 1 {
			t.Fatalf("the writers are %+v, after %x", writers, last)
		}
		last = writers[0].Writer
		must(t, s.EnableKey(t.Context(), ServerOwner, key.ID))
	}
}

func TestAStoreWithReplicasKeepsWhatMergingNeeds(t *testing.T) {
	s := share(t, open(t, nil))
	user := addUser(t, s, "ada")
	key, token := addServerKey(t, s, "backup")
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	before := stats(t, s).Sequence
	// Another replica may be enabling the key just now.
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	if stats(t, s).Sequence == before {
		t.Error("a second disabling has written nothing")
	}
	must(t, s.EnableKey(t.Context(), ServerOwner, key.ID))
	first := s.writer.Load()
	s = reopen(t, s, nil)
	if *first == *s.writer.Load() {
		t.Error("two openings have one name for their disablings")
	}
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	must(t, s.EnableKey(t.Context(), ServerOwner, key.ID))
	f := storedKey(t, s, key.ID).Flag
	if len(f.Writers) != 2 || f.Disablings() != 3 || f.IsDisabled() {
		t.Errorf("the flag is %+v, want two writers, and 2 and 1 disablings", f)
	}
	wantLogin(t, s, token, key.ID)

	other := Identity{ProviderCustomToken, "1"}
	_, err := s.LinkIdentity(t.Context(), user.ID, other)
	must(t, err)
	got, err := s.UnlinkIdentity(t.Context(), user.ID, other)
	must(t, err)
	if all := storedUser(t, s, user.ID).Identities; len(all) != 2 || len(got.Identities) != 1 {
		t.Errorf("the user has the identities %+v of %+v, want one linked and one unlinked", got.Identities, all)
	}
	wantSound(t, s)
}

func TestAKeyWhoseUserIsElsewhereIsRefusedAndNoDamage(t *testing.T) {
	for _, shared := range []bool{false, true} {
		s := open(t, nil)
		if shared {
			s = share(t, s)
		}
		user := addUser(t, s, "ada")
		_, token := addKey(t, s, user.ID, "laptop")
		want := ErrCorrupt
		if shared {
			want = ErrInvalidToken
		}
		must(t, s.engine.Update(t.Context(), func(etx EngineTx) error {
			return errors.Join(etx.Delete(tableUsers, user.ID[:]), etx.Delete(tableIdentities, email("ada").indexKey()))
		}))
		wantRefused(t, s, token, want)
		if shared {
			wantSound(t, s)
		}
	}
}

func TestARecordThatNoEngineTakesIsNotWritten(t *testing.T) {
	s := open(t, nil)
	key, _ := addServerKey(t, s, "backup")
	k := storedKey(t, s, key.ID)
	var m record.Message
	m.Bytes(100, make([]byte, record.MaxSize-len(sealedKey(k))-5))
	k.Unknown = record.Unknown(m) // just fits
	plant(t, s, tableKeys, k.ID[:], sealedKey(k))
	before := dump(t, s)
	if err := s.DisableKey(t.Context(), ServerOwner, key.ID); err == nil {
		t.Error("a record that is too large was written")
	}
	if !slices.Equal(dump(t, s), before) {
		t.Error("the tables have changed")
	}
}
