package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommentLinesAreUpToAHundredColumnsWide(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		wide       bool
	}{
		{"at the limit", "// " + strings.Repeat("x", 97), false},
		{"one column more", "// " + strings.Repeat("x", 98), true},
		{"letters of two bytes", "// " + strings.Repeat("é", 97), false},
		{"a tab counts four columns", "\t// " + strings.Repeat("x", 93), false},
		{"a tab and one column more", "\t// " + strings.Repeat("x", 94), true},
		{"a comment behind code", "var x = 1 // " + strings.Repeat("x", 88), true},
		{"a block", "/* " + strings.Repeat("x", 98) + " */", true},
		{"code without a comment", "var x = " + strings.Repeat("1+", 60) + "1", false},
		{"slashes in a string", `var x = "// ` + strings.Repeat("x", 100) + `"`, false},
		{"slashes in a raw string", "var x = `// " + strings.Repeat("x", 100) + "`", false},
		{"a link", "// See https://example.com/" + strings.Repeat("x", 100), false},
		{"a directive", "//go:generate " + strings.Repeat("x", 100), false},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRule(t, tt.line, tooWide, tt.wide) })
	}
}

func TestTheSubjectOfASentenceIsANoun(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		headless   bool
	}{
		{"a noun", "// A reader sees one state.", false},
		{"a person without a noun", "// Who only reads waits for nobody.", true},
		{"such a person at the end", "// It waits for whoever writes.", true},
		{"an object without a noun", "// It returns the user to whom the key belongs.", true},
		{"a part of another word", "// The whole file is read.", false},
		{"a clause", "// What is read is copied.", true},
		{"a clause in the middle of a line", "// It is copied. That of a reader is not.", true},
		{"a clause behind a colon", "// One thing counts: What the disk has.", true},
		{"a question word within a sentence", "// It says what is wrong.", false},
		{"the beginning of another sentence", "// That holds too.", false},
		{"a block", "/* What is read is copied. */", true},
		{"a string", `var x = "// Who reads?"`, false},
		{"code", "var who = 1", false},
		{"a comment behind code", "var x = 1 // for whoever reads", true},
	} {
		t.Run(tt.name, func(t *testing.T) { wantRule(t, tt.line, noNoun, tt.headless) })
	}
}

func wantRule(t *testing.T, line string, r rule, want bool) {
	t.Helper()
	found := check("x.go", []byte("package x\n\n"+line+"\n"))
	got := false
	for _, f := range found {
		got = got || f.rule == r && f.file == "x.go" && f.line == 3
	}
	if got != want || len(found) > 1 {
		t.Errorf("%s: found %v, want the rule %q broken: %v", line, found, r, want)
	}
}

func TestALineOfABlockIsFoundByItsNumber(t *testing.T) {
	found := check("x.go", []byte("package x\n\n/*\nfirst\nwhoever\n*/\nvar x = 1\n"))
	if len(found) != 1 || found[0].line != 5 {
		t.Errorf("found %v, want line 5 alone", found)
	}
}

func TestARunFailsForOneWideLineAndForManySubjects(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil && os.Getenv("CI") == "" {
		t.Skip("git is not on this machine")
	}
	wide := "// " + strings.Repeat("x", 98) + "\n"
	for _, tt := range []struct {
		name, text, tracked string
		ok                  bool
	}{
		{"nothing wrong", "// Good.\n", "*.go", true},
		{"a wide line", wide, "*.go", false},
		{"a wide line in a file that git does not track", wide, ":!*.go", true},
		{"as many subjects as there may be", strings.Repeat("// Who.\n", maxSubjects), "*.go", true},
		{"one subject more", strings.Repeat("// Who.\n", maxSubjects+1), "*.go", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte("package x\n\n"+tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"init", "-q"}, {"add", "--", tt.tracked, "."}} {
				if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
					t.Fatalf("git %s: %v: %s", args, err, out)
				}
			}
			var out bytes.Buffer
			ok, err := run(dir, &out)
			if err != nil {
				t.Fatal(err)
			}
			if ok != tt.ok || (out.Len() == 0) != tt.ok {
				t.Errorf("got %v and %q, want %v", ok, &out, tt.ok)
			}
		})
	}
}
