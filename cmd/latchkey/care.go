package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

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
			if _, err := c.file(); err != nil {
				return err
			}
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
	p := &progress{path: path, status: status{terminal: c.stderr}, every: showEvery}
	if info, err := os.Stat(c.store); err == nil && c.stderrIsTerminal() {
		p.total = info.Size()
	}
	err = durable.Create(path, func(tmp *os.File) error {
		defer p.status.erase()
		p.w = tmp
		return client.Backup(ctx, p)
	})
	return p.written, explainExisting(err, path)
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
			path, err := c.file()
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
			_, err = during(c, "restoring", func() (struct{}, error) {
				return struct{}{}, latchkey.Restore(cmd.Context(), interruptible(cmd.Context(), backup), path)
			})
			if err != nil {
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
			if _, err := c.file(); err != nil {
				return err
			}
			return c.changing(cmd.Context(), func(client *admin.Client) error {
				before, err := os.Stat(c.store)
				if err != nil {
					return err
				}
				_, err = during(c, "compacting", func() (struct{}, error) { return struct{}{}, client.Compact(cmd.Context()) })
				if err != nil {
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
			if err := cmp.Or(inFile(args[0]), inFile(out)); err != nil {
				return err
			}
			if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", args[0], errNoFile)
			}
			saved, err := during(c, "reading each page", func() (latchkey.SalvageReport, error) {
				return latchkey.Salvage(cmd.Context(), args[0], out)
			})
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
