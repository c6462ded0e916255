//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// tutorial is a run of a tutorial as it is written: its Go program, and its commands in one shell.
type tutorial struct {
	*testing.T
	dir     string
	shell   *exec.Cmd
	input   io.Writer
	output  *bufio.Reader
	started []program         // the programs in the background
	ports   *strings.Replacer // from the ports of the tutorial to those that are free here
	written *strings.Replacer // the other way round
}

// A program is a program that the tutorial has started in the background.
type program struct {
	*exec.Cmd
	command string
}

// A block is one block of a tutorial, with the comment before it.
type block struct{ note, language, text string }

var blockForm = regexp.MustCompile("(?ms)(?:^<!-- ([^\n]*) -->\n)?^```(\\w+)\n(.*?)^```\n")

// blocks returns the blocks of a page.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	for _, m := range blockForm.FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{m[1], m[2], m[3]})
	}
	return all
}

func newTutorial(t *testing.T) *tutorial {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds two programs")
	}
	needs(t, "go", "bash", "curl")
	dir, err := os.MkdirTemp("", "lk") // short enough for a socket
	must(t, err)
	tut := &tutorial{T: t, dir: dir}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var there, back []string
	for _, port := range []string{"7443", "8080", "9090", "9091"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		_, free, err := net.SplitHostPort(l.Addr().String())
		must(t, err)
		must(t, l.Close())
		there, back = append(there, "127.0.0.1:"+port, "127.0.0.1:"+free), append(back, "127.0.0.1:"+free, "127.0.0.1:"+port)
	}
	tut.ports, tut.written = strings.NewReplacer(there...), strings.NewReplacer(back...)
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "bin", "latchkey"), ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The module of the program is that of the command, under another name.
	here, err := os.Getwd()
	must(t, err)
	module, err := os.ReadFile("go.mod")
	must(t, err)
	sums, err := os.ReadFile("go.sum")
	must(t, err)
	root := filepath.Dir(filepath.Dir(here))
	edited := strings.ReplaceAll(string(module), "=> ../..", "=> "+root)
	edited = regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(edited, "module example")
	must(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(edited), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600))
	tut.startShell()
	return tut
}

func (tut *tutorial) environ() []string {
	return append(os.Environ(), "PATH="+filepath.Join(tut.dir, "bin")+":"+os.Getenv("PATH"), "GOWORK=off", "GOFLAGS=-mod=mod", "LATCHKEY_STORE=", "LATCHKEY_COST=")
}

// startShell starts the shell of the commands.
func (tut *tutorial) startShell() {
	tut.Helper()
	tut.shell = exec.Command("bash")
	tut.shell.Dir, tut.shell.Env = tut.dir, tut.environ()
	read, write, err := os.Pipe()
	must(tut, err)
	tut.shell.Stdout, tut.shell.Stderr = write, write
	tut.input, err = tut.shell.StdinPipe()
	must(tut, err)
	must(tut, tut.shell.Start())
	must(tut, write.Close())
	tut.output = bufio.NewReader(read)
	tut.Cleanup(func() {
		_ = tut.input.(io.Closer).Close()
		_ = tut.shell.Wait()
	})
}

// endOfOutput is printed after each command.
const endOfOutput = "--- end of output ---"

// command runs a command in the shell, and returns what the command prints.
func (tut *tutorial) command(text string) (lines []string) {
	tut.Helper()
	// The subshell keeps the status of the command for the next one.
	_, err := fmt.Fprintf(tut.input, "{ %s\n} </dev/null; status=$?; echo '%s'; (exit $status)\n", tut.ports.Replace(text), endOfOutput)
	must(tut, err)
	for {
		line, err := tut.output.ReadString('\n')
		must(tut, err)
		line, ended := strings.CutSuffix(strings.TrimSuffix(line, "\n"), endOfOutput)
		if line != "" || !ended { // the output need not end in a line feed
			lines = append(lines, tut.written.Replace(line))
		}
		if ended {
			return lines
		}
	}
}

// begin starts a program, and waits until it has printed the lines of the tutorial.
func (tut *tutorial) begin(command string, want []string) {
	tut.Helper()
	cmd := exec.Command("bash", "-c", "exec "+tut.ports.Replace(command))
	cmd.Dir, cmd.Env = tut.dir, tut.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // they end together
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(tut, err)
	must(tut, cmd.Start())
	tut.started = append(tut.started, program{cmd, command})
	tut.Cleanup(func() { tut.end("", syscall.SIGINT) })
	var lines []string
	for output := bufio.NewReader(out); len(lines) < len(want); {
		line, err := output.ReadString('\n')
		if err != nil {
			tut.Fatalf("%s has ended: %v", command, err)
		}
		lines = append(lines, tut.written.Replace(strings.TrimSuffix(line, "\n")))
	}
	tut.compare(command, lines, want)
}

// end ends the programs whose command has a text, by a signal.
func (tut *tutorial) end(text string, by syscall.Signal) {
	tut.started = slices.DeleteFunc(tut.started, func(p program) bool {
		if !strings.Contains(p.command, text) {
			return false
		}
		_ = syscall.Kill(-p.Process.Pid, by)
		_ = p.Wait()
		return true
	})
}

var (
	idForm   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	timeForm = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// compare fails the test unless the output is that of the tutorial, apart from IDs and times. An
// ellipsis in the tutorial stands for anything.
func (tut *tutorial) compare(command string, got, want []string) {
	tut.Helper()
	masked := func(line string) string {
		return timeForm.ReplaceAllString(idForm.ReplaceAllString(line, "ID"), "TIME")
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(masked(want[i])), "…", ".*")
		same = regexp.MustCompile("^" + pattern + "$").MatchString(masked(got[i]))
	}
	if !same {
		tut.Errorf("$ %s\ngot:\n%s\nwant:\n%s", command, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// console runs the commands of a block, and compares their output.
func (tut *tutorial) console(b block) {
	tut.Helper()
	for part := range strings.SplitSeq(strings.TrimPrefix(b.text, "$ "), "\n$ ") {
		command, rest, _ := strings.Cut(strings.TrimSuffix(part, "\n"), "\n")
		var want []string
		if rest != "" {
			want = strings.Split(rest, "\n")
		}
		if strings.HasSuffix(b.note, "in the background") {
			tut.begin(command, want)
			continue
		}
		tut.compare(command, tut.command(command), want)
	}
}

// run runs the blocks of a tutorial, and fails the test unless there are as many as there must be.
// A block whose note names a file is written to that file, and any other program to main.go.
func (tut *tutorial) run(page string, wantPrograms, wantCommands int) {
	tut.Helper()
	programs, commands := 0, 0
	for _, b := range blocks(tut.T, page) {
		switch {
		case strings.HasPrefix(b.note, "not run"):
			continue
		case strings.HasPrefix(b.note, "the program ends"):
			tut.end("", syscall.SIGINT)
		case b.note == "the hub ends":
			tut.end("latchkey hub", syscall.SIGINT)
		case b.note == "the power is cut":
			tut.end("", syscall.SIGKILL)
		}
		file, named := strings.CutPrefix(b.note, "file: ")
		switch {
		case b.language == "console":
			commands++
			tut.console(b)
			continue
		case b.language == "go":
			programs++
			if !named {
				file = "main.go"
			}
		case !named:
			continue
		}
		must(tut, os.MkdirAll(filepath.Dir(filepath.Join(tut.dir, file)), 0o700))
		must(tut, os.WriteFile(filepath.Join(tut.dir, file), []byte(tut.ports.Replace(b.text)), 0o600))
	}
	if programs != wantPrograms || commands < wantCommands {
		tut.Errorf("the tutorial has %d programs and %d blocks of commands", programs, commands)
	}
}

func TestTheReadmeAndTheFirstStepsWorkAsWritten(t *testing.T) {
	tut := newTutorial(t)
	tut.run("../../README.md", 1, 0)
	tut.run("../../docs/first-steps.md", 3, 2)
}

func TestTheTutorialOfAdministrationWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/tutorial-administration.md", 1, 8)
}

func TestTheTutorialOfReplicationWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/tutorial-replication.md", 1, 12)
}

func TestTheTutorialOfAnEmbeddedDeviceWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/tutorial-edge.md", 1, 15)
}

func TestTheTutorialOfADesktopAppWorksAsWritten(t *testing.T) {
	needs(t, "python3")
	newTutorial(t).run("../../docs/tutorial-desktop.md", 1, 11)
}

func TestTheTutorialOfTheDoubleWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/tutorial-double.md", 1, 9)
}

func TestThePageAboutHTTPWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/http.md", 3, 6)
}

func TestThePageOfEverydayTasksWorksAsWritten(t *testing.T) {
	newTutorial(t).run("../../docs/everyday.md", 3, 6)
}

func TestThePageAboutAStolenEdgeWorksAsWritten(t *testing.T) {
	tut := newTutorial(t)
	for _, command := range []string{
		"export LATCHKEY_STORE=shop.db LATCHKEY_COST=light", "latchkey init",
		"latchkey user add ada@example.com --group shop-17", "latchkey key create --server --group shop-17 camera",
	} {
		tut.command(command)
	}
	tut.begin("latchkey hub --store shop.db --self-signed --addr 127.0.0.1:7443 --quiet", []string{"https://127.0.0.1:7443"})
	for _, till := range []string{"till-1", "till-2"} {
		tut.command("latchkey replica invite --group shop-17 --push use > invitation")
		tut.command("latchkey join https://127.0.0.1:7443 --store " + till + ".db --name " + till + " < invitation")
	}
	tut.begin("latchkey sync --follow --store till-2.db --quiet", []string{"following https://127.0.0.1:7443 as edge …"})
	tut.run("../../docs/stolen-edge.md", 0, 6)
}
