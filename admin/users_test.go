package admin_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/memory"
)

func TestAUserIsMadeChangedAndDeleted(t *testing.T) {
	a := newAPI(t, nil)
	w := a.do("POST", "/v1/users", `{"identity":{"provider":"local-userpass","subject":"ada@example.com"},"group":"north","metadata":{"room":"4"}}`).is(201)
	u := get[admin.User](w)
	if u.Group != "north" || u.Metadata["room"] != "4" || u.Identities[0].Subject != "ada@example.com" || w.Header().Get("Location") != userPath(u.ID) {
		t.Errorf("got %+v, %v", u, w.Header())
	}
	k, token := a.newKey(u.ID, "laptop")
	u = get[admin.User](a.do("PATCH", userPath(u.ID), `{"group":"south","metadata":{}}`, "If-Match", "*").is(200))
	if u.Group != "south" || len(u.Metadata) > 0 {
		t.Errorf("got %+v", u)
	}
	a.do("PATCH", userPath(u.ID), `{"disabled":true}`).is(200)
	a.loginIs(token, latchkey.ErrUserDisabled)
	a.do("PATCH", userPath(u.ID), `{"disabled":false}`, "If-Match", "*").is(200)
	a.loginIs(token, nil)
	a.do("DELETE", userPath(u.ID), nil).is(204)
	a.loginIs(token, latchkey.ErrInvalidToken)
	a.do("GET", keyPath(k.ID), nil).problem(404, "key-not-found")
	for _, method := range []string{"GET", "DELETE"} {
		a.do(method, userPath(u.ID), nil).problem(404, "user-not-found")
	}
	a.do("PATCH", userPath(u.ID), `{"disabled":true}`).problem(404, "user-not-found")
}

func TestIdentitiesComeAndGo(t *testing.T) {
	a := newAPI(t, nil)
	ada, bob := a.newUser("ada"), a.newUser("bob")
	subject := "ada/.. +?&#ü"
	u := get[admin.User](a.do("POST", userPath(ada)+"/identities", map[string]string{"provider": "custom-token", "subject": subject}).is(200))
	if len(u.Identities) != 2 || u.Identities[1].Subject != subject {
		t.Errorf("got %+v", u)
	}
	a.do("POST", userPath(bob)+"/identities", map[string]string{"provider": "custom-token", "subject": subject}).problem(409, "identity-taken")
	a.do("POST", userPath(bob)+"/identities", `{"provider":"x","subject":"y"}`).problem(422, "invalid-identity")
	a.do("POST", "/v1/users", `{"identity":{"provider":"local-userpass","subject":"ada"}}`).problem(409, "identity-taken")
	query := "?provider=custom-token&subject=" + url.QueryEscape(subject)
	a.do("DELETE", userPath(bob)+"/identities"+query, nil).problem(404, "identity-not-found")
	u = get[admin.User](a.do("DELETE", userPath(ada)+"/identities"+query, nil).is(200))
	if len(u.Identities) != 1 {
		t.Errorf("got %+v", u)
	}
	a.do("DELETE", userPath(ada)+"/identities?provider=local-userpass&subject=ada", nil).problem(409, "last-identity")
	a.do("POST", userPath(uuid.New())+"/identities", `{"provider":"custom-token","subject":"y"}`).problem(404, "user-not-found")
}

func TestUsersAreFiltered(t *testing.T) {
	a := newAPI(t, nil)
	ada, bob := a.newUser("Ada@example.com"), a.newUser("bob@example.com")
	a.must(a.store.SetUserGroup(t.Context(), ada, "north"))
	a.must(a.store.DisableUser(t.Context(), bob))
	for query, want := range map[string]string{
		"":               "Ada@example.com bob@example.com",
		"group=north":    "Ada@example.com",
		"group=":         "bob@example.com",
		"disabled=true":  "bob@example.com",
		"disabled=false": "Ada@example.com",
		"search=ADA":     "Ada@example.com",
		"search=example": "Ada@example.com bob@example.com",
		"search=eve":     "",
		"provider=local-userpass&subject=bob@example.com": "bob@example.com",
		"provider=local-userpass&subject=eve":             "",
	} {
		var subjects []string
		for _, u := range get[admin.List[admin.User]](a.do("GET", "/v1/users?"+query, nil).is(200)).Items {
			subjects = append(subjects, u.Identities[0].Subject)
		}
		slices.Sort(subjects)
		if got := strings.Join(subjects, " "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

func TestAGroupWithAnyNameIsDisabledAndEnabled(t *testing.T) {
	a := newAPI(t, nil)
	for _, name := range []string{"north", "a/b", "..", "50% ü?#", "north.yaml"} {
		key, token, err := a.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "job of " + name, Group: name})
		a.must(err)
		path := "/v1/groups/" + strings.ReplaceAll(url.PathEscape(name), ".", "%2E")
		g := get[admin.Group](a.do("PATCH", path, `{"disabled":true}`).is(200))
		if g.Name != name || !g.Disabled {
			t.Errorf("got %+v", g)
		}
		a.loginIs(token, latchkey.ErrGroupDisabled)
		a.do("PATCH", path, `{"disabled":false}`, "If-Match", g.ETag).is(200)
		a.loginIs(token, nil)
		a.must(a.store.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	}
	a.do("PATCH", "/v1/groups/*", `{"disabled":true}`).problem(422, "invalid-group")
	a.do("PATCH", "/v1/groups/"+strings.Repeat("n", 1000), `{"disabled":true}`).problem(422, "invalid-group")
	a.do("GET", "/v1/groups/"+strings.Repeat("n", 1000), nil).is(200)
}

// newAPIOn is newAPI over an engine.
func newAPIOn(t testing.TB, e latchkey.Engine) *api {
	t.Helper()
	a := &api{TB: t, trail: audit.New(nil)}
	var err error
	a.store, err = latchkey.OpenWith(e, &latchkey.Options{Cost: latchkey.LightCost, OnChange: a.trail.Record})
	a.must(err)
	t.Cleanup(func() { _ = a.store.Close() })
	a.handler = admin.New(a.store, &admin.Options{Authenticate: everybody, Trail: a.trail})
	return a
}

func TestAFullEngineTakesDeletions(t *testing.T) {
	e := memory.NewShared()
	a := newAPIOn(t, e)
	ada, eve := a.newUser("ada"), a.newUser("eve")
	key, token := a.newKey(ada, "laptop")
	_, other := a.newKey(eve, "laptop")
	e.SetFull(true)
	a.do("PATCH", keyPath(key.ID), `{"disabled": true}`).problem(507, "no-space")
	a.do("DELETE", keyPath(key.ID)+"?dry_run=true", nil).is(204)
	a.do("DELETE", keyPath(key.ID), nil, "If-Match", `"0"`).problem(412, "changed-meanwhile")
	a.loginIs(token, nil)
	a.do("DELETE", keyPath(key.ID), nil).is(204)
	a.loginIs(token, latchkey.ErrInvalidToken)
	a.do("DELETE", keyPath(key.ID), nil).problem(404, "key-not-found")
	a.do("DELETE", userPath(eve), nil).is(204)
	a.loginIs(other, latchkey.ErrInvalidToken)
}

func TestAUserWithMoreKeysThanATransactionTakesCanBeDeleted(t *testing.T) {
	a := newAPIOn(t, memory.Bound(memory.NewEngine(), 40))
	ada := a.newUser("ada")
	var tokens []string
	for n := range 20 {
		_, token := a.newKey(ada, fmt.Sprint(n))
		tokens = append(tokens, token)
	}
	a.do("DELETE", userPath(ada), nil).is(204)
	a.do("GET", userPath(ada), nil).problem(404, "user-not-found")
	for _, token := range tokens {
		a.loginIs(token, latchkey.ErrInvalidToken)
	}
}
