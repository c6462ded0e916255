package admin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// newLoggedAPI returns an api with a log. lines returns what was logged since the last call.
func newLoggedAPI(t *testing.T, authenticate func(*http.Request) (admin.Caller, error)) (a *api, lines func() []map[string]any) {
	t.Helper()
	var log bytes.Buffer
	handler := slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	a = newAPI(t, &admin.Options{Authenticate: authenticate, Logger: slog.New(handler)})
	return a, func() (all []map[string]any) {
		t.Helper()
		for d := json.NewDecoder(&log); d.More(); {
			var line map[string]any
			a.must(d.Decode(&line))
			delete(line, slog.TimeKey)
			all = append(all, line)
		}
		return all
	}
}

func TestEachChangeIsOneLineInTheLog(t *testing.T) {
	a, lines := newLoggedAPI(t, everybody)
	want := func(level, message, method, route, id string, status int) {
		t.Helper()
		got := lines()
		line := map[string]any{"level": level, "msg": message, "actor": "root", "method": method, "route": route, "status": float64(status)}
		if id != "" {
			line["id"] = id
		}
		if len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(line) {
			t.Errorf("got %v, want %v", got, line)
		}
	}
	user := get[admin.User](a.do("POST", "/v1/users", `{"identity":{"provider":"local-userpass","subject":"ada"},"group":"north"}`).is(201))
	want("INFO", "administered", "POST", "/v1/users", user.ID.String(), 201)
	key := get[admin.KeyWithToken](a.do("POST", userPath(user.ID)+"/keys", `{"name":"laptop"}`).is(201)).Key
	want("INFO", "administered", "POST", "/v1/users/{user}/keys", key.ID.String(), 201)
	a.do("PATCH", keyPath(key.ID), `{"disabled":true}`).is(200)
	want("INFO", "administered", "PATCH", "/v1/keys/{key}", key.ID.String(), 200)
	a.do("POST", keyPath(key.ID)+"/rotate", nil, "If-Match", "*").is(200)
	want("INFO", "administered", "POST", "/v1/keys/{key}/rotate", key.ID.String(), 200)
	a.do("PATCH", "/v1/groups/north", `{"disabled":true}`).is(200)
	want("INFO", "administered", "PATCH", "/v1/groups/{group}", "", 200)
	a.do("GET", keyPath(key.ID)+"/export", nil).is(200)
	want("INFO", "administered", "GET", "/v1/keys/{key}/export", key.ID.String(), 200)
	a.do("DELETE", userPath(user.ID), nil).is(204)
	want("INFO", "administered", "DELETE", "/v1/users/{user}", user.ID.String(), 204)

	// What only reads, and what was refused, is no change.
	a.do("GET", "/v1/keys", nil).is(200)
	a.do("GET", keyPath(key.ID), nil).is(404)
	a.do("DELETE", keyPath(key.ID), nil).is(404)
	a.do("POST", "/v1/users", `{}`).is(422)
	if got := lines(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestABackupThatBreaksOffIsInTheLog(t *testing.T) {
	a, lines := newLoggedAPI(t, everybody)
	func() {
		defer func() { _ = recover() }()
		a.handler.ServeHTTP(&failingWriter{httptest.NewRecorder(), 5000}, httptest.NewRequest("GET", "/v1/backup", nil))
	}()
	got := lines()
	if len(got) != 2 || got[0]["msg"] != "administration failed" || got[1]["msg"] != "administered" || got[1]["route"] != "/v1/backup" {
		t.Errorf("got %v", got)
	}
}

// TestNoTokenNameOrBodyReachesTheLog sends a token and a name in each place of a request to each
// route, while the store works and after it was closed.
func TestNoTokenNameOrBodyReachesTheLog(t *testing.T) {
	var token string
	a, lines := newLoggedAPI(t, func(*http.Request) (admin.Caller, error) {
		return admin.Caller{Actor: "actor " + token, Secrets: true}, nil
	})
	user := a.newUser("ada")
	const name = "n4m3-0f-a-k3y"
	var key latchkey.Key
	key, token = a.newKey(user, name)
	places := []struct {
		query, body string
		path        bool // the token is in the path
		headers     []string
	}{
		{body: `{"name":"` + token + `"}`},
		{body: `{"name":"` + name + `","metadata":{"a":"` + token + `"}}`},
		{body: `{"identity":{"provider":"custom-token","subject":"` + token + `"}}`},
		{body: `{"token":"` + token + `"}`},
		{body: `{"disabled":true}`, headers: []string{"If-Match", token}},
		{body: `{"disabled":true}`, headers: []string{"If-Match", "*", "Idempotency-Key", token, "Last-Event-ID", token, "X-Forwarded-For", token}},
		{query: "?provider=custom-token&subject=" + token},
		{query: "?" + token + "=" + name},
		{path: true, body: `{"disabled":true}`},
	}
	sendAll := func() (logged int) {
		for _, route := range admin.Routes() {
			method, path, _ := strings.Cut(route, " ")
			if path == "/v1/changes" {
				continue // it does not end by itself
			}
			for _, p := range places {
				ids := strings.NewReplacer("{user}", user.String(), "{key}", key.ID.String(), "{group}", name)
				if p.path {
					ids = strings.NewReplacer("{user}", token, "{key}", token, "{group}", token)
				}
				r := httptest.NewRequest(method, ids.Replace(path)+p.query, strings.NewReader(p.body))
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Authorization", "Bearer "+token)
				for i := 0; i < len(p.headers); i += 2 {
					r.Header.Set(p.headers[i], p.headers[i+1])
				}
				a.handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		}
		for _, line := range lines() {
			logged++
			text := fmt.Sprint(line)
			if strings.Contains(text, token[20:60]) || strings.Contains(text, name) {
				t.Errorf("the log has a token or a name: %s", text)
			}
		}
		return logged
	}
	if sendAll() == 0 {
		t.Error("nothing was logged, so this shows nothing")
	}
	a.must(a.store.Close())
	if sendAll() == 0 {
		t.Error("nothing was logged after the end of the store, so this shows nothing")
	}
}
