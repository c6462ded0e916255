package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
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
		userChangeCommand(c, "disable", "Stop a user's keys from logging in until the user is enabled", (*latchkey.Tx).DisableUser),
		userChangeCommand(c, "enable", "Let a disabled user's keys log in again", (*latchkey.Tx).EnableUser),
		askFirst(c, userChangeCommand(c, "delete", "Delete a user and all keys of the user for good", (*latchkey.Tx).DeleteUser)),
	)
	return cmd
}

func userAddCommand(c *cli) *cobra.Command {
	var anonymous bool
	var group string
	var metadata []string
	cmd := &cobra.Command{
		Use:   "add (IDENTITY | --anonymous)",
		Short: "Add a user",
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
			var spec latchkey.UserSpec
			var err error
			if spec.Metadata, err = changeMetadata(nil, metadata); err != nil {
				return err
			}
			var user latchkey.User
			err = c.update(cmd.Context(), func(tx *latchkey.Tx) (err error) {
				if spec.Group, _, err = findGroupTx(tx, group); err != nil {
					return err
				}
				spec.Identity = latchkey.Identity{Provider: latchkey.ProviderAnonymous}
				if !anonymous {
					if spec.Identity, err = newIdentity(tx, args[0]); err != nil {
						return err
					}
				}
				user, err = tx.CreateUser(spec)
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
			err := c.withStoreReadOnly(cmd.Context(), func(s *latchkey.Store) error {
				return c.writeUsers(out, s.Users(cmd.Context(), cursor), limit)
			})
			return errors.Join(err, out.Flush())
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "begin after the user with this `ID`")
	cmd.Flags().UintVar(&limit, "limit", 0, "list at most `N` users (default all)")
	return cmd
}

// writeUsers writes the first limit users, or all of them if limit is 0.
func (c *cli) writeUsers(w io.Writer, users iter.Seq2[latchkey.User, error], limit uint) error {
	if !c.json {
		fmt.Fprintf(w, userRow, "ID", "CREATED", "STATE", "IDENTITIES")
	}
	left := limit
	for user, err := range users {
		if err != nil {
			return err
		}
		if err := c.writeUserRow(w, user); err != nil {
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
			return c.view(cmd.Context(), func(tx *latchkey.Tx) error {
				user, err := findUser(tx, args[0])
				if err != nil {
					return err
				}
				return c.printFields(user, append([]string{
					"ID", user.ID.String(),
					"Identities", showIdentities(user),
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
			var user latchkey.User
			err := c.update(cmd.Context(), func(tx *latchkey.Tx) (err error) {
				if user, err = findUser(tx, args[0]); err != nil {
					return err
				}
				identity, err := newIdentity(tx, args[1])
				if err != nil {
					return err
				}
				user, err = tx.LinkIdentity(user.ID, identity)
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
		Use:   "set USER",
		Short: "Change the group or the metadata of a user",
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
			var user latchkey.User
			err := c.update(cmd.Context(), func(tx *latchkey.Tx) (err error) {
				if user, err = findUser(tx, args[0]); err != nil {
					return err
				}
				changed, err := changeMetadata(user.Metadata, metadata)
				if err != nil {
					return err
				}
				if err := tx.SetUserMetadata(user.ID, changed); err != nil {
					return err
				}
				if moves {
					if group, _, err = findGroupTx(tx, group); err != nil {
						return err
					}
					if err := tx.SetUserGroup(user.ID, group); err != nil {
						return err
					}
				}
				user, err = tx.User(user.ID)
				return err
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

// userChangeCommand returns the command name, which makes one change to one user.
func userChangeCommand(c *cli, name, short string, change func(*latchkey.Tx, uuid.UUID) error) *cobra.Command {
	return &cobra.Command{
		Use:               name + " USER",
		Short:             short,
		Long:              short + ".\n\n" + userHelp,
		Args:              takes("USER"),
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			var user latchkey.User
			err := c.update(cmd.Context(), func(tx *latchkey.Tx) (err error) {
				if user, err = findUser(tx, args[0]); err != nil {
					return err
				}
				if err := change(tx, user.ID); err != nil {
					return err
				}
				after, err := tx.User(user.ID)
				if errors.Is(err, latchkey.ErrUserNotFound) {
					return nil // the output then shows the deleted user as it was before
				}
				user = after
				return err
			})
			if err != nil {
				return err
			}
			return c.printUserDone(name+"d", user)
		},
	}
}

// printUserDone prints what was done to user.
func (c *cli) printUserDone(done string, user latchkey.User) error {
	return c.print(user, func(w io.Writer) {
		if c.quiet {
			fmt.Fprintln(w, user.ID)
			return
		}
		fmt.Fprintf(w, "%s user %s (%s)\n", done, plain(formatIdentities(user)), user.ID)
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
