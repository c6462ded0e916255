package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestProgressIsErasedOnAnyTerminal(t *testing.T) {
	var terminal bytes.Buffer
	p := &progress{w: io.Discard, terminal: &terminal, total: 1 << 20}
	for range 4 {
		if _, err := p.Write(make([]byte, 1<<18)); err != nil {
			t.Fatal(err)
		}
	}
	p.end()
	if !strings.Contains(terminal.String(), "\r100 % of 1 MiB") {
		t.Errorf("the terminal has shown %q, want 100 %%", terminal.String())
	}
	line := "                        "
	for _, part := range strings.Split(terminal.String(), "\r") {
		line = part + line[min(len(part), len(line)):]
	}
	if !regexp.MustCompile(`\A *\z`).MatchString(line) {
		t.Errorf("the terminal still shows %q", line)
	}
}
