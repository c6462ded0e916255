package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/keyimport"
)

// formats are the formats of import. The format general has a scheme of the command line.
var formats = []string{"better-auth", "django-api-key", "general", "latchkey", "unkey"}

// importing is one run of the command import.
type importing struct {
	*cli
	admin.Import
	hash, length, provider string
}

func importCommand(c *cli) *cobra.Command {
	i := &importing{cli: c}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the keys of another system, whose holders keep their tokens",
		Long: `Take over the keys in FILE, or in standard input if FILE is -. The holders of the keys go on with the
tokens that they have. If anything is wrong, import changes nothing, and prints each line that is
wrong. A second import of the same file changes nothing.

FILE has CSV with the names of fields in the first record, or JSON lines. --format is one of

    better-auth      the table of the API key plugin of better-auth
    django-api-key   the table of djangorestframework-api-key, version 3 and later
    unkey            the elements of "keys" in a migration of Unkey
    latchkey         what latchkey export --with-verifiers writes
    general          the fields hash, handle, name, owner, created, expires, scopes, networks, metadata,
                     group and disabled, all but hash optional

With --format general, --scheme is a name for the form of the tokens, and --hash is how the other system
hashes a token: sha256 or sha512 of the whole token in hexadecimal digits, bcrypt or argon2id. For the
last two, the field handle has the part of the token that a key is found by: what stands before a
separator (--handle-until), or the last characters (--handle-last). Give the same flags each time.

A user is made for each owner: an identity of --provider, with what the other system calls the owner. A
key without an owner becomes a server key. A key that the store has already stays as it is, but it is
disabled if it is disabled in FILE. A key that has expired is passed over. A key that was deleted in the
store is an error, because a deleted key never comes back.

With --dry-run, import says what it would do, and changes nothing.`,
		Example: examples(
			"latchkey import --dry-run --format better-auth keys.jsonl",
			"latchkey import --format general --scheme old --hash bcrypt --handle-until . keys.csv",
		),
		Args:              takes("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := i.parse(cmd); err != nil {
				return err
			}
			return i.run(cmd.Context(), args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.Format, "format", "general", "the `FORMAT` of the file: "+strings.Join(formats, ", "))
	flags.StringVar(&i.Scheme.Name, "scheme", "", "a `NAME` for the form of the tokens")
	flags.StringVar(&i.hash, "hash", "", "the `HASH` of the tokens: sha256, sha512, bcrypt or argon2id")
	flags.StringVar(&i.Scheme.Handle.Separator, "handle-until", "", "the `TEXT` that ends the part of a token by which its key is found")
	flags.IntVar(&i.Scheme.Handle.Count, "handle-count", 0, "which `NUMBER` of these texts ends the part (default the first)")
	flags.IntVar(&i.Scheme.Handle.Last, "handle-last", 0, "the `NUMBER` of characters at the end of a token by which its key is found")
	flags.StringVar(&i.Scheme.Prefix, "token-prefix", "", "the `TEXT` that begins every token")
	flags.StringVar(&i.length, "token-length", "", "the `RANGE` of the lengths of tokens, such as 20-40 (default 16-512, or what the system has)")
	flags.StringArrayVar(&i.Ignore, "ignore", nil, "the `FIELD` that is not to be looked at; can be repeated")
	flags.StringVar(&i.provider, "provider", string(latchkey.ProviderCustomToken), "the `PROVIDER` of the identities of owners")
	flags.BoolVar(&i.DryRun, "dry-run", false, "say what would be done, and change nothing")
	addMaxKeysFlag(cmd, &i.opts.MaxKeysPerUser)
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("hash", cobra.FixedCompletions([]string{"sha256", "sha512", "bcrypt", "argon2id"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// parse checks the flags, and completes the import that they say.
func (i *importing) parse(cmd *cobra.Command) error {
	if !slices.Contains(formats, i.Format) {
		return usagef("there is no format %q; the formats are %s", i.Format, strings.Join(formats, ", "))
	}
	if err := checkMaxKeys(i.opts.MaxKeysPerUser); err != nil {
		return err
	}
	i.Scheme.Hash, i.Provider = keyimport.Hash(i.hash), latchkey.Provider(i.provider)
	if i.length != "" {
		var end string
		if _, err := fmt.Sscanf(i.length+" .", "%d-%d %s", &i.Scheme.MinLength, &i.Scheme.MaxLength, &end); err != nil || end != "." {
			return usagef("--token-length is two numbers with a hyphen between them, such as 20-40")
		}
	}
	for _, name := range []string{"scheme", "hash", "handle-until", "handle-count", "handle-last"} {
		if i.Format != "general" && cmd.Flags().Changed(name) {
			return usagef("--%s is for --format general", name)
		}
	}
	for _, name := range []string{"token-prefix", "token-length"} {
		if i.Format == "latchkey" && cmd.Flags().Changed(name) {
			return usagef("--%s is not for --format latchkey, because the file has the schemes", name)
		}
	}
	switch {
	case i.Format == "general" && (i.Scheme.Name == "" || i.hash == ""):
		return usagef("--format is general if it is left out, and then needs --scheme and --hash")
	case i.Format == "general" && (i.hash == "bcrypt" || i.hash == "argon2id") && (i.Scheme.Handle.Separator == "") == (i.Scheme.Handle.Last == 0):
		return usagef("--hash %s needs --handle-until or --handle-last, because such a hash does not say which token it is of", i.hash)
	}
	return nil
}

func (i *importing) run(ctx context.Context, path string) error {
	file := interruptible(ctx, i.stdin)
	if path != "-" {
		data, err := readOwn(path)
		if err != nil {
			return explainMissing(err, path)
		}
		file = bytes.NewReader(data)
	}
	return i.changing(ctx, func(client *admin.Client) error {
		done, err := during(i.cli, "importing", func() (admin.Imported, error) { return client.Import(ctx, file, i.Import) })
		if err != nil {
			return i.explainLines(err, path)
		}
		return i.print(done, func(w io.Writer) {
			fmt.Fprintf(w, "keys imported:      %d\nusers made:         %d\nalready there:      %d\n", len(done.Keys), len(done.Users), done.Known)
			if len(done.Disabled) > 0 {
				fmt.Fprintf(w, "disabled now:       %d\n", len(done.Disabled))
			}
			if len(done.Expired) > 0 {
				fmt.Fprintf(w, "expired, left out:  %d, the first in line %d\n", len(done.Expired), done.Expired[0])
			}
			if done.DryRun {
				fmt.Fprintln(w, "Nothing was changed, because of --dry-run.")
			}
		})
	})
}

// explainLines prints the lines that an error says are wrong, and returns the error of the command.
func (i *importing) explainLines(err error, path string) error {
	var p *admin.Problem
	if !errors.Is(err, admin.ErrWrongLines) || !errors.As(err, &p) {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, wrong := range p.Lines {
		err := i.print(wrong, func(w io.Writer) { fmt.Fprintln(w, plain(fmt.Sprintf("line %d: %s", wrong.Line, wrong.Error))) })
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", path, admin.ErrWrongLines)
}

func exportCommand(c *cli) *cobra.Command {
	var withVerifiers bool
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write users and keys as JSON lines",
		Long: `Write users and keys to a new FILE that only you can read, or to standard output if FILE is -. Each line
is an object of JSON: a user, a key with its owner, or the form of the tokens of keys that were
imported.

With --with-verifiers, a key has its stored verifier, and latchkey import --format latchkey reads the
file. A key that a store has made is good only in stores of its domain; see latchkey help init. A key
that was imported is good in every store.

WARNING: keep a file with verifiers as safe as the store.

An export has no tokens, no audit trail, nothing of deleted keys, and no anonymous users. latchkey backup
copies everything.`,
		Example: examples(
			"latchkey export - | grep north",
			"latchkey export --with-verifiers keys.jsonl",
		),
		Args:              takes("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				if args[0] == "-" {
					return client.Export(cmd.Context(), c.stdout, withVerifiers)
				}
				err := durable.Create(args[0], func(tmp *os.File) error { return client.Export(cmd.Context(), tmp, withVerifiers) })
				if err != nil {
					return explainExisting(err, args[0])
				}
				doc := struct {
					File string `json:"file"`
				}{args[0]}
				return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "wrote %s\n", plain(args[0])) })
			})
		},
	}
	cmd.Flags().BoolVar(&withVerifiers, "with-verifiers", false, "write the stored verifiers, so that the keys can be imported")
	return cmd
}

// schemesOf returns what checks the keys of the store that were made elsewhere, so that their
// holders can log in. It returns nil if there are no such keys. The damage of a scheme is no reason
// to refuse all else.
func schemesOf(s *latchkey.Store) latchkey.Foreign {
	schemes, err := keyimport.StoredSchemes(context.Background(), s)
	if err != nil || len(schemes) == 0 {
		return nil
	}
	foreign, err := keyimport.New(schemes...)
	if err != nil {
		return nil
	}
	return foreign
}
