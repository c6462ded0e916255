package torture_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// A process that writes without pause is killed, and its file is compared with its journal. The
// file must have every acknowledged change. A change that was in progress is there as a whole or
// not at all. The next process continues in the same file.
func TestAKilledProcessLosesNoAcknowledgedChangeAndLeavesNoneInPart(t *testing.T) {
	seed := form.NewSeed(t)
	random := form.NewRandom(seed, 0)
	var path string
	held := make([]*holdings, 4)
	changes, under := 0, 0
	for round := range form.Amount(50, 1000) {
		if round%50 == 0 { // a new file, because many tombstones slow the rounds down
			path = filepath.Join(t.TempDir(), "keys.db")
			for i := range held {
				held[i] = newHoldings()
			}
		}
		entries := runAndKill(t, random, assignment{path, seed, round, held})
		pending := make([]*holdings, len(held))
		for _, e := range entries {
			switch {
			case e.Wrong != "":
				t.Fatalf("round %d, writer %d: %s", round, e.Writer, e.Wrong)
			case e.Done:
				held[e.Writer], pending[e.Writer] = e.After, nil
				changes++
			default:
				pending[e.Writer] = e.After
				under++
			}
		}
		s := openFile(t, path, &latchkey.Options{Cost: light})
		for i := range held {
			held[i] = settle(t, s, round, i, held[i], pending[i])
		}
		checkAndClose(t, s)
		if t.Failed() {
			t.Fatalf("round %d: the file is at fault", round)
		}
	}
	t.Logf("%d changes were acknowledged, and %d were under way when their process was killed", changes, under-changes)
}

// settle compares the store with the acknowledged state of a writer, and with the state after the
// change in progress. It returns the state that the store has, and checks the writer's logins.
func settle(t *testing.T, s *latchkey.Store, round, writer int, held, pending *holdings) *holdings {
	t.Helper()
	read, err := readHoldings(t.Context(), s, writerPrefix(writer))
	must(t, err)
	if !held.foundIn(read) {
		if pending == nil || !pending.foundIn(read) {
			t.Fatalf("round %d, writer %d: the store has\n%s\nwant the acknowledged state\n%s\nor the state after the change in progress\n%s", round, writer, read, held, pending)
		}
		held = pending
	}
	for _, wrong := range held.checkLogins(t.Context(), s) {
		t.Errorf("round %d, writer %d: %s", round, writer, wrong)
	}
	return held
}

// runAndKill runs the writers, kills them at a random moment, and returns the entries of the
// journal.
func runAndKill(t *testing.T, random *rand.Rand, a assignment) []entry {
	t.Helper()
	input, err := json.Marshal(a)
	must(t, err)
	cmd := exec.Command(os.Args[0])
	// A race must end the process at once, because otherwise the kill comes before the race
	// detector's report.
	cmd.Env = append(os.Environ(), programVariable+"=writers", "GORACE=halt_on_error=1")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	// If the store hangs, no more lines come, so kill the process after five minutes.
	watchdog := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()

	// One time in eight, the wait begins at the start of the process, to hit the opening of the
	// file. Otherwise it begins after some lines of the journal, to hit a change.
	lines := bufio.NewReader(out)
	var entries []entry
	wait, after := time.Duration(random.IntN(2_000))*time.Microsecond, random.IntN(200)
	if random.IntN(8) == 0 {
		wait, after = time.Duration(random.IntN(20_000))*time.Microsecond, 0
	}
	for len(entries) < after {
		entries = append(entries, readEntry(t, lines, &stderr)...)
	}
	<-time.After(wait)
	if !watchdog.Stop() {
		t.Errorf("round %d: the writers stood still for five minutes", a.Round)
	}
	must(t, cmd.Process.Kill())
	for {
		more := readEntry(t, lines, nil)
		if more == nil {
			break
		}
		entries = append(entries, more...)
	}
	_ = cmd.Wait() // it was killed
	return entries
}

// readEntry reads one line of a journal. At the end of the journal it returns no entry if stderr is
// nil. Otherwise the process should still run, and readEntry ends the test with the output of the
// process. The last line may be cut short. Its change was never begun or never acknowledged.
func readEntry(t *testing.T, lines *bufio.Reader, stderr *bytes.Buffer) []entry {
	t.Helper()
	line, err := lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		if stderr != nil {
			t.Fatalf("the writers ended: %s", stderr)
		}
		return nil
	}
	must(t, err)
	var e entry
	must(t, json.Unmarshal(line, &e))
	return []entry{e}
}
