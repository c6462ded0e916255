package etcd_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// leftOut has the tests of packages latchkey and latchkey_test that do not run on etcd, by their
// names or files, and why. More tests skip themselves: those that call AboutFile or openFile, and
// those that run in a bubble of package synctest, in which nothing can wait for a network.
var leftOut = []struct{ tests, why string }{
	{"backup_test.go", "a backup is a copy of bbolt's file"},
	{"bolt_*_test.go", "the file of bbolt"},
	{"bolt_test.go", "the file of bbolt"},
	{"compat_test.go", "files that former releases have written"},
	{"deps_test.go", "what the package compiles"},
	{"follow_test.go", "an engine in memory that several stores share; the tests of package etcd share an etcd"},
	{"refuse*_test.go", "paths that are refused, and the safety copy of a file"},
	{"safetycopy_test.go", "the safety copy of a file"},
	{"salvage_test.go", "a damaged file"},
	{"unburied_test.go", "an engine in memory that is full; the tests of package etcd fill an etcd"},
	{"watchfile_test.go", "a file that others replace"},
	{"TestARecordThatChangesWhileItIsReadComesLaterAsItIsThen", tooLarge},
	{"TestAUserMadeAgainHasTheIDOfTheNumberOfFormerUsers", tooLarge},
	{"TestRecordsGoOnAfterAnyCut", tooLarge},
	{"TestTheTablesOfCallsHaveEveryMethod", "Backup and Compact are about a file, and not called"},
}

const tooLarge = "more changes in one transaction than etcd takes"

// TestTheRootPackageBehavesTheSame runs the tests of package latchkey on etcd. It has a subtest for
// each of them.
func TestTheRootPackageBehavesTheSame(t *testing.T) {
	root, err := filepath.Abs("..")
	must(t, err)
	binary := buildRootTests(t, root)
	var run []string
	left := map[string]bool{}
	for name, file := range rootTests(t, root, binary) {
		tests, why := whyLeftOut(name, file)
		left[tests] = true
		if tests == "" {
			run = append(run, name)
			continue
		}
		t.Run(name, func(t *testing.T) { t.Skip("left out: " + why) })
	}
	for _, l := range leftOut {
		if !left[l.tests] {
			t.Errorf("there is nothing to leave out in %s", l.tests)
		}
	}
	slices.Sort(run)

	// Two processes take half of the time of one, because much of it is waiting.
	var outputs [2]string
	var running sync.WaitGroup
	for i := range outputs {
		var half []string
		for j := i; j < len(run); j += len(outputs) {
			half = append(half, run[j])
		}
		cmd := exec.Command(binary, "-test.v", "-test.short", "-test.run", "^("+strings.Join(half, "|")+")$")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "LATCHKEY_TEST_ETCD="+node.address)
		running.Go(func() {
			out, err := cmd.CombinedOutput()
			outputs[i] = string(out)
			if err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()

	onEtcd := 0
	for _, output := range outputs {
		// What stands between two results belongs to the second one.
		from := 0
		for _, at := range regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\w+) .*$`).FindAllStringSubmatchIndex(output, -1) {
			result, name, before := output[at[2]:at[3]], output[at[4]:at[5]], output[from:at[0]]
			from = at[1]
			run = slices.DeleteFunc(run, func(n string) bool { return n == name })
			there := strings.Contains(before, onEtcdMark+name+"\n")
			if there && result == "PASS" {
				onEtcd++
			}
			t.Run(name, func(t *testing.T) {
				switch {
				case result == "FAIL":
					t.Error(before)
				case result == "SKIP" || !there:
					t.Skipf("no store on etcd: %s", before)
				}
			})
		}
	}
	if len(run) > 0 {
		t.Errorf("these tests have not run to their end: %q", run)
		for _, output := range outputs { // the reason is at the end
			t.Log(output[max(0, len(output)-5000):])
		}
	}
	t.Logf("%d tests of package latchkey have passed on etcd", onEtcd)
	if onEtcd < 350 {
		t.Errorf("only %d tests of package latchkey have passed on etcd", onEtcd)
	}
}

// onEtcdMark is what testdata/root_engine_test.go prints before the name of a test that opens an
// engine on etcd.
const onEtcdMark = "on etcd: "

// buildRootTests makes the program of the tests of package latchkey, with a file that chooses the
// engine.
func buildRootTests(t *testing.T, root string) (binary string) {
	t.Helper()
	dir := t.TempDir()
	added, err := filepath.Abs(filepath.Join("testdata", "root_engine_test.go"))
	must(t, err)
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "engine_on_etcd_test.go"): added}})
	must(t, err)
	overlay := filepath.Join(dir, "overlay.json")
	must(t, os.WriteFile(overlay, text, 0o600))
	binary = filepath.Join(dir, "latchkey.test.exe") // Windows wants a name like this
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "github.com/latchkeydb/latchkey")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// rootTests returns the tests of package latchkey, each with the name of its file.
func rootTests(t *testing.T, root, binary string) map[string]string {
	t.Helper()
	list := exec.Command(binary, "-test.list", "^Test")
	list.Dir = root
	out, err := list.CombinedOutput()
	must(t, err)
	files, err := filepath.Glob(filepath.Join(root, "*_test.go"))
	must(t, err)
	found := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			found[string(m[1])] = filepath.Base(file)
		}
	}
	tests := map[string]string{}
	for name := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(name, "Test") {
			tests[name] = found[name]
		}
	}
	return tests
}

// whyLeftOut returns the element of leftOut that a test of package latchkey belongs to, or nothing.
func whyLeftOut(name, file string) (tests, why string) {
	for _, l := range leftOut {
		if matched, err := filepath.Match(l.tests, file); name == l.tests || err == nil && matched {
			return l.tests, l.why
		}
	}
	return "", ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
