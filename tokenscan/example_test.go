package tokenscan_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/tokenscan"
)

func Example() {
	ctx := context.Background()
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
	key, token, err := store.CreateServerKey(ctx, latchkey.KeySpec{Name: "backup"})
	if err != nil {
		log.Fatal(err)
	}

	text := "# settings\nurl = https://backup.example.com/\ntoken = " + token + "\n"
	for found, err := range tokenscan.FindTokens(strings.NewReader(text), "lk") {
		if err != nil {
			log.Fatal(err)
		}
		answer, err := tokenscan.Ask(ctx, store, found)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("line %d, column %d: %s, of the key %s\n", found.Line, found.Column, answer.State, answer.Principal.KeyName)
		if answer.State == tokenscan.Live {
			if err := store.DisableKey(ctx, key.Owner, key.ID); err != nil {
				log.Fatal(err)
			}
		}
	}
	_, err = store.Login(ctx, token)
	fmt.Println(err != nil)

	// Output:
	// line 3, column 9: live, of the key backup
	// true
}
