package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/outbox"
)

func auditCommands(c *cli) *cobra.Command {
	cmd := parentCommand("audit", "Begin, show, verify and prune the audit trail")
	cmd.AddCommand(auditBeginCommand(c), auditShowCommand(c), auditVerifyCommand(c), auditPruneCommand(c))
	return cmd
}

// osUser returns the name of the account that runs the command.
func osUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", os.Getuid())
}

// keepTrail makes the changes to a store go into its audit trail, and into the outbox of the
// default name, if the store has them. It removes no old entries and messages, because the program
// that uses the store may keep more than the command would.
func keepTrail(opts *latchkey.Options) *audit.Trail {
	trail := audit.New(&audit.Options{MaxEntries: -1})
	box := outbox.New(&outbox.Options{MaxMessages: math.MaxInt})
	opts.OnChange = func(tx *latchkey.Tx, change latchkey.Change) error {
		if exists, err := box.Exists(tx); err != nil {
			return err
		} else if exists {
			if err := box.Append(tx, change); err != nil {
				return err
			}
		}
		if head, err := audit.CurrentHead(tx); err == nil && head == (audit.Head{}) {
			return nil
		}
		return trail.Record(tx, change)
	}
	return trail
}

const trailAdvice = "keep a copy of the file; then latchkey audit begin --anew begins another trail"

func auditBeginCommand(c *cli) *cobra.Command {
	var anew bool
	cmd := &cobra.Command{
		Use:   "begin",
		Short: "Begin an audit trail",
		Long: `Begin an audit trail. From then on, every change by the command is an entry in the trail, with the
name of the person who made it. A program that opens the store has to keep the trail, too: see the Go
package audit.

--anew removes all entries of a trail that is broken, and begins it anew. The first entry says who has
begun the trail. Keep a copy of the file before.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var head audit.Head
			err := c.changing(cmd.Context(), func(client *admin.Client) (err error) {
				head, err = client.BeginAudit(cmd.Context(), anew)
				return err
			})
			if err != nil {
				return err
			}
			doc := struct {
				Head audit.Head `json:"head"`
			}{head}
			return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "began the audit trail\nhead %s\n", head) })
		},
	}
	cmd.Flags().BoolVar(&anew, "anew", false, "remove the entries that are there")
	return cmd
}

// entryRow is the format of a row of entries, as userRow is of users.
const entryRow = "%7s  %-20s  %-16s  %-20s  %s\n"

func auditShowCommand(c *cli) *cobra.Command {
	var after, limit uint64
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the audit trail, the oldest entry first",
		Long: `Show the audit trail, the oldest entry first. The list can be made in parts: give the last number of
one part to --after for the next part. show does not look whether the entries are the right ones; see
latchkey audit verify.

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := bufio.NewWriter(c.stdout)
			err := c.reading(cmd.Context(), func(client *admin.Client) error {
				return c.writeEntries(cmd.Context(), out, client, after, limit)
			})
			return errors.Join(err, out.Flush())
		},
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after the entry with this `NUMBER`")
	cmd.Flags().Uint64Var(&limit, "limit", 0, "show at most `N` entries (default all)")
	return cmd
}

// writeEntries writes the first limit entries after one, or all of them if limit is 0.
func (c *cli) writeEntries(ctx context.Context, w io.Writer, client *admin.Client, after, limit uint64) error {
	if !c.json {
		fmt.Fprintf(w, entryRow, "NUMBER", "TIME", "ACTOR", "ACTION", "OF")
	}
	left := limit
	for e, err := range client.Audit(ctx, after) {
		if err == nil {
			err = c.writeEntry(w, e)
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

func (c *cli) writeEntry(w io.Writer, e audit.Entry) error {
	if c.json {
		return writeJSON(w, e)
	}
	var actions []string
	for _, a := range e.Change.Actions {
		actions = append(actions, string(a))
	}
	_, err := fmt.Fprintf(w, entryRow, strconv.FormatUint(e.Number, 10), formatTime(e.Change.Time), plain(e.Change.Actor), plain(strings.Join(actions, ",")), plain(showObject(e.Change)))
	return err
}

// showObject returns the name and the ID of what was changed.
func showObject(c latchkey.Change) string {
	switch {
	case c.Key != uuid.Nil && c.Owner == latchkey.ServerOwner:
		return fmt.Sprintf("%s (server key %s)", c.Name, c.Key)
	case c.Key != uuid.Nil:
		return fmt.Sprintf("%s (key %s of user %s)", c.Name, c.Key, c.Owner)
	case c.User != uuid.Nil:
		return fmt.Sprintf("user %s", c.User)
	case c.Group != "":
		return "group " + c.Group
	case c.Name != "":
		return "tag secret " + c.Name
	}
	return "the store"
}

func auditVerifyCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [HEAD...]",
		Short: "Look whether the audit trail is whole, and print its head",
		Long: `Look at every entry of the audit trail. The trail is whole if each entry follows from the one before,
up to the last. The head that verify prints stands for all entries. Keep it outside of this machine, and
give it to a later verify as HEAD: then nobody can have changed the entries up to that head in between.
Without a HEAD, verify shows damage, but not whether somebody has written the trail anew.

The exit status is 7 if the trail is broken, and 4 if the trail is whole, but begins after a HEAD, which
therefore cannot be compared.`,
		Example: examples(
			"latchkey audit verify --quiet > head",
			"latchkey audit verify $(cat head)",
		),
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var known []audit.Head
			for _, arg := range args {
				h, err := audit.ParseHead(arg)
				if err != nil {
					return usagef("HEAD must be a line that latchkey audit verify --quiet has printed")
				}
				known = append(known, h)
			}
			doc := struct {
				Entries uint64     `json:"entries"`
				Head    audit.Head `json:"head"`
			}{}
			err := c.reading(cmd.Context(), func(client *admin.Client) error {
				verdict, err := client.VerifyAudit(cmd.Context(), known...)
				if err == nil && verdict.Problem != nil {
					return verdict.Problem
				}
				doc.Head, doc.Entries = verdict.Head, verdict.Entries
				return err
			})
			if err != nil {
				return err
			}
			return c.print(doc, func(w io.Writer) {
				if c.quiet {
					fmt.Fprintln(w, doc.Head)
					return
				}
				if doc.Head == (audit.Head{}) {
					fmt.Fprintln(w, "the store has no audit trail; latchkey audit begin begins one")
					return
				}
				fmt.Fprintf(w, "the audit trail is whole, with %d entries\nhead %s\n", doc.Entries, doc.Head)
			})
		},
	}
	c.quietFlag(cmd, "the head")
	return cmd
}

func auditPruneCommand(c *cli) *cobra.Command {
	var keep uint64
	var yes bool
	cmd := &cobra.Command{
		Use:   "prune --keep N",
		Short: "Count the oldest entries of the audit trail, or remove them",
		Long: `Say how many entries the audit trail has before its last N. With --yes, remove them. The rest is still a
chain, and the head stays as it is. A HEAD from before the oldest entry cannot be compared any more, so
keep the head that latchkey audit verify prints.`,
		Example: examples("latchkey audit prune --keep 10000 --yes"),
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("keep") {
				return usagef("say how many entries stay; give --keep")
			}
			var doc admin.AuditPruned
			if !yes || c.dryRun {
				err := c.reading(cmd.Context(), func(client *admin.Client) (err error) {
					doc.Entries, err = countEntries(cmd.Context(), client)
					return err
				})
				if err != nil {
					return err
				}
				doc.Removed = doc.Entries - min(doc.Entries, keep)
				return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "to remove: %d of %d entries\n", doc.Removed, doc.Entries) })
			}
			// A pruning has no entry in the trail, so nothing warns of that.
			err := c.administer(cmd.Context(), false, func(client *admin.Client) (err error) {
				doc, err = client.PruneAudit(cmd.Context(), keep)
				return err
			})
			if err != nil {
				return err
			}
			return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "removed: %d of %d entries\n", doc.Removed, doc.Entries) })
		},
	}
	cmd.Flags().Uint64Var(&keep, "keep", 0, "the number `N` of entries that stay")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "remove the others")
	c.dryRunFlag(cmd)
	return cmd
}

// countEntries returns the number of the trail's entries.
func countEntries(ctx context.Context, client *admin.Client) (uint64, error) {
	page, err := client.AuditPage(ctx, 0, 1)
	if err != nil || len(page.Items) == 0 {
		return 0, err
	}
	return page.Head.Number - page.Items[0].Number + 1, nil
}
