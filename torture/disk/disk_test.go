package disk_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/torture/disk"
)

var (
	long     = flag.Bool("long", false, "run the long form of every test")
	seedFlag = flag.Uint64("seed", 0, "the seed of random tests, to replay one; 0 is 1 in the short form, and draws one in the long form")
)

// amount is short's in the short form of a test, and long's in the long form.
func amount[T any](inShort, inLong T) T {
	if *long {
		return inLong
	}
	return inShort
}

// newSeed returns the seed of a random test, and prints it. When the test fails, it prints the command that replays it.
func newSeed(t testing.TB) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = amount(1, rand.Uint64())
	}
	t.Logf("seed %d", seed)
	replayable(t, seed)
	return seed
}

func replayable(t testing.TB, seed uint64) {
	t.Cleanup(func() {
		if t.Failed() {
			pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
			t.Logf("replay with: go test -C torture ./disk -count=1 -run '%s'%s -seed %d", pattern, amount("", " -long"), seed)
		}
	})
}

// newRandom returns the nth source of random numbers under a seed.
func newRandom(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }

// mount mounts a disk. Where that is impossible it skips the test, unless the environment variable CI is set.
func mount(t testing.TB, d *disk.Disk) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	end, err := d.Mount(dir)
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	mounted := true
	unmount = func() {
		t.Helper()
		if !mounted {
			return
		}
		mounted = false
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}
