package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

var (
	// errDiffers means that apply --dry-run has found differences.
	errDiffers = errors.New("the store differs from the manifest")
	// errUndo ends a transaction of --dry-run.
	errUndo = errors.New("nothing is to be changed")
)

// applied is the table of the store that has the users and keys that apply has made, with the name
// of the manifest. The key of an entry is "user" or "key", and an ID.
const applied = "latchkey-apply"

// applying is one run of the command apply.
type applying struct {
	*cli
	prune, dryRun bool
	opts          latchkey.Options
	*manifest
}

func applyCommand(c *cli) *cobra.Command {
	a := &applying{cli: c}
	cmd := &cobra.Command{
		Use:   "apply MANIFEST",
		Short: "Bring users and keys in line with a manifest",
		Long: `Bring users, keys and server keys in line with the file MANIFEST, and print what was changed. If
anything is wrong, nothing is changed, and the error names the line. A second run changes nothing.

MANIFEST is YAML or JSON. It belongs to one domain; latchkey domain show prints the ID, and latchkey mint
makes the entries of keys:

    domain: 6c2e…                    # required
    manifest: site                   # the manifest's name, for --prune
    users:
      - identity: ada@example.com    # as IDENTITY of latchkey user add
        group: north                 # optional
        metadata: {site: Turin}      # optional
        keys:
          - name: laptop
            minted: 6c2e…/…          # from latchkey mint
            expires: 2027-01-31      # a date, a time of RFC 3339, or never
            scopes: [files:read]
            networks: [10.0.0.0/8]
            metadata: {owner: Ada}
    server_keys:
      - name: backup-job
        minted: 6c2e…/…
        group: north

A key gets all that its entry says, and nothing else: a field that is left out is emptied. The group and
the metadata of a user are left alone if the entry has none. A user or a key with disabled: true or
disabled: false is disabled or enabled. Without the field, that is left alone too, so that a key that was
disabled by hand stays disabled.

A deleted key never comes back, and an entry of one is an error. The entry of a key that has expired is
passed over in a store that does not have the key.

apply remembers in the store which users and keys it has made for which manifest. With --prune, it
deletes those that are no longer in the manifest of this name, for good: keys first, and users only if
they have no keys left. What was made by other means or for a manifest of another name stays.

With --dry-run, apply prints what it would change, and changes nothing. The exit status is then 9 if
there are differences.`,
		Example: examples(
			"latchkey apply --dry-run keys.yaml",
			"latchkey apply --prune keys.yaml",
		),
		Args:              takes("MANIFEST"),
		ValidArgsFunction: completeFile,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().BoolVar(&a.prune, "prune", false, "delete what apply has made and the manifest no longer has")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "print the changes, and make none")
	cmd.Flags().IntVar(&a.opts.MaxKeysPerUser, "max-keys", 20, "the largest `NUMBER` of keys that a user can have; -1 for no limit")
	return cmd
}

func (a *applying) run(ctx context.Context, path string) error {
	if a.opts.MaxKeysPerUser == 0 { // for the library this is the default
		return usagef("--max-keys must be at least 1, or -1 for no limit")
	}
	data, err := readOwn(path)
	if err != nil {
		return explainMissing(err, path)
	}
	if a.manifest, err = parseManifest(data); err != nil {
		return usagef("%s: %w", path, err)
	}
	return a.withStore(ctx, a.opts, func(s *latchkey.Store) error {
		if id := s.DomainID().String(); id != a.Domain {
			return usagef("%s: the manifest is of the domain %s, and the store is of %s", path, a.Domain, id)
		}
		steps, err := a.steps(ctx, s)
		if err != nil {
			return err
		}
		changes, err := a.apply(ctx, s, steps)
		if err != nil && len(changes) == 0 {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := errors.Join(err, a.printChanges(changes)); err != nil {
			return err
		}
		if a.dryRun && len(changes) > 0 {
			return fmt.Errorf("%s: %w", path, errDiffers)
		}
		return nil
	})
}

// applyChange is one change to a user or a key.
type applyChange struct {
	Action string          `json:"action"` // "create", "change" or "delete"
	Kind   string          `json:"kind"`   // "user", "key" or "server key"
	ID     uuid.UUID       `json:"id"`
	Owner  string          `json:"owner,omitempty"` // the identity of a key's user
	Name   string          `json:"name"`            // of a key, or the identity of a user
	Fields []changedFields `json:"fields,omitempty"`
}

// changedFields is a field that has another value.
type changedFields struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// step makes a part of the changes in a transaction, and returns those that it has made.
type step func(tx *latchkey.Tx) ([]applyChange, error)

// apply takes steps in one transaction, or in several if the engine bounds transactions. A step
// that was taken already changes nothing. apply returns the changes that were made, also with an
// error.
func (a *applying) apply(ctx context.Context, s *latchkey.Store, steps []step) (changes []applyChange, err error) {
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		changes = nil
		for _, step := range steps {
			made, err := step(tx)
			if err != nil {
				return err
			}
			changes = append(changes, made...)
		}
		if a.dryRun {
			return errUndo
		}
		return nil
	})
	switch {
	case errors.Is(err, errUndo):
		return changes, nil
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
	if a.prune {
		if steps, users, err = a.pruneSteps(ctx, s); err != nil {
			return nil, err
		}
	}
	for i := range a.Users {
		u := &a.Users[i]
		steps = append(steps, func(tx *latchkey.Tx) ([]applyChange, error) {
			changes, err := a.applyUser(tx, u)
			return changes, atLine(u.line, err)
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
func (a *applying) applyUser(tx *latchkey.Tx, e *manifestUsr) ([]applyChange, error) {
	c := applyChange{Action: "change", Kind: "user", Name: formatIdentity(e.identity)}
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
	c.differ("state", formatState(before.Disabled), formatState(after.Disabled))
	return c.unlessEmpty(), err
}

// keyStep returns the step for the key of an entry. u is nil for a server key.
func (a *applying) keyStep(u *manifestUsr, e *manifestKey) step {
	return func(tx *latchkey.Tx) ([]applyChange, error) {
		changes, err := a.applyKey(tx, u, e)
		return changes, atLine(e.line, err)
	}
}

// applyKey makes the key of an entry, or brings it in line.
func (a *applying) applyKey(tx *latchkey.Tx, u *manifestUsr, e *manifestKey) ([]applyChange, error) {
	c := applyChange{Action: "change", Kind: "server key", ID: e.minted.ID()}
	owner := latchkey.ServerOwner
	if u != nil {
		user, err := tx.UserByIdentity(u.identity)
		if err != nil {
			return nil, err
		}
		c.Kind, c.Owner, owner = "key", formatIdentity(u.identity), user.ID
	}
	before, err := tx.KeyByID(c.ID)
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		c.Action, err = "create", nil
	}
	if err != nil {
		return nil, err
	}
	var after latchkey.Key
	if u != nil {
		after, _, err = tx.EnsureKey(owner, e.spec, e.minted)
	} else {
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
	if name, err := table.Get(key); err != nil || name != nil && string(name) == a.Manifest {
		return err
	}
	return table.Put(key, []byte(a.Manifest))
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
			case string(e.Value) != a.Manifest:
			case kind == "key" && !a.has(id):
				keys = append(keys, func(tx *latchkey.Tx) ([]applyChange, error) { return pruneKey(tx, id, entry) })
			case kind == "user" && !kept[id]:
				users = append(users, func(tx *latchkey.Tx) ([]applyChange, error) { return pruneUser(tx, id, entry) })
			}
		}
		return nil
	})
	return keys, users, err
}

// pruneKey deletes a key, and its entry in the table of what apply has made.
func pruneKey(tx *latchkey.Tx, id uuid.UUID, entry []byte) ([]applyChange, error) {
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
	c := applyChange{Action: "delete", Kind: "server key", ID: id, Name: key.Name}
	if key.Owner != latchkey.ServerOwner {
		user, err := tx.User(key.Owner)
		if err != nil {
			return nil, err
		}
		c.Kind, c.Owner = "key", formatIdentity(user.Identities[0])
	}
	return []applyChange{c}, tx.DeleteKey(key.Owner, id)
}

// pruneUser deletes a user without keys, and its entry in the table of what apply has made.
func pruneUser(tx *latchkey.Tx, id uuid.UUID, entry []byte) ([]applyChange, error) {
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
	c := applyChange{Action: "delete", Kind: "user", ID: id, Name: formatIdentity(user.Identities[0])}
	return []applyChange{c}, tx.DeleteUser(id)
}

// differKeys notes what differs between two states of a key.
func (c *applyChange) differKeys(before, after latchkey.Key) {
	if c.Action != "create" {
		c.differ("name", before.Name, after.Name)
	}
	c.differ("expires", formatExpiry(before), formatExpiry(after))
	c.differ("scopes", before.Scopes.String(), after.Scopes.String())
	c.differ("networks", fmt.Sprint(before.Networks), fmt.Sprint(after.Networks))
	c.differ("metadata", showMetadata(before.Metadata), showMetadata(after.Metadata))
	c.differ("group", before.Group, after.Group)
	c.differ("state", formatState(before.Disabled), formatState(after.Disabled))
}

// differ notes a field that has changed.
func (c *applyChange) differ(name, before, after string) {
	if before != after {
		c.Fields = append(c.Fields, changedFields{name, before, after})
	}
}

// unlessEmpty returns c as the only change, or none if nothing has changed.
func (c *applyChange) unlessEmpty() []applyChange {
	if c.Action == "change" && len(c.Fields) == 0 {
		return nil
	}
	return []applyChange{*c}
}

// showMetadata returns metadata in the order of their names.
func showMetadata(metadata map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		all = append(all, fmt.Sprintf("%s=%q", name, metadata[name]))
	}
	return strings.Join(all, " ")
}

// printChanges prints changes as a diff.
func (a *applying) printChanges(changes []applyChange) error {
	doc := struct {
		DryRun  bool          `json:"dry_run"`
		Changes []applyChange `json:"changes"`
	}{a.dryRun, append([]applyChange{}, changes...)}
	return a.print(doc, func(w io.Writer) {
		for _, c := range changes {
			fmt.Fprintf(w, "%s %s %s", map[string]string{"create": "+", "change": "~", "delete": "-"}[c.Action], c.Kind, plain(c.Name))
			if c.Owner != "" {
				fmt.Fprintf(w, " of %s", plain(c.Owner))
			}
			fmt.Fprintf(w, " (%s)\n", c.ID)
			for _, f := range c.Fields {
				fmt.Fprintf(w, "    %s: %s -> %s\n", f.Name, orNone(f.Before), orNone(f.After))
			}
		}
		if len(changes) == 0 {
			fmt.Fprintln(w, "nothing to change")
		}
	})
}

func orNone(s string) string {
	if s == "" || s == "[]" {
		return "none"
	}
	return plain(s)
}
