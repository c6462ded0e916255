package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// errNotConfirmed: whoever sits at the terminal did not say yes.
var errNotConfirmed = errors.New("not confirmed, and nothing was deleted")

// askFirst makes cmd, which deletes what its last argument names, ask before it does, where there is somebody to ask.
func askFirst(c *cli, cmd *cobra.Command) *cobra.Command {
	var yes bool
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask, on a terminal; elsewhere it never asks")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes && c.onTerminal() {
			if err := c.confirm(cmd.Context(), cmd.Short+": "+args[len(args)-1]); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
	return cmd
}

func (c *cli) onTerminal() bool { return term.IsTerminal(int(c.stdin.Fd())) }

func (c *cli) confirm(ctx context.Context, what string) error {
	fmt.Fprintf(c.stderr, "%s? [y/N] ", redact(plain(what)))
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

// maxInput is well over what a token can have, so that what is cut off was none.
const maxInput = 4096

// readToken reads the token to log in with, from a terminal without showing it.
func (c *cli) readToken(ctx context.Context) (string, error) {
	if !c.onTerminal() {
		input, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(c.stdin, maxInput)) })
		return trimToken(input), err
	}
	fd := int(c.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, before) }() // also when ctx ends while ReadPassword waits
	fmt.Fprint(c.stderr, "token: ")
	defer fmt.Fprintln(c.stderr)
	input, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	return trimToken(input), err
}

// trimToken takes off the newline that a line ends with.
func trimToken(input []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(input), "\n"), "\r")
}

// await returns what fn does, which may wait for somebody to type or for another program, or ctx's error as soon as ctx ends.
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
