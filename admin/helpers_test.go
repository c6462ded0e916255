package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/replica"
)

// everybody is the Authenticate of a socket.
func everybody(*http.Request) (admin.Caller, error) {
	return admin.Caller{Actor: "root", Secrets: true}, nil
}

// An api is a handler over a store in a file, with an audit trail.
type api struct {
	testing.TB
	store   *latchkey.Store
	path    string
	trail   *audit.Trail
	handler *admin.Handler
	hub     *replica.Hub // nil, or the hub over the store
}

func newAPI(t testing.TB, opts *admin.Options) *api { return newAPIWith(t, latchkey.Options{}, opts) }

func newAPIWith(t testing.TB, storeOpts latchkey.Options, opts *admin.Options) *api {
	t.Helper()
	a := &api{TB: t, path: filepath.Join(t.TempDir(), "keys.db"), trail: audit.New(nil)}
	storeOpts.Cost, storeOpts.OnChange = latchkey.LightCost, a.trail.Record
	var err error
	a.store, err = latchkey.Open(a.path, &storeOpts)
	a.must(err)
	t.Cleanup(func() { _ = a.store.Close() })
	if opts == nil {
		opts = &admin.Options{Authenticate: everybody, Trail: a.trail}
	}
	a.handler = admin.New(a.store, opts)
	return a
}

func (a *api) must(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

// An answer is an answer that is as openapi.yaml says.
type answer struct {
	*api
	*httptest.ResponseRecorder
	name string // of the request
}

// do sends a request. A string is sent as it is, anything else as JSON. The headers are a name, a
// value, and so on.
func (a *api) do(method, target string, body any, headers ...string) *answer {
	a.Helper()
	var r *http.Request
	switch b := body.(type) {
	case nil:
		r = httptest.NewRequest(method, target, nil)
	case string:
		r = httptest.NewRequest(method, target, strings.NewReader(b))
		r.Header.Set("Content-Type", "application/json")
	default:
		text, err := json.Marshal(b)
		a.must(err)
		r = httptest.NewRequest(method, target, bytes.NewReader(text))
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r.WithContext(a.Context()))
	described(a.TB, r, w.Result(), w.Body.Bytes())
	return &answer{a, w, method + " " + target}
}

// is fails the test unless the status is one, and returns the answer.
func (w *answer) is(status int) *answer {
	w.Helper()
	if w.Code != status {
		w.Fatalf("%s: got %d %s, want %d", w.name, w.Code, w.Body, status)
	}
	return w
}

// problem fails the test unless the answer is a problem with a status and the end of a type.
func (w *answer) problem(status int, name string) *answer {
	w.Helper()
	w.is(status)
	if p := get[admin.Problem](w); p.Type != "urn:latchkey:problem:"+name || p.Status != status {
		w.Errorf("%s: got %+v, want %s", w.name, p, name)
	}
	return w
}

// get returns the body of an answer.
func get[T any](w *answer) (v T) {
	w.Helper()
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		w.Fatalf("%s: %v in %s", w.name, err, w.Body)
	}
	return v
}

// newUser makes a user with an e-mail address.
func (a *api) newUser(subject string) uuid.UUID {
	a.Helper()
	u, err := a.store.CreateUser(a.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: subject}})
	a.must(err)
	return u.ID
}

func (a *api) newKey(owner uuid.UUID, name string) (latchkey.Key, string) {
	a.Helper()
	k, token, err := a.store.CreateKey(a.Context(), owner, latchkey.KeySpec{Name: name})
	a.must(err)
	return k, token
}

func (a *api) newServerKey(spec latchkey.KeySpec) (latchkey.Key, string) {
	a.Helper()
	k, token, err := a.store.CreateServerKey(a.Context(), spec)
	a.must(err)
	return k, token
}

func (a *api) loginIs(token string, want error) {
	a.Helper()
	if _, err := a.store.Login(a.Context(), token); !errors.Is(err, want) {
		a.Errorf("login: got %v, want %v", err, want)
	}
}

func keyPath(id uuid.UUID) string  { return "/v1/keys/" + id.String() }
func userPath(id uuid.UUID) string { return "/v1/users/" + id.String() }

// A description is openapi.yaml.
type description struct {
	doc   map[string]any
	paths map[string]*regexp.Regexp

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

// theDescription reads openapi.yaml once.
var theDescription = sync.OnceValues(func() (*description, error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	d := &description{paths: map[string]*regexp.Regexp{}, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	// By way of JSON, so that numbers have the types that the compiler expects.
	asJSON, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return nil, err
	}
	d.doc = doc.(map[string]any)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("file:///openapi.yaml", doc); err != nil {
		return nil, err
	}
	for path := range d.doc["paths"].(map[string]any) {
		pattern := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), "[^/]+")
		d.paths[path] = regexp.MustCompile("^" + pattern + "$")
	}
	return d, nil
})

// at follows references and keys, and returns the value and its JSON pointer.
func (d *description) at(pointer string, keys ...string) (any, string) {
	var v any = d.doc
	for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		v = v.(map[string]any)[unescape.Replace(key)]
	}
	for _, key := range append([]string{""}, keys...) {
		if key != "" {
			m, ok := v.(map[string]any)
			if !ok || m[key] == nil {
				return nil, ""
			}
			v, pointer = m[key], pointer+"/"+escape.Replace(key)
		}
		if m, ok := v.(map[string]any); ok && m["$ref"] != nil {
			v, pointer = d.at(strings.TrimPrefix(m["$ref"].(string), "#"))
		}
	}
	return v, pointer
}

var (
	escape   = strings.NewReplacer("~", "~0", "/", "~1")
	unescape = strings.NewReplacer("~1", "/", "~0", "~")
)

// validate returns an error unless a body agrees with the schema at a place.
func (d *description) validate(pointer string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.schemas[pointer] == nil {
		s, err := d.compiler.Compile("file:///openapi.yaml#" + pointer)
		if err != nil {
			return err
		}
		d.schemas[pointer] = s
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w in %s", err, body)
	}
	return d.schemas[pointer].Validate(v)
}

// described fails the test unless openapi.yaml describes an answer.
func described(t testing.TB, r *http.Request, res *http.Response, body []byte) {
	t.Helper()
	d, err := theDescription()
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: Cache-Control is %q", r.URL.Path, got)
	}
	media, problem := res.Header.Get("Content-Type"), res.StatusCode >= 400
	if problem {
		if err := d.validate("/components/schemas/Problem", body); err != nil || media != "application/problem+json" {
			t.Errorf("%s %s: %s %v", r.Method, r.URL.Path, media, err)
		}
	}
	var template string
	for path, pattern := range d.paths {
		if pattern.MatchString(r.URL.EscapedPath()) && (template == "" || !strings.Contains(path, "{")) {
			template = path
		}
	}
	operation, pointer := d.at("/paths", template, strings.ToLower(r.Method))
	if operation == nil {
		if !problem {
			t.Errorf("%s %s is not described", r.Method, r.URL.Path)
		}
		return
	}
	response, pointer := d.at(pointer, "responses", fmt.Sprint(res.StatusCode))
	if response == nil && problem {
		return
	}
	if response == nil {
		t.Errorf("%s %s: the status %d is not described", r.Method, template, res.StatusCode)
		return
	}
	if headers, ok := response.(map[string]any)["headers"].(map[string]any); ok {
		for name := range headers {
			if res.Header.Get(name) == "" {
				t.Errorf("%s %s: there is no header %s", r.Method, template, name)
			}
		}
	} else if res.Header.Get("ETag") != "" {
		t.Errorf("%s %s: the header ETag is not described", r.Method, template)
	}
	content, _ := response.(map[string]any)["content"].(map[string]any)
	if content == nil {
		if len(body) > 0 {
			t.Errorf("%s %s: the body is not described", r.Method, template)
		}
		return
	}
	if content[media] == nil {
		t.Errorf("%s %s: the media type %q is not described", r.Method, template, media)
		return
	}
	if media == "application/json" {
		_, schema := d.at(pointer, "content", media, "schema")
		if err := d.validate(schema, body); err != nil {
			t.Errorf("%s %s: %v\n%s", r.Method, template, err, body)
		}
	}
}

// operations returns the method and path of each operation of openapi.yaml.
func operations(t testing.TB) (all []string) {
	d, err := theDescription()
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range d.doc["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				all = append(all, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(all)
	return all
}
