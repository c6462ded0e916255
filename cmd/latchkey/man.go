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

// version returns the version of the module, from the build information of this binary.
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
		Short: "Show the version of latchkey",
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
		Long: `Write the man pages into a directory, one page for each command. The directory is made if it does
not exist. The date of the pages is that of SOURCE_DATE_EPOCH, if this variable is set.`,
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
