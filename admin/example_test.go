package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// exampleStore returns a store, the token of a key that may administer it, and a function that
// removes the store.
func exampleStore() (store *latchkey.Store, token string, done func()) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	store, err = latchkey.Open(filepath.Join(dir, "keys.db"), nil)
	if err != nil {
		panic(err)
	}
	_, token, err = store.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	if err != nil {
		panic(err)
	}
	return store, token, func() {
		_ = store.Close()
		_ = os.RemoveAll(dir)
	}
}

// A program serves the API beside its own handlers. The server key of the administrator is made
// once, for example by the command latchkey key create --server --scopes latchkey:admin.
func ExampleNew() {
	store, token, done := exampleStore()
	defer done()

	mux := http.NewServeMux()
	handler := admin.New(store, nil)
	mux.Handle("/v1/", handler)
	// A program has an http.Server of its own, and gives handler.Close to RegisterOnShutdown.
	server := httptest.NewServer(mux)
	defer server.Close()

	r, _ := http.NewRequest("POST", server.URL+"/v1/server-keys", strings.NewReader(`{"name":"backup-job"}`))
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Println(res.StatusCode, strings.Contains(string(body), `"name":"backup-job"`))

	r, _ = http.NewRequest("GET", server.URL+"/v1/keys", nil) // without the token
	res, err = http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	var problem admin.Problem
	if err := json.NewDecoder(res.Body).Decode(&problem); err != nil {
		panic(err)
	}
	fmt.Println(problem.Status, problem.Type)
	// Output:
	// 201 true
	// 401 urn:latchkey:problem:unauthorized
}

// A program serves the page to browsers on the same machine, and prints a URL that signs one of
// them in.
func ExampleNewPage() {
	store, _, done := exampleStore()
	defer done()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	page, err := admin.NewPage(store, "http://"+listener.Addr().String(), nil)
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: page, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	server.RegisterOnShutdown(page.Close)
	go func() { _ = server.Serve(listener) }()
	defer server.Shutdown(context.Background())

	signIn := page.SignInURL() // to be printed, and not to be logged
	_, fragment, _ := strings.Cut(signIn, "#")
	fmt.Println("the fragment begins with", fragment[:8])

	res, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		panic(err)
	}
	res.Body.Close()
	fmt.Println(res.Status)
	// Output:
	// the fragment begins with sign-in=
	// 200 OK
}
