package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// This file has what a shell offers when Tab is pressed. A completion never fails and never waits:
// it offers nothing if the store cannot be read.

const (
	// completionTime is how long a completion may read the store. A person notices more than that.
	completionTime = 300 * time.Millisecond
	// maxCompletions bounds what a completion offers, because a shell shows all of it.
	maxCompletions = 500
)

// completer is the type of cobra.Command.ValidArgsFunction.
type completer = cobra.CompletionFunc

// completeFile offers files for the only argument of a command.
func completeFile(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// completeFiles offers files for both arguments of a command.
func completeFiles(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeFile(cmd, args[min(len(args), 1):], prefix)
}

// completeUser offers users for the argument USER, which comes first.
func (c *cli) completeUser(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
		for user, err := range client.Users(ctx, nil) {
			if err != nil {
				return err
			}
			for _, i := range user.Identities {
				if err := offer(formatIdentity(i), formatState(user.Disabled)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// completer returns a completer for USER, and, if the command takes a KEY, for KEY after it.
func (o *ownerArg) completer(c *cli, takesKey bool) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := 1 // arguments before KEY
		if o.serverKey {
			before = 0
		}
		switch {
		case len(args) < before:
			return c.completeUser(cmd, args, prefix)
		case len(args) > before || !takesKey:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.complete(cmd, prefix, func(ctx context.Context, client *admin.Client, offer offering) error {
			owner, _, err := o.find(ctx, client, args)
			if err != nil {
				return err
			}
			for key, err := range client.Keys(ctx, latchkey.KeyFilter{Owner: owner}) {
				if err == nil {
					err = offer(key.Name, formatKeyState(key))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// An offering takes a text to offer and its state, and returns an error when no more are wanted.
type offering func(text, state string) error

// complete returns what each offers and begins with prefix. It leaves out texts that a terminal
// does not show as they are.
func (c *cli) complete(cmd *cobra.Command, prefix string, each func(ctx context.Context, client *admin.Client, offer offering) error) ([]cobra.Completion, cobra.ShellCompDirective) {
	errEnough := errors.New("enough")
	var offered []cobra.Completion
	if c.begin(cmd) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c.wait, c.verbose = 0, false
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	_ = c.reading(ctx, func(client *admin.Client) error {
		return each(ctx, client, func(text, state string) error {
			if len(offered) == maxCompletions {
				return errEnough
			}
			if strings.HasPrefix(text, prefix) && plain(text) == text {
				offered = append(offered, cobra.CompletionWithDesc(text, state))
			}
			return ctx.Err()
		})
	})
	return offered, cobra.ShellCompDirectiveNoFileComp
}

// prepareCompletion takes the back quotes off the usage of all flags if args ask for a completion,
// because a shell would show them. Help needs them: they mark the name of a flag's value.
func prepareCompletion(root *cobra.Command, args []string) {
	if len(args) == 0 || args[0] != cobra.ShellCompRequestCmd && args[0] != cobra.ShellCompNoDescRequestCmd {
		return
	}
	unquote := func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) }
	for _, cmd := range commands(root) {
		cmd.PersistentFlags().VisitAll(unquote)
		cmd.Flags().VisitAll(unquote)
	}
}

// commands returns cmd and all commands below it.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, below := range cmd.Commands() {
		all = append(all, commands(below)...)
	}
	return all
}
