package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

// servedEnv has the path of a store that the test program opens and serves until it is killed.
const servedEnv = "LATCHKEY_TEST_SERVED"

func TestMain(m *testing.M) {
	if path := os.Getenv(servedEnv); path != "" {
		serveUntilKilled(path)
	}
	os.Exit(m.Run())
}

func serveUntilKilled(path string) {
	store, err := latchkey.Open(path, nil)
	if err != nil {
		panic(err)
	}
	if _, err := listen(store, path, says("the child")); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("ready\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // also ends when the test ends
	os.Exit(1)
}

// newPath returns a path for a store in a directory of its own, short enough for a socket.
func newPath(t testing.TB) string {
	t.Helper()
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	dir, err := os.MkdirTemp("", "lk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "keys.db")
}

func open(t testing.TB, path string, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	if opts == nil {
		opts = &latchkey.Options{Cost: latchkey.LightCost}
	}
	store, err := latchkey.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func serve(t testing.TB, store *latchkey.Store, path string, handler http.Handler) *Socket {
	t.Helper()
	s, err := listen(store, path, handler)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// says returns a handler that answers each request with text.
func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) })
}

// get returns the status and the text of an answer.
func get(t testing.TB, path string) (status int, text string) {
	t.Helper()
	transport := Transport(path)
	defer transport.CloseIdleConnections()
	reply, err := (&http.Client{Transport: transport}).Get("http://latchkey/")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(body)
}

func wantNotServed(t *testing.T, path string) {
	t.Helper()
	conn, err := Dial(t.Context(), path)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, ErrNotServed) {
		t.Errorf("Dial: got %v, want ErrNotServed", err)
	}
}

func TestAStoreIsServedFromListenToClose(t *testing.T) {
	path := newPath(t)
	store := open(t, path, nil)
	wantNotServed(t, path)
	for range 2 {
		s := serve(t, store, path, says("hello"))
		if status, text := get(t, path); status != http.StatusOK || text != "hello" {
			t.Errorf("got %d %q", status, text)
		}
		if _, err := listen(store, path, says("again")); !errors.Is(err, ErrServed) {
			t.Errorf("a second Listen: got %v, want ErrServed", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
		wantNotServed(t, path)
	}
	_, err := (&http.Client{Transport: Transport(path)}).Get("http://latchkey/")
	if !errors.Is(err, ErrNotServed) {
		t.Errorf("the transport: got %v, want ErrNotServed", err)
	}
}

func TestOnlyTheHolderOfTheLockListens(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t *testing.T, path string) *latchkey.Store
		want error
	}{
		{"a store elsewhere", func(t *testing.T, path string) *latchkey.Store {
			return open(t, newPath(t), nil)
		}, ErrNotOpen},
		{"a store in memory", func(t *testing.T, path string) *latchkey.Store {
			return latchkeytest.New(t)
		}, ErrNotOpen},
		{"a store that only reads", func(t *testing.T, path string) *latchkey.Store {
			return open(t, path, &latchkey.Options{ReadOnly: true})
		}, ErrNotOpen},
		{"a closed store", func(t *testing.T, path string) *latchkey.Store {
			store := open(t, path, nil)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			return store
		}, latchkey.ErrClosed},
		{"a store whose file was replaced", func(t *testing.T, path string) *latchkey.Store {
			return openAndReplace(t, path)
		}, latchkey.ErrFileChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newPath(t)
			if err := open(t, path, nil).Close(); err != nil {
				t.Fatal(err)
			}
			store := tt.open(t, path)
			if _, err := listen(store, path, says("hello")); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			wantNotServed(t, path)
		})
	}
}

// openAndReplace opens the store at path, and puts another store in its place.
func openAndReplace(t *testing.T, path string) *latchkey.Store {
	t.Helper()
	store := open(t, path, nil)
	replace(t, path)
	return store
}

// replace puts another store in the place of the one at path.
func replace(t *testing.T, path string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows lets nobody replace an open file")
	}
	other := newPath(t)
	if err := open(t, other, nil).Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(path, path+".old"), os.Rename(other, path)); err != nil {
		t.Fatal(err)
	}
}

func TestAProgramWhoseFileWasReplacedDoesNotAnswerForTheNewOne(t *testing.T) {
	path := newPath(t)
	serve(t, open(t, path, nil), path, says("the old store"))
	replace(t, path)
	if status, text := get(t, path); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %q, want 503", status, text)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if status, text := get(t, path); status != http.StatusOK {
		t.Errorf("without a file: got %d %q, want 200", status, text)
	}
}

func TestTheSocketOfAKilledProgramIsReplacedByTheNextHolderOfTheLock(t *testing.T) {
	path := newPath(t)
	child := exec.Command(os.Args[0])
	child.Env = append(child.Environ(), servedEnv+"="+path)
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if _, text := get(t, path); text != "the child" {
		t.Errorf("%q answers, want the child", text)
	}
	// The lock keeps a second program from replacing the socket.
	if store, err := latchkey.Open(path, &latchkey.Options{LockTimeout: -1}); !errors.Is(err, latchkey.ErrLocked) {
		t.Errorf("Open: got %v, %v, want ErrLocked", store, err)
	}
	other := open(t, newPath(t), nil)
	if _, err := listen(other, path, says("an impostor")); !errors.Is(err, ErrNotOpen) {
		t.Errorf("got %v, want ErrNotOpen", err)
	}
	if _, text := get(t, path); text != "the child" {
		t.Errorf("%q answers, want the child", text)
	}

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	wantNotServed(t, path)
	serve(t, open(t, path, nil), path, says("the next"))
	if _, text := get(t, path); text != "the next" {
		t.Errorf("%q answers, want the next", text)
	}
}

// whenClosing calls Close while a request is under way, and returns the answer to the request. The
// handler waits until wait is closed, or until its context ends.
func whenClosing(t *testing.T, limit time.Duration, wait func(*Socket, *http.Request)) error {
	t.Helper()
	before := closeWait
	closeWait = limit
	defer func() { closeWait = before }()
	path := newPath(t)
	begun := make(chan struct{})
	var s *Socket
	s = serve(t, open(t, path, nil), path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		wait(s, r)
	}))
	answer := make(chan error, 1)
	go func() {
		reply, err := (&http.Client{Transport: Transport(path)}).Get("http://latchkey/")
		if err == nil {
			_ = reply.Body.Close()
		}
		answer <- err
	}()
	<-begun
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantNotServed(t, path)
	return <-answer
}

func TestCloseLetsARequestEnd(t *testing.T) {
	err := whenClosing(t, time.Hour, func(s *Socket, r *http.Request) {
		// The listener has ended by the time that the request goes on.
		for {
			conn, err := Dial(r.Context(), filepath.Join(filepath.Dir(s.Path()), "keys.db"))
			if err != nil {
				return
			}
			_ = conn.Close()
			runtime.Gosched()
		}
	})
	if err != nil {
		t.Errorf("the request fails: %v", err)
	}
}

func TestCloseEndsARequestThatDoesNotEndByItself(t *testing.T) {
	err := whenClosing(t, 0, func(_ *Socket, r *http.Request) { <-r.Context().Done() })
	if err == nil {
		t.Error("the request succeeds")
	}
}

func TestAnIdleSocketAddsNothingToALogin(t *testing.T) {
	path := newPath(t)
	store := open(t, path, nil)
	token := newToken(t, store)
	serve(t, store, path, says("hello"))
	get(t, path)
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := store.Login(context.Background(), token); err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 {
		t.Errorf("a login allocates %v times", allocations)
	}
}

func newToken(t testing.TB, store *latchkey.Store) string {
	t.Helper()
	_, token, err := store.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Login(context.Background(), token); err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAnIdleSocketTakesLessThanAMegabyte(t *testing.T) {
	path := newPath(t)
	store := open(t, path, nil)
	// The program keeps some memory of its first socket.
	if err := serve(t, store, path, says("hello")).Close(); err != nil {
		t.Fatal(err)
	}
	before := memoryInUse()
	serve(t, store, path, says("hello"))
	get(t, path)
	if more := memoryInUse() - before; more >= 1<<20 {
		t.Errorf("an idle socket takes %d bytes", more)
	}
}

// memoryInUse returns the memory in the heap and in the stacks, in bytes.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkLogin tells what a socket costs the logins of the program: nothing.
func BenchmarkLogin(b *testing.B) {
	for _, socket := range []string{"none", "idle", "connected"} {
		b.Run("socket="+socket, func(b *testing.B) {
			path := newPath(b)
			store := open(b, path, nil)
			token := newToken(b, store)
			before := memoryInUse()
			var s *Socket
			if socket != "none" {
				s = serve(b, store, path, says("hello"))
			}
			var conn net.Conn
			if socket == "connected" {
				var err error
				if conn, err = Dial(context.Background(), path); err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
			}
			bytes := memoryInUse() - before
			b.ReportAllocs()
			for b.Loop() {
				if _, err := store.Login(context.Background(), token); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(max(bytes, 0)), "socket-B")
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkRequest tells what the way through the socket costs.
func BenchmarkRequest(b *testing.B) {
	path := newPath(b)
	serve(b, open(b, path, nil), path, says("hello"))
	transport := Transport(path)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for b.Loop() {
		reply, err := client.Get("http://latchkey/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, reply.Body)
		_ = reply.Body.Close()
	}
}

func TestWhoeverMayOpenTheSocketMayDoEverything(t *testing.T) {
	path := newPath(t)
	var actor string
	store := open(t, path, &latchkey.Options{Cost: latchkey.LightCost, OnChange: func(tx *latchkey.Tx, c latchkey.Change) error {
		actor = c.Actor
		return nil
	}})
	refuse := func(*http.Request) (Caller, error) { return Caller{}, latchkey.ErrInvalidToken }
	s, err := Listen(store, path, &Options{Authenticate: refuse})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	transport := Transport(path)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	reply, err := client.Post("http://latchkey/v1/server-keys", "application/json", strings.NewReader(`{"name":"laptop"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusCreated {
		t.Errorf("a new key: status %d", reply.StatusCode)
	}
	if me, err := user.Current(); err != nil || actor != "local user "+me.Uid {
		t.Errorf("the actor is %q", actor)
	}
	reply, err = client.Get("http://latchkey/v1/backup")
	if err != nil {
		t.Fatal(err)
	}
	_ = reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Errorf("a backup: status %d", reply.StatusCode)
	}
}

func TestCloseEndsStreamsOfChanges(t *testing.T) {
	before := closeWait
	closeWait = time.Hour
	defer func() { closeWait = before }()
	path := newPath(t)
	s, err := Listen(open(t, path, nil), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := Transport(path)
	defer transport.CloseIdleConnections()
	reply, err := (&http.Client{Transport: transport}).Get("http://latchkey/v1/changes")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Fatalf("status %d", reply.StatusCode)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, reply.Body); err != nil {
		t.Error(err)
	}
}

// TestARevocationThroughTheSocketHoldsWhenItsAnswerIsThere has logins under way all the time, so
// that the cache knows the token at each moment.
func TestARevocationThroughTheSocketHoldsWhenItsAnswerIsThere(t *testing.T) {
	path := newPath(t)
	store := open(t, path, nil)
	s, err := Listen(store, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	transport := Transport(path)
	defer transport.CloseIdleConnections()
	client, ctx := NewClient(&http.Client{Transport: transport}, "http://latchkey", ""), t.Context()
	for i, tt := range []struct {
		name   string
		revoke func(user, key uuid.UUID) error
		want   error
	}{
		{"disable the key", func(_, key uuid.UUID) error {
			_, err := client.ChangeKey(ctx, key, KeyChange{Disabled: Some(true)}, "")
			return err
		}, latchkey.ErrKeyDisabled},
		{"delete the key", func(_, key uuid.UUID) error { return client.DeleteKey(ctx, key, "") }, latchkey.ErrInvalidToken},
		{"rotate the key", func(_, key uuid.UUID) error {
			_, _, err := client.RotateKey(ctx, key, Rotation{}, AnyETag)
			return err
		}, latchkey.ErrInvalidToken},
		{"disable the user", func(user, _ uuid.UUID) error {
			_, err := client.ChangeUser(ctx, user, UserChange{Disabled: Some(true)}, "")
			return err
		}, latchkey.ErrUserDisabled},
		{"delete the user", func(user, _ uuid.UUID) error { return client.DeleteUser(ctx, user, "") }, latchkey.ErrInvalidToken},
		{"disable the group", func(user, _ uuid.UUID) error {
			_, err := client.ChangeGroup(ctx, "north", GroupChange{Disabled: Some(true)}, "")
			return err
		}, latchkey.ErrGroupDisabled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			identity := latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: fmt.Sprint(i)}
			user, err := client.CreateUser(ctx, NewUser{Identity: identity, Group: "north"}, "")
			if err != nil {
				t.Fatal(err)
			}
			key, token, err := client.CreateKey(ctx, user.ID, NewKey{Name: "laptop"}, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Login(ctx, token); err != nil {
				t.Fatal(err)
			}
			end := make(chan struct{})
			var logins sync.WaitGroup
			for range 2 {
				logins.Go(func() {
					for {
						select {
						case <-end:
							return
						default:
							_, _ = store.Login(ctx, token)
						}
					}
				})
			}
			err = tt.revoke(user.ID, key.ID)
			_, after := store.Login(ctx, token)
			close(end)
			logins.Wait()
			if err != nil || !errors.Is(after, tt.want) {
				t.Errorf("got %v, and the login %v, want %v", err, after, tt.want)
			}
		})
	}
}

func TestALocalHandlerThatWritesNothingHasAnswered(t *testing.T) {
	client := http.Client{Transport: within{http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}
	reply, err := client.Get("http://latchkey/")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if text, err := io.ReadAll(reply.Body); err != nil || len(text) > 0 || reply.StatusCode != http.StatusOK {
		t.Errorf("got %d %q, %v, want an empty answer", reply.StatusCode, text, err)
	}
}

func TestACallEndsAfterItsHandler(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"nothing":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
		"a value":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"ok":true}`) },
		"a problem": func(w http.ResponseWriter) { w.WriteHeader(409); _, _ = io.WriteString(w, `{"type":"x","status":409}`) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release, ended := make(chan struct{}), false
				client := NewClient(&http.Client{Transport: within{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					answer(w)
					<-release
				})}}, "http://latchkey", "")
				go func() {
					_, _ = client.Health(t.Context())
					ended = true
				}()
				synctest.Wait()
				if ended {
					t.Error("the call has ended while its handler goes on")
				}
				close(release)
				synctest.Wait()
				if !ended {
					t.Error("the call goes on although its handler has ended")
				}
			})
		})
	}
}
