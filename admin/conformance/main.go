// Command conformance serves the API over a store in a directory, with users, keys and an audit
// trail, so that a program which reads openapi.yaml can be run against it. The command writes the
// IDs into the files users and keys of the directory. It prints the address and the token of an
// administrator, and serves until its standard input ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/replica"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: conformance DIRECTORY")
	}
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(dir string) error {
	ctx := context.Background()
	// The key of the administrator is in a store of its own, so that no request can delete it.
	administrators, err := latchkey.Open(filepath.Join(dir, "administrators.db"), nil)
	if err != nil {
		return err
	}
	defer func() { _ = administrators.Close() }()
	_, token, err := administrators.CreateServerKey(ctx, latchkey.KeySpec{Name: "conformance", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	if err != nil {
		return err
	}

	trail := audit.New(nil)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	if err := fill(ctx, store, dir); err != nil {
		return err
	}

	hub := replica.NewHub(store, nil)
	edge, err := joinEdges(ctx, hub, dir)
	if err != nil {
		return err
	}
	defer func() { _ = edge.Close() }()

	handler := admin.New(store, &admin.Options{
		Authenticate: admin.RequireKey(administrators, nil),
		Trail:        trail,
		Hub:          hub,
		Edge:         edge, // of the hub, so that the routes for an edge have answers, too
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	fmt.Printf("http://%s %s\n", listener.Addr(), token)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

// joinEdges makes edges of a hub, and writes their IDs into a file. It returns the last one.
func joinEdges(ctx context.Context, hub *replica.Hub, dir string) (last *replica.Edge, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: hub, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	var ids []string
	for i := range 4 {
		if last != nil {
			if err := last.Close(); err != nil {
				return nil, err
			}
		}
		invitation, err := hub.Invite(ctx, replica.Policy{Groups: []string{"*"}, Push: replica.PushAll})
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, fmt.Sprintf("edge%d.db", i))
		opts := &replica.Options{Name: fmt.Sprintf("till-%d", i), Store: latchkey.Options{Cost: latchkey.LightCost}}
		if last, err = replica.Join(ctx, "http://"+listener.Addr().String(), invitation, file, opts); err != nil {
			return nil, err
		}
		ids = append(ids, strconv.Quote(last.Status().Edge.String()))
	}
	return last, os.WriteFile(filepath.Join(dir, "replicas"), []byte(strings.Join(ids, "\n")), 0o600)
}

// fill gives a store users with keys, and server keys, and writes their IDs into files. There are
// many, because some requests delete what they name.
func fill(ctx context.Context, store *latchkey.Store, dir string) error {
	var users, keys []string
	for i := range 40 {
		user, err := store.CreateUser(ctx, latchkey.UserSpec{
			Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: fmt.Sprintf("user%d@example.com", i)},
			Group:    "north",
		})
		if err != nil {
			return err
		}
		key, _, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop", Scopes: latchkey.NewScopes("files:read")})
		if err != nil {
			return err
		}
		if _, _, err := store.RotateKey(ctx, user.ID, key.ID, latchkey.Rotation{Overlap: time.Hour}); err != nil {
			return err
		}
		server, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: fmt.Sprintf("job%d", i), Expires: time.Now().Add(time.Hour)})
		if err != nil {
			return err
		}
		users = append(users, strconv.Quote(user.ID.String()))
		keys = append(keys, strconv.Quote(key.ID.String()), strconv.Quote(server.ID.String()))
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "users"), []byte(strings.Join(users, "\n")), 0o600),
		os.WriteFile(filepath.Join(dir, "keys"), []byte(strings.Join(keys, "\n")), 0o600))
}
