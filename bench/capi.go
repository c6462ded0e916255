package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// CAPI compares a cached login through the C library with one in Go, in the same process: a program
// in C, in which the loops run. It has no cases where there is no C compiler.
var CAPI = Group{
	Name:  "capi",
	Title: "What does a cached login cost through the C library?",
	Open: func(e *Env) ([]Case, error) {
		if _, err := exec.LookPath("gcc"); err != nil {
			e.Logf("capi is left out, because it needs gcc")
			return nil, nil
		}
		p, err := e.startC()
		if err != nil {
			return nil, err
		}
		return []Case{
			{Name: "go", Body: p.logins("go")},
			{Name: "c", Body: p.logins("c"), Ratios: []Ratio{{To: "go", Max: 1.7}}},
			{Name: "c/scopes=4", Body: p.logins("scopes=4"), Ratios: []Ratio{{To: "go"}}},
		}, nil
	},
}

// cProgram is capi/test/bench.c, which says what it reads and writes.
type cProgram struct {
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Scanner
}

// startC builds the C library and the program, and starts the program.
func (e *Env) startC() (*cProgram, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	root, err := repository()
	if err != nil {
		return nil, err
	}
	source := filepath.Join(root, "capi")
	program, library := filepath.Join(dir, "bench"), filepath.Join(dir, "liblatchkey.a")
	if _, err := run("go", "build", "-C", source, "-tags", "latchkey_test", "-buildmode", "c-archive", "-o", library, "."); err != nil {
		return nil, err
	}
	if _, err := run("gcc", "-O2", "-I", source, "-o", program, filepath.Join(source, "test", "bench.c"), library, "-lpthread"); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, filepath.Join(dir, "keys.db"))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e.onClose(func() error { return errors.Join(in.Close(), cmd.Wait()) })
	return &cProgram{in: in, out: bufio.NewScanner(out)}, nil
}

// logins makes the program log in. The time that it takes to ask the program counts, too, which is
// little beside the logins of a round.
func (p *cProgram) logins(of string) func(b *testing.B) error {
	return func(b *testing.B) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.ResetTimer()
		if _, err := fmt.Fprintln(p.in, of, b.N); err != nil {
			return err
		}
		if !p.out.Scan() {
			return errors.Join(errors.New("the program in C has ended"), p.out.Err())
		}
		return nil
	}
}
