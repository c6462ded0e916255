// Gateway stands in front of a web server and asks its callers for API keys. The scope read permits
// GET and HEAD, and the scope write everything else. The scope keys:admin permits to manage all
// keys below /admin/, and so to get every scope. The scope metrics permits to read /metrics.
//
// The headers X-Key-Id, X-Key-Name, X-Key-Owner, X-Key-Group and X-Key-Scopes tell the web server
// behind which key a request has. No caller can send these headers, and no token reaches the web
// server. The web server must not be reachable in another way than through the gateway.
//
// The command makes the first key:
//
//	latchkey init --store keys.db
//	latchkey key create --store keys.db --server --quiet --scopes '*' admin > token
//	go run ./examples/gateway -store keys.db -addr 127.0.0.1:8080 -backend http://127.0.0.1:9000
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/httpauth"
)

func main() {
	path := flag.String("store", "keys.db", "the `FILE` of the store")
	addr := flag.String("addr", "127.0.0.1:8080", "the `ADDRESS` to listen on")
	backend := flag.String("backend", "http://127.0.0.1:9000", "the `URL` of the web server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once
	if err := run(ctx, *path, *addr, *backend, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. It prints the address when it is ready.
func run(ctx context.Context, path, addr, backend string, out io.Writer) error {
	target, err := url.Parse(backend)
	if err != nil {
		return err
	}
	store, err := latchkey.Open(path, &latchkey.Options{MustExist: true})
	if err != nil {
		return err
	}
	defer store.Close()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	fmt.Fprintf(out, "http://%s\n", listener.Addr())
	server := &http.Server{Handler: handler(store, target), ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return server.Shutdown(context.Background()) // waits for the requests that have begun
}

func handler(store *latchkey.Store, backend *url.URL) http.Handler {
	auth := httpauth.New(store, nil)
	mux := http.NewServeMux()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.SetXForwarded()
		r.Out.Header.Del("Authorization") // the backend needs no token
		who, _ := httpauth.PrincipalFrom(r.In.Context())
		introduce(r.Out.Header, who)
	}}
	mux.Handle("GET /", auth.Require("read")(proxy))
	mux.Handle("/", auth.Require("write")(proxy))

	// admin adds a route. What its call returns is answered as JSON.
	admin := func(pattern string, call func(ctx context.Context, id uuid.UUID, body latchkey.KeySpec) (any, error)) {
		mux.Handle(pattern, auth.Require("keys:admin")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id, _ := uuid.Parse(r.PathValue("id")) // no key has the ID that is left after an error
			var body latchkey.KeySpec
			decoder := json.NewDecoder(io.LimitReader(r.Body, 1<<16))
			decoder.DisallowUnknownFields() // a mistyped "expires" would make a key for ever
			if err := decoder.Decode(&body); err != nil && (err != io.EOF || r.Method == http.MethodPut) {
				http.Error(w, "the body is not JSON of a key: "+err.Error(), http.StatusBadRequest)
				return
			}
			doc, err := call(r.Context(), id, body)
			answer(w, doc, err)
		})))
	}
	// The list has when each key was last used.
	admin("GET /admin/keys", func(ctx context.Context, _ uuid.UUID, _ latchkey.KeySpec) (any, error) {
		return store.Keys(ctx, latchkey.ServerOwner)
	})
	admin("POST /admin/keys", func(ctx context.Context, _ uuid.UUID, body latchkey.KeySpec) (any, error) {
		key, token, err := store.CreateServerKey(ctx, body)
		return map[string]any{"key": key, "token": token}, err
	})
	admin("PUT /admin/keys/{id}/expires", func(ctx context.Context, id uuid.UUID, body latchkey.KeySpec) (any, error) {
		return nil, store.SetExpiry(ctx, latchkey.ServerOwner, id, body.Expires)
	})
	admin("POST /admin/keys/{id}/rotate", func(ctx context.Context, id uuid.UUID, _ latchkey.KeySpec) (any, error) {
		key, token, err := store.RotateServerKey(ctx, id, latchkey.Rotation{Overlap: 24 * time.Hour, UntilUsed: true})
		return map[string]any{"key": key, "token": token}, err
	})
	for pattern, call := range map[string]func(ctx context.Context, owner, id uuid.UUID) error{
		"POST /admin/keys/{id}/disable": store.DisableKey,
		"POST /admin/keys/{id}/enable":  store.EnableKey,
		"DELETE /admin/keys/{id}":       store.DeleteKey,
	} {
		admin(pattern, func(ctx context.Context, id uuid.UUID, _ latchkey.KeySpec) (any, error) {
			return nil, call(ctx, latchkey.ServerOwner, id)
		})
	}
	mux.Handle("GET /metrics", auth.Require("metrics")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := store.Stats(r.Context()) // a request that has logged in finds the store open
		fmt.Fprintf(w, "latchkey_keys %d\nlatchkey_logins_total{cached=\"true\"} %d\nlatchkey_logins_total{cached=\"false\"} %d\n", s.Keys, s.Hits, s.Misses)
		fmt.Fprintf(w, "latchkey_refusals_total %d\n", s.Malformed+s.Forged+s.Unknown+s.Refused+s.Busy)
	})))
	return mux
}

// introduce puts the caller into the headers for the backend. It removes headers of the caller that
// look like those of the gateway, also in the form X_KEY_NAME, which many servers take for
// X-Key-Name.
func introduce(h http.Header, who latchkey.Principal) {
	for name := range h {
		if strings.HasPrefix(strings.ToLower(strings.ReplaceAll(name, "_", "-")), "x-key-") {
			delete(h, name)
		}
	}
	h.Set("X-Key-Id", who.KeyID.String())
	h.Set("X-Key-Name", url.PathEscape(who.KeyName)) // a name can have letters that no header has
	h.Set("X-Key-Owner", who.Owner.String())
	h.Set("X-Key-Group", url.PathEscape(who.Group))
	h.Set("X-Key-Scopes", who.Scopes.String())
}

// statuses has the errors that a request of an administrator can cause.
var statuses = map[error]int{
	latchkey.ErrKeyNotFound: 404, latchkey.ErrKeyNameTaken: 409,
	latchkey.ErrInvalidName: 400, latchkey.ErrInvalidExpiry: 400, latchkey.ErrInvalidScope: 400, latchkey.ErrInvalidNetwork: 400,
	latchkey.ErrInvalidMetadata: 400, latchkey.ErrInvalidGroup: 400, latchkey.ErrInvalidRotation: 409,
}

// answer answers what a call of an administrator has returned.
func answer(w http.ResponseWriter, doc any, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if err == nil {
		_ = json.NewEncoder(w).Encode(doc)
		return
	}
	status := httpauth.Status(err)
	for known, its := range statuses {
		if errors.Is(err, known) {
			status = its
		}
	}
	http.Error(w, err.Error(), status) // only administrators see it
}
