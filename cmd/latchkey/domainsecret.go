package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// errKeysLeft means that a tag secret was not retired, because keys would be left without a token.
var errKeysLeft = errors.New("keys would be left without a good token, and nothing was changed")

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

// tagSecretJSON is what is printed of a tag secret in a list. Keys is the number of keys whose
// newest token was made under the secret.
type tagSecretJSON struct {
	latchkey.TagSecret
	Keys int `json:"keys"`
}

// tagSecretsJSON is what is printed of all tag secrets. WithoutToken is the number of keys that
// have no good token.
type tagSecretsJSON struct {
	Secrets      []tagSecretJSON `json:"secrets"`
	WithoutToken int             `json:"without_token"`
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
			var doc tagSecretsJSON
			err := c.withStoreReadOnly(cmd.Context(), func(s *latchkey.Store) (err error) {
				doc, err = countTagSecrets(cmd.Context(), s)
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
				rows = append(rows, []string{strconv.FormatUint(t.Number, 10), string(t.State), since, strconv.Itoa(t.Keys)})
			}
			if doc.WithoutToken > 0 {
				rows = append(rows, []string{"-", "no token", "", strconv.Itoa(doc.WithoutToken)})
			}
			return c.printTable(doc, rows)
		},
	}
}

// countTagSecrets returns the tag secrets of a store, and counts the keys that have not expired.
func countTagSecrets(ctx context.Context, s *latchkey.Store) (doc tagSecretsJSON, err error) {
	secrets, err := s.TagSecrets(ctx)
	if err != nil {
		return doc, err
	}
	keys := map[uint64]int{}
	for key, err := range s.AllKeys(ctx, latchkey.KeyFilter{}, uuid.Nil) {
		switch n := len(key.Tokens); {
		case err != nil:
			return doc, err
		case isExpired(key, s.Now()):
		case n == 0:
			doc.WithoutToken++
		case !key.Tokens[n-1].Foreign:
			keys[key.Tokens[n-1].TagSecret]++
		}
	}
	for _, t := range secrets {
		doc.Secrets = append(doc.Secrets, tagSecretJSON{t, keys[t.Number]})
	}
	return doc, nil
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
			var number uint64
			return c.changeTagSecret(cmd.Context(), &number, "added", func(s *latchkey.Store) (err error) {
				number, err = s.AddTagSecret(cmd.Context())
				return err
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
			return c.changeTagSecret(cmd.Context(), &number, "now using", func(s *latchkey.Store) error {
				return s.UseTagSecret(cmd.Context(), number)
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
			return c.changeTagSecret(cmd.Context(), &number, "retired", func(s *latchkey.Store) error {
				if !yes {
					if err := wantNoKeyLeft(cmd.Context(), s, number); err != nil {
						return err
					}
				}
				return s.RetireTagSecret(cmd.Context(), number)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "also if keys are left without a good token")
	return cmd
}

// wantNoKeyLeft returns errKeysLeft if a key has its newest token under a tag secret that is not in
// use.
func wantNoKeyLeft(ctx context.Context, s *latchkey.Store, number uint64) error {
	doc, err := countTagSecrets(ctx, s)
	if err != nil {
		return err
	}
	for _, t := range doc.Secrets {
		if t.Number == number && t.State == latchkey.TagSecretAccepted && t.Keys > 0 {
			return fmt.Errorf("%w: their number is %d", errKeysLeft, t.Keys)
		}
	}
	return nil
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
			err = c.withStore(cmd.Context(), latchkey.Options{}, func(s *latchkey.Store) error {
				return s.TakeTagSecrets(cmd.Context(), secrets)
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

// changeTagSecret changes a tag secret by change, and prints the secret with this number, and what
// was done.
func (c *cli) changeTagSecret(ctx context.Context, number *uint64, done string, change func(*latchkey.Store) error) error {
	var all []latchkey.TagSecret
	err := c.withStore(ctx, latchkey.Options{}, func(s *latchkey.Store) (err error) {
		if err := change(s); err != nil {
			return err
		}
		all, err = s.TagSecrets(ctx)
		return err
	})
	if err != nil {
		return err
	}
	// A secret that was retired long ago is not listed.
	doc := latchkey.TagSecret{Number: *number, State: latchkey.TagSecretRetired}
	for _, t := range all {
		if t.Number == *number {
			doc = t
		}
	}
	return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "%s tag secret %d\n", done, doc.Number) })
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
	return c.completeStore(cmd, prefix, func(ctx context.Context, s *latchkey.Store, offer func(text, state string) error) error {
		all, err := s.TagSecrets(ctx)
		for _, t := range all {
			if err == nil && t.State == latchkey.TagSecretAccepted {
				err = offer(strconv.FormatUint(t.Number, 10), string(t.State))
			}
		}
		return err
	})
}
