package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
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
		want := "latchkey: context canceled; the command was interrupted, and nothing was changed\n"
		if deleted > 0 {
			want = fmt.Sprintf("latchkey: interrupted after %d keys were deleted: context canceled; repeat the command to delete the others\n", deleted)
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
