package latchkey

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A Change says what a call has changed in one user, key or group, and names the caller. It has no
// token, secret, verifier or metadata, and of an identity only the provider, so it can be logged
// and kept. See [Options].OnChange.
type Change struct {
	// Actions are what was done, usually one thing. There is always one.
	Actions []Action  `json:"actions"`
	Time    time.Time `json:"time"`            // the store's time, to the millisecond, in UTC
	Actor   string    `json:"actor,omitempty"` // see [WithActor]
	User    uuid.UUID `json:"user,omitzero"`   // of a change of a user
	Key     uuid.UUID `json:"key,omitzero"`    // of a change of a key
	Owner   uuid.UUID `json:"owner,omitzero"`  // of the key: a user's ID, or [ServerOwner]
	// Provider is the provider of the identity that a user got or lost.
	Provider Provider `json:"provider,omitempty"`
	// Group is the group that the user or key is in after the change. In a change of a group, it is
	// the group's name. A deleted user or key has the group that it was in.
	Group string `json:"group,omitempty"`
	// Name, Expires, Scopes and Networks are those that the key has after the change. A deleted key
	// has those that it had.
	Name     string         `json:"name,omitempty"`
	Expires  time.Time      `json:"expires,omitzero"`
	Scopes   Scopes         `json:"scopes,omitzero"`
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// An Action is one thing that was done to a user, a key or a group.
type Action string

// The actions. A later version may have more of them.
const (
	ActionUserCreated      Action = "user.created"
	ActionUserDeleted      Action = "user.deleted"
	ActionUserDisabled     Action = "user.disabled"
	ActionUserEnabled      Action = "user.enabled"
	ActionIdentityLinked   Action = "user.identity-linked"
	ActionIdentityUnlinked Action = "user.identity-unlinked"
	ActionUserGroup        Action = "user.group"
	ActionUserMetadata     Action = "user.metadata"
	ActionUserChanged      Action = "user.changed" // in a way that has no action of its own

	ActionKeyCreated    Action = "key.created"
	ActionKeyDeleted    Action = "key.deleted"
	ActionKeyDisabled   Action = "key.disabled"
	ActionKeyEnabled    Action = "key.enabled"
	ActionKeyRenamed    Action = "key.renamed"
	ActionKeyRotated    Action = "key.rotated"     // it has a new token
	ActionKeyTokenEnded Action = "key.token-ended" // an old token was ended, and no new one made
	ActionKeyExpiry     Action = "key.expiry"
	ActionKeyScopes     Action = "key.scopes"
	ActionKeyNetworks   Action = "key.networks"
	ActionKeyMetadata   Action = "key.metadata"
	ActionKeyGroup      Action = "key.group"
	ActionKeyChanged    Action = "key.changed" // in a way that has no action of its own

	ActionGroupDisabled Action = "group.disabled"
	ActionGroupEnabled  Action = "group.enabled"
	ActionGroupChanged  Action = "group.changed" // in a way that has no action of its own
)

// MaxActor is how many bytes the name of an actor can have. The rest of a longer name is cut off.
const MaxActor = 256

type actorKey struct{}

// WithActor returns a context for changes that an actor makes, such as an administrator or a
// service. The name of the actor goes into each [Change]. The store does nothing else with the
// name: it permits nothing.
func WithActor(ctx context.Context, actor string) context.Context {
	actor = strings.ToValidUTF8(actor, "\uFFFD")
	if len(actor) > MaxActor {
		cut := MaxActor
		for !utf8.RuneStart(actor[cut]) {
			cut--
		}
		actor = actor[:cut]
	}
	return context.WithValue(ctx, actorKey{}, actor)
}

// actorFrom returns the actor of a context, or "" if there is none.
func actorFrom(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// changeOf compares the two versions of a record, by table. Either version is nil if there is none.
var changeOf = map[string]func(key, before, after []byte) (Change, error){
	tableUsers: userChange, tableKeys: keyChange, tableGroups: groupChange,
}

// compare notes a [Change] for the hook if a write changes the record of a user, key or group. A
// nil after means that the record is deleted. Every write goes through compare, so no call has to
// remember the hook: compare finds what the call has changed in the record.
//
// To name the action of a field, add a line to the Changes method of its record, in
// internal/record/changes.go, and a constant above. The change of a field without a line calls the
// hook all the same, as "changed". A change that is in none of these records is noted by a call of
// note.
func (tx *Tx) compare(table string, key, after []byte) error {
	change := changeOf[table]
	if tx.onChange == nil || change == nil {
		return nil
	}
	before, err := tx.etx.Get(table, key)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	c, err := change(key, before, after)
	if err == nil {
		tx.note(c)
	}
	return err
}

// note keeps a change for the hook, if there is one.
func (tx *Tx) note(c Change) {
	if tx.onChange != nil {
		c.Time, c.Actor = tx.now(), tx.actor
		tx.changes = append(tx.changes, c)
	}
}

// callHook calls the hook for each change of the transaction, in order, when the function of the
// transaction has returned. The changes that the hook makes come last.
func (tx *Tx) callHook() error {
	for len(tx.changes) > 0 && tx.halfDone == nil {
		c := tx.changes[0]
		tx.changes = tx.changes[1:]
		if err := tx.onChange(tx, c); err != nil {
			return err
		}
	}
	return nil
}

func userChange(key, before, after []byte) (c Change, err error) {
	c.User, _ = uuid.FromBytes(key)
	was, is, err := versions(before, after, func(b []byte) (*record.User, error) { return decodeRecord(tableUsers, c.User, b, record.DecodeUser) })
	if err != nil {
		return c, err
	}
	c.Actions = actions("user.", madeOrDeleted(before, after, is.Changes(*was)))
	for _, i := range append(was.Linked(), is.Linked()...) {
		if was.Has(i.Provider, i.Subject) != is.Has(i.Provider, i.Subject) {
			c.Provider = Provider(i.Provider)
		}
	}
	if after == nil {
		is = was
	}
	c.Group = is.Groups.Now()
	return c, nil
}

func keyChange(key, before, after []byte) (c Change, err error) {
	c.Key, _ = uuid.FromBytes(key)
	was, is, err := versions(before, after, func(b []byte) (*record.Key, error) { return decodeRecord(tableKeys, c.Key, b, record.DecodeKey) })
	if err != nil {
		return c, err
	}
	c.Actions = actions("key.", madeOrDeleted(before, after, is.Changes(*was)))
	if after == nil {
		is = was
	}
	k := toKey(is)
	c.Owner, c.Name, c.Group, c.Expires, c.Scopes, c.Networks = k.Owner, k.Name, k.Group, k.Expires, k.Scopes, k.Networks
	return c, nil
}

func groupChange(key, before, after []byte) (c Change, err error) {
	c.Group = string(key)
	was, is, err := versions(before, after, func(b []byte) (*record.Group, error) { return decodeGroup(c.Group, b) })
	if err != nil {
		return c, err
	}
	c.Actions = actions("group.", is.Changes(*was)) // a group is neither made nor deleted
	return c, nil
}

// actions returns the actions on a kind of record that has changed in so many words.
func actions(kind string, words []string) (all []Action) {
	for _, word := range words {
		all = append(all, Action(kind+word))
	}
	return all
}

// madeOrDeleted returns the word for a record that a write makes or deletes, or else words.
func madeOrDeleted(before, after []byte, words []string) []string {
	switch {
	case before == nil:
		return []string{"created"}
	case after == nil:
		return []string{"deleted"}
	}
	return words
}

// versions decodes a record as it is before and after a write. A record that is not there is the
// zero record, and so is a damaged one that the write deletes.
func versions[T any](before, after []byte, decode func([]byte) (*T, error)) (was, is *T, err error) {
	was, is = new(T), new(T)
	if after != nil {
		if is, err = decode(after); err != nil {
			return nil, nil, err
		}
	}
	if before == nil {
		return was, is, nil
	}
	if old, err := decode(before); err == nil {
		was = old
	} else if after != nil {
		return nil, nil, err
	}
	return was, is, nil
}
