package bench_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/bench"
)

func TestMain(m *testing.M) {
	bench.Serve()
	os.Exit(m.Run())
}

func TestEveryBenchmarkRunsOnce(t *testing.T) {
	old, err := bench.SetTime("1x")
	if err != nil {
		t.Fatal(err)
	}
	defer bench.SetTime(old)
	env := &bench.Env{Dir: t.TempDir(), Sizes: []int{600, 1_200}, Logf: t.Logf}
	for _, g := range bench.Groups() {
		t.Run(g.Name, func(t *testing.T) {
			defer closeEnv(t, env)
			cases, err := g.Open(env)
			if err != nil {
				t.Fatal(err)
			}
			measured := map[string]bool{}
			for _, c := range cases {
				r, err := c.Measure()
				if err != nil {
					t.Errorf("%s: %v", c.Name, err)
				}
				if _, ok := r.Extra[c.Unit]; !ok && c.Unit != "" {
					t.Errorf("%s does not report %s", c.Name, c.Unit)
				}
				if value := r.Extra[c.Unit]; c.Steady && value > c.Max {
					t.Errorf("%s is %.2f %s, and must be at most %.0f", c.Name, value, c.Unit, c.Max)
				}
				for _, ratio := range c.Ratios {
					if !measured[ratio.To] {
						t.Errorf("%s is compared with %s, which is no case before it", c.Name, ratio.To)
					}
				}
				if measured[c.Name] {
					t.Errorf("there are two cases %s", c.Name)
				}
				measured[c.Name] = true
			}
		})
	}
}

func TestAStoreIsBuiltOnce(t *testing.T) {
	built := 0
	env := &bench.Env{Dir: t.TempDir(), Sizes: []int{600}, Logf: func(string, ...any) { built++ }}
	for range 2 {
		if _, err := bench.Growth.Open(env); err != nil {
			t.Fatal(err)
		}
		closeEnv(t, env)
		if want := 2; built != want { // one line when building begins, and one when it is done
			t.Fatalf("%d lines are logged, want %d", built, want)
		}
	}
}

func TestAStoreThatWasNotFinishedIsBuiltAnew(t *testing.T) {
	env := &bench.Env{Dir: t.TempDir(), Sizes: []int{600}, Logf: t.Logf}
	for _, damage := range []func(path string) error{
		func(path string) error { return os.Remove(path + ".tokens.json") },
		func(path string) error { return os.Truncate(path+".tokens.json", 100) },
		func(path string) error { return os.Truncate(path, 0) },
		os.Remove,
	} {
		if _, err := bench.Growth.Open(env); err != nil {
			t.Fatal(err)
		}
		closeEnv(t, env)
		if err := damage(filepath.Join(env.Dir, "keys=600.db")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bench.Growth.Open(env); err != nil {
		t.Fatal(err)
	}
	closeEnv(t, env)
}

func TestAStoreThatAnotherRunHasOpenIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	first := &bench.Env{Dir: dir, Sizes: []int{600}, Logf: t.Logf}
	if _, err := bench.Growth.Open(first); err != nil {
		t.Fatal(err)
	}
	defer closeEnv(t, first)
	second := &bench.Env{Dir: dir, Sizes: []int{600}, Logf: t.Logf}
	defer closeEnv(t, second)
	if _, err := bench.Growth.Open(second); !errors.Is(err, latchkey.ErrLocked) {
		t.Fatalf("got %v, want ErrLocked", err)
	}
}

func closeEnv(tb testing.TB, env *bench.Env) {
	tb.Helper()
	if err := env.Close(); err != nil {
		tb.Error(err)
	}
}

func BenchmarkCached(b *testing.B)          { run(b, bench.Cached) }
func BenchmarkCarried(b *testing.B)         { run(b, bench.Carried) }
func BenchmarkCAPI(b *testing.B)            { run(b, bench.CAPI) }
func BenchmarkCold(b *testing.B)            { run(b, bench.Cold) }
func BenchmarkHTTP(b *testing.B)            { run(b, bench.HTTP) }
func BenchmarkMiddleware(b *testing.B)      { run(b, bench.Middleware) }
func BenchmarkFloods(b *testing.B)          { run(b, bench.Floods) }
func BenchmarkEdge(b *testing.B)            { run(b, bench.Edge) }
func BenchmarkReplication(b *testing.B)     { run(b, bench.Replication) }
func BenchmarkForged(b *testing.B)          { run(b, bench.Forged) }
func BenchmarkMalformed(b *testing.B)       { run(b, bench.Malformed) }
func BenchmarkGrowth(b *testing.B)          { run(b, bench.Growth) }
func BenchmarkOpening(b *testing.B)         { run(b, bench.Opening) }
func BenchmarkBudgets(b *testing.B)         { run(b, bench.Budgets) }
func BenchmarkUnderWrites(b *testing.B)     { run(b, bench.UnderWrites) }
func BenchmarkSharedCommits(b *testing.B)   { run(b, bench.SharedCommits) }
func BenchmarkRivals(b *testing.B)          { run(b, bench.Rivals) }
func BenchmarkEtcd(b *testing.B)            { run(b, bench.Etcd) }
func BenchmarkEtcdRevocations(b *testing.B) { run(b, bench.EtcdRevocations) }
func BenchmarkEtcdKeys(b *testing.B)        { run(b, bench.EtcdKeys) }

func run(b *testing.B, g bench.Group) {
	dir, err := bench.DefaultDir()
	if err != nil {
		b.Fatal(err)
	}
	env := &bench.Env{Dir: dir, Sizes: bench.ShortSizes, Logf: b.Logf}
	if os.Getenv("LATCHKEY_BENCH_LONG") != "" {
		env.Sizes = bench.LongSizes
	}
	defer closeEnv(b, env)
	cases, err := g.Open(env)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range cases {
		b.Run(c.Name, func(b *testing.B) {
			if err := c.Body(b); err != nil {
				b.Fatal(err)
			}
		})
	}
}
