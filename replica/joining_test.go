package replica_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

// joinErr returns the error of joining with an invitation, on a path of its own.
func joinErr(t testing.TB, url, invitation string) error {
	t.Helper()
	e := newEdge(t)
	edge, err := replica.Join(t.Context(), url, invitation, e.path, &e.options)
	if err == nil {
		_ = edge.Close()
	} else if _, statErr := os.Stat(e.path); !errors.Is(statErr, os.ErrNotExist) {
		t.Errorf("after %v there is a file: %v", err, statErr)
	}
	return err
}

func TestAnInvitationIsGoodOnceAndForAnHour(t *testing.T) {
	h := newHub(t, nil)
	first, late, later := h.invite(everything()), h.invite(everything()), h.invite(everything())
	h.restart() // an invitation survives
	wantErr(t, "the first use", joinErr(t, h.url, first), nil)
	used := joinErr(t, h.url, first)
	wantErr(t, "the second use", used, replica.ErrInvitation)
	h.clock.Add(time.Hour - time.Minute)
	wantErr(t, "just in time", joinErr(t, h.url, later), nil)
	h.clock.Add(2 * time.Minute)
	old := joinErr(t, h.url, late)
	wantErr(t, "too late", old, replica.ErrInvitation)
	other := newHub(t, func(o *hub) { o.certificate, o.options.Certificate = h.certificate, h.certificate.Leaf })
	unknown := joinErr(t, h.url, other.invite(everything()))
	wantErr(t, "of another hub", unknown, replica.ErrInvitation)
	cut := func(err error) string { return err.Error()[strings.LastIndex(err.Error(), "edge.db"):] }
	if cut(used) != cut(old) || cut(old) != cut(unknown) {
		t.Errorf("the errors tell which it is: %v; %v; %v", used, old, unknown)
	}
}

func TestAnInvitationThatIsNotWholeIsRefused(t *testing.T) {
	h := newHub(t, nil)
	good := h.invite(everything())
	other := "A"
	if good[20] == 'A' {
		other = "B"
	}
	for _, bad := range []string{"", "hello", good[1:], good[:len(good)-1], good + "A", good[:20] + other + good[21:], strings.ToUpper(good)} {
		wantErr(t, bad, joinErr(t, h.url, bad), replica.ErrInvitation)
	}
	wantErr(t, "in two lines", joinErr(t, h.url, good[:30]+"\r\n "+good[30:]+"\n"), nil)
}

func TestAPolicyIsChecked(t *testing.T) {
	h := newHub(t, nil)
	for _, p := range []replica.Policy{{}, {Groups: []string{""}}, {Groups: []string{strings.Repeat("g", 129)}}, {Groups: []string{"*"}, Push: 4}, {Groups: []string{"*"}, Push: -1}} {
		_, err := h.Invite(t.Context(), p)
		wantErr(t, p.Push.String(), err, latchkey.ErrInvalidOptions)
	}
}

func TestAnEdgeWhoseAnswerWasLostJoinsAgain(t *testing.T) {
	h := newHub(t, nil)
	_, token := addKey(t, h.store, "laptop", "")
	invitation, e := h.invite(everything()), newEdge(t)
	h.stop()
	lose := true
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !lose || !strings.HasSuffix(r.URL.Path, "/join") {
			h.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	if _, err := replica.Join(t.Context(), h.url, invitation, e.path, &e.options); err == nil {
		t.Fatal("joined without an answer")
	}
	_, err := replica.Open(e.path, &e.options)
	wantErr(t, "Open before the edge has joined", err, replica.ErrNotEdge)
	lose = false
	wantErr(t, "another device with the invitation", joinErr(t, h.url, invitation), replica.ErrInvitation)
	e.join(h.url, invitation)
	wantLogin(t, "after joining again", e.Store(), token, nil)
	if edges := get[[]replica.EdgeInfo](t)(h.Edges(t.Context())); len(edges) != 1 || edges[0].Name != "till" {
		t.Errorf("the hub has the edges %+v", edges)
	}
}

func TestAnEdgeThatJoinsAgainKeepsThePolicyThatItGotMeanwhile(t *testing.T) {
	h := newHub(t, nil)
	invitation, e := h.invite(everything()), newEdge(t)
	h.stop()
	lose := true
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !lose {
			h.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	if _, err := replica.Join(t.Context(), h.url, invitation, e.path, &e.options); err == nil {
		t.Fatal("joined without an answer")
	}
	narrow := replica.Policy{Groups: []string{"north"}}
	for _, edge := range get[[]replica.EdgeInfo](t)(h.Edges(t.Context())) {
		must(t, h.SetPolicy(t.Context(), edge.ID, narrow))
	}
	lose = false
	e.join(h.url, invitation)
	edges := get[[]replica.EdgeInfo](t)(h.Edges(t.Context()))
	if len(edges) != 1 || !reflect.DeepEqual(edges[0].Policy, narrow) {
		t.Errorf("the hub has the edges %+v, want the policy %+v", edges, narrow)
	}
}

func TestAFirstCopyThatWasCutGoesOn(t *testing.T) {
	h := newHub(t, nil)
	_, token := addKey(t, h.store, "laptop", "")
	invitation, e := h.invite(everything()), newEdge(t)
	h.stop()
	cut := true
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cut && strings.HasSuffix(r.URL.Path, "/pull") {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	if _, err := replica.Join(t.Context(), h.url, invitation, e.path, &e.options); err == nil {
		t.Fatal("joined without a first copy")
	}
	cut = false
	e.open()
	if e.Status().Copied {
		t.Error("the status says that the first copy has come")
	}
	e.sync()
	wantLogin(t, "after the copy", e.Store(), token, nil)
}

func TestAHubThatIsNotTheOneOfTheInvitationGetsNothing(t *testing.T) {
	h := newHub(t, nil)
	e, invitation := h.join(everything()), h.invite(everything())
	h.stop()
	asked := 0
	h.certificate = newCertificate(t) // of the man in the middle
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		h.ServeHTTP(w, r)
	}))
	wantErr(t, "Join", joinErr(t, h.url, invitation), replica.ErrWrongHub)
	wantErr(t, "Sync", e.Sync(t.Context()), replica.ErrWrongHub)
	if asked != 0 {
		t.Errorf("%d requests came through", asked)
	}
}

func TestWithoutAPinTheAuthoritiesDecide(t *testing.T) {
	h := newHub(t, func(h *hub) { h.options.Certificate = nil })
	err := joinErr(t, h.url, h.invite(everything()))
	var unknown *tls.CertificateVerificationError
	if !errors.As(err, &unknown) {
		t.Errorf("got %v, want a certificate that no authority has signed", err)
	}
}

func TestPlainHTTPIsForThisMachine(t *testing.T) {
	h := newHub(t, func(h *hub) { h.options.Certificate = nil })
	plain := httptest.NewServer(h)
	defer plain.Close()
	invitation := h.invite(everything())
	for _, url := range []string{
		"http://192.0.2.1:80", "http://hub.example", "ftp://127.0.0.1", "127.0.0.1:80", "https://", "https://user:pw@127.0.0.1", "https://127.0.0.1/?a=b", "http://localhost.example",
	} {
		wantErr(t, url, joinErr(t, url, invitation), latchkey.ErrInvalidOptions)
	}
	pinned := newHub(t, nil).invite(everything())
	wantErr(t, "an invitation with a pin", joinErr(t, plain.URL, pinned), latchkey.ErrInvalidOptions)
	e := newEdge(t)
	e.join(plain.URL, invitation)
	must(t, e.Close())
	e.options.HubURL = "http://hub.example"
	_, err := replica.Open(e.path, &e.options)
	wantErr(t, "Open with another URL", err, latchkey.ErrInvalidOptions)
	e.options.AllowPlainHTTP = true
	e.open()
	if got := e.Status().HubURL; got != "http://hub.example" {
		t.Errorf("the edge has the hub %s", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	h := newHub(t, nil)
	for name, change := range map[string]func(*replica.Options){
		"a short bound":    func(o *replica.Options) { o.Staleness = replica.Strict(89 * time.Second) },
		"no bound":         func(o *replica.Options) { o.Staleness = replica.Strict(0) },
		"read-only":        func(o *replica.Options) { o.Store.ReadOnly = true },
		"a name that ends": func(o *replica.Options) { o.Name = "till\n" },
		"a long name":      func(o *replica.Options) { o.Name = strings.Repeat("n", 65) },
	} {
		e := newEdge(t)
		change(&e.options)
		_, err := replica.Join(t.Context(), h.url, h.invite(everything()), e.path, &e.options)
		wantErr(t, name, err, latchkey.ErrInvalidOptions)
	}
}

func TestAFileThatIsNoEdgeOfTheHubIsRefused(t *testing.T) {
	h := newHub(t, nil)
	e := newEdge(t)
	s := get[*latchkey.Store](t)(latchkey.Open(e.path, &e.options.Store))
	must(t, s.Close())
	_, err := replica.Join(t.Context(), h.url, h.invite(everything()), e.path, &e.options)
	wantErr(t, "a store of another domain", err, replica.ErrNotEdge)

	e = newEdge(t)
	o := e.options.Store
	o.Domain = h.store.DomainSecrets()
	s = get[*latchkey.Store](t)(latchkey.Open(e.path, &o))
	must(t, s.Close())
	_, err = replica.Join(t.Context(), h.url, h.invite(everything()), e.path, &e.options)
	wantErr(t, "a store of the domain that never joined", err, replica.ErrNotEdge)
	_, err = replica.Open(e.path, &e.options)
	wantErr(t, "Open", err, replica.ErrNotEdge)

	joined := h.join(everything())
	must(t, joined.Close())
	_, err = replica.Join(t.Context(), h.url, h.invite(everything()), joined.path, &joined.options)
	wantErr(t, "an edge that the hub knows", err, replica.ErrJoined)
	joined.open()
	joined.sync()
	_, err = replica.Open(filepath.Join(t.TempDir(), "missing"), nil)
	wantErr(t, "no file", err, replica.ErrNotEdge)
}

func TestAnEdgeWithoutItsCredentialJoinsAgain(t *testing.T) {
	h := newHub(t, nil)
	_, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	must(t, e.Close())
	must(t, os.Remove(replica.CredentialPath(e.path))) // as in a backup
	_, err := replica.Open(e.path, &e.options)
	wantErr(t, "Open", err, replica.ErrNotEdge)
	e.join(h.url, h.invite(everything()))
	wantLogin(t, "after joining again", e.Store(), token, nil)
}

func TestTheCredentialIsForItsOwnerAlone(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	info := get[os.FileInfo](t)(os.Stat(e.path + ".edge"))
	if runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("the mode of the credential is %v", info.Mode())
	}
	must(t, e.Close())
	must(t, os.WriteFile(e.path+".edge", []byte("{"), 0o600))
	_, err := replica.Open(e.path, &e.options)
	wantErr(t, "a damaged credential", err, replica.ErrNotEdge)
}

func TestARevokedEdgeIsCutOff(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e, id := h.join(everything()), h.join(everything()).Status().Edge
	ended := make(chan error, 1)
	go func() { ended <- e.Follow(context.Background()) }()
	awaitConnected(t, h, e)
	mine := e.Status().Edge
	must(t, h.Revoke(t.Context(), mine))
	wantErr(t, "Follow", <-ended, replica.ErrRevoked)
	wantErr(t, "Sync", e.Sync(t.Context()), replica.ErrRevoked)
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	wantLogin(t, "what the edge has", e.Store(), token, nil)
	edges := get[[]replica.EdgeInfo](t)(h.Edges(t.Context()))
	if len(edges) != 2 || edges[0].Name != "till" || edges[1].Name != "till" {
		t.Fatalf("the hub has the edges %+v", edges)
	}
	for _, edge := range edges {
		if edge.Revoked != (edge.ID == mine) {
			t.Errorf("the hub has the edge %+v", edge)
		}
	}
	h.restart()
	edges = get[[]replica.EdgeInfo](t)(h.Edges(t.Context()))
	if len(edges) != 2 || !edges[0].Revoked && !edges[1].Revoked {
		t.Errorf("after a restart the hub has the edges %+v", edges)
	}
	wantErr(t, "a key that is no edge", h.Revoke(t.Context(), key.ID), replica.ErrEdgeNotFound)
	must(t, h.store.DeleteKey(t.Context(), latchkey.ServerOwner, id))
	must(t, h.Revoke(t.Context(), id))

	must(t, e.Close())
	e.join(h.url, h.invite(everything()))
	wantLogin(t, "after joining again", e.Store(), token, latchkey.ErrKeyDisabled)
}

func TestAnEdgeWhoseKeyIsDisabledLosesItsStream(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	ended := make(chan error, 1)
	go func() { ended <- e.Follow(context.Background()) }()
	awaitConnected(t, h, e)
	// Not by the hub:
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, e.Status().Edge))
	wantErr(t, "Follow", <-ended, replica.ErrRevoked)
}

func TestAnEdgeOfAnotherDomainIsRefused(t *testing.T) {
	h, other := newHub(t, nil), newHub(t, nil)
	e := h.join(everything())
	must(t, e.Close())
	_, err := replica.Join(t.Context(), other.url, other.invite(everything()), e.path, &e.options)
	wantErr(t, "Join", err, replica.ErrNotEdge)
	e.open()
	e.sync()
	must(t, e.Close())
	e.options.Store.Domain = other.store.DomainSecrets()
	_, err = replica.Join(t.Context(), h.url, h.invite(everything()), newEdge(t).path, &e.options)
	wantErr(t, "Join with the secrets of another domain", err, latchkey.ErrInvalidOptions)
}

func TestAnEdgeExchangesItsKeyByItself(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	issued := e.Status().KeyIssued
	h.clock.Add(89 * 24 * time.Hour)
	e.sync()
	if got := e.Status().KeyIssued; !got.Equal(issued) {
		t.Errorf("after 89 days the key is of %s, and was of %s", got, issued)
	}
	h.clock.Add(2 * 24 * time.Hour)
	e.sync()
	if got := e.Status().KeyIssued; !got.After(issued) {
		t.Errorf("after 91 days the key is of %s", got)
	}
	e.sync()
	e.reopen()
	h.clock.Add(149 * 24 * time.Hour) // the key has expired
	e.sync()
	h.clock.Add(151 * 24 * time.Hour)
	wantErr(t, "after the time in which a key can be exchanged", e.Sync(t.Context()), replica.ErrRevoked)

	other := h.join(everything())
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, other.Status().Edge))
	h.clock.Add(130 * 24 * time.Hour)
	wantErr(t, "an expired key that is disabled", other.Sync(t.Context()), replica.ErrRevoked)
}

func TestAnAnswerToAnExchangeCanBeLost(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	h.stop()
	lose := 2
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lose > 0 && strings.HasSuffix(r.URL.Path, "/renew") {
			lose--
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	h.clock.Add(130 * 24 * time.Hour)
	if e.Sync(t.Context()) == nil {
		t.Fatal("synced with an expired key")
	}
	e.sync() // with the old token, while the second answer gets lost
	if got := e.Status().KeyIssued; got.Before(h.clock.Now().Add(-time.Hour)) {
		t.Errorf("the key is of %s", got)
	}
	e.sync()
}
