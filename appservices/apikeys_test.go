package appservices_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/memory"
)

func TestTheWholeLifeOfAKey(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	created := d.keys("POST", "", u.refresh, object{"name": "laptop"}).want(http.StatusCreated).json()
	id, key := created["_id"].(string), created["key"].(string)
	if len(created) != 4 || created["name"] != "laptop" || created["disabled"] != false || key == "" {
		t.Errorf("the new key is %v", created)
	}
	if k := d.loginKey(key); k.user != u.user {
		t.Errorf("the key logs in %s, want %s", k.user, u.user)
	}
	for range 2 { // the second call changes nothing
		d.keys("PUT", "/"+id+"/disable", u.refresh, nil).noContent()
		d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
		if got := d.keys("GET", "/"+id, u.refresh, nil).json()["disabled"]; got != true {
			t.Errorf("the disabled key shows disabled %v", got)
		}
	}
	for range 2 {
		d.keys("PUT", "/"+id+"/enable", u.refresh, nil).noContent()
		d.loginKey(key)
	}
	d.keys("DELETE", "/"+id, u.refresh, nil).noContent()
	d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
	if got := string(d.keys("GET", "", u.refresh, nil).body); got != "[]" {
		t.Errorf("after the deletion the keys are %s", got)
	}
	if n := d.records('k'); n != 0 {
		t.Errorf("%d records are left after the deletion of the key", n)
	}
}

func TestKeysAreListedInTheOrderOfCreation(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	var want []string
	for i := range 5 {
		name := fmt.Sprint("key-", 9-i)
		d.createKey(u.refresh, name)
		want = append(want, fmt.Sprintf(`"name":%q`, name))
		d.clock.Advance(time.Hour)
	}
	body := string(d.keys("GET", "", u.refresh, nil).body)
	last := 0
	for _, name := range want {
		at := strings.Index(body, name)
		if at < last {
			t.Fatalf("%s is not in the right place in %s", name, body)
		}
		last = at
	}
}

func TestErrorsOfKeyCalls(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	d.createKey(u.refresh, "taken")
	full := d.signUp("full@example.com")
	for i := range 20 {
		d.createKey(full.refresh, fmt.Sprint("key-", i))
	}
	const alphabet = "can only contain ASCII letters, numbers, underscores, and hyphens"
	const required = "'name' is a required string"
	for _, tt := range []struct {
		name         string
		refresh      string
		method, path string
		body         any
		status       int
		code, text   string
	}{
		{"fetch, no such key", u.refresh, "GET", "/65a1b2c3d4e5f60718293a4f", nil, 404, "APIKeyNotFound", "API key not found"},
		{"delete, no such key", u.refresh, "DELETE", "/65a1b2c3d4e5f60718293a4f", nil, 404, "APIKeyNotFound", "API key not found"},
		{"enable, no such key", u.refresh, "PUT", "/65a1b2c3d4e5f60718293a4f/enable", nil, 404, "APIKeyNotFound", "API key not found"},
		{"disable, no such key", u.refresh, "PUT", "/65a1b2c3d4e5f60718293a4f/disable", nil, 404, "APIKeyNotFound", "API key not found"},
		{"a percent sign", u.refresh, "POST", "", object{"name": "%s"}, 400, "InvalidParameter", alphabet},
		{"spaces", u.refresh, "POST", "", object{"name": "My very cool key"}, 400, "InvalidParameter", alphabet},
		{"signs", u.refresh, "POST", "", object{"name": "$()!$"}, 400, "InvalidParameter", alphabet},
		{"a letter that is not ASCII", u.refresh, "POST", "", object{"name": "é"}, 400, "InvalidParameter", alphabet},
		{"128 letters that are not ASCII", u.refresh, "POST", "", object{"name": strings.Repeat("é", 128)}, 400, "InvalidParameter", alphabet},
		{"300 letters that are not ASCII", u.refresh, "POST", "", object{"name": strings.Repeat("é", 300)}, 400, "InvalidParameter", alphabet},
		{"257 letters", u.refresh, "POST", "", object{"name": strings.Repeat("a", 257)}, 400, "InvalidParameter", "'name' must have at most 256 characters"},
		{"an ObjectId for a name", u.refresh, "POST", "", object{"name": "5f60207f14dfb25d23101102"}, 400, "InvalidParameter", "'name' must not have the form of an ID"},
		{"an empty name", u.refresh, "POST", "", object{"name": ""}, 400, "", required},
		{"no name", u.refresh, "POST", "", object{}, 400, "", required},
		{"no body", u.refresh, "POST", "", nil, 400, "", required},
		{"a number for a name", u.refresh, "POST", "", object{"name": 7}, 400, "", required},
		{"null for a name", u.refresh, "POST", "", object{"name": nil}, 400, "", required},
		{"a name that is taken", u.refresh, "POST", "", object{"name": "taken"}, 409, "APIKeyAlreadyExists", "API key with name already exists"},
		{"a name that is taken, of a 21st key", full.refresh, "POST", "", object{"name": "key-7"}, 409, "APIKeyAlreadyExists", "API key with name already exists"},
		{"the 21st key", full.refresh, "POST", "", object{"name": "one-more"}, 400, "BadRequest", "user has reached the limit of 20 API keys"},
		{"a body that is no JSON", u.refresh, "POST", "", "name=laptop", 400, "BadRequest", "the body is not a JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.keys(tt.method, tt.path, tt.refresh, tt.body).refused(tt.status, tt.code, tt.text)
		})
	}
}

func TestExpiredKeysDoNotCountTowardsTheLimit(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	for i := range 3 {
		_, _, err := d.store.CreateKey(t.Context(), d.user("ada@example.com").ID, latchkey.KeySpec{
			Name: fmt.Sprint("visit-", i), Expires: start.Add(time.Hour),
		})
		must(t, err)
	}
	d.clock.Advance(2 * time.Hour)
	for i := range 20 {
		d.createKey(u.refresh, fmt.Sprint("key-", i))
	}
	d.keys("POST", "", u.refresh, object{"name": "one-more"}).refused(400, "BadRequest", "user has reached the limit of 20 API keys")
}

func TestAMalformedKeyIDIsNotFound(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	// realm-web puts any text into the path without escaping it.
	for _, id := range []string{
		"", "laptop", "enable", "disable", id[1:], id + "0", id + "%20", "a%2Fb", "%2F", id + "%2Fenable", "%00", "..", "%C3%A9",
	} {
		for _, call := range everyKeyCall(id)[2:] {
			d.keys(call.method, call.path, "", nil).refused(401, "", "must authenticate first")
			d.keys(call.method, call.path, u.refresh, nil).refused(404, "APIKeyNotFound", "API key not found")
		}
	}
	d.keys("GET", "/"+id, u.refresh, nil).want(http.StatusOK)
}

func TestAKeyIDCanHaveUpperCaseDigits(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	for _, call := range everyKeyCall(strings.ToUpper(id))[2:] {
		d.keys(call.method, call.path, u.refresh, nil).want(call.status)
	}
}

func TestConcurrentCreationsStopAtTwentyKeys(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	statuses := make(chan int, 30)
	var wg sync.WaitGroup
	for i := range cap(statuses) {
		wg.Go(func() {
			r := httptest.NewRequest("POST", prefix+"/auth/api_keys", strings.NewReader(fmt.Sprintf(`{"name":"key-%d"}`, i)))
			r.Header.Set("Authorization", "Bearer "+u.refresh)
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			statuses <- w.Code
		})
	}
	wg.Wait()
	close(statuses)
	got := map[int]int{}
	for status := range statuses {
		got[status]++
	}
	if want := map[int]int{http.StatusCreated: 20, http.StatusBadRequest: 10}; !reflect.DeepEqual(got, want) {
		t.Errorf("the statuses are %v, want %v", got, want)
	}
	var list []object
	must(t, json.Unmarshal(d.keys("GET", "", u.refresh, nil).body, &list))
	if len(list) != 20 {
		t.Errorf("there are %d keys", len(list))
	}
}

func TestKeyNamesOfTheSDKsTestSuitesAreAccepted(t *testing.T) {
	clock := appservices.NewClock(start)
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
		Cost: latchkey.LightCost, Now: clock.Now, TestClock: true, AppServicesNames: true,
	})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	d := serve(t, store, clock, nil)
	u := d.signUp("ada@example.com")
	for _, name := range []string{
		"my-key", "foo", "key-0", "myApiKey", "apiKeyName1", "key_test", "Name_of_the_API_Key", "65a1b2c3d4e5f60718293a4f",
		"01a21b42-3c1d-7000-8000-0123aceba7ff", "_", "-", strings.Repeat("a", 256),
	} {
		if got := d.keys("POST", "", u.refresh, object{"name": name}).want(http.StatusCreated).json()["name"]; got != name {
			t.Errorf("the name %q became %v", name, got)
		}
	}
}

func TestAKeyExistsOnlyForItsOwner(t *testing.T) {
	d := newDouble(t, nil)
	ada, bob := d.signUp("ada@example.com"), d.signUp("bob@example.com")
	id, key := d.createKey(ada.refresh, "laptop")
	d.createKey(bob.refresh, "laptop") // two users can use the same name
	for _, call := range everyKeyCall(id)[2:] {
		d.keys(call.method, call.path, bob.refresh, nil).refused(404, "APIKeyNotFound", "API key not found")
	}
	d.keys("GET", "/"+id, ada.refresh, nil).want(http.StatusOK)
	d.loginKey(key)
}

func TestTheNameOfADeletedKeyCanBeReused(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	d.keys("DELETE", "/"+id, u.refresh, nil).noContent()
	d.createKey(u.refresh, "laptop")
}

func TestAFullEngineTakesDeletions(t *testing.T) {
	engine := memory.NewShared()
	store, err := latchkey.OpenWith(engine, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	d := serve(t, store, appservices.NewClock(start), nil)
	ada, eve := d.signUp("ada@example.com"), d.signUp("eve@example.com")
	id, key := d.createKey(ada.refresh, "laptop")
	d.loginKey(key)
	engine.SetFull(true)
	d.keys("PUT", "/"+id+"/disable", ada.refresh, nil).want(http.StatusInsufficientStorage)
	d.keys("DELETE", "/"+id, ada.refresh, nil).noContent()
	d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
	d.send("DELETE", prefix+"/auth/delete", eve.access, nil).noContent()
	engine.SetFull(false)
	if r := d.refresh(eve.refresh); r.status == http.StatusCreated {
		t.Error("the session of a deleted user goes on")
	}
	for kind, want := range map[byte]int{'k': 0, 'a': 1} {
		if n := d.records(kind); n != want {
			t.Errorf("%d records %c are left, want %d", n, kind, want)
		}
	}
}

// forbidden fails the test unless all six calls get status 403 without a body, as in the hosted
// service.
func (d *double) forbidden(refresh string) {
	d.t.Helper()
	for _, call := range everyKeyCall("65a1b2c3d4e5f60718293a4f") {
		r := d.keys(call.method, call.path, refresh, call.body).want(http.StatusForbidden)
		if ct, ok := r.header["Content-Type"]; ok || len(r.body) > 0 {
			d.t.Errorf("%s %s is refused with the type %q and the body %q", call.method, call.path, ct, r.body)
		}
	}
}

func TestForbiddenKeyCallsGetNoBody(t *testing.T) {
	d := newDouble(t, nil)
	_, serverKey := d.serverKey("backup")
	_, key := d.createKey(d.signUp("ada@example.com").refresh, "laptop")
	t.Run("an anonymous user", func(t *testing.T) { d.forbidden(d.anonymous().refresh) })
	t.Run("a server key's user", func(t *testing.T) { d.forbidden(d.loginKey(serverKey).refresh) })
	t.Run("a session that a user key opened", func(t *testing.T) { d.forbidden(d.loginKey(key).refresh) })
}

func TestExplainForbiddenAddsABody(t *testing.T) {
	d := newDouble(t, &appservices.Options{ExplainForbidden: true})
	d.keys("GET", "", d.anonymous().refresh, nil).refused(403, "", "this session may not manage API keys")
}

func TestLinkingAnEmailLetsAnAnonymousSessionManageKeys(t *testing.T) {
	d := newDouble(t, nil)
	u := d.anonymous()
	d.register("ada@example.com")
	d.link(u.access, "local-userpass", credentials("ada@example.com", password)).want(http.StatusOK)
	d.createKey(u.refresh, "laptop")
}

func TestAllowKeySessionsLetsKeySessionsManageKeys(t *testing.T) {
	d := newDouble(t, &appservices.Options{AllowKeySessions: true})
	_, key := d.createKey(d.signUp("ada@example.com").refresh, "laptop")
	d.createKey(d.loginKey(key).refresh, "phone")
	_, serverKey := d.serverKey("backup")
	d.forbidden(d.loginKey(serverKey).refresh)
}

func TestWithoutTheProviderKeysAreNeitherMadeNorEnabled(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	off := serve(t, d.store, d.clock, &appservices.Options{Providers: []latchkey.Provider{latchkey.ProviderLocalUserpass}})
	off.keys("POST", "", u.refresh, object{"name": "phone"}).bare()
	off.keys("PUT", "/"+id+"/disable", u.refresh, nil).noContent()
	off.keys("PUT", "/"+id+"/enable", u.refresh, nil).bare()
	if got := off.keys("GET", "/"+id, u.refresh, nil).want(http.StatusOK).json(); got["disabled"] != true {
		t.Errorf("the key is %v", got)
	}
	off.keys("DELETE", "/"+id, u.refresh, nil).noContent()
}

func TestKeysDoNotExpire(t *testing.T) {
	d := newDouble(t, nil)
	_, key := d.createKey(d.signUp("ada@example.com").refresh, "laptop")
	d.clock.Advance(100 * 365 * 24 * time.Hour)
	d.loginKey(key)
}

func TestTheKeysOfADisabledOrDeletedUserDoNotLogIn(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	must(t, d.store.DisableUser(t.Context(), d.user("ada@example.com").ID))
	d.tryLogin("api-key", object{"key": key}).refused(401, "UserDisabled", "unauthorized")
	must(t, d.store.DeleteUser(t.Context(), d.user("ada@example.com").ID))
	d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
}

func TestAnObjectIDIsTheTimeTheCounterAndTheEndOfTheUUID(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct{ name, id, want string }{
		{"version 7", "019b7ca9-8e78-7d3f-9f85-05049ab63b59", "695735a5" + "7c34fd049ab63b59"},
		{"another version", "a72ae4ce-b12e-8378-9f9c-8eb84d0960ce", "695735a5" + "9f9c8eb84d0960ce"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := uuid.MustParse(tt.id)
			if got := appservices.KeyObjectID(latchkey.Key{ID: id, Created: created}); got != tt.want {
				t.Errorf("the key's ID is %s, want %s", got, tt.want)
			}
			if got := appservices.UserObjectID(latchkey.User{ID: id, Created: created}); got != tt.want {
				t.Errorf("the user's ID is %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTheIDsOfKeysSortByCreation(t *testing.T) {
	d := newDouble(t, nil) // all keys are made in the same millisecond
	u := d.signUp("ada@example.com")
	var ids []string
	for i := range 20 {
		id, _ := d.createKey(u.refresh, fmt.Sprint("key-", i))
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("the IDs are %q", ids)
	}
}
