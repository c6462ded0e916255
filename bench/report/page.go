package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// These two lines of a page enclose the part that is written from a run.
const (
	pageBegin = "<!-- written by go run ./report: edit nothing from here -->\n"
	pageEnd   = "<!-- to here -->\n"
)

// renewPage writes text between the two lines of a page, if there is such a page.
func renewPage(path, text string) error {
	page, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	renewed, err := replaceBetween(string(page), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(renewed), 0o644)
}

// replaceBetween returns page with text between the two lines.
func replaceBetween(page, text string) (string, error) {
	before, rest, found := strings.Cut(page, pageBegin)
	_, after, ended := strings.Cut(rest, pageEnd)
	if !found || !ended {
		return "", fmt.Errorf("it has no lines %q and %q: add them where the tables belong", pageBegin, pageEnd)
	}
	return before + pageBegin + text + pageEnd + after, nil
}

// markdown returns the run in the form of a part of the page.
func (r *Run) markdown(plot bool) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n%s, on %s, with %s and GOMAXPROCS=%d. Each figure is the median of up to %d rounds.\n",
		r.Date, r.Machine, r.Go, r.GOMAXPROCS, r.Rounds)
	if n := r.missed(); n > 0 {
		fmt.Fprintf(&b, "%d of the targets were missed.\n", n)
	} else {
		fmt.Fprintf(&b, "All targets were met.\n")
	}
	if plot {
		fmt.Fprintf(&b, "\n![Time of one check of a token](performance.svg)\n")
	}
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "\n### %s\n\n", g.Title)
		writeMarkdownTable(&b, g.Cases)
	}
	b.WriteByte('\n')
	return b.String()
}

// writeMarkdownTable writes a table of the cases, without the columns that are empty for every
// case.
func writeMarkdownTable(b *bytes.Buffer, cases []Case) {
	rows := [][]string{tableHead}
	for i := range cases {
		rows = append(rows, cases[i].row())
	}
	used := make([]bool, len(tableHead))
	for _, row := range rows[1:] {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			if used[i] {
				fmt.Fprintf(b, "| %s ", cell)
			}
		}
		b.WriteString("|\n")
		if n == 0 {
			for i := range row {
				if used[i] {
					b.WriteString("| --- ")
				}
			}
			b.WriteString("|\n")
		}
	}
}

// checks are the rows of the table in docs/choosing.md: the check of a token, the case that
// measured it, and what the check leaves open.
var checks = []struct{ check, group, name, open string }{
	{"Latchkey, a key that has logged in before", "rivals", "latchkey", "the first login after a start, in the next row"},
	{"Latchkey, the first login of a key after a start", "cold", "login/keys=100k", "the time is that of one slow hash, which `Options.Cost` sets"},
	{"the token cache of Kubernetes", "rivals", "k8s-token-cache", "a revoked token stays good for up to two minutes"},
	{"a bucket of bbolt with tokens in clear", "rivals", "bbolt-get", "everybody who reads the file can log in as anybody"},
	{"SHA-256 and a table in SQLite, by its driver in Go", "rivals", "sqlite-sha256", "a forged token costs a read, too"},
	{"argon2id for each request", "rivals", "argon2id", "a forged token with a known ID makes the server hash"},
	{"bcrypt for each request", "rivals", "bcrypt", "the same"},
	{"no check: a bare request over HTTP", "http", "bare", ""},
}

// comparison returns the run in the form of a part of docs/choosing.md.
func (r *Run) comparison() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, on %s:\n\n| check of one token | time | what it leaves open |\n| --- | --- | --- |\n", r.Date, r.Machine)
	for _, row := range checks {
		for _, g := range r.Groups {
			for _, c := range g.Cases {
				if g.Name == row.group && c.Name == row.name {
					fmt.Fprintf(&b, "| %s | %s | %s |\n", row.check, formatValue(c.Value, c.Unit), row.open)
				}
			}
		}
	}
	return b.String() + "\n"
}
