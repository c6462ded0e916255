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

// A Group is one question, with the cases that answer it.
type Group struct {
	Name   string
	Title  string        // the question
	Page   string        // the page of docs/ that shows the results; "" for performance
	Time   time.Duration // how long the report measures a case in one round
	Rounds int           // the most rounds that the report needs; 0 for no limit

	// Open makes the cases and all that they need. It lasts until the Env is closed.
	Open func(e *Env) ([]Case, error)
}

// Groups returns all groups in the order of the report.
func Groups() []Group {
	return []Group{Cached, Carried, CAPI, Cold, Forged, Malformed, Growth, Opening, Budgets, UnderWrites, SharedCommits, HTTP, Middleware, Floods, Edge, Replication, Rivals, Etcd, EtcdRevocations, EtcdKeys}
}

// A Case is one measurement and its targets.
type Case struct {
	Name string
	// Unit is the metric that the targets apply to, one that Body reports. The empty Unit stands
	// for the time of one operation, in nanoseconds.
	Unit string
	// Body is the benchmark. It can be called again.
	Body func(b *testing.B) error

	Ratios   []Ratio
	Max      float64 // the largest value that meets the target; 0 for no bound
	NoAllocs bool
	// Steady is for a value that other work on the machine does not change. A test compares the
	// value with Max.
	Steady bool
}

// A Ratio compares a case with another case of its group, the yardstick.
type Ratio struct {
	To         string  // the yardstick's name
	Throughput bool    // compare operations per second, and not values
	Min, Max   float64 // the bounds of the ratio; 0 for no bound
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

// SetTime sets how long [Case.Measure] measures, as in "50ms", or how often it runs the body, as in
// "1x". It returns the former setting.
func SetTime(s string) (old string, err error) {
	f := flag.Lookup("test.benchtime")
	old = f.Value.String()
	return old, f.Value.Set(s)
}

// An Env has the directory for the files of the groups, and the sizes of their stores. Close it
// when the cases are no longer needed.
type Env struct {
	Dir   string // stores are kept here for the next run
	Sizes []int  // keys in a store, ascending
	Logf  func(format string, args ...any)

	closers []func() error
}

// ShortSizes are the stores that every run measures. LongSizes adds the store of the long form.
var (
	ShortSizes = []int{1_000, 100_000}
	LongSizes  = []int{1_000, 100_000, 5_000_000}
)

// DefaultDir returns the directory that LATCHKEY_BENCH_DIR names, or else one in the user's cache
// directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("LATCHKEY_BENCH_DIR"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "latchkey-bench"), err
}

// largest returns the largest size up to limit, or the smallest size if all are larger.
func (e *Env) largest(limit int) int {
	size := e.Sizes[0]
	for _, s := range e.Sizes {
		if s <= limit {
			size = s
		}
	}
	return size
}

// onClose makes Close call fn, before the functions of earlier calls.
func (e *Env) onClose(fn func() error) { e.closers = append(e.closers, fn) }

// tempDir makes a directory on the disk of the stores, so that all cases sync to the same disk.
func (e *Env) tempDir() (string, error) {
	dir, err := os.MkdirTemp(e.Dir, "run-*")
	if err == nil {
		e.onClose(func() error { return os.RemoveAll(dir) })
	}
	return dir, err
}

// Close closes everything that the groups opened.
func (e *Env) Close() error {
	var err error
	for i := len(e.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, e.closers[i]())
	}
	e.closers = nil
	return err
}

// together makes goroutines share b.N operations. work does n operations, and i is the number of
// the goroutine.
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
