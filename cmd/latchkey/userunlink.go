package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
)

func userUnlinkCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unlink USER IDENTITY",
		Short: "Take an identity from a user",
		Long: `Take an identity from a user, so that another user can have it. Do so before an e-mail address is given
to somebody else, who would otherwise be taken for this user. The user keeps the ID, the keys and the
other identities.

A user's only identity cannot be taken. While a user has keys, the last identity that is not anonymous
cannot be taken either. Link another identity first.

` + userHelp + `
IDENTITY is PROVIDER:SUBJECT, or the subject of a local-userpass identity.`,
		Example: examples(
			"latchkey user link ada@example.com ada.lovelace@example.com",
			"latchkey user unlink ada.lovelace@example.com ada@example.com",
		),
		Args:              takes("USER", "IDENTITY"),
		ValidArgsFunction: c.completeIdentityOf,
		RunE: func(cmd *cobra.Command, args []string) error {
			typed, err := parseIdentity(args[1])
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			var user admin.User
			err = c.changing(ctx, func(client *admin.Client) (err error) {
				if user, err = findUser(ctx, client, args[0]); err != nil {
					return err
				}
				identity := typed
				if !slices.Contains(user.Identities, identity) {
					identity = normalized(identity)
				}
				if user, err = c.deleting(client).UnlinkIdentity(ctx, user.ID, identity); err != nil {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				return nil
			})
			if err != nil {
				return err
			}
			return c.printUserDone(c.did("unlink "+plain(args[1])+" from", "unlinked"), user)
		},
	}
	c.dryRunFlag(cmd)
	return cmd
}

// completeIdentityOf completes USER, and then an IDENTITY of that user.
func (c *cli) completeIdentityOf(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return c.completeUser(cmd, args, prefix)
	}
	return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
		user, err := findUser(ctx, client, args[0])
		if err != nil {
			return err
		}
		for _, i := range user.Identities {
			if err := offer(formatIdentity(i), ""); err != nil {
				return err
			}
		}
		return nil
	})
}
