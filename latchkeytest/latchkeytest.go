// Package latchkeytest gives tests a store.
//
//	func TestHandler(t *testing.T) {
//		store := latchkeytest.New(t)
//		_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "laptop"})
//		...
//	}
package latchkeytest

import (
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// New returns an empty store in memory, which is closed when the test ends. The store keeps all the
// rules of a store in a file. It has [latchkey.LightCost], so that a new key takes some
// milliseconds at most. Each store is a domain of its own, so tests that run in parallel can have
// one each. Its time is the system clock's, also in a bubble of testing/synctest.
//
// The test fails if the store cannot be made or closed.
func New(t testing.TB) *latchkey.Store {
	t.Helper()
	store, err := memory.Open(&latchkey.Options{Cost: latchkey.LightCost, TestClock: true})
	if err != nil {
		t.Fatalf("latchkeytest: %v", err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("latchkeytest: %v", err)
		}
	})
	return store
}
