// Package admin lets people administer a store that a program has open.
//
// [New] returns a handler with an API in JSON for users, keys, server keys, groups, the audit
// trail, health, backups and a stream of changes.
//
//	handler := admin.New(store, nil)
//	mux.Handle("/v1/", handler)
//
//	$ curl -H "Authorization: Bearer $TOKEN" https://keys.example.com/v1/keys
//
// The file openapi.yaml, which the handler serves as /v1/openapi.yaml, describes every route.
// docs/admin.md tells how to use them.
//
// [Listen] serves the API on a socket beside the store's file, for the program's user alone. [Dial]
// and [Transport] find the socket, and check which user answers there.
//
//	socket, err := admin.Listen(store, "keys.db", nil)
//
// [NewPage] returns a page for browsers, on which people administer the store. They sign in with a
// URL that works once.
//
//	page, err := admin.NewPage(store, "http://127.0.0.1:9091", nil)
//	fmt.Println(page.SignInURL())
//	err = http.ListenAndServe("127.0.0.1:9091", page)
//
// # Callers
//
// Without [Options].Authenticate, each request needs a key of the store with the scope
// [ScopeAdmin]. A program that knows its callers by other means names them with a function of its
// own. Such a [Caller] gets backups and exported keys only if the function says so.
//
// # What it promises
//
// A token is in one answer only: the answer that makes the key or rotates it. No other answer, no
// error and no log line has a token, even if a client sends a token in the wrong place. A change
// carries the name of its caller to [latchkey.WithActor].
package admin
