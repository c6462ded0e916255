package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// These two lines of a page enclose the part that is written from a run.
const (
	pageBegin = "<!-- written by go run ./report: edit nothing from here -->\n"
	pageEnd   = "<!-- to here -->\n"
)

// renewPage writes the run to a page, with or without the plot.
func (r *Run) renewPage(path string, plot bool) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	renewed, err := replaceBetween(string(page), r.markdown(plot))
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
