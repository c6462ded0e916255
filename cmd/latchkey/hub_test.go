package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// programs are the hubs and edges that a script has started, by the name of the script's command.
type programs map[string]*exec.Cmd

type programsKey struct{}

// hub starts latchkey hub on a free port, waits until it is ready, and sets the variable HUB to its
// URL: hub FLAGS. The log of the hub goes to the file hub.log.
func hub(ts *testscript.TestScript, _ bool, args []string) {
	address := "127.0.0.1:0"
	if at := ts.Getenv("HUB"); at != "" { // where edges expect it
		_, address, _ = strings.Cut(at, "://")
	}
	line := startProgram(ts, "hub", append([]string{"hub", "--addr", address}, args...))
	ts.Setenv("HUB", regexp.MustCompile(`https?://127\.0\.0\.1:\d+`).FindString(line))
}

// follow starts latchkey sync --follow, and waits until it is ready: follow FLAGS. The log goes to
// the file follow.log.
func follow(ts *testscript.TestScript, _ bool, args []string) {
	startProgram(ts, "follow", append([]string{"sync", "--follow"}, args...))
}

// startProgram starts the command, prints the first line of its output, and returns the line.
func startProgram(ts *testscript.TestScript, name string, args []string) string {
	bin, _, _ := strings.Cut(ts.Getenv("PATH"), string(filepath.ListSeparator))
	file := "latchkey"
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	cmd := exec.Command(filepath.Join(bin, file), args...)
	cmd.Dir = ts.MkAbs(".")
	for _, variable := range []string{"PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LATCHKEY_STORE", "LATCHKEY_COST", "GORACE", "GOCOVERDIR"} {
		if value := ts.Getenv(variable); value != "" {
			cmd.Env = append(cmd.Env, variable+"="+value)
		}
	}
	log, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer log.Close()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	running := ts.Value(programsKey{}).(programs)
	running[name] = cmd
	ts.Defer(func() {
		if running[name] == cmd {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		ts.Fatalf("%s ended: %s", name, ts.ReadFile(name+".log"))
	}
	fmt.Fprint(ts.Stdout(), line)
	return line
}

// stop ends what hub or follow has started, and fails unless it ends with status 0: stop hub.
func stop(ts *testscript.TestScript, _ bool, args []string) {
	running := ts.Value(programsKey{}).(programs)
	cmd := running[args[0]]
	delete(running, args[0])
	if runtime.GOOS == "windows" { // Windows has no signals for other processes
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return
	}
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%s ended with %v: %s", args[0], err, ts.ReadFile(args[0]+".log"))
	}
}

// ended waits until what hub or follow has started has ended by itself, with a status: ended 5
// follow.
func ended(ts *testscript.TestScript, _ bool, args []string) {
	running := ts.Value(programsKey{}).(programs)
	cmd := running[args[1]]
	delete(running, args[1])
	_ = cmd.Wait()
	if got := fmt.Sprint(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("%s ended with status %s, want %s: %s", args[1], got, args[0], ts.ReadFile(args[1]+".log"))
	}
}

// eventually runs a command until its output matches a regular expression: eventually PATTERN
// latchkey replica list.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
		_ = ts.Exec(args[1], args[2:]...)
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("the output never matches %s: %s", args[0], ts.ReadFile("stdout"))
}
