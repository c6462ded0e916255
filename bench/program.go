package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// A program is a part of a measurement that needs a process of its own. It reads orders from its
// standard input, and writes an answer to each of them to its standard output, as JSON. It ends
// when its input does.
type program interface {
	do(ctx context.Context, o order) (answer, error)
}

// programEnv is an environment variable with the name of the program that a process runs.
const programEnv = "LATCHKEY_BENCH_PROGRAM"

var programs = map[string]func() program{}

// Serve must be the first call of a program that measures [Groups], because some of them start the
// program once more, for what they need processes of their own for. In such a process, Serve does
// what the process is for, and exits. In any other process it returns at once.
func Serve() {
	serveResident()
	start := programs[os.Getenv(programEnv)]
	if start == nil {
		return
	}
	p, in, out := start(), json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			os.Exit(0) // the measurement is over
		}
		a, err := p.do(context.Background(), o)
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

// A process is a program that was started.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser

	mu     sync.Mutex
	orders *json.Encoder
	out    *json.Decoder
}

// startProgram starts a program, which ends with the Env.
func (e *Env) startProgram(name string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), programEnv+"="+name)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.orders, p.out = json.NewEncoder(p.in), json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	e.onClose(p.end)
	return p, nil
}

// end ends the process, and waits until it has ended.
func (p *process) end() error {
	if p.cmd == nil {
		return nil
	}
	err := errors.Join(p.in.Close(), p.cmd.Wait())
	p.cmd = nil
	return err
}

// do gives an order, and returns the answer.
func (p *process) do(o order) (a answer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.orders.Encode(o); err != nil {
		return a, fmt.Errorf("%s: %s: %w", p.name, o.Do, err)
	}
	if err := p.out.Decode(&a); err != nil {
		return a, fmt.Errorf("%s: %s: no answer: %w", p.name, o.Do, err)
	}
	if a.Err != "" {
		err = fmt.Errorf("%s: %s: %s", p.name, o.Do, a.Err)
	}
	return a, err
}
