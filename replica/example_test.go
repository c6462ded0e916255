package replica_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

// A shop has a hub, and a till that checks tokens alone. The hub and the till are on one machine
// here, so the example needs no TLS. Between machines, the server has a certificate, and
// HubOptions.Certificate tells the hub which one.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	store, err := latchkey.Open(filepath.Join(dir, "hub.db"), &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	hub := replica.NewHub(store, nil)
	server := httptest.NewServer(hub)
	defer server.Close()
	key, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "scanner", Group: "shop-17"})
	if err != nil {
		log.Fatal(err)
	}
	invitation, err := hub.Invite(ctx, replica.Policy{Groups: []string{"shop-17"}})
	if err != nil {
		log.Fatal(err)
	}

	till, err := replica.Join(ctx, server.URL, invitation, filepath.Join(dir, "till.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer till.Close()
	who, err := till.Store().Login(ctx, token)
	fmt.Println(who.KeyName, err)

	if err := store.DisableKey(ctx, latchkey.ServerOwner, key.ID); err != nil {
		log.Fatal(err)
	}
	if err := till.Sync(ctx); err != nil { // a program that runs all day calls Follow
		log.Fatal(err)
	}
	_, err = till.Store().Login(ctx, token)
	fmt.Println(errors.Is(err, latchkey.ErrKeyDisabled))

	// Output:
	// scanner <nil>
	// true
}

// A hub is a handler, so it can stand beside others.
func ExampleNewHub() {
	store, err := latchkey.Open("keys.db", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	hub := replica.NewHub(store, nil)

	mux := http.NewServeMux()
	mux.Handle("/latchkey/v1/", hub)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := store.Health(r.Context()); err != nil { // has the findings of the hub, too
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServeTLS(":7443", "hub.crt", "hub.key", mux))
}

// An edge joins at the first start, and is opened at every later one.
func ExampleJoin() {
	ctx := context.Background()
	options := &replica.Options{Name: "till 3", Staleness: replica.BestEffort()}
	edge, err := replica.Open("till.db", options)
	if errors.Is(err, replica.ErrNotEdge) {
		edge, err = replica.Join(ctx, os.Getenv("HUB"), os.Getenv("INVITATION"), "till.db", options)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer edge.Close()
	go func() {
		err := edge.Follow(ctx)
		if errors.Is(err, replica.ErrRevoked) {
			log.Print("an administrator of the hub has cut this till off")
		}
	}()
}

// A program can be stricter for one operation than its edge is for the others.
func ExampleEdge_Status() {
	var edge *replica.Edge // from Join or Open
	refund := func(ctx context.Context, token string) error {
		if age := edge.Status().Age; age > 3*time.Minute { // the hub speaks every 30 seconds
			return fmt.Errorf("no refunds now, because the hub was last heard of %s ago", age)
		}
		_, err := edge.Store().Login(ctx, token)
		return err
	}
	_ = refund
}

// When this returns no error and both numbers are equal, no edge accepts the key any more.
func ExampleHub_Confirmed() {
	revoke := func(ctx context.Context, store *latchkey.Store, hub *replica.Hub, key latchkey.Key) (have, all int, err error) {
		if err := store.DisableKey(ctx, key.Owner, key.ID); err != nil {
			return 0, 0, err
		}
		var sequence uint64
		err = store.View(ctx, func(tx *latchkey.Tx) error { sequence = tx.Sequence(); return nil })
		if err != nil {
			return 0, 0, err
		}
		return hub.Confirmed(ctx, sequence)
	}
	_ = revoke
}
