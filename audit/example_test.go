package audit_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
)

// openExample opens a store with a trail in a new directory. Programs call [latchkey.Open] with a
// path of their own.
func openExample() (*latchkey.Store, func()) {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	trail := audit.New(nil)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
	if err != nil {
		log.Fatal(err)
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}
}

func Example() {
	store, done := openExample()
	defer done()

	ctx := latchkey.WithActor(context.Background(), "ada")
	key, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.DisableKey(ctx, latchkey.ServerOwner, key.ID); err != nil {
		log.Fatal(err)
	}

	err = store.View(ctx, func(tx *latchkey.Tx) error {
		for e, err := range audit.Entries(tx, 0) {
			if err != nil {
				return err
			}
			fmt.Println(e.Number, e.Change.Actor, e.Change.Actions, e.Change.Name)
		}
		return audit.Verify(tx)
	})
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// 1 ada [key.created] billing
	// 2 ada [key.disabled] billing
}

// A head that is kept elsewhere shows whether the trail was changed since.
func ExampleVerify() {
	ctx := context.Background()
	store, done := openExample()
	defer done()

	if _, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "billing"}); err != nil {
		log.Fatal(err)
	}
	var kept string // such as a line in another system's log
	err := store.View(ctx, func(tx *latchkey.Tx) error {
		head, err := audit.CurrentHead(tx)
		kept = head.String()
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	known, err := audit.ParseHead(kept)
	if err != nil {
		log.Fatal(err)
	}
	err = store.View(ctx, func(tx *latchkey.Tx) error { return audit.Verify(tx, known) })
	fmt.Println(err)
	known.Hash[0]++
	err = store.View(ctx, func(tx *latchkey.Tx) error { return audit.Verify(tx, known) })
	fmt.Println(err)

	// Output:
	// <nil>
	// the audit trail is broken: entry 1: it is not the entry of the known head
}
