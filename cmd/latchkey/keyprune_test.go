package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/memory"
)

func TestAnInterruptedPruneSaysWhatItHasDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	now := time.Now().Add(-2 * time.Hour)
	s, err := latchkey.Open(path, &latchkey.Options{
		Cost: latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}, MaxKeysPerUser: -1, Now: func() time.Time { return now }, TestClock: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada"}})
	if err != nil {
		t.Fatal(err)
	}
	const keys = 2*pruneBatch + 1
	requests := make([]latchkey.KeyRequest, keys)
	for i := range requests {
		requests[i] = latchkey.KeyRequest{Owner: user.ID, KeySpec: latchkey.KeySpec{Name: fmt.Sprint(i), Expires: now.Add(time.Hour)}}
	}
	_, _, err = s.CreateKeys(t.Context(), requests, nil)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}

	left := func() int {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), []string{"key", "prune", "--expired", "--store", path}, os.Stdin, &stdout, &stderr); status != exitDone {
			t.Fatalf("status %d, %s", status, stderr.String())
		}
		return strings.Count(stdout.String(), "\nada  ")
	}
	interruptedLater := false
	for looks, before := 0, left(); before > 0; looks++ {
		var stdout, stderr bytes.Buffer
		status := run(endingAfter(t.Context(), looks), []string{"key", "prune", "--expired", "--yes", "--store", path}, os.Stdin, &stdout, &stderr)
		deleted := strings.Count(stdout.String(), "deleted key ")
		after := left()
		if before-after != deleted {
			t.Fatalf("%d keys were deleted, the output has %d", before-after, deleted)
		}
		want := "latchkey: interrupted; nothing was changed\n"
		if deleted > 0 {
			want = fmt.Sprintf("latchkey: interrupted after %d keys were deleted; repeat the command to delete the others\n", deleted)
			interruptedLater = true
		}
		if status == exitInterrupted && !strings.HasSuffix(stderr.String(), strings.TrimPrefix(want, "latchkey: ")) {
			t.Fatalf("got %q, want %q", stderr.String(), want)
		}
		if status != exitInterrupted && status != exitDone {
			t.Fatalf("status %d, %s", status, stderr.String())
		}
		before = after
	}
	if !interruptedLater {
		t.Error("no run was interrupted between two batches")
	}
}

// afterwards is a transport to a handler, which calls after when it has answered a request.
type afterwards struct {
	handler http.Handler
	after   func(*http.Request)
}

func (a afterwards) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	a.after(r)
	return w.Result(), nil
}

func TestAPruneLeavesAKeyAloneThatIsChangedMeanwhile(t *testing.T) {
	now := time.Now()
	s, err := memory.Open(&latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return now }, TestClock: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var keys []latchkey.Key
	for _, name := range []string{"kept", "gone"} {
		key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name, Expires: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	now = now.Add(2 * time.Hour)
	everybody := func(*http.Request) (admin.Caller, error) { return admin.Caller{Secrets: true}, nil }
	extend := func(r *http.Request) {
		if r.URL.Path != "/v1/keys" {
			return
		}
		if err := s.SetExpiry(t.Context(), latchkey.ServerOwner, keys[0].ID, now.Add(time.Hour)); err != nil {
			t.Error(err)
		}
	}
	client := admin.NewClient(&http.Client{Transport: afterwards{admin.New(s, &admin.Options{Authenticate: everybody}), extend}}, "http://latchkey", "")
	p := &pruning{cli: &cli{}, expired: true, remove: true}
	pruned, err := p.prune(t.Context(), client)
	if err != nil || len(pruned) != 1 || pruned[0].ID != keys[1].ID {
		t.Errorf("got %v, %v, want the key that stayed expired", pruned, err)
	}
	if _, err := s.KeyByID(t.Context(), keys[0].ID); err != nil {
		t.Errorf("the key with a later expiry date: %v", err)
	}
}
