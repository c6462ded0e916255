package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// wantFinding checks the state and a part of the text of a finding. A finding must have advice
// unless it is good.
func wantFinding(t *testing.T, got finding, state, text string) {
	t.Helper()
	if got.State != state || !strings.Contains(got.Text, text) || (got.Advice == "") != (state == stateGood) {
		t.Errorf("got %+v, want %s with %q", got, state, text)
	}
}

func TestAdviceForSeveralFindingsIsWrittenOnce(t *testing.T) {
	d := &diagnosis{Findings: []finding{warning("a", "one", "rest"), warning("a", "two", "rest"), warning("b", "three", "eat")}}
	var out strings.Builder
	d.write(&out)
	const want = "! a  one\n! a  two\n     what to do: rest\n! b  three\n     what to do: eat\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestAFullDiskIsAProblemAndAlmostFullIsAWarning(t *testing.T) {
	wantFinding(t, judgeSpace(0, 1<<20), stateProblem, "0 MiB")
	wantFinding(t, judgeSpace(1<<20-1, 0), stateProblem, "0 MiB")
	wantFinding(t, judgeSpace(1<<20, 1<<20), stateGood, "1 MiB")
	wantFinding(t, judgeSpace(9<<20, 10<<20), stateWarning, "9 MiB")
	if status := judgeSpace(0, 0).status; status != exitFailed {
		t.Errorf("got status %d, want %d", status, exitFailed)
	}
	if free, err := freeSpace(t.TempDir()); err != nil || free == 0 {
		t.Errorf("freeSpace: got %d, %v", free, err)
	}
}

func TestAClockBehindTheStoreIsAWarning(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	past, soon, ahead := now.Add(-time.Hour), now.Add(59*time.Second), now.Add(2*time.Minute)
	behind := fmt.Errorf("%w by 26h0m0s", latchkey.ErrClockBehind)
	wantFinding(t, lookAtClock(now, past, nil), stateGood, "2026-07-01T12:00:00Z")
	wantFinding(t, lookAtClock(now, soon, nil), stateGood, "")
	wantFinding(t, lookAtClock(now, past, behind), stateWarning, "2026-07-01T12:00:00Z, but the clock is behind the store's time by 26h0m0s")
	wantFinding(t, lookAtClock(now, ahead, nil), stateWarning, "the file was changed at 2026-07-01T12:02:00Z")
	wantFinding(t, lookAtClock(time.Unix(100, 0), past, behind), stateWarning, "1970-01-01T00:01:40Z, before this latchkey was made")
}

// found returns the finding with a name.
func found(d *diagnosis, name string) finding {
	for _, f := range d.Findings {
		if f.Name == name {
			return f
		}
	}
	return finding{}
}

// must fails the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestColoursAreForTerminalsThatKnowThemUnlessNoColorIsSet(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want bool
	}{
		{map[string]string{"TERM": "xterm"}, true},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
		{map[string]string{"TERM": "dumb"}, false},
		{map[string]string{}, false},
		{map[string]string{"TERM": "xterm", "NO_COLOR": ""}, true},
	} {
		if got := knowsColours(func(name string) string { return tt.env[name] }); got != tt.want {
			t.Errorf("%v: got %v", tt.env, got)
		}
	}
	if (&cli{stdout: &bytes.Buffer{}}).inColour() {
		t.Error("a buffer is taken for a terminal")
	}
	d := &diagnosis{}
	d.add(good("file", "there"), warning("socket", "left", "remove it"), problem("lock", latchkey.ErrLocked))
	for _, d.colour = range []bool{false, true} {
		var out bytes.Buffer
		d.write(&out)
		if got := strings.Count(out.String(), "\x1b["); got != map[bool]int{true: 4}[d.colour] {
			t.Errorf("colour %v: %q", d.colour, out.String())
		}
	}
}

func TestAnOldSafetyCopyIsAWarning(t *testing.T) {
	s, path := newStore(t)
	must(t, s.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path+".safety", data, 0o600))
	changed := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(path, changed, changed))
	for age, want := range map[time.Duration]string{time.Hour: stateGood, 6 * 24 * time.Hour: stateGood, 8 * 24 * time.Hour: stateWarning} {
		must(t, os.Chtimes(path+".safety", changed.Add(-age), changed.Add(-age)))
		d, err := diagnose(t.Context(), path)
		must(t, err)
		if f := found(d, "safety copy"); f.State != want {
			t.Errorf("a copy that is %v older: got %+v, want %s", age, f, want)
		}
	}
}

func TestTheStatusOfADiagnosisIsThatOfItsFirstProblem(t *testing.T) {
	problemOf := func(status int) finding { return finding{State: stateProblem, status: status} }
	warned := finding{State: stateWarning}
	for _, tt := range []struct {
		findings []finding
		want     int
	}{
		{nil, exitDone},
		{[]finding{good("a", ""), skipped("b", "")}, exitDone},
		{[]finding{warned}, exitWarned},
		{[]finding{warned, problemOf(exitFailed), warned}, exitFailed},
		{[]finding{problemOf(exitFailed), problemOf(exitDamaged), problemOf(exitNewerFormat)}, exitDamaged},
	} {
		d := &diagnosis{State: stateGood}
		d.add(tt.findings...)
		if got := (&cli{stderr: io.Discard}).report(&cobra.Command{}, d.err()); got != tt.want {
			t.Errorf("%+v: got %d, want %d", tt.findings, got, tt.want)
		}
	}
}

func TestEachFindingOfHealthIsShownOnItsOwn(t *testing.T) {
	one, two := errors.New("one"), errors.New("two")
	for _, tt := range []struct {
		err  error
		want []error
	}{{nil, nil}, {one, []error{one}}, {errors.Join(one), []error{one}}, {errors.Join(one, two), []error{one, two}}} {
		if got := splitError(tt.err); !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}
