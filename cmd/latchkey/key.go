package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/names"
)

// keyHelp explains the arguments USER and KEY.
const keyHelp = userHelp + `
KEY is the ID of a key or its name, or - to read a token of the key from standard input. USER can be
left out before an ID and before -. The output then says whose key it is.`

func keyCommands(c *cli) *cobra.Command {
	cmd := parentCommand("key", "Create, list, show, change, rotate, disable, enable, delete, rename and prune keys")
	cmd.AddCommand(
		keyCreateCommand(c),
		keyListCommand(c),
		keyShowCommand(c),
		keyRotateCommand(c),
		keyChangeCommand(c, "disable", "Stop a key from logging in until it is enabled", setKeyDisabled(true)),
		keyChangeCommand(c, "enable", "Let a disabled key log in again", setKeyDisabled(false)),
		keyDeleteCommand(c),
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
func (o *ownerArg) find(ctx context.Context, client *admin.Client, args []string) (owner uuid.UUID, rest []string, err error) {
	if o.serverKey {
		return latchkey.ServerOwner, args, nil
	}
	user, err := findUser(ctx, client, args[0])
	return user.ID, args[1:], err
}

// keyCreation is one run of the command key create.
type keyCreation struct {
	tokenMaker
	owner   ownerArg
	carried carriedFlags
	group   string
}

func keyCreateCommand(c *cli) *cobra.Command {
	k := &keyCreation{tokenMaker: tokenMaker{cli: c}}
	cmd := &cobra.Command{
		SuggestFor: []string{"add", "new"},
		Use:        "create (USER | --server) NAME",
		Short:      "Create a key, and show its token once",
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
		ValidArgsFunction: k.owner.completer(c, false),
		RunE:              func(cmd *cobra.Command, args []string) error { return k.run(cmd.Context(), args) },
	}
	k.owner.addFlag(cmd)
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
	return k.changing(ctx, func(client *admin.Client) error {
		key, token, err := k.create(ctx, client, args)
		if err != nil {
			return err
		}
		done := fmt.Sprintf("created key %s (%s)", plain(key.Name), key.ID)
		return k.show(key, token, done, "was created, but its token could not be shown (delete the key, and create another)")
	})
}

// create creates the key, for the user that the arguments name or for the server.
func (k *keyCreation) create(ctx context.Context, client *admin.Client, args []string) (key admin.Key, token string, err error) {
	store, err := client.Store(ctx)
	if err != nil {
		return key, "", err
	}
	spec, err := k.carried.spec(store.Now)
	if err != nil {
		return key, "", err
	}
	owner, rest, err := k.owner.find(ctx, client, args)
	if err != nil {
		return key, "", err
	}
	if spec.Group, _, err = findGroup(ctx, client, k.group); err != nil {
		return key, "", err
	}
	if spec.Name, err = newName(ctx, client, owner, uuid.Nil, rest[0]); err != nil {
		return key, "", err
	}
	if key, token, err = client.CreateKey(ctx, owner, spec, ""); err != nil {
		whose := "the server"
		if owner != latchkey.ServerOwner {
			whose = "user " + owner.String()
		}
		err = fmt.Errorf("create key %s of %s: %w", names.Quote(spec.Name), whose, err)
	}
	return key, token, err
}

func keyShowCommand(c *cli) *cobra.Command {
	k := &keyArg{cli: c}
	cmd := &cobra.Command{
		Use:               "show [USER | --server] KEY",
		Short:             "Show a key without its token",
		Long:              "Show a key without its token.\n\n" + keyHelp,
		Args:              k.takes(),
		ValidArgsFunction: k.completer(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.reading(cmd.Context(), args, func(client *admin.Client, key admin.Key, _ []string) error {
				store, err := client.Store(cmd.Context())
				if err != nil {
					return err
				}
				return c.showKey(key, store.Now)
			})
		},
	}
	k.addFlag(cmd)
	return cmd
}

// showKey prints a key at a time of the store.
func (c *cli) showKey(k admin.Key, now time.Time) error {
	key := k.Stored()
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
		"State", formatKeyState(k),
	}, showCarried(key.Scopes, key.Networks, key.Metadata, key.Group)...)
	overlap := false
	for _, t := range k.Tokens { // the old token comes before the new one
		switch {
		case t.Ends.After(now):
			overlap = true
			fields = append(fields, "Old token", "good until "+formatTime(t.Ends)+", used "+formatUse(t.LastUsed))
		case t.Ends.IsZero() && overlap:
			fields = append(fields, "New token", "used "+formatUse(t.LastUsed))
		}
	}
	fields = append(fields, "Used", formatUse(key.LastUsed))
	return c.printFields(key, fields...)
}

func keyRenameCommand(c *cli) *cobra.Command {
	k := &keyArg{cli: c}
	cmd := &cobra.Command{
		Use:               "rename [USER | --server] KEY NAME",
		Short:             "Give a key another name",
		Long:              "Give a key another name.\n\n" + keyHelp,
		Args:              k.takes("NAME"),
		ValidArgsFunction: k.completer(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.change(cmd.Context(), "renamed", args, func(ctx context.Context, client *admin.Client, key admin.Key, rest []string) (admin.Key, error) {
				name, err := newName(ctx, client, uuid.UUID(key.Owner), key.ID, rest[0])
				if err != nil {
					return key, err
				}
				return client.ChangeKey(ctx, key.ID, admin.KeyChange{Name: admin.Some(name)}, admin.AnyETag)
			})
		},
	}
	k.addFlag(cmd)
	return cmd
}

// aKeyChange is one change of one key. It returns the key after the change.
type aKeyChange func(ctx context.Context, client *admin.Client, key admin.Key, rest []string) (admin.Key, error)

// keyChangeCommand returns the command name, which makes one change to one key.
func keyChangeCommand(c *cli, name, short string, change aKeyChange) *cobra.Command {
	k := &keyArg{cli: c}
	cmd := &cobra.Command{
		Use:               name + " [USER | --server] KEY",
		Short:             short,
		Long:              short + ".\n\n" + keyHelp,
		Args:              k.takes(),
		ValidArgsFunction: k.completer(c, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.change(cmd.Context(), c.did(name, name+"d"), args, change)
		},
	}
	k.addFlag(cmd)
	return cmd
}

// setKeyDisabled returns a change that disables or enables a key.
func setKeyDisabled(disabled bool) aKeyChange {
	return func(ctx context.Context, client *admin.Client, key admin.Key, _ []string) (admin.Key, error) {
		return client.ChangeKey(ctx, key.ID, admin.KeyChange{Disabled: admin.Some(disabled)}, admin.AnyETag)
	}
}

// keyDeleteCommand shows the deleted key as it was before.
func keyDeleteCommand(c *cli) *cobra.Command {
	cmd := keyChangeCommand(c, "delete", "Delete a key for good", func(ctx context.Context, client *admin.Client, key admin.Key, _ []string) (admin.Key, error) {
		return key, c.deleting(client).DeleteKey(ctx, key.ID, "")
	})
	return askFirst(c, cmd)
}

// noOwner is printed in place of the owner of a server key.
const noOwner = "none: it is a server key"

// formatKeyState returns the state of a key when it was read.
func formatKeyState(k admin.Key) string {
	if !k.Disabled && k.Expired {
		return "expired"
	}
	return formatState(k.Disabled)
}

func isExpired(k latchkey.Key, now time.Time) bool {
	return !k.Expires.IsZero() && !k.Expires.After(now)
}

// formatUse returns the time of the last use of a key or a token, as far as the store knows.
func formatUse(used time.Time) string {
	if used.IsZero() {
		return "never"
	}
	return formatTime(used)
}

func formatExpiry(k latchkey.Key) string {
	if k.Expires.IsZero() {
		return "never"
	}
	return formatTime(k.Expires)
}
