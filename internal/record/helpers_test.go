package record_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

var (
	keyID  = uuid.UUID{0x01, 0x9b, 15: 1}
	userID = uuid.UUID{0x4b, 15: 2}
	here   = uuid.UUID{0xaa, 15: 1}
	there  = uuid.UUID{0xaa, 15: 2}
)

func at(counter uint64, replica uuid.UUID) record.Stamp {
	return record.Stamp{Counter: counter, Replica: replica}
}

func text(value string, s record.Stamp) record.Register[string] {
	return record.Register[string]{Value: value, Stamp: s}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantDamaged(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, record.ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
}

// later returns fields that no build knows today, with numbers from one on.
func later(number int, values ...string) record.Unknown {
	var m record.Message
	for i, v := range values {
		m.Bytes(number+i, []byte(v))
	}
	return record.Unknown(m)
}

// fullKey returns a key that has something in every field.
func fullKey() record.Key {
	first := record.Verifier{ID: record.VerifierID{1}, PHC: "$argon2id$first"}
	second := first.Next(record.VerifierID{2}, "$argon2id$second")
	second.UntilUsed, second.Unknown = true, later(90, "verifier")
	third := second.Next(record.VerifierID{3}, "$argon2id$third")
	third.Handle, third.Tag = record.Handle{1, 15: 9}, 7
	k := record.Key{
		ID: keyID, Owner: userID,
		Created:  time.UnixMilli(1767323045678).UTC(),
		Name:     text("laptop", at(3, here)),
		Expires:  record.Register[time.Time]{Value: time.Unix(1798859045, 0).UTC(), Stamp: at(4, there), Replaces: 3},
		Scopes:   record.Register[[]string]{Value: []string{"files:*", "files:read"}, Stamp: at(5, here)},
		Metadata: record.Register[record.Metadata]{Value: record.Metadata{"": "x", "note": "", "site": "Oslo"}, Stamp: at(7, here)},
		Flag:     record.Flag{Base: 5}.Disable(record.Writer{2}).Enable().Disable(record.Writer{1}),
		Foreign:  true,
		Unknown:  later(900, "key", "key"),
	}
	k.Networks = record.Register[[]netip.Prefix]{
		Value: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/64")}, Stamp: at(6, there), Replaces: 300,
	}
	k.Groups = k.Groups.Set("north", at(1, here)).Set("", at(8, there))
	k.Verifiers = k.Verifiers.Add(first).Add(second).Supersede(second.ID).Add(third).EndAt(second.ID, time.Unix(1798859045, 0))
	return k
}

// fullUser returns a user that has something in every field.
func fullUser() record.User {
	u := record.User{
		ID:       userID,
		Created:  time.UnixMilli(1767323045678).UTC(),
		Metadata: record.Register[record.Metadata]{Value: record.Metadata{"plan": "free"}, Stamp: at(9, there)},
		Flag:     record.Flag{}.Disable(record.Writer{1}),
		Unknown:  later(900, "user", "user"),
		Dropped:  at(1, there),
	}
	u.Groups = u.Groups.Set("north", at(3, here))
	return u.
		SetIdentity(record.Identity{Provider: "local-userpass", Subject: "ada@example.com", Stamp: at(2, here), Unknown: later(90, "identity")}).
		SetIdentity(record.Identity{Provider: "custom-token", Subject: "åda", Stamp: at(5, there), Unlinked: true})
}

func fullGroup() record.Group {
	return record.Group{Name: "north", Flag: record.Flag{}.Disable(record.Writer{1}).Enable(), Unknown: later(900, "group", "group")}
}

func fullKeyTombstone() record.KeyTombstone {
	d := fullKey().Tombstone()
	d.Unknown = later(900, "tombstone", "tombstone")
	return d
}

func fullUserTombstone() record.UserTombstone {
	d := fullUser().Tombstone()
	d.Unknown = later(900, "tombstone", "tombstone")
	return d
}

// A kind is one kind of record, as a value that tests can treat like the others.
type kind struct {
	name  string
	value any
	bytes []byte
	// decode reads a message.
	decode func(message []byte) (value any, err error)
	encode func(value any) []byte
	merge  func(a, b any) any
}

func kinds() []kind {
	return []kind{
		{
			"key", fullKey(), fullKey().Encode(),
			func(m []byte) (any, error) { return record.DecodeKey(keyID, m) },
			func(v any) []byte { return v.(record.Key).Encode() },
			func(a, b any) any {
				merged, err := a.(record.Key).Merge(b.(record.Key))
				if err != nil {
					return err
				}
				return merged
			},
		},
		{
			"user", fullUser(), fullUser().Encode(),
			func(m []byte) (any, error) { return record.DecodeUser(userID, m) },
			func(v any) []byte { return v.(record.User).Encode() },
			func(a, b any) any { return a.(record.User).Merge(b.(record.User)) },
		},
		{
			"group", fullGroup(), fullGroup().Encode(),
			func(m []byte) (any, error) { return record.DecodeGroup("north", m) },
			func(v any) []byte { return v.(record.Group).Encode() },
			func(a, b any) any { return a.(record.Group).Merge(b.(record.Group)) },
		},
		{
			"tombstone of a key", fullKeyTombstone(), fullKeyTombstone().Encode(),
			func(m []byte) (any, error) { return record.DecodeKeyTombstone(keyID, m) },
			func(v any) []byte { return v.(record.KeyTombstone).Encode() },
			func(a, b any) any {
				merged, err := a.(record.KeyTombstone).Merge(b.(record.KeyTombstone))
				if err != nil {
					return err
				}
				return merged
			},
		},
		{
			"tombstone of a user", fullUserTombstone(), fullUserTombstone().Encode(),
			func(m []byte) (any, error) { return record.DecodeUserTombstone(userID, m) },
			func(v any) []byte { return v.(record.UserTombstone).Encode() },
			func(a, b any) any { return a.(record.UserTombstone).Merge(b.(record.UserTombstone)) },
		},
	}
}

// split returns the fields of a message, each as it was written.
func split(t testing.TB, message []byte) (fields [][]byte) {
	t.Helper()
	for rest := message; len(rest) > 0; {
		for n := 1; ; n++ {
			if n > len(rest) {
				t.Fatalf("no field in %x", rest)
			}
			whole := true
			for _, err := range record.Fields(rest[:n]) {
				whole = err == nil
				break
			}
			if whole {
				fields = append(fields, slices.Clone(rest[:n]))
				rest = rest[n:]
				break
			}
		}
	}
	return fields
}
