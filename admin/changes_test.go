package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/httpauth"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

// An event is an event of a stream.
type event struct{ name, id, data string }

// A client reads a stream.
type client struct {
	testing.TB
	body  *bufio.Scanner
	close func()
}

// follow opens a stream. lastID is the header Last-Event-ID, or empty.
func follow(t testing.TB, server *httptest.Server, lastID string) *client {
	t.Helper()
	return followAs(t, server, lastID, "")
}

// followAs is follow with a token.
func followAs(t testing.TB, server *httptest.Server, lastID, token string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/v1/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := server.Client().Do(r)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %+v, %v", res, err)
	}
	c := &client{t, bufio.NewScanner(res.Body), func() { cancel(); res.Body.Close() }}
	t.Cleanup(c.close)
	return c
}

// next returns the next event, and false at the end of the stream.
func (c *client) next() (e event, ok bool) {
	c.Helper()
	for c.body.Scan() {
		name, value, _ := strings.Cut(c.body.Text(), ": ")
		switch name {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data = value
		case "":
			if e.name != "" {
				return e, true
			}
		}
	}
	return e, false
}

// until returns the next event of a name, and leaves out commits before it.
func (c *client) until(name string) event {
	c.Helper()
	for {
		e, ok := c.next()
		if e.name == name {
			return e
		}
		if !ok || e.name != "commit" {
			c.Fatalf("got the event %+v %v, want %s", e, ok, name)
		}
	}
}

func serveAPI(t testing.TB, a *api) *httptest.Server {
	server := httptest.NewServer(a.handler)
	t.Cleanup(server.Close)
	t.Cleanup(a.handler.Close) // before the server, which waits for streams
	return server
}

func TestAStreamHasEveryChangeInOrder(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	c := follow(t, serveAPI(t, a), "")
	ready := c.until("ready")
	if ready.data != fmt.Sprintf(`{"sequence":%d,"last":"1","trail":true}`, stats(a).Sequence) {
		t.Errorf("got %+v", ready)
	}
	key, _ := a.newKey(user, "laptop")
	forger := latchkey.WithActor(t.Context(), "x\n\nevent: forged\n\n")
	a.must(a.store.DisableKey(forger, user, key.ID))
	for i, want := range []string{"key.created", "key.disabled"} {
		e := c.until("change")
		var entry audit.Entry
		a.must(json.Unmarshal([]byte(e.data), &entry))
		if entry.Number != uint64(i+2) || e.id != fmt.Sprint(i+2) || string(entry.Change.Actions[0]) != want || entry.Change.Key != key.ID {
			t.Errorf("got %+v", e)
		}
		if d, err := theDescription(); err != nil || d.validate("/components/schemas/AuditEntry", []byte(e.data)) != nil {
			t.Errorf("the description does not have %s: %v", e.data, err)
		}
	}
	if e := c.until("commit"); e.data != fmt.Sprintf(`{"sequence":%d}`, stats(a).Sequence) {
		t.Errorf("got %+v", e)
	}
}

func stats(a *api) latchkey.Stats {
	s, err := a.store.Stats(a.Context())
	a.must(err)
	return s
}

func TestAStreamGoesOnWhereAnotherEnded(t *testing.T) {
	a := newAPI(t, nil)
	for i := range 250 { // more than two batches
		a.newUser(fmt.Sprint(i))
	}
	server := serveAPI(t, a)
	c := follow(t, server, "7")
	c.until("ready")
	for i := 8; i <= 250; i++ {
		if e := c.until("change"); e.id != fmt.Sprint(i) {
			t.Fatalf("got %+v, want %d", e, i)
		}
	}
	// The trail is shorter than the client thinks: the store was restored.
	c = follow(t, server, "9000")
	c.until("ready")
	c.until("lost")
	a.newUser("x")
	if e := c.until("change"); e.id != "251" {
		t.Errorf("got %+v", e)
	}
	// The trail was pruned.
	a.must(a.store.Update(t.Context(), func(tx *latchkey.Tx) error { return audit.Prune(tx, 1) }))
	c = follow(t, server, "7")
	c.until("ready")
	c.until("lost")
	if e := c.until("change"); e.id != "251" {
		t.Errorf("got %+v", e)
	}
	a.do("GET", "/v1/changes", nil, "Last-Event-ID", "x").problem(400, "invalid-request")
}

func TestAStreamWithoutATrailHasCommits(t *testing.T) {
	store := latchkeytest.New(t)
	a := &api{TB: t, store: store, handler: admin.New(store, &admin.Options{Authenticate: everybody})}
	c := follow(t, serveAPI(t, a), "")
	if e := c.until("ready"); !strings.Contains(e.data, `"trail":false`) {
		t.Errorf("got %+v", e)
	}
	a.newUser("ada")
	if e, _ := c.next(); e.name != "commit" || e.data != fmt.Sprintf(`{"sequence":%d}`, stats(a).Sequence) {
		t.Errorf("got %+v", e)
	}
}

func TestAStreamEndsWithTheStoreTheHandlerOrTheClient(t *testing.T) {
	for name, end := range map[string]func(*api, *client){
		"the store":   func(a *api, _ *client) { a.must(a.store.Close()) },
		"the handler": func(a *api, _ *client) { a.handler.Close() },
		"the client":  func(_ *api, c *client) { c.close() },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t, nil)
			server := httptest.NewServer(a.handler)
			c := follow(t, server, "")
			c.until("ready")
			end(a, c)
			if e, ok := c.next(); ok {
				t.Errorf("got %+v", e)
			}
			server.Close() // waits for the handler
		})
	}
	a := newAPI(t, nil)
	a.handler.Close()
	a.do("GET", "/v1/changes", nil).problem(503, "closed")
	a.do("GET", "/v1/keys", nil).is(200)
}

func TestStreamsAreBounded(t *testing.T) {
	a := newAPI(t, &admin.Options{Authenticate: everybody, MaxStreams: 1})
	server := httptest.NewServer(a.handler)
	c := follow(t, server, "")
	c.until("ready")
	a.do("GET", "/v1/changes", nil).problem(503, "too-many-streams")
	a.do("GET", "/v1/keys", nil).is(200)
	c.close()
	server.Close() // waits for the handler
	a.do("GET", "/v1/changes", nil, "Last-Event-ID", "x").problem(400, "invalid-request")
}

func TestAStreamWithABrokenTrailSaysSo(t *testing.T) {
	a := newAPI(t, nil)
	a.newUser("ada")
	a.must(a.store.Update(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range tx.AppTable(audit.TableName).Scan(nil, nil) {
			a.must(err)
			if err := tx.AppTable(audit.TableName).Put(e.Key, []byte("damaged")); err != nil {
				return err
			}
		}
		return nil
	}))
	a.do("GET", "/v1/audit", nil).problem(500, "audit-broken")
	a.do("GET", "/v1/changes", nil).problem(500, "audit-broken")
}

func TestASilentStreamBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := latchkeytest.New(t)
		handler := admin.New(store, &admin.Options{Authenticate: everybody})
		ctx, cancel := context.WithTimeout(t.Context(), 46*time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/v1/changes", nil).WithContext(ctx))
		if n := strings.Count(w.Body.String(), ": still here\n\n"); n != 3 {
			t.Errorf("got %d beats: %s", n, w.Body)
		}
	})
}

func TestAStreamEndsWhenItsKeyIsRevoked(t *testing.T) {
	for name, revoke := range map[string]func(*api, latchkey.Key){
		"disabled": func(a *api, k latchkey.Key) { a.must(a.store.DisableKey(a.Context(), k.Owner, k.ID)) },
		"deleted":  func(a *api, k latchkey.Key) { a.must(a.store.DeleteKey(a.Context(), k.Owner, k.ID)) },
		"without the scope": func(a *api, k latchkey.Key) {
			a.must(a.store.SetScopes(a.Context(), k.Owner, k.ID, latchkey.NewScopes("files:read")))
		},
		"rotated": func(a *api, k latchkey.Key) {
			_, _, err := a.store.RotateServerKey(a.Context(), k.ID, latchkey.Rotation{})
			a.must(err)
		},
		"in a group that is disabled": func(a *api, k latchkey.Key) { a.must(a.store.DisableGroup(a.Context(), k.Group)) },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t, nil)
			// The limit is for requests, and not for what a stream sends.
			auth := admin.RequireKey(a.store, &httpauth.Options{PerKey: httpauth.Limit{PerSecond: 1e-9, Burst: 1}})
			a.handler = admin.New(a.store, &admin.Options{Authenticate: auth})
			key, token := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin), Group: "staff"})
			c := followAs(t, serveAPI(t, a), "", token)
			c.until("ready")
			a.newUser("ada")
			c.until("change")
			revoke(a, key)
			a.newUser("eve")
			for {
				e, ok := c.next()
				if strings.Contains(e.data, "user.created") {
					t.Fatalf("the stream goes on: %+v", e)
				}
				if !ok {
					break
				}
			}
		})
	}
}
