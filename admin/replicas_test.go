package admin_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/replica"
)

// newHubAPI returns an API over the store of a hub, and the URL of the hub.
func newHubAPI(t *testing.T, opts admin.Options) (*api, string) {
	t.Helper()
	a := newAPI(t, nil)
	a.hub = replica.NewHub(a.store, nil)
	opts.Hub = a.hub
	a.handler = admin.New(a.store, &opts)
	server := httptest.NewServer(opts.Hub)
	t.Cleanup(func() {
		_ = a.store.Close() // which ends the streams
		server.Close()
	})
	return a, server.URL
}

// join makes an edge of a hub, whose name is the name of a file.
func join(a *api, hubURL, name string, p replica.Policy) *replica.Edge {
	a.Helper()
	made := get[admin.Invitation](a.do("POST", "/v1/invitations", p).is(201))
	e, err := replica.Join(a.Context(), hubURL, made.Invitation, filepath.Join(a.TempDir(), name), &replica.Options{
		Name: name, Store: latchkey.Options{Cost: latchkey.LightCost},
	})
	a.must(err)
	a.Cleanup(func() { _ = e.Close() })
	return e
}

func replicaPath(id uuid.UUID) string { return "/v1/replicas/" + id.String() }

func TestAStoreWithoutAHubSaysSo(t *testing.T) {
	a := newAPI(t, nil)
	for _, route := range []string{"GET /v1/hub", "GET /v1/replicas", "GET " + replicaPath(uuid.New()), "GET /v1/claims", "GET /v1/confirmed?sequence=1"} {
		method, target, _ := strings.Cut(route, " ")
		a.do(method, target, nil).problem(404, "no-hub")
	}
	a.do("POST", "/v1/invitations", replica.Policy{Groups: []string{"*"}}).problem(404, "no-hub")
	a.do("POST", replicaPath(uuid.New())+"/revoke", nil).problem(404, "no-hub")
	a.do("PATCH", replicaPath(uuid.New()), `{"policy":{"groups":["*"]}}`).problem(404, "no-hub")
	a.do("POST", "/v1/claims/1/confirm", nil).problem(404, "no-hub")
	a.do("POST", "/v1/claims/1/refuse", nil).problem(404, "no-hub")
	a.do("GET", "/v1/edge", nil).problem(404, "no-edge")
	a.do("POST", "/v1/edge/sync", nil).problem(404, "no-edge")
}

func TestAnInvitationAndAPolicyNeedACallerThatMayHaveSecrets(t *testing.T) {
	a, _ := newHubAPI(t, admin.Options{Authenticate: func(*http.Request) (admin.Caller, error) { return admin.Caller{Actor: "page"}, nil }})
	a.do("POST", "/v1/invitations", replica.Policy{Groups: []string{"*"}}).problem(403, "key-required")
	a.do("PATCH", replicaPath(uuid.New()), `{"policy":{"groups":["*"]}}`).problem(403, "key-required")
	a.do("GET", "/v1/replicas", nil).is(200)
	a.do("POST", replicaPath(uuid.New())+"/revoke", nil).problem(404, "edge-not-found")
}

func TestAPolicyThatIsNotAsDescribedIsRefused(t *testing.T) {
	a, _ := newHubAPI(t, admin.Options{Authenticate: everybody})
	for _, body := range []string{`{}`, `{"groups":[]}`, `{"groups":["*"],"push":"some"}`, `{"groups":["*"],"push":3}`, `{"groups":"*"}`, `{"groups":["*"],"pull":"all"}`} {
		a.do("POST", "/v1/invitations", body).problem(400, "invalid-request")
		a.do("PATCH", replicaPath(uuid.New()), `{"policy":`+body+`}`).problem(400, "invalid-request")
	}
	a.do("PATCH", replicaPath(uuid.New()), `{}`).problem(400, "invalid-request")
	a.do("POST", "/v1/invitations", `{"groups":["`+strings.Repeat("x", 200)+`"]}`).problem(422, "invalid-policy")
	a.do("GET", "/v1/replicas?cursor=!", nil).problem(422, "invalid-cursor")
	a.do("GET", "/v1/replicas?cursor=YQ", nil).problem(422, "invalid-cursor")
	a.do("GET", "/v1/claims?cursor=x", nil).problem(422, "invalid-cursor")
	a.do("POST", "/v1/claims/x/confirm", nil).problem(400, "invalid-id")
	a.do("POST", "/v1/claims/7/confirm", nil).problem(404, "claim-not-found")
	for _, query := range []string{"", "?sequence=x", "?sequence=1&key=" + uuid.NewString()} {
		a.do("GET", "/v1/confirmed"+query, nil).problem(400, "invalid-request")
	}
	a.do("GET", keyPath(uuid.New())+"/confirmed", nil).problem(404, "key-not-found")
	a.do("GET", userPath(uuid.New())+"/confirmed", nil).problem(404, "user-not-found")
}

func TestAnAdministratorSeesEdgesAndCutsThemOff(t *testing.T) {
	a, url := newHubAPI(t, admin.Options{Authenticate: everybody})
	key, token := a.newServerKey(latchkey.KeySpec{Name: "job"})
	one := join(a, url, "till-1", replica.Policy{Groups: []string{"*"}, Push: replica.PushUse})
	two := join(a, url, "till-2", replica.Policy{Groups: []string{"north"}})

	page := get[admin.List[replica.EdgeInfo]](a.do("GET", "/v1/replicas?limit=1", nil).is(200))
	if len(page.Items) != 1 || page.Items[0].Name != "till-1" || page.Items[0].Policy.Push != replica.PushUse || page.Next == "" {
		t.Fatalf("got %+v", page)
	}
	rest := get[admin.List[replica.EdgeInfo]](a.do("GET", "/v1/replicas?cursor="+page.Next, nil).is(200))
	if len(rest.Items) != 1 || rest.Items[0].ID != two.Status().Edge || rest.Next != "" {
		t.Fatalf("got %+v", rest)
	}
	if found := get[admin.List[replica.EdgeInfo]](a.do("GET", "/v1/replicas?search=TILL-2", nil).is(200)); len(found.Items) != 1 {
		t.Errorf("the search found %+v", found)
	}
	if hub := get[replica.HubStatus](a.do("GET", "/v1/hub", nil).is(200)); hub.Edges != 2 || hub.Invitations != 0 {
		t.Errorf("got %+v", hub)
	}

	// A revocation is confirmed by the edges that have synchronized.
	a.do("PATCH", keyPath(key.ID), `{"disabled":true}`).is(200)
	a.must(one.Sync(t.Context()))
	c := get[admin.Confirmed](a.do("GET", keyPath(key.ID)+"/confirmed", nil).is(200))
	if c.Have != 1 || c.All != 2 || c.Sequence == 0 {
		t.Errorf("got %+v", c)
	}
	if _, err := one.Store().Login(t.Context(), token); !errors.Is(err, latchkey.ErrKeyDisabled) {
		t.Errorf("got %v", err)
	}

	changed := get[replica.EdgeInfo](a.do("PATCH", replicaPath(two.Status().Edge), `{"policy":{"groups":["*"],"push":"revocations"}}`).is(200))
	if changed.Policy.Push != replica.PushRevocations || len(changed.Policy.Groups) != 1 || changed.Policy.Groups[0] != "*" {
		t.Errorf("got %+v", changed)
	}
	if got := get[replica.EdgeInfo](a.do("POST", replicaPath(two.Status().Edge)+"/revoke", nil).is(200)); !got.Revoked {
		t.Errorf("got %+v", got)
	}
	if err := two.Sync(t.Context()); !errors.Is(err, replica.ErrRevoked) {
		t.Errorf("got %v", err)
	}
	a.do("GET", replicaPath(uuid.New()), nil).problem(404, "edge-not-found")
	a.do("GET", "/v1/replicas/x", nil).problem(400, "invalid-id")
}

// newEdgeClient returns a client of the API over the store of an edge.
func newEdgeClient(e *replica.Edge) *admin.Client {
	return admin.Local(e.Store(), &admin.Options{Edge: e})
}

func TestAClaimIsConfirmedOrRefused(t *testing.T) {
	a, url := newHubAPI(t, admin.Options{Authenticate: everybody})
	kept, _ := a.newServerKey(latchkey.KeySpec{Name: "kept"})
	lost, _ := a.newServerKey(latchkey.KeySpec{Name: "lost"})
	e := join(a, url, "till", replica.Policy{Groups: []string{"*"}})
	for _, k := range []latchkey.Key{kept, lost} {
		a.must(e.Store().DisableKey(t.Context(), k.Owner, k.ID))
	}
	local := newEdgeClient(e)
	status, err := local.SyncEdge(t.Context())
	a.must(err)
	if status.Edge != e.Status().Edge {
		t.Errorf("got %+v", status)
	}
	hub := admin.Within(a.handler)
	claims := collect(t, hub.Claims(t.Context()))
	if len(claims) != 2 {
		t.Fatalf("got %+v", claims)
	}
	first := get[admin.List[replica.Claim]](a.do("GET", "/v1/claims?limit=1", nil).is(200))
	second := get[admin.List[replica.Claim]](a.do("GET", "/v1/claims?cursor="+first.Next, nil).is(200))
	if len(first.Items) != 1 || len(second.Items) != 1 || second.Next != "" {
		t.Errorf("got %+v and %+v", first, second)
	}
	for _, cl := range claims {
		decide := hub.ConfirmClaim
		if cl.ID == kept.ID {
			decide = hub.RefuseClaim
		}
		a.must(decide(t.Context(), cl.Number))
		if err := decide(t.Context(), cl.Number); !errors.Is(err, replica.ErrClaimNotFound) {
			t.Errorf("got %v", err)
		}
	}
	_, err = local.SyncEdge(t.Context())
	a.must(err)
	for _, k := range []latchkey.Key{kept, lost} {
		here, err := a.store.KeyByID(t.Context(), k.ID)
		a.must(err)
		there, err := e.Store().KeyByID(t.Context(), k.ID)
		a.must(err)
		if want := k.ID == lost.ID; here.Disabled != want || there.Disabled != want {
			t.Errorf("%s is disabled: %t at the hub and %t at the edge", k.Name, here.Disabled, there.Disabled)
		}
	}
}

func TestAClientAdministersAHubAndAnEdge(t *testing.T) {
	a, url := newHubAPI(t, admin.Options{Authenticate: everybody})
	user := a.newUser("ada")
	key, _ := a.newKey(user, "laptop")
	c := admin.Within(a.handler)
	if _, err := c.Invite(t.Context(), replica.Policy{Groups: []string{strings.Repeat("x", 200)}}); !errors.Is(err, admin.ErrPolicy) {
		t.Errorf("got %v", err)
	}
	invitation, err := c.Invite(t.Context(), replica.Policy{Groups: []string{"*"}})
	a.must(err)
	e, err := replica.Join(t.Context(), url, invitation, filepath.Join(t.TempDir(), "till.db"), &replica.Options{Name: "till"})
	a.must(err)
	t.Cleanup(func() { _ = e.Close() })
	id := e.Status().Edge

	hub, err := c.Hub(t.Context())
	a.must(err)
	edges := collect(t, c.Replicas(t.Context()))
	shown, err := c.Replica(t.Context(), id)
	a.must(err)
	if hub.Edges != 1 || len(edges) != 1 || edges[0].ID != id || shown.Name != "till" {
		t.Errorf("got %+v, %+v and %+v", hub, edges, shown)
	}
	changed, err := c.SetPolicy(t.Context(), id, replica.Policy{Groups: []string{"north"}, Push: replica.PushAll})
	a.must(err)
	if changed.Policy.Push != replica.PushAll {
		t.Errorf("got %+v", changed)
	}
	a.must(a.store.DisableGroup(t.Context(), "north"))
	for what, confirmed := range map[string]func() (admin.Confirmed, error){
		"key":      func() (admin.Confirmed, error) { return c.KeyConfirmed(t.Context(), key.ID) },
		"user":     func() (admin.Confirmed, error) { return c.UserConfirmed(t.Context(), user) },
		"group":    func() (admin.Confirmed, error) { return c.GroupConfirmed(t.Context(), "north") },
		"sequence": func() (admin.Confirmed, error) { return c.Confirmed(t.Context(), 1) },
	} {
		if got, err := confirmed(); err != nil || got.All != 1 || got.Sequence == 0 {
			t.Errorf("%s: got %+v, %v", what, got, err)
		}
	}
	local := newEdgeClient(e)
	if _, err := local.Hub(t.Context()); !errors.Is(err, admin.ErrNoHub) {
		t.Errorf("got %v", err)
	}
	status, err := local.Edge(t.Context())
	a.must(err)
	if status.Edge != id || status.HubURL != url || !status.Copied {
		t.Errorf("got %+v", status)
	}
	if revoked, err := c.RevokeReplica(t.Context(), id); err != nil || !revoked.Revoked {
		t.Errorf("got %+v, %v", revoked, err)
	}
	if _, err := local.SyncEdge(t.Context()); !errors.Is(err, replica.ErrRevoked) {
		t.Errorf("got %v", err)
	}
}

func TestAnEdgeThatDoesNotReachItsHubSaysSo(t *testing.T) {
	a := newAPI(t, nil)
	hub := replica.NewHub(a.store, nil)
	server := httptest.NewServer(hub)
	invitation, err := hub.Invite(t.Context(), replica.Policy{Groups: []string{"*"}})
	a.must(err)
	e, err := replica.Join(t.Context(), server.URL, invitation, filepath.Join(t.TempDir(), "till.db"), nil)
	a.must(err)
	t.Cleanup(func() { _ = e.Close() })
	server.Close()
	if _, err := newEdgeClient(e).SyncEdge(t.Context()); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestNoAnswerAboutEdgesRepeatsATokenThatIsInTheWrongPlace(t *testing.T) {
	a, _ := newHubAPI(t, admin.Options{Authenticate: everybody})
	_, lost := a.newServerKey(latchkey.KeySpec{Name: "job"})
	for _, tt := range []struct {
		method, target string
		body           any
	}{
		{"GET", replicaPath(uuid.Nil) + lost, nil},
		{"GET", "/v1/replicas?cursor=" + lost, nil},
		{"PATCH", replicaPath(uuid.New()), `{"policy":{"groups":["*"],"push":"` + lost + `"}}`},
		{"PATCH", replicaPath(uuid.New()), `{"policy":{"groups":["` + lost + lost + `"]}}`},
		{"POST", "/v1/invitations", `{"groups":["*"],"` + lost + `":1}`},
		{"POST", "/v1/invitations", `{"groups":["` + lost + lost + `"]}`},
		{"GET", "/v1/claims?cursor=" + lost, nil},
		{"POST", "/v1/claims/" + lost + "/confirm", nil},
		{"GET", "/v1/confirmed?sequence=" + lost, nil},
		{"GET", "/v1/keys/" + lost + "/confirmed", nil},
	} {
		if w := a.do(tt.method, tt.target, tt.body); w.Code < 400 || strings.Contains(w.Body.String(), lost[20:]) {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, w.Code, w.Body)
		}
	}
}

func TestTheTrailOfTheHubNamesTheEdgeThatHasPushedAChange(t *testing.T) {
	a, url := newHubAPI(t, admin.Options{Authenticate: everybody})
	key, _ := a.newServerKey(latchkey.KeySpec{Name: "job"})
	e := join(a, url, "till", replica.Policy{Groups: []string{"*"}, Push: replica.PushRevocations})
	a.must(e.Store().DisableKey(t.Context(), key.Owner, key.ID))
	a.must(e.Sync(t.Context()))
	entries := get[admin.AuditPage](a.do("GET", "/v1/audit?limit=1000", nil).is(200)).Items
	last := entries[len(entries)-1].Change
	if want := "edge " + e.Status().Edge.String(); last.Actor != want || last.Key != key.ID {
		t.Errorf("got %+v, want the actor %s", last, want)
	}
}
