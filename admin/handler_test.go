package admin_test

// The dangers, each with its test:
//
//   - a route that openapi.yaml does not have, or the reverse: TestTheDescriptionHasEveryRoute
//   - an answer that is not as openapi.yaml says: every test, by described
//   - an error of the store without a type: TestEveryErrorOfTheStoreHasATypeOfItsOwn
//   - a caller without a key, or with a key for another use: TestOverTCPEachRequestNeedsAKey
//   - a backup for a page: TestBackupAndExportNeedACallerThatMayHaveSecrets
//   - a page of another site: TestAPageOfAnotherSiteIsRefused
//   - a body that is large, or that two programs read differently:
//     TestABodyThatIsNotAsDescribedIsRefused
//   - a token in an answer, an error or a log: TestATokenIsInOneAnswerOnly,
//     TestNoAnswerRepeatsATokenThatIsInTheWrongPlace
//   - a change that overwrites another one unseen: TestAChangeUnderAnOldETagIsRefused
//   - a disabling that fails because of another change: TestDisablingNeedsNoETag
//   - an enabling that has not seen the disabling: TestAnEnablingMustHaveSeenTheDisabling
//   - a creation that is repeated: TestARepeatedCreationMakesNothing and the tests after it
//   - a rotation that is repeated: TestARotationThatIsRepeatedEndsNoToken
//   - a change of several fields of which one fails: TestAChangeIsWholeOrNotAtAll
//   - a null in place of a value: TestANullEnablesNothing
//   - a change without an actor: TestEveryChangeHasItsActor
//   - a page that leaves entries out, or never ends: TestPagesHaveEveryEntryOnce
//   - a filter that reads the whole store in one request: TestAPageLooksAtABoundedNumberOfEntries
//   - half of a backup that passes for a whole one: TestABackupThatFailsBreaksTheConnectionOff
//   - a manifest, an import or tag secrets that are hostile or large: apply_test.go,
//     imports_test.go, domain_test.go
//   - work that goes on after its request was cancelled:
//     TestAnApplicationThatIsCancelledChangesNothing, TestAnImportThatIsCancelledChangesNothing
//   - a backup that is begun many times: TestOneBackupIsInProgressAtATime
//   - a stream that misses a change, or that outlives its server: changes_test.go

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/latchkeytest"
	"github.com/latchkeydb/latchkey/replica"
)

func TestTheDescriptionHasEveryRoute(t *testing.T) {
	described, routes := operations(t), admin.Routes()
	for _, r := range routes {
		if !slices.Contains(described, r) {
			t.Errorf("openapi.yaml does not have %s", r)
		}
	}
	for _, o := range described {
		if !slices.Contains(routes, o) {
			t.Errorf("the handler does not have %s", o)
		}
	}
	a := newAPI(t, nil)
	if text, err := os.ReadFile("openapi.yaml"); err != nil || a.do("GET", "/v1/openapi.yaml", nil).is(200).Body.String() != string(text) {
		t.Errorf("the handler serves another description, or %v", err)
	}
}

func TestEveryErrorOfTheStoreHasATypeOfItsOwn(t *testing.T) {
	known, kinds := 0, admin.Kinds()
	inTable := map[error]bool{}
	for name, err := range kinds {
		if inTable[err] {
			t.Errorf("the error of %s has two types", name)
		}
		inTable[err] = true
	}
	table, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	for pkg, path := range map[string]string{"latchkey": "../errors.go", "replica": "../replica/errors.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(v.Names[0].Name, "Err") {
				return true
			}
			known++
			if name := pkg + "." + v.Names[0].Name; !strings.Contains(string(table), name+",") {
				t.Errorf("the table has no %s", name)
			}
			return false
		})
	}
	if known < 65 {
		t.Errorf("found %d errors", known)
	}
	for name, err := range kinds {
		p := admin.ProblemOf(fmt.Errorf("outside: %w", err))
		if p.Type != "urn:latchkey:problem:"+name {
			t.Errorf("%s: got %s", name, p.Type)
		}
		for other, otherErr := range kinds {
			if errors.Is(p, otherErr) != (other == name) {
				t.Errorf("%s: a client takes the problem for %s, or for nothing", name, other)
			}
		}
	}
	if p := admin.ProblemOf(errors.New("what")); p.Status != 500 || p.Detail != "what" {
		t.Errorf("got %+v for an unknown error", p)
	}
}

func TestAPathOrMethodThatIsNotThereIsAProblem(t *testing.T) {
	a := newAPI(t, nil)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/keys", "/v1/keys/", "//v1/keys", "/v1/../v1/keys", "/v1/keys/x/y"} {
		a.do("GET", "http://example.com"+path, nil).problem(404, "no-such-route")
	}
	w := a.do("PUT", "/v1/keys", nil).problem(405, "method-not-allowed")
	if w.Header().Get("Allow") != "GET" {
		t.Errorf("Allow is %q", w.Header().Get("Allow"))
	}
	if got := a.do("DELETE", "/v1/users/"+uuid.NewString()+"/identities", nil).Header().Get("Allow"); got != "" {
		t.Errorf("a method that is there: Allow is %q", got)
	}
}

func TestOverTCPEachRequestNeedsAKey(t *testing.T) {
	store := latchkeytest.New(t)
	a := &api{TB: t, store: store, handler: admin.New(store, nil)}
	_, good := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	_, all := a.newServerKey(latchkey.KeySpec{Name: "all", Scopes: latchkey.NewScopes("*")})
	disabledKey, disabled := a.newServerKey(latchkey.KeySpec{Name: "disabled", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	a.must(store.DisableKey(t.Context(), latchkey.ServerOwner, disabledKey.ID))
	for _, tt := range []struct {
		name, authorization string
		status              int
		problem             string
	}{
		{"no token", "", 401, "unauthorized"},
		{"a bad token", "Bearer lk_bad", 401, "unauthorized"},
		{"a key with the scope *", "Bearer " + all, 403, "forbidden"},
		{"a disabled key", "Bearer " + disabled, 401, "unauthorized"},
		{"another scheme", "Basic " + good, 401, "unauthorized"},
		{"two tokens", "Bearer " + good + " " + all, 400, "invalid-request"},
	} {
		for _, route := range admin.Routes() {
			method, path, _ := strings.Cut(route, " ")
			path = strings.NewReplacer("{user}", uuid.NewString(), "{key}", uuid.NewString(), "{group}", "north").Replace(path)
			w := a.do(method, path, nil, "Authorization", tt.authorization).problem(tt.status, tt.problem)
			if tt.status == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s, %s: no challenge", tt.name, route)
			}
		}
		// Without a key nobody learns which paths there are.
		a.do("GET", "/v1/nothing", nil, "Authorization", tt.authorization).problem(tt.status, tt.problem)
	}
	a.do("GET", "/v1/keys", nil, "Authorization", "Bearer "+good).is(200)
}

func TestBackupAndExportNeedACallerThatMayHaveSecrets(t *testing.T) {
	withCookie := func(*http.Request) (admin.Caller, error) { return admin.Caller{Actor: "page"}, nil }
	a := newAPI(t, &admin.Options{Authenticate: withCookie})
	key, _ := a.newServerKey(latchkey.KeySpec{Name: "backup-job"})
	a.do("GET", keyPath(key.ID), nil).is(200)
	a.do("GET", keyPath(key.ID)+"/export", nil).problem(403, "key-required")
	for _, path := range []string{"/v1/backup", "/v1/export", "/v1/export?with_verifiers=true", "/v1/domain-secrets"} {
		a.do("GET", path, nil).problem(403, "key-required")
		a.do("HEAD", path, nil).is(405)
	}
	// Nor may it make a key that can have them.
	for _, scope := range []string{admin.ScopeAdmin, "latchkey:replica"} {
		body := map[string]any{"name": "other", "scopes": []string{"files:read", scope}}
		a.do("POST", "/v1/server-keys", body).problem(403, "key-required")
		a.do("POST", userPath(a.newUser(scope))+"/keys", body).problem(403, "key-required")
		a.do("PATCH", keyPath(key.ID), map[string]any{"scopes": []string{scope}}, "If-Match", "*").problem(403, "key-required")
		a.must(a.store.SetScopes(t.Context(), key.Owner, key.ID, latchkey.NewScopes(scope)))
		a.do("POST", keyPath(key.ID)+"/rotate", nil, "If-Match", "*").problem(403, "key-required")
		a.must(a.store.SetScopes(t.Context(), key.Owner, key.ID, latchkey.Scopes{}))
	}
	for _, path := range []string{"/v1/apply", "/v1/import?format=latchkey", "/v1/domain-secrets"} {
		a.do("POST", path, nil).problem(403, "key-required")
	}
	a.do("POST", "/v1/server-keys", `{"name":"other","scopes":["files:read"]}`).is(201)

	trusted := newAPI(t, nil)
	key, _ = trusted.newServerKey(latchkey.KeySpec{Name: "backup-job"})
	minted, err := latchkey.ParseMintedKey(get[admin.ExportedKey](trusted.do("GET", keyPath(key.ID)+"/export", nil).is(200)).Minted)
	if err != nil || minted.ID() != key.ID {
		t.Errorf("got %v, %v", minted, err)
	}
}

func TestAFunctionOfTheProgramDecidesWhoCalls(t *testing.T) {
	for _, tt := range []struct {
		err     error
		status  int
		problem string
	}{
		{&admin.Problem{Type: "urn:latchkey:problem:unauthorized", Title: "sign in", Status: 401}, 401, "unauthorized"},
		{fmt.Errorf("cookie: %w", latchkey.ErrInvalidToken), 401, "unauthorized"},
		{errors.New("the disk is full"), 503, "unavailable"},
	} {
		a := newAPI(t, &admin.Options{Authenticate: func(*http.Request) (admin.Caller, error) { return admin.Caller{}, tt.err }})
		if w := a.do("GET", "/v1/keys", nil).problem(tt.status, tt.problem); strings.Contains(w.Body.String(), "disk") {
			t.Errorf("a stranger is told %s", w.Body)
		}
	}
}

func TestAPageOfAnotherSiteIsRefused(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	key, token := a.newKey(user, "laptop")
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Origin", "https://evil.example"},
	} {
		a.do("PATCH", keyPath(key.ID), `{"disabled":true}`, headers...).problem(403, "cross-origin")
	}
	a.do("POST", "/v1/server-keys", `{"name":"x"}`, "Content-Type", "text/plain").problem(415, "unsupported-media-type")
	a.do("POST", "/v1/server-keys", `{"name":"x"}`, "Content-Type", "").problem(415, "unsupported-media-type")
	a.loginIs(token, nil)
}

func TestABodyThatIsNotAsDescribedIsRefused(t *testing.T) {
	a := newAPI(t, nil)
	for _, tt := range []struct {
		name, body string
		status     int
		problem    string
	}{
		{"nothing", "", 415, "unsupported-media-type"},
		{"no JSON", `{`, 400, "invalid-request"},
		{"two values", `{"name":"a"}{"name":"b"}`, 400, "invalid-request"},
		{"no object", `[]`, 400, "invalid-request"},
		{"null", `null`, 400, "invalid-request"},
		{"an unknown field", `{"name":"a","admin":true}`, 400, "invalid-request"},
		{"a field in capitals", `{"NAME":"a"}`, 400, "invalid-request"},
		{"a field twice", `{"name":"a","name":"b"}`, 400, "invalid-request"},
		{"a text twice", `{"name":"a","metadata":{"a":"1","a":"2"}}`, 400, "invalid-request"},
		{"a number for a text", `{"name":1}`, 400, "invalid-request"},
		{"null for a text", `{"name":null}`, 400, "invalid-request"},
		{"a time that is none", `{"name":"a","expires":"tomorrow"}`, 400, "invalid-request"},
		{"a network that is none", `{"name":"a","networks":["all"]}`, 422, "invalid-network"},
		{"a long text for a network", `{"name":"a","networks":["` + strings.Repeat("a", 65) + `"]}`, 422, "invalid-network"},
		{"null for a network", `{"name":"a","networks":[null]}`, 400, "invalid-request"},
		{"null for a scope", `{"name":"a","scopes":[null]}`, 400, "invalid-request"},
		{"null for the text of a name", `{"name":"a","metadata":{"a":null}}`, 400, "invalid-request"},
		{"no list", `{"name":"a","scopes":{}}`, 400, "invalid-request"},
		{"null for a list", `{"name":"a","scopes":null}`, 400, "invalid-request"},
		{"null for an object", `{"name":"a","metadata":null}`, 400, "invalid-request"},
		{"no UTF-8", "{\"name\":\"\xff\"}", 400, "invalid-request"},
		{"deep", `{"metadata":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 400, "invalid-request"},
		{"large", `{"name":"` + strings.Repeat("a", admin.MaxBody) + `"}`, 413, "body-too-large"},
		{"no name", `{}`, 422, "invalid-name"},
		{"a bad scope", `{"name":"a","scopes":["a b"]}`, 422, "invalid-scope"},
		{"a date that has passed", `{"name":"a","expires":"2001-01-01T00:00:00Z"}`, 422, "invalid-expiry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := any(tt.body)
			if tt.body == "" {
				body = nil
			}
			a.do("POST", "/v1/server-keys", body).problem(tt.status, tt.problem)
		})
	}
	bad := get[admin.Problem](a.do("POST", "/v1/server-keys", `{"name":"a","networks":["10.0.0.0/8","300.1.1.1"]}`))
	if want := `invalid network: "300.1.1.1" in the field networks is not written as 192.0.2.0/24 or 2001:db8::/32`; bad.Detail != want {
		t.Errorf("got %q, want %q", bad.Detail, want)
	}
	if keys, err := a.store.Keys(t.Context(), latchkey.ServerOwner); err != nil || len(keys) > 0 {
		t.Errorf("a bad body has made %v, %v", keys, err)
	}
}

func TestAParameterThatIsNotAsDescribedIsRefused(t *testing.T) {
	a := newAPI(t, nil)
	for _, target := range []string{
		"/v1/keys?stat=enabled", "/v1/keys?state=lost", "/v1/keys?limit=0", "/v1/keys?limit=1001", "/v1/keys?limit=x",
		"/v1/keys?state=enabled&state=disabled", "/v1/keys?owner=ada", "/v1/keys?expiring_before=tomorrow", "/v1/keys?%zz",
		"/v1/keys?tag_secret_before=-1", "/v1/keys?state=", "/v1/keys?owner=", "/v1/keys?limit=", "/v1/keys?unused_since=", "/v1/users?disabled=",
		"/v1/users?disabled=yes", "/v1/changes?x=1",
	} {
		a.do("GET", target, nil).problem(400, "invalid-request")
	}
	for _, target := range []string{"/v1/keys?cursor=x", "/v1/users?cursor=x", "/v1/groups?cursor=!", "/v1/audit?cursor=x"} {
		a.do("GET", target, nil).problem(422, "invalid-cursor")
	}
	for _, target := range []string{"/v1/keys/x", "/v1/users/x", "/v1/keys/" + strings.ToUpper(uuid.NewString()), "/v1/keys/urn:uuid:" + uuid.NewString()} {
		a.do("GET", target, nil).problem(400, "invalid-id")
	}
}

func TestNoAnswerRepeatsATokenThatIsInTheWrongPlace(t *testing.T) {
	var log bytes.Buffer
	a := newAPI(t, &admin.Options{Authenticate: everybody, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	user := a.newUser("ada")
	key, lost := a.newKey(user, "laptop")
	secret := lost[20:]
	for _, tt := range []struct {
		method, target string
		body           any
		headers        []string
	}{
		{"GET", "/v1/" + lost, nil, nil},
		{"GET", "/v1/keys/" + lost, nil, nil},
		{"GET", "/v1/users/" + lost, nil, nil},
		{"GET", "/v1/keys?" + lost + "=1", nil, nil},
		{"GET", "/v1/keys?owner=" + lost, nil, nil},
		{"GET", "/v1/keys?cursor=" + lost, nil, nil},
		{"GET", "/v1/keys?limit=" + lost, nil, nil},
		{"GET", "/v1/keys?unused_since=" + lost, nil, nil},
		{"GET", "/v1/changes", nil, []string{"Last-Event-ID", lost}},
		{"POST", "/v1/server-keys", `{"` + lost + `":1}`, nil},
		{"POST", "/v1/server-keys", `{"name":{"a":"` + lost + `"}}`, nil},
		{"POST", "/v1/server-keys", `{"name":"a","expires":"` + lost + `"}`, nil},
		{"POST", "/v1/server-keys", `{"name":"a","networks":["` + lost + `"]}`, nil},
		{"POST", "/v1/audit/verify", `{"heads":["` + lost + `"]}`, nil},
		{"POST", "/v1/server-keys", `{"name":"a","metadata":{"` + lost + `":1}}`, nil},
		{"POST", "/v1/server-keys", `"` + lost + `"`, nil},
		{"POST", "/v1/server-keys", lost, nil},
		{"POST", "/v1/users", `{"identity":{"provider":"x","` + lost + `":"a"}}`, nil},
		{"POST", "/v1/find-token", `{"token":"` + lost + `"}`, nil},
		{"POST", "/v1/find-token", `{"token":"` + lost + `x"}`, nil},
		{"PATCH", keyPath(key.ID), `{"disabled":true}`, []string{"If-Match", lost}},
		{"POST", "/v1/server-keys", `{"name":"b"}`, []string{"Idempotency-Key", lost}},
		{"POST", "/v1/server-keys", `{"name":"c"}`, []string{"Idempotency-Key", lost}},
		{"POST", "/v1/server-keys", `{"name":"c"}`, []string{"Content-Type", lost}},
		{"POST", "/v1/apply?" + lost + "=1", "", []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply?prune=" + lost, "", []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply", "domain: " + lost, []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply", lost + ": 1", []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply", "server_keys: [{networks: [" + lost + "]}]\ndomain: " + a.store.DomainID().String(), []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply", "users: [{identity: '" + lost + ":a'}]\ndomain: " + a.store.DomainID().String(), []string{"Content-Type", yamlType}},
		{"POST", "/v1/apply", "", []string{"Content-Type", lost}},
		{"POST", "/v1/import?format=" + lost, "", []string{"Content-Type", csvType}},
		{"POST", "/v1/import?format=unkey&ignore=" + lost, lost + "\n" + lost, []string{"Content-Type", csvType}},
		{"POST", "/v1/import?format=general&hash=sha256&scheme=" + lost, "", []string{"Content-Type", csvType}},
		{"POST", "/v1/import?format=general&scheme=x&hash=" + lost, "", []string{"Content-Type", csvType}},
		{"POST", general + "&provider=" + lost, "hash,owner\n" + digest("a") + "," + lost, []string{"Content-Type", csvType}},
		{"POST", general, "hash,networks\n" + digest("a") + "," + lost, []string{"Content-Type", csvType}},
		{"POST", "/v1/import?format=latchkey", `{"user":"` + lost + `"}`, []string{"Content-Type", csvType}},
		{"POST", "/v1/domain-secrets", lost, []string{"Content-Type", binaryType}},
		{"POST", "/v1/tag-secrets/" + lost + "/use", nil, nil},
		{"POST", "/v1/audit/prune", `{"keep":"` + lost + `"}`, nil},
	} {
		w := a.do(tt.method, tt.target, tt.body, tt.headers...)
		if strings.Contains(w.Body.String(), secret) || strings.Contains(fmt.Sprint(w.Header()), secret) {
			t.Errorf("%s %s: the answer has the token: %v %s", tt.method, tt.target, w.Header(), w.Body)
		}
	}
	a.must(a.store.Close())
	a.do("GET", "/v1/keys?name_prefix="+lost, nil).problem(503, "closed")
	if log.Len() == 0 || strings.Contains(log.String(), secret) {
		t.Errorf("the log is %s", &log)
	}
	if file, err := os.ReadFile(a.path); err != nil || bytes.Contains(file, []byte(secret)) {
		t.Errorf("the file has the token, or %v", err)
	}
}

func TestATokenIsInOneAnswerOnly(t *testing.T) {
	a, url := newHubAPI(t, admin.Options{Authenticate: everybody})
	edge := join(a, url, "till", replica.Policy{Groups: []string{"*"}})
	a.handler = admin.New(a.store, &admin.Options{Authenticate: everybody, Hub: a.hub, Edge: edge})
	user := a.newUser("ada")
	created := get[admin.KeyWithToken](a.do("POST", userPath(user)+"/keys", admin.NewKey{Name: "laptop"}).is(201))
	rotated := get[admin.KeyWithToken](a.do("POST", keyPath(created.Key.ID)+"/rotate", nil, "If-Match", "*").is(200))
	a.loginIs(rotated.Token, nil)
	for _, route := range admin.Routes() {
		method, path, _ := strings.Cut(route, " ")
		if method != "GET" || path == "/v1/changes" || path == "/v1/backup" {
			continue
		}
		path = strings.NewReplacer("{user}", user.String(), "{key}", created.Key.ID.String(), "{group}", "north",
			"{replica}", edge.Status().Edge.String(), "/v1/confirmed", "/v1/confirmed?sequence=1").Replace(path)
		body := a.do(method, path, nil).is(200).Body.String()
		for _, token := range []string{created.Token, rotated.Token} {
			if strings.Contains(body, token[20:]) {
				t.Errorf("%s has the token", route)
			}
		}
	}
}

func TestEveryChangeHasItsActor(t *testing.T) {
	a := newAPI(t, nil)
	user := get[admin.User](a.do("POST", "/v1/users", `{"identity":{"provider":"local-userpass","subject":"ada"}}`).is(201))
	a.do("PATCH", userPath(user.ID), `{"group":"north","metadata":{"a":"b"}}`, "If-Match", user.ETag).is(200)
	key := get[admin.KeyWithToken](a.do("POST", userPath(user.ID)+"/keys", `{"name":"laptop"}`).is(201)).Key
	server := get[admin.KeyWithToken](a.do("POST", "/v1/server-keys", `{"name":"job"}`, "Idempotency-Key", "1").is(201)).Key
	a.do("PATCH", keyPath(key.ID), `{"name":"phone","scopes":["a"]}`, "If-Match", key.ETag).is(200)
	a.do("POST", keyPath(server.ID)+"/rotate", `{}`, "If-Match", server.ETag).is(200)
	a.do("POST", userPath(user.ID)+"/identities", `{"provider":"oauth2-google","subject":"1"}`).is(200)
	a.do("DELETE", userPath(user.ID)+"/identities?provider=oauth2-google&subject=1", nil).is(200)
	a.do("PATCH", "/v1/groups/north", `{"disabled":true}`).is(200)
	a.do("PATCH", userPath(user.ID), `{"disabled":true}`).is(200)
	a.do("DELETE", keyPath(key.ID), nil).is(204)
	a.do("DELETE", userPath(user.ID), nil).is(204)
	minted, _ := a.mint()
	a.do("POST", "/v1/apply", a.manifest(minted), "Content-Type", yamlType).is(200)
	a.do("POST", general, "hash,name,owner\n"+digest("a")+",a,bob\n", "Content-Type", csvType).is(200)
	a.do("POST", "/v1/tag-secrets", nil).is(201)
	a.do("POST", "/v1/tag-secrets/1/use", nil).is(200)
	a.do("POST", "/v1/tag-secrets/0/retire", `{"force":true}`).is(200)
	a.do("POST", "/v1/clock/reset", nil).is(200)
	a.do("POST", "/v1/audit/prune", `{"keep":100}`).is(200)
	page := get[admin.AuditPage](a.do("GET", "/v1/audit", nil).is(200))
	if len(page.Items) < 21 {
		t.Errorf("the trail has %d entries", len(page.Items))
	}
	for _, e := range page.Items {
		if e.Change.Actor != "root" {
			t.Errorf("entry %d of %v has the actor %q", e.Number, e.Change.Actions, e.Change.Actor)
		}
	}
}

func TestTheActorOfAKeyIsItsID(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	key, token := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	a.do("POST", "/v1/server-keys", `{"name":"job"}`, "Authorization", "Bearer "+token).is(201)
	page := get[admin.AuditPage](a.do("GET", "/v1/audit", nil, "Authorization", "Bearer "+token).is(200))
	if last := page.Items[len(page.Items)-1].Change; last.Actor != "key "+key.ID.String() {
		t.Errorf("got %+v", last)
	}
}

func TestHealthNamesEachFinding(t *testing.T) {
	a := newAPI(t, nil)
	if h := get[admin.Health](a.do("GET", "/v1/health", nil).is(200)); !h.OK || len(h.Findings) > 0 {
		t.Errorf("got %+v", h)
	}
	a.must(os.Rename(a.path, a.path+".moved"))
	h := get[admin.Health](a.do("GET", "/v1/health", nil).is(200))
	if h.OK || len(h.Findings) != 1 || h.Findings[0].Type != "urn:latchkey:problem:file-gone" {
		t.Errorf("got %+v", h)
	}
	a.must(a.store.Close())
	a.do("GET", "/v1/health", nil).problem(503, "closed")
}

func TestTheStoreTellsAboutItself(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	_, token := a.newKey(user, "laptop")
	a.loginIs(token, nil)
	info := get[admin.StoreInfo](a.do("GET", "/v1/store", nil).is(200))
	if info.Domain != a.store.DomainID() || info.Replica != a.store.ReplicaID() || info.Now.IsZero() || !strings.HasPrefix(token, info.TokenPrefix+"_") {
		t.Errorf("got %+v", info)
	}
	stats := get[admin.Stats](a.do("GET", "/v1/stats", nil).is(200))
	if stats.Users != 1 || stats.Keys != 1 || stats.Misses != 1 || stats.Sequence == 0 {
		t.Errorf("got %+v", stats)
	}
	if f := get[admin.Findings](a.do("POST", "/v1/check", nil).is(200)); len(f.Findings) > 0 || f.More {
		t.Errorf("got %+v", f)
	}
	a.do("POST", "/v1/compact", nil).is(204)
}

func TestACheckReportsDamage(t *testing.T) {
	a := newAPI(t, nil)
	for i := range 40 {
		a.newUser(fmt.Sprint("user", i))
	}
	file, err := os.ReadFile(a.path)
	a.must(err)
	f, err := os.OpenFile(a.path, os.O_RDWR, 0)
	a.must(err)
	for at := 0; ; at++ { // some of the places are in pages that are free
		i := bytes.Index(file[at:], []byte("user7"))
		if i < 0 {
			break
		}
		at += i
		_, err = f.WriteAt([]byte("USER7"), int64(at))
		a.must(err)
	}
	a.must(f.Close())
	got := get[admin.Findings](a.do("POST", "/v1/check", nil).is(200))
	if len(got.Findings) == 0 {
		t.Error("the damage is not found")
	}
	for _, p := range got.Findings {
		if p.Type != "urn:latchkey:problem:corrupt" && p.Type != "urn:latchkey:problem:numbering" {
			t.Errorf("got %+v", p)
		}
	}
}

func TestABackupIsAStore(t *testing.T) {
	a := newAPI(t, nil)
	_, token := a.newServerKey(latchkey.KeySpec{Name: "job"})
	w := a.do("GET", "/v1/backup", nil).is(200)
	path := filepath.Join(t.TempDir(), "restored.db")
	a.must(latchkey.Restore(t.Context(), w.Body, path))
	restored, err := latchkey.Open(path, nil)
	a.must(err)
	defer restored.Close()
	if _, err := restored.Login(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func TestOneBackupIsInProgressAtATime(t *testing.T) {
	a := newAPI(t, nil)
	done := a.handler.HoldBackup()
	w := a.do("GET", "/v1/backup", nil).problem(409, "in-progress")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	a.do("POST", "/v1/check", nil).is(200)
	done()
	a.do("GET", "/v1/backup", nil).is(200)
}

// failingWriter fails after some bytes.
type failingWriter struct {
	*httptest.ResponseRecorder
	left int
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("the client is gone")
	}
	return w.ResponseRecorder.Write(p)
}

func TestABackupThatFailsBreaksTheConnectionOff(t *testing.T) {
	a := newAPI(t, nil)
	w := &failingWriter{httptest.NewRecorder(), 5000}
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("got %v, want ErrAbortHandler", v)
		}
	}()
	a.handler.ServeHTTP(w, httptest.NewRequest("GET", "/v1/backup", nil))
	t.Error("the handler returned, as for a whole backup")
}

// revokingWriter revokes a key when it gets the first part of an answer.
type revokingWriter struct {
	*httptest.ResponseRecorder
	revoke func()
	parts  int
}

func (w *revokingWriter) Write(p []byte) (int, error) {
	if w.parts++; w.parts == 1 {
		w.revoke()
	}
	return w.ResponseRecorder.Write(p)
}

func TestABackupEndsWhenItsKeyIsRevoked(t *testing.T) {
	a := newAPI(t, nil)
	a.handler = admin.New(a.store, nil)
	key, token := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	w := &revokingWriter{httptest.NewRecorder(), func() { a.must(a.store.DisableKey(t.Context(), key.Owner, key.ID)) }, 0}
	defer func() {
		if v := recover(); v != http.ErrAbortHandler || w.parts != 1 {
			t.Errorf("got %v after %d parts, want ErrAbortHandler after 1", v, w.parts)
		}
	}()
	r := httptest.NewRequest("GET", "/v1/backup", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	a.handler.ServeHTTP(w, r)
	t.Error("the handler returned, as for a whole backup")
}

func TestWhatAnEngineCannotDoIsAProblem(t *testing.T) {
	store := latchkeytest.New(t) // in memory
	a := &api{TB: t, store: store, handler: admin.New(store, &admin.Options{Authenticate: everybody})}
	a.do("GET", "/v1/backup", nil).problem(501, "unsupported")
	a.do("POST", "/v1/compact", nil).problem(501, "unsupported")
}

func TestTheTrailIsVerified(t *testing.T) {
	a := newAPI(t, nil)
	a.newUser("ada")
	first := get[admin.AuditPage](a.do("GET", "/v1/audit", nil).is(200)).Heads[0]
	a.newUser("bob")
	body := map[string]any{"heads": []string{first.String()}}
	v := get[admin.AuditVerdict](a.do("POST", "/v1/audit/verify", body).is(200))
	if !v.OK || v.Heads[0].Number != first.Number+1 || v.Problem != nil {
		t.Errorf("got %+v", v)
	}
	body["heads"] = []string{fmt.Sprintf("%d:%064x", first.Number, 1)}
	v = get[admin.AuditVerdict](a.do("POST", "/v1/audit/verify", body).is(200))
	if v.OK || v.Problem == nil || v.Problem.Type != "urn:latchkey:problem:audit-broken" {
		t.Errorf("got %+v", v)
	}
	a.do("POST", "/v1/audit/verify", nil).is(200)
	a.do("POST", "/v1/audit/verify", `{"heads":[null]}`).problem(400, "invalid-request")
	body["heads"] = slices.Repeat([]string{first.String()}, 1001)
	a.do("POST", "/v1/audit/verify", body).problem(400, "invalid-request")
}

func TestTimesAreTheStores(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAPIWith(t, latchkey.Options{Now: func() time.Time { return now }, TestClock: true}, nil)
	key := get[admin.KeyWithToken](a.do("POST", "/v1/server-keys", `{"name":"job","expires":"2030-01-02T00:00:00Z"}`).is(201)).Key
	if key.Expired {
		t.Error("the key has expired at once")
	}
	now = now.Add(24 * time.Hour)
	if !get[admin.Key](a.do("GET", keyPath(key.ID), nil).is(200)).Expired {
		t.Error("the key has not expired")
	}
}

func TestTheTrailIsBegunAndPruned(t *testing.T) {
	a := newAPI(t, nil)
	begun := get[admin.AuditBegun](a.do("POST", "/v1/audit/begin", nil).is(201))
	a.do("POST", "/v1/audit/begin", `{}`).problem(409, "audit-begun")
	for i := range 9 {
		a.newUser(fmt.Sprint("user", i))
	}
	verdict := get[admin.AuditVerdict](a.do("POST", "/v1/audit/verify", map[string]any{"heads": []audit.Head{begun.Head}}).is(200))
	if !verdict.OK || verdict.Entries != 10 {
		t.Errorf("got %+v", verdict)
	}
	for _, body := range []string{``, `{}`, `{"keep":-1}`, `{"keep":9007199254740992}`, `{"keep":null}`, `{"keep":1,"x":1}`} {
		if w := a.do("POST", "/v1/audit/prune", body); w.Code < 400 {
			t.Errorf("%s: got %d", body, w.Code)
		}
	}
	defer admin.SetPruneStep(2)()
	if got := get[admin.AuditPruned](a.do("POST", "/v1/audit/prune", `{"keep":3}`).is(200)); got.Entries != 10 || got.Removed != 7 {
		t.Errorf("got %+v", got)
	}
	verdict = get[admin.AuditVerdict](a.do("POST", "/v1/audit/verify", nil).is(200))
	if !verdict.OK || verdict.Entries != 3 {
		t.Errorf("got %+v", verdict)
	}
	verdict = get[admin.AuditVerdict](a.do("POST", "/v1/audit/verify", map[string]any{"heads": []audit.Head{begun.Head}}).is(200))
	if verdict.OK || !errors.Is(verdict.Problem, audit.ErrPruned) {
		t.Errorf("got %+v", verdict)
	}
	if got := get[admin.AuditPruned](a.do("POST", "/v1/audit/prune", `{"keep":9007199254740991}`).is(200)); got.Removed != 0 {
		t.Errorf("got %+v", got)
	}
	anew := get[admin.AuditBegun](a.do("POST", "/v1/audit/begin", `{"anew":true}`).is(201))
	page := get[admin.AuditPage](a.do("GET", "/v1/audit", nil))
	if len(page.Items) != 1 || page.Heads[0] != anew.Head || page.Items[0].Change.Actor != "root" {
		t.Errorf("got %+v, want the head %s", page, anew.Head)
	}
}

func TestTheStoresTimeIsShownAndReset(t *testing.T) {
	now := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAPIWith(t, latchkey.Options{Now: func() time.Time { return now }}, nil)
	a.newUser("ada") // the store remembers the time
	now = now.Add(-24 * time.Hour)
	clock := get[admin.Clock](a.do("GET", "/v1/clock", nil).is(200))
	if !clock.Now.After(now) || clock.Resets != 0 {
		t.Errorf("got %+v", clock)
	}
	reset := get[admin.ClockReset](a.do("POST", "/v1/clock/reset", nil).is(200))
	clock = get[admin.Clock](a.do("GET", "/v1/clock", nil).is(200))
	if reset.Before.Sub(reset.After) < 23*time.Hour || clock.Resets != 1 || clock.Now.Sub(now) > time.Hour {
		t.Errorf("got %+v, and then %+v", reset, clock)
	}
}

func TestARepairMendsWhatACheckFinds(t *testing.T) {
	a := newAPI(t, nil)
	_, token := a.newServerKey(latchkey.KeySpec{Name: "job"})
	if got := get[admin.Repaired](a.do("POST", "/v1/repair", nil).is(200)); got.Repaired != 0 {
		t.Errorf("got %+v", got)
	}
	a.must(a.store.Close())
	a.do("POST", "/v1/repair", nil).problem(503, "closed")
	spoilNames(t, a.path)
	var err error
	a.store, err = latchkey.Open(a.path, &latchkey.Options{Cost: latchkey.LightCost})
	a.must(err)
	a.handler = admin.New(a.store, &admin.Options{Authenticate: everybody})
	if got := get[admin.Findings](a.do("POST", "/v1/check", nil).is(200)); len(got.Findings) == 0 {
		t.Error("the check finds nothing")
	}
	if got := get[admin.Repaired](a.do("POST", "/v1/repair", nil).is(200)); got.Repaired != 1 {
		t.Errorf("got %+v", got)
	}
	if got := get[admin.Findings](a.do("POST", "/v1/check", nil).is(200)); len(got.Findings) != 0 {
		t.Errorf("after the repair the check finds %+v", got)
	}
	a.loginIs(token, nil)
}

// spoilNames deletes the index of names from the file of a store that is closed.
func spoilNames(t testing.TB, path string) {
	t.Helper()
	e, err := latchkey.OpenBoltEngine(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	err = e.Update(t.Context(), func(tx latchkey.EngineTx) error {
		for entry, err := range tx.Scan("names", nil, nil) {
			if err != nil {
				return err
			}
			if err := tx.Delete("names", slices.Clone(entry.Key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
