package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
)

// errDiffers means that apply --dry-run has found differences.
var errDiffers = errors.New("the store differs from the manifest")

// applying is one run of the command apply.
type applying struct {
	*cli
	prune, dryRun bool
}

func applyCommand(c *cli) *cobra.Command {
	a := &applying{cli: c}
	cmd := &cobra.Command{
		Use:   "apply MANIFEST",
		Short: "Bring users and keys in line with a manifest",
		Long: `Bring users, keys and server keys in line with the file MANIFEST, and print what was changed. If
anything is wrong, nothing is changed, and the error names the line. A second run changes nothing.

MANIFEST is YAML or JSON. It belongs to one domain; latchkey domain show prints the ID, and latchkey mint
makes the entries of keys:

    domain: 6c2e…                    # required
    manifest: site                   # the manifest's name, for --prune
    users:
      - identity: ada@example.com    # as IDENTITY of latchkey user add
        group: north                 # optional
        metadata: {site: Turin}      # optional
        keys:
          - name: laptop
            minted: 6c2e…/…          # from latchkey mint
            expires: 2027-01-31      # a date, a time of RFC 3339, or never
            scopes: [files:read]
            networks: [10.0.0.0/8]
            metadata: {owner: Ada}
    server_keys:
      - name: backup-job
        minted: 6c2e…/…
        group: north

A key gets all that its entry says, and nothing else: a field that is left out is emptied. The group and
the metadata of a user are left alone if the entry has none. A user or a key with disabled: true or
disabled: false is disabled or enabled. Without the field, that is left alone too, so that a key that was
disabled by hand stays disabled.

A deleted key never comes back, and an entry of one is an error. The entry of a key that has expired is
passed over in a store that does not have the key.

apply remembers in the store which users and keys it has made for which manifest. With --prune, it
deletes those that are no longer in the manifest of this name, for good: keys first, and users only if
they have no keys left. What was made by other means or for a manifest of another name stays.

With --dry-run, apply prints what it would change, and changes nothing. The exit status is then 9 if
there are differences.`,
		Example: examples(
			"latchkey apply --dry-run keys.yaml",
			"latchkey apply --prune keys.yaml",
		),
		Args:              takes("MANIFEST"),
		ValidArgsFunction: completeFile,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().BoolVar(&a.prune, "prune", false, "delete what apply has made and the manifest no longer has")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "print the changes, and make none")
	cmd.Flags().IntVar(&a.opts.MaxKeysPerUser, "max-keys", 20, "the largest `NUMBER` of keys that a user can have; -1 for no limit")
	return cmd
}

func (a *applying) run(ctx context.Context, path string) error {
	if err := checkMaxKeys(a.opts.MaxKeysPerUser); err != nil {
		return err
	}
	data, err := readOwn(path)
	if err != nil {
		return explainMissing(err, path)
	}
	return a.changing(ctx, func(client *admin.Client) error {
		done, err := during(a.cli, "applying", func() (admin.Applied, error) {
			return client.Apply(ctx, data, admin.ApplyOptions{Prune: a.prune, DryRun: a.dryRun})
		})
		switch {
		case errors.Is(err, admin.ErrManifest):
			return usagef("%s: %w", path, err)
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := a.printChanges(done); err != nil {
			return err
		}
		if a.dryRun && len(done.Changes) > 0 {
			return fmt.Errorf("%s: %w", path, errDiffers)
		}
		return nil
	})
}

// printChanges prints changes as a diff.
func (a *applying) printChanges(done admin.Applied) error {
	return a.print(done, func(w io.Writer) {
		for _, c := range done.Changes {
			fmt.Fprintf(w, "%s %s %s", map[string]string{"create": "+", "change": "~", "delete": "-"}[c.Action], c.Kind, plain(c.Name))
			if c.Owner != "" {
				fmt.Fprintf(w, " of %s", plain(c.Owner))
			}
			fmt.Fprintf(w, " (%s)\n", c.ID)
			for _, f := range c.Fields {
				fmt.Fprintf(w, "    %s: %s -> %s\n", f.Name, orNone(f.Before), orNone(f.After))
			}
		}
		if len(done.Changes) == 0 {
			fmt.Fprintln(w, "nothing to change")
		}
	})
}

func orNone(s string) string {
	if s == "" || s == "[]" {
		return "none"
	}
	return plain(s)
}
