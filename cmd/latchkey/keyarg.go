package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// A keyArg is the argument KEY of a command, with the owner that may come before it: USER KEY, or
// with --server KEY alone. An ID and a token name a key by themselves, so USER can be left out
// before them. A token is read from standard input, because every process on the machine can see
// arguments.
type keyArg struct {
	*cli
	ownerArg
	more int // how many arguments follow KEY
}

// fromStdin is the KEY that stands for a token on standard input.
const fromStdin = "-"

// takes returns a check that a command has KEY and the arguments that more lists.
func (k *keyArg) takes(more ...string) cobra.PositionalArgs {
	k.more = len(more)
	names := slices.Concat([]string{"KEY"}, more)
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) && namesKey(args[0]) {
			return takes(names...)(cmd, args)
		}
		return k.ownerArg.takes(names...)(cmd, args)
	}
}

// namesKey reports whether an argument names a key without its owner.
func namesKey(arg string) bool {
	_, isID := parseID(arg)
	return isID || arg == fromStdin
}

// reading finds the key that the arguments name, and runs fn with the key and with the arguments
// that follow KEY.
func (k *keyArg) reading(ctx context.Context, args []string, fn func(*admin.Client, admin.Key, []string) error) error {
	return k.with(ctx, args, k.cli.reading, fn)
}

// changing is reading for an fn that changes something.
func (k *keyArg) changing(ctx context.Context, args []string, fn func(*admin.Client, admin.Key, []string) error) error {
	return k.with(ctx, args, k.cli.changing, fn)
}

// with reads a token before it opens the store, because a person may have to type the token.
func (k *keyArg) with(ctx context.Context, args []string, way func(context.Context, func(*admin.Client) error) error, fn func(*admin.Client, admin.Key, []string) error) error {
	at := len(args) - 1 - k.more
	token := ""
	if args[at] == fromStdin {
		var err error
		if token, err = k.readToken(ctx); err != nil {
			return err
		}
	}
	return way(ctx, func(client *admin.Client) error {
		key, err := k.find(ctx, client, args[:at], args[at], token)
		if err != nil {
			return err
		}
		return fn(client, key, args[at+1:])
	})
}

// find returns the key that arg names. If before names an owner, the key must be one of that owner.
func (k *keyArg) find(ctx context.Context, client *admin.Client, before []string, arg, token string) (key admin.Key, err error) {
	owner := uuid.Nil
	if k.serverKey || len(before) > 0 {
		if owner, _, err = k.ownerArg.find(ctx, client, before); err != nil {
			return key, err
		}
	}
	if arg != fromStdin {
		if id, ok := parseID(arg); ok {
			return findKeyByID(ctx, client, owner, id)
		}
		return findKeyByName(ctx, client, owner, arg)
	}
	found, err := client.FindToken(ctx, token)
	if err = explainNone(token, err); err != nil {
		return key, err
	}
	return findKeyByID(ctx, client, owner, found.Key.ID)
}

// change finds a key and changes it, and prints what was done.
func (k *keyArg) change(ctx context.Context, done string, args []string, change aKeyChange) error {
	var key admin.Key
	whose := ""
	err := k.changing(ctx, args, func(client *admin.Client, found admin.Key, rest []string) (err error) {
		if len(args) == len(rest)+1 && !k.serverKey {
			whose = k.whose(ctx, client, found)
		}
		key, err = change(ctx, client, found, rest)
		return err
	})
	if err != nil {
		return err
	}
	return k.print(key.Stored(), func(w io.Writer) { fmt.Fprintf(w, "%s key %s (%s)%s\n", done, plain(key.Name), key.ID, whose) })
}

// whose tells whose a key is that was named without its owner.
func (k *keyArg) whose(ctx context.Context, client *admin.Client, key admin.Key) string {
	owner := uuid.UUID(key.Owner)
	if owner == latchkey.ServerOwner {
		return ", a server key"
	}
	user, err := client.User(ctx, owner)
	if err != nil { // the key is what was asked for
		return " of user " + owner.String()
	}
	return fmt.Sprintf(" of user %s (%s)", plain(formatIdentities(user.User)), owner)
}
