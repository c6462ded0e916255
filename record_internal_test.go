package latchkey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
)

// randomRecords makes records with all values that their fields can have.
type randomRecords struct{ *rand.Rand }

func (r randomRecords) id() (id uuid.UUID) {
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	return id
}

func (r randomRecords) number() uint64 { return r.Uint64() >> r.IntN(65) }

func (r randomRecords) stamp() stamp { return stamp{r.number(), r.id()} }

func (r randomRecords) text() string {
	return strings.Repeat(string(rune(' '+r.IntN(1000))), 1+r.IntN(100))
}

func (r randomRecords) time(unit time.Duration) time.Time {
	return time.Unix(0, 0).Add(time.Duration(r.Int64()).Truncate(unit)).UTC()
}

// unknown returns some fields that this version does not know, of random wire types.
func (r randomRecords) unknown() []byte {
	if r.IntN(2) == 0 {
		return nil
	}
	var m message
	m.number(1000+r.IntN(1000), r.number()|1)
	m.bytes(20+r.IntN(100), []byte(r.text()))
	return slices.Concat(m, fixed64, fixed32)
}

// fixed64 and fixed32 are fields of the wire types that message does not write.
var (
	fixed64 = []byte{0xb1, 6, 1, 2, 3, 4, 5, 6, 7, 8} // field 102
	fixed32 = []byte{0xbd, 6, 1, 2, 3, 4}             // field 103
)

func (r randomRecords) user() userRecord {
	u := userRecord{
		id: r.id(), created: r.time(time.Millisecond), made: r.stamp(), disabledFlag: disabledFlag{r.number(), r.IntN(2) == 0},
		deleted: r.IntN(2) == 0, sequence: r.number(), unknown: r.unknown(),
	}
	for range r.IntN(5) {
		i := Identity{Provider: Provider(r.text()), Subject: r.text()}
		u.identities = append(u.identities, identityRecord{i, r.stamp(), r.unknown()})
	}
	return u
}

func (r randomRecords) key() keyRecord {
	k := keyRecord{
		id: r.id(), owner: r.id(), created: r.time(time.Millisecond), made: r.stamp(), name: r.text(), verifier: r.text(),
		disabledFlag: disabledFlag{r.number(), r.IntN(2) == 0}, deleted: r.IntN(2) == 0, sequence: r.number(), unknown: r.unknown(),
	}
	k.named, k.hashed = k.made, k.made
	if r.IntN(2) == 0 {
		k.named, k.hashed, k.expires = r.stamp(), r.stamp(), r.time(time.Second)
	}
	return k
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	r := randomRecords{rand.New(rand.NewPCG(newSeed(t), 0))}
	for range 500 {
		user := r.user()
		if got, err := decodeUser(user.id, user.encode()); err != nil || !reflect.DeepEqual(got, user) {
			t.Fatalf("wrote %+v\nread %+v, %v", user, got, err)
		}
		key := r.key()
		if got, err := decodeKey(key.id, key.encode()); err != nil || !reflect.DeepEqual(got, key) {
			t.Fatalf("wrote %+v\nread %+v, %v", key, got, err)
		}
	}
}

func TestTheZeroRecordIsReadAsItWasWritten(t *testing.T) {
	epoch := time.UnixMilli(0).UTC()
	user, key := userRecord{created: epoch}, keyRecord{created: epoch}
	if got, err := decodeUser(user.id, user.encode()); err != nil || !reflect.DeepEqual(got, user) {
		t.Errorf("wrote %+v\nread %+v, %v", user, got, err)
	}
	if got, err := decodeKey(key.id, key.encode()); err != nil || !reflect.DeepEqual(got, key) {
		t.Errorf("wrote %+v\nread %+v, %v", key, got, err)
	}
}

func TestARecordWithAnyBitChangedIsDamaged(t *testing.T) {
	r := randomRecords{rand.New(rand.NewPCG(newSeed(t), 0))}
	user, key := r.user(), r.key()
	for _, tt := range []struct {
		kind   string
		record []byte
		decode func(record []byte) error
	}{
		{"user", user.encode(), func(record []byte) error { _, err := decodeUser(user.id, record); return err }},
		{"key", key.encode(), func(record []byte) error { _, err := decodeKey(key.id, record); return err }},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			must(t, tt.decode(tt.record))
			for i := range tt.record {
				for bit := range 8 {
					damaged := bytes.Clone(tt.record)
					damaged[i] ^= 1 << bit
					if err := tt.decode(damaged); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
						t.Errorf("bit %d of byte %d: got %v, want %v", bit, i, err, ErrCorrupt)
					}
				}
				if err := tt.decode(tt.record[:i]); !errors.Is(err, ErrCorrupt) {
					t.Errorf("cut after %d bytes: got %v, want %v", i, err, ErrCorrupt)
				}
			}
			if err := tt.decode(append(bytes.Clone(tt.record), 0)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("one byte longer: got %v, want %v", err, ErrCorrupt)
			}
		})
	}
}

func TestARecordUnderAnotherKeyOrInAnotherTableIsDamaged(t *testing.T) {
	r := randomRecords{rand.New(rand.NewPCG(newSeed(t), 0))}
	user, key := r.user(), r.key()
	user.id = key.id
	other := key.id
	other[15] ^= 1
	for name, err := range map[string]error{
		"a user under another ID": func() error { _, err := decodeUser(other, user.encode()); return err }(),
		"a key under another ID":  func() error { _, err := decodeKey(other, key.encode()); return err }(),
		"a user among keys":       func() error { _, err := decodeKey(user.id, user.encode()); return err }(),
		"a key among users":       func() error { _, err := decodeUser(key.id, key.encode()); return err }(),
	} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
}

func TestARecordOfALaterVersionIsErrNewerFormat(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "backup")
	k := storedKey(t, s, key.ID)
	later := k.encode()
	later = sealedAs(2, tableKeys, k.id[:], later[1:len(later)-4])
	plant(t, s, tableKeys, k.id[:], later)
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

// sealedAs is sealRecord for records of any version.
func sealedAs(version byte, table string, key, message []byte) []byte {
	record := sealRecord(table, key, message)
	body := append([]byte{version}, record[1:len(record)-4]...)
	sum := recordChecksum(table, key, body)
	return append(body, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

// FuzzRecord checks that no bytes make decodeUser or decodeKey panic, and that a record that they
// accept is the same after it was written and read again.
func FuzzRecord(f *testing.F) {
	r := randomRecords{rand.New(rand.NewPCG(1, 2))}
	for range 10 {
		user, key := r.user(), r.key()
		for _, record := range [][]byte{user.encode(), key.encode()} {
			f.Add(record[1 : len(record)-4])
		}
	}
	for _, message := range [][]byte{
		{},
		{4 << 3, 1},                    // a number instead of an owner or an identity
		{4<<3 | 2, 0},                  // an empty owner or identity
		{5<<3 | 2, 0xff, 1},            // a length beyond the end
		{9 << 3, 0},                    // a zero that is written
		{3},                            // a group, which records do not have
		bytes.Repeat([]byte{0xff}, 11), // a number with more than 64 bits
		binary.AppendUvarint([]byte{3 << 3}, 1<<64-1), // a time out of range
	} {
		f.Add(message)
	}

	id := uuid.MustParse("01936f3c-7a00-7000-8000-000000000001")
	f.Fuzz(func(t *testing.T, message []byte) {
		wantSound := func(err error) bool {
			if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
				t.Errorf("got %v", err)
			}
			return err == nil
		}
		_, err := decodeUser(id, message)
		wantSound(err)
		_, err = decodeKey(id, message)
		wantSound(err)
		if u, err := decodeUser(id, sealRecord(tableUsers, id[:], message)); wantSound(err) {
			if again, err := decodeUser(id, u.encode()); err != nil || !reflect.DeepEqual(again, u) {
				t.Errorf("read %+v\nthen %+v, %v", u, again, err)
			}
		}
		if k, err := decodeKey(id, sealRecord(tableKeys, id[:], message)); wantSound(err) {
			if again, err := decodeKey(id, k.encode()); err != nil || !reflect.DeepEqual(again, k) {
				t.Errorf("read %+v\nthen %+v, %v", k, again, err)
			}
		}
	})
}

// futureFields returns fields of each wire type that this version does not know.
func futureFields() []byte {
	var m message
	m.number(100, 1<<63)
	m.bytes(101, []byte("later"))
	m.bytes(101, []byte("and again"))
	return slices.Concat(m, fixed64, fixed32)
}

func TestUnknownFieldsSurviveEveryChange(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user.ID, "laptop")

	u, k := storedUser(t, s, user.ID), storedKey(t, s, key.ID)
	u.unknown, u.identities[0].unknown, k.unknown = futureFields(), futureFields(), futureFields()
	plant(t, s, tableUsers, u.id[:], u.encode())
	plant(t, s, tableKeys, k.id[:], k.encode())
	st := storeState{sequence: k.sequence, users: 1, keys: 1, unknown: futureFields()}
	plant(t, s, tableMeta, metaState, st.encode())

	for _, step := range []struct {
		name string
		call func() error
	}{
		{"DisableUser", func() error { return s.DisableUser(t.Context(), user.ID) }},
		{"EnableUser", func() error { return s.EnableUser(t.Context(), user.ID) }},
		{"LinkIdentity", func() error {
			_, err := s.LinkIdentity(t.Context(), user.ID, Identity{ProviderCustomToken, "1"})
			return err
		}},
		{"UnlinkIdentity", func() error {
			_, err := s.UnlinkIdentity(t.Context(), user.ID, Identity{ProviderCustomToken, "1"})
			return err
		}},
		{"RenameKey", func() error { return s.RenameKey(t.Context(), user.ID, key.ID, "desktop") }},
		{"DisableKey", func() error { return s.DisableKey(t.Context(), user.ID, key.ID) }},
		{"EnableKey", func() error { return s.EnableKey(t.Context(), user.ID, key.ID) }},
	} {
		before := storedUser(t, s, u.id).sequence + storedKey(t, s, k.id).sequence
		must(t, step.call())
		u, k := storedUser(t, s, u.id), storedKey(t, s, k.id)
		if u.sequence+k.sequence == before {
			t.Errorf("%s wrote no record, so it shows nothing", step.name)
		}
		for what, unknown := range map[string][]byte{"user": u.unknown, "identity": u.identities[0].unknown, "key": k.unknown} {
			if !bytes.Equal(unknown, futureFields()) {
				t.Errorf("after %s the %s has the unknown fields %x, want %x", step.name, what, unknown, futureFields())
			}
		}
	}
	must(t, s.View(t.Context(), func(tx *Tx) error {
		st, err := tx.readState()
		if !bytes.Equal(st.unknown, futureFields()) {
			t.Errorf("the state has the unknown fields %x, want %x", st.unknown, futureFields())
		}
		return err
	}))
	wantLogin(t, s, token, key.ID)

	// The unknown fields may have personal data, so a tombstone keeps none of them.
	must(t, s.DeleteUser(t.Context(), user.ID))
	wantTombstones(t, s, u, k)
}

func TestATombstoneKeepsNothingButWhatMergingNeeds(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	key, _, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: "laptop", Expires: time.Now().Add(time.Hour)})
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
func wantTombstones(t *testing.T, s *Store, u userRecord, k keyRecord) {
	t.Helper()
	epoch := time.UnixMilli(0).UTC()
	gone := storedUser(t, s, u.id)
	want := userRecord{id: u.id, made: u.made, created: epoch, deleted: true, sequence: gone.sequence}
	if !reflect.DeepEqual(gone, want) {
		t.Errorf("the user's tombstone is %+v, want %+v", gone, want)
	}
	goneKey := storedKey(t, s, k.id)
	wantKey := keyRecord{
		id: k.id, owner: k.owner, made: k.made, named: k.made, hashed: k.made,
		created: epoch, deleted: true, sequence: goneKey.sequence,
	}
	if !reflect.DeepEqual(goneKey, wantKey) {
		t.Errorf("the key's tombstone is %+v, want %+v", goneKey, wantKey)
	}
}

func TestAStampSaysWhichWriteSetItsField(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	at := func(sequence uint64) stamp { return stamp{sequence, s.domain.replica} }
	if s.domain.replica == uuid.Nil || s.domain.replica == s.domain.id {
		t.Errorf("the replica has the ID %s, and its domain %s", s.domain.replica, s.domain.id)
	}
	if u := storedUser(t, s, user.ID); u.made != at(u.sequence) || u.identities[0].linked != u.made {
		t.Errorf("a new user at sequence %d has the stamps %v and %v", u.sequence, u.made, u.identities[0].linked)
	}
	made := storedUser(t, s, user.ID).made
	_, err := s.LinkIdentity(t.Context(), user.ID, Identity{ProviderCustomToken, "1"})
	must(t, err)
	must(t, s.DisableUser(t.Context(), user.ID))
	u := storedUser(t, s, user.ID)
	if u.made != made || u.identities[0].linked != made || u.identities[1].linked != at(made.counter+1) {
		t.Errorf("the user has the stamps %v, %v and %v", u.made, u.identities[0].linked, u.identities[1].linked)
	}

	key, _ := addServerKey(t, s, "backup")
	k := storedKey(t, s, key.ID)
	if now := at(k.sequence); k.made != now || k.named != now || k.hashed != now {
		t.Errorf("a new key at sequence %d has the stamps %v, %v and %v", k.sequence, k.made, k.named, k.hashed)
	}
	must(t, s.RenameKey(t.Context(), ServerOwner, key.ID, "restore"))
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	renamed := storedKey(t, s, key.ID)
	if renamed.made != k.made || renamed.hashed != k.made || renamed.named != at(k.sequence+1) {
		t.Errorf("the renamed key has the stamps %v, %v and %v", renamed.made, renamed.named, renamed.hashed)
	}
}

func TestTheLargestRecordsAreWithinWhatEveryEngineServes(t *testing.T) {
	long := strings.Repeat("x", names.MaxLength)
	longest := slices.MaxFunc(providers, func(a, b Provider) int { return len(a) - len(b) })
	u := userRecord{disabledFlag: disabledFlag{disablings: 1 << 63}, sequence: 1 << 63, made: stamp{counter: 1 << 63}}
	for range maxIdentities {
		u.identities = append(u.identities, identityRecord{Identity: Identity{longest, long}, linked: stamp{counter: 1 << 63}})
	}
	if n := len(u.encode()); n > MaxEngineValue {
		t.Errorf("a user's record can have %d bytes, and %d is the most", n, MaxEngineValue)
	}
	if n := len(u.identities[0].indexKey()); n > MaxEngineKey {
		t.Errorf("an identity's key can have %d bytes, and %d is the most", n, MaxEngineKey)
	}
	if n := len(nameIndexKey(ServerOwner, long, ServerOwner)); n > MaxEngineKey {
		t.Errorf("a name's key can have %d bytes, and %d is the most", n, MaxEngineKey)
	}
}
