package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/text/encoding/unicode"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/tokenscan"
)

var (
	// errLeaked means that scan has found a live token, or with --no-store any token.
	errLeaked = errors.New("tokens were found")
	// errUnread means that scan could not read a file.
	errUnread = errors.New("files could not be read")
)

// unchecked is the state of a token that no store was asked about.
const unchecked tokenscan.State = "unchecked"

// A leak is a token that was found in a file, as JSON shows it.
type leak struct {
	File      string              `json:"file"`
	Line      int                 `json:"line"`
	Column    int                 `json:"column"`
	State     tokenscan.State     `json:"state"`
	Reason    string              `json:"reason,omitempty"`
	KeyID     uuid.UUID           `json:"key_id"`
	Principal *latchkey.Principal `json:"principal,omitempty"`
}

// scanning is one run of the command scan.
type scanning struct {
	*cli
	disable, noStore bool
	prefix           string

	client  *admin.Client               // nil with noStore
	answers map[string]tokenscan.Answer // by token, without tokens that the store does not know
	keys    []uuid.UUID                 // of the tokens in answers, without repeats
	found   int                         // of the tokens that make scan fail, with repeats
	unread  int                         // files
}

func scanCommand(c *cli) *cobra.Command {
	s := &scanning{cli: c, answers: map[string]tokenscan.Answer{}}
	cmd := &cobra.Command{
		Use:   "scan PATH...",
		Short: "Find tokens in files, and show which of them are live",
		Long: `Find tokens in files, and show for each token its place, its key, and whether it is live. A token is
live if it logs in, refused if it does not because its key, user or group is disabled or its key has
expired, and unknown if it is not a token of the store. No output has a whole token.

PATH is a file, a directory, or - for standard input. scan looks at all files in a directory and below
it, also at binary files. It does not follow symbolic links below a directory, and leaves out what is no
regular file. It finds no tokens in compressed files, so scan what a program unpacks: the history of a
repository with git log --patch --all.

scan only reads the store, so a token that it finds does not count as used. With --disable, it disables
the keys of all tokens of the store that it has found, also of refused tokens. A key that was disabled
already stays as it is.

With --no-store, scan asks no store, and a string in the form of a token counts as a token. Random text
seldom has this form. --prefix is the prefix of the tokens.

The exit status is 10 if there are live tokens, also if --disable has just disabled their keys, or with
--no-store if there are any tokens. It is 1 if there are none, but some file could not be read.`,
		Example: examples(
			"latchkey scan src config.yaml",
			"git log --patch --all | latchkey scan --disable -",
			"latchkey scan --no-store .    # in a CI job, which has no store",
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("PATH is missing; - is standard input")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, args) },
	}
	cmd.Flags().BoolVar(&s.disable, "disable", false, "disable the keys of the tokens that are found")
	cmd.Flags().BoolVar(&s.noStore, "no-store", false, "judge tokens by their form alone")
	cmd.Flags().StringVar(&s.prefix, "prefix", "lk", "with --no-store, find tokens with `PREFIX`; an empty one stands for any prefix")
	return cmd
}

func (s *scanning) run(cmd *cobra.Command, paths []string) error {
	ctx := cmd.Context()
	switch {
	case s.noStore && s.disable:
		return usagef("--disable needs a store; leave out --no-store")
	case !s.noStore && cmd.Flags().Changed("prefix"):
		return usagef("--prefix needs --no-store, because a store knows its prefix")
	case s.noStore && s.prefix != "" && !prefixForm.MatchString(s.prefix):
		return usagef("--prefix must be 1 to 16 ASCII letters and digits, or empty")
	case s.noStore:
		if err := s.scan(ctx, paths); err != nil {
			return err
		}
		return s.verdict()
	}
	err := s.reading(ctx, func(client *admin.Client) error {
		store, err := client.Store(ctx)
		if err != nil {
			return err
		}
		s.client, s.prefix = client, store.TokenPrefix
		return s.scan(ctx, paths)
	})
	if err == nil && s.disable && len(s.keys) > 0 {
		err = s.disableKeys(ctx)
	}
	if err != nil {
		return err
	}
	return s.verdict()
}

// verdict returns the error of a scan that has found something.
func (s *scanning) verdict() error {
	var leaked, unread error
	if s.unread > 0 {
		unread = fmt.Errorf("%w: %d", errUnread, s.unread)
	}
	switch {
	case s.found == 0:
		return unread
	case s.noStore:
		leaked = fmt.Errorf("%w: %d", errLeaked, s.found)
	case s.disable:
		leaked = fmt.Errorf("live %w: %d; their keys are disabled now", errLeaked, s.found)
	default:
		leaked = fmt.Errorf("live %w: %d", errLeaked, s.found)
	}
	if unread != nil {
		return fmt.Errorf("%w; %w", leaked, unread)
	}
	return leaked
}

// scan looks at all paths. It goes on behind a file that cannot be read.
func (s *scanning) scan(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if err := s.path(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// path looks at one path of the command line.
func (s *scanning) path(ctx context.Context, path string) error {
	if path == "-" {
		return s.text(ctx, path, s.stdin)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return s.notRead(path, err)
	case !info.IsDir():
		return s.file(ctx, path, func() (fs.File, error) { return os.Open(path) })
	}
	// Not filepath.WalkDir, because a path of the command line may be a link to a directory.
	below := os.DirFS(path)
	return fs.WalkDir(below, ".", func(name string, entry fs.DirEntry, err error) error {
		full := filepath.Join(path, filepath.FromSlash(name))
		switch {
		case err != nil:
			return s.notRead(full, err)
		case !entry.Type().IsRegular():
			return nil
		}
		return s.file(ctx, full, func() (fs.File, error) { return below.Open(name) })
	})
}

func (s *scanning) file(ctx context.Context, path string, open func() (fs.File, error)) error {
	f, err := open()
	if err != nil {
		return s.notRead(path, err)
	}
	defer f.Close()
	return s.text(ctx, path, f)
}

// text looks for tokens in a text. path names the text.
//
// Errors: ctx's error; those of the store and of the output.
func (s *scanning) text(ctx context.Context, path string, r io.Reader) error {
	for found, err := range tokenscan.FindTokens(decoded(&contextReader{ctx, r}), s.prefix) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return s.notRead(path, err)
		}
		answer, err := s.ask(ctx, found)
		if err == nil {
			err = s.print(path, found, answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decoded returns the text in r. Windows and its tools write UTF-16, in which no token could be
// found. Such a text begins with a byte-order mark.
func decoded(r io.Reader) io.Reader {
	b := bufio.NewReader(r)
	if mark, _ := b.Peek(2); string(mark) == "\xff\xfe" || string(mark) == "\xfe\xff" {
		return unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewDecoder().Reader(b)
	}
	return b
}

// contextReader ends with the error of a context, also while it waits for standard input.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	return await(r.ctx, func() (int, error) { return r.r.Read(b) })
}

// ask returns what the store knows of a token. It asks only once about each token of the store,
// because an answer costs a hash.
func (s *scanning) ask(ctx context.Context, found tokenscan.Found) (tokenscan.Answer, error) {
	if s.client == nil {
		s.found++
		return tokenscan.Answer{State: unchecked}, nil
	}
	answer, known := s.answers[found.Token()]
	if !known {
		of, err := s.client.FindToken(ctx, found.Token())
		switch answer = of.Answer(); {
		case errors.Is(err, admin.ErrTokenUnknown):
			answer.State = tokenscan.Unknown
		case err != nil:
			return answer, err
		}
		if answer.State != tokenscan.Unknown {
			s.answers[found.Token()] = answer
			s.keys = append(s.keys, found.KeyID)
		}
	}
	if answer.State == tokenscan.Live {
		s.found++
	}
	return answer, nil
}

// print prints a token that was found, without the token.
func (s *scanning) print(path string, found tokenscan.Found, answer tokenscan.Answer) error {
	path = hide.Tokens(path)
	doc := leak{File: path, Line: found.Line, Column: found.Column, State: answer.State, Reason: reason(answer.Reason), KeyID: found.KeyID}
	key := "key " + found.KeyID.String()
	if who := answer.Principal; who.KeyID != uuid.Nil {
		doc.Principal = &who
		key = fmt.Sprintf("key %s (%s)", plain(who.KeyName), who.KeyID)
	}
	state := string(answer.State)
	if answer.Reason != nil {
		state += ", because the " + answer.Reason.Error()
		if answer.State == tokenscan.Live {
			state = "live from some networks"
		}
	}
	return s.cli.print(doc, func(w io.Writer) {
		fmt.Fprintf(w, "%s:%d:%d: %s: %s_… of %s\n", plain(path), found.Line, found.Column, state, found.Prefix, key)
	})
}

// notRead prints that a file cannot be read.
func (s *scanning) notRead(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s.unread++
	var inFile *fs.PathError
	if errors.As(err, &inFile) {
		err = inFile.Err
	}
	path = hide.Tokens(path)
	doc := struct {
		File  string `json:"file"`
		Error string `json:"error"`
	}{path, line(err.Error())}
	return s.cli.print(doc, func(w io.Writer) { fmt.Fprintf(w, "%s: not read: %s\n", plain(path), doc.Error) })
}

// disableKeys disables the keys of the tokens that were found, and prints the keys that were not
// disabled before. It goes on when the command is interrupted.
func (s *scanning) disableKeys(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return s.changing(ctx, func(client *admin.Client) error {
		for _, id := range s.keys {
			key, err := client.Key(ctx, id)
			if err == nil && key.Disabled {
				continue // it is another token of a key that is disabled by now
			}
			if err == nil {
				key, err = client.ChangeKey(ctx, id, admin.KeyChange{Disabled: admin.Some(true)}, "")
			}
			if errors.Is(err, latchkey.ErrKeyNotFound) {
				continue // it was deleted meanwhile
			}
			if err != nil {
				return err
			}
			doc := struct {
				Disabled latchkey.Key `json:"disabled"`
			}{key.Stored()}
			if err := s.cli.print(doc, func(w io.Writer) { fmt.Fprintf(w, "disabled key %s (%s)\n", plain(key.Name), key.ID) }); err != nil {
				return err
			}
		}
		return nil
	})
}
