package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/durable"
)

func domainCommands(c *cli) *cobra.Command {
	cmd := parentCommand("domain", "Show the store's domain, export its secrets, and replace its tag secret")
	cmd.AddCommand(domainShowCommand(c), domainExportCommand(c), domainSecretCommands(c))
	return cmd
}

// domainJSON is what is printed of a domain.
type domainJSON struct {
	Domain string `json:"domain"`
	File   string `json:"file,omitempty"`
}

func domainShowCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the ID of the store's domain, which a manifest has to name",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				store, err := client.Store(cmd.Context())
				if err != nil {
					return err
				}
				doc := domainJSON{Domain: store.Domain.String()}
				return c.printFields(doc, "Domain", doc.Domain)
			})
		},
	}
}

func domainExportCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "export FILE",
		Short: "Write the secrets of the store's domain to a file",
		Long: `Write the secrets of the store's domain to a new FILE, which only you can read. latchkey init --domain
makes other stores of the same domain from it, and latchkey mint --domain makes keys for these stores.

WARNING: keep FILE as safe as the store. It lets nobody log in. But its holder can make tokens that
every store of the domain has to look up, where a store refuses all others unread, and can find out
which user has an ID by guessing addresses. Never put FILE into a repository.`,
		Example:           examples("latchkey domain export domain.pem"),
		Args:              takes("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				secrets, err := client.DomainSecrets(cmd.Context())
				if err != nil {
					return err
				}
				if err := writeNew(args[0], secrets.Export()); err != nil {
					return err
				}
				doc := domainJSON{secrets.ID().String(), args[0]}
				return c.print(doc, func(w io.Writer) {
					fmt.Fprintf(w, "wrote the secrets of domain %s to %s\n", doc.Domain, plain(doc.File))
				})
			})
		},
	}
}

// writeNew writes a new file that nobody else can read.
func writeNew(path string, data []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return explainExisting(fs.ErrExist, path)
	}
	err := durable.Create(path, func(tmp *os.File) error {
		_, err := tmp.Write(data)
		return err
	})
	return explainExisting(err, path)
}

// readDomain reads a file that latchkey domain export wrote. Without a path it returns empty
// secrets.
func readDomain(path string) (d latchkey.DomainSecrets, err error) {
	if path == "" {
		return d, nil
	}
	text, err := readOwn(path)
	if err != nil {
		return d, explainMissing(err, path)
	}
	if d, err = latchkey.ParseDomainSecrets(text); err != nil {
		return d, usagef("%s: it is no file of latchkey domain export, or it is damaged", path)
	}
	return d, nil
}
