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

// Growth is the hot path in larger and larger files. Cold has the cold logins, and Opening the rest.
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

// Opening is what a program pays before its first login, in time and in memory.
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

// openings opens a store; from disk, it first has the operating system forget the file.
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

// resident is what the operating system counts as this process's memory, in bytes.
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

// ServeResident is called first thing by a program that runs [Opening]: in the process that the program has started for
// it, it opens a store, tells what memory that took, and exits.
func ServeResident() {
	path := os.Getenv(residentEnv)
	if path == "" {
		return
	}
	if err := serveResident(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveResident(path string) error {
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

// residentMemory is that of a whole process which has opened a store and done nothing else, the program's own code and
// libraries included.
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

// cacheMemory is how much larger the heap is for each key that the cache remembers, the cache's index included.
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

// heapAfterLogins is the size of what is reachable after a login with each token.
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
	runtime.GC() // the first moves what sync.Pool keeps to where the second frees it
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	runtime.KeepAlive(tokens) // so that both measurements count them
	return int64(m.HeapAlloc), nil
}
