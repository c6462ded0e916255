package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// startServe runs serve in this process, like a shell, and returns its URL, its log and a channel
// with its exit status.
func startServe(t *testing.T, ctx context.Context, args ...string) (url string, log *safeBuffer, status <-chan int) {
	t.Helper()
	out, stdout := io.Pipe()
	log, ended := newSafeBuffer(), make(chan int, 1)
	if !slices.Contains(args, "--addr") {
		args = append(args, "--addr", "127.0.0.1:0")
	}
	go func() {
		ended <- run(ctx, append([]string{"serve"}, args...), os.Stdin, stdout, log)
		stdout.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("serve has ended: %s", log)
	}
	return strings.TrimSpace(line), log, ended
}

// safeBuffer is a buffer that can be read while something is written to it.
type safeBuffer struct {
	mu      sync.Mutex
	written sync.Cond
	buf     bytes.Buffer
}

func newSafeBuffer() *safeBuffer {
	b := &safeBuffer{}
	b.written.L = &b.mu
	return b
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written.Broadcast()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// await returns as soon as the buffer contains s.
func (b *safeBuffer) await(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !strings.Contains(b.buf.String(), s) {
		b.written.Wait()
	}
}

// halfSent sends the header of a request, and returns when the server waits for the body. send
// sends the body, and reply receives the status of the answer, or 0 if there is none.
func halfSent(t *testing.T, ctx context.Context, url string) (send func(rest string), reply <-chan int) {
	t.Helper()
	body, write := io.Pipe()
	begun := make(chan struct{})
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { close(begun) }})
	r, err := http.NewRequestWithContext(ctx, "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Expect", "100-continue")
	statuses := make(chan int, 1)
	go func() {
		transport := &http.Transport{ExpectContinueTimeout: time.Hour}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			statuses <- 0
			return
		}
		resp.Body.Close()
		statuses <- resp.StatusCode
	}()
	<-begun
	return func(rest string) {
		_, _ = io.WriteString(write, rest)
		write.Close()
	}, statuses
}

func TestServeAnswersRequestsInProgressBeforeItEnds(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, end := context.WithCancel(t.Context())
	url, log, status := startServe(t, ctx, "--ephemeral")
	send, reply := halfSent(t, t.Context(), url+"/api/client/v2.0/app/demo/auth/providers/local-userpass/register")
	end()
	log.await("msg=ending")
	send(`{"email":"ada@example.com","password":"correct horse"}`)
	if got := <-reply; got != http.StatusCreated {
		t.Errorf("the request got status %d", got)
	}
	if got := <-status; got != exitDone {
		t.Errorf("serve ended with status %d: %s", got, log)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// pipes is a listener without a network, so that its connections can be used in a synctest bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestServeCutsOffRequestsInProgressAfterFourSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &server{log: slog.New(slog.NewTextHandler(&log, nil))}
		begun, ended := make(chan struct{}), make(chan struct{})
		srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			close(ended)
		})}
		listener := make(pipes)
		go srv.Serve(listener)
		client, conn := net.Pipe()
		listener <- conn
		go io.WriteString(client, "GET / HTTP/1.1\r\nHost: double\r\n\r\n")
		<-begun

		told := time.Now()
		if err := s.end(t.Context(), srv); err != nil {
			t.Error(err)
		}
		if took := time.Since(told); took != 4*time.Second {
			t.Errorf("it took %v", took)
		}
		if reply, err := io.ReadAll(client); err != nil || len(reply) > 0 {
			t.Errorf("the client got %q, %v", reply, err)
		}
		<-ended
		if !strings.Contains(log.String(), "requests in progress were cut off") {
			t.Errorf("the log is %s", &log)
		}
	})
}

func TestASecondSignalEndsServeAtOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot send itself an interrupt on Windows")
	}
	t.Setenv("TMPDIR", t.TempDir())
	url, log, status := startServe(t, t.Context(), "--ephemeral")
	send, reply := halfSent(t, t.Context(), url+"/api/client/v2.0/app/demo/auth/providers/local-userpass/register")
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, awaited := range []string{"msg=ending", "asked_twice=true"} {
		if err := self.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		log.await(awaited)
	}
	if got := <-status; got != exitDone {
		t.Errorf("serve ended with status %d: %s", got, log)
	}
	send("")
	if got := <-reply; got != 0 {
		t.Errorf("the request got status %d", got)
	}
}

func TestTheDefaultCostIsLightInAnEphemeralStore(t *testing.T) {
	given := latchkey.Cost{Memory: 1 << 20, Passes: 1, Lanes: 1}
	for _, tt := range []struct {
		ephemeral   bool
		given, want latchkey.Cost
	}{
		{ephemeral: true, want: latchkey.LightCost},
		{ephemeral: false, want: latchkey.Cost{}}, // the default of the library
		{ephemeral: true, given: given, want: given},
		{ephemeral: false, given: given, want: given},
	} {
		s := &server{ephemeral: tt.ephemeral, cost: tt.given}
		s.setCost()
		if s.stores.Cost != tt.want || s.stores.HashMemory < int64(tt.want.Memory)<<10 {
			t.Errorf("%+v: got %+v and %d bytes", tt, s.stores.Cost, s.stores.HashMemory)
		}
	}
}

func TestAnEphemeralStoreHasNoLimitsByDefault(t *testing.T) {
	for _, tt := range []struct {
		ephemeral   bool
		given, want int
	}{{true, 0, -1}, {true, 5, 5}, {false, 0, 0}, {false, -1, -1}} {
		s := &server{ephemeral: tt.ephemeral}
		s.opts.WriteLimit, s.opts.MailLimit = tt.given, tt.given
		s.setLimits()
		if s.opts.WriteLimit != tt.want || s.opts.MailLimit != tt.want {
			t.Errorf("%+v: got %d and %d", tt, s.opts.WriteLimit, s.opts.MailLimit)
		}
	}
}

func TestServeWarnsOfAnAddressThatOtherMachinesCanReach(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	url, log, status := startServe(t, ctx, "--ephemeral", "--addr", "0.0.0.0:0", "--quiet")
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("the URL is %s", url)
	}
	end()
	<-status
	if !strings.Contains(log.String(), "other machines can reach this address") || !strings.Contains(log.String(), "give --public-url") {
		t.Errorf("the log is %s", log)
	}
}

// serving is the process of serve that a script has started.
type serving struct {
	cmd *exec.Cmd
	url string
}

// serve starts latchkey serve on a free port, waits until it is ready, and sets the variable URL:
// serve FLAGS. The log of serve goes to the file log.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	bin, _, _ := strings.Cut(ts.Getenv("PATH"), string(filepath.ListSeparator))
	name := "latchkey"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	cmd := exec.Command(filepath.Join(bin, name), append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	for _, variable := range []string{"PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LATCHKEY_STORE", "LATCHKEY_COST", "GORACE", "GOCOVERDIR"} {
		if value := ts.Getenv(variable); value != "" {
			cmd.Env = append(cmd.Env, variable+"="+value)
		}
	}
	log, err := os.Create(ts.MkAbs("log"))
	ts.Check(err)
	defer log.Close()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	s := ts.Value(serving{}).(*serving)
	*s = serving{cmd: cmd}
	ts.Defer(func() {
		if s.cmd == cmd {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		ts.Fatalf("serve ended: %s", ts.ReadFile("log"))
	}
	s.url = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(line)
	fmt.Fprint(ts.Stdout(), line)
	ts.Setenv("URL", s.url)
}

// request sends a request, and prints the status and the body of the reply: request METHOD PATH
// [BODY] [HEADER:VALUE ...]. PATH can be a whole URL. The headers of the reply go to the file
// headers.
func request(ts *testscript.TestScript, neg bool, args []string) {
	body := ""
	if len(args) > 2 {
		body = args[2]
	}
	url := args[1]
	if strings.HasPrefix(url, "/") {
		url = ts.Value(serving{}).(*serving).url + url
	}
	r, err := http.NewRequest(args[0], url, strings.NewReader(body))
	ts.Check(err)
	for _, header := range args[min(3, len(args)):] {
		name, value, _ := strings.Cut(header, ":")
		r.Header.Set(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	// Each request has a new connection, because an idle one may be closed just when it is reused.
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if (err != nil) != neg {
		ts.Fatalf("%s %s: error %v", args[0], args[1], err)
	}
	if err != nil {
		return
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, bytes.TrimSpace(reply))
	var headers bytes.Buffer
	ts.Check(resp.Header.Write(&headers))
	ts.Check(os.WriteFile(ts.MkAbs("headers"), headers.Bytes(), 0o666))
}

// replied sets a variable to a field of the last reply: replied VARIABLE FIELD.
func replied(ts *testscript.TestScript, _ bool, args []string) {
	_, body, _ := strings.Cut(ts.ReadFile("stdout"), " ")
	var fields map[string]any
	ts.Check(json.Unmarshal([]byte(body), &fields))
	ts.Setenv(args[0], fields[args[1]].(string))
}

// mailed sets the variables TOKEN and TOKENID to those of the last mail in the log.
func mailed(ts *testscript.TestScript, _ bool, _ []string) {
	all := regexp.MustCompile(`token=([0-9a-f]{128}) token_id=([0-9a-f]{24})`).FindAllStringSubmatch(ts.ReadFile("log"), -1)
	if len(all) == 0 {
		ts.Fatalf("there is no mail in the log")
	}
	ts.Setenv("TOKEN", all[len(all)-1][1])
	ts.Setenv("TOKENID", all[len(all)-1][2])
}

// glob fails unless the number of files that match a pattern is as given: glob 0 *.tmp.
func glob(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if want := args[0]; fmt.Sprint(len(names)) != want {
		ts.Fatalf("%d files match, want %s: %q", len(names), want, names)
	}
}

// shutdown ends serve, and fails unless serve ends with status 0.
func shutdown(ts *testscript.TestScript, _ bool, _ []string) {
	s := ts.Value(serving{}).(*serving)
	cmd := s.cmd
	s.cmd = nil
	if runtime.GOOS == "windows" { // Windows has no signals for other processes
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return
	}
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("serve ended with %v: %s", err, ts.ReadFile("log"))
	}
}

func TestAStoreGoesBackWithItsClockOnlyIfATestMovesThat(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server server
		want   bool
	}{
		{"plain", server{}, false},
		{"a seed without a value", server{seed: &seedDocument{}}, false},
		{"--control", server{control: true}, true},
		{"a seed with a value", server{seed: &seedDocument{Seed: appservices.Seed{Value: "a value of a seed"}}}, true},
	} {
		if tt.server.startClock(); tt.server.stores.TestClock != tt.want {
			t.Errorf("%s: TestClock is %t, want %t", tt.name, tt.server.stores.TestClock, tt.want)
		}
	}
}
