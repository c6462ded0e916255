package replication

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// This file is the reference: what the rules of docs/formats.md say about two versions of a record,
// in plain maps. It shares no code with package record.

// A state is everything that is known of a user, a key or a group in one place.
type state struct {
	kind    string // "user", "key" or "group"
	id      string // as the table has it
	owner   uuid.UUID
	foreign bool
	dead    bool // only id, owner, foreign and groups are left

	created         int64 // in milliseconds since 1970
	seen, cancelled set   // disablings, by their numbers
	fields          map[string]field
	identities      map[string]field // by provider and subject; the value is "unlinked" or empty
	groups          []field          // the present one first
	tokens          map[string]token // by the IDs of their verifiers
	cuts            map[string]bool  // bases that rotations without overlap have replaced
}

type set map[int]bool

// A field is a value with its stamp.
type field struct {
	value    string // so that the greater one wins of two that were written at once by one replica
	counter  uint64
	replica  uuid.UUID
	replaces uint64
}

// A token is a verifier of a key.
type token struct {
	ends           int64 // in seconds since 1970, or 0
	untilUsed      bool
	retired        bool
	replaces, base string
	generation     uint64
	tag            uint64
}

// maxGroups is how many groups a record keeps, with the present one.
const maxGroups = 9

func (f field) compare(g field) int {
	return cmp.Or(cmp.Compare(f.counter, g.counter), bytes.Compare(f.replica[:], g.replica[:]), cmp.Compare(f.value, g.value), cmp.Compare(g.replaces, f.replaces))
}

func later(f, g field) field {
	if f.compare(g) < 0 {
		return g
	}
	return f
}

// joined returns what two versions of one record become. Either can be nil.
func joined(a, b *state) *state {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	m := &state{kind: a.kind, id: a.id, owner: a.owner, foreign: a.foreign || b.foreign, dead: a.dead || b.dead}
	m.groups = mergeGroups(a.groups, b.groups)
	if m.dead {
		return m // deletion wins for good
	}
	m.created = min(a.created, b.created)
	m.seen, m.cancelled = union(a.seen, b.seen), union(a.cancelled, b.cancelled)
	m.fields = mergeMaps(a.fields, b.fields, later)
	m.identities = mergeMaps(a.identities, b.identities, later) // "unlinked" is greater than ""
	m.cuts = mergeMaps(a.cuts, b.cuts, func(x, _ bool) bool { return x })
	m.tokens = mergeMaps(a.tokens, b.tokens, func(x, y token) token {
		if x.ends == 0 || y.ends != 0 && y.ends < x.ends {
			x.ends = y.ends
		}
		x.retired = x.retired || y.retired
		x.untilUsed = x.untilUsed || y.untilUsed
		return x
	})
	for id, t := range m.tokens {
		if t.retired = t.retired || m.cuts[t.base]; t.retired {
			t.untilUsed = false
		}
		m.tokens[id] = t
	}
	return m
}

// pushed returns what a push makes of a record of the hub. If the edge did not know the hub's
// expiry, scopes or networks, these stay, and so does the group. They are written again under a
// higher counter.
func pushed(ours, theirs *state, hub uuid.UUID) *state {
	m := joined(ours, theirs)
	if ours == nil || m.dead {
		return m
	}
	at := m.highest() + 1
	again := func(f field) field {
		if f.replica != hub {
			f.replaces = f.counter
		}
		return field{f.value, at, hub, f.replaces}
	}
	fields := maps.Clone(m.fields)
	for _, n := range []string{"expires", "scopes", "networks"} {
		was, came := ours.fields[n], theirs.fields[n]
		if was.counter > 0 && came.compare(was) > 0 && came.replica != was.replica && came.replaces < was.counter {
			fields[n] = again(was)
		}
	}
	m.fields = fields
	if m.group() != ours.group() {
		m.groups = mergeGroups(m.groups, []field{{value: ours.group(), counter: at, replica: hub}})
	}
	return m
}

// mergeGroups keeps the latest move to each group, and the latest groups.
func mergeGroups(a, b []field) (merged []field) {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y field) int { return y.compare(x) })
	for _, f := range all {
		if len(merged) < maxGroups && !slices.ContainsFunc(merged, func(m field) bool { return m.value == f.value }) {
			merged = append(merged, f)
		}
	}
	return merged
}

func union(a, b set) set { return mergeMaps(a, b, func(x, _ bool) bool { return x }) }

func mergeMaps[K comparable, V any](a, b map[K]V, both func(V, V) V) map[K]V {
	m := maps.Clone(a)
	if m == nil {
		m = map[K]V{}
	}
	for k, v := range b {
		if was, ok := m[k]; ok {
			v = both(was, v)
		}
		m[k] = v
	}
	return m
}

// buried returns what is left of a record when it is deleted.
func (s *state) buried() *state {
	return &state{kind: s.kind, id: s.id, owner: s.owner, foreign: s.foreign, dead: true, groups: s.groups}
}

// isDisabled reports whether there is a disabling that no enabling has seen.
func (s *state) isDisabled() bool {
	for event := range s.seen {
		if !s.cancelled[event] {
			return true
		}
	}
	return false
}

// group returns the present group.
func (s *state) group() string {
	if len(s.groups) == 0 {
		return ""
	}
	return s.groups[0].value
}

// highest returns the highest counter in the record.
func (s *state) highest() (n uint64) {
	for _, f := range s.groups {
		n = max(n, f.counter)
	}
	for _, f := range s.fields {
		n = max(n, f.counter)
	}
	for _, f := range s.identities {
		n = max(n, f.counter)
	}
	return n
}

// view returns what a store shows of the record, as a text.
func (s *state) view() string {
	if s == nil {
		return "nothing"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %x", s.kind, s.id)
	if s.kind == "key" {
		fmt.Fprintf(&b, " owner=%s foreign=%t", s.owner, s.foreign)
	}
	for _, f := range s.groups {
		fmt.Fprintf(&b, " group=%s", f)
	}
	if s.dead {
		return b.String() + " dead"
	}
	fmt.Fprintf(&b, " created=%d disabled=%t", s.created, s.isDisabled())
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		fmt.Fprintf(&b, " %s=%s", name, s.fields[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.identities)) {
		fmt.Fprintf(&b, " identity %q=%s", name, s.identities[name])
	}
	for _, id := range slices.Sorted(maps.Keys(s.tokens)) {
		fmt.Fprintf(&b, " token %x=%+v", id, s.tokens[id])
	}
	for _, c := range slices.Sorted(maps.Keys(s.cuts)) {
		fmt.Fprintf(&b, " cut=%x", c)
	}
	return b.String()
}

// all returns everything that is known, as a text.
func (s *state) all() string {
	if s == nil || s.dead {
		return s.view()
	}
	return fmt.Sprint(s.view(), slices.Sorted(maps.Keys(s.seen)), slices.Sorted(maps.Keys(s.cancelled)))
}

func (f field) String() string {
	return fmt.Sprintf("%q@%d-%x/%d", f.value, f.counter, f.replica[:4], f.replaces)
}
