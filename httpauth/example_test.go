package httpauth_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/httpauth"
)

func Example() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	_, token, err := store.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "backup"})
	if err != nil {
		log.Fatal(err)
	}

	auth := httpauth.New(store, nil)
	mux := http.NewServeMux()
	mux.Handle("GET /whoami", auth.Require()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := httpauth.PrincipalFrom(r.Context())
		fmt.Fprintln(w, "you are", who.KeyName)
	})))
	mux.Handle("GET /files", auth.Require("files:read")(http.NotFoundHandler()))

	do := func(path, authorization string) {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Print(w.Code, " ", w.Body)
	}
	do("/whoami", "Bearer "+token)
	do("/whoami", "Bearer x")
	do("/whoami", "")
	do("/files", "Bearer "+token)

	// Output:
	// 200 you are backup
	// 401 invalid token
	// 401 the request has no token
	// 403 the key does not have the scope files:read
}

// A program that logs in by itself answers with the statuses of the package.
func ExampleStatus() {
	fmt.Println(httpauth.Status(fmt.Errorf("login: %w", latchkey.ErrKeyExpired)))
	fmt.Println(httpauth.Status(latchkey.ErrBusy))

	// Output:
	// 401
	// 503
}
