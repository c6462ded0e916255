package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// minting is one run of the command mint.
type minting struct {
	*cli
	domain, tokenFile string
	cost              latchkey.Cost
}

func mintCommand(c *cli) *cobra.Command {
	m := &minting{cli: c}
	cmd := &cobra.Command{
		Use:   "mint NAME",
		Short: "Make a token, and the entry of its key for a manifest",
		Long: `Make a token, and the entry that gives the key NAME this token in a manifest. latchkey apply makes the
key from the entry. mint itself changes no store.

The entry has the stored verifier of the token, from which nobody can find the token. So a manifest can
be kept in a repository, and the token goes to its holder alone. Nothing can show the token again.

The key belongs to the domain of the store, or to the domain whose secrets are in the file of --domain.
With --domain, no store is needed. latchkey domain export writes such a file.

With --token, the token goes to a new file that only you can read, and the output has nothing but the
entry. The entry is indented as an entry of server_keys.`,
		Example: examples(
			"latchkey mint backup-job",
			"latchkey mint --domain domain.pem --token backup-job.token backup-job >> keys.yaml",
		),
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.run(cmd.Context(), norm.NFC.String(args[0]))
		},
	}
	cmd.Flags().StringVar(&m.domain, "domain", "", "the `FILE` with the secrets of the domain, in place of a store")
	cmd.Flags().StringVar(&m.tokenFile, "token", "", "write the token to a new `FILE`")
	addCostFlag(cmd, &m.cost)
	_ = cmd.RegisterFlagCompletionFunc("domain", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	_ = cmd.RegisterFlagCompletionFunc("token", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}

func (m *minting) run(ctx context.Context, name string) error {
	domain, err := readDomain(m.domain)
	if err == nil && m.domain == "" {
		err = m.reading(ctx, func(client *admin.Client) (err error) {
			domain, err = client.DomainSecrets(ctx)
			return err
		})
	}
	if err != nil {
		return err
	}
	key, token, err := mintNamed(ctx, name, latchkey.Options{Domain: domain, Cost: m.cost, HashMemory: 1 << 30})
	if err != nil {
		return err
	}
	if m.tokenFile != "" {
		if err := writeNew(m.tokenFile, []byte(token+"\n")); err != nil {
			return err
		}
		token = ""
	}
	doc := struct {
		Domain string `json:"domain"`
		ID     string `json:"id"`
		Name   string `json:"name"`
		Minted string `json:"minted"`
		Token  string `json:"token,omitempty"`
	}{domain.ID().String(), key.ID().String(), name, key.Export(), token}
	return m.print(doc, func(w io.Writer) {
		if token != "" {
			fmt.Fprintf(w, "minted key %s (%s) of domain %s\n\n    %s\n\n", plain(name), doc.ID, doc.Domain, token)
			fmt.Fprint(w, "This is the token of the key. It is never shown again, so keep it now.\nThe entry for a manifest:\n\n")
		}
		fmt.Fprintf(w, "  - name: %s\n    minted: %s\n", yamlText(name), doc.Minted)
	})
}

// mintNamed mints a key in a store in memory. It returns ErrInvalidName for a name that no key can
// have.
func mintNamed(ctx context.Context, name string, opts latchkey.Options) (latchkey.MintedKey, string, error) {
	s, err := memory.Open(&opts)
	if err != nil {
		return latchkey.MintedKey{}, "", err
	}
	defer s.Close()
	minted, token, err := s.MintKey(ctx)
	if err == nil {
		err = s.Update(ctx, func(tx *latchkey.Tx) error {
			_, err := tx.InsertServerKey(latchkey.KeySpec{Name: name}, minted)
			return err
		})
	}
	return minted, token, err
}

// yamlText returns a text as YAML, in double quotes. All escapes of JSON are escapes of YAML.
func yamlText(s string) string {
	var text strings.Builder
	_ = writeJSON(&text, s)
	return strings.TrimSuffix(text.String(), "\n")
}
