// Command proselint checks the comments of all Go files that git tracks below the current
// directory. There are two rules. A comment line is at most 100 columns wide. The subject of a
// sentence is a noun, except in at most 25 lines of the whole tree.
//
//	go run ./internal/proselint
//
// If a rule does not hold, proselint prints each line that breaks it, and exits with status 1.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// maxSubjects is the number of lines that may seem to have a subject that is no noun. A program
// cannot tell a correct relative clause, which has the same words, from a sentence without a noun.
const maxSubjects = 25

func main() {
	ok, err := run(".", os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "proselint:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run checks the files below dir, and reports whether both rules hold. It prints the lines that
// break a rule, and their number.
func run(dir string, out io.Writer) (ok bool, err error) {
	names, err := goFiles(dir)
	if err != nil {
		return false, err
	}
	var wide, subjects []finding
	for _, name := range names {
		src, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return false, err
		}
		for _, f := range check(name, src) {
			switch f.rule {
			case tooWide:
				wide = append(wide, f)
			case noNoun:
				subjects = append(subjects, f)
			}
		}
	}
	if len(subjects) <= maxSubjects {
		subjects = nil
	}
	for _, f := range slices.Concat(wide, subjects) {
		fmt.Fprintln(out, f)
	}
	if len(wide) > 0 {
		fmt.Fprintf(out, "%d comment lines are wider than %d columns\n", len(wide), maxColumns)
	}
	if len(subjects) > 0 {
		fmt.Fprintf(out, "%d comment lines have a subject that is no noun; %d may have one\n", len(subjects), maxSubjects)
	}
	return len(wide) == 0 && len(subjects) == 0, nil
}

// goFiles returns the paths of the Go files below dir that git tracks.
func goFiles(dir string) ([]string, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--", "*.go")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), nil
}
