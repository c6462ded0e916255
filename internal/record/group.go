package record

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// MaxPastGroups is how many former groups a record and its tombstone keep. If a replica may have
// the record by one of them, and not by the present one, it is told to forget the record.
const MaxPastGroups = 8

// Groups are the groups that a record is in and was in, the present one first. There are at most
// 1 + [MaxPastGroups], and each is there once, with the stamp of the last move to it. An empty name
// is no group. A record that never was in a group has none.
type Groups []Register[string]

// Now returns the present group, or "".
func (g Groups) Now() string {
	if len(g) == 0 {
		return ""
	}
	return g[0].Value
}

// Set returns the groups after the record was moved to another one.
func (g Groups) Set(name string, at Stamp) Groups { return g.merge(Groups{{Value: name, Stamp: at}}) }

// merge keeps the groups with the highest stamps.
func (g Groups) merge(other Groups) Groups {
	all := slices.Concat(g, other)
	sorted.Func(all, func(a, b Register[string]) int {
		return cmp.Or(b.Stamp.Compare(a.Stamp), cmp.Compare(b.Value, a.Value), cmp.Compare(a.Replaces, b.Replaces))
	})
	var merged Groups
	for _, r := range all {
		if len(merged) == 1+MaxPastGroups {
			break
		}
		if !slices.ContainsFunc(merged, func(m Register[string]) bool { return m.Value == r.Value }) {
			merged = append(merged, r)
		}
	}
	return merged
}

func (g Groups) stamps() (all []Stamp) {
	for _, r := range g {
		all = append(all, r.Stamp)
	}
	return all
}

func (g Groups) fields(m *Message, field int, t replicaTable) {
	for _, r := range g {
		m.element(field, encodeText(r, t))
	}
}

// add reads one of the groups.
func (g *Groups) add(b []byte, t replicaTable) error {
	r, err := decodeText("group", b, t, MaxGroup)
	*g = append(*g, r)
	return err
}

// encodeText returns the message of a text and its stamp.
func encodeText(r Register[string], t replicaTable) []byte {
	return encodeRegister(r, t, func(m *Message) { m.Bytes(fieldValue, []byte(r.Value)) })
}

func decodeText(what string, b []byte, t replicaTable, most int) (Register[string], error) {
	return decodeRegister(b, t, func(value *string, f Field) (err error) {
		*value, err = decodeString(what, f.Bytes, most)
		return err
	})
}

// A Group is what is known of a group beyond its members: whether it is disabled.
type Group struct {
	Name    string
	Flag    Flag
	Unknown Unknown
}

// The fields of a group's message.
const groupFlag = 1

// Encode returns the group's message. The name is the table's key.
func (g Group) Encode() []byte {
	var m Message
	m.Bytes(groupFlag, g.Flag.encode())
	return append(m, g.Unknown.sorted()...)
}

// DecodeGroup reads a group's message.
//
// Errors: [ErrDamaged].
func DecodeGroup(name string, message []byte) (g Group, err error) {
	g.Name = name
	for f, err := range Fields(message) {
		if err != nil {
			return g, err
		}
		switch f.Num {
		case groupFlag:
			if g.Flag, err = decodeFlag(f.Bytes); err != nil {
				return g, err
			}
		default:
			g.Unknown.add(f)
		}
	}
	g.Unknown = g.Unknown.sorted()
	return g, nil
}

// UnsealGroup decodes the record that the table of groups has under a name.
//
// Errors: those of [Open] and [DecodeGroup].
func UnsealGroup(name string, sealed []byte) (*Group, error) {
	message, err := Open(TableGroups, []byte(name), sealed)
	if err != nil {
		return nil, err
	}
	g, err := DecodeGroup(name, message)
	if err != nil {
		return nil, fmt.Errorf("table %s, record of %q: %w", TableGroups, name, err)
	}
	return &g, nil
}

// Merge returns what two versions of one group merge to.
func (g Group) Merge(other Group) Group {
	return Group{Name: g.Name, Flag: g.Flag.merge(other.Flag), Unknown: g.Unknown.merge(other.Unknown)}
}
