package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestAMistakeInASeedIsNamedWithItsLineAndWhatToWrite(t *testing.T) {
	for _, tt := range []struct{ name, seed, want string }{
		{"a password of digits", `
users:
  - email: ada@example.com
    password: 12345678`, `line 4: users[0].password: put quotes around it`},
		{"a name that is a date", "server_keys:\n  - name: 2026-01-02", `line 2: server_keys[0].name: put quotes around it`},
		{"a name that is true", "server_keys: [{name: true}]", `line 1: server_keys[0].name: put quotes around it`},
		{"a number in place of a list", `users: 3`, `line 1: users: it must be a list; begin each element with a dash`},
		{"a user in place of a list", "users:\n  email: ada@example.com", `line 2: users: it must be a list`},
		{"names in place of keys", "users:\n  - email: ada@example.com\n    password: correct horse\n    keys:\n      - laptop", `line 5: users[0].keys[0]: write name: before the name, as in {name: laptop}`},
		{"an address in place of a user", `users: [ada@example.com]`, `line 1: users[0]: it must have fields; the fields are email, password, `},
		{"a list in place of a name", `server_keys: [{name: [job]}]`, `line 1: server_keys[0].name: it must be text`},
		{"a mistyped field", "users:\n  - emial: ada@example.com", `line 2: users[0]: there is no field "emial"; the fields are email, password, `},
		{"a mistyped field at the top", `usres: []`, `line 1: there is no field "usres"; the fields are seed, users, server_keys`},
		{"a field twice", "seed: 1\nseed: 2", `line 2: the field seed is there twice`},
		{"a word in place of a boolean", "users:\n- anonymous: maybe", `line 2: users[0].anonymous: it must be true or false`},
		{"a list in place of the value", `seed: [1]`, `line 1: seed: it must be text or a number`},
		{"an infinite value", `seed: .inf`, `line 1: seed: it must be text or a number`},
		{"a list in place of the seed", `- users`, `line 1: it must have fields; the fields are seed, users, server_keys`},
		{"no YAML", "users: [\n", `line 1: `},
		{"two documents", "users: []\n---\nusers: []\n", `line 2: there is a second document`},
		{"JSON", `{"users": [{"email": "ada@example.com", "password": 12345678}]}`, `line 1: users[0].password: put quotes around it`},

		{"an address twice", "users:\n  - {email: a@example.com, password: secret}\n  - {email: b@example.com, password: secret}\n  - {email: a@example.com, password: secret}",
			`line 4: users[2]: identity is taken: a@example.com is users[0]`},
		{"a name twice", "server_keys:\n  - name: a\n  - name: b\n  - name: a", `line 4: server_keys[2]: key name is taken: a is keys[0]`},
		{"a user without a password", "users:\n  - email: ada@example.com\n", `line 2: users[0]: an e-mail address needs a password`},
		{"too short a password", "users:\n  - email: ada@example.com\n    password: short\n", `line 2: users[0]: password must have 6 to 128 characters`},
		{"a name with a blank", "users:\n  - email: ada@example.com\n    password: secret\n    keys:\n      - name: a\n      - name: b c\n", `line 6: users[0]: keys[1]: `},
		{"a node in itself", "users: &a\n- keys: *a", `line 1: users[0].keys: it contains itself`},
		{"fields in themselves", "users:\n- &a {<<: *a}", `line 2: users[0]: it contains itself`},
		{"a list of merges", "users:\n- <<: [1]", `line 2: users[0]: << must be followed by`},
		{"an alias", "users:\n  - &ada {email: ada@example.com, password: secret}\n  - *ada\n", `line 3: users[1]: identity is taken`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSeed([]byte(tt.seed))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "12345678") || strings.Contains(err.Error(), "json:")) {
				t.Errorf("the error has a value in it, or speaks of JSON: %v", err)
			}
		})
	}
}

func TestASeedCanUseAllOfYAML(t *testing.T) {
	ada := appservices.SeedUser{Email: "ada@example.com", Password: "12345678", Disabled: true, Keys: []appservices.SeedKey{{Name: "laptop", Disabled: true}}}
	eve := ada
	eve.Email = "eve@example.com"
	for _, tt := range []struct {
		name, seed string
		want       appservices.Seed
	}{
		{"nothing", "", appservices.Seed{}},
		{"a comment", "# later\n", appservices.Seed{}},
		{"fields without a value", "users:\nserver_keys: null\nseed:\n", appservices.Seed{}},
		{"the words of YAML 1.1", "users:\n- email: ada@example.com\n  password: '12345678'\n  disabled: yes\n  keys: [{name: laptop, disabled: On}]",
			appservices.Seed{Users: []appservices.SeedUser{ada}}},
		{"a word that is a name", "server_keys: [{name: yes}]", appservices.Seed{ServerKeys: []appservices.SeedKey{{Name: "yes"}}}},
		{"an anchor and a merge", "users:\n- &ada\n  email: ada@example.com\n  password: \"12345678\"\n  disabled: true\n  keys: [{name: laptop, disabled: true}]\n- <<: *ada\n  email: eve@example.com",
			appservices.Seed{Users: []appservices.SeedUser{ada, eve}}},
		{"a value that is a number", "seed: 42", appservices.Seed{Value: "42"}},
		{"a mark and the line ends of Windows", "\ufeffseed: a b\r\nusers: []\r\n", appservices.Seed{Value: "a b", Users: []appservices.SeedUser{}}},
		{"JSON", `{"seed": "x", "server_keys": [{"name": "job"}]}`, appservices.Seed{Value: "x", ServerKeys: []appservices.SeedKey{{Name: "job"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := parseSeed([]byte(tt.seed))
			if err != nil || !reflect.DeepEqual(doc.Seed, tt.want) {
				t.Errorf("got %+v, %v, want %+v", doc, err, tt.want)
			}
		})
	}
}

func FuzzASeedIsReadOrRefused(f *testing.F) {
	f.Add("users: [{email: ada@example.com, password: correct horse, keys: [{name: laptop}]}]")
	f.Add("users: &a [*a]")
	f.Add("users: [&a {<<: *a}]")
	f.Add("a: &a [b, b]\nusers: [<<: *a]")
	f.Fuzz(func(t *testing.T, seed string) {
		doc, err := parseSeed([]byte(seed))
		if err == nil && doc.root == nil && doc.HasKeys() {
			t.Error("a seed of nothing has keys")
		}
	})
}
