package keyimport_test

import (
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey/keyimport"
)

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
