package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// Floods measures how long somebody waits while one stranger sends as much of one thing as
// possible: wrong passwords, first logins of keys, or registrations. The value is the slowest
// answer. The requests go to the handler directly, without a network.
var Floods = Group{
	Name:   "floods",
	Title:  "How long does somebody wait at most while a stranger at another address floods the server?",
	Time:   time.Second,
	Rounds: 5,
	Open: func(e *Env) ([]Case, error) {
		f, err := newFloods(e)
		if err != nil {
			return nil, err
		}
		var cases []Case
		for _, flood := range []string{"passwords", "logins", "registrations"} {
			for _, waiting := range []string{"login", "password", "registration", "new-key"} {
				cases = append(cases, Case{
					Name: "flood=" + flood + "/waiting=" + waiting, Unit: "slowest-ns", Max: 1e9,
					Body: func(b *testing.B) error { return f.measure(b, f.floods[flood], f.calls[waiting]) },
				})
			}
		}
		return cases, nil
	},
}

// A flooding is a server with the requests that are sent to it. The server remembers no key, so
// that each login of a key is a first login.
type flooding struct {
	handler http.Handler
	floods  map[string]func(i int) (path, body string)
	calls   map[string]func(i int) (path, body, token string)
}

// floodClients is how many requests the stranger has in progress at all times.
const floodClients = 1000

const (
	stranger = "192.0.2.1"
	friend   = "198.51.100.1"
)

func newFloods(e *Env) (*flooding, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	store, err := latchkey.Open(filepath.Join(dir, "floods.db"), &latchkey.Options{CacheSize: -1, MaxKeysPerUser: -1})
	if err != nil {
		return nil, err
	}
	e.onClose(store.Close)
	// Without the limits, each wrong password and each registration costs a hash.
	handler, err := appservices.New(store, &appservices.Options{TrustForwarded: true, FailedLogins: -1, WriteLimit: -1})
	if err != nil {
		return nil, err
	}
	f := &flooding{handler: handler}

	ctx := context.Background()
	tokens := make([]string, 33) // the last one is the friend's
	for i := range tokens {
		if _, tokens[i], err = store.CreateServerKey(ctx, latchkey.KeySpec{Name: fmt.Sprint("key-", i)}); err != nil {
			return nil, err
		}
	}
	const login, ada = userpassPath + "login", `{"username":"ada@example.com","password":"correct horse"}`
	if status, answer := f.send(ctx, friend, userpassPath+"register", `{"email":"ada@example.com","password":"correct horse"}`, ""); status != http.StatusCreated {
		return nil, fmt.Errorf("register: status %d: %s", status, answer)
	}
	status, answer := f.send(ctx, friend, login, ada, "")
	var session struct {
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(answer, &session); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("login: status %d: %s", status, answer)
	}

	keyLogin := func(token string) (path, body string) {
		return providersPath + "api-key/login", `{"key":"` + token + `"}`
	}
	var registered atomic.Int64
	register := func() (path, body string) {
		return userpassPath + "register", fmt.Sprintf(`{"email":"user-%d@example.com","password":"correct horse"}`, registered.Add(1))
	}
	f.floods = map[string]func(i int) (path, body string){
		"passwords":     func(int) (string, string) { return login, `{"username":"ada@example.com","password":"wrong horse"}` },
		"logins":        func(i int) (string, string) { return keyLogin(tokens[i%(len(tokens)-1)]) },
		"registrations": func(int) (string, string) { return register() },
	}
	var made atomic.Int64
	f.calls = map[string]func(i int) (path, body, token string){
		"login": func(int) (string, string, string) {
			path, body := keyLogin(tokens[len(tokens)-1])
			return path, body, ""
		},
		"password":     func(int) (string, string, string) { return login, ada, "" },
		"registration": func(int) (string, string, string) { path, body := register(); return path, body, "" },
		"new-key": func(int) (string, string, string) {
			return "/api/client/v2.0/auth/api_keys", fmt.Sprintf(`{"name":"key-%d"}`, made.Add(1)), session.Refresh
		},
	}
	return f, nil
}

const (
	providersPath = "/api/client/v2.0/app/bench/auth/providers/"
	userpassPath  = providersPath + "local-userpass/"
)

// send sends a request from an address, and returns the answer.
func (f *flooding) send(ctx context.Context, from, path, body, token string) (status int, answer []byte) {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("X-Forwarded-For", from)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// measure makes b.N calls from the friend's address while the stranger floods the server.
func (f *flooding) measure(b *testing.B, flood func(i int) (path, body string), call func(i int) (path, body, token string)) error {
	ctx, stop := context.WithCancel(context.Background())
	var strangers, begun sync.WaitGroup
	begun.Add(floodClients)
	for i := range floodClients {
		strangers.Go(func() {
			begun.Done()
			for ctx.Err() == nil {
				path, body := flood(i)
				if status, _ := f.send(ctx, stranger, path, body, ""); status == http.StatusServiceUnavailable {
					time.Sleep(50 * time.Millisecond) // a flood by network does not spin
				}
			}
		})
	}
	defer strangers.Wait()
	defer stop()
	begun.Wait()
	var slowest time.Duration
	b.ResetTimer()
	for i := range b.N {
		path, body, token := call(i)
		start := time.Now()
		status, answer := f.send(ctx, friend, path, body, token)
		if status >= 300 {
			return fmt.Errorf("%s: status %d: %s", path, status, answer)
		}
		slowest = max(slowest, time.Since(start))
	}
	b.StopTimer()
	b.ReportMetric(float64(slowest), "slowest-ns")
	return nil
}
