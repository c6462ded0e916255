package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// This file has the command pipe: its lines, and its way to the store. pipe_calls.go has the calls.

// pipeProtocol is the version of the protocol. docs/pipe.md says when it changes.
const pipeProtocol = 1

const (
	// maxLine is the longest line of a request, in bytes, with its line feed: as much as the API
	// takes.
	maxLine = 1 << 20
	// maxUnderWay is how many requests are under way at once. Further lines stay in the pipe.
	maxUnderWay = 32
	// maxID is the longest ID of a request, in bytes, as it is written.
	maxID = 128
)

// endWithin is how long requests may go on after a signal. Tests change it.
var endWithin = 5 * time.Second

// errLongLine means that a line of a request is too long.
var errLongLine = fmt.Errorf("the line is longer than %d bytes", maxLine)

// pipe is one run of the command pipe.
type pipe struct {
	*cli
	init, noSocket bool

	mu   sync.Mutex
	way  *pipeWay // nil if there is none now
	told string   // the name of the way that was told last
	lost error    // of the last search for a way, if it failed

	searches atomic.Int64 // how many searches for a way have begun

	slots chan struct{} // has an element for each request whose answer is not written
	lines chan pipeLine // to write; has room for what the requests under way can put there
}

// A pipeLine is a line to write.
type pipeLine struct {
	text   []byte
	answer bool // to a request, which is no longer under way then
}

// A pipeWay is the way to the store.
type pipeWay struct {
	name   string // "file", "socket" or "etcd"
	client *admin.Client
	end    func() error
}

//go:embed pipe.txt
var pipeHelp string

func pipeCommand(c *cli) *cobra.Command {
	p := &pipe{cli: c}
	cmd := &cobra.Command{
		Use:   "pipe",
		Short: "Serve one program, in any language, on standard input and output",
		Long:  strings.TrimSpace(pipeHelp),
		Example: examples(
			"latchkey pipe --store keys.db --init",
			`echo '{"id":1,"call":"health"}' | latchkey pipe`,
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&p.init, "init", false, "make the store if it does not exist")
	addNoSocketFlag(cmd, &p.noSocket)
	addCostFlag(cmd, &c.opts.Cost)
	addMaxKeysFlag(cmd, &c.opts.MaxKeysPerUser)
	return cmd
}

// pipeGreeting is the first line that the pipe writes.
type pipeGreeting struct {
	Protocol int        `json:"protocol"`
	Version  string     `json:"version"`
	Way      string     `json:"way,omitempty"`
	Store    string     `json:"store,omitempty"`
	Error    *pipeError `json:"error,omitempty"`
}

// run answers requests until the input ends, until nobody takes the answers, or until ctx ends.
func (p *pipe) run(ctx context.Context) (err error) {
	if err := checkMaxKeys(p.opts.MaxKeysPerUser); err != nil {
		return err
	}
	store, err := p.path()
	if err != nil {
		return err
	}
	switch {
	case !etcd.IsURL(store):
		if store, err = filepath.Abs(store); err != nil {
			return err
		}
	case p.init:
		return usagef("--init is for a file; make a store on etcd with latchkey init")
	}
	// A program that has the store open already has its own options, and they hold.
	p.given = nil
	// With a handler for the signal, writing to a program that has ended is an error.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)

	greeting := pipeGreeting{Protocol: pipeProtocol, Version: version().String()}
	way, err := p.reachStore(ctx)
	if err != nil {
		told := errorOf(err)
		greeting.Error = &told
		return errors.Join(err, writeJSON(p.stdout, greeting))
	}
	defer func() { err = errors.Join(err, p.leave()) }()
	p.init = false // a store that is deleted now is not made anew
	greeting.Way, greeting.Store = way.name, store
	if err := writeJSON(p.stdout, greeting); err != nil {
		return err
	}
	return p.serve(ctx)
}

// serve answers requests.
func (p *pipe) serve(ctx context.Context) error {
	p.slots = make(chan struct{}, maxUnderWay)
	p.lines = make(chan pipeLine, 3*maxUnderWay) // an answer, and the events of two ways
	// The requests that are under way at a signal go on for a while.
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended, failed := make(chan error, 1), make(chan error, 1)
	go func() { ended <- p.read(ctx, working) }()
	go p.write(failed)
	var err error
	select {
	case err = <-ended:
	case err = <-failed:
		cancel() // nobody gets the answers
	case <-ctx.Done():
	}
	if waitErr := p.wait(ctx, cancel, failed); err == nil {
		err = waitErr
	}
	return err
}

// wait waits until no request is under way. After it has returned, none begins. After a signal it
// waits for a while, then ends the requests, and then gives up, because nobody takes the answers.
func (p *pipe) wait(ctx context.Context, cancel func(), failed <-chan error) (err error) {
	signaled := ctx.Done()
	var enough <-chan time.Time
	canceled := false
	for n := 0; n < cap(p.slots); {
		select {
		case p.slots <- struct{}{}:
			n++
		case err = <-failed:
			cancel()
		case <-signaled:
			signaled, enough = nil, time.After(endWithin)
		case <-enough:
			if canceled {
				return err
			}
			cancel()
			canceled, enough = true, time.After(endWithin/5)
		}
	}
	return err
}

// read begins a request for each line of the input, until the input or ctx ends. The requests have
// the context working.
//
// Errors: the operating system's error.
func (p *pipe) read(ctx, working context.Context) error {
	in := bufio.NewReaderSize(p.stdin, 64<<10)
	// Some programs begin every text with a byte-order mark.
	if mark, err := in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	for {
		line, err := readLine(in)
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return err
		}
		if len(bytes.TrimSpace(line)) == 0 && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case p.slots <- struct{}{}:
		}
		go func() { p.lines <- pipeLine{p.answer(working, line, err), true} }()
	}
}

// readLine returns the next line. The last line may end without a line feed. After a line that is
// too long, the next call goes on behind it.
//
// Errors: errLongLine; [io.EOF]; the operating system's error.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err != nil && (err != io.EOF || len(line) == 0 && !long):
			return nil, err
		case long:
			return nil, errLongLine
		}
		return line, nil
	}
}

// write writes lines. It sends the first error of writing to failed.
func (p *pipe) write(failed chan<- error) {
	out := bufio.NewWriterSize(p.stdout, 64<<10)
	var err error
	for line := range p.lines {
		if err == nil {
			_, err = out.Write(line.text)
			if err == nil && len(p.lines) == 0 {
				err = out.Flush()
			}
			if err != nil {
				failed <- err
			}
		}
		if line.answer {
			<-p.slots
		}
	}
}

// answer returns the answer to a line. readErr is the error of reading the line.
func (p *pipe) answer(ctx context.Context, line []byte, readErr error) []byte {
	id := json.RawMessage("null")
	var result any
	err := readErr
	if err == nil {
		var r pipeRequest
		r, err = parseRequest(line)
		if r.id != nil {
			id = r.id
		}
		if err == nil {
			result, err = p.call(ctx, r)
		}
	}
	if err == nil {
		if text, ok := result.(json.RawMessage); ok && text == nil {
			result = struct{}{} // the API has answered without a body
		}
		return encodeLine(struct {
			ID     json.RawMessage `json:"id"`
			Result any             `json:"result"`
		}{id, result})
	}
	return encodeLine(struct {
		ID    json.RawMessage `json:"id"`
		Error pipeError       `json:"error"`
	}{id, errorOf(err)})
}

// encodeLine returns a value as a line of JSON.
func encodeLine(v any) []byte {
	var line bytes.Buffer
	_ = writeJSON(&line, v) // what comes from the API can be encoded
	return line.Bytes()
}

// A pipeRequest is one request.
type pipeRequest struct {
	id     json.RawMessage // nil if the line has none that can be used
	call   string
	fields map[string]json.RawMessage
}

// parseRequest reads a line. It returns the ID also with most errors.
//
// Errors: errBadCall.
func parseRequest(line []byte) (r pipeRequest, err error) {
	if !utf8.Valid(line) {
		return r, fmt.Errorf("%w: the line is not in UTF-8", errBadCall)
	}
	if !json.Valid(line) {
		return r, fmt.Errorf("%w: the line is no JSON", errBadCall)
	}
	r.fields, err = readObject(line)
	id, ok := r.fields["id"]
	if usable := ok && len(id) <= maxID && strings.IndexByte(`"-0123456789`, id[0]) >= 0; usable {
		r.id = id
	} else if err == nil {
		err = fmt.Errorf("%w: it needs a field id, which is a number or a text, of at most %d bytes with its quotation marks", errBadCall, maxID)
	}
	if err != nil {
		return r, err
	}
	if call := r.fields["call"]; len(call) == 0 || call[0] != '"' || json.Unmarshal(call, &r.call) != nil {
		return r, fmt.Errorf("%w: it needs a field call, which is a text", errBadCall)
	}
	delete(r.fields, "id")
	delete(r.fields, "call")
	return r, nil
}

// call makes a call. If the program that has the store open has ended, call finds another way to
// the store, and makes the call there, unless a change may have been made already.
func (p *pipe) call(ctx context.Context, r pipeRequest) (any, error) {
	c := pipeCallsByName[r.call]
	if c == nil {
		return nil, fmt.Errorf("%w: %s", errNoCall, loggable.Text(r.call))
	}
	a, err := c.arguments(r.fields)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		way, err := p.reachStore(ctx)
		if err != nil {
			return nil, err
		}
		result, err := c.do(ctx, p, way.client, a)
		lost := way.name == "socket" && (errors.Is(err, admin.ErrNoAnswer) || errors.Is(err, latchkey.ErrClosed))
		if !lost || ctx.Err() != nil {
			return result, err
		}
		p.lose(way)
		if again || errors.Is(err, latchkey.ErrCommitUnknown) {
			return nil, err
		}
	}
}

// reachStore returns the way to the store. If there is none, reachStore finds one. Requests that
// wait together fail together, because each search can take as long as the option --wait says.
//
// Errors: errNoStore; an error of [latchkey.Open]; [admin.ErrUntrusted].
func (p *pipe) reachStore(ctx context.Context) (*pipeWay, error) {
	before := p.searches.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.way != nil {
		return p.way, nil
	}
	if p.lost != nil && p.searches.Load() > before {
		return nil, p.lost
	}
	p.searches.Add(1)
	way, err := p.findWay(ctx)
	p.lost = err
	if err != nil {
		return nil, err
	}
	if p.told != "" && p.told != way.name {
		p.lines <- pipeLine{text: encodeLine(struct {
			Event string `json:"event"`
			Way   string `json:"way"`
		}{"way", way.name})}
	}
	p.way, p.told = way, way.name // the first line tells the first way
	return way, nil
}

// findWay opens the store, or goes through the socket of the program that has it open.
//
// Errors: those of reachStore.
func (p *pipe) findWay(ctx context.Context) (*pipeWay, error) {
	way := &pipeWay{name: "socket"}
	path, err := p.existing()
	if errors.Is(err, errNoStore) {
		// A program may still have the store open whose file was deleted, and can save it.
		var dialErr error
		if way.client, way.end, dialErr = p.dial(ctx, p.store); dialErr == nil {
			return way, nil
		}
		if p.init {
			path, err = p.path()
		}
	}
	if err != nil {
		return nil, err
	}
	way.client, way.end, err = p.reachBy(ctx, path, false, func(wait time.Duration) (*admin.Client, func() error, error) {
		s, served, err := p.openServed(ctx, path, false, wait)
		if err != nil {
			return nil, nil, err
		}
		way.name = "file"
		endSocket := func() {}
		if etcd.IsURL(path) {
			way.name = "etcd"
		} else if !p.noSocket {
			endSocket = openSocket(s.Store, path, served, p.warnings())
		}
		return admin.Local(s.Store, &served), func() error {
			endSocket()
			return s.close()
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return way, nil
}

// lose forgets a way to the store that leads nowhere any more.
func (p *pipe) lose(way *pipeWay) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.way == way {
		p.way = nil
		_ = way.end()
	}
}

// leave ends the way to the store, if there is one.
func (p *pipe) leave() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.way == nil {
		return nil
	}
	return p.way.end()
}

// warnings returns a log of warnings, which goes to standard error.
func (p *pipe) warnings() *slog.Logger {
	c := *p.cli
	c.quiet = true
	format := newLogFormat()
	if p.json {
		format.value = "json"
	}
	return c.newLog(format)
}
