package replica_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/replica"
)

// connections counts the open connections of a server.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]bool
	change chan struct{}
}

func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.open[conn] = true
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
	select {
	case c.change <- struct{}{}:
	default:
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// awaitNone waits until no connection is open.
func (c *connections) awaitNone(t testing.TB) {
	t.Helper()
	for c.count() > 0 {
		select {
		case <-c.change:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func TestSyncLeavesNoConnectionOpen(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	c := &connections{open: map[net.Conn]bool{}, change: make(chan struct{}, 1)}
	h.stop()
	h.server.Config.ConnState = nil
	h.listenWith(c)
	for range 3 {
		e.sync()
		c.awaitNone(t)
	}
	must(t, e.Close())
}

// listenWith serves the hub, and counts the connections.
func (h *hub) listenWith(c *connections) {
	h.t.Helper()
	l := get[net.Listener](h.t)(net.Listen("tcp", h.url[len("https://"):]))
	server := &http.Server{Handler: h.Hub, ConnState: c.note, TLSConfig: &tls.Config{Certificates: []tls.Certificate{h.certificate}}}
	go func() { _ = server.ServeTLS(l, "", "") }()
	h.t.Cleanup(func() { _ = server.Close() })
}

func TestClosingTheStoreOfTheHubEndsItsStreams(t *testing.T) {
	h := newHub(t, nil)
	c := &connections{open: map[net.Conn]bool{}, change: make(chan struct{}, 1)}
	e := h.join(everything())
	h.stop()
	h.listenWith(c)
	stop := e.follow()
	awaitConnected(t, h, e)
	must(t, h.store.Close())
	poll(t, "the stream has ended", func() bool { return !e.Status().Connected })
	wantErr(t, "Follow", stop(), context.Canceled)
}

// awaitConnected waits until the hub lists an edge as one that follows.
func awaitConnected(t testing.TB, h *hub, e *edge) {
	t.Helper()
	poll(t, "the edge follows", func() bool {
		for _, info := range get[[]replica.EdgeInfo](t)(h.Edges(t.Context())) {
			if info.ID == e.Status().Edge && info.Connected {
				return e.Status().Connected
			}
		}
		return false
	})
}

// poll waits until done returns true, for what nothing tells of.
func poll(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticks := time.NewTicker(time.Millisecond)
	defer ticks.Stop()
	end := time.After(time.Minute)
	for !done() {
		select {
		case <-ticks.C:
		case <-end:
			t.Fatalf("waiting until %s", what)
		}
	}
}

func TestAnEdgeFollowsAHubThatWasRestarted(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	e.follow()
	awaitConnected(t, h, e)
	h.restart()
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	await(t, e.Store(), "the key is disabled", func() bool {
		_, err := e.Store().Login(t.Context(), token)
		return errors.Is(err, latchkey.ErrKeyDisabled)
	})
}

func TestAnEdgeThatIsCutOffGoesOnAfterARestart(t *testing.T) {
	h := newHub(t, nil)
	_, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	h.stop()
	e.reopen()
	wantLogin(t, "without a network", e.Store(), token, nil)
	if err := e.Sync(t.Context()); err == nil || e.Status().Err == "" {
		t.Errorf("Sync without a network: %v, %+v", err, e.Status())
	}
	must(t, e.Close())
	must(t, e.Close())
	wantErr(t, "Sync after Close", e.Sync(t.Context()), latchkey.ErrClosed)
	wantErr(t, "Follow after Close", e.Follow(t.Context()), latchkey.ErrClosed)
	if s := e.Status(); s.Connected || s.HubURL != h.url {
		t.Errorf("the status after Close: %+v", s)
	}
}

func TestCloseEndsFollow(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	ended := make(chan error, 1)
	go func() { ended <- e.Follow(context.Background()) }()
	awaitConnected(t, h, e)
	wantErr(t, "Sync beside Follow", e.Sync(t.Context()), replica.ErrFollowing)
	wantErr(t, "another Follow", e.Follow(t.Context()), replica.ErrFollowing)
	must(t, e.Close())
	wantErr(t, "Follow", <-ended, latchkey.ErrClosed)
}

// backup returns a backup of the hub.
func (h *hub) backup() []byte {
	h.t.Helper()
	var b bytes.Buffer
	must(h.t, h.store.Backup(h.t.Context(), &b))
	return b.Bytes()
}

// restore puts a backup in the place of the hub's store.
func (h *hub) restore(backup []byte) {
	h.t.Helper()
	h.close()
	h.path = filepath.Join(h.t.TempDir(), "hub.db")
	must(h.t, latchkey.Restore(h.t.Context(), bytes.NewReader(backup), h.path))
	h.open()
}

func TestARestoredHubGetsItsRevocationsBack(t *testing.T) {
	h := newHub(t, nil)
	disabled, disabledToken := addKey(t, h.store, "disabled", "")
	deleted, deletedToken := addKey(t, h.store, "deleted", "")
	_, good := addKey(t, h.store, "good", "")
	e := h.join(everything())
	backup := h.backup()
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, disabled.ID))
	must(t, h.store.DeleteKey(t.Context(), latchkey.ServerOwner, deleted.ID))
	e.sync()
	h.restore(backup)
	wantLogin(t, "right after the restore", h.store, disabledToken, nil)
	e.sync()
	e.sync()
	for _, s := range []*latchkey.Store{h.store, e.Store()} {
		wantLogin(t, "the disabled key", s, disabledToken, latchkey.ErrKeyDisabled)
		wantLogin(t, "the deleted key", s, deletedToken, latchkey.ErrInvalidToken)
		wantLogin(t, "the good key", s, good, nil)
	}
}

func TestARestoredHubKnowsTheFormerKeyOfAnEdge(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	backup := h.backup()
	h.clock.Add(100 * 24 * time.Hour)
	e.sync()
	e.sync() // with the new key, so that the hub ends the old one
	h.restore(backup)
	e.sync()
	e.sync()
}

func TestAnEdgeThatARestoredHubDoesNotKnowJoinsAgain(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	_ = h.join(everything()).Close() // so that the hub has its secret before the backup
	backup := h.backup()
	e := h.join(everything())
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	e.sync()
	h.restore(backup)
	wantErr(t, "Sync", e.Sync(t.Context()), replica.ErrUnknownEdge)
	wantErr(t, "Follow", e.Follow(t.Context()), replica.ErrUnknownEdge)
	wantLogin(t, "at the edge all the same", e.Store(), token, latchkey.ErrKeyDisabled)
	must(t, e.Close())
	e.join(h.url, h.invite(everything()))
	e.sync()
	wantLogin(t, "what the edge brings", h.store, token, latchkey.ErrKeyDisabled)
}

func TestTwoDevicesWithOneCredentialAreSeen(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	must(t, e.Close())
	copied := newEdge(t)
	for _, suffix := range []string{"", ".edge"} {
		must(t, os.WriteFile(copied.path+suffix, get[[]byte](t)(os.ReadFile(e.path+suffix)), 0o600))
	}
	e.open()
	e.follow()
	awaitConnected(t, h, e)
	copied.open()
	copied.follow()
	poll(t, "the hub has seen it", func() bool { return get[[]replica.EdgeInfo](t)(h.Edges(t.Context()))[0].Cloned })
	wantErr(t, "Health of the hub", h.store.Health(t.Context()), replica.ErrCloned)
	poll(t, "one of them has heard it", func() bool { return e.Status().Cloned || copied.Status().Cloned })
	wasFirst, wasSecond := e.Store().ReplicaID(), copied.Store().ReplicaID()
	e.reopen()
	copied.reopen()
	if e.Store().ReplicaID() == copied.Store().ReplicaID() {
		t.Errorf("both have the replica ID %s; they had %s and %s", e.Store().ReplicaID(), wasFirst, wasSecond)
	}
}

func TestARestartIsNoClone(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(everything())
	// The stream of the device that lost its power is still open at the hub.
	r := h.stream(e, replica.Hello(e.Edge))
	defer r.Close()
	must(t, e.Close())
	e.open()
	e.follow()
	poll(t, "the edge follows", func() bool { return e.Status().Connected })
	if edges := get[[]replica.EdgeInfo](t)(h.Edges(t.Context())); edges[0].Cloned {
		t.Error("the hub takes a restart for a clone")
	}
}

// stream opens a stream as the edge would, and returns its body.
func (h *hub) stream(e *edge, hello replication.Hello) io.ReadCloser {
	h.t.Helper()
	r := get[*http.Request](h.t)(http.NewRequest("POST", h.url+"/latchkey/v1/pull", bytes.NewReader(hello.Encode())))
	r.Header.Set("Authorization", "Bearer "+replica.Token(e.Edge))
	r.Header.Set("Content-Type", "application/vnd.latchkey.replication")
	w := get[*http.Response](h.t)(h.server.Client().Do(r))
	if w.StatusCode != http.StatusOK {
		h.t.Fatal(w.Status)
	}
	return w.Body
}

func TestAnEdgeThatDoesNotReadHoldsUpNobody(t *testing.T) {
	h := newHub(t, nil)
	var keys []latchkey.Key
	for i := range 200 {
		key, _, err := h.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint("key ", i), Metadata: map[string]string{"text": strings.Repeat("x", 4000)}})
		must(t, err)
		keys = append(keys, key)
	}
	slow, e := h.join(everything()), h.join(everything())
	hello := replica.Hello(slow.Edge)
	hello.Cursor = replication.Cursor{}
	r := h.stream(slow, hello) // a first copy of a megabyte, which nobody reads
	defer r.Close()
	e.follow()
	for _, key := range keys {
		must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	}
	last := keys[len(keys)-1].ID
	await(t, e.Store(), "the last revocation has come", func() bool {
		k, err := e.Store().KeyByID(t.Context(), last)
		return err == nil && k.Disabled
	})
	must(t, h.store.Close())
}

func TestTheHubAnnouncesItsNextKey(t *testing.T) {
	next := newCertificate(t)
	h := newHub(t, func(h *hub) { h.options.NextCertificate = next.Leaf })
	_, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	late := newEdge(t)
	old := h.invite(everything())
	h.certificate, h.options.Certificate, h.options.NextCertificate = next, next.Leaf, nil
	h.restart()
	e.sync()
	e.reopen()
	e.sync()
	_, err := replica.Join(t.Context(), h.url, old, late.path, &late.options)
	wantErr(t, "an invitation with the old key", err, replica.ErrWrongHub)
	wantLogin(t, "an invitation with the new key", h.join(everything()).Store(), token, nil)
}

func TestAnEdgeHasTheTimeOfItsHub(t *testing.T) {
	h := newHub(t, nil)
	h.clock.Add(5 * 365 * 24 * time.Hour)
	key, token, err := h.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "short", Expires: h.clock.Now().Add(time.Hour)})
	must(t, err)
	e := newEdge(t)
	e.options.Store.Now = newTestClock().Now // which is years behind
	e.join(h.url, h.invite(everything()))
	wantLogin(t, "before the key expires", e.Store(), token, nil)
	h.clock.Add(2 * time.Hour)
	e.sync()
	wantLogin(t, "after that", e.Store(), token, latchkey.ErrKeyExpired)
	h.clock.Add(-2 * time.Hour)
	must(t, h.store.ResetClock(t.Context()))
	e.sync()
	wantLogin(t, "when the time was reset", e.Store(), token, nil)
	_ = key
}

func TestAFirstCopyTellsItsProgress(t *testing.T) {
	h := newHub(t, nil)
	for i := range 300 {
		addKey(t, h.store, fmt.Sprint("key ", i), "")
	}
	e := newEdge(t)
	var last replica.Progress
	e.options.Progress = func(p replica.Progress) { last = p }
	e.join(h.url, h.invite(everything()))
	if last.Entries < 600 || last.Bytes == 0 || last.Table == "" { // a key and its name each
		t.Errorf("the last progress was %+v", last)
	}
}

func TestTheDigestsOfEqualEdgesAreEqual(t *testing.T) {
	h := newHub(t, nil)
	addKey(t, h.store, "n", "north")
	key, _ := addKey(t, h.store, "s", "south")
	first, second, other := h.join(policy(0, "*")), h.join(policy(0, "*")), h.join(policy(0, "north"))
	digest := func(e *edge) [16]byte { return get[[16]byte](t)(e.Digest(t.Context())) }
	if digest(first) != digest(second) || digest(first) == digest(other) {
		t.Error("the digests after joining are wrong")
	}
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	first.sync()
	if digest(first) == digest(second) {
		t.Error("the digests agree, although the edges do not")
	}
	second.sync()
	if digest(first) != digest(second) {
		t.Error("the digests differ, although the edges agree")
	}
}
