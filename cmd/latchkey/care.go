package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/durable"
)

func backupCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a copy of the store",
		Long: `Write a copy of the store to a new FILE, or to standard output if FILE is -. Keep the copy as safe
as the store, because it contains the same secrets.`,
		Args:              takes("FILE"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(client *admin.Client) error {
				if args[0] == "-" {
					return client.Backup(cmd.Context(), c.stdout)
				}
				written, err := c.backUp(cmd.Context(), client, args[0])
				if err != nil {
					return err
				}
				doc := struct {
					File  string `json:"file"`
					Bytes int64  `json:"bytes"`
				}{args[0], written}
				return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "wrote %d bytes to %s\n", written, plain(args[0])) })
			})
		},
	}
}

// backUp writes a backup to a new file. If backUp fails, there is no file.
func (c *cli) backUp(ctx context.Context, client *admin.Client, path string) (written int64, err error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, explainExisting(fs.ErrExist, path)
	}
	p := &progress{path: path, terminal: c.stderr, every: 200 * time.Millisecond}
	if info, err := os.Stat(c.store); err == nil && c.stderrIsTerminal() {
		p.total = info.Size()
	}
	err = durable.Create(path, func(tmp *os.File) error {
		defer p.end()
		p.w = tmp
		return client.Backup(ctx, p)
	})
	return p.written, explainExisting(err, path)
}

// stderrIsTerminal reports whether standard error is a terminal, on which somebody can see
// progress.
func (c *cli) stderrIsTerminal() bool {
	f, ok := c.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress is a writer that passes everything on to w, and shows on terminal how much of total was
// written. It shows nothing if total is 0.
type progress struct {
	w        io.Writer
	path     string // the name that errors have, in place of a temporary name
	terminal io.Writer
	every    time.Duration
	total    int64
	written  int64
	shown    time.Time
	line     string // never becomes shorter
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.written += int64(n)
	if e, ok := err.(*fs.PathError); ok {
		err = &fs.PathError{Op: e.Op, Path: p.path, Err: e.Err}
	}
	if p.total > 0 && time.Since(p.shown) >= p.every {
		p.shown = time.Now()
		p.line = fmt.Sprintf("%d %% of %d MiB", min(100, p.written*100/p.total), p.total>>20)
		fmt.Fprint(p.terminal, "\r", p.line)
	}
	return n, err
}

// end erases what was shown. It writes blanks, because the console of old versions of Windows knows
// no escape sequences.
func (p *progress) end() {
	if p.line != "" {
		fmt.Fprintf(p.terminal, "\r%*s\r", len(p.line), "")
	}
}

func restoreCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "restore BACKUP",
		Short: "Make a store from a backup",
		Long: `Make a store from the file BACKUP, which latchkey backup wrote, or from standard input if BACKUP is
-. restore checks the backup first, and never changes a file that exists already. A key that was
disabled or deleted after the backup can log in again.`,
		Args:              takes("BACKUP"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := c.path()
			if err != nil {
				return err
			}
			var backup io.Reader = c.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s: %w", args[0], errNoFile)
				}
				if err != nil {
					return err
				}
				defer f.Close()
				backup = f
			}
			if err := latchkey.Restore(cmd.Context(), interruptible(cmd.Context(), backup), path); err != nil {
				return explainExisting(err, path)
			}
			doc := struct {
				Store string `json:"store"`
			}{path}
			return c.print(doc, func(w io.Writer) { fmt.Fprintf(w, "made the store %s\n", plain(path)) })
		},
	}
}

// interruptible returns a reader of r that fails when ctx ends, because a read from a pipe can wait
// for ever.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	read, write := io.Pipe()
	context.AfterFunc(ctx, func() { write.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(write, r)
		write.CloseWithError(err)
	}()
	return read
}

func compactCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "Give the unused space of the file back to the disk",
		Long: `Copy what is in use to a new file, and replace the store's file with it. The disk must have room for
both files. The new file no longer contains anything that deleted users and keys left in unused
space.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changing(cmd.Context(), func(client *admin.Client) error {
				before, err := os.Stat(c.store)
				if err != nil {
					return err
				}
				if err := client.Compact(cmd.Context()); err != nil {
					return err
				}
				after, err := os.Stat(c.store)
				if err != nil {
					return err
				}
				doc := struct {
					Before int64 `json:"before"`
					After  int64 `json:"after"`
				}{before.Size(), after.Size()}
				return c.printFields(doc,
					"Before", fmt.Sprint(doc.Before, " bytes"),
					"After", fmt.Sprint(doc.After, " bytes"))
			})
		},
	}
}

func salvageCommand(c *cli) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "salvage BROKEN",
		Short: "Save what can be read of a damaged store",
		Long: `Read the damaged file BROKEN page by page, and make a new store of every record with a good
checksum. First close the programs that have the file open. salvage does not change the file. A user
or a key comes back disabled if a later record of it may be lost.`,
		Args:              takes("BROKEN"),
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usagef("the new store has no name; give --out FILE")
			}
			if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", args[0], errNoFile)
			}
			saved, err := latchkey.Salvage(cmd.Context(), args[0], out)
			if err != nil {
				return explainExisting(err, out)
			}
			doc := struct {
				Store      string `json:"store"`
				Users      int    `json:"users"`
				Keys       int    `json:"keys"`
				Data       int    `json:"data"`
				BadPages   int    `json:"bad_pages"`
				BadRecords int    `json:"bad_records"`
				Uncertain  int    `json:"uncertain"`
				Orphaned   int    `json:"orphaned"`
			}{out, saved.Users, saved.Keys, saved.Data, saved.BadPages, saved.BadRecords, saved.Uncertain, saved.Orphaned}
			return c.printFields(doc,
				"Store", out,
				"Users", fmt.Sprint(doc.Users),
				"Keys", fmt.Sprint(doc.Keys),
				"Records of applications", fmt.Sprint(doc.Data),
				"Pages that could not be read", fmt.Sprint(doc.BadPages),
				"Records that could not be read", fmt.Sprint(doc.BadRecords),
				"Disabled, because a later record may be lost", fmt.Sprint(doc.Uncertain),
				"Users of whom only keys were found, disabled", fmt.Sprint(doc.Orphaned))
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "the `FILE` of the new store")
	_ = cmd.RegisterFlagCompletionFunc("out", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}
