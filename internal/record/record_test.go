package record_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestASealedRecordOpensUnderItsOwnTableAndKeyAlone(t *testing.T) {
	key, message := []byte{1, 2, 3}, []byte("message")
	sealed := record.Seal("keys", key, message)
	got, err := record.Open("keys", key, sealed)
	must(t, err)
	if !bytes.Equal(got, message) {
		t.Errorf("Open: got %q, want %q", got, message)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another table":      func() ([]byte, error) { return record.Open("users", key, sealed) },
		"another key":        func() ([]byte, error) { return record.Open("keys", []byte{1, 2, 4}, sealed) },
		"nothing":            func() ([]byte, error) { return record.Open("keys", key, nil) },
		"a checksum alone":   func() ([]byte, error) { return record.Open("keys", key, sealed[len(sealed)-4:]) },
		"cut short":          func() ([]byte, error) { return record.Open("keys", key, sealed[:len(sealed)-1]) },
		"one byte more":      func() ([]byte, error) { return record.Open("keys", key, append(slices.Clone(sealed), 0)) },
		"an earlier version": func() ([]byte, error) { return record.Open("keys", key, sealVersion("keys", key, record.Version-1)) },
	} {
		if _, err := open(); !errors.Is(err, record.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
	if _, err := record.Open("keys", key, sealVersion("keys", key, record.Version+1)); !errors.Is(err, record.ErrNewer) {
		t.Errorf("a later version: got %v, want ErrNewer", err)
	}
	noVersion := binary.BigEndian.AppendUint32(nil, crc32.Checksum(slices.Concat([]byte("keys"), key), crc32.MakeTable(crc32.Castagnoli)))
	if _, err := record.Open("keys", key, noVersion); !errors.Is(err, record.ErrDamaged) {
		t.Errorf("no version: got %v, want ErrDamaged", err)
	}
	for bit := range 8 * len(sealed) {
		bad := slices.Clone(sealed)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := record.Open("keys", key, bad); !errors.Is(err, record.ErrDamaged) {
			t.Errorf("bit %d: got %v, want ErrDamaged", bit, err)
		}
	}
}

// sealVersion returns an empty record of a version.
func sealVersion(table string, key []byte, version byte) []byte {
	sum := crc32.Checksum(slices.Concat([]byte(table), key, []byte{version}), crc32.MakeTable(crc32.Castagnoli))
	return binary.BigEndian.AppendUint32([]byte{version}, sum)
}

func TestRecordsReadBackAsTheyWereWritten(t *testing.T) {
	sealed := record.Flag{}
	for n := range record.MaxWriters + 1 {
		sealed = sealed.Disable(record.Writer{byte(n >> 8), byte(n)})
	}
	all := kinds()
	for _, v := range []any{
		record.Key{ID: keyID, Owner: uuid.Max, Created: time.UnixMilli(0).UTC()},
		record.Key{ID: keyID, Created: time.UnixMilli(1).UTC(), Flag: sealed, Verifiers: record.Verifiers{Sealed: true}},
		record.Key{ID: keyID, Created: time.UnixMilli(1).UTC(), Verifiers: record.Verifiers{
			Superseded: []record.Base{{Generation: 7, ID: record.VerifierID{1}}}, Floor: 4, BaseFloor: 5,
		}},
		record.User{ID: userID, Created: time.UnixMilli(0).UTC()},
		record.Group{Name: "north"},
		record.KeyTombstone{ID: keyID, Owner: userID},
		record.UserTombstone{ID: userID},
	} {
		for _, k := range kinds() {
			if reflect.TypeOf(k.value) == reflect.TypeOf(v) {
				k.name, k.value, k.bytes = fmt.Sprintf("%s %+v", k.name, v), v, k.encode(v)
				all = append(all, k)
			}
		}
	}
	for _, k := range all {
		got, err := k.decode(k.bytes)
		must(t, err)
		if !reflect.DeepEqual(got, k.value) {
			t.Errorf("%.80s:\ngot  %+v\nwant %+v", k.name, got, k.value)
		}
		if again := k.encode(got); !bytes.Equal(again, k.bytes) {
			t.Errorf("%.80s: encoded again: got %x, want %x", k.name, again, k.bytes)
		}
		if merged := k.merge(got, k.value); !reflect.DeepEqual(merged, k.value) {
			t.Errorf("%.80s: merged with itself:\ngot  %+v\nwant %+v", k.name, merged, k.value)
		}
	}
}

func TestFieldsMayComeInAnyOrder(t *testing.T) {
	for _, k := range kinds() {
		fields := split(t, k.bytes)
		slices.SortStableFunc(fields, func(a, b []byte) int { return number(b) - number(a) })
		message := slices.Concat(fields...)
		if bytes.Equal(message, k.bytes) {
			t.Fatalf("%s: the order is the same", k.name)
		}
		got, err := k.decode(message)
		must(t, err)
		if !reflect.DeepEqual(got, k.value) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", k.name, got, k.value)
		}
	}
}

func TestVerifiersInAMessageMayComeInAnyOrder(t *testing.T) {
	want := fullKey()
	var verifiers []byte
	for _, v := range slices.Backward(want.Verifiers.All) {
		alone := record.Key{Created: time.UnixMilli(0), Verifiers: record.Verifiers{All: []record.Verifier{v}}}.Encode()
		verifiers = append(verifiers, split(t, alone)[1][2:]...)
	}
	got, err := record.DecodeKey(keyID, slices.Concat(field(2, userID[:]), field(6, verifiers)))
	must(t, err)
	if !reflect.DeepEqual(got.Verifiers.All, want.Verifiers.All) {
		t.Errorf("got %+v, want %+v", got.Verifiers.All, want.Verifiers.All)
	}
}

func TestDifferentMessagesOfOneRecordHaveOneEncoding(t *testing.T) {
	writer := func(id byte, fields ...[]byte) []byte {
		return field(1, append([][]byte{field(1, []byte{id, 7: 0})}, fields...)...)
	}
	messy := slices.Concat(
		varint(1, 7), varint(1, 8), // the last one counts
		field(2, userID[:]),
		field(3, there[:]), field(3, here[:]), field(3, here[:]), field(3, uuid.Max[:]),
		field(4, writer(2, varint(2, 1)), writer(1), writer(1, varint(2, 3)), writer(1, varint(3, 2), varint(2, 1)), varint(9, 9)),
		field(5, varint(1, 4), varint(2, 2), field(3, []byte("laptop")), varint(9, 9)),
		field(6, field(1, later(91, "b"), field(1, []byte{1, 7: 0}), later(90, "a"), later(91, "a"))),
		field(8, varint(1, 3), varint(2, 0), field(3, []byte("b")), field(3, []byte("a")), field(3, []byte("b"))),
		field(10, varint(1, 2), varint(2, 1), field(3, field(1, []byte("x")), field(2, []byte("1"))), field(3, field(1, []byte("x")))),
		field(11, varint(1, 1), varint(2, 1), field(3, []byte("old"))), field(11, varint(1, 5), varint(2, 1), field(3, []byte("new"))),
		[]byte{12 << 3, 0x82, 0x00}, // a number in more bytes than it needs
	)
	got, err := record.DecodeKey(keyID, messy)
	must(t, err)
	want := record.Key{
		ID: keyID, Owner: userID, Created: time.UnixMilli(8).UTC(), Foreign: true,
		Flag: record.Flag{Writers: []record.WriterCount{{Writer: one, Disabled: 3, Enabled: 2}, {Writer: two, Disabled: 1}}},
		Name: text("laptop", at(4, here)),
		Verifiers: record.Verifiers{All: []record.Verifier{
			{ID: record.VerifierID{1}, Unknown: slices.Concat(later(90, "a", "b"), later(91, "a"))},
		}},
		Scopes:   record.Register[[]string]{Value: []string{"a", "b"}, Stamp: at(3, there)},
		Metadata: record.Register[record.Metadata]{Value: record.Metadata{"x": ""}, Stamp: at(2, here)},
		Groups:   record.Groups{text("new", at(5, here)), text("old", at(1, here))},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// Each replica is there once, and only those that a stamp names.
	if n := bytes.Count(got.Encode(), field(3, here[:])); n != 1 || bytes.Contains(got.Encode(), uuid.Max[:]) {
		t.Errorf("the table of replicas in %x", got.Encode())
	}
	// A writer that did nothing is left out.
	if g, err := record.DecodeGroup("x", field(1, writer(1))); err != nil || len(g.Encode()) != 0 {
		t.Errorf("%+v, %v", g, err)
	}
}

// number returns the number of a message's first field.
func number(message []byte) int {
	for f := range record.Fields(message) {
		return f.Num
	}
	return 0
}

func TestEqualRecordsHaveOneEncoding(t *testing.T) {
	a, b := fullKey(), fullKey()
	a.Groups, b.Groups = nil, nil
	for i := range 5 {
		a.Groups = a.Groups.Set(fmt.Sprint(i), at(uint64(i+1), here))
		b.Groups = b.Groups.Set(fmt.Sprint(4-i), at(uint64(5-i), here))
	}
	a.Flag, b.Flag = record.Flag{}.Disable(record.Writer{1}).Disable(record.Writer{2}), record.Flag{}.Disable(record.Writer{2}).Disable(record.Writer{1})
	a.Unknown, b.Unknown = slices.Concat(later(900, "x"), later(901, "y")), slices.Concat(later(901, "y"), later(900, "x"))
	verifiers := a.Verifiers.All
	b.Verifiers.All = nil
	for _, v := range slices.Backward(verifiers) {
		b.Verifiers = b.Verifiers.Add(v)
	}
	if !bytes.Equal(a.Encode(), b.Encode()) {
		t.Errorf("keys:\n%x\n%x", a.Encode(), b.Encode())
	}
	u, v := fullUser(), fullUser()
	v.Identities = nil
	for _, i := range slices.Backward(u.Identities) {
		v = v.SetIdentity(i)
	}
	if !bytes.Equal(u.Encode(), v.Encode()) {
		t.Errorf("users:\n%x\n%x", u.Encode(), v.Encode())
	}
}

func TestFieldsOfALaterBuildAreKeptAndOfTwoValuesTheGreaterWins(t *testing.T) {
	add := func(k kind, fields ...record.Unknown) any {
		// Without the unknown fields of the record.
		base := k.bytes[:bytes.Index(k.bytes, later(900, "x")[:2])]
		v, err := k.decode(slices.Concat(base, slices.Concat(fields...)))
		must(t, err)
		return v
	}
	for _, k := range kinds() {
		a := add(k, later(900, "b"), later(902, "a"))
		b := add(k, later(901, "c"), later(900, "a"), later(902, "aa"))
		want := k.encode(add(k, later(900, "b"), later(901, "c"), later(902, "aa")))
		for _, merged := range []any{k.merge(a, b), k.merge(b, a)} {
			if got := k.encode(merged); !bytes.Equal(got, want) {
				t.Errorf("%s: got %x, want %x", k.name, got, want)
			}
		}
	}
}

func TestFieldsOfALaterBuildInAVerifierAndAnIdentity(t *testing.T) {
	k, other := fullKey(), fullKey()
	other.Verifiers.All[1].Unknown = later(90, "zzzzzzzz")
	merged, err := k.Merge(other)
	must(t, err)
	if got, _ := merged.Verifiers.Find(record.VerifierID{2}); !bytes.Equal(got.Unknown, later(90, "zzzzzzzz")) {
		t.Errorf("the verifier has %x", got.Unknown)
	}

	const provider, subject = "local-userpass", "ada@example.com"
	u := fullUser()
	same := u.SetIdentity(record.Identity{Provider: provider, Subject: subject, Stamp: at(2, here), Unknown: later(90, "zzzzzzzz")})
	if got := u.Merge(same).Linked()[0]; !bytes.Equal(got.Unknown, later(90, "zzzzzzzz")) {
		t.Errorf("under the same stamp the identity has %x", got.Unknown)
	}
	linkedAnew := u.SetIdentity(record.Identity{Provider: provider, Subject: subject, Stamp: at(20, here), Unknown: later(90, "a")})
	if got := u.Merge(linkedAnew).Linked()[0]; !bytes.Equal(got.Unknown, later(90, "a")) {
		t.Errorf("under a higher stamp the identity has %x", got.Unknown)
	}
}

func TestMessagesThatAreNoRecordAreDamaged(t *testing.T) {
	owner := field(2, userID[:])
	verifier := func(fields ...[]byte) []byte { return field(6, field(1, slices.Concat(fields...))) }
	many := func(n int, element []byte) []byte { return bytes.Repeat(element, n) }
	for _, tt := range []struct {
		about   string
		message []byte
	}{
		{"nothing, so no owner", nil},
		{"an owner of 15 bytes", field(2, userID[:15])},
		{"an owner of 17 bytes", field(2, userID[:], []byte{0})},
		{"an owner that is a number", []byte{2 << 3, 1}},
		{"a field 0", slices.Concat(owner, []byte{2, 0})},
		{"a field 2^29", slices.Concat(owner, []byte{0x80, 0x80, 0x80, 0x80, 0x10, 0})},
		{"a group of proto2", slices.Concat(owner, []byte{90<<3&0x7f | 3 | 0x80, 5, 0})},
		{"a length beyond the end", slices.Concat(owner, []byte{5<<3 | 2, 1})},
		{"a number of 11 bytes", slices.Concat(owner, []byte{1 << 3}, many(10, []byte{0xff}), []byte{1})},
		{"8 bytes cut short", slices.Concat(owner, []byte{15<<3 | 1}, make([]byte, 7))},
		{"4 bytes cut short", slices.Concat(owner, []byte{15<<3 | 5}, make([]byte, 3))},
		{"made after the year 9999", slices.Concat(owner, varint(1, 253402300800_000))},
		{"expires after the year 9999", slices.Concat(owner, field(7, varint(3, 253402300800)))},
		{"a replica of 15 bytes", slices.Concat(owner, field(3, here[:15]))},
		{"a stamp of a replica that is not there", slices.Concat(owner, field(3, here[:]), field(5, varint(1, 1), varint(2, 1)))},
		{"a stamp without a replica", slices.Concat(owner, field(5, varint(1, 1)))},
		{"a damaged flag", slices.Concat(owner, field(4, []byte{0}))},
		{"a writer of 7 bytes", slices.Concat(owner, field(4, field(1, field(1, make([]byte, 7)))))},
		{"a writer of 9 bytes", slices.Concat(owner, field(4, field(1, field(1, make([]byte, 9)))))},
		{"a writer without a name", slices.Concat(owner, field(4, field(1, varint(2, 1))))},
		{"a name that is too long", slices.Concat(owner, field(5, field(3, make([]byte, record.MaxName+1))))},
		{"a damaged name", slices.Concat(owner, field(5, []byte{0}))},
		{"a verifier without an ID", slices.Concat(owner, verifier(field(2, []byte("$argon2id$"))))},
		{"a verifier with an ID of 7 bytes", slices.Concat(owner, verifier(field(1, make([]byte, 7))))},
		{"a verifier that replaces an ID of 7 bytes", slices.Concat(owner, verifier(field(1, make([]byte, 8)), field(3, make([]byte, 7))))},
		{"a verifier with a base of 7 bytes", slices.Concat(owner, verifier(field(1, make([]byte, 8)), field(8, field(2, make([]byte, 7)))))},
		{"a verifier with a handle of 15 bytes", slices.Concat(owner, verifier(field(1, make([]byte, 8)), field(9, make([]byte, 15))))},
		{"a verifier with a handle of 17 bytes", slices.Concat(owner, verifier(field(1, make([]byte, 8)), field(9, make([]byte, 17))))},
		{"a verifier that ends after the year 9999", slices.Concat(owner, verifier(field(1, make([]byte, 8)), varint(5, 253402300800)))},
		{"a verifier that is too long", slices.Concat(owner, verifier(field(1, make([]byte, 8)), field(2, make([]byte, record.MaxPHC+1))))},
		{"two verifiers with one ID", slices.Concat(owner, field(6, field(1, field(1, make([]byte, 8))), field(1, field(1, make([]byte, 8)))))},
		{"a superseded base of 7 bytes", slices.Concat(owner, field(6, field(2, field(2, make([]byte, 7)))))},
		{"a scope that is too long", slices.Concat(owner, field(8, field(3, make([]byte, record.MaxScope+1))))},
		{"too many scopes", slices.Concat(owner, field(8, scopesFrom(record.MaxScopes+1)))},
		{"an empty network", slices.Concat(owner, field(9, field(3, nil)))},
		{"a network of 3 bytes", slices.Concat(owner, field(9, field(3, []byte{10, 0, 8})))},
		{"a network of IPv4 with 33 bits", slices.Concat(owner, field(9, field(3, []byte{10, 0, 0, 0, 33})))},
		{"too many networks", slices.Concat(owner, field(9, many(record.MaxNetworks+1, field(3, []byte{10, 0, 0, 0, 8}))))},
		{"too many entries of metadata", slices.Concat(owner, field(10, metadataFrom(record.MaxMetadata+1)))},
		{"too much metadata", slices.Concat(owner, field(10, field(3, field(2, make([]byte, record.MaxMetadataSize+1)))))},
		{"damaged metadata", slices.Concat(owner, field(10, field(3, []byte{0})))},
		{"a group that is too long", slices.Concat(owner, field(11, field(3, make([]byte, record.MaxGroup+1))))},
	} {
		if _, err := record.DecodeKey(keyID, tt.message); !errors.Is(err, record.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", tt.about, err)
		}
	}
	for _, tt := range []struct {
		about   string
		message []byte
	}{
		{"made after the year 9999", varint(1, 253402300800_000)},
		{"an identity without a stamp", field(4, field(3, []byte("custom-token")))},
		{"a provider that is too long", slices.Concat(field(2, here[:]), field(4, varint(1, 1), field(3, make([]byte, record.MaxProvider+1))))},
		{"a subject that is too long", slices.Concat(field(2, here[:]), field(4, varint(1, 1), field(4, make([]byte, record.MaxSubject+1))))},
		{"a damaged stamp", field(7, varint(1, 1))},
	} {
		if _, err := record.DecodeUser(userID, tt.message); !errors.Is(err, record.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", tt.about, err)
		}
	}
	// All that is left when one byte is missing at the end is no record, or another record.
	for _, k := range kinds() {
		for n := range k.bytes {
			if v, err := k.decode(k.bytes[:n]); err == nil && reflect.DeepEqual(v, k.value) {
				t.Errorf("%s: %d bytes of %d are the whole record", k.name, n, len(k.bytes))
			}
		}
	}
}

// field returns a field of bytes.
func field(number int, parts ...[]byte) []byte {
	v := slices.Concat(parts...)
	return slices.Concat(binary.AppendUvarint(nil, uint64(number)<<3|2), binary.AppendUvarint(nil, uint64(len(v))), v)
}

// varint returns a field of a number.
func varint(number int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(number)<<3), v)
}

func scopesFrom(n int) (fields []byte) {
	for i := range n {
		fields = append(fields, field(3, []byte(fmt.Sprint(i)))...)
	}
	return fields
}

func metadataFrom(n int) (fields []byte) {
	for i := range n {
		fields = append(fields, field(3, field(1, []byte(fmt.Sprint(i))))...)
	}
	return fields
}

func TestListsOfAHostileMessageAreBoundedBeforeTheyMerge(t *testing.T) {
	var flag, verifiers, superseded, groups, identities, replicas []byte
	for i := range 3000 {
		id := binary.BigEndian.AppendUint64(nil, uint64(i))
		flag = append(flag, field(1, field(1, id), varint(2, 1))...)
		verifiers = append(verifiers, field(1, field(1, id), varint(4, uint64(i)))...)
		superseded = append(superseded, field(2, varint(1, uint64(i)), field(2, id))...)
		groups = append(groups, field(11, varint(1, uint64(i+1)), field(3, id))...)
		identities = append(identities, field(4, varint(1, uint64(i+1)), field(4, id))...)
		replicas = append(replicas, field(3, append(make([]byte, 8), id...))...)
	}
	key, err := record.DecodeKey(keyID, slices.Concat(replicas, field(2, userID[:]), field(4, flag), field(6, verifiers, superseded), groups))
	must(t, err)
	if !key.Flag.Sealed || len(key.Flag.Writers) != 0 {
		t.Errorf("%d writers, sealed %v", len(key.Flag.Writers), key.Flag.Sealed)
	}
	if n := len(key.Verifiers.All); n != record.MaxVerifiers || key.Verifiers.Floor != 3000-record.MaxVerifiers {
		t.Errorf("%d verifiers from %d on", n, key.Verifiers.Floor)
	}
	if n := len(key.Verifiers.Superseded); n != record.MaxSuperseded || key.Verifiers.BaseFloor != 3000-record.MaxSuperseded {
		t.Errorf("%d superseded bases from %d on", n, key.Verifiers.BaseFloor)
	}
	if n := len(key.Groups); n != 1+record.MaxPastGroups {
		t.Errorf("%d groups", n)
	}
	user, err := record.DecodeUser(userID, slices.Concat(field(2, here[:]), identities))
	must(t, err)
	if n := len(user.Identities); n != record.MaxIdentities || user.Dropped != at(3000-record.MaxIdentities, here) {
		t.Errorf("%d identities from %v on", n, user.Dropped)
	}
	if n := len(key.Encode()); n > record.MaxSize {
		t.Errorf("the key has %d bytes", n)
	}
}

func TestRecordsWithinTheBoundsFit(t *testing.T) {
	const most = math.MaxUint64
	n := byte(0)
	stamp := func() record.Stamp {
		n++
		return record.Stamp{Counter: most - 1, Replica: uuid.UUID{n}}
	}
	flag := record.Flag{Base: most}
	for i := range record.MaxWriters {
		flag.Writers = append(flag.Writers, record.WriterCount{Writer: record.Writer{byte(i), 1}, Disabled: most, Enabled: most})
	}
	var groups record.Groups
	for range 1 + record.MaxPastGroups {
		groups = groups.Set(strings.Repeat(string('a'+rune(n)), record.MaxGroup), stamp())
	}
	metadata := record.Metadata{}
	for i := range record.MaxMetadata {
		metadata[fmt.Sprint(i, strings.Repeat("x", 60))] = strings.Repeat("x", record.MaxMetadataSize/record.MaxMetadata-63)
	}

	key := record.Key{ID: keyID, Owner: userID, Created: record.LastTime, Flag: flag, Groups: groups, Foreign: true}
	key.Name = text(strings.Repeat("x", record.MaxName), stamp())
	key.Expires = record.Register[time.Time]{Value: record.LastTime, Stamp: stamp()}
	key.Metadata = record.Register[record.Metadata]{Value: metadata, Stamp: stamp()}
	key.Networks.Stamp, key.Scopes.Stamp = stamp(), stamp()
	key.Name.Replaces, key.Expires.Replaces, key.Metadata.Replaces, key.Networks.Replaces, key.Scopes.Replaces = most, most, most, most, most
	for range record.MaxNetworks {
		key.Networks.Value = append(key.Networks.Value, netip.MustParsePrefix("ff00::/128"))
	}
	for i := range record.MaxScopes {
		key.Scopes.Value = append(key.Scopes.Value, fmt.Sprintf("%0*d", record.MaxScope, i))
	}
	for i := range record.MaxVerifiers {
		key.Verifiers = key.Verifiers.Add(record.Verifier{
			ID: record.VerifierID{1, byte(i)}, Replaces: record.VerifierID{1}, PHC: strings.Repeat("x", record.MaxPHC),
			Generation: most - 1, End: record.LastTime, UntilUsed: true, Base: record.Base{Generation: most - 1, ID: record.VerifierID{1}},
			Handle: record.Handle{1},
		})
	}
	for i := range record.MaxSuperseded {
		key.Verifiers.Superseded = append(key.Verifiers.Superseded, record.Base{Generation: most - 2, ID: record.VerifierID{byte(i >> 8), byte(i), 1}})
	}
	key.Verifiers.Floor, key.Verifiers.BaseFloor = most-2, most-2
	sealedKey := record.Seal("keys", keyID[:], key.Encode())
	if len(sealedKey) > record.MaxSize-4096 {
		t.Errorf("a key can have %d bytes", len(sealedKey))
	}
	back, err := record.DecodeKey(keyID, key.Encode())
	must(t, err)
	if !bytes.Equal(back.Encode(), key.Encode()) || len(back.Verifiers.All) != record.MaxVerifiers {
		t.Error("the greatest key does not read back")
	}

	user := record.User{ID: userID, Created: record.LastTime, Flag: flag, Groups: groups}
	user.Metadata, user.Dropped = key.Metadata, record.Stamp{Counter: 1, Replica: uuid.UUID{0xff}}
	for i := range record.MaxIdentities {
		user = user.SetIdentity(record.Identity{
			Provider: strings.Repeat("x", record.MaxProvider), Subject: fmt.Sprintf("%0*d", record.MaxSubject, i), Stamp: stamp(), Unlinked: true,
		})
	}
	if n := len(record.Seal("users", userID[:], user.Encode())); n > record.MaxSize-4096 || len(user.Identities) != record.MaxIdentities {
		t.Errorf("a user can have %d bytes with %d identities", n, len(user.Identities))
	}
}

func TestTimesThatNoRecordCanHaveBecomeTheNearest(t *testing.T) {
	for _, tt := range []struct{ given, created, expires time.Time }{
		{time.Time{}, time.UnixMilli(0), time.Time{}},
		{time.Unix(-5, 0), time.UnixMilli(0), time.Unix(1, 0)},
		{time.Unix(0, 0), time.UnixMilli(0), time.Unix(1, 0)},
		{time.Unix(7, 999_999_999), time.UnixMilli(7999), time.Unix(7, 0)},
		{record.LastTime.Add(time.Hour), record.LastTime, record.LastTime},
		{time.Unix(math.MaxInt64/1000, 0), record.LastTime, record.LastTime},
	} {
		k := record.Key{ID: keyID, Created: tt.given, Expires: record.Register[time.Time]{Value: tt.given}}
		got, err := record.DecodeKey(keyID, k.Encode())
		must(t, err)
		if !got.Created.Equal(tt.created) || !got.Expires.Value.Equal(tt.expires) {
			t.Errorf("%v: created %v, want %v; expires %v, want %v", tt.given, got.Created, tt.created, got.Expires.Value, tt.expires)
		}
		u, err := record.DecodeUser(userID, record.User{ID: userID, Created: tt.given}.Encode())
		must(t, err)
		if !u.Created.Equal(tt.created) {
			t.Errorf("%v: the user was created %v, want %v", tt.given, u.Created, tt.created)
		}
	}
}

func TestAMergedRecordSharesNothingWithTheOthers(t *testing.T) {
	a, b := fullKey(), fullKey()
	merged, err := a.Merge(b)
	must(t, err)
	want := fullKey()
	for _, k := range []record.Key{a, b} {
		k.Metadata.Value["note"] = "changed"
		k.Scopes.Value[0], k.Networks.Value[0] = "changed", netip.Prefix{}
		k.Groups[0].Value = "changed"
		k.Flag.Writers[0].Disabled = 99
		k.Unknown[len(k.Unknown)-1]++
		k.Verifiers.All[0].PHC = "changed"
		k.Verifiers.All[1].Unknown[3]++
		k.Verifiers.Superseded[0].Generation = 99
	}
	if !reflect.DeepEqual(merged, want) {
		t.Errorf("the merged key changed:\ngot  %+v\nwant %+v", merged, want)
	}
	u, v := fullUser(), fullUser()
	u.Identities, v.Identities = u.Identities[:1], v.Identities[1:]
	mergedUser := u.Merge(v)
	for _, u := range []record.User{u, v} {
		u.Metadata.Value["plan"] = "changed"
		u.Groups[0].Value = "changed"
		u.Flag.Writers[0].Disabled = 99
		u.Unknown[3]++
		for i := range u.Identities {
			u.Identities[i].Subject = "changed"
			for j := range u.Identities[i].Unknown {
				u.Identities[i].Unknown[j]++
			}
		}
	}
	if !reflect.DeepEqual(mergedUser, fullUser()) {
		t.Errorf("the merged user changed: %+v", mergedUser)
	}
}
