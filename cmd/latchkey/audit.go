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

// keepTrail makes the changes to a store go into a chain of its audit trail, and into the outbox of
// the default name, if the store has them. The chain begins if another one has begun. keepTrail
// removes no old entries and messages, because the program that uses the store may keep more than
// the command would.
func keepTrail(opts *latchkey.Options, chain audit.Chain) *audit.Trail {
	trail := audit.New(&audit.Options{MaxEntries: -1, Chain: chain})
	box := outbox.New(&outbox.Options{MaxMessages: math.MaxInt})
	opts.OnChange = func(tx *latchkey.Tx, change latchkey.Change) error {
		if exists, err := box.Exists(tx); err != nil {
			return err
		} else if exists {
			if err := box.Append(tx, change); err != nil {
				return err
			}
		}
		if head, err := chain.Head(tx); err == nil && head == (audit.Head{}) {
			if chains, err := audit.Chains(tx); err == nil && len(chains) == 0 {
				return nil // and if err is not nil, there is a trail, or Record fails as well
			}
		}
		return trail.Record(tx, change)
	}
	return trail
}

const trailAdvice = "keep a copy of the file; then latchkey audit begin --anew begins another trail"

func auditBeginCommand(c *cli) *cobra.Command {
	var anew bool
	var chain chainFlag
	cmd := &cobra.Command{
		Use:   "begin",
		Short: "Begin an audit trail",
		Long: `Begin an audit trail. From then on, every change by the command is an entry in the trail, with the
name of the person who made it. A program that opens the store has to keep the trail, too: see the Go
package audit.

A trail in a file has one chain. On etcd, changes that several programs write into one chain wait for
each other. So each machine has a chain there, which begins with its first change after begin, and
verify and show are about all of them.

--anew removes all entries of a trail that is broken, and begins it anew. The first entry says who has
begun the trail. Keep a copy of the file before.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var head audit.Head
			err := c.changing(cmd.Context(), func(client *admin.Client) (err error) {
				head, err = chain.of(client).BeginAudit(cmd.Context(), anew)
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
	chain.addTo(cmd, "begin the chain with this `NAME` (default the one into which changes go)")
	return cmd
}

// entryRow is the format of a row of entries, as userRow is of users. The first column is as wide
// as the numbers are with the names of their chains.
const entryRow = "%*s  %-20s  %-16s  %-20s  %s\n"

func auditShowCommand(c *cli) *cobra.Command {
	var limit uint64
	var text string
	var chain chainFlag
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the audit trail, the oldest entry first",
		Long: `Show the audit trail, the oldest entry first. The list can be made in parts: give the last number of
one part to --after for the next part. show does not look whether the entries are the right ones; see
latchkey audit verify.

The entries of several chains are in the order of their times. Each machine has its own clock, so the
order of two entries is only certain within one chain. In the column NUMBER, and in --after, a number of
a chain with a name has the name and a slash before it. --after takes one number of each chain, with
commas between them; a chain without a number is shown from its beginning.

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			after, err := audit.ParsePosition(text)
			if err != nil {
				return usagef("--after takes the number of an entry, such as 42, or the last one of each chain, such as 42,shop-1/17")
			}
			if chain.given && after[chain.chain] == 0 {
				after[chain.chain] = after[""] // the name of the chain need not be there twice
			}
			out := bufio.NewWriter(c.stdout)
			err = c.reading(cmd.Context(), func(client *admin.Client) error {
				return c.writeEntries(cmd.Context(), out, chain.of(client), after, limit)
			})
			return errors.Join(err, out.Flush())
		},
	}
	cmd.Flags().StringVar(&text, "after", "", "begin after the entry with this `NUMBER`")
	cmd.Flags().Uint64Var(&limit, "limit", 0, "show at most `N` entries (default all)")
	chain.addTo(cmd, "show the chain with this `NAME` alone; empty for the default chain")
	return cmd
}

// writeEntries writes the first limit entries after a position, or all of them if limit is 0.
func (c *cli) writeEntries(ctx context.Context, w io.Writer, client *admin.Client, after audit.Position, limit uint64) error {
	width := len("      1")
	if !c.json {
		heads, err := client.AuditHeads(ctx)
		if err != nil {
			return err
		}
		for _, h := range heads {
			width = max(width, len(place(h)))
		}
		fmt.Fprintf(w, entryRow, width, "NUMBER", "TIME", "ACTOR", "ACTION", "OF")
	}
	left := limit
	for e, err := range client.Audit(ctx, after) {
		if err == nil {
			err = c.writeEntry(w, width, e)
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

// place returns the number of a head, behind the name of the chain if it has one.
func place(h audit.Head) string { return audit.Position{h.Chain: h.Number}.String() }

func (c *cli) writeEntry(w io.Writer, width int, e audit.Entry) error {
	if c.json {
		return writeJSON(w, e)
	}
	var actions []string
	for _, a := range e.Change.Actions {
		actions = append(actions, string(a))
	}
	_, err := fmt.Fprintf(w, entryRow, width, place(e.Head()), formatTime(e.Change.Time), plain(e.Change.Actor), plain(strings.Join(actions, ",")), plain(showObject(e.Change)))
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
	var chain chainFlag
	cmd := &cobra.Command{
		Use:   "verify [HEAD...]",
		Short: "Look whether the audit trail is whole, and print its heads",
		Long: `Look at every entry of the audit trail. The trail is whole if each entry follows from the one before,
up to the last. The head that verify prints stands for all entries. Keep it outside of this machine, and
give it to a later verify as HEAD: then nobody can have changed the entries up to that head in between.
Without a HEAD, verify shows damage, but not whether somebody has written the trail anew.

If the trail has several chains, verify looks at all of them, and prints a head for each, with the name
of the chain. Keep all heads. An error names the chain that is broken.

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
				Entries uint64       `json:"entries"`
				Heads   []audit.Head `json:"heads"`
			}{Heads: []audit.Head{}}
			err := c.reading(cmd.Context(), func(client *admin.Client) error {
				verdict, err := chain.of(client).VerifyAudit(cmd.Context(), known...)
				if err == nil && verdict.Problem != nil {
					return verdict.Problem
				}
				doc.Heads, doc.Entries = append(doc.Heads, verdict.Heads...), verdict.Entries
				return err
			})
			if err != nil {
				return err
			}
			return c.print(doc, func(w io.Writer) {
				prefix := "head "
				switch {
				case c.quiet:
					prefix = ""
					if len(doc.Heads) == 0 {
						doc.Heads = []audit.Head{{}} // that of every trail before its first entry
					}
				case len(doc.Heads) == 0 && chain.given:
					fmt.Fprintf(w, "the audit trail has no chain %q\n", string(chain.chain))
				case len(doc.Heads) == 0:
					fmt.Fprintln(w, "the store has no audit trail; latchkey audit begin begins one")
				case len(doc.Heads) == 1:
					fmt.Fprintf(w, "the audit trail is whole, with %d entries\n", doc.Entries)
				default:
					fmt.Fprintf(w, "the audit trail is whole, with %d entries in %d chains\n", doc.Entries, len(doc.Heads))
				}
				for _, head := range doc.Heads {
					fmt.Fprintf(w, "%s%s\n", prefix, head)
				}
			})
		},
	}
	c.quietFlag(cmd, "the heads")
	chain.addTo(cmd, "verify the chain with this `NAME` alone; empty for the default chain")
	return cmd
}

func auditPruneCommand(c *cli) *cobra.Command {
	var chain chainFlag
	var keep uint64
	var yes bool
	cmd := &cobra.Command{
		Use:   "prune --keep N",
		Short: "Count the oldest entries of the audit trail, or remove them",
		Long: `Say how many entries the audit trail has before its last N. With --yes, remove them. The rest is still a
chain, and the head stays as it is. A HEAD from before the oldest entry cannot be compared any more, so
keep the head that latchkey audit verify prints. Of several chains, each keeps its last N entries.`,
		Example: examples("latchkey audit prune --keep 10000 --yes"),
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("keep") {
				return usagef("say how many entries stay; give --keep")
			}
			var doc admin.AuditPruned
			if !yes || c.dryRun {
				err := c.reading(cmd.Context(), func(client *admin.Client) (err error) {
					doc, err = countEntries(cmd.Context(), chain.of(client), keep)
					return err
				})
				if err != nil {
					return err
				}
				return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "to remove: %d of %d entries\n", doc.Removed, doc.Entries) })
			}
			// A pruning has no entry in the trail, so nothing warns of that.
			err := c.administer(cmd.Context(), false, func(client *admin.Client) (err error) {
				doc, err = chain.of(client).PruneAudit(cmd.Context(), keep)
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
	chain.addTo(cmd, "prune the chain with this `NAME` alone; empty for the default chain")
	return cmd
}

// countEntries returns the number of the trail's entries, and how many of them go if each chain
// keeps its last ones.
func countEntries(ctx context.Context, client *admin.Client, keep uint64) (doc admin.AuditPruned, err error) {
	heads, err := client.AuditHeads(ctx)
	if err != nil {
		return doc, err
	}
	for _, head := range heads {
		page, err := client.Chain(head.Chain).AuditPage(ctx, nil, 1)
		if err != nil {
			return doc, err
		}
		if len(page.Items) > 0 && len(page.Heads) > 0 {
			n := page.Heads[0].Number - page.Items[0].Number + 1
			doc.Entries += n
			doc.Removed += n - min(n, keep)
		}
	}
	return doc, nil
}
