package torture_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/latchkeydb/latchkey"
)

// rules play a program in memory, by the documentation of each call, and compute the expected
// answers. If a call breaks several rules at once, the error of each of these rules is right.
type rules struct {
	now       time.Time
	steady    bool        // the clock is never set back
	users     []ruledUser // all users that ever existed, in the order of creation
	keys      []ruledKey
	mints     []ruledMint
	tokens    []ruledToken
	rotations []ruledRotation // what MintToken has minted
	groups    map[string]bool // whether each group is disabled that ever was
	secrets   ruledSecrets
	expected  []expectation

	changed bool // whether the current step has changed something
	// touched is whether the current step asked for a state that held already. It may count as a
	// change.
	touched bool
}

type ruledUser struct {
	identities []latchkey.Identity
	metadata   int // in metadataLists
	group      string
	created    time.Time
	disabled   bool
	deleted    bool
}

type ruledKey struct {
	owner    int // a user, or ownServer
	name     string
	created  time.Time
	expires  time.Time
	disabled bool
	deleted  bool

	scopes, networks, metadata int    // in scopeLists, networkLists, metadataLists
	group                      string // of a server key

	// uses are the minutes that can be the last use, the latest one first. There are several only
	// if the clock was set back.
	uses []time.Time
}

type ruledMint struct {
	created time.Time
	key     int // -1 until it is inserted
	token   int
}

// ruledRotation is a token that was minted for a rotation.
type ruledRotation struct {
	key, token int
	replaces   int // the token that was the newest one of the key then
}

// ruledToken is the token of a key or of a minted key. If it is for a rotation that has not come,
// it is of neither, and key and mint are -1.
type ruledToken struct {
	key, mint int
	secret    int // the number of the tag secret, or noSecret

	ended    bool
	end      time.Time // of an overlap; the zero time is never
	replaces int       // the token that the first login ends, plus 1; 0 for none
}

// These owners are no users.
const (
	ownServer = -2 - iota
	ownNobody
)

const (
	// self stands, in histories, for the subject of an anonymous user that was made without one.
	self = "itself"
	// ownDigits stands for the end of the name of a key that has made way.
	ownDigits = "~ itsown8"
)

var programStart = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

func newRules(steady bool) *rules {
	return &rules{now: programStart, steady: steady, groups: map[string]bool{}, secrets: ruledSecrets{latchkey.TagSecretUsed}}
}

func (r *rules) playAll(program []step) []expectation {
	for _, s := range program {
		r.changed, r.touched = false, false
		switch s.do {
		case "Update":
			r.update(s)
		case "View":
			r.view(s)
		default:
			what := s.text(r.counts())
			r.expect(what, r.call(s))
		}
		switch {
		case r.changed:
			r.expect("sequence", []string{"moves"})
		case r.touched:
			r.expect("sequence", []string{"moves", "stays"})
		default:
			r.expect("sequence", []string{"stays"})
		}
	}
	return r.expected
}

func (r *rules) expect(what string, allowed []string) {
	r.expected = append(r.expected, expectation{what, allowed})
}

func (r *rules) counts() counts {
	return counts{len(r.users), len(r.keys), len(r.tokens), len(r.mints), len(r.rotations)}
}

// update plays the steps of a write transaction. A step that fails changes nothing. The ending
// decides whether the other steps count.
func (r *rules) update(s step) {
	before := r.copy()
	result := []string{"ok"}
	for _, in := range s.inside {
		what := in.text(r.counts())
		allowed := r.call(in)
		r.expect("  "+what, allowed)
		if s.ending == endAtFirstError && isError(allowed[0]) {
			result = allowed
			break
		}
	}
	if s.ending == endBadly {
		result = []string{errEndBadly.Error()}
	}
	if result[0] != "ok" {
		before.expected = r.expected
		*r = *before
	}
	r.expect(s.text(r.counts()), result)
}

// view plays the steps of a read transaction, which refuses each step that would change something.
func (r *rules) view(s step) {
	for _, in := range s.inside {
		what := in.text(r.counts())
		tried := r.copy()
		allowed := tried.call(in)
		switch {
		case tried.changed:
			allowed = []string{"ErrReadOnly"}
		case slices.Contains([]string{"InsertKey", "EnsureKey", "RotateWith"}, in.do) || slices.Contains(changes, in.do):
			allowed = append(allowed, "ErrReadOnly")
		}
		r.expect("  "+what, allowed)
	}
	r.expect(s.text(r.counts()), []string{"ok"})
}

func isError(answer string) bool { return strings.HasPrefix(answer, "Err") }

// copy returns rules that can play on without changing r.
func (r *rules) copy() *rules {
	c := *r
	c.users, c.keys, c.mints, c.tokens = slices.Clone(r.users), slices.Clone(r.keys), slices.Clone(r.mints), slices.Clone(r.tokens)
	c.rotations, c.groups = slices.Clone(r.rotations), maps.Clone(r.groups)
	return &c
}

// call plays one call and returns the answers that it may give. A call that returns an error
// changes nothing.
func (r *rules) call(s step) []string {
	switch s.do {
	case "CreateUser":
		return r.createUser(s)
	case "LinkIdentity":
		return r.linkIdentity(s)
	case "UnlinkIdentity":
		return r.unlinkIdentity(s)
	case "DisableUser", "EnableUser", "DeleteUser", "User", "SetUserMetadata":
		return r.onUser(s)
	case "UserByIdentity":
		return r.userByIdentity(s)
	case "Users":
		return r.listUsers()
	case "CreateKey", "InsertKey", "CreateKeys":
		return r.create(s)
	case "MintKey":
		r.mints = append(r.mints, ruledMint{created: r.now.Truncate(time.Millisecond), key: -1, token: len(r.tokens)})
		r.tokens = append(r.tokens, ruledToken{key: -1, mint: len(r.mints) - 1, secret: r.secrets.used()})
		return []string{"ok"}
	case "MintForeign":
		r.mints = append(r.mints, ruledMint{created: r.now.Truncate(time.Millisecond), key: -1, token: len(r.tokens)})
		r.tokens = append(r.tokens, ruledToken{key: -1, mint: len(r.mints) - 1, secret: noSecret})
		return []string{"ok"}
	case "EnsureKey":
		return r.ensureKey(s)
	case "RotateKey", "RotateWith":
		return r.rotateKey(s)
	case "MintToken":
		return r.mintToken(s)
	case "DisableKey", "EnableKey", "DeleteKey", "RenameKey", "Key", "SetExpiry", "SetScopes", "SetNetworks", "SetMetadata":
		return r.onKey(s)
	case "SetUserGroup":
		return r.setUserGroup(s)
	case "SetKeyGroup":
		return r.setKeyGroup(s)
	case "DisableGroup", "EnableGroup":
		return r.setGroup(s)
	case "Group":
		return []string{s.group + disabledText(r.groups[s.group])}
	case "Groups":
		return r.listGroups()
	case "KeyByID":
		if key := s.key.index(len(r.keys)); key >= 0 && !r.keys[key].deleted {
			return []string{r.keyText(key)}
		}
		return []string{"ErrKeyNotFound"}
	case "AllKeys":
		return r.allKeys(s)
	case "ExpiringBefore":
		return r.expiringBefore(s)
	case "LastUsed":
		return r.lastUsed(s)
	case "UnusedSince":
		return r.unusedSince(s)
	case "Keys":
		return r.listKeys(r.user(s.user))
	case "AddTagSecret", "UseTagSecret", "RetireTagSecret", "TagSecrets":
		return r.onTagSecret(s)
	case "Login":
		return r.login(s)
	case "Stats":
		return r.stats()
	case "move the clock":
		r.now = r.now.Add(s.clock)
		for i := range r.keys {
			if k := &r.keys[i]; len(k.uses) > 0 && r.minute().Before(k.uses[0]) {
				// The file has no later time if it is written now.
				k.uses = append(slices.Clone(k.uses), r.minute())
			}
		}
		return []string{"ok"}
	case "reopen":
		return []string{"ok"}
	}
	panic("no rule for " + s.do)
}

// user returns the owner that a ref stands for.
func (r *rules) user(u ref) int {
	if u == refServer {
		return ownServer
	}
	if i := u.index(len(r.users)); i >= 0 {
		return i
	}
	return ownNobody
}

func (r *rules) live(user int) bool { return user >= 0 && !r.users[user].deleted }

// userWith returns the user with an identity, or -1.
func (r *rules) userWith(i latchkey.Identity) int {
	return slices.IndexFunc(r.users, func(u ruledUser) bool { return !u.deleted && slices.Contains(u.identities, i) })
}

func (r *rules) createUser(s step) []string {
	i := s.identity
	var errs []string
	if !validGroup(s.group) {
		errs = append(errs, "ErrInvalidGroup")
	}
	if i.Provider == latchkey.ProviderAnonymous && i.Subject == "" {
		i.Subject = self
	} else if !newIdentity(i) {
		errs = append(errs, "ErrInvalidIdentity")
	} else if r.userWith(i) >= 0 {
		errs = append(errs, "ErrIdentityTaken")
	}
	if errs != nil {
		return errs
	}
	r.users = append(r.users, ruledUser{identities: []latchkey.Identity{i}, group: s.group, created: r.now.Truncate(time.Millisecond)})
	r.changed = true
	return []string{r.userText(len(r.users) - 1)}
}

func (r *rules) linkIdentity(s step) []string {
	user, owner := r.user(s.user), r.userWith(s.identity)
	if r.live(user) && owner == user {
		return []string{r.userText(user)}
	}
	var errs []string
	if !r.live(user) {
		errs = append(errs, "ErrUserNotFound")
	}
	if !newIdentity(s.identity) || s.identity.Provider == latchkey.ProviderAnonymous {
		errs = append(errs, "ErrInvalidIdentity")
	}
	if owner >= 0 {
		errs = append(errs, "ErrIdentityTaken")
	}
	if errs != nil {
		return errs
	}
	u := &r.users[user]
	u.identities = append(slices.Clone(u.identities), s.identity)
	r.changed = true
	return []string{r.userText(user)}
}

func (r *rules) unlinkIdentity(s step) []string {
	user := r.user(s.user)
	if !r.live(user) {
		return []string{"ErrUserNotFound"}
	}
	u := &r.users[user]
	if !slices.Contains(u.identities, s.identity) {
		return []string{"ErrIdentityNotFound"}
	}
	left := slices.DeleteFunc(slices.Clone(u.identities), func(i latchkey.Identity) bool { return i == s.identity })
	switch {
	case len(left) == 0:
		return []string{"ErrLastIdentity"}
	case !named(left) && len(r.keysOf(user)) > 0:
		return []string{"ErrUserHasKeys"}
	}
	u.identities, r.changed = left, true
	return []string{r.userText(user)}
}

// named reports whether one of the identities is not anonymous.
func named(identities []latchkey.Identity) bool {
	return slices.ContainsFunc(identities, func(i latchkey.Identity) bool { return i.Provider != latchkey.ProviderAnonymous })
}

func (r *rules) onUser(s step) []string {
	user := r.user(s.user)
	if !r.live(user) {
		return []string{"ErrUserNotFound"}
	}
	u := &r.users[user]
	switch s.do {
	case "User":
		return []string{r.userText(user)}
	case "DisableUser", "EnableUser":
		r.set(&u.disabled, s.do == "DisableUser")
	case "SetUserMetadata":
		return r.setMetadata(&u.metadata, s.carried)
	case "DeleteUser":
		u.deleted, r.changed = true, true
		for i := range r.keys {
			if r.keys[i].owner == user {
				r.keys[i].deleted = true
			}
		}
	}
	return []string{"ok"}
}

// set disables or enables. Enabling something that is enabled changes nothing. Disabling something
// that is disabled keeps it disabled, but may count as a change.
func (r *rules) set(disabled *bool, disable bool) {
	r.changed = r.changed || *disabled != disable
	r.touched = r.touched || *disabled && disable
	*disabled = disable
}

// setMetadata sets metadata, of which those with an empty name are invalid.
func (r *rules) setMetadata(metadata *int, to int) []string {
	if invalidMetadata(to) {
		return []string{"ErrInvalidMetadata"}
	}
	r.changed = r.changed || *metadata != to
	*metadata = to
	return []string{"ok"}
}

// setExpiry changes the expiry date of a key. A key that has expired comes back, if there is room
// for it.
func (r *rules) setExpiry(key int, e time.Time) (errs []string) {
	k := &r.keys[key]
	if e.Equal(k.expires) {
		return []string{"ok"}
	}
	if !e.IsZero() && !e.After(r.now) {
		errs = append(errs, "ErrInvalidExpiry")
	}
	if k.owner != ownServer && r.expired(key) && len(slices.DeleteFunc(r.keysOf(k.owner), r.expired)) >= maxKeys {
		errs = append(errs, "ErrTooManyKeys")
	}
	if errs != nil {
		return errs
	}
	k.expires, r.changed = e, true
	return []string{"ok"}
}

func validGroup(group string) bool { return group != "*" && group != " acme" }

// setUserGroup and setKeyGroup move a user or a server key to a group, or to none.
func (r *rules) setUserGroup(s step) []string {
	user := r.user(s.user)
	if !r.live(user) {
		return append([]string{"ErrUserNotFound"}, groupErrors(s.group)...)
	}
	return r.move(&r.users[user].group, s.group)
}

func (r *rules) setKeyGroup(s step) []string {
	key := s.key.index(len(r.keys))
	if key < 0 || r.keys[key].deleted || r.keys[key].owner != ownServer {
		return append([]string{"ErrKeyNotFound"}, groupErrors(s.group)...)
	}
	return r.move(&r.keys[key].group, s.group)
}

func groupErrors(group string) []string {
	if validGroup(group) {
		return nil
	}
	return []string{"ErrInvalidGroup"}
}

func (r *rules) move(group *string, to string) []string {
	if errs := groupErrors(to); errs != nil {
		return errs
	}
	r.changed = r.changed || *group != to
	*group = to
	return []string{"ok"}
}

// setGroup disables or enables a group, which may have no members.
func (r *rules) setGroup(s step) []string {
	if s.group == "" || !validGroup(s.group) {
		return []string{"ErrInvalidGroup"}
	}
	disabled := r.groups[s.group]
	r.set(&disabled, s.do == "DisableGroup")
	if _, known := r.groups[s.group]; known || disabled {
		r.groups[s.group] = disabled
	}
	return []string{"ok"}
}

// listGroups lists the groups that have members or were disabled.
func (r *rules) listGroups() []string {
	all := maps.Clone(r.groups)
	add := func(group string) {
		if group != "" {
			all[group] = r.groups[group]
		}
	}
	for i, u := range r.users {
		if r.live(i) {
			add(u.group)
		}
	}
	for _, k := range r.keys {
		if !k.deleted {
			add(k.group)
		}
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+disabledText(all[name]))
	}
	return []string{strings.Join(list, "; ")}
}

// groupOf returns the group of a server key, or of the user that owns a key.
func (r *rules) groupOf(k ruledKey) string {
	if k.owner == ownServer {
		return k.group
	}
	return r.users[k.owner].group
}

// allKeys lists the keys that agree with a filter.
func (r *rules) allKeys(s step) []string {
	var list []string
	for i, k := range r.keys {
		expired := r.expired(i)
		state := map[latchkey.KeyState]bool{
			0: true, latchkey.KeyEnabled: !k.disabled && !expired, latchkey.KeyDisabled: k.disabled, latchkey.KeyExpired: expired,
		}
		before := r.now.Add(s.expires)
		if k.deleted || s.user != refNil && k.owner != r.user(s.user) || s.group != "" && r.groupOf(k) != s.group ||
			!strings.HasPrefix(k.name, s.name) || !state[s.state] ||
			s.expires != 0 && (k.expires.IsZero() || expired || k.expires.After(before)) ||
			s.secret > 0 && !r.taggedBefore(i, s.secret) {
			continue
		}
		list = append(list, r.keyText(i))
	}
	return []string{strings.Join(list, "; ")}
}

func (r *rules) expiringBefore(s step) []string {
	if s.expires == 0 {
		return []string{""} // nothing expires before the zero time
	}
	return r.allKeys(step{user: refNil, expires: s.expires})
}

// minute is when the minute began.
func (r *rules) minute() time.Time { return r.now.Truncate(time.Minute) }

// usesOf returns the times that the last use of a key can have. They are never after now.
func (r *rules) usesOf(key int) []time.Time {
	uses := slices.Clone(r.keys[key].uses)
	for i, at := range uses {
		if at.After(r.minute()) {
			uses[i] = r.minute()
		}
	}
	if uses == nil {
		uses = []time.Time{{}}
	}
	return uses
}

func (r *rules) lastUsed(s step) (answers []string) {
	key := s.key.index(len(r.keys))
	if key < 0 || r.keys[key].deleted {
		return []string{"ErrKeyNotFound"}
	}
	for _, at := range r.usesOf(key) {
		answers = append(answers, at.Format(time.RFC3339))
	}
	return answers
}

// unusedSince tells whether one key is among those that were not used since a time.
func (r *rules) unusedSince(s step) (answers []string) {
	key, since := s.key.index(len(r.keys)), r.now.Add(s.since)
	if key < 0 || r.keys[key].deleted || !r.keys[key].created.Before(since) {
		return []string{"false"}
	}
	for _, at := range r.usesOf(key) {
		answers = append(answers, fmt.Sprint(at.IsZero() || !at.Add(time.Minute).After(since)))
	}
	return answers
}

func (r *rules) userByIdentity(s step) []string {
	if !validIdentity(s.identity) {
		return []string{"ErrInvalidIdentity"}
	}
	if user := r.userWith(s.identity); user >= 0 {
		return []string{r.userText(user)}
	}
	return []string{"ErrUserNotFound"}
}

func (r *rules) listUsers() []string {
	var list []string
	for i := range r.users {
		if r.live(i) {
			list = append(list, r.userText(i))
		}
	}
	return []string{strings.Join(list, "; ")}
}

// create makes one key, one minted key, or several keys. Of several keys, either all are made or
// none.
func (r *rules) create(s step) []string {
	if s.do != "CreateKeys" {
		s.requests = []step{s}
	}
	made := r.copy()
	var errs, texts []string
	for _, request := range s.requests {
		created, mint := r.now, -1
		found := made.newKeyErrors(request)
		if s.do == "CreateKeys" && made.user(request.user) == ownServer {
			found = append(found, "ErrUserNotFound")
		}
		if s.do == "InsertKey" {
			if mint = s.mint.index(len(r.mints)); mint < 0 || r.mints[mint].key >= 0 || !r.goodTag(r.mints[mint].token) {
				found = append(found, "ErrInvalidMintedKey")
			} else {
				created = r.mints[mint].created
			}
		}
		if found != nil {
			errs = append(errs, found...)
			continue
		}
		made.giveWay(made.user(request.user), request.name)
		key := len(made.keys)
		made.keys = append(made.keys, ruledKey{
			owner: made.user(request.user), name: request.name,
			created: created.Truncate(time.Millisecond), expires: made.expiry(request),
			scopes: request.spec.scopes, networks: request.spec.networks, metadata: request.spec.metadata, group: request.group,
		})
		if mint >= 0 {
			made.mints[mint].key = key
		} else {
			made.tokens = append(made.tokens, ruledToken{key: key, mint: -1, secret: r.secrets.used()})
		}
		made.changed = true
		texts = append(texts, made.keyText(key))
	}
	if errs != nil {
		return errs
	}
	*r = *made
	return []string{strings.Join(texts, "; ")}
}

// newKeyErrors returns the errors of the rules that one more key would break.
func (r *rules) newKeyErrors(s step) (errs []string) {
	owner := r.user(s.user)
	if owner != ownServer && !r.live(owner) {
		errs = append(errs, "ErrUserNotFound")
	}
	if r.live(owner) {
		u := r.users[owner]
		if !named(u.identities) {
			errs = append(errs, "ErrAnonymousUser")
		}
		if n := len(slices.DeleteFunc(r.keysOf(owner), r.expired)); n >= maxKeys {
			errs = append(errs, "ErrTooManyKeys")
		}
	}
	if !newName(s.name) {
		errs = append(errs, "ErrInvalidName")
	}
	if r.nameTaken(owner, s.name) {
		errs = append(errs, "ErrKeyNameTaken")
	}
	if e := r.expiry(s); !e.IsZero() && !e.After(r.now) {
		errs = append(errs, "ErrInvalidExpiry")
	}
	return append(errs, specErrors(owner, s)...)
}

// specErrors returns the errors of what a key is to carry.
func specErrors(owner int, s step) (errs []string) {
	if invalidScopes(s.spec.scopes) {
		errs = append(errs, "ErrInvalidScope")
	}
	if networkLists[s.spec.networks].invalid {
		errs = append(errs, "ErrInvalidNetwork")
	}
	if invalidMetadata(s.spec.metadata) {
		errs = append(errs, "ErrInvalidMetadata")
	}
	if !validGroup(s.group) || owner != ownServer && s.group != "" {
		errs = append(errs, "ErrInvalidGroup")
	}
	return errs
}

func invalidScopes(list int) bool { return slices.Contains(scopeLists[list], "with a blank") }

// invalidMetadata reports whether there is text without a name.
func invalidMetadata(list int) bool {
	_, invalid := metadataLists[list][""]
	return invalid
}

// ensureKey makes the key that was minted, or brings it in line, and tells whether it has changed.
func (r *rules) ensureKey(s step) []string {
	mint := s.mint.index(len(r.mints))
	if mint < 0 {
		return append(r.newKeyErrors(s), "ErrInvalidMintedKey")
	}
	key := r.mints[mint].key
	if key < 0 {
		s.do = "InsertKey"
		answers := r.create(s)
		if !isError(answers[0]) {
			answers[0] += ensured(true)
		}
		return answers
	}
	if r.keys[key].deleted {
		return []string{"ErrKeyDeleted"}
	}
	tried := r.copy()
	tried.changed = false
	k := &tried.keys[key]
	errs := specErrors(k.owner, s)
	if r.user(s.user) != k.owner {
		errs = append(errs, "ErrInvalidMintedKey")
	}
	if found := tried.setExpiry(key, r.expiry(s)); found[0] != "ok" {
		errs = append(errs, found...)
	}
	if !tried.expired(key) {
		if found := tried.rename(key, s.name); found[0] != "ok" {
			errs = append(errs, found...)
		}
	}
	if errs != nil {
		return errs
	}
	to := s.spec
	tried.changed = tried.changed || k.scopes != to.scopes || !sameNetworks(k.networks, to.networks) || k.metadata != to.metadata || k.group != s.group
	k.scopes, k.networks, k.metadata, k.group = to.scopes, to.networks, to.metadata, s.group
	answer := tried.keyText(key) + ensured(tried.changed)
	tried.changed = tried.changed || r.changed
	*r = *tried
	return []string{answer}
}

// ensured describes whether a call of EnsureKey has changed something.
func ensured(changed bool) string { return fmt.Sprintf(", changed: %t", changed) }

// sameNetworks reports whether two of networkLists are the same networks.
func sameNetworks(a, b int) bool { return slices.Equal(networkLists[a].from, networkLists[b].from) }

// expiry returns the time when a new key expires. It is a full second, and never later than the
// time that was asked for.
func (r *rules) expiry(s step) time.Time {
	if s.expires == 0 {
		return time.Time{}
	}
	return r.now.Add(s.expires).Truncate(time.Second)
}

func (r *rules) keysOf(owner int) (keys []int) {
	for i, k := range r.keys {
		if k.owner == owner && !k.deleted {
			keys = append(keys, i)
		}
	}
	return keys
}

// nameTaken reports whether a key of owner has a name and does not make way.
func (r *rules) nameTaken(owner int, name string) bool {
	return slices.ContainsFunc(r.keysOf(owner), func(i int) bool { return r.keys[i].name == name && !r.expired(i) })
}

// giveWay renames an expired key of owner that has a name.
func (r *rules) giveWay(owner int, name string) {
	for _, i := range r.keysOf(owner) {
		if r.keys[i].name == name {
			r.keys[i].name = name[:min(len(name), 247)] + ownDigits
		}
	}
}

func (r *rules) expired(key int) bool {
	e := r.keys[key].expires
	return !e.IsZero() && !r.now.Before(e)
}

func (r *rules) onKey(s step) []string {
	key := s.key.index(len(r.keys))
	if key < 0 || r.keys[key].deleted || !s.byOwner && r.keys[key].owner != r.user(s.user) {
		errs := []string{"ErrKeyNotFound"}
		if s.do == "RenameKey" && !newName(s.name) {
			errs = append(errs, "ErrInvalidName")
		}
		return errs
	}
	k := &r.keys[key]
	switch s.do {
	case "Key":
		return []string{r.keyText(key)}
	case "DisableKey", "EnableKey":
		r.set(&k.disabled, s.do == "DisableKey")
	case "DeleteKey":
		k.deleted, r.changed = true, true
	case "SetExpiry":
		return r.setExpiry(key, r.expiry(s))
	case "SetMetadata":
		return r.setMetadata(&k.metadata, s.carried)
	case "SetScopes":
		if invalidScopes(s.carried) {
			return []string{"ErrInvalidScope"}
		}
		r.changed = r.changed || k.scopes != s.carried
		k.scopes = s.carried
	case "SetNetworks":
		to := networkLists[s.carried]
		if to.invalid {
			return []string{"ErrInvalidNetwork"}
		}
		r.changed = r.changed || !sameNetworks(k.networks, s.carried)
		k.networks = s.carried
	case "RenameKey":
		return r.rename(key, s.name)
	}
	return []string{"ok"}
}

func (r *rules) rename(key int, name string) []string {
	k := &r.keys[key]
	switch {
	case k.name == name:
	case !newName(name):
		return []string{"ErrInvalidName"}
	case r.nameTaken(k.owner, name):
		return []string{"ErrKeyNameTaken"}
	default:
		r.giveWay(k.owner, name)
		k.name, r.changed = name, true
	}
	return []string{"ok"}
}

// keyOf returns the key of a token, or -1 if its minted key was not inserted, or its rotation has
// not come.
func (r *rules) keyOf(token int) int {
	if t := r.tokens[token]; t.mint >= 0 {
		return r.mints[t.mint].key
	}
	return r.tokens[token].key
}

// newestToken returns the newest token of a key. There is always one, and it is good.
func (r *rules) newestToken(key int) int {
	for i := len(r.tokens) - 1; i >= 0; i-- {
		if r.keyOf(i) == key && !r.tokens[i].ended {
			return i
		}
	}
	panic("a key without a token")
}

func (r *rules) mintToken(s step) []string {
	key := s.key.index(len(r.keys))
	if key < 0 || r.keys[key].deleted || !s.byOwner && r.keys[key].owner != r.user(s.user) {
		return []string{"ErrKeyNotFound"}
	}
	r.rotations = append(r.rotations, ruledRotation{key: key, token: len(r.tokens), replaces: r.newestToken(key)})
	r.tokens = append(r.tokens, ruledToken{key: -1, mint: -1, secret: r.secrets.used()})
	return []string{"ok"}
}

// rotateKey gives a key another token. Only the newest of the others can stay good.
func (r *rules) rotateKey(s step) []string {
	var errs []string
	key, rotation := s.key.index(len(r.keys)), s.mint.index(len(r.rotations))
	if s.do == "RotateWith" && s.byOwner && rotation >= 0 {
		key = r.rotations[rotation].key
	}
	if key < 0 || r.keys[key].deleted || !s.byOwner && r.keys[key].owner != r.user(s.user) {
		errs = append(errs, "ErrKeyNotFound")
	}
	if s.overlap < 0 || s.untilUsed && s.overlap == 0 {
		errs = append(errs, "ErrInvalidRotation")
	}
	if s.do == "RotateWith" && (rotation < 0 || !r.goodTag(r.rotations[rotation].token) || key < 0 || r.rotations[rotation].key != key || r.rotations[rotation].replaces != r.newestToken(key)) {
		errs = append(errs, "ErrInvalidMintedKey")
	}
	if errs != nil {
		return errs
	}
	made := ruledToken{key: key, mint: -1, secret: r.secrets.used()}
	newest := true
	for i := len(r.tokens) - 1; i >= 0; i-- {
		t := &r.tokens[i]
		if r.keyOf(i) != key || t.ended {
			continue
		}
		if newest && s.overlap > 0 {
			t.end = r.now.Add(s.overlap + time.Second - 1).Truncate(time.Second)
			if s.untilUsed {
				made.replaces = i + 1
			}
		} else {
			t.ended = true
		}
		newest = false
	}
	if s.do == "RotateWith" {
		made.secret = r.tokens[r.rotations[rotation].token].secret
		r.tokens[r.rotations[rotation].token] = made
	} else {
		r.tokens = append(r.tokens, made)
	}
	r.changed = true
	return []string{r.keyText(key)}
}

func (r *rules) listKeys(owner int) []string {
	if owner != ownServer && !r.live(owner) {
		return []string{"ErrUserNotFound"}
	}
	keys := r.keysOf(owner)
	// Keys of one time are in the order of IDs, which the rules do not know. See player.listKeys.
	slices.SortStableFunc(keys, func(a, b int) int { return r.keys[a].created.Compare(r.keys[b].created) })
	var list []string
	for _, i := range keys {
		list = append(list, r.keyText(i))
	}
	return []string{strings.Join(list, "; ")}
}

func (r *rules) login(s step) []string {
	key, token := -1, s.token.index(len(r.tokens))
	if token >= 0 && s.spoil == "" {
		key = r.keyOf(token)
	}
	if key < 0 || r.keys[key].deleted {
		return []string{"ErrInvalidToken"}
	}
	k, t := r.keys[key], &r.tokens[token]
	if !r.goodTag(token) || t.ended || !t.end.IsZero() && !r.now.Before(t.end) {
		return []string{"ErrInvalidToken"}
	}
	switch {
	case k.disabled:
		return []string{"ErrKeyDisabled"}
	case r.expired(key):
		return []string{"ErrKeyExpired"}
	case k.owner != ownServer && r.users[k.owner].disabled:
		return []string{"ErrUserDisabled"}
	case r.groups[r.groupOf(k)]:
		return []string{"ErrGroupDisabled"}
	case !slices.Contains(networkLists[k.networks].from, s.from):
		return []string{"ErrNetworkNotAllowed"}
	}
	if minute, uses := r.minute(), k.uses; len(uses) == 0 || !minute.Before(uses[0]) {
		r.keys[key].uses = []time.Time{minute}
	}
	if t.replaces > 0 && !r.tokens[t.replaces-1].ended {
		r.tokens[t.replaces-1].ended, r.changed = true, true
	}
	user, identity := "nobody", ":\"\""
	if k.owner != ownServer {
		user, identity = userName(k.owner), identityText(r.users[k.owner].identities[0])
	}
	return []string{principalText(keyName(key), k.name, user, identity, r.groupOf(k), latchkey.NewScopes(scopeLists[k.scopes]...), metadataLists[k.metadata]["room"], k.expires)}
}

func (r *rules) stats() []string {
	users, keys := 0, 0
	for _, u := range r.users {
		if !u.deleted {
			users++
		}
	}
	for _, k := range r.keys {
		if !k.deleted {
			keys++
		}
	}
	return []string{fmt.Sprintf("%d users, %d keys", users, keys)}
}

func (r *rules) userText(user int) string {
	u := r.users[user]
	return userText(userName(user), u.identities, metadataLists[u.metadata], u.group, u.created, u.disabled)
}

func (r *rules) keyText(key int) string {
	k := r.keys[key]
	networks := networkLists[k.networks]
	if networks.name == "home, as it may be given" {
		networks = networkLists[slices.IndexFunc(networkLists, func(l networkList) bool { return l.name == "home" })]
	}
	carried := carriedText(latchkey.NewScopes(scopeLists[k.scopes]...), networks.networks(), metadataLists[k.metadata], k.group)
	var used time.Time
	if r.steady {
		used = r.usesOf(key)[0]
	}
	return keyText(keyName(key), userName(k.owner), k.name, carried, k.created, k.expires, used, k.disabled)
}

func validIdentity(i latchkey.Identity) bool {
	known := []latchkey.Provider{"anon-user", "local-userpass", "custom-token", "custom-function", "oauth2-google",
		"oauth2-facebook", "oauth2-apple", "api-key"}
	return slices.Contains(known, i.Provider) && validText(i.Subject)
}

// newIdentity reports whether an identity can be given to a user. A user can have any valid one,
// from before there were more rules.
func newIdentity(i latchkey.Identity) bool { return validIdentity(i) && visibleText(i.Subject) }

// newName reports whether a key can get a name.
func newName(s string) bool {
	isID := len(s) == 24 && strings.Trim(s, "0123456789abcdef") == ""
	return validText(s) && visibleText(s) && !isID
}

// visibleText knows the invisible characters that programs use.
func visibleText(s string) bool { return strings.Trim(s, " \u00a0\u200b\ufeff\u2800") == s }

func validText(s string) bool {
	control := func(r rune) bool { return r < 0x20 || r >= 0x7f && r <= 0x9f }
	return len(s) >= 1 && len(s) <= 256 && utf8.ValidString(s) && !strings.ContainsFunc(s, control)
}
