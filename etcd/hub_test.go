package etcd_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/replica"
)

// Two processes are hubs of one store. Each serves an edge from its mirror.
func TestHubsServeTheirEdgesFromMirrors(t *testing.T) {
	ctx := t.Context()
	open := func() (*latchkey.Store, latchkey.Engine) {
		e := etcd.NewWith(client(t, node.address), t.Name(), mirrorAt(filepath.Join(t.TempDir(), "mirror.db")))
		s, err := latchkey.OpenWith(e, &latchkey.Options{Cost: latchkey.LightCost})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s, e
	}
	store, engine := open()
	other, otherEngine := open()
	key, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "scanner", Group: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []latchkey.Engine{engine, otherEngine} {
		until(t, "the mirror is read", func() bool { return etcd.ReadsMirror(e) })
	}
	var edges []*replica.Edge
	for _, s := range []*latchkey.Store{store, other} {
		hub := replica.NewHub(s, nil)
		server := httptest.NewServer(hub)
		t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
		invitation, err := hub.Invite(ctx, replica.Policy{Groups: []string{"shop"}})
		if err != nil {
			t.Fatal(err)
		}
		edge, err := replica.Join(ctx, server.URL, invitation, filepath.Join(t.TempDir(), "edge.db"), &replica.Options{Store: latchkey.Options{Cost: latchkey.LightCost}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { edge.Close() })
		if _, err := edge.Store().Login(ctx, token); err != nil {
			t.Errorf("a login at an edge that has joined: %v", err)
		}
		following, stop := context.WithCancel(context.Background())
		ended := result(func() error { return edge.Follow(following) })
		t.Cleanup(func() { stop(); <-ended })
		edges = append(edges, edge)
	}

	// An edge hears of a new key and of its revocation from either hub.
	late, lateToken, err := other.CreateServerKey(ctx, latchkey.KeySpec{Name: "late", Group: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	await := func(s *latchkey.Store, token string, want error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for {
			var seen uint64
			if err := s.View(ctx, func(tx *latchkey.Tx) error { seen = tx.Sequence(); return nil }); err != nil {
				t.Fatal(err)
			}
			_, got := s.Login(ctx, token)
			if errors.Is(got, want) {
				return
			}
			if err := s.Wait(ctx, seen); err != nil {
				t.Fatalf("a login at an edge got %v, want %v", got, want)
			}
		}
	}
	for _, edge := range edges {
		await(edge.Store(), lateToken, nil)
	}
	if err := store.DisableKey(ctx, latchkey.ServerOwner, late.ID); err != nil {
		t.Fatal(err)
	}
	if err := other.DisableKey(ctx, latchkey.ServerOwner, key.ID); err != nil {
		t.Fatal(err)
	}
	for _, edge := range edges {
		await(edge.Store(), lateToken, latchkey.ErrKeyDisabled)
		await(edge.Store(), token, latchkey.ErrKeyDisabled)
	}
	for _, e := range []latchkey.Engine{engine, otherEngine} {
		until(t, "the mirror is still read", func() bool { return etcd.ReadsMirror(e) })
	}
}
