// First makes a store in a new file, with a user and a key. It logs in with the key, disables the
// key, and shows that the store then refuses it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "keys.db")
	store, err := latchkey.Open(path, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	fmt.Println("store     ", path)

	user, err := store.CreateUser(ctx, latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
	})
	if err != nil {
		return err
	}
	fmt.Println("user      ", user.ID)

	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		return err
	}
	fmt.Println("key       ", key.ID)
	fmt.Println("token     ", token, "(shown this once)")

	who, err := store.Login(ctx, token)
	if err != nil {
		return err
	}
	fmt.Println("logged in ", who.UserID, "with", who.KeyName)

	if err := store.DisableKey(ctx, user.ID, key.ID); err != nil {
		return err
	}
	_, err = store.Login(ctx, token)
	fmt.Println("refused   ", err)
	return nil
}
