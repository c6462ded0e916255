package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/hide"
)

// errNotConfirmed means that the person at the terminal did not answer yes.
var errNotConfirmed = errors.New("not confirmed; nothing was deleted")

// dryRunFlag adds the flag --dry-run to cmd.
func (c *cli) dryRunFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "change nothing, and print what would be done")
}

// did returns what a command says that it did: verb in the past, or what it would do.
func (c *cli) did(verb, past string) string {
	if c.dryRun {
		return "would " + verb
	}
	return past
}

// deleting returns the client for deletions, which deletes nothing in a dry run.
func (c *cli) deleting(client *admin.Client) *admin.Client {
	if c.dryRun {
		return client.DryRun()
	}
	return client
}

// askFirst makes cmd ask before it runs. Where nobody can be asked, because standard input is no
// terminal, cmd needs --yes. cmd deletes what its last argument names.
func askFirst(c *cli, cmd *cobra.Command) *cobra.Command {
	var yes bool
	c.dryRunFlag(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "delete without asking; needed where standard input is no terminal")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case yes || c.dryRun:
		case !c.onTerminal():
			return usagef("nobody can be asked here whether to delete; give --yes")
		default:
			if err := c.confirm(cmd.Context(), cmd.Short+": "+args[len(args)-1]); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	return cmd
}

// onTerminal reports whether standard input is a terminal.
func (c *cli) onTerminal() bool { return term.IsTerminal(int(c.stdin.Fd())) }

// inColour reports whether output may have colours: on a terminal that knows them, unless the
// variable NO_COLOR says otherwise (no-color.org).
func (c *cli) inColour() bool {
	f, ok := c.stdout.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && knowsColours(os.Getenv)
}

// knowsColours looks at the environment. The consoles of Windows set no TERM.
func knowsColours(getenv func(string) string) bool {
	terminal := getenv("TERM")
	return getenv("NO_COLOR") == "" && terminal != "" && terminal != "dumb"
}

// confirm asks whether to do what, and returns errNotConfirmed unless the answer is yes.
func (c *cli) confirm(ctx context.Context, what string) error {
	fmt.Fprintf(c.stderr, "%s? [y/N] ", hide.Tokens(plain(what)))
	answer, err := await(ctx, func() (string, error) { return bufio.NewReader(c.stdin).ReadString('\n') })
	if err != nil && ctx.Err() != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}

// maxInput is the most that readToken reads. It is far more than the length of any token.
const maxInput = 4096

// readToken reads a token from standard input, as trimToken does. On a terminal it does not show
// what is typed.
//
// Errors: [latchkey.ErrInvalidToken] with errUTF16; ctx's error; the operating system's error.
func (c *cli) readToken(ctx context.Context) (string, error) {
	if !c.onTerminal() {
		input, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(c.stdin, maxInput)) })
		if err != nil {
			return "", err
		}
		return trimToken(input)
	}
	fd := int(c.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, before) }() // also if ctx ends while ReadPassword waits
	fmt.Fprint(c.stderr, "token: ")
	defer fmt.Fprintln(c.stderr)
	input, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil {
		return "", err
	}
	return trimToken(input)
}

// await runs fn and returns its result. If ctx ends first, await returns the error of ctx at once
// and leaves fn running, because fn may wait for a person or for another program.
func await[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := fn()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
