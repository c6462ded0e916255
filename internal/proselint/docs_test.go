package main

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// pages returns the pages for readers: those in docs, and those at the top of the repository.
func pages(t *testing.T, repository fs.FS) map[string]string {
	t.Helper()
	names, err := fs.Glob(repository, "*.md")
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(repository, "docs", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Ext(name) == ".md" {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range names {
		text, err := fs.ReadFile(repository, name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	return all
}

var (
	fences   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	links    = regexp.MustCompile(`\]\(([^()\s]+)\)|(?:src|srcset|href)="([^"]+)"`)
	headings = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	linked   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	unslug   = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// targets returns where the links of a page lead, without those to other hosts.
func targets(text string) (all []string) {
	for _, m := range links.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		if to := m[1] + m[2]; !strings.Contains(to, "://") && !strings.HasPrefix(to, "mailto:") {
			all = append(all, to)
		}
	}
	return all
}

// anchors returns the names that the headings of a page have on GitHub.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range headings.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		heading := linked.ReplaceAllString(m[1], "$1")
		slug := unslug.ReplaceAllString(strings.ToLower(heading), "")
		all[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return all
}

func TestEveryRelativeLinkInTheDocsLeadsSomewhere(t *testing.T) {
	repository := os.DirFS("../..")
	all := pages(t, repository)
	for name, text := range all {
		for _, to := range targets(text) {
			file, anchor, _ := strings.Cut(to, "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := fs.Stat(repository, target); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, to)
				continue
			}
			if page, ok := all[target]; ok && anchor != "" && !anchors(page)[anchor] {
				t.Errorf("%s: the link %s leads to no heading", name, to)
			}
		}
	}
}

// The decisions are one entry, which is their directory.
func TestTheIndexOfTheDocsHasEachPageOnce(t *testing.T) {
	all := pages(t, os.DirFS("../.."))
	const index = "docs/README.md"
	listed := map[string]int{}
	for _, to := range targets(all[index]) {
		listed[path.Join("docs", to)]++
	}
	for name := range all {
		if path.Dir(name) == "." || name == index || path.Dir(name) == "docs/decisions" {
			continue
		}
		if n := listed[name]; n != 1 {
			t.Errorf("%s lists %s %d times, want once", index, name, n)
		}
	}
	if listed["docs/decisions"] != 1 {
		t.Errorf("%s does not list the decisions once", index)
	}
}
