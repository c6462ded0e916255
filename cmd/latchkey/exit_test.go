package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

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

// newStore makes a store in a new file, and returns it with the name of the file.
func newStore(t *testing.T) (*latchkey.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	s, err := latchkey.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func TestCommandsThatWaitCanBeInterrupted(t *testing.T) {
	s, path := newStore(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	holder, held := newStore(t)
	stdin, silence, err := os.Pipe() // nothing is ever written to it
	if err != nil {
		t.Fatal(err)
	}
	defer silence.Close()

	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"login", "--store", path}, ""},
		{[]string{"restore", "-", "--store", path + ".new"}, "restore " + path + ".new: "},
		{[]string{"stats", "--store", held, "--wait", "1h"}, ""},
		{[]string{"user", "add", "--anonymous", "--store", held, "--wait", "1h"}, ""},
		{[]string{"serve", "--addr", "127.0.0.1:0", "--quiet", "--store", held, "--wait", "1h"}, ""},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var stdout, stderr bytes.Buffer
		status := run(ctx, tt.args, stdin, &stdout, &stderr)
		want := "latchkey: " + tt.want + "interrupted; nothing was changed\n"
		if status != exitInterrupted || stderr.String() != want || stdout.Len() != 0 {
			t.Errorf("%v: status %d, standard error %q, standard output %q; want 130, %q and none", tt.args, status, stderr.String(), stdout.String(), want)
		}
	}
	// A program would have ended by now. Here its goroutines get the store, and close it, and
	// Windows removes no file that is open.
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	for os.RemoveAll(filepath.Dir(held)) != nil {
		time.Sleep(time.Millisecond)
	}
}

func TestASecondSignalEndsACommandThatIsStuckInAWrite(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals for other processes")
	}
	s, path := newStore(t)
	err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := range 2000 { // the list is far longer than a pipe can hold
			if _, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: fmt.Sprint(i)}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("latchkey", "user", "list", "--store", path)
	stdout, err := cmd.StdoutPipe() // nothing after the first byte is ever read
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_, _ = cmd.Process.Wait()
		close(ended)
	}()
	limit := time.After(10 * time.Second)
	for again := time.Tick(time.Millisecond); ; {
		select {
		case <-ended:
			return
		case <-limit:
			_ = cmd.Process.Kill()
			t.Fatal("the command goes on")
		case <-again:
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
}

// endingContext is a context that ends after left calls of Err.
type endingContext struct {
	context.Context
	left atomic.Int64
}

func endingAfter(ctx context.Context, left int) context.Context {
	e := &endingContext{Context: ctx}
	e.left.Store(int64(left))
	return e
}

func (ctx *endingContext) Err() error {
	if ctx.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestAnInterruptedCheckSaysWhatItHasRepaired(t *testing.T) {
	s, path := newStore(t)
	for _, subject := range []string{"ada", "bob", "eve"} {
		if _, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: subject}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	engine, err := latchkey.OpenBoltEngine(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = engine.Update(t.Context(), func(tx latchkey.EngineTx) error {
		return tx.Delete("identities", []byte("local-userpass\x00ada"))
	})
	if err := errors.Join(err, engine.Close()); err != nil {
		t.Fatal(err)
	}
	damaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	met := map[string]bool{}
	for looks := 0; !met[""]; looks++ {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		status := run(endingAfter(t.Context(), looks), []string{"check", "--repair", "--store", path}, os.Stdin, &stdout, &stderr)
		said := strings.TrimPrefix(stderr.String(), "latchkey: ")
		if status == exitDone && said != "" || status != exitDone && status != exitInterrupted {
			t.Fatalf("status %d, standard error %q", status, said)
		}
		met[said] = true

		wantSound := !strings.Contains(said, "nothing was changed")
		stdout.Reset()
		sound := run(t.Context(), []string{"check", "--store", path}, os.Stdin, &stdout, &stderr) == exitDone
		if sound != wantSound {
			t.Errorf("the command said %q, but sound is %t", said, sound)
		}
	}
	if late := "check " + path + ": interrupted after the repair: repaired: 1; latchkey check shows the damage that is left\n"; !met[late] || len(met) < 3 {
		t.Errorf("got %q, want %q among them", slices.Collect(maps.Keys(met)), late)
	}
}

func TestAnErrorIsPrintedOnOneLineWithoutTokens(t *testing.T) {
	token := "lk_" + strings.Repeat("Az09", 19) + "x"
	err := fmt.Errorf("first\n\tsecond \x1b[31m%q: %w", token, latchkey.ErrKeyNotFound)
	for _, tt := range []struct {
		json bool
		want string
	}{
		{false, "latchkey: first second \uFFFD[31m\"[token]\": key not found; see latchkey key list\n"},
		{true, `{"error":"first second ` + "\uFFFD" + `[31m\"[token]\": key not found","advice":"see latchkey key list","status":3}` + "\n"},
	} {
		var stderr bytes.Buffer
		c := &cli{stderr: &stderr, json: tt.json}
		if status := c.report(&cobra.Command{}, err); status != exitNotFound || stderr.String() != tt.want {
			t.Errorf("--json=%t: got %d, %q; want %d, %q", tt.json, status, stderr.String(), exitNotFound, tt.want)
		}
	}
}
