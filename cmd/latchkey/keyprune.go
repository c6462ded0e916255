package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// errPruned means that key prune was interrupted after it had deleted some keys.
var errPruned = errors.New("interrupted")

// pruneBatch is how many keys key prune deletes in one transaction. A commit takes some
// milliseconds, so larger batches would hardly be faster, and an interrupt would wait longer.
const pruneBatch = 100

// pruning is one run of the command key prune.
type pruning struct {
	*cli
	expired, yes bool
}

func keyPruneCommand(c *cli) *cobra.Command {
	p := &pruning{cli: c}
	cmd := &cobra.Command{
		Use:   "prune --expired",
		Short: "List the keys of all owners that have expired, or delete them",
		Long: `List the keys of all users and of the server that have expired. With --yes, delete them for good, and
print what was deleted. Without --yes, nothing is deleted.

Whether a key has expired is decided by the store's time, which goes by the clock of this machine and
never back. If it is ahead, keys that are still good are listed, too, so look at the list before you
delete. latchkey doctor looks at the clock.

The exit status is 0, also if there are no expired keys. If the command is interrupted after some keys
were deleted, the output has these keys, and the exit status is 130.`,
		Example: examples(
			"latchkey key prune --expired",
			"latchkey key prune --expired --yes",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&p.expired, "expired", false, "the keys that have expired")
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "delete the keys")
	return cmd
}

func (p *pruning) run(ctx context.Context) error {
	if !p.expired {
		return usagef("say which keys; give --expired")
	}
	if !p.yes {
		return p.view(ctx, func(tx *latchkey.Tx) error {
			keys, owners, err := p.find(tx)
			if err != nil {
				return err
			}
			return p.printFound(keys, owners)
		})
	}
	return p.withStore(ctx, latchkey.Options{}, func(s *latchkey.Store) error {
		deleted, err := p.delete(ctx, s)
		if err != nil && len(deleted) == 0 {
			return err
		}
		return errors.Join(err, p.printDeleted(deleted))
	})
}

// find returns the expired keys, and for each of them its owner as a list shows it.
func (p *pruning) find(tx *latchkey.Tx) (expired []latchkey.Key, owners []string, err error) {
	now := tx.Now()
	add := func(id uuid.UUID, owner func() string) error {
		keys, err := tx.Keys(id)
		for _, key := range keys {
			if isExpired(key, now) {
				expired, owners = append(expired, key), append(owners, owner())
			}
		}
		return err
	}
	for user, err := range tx.Users(uuid.Nil) {
		if err == nil {
			err = add(user.ID, func() string { return showIdentities(user) })
		}
		if err != nil {
			return nil, nil, err
		}
	}
	err = add(latchkey.ServerOwner, func() string { return "server" })
	return expired, owners, err
}

func (p *pruning) printFound(keys []latchkey.Key, owners []string) error {
	rows := [][]string{{"OWNER", "NAME", "EXPIRED", "ID"}}
	for i, key := range keys {
		rows = append(rows, []string{owners[i], shown(key.Name), formatTime(key.Expires), key.ID.String()})
	}
	if len(keys) == 0 && !p.json {
		rows = [][]string{{"no key has expired"}}
	}
	return p.printTable(nonNil(keys), rows)
}

// delete deletes the expired keys in s, and returns those that it has deleted, also with an error.
//
// Errors: errPruned with [context.Canceled]; the errors of [latchkey.Store.Update].
func (p *pruning) delete(ctx context.Context, s *latchkey.Store) (deleted []latchkey.Key, err error) {
	var found []latchkey.Key
	err = s.View(ctx, func(tx *latchkey.Tx) (err error) {
		found, _, err = p.find(tx)
		return err
	})
	for err == nil && len(found) > 0 {
		batch := found[:min(pruneBatch, len(found))]
		found = found[len(batch):]
		err = s.Update(ctx, func(tx *latchkey.Tx) error {
			for _, key := range batch {
				if err := tx.DeleteKey(key.Owner, key.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			deleted = append(deleted, batch...)
		}
	}
	if errors.Is(err, context.Canceled) && len(deleted) > 0 {
		err = fmt.Errorf("%w after %d keys were deleted: %w", errPruned, len(deleted), err)
	}
	return deleted, err
}

func (p *pruning) printDeleted(keys []latchkey.Key) error {
	return p.print(nonNil(keys), func(w io.Writer) {
		for _, key := range keys {
			fmt.Fprintf(w, "deleted key %s (%s)\n", plain(key.Name), key.ID)
		}
		if len(keys) == 0 {
			fmt.Fprintln(w, "no key has expired")
		}
	})
}

// nonNil returns keys, or an empty list in place of nil, which JSON would show as null.
func nonNil(keys []latchkey.Key) []latchkey.Key { return append([]latchkey.Key{}, keys...) }
