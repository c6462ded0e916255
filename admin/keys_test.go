package admin_test

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/latchkeytest"
	"github.com/latchkeydb/latchkey/tokenscan"
)

func TestAKeyGetsWhatTheBodySays(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	body := `{"name":"laptop","expires":"2090-01-31T18:00:00Z","scopes":["files:read","a"],"networks":["192.0.2.0/24"],"metadata":{"room":"4"}}`
	w := a.do("POST", userPath(user)+"/keys", body).is(201)
	made := get[admin.KeyWithToken](w)
	k := made.Key
	if k.Name != "laptop" || k.Owner != admin.Owner(user) || k.Expires.Year() != 2090 || !slices.Equal(k.Scopes, []string{"a", "files:read"}) ||
		fmt.Sprint(k.Networks) != "[192.0.2.0/24]" || k.Metadata["room"] != "4" || len(k.Tokens) != 1 || k.Disabled || k.Expired {
		t.Errorf("got %+v", k)
	}
	if w.Header().Get("Location") != keyPath(k.ID) || w.Header().Get("ETag") != k.ETag {
		t.Errorf("got the headers %v", w.Header())
	}
	a.loginIs(made.Token, latchkey.ErrNetworkNotAllowed)
	if got := get[admin.Key](a.do("GET", keyPath(k.ID), nil).is(200)); fmt.Sprint(got) != fmt.Sprint(k) {
		t.Errorf("then got %+v, want %+v", got, k)
	}

	server := get[admin.KeyWithToken](a.do("POST", "/v1/server-keys", `{"name":"job","group":"north"}`).is(201))
	if server.Key.Owner != admin.Owner(latchkey.ServerOwner) || server.Key.Group != "north" {
		t.Errorf("got %+v", server.Key)
	}
	a.loginIs(server.Token, nil)
}

func TestACreationThatBreaksARuleIsRefused(t *testing.T) {
	a := newAPIWith(t, latchkey.Options{MaxKeysPerUser: 1}, nil)
	user := a.newUser("ada")
	anonymous, err := a.store.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	a.must(err)
	a.newKey(user, "laptop")
	a.newServerKey(latchkey.KeySpec{Name: "job"})
	for _, tt := range []struct {
		path, body string
		status     int
		problem    string
	}{
		{userPath(user) + "/keys", `{"name":"phone"}`, 409, "too-many-keys"},
		{userPath(user) + "/keys", `{"name":"x","group":"north"}`, 422, "invalid-group"},
		{userPath(anonymous.ID) + "/keys", `{"name":"x"}`, 409, "anonymous-user"},
		{userPath(uuid.New()) + "/keys", `{"name":"x"}`, 404, "user-not-found"},
		{userPath(latchkey.ServerOwner) + "/keys", `{"name":"x"}`, 404, "user-not-found"},
		{"/v1/server-keys", `{"name":"job"}`, 409, "key-name-taken"},
		{"/v1/server-keys", `{"name":"x","networks":["::ffff:1.2.3.4/64"]}`, 422, "invalid-network"},
		{"/v1/server-keys", `{"name":"x","metadata":{"":"x"}}`, 422, "invalid-metadata"},
	} {
		a.do("POST", tt.path, tt.body).problem(tt.status, tt.problem)
	}
}

func TestAChangeOfAKeyHoldsForTheNextLogin(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, token := a.newKey(user, "laptop")
	a.loginIs(token, nil)
	all := `{"name":"phone","expires":"2090-01-01T00:00:00Z","scopes":["a"],"networks":["10.0.0.0/8"],"metadata":{"a":"b"}}`
	key := get[admin.Key](a.do("PATCH", keyPath(k.ID), all, "If-Match", "*").is(200))
	if key.Name != "phone" || key.Expires.IsZero() || len(key.Scopes) != 1 || len(key.Networks) != 1 || key.Metadata["a"] != "b" {
		t.Errorf("got %+v", key)
	}
	a.loginIs(token, latchkey.ErrNetworkNotAllowed)
	none := `{"expires":null,"scopes":[],"networks":[],"metadata":{}}`
	key = get[admin.Key](a.do("PATCH", keyPath(k.ID), none, "If-Match", key.ETag).is(200))
	if key.Name != "phone" || !key.Expires.IsZero() || len(key.Scopes) != 0 || len(key.Networks) != 0 || len(key.Metadata) != 0 {
		t.Errorf("got %+v", key)
	}
	a.loginIs(token, nil)
	a.do("PATCH", keyPath(k.ID), `{"disabled":true}`).is(200)
	a.loginIs(token, latchkey.ErrKeyDisabled)
	a.do("PATCH", keyPath(k.ID), `{"disabled":false}`, "If-Match", "*").is(200)
	a.loginIs(token, nil)
	a.do("PATCH", keyPath(k.ID), `{"group":"north"}`, "If-Match", "*").problem(422, "invalid-group")
	a.do("DELETE", keyPath(k.ID), nil).is(204)
	a.loginIs(token, latchkey.ErrInvalidToken)
	for _, method := range []string{"GET", "DELETE"} {
		a.do(method, keyPath(k.ID), nil).problem(404, "key-not-found")
	}
	a.do("PATCH", keyPath(k.ID), `{"disabled":true}`).problem(404, "key-not-found")
	a.do("POST", keyPath(k.ID)+"/rotate", nil, "If-Match", "*").problem(404, "key-not-found")
	a.do("GET", keyPath(k.ID)+"/export", nil).problem(404, "key-not-found")

	server, _ := a.newServerKey(latchkey.KeySpec{Name: "job"})
	if key := get[admin.Key](a.do("PATCH", keyPath(server.ID), `{"group":"north"}`, "If-Match", "*").is(200)); key.Group != "north" {
		t.Errorf("got %+v", key)
	}
}

func TestAChangeIsWholeOrNotAtAll(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, _ := a.newKey(user, "laptop")
	a.do("PATCH", keyPath(k.ID), `{"name":"phone","scopes":["a b"]}`, "If-Match", "*").problem(422, "invalid-scope")
	if key := get[admin.Key](a.do("GET", keyPath(k.ID), nil)); key.Name != "laptop" {
		t.Errorf("got %+v", key)
	}
	a.do("PATCH", userPath(user), `{"disabled":true,"group":"*"}`, "If-Match", "*").problem(422, "invalid-group")
	if u := get[admin.User](a.do("GET", userPath(user), nil)); u.Disabled {
		t.Errorf("got %+v", u)
	}
}

func TestANullEnablesNothing(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, token := a.newKey(user, "laptop")
	a.must(a.store.DisableKey(t.Context(), user, k.ID))
	for _, field := range []string{"name", "disabled", "scopes", "networks", "metadata", "group"} {
		a.do("PATCH", keyPath(k.ID), `{"`+field+`":null}`, "If-Match", "*").problem(400, "invalid-request")
	}
	a.do("PATCH", userPath(user), `{"disabled":null}`, "If-Match", "*").problem(400, "invalid-request")
	a.do("PATCH", "/v1/groups/north", `{"disabled":null}`, "If-Match", "*").problem(400, "invalid-request")
	a.do("PATCH", "/v1/groups/north", `{}`, "If-Match", "*").problem(400, "invalid-request")
	a.loginIs(token, latchkey.ErrKeyDisabled)
}

func TestAChangeUnderAnOldETagIsRefused(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, token := a.newKey(user, "laptop")
	read := get[admin.Key](a.do("GET", keyPath(k.ID), nil).is(200))
	owner := get[admin.User](a.do("GET", userPath(user), nil).is(200))

	a.loginIs(token, nil) // a use is no change
	first := get[admin.Key](a.do("PATCH", keyPath(k.ID), `{"name":"phone"}`, "If-Match", read.ETag).is(200))
	if first.ETag == read.ETag {
		t.Fatal("the ETag is the same after a change")
	}
	for _, tt := range []struct {
		method, path string
		body         any
	}{
		{"PATCH", keyPath(k.ID), `{"name":"tablet"}`},
		{"PATCH", keyPath(k.ID), `{"disabled":true}`}, // the caller has asked for it
		{"DELETE", keyPath(k.ID), nil},
		{"POST", keyPath(k.ID) + "/rotate", nil},
	} {
		for _, old := range []string{read.ETag, "W/" + first.ETag, "x", ""} {
			headers := []string{"If-Match", old}
			if old == "" {
				headers[1] = `"0"`
			}
			a.do(tt.method, tt.path, tt.body, headers...).problem(412, "changed-meanwhile")
		}
	}
	a.do("PATCH", keyPath(k.ID), `{"name":"tablet"}`, "If-Match", read.ETag+", "+first.ETag).is(200)

	a.do("PATCH", userPath(user), `{"group":"north"}`, "If-Match", owner.ETag).is(200)
	for _, tt := range []struct {
		method, path string
		body         any
	}{
		{"PATCH", userPath(user), `{"group":"south"}`},
		{"DELETE", userPath(user), nil},
		{"POST", userPath(user) + "/identities", `{"provider":"custom-token","subject":"1"}`},
		{"DELETE", userPath(user) + "/identities?provider=local-userpass&subject=ada", nil},
	} {
		a.do(tt.method, tt.path, tt.body, "If-Match", owner.ETag).problem(412, "changed-meanwhile")
	}
	a.loginIs(token, nil)
}

func TestAChangeNeedsAnETag(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, token := a.newKey(user, "laptop")
	for path, bodies := range map[string][]string{
		keyPath(k.ID): {`{"name":"x"}`, `{"expires":null}`, `{"scopes":[]}`, `{"networks":[]}`, `{"metadata":{}}`, `{"group":""}`,
			`{"disabled":false}`, `{}`, `{"disabled":true,"name":"x"}`, `{"disabled":true,"expires":null}`, `{"disabled":true,"scopes":[]}`,
			`{"disabled":true,"networks":[]}`, `{"disabled":true,"metadata":{}}`, `{"disabled":true,"group":""}`},
		userPath(user):              {`{"group":""}`, `{"metadata":{}}`, `{"disabled":false}`, `{"disabled":true,"group":"x"}`, `{"disabled":true,"metadata":{}}`},
		"/v1/groups/north":          {`{"disabled":false}`},
		keyPath(k.ID) + "/rotate":   {`{}`},
		keyPath(k.ID) + "/rotate?x": {`{"overlap_seconds":1}`},
	} {
		for _, body := range bodies {
			method := "PATCH"
			if strings.Contains(path, "rotate") {
				method = "POST"
			}
			a.do(method, path, body).problem(428, "precondition-required")
		}
	}
	a.loginIs(token, nil)
}

func TestDisablingNeedsNoETag(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, _ := a.newKey(user, "laptop")
	a.do("PATCH", keyPath(k.ID), `{"disabled":true}`).is(200)
	a.do("PATCH", userPath(user), `{"disabled":true}`).is(200)
	a.do("PATCH", "/v1/groups/north", `{"disabled":true}`).is(200)
	a.do("DELETE", keyPath(k.ID), nil).is(204)
	a.do("DELETE", userPath(user), nil).is(204)
}

func TestAnEnablingMustHaveSeenTheDisabling(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, token := a.newKey(user, "laptop")
	type entry struct {
		Disabled bool   `json:"disabled"`
		ETag     string `json:"etag"`
	}
	for _, path := range []string{keyPath(k.ID), userPath(user), "/v1/groups/north"} {
		read := func(w *answer) entry {
			return entry{strings.Contains(w.Body.String(), `"disabled":true`), w.Header().Get("ETag")}
		}
		first := read(a.do("PATCH", path, `{"disabled":true}`).is(200))
		a.do("PATCH", path, `{"disabled":false}`, "If-Match", first.ETag).is(200)
		second := read(a.do("PATCH", path, `{"disabled":true}`).is(200)) // by somebody else
		a.do("PATCH", path, `{"disabled":false}`, "If-Match", first.ETag).problem(412, "changed-meanwhile")
		if now := read(a.do("GET", path, nil).is(200)); !now.Disabled || now.ETag != second.ETag {
			t.Errorf("%s: got %+v", path, now)
		}
		a.do("PATCH", path, `{"disabled":false}`, "If-Match", second.ETag).is(200)
	}
	a.loginIs(token, nil)
}

func TestARotationReplacesTheToken(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	k, old := a.newKey(user, "laptop")
	read := get[admin.Key](a.do("GET", keyPath(k.ID), nil))
	w := a.do("POST", keyPath(k.ID)+"/rotate", `{"overlap_seconds":3600}`, "If-Match", read.ETag).is(200)
	second := get[admin.KeyWithToken](w)
	if len(second.Key.Tokens) != 2 || second.Key.Tokens[0].Ends.IsZero() || w.Header().Get("ETag") != second.Key.ETag {
		t.Errorf("got %+v", second.Key)
	}
	a.loginIs(old, nil)
	if k := get[admin.Key](a.do("GET", keyPath(k.ID), nil)); k.Tokens[0].LastUsed.IsZero() || !k.Tokens[1].LastUsed.IsZero() {
		t.Errorf("after a login with the old token: got %+v", k.Tokens)
	}
	a.loginIs(second.Token, nil)
	third := get[admin.KeyWithToken](a.do("POST", keyPath(k.ID)+"/rotate", nil, "If-Match", second.Key.ETag).is(200))
	a.loginIs(old, latchkey.ErrInvalidToken)
	a.loginIs(second.Token, latchkey.ErrInvalidToken)
	a.loginIs(third.Token, nil)

	server, old := a.newServerKey(latchkey.KeySpec{Name: "job"})
	rotated := get[admin.KeyWithToken](a.do("POST", keyPath(server.ID)+"/rotate", `{"overlap_seconds":60.0,"until_used":true}`, "If-Match", "*").is(200))
	a.loginIs(rotated.Token, nil)
	a.loginIs(old, latchkey.ErrInvalidToken)
	for _, body := range []string{`{"overlap_seconds":-1}`, `{"overlap_seconds":-9223372036854775808}`, `{"overlap_seconds":9223372036854775807}`, `{"until_used":true}`} {
		a.do("POST", keyPath(server.ID)+"/rotate", body, "If-Match", "*").problem(422, "invalid-rotation")
	}
	for _, body := range []string{`{"overlap_seconds":1.5}`, `{"overlap_seconds":"60"}`, `{"overlap_seconds":1e300}`} {
		a.do("POST", keyPath(server.ID)+"/rotate", body, "If-Match", "*").problem(400, "invalid-request")
	}
	a.loginIs(rotated.Token, nil)
}

func TestARotationThatIsRepeatedEndsNoToken(t *testing.T) {
	a := newAPI(t, nil)
	k, _ := a.newServerKey(latchkey.KeySpec{Name: "job"})
	read := get[admin.Key](a.do("GET", keyPath(k.ID), nil))
	rotated := get[admin.KeyWithToken](a.do("POST", keyPath(k.ID)+"/rotate", nil, "If-Match", read.ETag).is(200))
	a.do("POST", keyPath(k.ID)+"/rotate", nil, "If-Match", read.ETag).problem(412, "changed-meanwhile")
	a.loginIs(rotated.Token, nil)
}

func TestARepeatedCreationMakesNothing(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	for path, body := range map[string]string{userPath(user) + "/keys": `{"name":"laptop"}`, "/v1/server-keys": `{"name":"job","metadata":{"a":"b","c":"d"}}`} {
		first := get[admin.KeyWithToken](a.do("POST", path, body, "Idempotency-Key", path).is(201))
		hashes := get[admin.Stats](a.do("GET", "/v1/stats", nil)).Hashes
		again := get[admin.KeyWithToken](a.do("POST", path, body, "Idempotency-Key", path).is(200))
		if again.Key.ID != first.Key.ID || again.Token != "" || !again.Repeated || !strings.Contains(again.Advice, "rotate") {
			t.Errorf("got %+v", again)
		}
		if now := get[admin.Stats](a.do("GET", "/v1/stats", nil)).Hashes; now != hashes {
			t.Error("the repetition has hashed")
		}
		a.loginIs(first.Token, nil)
		a.do("POST", path, `{"name":"another"}`, "Idempotency-Key", path).problem(422, "idempotency-key-reused")
		a.must(a.store.DeleteKey(t.Context(), uuid.UUID(first.Key.Owner), first.Key.ID))
		a.do("POST", path, body, "Idempotency-Key", path).problem(410, "key-deleted")
	}
	a.do("POST", "/v1/server-keys", `{"name":"x"}`, "Idempotency-Key", strings.Repeat("x", 129)).problem(400, "invalid-request")

	body := `{"identity":{"provider":"local-userpass","subject":"bob"}}`
	first := get[admin.User](a.do("POST", "/v1/users", body, "Idempotency-Key", "u").is(201))
	again := get[admin.User](a.do("POST", "/v1/users", body, "Idempotency-Key", "u").is(200))
	if first.ID != again.ID {
		t.Errorf("got %v, then %v", first, again)
	}
}

func TestAnIdempotencyKeyIsKeptWithItsCreation(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := latchkey.Options{Now: func() time.Time { return now }, TestClock: true}
	a := newAPIWith(t, clock, nil)
	a.newServerKey(latchkey.KeySpec{Name: "taken"})
	// A creation that fails is not kept.
	a.do("POST", "/v1/server-keys", `{"name":"taken"}`, "Idempotency-Key", "1").problem(409, "key-name-taken")
	made := get[admin.KeyWithToken](a.do("POST", "/v1/server-keys", `{"name":"job"}`, "Idempotency-Key", "1").is(201)).Key

	a.must(a.store.Close())
	clock.Cost = latchkey.LightCost
	reopened, err := latchkey.Open(a.path, &clock)
	a.must(err)
	defer reopened.Close()
	a.store, a.handler = reopened, admin.New(reopened, &admin.Options{Authenticate: everybody})
	if again := get[admin.KeyWithToken](a.do("POST", "/v1/server-keys", `{"name":"job"}`, "Idempotency-Key", "1").is(200)); again.Key.ID != made.ID {
		t.Errorf("got %+v", again)
	}
	count := func() (n int) {
		a.must(a.store.View(t.Context(), func(tx *latchkey.Tx) error {
			n = 0
			for _, err := range tx.AppTable("admin-idempotency").Scan(nil, nil) {
				a.must(err)
				n++
			}
			return nil
		}))
		return n
	}
	if n := count(); n != 2 {
		t.Errorf("the table has %d entries, want 2", n)
	}
	// After a day the text can be used anew, and the old entries go.
	now = now.Add(25 * time.Hour)
	a.do("POST", "/v1/server-keys", `{"name":"other"}`, "Idempotency-Key", "1").is(201)
	a.do("POST", "/v1/server-keys", `{"name":"third"}`, "Idempotency-Key", "2").is(201)
	if n := count(); n != 4 {
		t.Errorf("the table has %d entries, want 4", n)
	}
	a.do("POST", "/v1/server-keys", `{"name":"other"}`, "Idempotency-Key", "1").is(200)
}

func TestAnIdempotencyKeyThatIsUsedAnewIsKeptAnew(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAPIWith(t, latchkey.Options{Now: func() time.Time { return now }, TestClock: true}, nil)
	create := func(name, idempotencyKey string) *answer {
		now = now.Add(time.Millisecond)
		return a.do("POST", "/v1/server-keys", `{"name":"`+name+`"}`, "Idempotency-Key", idempotencyKey)
	}
	for i := range 20 { // more than one creation forgets
		create(fmt.Sprint("job", i), fmt.Sprint(i)).is(201)
	}
	now = now.Add(25 * time.Hour)
	create("anew", "19").is(201)
	create("another", "x").is(201) // forgets the earlier use of 19
	create("anew", "19").is(200)
}

func TestCallersDoNotShareIdempotencyKeys(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	var tokens, ids []string
	for _, name := range []string{"a", "b"} {
		_, token := a.newServerKey(latchkey.KeySpec{Name: name, Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
		tokens = append(tokens, token)
	}
	for i, token := range tokens {
		w := a.do("POST", "/v1/server-keys", fmt.Sprintf(`{"name":"job%d"}`, i), "Idempotency-Key", "1", "Authorization", "Bearer "+token).is(201)
		ids = append(ids, get[admin.KeyWithToken](w).Key.ID.String())
	}
	if ids[0] == ids[1] {
		t.Error("one caller got the key of the other")
	}
}

func TestATokenThatWasFoundLeadsToItsKey(t *testing.T) {
	a := newAPI(t, nil)
	k, token := a.newServerKey(latchkey.KeySpec{Name: "job"})
	find := func() admin.FoundToken {
		return get[admin.FoundToken](a.do("POST", "/v1/find-token", map[string]string{"token": token}).is(200))
	}
	if f := find(); f.Key.ID != k.ID || f.State != "live" || f.Reason != "" || !f.Key.LastUsed.IsZero() || f.Answer().Principal.KeyID != k.ID || f.Answer().Reason != nil {
		t.Errorf("got %+v", f)
	}
	a.must(a.store.DisableKey(t.Context(), latchkey.ServerOwner, k.ID))
	if f := find(); f.Key.ID != k.ID || f.State != "refused" || f.Reason != "urn:latchkey:problem:key-disabled" || f.Answer().State != tokenscan.Refused || f.Answer().Reason != latchkey.ErrKeyDisabled {
		t.Errorf("got %+v", f)
	}
	for _, other := range []string{"", "lk_x", token + "x", token[:len(token)-1], "x " + token} {
		a.do("POST", "/v1/find-token", map[string]string{"token": other}).problem(404, "token-unknown")
	}
	a.must(a.store.DeleteKey(t.Context(), latchkey.ServerOwner, k.ID))
	a.do("POST", "/v1/find-token", map[string]string{"token": token}).problem(404, "token-unknown")
}

func TestKeysAreFiltered(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAPIWith(t, latchkey.Options{Now: func() time.Time { return now }, TestClock: true}, nil)
	user := a.newUser("ada")
	a.must(a.store.SetUserGroup(t.Context(), user, "north"))
	laptop, _ := a.newKey(user, "Laptop")
	a.newServerKey(latchkey.KeySpec{Name: "backup", Group: "north", Expires: now.Add(time.Hour)})
	a.newServerKey(latchkey.KeySpec{Name: "banner", Group: "south", Expires: now.Add(time.Minute)})
	a.must(a.store.DisableKey(t.Context(), user, laptop.ID))
	now = now.Add(10 * time.Minute)
	for query, want := range map[string]string{
		"":                                     "Laptop backup banner",
		"owner=server":                         "backup banner",
		"owner=" + user.String():               "Laptop",
		"group=north":                          "Laptop backup",
		"name_prefix=ba":                       "backup banner",
		"search=AP":                            "Laptop",
		"search=nn":                            "banner",
		"state=disabled":                       "Laptop",
		"state=expired":                        "banner",
		"state=enabled":                        "backup",
		"expiring_before=2031-01-01T00:00:00Z": "backup",
		"unused_since=" + url.QueryEscape("2030-01-01T00:05:00Z"): "Laptop backup banner",
		"tag_secret_before=1":       "Laptop backup banner",
		"owner=server&group=north":  "backup",
		"owner=" + uuid.NewString(): "",
	} {
		var names []string
		for _, k := range get[admin.List[admin.Key]](a.do("GET", "/v1/keys?"+query, nil).is(200)).Items {
			names = append(names, k.Name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

func TestPagesHaveEveryEntryOnce(t *testing.T) {
	a := newAPI(t, nil)
	want := map[string]int{"/v1/keys": 7, "/v1/users": 7, "/v1/groups": 7, "/v1/audit": 0}
	for i := range 7 {
		user := a.newUser(fmt.Sprint("user", i))
		a.must(a.store.SetUserGroup(t.Context(), user, fmt.Sprintf("group %d/ü", i)))
		a.newKey(user, "laptop")
	}
	want["/v1/audit"] = int(get[admin.AuditPage](a.do("GET", "/v1/audit", nil)).Heads[0].Number)
	for path, n := range want {
		for _, limit := range []int{1, 3, 7, 100} {
			seen, cursor := map[string]bool{}, ""
			for range 100 {
				page := get[struct {
					Items []map[string]any `json:"items"`
					Next  string           `json:"next"`
					Heads []string         `json:"heads"`
				}](a.do("GET", fmt.Sprintf("%s?limit=%d&cursor=%s", path, limit, url.QueryEscape(cursor)), nil).is(200))
				if len(page.Items) > limit {
					t.Fatalf("%s: a page of %d has %d", path, limit, len(page.Items))
				}
				for _, item := range page.Items {
					id := fmt.Sprint(item["id"], item["name"], item["number"])
					if seen[id] {
						t.Errorf("%s: %s is there twice", path, id)
					}
					seen[id] = true
				}
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			if len(seen) != n || cursor != "" {
				t.Errorf("%s by %d: got %d entries, want %d", path, limit, len(seen), n)
			}
		}
	}
}

func TestAPageLooksAtABoundedNumberOfEntries(t *testing.T) {
	store := latchkeytest.New(t)
	a := &api{TB: t, store: store, handler: admin.New(store, &admin.Options{Authenticate: everybody})}
	const n = admin.MaxScan + 1
	a.must(store.Update(context.Background(), func(tx *latchkey.Tx) error {
		for i := range n {
			_, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: fmt.Sprint(i)}})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	page := get[admin.List[admin.User]](a.do("GET", "/v1/users?search=nobody", nil).is(200))
	if len(page.Items) > 0 || page.Next == "" {
		t.Errorf("got %+v", page)
	}
	page = get[admin.List[admin.User]](a.do("GET", "/v1/users?search=nobody&cursor="+page.Next, nil).is(200))
	if len(page.Items) > 0 || page.Next != "" {
		t.Errorf("got %+v", page)
	}
}

func TestALoginIsAnsweredAsTheStoreWouldAnswer(t *testing.T) {
	a := newAPI(t, nil)
	owner := a.newUser("ada@example.com")
	key, token, err := a.store.CreateKey(t.Context(), owner, latchkey.KeySpec{
		Name: "laptop", Scopes: latchkey.NewScopes("files:read"), Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	a.must(err)
	login := func(body any) *answer { return a.do("POST", "/v1/login", body) }
	login(admin.Login{Token: token}).problem(409, "network-not-allowed")
	login(admin.Login{Token: token, Address: netip.MustParseAddr("192.0.3.1")}).problem(409, "network-not-allowed")
	who := get[latchkey.Principal](login(admin.Login{Token: token, Address: netip.MustParseAddr("192.0.2.7")}).is(200))
	if who.KeyID != key.ID || who.UserID != owner || !who.Scopes.Has("files:read") {
		t.Errorf("got %+v", who)
	}
	if k, err := a.store.Key(t.Context(), owner, key.ID); err != nil || !k.LastUsed.IsZero() {
		t.Errorf("got %+v, %v, want a key that was not used", k, err)
	}
	used := admin.Login{Token: token, Address: netip.MustParseAddr("192.0.2.7"), Use: true}
	if who := get[latchkey.Principal](login(used).is(200)); who.KeyID != key.ID {
		t.Errorf("got %+v", who)
	}
	hashes := func() uint64 {
		stats, err := a.store.Stats(t.Context())
		a.must(err)
		return stats.Hashes
	}
	before := hashes()
	login(used).is(200)
	if k, err := a.store.Key(t.Context(), owner, key.ID); err != nil || k.LastUsed.IsZero() || hashes() != before {
		t.Errorf("got %+v, %v after %d hashes, want a key that was used, and no hash", k, err, hashes()-before)
	}
	login(admin.Login{Token: "nonsense", Use: true}).problem(404, "invalid-token")
	login(admin.Login{Token: "nonsense"}).problem(404, "invalid-token")
	login(`{"token":"x","address":"here"}`).problem(400, "invalid-request")
	a.must(a.store.DisableUser(t.Context(), owner))
	login(admin.Login{Token: token}).problem(409, "user-disabled")
	if text := fmt.Sprintf("%v %+v %#v", admin.Login{Token: token}, admin.Login{Token: token}, admin.Login{Token: token}); strings.Contains(text, token) {
		t.Error("a Login prints its token")
	}
}

func TestKeysAreFoundByWhatPeopleKnow(t *testing.T) {
	a := newAPI(t, nil)
	ada, grace := a.newUser("Ada@example.com"), a.newUser("grace@example.com")
	_, err := a.store.LinkIdentity(t.Context(), ada, latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "staff-42"})
	a.must(err)
	laptop, _ := a.newKey(ada, "laptop")
	phone, _ := a.newKey(grace, "Phone")
	job, _ := a.newServerKey(latchkey.KeySpec{Name: "nightly-job"})
	for search, want := range map[string][]string{
		"LAPTOP": {"laptop"}, "phone": {"Phone"}, "job": {"nightly-job"}, "ada@": {"laptop"}, "STAFF-42": {"laptop"}, "example.com": {"Phone", "laptop"},
		laptop.ID.String(): {"laptop"}, strings.ToUpper(phone.ID.String()[:23]) + phone.ID.String()[23:]: {"Phone"}, job.ID.String()[9:]: {"nightly-job"},
		grace.String(): {"Phone"}, "server": nil, "nobody": nil, "": {"Phone", "laptop", "nightly-job"},
	} {
		var got []string
		for _, k := range get[admin.List[admin.Key]](a.do("GET", "/v1/keys?search="+url.QueryEscape(search), nil).is(200)).Items {
			got = append(got, k.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("search %q: got %q, want %q", search, got, want)
		}
	}
	for search, want := range map[string]uuid.UUID{"ADA": ada, "staff": ada, grace.String()[:20]: grace} {
		list := get[admin.List[admin.User]](a.do("GET", "/v1/users?search="+search, nil).is(200)).Items
		if len(list) != 1 || list[0].ID != want {
			t.Errorf("search %q: got %d users, want %s", search, len(list), want)
		}
	}
}

func TestAKeyTellsWhoseItIsAndWhatStopsIt(t *testing.T) {
	a := newAPI(t, nil)
	identity := latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "42"}
	ada, err := a.store.CreateUser(t.Context(), latchkey.UserSpec{Identity: identity, Group: "acme"})
	a.must(err)
	laptop, _ := a.newKey(ada.ID, "laptop")
	job, _ := a.newServerKey(latchkey.KeySpec{Name: "job", Group: "acme"})
	other, _ := a.newServerKey(latchkey.KeySpec{Name: "other"})
	show := func(id uuid.UUID) admin.Key {
		t.Helper()
		return get[admin.Key](a.do("GET", keyPath(id), nil).is(200))
	}
	if got := show(laptop.ID); got.Identity != identity || got.Stopped != "" {
		t.Errorf("got %+v, %q", got.Identity, got.Stopped)
	}
	if got := show(job.ID); got.Identity != (latchkey.Identity{}) || got.Stopped != "" {
		t.Errorf("got %+v, %q", got.Identity, got.Stopped)
	}
	a.must(a.store.DisableGroup(t.Context(), "acme"))
	for id, want := range map[uuid.UUID]string{laptop.ID: "group", job.ID: "group", other.ID: ""} {
		if got := show(id).Stopped; got != want {
			t.Errorf("in a disabled group: got %q, want %q", got, want)
		}
	}
	a.must(a.store.DisableUser(t.Context(), ada.ID))
	if got := show(laptop.ID); got.Stopped != "user" || got.Disabled {
		t.Errorf("of a disabled user: got %q", got.Stopped)
	}
}

func TestGroupsAreFoundByAPartOfTheirName(t *testing.T) {
	a := newAPI(t, nil)
	for _, group := range []string{"North", "northwest", "south"} {
		a.must(a.store.DisableGroup(t.Context(), group))
	}
	for search, want := range map[string]string{"NORTH": "North northwest", "west": "northwest", "": "North northwest south", "east": ""} {
		var names []string
		for _, g := range get[admin.List[admin.Group]](a.do("GET", "/v1/groups?search="+search, nil).is(200)).Items {
			names = append(names, g.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("search %q: got %q, want %q", search, got, want)
		}
	}
}
