package main

import (
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/replica"
)

// cli is one run of the command. It has the values of the flags that many commands share, and the
// files that the command reads and writes.
type cli struct {
	store string
	wait  time.Duration
	actor string
	chain chainFlag // of the audit trail
	json  bool
	quiet bool
	// verbose makes the command say what it does, on standard error.
	verbose bool
	// dryRun makes a command that destroys say what it would do.
	dryRun bool

	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	// opts has the options that flags such as --max-keys give the store. given has those of the
	// flags that are on the command line.
	opts  latchkey.Options
	given []string

	// replica has the options of an edge, apart from those of its store. hubCert is the certificate
	// of the hub, for an invitation that is made while no hub has the store open.
	replica replica.Options
	hubCert *x509.Certificate
	// openedHere says that the command opened the file, and did not go through a socket.
	openedHere bool

	begun bool // whether the command line is right, so that later errors are not usage errors
}

// newRoot returns the command latchkey with all commands below it.
func newRoot(c *cli) *cobra.Command {
	cobra.EnableCommandSorting = false // the order is that in which a newcomer needs the commands
	root := parentCommand("latchkey", "Manage users and their API keys in one file")
	root.Long = manual()
	root.Version = version().String()
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetFlagErrorFunc(explainFlag)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkRepeats(cmd); err != nil {
			return err
		}
		return c.begin(cmd)
	}

	flags := root.PersistentFlags()
	flags.StringVar(&c.store, "store", "", "the `FILE` of the store, or the URL of a store on etcd (or set LATCHKEY_STORE)")
	flags.DurationVar(&c.wait, "wait", time.Second, "wait at most `DURATION` for a store that another program has open")
	flags.StringVar(&c.actor, "actor", "", "the `NAME` that the audit trail gives for who makes a change (or set LATCHKEY_ACTOR; default the account's name)")
	flags.Var(&c.chain, "chain", "the chain `NAME` of the audit trail into which changes go (or set LATCHKEY_CHAIN; default the name of the machine on etcd, and the default chain in a file)")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.BoolVar(&c.verbose, "verbose", false, "say on standard error whether the command opened the file, or went through the socket of a program")
	_ = root.RegisterFlagCompletionFunc("chain", cobra.NoFileCompletions)
	_ = root.RegisterFlagCompletionFunc("store", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))

	root.AddCommand(initCommand(c), userCommands(c), keyCommands(c), groupCommands(c), loginCommand(c), scanCommand(c), auditCommands(c),
		mintCommand(c), applyCommand(c), domainCommands(c), importCommand(c), exportCommand(c), hubCommand(c), joinCommand(c), syncCommand(c), replicaCommands(c), serveCommand(c), pipeCommand(c), pageCommand(c),
		statsCommand(c), watchCommand(c), doctorCommand(c), clockCommands(c), checkCommand(c), backupCommand(c), restoreCommand(c), compactCommand(c), salvageCommand(c), migrateCommand(c),
		versionCommand(c), manCommand())
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error { return isCommand(root, args) }
	}
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		asParent(completion)
	}
	countFlags(root)
	return root
}

// begin sets the flags that an environment variable sets, and checks the flags that all commands
// share.
func (c *cli) begin(cmd *cobra.Command) error {
	for flag, variable := range map[string]string{"store": "LATCHKEY_STORE", "actor": "LATCHKEY_ACTOR", "cost": "LATCHKEY_COST"} {
		f, value := cmd.Flags().Lookup(flag), os.Getenv(variable)
		if f == nil || f.Changed || value == "" {
			continue
		}
		if err := f.Value.Set(value); err != nil {
			return fmt.Errorf("%s is %q: %w", variable, value, err)
		}
	}
	// The audit commands have a flag of their own with this name.
	if name := os.Getenv("LATCHKEY_CHAIN"); name != "" && !c.chain.given {
		if err := c.chain.Set(name); err != nil {
			return fmt.Errorf("LATCHKEY_CHAIN is %q: %w", name, err)
		}
	} else if c.chain.given {
		c.given = append(c.given, "--chain")
	}
	for _, flag := range []string{"cost", "max-keys", "hub-cert", "hub-url", "allow-plain-http"} {
		if f := cmd.Flags().Lookup(flag); f != nil && f.Changed {
			c.given = append(c.given, "--"+flag)
		}
	}
	if c.quiet && c.json {
		return errors.New("--quiet and --json cannot be used together")
	}
	if c.actor == "" {
		c.actor = osUser()
	}
	cmd.SetContext(latchkey.WithActor(cmd.Context(), c.actor))
	c.begun = true
	return nil
}

// quietFlag adds the flag --quiet to cmd. what says what cmd then prints.
func (c *cli) quietFlag(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVarP(&c.quiet, "quiet", "q", false, "print "+what+" and nothing else")
}

// parentCommand returns a command that only has other commands below it.
func parentCommand(use, short string) *cobra.Command {
	return asParent(&cobra.Command{Use: use, Short: short})
}

// asParent makes cmd refuse all arguments that are not the name of a command below it. Only the
// root works without an argument. It then shows the manual.
func asParent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return noCommand(cmd, args[0])
		case cmd.HasParent():
			return fmt.Errorf("%q needs a command after it", cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// noCommand returns the error of a command that does not exist below cmd. The error names the
// commands that may be meant.
func noCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2 // letters that are wrong
	var meant []string
	for _, s := range cmd.SuggestionsFor(name) {
		meant = append(meant, cmd.CommandPath()+" "+s)
	}
	if len(meant) == 0 {
		return fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+name)
	}
	return fmt.Errorf("there is no command %q; perhaps you mean %s", cmd.CommandPath()+" "+name, strings.Join(meant, " or "))
}

// isCommand returns an error unless args name a command.
func isCommand(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err == nil && len(rest) > 0 {
		return noCommand(cmd, rest[0])
	}
	return err
}

// examples returns the text of the examples in a command's help.
func examples(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }

// takes returns a check that a command has exactly the arguments that names lists. Its errors do
// not repeat an argument, because the argument may be a token in the wrong place.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case slices.ContainsFunc(args, hide.IsToken):
			return errors.New("an argument is a token, which every process on the machine can see; disable its key or rotate it, and give - as KEY, with the token on standard input")
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names) && len(names) == 0:
			return errors.New("the command takes no arguments")
		case len(args) > len(names):
			return fmt.Errorf("too many arguments; the command takes %s", strings.Join(names, " "))
		}
		return nil
	}
}

//go:embed doc.go
var packageComment string

// manual returns the package comment, so that go doc, latchkey --help and the man page have one
// text.
func manual() string {
	text, _, _ := strings.Cut(packageComment, "\npackage ")
	text = strings.ReplaceAll(text, "\n// ", "\n")
	text = strings.ReplaceAll(text, "\n//\t", "\n    ")
	text = strings.ReplaceAll(text, "\n//", "\n")
	return strings.TrimPrefix(text, "// ")
}
