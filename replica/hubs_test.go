package replica_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/replica"
)

// hubs are two hubs of one store, as two processes have them, behind one address. Requests go to
// one and the other in turn.
type hubs struct {
	*hub // the address, and the first of them
	all  []*hub
	turn atomic.Int64
}

func newHubs(t *testing.T) *hubs {
	t.Helper()
	one := &hub{t: t, certificate: newCertificate(t), clock: newTestClock()}
	one.options.Certificate = one.certificate.Leaf
	two := &hub{t: t, options: one.options, clock: one.clock}
	engine := memory.NewShared()
	for h, engine := range map[*hub]latchkey.Engine{one: engine, two: engine.Open()} {
		h.store = get[*latchkey.Store](t)(latchkey.OpenWith(engine, &latchkey.Options{Cost: latchkey.LightCost, Now: one.clock.Now}))
		h.Hub = replica.NewHub(h.store, &h.options)
		t.Cleanup(func() { _ = h.store.Close() })
	}
	h := &hubs{hub: one, all: []*hub{one, two}}
	h.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.all[h.turn.Add(1)%2].ServeHTTP(w, r)
	}))
	t.Cleanup(h.stop)
	return h
}

func TestAnEdgeCanAskAnyOfSeveralHubs(t *testing.T) {
	h := newHubs(t)
	first, second := h.all[0], h.all[1]
	key, token := addKey(t, first.store, "laptop", "north")
	e := newEdge(t)
	e.join(h.url, first.invite(policy(replica.PushRevocations, "north")))
	wantLogin(t, "after joining", e.Store(), token, nil)
	stop := e.follow()

	// The stream comes from another hub than the last one, or from the same. Pushes and changes go
	// to any.
	for round := range 8 {
		poll(t, "the edge follows", func() bool { return e.Status().Connected })
		at := h.all[round%2]
		key, token := addKey(t, at.store, fmt.Sprint("key ", round), "north")
		await(t, e.Store(), "the key has come", func() bool { _, err := e.Store().KeyByID(t.Context(), key.ID); return err == nil })
		wantLogin(t, "at the edge", e.Store(), token, nil)
		if round%3 == 0 {
			must(t, e.Store().DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
		} else {
			must(t, h.all[1-round%2].store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
		}
		for _, s := range []*latchkey.Store{e.Store(), first.store, second.store} {
			await(t, s, "the key is disabled", func() bool { k, err := s.KeyByID(t.Context(), key.ID); return err == nil && k.Disabled })
			wantLogin(t, "everywhere", s, token, latchkey.ErrKeyDisabled)
		}
		must(t, unlessCanceled(stop()))
		h.turn.Add(int64(round / 4))
		stop = e.follow()
	}
	poll(t, "the edge follows", func() bool { return e.Status().Connected })
	for _, at := range h.all {
		poll(t, "every hub knows", func() bool {
			edges := get[[]replica.EdgeInfo](t)(at.Edges(t.Context()))
			return len(edges) == 1 && edges[0].Connected && get[replica.HubStatus](t)(at.Status(t.Context())).Streams == 1
		})
		if edge := get[[]replica.EdgeInfo](t)(at.Edges(t.Context()))[0]; edge.Cloned || !edge.Compared.IsZero() || edge.Refused != "" {
			t.Errorf("a hub lists %+v; want an edge that was not cloned, has compared nothing, and was not refused", edge)
		}
	}

	must(t, first.SetPolicy(t.Context(), e.Status().Edge, policy(replica.PushNothing, "south")))
	await(t, e.Store(), "the edge has lost its group", func() bool {
		_, err := e.Store().KeyByID(t.Context(), key.ID)
		return errors.Is(err, latchkey.ErrKeyNotFound)
	})
	must(t, second.Revoke(t.Context(), e.Status().Edge))
	poll(t, "the edge is cut off", func() bool { return !e.Status().Connected })
	_ = stop()
	wantErr(t, "Sync", e.Sync(t.Context()), replica.ErrRevoked)
	for _, at := range h.all {
		if edges := get[[]replica.EdgeInfo](t)(at.Edges(t.Context())); len(edges) != 1 || !edges[0].Revoked {
			t.Errorf("a hub lists %+v", edges)
		}
	}
}

func unlessCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func TestAnInvitationOfOneHubIsUsedOnceAtAny(t *testing.T) {
	for round := range 4 {
		h := newHubs(t)
		h.turn.Add(int64(round % 2))
		invitation := h.all[round/2].invite(everything())
		errs := make(chan error, 2)
		for range 2 {
			e := newEdge(t)
			go func() {
				joined, err := replica.Join(t.Context(), h.url, invitation, e.path, &e.options)
				if err == nil {
					err = joined.Close()
				}
				errs <- err
			}()
		}
		one, other := <-errs, <-errs
		if (one == nil) == (other == nil) || !errors.Is(errors.Join(one, other), replica.ErrInvitation) {
			t.Errorf("two edges with one invitation got %v and %v, want one to join", one, other)
		}
		for range 2 {
			_, err := replica.Join(t.Context(), h.url, invitation, filepath.Join(t.TempDir(), "edge.db"), nil)
			wantErr(t, "the invitation once more", err, replica.ErrInvitation)
		}
		for _, at := range h.all {
			if n := get[replica.HubStatus](t)(at.Status(t.Context())); n.Edges != 1 || n.Invitations != 0 {
				t.Errorf("a hub tells %+v", n)
			}
		}
	}
}

func TestAKeyWhoseNewTokenWasLostIsRenewedByTheSameHub(t *testing.T) {
	h := newHubs(t)
	e := h.join(everything())
	old := replica.Token(e.Edge)
	renew := func(at int, want int) (renewed string) {
		t.Helper()
		h.turn.Store(int64(at) - 1)
		r := get[*http.Request](t)(http.NewRequest("POST", h.url+"/latchkey/v1/renew", bytes.NewReader(nil)))
		r.Header.Set("Authorization", "Bearer "+old)
		w := get[*http.Response](t)(h.server.Client().Do(r))
		defer w.Body.Close()
		var answer struct{ Token string }
		must(t, json.NewDecoder(w.Body).Decode(&answer))
		if w.StatusCode != want {
			t.Fatalf("a renewal at hub %d: %s, want %d", at, w.Status, want)
		}
		return answer.Token
	}
	renewed := renew(0, http.StatusOK) // the answer is lost
	renew(1, http.StatusServiceUnavailable)
	if again := renew(0, http.StatusOK); again != renewed {
		t.Error("the hub makes another token")
	}
	for _, at := range h.all {
		wantLogin(t, "the old token", at.store, old, nil)
	}
	h.clock.Add(11 * time.Minute) // the other process has died
	last := renew(1, http.StatusOK)
	wantLogin(t, "the new token", h.all[0].store, last, nil)
	wantLogin(t, "the old token after that", h.all[1].store, old, latchkey.ErrInvalidToken)
}
