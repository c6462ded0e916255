package replica_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

// must fails the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get is must for a call that returns something.
func get[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// newCertificate makes a certificate that no authority has signed.
func newCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key := get[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der := get[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	leaf := get[*x509.Certificate](t)(x509.ParseCertificate(der))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// A testClock is a clock that a test sets.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newTestClock() *testClock { return &testClock{now: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// A hub is a hub with its store, behind a server on loopback.
type hub struct {
	*replica.Hub
	t           testing.TB
	path        string
	store       *latchkey.Store
	server      *httptest.Server
	certificate tls.Certificate
	url         string
	options     replica.HubOptions
	clock       *testClock
}

// newHub starts a hub with TLS. change may be nil.
func newHub(t testing.TB, change func(*hub)) *hub {
	t.Helper()
	h := &hub{t: t, path: filepath.Join(t.TempDir(), "hub.db"), certificate: newCertificate(t), clock: newTestClock()}
	h.options.Certificate = h.certificate.Leaf
	if change != nil {
		change(h)
	}
	h.open()
	t.Cleanup(h.close)
	return h
}

func (h *hub) open() {
	h.t.Helper()
	h.store = get[*latchkey.Store](h.t)(latchkey.Open(h.path, &latchkey.Options{Cost: latchkey.LightCost, Now: h.clock.Now}))
	h.Hub = replica.NewHub(h.store, &h.options)
	h.serve(h.Hub)
}

// serve starts a server for a handler, at the address of the last one.
func (h *hub) serve(handler http.Handler) {
	h.t.Helper()
	h.server = httptest.NewUnstartedServer(handler)
	h.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if h.url != "" {
		_ = h.server.Listener.Close()
		h.server.Listener = get[net.Listener](h.t)(net.Listen("tcp", h.url[len("https://"):]))
	}
	h.server.TLS = &tls.Config{Certificates: []tls.Certificate{h.certificate}}
	h.server.StartTLS()
	h.url = h.server.URL
}

func (h *hub) close() {
	h.stop()
	_ = h.store.Close()
}

func (h *hub) stop() {
	h.server.CloseClientConnections()
	h.server.Close()
}

func (h *hub) restart() {
	h.t.Helper()
	h.close()
	h.open()
}

func everything() replica.Policy { return replica.Policy{Groups: []string{"*"}} }

func (h *hub) invite(p replica.Policy) string {
	h.t.Helper()
	return get[string](h.t)(h.Invite(h.t.Context(), p))
}

// An edge is an edge with its path.
type edge struct {
	*replica.Edge
	t       testing.TB
	path    string
	options replica.Options
	clock   *testClock // may be nil
}

func newEdge(t testing.TB) *edge {
	return &edge{t: t, path: filepath.Join(t.TempDir(), "edge.db"), options: replica.Options{Store: latchkey.Options{Cost: latchkey.LightCost}, Name: "till"}}
}

// join makes an edge that has joined.
func (h *hub) join(p replica.Policy) *edge {
	h.t.Helper()
	e := newEdge(h.t)
	e.join(h.url, h.invite(p))
	return e
}

func (e *edge) join(url, invitation string) {
	e.t.Helper()
	e.Edge = get[*replica.Edge](e.t)(replica.Join(e.t.Context(), url, invitation, e.path, &e.options))
	e.t.Cleanup(func() { _ = e.Edge.Close() })
}

func (e *edge) open() {
	e.t.Helper()
	e.Edge = get[*replica.Edge](e.t)(replica.Open(e.path, &e.options))
	e.t.Cleanup(func() { _ = e.Edge.Close() })
}

func (e *edge) reopen() {
	e.t.Helper()
	must(e.t, e.Close())
	e.open()
}

func (e *edge) sync() {
	e.t.Helper()
	must(e.t, e.Sync(e.t.Context()))
}

// follow follows the hub until the test ends, or until stop is called, which returns the error.
func (e *edge) follow() (stop func() error) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Follow(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	e.t.Cleanup(func() { _ = stop() })
	return stop
}

// await waits until a commit of a store makes done return true.
func await(t testing.TB, s *latchkey.Store, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		var seen uint64
		must(t, s.View(ctx, func(tx *latchkey.Tx) error { seen = tx.Sequence(); return nil }))
		if done() {
			return
		}
		if err := s.Wait(ctx, seen); err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

// addKey makes a server key in a group.
func addKey(t testing.TB, s *latchkey.Store, name, group string) (latchkey.Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name, Group: group})
	must(t, err)
	return key, token
}

func wantLogin(t testing.TB, what string, s *latchkey.Store, token string, want error) {
	t.Helper()
	if _, err := s.Login(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("%s: a login got %v, want %v", what, err, want)
	}
}
