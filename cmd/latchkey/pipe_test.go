package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// fieldsOf are the fields of one request.
type fieldsOf map[string]any

// piped is a run of the command pipe, and the program that has started it.
type piped struct {
	testing.TB
	in       io.WriteCloser
	out      *bufio.Reader
	exit     func() int // waits for the end, and returns the exit status
	greeting pipeGreeting
	last     int
	events   []string
	called   map[string]bool
}

// startPipe starts the command as a process, and reads its first line.
func startPipe(t testing.TB, args ...string) (*piped, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("latchkey", append([]string{"pipe"}, args...)...)
	cmd.Env = append(os.Environ(), "LATCHKEY_COST=light", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	ended := sync.OnceValue(func() int {
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	})
	t.Cleanup(func() {
		_ = in.Close()
		ended()
	})
	p := &piped{TB: t, in: in, out: bufio.NewReader(out), exit: ended, called: map[string]bool{}}
	p.greet()
	return p, cmd
}

// runPipe runs the command within the test, until ctx ends.
func runPipe(t *testing.T, ctx context.Context, path string) *piped {
	t.Helper()
	stdin, in, err := os.Pipe()
	must(t, err)
	out, stdout := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"pipe", "--store", path}, stdin, stdout, os.Stderr)
		_ = stdout.Close()
	}()
	ended := sync.OnceValue(func() int { return <-status })
	t.Cleanup(func() {
		_ = in.Close()
		_ = out.Close()
		ended()
	})
	p := &piped{TB: t, in: in, out: bufio.NewReaderSize(out, 16), exit: ended, called: map[string]bool{}}
	p.greet()
	return p
}

func (p *piped) greet() {
	p.Helper()
	must(p, json.Unmarshal(p.line(), &p.greeting))
	if p.greeting.Protocol != 1 || p.greeting.Version == "" {
		p.Fatalf("the first line is %+v", p.greeting)
	}
}

func (p *piped) line() []byte {
	p.Helper()
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		p.Fatalf("%q: %v", line, err)
	}
	return line
}

// write writes lines as they are.
func (p *piped) write(text string) {
	p.Helper()
	_, err := io.WriteString(p.in, text)
	must(p, err)
}

// send sends a request, and returns its ID.
func (p *piped) send(call string, fields fieldsOf) int {
	p.Helper()
	p.last++
	p.called[call] = true
	fields = maps.Clone(fields)
	if fields == nil {
		fields = fieldsOf{}
	}
	fields["id"], fields["call"] = p.last, call
	text, err := json.Marshal(fields)
	must(p, err)
	p.write(string(text) + "\n")
	return p.last
}

// An answered request.
type answered struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  pipeError       `json:"error"`
	Event  string          `json:"event"`
	Way    string          `json:"way"`
}

// next returns the next answer. It keeps the events before it.
func (p *piped) next() (a answered) {
	p.Helper()
	for {
		a = answered{}
		d := json.NewDecoder(bytes.NewReader(p.line()))
		d.DisallowUnknownFields()
		must(p, d.Decode(&a))
		if a.Event == "" {
			return a
		}
		p.events = append(p.events, a.Event+" "+a.Way)
	}
}

// refused makes a call, and fails the test unless the answer is an error with a code. Without a
// code, the answer is to be a result.
func (p *piped) refused(code, call string, fields fieldsOf) answered {
	p.Helper()
	id := p.send(call, fields)
	a := p.next()
	if string(a.ID) != fmt.Sprint(id) || a.Error.Code != code || (a.Result == nil) != (code != "") || (a.Error.Message == "") != (code == "") {
		p.Fatalf("%s %v: got %s %s %+v, want %q", call, fields, a.ID, a.Result, a.Error, code)
	}
	return a
}

// call makes a call, and returns the result.
func (p *piped) call(call string, fields fieldsOf) (result fieldsOf) {
	p.Helper()
	must(p, json.Unmarshal(p.refused("", call, fields).Result, &result))
	return result
}

// want fails the test unless a value in a result, at a path of names, is one.
func (p *piped) want(result fieldsOf, want any, path ...string) {
	p.Helper()
	var got any = map[string]any(result)
	for _, name := range path {
		object, _ := got.(map[string]any)
		got = object[name]
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.Fatalf("%s is %v, want %v, in %v", strings.Join(path, "."), got, want, result)
	}
}

// end ends the input, and fails the test unless the command succeeds.
func (p *piped) end() {
	p.Helper()
	_ = p.in.Close()
	if status := p.exit(); status != exitDone {
		p.Errorf("the exit status is %d", status)
	}
}

// shortDir returns a directory whose path is short enough for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lk")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// bothWays runs a test with a pipe that has the file open, and with one that goes through a socket.
// The store is new.
func bothWays(t *testing.T, test func(p *piped, path string)) {
	for _, way := range []string{"file", "socket"} {
		t.Run(way, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "keys.db")
			wantRun(t, 0, "", "init", "--store", path)
			wantRun(t, 0, "", "audit", "begin", "--store", path)
			if way == "socket" {
				if os.Getenv("LATCHKEY_WINE") != "" {
					t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
				}
				t.Setenv(socketEnv, "pipe") // see serveFirst
			}
			p, _ := startPipe(t, "--store", path, "--actor", "the app")
			if p.greeting.Way != way || p.greeting.Store != path {
				t.Fatalf("the first line is %+v", p.greeting)
			}
			test(p, path)
			p.end()
			checkStore(t, path)
		})
	}
}

func TestTheInputOfAPipeMayBeginWithAMarkAndEndWithoutALineFeed(t *testing.T) {
	s, trail, path := heldStore(t)
	listen(t, s, trail, path)
	p := runPipe(t, t.Context(), path)
	p.write("\ufeff" + `{"id":1,"call":"health"}` + "\n" + `{"id":2,"call":"health"}`)
	must(t, p.in.Close())
	if a, b := p.next(), p.next(); a.Result == nil || b.Result == nil || string(a.ID)+string(b.ID) != "12" && string(b.ID)+string(a.ID) != "12" {
		t.Errorf("got %+v and %+v", a, b)
	}
	if _, err := p.out.ReadByte(); err != io.EOF {
		t.Errorf("got %v after the last answer", err)
	}
}

// barrier is an API whose answer to a login waits until the test lets it go.
type barrier struct {
	path    string
	arrived chan string // the tokens of the logins
	release chan struct{}
	begun   atomic.Int64
}

// newBarrier serves the socket of a store. The answers have a size.
func newBarrier(t *testing.T, size int) *barrier {
	_, _, path := heldStore(t)
	b := &barrier{path: path, arrived: make(chan string, 1000), release: make(chan struct{})}
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/login" {
			var login admin.Login
			_ = json.NewDecoder(r.Body).Decode(&login)
			b.begun.Add(1)
			b.arrived <- login.Token
			<-b.release
		}
		fmt.Fprintf(w, `{"ok":true,"findings":[],"filler":"%s"}`, strings.Repeat("x", size))
	})
	return b
}

func TestASlowAnswerKeepsNoOtherWaiting(t *testing.T) {
	b := newBarrier(t, 0)
	p := runPipe(t, t.Context(), b.path)
	slow := p.send("login", fieldsOf{"token": "slow"})
	<-b.arrived
	p.call("health", nil)
	close(b.release)
	if a := p.next(); string(a.ID) != fmt.Sprint(slow) || a.Result == nil {
		t.Errorf("got %+v, want the answer to %d", a, slow)
	}
}

func TestTheEndOfTheInputWaitsForTheAnswers(t *testing.T) {
	b := newBarrier(t, 0)
	p := runPipe(t, t.Context(), b.path)
	for range 3 {
		p.send("login", fieldsOf{"token": "a"})
	}
	must(t, p.in.Close())
	for range 3 {
		<-b.arrived
	}
	close(b.release)
	for range 3 {
		if a := p.next(); a.Result == nil {
			t.Errorf("got %+v", a.Error)
		}
	}
	if status := p.exit(); status != exitDone {
		t.Errorf("the exit status is %d", status)
	}
}

// TestAProgramThatReadsNoAnswersGetsNoMoreOfThem fails if requests begin while nobody takes the
// answers to earlier ones.
func TestAProgramThatReadsNoAnswersGetsNoMoreOfThem(t *testing.T) {
	const n = 200
	b := newBarrier(t, 100<<10) // more than what is written at once
	close(b.release)
	p := runPipe(t, t.Context(), b.path)
	go func() {
		for i := range n {
			if _, err := fmt.Fprintf(p.in, "{\"id\":%d,\"call\":\"login\",\"token\":\"a\"}\n", i); err != nil {
				return
			}
		}
	}()
	for range maxUnderWay {
		<-b.arrived
	}
	seen := map[string]bool{}
	for i := range n {
		if begun := b.begun.Load(); begun > int64(i+maxUnderWay+2) {
			t.Fatalf("%d requests have begun after %d answers were read", begun, i)
		}
		seen[string(p.next().ID)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d requests were answered", len(seen), n)
	}
}

func TestASignalEndsAPipeAfterTheAnswers(t *testing.T) {
	b := newBarrier(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	p := runPipe(t, ctx, b.path)
	p.send("login", fieldsOf{"token": "a"})
	<-b.arrived
	cancel()
	close(b.release)
	if a := p.next(); a.Result == nil {
		t.Errorf("got %+v", a.Error)
	}
	if status := p.exit(); status != exitDone {
		t.Errorf("the exit status is %d", status)
	}
}

func TestASignalEndsAPipeWhoseRequestsDoNotEnd(t *testing.T) {
	endWithin = 1
	t.Cleanup(func() { endWithin = 5e9 })
	b := newBarrier(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	p := runPipe(t, ctx, b.path)
	p.send("login", fieldsOf{"token": "a"})
	<-b.arrived
	cancel()
	if status := p.exit(); status != exitDone { // also if nobody reads the answer
		t.Errorf("the exit status is %d", status)
	}
	close(b.release)
}

func TestSIGTERMClosesTheFileOfAPipe(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	path := filepath.Join(shortDir(t), "keys.db")
	p, cmd := startPipe(t, "--store", path, "--init")
	p.call("health", nil)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if status := p.exit(); status != exitDone {
		t.Errorf("the exit status is %d", status)
	}
	if _, err := os.Lstat(path + ".sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}
}

// TestAPipeWhoseProgramHasDiedClosesTheFile breaks both ends while answers are on their way.
func TestAPipeWhoseProgramHasDiedClosesTheFile(t *testing.T) {
	path := filepath.Join(shortDir(t), "keys.db")
	cmd := exec.Command("latchkey", "pipe", "--store", path, "--init")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, stdout, err := os.Pipe()
	must(t, err)
	cmd.Stdout = stdout
	must(t, cmd.Start())
	must(t, stdout.Close())
	_, err = bufio.NewReader(out).ReadBytes('\n')
	must(t, err)
	must(t, out.Close())
	for i := range 100 {
		fmt.Fprintf(in, "{\"id\":%d,\"call\":\"health\"}\n", i)
	}
	must(t, in.Close())
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != exitFailed { // -1 after a signal
		t.Errorf("the exit status is %d", status)
	}
	if _, err := os.Lstat(path + ".sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}
	checkStore(t, path)
}

// TestAPipeGoesOnWithoutTheOneThatHadTheFile is an app that runs three times.
func TestAPipeGoesOnWithoutTheOneThatHadTheFile(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	path := filepath.Join(shortDir(t), "keys.db")
	first, _ := startPipe(t, "--store", path, "--init", "--max-keys", "3")
	second, _ := startPipe(t, "--store", path, "--init", "--max-keys", "3")
	third, _ := startPipe(t, "--store", path, "--init", "--max-keys", "3")
	if ways := first.greeting.Way + second.greeting.Way + third.greeting.Way; ways != "filesocketsocket" {
		t.Fatalf("the ways are %s", ways)
	}
	made := second.call("create_server_key", fieldsOf{"name": "job"})
	login := fieldsOf{"token": made["token"]}
	first.call("login", login)
	third.call("login", login)
	wantRun(t, 0, "", "key", "list", "--store", path) // the command goes through the socket, too
	first.end()
	second.call("disable_key", fieldsOf{"owner": "server", "key": made["key"].(map[string]any)["id"]})
	third.refused("key-disabled", "login", login)
	second.end()
	third.refused("key-disabled", "login", login)
	if got := fmt.Sprint(first.events, second.events, third.events); got != "[] [way file] [way file]" {
		t.Errorf("the events are %s", got)
	}
	third.end()
	checkStore(t, path)
}

func TestARequestWithoutAnAnswerIsRepeatedUnlessItMayHaveChangedSomething(t *testing.T) {
	_, _, path := heldStore(t)
	var mu sync.Mutex
	var requests []string
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, r.Method+" "+r.URL.Path)
		if len(requests) == 2 { // the repetition
			_, _ = w.Write([]byte(`{}`))
			return
		}
		panic(http.ErrAbortHandler)
	})
	p := runPipe(t, t.Context(), path)
	p.call("login", fieldsOf{"token": "a"})
	p.refused("commit-unknown", "disable_group", fieldsOf{"group": "acme"})
	p.refused("no-answer", "login", fieldsOf{"token": "a"})
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(requests), "[POST /v1/login POST /v1/login PATCH /v1/groups/acme POST /v1/login POST /v1/login]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(p.events) > 0 {
		t.Errorf("the events are %v, although the way is the same", p.events)
	}
}

func TestRequestsThatWaitForAStoreFailTogether(t *testing.T) {
	_, _, path := heldStore(t)
	p := &pipe{cli: &cli{store: path}}
	const n = 30
	errs := make(chan error, n)
	p.mu.Lock()
	var begun sync.WaitGroup
	for range n {
		begun.Add(1)
		go func() {
			begun.Done()
			_, err := p.reachStore(t.Context())
			errs <- err
		}()
	}
	begun.Wait()
	p.mu.Unlock()
	for range n {
		if err := <-errs; !errors.Is(err, latchkey.ErrLocked) {
			t.Errorf("got %v, want ErrLocked", err)
		}
	}
	if searches := p.searches.Load(); searches >= n { // some requests may have come late
		t.Errorf("%d requests made %d searches", n, searches)
	}
	if _, err := p.reachStore(t.Context()); !errors.Is(err, latchkey.ErrLocked) || p.searches.Load() < 2 {
		t.Errorf("a later request got %v, and there were %d searches", err, p.searches.Load())
	}
}

func TestAFindingHasItsOwnCodeAndNotThatOfItsCause(t *testing.T) {
	_, _, path := heldStore(t)
	impostor(t, path, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ok":false,"findings":[{"type":"urn:latchkey:problem:last-use-failed","also":["urn:latchkey:problem:commit-unknown"],"title":"a"}]}`)
	})
	p := runPipe(t, t.Context(), path)
	p.want(p.call("health", nil), "[map[code:last-use-failed message:a]]", "findings")
}

func TestAPipeWithoutAStoreSaysSoInItsFirstLine(t *testing.T) {
	s, _, held := heldStore(t)
	dir := shortDir(t)
	other := filepath.Join(dir, "other")
	must(t, os.WriteFile(other, bytes.Repeat([]byte("no store "), 10_000), 0o600))
	for _, tt := range []struct {
		store, code string
		status      int
	}{
		{filepath.Join(dir, "none.db"), "no-store", exitNotFound},
		{held, "locked", exitLocked},
		{other, "not-a-store", exitDamaged},
	} {
		status, stdout, stderr := runs(t, "pipe", "--store", tt.store, "--wait", "0s")
		var greeting pipeGreeting
		must(t, json.Unmarshal([]byte(stdout), &greeting))
		if status != tt.status || greeting.Error == nil || greeting.Error.Code != tt.code || greeting.Protocol != 1 || greeting.Way != "" || stderr == "" {
			t.Errorf("%s: got %d, %s and %s", tt.store, status, stdout, stderr)
		}
	}
	must(t, s.Close())
	wantRun(t, exitUsage, "--init is for a file", "pipe", "--store", "etcd://localhost/keys", "--init")
	wantRun(t, exitUsage, "--max-keys must be at least 1", "pipe", "--store", held, "--max-keys", "0")
}

// TestTheExamplesOfThePipeWork runs the programs in examples/pipe, both ways.
func TestTheExamplesOfThePipeWork(t *testing.T) {
	const want = `made a user and a key
good: the token is that of ada@example.com
refused: key-disabled
`
	for _, example := range [][]string{
		{"python3", "../../examples/pipe/python/example.py"},
		{"node", "../../examples/pipe/node/example.mjs"},
	} {
		for _, way := range []string{"file", "socket"} {
			t.Run(example[0]+"/"+way, func(t *testing.T) {
				needs(t, example[0])
				path := filepath.Join(shortDir(t), "keys.db")
				if way == "socket" {
					s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
					must(t, err)
					defer s.Close()
					socket, err := admin.Listen(s, path, nil)
					must(t, err)
					defer socket.Close()
				}
				cmd := exec.Command(example[0], append(example[1:], path)...)
				cmd.Env = append(os.Environ(), "LATCHKEY_COST=light")
				out, err := cmd.CombinedOutput()
				if err != nil || string(out) != want {
					t.Errorf("got %v and\n%s", err, out)
				}
				if way == "file" {
					checkStore(t, path)
				}
			})
		}
	}
}

// TestNoCallOfTheExamplesHangs has more and longer requests under way than the pipe holds, and then
// kills the command.
func TestNoCallOfTheExamplesHangs(t *testing.T) {
	source, err := os.ReadFile("../../examples/pipe/node/example.mjs")
	must(t, err)
	class, _, found := strings.Cut(strings.ReplaceAll(string(source), "#process", "process"), "\nconst latchkey = ")
	if !found {
		t.Fatal("the example for Node has another form")
	}
	for _, example := range [][]string{
		{"python3", "-c", `
import sys, threading
sys.path.insert(0, "../../examples/pipe/python")
sys.dont_write_bytecode = True
import example
latchkey = example.Latchkey(sys.argv[1])
def make(name): latchkey.call("create_server_key", name=name, metadata={"m": "é" * 2000})
threads = [threading.Thread(target=make, args=(str(i),), daemon=True) for i in range(200)]
for t in threads: t.start()
for t in threads: t.join()
print(latchkey.call("stats")["keys"])
latchkey.process.kill()
latchkey.reader.join()
try: latchkey.call("health")
except OSError as e: print(e)
`},
		{"node", "--input-type=module", "-e", class + `
const latchkey = await Latchkey.open(process.argv[1]);
const make = (_, i) => latchkey.call("create_server_key", { name: String(i), metadata: { m: "é".repeat(2000) } });
await Promise.all(Array.from({ length: 200 }, make));
console.log((await latchkey.call("stats")).keys);
latchkey.process.kill("SIGKILL");
await new Promise((closed) => latchkey.process.on("close", closed));
await latchkey.call("health").catch(() => console.log("latchkey has ended"));
`},
	} {
		t.Run(example[0], func(t *testing.T) {
			needs(t, example[0])
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, example[0], append(example[1:], filepath.Join(shortDir(t), "keys.db"))...)
			cmd.Env = append(os.Environ(), "LATCHKEY_COST=light")
			cmd.Stderr = os.Stderr
			if out, err := cmd.Output(); err != nil || string(out) != "200\nlatchkey has ended\n" {
				t.Errorf("got %v and %s", err, out)
			}
		})
	}
}

// BenchmarkPipeLogin logs in with one key again and again, by a process of the command. So many
// requests are under way at once as the name says. The metric cpu-µs/login is the time that the
// process has used, which does not depend on what else the machine does.
func BenchmarkPipeLogin(b *testing.B) {
	for _, way := range []string{"file", "socket"} {
		for _, underWay := range []int{1, 16} {
			b.Run(fmt.Sprintf("way=%s/under-way=%d", way, underWay), func(b *testing.B) {
				path := filepath.Join(shortDir(b), "keys.db")
				if way == "socket" {
					holder, _ := startPipe(b, "--store", path, "--init")
					defer holder.end()
				}
				p, cmd := startPipe(b, "--store", path, "--init")
				if p.greeting.Way != way {
					b.Fatalf("the way is %s", p.greeting.Way)
				}
				login := fieldsOf{"token": p.call("create_server_key", fieldsOf{"name": "job"})["token"]}
				p.call("login", login)
				line := fmt.Sprintf("{\"id\":1,\"call\":\"login\",\"token\":%q}\n", login["token"])
				sent := 0
				for b.Loop() {
					for ; sent < underWay; sent++ {
						p.write(line)
					}
					if answer := p.line(); !bytes.HasPrefix(answer, []byte(`{"id":1,"result":{"key_id"`)) {
						b.Fatalf("got %s", answer)
					}
					sent--
				}
				for ; sent > 0; sent-- {
					p.line()
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
				p.end()
				cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/login")
			})
		}
	}
}

// needs skips the test if a program is missing. In CI it fails, except under Wine, which has no
// such programs.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		} else if os.Getenv("CI") != "" && runtime.GOOS != "windows" {
			t.Fatal(err)
		} else {
			t.Skip(err)
		}
	}
}
