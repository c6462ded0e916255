// Root is the program server with the root package: it makes users and keys, logs in, and disables
// keys.
package main

import (
	"encoding/json"
	"log"
	"net/http"

	"github.com/latchkeydb/latchkey"
)

func main() {
	store, err := latchkey.Open("keys.db", nil)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx := r.Context()
		who, err := store.Login(ctx, r.Header.Get("Authorization"))
		if err == nil {
			err = store.DisableKey(ctx, who.Owner, who.KeyID)
		}
		if err == nil {
			var user latchkey.User
			user, err = store.CreateUser(ctx, latchkey.UserSpec{Identity: who.Identity})
			body["key"], body["token"], _ = store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
		}
		body["error"] = err
		_ = json.NewEncoder(w).Encode(body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:0", nil))
}
