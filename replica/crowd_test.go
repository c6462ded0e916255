package replica_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/replica"
)

// message returns a request of an edge.
func message(path, token string, body io.Reader) *http.Request {
	r := httptest.NewRequest("POST", path, body)
	r.Header.Set("Content-Type", "application/vnd.latchkey.replication")
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func firstHello() io.Reader {
	return bytes.NewReader((&replication.Hello{Formats: []uint64{replication.Format}, Instance: uuid.New(), Replica: uuid.New()}).Encode())
}

// A plug blocks a reader or a writer until it is released.
type plug struct {
	http.ResponseWriter
	reached, released chan struct{}
	once              sync.Once
}

func newPlug() *plug {
	return &plug{ResponseWriter: httptest.NewRecorder(), reached: make(chan struct{}), released: make(chan struct{})}
}

func (p *plug) wait() {
	p.once.Do(func() { close(p.reached) })
	<-p.released
}

func (p *plug) Read([]byte) (int, error)    { p.wait(); return 0, io.EOF }
func (p *plug) Write(b []byte) (int, error) { p.wait(); return len(b), nil }
func (p *plug) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func TestOneEdgeDoesNotTakeThePlacesOfAll(t *testing.T) {
	h := newHub(t, nil)
	e, other := h.join(everything()), h.join(everything())
	token := replica.Token(e.Edge)
	for _, path := range []string{"/latchkey/v1/push", "/latchkey/v1/pull"} {
		var served sync.WaitGroup
		var plugs []*plug
		for range 3 {
			p := newPlug()
			plugs = append(plugs, p)
			var w http.ResponseWriter = httptest.NewRecorder()
			body := io.Reader(p)
			if path == "/latchkey/v1/pull" {
				w, body = p, firstHello()
			}
			served.Go(func() {
				defer func() { _ = recover() }() // the hub has replaced the stream
				h.ServeHTTP(w, message(path, token, body))
			})
			<-p.reached
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, message(path, token, firstHello()))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: one more request of the edge got %d: %s", path, w.Code, w.Body)
		}
		other.sync()
		for _, p := range plugs {
			close(p.released)
		}
		served.Wait()
	}
	e.sync()
}

// A cutter does something when the first bytes are written.
type cutter struct {
	*httptest.ResponseRecorder
	once sync.Once
	do   func()
}

func (c *cutter) Write(b []byte) (int, error) { c.once.Do(c.do); return c.ResponseRecorder.Write(b) }

func TestAFirstCopyEndsWhenTheKeyIsDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newTestClock() // the time of a bubble is before the release of the library
		now := func() time.Time { return clock.Now().Add(time.Since(bubble)) }
		s := get[*latchkey.Store](t)(latchkey.Open(filepath.Join(t.TempDir(), "hub.db"), &latchkey.Options{Cost: latchkey.LightCost, Now: now, FileCheckEvery: -1}))
		defer s.Close()
		h := replica.NewHub(s, nil)
		addKey(t, s, "secret", "")
		invitation := get[string](t)(h.Invite(t.Context(), everything()))
		secret := get[[]byte](t)(base64.RawURLEncoding.DecodeString(invitation[len("lkinvite1_"):]))[:32]
		body := get[[]byte](t)(json.Marshal(map[string]any{"secret": secret, "nonce": make([]byte, 32), "name": "till"}))
		join := httptest.NewRequest("POST", "/latchkey/v1/join", bytes.NewReader(body))
		join.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, join)
		var joined struct {
			Edge  uuid.UUID
			Token string
		}
		must(t, json.Unmarshal(w.Body.Bytes(), &joined))
		c := &cutter{ResponseRecorder: httptest.NewRecorder(), do: func() {
			must(t, s.DisableKey(t.Context(), latchkey.ServerOwner, joined.Edge))
			time.Sleep(time.Second) // of the bubble: the hub has seen it
		}}
		func() {
			defer func() { _ = recover() }() // http.ErrAbortHandler
			h.ServeHTTP(c, message("/latchkey/v1/pull", joined.Token, firstHello()))
		}()
		if bytes.Contains(c.Body.Bytes(), []byte("secret")) {
			t.Error("the edge got keys after its own was disabled")
		}
		must(t, s.Close())
		synctest.Wait()
	})
}
