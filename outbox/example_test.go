package outbox_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/outbox"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	box := outbox.New(nil)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: box.Append})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "billing"}); err != nil {
		log.Fatal(err)
	}

	messages, err := box.Next(ctx, store)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range messages {
		fmt.Println(m.Number, m.Change.Actions, m.Change.Name)
		if err := box.Acknowledge(ctx, store, m.Number); err != nil {
			log.Fatal(err)
		}
	}

	// Output: 1 [key.created] billing
}
