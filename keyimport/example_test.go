package keyimport_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/keyimport"
)

// A program takes over the keys of its old system at its first start, and at each later one.
func ExampleImport() {
	ctx := context.Background()
	old := keyimport.BetterAuth()
	foreign, err := keyimport.New(old.Scheme)
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{Foreign: foreign})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	export := `{"key":"qHHyTPJZJCv8arhDP3mA787sEn0IcN8LxCMpbjzsFIk","name":"laptop","userId":"ada","permissions":"{\"files\":[\"read\"]}"}`
	for range 2 {
		entries, err := keyimport.Read(strings.NewReader(export), old, nil)
		if err != nil {
			log.Fatal(err)
		}
		report, err := keyimport.Import(ctx, store, old, entries, nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(len(report.Keys), "imported,", report.Known, "known")
	}
	who, err := store.Login(ctx, "app_VpWJIoVAnwZTxacjGdySNERVnfbAmFKeRzzxHWdHTuvjHqyylyrNeaQqJzhbZjfq")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(who.KeyName, "of", who.Identity.Subject, "may", who.Scopes)

	// Output:
	// 1 imported, 0 known
	// 0 imported, 1 known
	// laptop of ada may files:read
}

func ExampleRead() {
	export := `{"key":"zp1qJdAGilk8aMlA66Ojo1_eZ2N9iRbCkPrePAo9RPY","name":"laptop","userId":"ada","permissions":"{\"files\":[\"read\"]}"}
{"key":"vGrAVxFf88HseSywU25QiYxcCCskvLi-xCdAe_qSwFQ","name":"phone","userId":"ada","enabled":false}`
	entries, err := keyimport.Read(strings.NewReader(export), keyimport.BetterAuth(), nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Println(e.Line, e.Owner, e.Name, e.Scopes, e.Disabled)
	}

	_, err = keyimport.Read(strings.NewReader("{\"key\":\"short\"}\n{\"expires\":1}\n"), keyimport.BetterAuth(), nil)
	fmt.Println(err)

	// Output:
	// 1 ada laptop files:read false
	// 2 ada phone  true
	// line 1: "key": invalid verifier: a digest of sha256 has 64 hexadecimal digits
	// line 2: "key": there is none
	// line 2: "expires": there is no such field
}

// The tokens of this system are "<8 characters>.<secret>", and it keeps a bcrypt hash of each.
func ExampleScheme() {
	scheme := keyimport.Scheme{
		Name: "old-gateway", Hash: keyimport.Bcrypt,
		Handle: keyimport.Handle{Separator: "."}, MinLength: 29, MaxLength: 29,
	}
	foreign, err := keyimport.New(scheme)
	if err != nil {
		log.Fatal(err)
	}
	key, err := scheme.Key("$2b$04$0RkK2qMeYFoN5mxqUiYDxuFj0z8iWnB2r6gFZqJnO6y8kfjxX8mXK", "ab12cd34", time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key)
	fmt.Println(len(foreign.Handles("ab12cd34.Zk3v9QwP7sLxT1mNcB5y")), len(foreign.Handles("anything else")))

	// Output:
	// minted key 83e1c295-a1b3-8246-abce-c8b3d4180b34
	// 1 0
}
