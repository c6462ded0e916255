package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// openExample opens a store in a new directory. Programs call [latchkey.Open] with a path of their
// own.
func openExample() (*latchkey.Store, func()) { return openExampleIn(latchkey.DomainSecrets{}) }

// openExampleIn is openExample in a domain.
func openExampleIn(domain latchkey.DomainSecrets) (*latchkey.Store, func()) {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	// LightCost makes the examples fast. For programs, nil options are the safe choice.
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, Domain: domain})
	if err != nil {
		log.Fatal(err)
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}
}

func ada(store *latchkey.Store) latchkey.User {
	user, err := store.CreateUser(context.Background(), latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
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

	user, err := store.CreateUser(ctx, latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
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

	// Only one process at a time can have the file open for writing.
	_, err = latchkey.Open(path, &latchkey.Options{LockTimeout: -1})
	fmt.Println(errors.Is(err, latchkey.ErrLocked))
	// Output: true
}

func ExampleStore_CreateKey() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)

	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{
		Name:    "Ada's laptop",
		Expires: time.Now().AddDate(1, 0, 0),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key.Name, key.Disabled, len(token), token[:3])

	_, _, err = store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "Ada's laptop"})
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

	_, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "backup-job"})
	if err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.ServerKey, who.KeyName, err)
	// Output: true backup-job <nil>
}

func ExampleStore_Login() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	_, token, err := store.CreateKey(ctx, ada(store).ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	for _, presented := range []string{token, "lk_guessed"} {
		who, err := store.Login(ctx, presented)
		switch {
		case err == nil:
			fmt.Println("welcome,", who.KeyName)
		case errors.Is(err, latchkey.ErrInvalidToken):
			fmt.Println("401: unknown token")
		case errors.Is(err, latchkey.ErrKeyDisabled), errors.Is(err, latchkey.ErrUserDisabled),
			errors.Is(err, latchkey.ErrKeyExpired), errors.Is(err, latchkey.ErrNetworkNotAllowed):
			fmt.Println("403:", err)
		default:
			fmt.Println("503:", err) // the error says nothing about the token
		}
	}
	// Output:
	// welcome, laptop
	// 401: unknown token
}

// A key permits what its scopes say. The program asks for a scope where it serves a request.
func ExampleScopes() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	_, token, err := store.CreateKey(ctx, ada(store).ID, latchkey.KeySpec{
		Name:   "laptop",
		Scopes: latchkey.NewScopes("files:*", "mail:read"),
	})
	if err != nil {
		log.Fatal(err)
	}

	who, err := store.Login(ctx, token)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(who.Scopes.Has("files:write"), who.Scopes.Has("mail:read"), who.Scopes.Has("mail:send"))

	// A caller that makes a key gives the key no more than the caller has.
	fmt.Println(who.Scopes.Covers(latchkey.NewScopes("files:read")), who.Scopes.Covers(latchkey.NewScopes("*")))
	// Output:
	// true true false
	// true false
}

// A key of a guest gets another day, and then no end.
func ExampleStore_SetExpiry() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	tomorrow := store.Now().AddDate(0, 0, 1)
	key, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "guest", Expires: tomorrow})
	if err != nil {
		log.Fatal(err)
	}

	later := tomorrow.AddDate(0, 0, 1).Truncate(time.Second)
	if err := store.SetExpiry(ctx, key.Owner, key.ID, later); err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.Expires.Equal(later), err)

	if err := store.SetExpiry(ctx, key.Owner, key.ID, time.Time{}); err != nil {
		log.Fatal(err)
	}
	who, err = store.Login(ctx, token)
	fmt.Println(who.Expires.IsZero(), err)

	// An end that has passed is refused. To stop a key at once, disable it.
	fmt.Println(errors.Is(store.SetExpiry(ctx, key.Owner, key.ID, store.Now()), latchkey.ErrInvalidExpiry))
	// Output:
	// true <nil>
	// true <nil>
	// true
}

// The key of a machine in a factory is good in the factory's network alone.
func ExampleStore_LoginFrom() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	_, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{
		Name:     "press 7",
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	if err != nil {
		log.Fatal(err)
	}

	for _, caller := range []string{"192.0.2.7:51144", "203.0.113.1:51144"} {
		// In a handler of net/http, the text is Request.RemoteAddr.
		addr := netip.MustParseAddrPort(caller).Addr()
		who, err := store.LoginFrom(ctx, token, addr)
		fmt.Printf("%q %t\n", who.KeyName, errors.Is(err, latchkey.ErrNetworkNotAllowed))
	}
	// Output:
	// "press 7" false
	// "" true
}

// A person can have several identities, and is the same user with each of them.
func ExampleStore_LinkIdentity() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)

	google := latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "1234"}
	if _, err := store.LinkIdentity(ctx, user.ID, google); err != nil {
		log.Fatal(err)
	}
	found, err := store.UserByIdentity(ctx, google)
	fmt.Println(found.ID == user.ID, len(found.Identities), err)

	another, err := store.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	if err != nil {
		log.Fatal(err)
	}
	_, err = store.LinkIdentity(ctx, another.ID, google)
	fmt.Println(errors.Is(err, latchkey.ErrIdentityTaken))
	// Output:
	// true 2 <nil>
	// true
}

// An address goes to a colleague. The first person keeps the account and the keys.
func ExampleStore_UnlinkIdentity() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)
	old := user.Identities[0]

	_, err := store.UnlinkIdentity(ctx, user.ID, old)
	fmt.Println(errors.Is(err, latchkey.ErrLastIdentity))

	err = store.Update(ctx, func(tx *latchkey.Tx) error {
		now := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.org"}
		if _, err := tx.LinkIdentity(user.ID, now); err != nil {
			return err
		}
		_, err := tx.UnlinkIdentity(user.ID, old)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	colleague, err := store.CreateUser(ctx, latchkey.UserSpec{Identity: old})
	fmt.Println(colleague.ID != user.ID, err)
	// Output:
	// true
	// true <nil>
}

// At the first sign-in, a person becomes a user.
func ExampleStore_UserByIdentity() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	signIn := func(i latchkey.Identity) (latchkey.User, error) {
		user, err := store.UserByIdentity(ctx, i)
		if errors.Is(err, latchkey.ErrUserNotFound) {
			return store.CreateUser(ctx, latchkey.UserSpec{Identity: i})
		}
		return user, err
	}
	i := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}
	first, err := signIn(i)
	if err != nil {
		log.Fatal(err)
	}
	second, err := signIn(i)
	fmt.Println(first.ID == second.ID, err)
	// Output: true <nil>
}

func ExampleStore_Keys() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)
	for _, name := range []string{"laptop", "phone"} {
		if _, _, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: name}); err != nil {
			log.Fatal(err)
		}
	}

	keys, err := store.Keys(ctx, user.ID)
	if err != nil {
		log.Fatal(err)
	}
	for _, key := range keys {
		fmt.Println(key.Name, key.Disabled)
	}
	// Output:
	// laptop false
	// phone false
}

func ExampleStore_RenameKey() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)
	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	if err := store.RenameKey(ctx, user.ID, key.ID, "old laptop"); err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token) // the token is the same
	fmt.Println(who.KeyName, err)
	// Output: old laptop <nil>
}

// RotateKey gives a key a new token, while the old one is still good for a day.
func ExampleStore_RotateKey() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)
	key, old, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	_, token, err := store.RotateKey(ctx, user.ID, key.ID, latchkey.Rotation{Overlap: 24 * time.Hour, UntilUsed: true})
	if err != nil {
		log.Fatal(err)
	}
	_, err = store.Login(ctx, old)
	fmt.Println("the old token:", err)
	who, err := store.Login(ctx, token) // ends the old token
	fmt.Println("the new token:", who.KeyID == key.ID, err)
	_, err = store.Login(ctx, old)
	fmt.Println("the old token is refused:", errors.Is(err, latchkey.ErrInvalidToken))
	// Output:
	// the old token: <nil>
	// the new token: true <nil>
	// the old token is refused: true
}

func ExampleStore_DeleteKey() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)
	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "lost laptop"})
	if err != nil {
		log.Fatal(err)
	}

	if err := store.DeleteKey(ctx, user.ID, key.ID); err != nil {
		log.Fatal(err)
	}
	_, err = store.Login(ctx, token) // as if the key had never existed
	fmt.Println(errors.Is(err, latchkey.ErrInvalidToken))
	// Output: true
}

func ExampleStore_DisableGroup() {
	ctx := context.Background()
	store, done := openExample()
	defer done()
	user := ada(store)
	if err := store.SetUserGroup(ctx, user.ID, "acme"); err != nil {
		log.Fatal(err)
	}
	_, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	// The tenant has not paid.
	if err := store.DisableGroup(ctx, "acme"); err != nil {
		log.Fatal(err)
	}
	_, err = store.Login(ctx, token)
	fmt.Println(errors.Is(err, latchkey.ErrGroupDisabled))

	if err := store.EnableGroup(ctx, "acme"); err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.Group, err)
	// Output:
	// true
	// acme <nil>
}

// Update makes a user and the first key together, or neither of them.
func ExampleStore_Update() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	// Mint before the transaction, because other writers wait while a transaction is open.
	minted, token, err := store.MintKey(ctx)
	if err != nil {
		log.Fatal(err)
	}
	err = store.Update(ctx, func(tx *latchkey.Tx) error {
		user, err := tx.CreateUser(latchkey.UserSpec{
			Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
		})
		if err != nil {
			return err
		}
		_, err = tx.InsertKey(user.ID, latchkey.KeySpec{Name: "first"}, minted)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	who, err := store.Login(ctx, token)
	fmt.Println(who.KeyName, err)
	// Output: first <nil>
}

func ExampleWithActor() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{
		Cost: latchkey.LightCost,
		OnChange: func(tx *latchkey.Tx, c latchkey.Change) error {
			fmt.Println(c.Actor, c.Actions, c.Name)
			return nil // an error would undo the change
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx := latchkey.WithActor(context.Background(), "ada")
	key, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.DisableKey(ctx, latchkey.ServerOwner, key.ID); err != nil {
		log.Fatal(err)
	}
	// Output:
	// ada [key.created] billing
	// ada [key.disabled] billing
}

func ExampleStore_CreateKeys() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	user := ada(store)

	var requests []latchkey.KeyRequest
	for i := range 3 {
		requests = append(requests, latchkey.KeyRequest{Owner: user.ID, KeySpec: latchkey.KeySpec{Name: fmt.Sprint("sensor-", i)}})
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

func ExampleStore_EnsureServerKey() {
	factory, done := openExample()
	defer done()
	ctx := context.Background()
	// Once, in the factory: a token for the device, and the text that goes into its configuration.
	minted, token, err := factory.MintKey(ctx)
	if err != nil {
		log.Fatal(err)
	}
	text := minted.Export()

	// The device's store is of the same domain, so it takes the key.
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	device, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Domain: factory.DomainSecrets()})
	if err != nil {
		log.Fatal(err)
	}
	defer device.Close()
	if minted, err = latchkey.ParseMintedKey(text); err != nil {
		log.Fatal(err)
	}
	// At each start, the device makes the key as its configuration says. The second time, nothing
	// changes.
	for range 2 {
		spec := latchkey.KeySpec{Name: "sensor", Scopes: latchkey.NewScopes("readings:write")}
		_, changed, err := device.EnsureServerKey(ctx, spec, minted)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("changed:", changed)
	}
	who, err := device.Login(ctx, token)
	fmt.Println(who.KeyName, err)
	// Output:
	// changed: true
	// changed: false
	// sensor <nil>
}

func ExampleStore_RetireTagSecret() {
	ctx := context.Background()
	store, done := openExample()
	defer done()
	user := ada(store)
	_, oldToken, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}

	// A domain with several stores takes each step over in all of them, by TakeTagSecrets.
	number, err := store.AddTagSecret(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if err := store.UseTagSecret(ctx, number); err != nil {
		log.Fatal(err)
	}
	var newToken string
	for key, err := range store.AllKeys(ctx, latchkey.KeyFilter{TagSecretBefore: number}, uuid.Nil) {
		if err != nil {
			log.Fatal(err)
		}
		// Days may pass here, because the old token stays good until its tag secret is retired.
		_, newToken, err = store.RotateKey(ctx, key.Owner, key.ID, latchkey.Rotation{Overlap: 30 * 24 * time.Hour})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := store.RetireTagSecret(ctx, number-1); err != nil {
		log.Fatal(err)
	}

	_, err = store.Login(ctx, oldToken)
	fmt.Println(errors.Is(err, latchkey.ErrInvalidToken))
	who, err := store.Login(ctx, newToken)
	fmt.Println(who.KeyName, err)
	// Output:
	// true
	// laptop <nil>
}

func ExampleStore_Merge() {
	ctx := context.Background()
	store, done := openExample()
	defer done()
	user := ada(store)
	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}
	other, doneToo := openExampleIn(store.DomainSecrets())
	defer doneToo()

	// The cursor says how far the other store has come.
	var cursor latchkey.RecordCursor
	follow := func() {
		var records []latchkey.ReplicaRecord
		for record, err := range store.Records(ctx, cursor) {
			if err != nil {
				log.Fatal(err)
			}
			// A program sends record.Export() here, and reads it by ParseReplicaRecord there.
			records = append(records, record)
		}
		refused, err := other.Merge(ctx, records)
		if err != nil || len(refused) > 0 {
			log.Fatal(refused, err)
		}
		cursor = records[len(records)-1].Cursor()
	}

	follow()
	who, err := other.Login(ctx, token)
	fmt.Println(who.KeyName, err)
	if err := store.DisableKey(ctx, user.ID, key.ID); err != nil {
		log.Fatal(err)
	}
	follow()
	_, err = other.Login(ctx, token)
	fmt.Println(errors.Is(err, latchkey.ErrKeyDisabled))
	// Output:
	// laptop <nil>
	// true
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

func ExampleStore_AllKeys() {
	ctx := context.Background()
	store, done := openExample()
	defer done()
	user := ada(store)
	soon := time.Now().Add(24 * time.Hour)
	if _, _, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop", Expires: soon}); err != nil {
		log.Fatal(err)
	}
	if _, _, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "backup-job"}); err != nil {
		log.Fatal(err)
	}

	expiring := latchkey.KeyFilter{State: latchkey.KeyEnabled, ExpiringBefore: time.Now().Add(7 * 24 * time.Hour)}
	for key, err := range store.AllKeys(ctx, expiring, uuid.Nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(key.Name, key.Owner == user.ID)
	}
	// Output: laptop true
}

// A job disables the keys that nobody has used for 90 days.
func ExampleStore_UnusedSince() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	now := time.Date(2029, 1, 1, 12, 0, 0, 0, time.UTC)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{
		Cost: latchkey.LightCost,
		// The store writes last uses once a day. A crash loses those of the last day.
		LastUseEvery: 24 * time.Hour,
		Now:          func() time.Time { return now }, TestClock: true, // for this example
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ctx := context.Background()

	var tokens []string
	for _, name := range []string{"backup-job", "old-script"} {
		_, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: name})
		if err != nil {
			log.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	now = now.AddDate(0, 4, 0)
	if _, err := store.Login(ctx, tokens[0]); err != nil {
		log.Fatal(err)
	}

	for key, err := range store.UnusedSince(ctx, now.AddDate(0, 0, -90)) {
		if err == nil {
			err = store.DisableKey(ctx, key.Owner, key.ID)
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("disabled", key.Name)
	}
	keys, err := store.Keys(ctx, latchkey.ServerOwner)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(keys[0].Name, "was used on", keys[0].LastUsed.Format(time.DateTime))
	// Output:
	// disabled old-script
	// backup-job was used on 2029-05-01 12:00:00
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

// A clock that was far ahead leaves a wrong time in the store.
func ExampleStore_ResetClock() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keys.db")

	// A program runs while the clock says 2099.
	wrong := func() time.Time { return time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC) }
	store, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, Now: wrong})
	if err != nil {
		log.Fatal(err)
	}
	ada(store)
	store.Close()

	// The clock is right again, and the program is started again.
	right := func() time.Time { return time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC) }
	store, err = latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, Now: right})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	fmt.Println(store.Now().Year())
	fmt.Println(errors.Is(store.Health(ctx), latchkey.ErrClockBehind))

	// Somebody has looked at the clock, and says that it is right.
	if err := store.ResetClock(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(store.Now().Year())
	fmt.Println(store.Health(ctx))
	// Output:
	// 2099
	// true
	// 2029
	// <nil>
}

// A backup is taken while the store is in use, and is checked when it is restored.
func ExampleStore_Backup() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	_, token, err := store.CreateKey(ctx, ada(store).ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	var backup bytes.Buffer // programs use a file
	if err := store.Backup(ctx, &backup); err != nil {
		log.Fatal(err)
	}

	path := filepath.Join(dir, "restored.db")
	if err := latchkey.Restore(ctx, &backup, path); err != nil {
		log.Fatal(err)
	}
	restored, err := latchkey.Open(path, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer restored.Close()
	who, err := restored.Login(ctx, token)
	fmt.Println(who.KeyName, err)
	// Output: laptop <nil>
}

func ExampleRestore() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// A backup that is damaged or incomplete is never put in place.
	path := filepath.Join(dir, "keys.db")
	err = latchkey.Restore(context.Background(), strings.NewReader("the beginning of something"), path)
	fmt.Println(errors.Is(err, latchkey.ErrNotStore))
	_, err = os.Stat(path)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// true
	// true
}

// A file does not shrink by itself after many deletions.
func ExampleStore_Compact() {
	store, done := openExample()
	defer done()

	err := store.Compact(context.Background())
	fmt.Println(err)
	// Output: <nil>
}

// Salvage takes the readable records of a damaged file to a new file.
func ExampleSalvage() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	broken, out := filepath.Join(dir, "keys.db"), filepath.Join(dir, "saved.db")
	store, err := latchkey.Open(broken, nil)
	if err != nil {
		log.Fatal(err)
	}
	ada(store)
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}

	saved, err := latchkey.Salvage(ctx, broken, out)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(saved.Users, "user,", saved.BadPages, "bad pages")
	// Output: 1 user, 0 bad pages
}

func ExampleTx_AppTable() {
	store, done := openExample()
	defer done()
	ctx := context.Background()

	// A user and the application's own data about the user are written together.
	err := store.Update(ctx, func(tx *latchkey.Tx) error {
		user, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}})
		if err != nil {
			return err
		}
		return tx.AppTable("settings").Put(user.ID[:], []byte(`{"theme":"dark"}`))
	})
	fmt.Println(err)

	err = store.View(ctx, func(tx *latchkey.Tx) error {
		for entry, err := range tx.AppTable("settings").Scan(nil, nil) {
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
