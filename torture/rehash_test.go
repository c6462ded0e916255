package torture_test

import (
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// If a key's verifier has another cost than the store, a login hashes the key anew. Any later write
// then replaces the verifier. These tests show it on machines of several sizes and with many
// writers.

func TestAKeyIsHashedAnewAtTheStoresCost(t *testing.T) {
	for _, tt := range []struct {
		name       string
		processors int
		memory     int64
	}{
		{"on one processor", 1, hashMemory},
		{"on two processors", 2, hashMemory},
		{"with memory for one hash", 2, int64(dearer.Memory) << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(tt.processors))
			s, tokens := openWithOldKeys(t, 1, latchkey.Options{HashMemory: tt.memory, CacheSize: -1})
			// The hash runs when a processor is free for it, so the test logs in and writes until
			// then.
			waitFor(t, "a write that takes the new hash along", func() bool {
				_, err := s.Login(t.Context(), tokens[0])
				must(t, err)
				writeSomething(t, s)
				return stats(t, s).Rehashed > 0
			})
		})
	}
}

func TestEachVerifierIsReplacedAtMostOnceAmongManyWriters(t *testing.T) {
	const keys = 20
	s, tokens := openWithOldKeys(t, keys, latchkey.Options{})
	var all sync.WaitGroup
	for _, token := range tokens {
		for range 4 {
			all.Go(func() {
				if _, err := s.Login(t.Context(), token); err != nil {
					t.Error(err)
				}
				writeSomething(t, s)
			})
		}
	}
	all.Wait()
	writeSomething(t, s)
	if n := stats(t, s).Rehashed; n > keys {
		t.Errorf("%d verifiers were replaced, and there are %d keys", n, keys)
	}
}

// openWithOldKeys makes keys in a store, and opens the store again at another cost.
func openWithOldKeys(t *testing.T, keys int, opts latchkey.Options) (s *latchkey.Store, tokens []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	s = openFile(t, path, &latchkey.Options{Cost: light})
	tokens = createServerKeys(t, s, keys)
	must(t, s.Close())
	opts.Cost = dearer
	return openFile(t, path, &opts), tokens
}

func writeSomething(t *testing.T, s *latchkey.Store) {
	_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(uuid.NewString())})
	if err != nil {
		t.Error(err)
	}
}
