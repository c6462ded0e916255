package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestTheManualListsEveryExitStatus(t *testing.T) {
	statuses := []int{exitDone, exitFailed, exitUsage}
	for _, o := range outcomes {
		statuses = append(statuses, o.status)
	}
	_, list, _ := strings.Cut(manual(), "# Exit status")
	for _, status := range statuses {
		if !strings.Contains(list, fmt.Sprintf("\n    %d ", status)) {
			t.Errorf("the manual does not list the status %d", status)
		}
	}
}

func TestWhoWaitsForAnAnswerCanBeInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s, err := latchkey.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stdin, silence, err := os.Pipe() // nobody ever writes
	if err != nil {
		t.Fatal(err)
	}
	defer silence.Close()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"login", "--store", path}, stdin, &stdout, &stderr)
	if want := "latchkey: context canceled; it was interrupted, and nothing was changed\n"; status != 130 || stderr.String() != want || stdout.Len() != 0 {
		t.Errorf("status %d, standard error %q, standard output %q; want 130, %q and none", status, stderr.String(), stdout.String(), want)
	}
}

func TestAMessageIsOneLineWithoutTokens(t *testing.T) {
	token := "lk_" + strings.Repeat("Az09", 19) + "x"
	var stderr bytes.Buffer
	status := report(&stderr, nil, fmt.Errorf("first\n\tsecond \x1b[31m%q: %w", token, latchkey.ErrKeyNotFound))
	if want := "latchkey: first second \uFFFD[31m\"[token]\": key not found; see latchkey key list\n"; status != exitNotFound || stderr.String() != want {
		t.Errorf("got %d, %q; want %d, %q", status, stderr.String(), exitNotFound, want)
	}
}
