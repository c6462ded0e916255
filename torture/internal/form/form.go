// Package form has the flags and functions that the random tests of this module share.
//
// Each test has a short form, which makes the same random choices in every run, and a long form,
// which makes new choices. A test that fails prints the command that repeats its choices.
package form

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var (
	long = flag.Bool("long", false, "run the long form of every test")
	seed = flag.Uint64("seed", 0,
		"the `seed` of random tests; without it the short form uses 1, and the long form draws a seed")
)

// Long reports whether the tests run in their long form.
func Long() bool { return *long }

// Amount returns inShort in the short form of a test, and inLong in the long form.
func Amount[T any](inShort, inLong T) T {
	if *long {
		return inLong
	}
	return inShort
}

// FixedSeed returns the seed that -seed gives. Without the flag it returns 1 in the short form, and
// 0 in the long form, where each test draws a seed of its own.
func FixedSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return Amount[uint64](1, 0)
}

// NewSeed returns the seed of a random test and logs it. If the test fails, NewSeed also logs the
// command that replays it.
func NewSeed(t testing.TB) uint64 {
	t.Helper()
	s := FixedSeed()
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("seed %d", s)
	Replayable(t, s)
	return s
}

// Seeds returns the seeds of a test that runs once for each seed: the one of -seed alone, or the
// first numbers in the short form, or as many random ones as inLong says.
func Seeds(inShort, inLong int) (seeds []uint64) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "seed" })
	if given {
		return []uint64{*seed}
	}
	for i := range uint64(Amount(inShort, inLong)) {
		if *long {
			seeds = append(seeds, rand.Uint64())
		} else {
			seeds = append(seeds, i+1)
		}
	}
	return seeds
}

// Replayable logs the command that replays the test with a seed, if the test fails.
func Replayable(t testing.TB, seed uint64) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
			t.Logf("replay with: go test -C torture %s -count=1 -run '%s'%s -seed %d",
				packagePath(), pattern, Amount("", " -long"), seed)
		}
	})
}

// packagePath returns the package under test, relative to the module. A test runs in the directory
// of its package.
func packagePath() string {
	dir, err := os.Getwd()
	if err != nil {
		return "./..."
	}
	for root := dir; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			path, _ := filepath.Rel(root, dir)
			if path == "." {
				return path
			}
			return "./" + filepath.ToSlash(path)
		}
		if root == filepath.Dir(root) {
			return "./..."
		}
	}
}

// NewRandom returns the nth source of random numbers under a seed.
func NewRandom(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }
