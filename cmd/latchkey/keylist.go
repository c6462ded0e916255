package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// keyListing is one run of the command key list.
type keyListing struct {
	*cli
	owner                                         ownerArg
	group, prefix, state, expiring, unused, after string
	tagBefore                                     uint64
	limit                                         uint
}

func keyListCommand(c *cli) *cobra.Command {
	k := &keyListing{cli: c}
	cmd := &cobra.Command{
		SuggestFor: []string{"find", "search"},
		Use:        "list [USER | --server]",
		Short:      "List the keys of a user, the server keys, or all keys",
		Long: `List the keys of a user, or the server keys, in the order of creation. Without USER and --server, list
the keys of all owners in the order of their IDs. The order of the IDs stays the same, so this list can
be made in parts: give the last ID of one part to --after for the next part.

` + userHelp + `

--group, --prefix, --state, --expiring-within, --unused and --tag-secret-before list only the keys that
agree with all of them. The last one lists the keys that need a rotation before the tag secrets with
lower numbers are retired, or that need one because they have no good token: see latchkey help domain
secret. A key that is disabled and has expired is in both of these states. The state of a key says
nothing of its user and its group: latchkey user list and latchkey group list have their states.

With --json, the list of one owner is a JSON document. Of the list of all owners, each line is one.`,
		Example: examples(
			"latchkey key list ada@example.com",
			"latchkey key list --server --state expired",
			"latchkey key list --group acme --expiring-within 30d",
		),
		Args: func(cmd *cobra.Command, args []string) error {
			if k.owner.serverKey || len(args) == 0 {
				return takes()(cmd, args)
			}
			return takes("USER")(cmd, args)
		},
		ValidArgsFunction: k.owner.completer(c, false),
		RunE:              func(cmd *cobra.Command, args []string) error { return k.run(cmd.Context(), args) },
	}
	k.owner.addFlag(cmd)
	addGroupFlag(c, cmd, &k.group, "only keys in the group `NAME`")
	flags := cmd.Flags()
	flags.StringVar(&k.prefix, "prefix", "", "only keys whose names begin with `TEXT`")
	flags.StringVar(&k.state, "state", "", "only keys in this `STATE`: enabled, disabled or expired")
	flags.StringVar(&k.expiring, "expiring-within", "", "only keys that will have expired after this `DURATION`, such as 30d")
	flags.StringVar(&k.unused, "unused", "", "only keys that were not used for this `DURATION`, such as 90d")
	flags.Uint64Var(&k.tagBefore, "tag-secret-before", 0, "only keys without a token under tag secret `N` or a later one")
	flags.StringVar(&k.after, "after", "", "of all owners: begin after the key with this `ID`")
	flags.UintVar(&k.limit, "limit", 0, "of all owners: list at most `N` keys (default all)")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"enabled", "disabled", "expired"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("expiring-within", cobra.FixedCompletions([]string{"1w", "30d", "90d"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
	return cmd
}

func (k *keyListing) run(ctx context.Context, args []string) error {
	_, after, err := k.filter(time.Now()) // before the store is opened
	if err != nil {
		return err
	}
	if k.owner.serverKey || len(args) > 0 {
		if k.after != "" || k.limit != 0 {
			return usagef("--after and --limit are for the list of all owners; leave out USER and --server, or leave out these flags")
		}
		return k.listOwner(ctx, args)
	}
	out := bufio.NewWriter(k.stdout)
	err = k.reading(ctx, func(client *admin.Client) error { return k.listAll(ctx, out, client, after) })
	return errors.Join(err, out.Flush())
}

// keyStates are the values of --state.
var keyStates = map[string]latchkey.KeyState{
	"": 0, "enabled": latchkey.KeyEnabled, "disabled": latchkey.KeyDisabled, "expired": latchkey.KeyExpired,
}

// filter returns the filter that the flags describe at a time, and the ID to begin after.
func (k *keyListing) filter(now time.Time) (f latchkey.KeyFilter, after uuid.UUID, err error) {
	f.NamePrefix, f.TagSecretBefore = k.prefix, k.tagBefore
	var ok bool
	if f.State, ok = keyStates[k.state]; !ok {
		return f, after, usagef("--state takes enabled, disabled or expired")
	}
	if k.expiring != "" {
		if f.ExpiringBefore, ok = parseTime(k.expiring, now); !ok || !f.ExpiringBefore.After(now) {
			return f, after, usagef("--expiring-within takes a duration (1y, 2w, 90d, 12h) or a date in the future")
		}
	}
	if k.unused != "" {
		if f.UnusedSince, ok = ago(k.unused, now); !ok {
			return f, after, usagef("--unused takes a duration, such as 90d or 1y")
		}
	}
	if after, ok = parseID(k.after); !ok && k.after != "" {
		return f, after, usagef("--after takes the ID of a key")
	}
	return f, after, nil
}

// find returns the filter that the flags describe at the store's time.
func (k *keyListing) find(ctx context.Context, client *admin.Client) (f latchkey.KeyFilter, err error) {
	store, err := client.Store(ctx)
	if err != nil {
		return f, err
	}
	if f, _, err = k.filter(store.Now); err == nil && k.group != "" {
		f.Group, _, err = findGroup(ctx, client, k.group)
	}
	return f, err
}

// listOwner prints the keys of one owner.
func (k *keyListing) listOwner(ctx context.Context, args []string) error {
	keys := []latchkey.Key{}
	states := map[uuid.UUID]string{}
	err := k.reading(ctx, func(client *admin.Client) error {
		f, err := k.find(ctx, client)
		if err != nil {
			return err
		}
		if f.Owner, _, err = k.owner.find(ctx, client, args); err != nil {
			return err
		}
		for key, err := range client.Keys(ctx, f) {
			if err != nil {
				return err
			}
			keys, states[key.ID] = append(keys, key.Stored()), formatKeyState(key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(keys, func(a, b latchkey.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), bytes.Compare(a.ID[:], b.ID[:]))
	})
	rows := [][]string{{"NAME", "STATE", "CREATED", "EXPIRES", "LAST USED", "ID"}}
	for _, key := range keys {
		rows = append(rows, []string{shown(key.Name), states[key.ID], formatTime(key.Created), formatExpiry(key), formatUse(key.LastUsed), key.ID.String()})
	}
	return k.printTable(keys, rows)
}

// keyRow is the format of a row of keys of all owners. Its columns have fixed widths, so that a
// list of any length is printed while it is read.
const keyRow = "%-36s  %-8s  %-20s  %-20s  %-20s  %-36s  %s\n"

// listAll writes the keys of all owners.
func (k *keyListing) listAll(ctx context.Context, w io.Writer, client *admin.Client, after uuid.UUID) error {
	f, err := k.find(ctx, client)
	if err != nil {
		return err
	}
	if !k.json {
		fmt.Fprintf(w, keyRow, "ID", "STATE", "CREATED", "EXPIRES", "LAST USED", "OWNER", "NAME")
	}
	left := k.limit
	for key, err := range client.KeysAfter(ctx, f, after) {
		if err == nil {
			err = k.writeKeyRow(w, key)
		}
		if err != nil {
			return err
		}
		if left--; left == 0 {
			return nil
		}
	}
	return nil
}

func (k *keyListing) writeKeyRow(w io.Writer, listed admin.Key) error {
	key := listed.Stored()
	if k.json {
		return writeJSON(w, key)
	}
	owner := key.Owner.String()
	if key.Owner == latchkey.ServerOwner {
		owner = "server"
	}
	_, err := fmt.Fprintf(w, keyRow, key.ID, formatKeyState(listed), formatTime(key.Created), formatExpiry(key), formatUse(key.LastUsed), owner, plain(shown(key.Name)))
	return err
}
