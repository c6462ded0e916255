package replica_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

// post sends a request to a hub as an edge might, and returns the status and the body.
func (h *hub) post(path, token, contentType string, body []byte) (status int, answer string) {
	h.t.Helper()
	r := get[*http.Request](h.t)(http.NewRequestWithContext(h.t.Context(), "POST", h.url+path, bytes.NewReader(body)))
	r.Header.Set("Content-Type", contentType)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := get[*http.Response](h.t)(h.server.Client().Do(r))
	defer w.Body.Close()
	b := get[[]byte](h.t)(io.ReadAll(w.Body))
	return w.StatusCode, string(b)
}

// edgeKey makes a key as an edge has it, for requests that no edge sends.
func (h *hub) edgeKey() string {
	h.t.Helper()
	_, token, err := h.store.CreateServerKey(h.t.Context(), latchkey.KeySpec{Name: "hostile", Scopes: latchkey.NewScopes(replica.Scope)})
	must(h.t, err)
	return token
}

func TestAHubRefusesWhatNoEdgeSends(t *testing.T) {
	h := newHub(t, nil)
	const messages = "application/vnd.latchkey.replication"
	token := h.edgeKey()
	_, unscoped, err := h.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "other", Scopes: latchkey.NewScopes("*")})
	must(t, err)
	garbage := bytes.Repeat([]byte{0xff, 0x01, 'x'}, 100)
	for _, tt := range []struct {
		name, path, token, contentType string
		body                           []byte
		want                           int
	}{
		{"no token", "/latchkey/v1/pull", "", messages, nil, 401},
		{"a forged token", "/latchkey/v1/pull", token[:len(token)-1] + "A", messages, nil, 401},
		{"a key without the scope", "/latchkey/v1/pull", unscoped, messages, nil, 401},
		{"another path", "/latchkey/v1/other", token, messages, nil, 404},
		{"an invitation that is none", "/latchkey/v1/join", "", "application/json", []byte("{}"), 400},
		{"an invitation in another form", "/latchkey/v1/join", "", "text/plain", []byte("{}"), 400},
		{"a long invitation", "/latchkey/v1/join", "", "application/json", make([]byte, 5<<10), 400},
		{"an empty hello", "/latchkey/v1/pull", token, messages, nil, 400},
		{"a garbled hello", "/latchkey/v1/pull", token, messages, garbage, 400},
		{"a long hello", "/latchkey/v1/pull", token, messages, make([]byte, 65<<10), 400},
		{"a garbled push", "/latchkey/v1/push", token, messages, garbage, 400},
		{"a long push", "/latchkey/v1/push", token, messages, make([]byte, 5<<20), 400},
		{"a garbled comparison", "/latchkey/v1/compare", token, messages, garbage, 400},
	} {
		if status, answer := h.post(tt.path, tt.token, tt.contentType, tt.body); status != tt.want || !strings.Contains(answer, `"code"`) {
			t.Errorf("%s: %d, %s; want %d", tt.name, status, answer, tt.want)
		}
	}
	w := get[*http.Response](t)(h.server.Client().Get(h.url + "/latchkey/v1/pull"))
	_ = w.Body.Close()
	if w.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.StatusCode)
	}
	h.join(everything()).sync()
}

// impostor puts a handler in the place of the hub's streams.
func (h *hub) impostor(pull http.HandlerFunc) {
	h.t.Helper()
	h.stop()
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/pull") {
			pull(w, r)
			return
		}
		h.ServeHTTP(w, r)
	}))
}

func TestAnEdgeStandsAHubThatSendsGarbage(t *testing.T) {
	h := newHub(t, nil)
	_, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	for name, pull := range map[string]http.HandlerFunc{
		"garbage":        func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(bytes.Repeat([]byte{0xff}, 1000)) },
		"a huge message": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(binary.AppendUvarint(nil, 1<<40)) },
		"no beginning":   func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte{1, 6}) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusTemporaryRedirect)
		},
		"a page": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) },
		"no compression": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "this is no gzip")
		},
		"nothing": func(w http.ResponseWriter, r *http.Request) {},
	} {
		h.impostor(pull)
		wantErr(t, name, e.Sync(t.Context()), replica.ErrHub)
		wantLogin(t, name, e.Store(), token, nil)
	}
	h.impostor(func(w http.ResponseWriter, r *http.Request) {
		for { // messages of a kind that an edge skips, without an end
			if _, err := w.Write([]byte{3, 100, 0, 0}); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantErr(t, "messages without an end", e.Sync(ctx), context.DeadlineExceeded)
	h.impostor(h.ServeHTTP)
	e.sync()
}

// inBubble runs fn in a bubble of synctest, with an edge that reaches the handler over pipes, and
// without TLS. The edge has joined before.
func inBubble(t *testing.T, options replica.Options, handler func(h *hub) http.Handler, fn func(t *testing.T, h *hub, e *edge)) {
	h := newHub(t, func(h *hub) { h.options.Certificate = nil })
	e := newEdge(t)
	e.options.Store.Now = h.clock.Now
	plain := http.Server{Handler: h}
	l := get[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = plain.Serve(l) }()
	e.join("http://"+l.Addr().String(), h.invite(everything()))
	must(t, e.Close())
	must(t, plain.Close())
	must(t, h.store.Close())
	e.options.Staleness = options.Staleness
	synctest.Test(t, func(t *testing.T) {
		clock := newTestClock() // the time of a bubble is before the release of the library
		now := func() time.Time { return clock.Now().Add(time.Since(bubble)) }
		h.clock, e.clock = clock, newTestClock()
		e.options.Store.Now = func() time.Time { return e.clock.Now().Add(time.Since(bubble)) }
		e.options.Store.FileCheckEvery = -1
		h.store = get[*latchkey.Store](t)(latchkey.Open(h.path, &latchkey.Options{Cost: latchkey.LightCost, Now: now, FileCheckEvery: -1}))
		h.Hub = replica.NewHub(h.store, &h.options)
		pipes := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: handler(h)}
		go func() { _ = server.Serve(pipes) }()
		e.options.Dial(pipes.dial)
		e.t, h.t = t, t
		e.Edge = get[*replica.Edge](t)(replica.Open(e.path, &e.options))
		fn(t, h, e)
		must(t, e.Close())
		must(t, h.store.Close())
		must(t, server.Close())
	})
}

// bubble is when the time of a bubble begins.
var bubble = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// pipes are a listener and a dialer in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, errors.New("there is no hub")
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func TestAnEdgeLeavesAHubThatIsSilent(t *testing.T) {
	var streams atomic.Int32
	silent := func(h *hub) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/pull") {
				if streams.Add(1) == 1 {
					w.WriteHeader(http.StatusOK)
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
					return
				}
			}
			h.ServeHTTP(w, r)
		})
	}
	inBubble(t, replica.Options{}, silent, func(t *testing.T, _ *hub, e *edge) {
		stop := e.follow()
		time.Sleep(10 * time.Second)
		if streams.Load() != 1 || e.Status().Connected {
			t.Errorf("after 10 seconds: %d streams, %+v", streams.Load(), e.Status())
		}
		time.Sleep(4 * time.Minute)
		if streams.Load() != 2 || !e.Status().Connected {
			t.Errorf("after 4 minutes: %d streams, %+v", streams.Load(), e.Status())
		}
		_ = stop()
	})
}

func TestAStrictEdgeThatHearsNothingRefusesLogins(t *testing.T) {
	real := func(h *hub) http.Handler { return h }
	inBubble(t, replica.Options{Staleness: replica.Strict(90 * time.Second)}, real, func(t *testing.T, _ *hub, e *edge) {
		want := func(what string, stale bool) {
			t.Helper()
			_, err := e.Store().Login(t.Context(), "no token")
			if got := errors.Is(err, latchkey.ErrStale); got != stale || e.Status().Stale != stale {
				t.Errorf("%s: got %v, %+v; want stale %t", what, err, e.Status(), stale)
			}
		}
		want("at the start", false) // the edge has heard of the hub when it joined
		time.Sleep(time.Hour)
		want("an hour later", true)
		e.sync()
		want("after a sync", false)
		time.Sleep(89 * time.Second)
		want("89 seconds later", false)
		time.Sleep(4 * time.Second)
		want("93 seconds later", true)
		wantErr(t, "Health", e.Store().Health(t.Context()), latchkey.ErrStale)
		stop := e.follow()
		time.Sleep(time.Second)
		want("following", false)
		time.Sleep(time.Hour)
		want("following for an hour", false)
		must(t, e.Store().Health(t.Context()))
		_ = stop()
		must(t, e.Close())
		e.Edge = get[*replica.Edge](t)(replica.Open(e.path, &e.options))
		want("opened again at once", false)
		must(t, e.Close())
		time.Sleep(2 * time.Minute)
		e.Edge = get[*replica.Edge](t)(replica.Open(e.path, &e.options))
		want("opened again after 2 minutes", true)
		e.sync()
		must(t, e.Close())
		e.clock.Add(-time.Minute - 2*time.Second)
		e.Edge = get[*replica.Edge](t)(replica.Open(e.path, &e.options))
		want("opened again with a clock that is behind", true)
		time.Sleep(time.Hour)
		want("an hour after that", true)
		e.sync()
		want("after the hub has spoken", false)
		e.clock.Add(-time.Hour)
		time.Sleep(80 * time.Second)
		want("80 seconds later, with a clock that was set back", false)
		time.Sleep(20 * time.Second)
		want("100 seconds later", true)
		e.sync()
		e.clock.Add(2 * time.Minute) // as after a sleep of the device
		time.Sleep(2 * time.Second)
		want("after a sleep", true)
	})
}

func TestAnEdgeThatDoesItsBestGoesOn(t *testing.T) {
	real := func(h *hub) http.Handler { return h }
	inBubble(t, replica.Options{}, real, func(t *testing.T, _ *hub, e *edge) {
		time.Sleep(40 * time.Hour)
		_, err := e.Store().Login(t.Context(), "no token")
		wantErr(t, "a login", err, latchkey.ErrInvalidToken)
		wantErr(t, "Health", e.Store().Health(t.Context()), replica.ErrSilent)
	})
}
