package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/migrate"
)

var (
	// errMigrating means that migrate was interrupted after it had begun to write.
	errMigrating = errors.New("interrupted")
	// errEdgeStays means that the store of an edge was to be migrated. Its credential is in a file
	// beside it.
	errEdgeStays = errors.New("the store of an edge cannot be migrated")
	// errEdgeThere means that a store was to be migrated to the place of an edge's store. With the
	// credential of the edge beside it, the copy would be taken for that edge.
	errEdgeThere = errors.New("the credential of an edge is beside that file")
)

func migrateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate FROM TO",
		Short: "Copy a store to another place",
		Long: `Copy the store FROM to TO. Each of the two is a FILE, or the URL of a store on etcd. TO must not
exist, or be what a migrate of the same store has left behind that was interrupted. Then migrate goes
on, and does not write again what is there.

Until the end, TO is not a store, and every command refuses it. At last migrate reads TO again, and
makes it a store only if the digest of all its entries is that of FROM.

FROM is not changed, and must not change meanwhile: first stop the programs that write to it. While
migrate reads a file, no program can open it for writing. On etcd, migrate ends as soon as it sees a
change. Afterwards let them use TO, and nobody FROM. A key that is disabled in one of the two stays good in the
other.

Tokens stay good. TO is another replica of the domain, as a restored backup is. The edges of a hub
compare what they have with TO, and then follow it. The store of an edge cannot be migrated.`,
		Example: examples(
			"latchkey migrate keys.db etcd://10.0.0.1,10.0.0.2,10.0.0.3/latchkey",
			"latchkey migrate 'etcds://etcd.example/latchkey?cacert=ca.pem&credentials=user' keys.db",
			"latchkey migrate --dry-run keys.db /mnt/new/keys.db",
		),
		Args:              takes("FROM", "TO"),
		ValidArgsFunction: completeFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := c.migrate(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			doc := struct {
				From    string `json:"from"`
				To      string `json:"to"`
				DryRun  bool   `json:"dry_run"`
				Resumed bool   `json:"resumed"`
				Entries uint64 `json:"entries"`
				Bytes   uint64 `json:"bytes"`
				Written uint64 `json:"written"`
				Digest  string `json:"digest,omitempty"`
			}{args[0], args[1], c.dryRun, report.Resumed, report.Entries, report.Bytes, report.Written, ""}
			if c.dryRun {
				does := "would copy"
				if doc.Resumed {
					does = "would go on to copy"
				}
				return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "%s %d entries to %s\n", does, doc.Entries, plain(doc.To)) })
			}
			doc.Digest = report.Digest.String()
			return c.printFields(doc,
				"Store", doc.To,
				"Entries", fmt.Sprintf("%d, of %d bytes", doc.Entries, doc.Bytes),
				"Written", fmt.Sprint(doc.Written),
				"Digest", doc.Digest)
		},
	}
	c.dryRunFlag(cmd)
	return cmd
}

// migrate copies the store from to the place to.
func (c *cli) migrate(ctx context.Context, from, to string) (migrate.Report, error) {
	if isEdge(from) {
		return migrate.Report{}, fmt.Errorf("%s: %w", from, errEdgeStays)
	}
	if isEdge(to) {
		return migrate.Report{}, fmt.Errorf("%s: %w", to, errEdgeThere)
	}
	source, err := c.openEngine(from, true)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: %w", from, errNoStore)
	}
	if err != nil {
		return migrate.Report{}, err
	}
	defer source.Close()
	if etcd.IsURL(from) { // so that no file is made if there is nothing to copy
		_, err := migrate.Copy(ctx, source, memory.NewEngine(), &migrate.Options{DryRun: true})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", from, errNoStore)
		}
		if err != nil {
			return migrate.Report{}, err
		}
	}
	target, err := c.openEngine(to, c.dryRun)
	if c.dryRun && errors.Is(err, fs.ErrNotExist) {
		target, err = memory.NewEngine(), nil
	}
	if err != nil {
		return migrate.Report{}, err
	}
	s := status{terminal: c.stderr}
	opts := migrate.Options{DryRun: c.dryRun, Progress: c.showMigration(&s)}
	report, err := migrate.Copy(ctx, source, target, &opts)
	s.erase()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: %w", from, errNoStore)
	}
	if errors.Is(err, context.Canceled) && !c.dryRun {
		err = fmt.Errorf("%w after %d entries were copied: %w", errMigrating, report.Entries, context.Canceled)
	}
	if errors.Is(err, migrate.ErrNotEmpty) {
		err = fmt.Errorf("%s: %w", to, err)
	}
	return report, errors.Join(err, target.Close())
}

// openEngine opens the engine of a store at a place. Unless it is only for reading, it makes the
// place.
func (c *cli) openEngine(place string, readOnly bool) (latchkey.Engine, error) {
	if err := checkURL(place); err != nil {
		return nil, err
	}
	if etcd.IsURL(place) {
		return openEtcd(place, etcd.Options{ReadOnly: readOnly})
	}
	opts := latchkey.Options{ReadOnly: readOnly}
	withWaiting(&opts, c.wait)
	return latchkey.OpenBoltEngine(place, &opts)
}

// showMigration returns a function that shows on a terminal how far a migration has come, or nil if
// there is no terminal.
func (c *cli) showMigration(s *status) func(migrate.Progress) {
	if !c.stderrIsTerminal() {
		return nil
	}
	var shown time.Time
	return func(p migrate.Progress) {
		if p.Total == 0 || time.Since(shown) < showEvery {
			return
		}
		shown = time.Now()
		s.show(migrationBar(p))
	}
}

// migrationBar returns a line about how far a migration has come.
func migrationBar(p migrate.Progress) string {
	what := "copying  "
	if p.Comparing {
		what = "comparing"
	}
	return fmt.Sprintf("%s %s of %d entries", what, bar(int64(p.Done), int64(p.Total)), p.Total)
}
