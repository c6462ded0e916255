package replication

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// This file reads records into states. It decodes with package record, and merges nothing.

// kinds has the kind of record in each table.
var kinds = map[string]string{
	record.TableUsers: "user", record.TableDeadUsers: "user", record.TableKeys: "key", record.TableDeadKeys: "key", record.TableGroups: "group",
}

// A name is the kind and the ID of a record.
type name struct{ kind, id string }

func (n name) String() string {
	if n.kind == "group" {
		return "group " + n.id
	}
	return fmt.Sprintf("%s %x", n.kind, n.id)
}

// isBefore reports whether an edge brings the copy of a record before that of another one.
func (n name) isBefore(m name) bool {
	return cmp.Or(cmp.Compare(n.kind, m.kind), cmp.Compare(n.id, m.id)) < 0
}

func nameOf(table string, key []byte) name { return name{kinds[table], string(key)} }

func (s *state) name() name { return name{s.kind, s.id} }

func isDead(table string) bool {
	return table == record.TableDeadUsers || table == record.TableDeadKeys
}

// read decodes a record. The state lacks the disablings, because a flag has only their numbers.
func read(table string, key []byte, sealed string) (s *state, f record.Flag, err error) {
	message, err := record.Open(table, key, []byte(sealed))
	if err != nil {
		return nil, f, err
	}
	s = &state{kind: kinds[table], id: string(key), dead: isDead(table)}
	id, _ := uuid.FromBytes(key)
	switch table {
	case record.TableUsers:
		u, err := record.DecodeUser(id, message)
		s.created, s.groups = u.Created.UnixMilli(), readGroups(u.Groups)
		s.fields = readFields(map[string]field{"metadata": readField(u.Metadata, metadataValue)})
		s.identities = map[string]field{}
		for _, i := range u.Identities {
			f := field{counter: i.Stamp.Counter, replica: i.Stamp.Replica}
			if i.Unlinked {
				f.value = "unlinked"
			}
			s.identities[i.Provider+"/"+i.Subject] = f
		}
		return s, u.Flag, err
	case record.TableKeys:
		k, err := record.DecodeKey(id, message)
		s.owner, s.foreign, s.created, s.groups = k.Owner, k.Foreign, k.Created.UnixMilli(), readGroups(k.Groups)
		readKey(s, &k)
		return s, k.Flag, err
	case record.TableGroups:
		g, err := record.DecodeGroup(string(key), message)
		return s, g.Flag, err
	case record.TableDeadUsers:
		d, err := record.DecodeUserTombstone(id, message)
		s.groups = readGroups(d.Groups)
		return s, f, err
	case record.TableDeadKeys:
		d, err := record.DecodeKeyTombstone(id, message)
		s.owner, s.foreign, s.groups = d.Owner, d.Foreign, readGroups(d.Groups)
		return s, f, err
	}
	return nil, f, fmt.Errorf("a record of table %s", table)
}

func readGroups(groups record.Groups) (all []field) {
	for _, g := range groups {
		all = append(all, readField(g, func(v string) string { return v }))
	}
	return all
}

func readField[T any](r record.Register[T], value func(T) string) field {
	return field{value: value(r.Value), counter: r.Stamp.Counter, replica: r.Stamp.Replica, replaces: r.Replaces}
}

// readFields returns the fields that were ever set.
func readFields(all map[string]field) map[string]field {
	maps.DeleteFunc(all, func(_ string, f field) bool { return f.counter == 0 })
	return all
}

func readKey(s *state, k *record.Key) {
	s.fields = readFields(map[string]field{
		"name":     readField(k.Name, func(v string) string { return v }),
		"expires":  readField(k.Expires, expiryValue),
		"scopes":   readField(k.Scopes, scopesValue),
		"networks": readField(k.Networks, networksValue),
		"metadata": readField(k.Metadata, metadataValue),
	})
	s.tokens, s.cuts = map[string]token{}, map[string]bool{}
	for _, v := range k.Verifiers.All {
		t := token{untilUsed: v.UntilUsed, retired: v.Retired, replaces: string(v.Replaces[:]), base: baseOf(v.Base), generation: v.Generation, tag: v.Tag}
		if !v.End.IsZero() {
			t.ends = v.End.Unix()
		}
		s.tokens[string(v.ID[:])] = t
	}
	for _, b := range k.Verifiers.Superseded {
		s.cuts[baseOf(b)] = true
	}
}

func baseOf(b record.Base) string {
	return string(binary.BigEndian.AppendUint64(nil, b.Generation)) + string(b.ID[:])
}

// The values of fields are in the form by which docs/formats.md compares them.

func lengthened(tag byte, b string) string {
	return string(binary.AppendUvarint([]byte{tag}, uint64(len(b)))) + b
}

func metadataValue(m record.Metadata) (value string) {
	for _, n := range slices.Sorted(maps.Keys(m)) {
		value += lengthened(0x1a, lengthened(0x0a, n)+lengthened(0x12, m[n]))
	}
	return value
}

func scopesValue(scopes []string) (value string) {
	for _, s := range scopes {
		value += lengthened(0x1a, s)
	}
	return value
}

func networksValue(networks []netip.Prefix) (value string) {
	for _, n := range networks {
		value += lengthened(0x1a, string(n.Addr().AsSlice())+string([]byte{byte(n.Bits())}))
	}
	return value
}

func expiryValue(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return string(binary.AppendUvarint([]byte{0x18}, uint64(t.Unix())))
}

// sum returns how often a flag was set and cleared, over all its writers.
func sum(f record.Flag) (disabled, enabled uint64) {
	if f.Sealed {
		return math.MaxUint64, 0
	}
	for _, w := range f.Writers {
		disabled += w.Disabled
		enabled += w.Enabled
	}
	return disabled + f.Base, enabled
}
