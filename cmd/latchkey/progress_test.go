package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// screen returns what is on the last line of a terminal that got text.
func screen(text string) string {
	var line []rune
	for part := range strings.SplitSeq(text, "\r") {
		new := []rune(part)
		line = append(new, line[min(len(new), len(line)):]...)
	}
	return strings.TrimRight(string(line), " ")
}

func TestProgressIsErasedOnAnyTerminal(t *testing.T) {
	var terminal bytes.Buffer
	p := &progress{w: io.Discard, status: status{terminal: &terminal}, total: 1 << 20}
	for range 4 {
		if _, err := p.Write(make([]byte, 1<<18)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := screen(terminal.String()), "[##############################] 100 % of 1 MiB"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	if !strings.Contains(terminal.String(), "\r[###############               ] 50 % of 1 MiB") {
		t.Errorf("the terminal has shown %q, without the half", terminal.String())
	}
	p.status.erase()
	if got := screen(terminal.String()); got != "" {
		t.Errorf("the terminal still shows %q", got)
	}
	if strings.Contains(terminal.String(), "\x1b") {
		t.Errorf("there are escape sequences: %q", terminal.String())
	}
}

func TestWorkWhoseEndNobodyKnowsShowsItsTime(t *testing.T) {
	terminal := newSafeBuffer()
	ticks, end, ended := make(chan time.Time), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		showTime(&status{terminal: terminal}, "checking", ticks, end)
	}()
	for range 2 {
		ticks <- time.Time{}
	}
	terminal.await("checking... 2 s")
	close(end)
	<-ended
	if got := screen(terminal.String()); got != "" {
		t.Errorf("the terminal still shows %q", got)
	}
}

func TestProgressIsShownOnlyOnATerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/stderr")
	must(t, err)
	defer file.Close()
	for _, w := range []io.Writer{file, &bytes.Buffer{}} {
		c := &cli{stderr: w}
		if c.stderrIsTerminal() {
			t.Errorf("%T is taken for a terminal", w)
		}
		if v, err := during(c, "checking", func() (int, error) { return 7, os.ErrClosed }); v != 7 || err != os.ErrClosed {
			t.Errorf("got %d, %v", v, err)
		}
	}
}
