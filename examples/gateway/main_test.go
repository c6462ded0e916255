package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// gateway is a running gateway with a backend, which says what it was asked.
type gateway struct {
	url  string
	stop func()
}

func start(t *testing.T, path string) *gateway {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s for %s%s", r.Method, r.URL.Path, r.Header.Get("X-Key-Name"), r.Header.Get("Authorization"))
	}))
	ctx, cancel := context.WithCancel(t.Context())
	out, printed := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, path, "127.0.0.1:0", backend.URL, printed)
		printed.Close()
		ended <- err
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-ended)
	}
	g := &gateway{url: strings.TrimSpace(line)}
	stopped := false
	g.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		backend.Close()
	}
	t.Cleanup(g.stop)
	return g
}

// do sends a request and returns the body. It fails the test if the status is not the one that is
// wanted.
func (g *gateway) do(t *testing.T, token, method, path, body string, want int) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	b, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	if reply.StatusCode != want {
		t.Errorf("%s %s: got %d %s, want %d", method, path, reply.StatusCode, b, want)
	}
	return string(b)
}

// keyAndToken reads the answer to a call that has made a token.
func keyAndToken(t *testing.T, body string) (latchkey.Key, string) {
	t.Helper()
	var made struct {
		Key   latchkey.Key
		Token string
	}
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	return made.Key, made.Token
}

// firstKey makes a store with a key, as the command does, and returns the token of the key.
func firstKey(t *testing.T, path string) string {
	t.Helper()
	store, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes("*")})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTheLifeOfAKeyThroughTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	admin := firstKey(t, path)
	g := start(t, path)

	key, token := keyAndToken(t, g.do(t, admin, "POST", "/admin/keys", `{"name":"sensor","scopes":"read","expires":"2999-01-01T00:00:00Z"}`, 200))
	if got := g.do(t, token, "GET", "/value/1", "", 200); got != "GET /value/1 for sensor" {
		t.Errorf("the backend says %q", got)
	}
	g.do(t, token, "PUT", "/value/1", "", 403)
	g.do(t, token, "GET", "/admin/keys", "", 403)
	g.do(t, token, "GET", "/metrics", "", 403)
	g.do(t, "lk_nonsense", "GET", "/value/1", "", 401)

	g.do(t, admin, "POST", "/admin/keys", `{"name":"sensor"}`, 409)
	g.do(t, admin, "POST", "/admin/keys", `{"name":""}`, 400)
	g.do(t, admin, "POST", "/admin/keys", `{"name":"late","expires":"1999-01-01T00:00:00Z"}`, 400)
	g.do(t, admin, "POST", "/admin/keys", `no JSON`, 400)
	g.do(t, admin, "POST", "/admin/keys", `{"name":"sensor 2","expire":"2999-01-01T00:00:00Z"}`, 400)
	g.do(t, admin, "POST", "/admin/keys/"+key.ID.String()+"x/disable", "", 404)

	one := "/admin/keys/" + key.ID.String()
	g.do(t, admin, "POST", one+"/disable", "", 200)
	g.do(t, token, "GET", "/value/1", "", 401)
	g.do(t, admin, "POST", one+"/enable", "", 200)
	g.do(t, token, "GET", "/value/1", "", 200)

	// The old token of a key is good until the new one is used.
	rotated, next := keyAndToken(t, g.do(t, admin, "POST", one+"/rotate", "", 200))
	if rotated.ID != key.ID || next == token {
		t.Errorf("rotating key %s made key %s", key.ID, rotated.ID)
	}
	g.do(t, token, "GET", "/value/1", "", 200)
	g.do(t, next, "GET", "/value/1", "", 200)
	g.do(t, token, "GET", "/value/1", "", 401)
	token = next

	g.do(t, admin, "PUT", one+"/expires", `{"expires":"2998-01-01T00:00:00Z"}`, 200)
	if got := g.do(t, admin, "GET", "/admin/keys", "", 200); !strings.Contains(got, `"expires":"2998-`) {
		t.Errorf("the list is %s", got)
	}
	g.do(t, admin, "PUT", one+"/expires", `{"expires":"1999-01-01T00:00:00Z"}`, 400)
	g.do(t, admin, "PUT", one+"/expires", "", 400)

	if got := g.do(t, admin, "GET", "/metrics", "", 200); !strings.HasPrefix(got, "latchkey_keys 2\n") {
		t.Errorf("the metrics are %q", got)
	}
	if got := g.do(t, admin, "GET", "/admin/keys", "", 200); !strings.Contains(got, `"name":"sensor"`) || strings.Contains(got, token[30:]) {
		t.Errorf("the list is %s", got)
	}

	// The keys are there after a restart, and so is when they were last used.
	g.stop()
	g = start(t, path)
	if got := g.do(t, admin, "GET", "/admin/keys", "", 200); strings.Count(got, `"last_used":"`) != 2 {
		t.Errorf("the list is %s", got)
	}
	g.do(t, token, "GET", "/value/1", "", 200)
	g.do(t, admin, "DELETE", one, "", 200)
	g.do(t, token, "GET", "/value/1", "", 401)
}

func TestTheBackendLearnsWhoCallsFromTheGatewayAlone(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	key, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "Zähler 1", Group: "shop-17", Scopes: latchkey.NewScopes("read", "files:*")})
	if err != nil {
		t.Fatal(err)
	}
	got := http.Header{}
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/value", nil)
	r.Header = http.Header{
		"Authorization": {"Bearer " + token},
		"X-Key-Owner":   {"root"},
		"X-Key-Other":   {"root"},
		"X_KEY_OWNER":   {"root"},
		"x_Key-Scopes":  {"*"},
		"Connection":    {"X-Key-Owner, X-Key-Name"}, // asks a proxy to remove these headers
		"X-Other":       {"is passed on"},
	}
	handler(store, target).ServeHTTP(httptest.NewRecorder(), r)
	for name, want := range map[string]string{
		"X-Key-Id": key.ID.String(), "X-Key-Name": "Z%C3%A4hler%201", "X-Key-Owner": latchkey.ServerOwner.String(),
		"X-Key-Group": "shop-17", "X-Key-Scopes": "files:* read", "X-Other": "is passed on", "Authorization": "",
	} {
		if values := got.Values(name); strings.Join(values, ", ") != want {
			t.Errorf("%s is %q, want %q", name, values, want)
		}
	}
	for name := range got {
		if name == "X-Key-Other" || strings.Contains(name, "_") {
			t.Errorf("the backend got %s from outside", name)
		}
	}
}
