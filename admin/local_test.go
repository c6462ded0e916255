package admin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
)

func TestALocalClientDoesEverythingWithoutAKey(t *testing.T) {
	a := newAPI(t, nil)
	client := admin.Local(a.store, &admin.Options{Trail: a.trail})
	ctx := t.Context()
	key, token, err := client.CreateKey(ctx, latchkey.ServerOwner, admin.NewKey{Name: "job"}, "")
	a.must(err)
	a.loginIs(token, nil)
	if _, err := client.ChangeKey(ctx, key.ID, admin.KeyChange{Disabled: admin.Some(true)}, ""); err != nil {
		t.Error(err)
	}
	a.loginIs(token, latchkey.ErrKeyDisabled)
	var backup bytes.Buffer
	a.must(client.Backup(ctx, &backup))
	if backup.Len() < 4096 {
		t.Errorf("the backup has %d bytes", backup.Len())
	}
	if _, err := client.Key(ctx, latchkey.ServerOwner); !errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Errorf("got %v, want ErrKeyNotFound", err)
	}
}

func TestALocalClientFollowsChangesAsTheyHappen(t *testing.T) {
	a := newAPI(t, nil)
	client := admin.Local(a.store, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var names []string
	for e, err := range client.Changes(ctx, "") {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		switch names = append(names, e.Name); e.Name {
		case "ready":
			a.newServerKey(latchkey.KeySpec{Name: "job"})
		case "commit":
			cancel()
		}
	}
	if len(names) != 3 || names[0] != "ready" || names[1] != "change" || names[2] != "commit" {
		t.Errorf("got %v", names)
	}
}

func TestAnEndedContextEndsALocalCallAsItEndsACallOfTheStore(t *testing.T) {
	a := newAPI(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := admin.Local(a.store, nil).CreateUser(ctx, admin.NewUser{Identity: latchkey.Identity{Provider: "anonymous"}}, "")
	if !errors.Is(err, context.Canceled) || errors.Is(err, latchkey.ErrCommitUnknown) {
		t.Errorf("got %v, want context.Canceled, and nothing left open", err)
	}
}

func TestALocalAnswerThatIsBrokenOffIsNoWholeAnswer(t *testing.T) {
	a := newAPI(t, nil)
	a.newServerKey(latchkey.KeySpec{Name: "job"})
	w := &failAfter{n: 4096}
	if err := admin.Local(a.store, nil).Backup(t.Context(), w); !errors.Is(err, errFull) {
		t.Errorf("got %v, want the writer's error", err)
	}
	if runtime.GOOS == "windows" {
		return // which does not cut a file that is in memory
	}
	if err := os.Truncate(a.path, 8192); err != nil { // the store cannot be read to its end
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := admin.Local(a.store, nil).Backup(t.Context(), &backup); !errors.Is(err, latchkey.ErrCorrupt) {
		t.Errorf("a backup of a broken file: got %v", err)
	}
}

var errFull = errors.New("full")

// failAfter is a writer that takes n bytes.
type failAfter struct{ n int }

func (w *failAfter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestACallEndsWhenTheProgramHasDoneEverythingForIt(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusNoContent} {
		synctest.Test(t, func(t *testing.T) {
			done := false
			client := admin.Within(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				if status == http.StatusOK {
					_, _ = w.Write([]byte("{}"))
				}
				time.Sleep(time.Second)
				done = true
			}))
			if err := client.Compact(t.Context()); err != nil || !done {
				t.Errorf("status %d: the call has ended with %v, and the work has ended: %t", status, err, done)
			}
		})
	}
}

func TestOnlyASocketAndALocalClientNameTheActorByAHeader(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	a := newAPI(t, &admin.Options{})
	_, token := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	const name = "Zoë %41"
	create := func(c *admin.Client, subject string) {
		t.Helper()
		_, err := c.As(name).CreateUser(t.Context(), admin.NewUser{Identity: latchkey.Identity{Provider: "custom-token", Subject: subject}}, "")
		a.must(err)
	}
	server := httptest.NewServer(a.handler)
	defer server.Close()
	create(admin.NewClient(server.Client(), server.URL, token), "1")
	create(admin.Local(a.store, nil), "2")
	socket, err := admin.Listen(a.store, a.path, nil)
	a.must(err)
	defer socket.Close()
	through := admin.Transport(a.path)
	defer through.CloseIdleConnections()
	create(admin.NewClient(&http.Client{Transport: through}, "http://latchkey", ""), "3")

	var actors []string
	for e, err := range admin.Local(a.store, nil).Audit(t.Context(), audit.Position{"": 1}) {
		a.must(err)
		actors = append(actors, e.Change.Actor)
	}
	if len(actors) != 3 || actors[0] == name || actors[1] != name || actors[2] != name {
		t.Errorf("got the actors %q", actors)
	}

	r, err := http.NewRequest("GET", "http://latchkey/v1/store", nil)
	a.must(err)
	r.Header.Set("Latchkey-Actor", "%zz")
	reply, err := (&http.Client{Transport: through}).Do(r)
	a.must(err)
	defer reply.Body.Close()
	if text, _ := io.ReadAll(reply.Body); reply.StatusCode != 400 || !bytes.Contains(text, []byte("Latchkey-Actor")) {
		t.Errorf("got %d %s", reply.StatusCode, text)
	}
}

func TestAProblemIsEachErrorThatTheErrorWas(t *testing.T) {
	a := newAPI(t, nil)
	if runtime.GOOS == "windows" {
		t.Skip("Windows removes a file when nobody has it open any more")
	}
	a.must(os.Remove(a.path))
	_, err := admin.Local(a.store, nil).CreateUser(t.Context(), admin.NewUser{Identity: latchkey.Identity{Provider: "anonymous"}}, "")
	if !errors.Is(err, latchkey.ErrFileChanged) || !errors.Is(err, latchkey.ErrFileGone) {
		t.Errorf("got %#v, want ErrFileChanged and ErrFileGone", err)
	}
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Error("the problem is ErrKeyNotFound, too")
	}
}

// endingContext is a context that ends after left calls of Err.
type endingContext struct {
	context.Context
	left atomic.Int64
}

func (ctx *endingContext) Err() error {
	if ctx.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestAnInterruptedChangeIsAnsweredByWhatHasHappened(t *testing.T) {
	a := newAPI(t, nil)
	client := admin.Local(a.store, nil)
	user := a.newUser("ada@example.com")
	key, _ := a.newKey(user, "laptop")
	for name, change := range map[string]func(ctx context.Context, disabled bool) (now bool, err error){
		"key": func(ctx context.Context, disabled bool) (bool, error) {
			_, err := client.ChangeKey(ctx, key.ID, admin.KeyChange{Disabled: admin.Some(disabled)}, admin.AnyETag)
			k, readErr := client.Key(t.Context(), key.ID)
			a.must(readErr)
			return k.Disabled, err
		},
		"user": func(ctx context.Context, disabled bool) (bool, error) {
			_, err := client.ChangeUser(ctx, user, admin.UserChange{Disabled: admin.Some(disabled)}, admin.AnyETag)
			u, readErr := client.User(t.Context(), user)
			a.must(readErr)
			return u.Disabled, err
		},
		"group": func(ctx context.Context, disabled bool) (bool, error) {
			_, err := client.ChangeGroup(ctx, "acme", admin.GroupChange{Disabled: admin.Some(disabled)}, admin.AnyETag)
			g, readErr := client.Group(t.Context(), "acme")
			a.must(readErr)
			return g.Disabled, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before, interrupted := false, false
			for looks := int64(0); looks < 40; looks++ {
				ctx := &endingContext{Context: t.Context()}
				ctx.left.Store(looks)
				now, err := change(ctx, !before)
				if (err == nil) == (now == before) {
					t.Fatalf("after %d looks: got the error %v, and disabled is %t as before", looks, err, now)
				}
				before, interrupted = now, interrupted || errors.Is(err, context.Canceled)
			}
			if !interrupted {
				t.Error("no change was interrupted")
			}
		})
	}
}

func TestADryRunAnswersAsADeletionAndChangesNothing(t *testing.T) {
	var log bytes.Buffer
	a := newAPI(t, &admin.Options{Authenticate: everybody, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	user := a.newUser("ada@example.com")
	key, token := a.newKey(user, "laptop")
	a.do("DELETE", keyPath(key.ID)+"?dry_run=true", nil).is(204)
	a.do("DELETE", userPath(user)+"?dry_run=true", nil).is(204)
	a.do("DELETE", userPath(user)+"/identities?provider=local-userpass&subject=ada@example.com&dry_run=true", nil).problem(409, "last-identity")
	a.do("DELETE", keyPath(key.ID)+"?dry_run=true", nil, "If-Match", `"0"`).problem(412, "changed-meanwhile")
	a.do("DELETE", keyPath(user)+"?dry_run=true", nil).problem(404, "key-not-found")
	a.do("DELETE", keyPath(key.ID)+"?dry_run=yes", nil).problem(400, "invalid-request")
	a.loginIs(token, nil)
	if log.Len() > 0 {
		t.Errorf("the log has %s", log.String())
	}

	dry := admin.Local(a.store, nil).DryRun()
	a.must(dry.DeleteKey(t.Context(), key.ID, ""))
	a.must(dry.DeleteUser(t.Context(), user, ""))
	if _, err := dry.ChangeKey(t.Context(), key.ID, admin.KeyChange{Disabled: admin.Some(true)}, ""); err == nil {
		t.Error("a client of DryRun changes a key")
	}
	if _, err := dry.Login(t.Context(), admin.Login{Token: token}); err != nil {
		t.Error(err)
	}
	a.loginIs(token, nil)
	a.do("DELETE", keyPath(key.ID)+"?dry_run=false", nil).is(204)
	a.loginIs(token, latchkey.ErrInvalidToken)
}
