package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
)

// heldStore makes a store that this process has open, with an audit trail, in a directory whose
// path is short enough for a socket.
func heldStore(t testing.TB) (*latchkey.Store, *audit.Trail, string) {
	t.Helper()
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	dir, err := os.MkdirTemp("", "lk")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "keys.db")
	trail := audit.New(nil)
	s, err := latchkey.Open(path, &latchkey.Options{OnChange: trail.Record, Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = os.RemoveAll(dir)
	})
	return s, trail, path
}

// listen serves the store until the test ends.
func listen(t *testing.T, s *latchkey.Store, trail *audit.Trail, path string) {
	t.Helper()
	socket, err := admin.Listen(s, path, &admin.Options{Trail: trail})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
}

// runs runs the command, and returns its exit status and what it wrote.
func runs(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, os.Stdin, &out, &errs)
	return status, out.String(), errs.String()
}

// wantRun fails the test unless a command has a status, and writes want to standard error.
func wantRun(t *testing.T, status int, want string, args ...string) {
	t.Helper()
	got, stdout, stderr := runs(t, args...)
	if got != status || !strings.Contains(stderr, want) || want == "" && stderr != "" {
		t.Errorf("%v: status %d, output %q, errors %q; want %d and %q", args, got, stdout, stderr, status, want)
	}
}

func TestVerboseSaysWhichWayTheCommandTook(t *testing.T) {
	s, trail, path := heldStore(t)
	listen(t, s, trail, path)
	args := []string{"group", "disable", "acme", "--store", path}
	wantRun(t, 0, "", args...)
	through := "latchkey: a program has " + path + " open; the command goes through its socket "
	wantRun(t, 0, through, append(args, "--verbose")...)
	wantRun(t, 0, `{"note":"a program has `, append(args, "--verbose", "--json")...)
	wantRun(t, 0, through, "group", "list", "--store", path, "--verbose")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantRun(t, 0, "latchkey: opened "+path+"\n", append(args, "--verbose")...)
}

func TestTheSocketNamesTheActorOfTheCommand(t *testing.T) {
	s, trail, path := heldStore(t)
	listen(t, s, trail, path)
	const name = "Zoë 100% 東京"
	wantRun(t, 0, "", "group", "disable", "acme", "--store", path, "--actor", name)
	wantRun(t, 0, "", "group", "enable", "acme", "--store", path)
	var actors []string
	err := s.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.Entries(tx, 0) {
			if err != nil {
				return err
			}
			actors = append(actors, e.Change.Actor)
		}
		return nil
	})
	if err != nil || len(actors) != 2 || actors[0] != name || actors[1] != osUser() {
		t.Errorf("got the actors %q (%v), want %q and %q", actors, err, name, osUser())
	}
}

func TestAChangeThatTheProgramDoesNotRecordIsWarnedOf(t *testing.T) {
	s, trail, path := heldStore(t)
	socket, err := admin.Listen(s, path, &admin.Options{Trail: trail})
	if err != nil {
		t.Fatal(err)
	}
	disable := []string{"group", "disable", "acme", "--store", path}
	enable := []string{"group", "enable", "acme", "--store", path}
	wantRun(t, 0, "", disable...) // the first entry of the trail
	wantRun(t, 0, "", enable...)
	if err := errors.Join(socket.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s, err = latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	listen(t, s, nil, path)
	wantRun(t, 0, "latchkey: warning: the change has no entry in the audit trail, because the program", disable...)
	wantRun(t, 0, "", disable...) // which changes nothing
	wantRun(t, 0, "", "audit", "prune", "--keep", "1", "--yes", "--store", path)
	wantRun(t, 0, `{"warning":"the change has no entry`, append(enable, "--json")...)
}

func TestAProgramThatServesNothingIsWaitedFor(t *testing.T) {
	_, _, path := heldStore(t)
	want := "; close the program that has it open, have it call admin.Listen, or wait longer with --wait"
	wantRun(t, exitLocked, want, "group", "list", "--store", path, "--wait", "0")
	wantRun(t, exitLocked, want, "group", "list", "--store", path, "--wait", "1ms")
}

func TestAStaleSocketIsNoSocket(t *testing.T) {
	s, trail, path := heldStore(t)
	if runtime.GOOS == "windows" {
		t.Skip("a pipe ends with its program")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantRun(t, exitLocked, "close the program that has it open", "group", "list", "--store", path, "--wait", "0")
	listen(t, s, trail, path) // replaces it
	wantRun(t, 0, "", "group", "list", "--store", path, "--wait", "0")
}

func TestTheSocketOfAnotherUserIsNotUsed(t *testing.T) {
	_, _, path := heldStore(t)
	if os.Getuid() != 0 {
		t.Skip("only root can give a socket to another user")
	}
	l, err := net.Listen("unix", path+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chown(path+".sock", 4242, 4242); err != nil {
		t.Fatal(err)
	}
	wantRun(t, exitLocked, "; run the command as the user of the program that has the store open", "group", "list", "--store", path)
}

// impostor serves handler on the socket of a store that this process has open.
func impostor(t *testing.T, path string, handler http.HandlerFunc) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the place of a pipe is not known here")
	}
	l, err := net.Listen("unix", path+".sock")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestAProgramThatStopsInTheMiddleLeavesAChangeOpen(t *testing.T) {
	_, _, path := heldStore(t)
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1/groups") {
			_, _ = w.Write([]byte(`{"items":[]}`))
			return
		}
		panic(http.ErrAbortHandler)
	})
	wantRun(t, 0, "", "group", "list", "--store", path)
	wantRun(t, exitFailed, "does not answer: EOF; check whether the change was made before you repeat it", "group", "disable", "acme", "--store", path)
}

func TestAProgramThatStopsWhileItIsReadIsReported(t *testing.T) {
	_, _, path := heldStore(t)
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"items":[{"name":"acme"`))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	wantRun(t, exitFailed, "does not answer: unexpected EOF; look whether that program still runs, and repeat the command", "group", "list", "--store", path)
}

func TestSomethingElseOnTheSocketIsReported(t *testing.T) {
	_, _, path := heldStore(t)
	impostor(t, path, http.NotFound)
	wantRun(t, exitFailed, "does not answer as the API does: status 404; look whether that program still runs", "group", "list", "--store", path)
}

func TestAnInterruptThroughTheSocketSaysWhetherAChangeMayHaveBeenMade(t *testing.T) {
	_, _, path := heldStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte(`{"items":[]}`))
			return
		}
		cancel()
		<-r.Context().Done()
	})
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"group", "disable", "acme", "--store", path}, os.Stdin, &stdout, &stderr)
	if want := "check whether the change was made before you repeat it"; status != exitFailed || !strings.Contains(stderr.String(), want) {
		t.Errorf("got %d and %q, want %q", status, stderr.String(), want)
	}
}

func TestOptionsOfTheStoreAreRefusedOnTheSocket(t *testing.T) {
	s, trail, path := heldStore(t)
	listen(t, s, trail, path)
	args := []string{"key", "create", "--server", "job", "--store", path}
	want := path + ": the program that has the store open has its own options: --max-keys; leave the flag out, or close the program"
	wantRun(t, exitLocked, want, append(args, "--max-keys", "3")...)
	wantRun(t, exitLocked, ": --cost --max-keys; leave", append(args, "--max-keys", "3", "--cost", "light")...)
	t.Setenv("LATCHKEY_COST", "light") // a default, not a wish of this command
	wantRun(t, 0, "", args...)
	wantRun(t, exitLocked, ": --cost; leave", "key", "rotate", "--server", "job", "--store", path, "--cost", "light")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantRun(t, 0, "", "key", "rotate", "--server", "job", "--store", path, "--cost", "light")
}

// TestAChangeThatMeetsAnotherIsMadeAgain makes another change after the command has read the key.
func TestAChangeThatMeetsAnotherIsMadeAgain(t *testing.T) {
	s, _, path := heldStore(t)
	ctx := t.Context()
	key, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: "job", Metadata: map[string]string{"a": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	handler := admin.New(s, &admin.Options{Authenticate: func(*http.Request) (admin.Caller, error) { return admin.Caller{}, nil }})
	met := 0
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			if met++; met == 1 {
				if err := s.SetMetadata(ctx, latchkey.ServerOwner, key.ID, map[string]string{"a": "1", "b": "2"}); err != nil {
					t.Error(err)
				}
			}
		}
		handler.ServeHTTP(w, r)
	})
	wantRun(t, 0, "", "key", "set", "--server", "job", "--metadata", "c=3", "--store", path)
	key, err = s.KeyByID(ctx, key.ID)
	if err != nil || len(key.Metadata) != 3 || met != 2 {
		t.Errorf("got %v after %d changes (%v), want three texts after two", key.Metadata, met, err)
	}
}

func TestAnInterruptedReadThroughTheSocketHasChangedNothing(t *testing.T) {
	_, _, path := heldStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	impostor(t, path, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"group", "list", "--store", path}, os.Stdin, &stdout, &stderr)
	if want := "latchkey: interrupted; nothing was changed\n"; status != exitInterrupted || stderr.String() != want {
		t.Errorf("got %d and %q, want %q", status, stderr.String(), want)
	}
}
