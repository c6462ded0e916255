package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// keySetting is one run of the command key set.
type keySetting struct {
	*cli
	owner   ownerArg
	carried carriedFlags
	group   string
	maxKeys int
}

func keySetCommand(c *cli) *cobra.Command {
	k := &keySetting{cli: c}
	cmd := &cobra.Command{
		Use:   "set (USER | --server) KEY",
		Short: "Change what a key permits, when it expires, and where it may be used from",
		Long: `Change the expiry date, the scopes, the networks or the metadata of a key, or the group of a server
key. The key keeps its token, and what no flag names stays as it is. All changes are made at once, or
none of them.

` + userHelp + `
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
		Args:              k.owner.takes("KEY"),
		ValidArgsFunction: k.owner.complete(c, true),
		RunE:              func(cmd *cobra.Command, args []string) error { return k.run(cmd, args) },
	}
	k.owner.addFlag(cmd)
	k.carried.addFlags(cmd)
	addGroupFlag(c, cmd, &k.group, "the group `NAME` that a server key moves to; empty for none")
	addMaxKeysFlag(cmd, &k.maxKeys)
	return cmd
}

func (k *keySetting) run(cmd *cobra.Command, args []string) error {
	if err := checkMaxKeys(k.maxKeys); err != nil {
		return err
	}
	changes, err := k.carried.changes(cmd, time.Now())
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("group") {
		if !k.owner.serverKey {
			return usagef("--group is for server keys; a user's key belongs to the group of the user, which latchkey user set changes")
		}
		changes = append(changes, k.move)
	}
	if len(changes) == 0 {
		return usagef("nothing to set; give --expires, --scopes, --networks, --metadata or --group")
	}
	return k.withStore(cmd.Context(), latchkey.Options{MaxKeysPerUser: k.maxKeys}, func(s *latchkey.Store) error {
		return k.set(cmd.Context(), s, args, changes)
	})
}

// set makes the changes to the key that the arguments name, and prints the key.
func (k *keySetting) set(ctx context.Context, s *latchkey.Store, args []string, changes []keyChange) error {
	var key latchkey.Key
	err := s.Update(ctx, func(tx *latchkey.Tx) (err error) {
		if key, _, err = k.owner.findKey(tx, args); err != nil {
			return err
		}
		for _, change := range changes {
			if err := change(tx, key); err != nil {
				return err
			}
		}
		key, err = tx.Key(key.Owner, key.ID)
		return err
	})
	if err != nil {
		return err
	}
	return k.print(key, func(w io.Writer) { fmt.Fprintf(w, "changed key %s (%s)\n", plain(key.Name), key.ID) })
}

// move moves a server key to another group.
func (k *keySetting) move(tx *latchkey.Tx, key latchkey.Key) error {
	group, _, err := findGroupTx(tx, k.group)
	if err != nil {
		return err
	}
	return tx.SetKeyGroup(key.ID, group)
}
