package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkeydb/latchkey"
)

// openExample opens a store in a new directory. Programs call [latchkey.Open] with a path of their own.
func openExample() (*latchkey.Store, func()) {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	// LightCost keeps the examples quick; nil options are the safe choice.
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		log.Fatal(err)
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}
}

func ada(store *latchkey.Store) latchkey.User {
	user, err := store.CreateUser(context.Background(), latchkey.NewUser{
		Identity: latchkey.Identity{Provider: latchkey.LocalUserpass, Subject: "ada@example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	return user
}

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	user, err := store.CreateUser(ctx, latchkey.NewUser{
		Identity: latchkey.Identity{Provider: latchkey.LocalUserpass, Subject: "ada@example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	key, token, err := store.CreateKey(ctx, user.ID, latchkey.NewKey{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	who, err := store.Login(ctx, token)
	fmt.Println(who.KeyName, who.UserID == user.ID, err)

	if err := store.DisableKey(ctx, user.ID, key.ID); err != nil {
		log.Fatal(err)
	}
	_, err = store.Login(ctx, token)
	fmt.Println(errors.Is(err, latchkey.ErrKeyDisabled))
	// Output:
	// laptop true <nil>
	// true
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keys.db")

	store, err := latchkey.Open(path, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	// The file can be open for writing once.
	_, err = latchkey.Open(path, &latchkey.Options{LockTimeout: -1})
	fmt.Println(errors.Is(err, latchkey.ErrLocked))
	// Output: true
}

func ExampleStore_CreateKey() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)

	key, token, err := store.CreateKey(ctx, user.ID, latchkey.NewKey{
		Name:    "Ada's laptop",
		Expires: time.Now().AddDate(1, 0, 0),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key.Name, key.Disabled, len(token), token[:3])

	_, _, err = store.CreateKey(ctx, user.ID, latchkey.NewKey{Name: "Ada's laptop"})
	fmt.Println(errors.Is(err, latchkey.ErrKeyNameTaken))
	// Output:
	// Ada's laptop false 80 lk_
	// true
}

// A server key belongs to no user and lets a service log in as itself.
func ExampleStore_CreateKey_server() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	_, token, err := store.CreateKey(ctx, latchkey.Server, latchkey.NewKey{Name: "backup-job"})
	if err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.Server, who.KeyName, err)
	// Output: true backup-job <nil>
}

func ExampleStore_Login() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	_, token, err := store.CreateKey(ctx, ada(store).ID, latchkey.NewKey{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	for _, presented := range []string{token, "lk_guessed"} {
		who, err := store.Login(ctx, presented)
		switch {
		case err == nil:
			fmt.Println("welcome,", who.KeyName)
		case errors.Is(err, latchkey.ErrInvalidToken):
			fmt.Println("401: who are you?")
		case errors.Is(err, latchkey.ErrKeyDisabled), errors.Is(err, latchkey.ErrUserDisabled), errors.Is(err, latchkey.ErrKeyExpired):
			fmt.Println("403:", err)
		default:
			fmt.Println("503:", err) // nothing was decided about the token
		}
	}
	// Output:
	// welcome, laptop
	// 401: who are you?
}

// A user and the first key, together or not at all.
func ExampleStore_Update() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	minted, token, err := store.MintKey(ctx) // hash first: nobody can write while a transaction is open
	if err != nil {
		log.Fatal(err)
	}
	err = store.Update(ctx, func(tx *latchkey.Tx) error {
		user, err := tx.CreateUser(latchkey.NewUser{
			Identity: latchkey.Identity{Provider: latchkey.LocalUserpass, Subject: "ada@example.com"},
		})
		if err != nil {
			return err
		}
		_, err = tx.InsertKey(user.ID, latchkey.NewKey{Name: "first"}, minted)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.KeyName, err)
	// Output: first <nil>
}

func ExampleStore_CreateKeys() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)

	var requests []latchkey.NewKeyFor
	for i := range 3 {
		requests = append(requests, latchkey.NewKeyFor{Owner: user.ID, NewKey: latchkey.NewKey{Name: fmt.Sprint("sensor-", i)}})
	}
	keys, tokens, err := store.CreateKeys(ctx, requests, func(done, total int) { fmt.Println(done, "of", total) })
	if err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, tokens[2])
	fmt.Println(who.KeyID == keys[2].ID, err)
	// Output:
	// 1 of 3
	// 2 of 3
	// 3 of 3
	// true <nil>
}

func ExampleStore_Users() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	ada(store)

	for user, err := range store.Users(ctx, latchkey.User{}.ID) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(user.Identities[0].Subject)
	}
	// Output: ada@example.com
}

func ExampleStore_Check() {
	store, done := openExample()
	defer done()
	ada(store)

	findings := 0
	for finding := range store.Check(context.Background()) {
		fmt.Println(finding)
		findings++
	}
	fmt.Println(findings, "findings")
	// Output: 0 findings
}

func ExampleTx_Data() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	// A user and what the program keeps of her are written together.
	err := store.Update(ctx, func(tx *latchkey.Tx) error {
		user, err := tx.CreateUser(latchkey.NewUser{Identity: latchkey.Identity{Provider: latchkey.LocalUserpass, Subject: "ada@example.com"}})
		if err != nil {
			return err
		}
		return tx.Data("settings").Put(user.ID[:], []byte(`{"theme":"dark"}`))
	})
	fmt.Println(err)

	err = store.View(ctx, func(tx *latchkey.Tx) error {
		for entry, err := range tx.Data("settings").Scan(nil, nil) {
			if err != nil {
				return err
			}
			fmt.Printf("%s\n", entry.Value)
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// <nil>
	// {"theme":"dark"}
	// <nil>
}

func ExampleStore_HashPassword() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	verifier, err := store.HashPassword(ctx, "correct horse battery staple")
	fmt.Println(verifier[:10], err)
	ok, err := store.CheckPassword(ctx, verifier, "correct horse battery staple")
	fmt.Println(ok, err)
	// Output:
	// $argon2id$ <nil>
	// true <nil>
}
