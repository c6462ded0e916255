package manifest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin/yamldoc"
	"github.com/latchkeydb/latchkey/internal/identities"
)

// errUndo ends a transaction of a dry run.
var errUndo = errors.New("nothing is to be changed")

// applied is the table of the store that has the users and keys that manifests have made, with the
// name of the manifest. The key of an entry is "user" or "key", and an ID.
const applied = "latchkey-apply"

// Options changes how a manifest is applied.
type Options struct {
	Prune  bool // delete what the manifest has made and no longer has
	DryRun bool // change nothing
}

// Apply brings a store of the manifest's domain in line with the manifest, and returns the changes.
// If anything is wrong, it changes nothing, and the error has the line. A second run changes
// nothing.
//
// Apply takes one transaction, or several if the engine bounds transactions. Then it also returns
// the changes that were made before an error.
//
// Errors: the errors of users and keys; an error of [latchkey.Store.Update].
func (m *Manifest) Apply(ctx context.Context, s *latchkey.Store, opts Options) ([]Change, error) {
	a := &applying{m, opts, map[uuid.UUID]string{}, map[uuid.UUID]map[string]uuid.UUID{}}
	steps, err := a.steps(ctx, s)
	if err != nil {
		return nil, err
	}
	return a.apply(ctx, s, steps)
}

// applying is one run of Apply.
type applying struct {
	*Manifest
	Options
	// aside has the names of keys that were put aside, so that other keys can have the names.
	aside map[uuid.UUID]string
	// names has the keys of each owner by their names, from before the first change.
	names map[uuid.UUID]map[string]uuid.UUID
}

// A Change is one change to a user or a key.
type Change struct {
	Action string    `json:"action"` // "create", "change" or "delete"
	Kind   string    `json:"kind"`   // "user", "key" or "server key"
	ID     uuid.UUID `json:"id"`
	Owner  string    `json:"owner,omitempty"` // the identity of a key's user
	Name   string    `json:"name"`            // of a key, or the identity of a user
	Fields []Field   `json:"fields,omitempty"`
}

// A Field is a field that has another value.
type Field struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// step makes a part of the changes in a transaction, and returns those that it has made.
type step func(tx *latchkey.Tx) ([]Change, error)

// apply takes steps in one transaction, or in several if the engine bounds transactions. A step
// that was taken already changes nothing. apply returns the changes that were made, also with an
// error.
func (a *applying) apply(ctx context.Context, s *latchkey.Store, steps []step) (changes []Change, err error) {
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		changes = nil
		for _, step := range steps {
			if err := ctx.Err(); err != nil {
				return err
			}
			made, err := step(tx)
			if err != nil {
				return err
			}
			changes = append(changes, made...)
		}
		if a.DryRun {
			return errUndo
		}
		return nil
	})
	switch {
	case errors.Is(err, errUndo):
		return changes, nil
	case errors.Is(err, latchkey.ErrTransactionTooLarge) && a.DryRun:
		return nil, fmt.Errorf("%w: a dry run takes one transaction, so it cannot tell what the manifest changes", err)
	case errors.Is(err, latchkey.ErrTransactionTooLarge) && len(steps) > 1:
		if changes, err = a.apply(ctx, s, steps[:len(steps)/2]); err != nil {
			return changes, err
		}
		rest, err := a.apply(ctx, s, steps[len(steps)/2:])
		return append(changes, rest...), err
	case err != nil:
		return nil, err
	}
	return changes, nil
}

// steps returns the steps to the manifest: first the keys that go, because their names are free
// then, and last the users that go.
func (a *applying) steps(ctx context.Context, s *latchkey.Store) (steps []step, err error) {
	var users []step
	if a.Prune {
		if steps, users, err = a.pruneSteps(ctx, s); err != nil {
			return nil, err
		}
	}
	for i := range a.Users {
		u := &a.Users[i]
		steps = append(steps, func(tx *latchkey.Tx) ([]Change, error) {
			changes, err := a.applyUser(tx, u)
			return changes, yamldoc.AtLine(u.line, err)
		})
		for i := range u.Keys {
			steps = append(steps, a.keyStep(u, &u.Keys[i]))
		}
	}
	for i := range a.ServerKeys {
		steps = append(steps, a.keyStep(nil, &a.ServerKeys[i]))
	}
	return append(steps, users...), nil
}

// applyUser makes the user of an entry, or brings it in line.
func (a *applying) applyUser(tx *latchkey.Tx, e *User) ([]Change, error) {
	c := Change{Action: "change", Kind: "user", Name: identities.Format(e.identity)}
	before, err := tx.UserByIdentity(e.identity)
	if errors.Is(err, latchkey.ErrUserNotFound) {
		spec := latchkey.UserSpec{Identity: e.identity, Metadata: e.Metadata}
		if e.Group != nil {
			spec.Group = *e.Group
		}
		c.Action = "create"
		if before, err = tx.CreateUser(spec); err == nil {
			err = a.remember(tx, "user", before.ID)
		}
	}
	if err != nil {
		return nil, err
	}
	c.ID = before.ID
	if e.Group != nil {
		err = tx.SetUserGroup(c.ID, *e.Group)
	}
	if err == nil && e.Metadata != nil {
		err = tx.SetUserMetadata(c.ID, e.Metadata)
	}
	if err == nil {
		err = setDisabled(e.Disabled, before.Disabled, func() error { return tx.DisableUser(c.ID) }, func() error { return tx.EnableUser(c.ID) })
	}
	if err != nil {
		return nil, err
	}
	after, err := tx.User(c.ID)
	if c.Action == "create" {
		before = latchkey.User{}
	}
	c.differ("group", before.Group, after.Group)
	c.differ("metadata", showMetadata(before.Metadata), showMetadata(after.Metadata))
	c.differ("state", state(before.Disabled), state(after.Disabled))
	return c.unlessEmpty(), err
}

// keyStep returns the step for the key of an entry. u is nil for a server key.
func (a *applying) keyStep(u *User, e *Key) step {
	return func(tx *latchkey.Tx) ([]Change, error) {
		changes, err := a.applyKey(tx, u, e)
		return changes, yamldoc.AtLine(e.line, err)
	}
}

// applyKey makes the key of an entry, or brings it in line.
func (a *applying) applyKey(tx *latchkey.Tx, u *User, e *Key) ([]Change, error) {
	c := Change{Action: "change", Kind: "server key", ID: e.minted.ID()}
	owner := latchkey.ServerOwner
	if u != nil {
		user, err := tx.UserByIdentity(u.identity)
		if err != nil {
			return nil, err
		}
		c.Kind, c.Owner, owner = "key", identities.Format(u.identity), user.ID
	}
	before, err := tx.KeyByID(c.ID)
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		c.Action, err = "create", nil
	}
	if err != nil {
		return nil, err
	}
	if name, renamed := a.aside[c.ID]; renamed {
		before.Name = name
	}
	var after latchkey.Key
	if u != nil {
		if err = a.putAside(tx, owner, u.Keys, e); err == nil {
			after, _, err = tx.EnsureKey(owner, e.spec, e.minted)
		}
	} else if err = a.putAside(tx, owner, a.ServerKeys, e); err == nil {
		after, _, err = tx.EnsureServerKey(e.spec, e.minted)
	}
	if c.Action == "create" && errors.Is(err, latchkey.ErrInvalidExpiry) && e.spec.Expires.Year() < 9999 {
		return nil, nil // it has expired, and would be of no use
	}
	if err == nil {
		err = a.remember(tx, "key", c.ID)
	}
	if err == nil {
		err = setDisabled(e.Disabled, after.Disabled, func() error { return tx.DisableKey(owner, c.ID) }, func() error { return tx.EnableKey(owner, c.ID) })
	}
	if err != nil {
		return nil, err
	}
	after, err = tx.Key(owner, c.ID)
	c.Name = after.Name
	c.differKeys(before, after)
	return c.unlessEmpty(), err
}

// putAside renames the key that has the name of an entry, if it is a key of the same owner that
// gets another name by the manifest. entries are those of the owner.
func (a *applying) putAside(tx *latchkey.Tx, owner uuid.UUID, entries []Key, e *Key) error {
	names := a.names[owner]
	if names == nil {
		keys, err := tx.Keys(owner)
		if err != nil {
			return err
		}
		names = map[string]uuid.UUID{}
		for _, k := range keys {
			names[k.Name] = k.ID
		}
		a.names[owner] = names
	}
	id, has := names[e.spec.Name]
	if !has || id == e.minted.ID() || !slices.ContainsFunc(entries, func(e Key) bool { return e.minted.ID() == id }) {
		return nil
	}
	other, err := tx.Key(owner, id)
	expired := !other.Expires.IsZero() && !tx.Now().Before(other.Expires) // it makes way by itself
	if errors.Is(err, latchkey.ErrKeyNotFound) || err == nil && (other.Name != e.spec.Name || expired) {
		return nil
	}
	if err == nil {
		a.aside[id] = other.Name
		err = tx.RenameKey(owner, id, "renaming-"+id.String())
	}
	return err
}

// setDisabled disables or enables something, unless it is in the wanted state already.
func setDisabled(want *bool, is bool, disable, enable func() error) error {
	switch {
	case want == nil || *want == is:
		return nil
	case *want:
		return disable()
	}
	return enable()
}

// remember notes that apply has made a user or a key for the manifest.
func (a *applying) remember(tx *latchkey.Tx, kind string, id uuid.UUID) error {
	key := append([]byte(kind), id[:]...)
	table := tx.AppTable(applied)
	if name, err := table.Get(key); err != nil || name != nil && string(name) == a.Name {
		return err
	}
	return table.Put(key, []byte(a.Name))
}

// pruneSteps returns the steps that delete the keys and the users that apply has made for the
// manifest, and that are no longer in it.
func (a *applying) pruneSteps(ctx context.Context, s *latchkey.Store) (keys, users []step, err error) {
	err = s.View(ctx, func(tx *latchkey.Tx) error {
		kept := map[uuid.UUID]bool{}
		for _, u := range a.Users {
			user, err := tx.UserByIdentity(u.identity)
			if err == nil {
				kept[user.ID] = true
			} else if !errors.Is(err, latchkey.ErrUserNotFound) {
				return err
			}
		}
		for e, err := range tx.AppTable(applied).Scan(nil, nil) {
			if err != nil {
				return err
			}
			entry := slices.Clone(e.Key) // outlives the transaction
			kind, id := string(entry[:max(0, len(entry)-16)]), uuid.Nil
			copy(id[:], entry[len(kind):])
			switch {
			case string(e.Value) != a.Name:
			case kind == "key" && !a.has(id):
				keys = append(keys, func(tx *latchkey.Tx) ([]Change, error) { return pruneKey(tx, id, entry) })
			case kind == "user" && !kept[id]:
				users = append(users, func(tx *latchkey.Tx) ([]Change, error) { return pruneUser(tx, id, entry) })
			}
		}
		return nil
	})
	return keys, users, err
}

// pruneKey deletes a key, and its entry in the table of what apply has made.
func pruneKey(tx *latchkey.Tx, id uuid.UUID, entry []byte) ([]Change, error) {
	if err := tx.AppTable(applied).Delete(entry); err != nil {
		return nil, err
	}
	key, err := tx.KeyByID(id)
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := Change{Action: "delete", Kind: "server key", ID: id, Name: key.Name}
	if key.Owner != latchkey.ServerOwner {
		user, err := tx.User(key.Owner)
		if err != nil {
			return nil, err
		}
		c.Kind, c.Owner = "key", identities.Format(user.Identities[0])
	}
	return []Change{c}, tx.DeleteKey(key.Owner, id)
}

// pruneUser deletes a user without keys, and its entry in the table of what apply has made.
func pruneUser(tx *latchkey.Tx, id uuid.UUID, entry []byte) ([]Change, error) {
	user, err := tx.User(id)
	if errors.Is(err, latchkey.ErrUserNotFound) {
		return nil, tx.AppTable(applied).Delete(entry)
	}
	if err != nil {
		return nil, err
	}
	if keys, err := tx.Keys(id); err != nil || len(keys) > 0 {
		return nil, err
	}
	if err := tx.AppTable(applied).Delete(entry); err != nil {
		return nil, err
	}
	c := Change{Action: "delete", Kind: "user", ID: id, Name: identities.Format(user.Identities[0])}
	return []Change{c}, tx.DeleteUser(id)
}

// differKeys notes what differs between two states of a key.
func (c *Change) differKeys(before, after latchkey.Key) {
	if c.Action != "create" {
		c.differ("name", before.Name, after.Name)
	}
	c.differ("expires", expiry(before), expiry(after))
	c.differ("scopes", before.Scopes.String(), after.Scopes.String())
	c.differ("networks", fmt.Sprint(before.Networks), fmt.Sprint(after.Networks))
	c.differ("metadata", showMetadata(before.Metadata), showMetadata(after.Metadata))
	c.differ("group", before.Group, after.Group)
	c.differ("state", state(before.Disabled), state(after.Disabled))
}

// differ notes a field that has changed.
func (c *Change) differ(name, before, after string) {
	if before != after {
		c.Fields = append(c.Fields, Field{name, before, after})
	}
}

// unlessEmpty returns c as the only change, or none if nothing has changed.
func (c *Change) unlessEmpty() []Change {
	if c.Action == "change" && len(c.Fields) == 0 {
		return nil
	}
	return []Change{*c}
}

// showMetadata returns metadata in the order of their names.
func showMetadata(metadata map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		all = append(all, fmt.Sprintf("%s=%q", name, metadata[name]))
	}
	return strings.Join(all, " ")
}

// expiry returns the expiry date of a key as people read it.
func expiry(k latchkey.Key) string {
	if k.Expires.IsZero() {
		return "never"
	}
	return k.Expires.UTC().Format(time.RFC3339)
}

func state(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}
