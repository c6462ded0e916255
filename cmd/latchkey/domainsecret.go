package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

func domainSecretCommands(c *cli) *cobra.Command {
	cmd := parentCommand("secret", "Replace the secret under which the domain's tokens are made")
	cmd.Long = `Replace the tag secret of the domain, under which its stores make tokens. By the tag that ends a token,
a store refuses strings that the domain did not make before it looks anything up. Somebody with the tag
secret, from a stolen file, backup or file of latchkey domain export, can keep the store busy, but
cannot log in. The tag is a part of each token, so a new secret needs new tokens:

    latchkey domain secret add                   # accept tokens under a new secret, number N
    latchkey domain secret use N                 # make new tokens under it
    latchkey key list --tag-secret-before N      # the keys to give a new token
    latchkey key rotate ... --overlap 30d        # for each of them
    latchkey domain secret retire N-1            # refuse the tokens under the old secret

Where a domain has several stores, take each step in one of them. Before the next step, export the
secrets of that store with latchkey domain export, and take them over in all others with latchkey
domain secret take.`
	cmd.AddCommand(domainSecretListCommand(c), domainSecretAddCommand(c), domainSecretUseCommand(c), domainSecretRetireCommand(c), domainSecretTakeCommand(c))
	return cmd
}

func domainSecretListCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tag secrets, and how many keys have a token under each",
		Long: `List the tag secrets of the domain, but not the secrets themselves: their numbers, states and last
steps, and how many keys have their newest token under each. Expired keys are not counted. The command
reads all keys.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var doc admin.TagSecrets
			err := c.reading(cmd.Context(), func(client *admin.Client) (err error) {
				doc, err = client.TagSecrets(cmd.Context(), true)
				return err
			})
			if err != nil {
				return err
			}
			rows := [][]string{{"NUMBER", "STATE", "SINCE", "KEYS"}}
			for _, t := range doc.Secrets {
				since := "the beginning"
				if !t.Changed.IsZero() {
					since = formatTime(t.Changed)
				}
				rows = append(rows, []string{strconv.FormatUint(t.Number, 10), string(t.State), since, strconv.Itoa(*t.Keys)})
			}
			if *doc.WithoutToken > 0 {
				rows = append(rows, []string{"-", "no token", "", strconv.Itoa(*doc.WithoutToken)})
			}
			return c.printTable(doc, rows)
		},
	}
}

func domainSecretAddCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "add",
		Short: "Accept tokens under a new tag secret",
		Long: `Add a new tag secret to the domain, and print its number. The store accepts tokens under it from then
on, and makes none until latchkey domain secret use. All tokens stay good. At most four secrets are
accepted at once.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changeTagSecret(cmd.Context(), "added", func(client *admin.Client) (latchkey.TagSecret, error) {
				return client.AddTagSecret(cmd.Context())
			})
		},
	}
}

func domainSecretUseCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "use NUMBER",
		Short: "Make new tokens under a tag secret",
		Long: `Make new tokens under the tag secret with a number, which latchkey domain secret add has printed. Old
tokens stay good, and a key keeps its old token until it is rotated. Make a backup afterwards: a store
that is restored from an older one does not know the new secret.`,
		Example:           examples("latchkey domain secret use 1"),
		Args:              takes("NUMBER"),
		ValidArgsFunction: c.completeTagSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseTagSecret(args[0])
			if err != nil {
				return err
			}
			return c.changeTagSecret(cmd.Context(), "now using", func(client *admin.Client) (latchkey.TagSecret, error) {
				return client.UseTagSecret(cmd.Context(), number)
			})
		},
	}
}

func domainSecretRetireCommand(c *cli) *cobra.Command {
	yes := false
	cmd := &cobra.Command{
		Use:   "retire NUMBER",
		Short: "Refuse all tokens under a tag secret, for good",
		Long: `Refuse all tokens under the tag secret with a number, for good. If that leaves keys without a good
token, the command changes nothing, unless --yes is given. These keys stay, and latchkey key rotate
gives them new tokens. Expired keys do not count.`,
		Example:           examples("latchkey domain secret retire 0"),
		Args:              takes("NUMBER"),
		ValidArgsFunction: c.completeTagSecret,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseTagSecret(args[0])
			if err != nil {
				return err
			}
			if c.dryRun {
				return c.wouldRetire(cmd.Context(), number)
			}
			return c.changeTagSecret(cmd.Context(), "retired", func(client *admin.Client) (latchkey.TagSecret, error) {
				return client.RetireTagSecret(cmd.Context(), number, yes)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "also if keys are left without a good token")
	c.dryRunFlag(cmd)
	return cmd
}

func domainSecretTakeCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "take FILE",
		Short: "Take the steps that another store of the domain has taken",
		Long: `Take the steps over that another store of the domain has taken with its tag secrets. latchkey domain
export has written FILE from that store. Retired secrets are retired here, too. A step that the store
has taken already changes nothing.`,
		Example:           examples("latchkey domain secret take domain.pem"),
		Args:              takes("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, err := readDomain(args[0])
			if err != nil {
				return err
			}
			doc := domainJSON{secrets.ID().String(), args[0]}
			err = c.changing(cmd.Context(), func(client *admin.Client) error {
				_, err := client.TakeTagSecrets(cmd.Context(), secrets)
				return err
			})
			if err != nil {
				return err
			}
			return c.print(doc, func(w io.Writer) {
				fmt.Fprintf(w, "the store has the tag secrets in %s, of domain %s\n", plain(doc.File), doc.Domain)
			})
		},
	}
}

// changeTagSecret changes a tag secret by change, and prints the secret and what was done.
func (c *cli) changeTagSecret(ctx context.Context, done string, change func(*admin.Client) (latchkey.TagSecret, error)) error {
	var doc latchkey.TagSecret
	err := c.changing(ctx, func(client *admin.Client) (err error) {
		doc, err = change(client)
		return err
	})
	if err != nil {
		return err
	}
	return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "%s tag secret %d\n", done, doc.Number) })
}

// wouldRetire prints how many keys would be left without a good token.
func (c *cli) wouldRetire(ctx context.Context, number uint64) error {
	var all admin.TagSecrets
	err := c.reading(ctx, func(client *admin.Client) (err error) {
		all, err = client.TagSecrets(ctx, true)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range all.Secrets {
		if t.Number == number && t.State != latchkey.TagSecretUsed {
			return c.print(t, func(w io.Writer) {
				fmt.Fprintf(w, "would retire tag secret %d\nkeys left without a good token: %d\n", number, *t.Keys)
			})
		}
	}
	return fmt.Errorf("%w: number %d is in use, or there is no such secret", latchkey.ErrInvalidTagSecret, number)
}

func parseTagSecret(arg string) (uint64, error) {
	number, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return 0, usagef("%s is no number of a tag secret; latchkey domain secret list has the numbers", arg)
	}
	return number, nil
}

// completeTagSecret offers the numbers of the tag secrets that are accepted and not in use.
func (c *cli) completeTagSecret(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
		all, err := client.TagSecrets(ctx, false)
		for _, t := range all.Secrets {
			if err == nil && t.State == latchkey.TagSecretAccepted {
				err = offer(strconv.FormatUint(t.Number, 10), string(t.State))
			}
		}
		return err
	})
}
