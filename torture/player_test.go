package torture_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/keyimport"
)

// player plays a program on a store.
type player struct {
	t       *rapid.T
	config  configuration
	path    string
	foreign *foreigner
	store   *latchkey.Store
	opened  int
	now     time.Time
	steady  bool // the clock is never set back

	users     []uuid.UUID // in the order of their creation, as in rules
	keys      []issuedKey
	mints     []latchkey.MintedKey
	rotations []mintedToken
	tokens    []string
	lines     history

	trail *audit.Trail
	told  int // the number of changes that the hook was called for
}

// mintedToken is a token of MintToken.
type mintedToken struct {
	latchkey.MintedKey
	key issuedKey
}

func newPlayer(t *rapid.T, c configuration, path string, foreign *foreigner) *player {
	p := &player{t: t, config: c, path: path, foreign: foreign, now: programStart, trail: audit.New(&audit.Options{MaxEntries: 4})}
	p.open()
	return p
}

// elsewhere has the form of tokens that were made elsewhere.
var elsewhere = keyimport.Scheme{Name: "elsewhere", Hash: keyimport.SHA256, Prefix: "old-"}

// tokenFromElsewhere returns the n-th token that was made elsewhere.
func tokenFromElsewhere(n int) string {
	return fmt.Sprintf("old-%.16x", sha256.Sum256(fmt.Append(nil, n)))
}

func (p *player) open() {
	foreign, err := keyimport.New(elsewhere)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := latchkey.Open(p.path, &latchkey.Options{
		Cost:           p.config.costs[p.opened%len(p.config.costs)],
		CacheSize:      p.config.cacheSize,
		MaxKeysPerUser: maxKeys,
		Now:            func() time.Time { return p.now },
		TestClock:      true,
		OnChange:       p.onChange,
		Foreign:        foreign,
	})
	if err != nil {
		p.t.Fatalf("Open: %v", err)
	}
	p.store = s
	p.opened++
}

func (p *player) onChange(tx *latchkey.Tx, c latchkey.Change) error {
	p.told++
	if !p.config.trail {
		return nil
	}
	return p.trail.Record(tx, c)
}

func (p *player) reopen() {
	if err := p.store.Close(); err != nil {
		p.t.Fatalf("Close: %v", err)
	}
	p.open()
}

// end checks the store and its trail, and removes it.
func (p *player) end() {
	if err := p.store.View(context.Background(), func(tx *latchkey.Tx) error { return audit.Verify(tx) }); err != nil {
		p.t.Errorf("the trail after the program: %v", err)
	}
	for finding := range p.store.Check(context.Background()) {
		p.t.Errorf("Check after the program: %v", finding)
	}
	if err := p.store.Close(); err != nil {
		p.t.Errorf("Close: %v", err)
	}
	if err := os.Remove(p.path); err != nil {
		p.t.Error(err)
	}
}

func (p *player) playAll(program []step) history {
	for _, s := range program {
		before, told := p.sequence(), p.told
		switch s.do {
		case "Update":
			p.update(s)
		case "View":
			err := p.store.View(context.Background(), func(tx *latchkey.Tx) error {
				for _, in := range s.inside {
					p.note("  "+in.text(p.counts()), p.call(tx, in))
				}
				return nil
			})
			p.note(s.text(p.counts()), outcome(err))
		default:
			what := s.text(p.counts())
			p.note(what, p.topCall(s))
		}
		answer := "stays"
		moved := p.sequence() > before
		if moved {
			answer = "moves"
		}
		if hooked := p.told > told; hooked != moved {
			answer += fmt.Sprintf(", and the hook was called: %t", hooked)
		}
		p.note("sequence", answer)
		if p.config.everyStep || s.do == "reopen" && p.config.asDrawn {
			p.reopen()
		}
	}
	return p.lines
}

func (p *player) note(what, answer string) { p.lines = append(p.lines, line(what, answer)) }

func (p *player) counts() counts {
	return counts{len(p.users), len(p.keys), len(p.tokens), len(p.mints), len(p.rotations)}
}

func (p *player) sequence() uint64 {
	st, err := p.store.Stats(context.Background())
	if err != nil {
		p.t.Fatalf("Stats: %v", err)
	}
	return st.Sequence
}

func (p *player) update(s step) {
	users, keys := len(p.users), len(p.keys)
	err := p.store.Update(context.Background(), func(tx *latchkey.Tx) error {
		for _, in := range s.inside {
			what := in.text(p.counts())
			answer := p.call(tx, in)
			p.note("  "+what, answer)
			if s.ending == endAtFirstError && isError(answer) {
				return errorNamed(answer)
			}
		}
		if s.ending == endBadly {
			return errEndBadly
		}
		return nil
	})
	if err != nil {
		p.users, p.keys = p.users[:users], p.keys[:keys]
	}
	p.note(s.text(p.counts()), outcome(err))
}

// topCall makes a call that only a store has, or otherwise a call that a transaction has too.
func (p *player) topCall(s step) string {
	ctx := context.Background()
	switch s.do {
	case "CreateKey":
		owner, n := p.userID(s.user), p.spec(s)
		create := func() (latchkey.Key, string, error) { return p.store.CreateKey(ctx, owner, n) }
		if owner == latchkey.ServerOwner {
			create = func() (latchkey.Key, string, error) { return p.store.CreateServerKey(ctx, n) }
		}
		key, token, err := create()
		return p.created([]latchkey.Key{key}, []string{token}, err)
	case "CreateKeys":
		var requests []latchkey.KeyRequest
		for _, r := range s.requests {
			requests = append(requests, latchkey.KeyRequest{Owner: p.userID(r.user), KeySpec: p.spec(r)})
		}
		keys, tokens, err := p.store.CreateKeys(ctx, requests, nil)
		return p.created(keys, tokens, err)
	case "RotateKey":
		owner, id, r := p.owner(s), p.keyID(s.key), latchkey.Rotation{Overlap: s.overlap, UntilUsed: s.untilUsed}
		rotate := func() (latchkey.Key, string, error) { return p.store.RotateKey(ctx, owner, id, r) }
		if owner == latchkey.ServerOwner {
			rotate = func() (latchkey.Key, string, error) { return p.store.RotateServerKey(ctx, id, r) }
		}
		key, token, err := rotate()
		if err == nil {
			p.tokens = append(p.tokens, token)
		}
		return orError(p.keyText(key), err)
	case "MintToken":
		m, token, err := p.store.MintToken(ctx, p.owner(s), p.keyID(s.key))
		if err == nil {
			key := p.keys[s.key.index(len(p.keys))]
			p.rotations, p.tokens = append(p.rotations, mintedToken{m, key}), append(p.tokens, token)
		}
		return outcome(err)
	case "MintKey":
		m, token, err := p.store.MintKey(ctx)
		p.mints, p.tokens = append(p.mints, m), append(p.tokens, token)
		return outcome(err)
	case "MintForeign":
		token := tokenFromElsewhere(len(p.tokens))
		m, err := elsewhere.Key(fmt.Sprintf("%x", sha256.Sum256([]byte(token))), "", p.now)
		p.mints, p.tokens = append(p.mints, m), append(p.tokens, token)
		return outcome(err)
	case "AddTagSecret", "UseTagSecret", "RetireTagSecret", "TagSecrets":
		return p.onTagSecret(s)
	case "Login":
		return p.login(s)
	case "Stats":
		st, err := p.store.Stats(ctx)
		return orError(fmt.Sprintf("%d users, %d keys", st.Users, st.Keys), err)
	case "move the clock":
		p.now = p.now.Add(s.clock)
		return "ok"
	case "reopen":
		return "ok"
	}
	return p.call(alone{p.store}, s)
}

// created records new keys and their tokens.
func (p *player) created(keys []latchkey.Key, tokens []string, err error) string {
	if err != nil {
		if strings.Join(tokens, "") != "" {
			return "a token beside the error " + err.Error()
		}
		return outcome(err)
	}
	var texts []string
	for i, k := range keys {
		p.keys = append(p.keys, issuedKey{owner: k.Owner, id: k.ID, token: tokens[i]})
		p.tokens = append(p.tokens, tokens[i])
		texts = append(texts, p.keyText(k))
	}
	return strings.Join(texts, "; ")
}

func (p *player) login(s step) string {
	token := p.foreign.token
	if i := s.token.index(len(p.tokens)); i >= 0 {
		token = p.tokens[i]
	}
	token = spoiled(token, s.spoil, s.at)
	who, err := p.store.Login(context.Background(), token)
	if s.from != "" {
		who, err = p.store.LoginFrom(context.Background(), token, netip.MustParseAddr(s.from))
	}
	switch {
	case err == nil && who.ServerKey != (who.UserID == uuid.Nil):
		return fmt.Sprintf("a principal that contradicts itself: %+v", who)
	case err == nil:
		return principalText(p.keyName(who.KeyID), plainName(who.KeyName, who.KeyID), p.ownerName(who.UserID),
			identityText(plainIdentity(who.Identity, who.UserID)), who.Group, who.Scopes, who.Metadata("room"), who.Expires)
	case who != latchkey.Principal{}:
		return "a principal beside the error " + err.Error()
	case token != "" && strings.Contains(err.Error(), token):
		return "the token in an error"
	}
	return outcome(err)
}

// spoiled returns a token that was changed in one of the ways in spoils.
func spoiled(token, how string, at int) string {
	switch how {
	case "another character":
		at %= len(token)
		other := byte('0')
		if token[at] == other {
			other = '1'
		}
		return token[:at] + string(other) + token[at+1:]
	case "cut short":
		return token[:len(token)-1]
	case "one more character":
		return token + "0"
	case "upper case":
		return strings.ToUpper(token)
	case "another prefix":
		return "x" + token[1:]
	case "nothing left":
		return ""
	}
	return token
}

// calls are the methods that a store and a transaction have in common.
type calls interface {
	CreateUser(n latchkey.UserSpec) (latchkey.User, error)
	LinkIdentity(user uuid.UUID, i latchkey.Identity) (latchkey.User, error)
	UnlinkIdentity(user uuid.UUID, i latchkey.Identity) (latchkey.User, error)
	User(id uuid.UUID) (latchkey.User, error)
	UserByIdentity(i latchkey.Identity) (latchkey.User, error)
	Users(after uuid.UUID) iter.Seq2[latchkey.User, error]
	DisableUser(id uuid.UUID) error
	EnableUser(id uuid.UUID) error
	DeleteUser(id uuid.UUID) error
	InsertKey(user uuid.UUID, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, error)
	InsertServerKey(n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, error)
	Key(owner, id uuid.UUID) (latchkey.Key, error)
	Keys(owner uuid.UUID) ([]latchkey.Key, error)
	RenameKey(owner, id uuid.UUID, name string) error
	SetExpiry(owner, id uuid.UUID, expires time.Time) error
	SetScopes(owner, id uuid.UUID, scopes latchkey.Scopes) error
	SetNetworks(owner, id uuid.UUID, networks []netip.Prefix) error
	SetMetadata(owner, id uuid.UUID, metadata map[string]string) error
	SetUserMetadata(user uuid.UUID, metadata map[string]string) error
	DisableKey(owner, id uuid.UUID) error
	EnableKey(owner, id uuid.UUID) error
	DeleteKey(owner, id uuid.UUID) error
	SetUserGroup(user uuid.UUID, group string) error
	SetKeyGroup(id uuid.UUID, group string) error
	DisableGroup(name string) error
	EnableGroup(name string) error
	Group(name string) (latchkey.Group, error)
	Groups(after string) iter.Seq2[latchkey.Group, error]
	KeyByID(id uuid.UUID) (latchkey.Key, error)
	AllKeys(f latchkey.KeyFilter, after uuid.UUID) iter.Seq2[latchkey.Key, error]
	ExpiringBefore(at time.Time) iter.Seq2[latchkey.Key, error]
	UnusedSince(at time.Time) iter.Seq2[latchkey.Key, error]
	EnsureKey(user uuid.UUID, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, bool, error)
	EnsureServerKey(n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, bool, error)
	RotateKey(owner, id uuid.UUID, r latchkey.Rotation, m latchkey.MintedKey) (latchkey.Key, error)
	RotateServerKey(id uuid.UUID, r latchkey.Rotation, m latchkey.MintedKey) (latchkey.Key, error)
}

// call makes one of the calls that a store and a transaction have in common.
func (p *player) call(c calls, s step) string {
	user, owner, key := p.userID(s.user), p.owner(s), p.keyID(s.key)
	switch s.do {
	case "CreateUser":
		u, err := c.CreateUser(latchkey.UserSpec{Identity: s.identity, Group: s.group})
		if err == nil {
			p.users = append(p.users, u.ID)
		}
		return orError(p.userText(u), err)
	case "LinkIdentity":
		u, err := c.LinkIdentity(user, s.identity)
		return orError(p.userText(u), err)
	case "UnlinkIdentity":
		i := s.identity
		if i.Subject == self {
			i.Subject = user.String()
		}
		u, err := c.UnlinkIdentity(user, i)
		return orError(p.userText(u), err)
	case "User":
		u, err := c.User(user)
		return orError(p.userText(u), err)
	case "UserByIdentity":
		u, err := c.UserByIdentity(s.identity)
		return orError(p.userText(u), err)
	case "Users":
		return p.listUsers(c, user)
	case "DisableUser":
		return outcome(c.DisableUser(user))
	case "EnableUser":
		return outcome(c.EnableUser(user))
	case "DeleteUser":
		return outcome(c.DeleteUser(user))
	case "InsertKey":
		n := p.spec(s)
		insert := func() (latchkey.Key, error) { return c.InsertKey(user, n, p.minted(s.mint)) }
		if user == latchkey.ServerOwner {
			insert = func() (latchkey.Key, error) { return c.InsertServerKey(n, p.minted(s.mint)) }
		}
		k, err := insert()
		if err == nil {
			p.keys = append(p.keys, issuedKey{owner: k.Owner, id: k.ID})
		}
		return orError(p.keyText(k), err)
	case "EnsureKey":
		n := p.spec(s)
		ensure := func() (latchkey.Key, bool, error) { return c.EnsureKey(user, n, p.minted(s.mint)) }
		if user == latchkey.ServerOwner {
			ensure = func() (latchkey.Key, bool, error) { return c.EnsureServerKey(n, p.minted(s.mint)) }
		}
		k, changed, err := ensure()
		if err == nil && p.keyName(k.ID) == keyName(-1) {
			p.keys = append(p.keys, issuedKey{owner: k.Owner, id: k.ID})
		}
		return orError(p.keyText(k)+ensured(changed), err)
	case "RotateWith":
		r := latchkey.Rotation{Overlap: s.overlap, UntilUsed: s.untilUsed}
		minted := p.foreign.mint
		if i := s.mint.index(len(p.rotations)); i >= 0 {
			minted = p.rotations[i].MintedKey
			if s.byOwner {
				owner, key = p.rotations[i].key.owner, p.rotations[i].key.id
			}
		} else if s.mint == refNil {
			minted = latchkey.MintedKey{}
		}
		rotate := func() (latchkey.Key, error) { return c.RotateKey(owner, key, r, minted) }
		if owner == latchkey.ServerOwner {
			rotate = func() (latchkey.Key, error) { return c.RotateServerKey(key, r, minted) }
		}
		k, err := rotate()
		return orError(p.keyText(k), err)
	case "LastUsed":
		k, err := c.KeyByID(key)
		return orError(k.LastUsed.Format(time.RFC3339), err)
	case "UnusedSince":
		keys, err := keysIn(c.UnusedSince(p.now.Add(s.since)))
		found := slices.ContainsFunc(keys, func(k latchkey.Key) bool { return k.ID == key })
		return orError(fmt.Sprint(found), err)
	case "ExpiringBefore":
		keys, err := keysIn(c.ExpiringBefore(p.expiry(s)))
		return orError(p.inOrder(keys), err)
	case "SetUserGroup":
		return outcome(c.SetUserGroup(user, s.group))
	case "SetKeyGroup":
		return outcome(c.SetKeyGroup(key, s.group))
	case "DisableGroup":
		return outcome(c.DisableGroup(s.group))
	case "EnableGroup":
		return outcome(c.EnableGroup(s.group))
	case "Group":
		g, err := c.Group(s.group)
		return orError(g.Name+disabledText(g.Disabled), err)
	case "Groups":
		var list []string
		for g, err := range c.Groups("") {
			if err != nil {
				return outcome(err)
			}
			list = append(list, g.Name+disabledText(g.Disabled))
		}
		return strings.Join(list, "; ")
	case "KeyByID":
		k, err := c.KeyByID(key)
		return orError(p.keyText(k), err)
	case "AllKeys":
		return p.allKeys(c, s)
	case "Key":
		k, err := c.Key(owner, key)
		return orError(p.keyText(k), err)
	case "Keys":
		return p.listKeys(c, user)
	case "RenameKey":
		return outcome(c.RenameKey(owner, key, s.name))
	case "SetExpiry":
		return outcome(c.SetExpiry(owner, key, p.expiry(s)))
	case "SetScopes":
		return outcome(c.SetScopes(owner, key, latchkey.NewScopes(scopeLists[s.carried]...)))
	case "SetNetworks":
		return outcome(c.SetNetworks(owner, key, networkLists[s.carried].networks()))
	case "SetMetadata":
		return outcome(c.SetMetadata(owner, key, metadataLists[s.carried]))
	case "SetUserMetadata":
		return outcome(c.SetUserMetadata(user, metadataLists[s.carried]))
	case "DisableKey":
		return outcome(c.DisableKey(owner, key))
	case "EnableKey":
		return outcome(c.EnableKey(owner, key))
	case "DeleteKey":
		return outcome(c.DeleteKey(owner, key))
	}
	panic("no call for " + s.do)
}

// listUsers lists all users in the order of their creation. If listing from a cursor gives other
// users, it says so instead.
func (p *player) listUsers(c calls, after uuid.UUID) string {
	list := func(after uuid.UUID) (users []latchkey.User, err error) {
		for u, err := range c.Users(after) {
			if err != nil {
				return nil, err
			}
			users = append(users, u)
		}
		return users, nil
	}
	byID := func(a, b latchkey.User) int { return cmp.Compare(string(a.ID[:]), string(b.ID[:])) }
	all, err := list(uuid.Nil)
	if err != nil {
		return outcome(err)
	}
	rest, err := list(after)
	if err != nil {
		return outcome(err)
	}
	if !slices.IsSortedFunc(all, byID) {
		return "users out of order"
	}
	want := slices.DeleteFunc(slices.Clone(all), func(u latchkey.User) bool { return string(u.ID[:]) <= string(after[:]) })
	if !slices.EqualFunc(rest, want, func(a, b latchkey.User) bool { return a.ID == b.ID }) {
		return "other users after a cursor"
	}
	slices.SortFunc(all, func(a, b latchkey.User) int {
		return cmp.Compare(slices.Index(p.users, a.ID), slices.Index(p.users, b.ID))
	})
	var texts []string
	for _, u := range all {
		texts = append(texts, p.userText(u))
	}
	return strings.Join(texts, "; ")
}

func (p *player) listKeys(c calls, owner uuid.UUID) string {
	keys, err := c.Keys(owner)
	byID := func(a, b latchkey.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), bytes.Compare(a.ID[:], b.ID[:]))
	}
	if !slices.IsSortedFunc(keys, byID) {
		return fmt.Sprintf("keys in no order: %v", keys)
	}
	// The rules do not know the IDs. So keys of one time are shown in the order in which they were
	// made.
	place := func(k latchkey.Key) int {
		return slices.IndexFunc(p.keys, func(made issuedKey) bool { return made.id == k.ID })
	}
	slices.SortStableFunc(keys, func(a, b latchkey.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(place(a), place(b)))
	})
	var texts []string
	for _, k := range keys {
		texts = append(texts, p.keyText(k))
	}
	return orError(strings.Join(texts, "; "), err)
}

// allKeys lists the keys that agree with a filter, in the order in which they were made. If listing
// from a cursor gives other keys, it says so instead.
func (p *player) allKeys(c calls, s step) string {
	f := latchkey.KeyFilter{Group: s.group, NamePrefix: s.name, State: s.state, ExpiringBefore: p.expiry(s), TagSecretBefore: uint64(s.secret)}
	if s.user != refNil {
		f.Owner = p.userID(s.user)
	}
	all, err := keysIn(c.AllKeys(f, uuid.Nil))
	if err != nil {
		return outcome(err)
	}
	if !slices.IsSortedFunc(all, func(a, b latchkey.Key) int { return bytes.Compare(a.ID[:], b.ID[:]) }) {
		return "keys out of order"
	}
	if len(all) > 0 {
		middle := len(all) / 2
		rest, err := keysIn(c.AllKeys(f, all[middle].ID))
		if err != nil || !slices.EqualFunc(rest, all[middle+1:], func(a, b latchkey.Key) bool { return a.ID == b.ID }) {
			return fmt.Sprintf("other keys after a cursor: %v", err)
		}
	}
	return p.inOrder(all)
}

// keysIn collects keys.
func keysIn(list iter.Seq2[latchkey.Key, error]) (keys []latchkey.Key, err error) {
	for k, err := range list {
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// inOrder returns the text of keys in the order in which they were made.
func (p *player) inOrder(all []latchkey.Key) string {
	place := func(k latchkey.Key) int {
		return slices.IndexFunc(p.keys, func(made issuedKey) bool { return made.id == k.ID })
	}
	slices.SortFunc(all, func(a, b latchkey.Key) int { return cmp.Compare(place(a), place(b)) })
	var texts []string
	for _, k := range all {
		texts = append(texts, p.keyText(k))
	}
	return strings.Join(texts, "; ")
}

// userID returns the ID of the user that a ref stands for.
func (p *player) userID(r ref) uuid.UUID {
	switch i := r.index(len(p.users)); {
	case i >= 0:
		return p.users[i]
	case r == refServer:
		return latchkey.ServerOwner
	case r == refNil:
		return uuid.Nil
	}
	return p.foreign.user
}

func (p *player) keyID(r ref) uuid.UUID {
	if i := r.index(len(p.keys)); i >= 0 {
		return p.keys[i].id
	}
	return p.foreign.key
}

// owner returns the owner that a step passes to a call on a key.
func (p *player) owner(s step) uuid.UUID {
	if i := s.key.index(len(p.keys)); i >= 0 && s.byOwner {
		return p.keys[i].owner
	}
	return p.userID(s.user)
}

func (p *player) minted(r ref) latchkey.MintedKey {
	switch i := r.index(len(p.mints)); {
	case i >= 0:
		return p.mints[i]
	case r == refNil:
		return latchkey.MintedKey{}
	}
	return p.foreign.mint
}

// spec returns what a step gives to a key.
func (p *player) spec(s step) latchkey.KeySpec {
	return latchkey.KeySpec{
		Name: s.name, Expires: p.expiry(s), Group: s.group,
		Scopes:   latchkey.NewScopes(scopeLists[s.spec.scopes]...),
		Networks: networkLists[s.spec.networks].networks(),
		Metadata: metadataLists[s.spec.metadata],
	}
}

func (p *player) expiry(s step) time.Time {
	if s.expires == 0 {
		return time.Time{}
	}
	return p.now.Add(s.expires)
}

func (p *player) ownerName(id uuid.UUID) string {
	switch id {
	case latchkey.ServerOwner:
		return userName(ownServer)
	case uuid.Nil:
		return userName(ownNobody)
	}
	return userName(slices.Index(p.users, id))
}

func (p *player) keyName(id uuid.UUID) string {
	return keyName(slices.IndexFunc(p.keys, func(k issuedKey) bool { return k.id == id }))
}

func (p *player) userText(u latchkey.User) string {
	identities := slices.Clone(u.Identities)
	for i := range identities {
		identities[i] = plainIdentity(identities[i], u.ID)
	}
	return userText(p.ownerName(u.ID), identities, u.Metadata, u.Group, u.Created, u.Disabled)
}

// plainIdentity returns an identity as the rules know it. They do not know the ID in the identity
// of a user that was made without a subject.
func plainIdentity(i latchkey.Identity, user uuid.UUID) latchkey.Identity {
	if i == (latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: user.String()}) {
		i.Subject = self
	}
	return i
}

func (p *player) keyText(k latchkey.Key) string {
	carried := carriedText(k.Scopes, k.Networks, k.Metadata, k.Group)
	used := k.LastUsed
	if !p.steady {
		used = time.Time{} // the step LastUsed tells it
	}
	return keyText(p.keyName(k.ID), p.ownerName(k.Owner), plainName(k.Name, k.ID), carried, k.Created, k.Expires, used, k.Disabled)
}

// plainName returns the name of a key as the rules know it. They do not know the digits of the
// key's ID in the name of a key that has made way.
func plainName(name string, id uuid.UUID) string {
	if before, madeWay := strings.CutSuffix(name, "~"+id.String()[28:]); madeWay {
		return before + ownDigits
	}
	return name
}

func orError(text string, err error) string {
	if err != nil {
		return outcome(err)
	}
	return text
}

// alone makes each call in a transaction of its own, through the store's methods.
type alone struct{ s *latchkey.Store }

func (a alone) CreateUser(n latchkey.UserSpec) (latchkey.User, error) {
	return a.s.CreateUser(context.Background(), n)
}

func (a alone) LinkIdentity(user uuid.UUID, i latchkey.Identity) (latchkey.User, error) {
	return a.s.LinkIdentity(context.Background(), user, i)
}

func (a alone) UnlinkIdentity(user uuid.UUID, i latchkey.Identity) (latchkey.User, error) {
	return a.s.UnlinkIdentity(context.Background(), user, i)
}

func (a alone) User(id uuid.UUID) (latchkey.User, error) {
	return a.s.User(context.Background(), id)
}

func (a alone) UserByIdentity(i latchkey.Identity) (latchkey.User, error) {
	return a.s.UserByIdentity(context.Background(), i)
}

func (a alone) Users(after uuid.UUID) iter.Seq2[latchkey.User, error] {
	return a.s.Users(context.Background(), after)
}

func (a alone) DisableUser(id uuid.UUID) error { return a.s.DisableUser(context.Background(), id) }
func (a alone) EnableUser(id uuid.UUID) error  { return a.s.EnableUser(context.Background(), id) }
func (a alone) DeleteUser(id uuid.UUID) error  { return a.s.DeleteUser(context.Background(), id) }

func (a alone) InsertKey(user uuid.UUID, n latchkey.KeySpec, m latchkey.MintedKey) (key latchkey.Key, err error) {
	err = a.s.Update(context.Background(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.InsertKey(user, n, m)
		return err
	})
	return key, err
}

func (a alone) InsertServerKey(n latchkey.KeySpec, m latchkey.MintedKey) (key latchkey.Key, err error) {
	err = a.s.Update(context.Background(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.InsertServerKey(n, m)
		return err
	})
	return key, err
}

func (a alone) Key(owner, id uuid.UUID) (latchkey.Key, error) {
	return a.s.Key(context.Background(), owner, id)
}

func (a alone) Keys(owner uuid.UUID) ([]latchkey.Key, error) {
	return a.s.Keys(context.Background(), owner)
}

func (a alone) RenameKey(owner, id uuid.UUID, name string) error {
	return a.s.RenameKey(context.Background(), owner, id, name)
}

func (a alone) SetExpiry(owner, id uuid.UUID, expires time.Time) error {
	return a.s.SetExpiry(context.Background(), owner, id, expires)
}

func (a alone) SetScopes(owner, id uuid.UUID, scopes latchkey.Scopes) error {
	return a.s.SetScopes(context.Background(), owner, id, scopes)
}

func (a alone) SetNetworks(owner, id uuid.UUID, networks []netip.Prefix) error {
	return a.s.SetNetworks(context.Background(), owner, id, networks)
}

func (a alone) SetMetadata(owner, id uuid.UUID, metadata map[string]string) error {
	return a.s.SetMetadata(context.Background(), owner, id, metadata)
}

func (a alone) SetUserMetadata(user uuid.UUID, metadata map[string]string) error {
	return a.s.SetUserMetadata(context.Background(), user, metadata)
}

func (a alone) DisableKey(owner, id uuid.UUID) error {
	return a.s.DisableKey(context.Background(), owner, id)
}

func (a alone) EnableKey(owner, id uuid.UUID) error {
	return a.s.EnableKey(context.Background(), owner, id)
}

func (a alone) DeleteKey(owner, id uuid.UUID) error {
	return a.s.DeleteKey(context.Background(), owner, id)
}

func (a alone) SetUserGroup(user uuid.UUID, group string) error {
	return a.s.SetUserGroup(context.Background(), user, group)
}

func (a alone) SetKeyGroup(id uuid.UUID, group string) error {
	return a.s.SetKeyGroup(context.Background(), id, group)
}

func (a alone) DisableGroup(name string) error { return a.s.DisableGroup(context.Background(), name) }
func (a alone) EnableGroup(name string) error  { return a.s.EnableGroup(context.Background(), name) }

func (a alone) Group(name string) (latchkey.Group, error) {
	return a.s.Group(context.Background(), name)
}

func (a alone) Groups(after string) iter.Seq2[latchkey.Group, error] {
	return a.s.Groups(context.Background(), after)
}

func (a alone) KeyByID(id uuid.UUID) (latchkey.Key, error) {
	return a.s.KeyByID(context.Background(), id)
}

func (a alone) AllKeys(f latchkey.KeyFilter, after uuid.UUID) iter.Seq2[latchkey.Key, error] {
	return a.s.AllKeys(context.Background(), f, after)
}

func (a alone) ExpiringBefore(at time.Time) iter.Seq2[latchkey.Key, error] {
	return a.s.ExpiringBefore(context.Background(), at)
}

func (a alone) UnusedSince(at time.Time) iter.Seq2[latchkey.Key, error] {
	return a.s.UnusedSince(context.Background(), at)
}

func (a alone) EnsureKey(user uuid.UUID, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, bool, error) {
	return a.s.EnsureKey(context.Background(), user, n, m)
}

func (a alone) EnsureServerKey(n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, bool, error) {
	return a.s.EnsureServerKey(context.Background(), n, m)
}

func (a alone) RotateKey(owner, id uuid.UUID, r latchkey.Rotation, m latchkey.MintedKey) (key latchkey.Key, err error) {
	err = a.s.Update(context.Background(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.RotateKey(owner, id, r, m)
		return err
	})
	return key, err
}

func (a alone) RotateServerKey(id uuid.UUID, r latchkey.Rotation, m latchkey.MintedKey) (key latchkey.Key, err error) {
	err = a.s.Update(context.Background(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.RotateServerKey(id, r, m)
		return err
	})
	return key, err
}

// foreigner has a user, a key, a token and a minted key of a store in another domain.
type foreigner struct {
	user, key uuid.UUID
	token     string
	mint      latchkey.MintedKey
}

func newForeigner(t *testing.T) *foreigner {
	s := open(t, &latchkey.Options{Cost: light})
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada")})
	must(t, err)
	key, token, err := s.CreateKey(t.Context(), user.ID, latchkey.KeySpec{Name: "laptop"})
	must(t, err)
	mint, _, err := s.MintKey(t.Context())
	must(t, err)
	return &foreigner{user.ID, key.ID, token, mint}
}
