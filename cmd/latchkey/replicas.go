package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/replica"
)

// This file has the commands about the edges of a hub.

// edgeHelp explains the argument EDGE.
const edgeHelp = `EDGE is the ID of an edge, or its name if no other edge of the hub has the name.`

func replicaCommands(c *cli) *cobra.Command {
	cmd := parentCommand("replica", "Invite, list, show and revoke the edges of a hub, and decide their claims")
	cmd.Long = cmd.Short + ".\n\n" + edgeHelp
	cmd.AddCommand(replicaInviteCommand(c), replicaListCommand(c), replicaShowCommand(c), replicaPolicyCommand(c),
		replicaRevokeCommand(c), replicaConfirmedCommand(c), replicaClaimsCommand(c))
	return cmd
}

// policyFlags are the flags of a policy.
type policyFlags struct {
	groups []string
	push   pushFlag
}

func (p *policyFlags) add(c *cli, cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&p.groups, "group", nil, "a `GROUP` whose users and server keys the edge gets, or * for all and for what has no group; can be repeated")
	cmd.Flags().Var(&p.push, "push", "what the edge may push to the hub: nothing, use (when keys were used), revocations, or all")
	_ = cmd.RegisterFlagCompletionFunc("group", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return c.completeGroup(cmd, nil, prefix)
	})
	_ = cmd.RegisterFlagCompletionFunc("push", cobra.FixedCompletions(pushes(), cobra.ShellCompDirectiveNoFileComp))
}

// pushes returns the texts of the values of Push.
func pushes() (all []string) {
	for p := replica.PushNothing; p <= replica.PushAll; p++ {
		all = append(all, p.String())
	}
	return all
}

// pushFlag is the value of a flag that takes a Push.
type pushFlag replica.Push

func (p *pushFlag) Set(s string) error {
	if (*replica.Push)(p).UnmarshalText([]byte(s)) != nil {
		return fmt.Errorf("it must be one of %s", strings.Join(pushes(), ", "))
	}
	return nil
}

func (p *pushFlag) String() string { return replica.Push(*p).String() }
func (p *pushFlag) Type() string   { return "WORD" }

func replicaInviteCommand(c *cli) *cobra.Command {
	var policy policyFlags
	var certFile string
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print an invitation, with which one edge can join the hub",
		Long: `Print an invitation, with which one edge can join the hub, once and within an hour. It cannot be shown
again. Whoever has the invitation gets the secrets of the domain, and the stored verifiers of the keys in
the groups. So pass it on as you would pass on a backup.

--push says what the edge may change at the hub. Each word includes those before it:

    nothing      nothing. What is disabled at the edge holds there at once, and waits at the hub as a
                 claim; see latchkey replica claims
    use          when keys were used, and the end of an old token by the first use of the new one
    revocations  the disabling of users, keys and groups
    all          everything but groups, tag secrets, and what only the hub has

The hub puts the hash of its public key into the invitation. Without a hub that runs, and for a store on
etcd, --hub-cert names the certificate.`,
		Example: examples(
			"latchkey replica invite --group shop-17 --push use > invitation",
			"latchkey replica invite --group '*' --push all > invitation",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(policy.groups) == 0 {
				return usagef("no group is named; give --group GROUP, or --group '*' for all")
			}
			var err error
			if c.hubCert, err = readCertificate(certFile); err != nil {
				return err
			}
			ctx, invitation := cmd.Context(), ""
			err = c.changing(ctx, func(client *admin.Client) (err error) {
				invitation, err = client.Invite(ctx, replica.Policy{Groups: policy.groups, Push: replica.Push(policy.push)})
				return err
			})
			if err != nil {
				return err
			}
			switch {
			case c.hubCert != nil || !c.openedHere:
			case etcd.IsURL(c.store):
				c.warn("the invitation has no hash of the hub's public key, because the command does not ask the hubs of a store on etcd", "give --hub-cert, unless edges reach the hubs by a certificate of an authority")
			default:
				c.warn("the invitation has no hash of the hub's public key, because no hub has the store open", "make it while latchkey hub runs, or give --hub-cert, unless edges reach the hub by a certificate of an authority")
			}
			return c.print(struct { // without the Format that hides it
				Invitation string `json:"invitation"`
			}{invitation}, func(w io.Writer) { fmt.Fprintln(w, invitation) })
		},
	}
	policy.add(c, cmd)
	cmd.Flags().StringVar(&certFile, "hub-cert", "", "the `FILE` with the certificate of the hub, in PEM, if no hub has the store open now, or if the store is on etcd")
	_ = cmd.RegisterFlagCompletionFunc("hub-cert", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}

// edgeState returns the state of an edge in one word.
func edgeState(e replica.EdgeInfo) string {
	switch {
	case e.Revoked:
		return "revoked"
	case e.Cloned:
		return "cloned"
	case e.Connected:
		return "connected"
	case e.Dropped:
		return "dropped"
	}
	return "away"
}

// shownTime returns a time, or never.
func shownTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return formatTime(t)
}

// shownGroups returns the groups of a policy.
func shownGroups(p replica.Policy) string {
	var all []string
	for _, g := range p.Groups {
		all = append(all, shown(g))
	}
	return strings.Join(all, ", ")
}

func replicaListCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the edges of the hub",
		Long: `List the edges of the hub, in the order of their names. An edge is connected (it follows the hub now),
away, dropped (it was silent for so long that it has to compare its records when it is back), cloned (two
devices use its credential), or revoked.

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			out := bufio.NewWriter(c.stdout)
			rows := [][]string{{"NAME", "STATE", "LAST SEEN", "PUSHES", "CLAIMS", "GROUPS", "ID"}}
			err := c.reading(ctx, func(client *admin.Client) error {
				for e, err := range client.Replicas(ctx) {
					switch {
					case err != nil:
						return err
					case c.json:
						err = writeJSON(out, e)
					default:
						rows = append(rows, []string{shown(e.Name), edgeState(e), shownTime(e.LastSeen), e.Policy.Push.String(), strconv.Itoa(e.Claims), shownGroups(e.Policy), e.ID.String()})
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil && !c.json {
				err = c.printTable(nil, rows)
			}
			return errors.Join(err, out.Flush())
		},
	}
}

// findEdge returns the edge that an argument names.
func findEdge(ctx context.Context, client *admin.Client, arg string) (found replica.EdgeInfo, err error) {
	if id, ok := parseID(arg); ok {
		return client.Replica(ctx, id)
	}
	matches := 0
	for e, err := range client.Replicas(ctx) {
		if err != nil {
			return found, err
		}
		if e.Name == arg {
			found = e
			matches++
		}
	}
	switch matches {
	case 0:
		return found, fmt.Errorf("%w: %s", replica.ErrEdgeNotFound, arg)
	case 1:
		return found, nil
	}
	return found, usagef("%d edges have the name %s; give the ID of one, from latchkey replica list", matches, arg)
}

// completeEdge offers edges for the argument EDGE.
func (c *cli) completeEdge(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
		for e, err := range client.Replicas(ctx) {
			if err == nil {
				err = offer(e.Name, edgeState(e))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func replicaShowCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show [EDGE]",
		Short: "Show an edge of the hub, or how the store itself is as a hub or an edge",
		Long: `Show an edge of the hub. Without EDGE, show how the store itself is: of a hub how many edges it has, and of
an edge its hub, when it last heard of the hub, and what it has not pushed yet.

` + edgeHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("EDGE")(cmd, args)
		},
		ValidArgsFunction: c.completeEdge,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if len(args) == 0 {
				return c.showReplication(ctx)
			}
			return c.reading(ctx, func(client *admin.Client) error {
				e, err := findEdge(ctx, client, args[0])
				if err != nil {
					return err
				}
				return c.printEdge(e)
			})
		},
	}
}

// printEdge prints what the hub knows of an edge.
func (c *cli) printEdge(e replica.EdgeInfo) error {
	pairs := []string{
		"Name", shown(e.Name),
		"ID", e.ID.String(),
		"State", edgeState(e),
		"Joined", shownTime(e.Joined),
		"Last seen", shownTime(e.LastSeen),
		"Groups", shownGroups(e.Policy),
		"Pushes", e.Policy.Push.String(),
		"Commit", strconv.FormatUint(e.Sequence, 10),
		"Claims", strconv.Itoa(e.Claims),
	}
	for _, more := range [][2]string{{"Version", e.Build}, {"Refused", e.Refused}} {
		if more[1] != "" {
			pairs = append(pairs, more[0], more[1])
		}
	}
	return c.printFields(e, pairs...)
}

// showReplication prints how the store is as an edge or as a hub. A file of an edge is opened for
// writing, because the edge is not known otherwise.
func (c *cli) showReplication(ctx context.Context) error {
	path, err := c.existing()
	if err != nil {
		return err
	}
	way := c.reading
	if isEdge(path) {
		way = c.changing
	}
	return way(ctx, func(client *admin.Client) error {
		edge, err := client.Edge(ctx)
		if err == nil {
			return c.printStatus(edge)
		}
		if !errors.Is(err, admin.ErrNoEdge) {
			return err
		}
		hub, err := client.Hub(ctx)
		if err != nil {
			return err
		}
		return c.printFields(hub,
			"Edges", strconv.Itoa(hub.Edges),
			"Connected", strconv.Itoa(hub.Streams),
			"Claims", strconv.Itoa(hub.Claims),
			"Invitations", strconv.Itoa(hub.Invitations),
			"Commit", strconv.FormatUint(hub.Sequence, 10))
	})
}

// printStatus prints how an edge is.
func (c *cli) printStatus(s replica.Status) error {
	state := "away"
	switch {
	case s.Stale:
		state = "stale: logins are refused until the edge hears of the hub"
	case s.Cloned:
		state = "cloned: another device uses the credential"
	case s.Connected:
		state = "connected"
	case !s.Copied:
		state = "the first copy is not complete; latchkey sync goes on with it"
	}
	heard := "never"
	if !s.LastWord.IsZero() {
		heard = fmt.Sprintf("%s, %s ago", formatTime(s.LastWord), s.Age.Round(time.Second))
	}
	return c.printFields(s,
		"Hub", s.HubURL,
		"Edge", s.Edge.String(),
		"State", state,
		"Heard of the hub", heard,
		"Groups", shownGroups(s.Policy),
		"Pushes", s.Policy.Push.String(),
		"Commit of the hub", strconv.FormatUint(s.Sequence, 10),
		"Not pushed yet", strconv.FormatUint(s.Pending, 10),
		"Last error", cmp.Or(s.Err, "none"))
}

func replicaPolicyCommand(c *cli) *cobra.Command {
	var policy policyFlags
	cmd := &cobra.Command{
		Use:   "policy EDGE",
		Short: "Change which groups an edge gets, and what it may push",
		Long: `Change which groups an edge gets, and what it may push. A flag that is left out leaves its half as it is.
An edge that follows the hub learns of it at once. It forgets what it may not have any more, although
whoever has the device may have kept it.

` + edgeHelp,
		Example:           examples("latchkey replica policy till-17 --push nothing", "latchkey replica policy till-17 --group shop-17 --group shop-18"),
		Args:              takes("EDGE"),
		ValidArgsFunction: c.completeEdge,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(policy.groups) == 0 && !cmd.Flags().Changed("push") {
				return usagef("nothing is to be changed; give --group or --push")
			}
			ctx := cmd.Context()
			return c.changeEdge(ctx, args[0], "change", "changed", func(client *admin.Client, e replica.EdgeInfo) (replica.EdgeInfo, error) {
				if len(policy.groups) > 0 {
					e.Policy.Groups = policy.groups
				}
				if cmd.Flags().Changed("push") {
					e.Policy.Push = replica.Push(policy.push)
				}
				if c.dryRun {
					return e, nil
				}
				return client.SetPolicy(ctx, e.ID, e.Policy)
			})
		},
	}
	policy.add(c, cmd)
	c.dryRunFlag(cmd)
	return cmd
}

// changeEdge finds an edge and changes it, and prints what was done.
func (c *cli) changeEdge(ctx context.Context, arg, verb, past string, change func(*admin.Client, replica.EdgeInfo) (replica.EdgeInfo, error)) error {
	var e replica.EdgeInfo
	err := c.changing(ctx, func(client *admin.Client) error {
		found, err := findEdge(ctx, client, arg)
		if err != nil {
			return err
		}
		e, err = change(client, found)
		return err
	})
	if err != nil {
		return err
	}
	return c.print(e, func(w io.Writer) {
		fmt.Fprintf(w, "%s edge %s (%s); groups: %s; pushes: %s\n", c.did(verb, past), plain(shown(e.Name)), e.ID, plain(shownGroups(e.Policy)), e.Policy.Push)
	})
}

func replicaRevokeCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke EDGE",
		Short: "Cut an edge off from the hub",
		Long: `Cut an edge off from the hub: its key is disabled, and its stream ends. What the edge has, it keeps. If
the edge was stolen, docs/stolen-edge.md says what else to do. To let the device join again, give it a
new invitation.

` + edgeHelp,
		Args:              takes("EDGE"),
		ValidArgsFunction: c.completeEdge,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return c.changeEdge(ctx, args[0], "revoke", "revoked", func(client *admin.Client, e replica.EdgeInfo) (replica.EdgeInfo, error) {
				if c.dryRun {
					return e, nil
				}
				revoked, err := client.RevokeReplica(ctx, e.ID)
				if len(revoked.Policy.Groups) == 0 { // the policy of before tells what the edge has
					revoked.Policy = e.Policy
				}
				return revoked, err
			})
		},
	}
	c.dryRunFlag(cmd)
	return cmd
}

func replicaConfirmedCommand(c *cli) *cobra.Command {
	k := &keyArg{cli: c}
	cmd := &cobra.Command{
		Use:   "confirmed [USER | --server] KEY",
		Short: "Show how many edges have confirmed the last change of a key",
		Long: `Show how many edges have confirmed that they have taken over the last change of a key, such as that it was
disabled. An edge that is away confirms when it is back. Until then, it lets the key in. An edge that does
not get the key has nothing to confirm, and counts with the next change that it gets.

` + keyHelp,
		Args: k.takes(),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return k.reading(ctx, args, func(client *admin.Client, key admin.Key, _ []string) error {
				confirmed, err := client.KeyConfirmed(ctx, key.ID)
				if err != nil {
					return err
				}
				return c.print(confirmed, func(w io.Writer) {
					fmt.Fprintf(w, "%d of %d edges have confirmed the last change of key %s (%s)\n", confirmed.Have, confirmed.All, plain(key.Name), key.ID)
				})
			})
		},
	}
	k.addFlag(cmd)
	cmd.ValidArgsFunction = k.completer(c, true)
	return cmd
}

func replicaClaimsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "claims",
		Short: "List what edges have disabled without the right to push it, and confirm or refuse it",
		Long: `List the claims that wait. A claim is a change that only an edge knows, and that its policy does not let
it push: most often that a user, a key or a group was disabled there. It holds at that edge. After claims
confirm it holds everywhere, and after claims refuse nowhere.

With --json, each line is a JSON document.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			out := bufio.NewWriter(c.stdout)
			rows := [][]string{{"NUMBER", "ARRIVED", "EDGE", "WHAT"}}
			err := c.reading(ctx, func(client *admin.Client) error {
				names := map[uuid.UUID]string{}
				for e, err := range client.Replicas(ctx) {
					if err != nil {
						return err
					}
					names[e.ID] = shown(e.Name)
				}
				for claim, err := range client.Claims(ctx) {
					switch {
					case err != nil:
						return err
					case c.json:
						err = writeJSON(out, claim)
					default:
						rows = append(rows, []string{strconv.FormatUint(claim.Number, 10), shownTime(claim.Arrived), cmp.Or(names[claim.Edge], claim.Edge.String()), whatOf(ctx, client, claim)})
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil && !c.json {
				err = c.printTable(nil, rows)
			}
			return errors.Join(err, out.Flush())
		},
	}
	cmd.AddCommand(
		replicaDecideCommand(c, "confirm", "Make the change of a claim at the hub, from where all edges get it", "confirmed", (*admin.Client).ConfirmClaim),
		replicaDecideCommand(c, "refuse", "Drop a claim, so that its edge takes over what the hub has", "refused", (*admin.Client).RefuseClaim),
	)
	return cmd
}

// whatOf says what a claim is about.
func whatOf(ctx context.Context, client *admin.Client, claim replica.Claim) string {
	claim.What = claim.What[strings.LastIndexByte(claim.What, '.')+1:] // of user.disabled
	switch claim.Table {
	case "users", "deadusers":
		if u, err := client.User(ctx, claim.ID); err == nil {
			return fmt.Sprintf("user %s (%s): %s", formatIdentities(u.User), claim.ID, claim.What)
		}
		return fmt.Sprintf("user %s: %s", claim.ID, claim.What)
	case "groups":
		return fmt.Sprintf("group %s: %s", shown(claim.Group), claim.What)
	}
	if k, err := client.Key(ctx, claim.ID); err == nil {
		return fmt.Sprintf("key %s (%s): %s", k.Name, claim.ID, claim.What)
	}
	return fmt.Sprintf("key %s: %s", claim.ID, claim.What)
}

// replicaDecideCommand returns the command name, which decides one claim.
func replicaDecideCommand(c *cli, name, short, past string, decide func(*admin.Client, context.Context, uint64) error) *cobra.Command {
	return &cobra.Command{
		Use:               name + " NUMBER",
		Short:             short,
		Long:              short + ". NUMBER is the number of the claim in latchkey replica claims.",
		Args:              takes("NUMBER"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[0], 10, 53)
			if err != nil {
				return usagef("NUMBER must be the number of a claim")
			}
			ctx := cmd.Context()
			if err := c.changing(ctx, func(client *admin.Client) error { return decide(client, ctx, number) }); err != nil {
				return err
			}
			return c.print(struct {
				Number uint64 `json:"number"`
			}{number}, func(w io.Writer) { fmt.Fprintf(w, "%s claim %d\n", past, number) })
		},
	}
}
