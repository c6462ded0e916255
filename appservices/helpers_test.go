package appservices_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

const (
	prefix   = "/api/client/v2.0"
	appPath  = prefix + "/app/demo-abcde"
	password = "hunter22"
)

// start is the time when the tests' clocks begin.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A double is a handler behind a server, with its store and its clock.
type double struct {
	t       testing.TB
	url     string
	store   *latchkey.Store
	clock   *appservices.Clock
	handler *appservices.Handler
}

// newDouble starts a double on a new store. opts may be nil.
func newDouble(t testing.TB, opts *appservices.Options) *double {
	t.Helper()
	return newDoubleAt(t, filepath.Join(t.TempDir(), "keys.db"), appservices.NewClock(start), opts)
}

// newDoubleAt starts a double on the store in a file. The store is closed when the test ends.
func newDoubleAt(t testing.TB, path string, clock *appservices.Clock, opts *appservices.Options) *double {
	t.Helper()
	store, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, Now: clock.Now, TestClock: true})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	return serve(t, store, clock, opts)
}

func serve(t testing.TB, store *latchkey.Store, clock *appservices.Clock, opts *appservices.Options) *double {
	t.Helper()
	var o appservices.Options
	if opts != nil {
		o = *opts
	}
	o.Now = clock.Now
	h, err := appservices.New(store, &o)
	must(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return &double{t, server.URL, store, clock, h}
}

// A response is a reply as the client received it.
type response struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

// send sends a request. If token is not empty, the Authorization header is "Bearer " and the token.
// A body that is a string is sent as it is. Other bodies are sent as JSON, and nil is no body.
func (d *double) send(method, path, token string, body any) *response {
	d.t.Helper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return d.sendWith(method, path, header, body)
}

func (d *double) sendWith(method, path string, header http.Header, body any) *response {
	d.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	default:
		b, err := json.Marshal(body)
		must(d.t, err)
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, reader)
	must(d.t, err)
	r.Header = header
	resp, err := http.DefaultTransport.RoundTrip(r)
	must(d.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(d.t, err)
	return &response{d.t, resp.StatusCode, resp.Header, b}
}

// An object is a JSON object.
type object = map[string]any

// json returns the body, which must be a JSON object.
func (r *response) json() object {
	r.t.Helper()
	var v object
	if err := json.Unmarshal(r.body, &v); err != nil {
		r.t.Fatalf("the body %q is no JSON object: %v", r.body, err)
	}
	return v
}

// want fails the test unless the reply has the given status.
func (r *response) want(status int) *response {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("got status %d with %s, want %d", r.status, r.body, status)
	}
	return r
}

// refused fails the test unless the reply is an error in the service's form, with the given code
// and text. The code may be empty.
func (r *response) refused(status int, code, text string) *response {
	r.t.Helper()
	r.want(status)
	wantErrorShape(r.t, r.status, r.header, r.body)
	body := r.json()
	if got, _ := body["error_code"].(string); got != code {
		r.t.Errorf("got error_code %q with %s, want %q", got, r.body, code)
	}
	if body["error"] != text {
		r.t.Errorf("got error %q, want %q", body["error"], text)
	}
	return r
}

// wantErrorShape fails the test unless a reply is an error that all SDKs can read.
func wantErrorShape(t testing.TB, status int, header http.Header, b []byte) {
	t.Helper()
	if got := header.Get("Content-Type"); got != "application/json" {
		t.Errorf("status %d has the content type %q, and SDKs compare it with application/json", status, got)
	}
	var body object
	if err := json.Unmarshal(b, &body); err != nil {
		t.Fatalf("status %d has the body %q: %v", status, b, err)
	}
	for field, value := range body {
		if s, ok := value.(string); !ok || s == "" || field != "error" && field != "error_code" && field != "link" {
			t.Errorf("status %d has the field %q: %v", status, field, value)
		}
	}
	link, _ := body["link"].(string)
	if _, id, _ := strings.Cut(link, "/logs?co_id="); len(id) != 24 || id != header.Get("X-Appservices-Request-Id") {
		t.Errorf("status %d has the link %q, and the request ID is %q", status, link, header.Get("X-Appservices-Request-Id"))
	}
	if body["error"] == nil {
		t.Errorf("status %d has no error: %s", status, b)
	}
}

// noContent fails the test unless the reply is a 204 that clients can read.
func (r *response) noContent() {
	r.t.Helper()
	r.want(http.StatusNoContent)
	if ct, ok := r.header["Content-Type"]; ok || len(r.body) > 0 {
		r.t.Errorf("a reply without content has the type %q and the body %q", ct, r.body)
	}
}

// empty fails the test unless the reply is an empty object that clients can read.
func (r *response) empty() {
	r.t.Helper()
	r.want(http.StatusOK)
	if got := r.header.Get("Content-Type"); got != "application/json" || string(r.body) != "{}" {
		r.t.Errorf("got the type %q and the body %q, want an empty JSON object", got, r.body)
	}
}

// The tokens of a login, and the IDs that come with them.
type tokens struct{ access, refresh, user, device string }

func (r *response) tokens() tokens {
	r.t.Helper()
	body := r.want(http.StatusOK).json()
	get := func(field string) string {
		s, ok := body[field].(string)
		if !ok {
			r.t.Fatalf("the login's %s is %v", field, body[field])
		}
		return s
	}
	return tokens{get("access_token"), get("refresh_token"), get("user_id"), get("device_id")}
}

func (d *double) tryLogin(provider string, body any) *response {
	d.t.Helper()
	return d.send("POST", appPath+"/auth/providers/"+provider+"/login", "", body)
}

func (d *double) login(provider string, body any) tokens {
	d.t.Helper()
	return d.tryLogin(provider, body).tokens()
}

func credentials(email, password string) object {
	return object{"username": email, "password": password, "provider": "local-userpass", "options": coreOptions}
}

// coreOptions is the part that matters of the options that SDKs on the C++ core send with each
// login.
var coreOptions = object{"device": object{"appId": "demo-abcde", "sdk": "Kotlin", "coreVersion": "14.12.0"}}

func (d *double) loginEmail(email string) tokens {
	d.t.Helper()
	return d.login("local-userpass", credentials(email, password))
}

func (d *double) loginKey(key string) tokens {
	d.t.Helper()
	return d.login("api-key", object{"key": key})
}

func (d *double) anonymous() tokens { d.t.Helper(); return d.login("anon-user", nil) }

// userpass calls a route of the provider local-userpass.
func (d *double) userpass(route string, body any) *response {
	d.t.Helper()
	return d.send("POST", appPath+"/auth/providers/local-userpass/"+route, "", body)
}

func (d *double) register(email string) {
	d.t.Helper()
	d.userpass("register", object{"email": email, "password": password}).want(http.StatusCreated)
}

// signUp registers an address and logs in with it.
func (d *double) signUp(email string) tokens {
	d.t.Helper()
	d.register(email)
	return d.loginEmail(email)
}

func (d *double) link(access, provider string, body any) *response {
	d.t.Helper()
	return d.send("POST", appPath+"/auth/providers/"+provider+"/login?link=true", access, body)
}

func (d *double) profile(access string) object {
	d.t.Helper()
	return d.send("GET", prefix+"/auth/profile", access, nil).want(http.StatusOK).json()
}

// keys calls a route of keys. path is the rest of the path after api_keys.
func (d *double) keys(method, path, refresh string, body any) *response {
	d.t.Helper()
	return d.send(method, prefix+"/auth/api_keys"+path, refresh, body)
}

// createKey makes a key, and returns its ID and its value.
func (d *double) createKey(refresh, name string) (id, key string) {
	d.t.Helper()
	body := d.keys("POST", "", refresh, object{"name": name}).want(http.StatusCreated).json()
	return body["_id"].(string), body["key"].(string)
}

// serverKey makes a server key in the store, as an administrator would.
func (d *double) serverKey(name string) (latchkey.Key, string) {
	d.t.Helper()
	key, token, err := d.store.CreateServerKey(d.t.Context(), latchkey.KeySpec{Name: name})
	must(d.t, err)
	return key, token
}

// user returns the user with an e-mail address from the store.
func (d *double) user(email string) latchkey.User {
	d.t.Helper()
	user, err := d.store.UserByIdentity(d.t.Context(), latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email})
	must(d.t, err)
	return user
}

// records returns the number of the package's records of one kind.
func (d *double) records(kind byte) (n int) {
	d.t.Helper()
	must(d.t, d.store.View(d.t.Context(), func(tx *latchkey.Tx) error {
		for _, err := range tx.AppTable("appservices").Scan([]byte{kind}, []byte{kind + 1}) {
			must(d.t, err)
			n++
		}
		return nil
	}))
	return n
}

// claims decodes a token as clients do, without a check of the signature.
func claims(t testing.TB, token string) object {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		t.Fatalf("%q is not three parts", token)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var c object
	must(t, dec.Decode(&c))
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
