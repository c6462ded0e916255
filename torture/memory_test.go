package torture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// A flood of cold keys has limits. The memory for argon2 stays under its bound, a caller that
// leaves costs nothing more, and every caller gets its turn.

const hashMemory = 64 << 20

// coldCost returns a cost with the default memory. The short form makes one pass over the memory,
// which takes the same memory and a fifth of the time.
func coldCost() latchkey.Cost {
	cost := latchkey.DefaultCost
	cost.Passes = form.Amount(1, cost.Passes)
	return cost
}

// smallCost returns a cost that takes hardly any memory but as much time, so that as many
// goroutines wait at once.
func smallCost() latchkey.Cost {
	return latchkey.Cost{Memory: 64, Passes: form.Amount[uint32](16, 64), Lanes: 1}
}

func TestAFloodOfColdKeysStaysWithinTheMemoryForHashing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak of a process's memory is read from /proc")
	}
	if underRace {
		t.Skip("the race detector takes memory of its own")
	}
	cold, small := newFlood(t, coldCost()), newFlood(t, smallCost())
	for _, processors := range []int{2, 16} {
		t.Run(fmt.Sprintf("processors=%d", processors), func(t *testing.T) {
			baseline, got := small.run(t, processors), cold.run(t, processors)
			t.Logf("HashPeak is %d KiB; resident are %d KiB at the most, and %d KiB with hashes that take no memory",
				got.HashPeak>>10, got.Resident>>10, baseline.Resident>>10)
			if got.Hashes != len(cold.Tokens) {
				t.Errorf("%d hashes, want %d", got.Hashes, len(cold.Tokens))
			}
			if got.HashPeak > hashMemory {
				t.Errorf("HashPeak is %d, want at most %d", got.HashPeak, hashMemory)
			}
			if used, bound := got.Resident-baseline.Resident, int64(hashMemory+hashMemory/10); used > bound {
				t.Errorf("hashing took %d KiB at once, want at most %d", used>>10, bound>>10)
			}
		})
	}
}

// coldFlood is the input of a separate process, which logs in with all tokens at once.
type coldFlood struct {
	Path   string        `json:"path"`
	Cost   latchkey.Cost `json:"cost"`
	Tokens []string      `json:"tokens"`
}

// floodReport is the output of that process.
type floodReport struct {
	Hashes   int   `json:"hashes"`
	HashPeak int64 `json:"hash_peak"`
	Resident int64 `json:"resident"` // peak memory of the process in bytes
}

// newFlood makes 500 keys in a store, and closes the store.
func newFlood(t *testing.T, cost latchkey.Cost) coldFlood {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: cost})
	flood := coldFlood{path, cost, createServerKeys(t, s, 500)}
	must(t, s.Close())
	return flood
}

func (f coldFlood) run(t *testing.T, processors int) (report floodReport) {
	t.Helper()
	input, err := json.Marshal(f)
	must(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), programVariable+"=cold flood", fmt.Sprint("GOMAXPROCS=", processors))
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &report))
	return report
}

func init() { programs["cold flood"] = logInWithAllAtOnce }

func logInWithAllAtOnce() error {
	var flood coldFlood
	if err := json.NewDecoder(os.Stdin).Decode(&flood); err != nil {
		return err
	}
	s, err := latchkey.Open(flood.Path, &latchkey.Options{Cost: flood.Cost, HashMemory: hashMemory})
	if err != nil {
		return err
	}
	defer s.Close()
	errs := make([]error, len(flood.Tokens))
	var all sync.WaitGroup
	for i, token := range flood.Tokens {
		all.Go(func() { _, errs[i] = s.Login(context.Background(), token) })
	}
	all.Wait()
	st, err := s.Stats(context.Background())
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	resident, err := residentPeak()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(floodReport{int(st.Hashes), st.HashPeak, resident})
}

// residentPeak returns the peak of this process's memory so far, in bytes.
func residentPeak() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		return 0, errors.New("/proc/self/status has no VmHWM, the peak of memory")
	}
	kib, err := strconv.ParseInt(string(found[1]), 10, 64)
	return kib << 10, err
}

func createServerKeys(t *testing.T, s *latchkey.Store, n int) (tokens []string) {
	t.Helper()
	specs := make([]latchkey.KeySpec, n)
	for i := range specs {
		specs[i].Name = "key " + uuid.NewString()
	}
	_, tokens, err := createKeys(t.Context(), s, latchkey.ServerOwner, specs)
	must(t, err)
	return tokens
}

func TestCancelledLoginsThatWaitForAHashReturnAtOnceAndAreNeverHashed(t *testing.T) {
	// The first hash takes all the memory, so that the other logins wait for it. It must last until
	// they have returned, so try longer and longer hashes.
	for passes := uint32(1); passes <= 64; passes *= 2 {
		if cancelWhileHashing(t, passes) {
			return
		}
	}
	t.Error("every first hash ended too early")
}

// cancelWhileHashing cancels 500 logins while a hash with so many passes runs. It reports whether
// the hash lasted long enough.
func cancelWhileHashing(t *testing.T, passes uint32) (inTime bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: latchkey.Cost{Memory: hashMemory >> 10, Passes: passes, Lanes: 1}})
	slow := createServerKeys(t, s, 1)[0]
	must(t, s.Close())

	s = openFile(t, path, &latchkey.Options{Cost: light, HashMemory: hashMemory})
	tokens := createServerKeys(t, s, 501)
	last, tokens := tokens[500], tokens[:500]
	before := stats(t, s)
	slowDone := make(chan error, 1)
	go func() {
		_, err := s.Login(context.Background(), slow)
		slowDone <- err
	}()
	waitFor(t, "the first hash to begin", func() bool { return stats(t, s).Hashes > before.Hashes })

	ctx, cancel := context.WithCancel(t.Context())
	errs := make([]error, len(tokens))
	var all sync.WaitGroup
	for i, token := range tokens {
		all.Go(func() { _, errs[i] = s.Login(ctx, token) })
	}
	waitFor(t, "all logins to miss the cache", func() bool {
		return stats(t, s).Misses >= before.Misses+1+uint64(len(tokens))
	})
	cancel()
	all.Wait()
	after := stats(t, s)
	select {
	case err := <-slowDone:
		must(t, err)
		return false
	default:
	}
	for _, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Login: %v, want context.Canceled", err)
		}
	}
	if n := after.Hashes - before.Hashes; n != 1 {
		t.Errorf("%d hashes ran, want the first alone", n)
	}
	must(t, <-slowDone)
	// If a cancelled login had stayed in the queue, this login would wait for it.
	_, err := s.Login(t.Context(), last)
	must(t, err)
	if n := stats(t, s).Hashes - before.Hashes; n > 3 {
		t.Errorf("%d hashes ran in the end, want the first, the same key at the store's cost, and the last", n)
	}
	return true
}

func TestATenantThatFloodsTheStoreWithColdKeysDoesNotStarveAnother(t *testing.T) {
	// No key is cached, so all keys stay cold, and the flood does not end by itself.
	s := open(t, &latchkey.Options{Cost: latchkey.Cost{Memory: 1 << 10, Passes: 1, Lanes: 1}, CacheSize: -1})
	const keys, callersOfKey, enough = 20, 10, 100_000
	tokens := createServerKeys(t, s, keys+1)
	before := stats(t, s).Hashes
	var logins atomic.Int64
	var all sync.WaitGroup
	done := make(chan struct{})
	for i := range keys * callersOfKey {
		all.Go(func() {
			for logins.Add(1) <= enough {
				if _, err := s.Login(t.Context(), tokens[i%keys]); err != nil {
					t.Error(err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	waitFor(t, "a hash of each key", func() bool { return stats(t, s).Hashes >= before+keys })
	// One hash of each of the tenant's keys may come first. More may come while this goroutine is
	// not scheduled, so the fewest count.
	fewest := uint64(math.MaxUint64)
	for range 10 {
		began := stats(t, s).Hashes
		_, err := s.Login(t.Context(), tokens[keys])
		must(t, err)
		fewest = min(fewest, stats(t, s).Hashes-began)
	}
	close(done)
	all.Wait()
	if fewest > 4*keys {
		t.Errorf("each login of the other tenant took as long as %d hashes or more, want at most %d", fewest, 4*keys)
	}
}

func stats(t *testing.T, s *latchkey.Store) latchkey.Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	must(t, err)
	return st
}
