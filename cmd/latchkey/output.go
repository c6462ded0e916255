package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
)

// print writes the result of a command to standard output. With --json the result is doc as JSON.
// Without --json it is the text that human writes.
func (c *cli) print(doc any, human func(w io.Writer)) error {
	if c.json {
		return writeJSON(c.stdout, doc)
	}
	var text bytes.Buffer
	human(&text)
	_, err := c.stdout.Write(text.Bytes())
	return err
}

// printTable prints doc. Without --json it prints a table of rows.
func (c *cli) printTable(doc any, rows [][]string) error {
	return c.print(doc, func(w io.Writer) {
		var widths []int
		for _, row := range rows {
			widths = append(widths, make([]int, max(0, len(row)-len(widths)))...)
			for i, cell := range row {
				row[i] = plain(cell)
				widths[i] = max(widths[i], columns(row[i]))
			}
		}
		for _, row := range rows {
			for i, cell := range row[:len(row)-1] {
				fmt.Fprint(w, cell, strings.Repeat(" ", widths[i]-columns(cell)+2))
			}
			fmt.Fprintln(w, row[len(row)-1])
		}
	})
}

// columns returns how many columns s takes on a terminal. Combining marks take none. The characters
// of East Asian scripts and most emoji take two.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		// The range has the later parts of a Hangul syllable.
		case unicode.In(r, unicode.Mn, unicode.Me) || 0x1160 <= r && r <= 0x11FF:
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

func wide(r rune) bool {
	kind := width.LookupRune(r).Kind()
	return kind == width.EastAsianWide || kind == width.EastAsianFullwidth
}

// printFields prints doc. Without --json it prints pairs of a name and a value.
func (c *cli) printFields(doc any, pairs ...string) error {
	var rows [][]string
	for i := 0; i < len(pairs); i += 2 {
		rows = append(rows, pairs[i:i+2])
	}
	return c.printTable(doc, rows)
}

// writeJSON writes doc as JSON on one line.
func writeJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // the output is not for a web page
	return enc.Encode(doc)
}

// plain returns s with a replacement character for each character that a terminal does not show but
// acts upon, such as the marks that reverse the direction of writing. A name can contain such
// characters to mislead the reader of a list.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func formatState(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// formatContents says how many users and keys a store has.
func formatContents[N int | uint64](users, keys N) string {
	counted := func(n N, of string) string {
		if n != 1 {
			of += "s"
		}
		return fmt.Sprintf("%d %s", n, of)
	}
	return counted(users, "user") + " and " + counted(keys, "key")
}
