package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/bench"
)

// Run is one run of the report, in the form of performance.json.
type Run struct {
	Date       string  `json:"date"`
	Machine    string  `json:"machine"`
	Go         string  `json:"go"`
	GOMAXPROCS int     `json:"gomaxprocs"`
	Rounds     int     `json:"rounds"`
	Sizes      []int   `json:"sizes"` // keys in the stores
	Seconds    float64 `json:"seconds"`
	Groups     []Group `json:"groups"`
}

// Group has the results of one group of cases.
type Group struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Cases []Case `json:"cases"`
}

// Case has the results of one case, and whether they meet its targets.
type Case struct {
	Name    string             `json:"name"`
	Unit    string             `json:"unit"`    // "ns" for the time of an operation
	Value   float64            `json:"value"`   // the median of samples
	Samples []float64          `json:"samples"` // one for each round
	Allocs  int64              `json:"allocs"`  // for each operation, in the worst round
	Besides map[string]float64 `json:"besides,omitempty"`

	Ratios   []Ratio `json:"ratios,omitempty"`
	Max      float64 `json:"max,omitempty"` // the largest Value that meets the target
	NoAllocs bool    `json:"no_allocs,omitempty"`
	Target   bool    `json:"target"` // whether the case has a target
	Met      bool    `json:"met"`    // also true without a target
}

// Ratio compares a case with its yardstick. Value is the median of the ratios in each round.
type Ratio struct {
	To         string  `json:"to"`
	Throughput bool    `json:"throughput,omitempty"`
	Value      float64 `json:"value"`
	Min        float64 `json:"min,omitempty"`
	Max        float64 `json:"max,omitempty"`
}

// measure runs the groups one after another. Each round of a group measures each case once,
// forwards in one round and backwards in the next. So if the machine is slow for a while, a case
// and its yardstick are equally slow.
func measure(env *bench.Env, only *regexp.Regexp, rounds int) (*Run, error) {
	start := time.Now()
	run := &Run{
		Date:       start.UTC().Format(time.DateOnly),
		Machine:    machine(),
		Go:         runtime.Version(),
		GOMAXPROCS: runtime.GOMAXPROCS(0),
		Rounds:     rounds,
		Sizes:      env.Sizes,
	}
	for _, g := range bench.Groups() {
		if !only.MatchString(g.Name) {
			continue
		}
		logf("%s: %s", g.Name, g.Title)
		group, err := measureGroup(env, g, rounds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.Name, err)
		}
		run.Groups = append(run.Groups, group)
	}
	run.Seconds = time.Since(start).Round(time.Second).Seconds()
	return run, nil
}

// roundTime is how long a case is measured in a round, unless its group says otherwise. It is long
// enough for a hundred thousand logins.
const roundTime = 20 * time.Millisecond

func measureGroup(env *bench.Env, g bench.Group, rounds int) (group Group, err error) {
	defer func() {
		if closeErr := env.Close(); err == nil {
			err = closeErr
		}
	}()
	cases, err := g.Open(env)
	if err != nil {
		return group, err
	}
	d := roundTime
	if g.Time != 0 {
		d = g.Time
	}
	if _, err := bench.SetTime(d.String()); err != nil {
		return group, err
	}
	if g.Rounds != 0 {
		rounds = min(rounds, g.Rounds)
	}
	results := make([][]testing.BenchmarkResult, len(cases)) // by case and round
	for round := range rounds {
		for i := range cases {
			if round%2 == 1 {
				i = len(cases) - 1 - i
			}
			r, err := cases[i].Measure()
			if err != nil {
				return group, fmt.Errorf("%s: %w", cases[i].Name, err)
			}
			results[i] = append(results[i], r)
		}
	}
	return Group{Name: g.Name, Title: g.Title, Cases: judge(cases, results)}, nil
}

// judge compares the measurements with the targets. results has them by case and round.
func judge(cases []bench.Case, results [][]testing.BenchmarkResult) []Case {
	var judged []Case
	samples := map[string][]float64{}
	for i, c := range cases {
		out := Case{
			Name: c.Name, Unit: c.Unit, Max: c.Max, NoAllocs: c.NoAllocs,
			Target: c.Max != 0 || c.NoAllocs,
		}
		besides := map[string][]float64{}
		for _, r := range results[i] {
			value := r.Extra[c.Unit]
			if c.Unit == "" {
				value = float64(r.T.Nanoseconds()) / float64(r.N)
			}
			out.Samples = append(out.Samples, value)
			out.Allocs = max(out.Allocs, r.AllocsPerOp())
			for unit, v := range r.Extra {
				if unit != c.Unit {
					besides[unit] = append(besides[unit], v)
				}
			}
		}
		if c.Unit == "" {
			out.Unit = "ns"
		}
		out.Value = median(out.Samples)
		for unit, values := range besides {
			if out.Besides == nil {
				out.Besides = map[string]float64{}
			}
			out.Besides[unit] = median(values)
		}
		samples[c.Name] = out.Samples

		out.Met = (c.Max == 0 || out.Value <= c.Max) && (!c.NoAllocs || out.Allocs == 0)
		for _, r := range c.Ratios {
			ratio := Ratio{To: r.To, Throughput: r.Throughput, Min: r.Min, Max: r.Max}
			ratio.Value = median(ratios(out.Samples, samples[r.To], r.Throughput))
			out.Ratios = append(out.Ratios, ratio)
			out.Target = out.Target || r.Min != 0 || r.Max != 0
			out.Met = out.Met && ratio.Value >= r.Min && (r.Max == 0 || ratio.Value <= r.Max)
		}
		judged = append(judged, out)
	}
	return judged
}

// ratios compares each sample with the sample of the yardstick from the same round.
func ratios(samples, yardstick []float64, throughput bool) []float64 {
	out := make([]float64, len(samples))
	for i := range samples {
		out[i] = samples[i] / yardstick[i]
		if throughput {
			out[i] = yardstick[i] / samples[i]
		}
	}
	return out
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// missed counts the cases that miss a target.
func (r *Run) missed() (n int) {
	for _, g := range r.Groups {
		for _, c := range g.Cases {
			if !c.Met {
				n++
			}
		}
	}
	return n
}

// machine describes the machine: its processor, if the operating system tells it, and the platform
// that the program was built for.
func machine() string {
	name := fmt.Sprintf("%d processors, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return name
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value) + ", " + name
		}
	}
	return name
}
