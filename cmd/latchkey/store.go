package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/etcd"
)

var (
	// errNoStore means that the store's file does not exist.
	errNoStore = errors.New("there is no store")
	// errNoFile means that a file to read does not exist.
	errNoFile = errors.New("there is no such file")
	// errFileExists means that a file to make exists already.
	errFileExists = errors.New("there is a file already")
	// errStoreExists means that there is a store where one is to be made.
	errStoreExists = errors.New("there is a store already")
	// errDirectory means that there is a directory where a file is to be made.
	errDirectory = errors.New("there is a directory")
	// errLink means that there is a link that leads to nothing where a file is to be made, and that
	// the command does not follow links there.
	errLink = errors.New("there is a link already, which leads to nothing")
)

// explainMissing returns errNoFile for path if err means that the file does not exist, or else err.
func explainMissing(err error, path string) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, errNoFile)
	}
	return err
}

// explainExisting returns an error for path that says what is there, if err means that something
// is, or else err.
func explainExisting(err error, path string) error {
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", path, errLink)
	case statErr != nil:
		return statErr
	case info.IsDir():
		return fmt.Errorf("%s: %w", path, errDirectory)
	}
	return fmt.Errorf("%s: %w", path, errFileExists)
}

// path returns the name of the store's file, which may not exist, or the URL of the store.
func (c *cli) path() (string, error) {
	if c.store == "" {
		return "", usagef("no store is named; give --store FILE, or set LATCHKEY_STORE")
	}
	return c.store, checkURL(c.store)
}

// file returns the name of the store's file, which may not exist.
//
// Errors: errNeedsFile.
func (c *cli) file() (string, error) {
	path, err := c.path()
	if err == nil {
		err = inFile(path)
	}
	return path, err
}

// existing returns the name of the store's file, which exists, or the URL of the store.
//
// Errors: errNoStore.
func (c *cli) existing() (string, error) {
	path, err := c.path()
	if err != nil || etcd.IsURL(path) {
		return path, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", path, errNoStore)
	}
	return path, nil
}

// prefixForm matches the prefixes that tokens can have.
var prefixForm = regexp.MustCompile(`^[0-9A-Za-z]{1,16}$`)

func initCommand(c *cli) *cobra.Command {
	var prefix, domain string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a new store",
		Long: `Make a new, empty store. init never changes a file that exists already.

A new store begins a domain of its own. With --domain, the store is one of the domain whose secrets are
in a file that latchkey domain export wrote. It then takes the keys that were minted for that domain,
and its tokens begin as those of the domain do.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := c.path()
			if err != nil {
				return err
			}
			if !prefixForm.MatchString(prefix) {
				return usagef("--prefix must be 1 to 16 ASCII letters and digits")
			}
			// Stat follows links, as the store does.
			if _, err := os.Stat(path); err == nil && !etcd.IsURL(path) {
				return explainExisting(fs.ErrExist, path)
			}
			opts := latchkey.Options{TokenPrefix: prefix}
			if domain != "" && !cmd.Flags().Changed("prefix") {
				opts.TokenPrefix = ""
			}
			if opts.Domain, err = readDomain(domain); err != nil {
				return err
			}
			if err := makeStore(path, opts, c.wait); err != nil {
				return err
			}
			made := struct {
				Store string `json:"store"`
			}{path}
			return c.print(made, func(w io.Writer) { fmt.Fprintf(w, "made the store %s\n", plain(path)) })
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "lk", "the `TEXT` that every token of the store begins with: 1 to 16 letters and digits")
	cmd.Flags().StringVar(&domain, "domain", "", "the `FILE` with the secrets of an existing domain")
	_ = cmd.RegisterFlagCompletionFunc("domain", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}

// makeStore makes a store at a place that has none.
func makeStore(place string, opts latchkey.Options, wait time.Duration) error {
	if etcd.IsURL(place) {
		withWaiting(&opts, wait)
		return initOnEtcd(place, opts)
	}
	s, err := openStore(place, opts, wait)
	if err == nil {
		err = s.Close()
	}
	return err
}

func statsCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Show how much is in the store",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				stats, err := client.Stats(cmd.Context())
				if err != nil {
					return err
				}
				var size *int64
				if !etcd.IsURL(c.store) {
					size = new(int64)
					switch info, err := os.Stat(c.store); {
					case err == nil:
						*size = info.Size()
					case !errors.Is(err, fs.ErrNotExist): // the health says that the file is gone
						return err
					}
				}
				health, err := client.Health(cmd.Context())
				if err != nil {
					return err
				}
				// The other fields of Stats count logins since the store was opened, and here there
				// were none.
				doc := struct {
					Users    uint64   `json:"users"`
					Keys     uint64   `json:"keys"`
					Sequence uint64   `json:"sequence"`
					Bytes    *int64   `json:"bytes,omitempty"`
					Resets   uint64   `json:"clock_resets"`
					Health   []string `json:"health"`
				}{stats.Users, stats.Keys, stats.Sequence, size, stats.ClockResets, healthOf(health)}
				fields := []string{
					"Users", fmt.Sprint(doc.Users),
					"Keys", fmt.Sprint(doc.Keys),
					"Commits", fmt.Sprint(doc.Sequence),
				}
				if size != nil {
					fields = append(fields, "Size", fmt.Sprint(*size, " bytes"))
				}
				fields = append(fields,
					"Clock resets", fmt.Sprint(doc.Resets),
					"Health", cmp.Or(strings.Join(doc.Health, "; "), "good"))
				return c.printFields(doc, fields...)
			})
		},
	}
}

// healthOf returns what is wrong with a store, as texts.
func healthOf(health admin.Health) []string {
	texts := []string{}
	for _, finding := range health.Findings {
		texts = append(texts, line(text(&finding)))
	}
	return texts
}

func checkCommand(c *cli) *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for damage in the store",
		Long: `Read everything in the store, and print the damage, one finding on each line. With --repair, check
first repairs what can be derived from users and keys, such as indexes. The exit status is 0 if the
store is sound, and 7 if it is damaged.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repair {
				return c.changing(cmd.Context(), func(client *admin.Client) error {
					repaired, err := during(c, "repairing", func() (int, error) { return client.Repair(cmd.Context()) })
					if err != nil {
						return err
					}
					err = c.check(cmd.Context(), client, repaired)
					if repaired > 0 && errors.Is(err, context.Canceled) {
						err = fmt.Errorf("check %s: %w: repaired: %d", c.store, errRepaired, repaired)
					}
					return err
				})
			}
			return c.reading(cmd.Context(), func(client *admin.Client) error { return c.check(cmd.Context(), client, 0) })
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair what can be derived, then check")
	return cmd
}

// check prints the damage that it finds in the store. repaired is the number of findings that were
// repaired before.
func (c *cli) check(ctx context.Context, client *admin.Client, repaired int) error {
	doc := struct {
		Sound    bool     `json:"sound"`
		Repaired int      `json:"repaired"`
		Findings []string `json:"findings"`
	}{Repaired: repaired, Findings: []string{}}
	found, err := during(c, "checking", func() (admin.Findings, error) { return client.Check(ctx) })
	if err != nil {
		return err
	}
	for _, finding := range found.Findings {
		if !errors.Is(&finding, latchkey.ErrCorrupt) {
			return &finding
		}
		doc.Findings = append(doc.Findings, plain(finding.Error()))
	}
	if found.More {
		doc.Findings = append(doc.Findings, "and more")
	}
	doc.Sound = len(doc.Findings) == 0
	err = c.print(doc, func(w io.Writer) {
		if repaired > 0 {
			fmt.Fprintf(w, "repaired: %d\n", repaired)
		}
		for _, finding := range doc.Findings {
			fmt.Fprintln(w, finding)
		}
		if doc.Sound {
			fmt.Fprintf(w, "%s is sound\n", plain(c.store))
		}
	})
	if err == nil && !doc.Sound {
		err = fmt.Errorf("check %s: %w: findings: %d", c.store, latchkey.ErrCorrupt, len(doc.Findings))
	}
	return err
}
