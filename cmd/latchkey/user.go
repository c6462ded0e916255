package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// userHelp explains the argument USER.
const userHelp = "USER is the ID of a user or one of the user's identities, such as an e-mail address."

func userCommands(c *cli) *cobra.Command {
	cmd := parentCommand("user", "Add, list, show, link, unlink, change, disable, enable and delete users")
	cmd.AddCommand(
		userAddCommand(c),
		userListCommand(c),
		userShowCommand(c),
		userLinkCommand(c),
		userUnlinkCommand(c),
		userSetCommand(c),
		userChangeCommand(c, "disable", "Stop a user's keys from logging in until the user is enabled", setUserDisabled(true)),
		userChangeCommand(c, "enable", "Let a disabled user's keys log in again", setUserDisabled(false)),
		userDeleteCommand(c),
	)
	return cmd
}

func userAddCommand(c *cli) *cobra.Command {
	var anonymous bool
	var group string
	var metadata []string
	cmd := &cobra.Command{
		SuggestFor: []string{"create", "new"},
		Use:        "add (IDENTITY | --anonymous)",
		Short:      "Add a user",
		Long: `Add a user with an identity. IDENTITY is PROVIDER:SUBJECT, or the subject of a local-userpass
identity, such as an e-mail address. An anonymous user cannot have keys until an identity is linked
to it with latchkey user link.

--group is the tenant, site or project that the user and the user's keys belong to. --metadata
NAME=VALUE is a text of your own. Give it once for each name.`,
		Example: examples(
			"latchkey user add ada@example.com",
			"latchkey user add custom-token:42",
			"latchkey user add --quiet --anonymous",
		),
		Args: func(cmd *cobra.Command, args []string) error {
			if anonymous {
				return takes()(cmd, args)
			}
			return takes("IDENTITY")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !anonymous {
				if _, err := parseIdentity(args[0]); err != nil {
					return err
				}
			}
			var spec admin.NewUser
			var err error
			if spec.Metadata, err = changeMetadata(nil, metadata); err != nil {
				return err
			}
			ctx := cmd.Context()
			var user admin.User
			err = c.changing(ctx, func(client *admin.Client) (err error) {
				if spec.Group, _, err = findGroup(ctx, client, group); err != nil {
					return err
				}
				spec.Identity = latchkey.Identity{Provider: latchkey.ProviderAnonymous}
				if !anonymous {
					if spec.Identity, err = newIdentity(ctx, client, args[0]); err != nil {
						return err
					}
				}
				user, err = client.CreateUser(ctx, spec, "")
				return err
			})
			if err != nil {
				return err
			}
			return c.printUserDone("added", user)
		},
	}
	cmd.Flags().BoolVar(&anonymous, "anonymous", false, "add a user of whom nothing is known; leave out IDENTITY")
	addGroupFlag(c, cmd, &group, "the group `NAME` of the user (default none)")
	addMetadataFlag(cmd, &metadata)
	c.quietFlag(cmd, "the user's ID")
	return cmd
}

// userRow is the format of a row of users. Its columns have fixed widths, so that a list of any
// length is printed while it is read.
const userRow = "%-36s  %-20s  %-8s  %s\n"

func userListCommand(c *cli) *cobra.Command {
	var after string
	var limit uint
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List users in the order of their IDs",
		Long: `List users in the order of their IDs. That order does not tell when a user was added, because most of
an ID is random. The order stays the same, so a list can be made in parts: give the last ID of one
part to --after for the next part. To sort the list, use another program:

    latchkey user list | sort -k 2    # by the time of creation

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cursor, ok := parseID(after)
			if !ok && after != "" {
				return usagef("--after takes the ID of a user")
			}
			out := bufio.NewWriter(c.stdout)
			err := c.reading(cmd.Context(), func(client *admin.Client) error {
				query := url.Values{}
				if ok {
					query.Set("cursor", cursor.String())
				}
				return c.writeUsers(out, client.Users(cmd.Context(), query), limit)
			})
			return errors.Join(err, out.Flush())
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "begin after the user with this `ID`")
	cmd.Flags().UintVar(&limit, "limit", 0, "list at most `N` users (default all)")
	return cmd
}

// writeUsers writes the first limit users, or all of them if limit is 0.
func (c *cli) writeUsers(w io.Writer, users iter.Seq2[admin.User, error], limit uint) error {
	if !c.json {
		fmt.Fprintf(w, userRow, "ID", "CREATED", "STATE", "IDENTITIES")
	}
	left := limit
	for user, err := range users {
		if err != nil {
			return err
		}
		if err := c.writeUserRow(w, user.User); err != nil {
			return err
		}
		if left--; left == 0 {
			return nil
		}
	}
	return nil
}

func (c *cli) writeUserRow(w io.Writer, user latchkey.User) error {
	if c.json {
		return writeJSON(w, user)
	}
	_, err := fmt.Fprintf(w, userRow, user.ID, formatTime(user.Created), formatState(user.Disabled), plain(showIdentities(user)))
	return err
}

func userShowCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "show USER",
		Short:             "Show a user",
		Long:              "Show a user.\n\n" + userHelp,
		Args:              takes("USER"),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				user, err := findUser(cmd.Context(), client, args[0])
				if err != nil {
					return err
				}
				return c.printFields(user.User, append([]string{
					"ID", user.ID.String(),
					"Identities", showIdentities(user.User),
					"Created", formatTime(user.Created),
					"State", formatState(user.Disabled),
				}, showCarried(latchkey.Scopes{}, nil, user.Metadata, user.Group)...)...)
			})
		},
	}
}

func userLinkCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "link USER IDENTITY",
		Short: "Give a user another identity",
		Long: `Give a user another identity. An anonymous user is then no longer anonymous, and can have keys.

` + userHelp + `
IDENTITY is PROVIDER:SUBJECT, or the subject of a local-userpass identity.`,
		Example:           examples("latchkey user link ada@example.com oauth2-google:112233445566"),
		Args:              takes("USER", "IDENTITY"),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseIdentity(args[1]); err != nil {
				return err
			}
			ctx := cmd.Context()
			var user admin.User
			err := c.changing(ctx, func(client *admin.Client) (err error) {
				if user, err = findUser(ctx, client, args[0]); err != nil {
					return err
				}
				identity, err := newIdentity(ctx, client, args[1])
				if err != nil {
					return err
				}
				user, err = client.LinkIdentity(ctx, user.ID, identity)
				return err
			})
			if err != nil {
				return err
			}
			return c.printUserDone("linked", user)
		},
	}
}

func userSetCommand(c *cli) *cobra.Command {
	var group string
	var metadata []string
	cmd := &cobra.Command{
		SuggestFor: []string{"edit", "change", "group", "update"},
		Use:        "set USER",
		Short:      "Change the group or the metadata of a user",
		Long: `Change the group or the metadata of a user. What no flag names stays as it is.

` + userHelp + `

--group is the tenant, site or project that the user and the user's keys move to. --group "" takes the
user out of the group. --metadata NAME=VALUE is a text of your own. Give it once for each name. NAME= takes the text away.`,
		Example: examples(
			"latchkey user set --group acme ada@example.com",
			"latchkey user set --metadata room=4 --metadata shift= ada@example.com",
		),
		Args:              takes("USER"),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := changeMetadata(nil, metadata); err != nil {
				return err
			}
			moves := cmd.Flags().Changed("group")
			if len(metadata) == 0 && !moves {
				return usagef("nothing to set; give --group or --metadata")
			}
			ctx := cmd.Context()
			var user admin.User
			err := c.changing(ctx, func(client *admin.Client) error {
				var change admin.UserChange
				if moves {
					name, _, err := findGroup(ctx, client, group)
					if err != nil {
						return err
					}
					change.Group = admin.Some(name)
				}
				return unlessChanged(func() (err error) {
					if user, err = findUser(ctx, client, args[0]); err != nil {
						return err
					}
					if len(metadata) > 0 {
						changed, err := changeMetadata(user.Metadata, metadata)
						if err != nil {
							return err
						}
						change.Metadata = admin.Some(changed)
					}
					user, err = client.ChangeUser(ctx, user.ID, change, user.ETag)
					return err
				})
			})
			if err != nil {
				return err
			}
			return c.printUserDone("changed", user)
		},
	}
	addGroupFlag(c, cmd, &group, "the group `NAME` to move to; empty for none")
	addMetadataFlag(cmd, &metadata)
	return cmd
}

// userChangeCommand returns the command name, which makes one change to one user. change returns
// the user after the change.
func userChangeCommand(c *cli, name, short string, change func(context.Context, *admin.Client, admin.User) (admin.User, error)) *cobra.Command {
	return &cobra.Command{
		Use:               name + " USER",
		Short:             short,
		Long:              short + ".\n\n" + userHelp,
		Args:              takes("USER"),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var user admin.User
			err := c.changing(ctx, func(client *admin.Client) (err error) {
				if user, err = findUser(ctx, client, args[0]); err != nil {
					return err
				}
				user, err = change(ctx, client, user)
				return err
			})
			if err != nil {
				return err
			}
			return c.printUserDone(c.did(name, name+"d"), user)
		},
	}
}

// setUserDisabled returns a change of userChangeCommand.
func setUserDisabled(disabled bool) func(context.Context, *admin.Client, admin.User) (admin.User, error) {
	return func(ctx context.Context, client *admin.Client, user admin.User) (admin.User, error) {
		return client.ChangeUser(ctx, user.ID, admin.UserChange{Disabled: admin.Some(disabled)}, admin.AnyETag)
	}
}

// userDeleteCommand shows the deleted user as it was before. A dry run also shows the keys.
func userDeleteCommand(c *cli) *cobra.Command {
	var keys []admin.Key
	cmd := userChangeCommand(c, "delete", "Delete a user and all keys of the user for good", func(ctx context.Context, client *admin.Client, user admin.User) (_ admin.User, err error) {
		if c.dryRun {
			if keys, err = keysOf(ctx, client, user.ID); err != nil {
				return user, err
			}
		}
		return user, c.deleting(client).DeleteUser(ctx, user.ID, "")
	})
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil || c.json {
			return err
		}
		return c.print(nil, func(w io.Writer) {
			for _, key := range keys {
				fmt.Fprintf(w, "would delete key %s (%s)\n", plain(key.Name), key.ID)
			}
		})
	}
	return askFirst(c, cmd)
}

// printUserDone prints what was done to user.
func (c *cli) printUserDone(done string, user admin.User) error {
	return c.print(user.User, func(w io.Writer) {
		if c.quiet {
			fmt.Fprintln(w, user.ID)
			return
		}
		fmt.Fprintf(w, "%s user %s (%s)\n", done, plain(formatIdentities(user.User)), user.ID)
	})
}

func formatIdentities(user latchkey.User) string {
	var all []string
	for _, i := range user.Identities {
		all = append(all, formatIdentity(i))
	}
	return strings.Join(all, ", ")
}

// showIdentities is formatIdentities for a list.
func showIdentities(user latchkey.User) string {
	var all []string
	for _, i := range user.Identities {
		all = append(all, shown(formatIdentity(i)))
	}
	return strings.Join(all, ", ")
}
