package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// version is the module's version, as the Go command knows it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func versionCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show which latchkey this is",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return c.print(doc, func(w io.Writer) {
				fmt.Fprintf(w, "latchkey version %s %s %s\n", doc.Version, doc.Go, doc.Platform)
			})
		},
	}
}

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the man pages into a directory",
		Long: `Write the man pages into a directory, which is made if it is not there: one for each command. If SOURCE_DATE_EPOCH is
set, it is their date.`,
		Args:              takes("DIRECTORY"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o777); err != nil {
				return err
			}
			header := doc.GenManHeader{Section: "1", Source: "Latchkey", Manual: "Latchkey"}
			return doc.GenManTree(cmd.Root(), &header, args[0])
		},
	}
}
