package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// errPruned means that key prune was interrupted after it had changed some keys.
var errPruned = errors.New("interrupted")

// pruneBatch is how many keys key prune changes at the same time, because changes that wait for
// each other share a commit. A commit takes some milliseconds, so larger batches would hardly be
// faster.
const pruneBatch = 100

// pruning is one run of the command key prune.
type pruning struct {
	*cli
	expired, remove, yes bool
	unused               string
}

func keyPruneCommand(c *cli) *cobra.Command {
	p := &pruning{cli: c}
	cmd := &cobra.Command{
		Use:   "prune (--expired | --unused DURATION)",
		Short: "List the keys of all owners that have expired or are not used, and delete or disable them",
		Long: `List the keys of all users and of the server that have expired. With --yes, delete them for good, and
print what was deleted. Without --yes, nothing is changed.

With --unused, list the keys that are older than the duration and have not been used for so long. With
--yes, disable them, so that they can be enabled again, or with --delete delete them for good. Without
--delete, keys that are disabled already are left out. A program writes the last uses of keys once an
hour, or as seldom as it was told to, and when it closes the store. After a crash, a key that was used
since then seems to be unused. So choose a duration of weeks.

Whether a key has expired is decided by the store's time, which goes by the clock of this machine and
never back. If it is ahead, keys that are still good are listed, too, so look at the list before you
delete. latchkey doctor looks at the clock.

The exit status is 0, also if there are no such keys. If the command is interrupted after some keys
were changed, the output has these keys, and the exit status is 130.`,
		Example: examples(
			"latchkey key prune --expired",
			"latchkey key prune --expired --yes",
			"latchkey key prune --unused 90d",
			"latchkey key prune --unused 1y --delete --yes",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&p.expired, "expired", false, "the keys that have expired")
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "change the keys")
	cmd.Flags().StringVar(&p.unused, "unused", "", "the keys that were not used for this `DURATION`, such as 90d")
	cmd.Flags().BoolVar(&p.remove, "delete", false, "with --unused: delete the keys for good")
	c.dryRunFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("unused", cobra.FixedCompletions([]string{"30d", "90d", "1y"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
	return cmd
}

func (p *pruning) run(ctx context.Context) error {
	if p.expired == (p.unused != "") {
		return usagef("say which keys; give --expired, or --unused with a duration")
	}
	if _, ok := ago(p.unused, time.Now()); !ok && !p.expired {
		return usagef("--unused takes a duration, such as 90d or 1y")
	}
	p.remove = p.remove || p.expired
	if !p.yes || p.dryRun {
		return p.reading(ctx, func(client *admin.Client) error {
			keys, err := p.find(ctx, client)
			if err != nil {
				return err
			}
			owners, err := p.owners(ctx, client, keys)
			if err != nil {
				return err
			}
			return p.printFound(stored(keys), owners)
		})
	}
	return p.changing(ctx, func(client *admin.Client) error {
		pruned, err := p.prune(ctx, client)
		if err != nil && len(pruned) == 0 {
			return err
		}
		return errors.Join(err, p.printPruned(pruned))
	})
}

// ago returns the time that is a duration before now. It reports false unless the duration is more
// than nothing.
func ago(duration string, now time.Time) (time.Time, bool) {
	later, ok := parseDuration(duration, now)
	return now.Add(-later.Sub(now)), ok && later.After(now)
}

// find returns the keys to prune. Those of one owner stand together, and those of the server last.
func (p *pruning) find(ctx context.Context, client *admin.Client) (found []admin.Key, err error) {
	store, err := client.Store(ctx)
	if err != nil {
		return nil, err
	}
	f := latchkey.KeyFilter{State: latchkey.KeyExpired}
	if since, ok := ago(p.unused, store.Now); ok {
		f = latchkey.KeyFilter{UnusedSince: since}
	}
	for key, err := range client.Keys(ctx, f) {
		if err != nil {
			return nil, err
		}
		if p.remove || !key.Disabled {
			found = append(found, key)
		}
	}
	slices.SortStableFunc(found, func(a, b admin.Key) int { return bytes.Compare(a.Owner[:], b.Owner[:]) })
	return found, nil
}

// owners returns the owner of each key as a list shows it.
func (p *pruning) owners(ctx context.Context, client *admin.Client, keys []admin.Key) (owners []string, err error) {
	known := map[admin.Owner]string{admin.Owner(latchkey.ServerOwner): "server"}
	for _, key := range keys {
		if known[key.Owner] == "" {
			user, err := client.User(ctx, uuid.UUID(key.Owner))
			if err != nil {
				return nil, err
			}
			known[key.Owner] = showIdentities(user.User)
		}
		owners = append(owners, known[key.Owner])
	}
	return owners, nil
}

func (p *pruning) printFound(keys []latchkey.Key, owners []string) error {
	column, when := "LAST USED", func(k latchkey.Key) string { return formatUse(k.LastUsed) }
	if p.expired {
		column, when = "EXPIRED", formatExpiry
	}
	rows := [][]string{{"OWNER", "NAME", column, "ID"}}
	for i, key := range keys {
		rows = append(rows, []string{owners[i], shown(key.Name), when(key), key.ID.String()})
	}
	if len(keys) == 0 && !p.json {
		rows = [][]string{{p.none()}}
	}
	return p.printTable(nonNil(keys), rows)
}

// stored returns keys as package latchkey has them.
func stored(keys []admin.Key) (all []latchkey.Key) {
	for _, key := range keys {
		all = append(all, key.Stored())
	}
	return all
}

// none says that there is no key to prune.
func (p *pruning) none() string {
	if p.expired {
		return "no key has expired"
	}
	return "no key has been unused for so long"
}

// prune deletes or disables the keys that it finds. It leaves alone a key that somebody changes
// meanwhile. It returns those that it has changed, also with an error.
//
// Errors: errPruned with [context.Canceled]; those of a change of a key.
func (p *pruning) prune(ctx context.Context, client *admin.Client) (pruned []latchkey.Key, err error) {
	found, err := p.find(ctx, client)
	for err == nil && len(found) > 0 {
		batch := found[:min(pruneBatch, len(found))]
		found = found[len(batch):]
		errs := make([]error, len(batch))
		var changes sync.WaitGroup
		for i, key := range batch {
			changes.Go(func() { errs[i] = p.change(ctx, client, key) })
		}
		changes.Wait()
		for i, key := range batch {
			switch {
			case errs[i] == nil:
				pruned = append(pruned, key.Stored())
			case errors.Is(errs[i], latchkey.ErrKeyNotFound): // it was deleted meanwhile
			case errors.Is(errs[i], admin.ErrChanged): // it may have a later expiry date now
			default:
				err = errs[i]
			}
		}
	}
	if errors.Is(err, context.Canceled) && len(pruned) > 0 {
		err = fmt.Errorf("%w after %d keys were %s: %w", errPruned, len(pruned), p.done(), err)
	}
	return pruned, err
}

// change deletes or disables a key, unless somebody has changed the key since it was found.
func (p *pruning) change(ctx context.Context, client *admin.Client, key admin.Key) error {
	if p.remove {
		return client.DeleteKey(ctx, key.ID, key.ETag)
	}
	_, err := client.ChangeKey(ctx, key.ID, admin.KeyChange{Disabled: admin.Some(true)}, key.ETag)
	return err
}

// done says what was done to the keys.
func (p *pruning) done() string {
	if p.remove {
		return "deleted"
	}
	return "disabled"
}

func (p *pruning) printPruned(keys []latchkey.Key) error {
	return p.print(nonNil(keys), func(w io.Writer) {
		for _, key := range keys {
			fmt.Fprintf(w, "%s key %s (%s)\n", p.done(), plain(key.Name), key.ID)
		}
		if len(keys) == 0 {
			fmt.Fprintln(w, p.none())
		}
	})
}

// nonNil returns keys, or an empty list in place of nil, which JSON would show as null.
func nonNil(keys []latchkey.Key) []latchkey.Key { return append([]latchkey.Key{}, keys...) }
