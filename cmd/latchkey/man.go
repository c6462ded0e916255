package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the man pages into a directory",
		Long: `Write the man pages into a directory, one page for each command. The directory is made if it does
not exist. The date of the pages is that of SOURCE_DATE_EPOCH, if this variable is set.`,
		Args:              takes("DIRECTORY"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := manDate()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o777); err != nil {
				return err
			}
			for _, page := range commands(cmd.Root()) {
				if !page.IsAvailableCommand() && page.HasParent() {
					continue
				}
				file := filepath.Join(args[0], manName(page)+".1")
				if err := os.WriteFile(file, md2man.Render([]byte(manPage(page, date))), 0o666); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manDate returns the date of the man pages.
func manDate() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH is %q, and must be a number of seconds", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// manName returns the name of the man page of cmd.
func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage returns the man page of cmd in the Markdown of md2man.
func manPage(cmd *cobra.Command, date time.Time) string {
	cmd.InitDefaultHelpFlag()
	var page strings.Builder
	title := strings.ToUpper(manName(cmd))
	fmt.Fprintf(&page, "%% %q \"1\" %q \"Latchkey\" \"Latchkey\"\n", title, date.Format("Jan 2006"))
	fmt.Fprintf(&page, "# NAME\n%s \\- %s\n\n", manName(cmd), cmd.Short)
	fmt.Fprintf(&page, "# SYNOPSIS\n**%s**\n\n", cmd.UseLine())
	description := cmd.Long
	if description == "" {
		description = cmd.Short + "."
	}
	fmt.Fprintf(&page, "# DESCRIPTION\n%s\n\n", description)
	writeManFlags(&page, "OPTIONS", cmd.NonInheritedFlags())
	writeManFlags(&page, "OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprintf(&page, "# EXAMPLE\n```\n%s\n```\n\n", cmd.Example)
	}
	var others []string
	if cmd.HasParent() {
		others = append(others, fmt.Sprintf("**%s(1)**", manName(cmd.Parent())))
	}
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() {
			others = append(others, fmt.Sprintf("**%s(1)**", manName(below)))
		}
	}
	if len(others) > 0 {
		slices.Sort(others)
		fmt.Fprintf(&page, "# SEE ALSO\n%s\n", strings.Join(others, ", "))
	}
	return page.String()
}

// writeManFlags writes a section with flags, as --help shows them.
func writeManFlags(page *strings.Builder, heading string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(page, "# %s\n", heading)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		if f.Shorthand != "" {
			fmt.Fprintf(page, "**-%s**, ", f.Shorthand)
		}
		fmt.Fprintf(page, "**--%s**", f.Name)
		if value != "" {
			fmt.Fprintf(page, " *%s*", value)
		}
		fmt.Fprintf(page, "\n: %s", usage)
		switch f.DefValue {
		case "", "false", "0", "[]":
		default:
			fmt.Fprintf(page, " (default %s)", f.DefValue)
		}
		page.WriteString("\n\n")
	})
}
