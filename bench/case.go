package bench

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A Group is one question: cases that are measured beside each other.
type Group struct {
	Name   string
	Title  string        // the question
	Time   time.Duration // how long the report measures a case in one round
	Rounds int           // how many rounds of the report are enough; 0 for all

	// Open makes what the cases need, which lasts until the Env is closed.
	Open func(e *Env) ([]Case, error)
}

// Groups are all questions, in the order of the report.
func Groups() []Group {
	return []Group{Cached, Cold, Forged, Malformed, Growth, Opening, UnderWrites, SharedCommits, HTTP, Rivals}
}

// A Case is one measurement, and what it must reach.
type Case struct {
	Name string
	// Unit is the metric that counts, one that the body reports; "" is the time of an operation, in nanoseconds.
	Unit string
	// Body measures, as a benchmark does. It can be called again.
	Body func(b *testing.B) error

	Ratios   []Ratio
	Max      float64 // the most that the value may be; 0 for no bound
	NoAllocs bool
}

// A Ratio compares a case with another of its group, its yardstick.
type Ratio struct {
	To         string  // the yardstick's name
	Throughput bool    // operations per second are compared, not values
	Min, Max   float64 // what the ratio must be between; 0 for no bound
}

// Measure runs the case for as long as the flag test.benchtime says.
func (c *Case) Measure() (testing.BenchmarkResult, error) {
	var err error
	r := testing.Benchmark(func(b *testing.B) {
		if err = c.Body(b); err != nil {
			b.FailNow()
		}
	})
	if err == nil && r.N == 0 {
		err = errors.New("the benchmark failed")
	}
	return r, err
}

// SetTime sets for how long [Case.Measure] measures, "50ms", or how often it runs the body, "1x"; and returns what was
// set before.
func SetTime(s string) (old string, err error) {
	f := flag.Lookup("test.benchtime")
	old = f.Value.String()
	return old, f.Value.Set(s)
}

// An Env is where groups are opened: the directory of their files, and how large their stores are. Close it when done
// with the cases.
type Env struct {
	Dir   string // stores are kept here for the next run
	Sizes []int  // keys in a store, ascending
	Logf  func(format string, args ...any)

	closers []func() error
}

// Sizes of stores: what every run measures, and what only the long one adds.
var (
	ShortSizes = []int{1_000, 100_000}
	LongSizes  = []int{1_000, 100_000, 5_000_000}
)

// DefaultDir is the directory LATCHKEY_BENCH_DIR, or one in the user's cache directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("LATCHKEY_BENCH_DIR"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "latchkey-bench"), err
}

// largest is the largest size up to limit, or the smallest there is.
func (e *Env) largest(limit int) int {
	size := e.Sizes[0]
	for _, s := range e.Sizes {
		if s <= limit {
			size = s
		}
	}
	return size
}

// onClose has fn called by Close, before those that were given earlier.
func (e *Env) onClose(fn func() error) { e.closers = append(e.closers, fn) }

// tempDir makes a directory on the disk of the stores, so that what is compared syncs to the same one.
func (e *Env) tempDir() (string, error) {
	dir, err := os.MkdirTemp(e.Dir, "run-*")
	if err == nil {
		e.onClose(func() error { return os.RemoveAll(dir) })
	}
	return dir, err
}

// Close gives up what the groups opened.
func (e *Env) Close() error {
	var err error
	for i := len(e.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, e.closers[i]())
	}
	e.closers = nil
	return err
}

// together has goroutines share b.N operations. work does n of them; i tells the goroutines apart.
func together(b *testing.B, goroutines int, work func(i, n int) error) error {
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range goroutines {
		n := b.N / goroutines
		if i < b.N%goroutines {
			n++
		}
		wg.Go(func() { errs[i] = work(i, n) })
	}
	wg.Wait()
	b.StopTimer()
	return errors.Join(errs...)
}
