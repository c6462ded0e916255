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

// A Change says what a call has changed in one user, key, group or tag secret, or in the store's
// time, and names the actor. It has no token, secret, verifier or metadata, and of an identity only
// the provider, so it can be logged and kept. See [Options].OnChange.
type Change struct {
	// Actions are what was done: usually one action, and never none.
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
	// has those that it had. In a change of a tag secret, Name is the secret's number.
	Name     string         `json:"name,omitempty"`
	Expires  time.Time      `json:"expires,omitzero"`
	Scopes   Scopes         `json:"scopes,omitzero"`
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// An Action is one thing that was done to a user, a key, a group, a tag secret, or the store's
// time.
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

	// A store forgets what its hub does not give it any more. The others still have it.
	ActionUserForgotten  Action = "user.forgotten"
	ActionKeyForgotten   Action = "key.forgotten"
	ActionGroupForgotten Action = "group.forgotten"

	ActionTagSecretAdded   Action = "tag-secret.added"
	ActionTagSecretUsed    Action = "tag-secret.used"
	ActionTagSecretRetired Action = "tag-secret.retired"

	ActionClockReset Action = "clock.reset" // by [Store.ResetClock]
)

// MaxActor is how many bytes the name of an actor can have. The rest of a longer name is cut off,
// at the end of a character.
const MaxActor = 256

type actorKey struct{}

// WithActor returns a context for changes that an actor makes, such as an administrator or a
// service. The name of the actor goes into each [Change]. Bytes of the name that are not UTF-8 are
// replaced by U+FFFD. The store does nothing else with the name, so the name permits nothing.
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

// differences has a function for each table of users, keys and groups, which compares two versions
// of a record.
var differences = map[string]func(key, before, after []byte) (record.Difference, error){
	tableUsers: record.UserDifference, tableKeys: record.KeyDifference, tableGroups: record.GroupDifference,
}

// compare notes a [Change] for the hook if a write changes the record of a user, key or group. A
// nil after means that the record is deleted. Every write goes through compare, so no call has to
// remember the hook: compare finds what the call has changed in the record.
//
// To name the action of a field, add a line to internal/record/changes.go, and a constant above.
// The change of a field without a line calls the hook all the same, as "changed". A change that is
// in none of these records is noted by a call of note.
func (tx *Tx) compare(table string, key, after []byte) error {
	difference := differences[table]
	if tx.onChange == nil || difference == nil {
		return nil
	}
	before, err := tx.etx.Get(table, key)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	if before != nil {
		if before, err = openRecord(table, key, before); err != nil && after == nil {
			before, err = []byte{}, nil // a damaged record is deleted
		}
	}
	if err == nil && after != nil {
		after, err = openRecord(table, key, after)
	}
	if err != nil {
		return err
	}
	d, err := difference(key, before, after)
	if err != nil {
		return recordError(err)
	}
	c := Change{
		User: d.User, Provider: Provider(d.Provider), Group: d.Group,
		Key: d.Key, Owner: d.Owner, Name: d.Name, Expires: d.Expires, Scopes: NewScopes(d.Scopes...), Networks: d.Networks,
	}
	for _, action := range d.Actions {
		c.Actions = append(c.Actions, Action(action))
	}
	if tx.forgets {
		c.Actions = []Action{Action(strings.TrimSuffix(table, "s") + ".forgotten")}
	}
	tx.note(c)
	return nil
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
