package main

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// keySetting is one run of the command key set.
type keySetting struct {
	keyArg
	carried carriedFlags
	group   string
}

func keySetCommand(c *cli) *cobra.Command {
	k := &keySetting{keyArg: keyArg{cli: c}}
	cmd := &cobra.Command{
		SuggestFor: []string{"edit", "change", "update"},
		Use:        "set [USER | --server] KEY",
		Short:      "Change what a key permits, when it expires, and where it may be used from",
		Long: `Change the expiry date, the scopes, the networks or the metadata of a key, or the group of a server
key. The key keeps its token, and what no flag names stays as it is. All changes are made at once, or
none of them.

` + keyHelp + `

` + carriedHelp + `

--group is the tenant, site or project that a server key moves to. --group "" takes the key out of its
group. The key of a user belongs to the group of the user: see latchkey user set --group.

A key that has expired logs in again after a later date was set. To stop a key at once, use latchkey
key disable.`,
		Example: examples(
			"latchkey key set --expires 90d ada@example.com laptop",
			"latchkey key set --scopes \"files:* mail:read\" ada@example.com laptop",
			"latchkey key set --networks \"\" --metadata room=4 --server backup-job",
		),
		Args:              k.takes(),
		ValidArgsFunction: k.completer(c, true),
		RunE:              func(cmd *cobra.Command, args []string) error { return k.run(cmd, args) },
	}
	k.addFlag(cmd)
	k.carried.addFlags(cmd)
	addGroupFlag(c, cmd, &k.group, "the group `NAME` that a server key moves to; empty for none")
	addMaxKeysFlag(cmd, &c.opts.MaxKeysPerUser)
	return cmd
}

var errNotServerKey = usagef("--group is for server keys; a user's key belongs to the group of the user, which latchkey user set changes")

func (k *keySetting) run(cmd *cobra.Command, args []string) error {
	if err := checkMaxKeys(k.opts.MaxKeysPerUser); err != nil {
		return err
	}
	if _, err := k.carried.change(cmd, nil, time.Now()); err != nil { // before the store is opened
		return err
	}
	moves := cmd.Flags().Changed("group")
	if moves && !k.serverKey && len(args) > 1 {
		return errNotServerKey
	}
	if !slices.ContainsFunc([]string{"expires", "scopes", "networks", "metadata", "group"}, cmd.Flags().Changed) {
		return usagef("nothing to set; give --expires, --scopes, --networks, --metadata or --group")
	}
	return k.change(cmd.Context(), "changed", args, func(ctx context.Context, client *admin.Client, key admin.Key, _ []string) (admin.Key, error) {
		store, err := client.Store(ctx)
		if err != nil {
			return key, err
		}
		id := key.ID
		err = unlessChanged(func() error {
			if key, err = client.Key(ctx, id); err != nil {
				return err
			}
			change, err := k.carried.change(cmd, key.Metadata, store.Now)
			if err != nil {
				return err
			}
			if moves {
				if uuid.UUID(key.Owner) != latchkey.ServerOwner {
					return errNotServerKey
				}
				group, _, err := findGroup(ctx, client, k.group)
				if err != nil {
					return err
				}
				change.Group = admin.Some(group)
			}
			key, err = client.ChangeKey(ctx, id, change, key.ETag)
			return err
		})
		return key, err
	})
}
