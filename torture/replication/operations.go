package replication

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// This file has what people do at the machines.

// refusals are the errors of calls that come too late, find something taken, or are not permitted.
var refusals = []error{
	latchkey.ErrUserNotFound, latchkey.ErrKeyNotFound, latchkey.ErrKeyNameTaken, latchkey.ErrIdentityTaken, latchkey.ErrIdentityNotFound,
	latchkey.ErrLastIdentity, latchkey.ErrUserHasKeys, latchkey.ErrTooManyKeys, latchkey.ErrAnonymousUser, latchkey.ErrInvalidRotation,
	latchkey.ErrIdentityConflict, latchkey.ErrKeyDeleted, latchkey.ErrInvalidExpiry, latchkey.ErrInvalidMintedKey, core.ErrNotPermitted,
}

func isRefusal(err error) bool {
	return slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) })
}

var operations = []string{
	"create user", "create user", "create key", "create key", "create key", "create server key", "create server key",
	"rename", "expiry", "scopes", "networks", "metadata", "user metadata",
	"disable key", "disable key", "disable key", "enable key", "enable key", "disable user", "enable user", "disable group", "enable group",
	"group", "group", "link", "unlink", "rotate", "rotate until used", "rotate at once", "rotate at once", "delete key", "delete user",
	"import", "apply", "login", "login", "login",
}

func (w *world) text() string { return pick(w, []string{"a", "b", "c"}) }

// group returns the name of a group. Some records are in none.
func (w *world) group() string {
	return pick(w, []string{"red", "green", "blue", "red", "green", "blue", ""})
}

func (w *world) identity() latchkey.Identity {
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: pick(w, []string{"ada", "bob", "cyd", "dan", "eve"})}
}

// operate makes one change at a node.
func (n *node) operate() error { return n.operateAs(pick(n.world, operations)) }

func (n *node) operateAs(what string) error {
	if n.edge != nil {
		s, err := n.edge.Status(n.ctx)
		if err != nil {
			return err
		}
		n.permitted = s.Policy
	}
	what, target, crashed, err := n.change(what)
	n.logf("%s: %s %s: %v", n.label, what, target, err)
	if err != nil && !crashed && !isRefusal(err) {
		return fmt.Errorf("%s: %s: %w", n.label, what, err)
	}
	return n.settle(step{local: true, crashed: crashed})
}

// some returns a record of a kind that is live at the node, or one with the ID Nil.
func (n *node) some(kind string) *state {
	var all, again []*state
	for _, at := range sorted(n.content) {
		if s := n.state(at); at.kind == kind && !s.dead {
			all = append(all, s)
			if n.undone[at] {
				again = append(again, s)
			}
		}
	}
	if len(again) > 0 && n.chance(2) {
		return pick(n.world, again)
	}
	if len(all) == 0 {
		return &state{kind: kind, id: string(uuid.Nil[:])}
	}
	return pick(n.world, all[:1+n.random.IntN(len(all))]) // the first ones more often
}

func (s *state) uuid() (id uuid.UUID) {
	copy(id[:], s.id)
	return id
}

func (n *node) change(what string) (did, target string, crashed bool, err error) {
	u, k := n.some("user"), n.some("key")
	id, owner := k.uuid(), k.owner
	switch {
	case u.uuid() == uuid.Nil && !strings.Contains(what, "server") && n.chance(2):
		what = "create user"
	case id == uuid.Nil && what != "create user":
		what = "create key"
		if n.chance(2) {
			what = "create server key"
		}
	}
	s, ctx := n.store, n.ctx
	key := func(err error) error { target = k.name().String(); return err }
	user := func(err error) error { target = u.name().String(); return err }
	made := func(k latchkey.Key, token string, err error) error {
		target = k.ID.String()
		if err == nil {
			n.issue(k, token)
		}
		return err
	}
	rotate := func(r latchkey.Rotation) error {
		if owner == latchkey.ServerOwner {
			return made(s.RotateServerKey(ctx, id, r))
		}
		return made(s.RotateKey(ctx, owner, id, r))
	}
	spec := latchkey.KeySpec{Name: n.text()}
	if n.chance(4) {
		spec.Expires = n.time().Add(time.Duration(1+n.random.IntN(200)) * time.Hour)
	}
	var do func() error
	switch what {
	case "create user":
		spec := latchkey.UserSpec{Identity: n.identity(), Group: n.group()}
		do = func() error {
			u, err := s.CreateUser(ctx, spec)
			target = u.ID.String()
			return err
		}
	case "create key":
		do = func() error { return made(s.CreateKey(ctx, u.uuid(), spec)) }
	case "create server key":
		spec.Group = n.group()
		do = func() error { return made(s.CreateServerKey(ctx, spec)) }
	case "rename":
		do = func() error { return key(s.RenameKey(ctx, owner, id, spec.Name)) }
	case "expiry":
		do = func() error { return key(s.SetExpiry(ctx, owner, id, spec.Expires)) }
	case "scopes":
		scopes := latchkey.NewScopes(n.text(), n.text())
		do = func() error { return key(s.SetScopes(ctx, owner, id, scopes)) }
	case "networks":
		networks := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n.random.IntN(3))}), 16)}
		if n.chance(2) {
			networks = nil
		}
		do = func() error { return key(s.SetNetworks(ctx, owner, id, networks)) }
	case "metadata":
		metadata := map[string]string{n.text(): n.text()}
		do = func() error { return key(s.SetMetadata(ctx, owner, id, metadata)) }
	case "user metadata":
		metadata := map[string]string{n.text(): n.text()}
		do = func() error { return user(s.SetUserMetadata(ctx, u.uuid(), metadata)) }
	case "disable key":
		do = func() error { return key(s.DisableKey(ctx, owner, id)) }
	case "enable key":
		do = func() error { return key(s.EnableKey(ctx, owner, id)) }
	case "disable user":
		do = func() error { return user(s.DisableUser(ctx, u.uuid())) }
	case "enable user":
		do = func() error { return user(s.EnableUser(ctx, u.uuid())) }
	case "disable group", "enable group":
		g := pick(n.world, []string{"red", "green", "blue"})
		target = g
		do = func() error { return s.DisableGroup(ctx, g) }
		if what == "enable group" {
			do = func() error { return s.EnableGroup(ctx, g) }
		}
	case "group":
		g := n.group()
		do = func() error { return user(s.SetUserGroup(ctx, u.uuid(), g)) }
		if owner == latchkey.ServerOwner && n.chance(2) {
			do = func() error { return key(s.SetKeyGroup(ctx, id, g)) }
		}
	case "link":
		i := n.identity()
		do = func() error { _, err := s.LinkIdentity(ctx, u.uuid(), i); return user(err) }
	case "unlink":
		i := n.identity()
		do = func() error { _, err := s.UnlinkIdentity(ctx, u.uuid(), i); return user(err) }
	case "rotate":
		overlap := time.Duration(1+n.random.IntN(100)) * time.Hour
		do = func() error { return rotate(latchkey.Rotation{Overlap: overlap}) }
	case "rotate until used":
		do = func() error { return rotate(latchkey.Rotation{Overlap: 200 * time.Hour, UntilUsed: true}) }
	case "rotate at once":
		do = func() error { return rotate(latchkey.Rotation{}) }
	case "delete key":
		do = func() error { return key(s.DeleteKey(ctx, owner, id)) }
	case "delete user":
		do = func() error { return user(s.DeleteUser(ctx, u.uuid())) }
	case "import":
		// An old key belongs to one user at every machine.
		handle := latchkey.ForeignHandle{byte(1 + n.random.IntN(2)), u.id[0], u.id[1], u.id[2]}
		do = func() error {
			k, _, err := s.EnsureKey(ctx, u.uuid(), spec, latchkey.MintForeign(handle, "imported", n.time()))
			target = k.ID.String()
			return err
		}
	case "apply":
		do = func() error {
			m, err := s.ExportKey(ctx, id)
			if err != nil {
				return key(err)
			}
			if owner == latchkey.ServerOwner {
				_, _, err = s.EnsureServerKey(ctx, spec, m)
			} else {
				_, _, err = s.EnsureKey(ctx, owner, spec, m)
			}
			return key(err)
		}
	case "login":
		if len(n.tokens) == 0 {
			return what, "", false, nil
		}
		t := pick(n.world, n.tokens)
		target = t.key.String()
		do = func() error { return n.login(t) }
	}
	crashed, err = n.attempt(do)
	return what, target, crashed, err
}

// issue notes a new token, which is the last one that the key lists.
func (n *node) issue(k latchkey.Key, token string) {
	if len(k.Tokens) > 0 {
		verifier, _ := hex.DecodeString(k.Tokens[len(k.Tokens)-1].ID)
		n.tokens = append(n.tokens, issued{token, k.ID, string(verifier)})
	}
}

// login tries a token, and compares the answer with what the node knows of the key.
func (n *node) login(t issued) error {
	why := n.refusal(t)
	_, err := n.store.LoginFrom(n.ctx, t.token, netip.AddrFrom4([4]byte{10, 1, 2, 3}))
	switch {
	case n.disk.crashed:
		return err
	case err == nil && why != "":
		return fmt.Errorf("token %s of key %s logs in, although %s", t.verifier, t.key, why)
	case err != nil && why == "" && !n.isReplaced(t):
		return fmt.Errorf("token %s of key %s does not log in: %w", t.verifier, t.key, err)
	}
	return nil
}

// refusal says why a token must not log in at a node, or returns "".
func (n *node) refusal(t issued) string {
	k := n.state(name{"key", string(t.key[:])})
	if k == nil || k.dead {
		return "the key is gone"
	}
	v, ok := k.tokens[t.verifier]
	now := n.time().UnixMilli() // as the store has the time
	switch {
	case !ok:
		return "the key does not have the token"
	case v.retired:
		return "the token was ended"
	case v.ends != 0 && now >= v.ends*1000:
		return "the token has ended"
	case k.isDisabled():
		return "the key is disabled"
	case k.expires() != 0 && now >= k.expires()*1000:
		return "the key has expired"
	case !k.permits("\x0a\x01\x00\x00\x10"):
		return "the key is for another network"
	}
	group := k.group()
	if k.owner != latchkey.ServerOwner {
		u := n.state(name{"user", string(k.owner[:])})
		switch {
		case u == nil || u.dead:
			return "the owner is gone"
		case u.isDisabled():
			return "the owner is disabled"
		}
		group = u.group()
	}
	if g := n.state(name{"group", group}); g != nil && g.isDisabled() {
		return "the group is disabled"
	}
	if !n.tagged(v.tag) {
		return "the tag secret of the token is not known or retired"
	}
	return ""
}

// expires returns when a key expires, in seconds since 1970, or 0.
func (s *state) expires() int64 {
	v := s.fields["expires"].value
	if v == "" {
		return 0
	}
	n, _ := binary.Uvarint([]byte(v[1:]))
	return int64(n)
}

// permits reports whether a key can be used from a network.
func (s *state) permits(network string) bool {
	v := s.fields["networks"].value
	return v == "" || strings.Contains(v, lengthened(0x1a, network))
}

// tagged reports whether a node accepts the tokens of a tag secret.
func (n *node) tagged(number uint64) bool {
	all, err := n.store.TagSecrets(n.ctx)
	return err != nil || slices.ContainsFunc(all, func(s latchkey.TagSecret) bool { return s.Number == number && s.State != latchkey.TagSecretRetired })
}

// isReplaced reports whether the first use of another token of the key ends a token.
func (n *node) isReplaced(t issued) bool {
	k := n.state(name{"key", string(t.key[:])})
	for _, v := range k.tokens {
		if v.untilUsed && v.replaces == t.verifier {
			return true
		}
	}
	return false
}
