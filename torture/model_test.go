package torture_test

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkeydb/latchkey"
)

// A program is a list of steps: calls of the public API, and events between the calls. It is drawn
// at random. The rules in rules_test.go play it and say which answers each call may give. The
// player in player_test.go plays it on stores in several configurations that must not matter. All
// stores must answer by the rules, and all must give the same answers.

func TestProgramsGetTheAnswersOfTheRulesHoweverTheStoreIsConfigured(t *testing.T) {
	foreign := newForeigner(t)
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.Custom(drawProgram).Draw(rt, "program")
		want := newRules(steps.steady()).playAll(steps)
		var first history
		for _, c := range configurations {
			runs++
			p := newPlayer(rt, c, filepath.Join(dir, fmt.Sprint(runs)), foreign)
			p.steady = steps.steady()
			got := p.playAll(steps)
			p.end()
			if at, ok := got.allowedBy(want); !ok {
				rt.Fatalf("with %s, step by step:\n%s\nThe last should be one of %q.", c.name, got[:at+1], want[at].allowed)
			}
			if first == nil {
				first = got
			}
			if !slices.EqualFunc(got, first, func(a, b string) bool { return a == b || tellsUse(a) }) {
				rt.Fatalf("with %s:\n%s\nwith %s:\n%s", configurations[0].name, first, c.name, got)
			}
		}
	})
}

// A configuration is one way to run a store. It must not change any answer.
type configuration struct {
	name      string
	cacheSize int
	everyStep bool            // reopen after each step
	asDrawn   bool            // reopen where the program says so
	trail     bool            // keep an audit trail
	costs     []latchkey.Cost // one for each opening of the store, in turn
}

var (
	light  = latchkey.LightCost
	dearer = latchkey.Cost{Memory: 2 * latchkey.LightCost.Memory, Passes: 1, Lanes: 1}

	configurations = []configuration{
		{name: "a cache", costs: []latchkey.Cost{light}},
		{name: "no cache", cacheSize: -1, costs: []latchkey.Cost{light}},
		{name: "a cache of two keys, and a trail", cacheSize: 2, asDrawn: true, trail: true, costs: []latchkey.Cost{light}},
		{name: "reopening after each step, and a trail", everyStep: true, trail: true, costs: []latchkey.Cost{light}},
		{name: "another cost after each reopening", asDrawn: true, costs: []latchkey.Cost{light, dearer}},
	}
)

// maxKeys is low, so that programs reach it.
const maxKeys = 3

// tellsUse reports whether a line of a history tells when a key was used last. If the clock was set
// back, that may depend on when the store wrote the last uses.
func tellsUse(line string) bool {
	line = strings.TrimSpace(line)
	return strings.HasPrefix(line, "LastUsed ") || strings.HasPrefix(line, "UnusedSince ")
}

// A step is one call, or an event between calls. It names users, keys and tokens by a [ref].
type step struct {
	do       string
	user     ref
	key      ref
	byOwner  bool // the call on key is made for its owner, and RotateWith for the key of its token
	token    ref
	spoil    string // how the token was changed
	at       int    // which of its characters was changed
	mint     ref
	identity latchkey.Identity
	name     string
	expires  time.Duration // from now; 0 for never
	carried  int           // of a setter: which of scopeLists, networkLists or metadataLists
	spec     carried       // of a call that makes a key, or brings one in line
	from     string        // of Login: an address, or "" for Login without one
	group    string        // of SetUserGroup and others, and of a new key; of AllKeys, "" for all
	since    time.Duration // of UnusedSince: from now
	state    latchkey.KeyState
	requests []step // of CreateKeys: user, name, expires
	inside   []step // of Update and View
	ending   string // of Update
	clock    time.Duration

	secret    int           // the number of a tag secret; of AllKeys, 0 for all
	overlap   time.Duration // of RotateKey and RotateWith
	untilUsed bool
}

// carried is which of scopeLists, networkLists and metadataLists a key gets.
type carried struct{ scopes, networks, metadata int }

// A ref stands for one of the users, keys, tokens or minted keys that the program has met so far. 0
// is the newest, 1 the one before it, and so on, around the list. From refServer on, a ref stands
// for somebody that is not in the list.
type ref int

const (
	refServer ref = 17 + iota
	refNil
	refStranger
)

// index returns the index in a list of n things, or -1 if the ref stands for none of them.
func (r ref) index(n int) int {
	if n == 0 || r >= refServer {
		return -1
	}
	return n - 1 - int(r)%n
}

// counts are the numbers of users, keys, tokens and minted keys that a ref can stand for.
type counts struct{ users, keys, tokens, mints, rotations int }

// text describes a step, with the things that its refs stand for.
func (s step) text(n counts) string {
	user := userName(ownNobody)
	if i := s.user.index(n.users); i >= 0 {
		user = userName(i)
	} else if s.user == refServer {
		user = userName(ownServer)
	}
	key := keyName(s.key.index(n.keys))
	if s.byOwner {
		key += " for its owner"
	} else {
		key += " for " + user
	}
	made := fmt.Sprintf("for %s, named %s, expiring in %s%s", user, quoted(s.name), s.expires, groupText(s.group))
	if c := s.spec; c != (carried{}) {
		made += fmt.Sprintf(", with %q, %s, %q", scopeLists[c.scopes], networkLists[c.networks].name, metadataLists[c.metadata])
	}
	text := s.do
	switch s.do {
	case "CreateUser", "UserByIdentity":
		text += " " + identityText(s.identity)
		if s.group != "" {
			text += fmt.Sprintf(" in group %q", s.group)
		}
	case "LinkIdentity":
		text += " " + identityText(s.identity) + " to " + user
	case "UnlinkIdentity":
		text += " " + identityText(s.identity) + " from " + user
	case "User", "Keys", "DisableUser", "EnableUser", "DeleteUser":
		text += " " + user
	case "DisableGroup", "EnableGroup", "Group":
		text += fmt.Sprintf(" %q", s.group)
	case "SetUserGroup":
		text += fmt.Sprintf(" of %s, to %q", user, s.group)
	case "SetKeyGroup":
		text += fmt.Sprintf(" of %s, to %q", keyName(s.key.index(n.keys)), s.group)
	case "KeyByID", "LastUsed":
		text += " " + keyName(s.key.index(n.keys))
	case "UnusedSince":
		text += fmt.Sprintf(" %s from now, of %s", s.since, keyName(s.key.index(n.keys)))
	case "ExpiringBefore":
		text += fmt.Sprintf(" %s from now", s.expires)
	case "AllKeys":
		if s.user == refNil {
			user = "everybody"
		}
		text += fmt.Sprintf(" of %s, in group %q, named %q and so on, in state %d, expiring in %s, under secrets before %d", user, s.group, s.name, s.state, s.expires, s.secret)
	case "UseTagSecret", "RetireTagSecret":
		text += fmt.Sprintf(" %d", s.secret)
	case "Users":
		text += " after " + user
	case "Key", "DisableKey", "EnableKey", "DeleteKey", "MintToken":
		text += " " + key
	case "RotateKey":
		text += fmt.Sprintf(" %s, with an overlap of %s, until used: %t", key, s.overlap, s.untilUsed)
	case "RotateWith":
		if s.byOwner {
			key = "of its key"
		}
		text += fmt.Sprintf(" minted token %d %s, with an overlap of %s, until used: %t", s.mint.index(n.rotations), key, s.overlap, s.untilUsed)
	case "RenameKey":
		text += fmt.Sprintf(" %s, to %s", key, quoted(s.name))
	case "SetExpiry":
		text += fmt.Sprintf(" of %s, to %s from now", key, s.expires)
	case "SetScopes":
		text += fmt.Sprintf(" of %s, to %q", key, scopeLists[s.carried])
	case "SetNetworks":
		text += fmt.Sprintf(" of %s, to %s", key, networkLists[s.carried].name)
	case "SetMetadata":
		text += fmt.Sprintf(" of %s, to %q", key, metadataLists[s.carried])
	case "SetUserMetadata":
		text += fmt.Sprintf(" of %s, to %q", user, metadataLists[s.carried])
	case "CreateKey":
		text += " " + made
	case "InsertKey", "EnsureKey":
		text += fmt.Sprintf(" of mint %d %s", s.mint.index(n.mints), made)
	case "CreateKeys":
		for _, r := range s.requests {
			text += ", " + r.text(n)
		}
	case "Login":
		text += fmt.Sprintf(" with token %d from %q", s.token.index(n.tokens), s.from)
		if s.spoil != "" {
			text += ", " + s.spoil
		}
	case "Update":
		text += ", which returns " + s.ending
	case "move the clock":
		text += fmt.Sprint(" by ", s.clock)
	}
	return text
}

// The ways in which the function of an Update ends.
const (
	endWell         = "nil"
	endBadly        = "an error of its own"
	endAtFirstError = "the first error, at once"
)

var errEndBadly = errors.New("the function gives up")

// words repeats each word by its weight, so that it is drawn more or less often than the others.
func words(weights ...any) (list []string) {
	for i := 0; i < len(weights); i += 2 {
		list = append(list, slices.Repeat([]string{weights[i].(string)}, weights[i+1].(int))...)
	}
	return list
}

var (
	changes = words("CreateUser", 5, "LinkIdentity", 3, "UnlinkIdentity", 3, "DisableUser", 2, "EnableUser", 2, "DeleteUser", 1,
		"RenameKey", 3, "DisableKey", 3, "EnableKey", 3, "DeleteKey", 1,
		"SetExpiry", 8, "SetScopes", 1, "SetNetworks", 3, "SetMetadata", 1, "SetUserMetadata", 1,
		"SetUserGroup", 5, "SetKeyGroup", 3, "DisableGroup", 3, "EnableGroup", 4)
	readings = words("User", 1, "UserByIdentity", 1, "Users", 1, "Key", 1, "Keys", 2, "KeyByID", 1, "AllKeys", 4, "ExpiringBefore", 1,
		"LastUsed", 4, "UnusedSince", 8, "Group", 1, "Groups", 1)

	insideSteps = slices.Concat(changes, readings, words("InsertKey", 6, "EnsureKey", 6, "RotateWith", 8))
	topSteps    = slices.Concat(changes, readings, words("CreateKey", 12, "RotateKey", 5, "CreateKeys", 3, "MintKey", 3, "MintForeign", 2, "InsertKey", 4,
		"EnsureKey", 6, "MintToken", 8, "RotateWith", 12,
		"Login", 24, "Update", 8, "View", 2, "Stats", 1, "AddTagSecret", 2, "UseTagSecret", 3, "RetireTagSecret", 2, "TagSecrets", 1, "move the clock", 6, "reopen", 2))

	spoils = words("", 30, "another character", 3, "cut short", 1, "one more character", 1, "upper case", 1,
		"another prefix", 1, "nothing left", 1)

	longest = strings.Repeat("n", 256)

	names = slices.Concat(words("laptop", 4, "phone", 4, "watch", 4, "tablet", 4, "Ada’s car", 4, longest, 2),
		[]string{"", "two\nlines", "next\u0085line", "\xff", longest + "n", " laptop", "laptop\u200b", "\u2800", "5f60207f14dfb25d23101102"})

	identities = slices.Concat(slices.Repeat([]latchkey.Identity{
		email("ada"), email("grace"), email("edsger"),
		{Provider: latchkey.ProviderGoogle, Subject: "ada"}, {Provider: latchkey.ProviderCustomToken, Subject: longest},
	}, 4), []latchkey.Identity{
		{Provider: latchkey.ProviderAnonymous}, {Provider: latchkey.ProviderAnonymous}, {Provider: latchkey.ProviderAnonymous, Subject: "guest"},
		{Provider: "carrier-pigeon", Subject: "ada"}, email(""), email("a\x00b"), email("\xff"), email(longest + "s"),
		email("ada\u00a0"), email("\ufeffada"),
	})

	// UnlinkIdentity can also mean the identity that an anonymous user was made with.
	unlinked = append(slices.Repeat([]latchkey.Identity{{Provider: latchkey.ProviderAnonymous, Subject: self}}, 6), identities...)

	scopeLists = [][]string{nil, {"files:read"}, {"files:*", "mail:read"}, {"*"}, {"files:read", "with a blank"}}

	// The address 203.0.113.7 is in none of the networks.
	addresses    = []string{"", "192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7%eth0", "203.0.113.7"}
	networkLists = []networkList{
		{name: "none", from: addresses},
		{name: "home", texts: "192.0.2.0/24", from: []string{"192.0.2.7", "::ffff:192.0.2.7"}},
		{name: "home, as it may be given", texts: "::ffff:192.0.2.99/120", from: []string{"192.0.2.7", "::ffff:192.0.2.7"}},
		{name: "home and away", texts: "198.51.100.0/24 2001:db8::/32 192.0.2.0/24", from: addresses[1:5]},
		{name: "away", texts: "2001:db8::/32", from: []string{"2001:db8::7%eth0"}},
		{name: "too many", texts: strings.Repeat("192.0.2.0/24 ", 17), invalid: true},
		{name: "IPv4 and more", texts: "::ffff:0:0/95", invalid: true},
	}

	metadataLists = []map[string]string{nil, {"room": "4"}, {"room": "5", "shift": "night"}, {"": "no name"}}

	groups   = words("acme", 6, "plant 7", 4, "acme labs", 1, "", 2, "*", 1, " acme", 1)
	prefixes = []string{"", "", "", "", "la", "laptop", longest[:200]}

	// Most refs stand for something new, and few for something that does not exist.
	refs = []ref{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8, refServer, refServer, refNil, refStranger}

	overlaps  = []time.Duration{0, time.Hour, time.Hour, time.Second, 400 * time.Millisecond, -time.Second}
	durations = []time.Duration{0, 0, 0, 0, 0, time.Hour, time.Hour, 1500 * time.Millisecond, 600 * time.Millisecond, -time.Second}
	shifts    = []time.Duration{time.Millisecond, 700 * time.Millisecond, 2 * time.Second, time.Minute, time.Hour, -time.Hour}
	sinces    = []time.Duration{0, 0, time.Millisecond, time.Minute, -time.Minute, -time.Hour, time.Hour}

	// Most keys carry nothing when they are made.
	specs = append(slices.Repeat([]carried{{}}, 8), carried{scopes: 1}, carried{2, 1, 1}, carried{3, 2, 2}, carried{networks: 3},
		carried{metadata: 2}, carried{scopes: 4}, carried{networks: 5}, carried{metadata: 3})
)

// networkList has networks of a key, and the addresses that a key with these networks logs in from.
type networkList struct {
	name    string
	texts   string // the networks
	from    []string
	invalid bool
}

func (l networkList) networks() (networks []netip.Prefix) {
	for _, text := range strings.Fields(l.texts) {
		networks = append(networks, netip.MustParsePrefix(text))
	}
	return networks
}

// program is drawn as one value. If it fails, rapid shrinks it to a short one and prints it.
type program []step

// steady reports whether the clock is never set back. Then all stores know the same last uses.
func (p program) steady() bool {
	return !slices.ContainsFunc(p, func(s step) bool { return s.clock < 0 })
}

// GoString keeps rapid from printing every field of every step, because the history says more.
func (p program) GoString() string { return fmt.Sprintf("%d steps", len(p)) }

func drawProgram(t *rapid.T) (p program) {
	t.Repeat(map[string]func(*rapid.T){"step": func(t *rapid.T) { p = append(p, drawStep(t, topSteps)) }})
	return p
}

// drawStep draws one step of one of the kinds, with the fields that this kind needs.
func drawStep(t *rapid.T, kinds []string) step {
	s := step{do: evenly(t, kinds)}
	switch s.do {
	case "CreateUser", "UserByIdentity":
		s.identity = evenly(t, identities)
		if s.do == "CreateUser" && rapid.Bool().Draw(t, "grouped") {
			s.group = evenly(t, groups)
		}
	case "LinkIdentity":
		s.user, s.identity = evenly(t, refs), evenly(t, identities)
	case "UnlinkIdentity":
		s.user, s.identity = evenly(t, refs), evenly(t, unlinked)
	case "User", "Users", "DisableUser", "EnableUser", "DeleteUser", "Keys", "SetUserMetadata":
		s.user = evenly(t, refs)
		if s.do == "SetUserMetadata" {
			s.carried = rapid.IntRange(0, len(metadataLists)-1).Draw(t, "metadata")
		}
	case "DisableGroup", "EnableGroup", "Group":
		s.group = evenly(t, groups)
	case "SetUserGroup":
		s.user, s.group = evenly(t, refs), evenly(t, groups)
	case "SetKeyGroup":
		s.key, s.group = evenly(t, refs), evenly(t, groups)
	case "KeyByID", "LastUsed":
		s.key = evenly(t, refs)
	case "UnusedSince":
		s.key, s.since = evenly(t, refs), evenly(t, sinces)
	case "ExpiringBefore":
		s.expires = evenly(t, durations)
	case "AllKeys":
		s.user = evenly(t, []ref{refNil, refNil, refNil, refServer, 0, 1, 2})
		s.group, s.name = evenly(t, []string{"", "", "acme", "plant 7", "*"}), evenly(t, prefixes)
		s.state, s.expires = latchkey.KeyState(rapid.IntRange(0, 3).Draw(t, "state")), evenly(t, durations)
		s.secret = evenly(t, []int{0, 0, 0, 0, 1, 1, 2, 3})
	case "CreateKey", "InsertKey", "EnsureKey":
		s.user, s.name, s.expires = evenly(t, refs), evenly(t, names), evenly(t, durations)
		s.spec = evenly(t, specs)
		if s.user == refServer && rapid.Bool().Draw(t, "grouped") || rapid.IntRange(0, 31).Draw(t, "grouped user's key") == 31 {
			s.group = evenly(t, groups)
		}
		if s.do != "CreateKey" {
			s.mint = evenly(t, refs)
		}
	case "CreateKeys":
		for range evenly(t, []int{2, 1, 3, 0}) {
			s.requests = append(s.requests, drawStep(t, []string{"CreateKey"}))
		}
	case "Key", "RotateKey", "RotateWith", "MintToken", "RenameKey", "DisableKey", "EnableKey", "DeleteKey", "SetExpiry", "SetScopes", "SetNetworks", "SetMetadata":
		s.key = evenly(t, refs)
		if s.byOwner = evenly(t, []bool{true, true, true, true, true, false}); !s.byOwner {
			s.user = evenly(t, refs)
		}
		switch s.do {
		case "RotateKey", "RotateWith":
			s.overlap, s.untilUsed, s.mint = evenly(t, overlaps), evenly(t, []bool{false, true}), evenly(t, refs)
		case "RenameKey":
			s.name = evenly(t, names)
		case "SetExpiry":
			s.expires = evenly(t, durations)
		case "SetScopes":
			s.carried = rapid.IntRange(0, len(scopeLists)-1).Draw(t, "scopes")
		case "SetNetworks":
			s.carried = rapid.IntRange(0, len(networkLists)-1).Draw(t, "networks")
		case "SetMetadata":
			s.carried = rapid.IntRange(0, len(metadataLists)-1).Draw(t, "metadata")
		}
	case "Login":
		s.token, s.spoil, s.from = evenly(t, refs), evenly(t, spoils), evenly(t, addresses)
		if s.spoil == "another character" {
			s.at = rapid.IntRange(0, 200).Draw(t, "at")
		}
	case "Update", "View":
		for range evenly(t, []int{1, 2, 3, 4, 5, 6, 0}) {
			s.inside = append(s.inside, drawStep(t, insideSteps))
		}
		if s.do == "Update" {
			s.ending = evenly(t, []string{endWell, endWell, endWell, endBadly, endAtFirstError})
		}
	case "UseTagSecret", "RetireTagSecret":
		s.secret = evenly(t, []int{0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6})
	case "move the clock":
		s.clock = evenly(t, shifts)
	}
	return s
}

// evenly draws one element of a list, each with the same chance. rapid's own generators prefer the
// first elements.
func evenly[T any](t *rapid.T, list []T) T {
	n := bits.Len(uint(len(list))) + 1
	i := 0
	for range n {
		i <<= 1
		if rapid.Bool().Draw(t, "bit") {
			i++
		}
	}
	return list[i*len(list)>>n]
}

// A history has the answers to a program.
type history []string

func (h history) String() string { return strings.Join(h, "\n") }

// expectation has the answers that the rules allow for one line of a history.
type expectation struct {
	what    string
	allowed []string
}

// allowedBy reports whether a history follows the rules. If it does not, at is its first line that
// breaks them.
func (h history) allowedBy(want []expectation) (at int, ok bool) {
	for i, w := range want {
		if i >= len(h) {
			return len(h) - 1, false
		}
		if !slices.ContainsFunc(w.allowed, func(a string) bool { return line(w.what, a) == h[i] }) {
			return i, false
		}
	}
	return len(want) - 1, len(h) == len(want)
}

func line(what, answer string) string { return what + " → " + answer }

// The form of users and keys in a history.

func userText(name string, identities []latchkey.Identity, metadata map[string]string, group string, created time.Time, disabled bool) string {
	text := name
	for _, i := range identities {
		text += " " + identityText(i)
	}
	if len(metadata) > 0 {
		text += fmt.Sprintf(" with %q", metadata)
	}
	return text + groupText(group) + " made " + created.Format(time.RFC3339Nano) + disabledText(disabled)
}

// groupText describes the group of a user or a key.
func groupText(group string) string {
	if group == "" {
		return ""
	}
	return fmt.Sprintf(" in %q", group)
}

// carriedText describes what a key carries.
func carriedText(scopes latchkey.Scopes, networks []netip.Prefix, metadata map[string]string, group string) (text string) {
	if !scopes.IsZero() {
		text += fmt.Sprintf(" permitting %q", scopes)
	}
	if len(networks) > 0 {
		text += fmt.Sprintf(" from %s", networks)
	}
	if len(metadata) > 0 {
		text += fmt.Sprintf(" with %q", metadata)
	}
	return text + groupText(group)
}

func keyText(name, owner, keyName, carried string, created, expires, used time.Time, disabled bool) string {
	text := fmt.Sprintf("%s of %s %s made %s", name, owner, quoted(keyName), created.Format(time.RFC3339Nano))
	if !expires.IsZero() {
		text += " until " + expires.Format(time.RFC3339Nano)
	}
	if !used.IsZero() {
		text += " used " + used.Format(time.TimeOnly)
	}
	return text + carried + disabledText(disabled)
}

func identityText(i latchkey.Identity) string { return string(i.Provider) + ":" + quoted(i.Subject) }

// quoted shortens long names, which would fill the screen.
func quoted(s string) string {
	if len(s) > 20 {
		return fmt.Sprintf("%q and so on, %d bytes", s[:3], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func principalText(key, keyName, user, identity, group string, scopes latchkey.Scopes, room string, expires time.Time) string {
	return fmt.Sprintf("%s %s of %s (%s)%s, permitting %q, in room %s, until %s", key, quoted(keyName), user, identity, groupText(group), scopes, room, expires.Format(time.RFC3339))
}

func disabledText(disabled bool) string {
	if disabled {
		return " disabled"
	}
	return ""
}

func userName(user int) string {
	switch {
	case user >= 0:
		return fmt.Sprint("user ", user)
	case user == ownServer:
		return "the server"
	case user == ownNobody:
		return "nobody"
	}
	return "an unknown user"
}

func keyName(key int) string {
	if key < 0 {
		return "an unknown key"
	}
	return fmt.Sprint("key ", key)
}
