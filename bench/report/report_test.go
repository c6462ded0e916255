package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/bench"
)

// rounds returns the results of a case that took ns nanoseconds in each round.
func rounds(ns ...int) (results []testing.BenchmarkResult) {
	for _, n := range ns {
		results = append(results, testing.BenchmarkResult{N: 1000, T: time.Duration(n) * 1000})
	}
	return results
}

func TestACaseIsMetOrMissedByItsTarget(t *testing.T) {
	allocating := rounds(100, 100, 100)
	allocating[1].MemAllocs = 1000
	yardstick := rounds(100, 100, 100)
	for _, tt := range []struct {
		name    string
		subject bench.Case
		results []testing.BenchmarkResult
		target  bool
		met     bool
	}{
		{"no target", bench.Case{}, rounds(900), false, true},
		{"a ratio without bounds is no target", bench.Case{Ratios: []bench.Ratio{{To: "one"}}}, rounds(900), false, true},
		{"a value at its bound", bench.Case{Max: 50}, rounds(50), true, true},
		{"a value above its bound", bench.Case{Max: 50}, rounds(51), true, false},
		{"a ratio at its bound", bench.Case{Ratios: []bench.Ratio{{To: "one", Max: 2.5}}}, rounds(250, 250, 250), true, true},
		{"a ratio above its bound", bench.Case{Ratios: []bench.Ratio{{To: "one", Max: 2.5}}}, rounds(251, 251, 251), true, false},
		{"a ratio below its bound", bench.Case{Ratios: []bench.Ratio{{To: "one", Min: 0.9}}}, rounds(89, 89, 89), true, false},
		{"enough throughput", bench.Case{Ratios: []bench.Ratio{{To: "one", Throughput: true, Min: 1.8}}}, rounds(55, 55, 55), true, true},
		{"too little throughput", bench.Case{Ratios: []bench.Ratio{{To: "one", Throughput: true, Min: 1.8}}}, rounds(56, 56, 56), true, false},
		{"the second ratio counts, too", bench.Case{Ratios: []bench.Ratio{{To: "one", Max: 9}, {To: "one", Max: 1}}}, rounds(200, 200, 200), true, false},
		{"no allocation", bench.Case{NoAllocs: true}, rounds(100), true, true},
		{"an allocation in one round", bench.Case{NoAllocs: true}, allocating, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.subject.Name = "subject"
			cases := []bench.Case{{Name: "one"}, tt.subject}
			c := judge(cases, [][]testing.BenchmarkResult{yardstick, tt.results})[1]
			if c.Target != tt.target || c.Met != tt.met {
				t.Errorf("got target %v, met %v; want %v, %v", c.Target, c.Met, tt.target, tt.met)
			}
			run := &Run{Groups: []Group{{Cases: []Case{c}}}}
			if missed := run.missed() == 1; missed == tt.met {
				t.Errorf("counted as missed: %v", missed)
			}
		})
	}
}

func TestARatioIsTheMedianOfTheRatiosInEachRound(t *testing.T) {
	// The machine was slow in the second round. In the third, it was slow for the subject alone.
	cases := []bench.Case{{Name: "one"}, {Name: "subject", Ratios: []bench.Ratio{{To: "one"}}}}
	c := judge(cases, [][]testing.BenchmarkResult{rounds(100, 400, 100), rounds(200, 800, 900)})[1]
	if got := c.Ratios[0].Value; got != 2 {
		t.Errorf("got a ratio of %v, want 2", got)
	}
	if c.Value != 800 {
		t.Errorf("got a median of %v ns, want 800", c.Value)
	}
}

func TestACaseIsMeasuredInTheUnitThatCounts(t *testing.T) {
	results := rounds(100, 100)
	for i, p99 := range []float64{300, 500} {
		results[i].Extra = map[string]float64{"p99-ns": p99, "p50-ns": 150}
	}
	c := judge([]bench.Case{{Name: "slowest", Unit: "p99-ns", Max: 450}}, [][]testing.BenchmarkResult{results})[0]
	if c.Value != 400 || !c.Met || c.Besides["p50-ns"] != 150 || len(c.Besides) != 1 {
		t.Errorf("got %+v", c)
	}
}

func TestNumbersAreShownWithThreeDigits(t *testing.T) {
	for _, tt := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, "ns", "0 ns"},
		{81.44, "ns", "81.4 ns"},
		{1_234, "ns", "1.23 µs"},
		{21_934_567, "p99-ns", "21.9 ms"},
		{2e9, "ns", "2.00 s"},
		{0.125, "syncs/key", "0.125 syncs/key"},
		{0.061234, "syncs/key", "0.0612 syncs/key"},
		{236.7, "B/key", "237 B/key"},
		{150_474, "x", "150474 x"},
	} {
		if got := formatValue(tt.value, tt.unit); got != tt.want {
			t.Errorf("formatValue(%v, %q) = %q, want %q", tt.value, tt.unit, got, tt.want)
		}
	}
}

func sampleRun() *Run {
	return &Run{
		Machine: "a machine", Rounds: 3,
		Groups: []Group{{Name: "cached", Title: "What does it cost?", Cases: []Case{
			{Name: "sha256", Unit: "ns", Value: 80, Samples: []float64{79, 80, 81}, Met: true},
			{
				Name: "login", Unit: "ns", Value: 240, Samples: []float64{230, 240, 260},
				Ratios: []Ratio{{To: "sha256", Value: 3, Max: 2.5}}, NoAllocs: true, Target: true,
			},
		}}},
	}
}

func TestTheTableSaysWhatWasMissed(t *testing.T) {
	var out bytes.Buffer
	sampleRun().printTable(&out)
	for _, want := range []string{"cached/sha256", "80.0 ns", "cached/login", "240 ns", "3.00 × sha256", "≤ 2.50 ×; 0 allocs", "NO"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
}

func TestARunIsWrittenInEveryForm(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(page, []byte("# Speed\n\nbefore\n"+pageBegin+"old\n"+pageEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := sampleRun()
	for range 2 { // the second time replaces the part that the first time wrote
		if err := run.write(dir, []string{performancePage}); err != nil {
			t.Fatal(err)
		}
	}
	renewed, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(renewed)
	if !strings.HasPrefix(got, "# Speed\n\nbefore\n") || !strings.HasSuffix(got, "after\n") {
		t.Errorf("the text outside the lines has changed:\n%s", got)
	}
	if strings.Contains(got, "old") || strings.Count(got, "| login | 240 ns |") != 1 || !strings.Contains(got, "1 of the targets") {
		t.Errorf("the text between the lines is not the run:\n%s", got)
	}
	again, err := readRun(filepath.Join(dir, "performance.json"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := mustJSON(t, run), mustJSON(t, again); a != b {
		t.Errorf("performance.json holds\n%s\nwant\n%s", b, a)
	}
	for name, magic := range map[string]string{"performance.svg": "<?xml", "performance.png": "\x89PNG"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.HasPrefix(data, []byte(magic)) {
			t.Errorf("%s is not what its name says: %v", name, err)
		}
	}
}

func TestThePageForChoosingHasTheFiguresOfTheLastRun(t *testing.T) {
	const docs = "../../docs"
	run, err := readRun(filepath.Join(docs, "performance.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := run.comparison()
	if got := strings.Count(want, "\n| "); got != len(checks)+2 {
		t.Errorf("the run has figures for %d of %d checks", got-2, len(checks))
	}
	page, err := os.ReadFile(filepath.Join(docs, "choosing.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), pageBegin+want+pageEnd) {
		t.Errorf("choosing.md has other figures than\n%s", want)
	}
}

func TestEachPageGetsItsGroups(t *testing.T) {
	dir := t.TempDir()
	run := sampleRun()
	run.Groups = append(run.Groups, Group{Name: "etcd", Title: "And there?", Cases: []Case{{Name: "login/etcd", Unit: "ns", Value: 250, Met: true}}})
	for _, page := range []string{"performance.md", "scaling.md"} {
		if err := os.WriteFile(filepath.Join(dir, page), []byte(pageBegin+pageEnd), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := run.write(dir, []string{"performance", "scaling"}); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[string][2]bool{"performance": {true, false}, "scaling": {false, true}} {
		data, err := os.ReadFile(filepath.Join(dir, page+".md"))
		if err != nil {
			t.Fatal(err)
		}
		got := [2]bool{strings.Contains(string(data), "What does it cost?"), strings.Contains(string(data), "And there?")}
		if got != want {
			t.Errorf("%s has cached: %v, etcd: %v", page, got[0], got[1])
		}
		part, err := readRun(filepath.Join(dir, page+".json"))
		if err != nil || len(part.Groups) != 1 {
			t.Errorf("%s.json: %v, %+v", page, err, part)
		}
	}
}

func TestOnlyAPageThatWasMeasuredWholeIsWritten(t *testing.T) {
	for only, want := range map[string]string{"": "performance scaling", "^etcd": "scaling", "^etcd$": "", "cached|etcd": "scaling"} {
		if got := strings.Join(wholePages(regexp.MustCompile(only)), " "); got != want {
			t.Errorf("-only %q writes %q, want %q", only, got, want)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAPageWithoutTheLinesIsLeftAlone(t *testing.T) {
	for _, page := range []string{"", "text\n", pageBegin, pageEnd, pageEnd + pageBegin} {
		if got, err := replaceBetween(page, "new"); err == nil {
			t.Errorf("replaceBetween(%q) = %q, want an error", page, got)
		}
	}
}

func TestEveryDotOfThePlotIsOfAGroup(t *testing.T) {
	groups := map[string]bool{}
	for _, g := range bench.Groups() {
		groups[g.Name] = true
	}
	for _, d := range dots {
		if !groups[d.group] {
			t.Errorf("%s: there is no group %q", d.label, d.group)
		}
	}
}
