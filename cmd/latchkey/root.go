package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// cli is one run of the command: what the flags that many commands share say, and where it reads and writes.
type cli struct {
	store string
	wait  time.Duration
	json  bool
	quiet bool

	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	begun bool // the command line is right; what fails from here on is no mistake in it
}

func newRoot(c *cli) *cobra.Command {
	cobra.EnableCommandSorting = false // they are added in the order in which a newcomer needs them
	root := parentCommand("latchkey", "Manage users and their API keys in one file")
	root.Long = manual()
	root.Version = version()
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.DisableAutoGenTag = true // or man pages would tell when they were made
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return c.begin(cmd) }

	flags := root.PersistentFlags()
	flags.StringVar(&c.store, "store", "", "the store's `FILE` (or set LATCHKEY_STORE)")
	flags.DurationVar(&c.wait, "wait", time.Second, "how long to wait for a store that is open elsewhere")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	_ = root.RegisterFlagCompletionFunc("store", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))

	root.AddCommand(initCommand(c), userCommands(c), keyCommands(c), loginCommand(c), serveCommand(c), statsCommand(c), checkCommand(c),
		backupCommand(c), restoreCommand(c), compactCommand(c), salvageCommand(c), versionCommand(c), manCommand())
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error { return isCommand(root, args) }
	}
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		asParent(completion)
	}
	return root
}

// begin is the last look at the command line.
func (c *cli) begin(cmd *cobra.Command) error {
	for flag, variable := range map[string]string{"store": "LATCHKEY_STORE", "cost": "LATCHKEY_COST"} {
		f, value := cmd.Flags().Lookup(flag), os.Getenv(variable)
		if f == nil || f.Changed || value == "" {
			continue
		}
		if err := f.Value.Set(value); err != nil {
			return fmt.Errorf("%s is %q: %w", variable, value, err)
		}
	}
	if c.quiet && c.json {
		return errors.New("--quiet and --json exclude each other")
	}
	c.begun = true
	return nil
}

// quietFlag gives cmd the flag that leaves of its output what a script wants.
func (c *cli) quietFlag(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVarP(&c.quiet, "quiet", "q", false, "print "+what+" and nothing else")
}

// parentCommand is a command that only has others under it.
func parentCommand(use, short string) *cobra.Command {
	return asParent(&cobra.Command{Use: use, Short: short})
}

// asParent makes cmd refuse what is no command of its own. The root alone may stand by itself: it shows the manual then.
func asParent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0])
		case cmd.HasParent():
			return fmt.Errorf("a command of %q is missing", cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// isCommand checks that args name a command.
func isCommand(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err == nil && len(rest) > 0 {
		return fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+rest[0])
	}
	return err
}

// examples is the text of a command's examples.
func examples(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }

// takes checks that a command is given just the arguments that names lists. It repeats none of them: one might be a token
// that was put in the wrong place.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names) && len(names) == 0:
			return errors.New("there is an argument, and it takes none")
		case len(args) > len(names):
			return fmt.Errorf("there are too many arguments: it takes %s", strings.Join(names, " "))
		}
		return nil
	}
}

//go:embed doc.go
var packageComment string

// manual is the package comment: one text for go doc, for latchkey --help and for the man page.
func manual() string {
	text, _, _ := strings.Cut(packageComment, "\npackage ")
	text = strings.ReplaceAll(text, "\n// ", "\n")
	text = strings.ReplaceAll(text, "\n//\t", "\n    ")
	text = strings.ReplaceAll(text, "\n//", "\n")
	return strings.TrimPrefix(text, "// ")
}
