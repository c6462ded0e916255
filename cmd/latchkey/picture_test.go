//go:build unix

package main

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

var draw = flag.Bool("draw", false, "draw docs/pictures/command.svg anew")

// picture draws a session in a shell as an image in SVG.
func picture(session string) string {
	lines := strings.Split(strings.TrimSuffix(session, "\n"), "\n")
	columns := 0
	for _, line := range lines {
		columns = max(columns, utf8.RuneCountInString(line))
	}
	const column, row, margin = 7.83, 20, 20 // for letters of 13 pixels
	var svg strings.Builder
	width, height := int(float64(columns)*column)+2*margin, len(lines)*row+2*margin
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %d">`+"\n", width, height, height)
	svg.WriteString(`<style>
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: #c9d1d9 }
.command { font-weight: bold; fill: #ffffff }
.prompt { fill: #7ee787 }
</style>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
`)
	for i, line := range lines {
		var text strings.Builder
		command, typed := strings.CutPrefix(line, "$ ")
		_ = xml.EscapeText(&text, []byte(command)) // a Builder takes everything
		shown := text.String()
		if typed {
			shown = `<tspan class="prompt">$ </tspan><tspan class="command">` + shown + `</tspan>`
		}
		fmt.Fprintf(&svg, `<text x="%d" y="%d" xml:space="preserve">%s</text>`+"\n", margin, margin+i*row+14, shown)
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

// The session is one that TestTheReadmeAndTheFirstStepsWorkAsWritten runs.
func TestThePictureOfTheCommandShowsTheFirstSession(t *testing.T) {
	const page, file = "../../docs/first-steps.md", "../../docs/pictures/command.svg"
	var session string
	for _, b := range blocks(t, page) {
		if b.note == "the picture in the README" {
			session += b.text
		}
	}
	if session == "" {
		t.Fatalf("%s has no session for the picture", page)
	}
	want := picture(session)
	if *draw {
		must(t, os.WriteFile(file, []byte(want), 0o644))
	}
	got, err := os.ReadFile(file)
	must(t, err)
	if string(got) != want {
		t.Error("the picture shows another session; go test ./cmd/latchkey -run Picture -draw draws it anew")
	}
}
