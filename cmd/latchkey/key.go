package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// keyHelp explains the argument KEY.
const keyHelp = "KEY is the ID of a key or its name."

func keyCommands(c *cli) *cobra.Command {
	cmd := parentCommand("key", "Create, list, show, change, rotate, disable, enable, delete, rename and prune keys")
	cmd.AddCommand(
		keyCreateCommand(c),
		keyListCommand(c),
		keyShowCommand(c),
		keyRotateCommand(c),
		keyChangeCommand(c, "disable", "Stop a key from logging in until it is enabled", (*latchkey.Tx).DisableKey),
		keyChangeCommand(c, "enable", "Let a disabled key log in again", (*latchkey.Tx).EnableKey),
		askFirst(c, keyChangeCommand(c, "delete", "Delete a key for good", (*latchkey.Tx).DeleteKey)),
		keyRenameCommand(c),
		keySetCommand(c),
		keyPruneCommand(c),
	)
	return cmd
}

// ownerArg is the owner of the key that a command means. With --server the owner is the server.
// Without --server the first argument names a user.
type ownerArg struct{ serverKey bool }

// addFlag adds the flag --server to cmd.
func (o *ownerArg) addFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.serverKey, "server", false, "work on server keys, which no user owns; leave out USER")
}

// takes returns a check that a command has exactly the arguments that names lists. Without
// --server, USER comes before them.
func (o *ownerArg) takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if o.serverKey {
			return takes(names...)(cmd, args)
		}
		return takes(slices.Concat([]string{"USER (or --server)"}, names)...)(cmd, args)
	}
}

// find returns the owner and the arguments that follow USER.
func (o *ownerArg) find(tx *latchkey.Tx, args []string) (owner uuid.UUID, rest []string, err error) {
	if o.serverKey {
		return latchkey.ServerOwner, args, nil
	}
	user, err := findUser(tx, args[0])
	return user.ID, args[1:], err
}

// findKey returns the key that the arguments name, and the arguments that follow KEY.
func (o *ownerArg) findKey(tx *latchkey.Tx, args []string) (key latchkey.Key, rest []string, err error) {
	owner, rest, err := o.find(tx, args)
	if err != nil {
		return key, nil, err
	}
	key, err = findKey(tx, owner, rest[0])
	return key, rest[1:], err
}

// keyCreation is one run of the command key create.
type keyCreation struct {
	tokenMaker
	carried carriedFlags
	group   string
}

func keyCreateCommand(c *cli) *cobra.Command {
	k := &keyCreation{tokenMaker: tokenMaker{cli: c}}
	cmd := &cobra.Command{
		Use:   "create (USER | --server) NAME",
		Short: "Create a key, and show its token once",
		Long: `Create a key, and show its token. Nothing can show the token again, because the store does not keep
it.

` + userHelp + `
NAME is the name of the key: 1 to 256 bytes of text. Two keys of one owner cannot have the same name.
A name in the form of an ID is refused, because KEY could not name the key.

` + carriedHelp + `

--group is the tenant, site or project that a server key belongs to. The key of a user belongs to the
group of the user.

--cost says what it costs to hash the key's secret. A program computes such a hash when it does not
remember the key, for example at the first login after a start. The cost is default, light, or the
memory in KiB, the passes and the lanes of argon2id, as in m=7168,t=5,p=1. The cost light is for
small devices and tests. It is safe, because a token has too many random bits to be guessed.`,
		Example: examples(
			"latchkey key create ada@example.com laptop",
			"latchkey key create --expires 90d ada@example.com \"Ada's phone\"",
			"latchkey key create --scopes \"files:* mail:read\" ada@example.com tablet",
			"latchkey key create --quiet --server backup-job > token",
		),
		Args:              k.owner.takes("NAME"),
		ValidArgsFunction: k.owner.complete(c, false),
		RunE:              func(cmd *cobra.Command, args []string) error { return k.run(cmd.Context(), args) },
	}
	k.addFlags(cmd)
	k.carried.addFlags(cmd)
	addGroupFlag(c, cmd, &k.group, "the group `NAME` of a server key (default none)")
	addMaxKeysFlag(cmd, &k.opts.MaxKeysPerUser)
	return cmd
}

// run creates the key and prints its token.
func (k *keyCreation) run(ctx context.Context, args []string) error {
	if err := checkMaxKeys(k.opts.MaxKeysPerUser); err != nil {
		return err
	}
	if _, err := k.carried.spec(time.Now()); err != nil { // before the store is opened
		return err
	}
	return k.withStore(ctx, k.opts, func(s *latchkey.Store) error {
		spec, err := k.carried.spec(s.Now())
		if err != nil {
			return err
		}
		spec.Group = k.group
		key, token, err := k.create(ctx, s, args, spec)
		if err != nil {
			return err
		}
		done := fmt.Sprintf("created key %s (%s)", plain(key.Name), key.ID)
		return k.show(key, token, done, "was created, but its token could not be shown (delete the key, and create another)")
	})
}

// create creates the key in s, for the user that the arguments name or for the server.
func (k *keyCreation) create(ctx context.Context, s *latchkey.Store, args []string, spec latchkey.KeySpec) (latchkey.Key, string, error) {
	var owner uuid.UUID
	err := s.View(ctx, func(tx *latchkey.Tx) (err error) {
		var rest []string
		if owner, rest, err = k.owner.find(tx, args); err != nil {
			return err
		}
		if spec.Group, _, err = findGroupTx(tx, k.group); err != nil {
			return err
		}
		spec.Name, err = newName(tx, owner, uuid.Nil, rest[0])
		return err
	})
	if err != nil {
		return latchkey.Key{}, "", err
	}
	if k.owner.serverKey {
		return s.CreateServerKey(ctx, spec)
	}
	return s.CreateKey(ctx, owner, spec)
}

func keyShowCommand(c *cli) *cobra.Command {
	var owner ownerArg
	cmd := &cobra.Command{
		Use:               "show (USER | --server) KEY",
		Short:             "Show a key without its token",
		Long:              "Show a key without its token.\n\n" + userHelp + "\n" + keyHelp,
		Args:              owner.takes("KEY"),
		ValidArgsFunction: owner.complete(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.view(cmd.Context(), func(tx *latchkey.Tx) error {
				key, _, err := owner.findKey(tx, args)
				if err != nil {
					return err
				}
				ownerText := noOwner
				if key.Owner != latchkey.ServerOwner {
					ownerText = key.Owner.String()
				}
				fields := append([]string{
					"ID", key.ID.String(),
					"Name", shown(key.Name),
					"Owner", ownerText,
					"Created", formatTime(key.Created),
					"Expires", formatExpiry(key),
					"State", formatKeyState(key, tx.Now()),
				}, showCarried(key.Scopes, key.Networks, key.Metadata, key.Group)...)
				for _, t := range key.Tokens {
					if t.Ends.After(tx.Now()) {
						fields = append(fields, "Old token", "good until "+formatTime(t.Ends))
					}
				}
				fields = append(fields, "Used", formatLastUse(key))
				return c.printFields(key, fields...)
			})
		},
	}
	owner.addFlag(cmd)
	return cmd
}

func keyRenameCommand(c *cli) *cobra.Command {
	var owner ownerArg
	cmd := &cobra.Command{
		Use:               "rename (USER | --server) KEY NAME",
		Short:             "Give a key another name",
		Long:              "Give a key another name.\n\n" + userHelp + "\n" + keyHelp,
		Args:              owner.takes("KEY", "NAME"),
		ValidArgsFunction: owner.complete(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeKey(cmd, "renamed", &owner, args, func(tx *latchkey.Tx, key latchkey.Key, rest []string) error {
				name, err := newName(tx, key.Owner, key.ID, rest[0])
				if err != nil {
					return err
				}
				return tx.RenameKey(key.Owner, key.ID, name)
			})
		},
	}
	owner.addFlag(cmd)
	return cmd
}

// keyChangeCommand returns the command name, which makes one change to one key.
func keyChangeCommand(c *cli, name, short string, change func(tx *latchkey.Tx, owner, id uuid.UUID) error) *cobra.Command {
	var owner ownerArg
	cmd := &cobra.Command{
		Use:               name + " (USER | --server) KEY",
		Short:             short,
		Long:              short + ".\n\n" + userHelp + "\n" + keyHelp,
		Args:              owner.takes("KEY"),
		ValidArgsFunction: owner.complete(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeKey(cmd, name+"d", &owner, args, func(tx *latchkey.Tx, key latchkey.Key, _ []string) error {
				return change(tx, key.Owner, key.ID)
			})
		},
	}
	owner.addFlag(cmd)
	return cmd
}

// changeKey finds a key and changes it in one transaction, and prints what was done.
func (c *cli) changeKey(cmd *cobra.Command, done string, owner *ownerArg, args []string, change func(*latchkey.Tx, latchkey.Key, []string) error) error {
	var key latchkey.Key
	err := c.update(cmd.Context(), func(tx *latchkey.Tx) error {
		var rest []string
		var err error
		if key, rest, err = owner.findKey(tx, args); err != nil {
			return err
		}
		if err := change(tx, key, rest); err != nil {
			return err
		}
		after, err := tx.Key(key.Owner, key.ID)
		if errors.Is(err, latchkey.ErrKeyNotFound) {
			return nil // the output then shows the deleted key as it was before
		}
		key = after
		return err
	})
	if err != nil {
		return err
	}
	return c.print(key, func(w io.Writer) { fmt.Fprintf(w, "%s key %s (%s)\n", done, plain(key.Name), key.ID) })
}

// noOwner is printed in place of the owner of a server key.
const noOwner = "none: it is a server key"

// formatKeyState returns the state of k at a time of the store.
func formatKeyState(k latchkey.Key, now time.Time) string {
	if !k.Disabled && isExpired(k, now) {
		return "expired"
	}
	return formatState(k.Disabled)
}

func isExpired(k latchkey.Key, now time.Time) bool {
	return !k.Expires.IsZero() && !k.Expires.After(now)
}

// formatLastUse returns when k was last used, as far as the store knows.
func formatLastUse(k latchkey.Key) string {
	if k.LastUsed.IsZero() {
		return "never"
	}
	return formatTime(k.LastUsed)
}

func formatExpiry(k latchkey.Key) string {
	if k.Expires.IsZero() {
		return "never"
	}
	return formatTime(k.Expires)
}
