package appservices_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

const seedJSON = `{
	"users": [
		{"email": "ada@example.com", "password": "hunter22",
			"identities": [{"provider": "custom-token", "subject": "42"}],
			"keys": [{"name": "laptop"}, {"name": "lost", "disabled": true}]},
		{"email": "bob@example.com", "password": "hunter22", "disabled": true, "keys": [{"name": "laptop"}]},
		{"identities": [{"provider": "oauth2-google", "subject": "carl"}], "keys": [{"name": "phone"}]},
		{"anonymous": true}
	],
	"server_keys": [{"name": "job"}, {"name": "old-job", "disabled": true}]
}`

func parseSeed(t *testing.T, s string) appservices.Seed {
	t.Helper()
	seed, err := appservices.ParseSeed([]byte(s))
	must(t, err)
	return seed
}

// seed makes the users and keys of a seed in the double.
func (d *double) seed(seed appservices.Seed) appservices.Seeded {
	d.t.Helper()
	seeded, err := d.handler.Seed(d.t.Context(), "demo-abcde", seed)
	must(d.t, err)
	return seeded
}

func TestSeededUsersAndKeysWorkAsIfClientsHadMadeThem(t *testing.T) {
	d := newDouble(t, &appservices.Options{ManualConfirmation: true})
	seeded := d.seed(parseSeed(t, seedJSON))
	adas, bobs, carls, anonymous := seeded.Users[0], seeded.Users[1], seeded.Users[2], seeded.Users[3]

	ada := d.loginEmail("ada@example.com")
	if ada.user != adas.ID || adas.Email != "ada@example.com" {
		t.Errorf("logged in as %s, and the seed made %v", ada.user, adas)
	}
	var listed []object
	must(t, json.Unmarshal(d.keys("GET", "", ada.refresh, nil).want(200).body, &listed))
	want := []object{
		{"_id": adas.Keys[0].ID, "name": "laptop", "disabled": false},
		{"_id": adas.Keys[1].ID, "name": "lost", "disabled": true},
	}
	if !reflect.DeepEqual(listed, want) {
		t.Errorf("the keys are %v, want %v", listed, want)
	}
	identities := d.profile(ada.access)["identities"].([]any)
	if len(identities) != 2 || identities[1].(object)["provider_type"] != "custom-token" || identities[1].(object)["id"] != "42" {
		t.Errorf("the identities are %v", identities)
	}

	for _, tt := range []struct {
		key  appservices.SeededKey
		user string // empty if the login is refused
	}{
		{adas.Keys[0], adas.ID}, {adas.Keys[1], ""}, {bobs.Keys[0], ""}, {carls.Keys[0], carls.ID},
		{seeded.ServerKeys[0], seeded.ServerKeys[0].ID}, {seeded.ServerKeys[1], ""},
	} {
		r := d.tryLogin("api-key", object{"key": tt.key.Token})
		if tt.user == "" {
			r.want(401)
		} else if got := r.tokens().user; got != tt.user {
			t.Errorf("%v logs in as %s, want %s", tt.key, got, tt.user)
		}
	}
	d.tryLogin("local-userpass", credentials("bob@example.com", password)).refused(401, "UserDisabled", "unauthorized")
	if u := anonymous.User; len(u.Identities) != 1 || u.Identities[0].Provider != latchkey.ProviderAnonymous {
		t.Errorf("the anonymous user is %v", u)
	}
}

func TestSeededMatchesTheStore(t *testing.T) {
	d := newDouble(t, nil)
	seeded := d.seed(parseSeed(t, seedJSON))
	keysOf := func(keys []appservices.SeededKey) (all []latchkey.Key) {
		for _, k := range keys {
			if k.ID != appservices.KeyObjectID(k.Key) || k.Name != k.Key.Name {
				t.Errorf("%v is %v", k, k.Key)
			}
			all = append(all, k.Key)
		}
		return all
	}
	must(t, d.store.View(t.Context(), func(tx *latchkey.Tx) error {
		for _, u := range seeded.Users {
			user, err := tx.User(u.User.ID)
			must(t, err)
			keys, err := tx.Keys(user.ID)
			must(t, err)
			if !reflect.DeepEqual(user, u.User) || !sameKeys(keys, keysOf(u.Keys)) || u.ID != appservices.UserObjectID(user) {
				t.Errorf("the store has %v with %v, and Seeded %v", user, keys, u)
			}
		}
		keys, err := tx.Keys(latchkey.ServerOwner)
		if !sameKeys(keys, keysOf(seeded.ServerKeys)) {
			t.Errorf("the store has the server keys %v, and Seeded %v", keys, seeded.ServerKeys)
		}
		return err
	}))
}

func TestTheJSONOfSeededHasTheIDsAndTokens(t *testing.T) {
	d := newDouble(t, nil)
	seeded := d.seed(parseSeed(t, `{"users":[{"email":"ada@example.com","password":"hunter22","keys":[{"name":"laptop"}]},{"anonymous":true}]}`))
	u := seeded.Users
	want := fmt.Sprintf(`{"app_id":"demo-abcde","users":[{"id":%q,"email":"ada@example.com","keys":[{"id":%q,"name":"laptop","token":%q}]},`+
		`{"id":%q,"keys":[]}],"server_keys":[]}`, u[0].ID, u[0].Keys[0].ID, u[0].Keys[0].Token, u[1].ID)
	got, err := seeded.TokensJSON()
	must(t, err)
	var compact bytes.Buffer
	if err := json.Compact(&compact, got); err != nil || compact.String() != want {
		t.Errorf("got %s, %v; want %s", compact.String(), err, want)
	}
}

func TestAFailedSeedChangesNothing(t *testing.T) {
	d := newDouble(t, nil)
	d.signUp("carl@example.com")
	d.register("dora@example.com") // nobody has logged in with it
	keys21 := `{"name":"key"}`
	for i := range 20 {
		keys21 += fmt.Sprintf(`,{"name":"key-%d"}`, i)
	}
	before, err := d.store.Stats(t.Context())
	must(t, err)
	for _, tt := range []struct {
		name, seed string
		want       error
	}{
		{"a user who is there", `{"users":[{"email":"ada@example.com","password":"hunter22"},{"email":"carl@example.com","password":"hunter22"}]}`, latchkey.ErrIdentityTaken},
		{"an address that is registered", `{"users":[{"email":"ada@example.com","password":"hunter22"},{"email":"dora@example.com","password":"hunter22"}]}`, latchkey.ErrIdentityTaken},
		{"too many keys", `{"users":[{"email":"ada@example.com","password":"hunter22","keys":[` + keys21 + `]}]}`, latchkey.ErrTooManyKeys},
		{"an identity that cannot be", `{"users":[{"email":"ada@example.com","password":"hunter22"},{"identities":[{"provider":"no-such","subject":"1"}]}]}`, latchkey.ErrInvalidIdentity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := d.handler.Seed(t.Context(), "demo-abcde", parseSeed(t, tt.seed)); !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			after, err := d.store.Stats(t.Context())
			must(t, err)
			if after.Sequence != before.Sequence {
				t.Errorf("the store has changed")
			}
			d.tryLogin("local-userpass", credentials("ada@example.com", password)).want(401)
		})
	}
}

func TestInvalidSeedsAreRefused(t *testing.T) {
	long := strings.Repeat("x", 129)
	for _, s := range []string{
		``, `[]`, `{"usres":[]}`, `{"users":[{"eamil":"ada@example.com"}]}`, `{} {}`, `{"users":{}}`,
		`{"seed":true}`, `{"seed":["a"]}`, `{"seed":{}}`,
		`{"users":[{}]}`,
		`{"users":[{"disabled":true}]}`,
		`{"users":[{"email":"ada@example.com"}]}`,
		`{"users":[{"email":"ada@example.com","password":"12345"}]}`,
		`{"users":[{"email":"ada@example.com","password":"` + long + `"}]}`,
		`{"users":[{"email":"` + long + `","password":"hunter22"}]}`,
		`{"users":[{"password":"hunter22","identities":[{"provider":"custom-token","subject":"1"}]}]}`,
		`{"users":[{"anonymous":true,"email":"ada@example.com","password":"hunter22"}]}`,
		`{"users":[{"anonymous":true,"identities":[{"provider":"custom-token","subject":"1"}]}]}`,
		`{"users":[{"anonymous":true,"keys":[{"name":"a"}]}]}`,
		`{"users":[{"identities":[{"provider":"local-userpass","subject":"ada@example.com"}]}]}`,
		`{"users":[{"identities":[{"provider":"anon-user","subject":"1"}]}]}`,
		`{"users":[{"identities":[{"provider":"api-key","subject":"1"}]}]}`,
		`{"users":[{"email":"ada@example.com","password":"hunter22","keys":[{"name":"Ada's laptop"}]}]}`,
		`{"server_keys":[{"name":""}]}`,
		`{"server_keys":[{"disabled":true}]}`,
		`{"server_keys":["job"]}`,
		`{"users":[{"email":"ada@example.com","password":"hunter22"},{"email":"ada@example.com","password":"hunter22"}]}`,
		`{"users":[{"identities":[{"provider":"custom-token","subject":"1"}]},{"identities":[{"provider":"custom-token","subject":"1"}]}]}`,
		`{"users":[{"email":"ada@example.com","password":"hunter22","keys":[{"name":"a"},{"name":"a"}]}]}`,
		`{"server_keys":[{"name":"a"},{"name":"b"},{"name":"a"}]}`,
	} {
		if _, err := appservices.ParseSeed([]byte(s)); !errors.Is(err, appservices.ErrInvalidSeed) {
			t.Errorf("%s: got error %v, want ErrInvalidSeed", s, err)
		}
	}
	d := newDouble(t, nil)
	if _, err := d.handler.Seed(t.Context(), "demo-abcde", appservices.Seed{Users: []appservices.SeedUser{{}}}); !errors.Is(err, appservices.ErrInvalidSeed) {
		t.Errorf("a seed made in Go: got error %v, want ErrInvalidSeed", err)
	}
}

func TestASeedsValueIsAStringOrANumber(t *testing.T) {
	for s, want := range map[string]appservices.SeedValue{
		`{"seed":"a b"}`: "a b", `{"seed":42}`: "42", `{"seed":"42"}`: "42", `{"seed":-1.50}`: "-1.50", `{}`: "", `{"seed":""}`: "",
	} {
		if got := parseSeed(t, s).Value; got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
}

func TestTheSameValueMakesTheSameIDsAndTokens(t *testing.T) {
	// The seed has so many keys that all processors hash.
	seed := parseSeed(t, seedJSON)
	for i := range 15 {
		seed.Users[0].Keys = append(seed.Users[0].Keys, appservices.SeedKey{Name: fmt.Sprint("key-", i)})
	}
	run := func(value appservices.SeedValue, procs int) appservices.Seeded {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		clock := appservices.NewClock(appservices.SeedTime)
		storeRand, handlerRand := appservices.Deterministic(value)
		store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, Now: clock.Now, TestClock: true, InsecureRand: storeRand})
		must(t, err)
		t.Cleanup(func() { must(t, store.Close()) })
		return serve(t, store, clock, &appservices.Options{InsecureRand: handlerRand}).seed(seed)
	}
	first := run("1", 1)
	for _, procs := range []int{1, 2, 8} {
		if again := run("1", procs); !reflect.DeepEqual(again, first) {
			t.Errorf("on %d processors another run makes\n%v\nand the first made\n%v", procs, again, first)
		}
	}
	var bytes [2][32]byte
	storeRand, handlerRand := appservices.Deterministic("1")
	for i, r := range []io.Reader{storeRand, handlerRand} {
		_, err := io.ReadFull(r, bytes[i][:])
		must(t, err)
	}
	if bytes[0] == bytes[1] {
		t.Error("the store and the handler draw the same")
	}
	other := run("2", 1)
	for i, u := range other.Users {
		if u.ID == first.Users[i].ID || u.User.ID == first.Users[i].User.ID {
			t.Errorf("another value makes the same user %v", u)
		}
		for j, k := range u.Keys {
			if k.ID == first.Users[i].Keys[j].ID || k.Token == first.Users[i].Keys[j].Token {
				t.Errorf("another value makes the same key %v", k)
			}
		}
	}
}

func TestASeedIsForOneApp(t *testing.T) {
	one, other := newDouble(t, nil), newDouble(t, nil)
	stores := map[string]*latchkey.Store{"one": one.store, "other": other.store}
	h, err := appservices.New(nil, &appservices.Options{AppIDs: []string{"one", "other"}, OpenApp: opener(stores)})
	must(t, err)
	seed := parseSeed(t, `{"server_keys":[{"name":"job"}]}`)
	_, err = h.Seed(t.Context(), "one", seed)
	must(t, err)
	for appID, want := range map[string]uint64{"one": 1, "other": 0} {
		stats, err := stores[appID].Stats(t.Context())
		if err != nil || stats.Keys != want {
			t.Errorf("%s has %d keys, error %v; want %d", appID, stats.Keys, err, want)
		}
	}
	for _, appID := range []string{"", "third"} {
		if _, err := h.Seed(t.Context(), appID, seed); !errors.Is(err, appservices.ErrNoApp) {
			t.Errorf("Seed(%q): got error %v, want ErrNoApp", appID, err)
		}
		if _, err := h.IsEmpty(t.Context(), appID); !errors.Is(err, appservices.ErrNoApp) {
			t.Errorf("IsEmpty(%q): got error %v, want ErrNoApp", appID, err)
		}
	}
	for appID, want := range map[string]bool{"one": false, "other": true} {
		if empty, err := h.IsEmpty(t.Context(), appID); err != nil || empty != want {
			t.Errorf("IsEmpty(%s): got %v, %v", appID, empty, err)
		}
	}
	listed := newDouble(t, &appservices.Options{AppIDs: []string{"demo-abcde"}})
	if _, err := listed.handler.Seed(t.Context(), "third", seed); !errors.Is(err, appservices.ErrNoApp) {
		t.Errorf("the app third is not listed: got error %v, want ErrNoApp", err)
	}
	// The ID can be empty, because all app IDs are names of one app.
	if _, err := one.handler.Seed(t.Context(), "", parseSeed(t, `{"server_keys":[{"name":"job-2"}]}`)); err != nil {
		t.Error(err)
	}
}

func TestAnAppIsEmptyUntilThereIsAUserAnAddressOrAServerKey(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(d *double)
		want bool
	}{
		{"nothing was done", func(*double) {}, true},
		{"an address has registered", func(d *double) { d.register("ada@example.com") }, false},
		{"a user has logged in", func(d *double) { d.signUp("ada@example.com") }, false},
		{"the only user was deleted", func(d *double) {
			d.send("DELETE", prefix+"/auth/delete", d.signUp("ada@example.com").access, nil).noContent()
		}, true},
		{"the only user was deleted by an administrator", func(d *double) {
			d.signUp("ada@example.com")
			must(t, d.store.DeleteUser(t.Context(), d.user("ada@example.com").ID))
		}, true},
		{"there is a server key", func(d *double) { d.serverKey("job") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, nil)
			tt.do(d)
			if empty, err := d.handler.IsEmpty(t.Context(), ""); err != nil || empty != tt.want {
				t.Errorf("got %v, %v; want %v", empty, err, tt.want)
			}
		})
	}
}

// A schema is a part of JSON Schema that is enough for a seed.
type schema struct {
	Type       any                `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Additional *bool              `json:"additionalProperties"`
	Items      *schema            `json:"items"`
	Ref        string             `json:"$ref"`
	Enum       []string           `json:"enum"`
	Defs       map[string]*schema `json:"$defs"`
}

func TestTheSchemaHasTheFieldsOfASeed(t *testing.T) {
	b, err := os.ReadFile("seed.schema.json")
	must(t, err)
	var root schema
	must(t, json.Unmarshal(b, &root))

	var check func(where string, s *schema, typ reflect.Type)
	check = func(where string, s *schema, typ reflect.Type) {
		if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
			s = root.Defs[name]
		}
		var want any
		switch {
		case typ == reflect.TypeFor[appservices.SeedValue]():
			want = []any{"string", "number"}
		case typ == reflect.TypeFor[latchkey.Provider]():
			if len(s.Enum) == 0 {
				t.Errorf("%s has no enum", where)
			}
		case typ.Kind() == reflect.Struct:
			want = "object"
		case typ.Kind() == reflect.Slice:
			want = "array"
		case typ.Kind() == reflect.Bool:
			want = "boolean"
		default:
			want = typ.Kind().String()
		}
		if !reflect.DeepEqual(s.Type, want) {
			t.Errorf("%s has the type %v, want %v", where, s.Type, want)
		}
		switch typ.Kind() {
		case reflect.Slice:
			check(where+"[]", s.Items, typ.Elem())
		case reflect.Struct:
			if s.Additional == nil || *s.Additional {
				t.Errorf("%s has room for other fields", where)
			}
			if len(s.Properties) != typ.NumField() {
				t.Errorf("%s has %d fields, and the struct %d", where, len(s.Properties), typ.NumField())
			}
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				if field := s.Properties[name]; field == nil {
					t.Errorf("%s has no field %q", where, name)
				} else {
					check(where+"."+name, field, typ.Field(i).Type)
				}
			}
		}
	}
	check("seed", &root, reflect.TypeFor[appservices.Seed]())
}

// opener returns an OpenApp that opens the given stores.
func opener(stores map[string]*latchkey.Store) func(context.Context, string) (*latchkey.Store, error) {
	return func(_ context.Context, appID string) (*latchkey.Store, error) { return stores[appID], nil }
}

func sameKeys(a, b []latchkey.Key) bool {
	return slices.EqualFunc(a, b, func(x, y latchkey.Key) bool { return reflect.DeepEqual(x, y) })
}
