package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// This file shows people that long work goes on. It writes to standard error, and only if that is a
// terminal. Nothing here uses escape sequences, because the console of old versions of Windows
// knows none.

// stderrIsTerminal reports whether standard error is a terminal, on which somebody can see
// progress.
func (c *cli) stderrIsTerminal() bool {
	f, ok := c.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A status is a line on a terminal that is written over itself. It never becomes shorter.
type status struct {
	terminal io.Writer
	widest   int
}

func (s *status) show(line string) {
	s.widest = max(s.widest, len(line))
	fmt.Fprintf(s.terminal, "\r%-*s", s.widest, line)
}

// erase erases the line.
func (s *status) erase() {
	if s.widest > 0 {
		fmt.Fprintf(s.terminal, "\r%*s\r", s.widest, "")
	}
}

// progress is a writer that passes everything on to w, and shows on terminal how much of total was
// written. It shows nothing if total is 0.
type progress struct {
	w       io.Writer
	path    string // the name that errors have, in place of a temporary name
	status  status
	every   time.Duration
	total   int64
	written int64
	shown   time.Time
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.written += int64(n)
	if e, ok := err.(*fs.PathError); ok {
		err = &fs.PathError{Op: e.Op, Path: p.path, Err: e.Err}
	}
	if p.total > 0 && time.Since(p.shown) >= p.every {
		p.shown = time.Now()
		p.status.show(fmt.Sprintf("%s of %d MiB", bar(p.written, p.total), p.total>>20))
	}
	return n, err
}

// showEvery is how often a bar moves.
const showEvery = 200 * time.Millisecond

// bar returns a bar, and how much of total was done.
func bar(done, total int64) string {
	const width = 30
	done = min(done, total)
	filled := int(done * width / total)
	return fmt.Sprintf("[%s%s] %d %%", strings.Repeat("#", filled), strings.Repeat(" ", width-filled), done*100/total)
}

// during runs fn, and shows on a terminal what is being done and for how long. It is for work whose
// end nobody knows.
func during[T any](c *cli, what string, fn func() (T, error)) (T, error) {
	if !c.stderrIsTerminal() {
		return fn()
	}
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		showTime(&status{terminal: c.stderr}, what, ticks.C, end)
	}()
	defer func() {
		close(end)
		<-ended
	}()
	return fn()
}

// showTime shows at each tick how many of them there were, until end.
func showTime(s *status, what string, ticks <-chan time.Time, end <-chan struct{}) {
	defer s.erase()
	for n := 1; ; n++ {
		select {
		case <-end:
			return
		case <-ticks:
			s.show(fmt.Sprintf("%s... %d s", what, n))
		}
	}
}
