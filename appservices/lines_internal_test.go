package appservices

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"

	"github.com/latchkeydb/latchkey/internal/address"
)

func lineOf(kind hashKind, addr string) lineKey {
	return lineKey{kind, address.Counted(netip.MustParseAddr(addr))}
}

func TestAnAddressStandsInItsOwnLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		flood := lineOf(hashCheck, "192.0.2.1")
		enter := func(key lineKey) {
			t.Helper()
			if err := l.enter(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		for range linePlaces() {
			enter(flood)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var served []int
		outcomes := make(chan error, maxLine)
		for i := range maxLine - linePlaces() {
			go func() {
				of := t.Context()
				if i == 1 {
					of = ctx
				}
				err := l.enter(of, flood)
				if err == nil {
					served = append(served, i)
					l.leave(flood)
				}
				outcomes <- err
			}()
			if i < 3 {
				synctest.Wait() // until it stands in the line
			}
		}
		synctest.Wait()
		if err := l.enter(t.Context(), flood); !errors.Is(err, errBusy) {
			t.Errorf("when the line is full: got %v, want errBusy", err)
		}
		for _, other := range []lineKey{lineOf(hashCheck, "192.0.2.2"), lineOf(hashLogin, "192.0.2.1"), lineOf(hashCheck, "2001:db8::1")} {
			enter(other) // this deadlocks if it has to wait
			l.leave(other)
		}
		cancel()
		if err := <-outcomes; !errors.Is(err, context.Canceled) {
			t.Errorf("who leaves gets %v", err)
		}
		for range linePlaces() {
			l.leave(flood)
			synctest.Wait()
		}
		if len(served) != maxLine-linePlaces()-1 || !slices.Equal(served[:2], []int{0, 2}) {
			t.Errorf("%d were served, and first %v", len(served), served[:2])
		}
		if len(l.all) != 0 {
			t.Errorf("lines are left: %v", l.all)
		}
	})
}

// A key that has logged in before costs no hash, so a flood of new keys does not make it wait.
func TestAKnownKeyDoesNotStandInLine(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	h, err := New(store, nil)
	if err != nil {
		t.Fatal(err)
	}
	login := func(ctx context.Context, token string) int {
		r := httptest.NewRequestWithContext(ctx, "POST", prefix+"/app/demo/auth/providers/api-key/login", strings.NewReader(`{"key":"`+token+`"}`))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	tokens := make([]string, 2)
	for i := range tokens {
		if _, tokens[i], err = store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint("key-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := login(t.Context(), tokens[0]); got != 200 {
		t.Fatalf("got status %d", got)
	}
	for range linePlaces() {
		// httptest sends requests from this address.
		if err := h.lines.enter(t.Context(), lineOf(hashLogin, "192.0.2.1")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute) // so that a failure has an end
	defer stop()
	if got := login(ctx, tokens[0]); got != 200 {
		t.Errorf("a known key got status %d", got)
	}
	if got := login(ctx, "nonsense"); got != 401 {
		t.Errorf("a string that is no key got status %d", got)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if got := login(ended, tokens[1]); got != 503 {
		t.Errorf("a new key got status %d without standing in line", got)
	}
}
