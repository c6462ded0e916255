package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// groupHelp explains the argument GROUP.
const groupHelp = `GROUP is the name of a group: a tenant, a site or a project. A group is not made. It is there when a
user or a server key is in it, by the flag --group of latchkey user add, user set, key create and key
set. The keys of a user belong to the group of the user.`

func groupCommands(c *cli) *cobra.Command {
	cmd := parentCommand("group", "List, disable and enable groups of users and server keys")
	cmd.Long = cmd.Short + ".\n\n" + groupHelp
	cmd.AddCommand(
		groupListCommand(c),
		groupChangeCommand(c, "disable", "Stop all keys in a group from logging in until the group is enabled", true),
		groupChangeCommand(c, "enable", "Let the keys in a disabled group log in again", false),
	)
	return cmd
}

// groupRow is the format of a row of groups. Its column has a fixed width, so that a list of any
// length is printed while it is read.
const groupRow = "%-8s  %s\n"

func groupListCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the groups that have members or were disabled",
		Long: `List the groups that have members or were disabled, in the order of their names. To list the keys in a
group, use latchkey key list --group.

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := bufio.NewWriter(c.stdout)
			err := c.reading(cmd.Context(), func(client *admin.Client) error {
				if !c.json {
					fmt.Fprintf(out, groupRow, "STATE", "NAME")
				}
				for g, err := range client.Groups(cmd.Context()) {
					if err == nil {
						err = c.writeGroupRow(out, g.Group)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			return errors.Join(err, out.Flush())
		},
	}
}

func (c *cli) writeGroupRow(w io.Writer, g latchkey.Group) error {
	if c.json {
		return writeJSON(w, g)
	}
	_, err := fmt.Fprintf(w, groupRow, formatState(g.Disabled), plain(shown(g.Name)))
	return err
}

// groupChangeCommand returns the command name, which makes one change to one group.
func groupChangeCommand(c *cli, name, short string, disabled bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name + " GROUP",
		Short: short,
		Long: short + `. Keys that come into the
group later do as the group does. Keys and users that are disabled themselves stay so.

` + groupHelp,
		Args:              takes("GROUP"),
		ValidArgsFunction: c.completeGroup,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var g admin.Group
			var known bool
			var keys int // to be disabled, in a dry run
			err := c.changing(ctx, func(client *admin.Client) (err error) {
				var group string
				if group, known, err = findGroup(ctx, client, args[0]); err != nil {
					return err
				}
				if group == "" {
					return fmt.Errorf("%w: the name is empty", latchkey.ErrInvalidGroup)
				}
				if c.dryRun {
					g.Name, g.Disabled = group, disabled
					keys, err = count(client.Keys(ctx, latchkey.KeyFilter{Group: group}))
					return err
				}
				change := admin.GroupChange{Disabled: admin.Some(disabled)}
				g, err = client.ChangeGroup(ctx, group, change, admin.AnyETag)
				return err
			})
			if err != nil {
				return err
			}
			return c.print(g.Group, func(w io.Writer) {
				fmt.Fprintf(w, "%s group %s", c.did(name, name+"d"), plain(g.Name))
				if !known { // perhaps it is mistyped
					fmt.Fprint(w, ", which has no members yet")
				} else if c.dryRun {
					fmt.Fprintf(w, ", with %d keys", keys)
				}
				fmt.Fprintln(w)
			})
		},
	}
	if disabled {
		c.dryRunFlag(cmd)
	}
	return cmd
}

// findGroup returns the name of the group that an argument means, and reports whether the group has
// members or was disabled. See newName for names that are not in normal form.
func findGroup(ctx context.Context, client *admin.Client, arg string) (name string, known bool, err error) {
	if arg == "" { // no group
		return "", false, nil
	}
	normal := norm.NFC.String(arg)
	for g, err := range client.Groups(ctx) {
		switch {
		case err != nil:
			return "", false, err
		case g.Name == arg:
			return arg, true, nil
		case g.Name == normal:
			known = true
		}
	}
	return normal, known, nil
}

// completeGroup offers groups for the argument GROUP.
func (c *cli) completeGroup(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
		for g, err := range client.Groups(ctx) {
			if err == nil {
				err = offer(g.Name, formatState(g.Disabled))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// addGroupFlag adds the flag --group to cmd.
func addGroupFlag(c *cli, cmd *cobra.Command, group *string, usage string) {
	cmd.Flags().StringVar(group, "group", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("group", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return c.completeGroup(cmd, nil, prefix)
	})
}
