package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Growth measures cached logins in files of growing size. Cold measures cold logins, and Opening
// measures the opening.
var Growth = Group{
	Name:  "growth",
	Title: "Does the login of a cached key cost more when the file is larger?",
	Open: func(e *Env) ([]Case, error) {
		var cases []Case
		for _, size := range e.Sizes {
			s, tokens, err := e.openWarm(size)
			if err != nil {
				return nil, err
			}
			c := Case{Name: "login/keys=" + sizeName(size), Body: logins(s, tokens), NoAllocs: true}
			if len(cases) > 0 {
				c.Ratios = []Ratio{{To: cases[0].Name, Min: 1 / 1.10, Max: 1.10}}
			}
			cases = append(cases, c)
		}
		return cases, nil
	},
}

// Opening measures the time and the memory that a program needs before its first login.
var Opening = Group{
	Name:   "opening",
	Title:  "How long does opening take, and how much memory?",
	Time:   200 * time.Millisecond,
	Rounds: 3,
	Open: func(e *Env) ([]Case, error) {
		var cases []Case
		for _, size := range e.Sizes {
			st, err := e.stock(size)
			if err != nil {
				return nil, err
			}
			keys := "/keys=" + sizeName(size)
			cases = append(cases, Case{Name: "open" + keys, Body: openings(st, false), Max: 50e6})
			if canEvict {
				cases = append(cases, Case{Name: "open/from=disk" + keys, Body: openings(st, true), Max: 50e6})
			}
			if _, err := os.Stat(procStatus); err == nil {
				cases = append(cases, Case{Name: "resident" + keys, Unit: "MiB", Body: residentMemory(st), Max: 40})
			}
		}
		cases = append(cases, Case{Name: "cache", Unit: "B/key", Body: cacheMemory(e)})
		return cases, nil
	},
}

// openings opens a store again and again. With fromDisk, the operating system first drops the file
// from memory.
func openings(st *stock, fromDisk bool) func(b *testing.B) error {
	return func(b *testing.B) error {
		b.ReportAllocs()
		for b.Loop() {
			if fromDisk {
				b.StopTimer()
				if err := evict(st.Path); err != nil {
					return err
				}
				b.StartTimer()
			}
			s, err := latchkey.Open(st.Path, nil)
			if err != nil {
				return err
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				return err
			}
			b.StartTimer()
		}
		return nil
	}
}

const (
	procStatus  = "/proc/self/status"
	residentEnv = "LATCHKEY_BENCH_RESIDENT"
)

// resident is the memory of this process in bytes, as the operating system counts it.
type resident struct{ RSS, Anon int64 }

func readResident() (r resident, err error) {
	data, err := os.ReadFile(procStatus)
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(data)) {
		var name string
		var kB int64
		if _, err := fmt.Sscanf(line, "%s %d kB", &name, &kB); err != nil {
			continue
		}
		switch name {
		case "VmRSS:":
			r.RSS = kB << 10
		case "RssAnon:":
			r.Anon = kB << 10
		}
	}
	return r, nil
}

// serveResident opens a store, prints the memory that the opening took, and exits, if that is what
// the process is for.
func serveResident() {
	path := os.Getenv(residentEnv)
	if path == "" {
		return
	}
	if err := printResident(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func printResident(path string) error {
	before, err := readResident()
	if err != nil {
		return err
	}
	s, err := latchkey.Open(path, nil)
	if err != nil {
		return err
	}
	after, err := readResident()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode([]resident{before, after}); err != nil {
		return err
	}
	return s.Close()
}

// residentMemory measures the memory of a whole process that has opened a store and done nothing
// else. The program's own code and libraries count too.
func residentMemory(st *stock) func(b *testing.B) error {
	return func(b *testing.B) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		var sizes []resident
		for b.Loop() {
			cmd := exec.CommandContext(b.Context(), self)
			cmd.Env = append(os.Environ(), residentEnv+"="+st.Path)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return err
			}
			if err := json.Unmarshal(out, &sizes); err != nil {
				return err
			}
		}
		before, after := sizes[0], sizes[1]
		b.ReportMetric(mib(after.RSS), "MiB")
		b.ReportMetric(mib(after.RSS-before.RSS), "MiB-by-opening")
		b.ReportMetric(mib(after.Anon), "MiB-anonymous")
		return nil
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// cacheMemory measures how much the heap grows for each key in the cache. The index of the cache
// counts too.
func cacheMemory(e *Env) func(b *testing.B) error {
	return func(b *testing.B) error {
		const keys = 10_000 // the default cache, full
		var without, with int64
		for b.Loop() {
			dir, err := e.tempDir()
			if err != nil {
				return err
			}
			path := filepath.Join(dir, "keys.db")
			tokens, err := serverKeys(path, keys)
			if err != nil {
				return err
			}
			if without, err = heapAfterLogins(path, -1, tokens); err != nil {
				return err
			}
			if with, err = heapAfterLogins(path, keys, tokens); err != nil {
				return err
			}
		}
		b.ReportMetric(float64(with-without)/keys, "B/key")
		return nil
	}
}

// serverKeys makes n server keys in a new store, and returns their tokens.
func serverKeys(path string, n int) ([]string, error) {
	s, err := latchkey.Open(path, &latchkey.Options{Cost: quickCost})
	if err != nil {
		return nil, err
	}
	tokens, err := addServerKeys(s, n)
	return tokens, errors.Join(err, s.Close())
}

func addServerKeys(s *latchkey.Store, n int) ([]string, error) {
	ctx := context.Background()
	minted, tokens, err := s.MintKeys(ctx, n, nil)
	if err != nil {
		return nil, err
	}
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		for i, m := range minted {
			if _, err := tx.InsertServerKey(latchkey.KeySpec{Name: fmt.Sprintf("device-%08d", i)}, m); err != nil {
				return err
			}
		}
		return nil
	})
	return tokens, err
}

// heapAfterLogins returns the size of all reachable memory after a login with each token.
func heapAfterLogins(path string, cacheSize int, tokens []string) (int64, error) {
	s, err := latchkey.Open(path, &latchkey.Options{Cost: quickCost, CacheSize: cacheSize})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	for _, token := range tokens {
		if err := login(s, token); err != nil {
			return 0, err
		}
	}
	runtime.GC()
	runtime.GC() // sync.Pool gives its objects up only in the second collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	runtime.KeepAlive(tokens) // keeps the tokens in both measurements
	return int64(m.HeapAlloc), nil
}
