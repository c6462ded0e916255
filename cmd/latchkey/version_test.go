package main

import (
	"runtime/debug"
	"testing"
)

func TestTheVersionHasTheCommitIfTheBuildKnewIt(t *testing.T) {
	release := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}
	clone := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "1a2b3c"}, {Key: "vcs.modified", Value: "false"}}}
	changed := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "1a2b3c"}, {Key: "vcs.modified", Value: "true"}}}
	for _, tt := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{nil, "(devel)"},
		{release, "v1.2.3"},
		{clone, "(devel) commit 1a2b3c"},
		{changed, "(devel) commit 1a2b3c with changes"},
	} {
		if got := readVersion(tt.info).String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestABuildForAReleaseShowsTheVersionOfTheRelease(t *testing.T) {
	releaseVersion = "v1.2.3"
	t.Cleanup(func() { releaseVersion = "" })
	for _, info := range []*debug.BuildInfo{nil, {Main: debug.Module{Version: "(devel)"}}} {
		if got := readVersion(info).String(); got != releaseVersion {
			t.Errorf("got %q, want %q", got, releaseVersion)
		}
	}
}
