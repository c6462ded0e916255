// Libraries is the program server with the libraries that the root package imports.
package main

import (
	"encoding/json"
	"log"
	"net/http"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/argon2"
)

func main() {
	db, err := bbolt.Open("keys.db", 0o600, nil)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("keys"))
			if err != nil {
				return err
			}
			id := uuid.New()
			if k, _ := bucket.Cursor().Seek(id[:]); k != nil {
				return bucket.Delete(k)
			}
			return bucket.Put(id[:], argon2.IDKey(id[:], id[:], 1, 64, 1, 32))
		})
		body["error"] = err
		_ = json.NewEncoder(w).Encode(body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:0", nil))
}
