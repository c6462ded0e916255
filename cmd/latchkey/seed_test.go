package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// plantable returns the error of planting seed in a new store, or nil.
func plantable(t *testing.T, seed string) error {
	t.Helper()
	parsed, err := appservices.ParseSeed([]byte(seed))
	if err != nil {
		return err
	}
	store, err := memory.Open(&latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	handler, err := appservices.New(store, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = handler.Seed(t.Context(), "", parsed)
	return err
}

// items returns a JSON array of n elements. Each element is format with its own number.
func items(n int, format string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i)
	}
	return "[" + strings.Join(all, ",") + "]"
}

func TestTheSeedSchemaAllowsExactlyTheSeedsThatCanBePlanted(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../appservices/seed.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	const key, identity, email = `{"name":"key-%d"}`, `{"provider":"custom-token","subject":"%d"}`, `"email":"ada@example.com","password":"hunter22"`
	user := func(fields string) string { return `{"users":[{` + fields + `}]}` }
	ofEmail := func(s string) string { return user(fmt.Sprintf(`"email":%q,"password":"hunter22"`, s)) }
	ofPassword := func(s string) string { return user(fmt.Sprintf(`"email":"ada@example.com","password":%q`, s)) }
	ofSubject := func(s string) string {
		return user(fmt.Sprintf(`"identities":[{"provider":"custom-token","subject":%q}]`, s))
	}
	ofProvider := func(s string) string { return user(fmt.Sprintf(`"identities":[{"provider":%q,"subject":"1"}]`, s)) }
	ofKey := func(s string) string { return fmt.Sprintf(`{"server_keys":[{"name":%q}]}`, s) }

	for _, tt := range []struct {
		name, seed string
		want       bool
	}{
		{"an empty object", `{}`, true},
		{"a list in place of the object", `[]`, false},
		{"an unknown field", `{"usres":[]}`, false},
		{"an unknown field of a user", user(email + `,"eamil":""`), false},
		{"an unknown field of an identity", user(`"identities":[{"provider":"custom-token","subject":"1","id":"1"}]`), false},
		{"an unknown field of a key", `{"server_keys":[{"name":"job","id":"1"}]}`, false},
		{"a value that is a string", `{"seed":"a"}`, true},
		{"a value that is a number", `{"seed":-1.5}`, true},
		{"a value that is a boolean", `{"seed":true}`, false},
		{"an object in place of the list of users", `{"users":{}}`, false},
		{"empty lists", `{"users":[],"server_keys":[]}`, true},

		{"an address", user(email), true},
		{"an address alone", user(`"email":"ada@example.com"`), false},
		{"a password alone", user(`"password":"hunter22"`), false},
		{"a password without an address", user(`"password":"hunter22","identities":` + items(1, identity)), false},
		{"a user with every field", user(email + `,"disabled":true,"keys":` + items(1, key) + `,"identities":` + items(1, identity)), true},
		{"a user without any identity", user(``), false},
		{"keys of a user without any identity", user(`"keys":` + items(1, key)), false},
		{"an empty address", ofEmail(""), false},
		{"an address of one character", ofEmail("a"), true},
		{"the longest address", ofEmail(strings.Repeat("x", 128)), true},
		{"too long an address", ofEmail(strings.Repeat("x", 129)), false},
		{"the longest address, of characters of two bytes", ofEmail(strings.Repeat("ä", 128)), true},
		{"an address with a control character", ofEmail("ada@example.com\n"), false},
		{"an address that is a number", user(`"email":1,"password":"hunter22"`), false},
		{"the shortest password", ofPassword("123456"), true},
		{"too short a password", ofPassword("12345"), false},
		{"the shortest password, of characters of two bytes", ofPassword("ääääää"), true},
		{"too short a password, of characters of two bytes", ofPassword("äääää"), false},
		{"the longest password", ofPassword(strings.Repeat("x", 128)), true},
		{"too long a password", ofPassword(strings.Repeat("x", 129)), false},
		{"a password that is a number", user(`"email":"ada@example.com","password":123456`), false},

		{"an anonymous user", user(`"anonymous":true`), true},
		{"a disabled anonymous user", user(`"anonymous":true,"disabled":true`), true},
		{"an anonymous user with an address", user(`"anonymous":true,` + email), false},
		{"an anonymous user with an identity", user(`"anonymous":true,"identities":` + items(1, identity)), false},
		{"an anonymous user with a key", user(`"anonymous":true,"keys":` + items(1, key)), false},
		{"an anonymous user with a password", user(`"anonymous":true,"password":"hunter22"`), false},
		{"anonymous: false, with an address", user(`"anonymous":false,` + email), true},
		{"anonymous: false, without an identity", user(`"anonymous":false`), false},
		{"anonymous as a string", user(`"anonymous":"yes"`), false},

		{"an identity", user(`"identities":` + items(1, identity)), true},
		{"as many identities as possible with an address", user(email + `,"identities":` + items(63, identity)), true},
		{"an empty list of identities and no address", user(`"identities":[]`), false},
		{"too many identities", user(email + `,"identities":` + items(64, identity)), false},
		{"an identity without a subject", user(`"identities":[{"provider":"custom-token"}]`), false},
		{"an identity with an empty subject", ofSubject(""), false},
		{"an identity without a provider", user(`"identities":[{"subject":"1"}]`), false},
		{"the longest subject", ofSubject(strings.Repeat("x", 256)), true},
		{"too long a subject", ofSubject(strings.Repeat("x", 257)), false},
		{"a subject with a control character", ofSubject("a\tb"), false},
		{"a subject with a control character above ASCII", ofSubject("a\u0085b"), false},
		{"a function's identity", ofProvider("custom-function"), true},
		{"Google's identity", ofProvider("oauth2-google"), true},
		{"Facebook's identity", ofProvider("oauth2-facebook"), true},
		{"Apple's identity", ofProvider("oauth2-apple"), true},
		{"local-userpass in the list of identities", ofProvider("local-userpass"), false},
		{"anon-user in the list of identities", ofProvider("anon-user"), false},
		{"api-key in the list of identities", ofProvider("api-key"), false},
		{"an unknown provider", ofProvider("oauth2-gogle"), false},

		{"as many keys as a user can have", user(email + `,"keys":` + items(20, key)), true},
		{"a user's key without a name", user(email + `,"keys":[{}]`), false},
		{"too many keys", user(email + `,"keys":` + items(21, key)), false},
		{"many server keys", `{"server_keys":` + items(101, key) + `}`, true},
		{"a disabled key", `{"server_keys":[{"name":"job","disabled":true}]}`, true},
		{"all characters of a key's name", ofKey("aZ09_-"), true},
		{"the longest name of a key", ofKey(strings.Repeat("x", 256)), true},
		{"too long a name of a key", ofKey(strings.Repeat("x", 257)), false},
		{"a key with an empty name", ofKey(""), false},
		{"a key without a name", `{"server_keys":[{"disabled":true}]}`, false},
		{"a name with a space", ofKey("a job"), false},
		{"a name with a letter that is not ASCII", ofKey("Schlüssel"), false},
		{"a name with a newline", ofKey("job\n"), false},
		{"a key that is a string", `{"server_keys":["job"]}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			instance, err := jsonschema.UnmarshalJSON(strings.NewReader(tt.seed))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(instance); (err == nil) != tt.want {
				t.Errorf("the schema: got error %v for %s, want ok %t", err, tt.seed, tt.want)
			}
			if err := plantable(t, tt.seed); (err == nil) != tt.want {
				t.Errorf("Seed: got error %v for %s, want ok %t", err, tt.seed, tt.want)
			}
		})
	}
}
