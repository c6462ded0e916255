package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// releaseVersion is the version of a build for a release. packaging/build sets it, because a build
// from an archive of the sources does not know its tag.
var releaseVersion string

// versionAnswer is the JSON output of version.
type versionAnswer struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`   // of the sources, if the build knew it
	Modified bool   `json:"modified,omitempty"` // the sources had uncommitted changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// readVersion returns what the build information of this binary says.
func readVersion(info *debug.BuildInfo) versionAnswer {
	v := versionAnswer{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if releaseVersion != "" {
		v.Version = releaseVersion
		return v
	}
	if info == nil {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String returns the version and the commit.
func (v versionAnswer) String() string {
	text := v.Version
	if v.Commit != "" {
		text += " commit " + v.Commit
	}
	if v.Modified {
		text += " with changes"
	}
	return text
}

// version returns the version of this binary.
func version() versionAnswer {
	info, _ := debug.ReadBuildInfo()
	return readVersion(info)
}

func versionCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of latchkey",
		Long: `Show the version of latchkey, the commit of its sources, the version of Go, and the platform. The
commit is known if latchkey was built in a clone of its repository by go build, unless -buildvcs=false
was given. The version of such a build is (devel), or begins with v0.0.0. A build for a release shows
the version of the release alone.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := version()
			return c.print(v, func(w io.Writer) { fmt.Fprintf(w, "latchkey version %s %s %s\n", v, v.Go, v.Platform) })
		},
	}
}
