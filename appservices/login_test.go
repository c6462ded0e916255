package appservices_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// byName is a custom function. It returns the userId of its payload, and refuses the ID "nobody".
func byName(_ context.Context, _ string, payload map[string]any) (string, map[string]any, error) {
	id, _ := payload["userId"].(string)
	if id == "nobody" {
		return "", nil, errors.New("Authentication failed")
	}
	return id, map[string]any{"name": "the name of " + id}, nil
}

func TestALoginHasFourStringsOfTheLengthThatClientsExpect(t *testing.T) {
	d := newDouble(t, nil)
	body := d.tryLogin("anon-user", nil).want(http.StatusOK).json()
	if len(body) != 4 {
		t.Errorf("the reply is %v", body)
	}
	u := d.anonymous()
	if !hex24.MatchString(u.user) || !hex24.MatchString(u.device) || u.device == strings.Repeat("0", 24) {
		t.Errorf("the IDs are %s and %s", u.user, u.device)
	}
}

func TestEveryAnonymousLoginMakesAnotherUser(t *testing.T) {
	d := newDouble(t, nil)
	if a, b := d.anonymous(), d.anonymous(); a.user == b.user {
		t.Errorf("both are %s", a.user)
	}
}

func TestAnAnonymousLoginCanBeAGet(t *testing.T) {
	d := newDouble(t, nil)
	const path = appPath + "/auth/providers/anon-user/login"
	const id = "65a1b2c3d4e5f60718293a4c"
	device := func(text string) string {
		return "?device=" + url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(text)))
	}
	first := d.send("GET", path+device(`{"appId":"demo-abcde","sdkVersion":"3.18.0","deviceId":"`+id+`"}`), "", nil).tokens()
	if first.device != id {
		t.Errorf("the device is %s, want %s", first.device, id)
	}
	for _, query := range []string{"", "?device=", "?device=%%", "?device=x", device("{"), device("7")} {
		if u := d.send("GET", path+query, "", nil).tokens(); u.user == first.user {
			t.Errorf("the query %q logs in the same user again", query)
		}
	}
	for _, query := range []string{"?link=true", device("{}") + "?link=true"} {
		d.send("GET", path+query, first.access, nil).refused(400, "InvalidParameter", "linking an anonymous identity is not allowed")
		d.send("GET", path+query, "", nil).refused(401, "", "must authenticate first")
	}
}

func TestAHeadLogsNobodyIn(t *testing.T) {
	d := newDouble(t, nil)
	d.send("HEAD", appPath+"/auth/providers/anon-user/login", "", nil).want(http.StatusOK)
	for user, err := range d.store.Users(t.Context(), uuid.Nil) {
		t.Errorf("there is the user %v, %v", user, err)
	}
}

func TestADeviceKeepsItsID(t *testing.T) {
	d := newDouble(t, nil)
	const id = "65a1b2c3d4e5f60718293a4c"
	withDevice := func(id any) object { return object{"options": object{"device": object{"deviceId": id}}} }
	for _, same := range []any{object{"$oid": id}, id} {
		if got := d.login("anon-user", withDevice(same)).device; got != id {
			t.Errorf("for the device ID %v got %s", same, got)
		}
	}
	for _, none := range []any{object{"$oid": strings.Repeat("0", 24)}, object{"$oid": "x"}, object{}, 7, nil, "x", strings.Repeat("0", 24)} {
		if got := d.login("anon-user", withDevice(none)).device; !hex24.MatchString(got) || strings.Trim(got, "0") == "" {
			t.Errorf("for the device ID %v got %s", none, got)
		}
	}
}

func TestLoginsIgnoreTheFieldProviderAndUnknownFields(t *testing.T) {
	d := newDouble(t, nil)
	d.register("ada@example.com")
	d.login("local-userpass", object{"username": "ada@example.com", "password": password, "provider": 7, "more": []int{1}})
	d.login("local-userpass", object{"username": "ada@example.com", "password": password, "options": "none"})
}

func TestLoginsThatFail(t *testing.T) {
	hooks := appservices.Options{
		CustomFunction: byName,
		Providers: []latchkey.Provider{
			latchkey.ProviderLocalUserpass, latchkey.ProviderAPIKey, latchkey.ProviderCustomFunction, latchkey.ProviderCustomToken, latchkey.ProviderGoogle, latchkey.ProviderFacebook,
			latchkey.ProviderApple,
		},
	}
	old := hooks
	old.OldTexts = true
	rows := []struct {
		name, provider string
		body           any
		status         int
		code, text     string
		old            string // empty if the text is the same
	}{
		{"a wrong password", "local-userpass", credentials("ada@example.com", "wrong-password"), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"an unknown email", "local-userpass", credentials("nobody@example.com", password), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"an email in other letters", "local-userpass", credentials("Ada@example.com", password), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"an email that can be nobody's", "local-userpass", credentials("a\x00b", password), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"an empty email", "local-userpass", credentials("", password), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"a deleted user", "local-userpass", credentials("deleted@example.com", password), 401, "InvalidPassword", "unauthorized", "invalid username/password"},
		{"a disabled user", "local-userpass", credentials("disabled@example.com", password), 401, "UserDisabled", "unauthorized", ""},
		{"an email that is not confirmed", "local-userpass", credentials("unconfirmed@example.com", password), 401, "AuthError", "unauthorized", "confirmation required"},
		{"an unknown key", "api-key", object{"key": "lk_unknown"}, 401, "AuthError", "unauthorized", "invalid API key"},
		{"an empty key", "api-key", object{"key": ""}, 401, "AuthError", "unauthorized", "invalid API key"},
		{"a disabled server key", "api-key", object{"key": "SERVER"}, 401, "AuthError", "unauthorized", "invalid API key"},
		{"a function that refuses", "custom-function", object{"userId": "nobody"}, 401, "AuthError", "unauthorized: Authentication failed", ""},
		{"a function that names nobody", "custom-function", object{"userId": ""}, 401, "AuthError", "unauthorized", "the provider gave no valid ID"},
		{"a bad custom token", "custom-token", object{"token": "x"}, 401, "InvalidSession", "unauthorized", "invalid custom auth token: nothing is set up to verify it"},
		{"a bad Google code", "oauth2-google", object{"authCode": "x"}, 401, "InvalidSession", "unauthorized", "authentication via 'oauth2-google' failed"},
		{"a bad Google token", "oauth2-google", object{"id_token": "x"}, 401, "InvalidSession", "unauthorized", "authentication via 'oauth2-google' failed"},
		{"a bad Apple token", "oauth2-apple", object{"id_token": "x"}, 401, "InvalidSession", "unauthorized", "authentication via 'oauth2-apple' failed"},
		{"a bad Facebook token", "oauth2-facebook", object{"accessToken": "x"}, 401, "InvalidSession", "unauthorized", "authentication via 'oauth2-facebook' failed"},
		{"a provider that is not enabled", "anon-user", nil, 401, "AuthError", "unauthorized", "authentication via 'anon-user' is unsupported"},
		{"a provider that nobody knows", "oauth1", nil, 404, "AuthProviderNotFound", "auth provider not found", ""},
		{"no key", "api-key", object{}, 400, "MissingParameter", "'key' is a required string", ""},
		{"a number for a key", "api-key", object{"key": 7}, 400, "MissingParameter", "'key' is a required string", ""},
		{"no body", "api-key", nil, 400, "MissingParameter", "'key' is a required string", ""},
		{"no username", "local-userpass", object{"password": password}, 400, "MissingParameter", "'username' is a required string", ""},
		{"no password", "local-userpass", object{"username": "ada@example.com"}, 400, "MissingParameter", "'password' is a required string", ""},
		{"no token", "custom-token", object{}, 400, "MissingParameter", "'token' is a required string", ""},
		{"no Google code", "oauth2-google", object{"accessToken": "x"}, 400, "MissingParameter", "'authCode' is a required string", ""},
		{"a number for a Google token", "oauth2-google", object{"id_token": 7}, 400, "MissingParameter", "'authCode' is a required string", ""},
		{"no Facebook token", "oauth2-facebook", object{"id_token": "x"}, 400, "MissingParameter", "'accessToken' is a required string", ""},
		{"no Apple token", "oauth2-apple", nil, 400, "MissingParameter", "'id_token' is a required string", ""},
	}
	run := func(t *testing.T, opts *appservices.Options, wantOld bool) {
		d := newDouble(t, opts)
		for _, name := range []string{"ada", "deleted", "disabled"} {
			d.signUp(name + "@example.com")
		}
		must(t, d.store.DeleteUser(t.Context(), d.user("deleted@example.com").ID))
		must(t, d.store.DisableUser(t.Context(), d.user("disabled@example.com").ID))
		manual := *opts
		manual.ManualConfirmation = true
		serve(t, d.store, d.clock, &manual).register("unconfirmed@example.com")
		key, token := d.serverKey("backup")
		must(t, d.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))

		for _, tt := range rows {
			t.Run(tt.name, func(t *testing.T) {
				if reflect.DeepEqual(tt.body, object{"key": "SERVER"}) {
					tt.body = object{"key": token}
				}
				text := tt.text
				if wantOld && tt.old != "" {
					text = tt.old
				}
				d.tryLogin(tt.provider, tt.body).refused(tt.status, tt.code, text)
			})
		}
	}
	t.Run("texts since May 2024", func(t *testing.T) { run(t, &hooks, false) })
	t.Run("texts before", func(t *testing.T) { run(t, &old, true) })
}

func TestAServerKeyLogsInAsAUserOfItsOwn(t *testing.T) {
	d := newDouble(t, nil)
	key, token := d.serverKey("backup")
	first, second := d.loginKey(token), d.loginKey(token)
	if first.user != second.user || first.user != appservices.KeyObjectID(key) {
		t.Errorf("the users are %s and %s, want %s", first.user, second.user, appservices.KeyObjectID(key))
	}
	p := d.profile(first.access)
	if p["type"] != "server" || !reflect.DeepEqual(p["data"], object{"name": "backup"}) {
		t.Errorf("the profile is %v", p)
	}
	r := d.send("DELETE", prefix+"/auth/delete", first.access, nil).want(http.StatusForbidden)
	if len(r.body) > 0 {
		t.Errorf("the refusal says %s", r.body)
	}
	d.loginKey(token)
}

func TestAKeyWithNetworksLogsInFromTheseAlone(t *testing.T) {
	d := newDouble(t, &appservices.Options{TrustForwarded: true})
	key, token := d.serverKey("backup")
	must(t, d.store.SetNetworks(t.Context(), latchkey.ServerOwner, key.ID, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}))
	from := func(addr string) *response {
		return d.sendWith("POST", appPath+"/auth/providers/api-key/login", http.Header{"X-Forwarded-For": {addr}}, object{"key": token})
	}
	for range 2 { // the first one is not cached
		d.loginKey(token)
		from("192.0.2.7").want(http.StatusOK)
		from("203.0.113.7").refused(401, "AuthError", "unauthorized")
	}
}

func TestTheSessionsOfADeletedServerKeyEnd(t *testing.T) {
	d := newDouble(t, nil)
	key, token := d.serverKey("backup")
	u := d.loginKey(token)
	must(t, d.store.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	d.send("POST", prefix+"/auth/session", u.refresh, nil).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session: error finding user for endpoint")
}

func TestAProvidersIDAlwaysMeansTheSameUser(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	a, b := d.login("custom-function", object{"userId": "a"}), d.login("custom-function", object{"userId": "b"})
	if again := d.login("custom-function", object{"userId": "a"}); again.user != a.user || a.user == b.user {
		t.Errorf("the users are %s, %s and %s", a.user, b.user, again.user)
	}
	p := d.profile(a.access)
	if !reflect.DeepEqual(p["data"], object{"name": "the name of a"}) {
		t.Errorf("the profile has %v", p["data"])
	}
	if id := p["identities"].([]any)[0].(object)["id"]; id != "a" {
		t.Errorf("the identity is %v", id)
	}
}

func TestAFunctionSeesThePayloadWithoutTheWrappingsOfExtendedJSON(t *testing.T) {
	var got map[string]any
	d := newDouble(t, &appservices.Options{
		CustomFunction: func(_ context.Context, appID string, payload map[string]any) (string, map[string]any, error) {
			got = payload
			return appID, nil, nil
		},
	})
	d.login("custom-function", `{"i":{"$numberInt":"7"},"l":{"$numberLong":"8"},"d":{"$numberDouble":"1.5"},"o":{"$oid":"65a1b2c3d4e5f60718293a4c"},
		"t":{"$date":{"$numberLong":"1000"}},"u":{"$date":"1970-01-01T00:00:02Z"},"n":[{"$numberInt":"1"},null,true],
		"own":{"$numberInt":7},"m":{"x":{"$numberInt":"2"}},"provider":"mine","options":{"device":{}}}`)
	want := map[string]any{
		"i": int64(7), "l": int64(8), "d": 1.5, "o": "65a1b2c3d4e5f60718293a4c",
		"t": time.UnixMilli(1000).UTC(), "u": time.UnixMilli(2000).UTC(), "n": []any{int64(1), nil, true},
		"own": map[string]any{"$numberInt": 7.0}, "m": map[string]any{"x": int64(2)}, "provider": "mine",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the payload is\n%#v, want\n%#v", got, want)
	}
}

func TestTheOAuthHookDecidesLogins(t *testing.T) {
	d := newDouble(t, &appservices.Options{
		OAuth: func(_ context.Context, appID string, p latchkey.Provider, credentials map[string]string) (string, map[string]any, error) {
			return fmt.Sprint(appID, p, credentials), nil, nil
		},
	})
	u := d.login("oauth2-apple", object{"id_token": "x", "other": "y"})
	identity := d.profile(u.access)["identities"].([]any)[0].(object)
	if identity["id"] != "demo-abcdeoauth2-applemap[id_token:x]" || identity["provider_type"] != "oauth2-apple" {
		t.Errorf("the identity is %v", identity)
	}
}

func TestRepeatedLoginsWriteNothing(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	logins := func() {
		d.loginKey(key)
		d.loginEmail("ada@example.com")
		d.login("custom-function", object{"userId": "a"})
	}
	logins()
	before := writes(d)
	logins()
	if n := writes(d) - before; n != 0 {
		t.Errorf("there were %d writes", n)
	}
}

func TestIdentitiesAreInTheOrderOfLinking(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.anonymous()
	d.register("ada@example.com")
	linked := d.link(u.access, "local-userpass", credentials("ada@example.com", password)).tokens()
	if linked.user != u.user {
		t.Errorf("linking answers the user %s, want %s", linked.user, u.user)
	}
	_, key := d.createKey(u.refresh, "laptop")
	d.loginKey(key)
	d.link(linked.access, "custom-function", object{"userId": "a"}).want(http.StatusOK)
	var got []string
	for _, i := range d.profile(u.access)["identities"].([]any) {
		got = append(got, i.(object)["provider_type"].(string))
	}
	if want := []string{"anon-user", "local-userpass", "api-key", "custom-function"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the identities are %v, want %v", got, want)
	}
	if again := d.loginEmail("ada@example.com"); again.user != u.user {
		t.Errorf("the email logs in %s, want %s", again.user, u.user)
	}
}

func TestLinkingKeepsTheSession(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.signUp("ada@example.com")
	linked := d.link(u.access, "custom-function", object{"userId": "a"}).tokens()
	if a, b := claims(t, u.refresh), claims(t, linked.refresh); !reflect.DeepEqual(a, b) {
		t.Errorf("the refresh token is of\n%v, want\n%v", b, a)
	}
	d.createKey(linked.refresh, "laptop")
}

func TestLinkingOnesOwnIdentityAgainChangesNothing(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	before := d.profile(u.access)
	d.link(u.access, "local-userpass", credentials("ada@example.com", password)).want(http.StatusOK)
	if after := d.profile(u.access); !reflect.DeepEqual(before, after) {
		t.Errorf("the profile was %v and is %v", before, after)
	}
	for range 2 {
		d.link(u.access, "api-key", object{"key": key}).want(http.StatusOK)
	}
	if n := len(d.profile(u.access)["identities"].([]any)); n != 2 {
		t.Errorf("there are %d identities, want 2", n)
	}
}

func TestLinksThatFail(t *testing.T) {
	core := func(body object) object { body["options"] = coreOptions; return body }
	web := func(body object) object {
		body["options"] = object{"device": object{"sdkVersion": "2.0.1", "platform": "chrome"}}
		return body
	}
	type row struct {
		name, provider string
		body           func() object
		status         int
		code, text     string
	}
	email := func(email, password string) func() object {
		return func() object { return object{"username": email, "password": password} }
	}
	run := func(t *testing.T, client func(object) object, opts *appservices.Options, rows []row) {
		opts.Providers = []latchkey.Provider{
			latchkey.ProviderAnonymous, latchkey.ProviderLocalUserpass, latchkey.ProviderAPIKey, latchkey.ProviderCustomFunction, latchkey.ProviderCustomToken,
		}
		d := newDouble(t, opts)
		u := d.signUp("ada@example.com")
		bob := d.signUp("bob@example.com")
		d.register("second@example.com")
		d.login("custom-function", object{"userId": "bob"})
		_, bobsKey := d.createKey(bob.refresh, "laptop")
		_, serverKey := d.serverKey("backup")
		for _, tt := range rows {
			t.Run(tt.name, func(t *testing.T) {
				body := tt.body()
				switch body["key"] {
				case "BOB":
					body["key"] = bobsKey
				case "SERVER":
					body["key"] = serverKey
				}
				d.link(u.access, tt.provider, client(body)).refused(tt.status, tt.code, tt.text)
			})
		}
		if n := len(d.profile(u.access)["identities"].([]any)); n != 1 {
			t.Errorf("the user has %d identities in the end, want 1", n)
		}
	}
	nothing := func() object { return object{} }
	bob := func() object { return object{"userId": "bob"} }
	refused := func() object { return object{"userId": "nobody"} }
	bobsKey := func() object { return object{"key": "BOB"} }
	serverKey := func() object { return object{"key": "SERVER"} }
	noKey := func() object { return object{"key": "lk_none"} }
	token := func() object { return object{"token": "x"} }

	t.Run("core", func(t *testing.T) {
		run(t, core, &appservices.Options{CustomFunction: byName}, []row{
			{"another's identity", "custom-function", bob, 401, "InvalidSession", "unauthorized"},
			{"another's email", "local-userpass", email("bob@example.com", password), 401, "InvalidSession", "unauthorized"},
			{"a second email", "local-userpass", email("second@example.com", password), 500, "InternalServerError", "unauthorized"},
			{"another's key", "api-key", bobsKey, 400, "InvalidParameter", "invalid user link request"},
			{"a server key", "api-key", serverKey, 400, "InvalidParameter", "invalid user link request"},
			{"a wrong password", "local-userpass", email("second@example.com", "wrong-password"), 401, "InvalidPassword", "unauthorized"},
			{"an unknown email", "local-userpass", email("nobody@example.com", password), 401, "InvalidPassword", "unauthorized"},
			{"a key that is none", "api-key", noKey, 401, "AuthError", "unauthorized"},
			{"a function that refuses", "custom-function", refused, 401, "AuthError", "unauthorized: Authentication failed"},
			{"a custom token", "custom-token", token, 401, "InvalidSession", "unauthorized"},
			{"a provider that is not enabled", "oauth2-google", nothing, 401, "AuthError", "unauthorized"},
			{"a provider that nobody knows", "oauth1", nothing, 404, "AuthProviderNotFound", "auth provider not found"},
			{"no key", "api-key", nothing, 400, "MissingParameter", "'key' is a required string"},
			{"an anonymous identity", "anon-user", nothing, 400, "InvalidParameter", "linking an anonymous identity is not allowed"},
		})
	})
	t.Run("core, texts before May 2024", func(t *testing.T) {
		run(t, core, &appservices.Options{CustomFunction: byName, OldTexts: true}, []row{
			{"another's identity", "custom-function", bob, 401, "InvalidSession", "a user already exists with the specified provider"},
			{"a second email", "local-userpass", email("second@example.com", password), 500, "InternalServerError",
				"linking a local-userpass identity is not allowed when one is already linked"},
		})
	})
	// After a 401, realm-web links again, without end.
	t.Run("realm-web", func(t *testing.T) {
		for _, oldTexts := range []bool{false, true} {
			run(t, web, &appservices.Options{CustomFunction: byName, OldTexts: oldTexts}, []row{
				{"another's identity", "custom-function", bob, 403, "AuthError", "unauthorized: a user already exists with the specified provider"},
				{"another's email", "local-userpass", email("bob@example.com", password), 403, "AuthError", "unauthorized: a user already exists with the specified provider"},
				{"a second email", "local-userpass", email("second@example.com", password), 403, "AuthError",
					"unauthorized: linking a local-userpass identity is not allowed when one is already linked"},
				{"a wrong password", "local-userpass", email("second@example.com", "wrong-password"), 403, "AuthError", "unauthorized: invalid username/password"},
				{"an unknown email", "local-userpass", email("nobody@example.com", password), 403, "AuthError", "unauthorized: invalid username/password"},
				{"a key that is none", "api-key", noKey, 403, "AuthError", "unauthorized: invalid API key"},
				{"another's key", "api-key", bobsKey, 400, "InvalidParameter", "invalid user link request"},
				{"a server key", "api-key", serverKey, 400, "InvalidParameter", "invalid user link request"},
				{"a function that refuses", "custom-function", refused, 403, "AuthError", "unauthorized: Authentication failed"},
				{"a custom token", "custom-token", token, 403, "AuthError", "unauthorized: invalid custom auth token: nothing is set up to verify it"},
				{"a provider that is not enabled", "oauth2-google", nothing, 403, "AuthError", "unauthorized: authentication via 'oauth2-google' is unsupported"},
				{"a provider that nobody knows", "oauth1", nothing, 404, "AuthProviderNotFound", "auth provider not found"},
				{"no key", "api-key", nothing, 400, "MissingParameter", "'key' is a required string"},
				{"an anonymous identity", "anon-user", nothing, 400, "InvalidParameter", "linking an anonymous identity is not allowed"},
			})
		}
	})
}

func TestAClientThatSendsACoreVersionIsOnTheCore(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	for version, core := range map[string]bool{
		`"14.12.0"`: true, `"x"`: true, `""`: false, `null`: false, `14.12`: false, `true`: false, `{"major":14}`: false, `["14"]`: false,
	} {
		body := `{"key":"lk_none","options":{"device":{"coreVersion":` + version + `}}}`
		want := http.StatusUnauthorized
		if !core {
			want = http.StatusForbidden
		}
		if got := d.link(u.access, "api-key", body).status; got != want {
			t.Errorf("with the version %s the status is %d, want %d", version, got, want)
		}
	}
}

// realm-web up to 2.0.0 sends these calls with the access token of its current user. After any 401
// it gets a new token and sends the call again, without end. So a call with a good token must not
// get a 401.
func TestACallWithAGoodAccessTokenIsNotRefusedAsIfTheTokenWereStale(t *testing.T) {
	for name, opts := range map[string]appservices.Options{
		"all providers":         {},
		"manual confirmation":   {ManualConfirmation: true},
		"only custom functions": {CustomFunction: byName, Providers: []latchkey.Provider{latchkey.ProviderCustomFunction}},
		"few failed logins":     {FailedLogins: 0.001, FailedLoginBurst: 2},
		"texts before May 2024": {OldTexts: true},
		"reasons for a 403":     {ExplainForbidden: true},
		"a store for each app":  {OpenApp: openApps(t, t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			opts.CustomFunction = byName
			d := newDouble(t, &opts)
			u := d.login("custom-function", object{"userId": "ada"})
			for _, provider := range []string{"anon-user", "local-userpass", "api-key", "custom-token", "custom-function", "oauth2-google", "nobody"} {
				for _, body := range []any{nil, "{", object{"username": "ada@example.com", "password": "x", "key": "x", "token": "x", "userId": "nobody", "id_token": "x"}} {
					if r := d.link(u.access, provider, body); r.status == http.StatusUnauthorized {
						t.Errorf("a link to %s with %v gets 401 with %s", provider, body, r.body)
					}
				}
			}
			for _, route := range []string{"register", "confirm", "confirm/send", "confirm/call", "reset", "reset/send", "reset/call"} {
				for _, body := range []any{nil, object{"email": "ada@example.com", "password": password, "token": strings.Repeat("ab", 64), "tokenId": u.user}} {
					if r := d.send("POST", appPath+"/auth/providers/local-userpass/"+route, u.access, body); r.status == http.StatusUnauthorized {
						t.Errorf("%s with %v gets 401 with %s", route, body, r.body)
					}
				}
			}
			for _, path := range []string{appPath, prefix + "/app/other"} {
				if r := d.send("POST", path+"/functions/call", u.access, object{"name": "sum"}); r.status == http.StatusUnauthorized {
					t.Errorf("a function below %s gets 401 with %s", path, r.body)
				}
			}
		})
	}
}

func TestNothingCanBeLinkedToAServerKey(t *testing.T) {
	d := newDouble(t, nil)
	_, token := d.serverKey("backup")
	d.register("ada@example.com")
	d.link(d.loginKey(token).access, "local-userpass", credentials("ada@example.com", password)).
		refused(400, "InvalidParameter", "invalid user link request")
}

func TestALinkChecksTheTokenFirst(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	for _, provider := range []string{"nobody", "anon-user", "local-userpass"} {
		d.link("", provider, "{").refused(401, "", "must authenticate first")
		d.link("x", provider, "{").refused(401, "", "unauthorized")
		d.link(u.refresh, provider, "{").refused(401, "InvalidSession", "invalid session")
	}
	d.clock.Advance(time.Hour)
	d.link(u.access, "local-userpass", credentials("ada@example.com", password)).
		refused(401, "InvalidSession", "invalid session: access token expired")
}

func TestAfterTooManyFailedLoginsPasswordsGet429(t *testing.T) {
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 3, FailedLogins: 0.1})
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	wrong := credentials("ada@example.com", "wrong-password")
	for range 3 {
		d.tryLogin("local-userpass", wrong).refused(401, "InvalidPassword", "unauthorized")
	}
	const tooMany = "too many failed logins from this address"
	if got := d.tryLogin("local-userpass", wrong).refused(429, "", tooMany).header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After is %q, want 10", got)
	}
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(429, "", tooMany)
	d.link(u.access, "local-userpass", wrong).refused(429, "", tooMany)
	d.loginKey(key) // nobody can guess a key, so keys do not have to wait
	d.anonymous()   // there is nothing to guess
	d.clock.Advance(9500 * time.Millisecond)
	if got := d.tryLogin("local-userpass", wrong).refused(429, "", tooMany).header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q, want 1", got)
	}
	d.clock.Advance(500 * time.Millisecond)
	d.loginEmail("ada@example.com")
	d.tryLogin("local-userpass", wrong).refused(401, "InvalidPassword", "unauthorized")
	d.tryLogin("local-userpass", wrong).refused(429, "", tooMany)
}

// A client that keeps sending a key that was deleted, or a custom token that has expired, must not
// keep out the passwords of its office.
func TestFailuresOfOtherProvidersDoNotKeepOutPasswords(t *testing.T) {
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 1, FailedLogins: 1e-9})
	u := d.signUp("ada@example.com")
	id, key := d.createKey(u.refresh, "laptop")
	d.keys("DELETE", "/"+id, u.refresh, nil).noContent()
	for range 5 {
		for _, key := range []string{"nonsense", "", "lk_none", key} {
			d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
		}
	}
	d.tryLogin("custom-token", object{"token": "x"}).refused(401, "InvalidSession", "unauthorized")
	d.tryLogin("custom-token", object{"token": "x"}).want(http.StatusTooManyRequests)
	d.loginEmail("ada@example.com")
}

func TestLoginsInProgressCountAsFailed(t *testing.T) {
	asked, answer := make(chan string), make(chan error)
	d := newDouble(t, &appservices.Options{
		FailedLoginBurst: 2, FailedLogins: 1e-9,
		CustomFunction: func(_ context.Context, _ string, payload map[string]any) (string, map[string]any, error) {
			id, _ := payload["userId"].(string)
			asked <- id
			return id, nil, <-answer
		},
	})
	try := func() int {
		r := httptest.NewRequest("POST", appPath+"/auth/providers/custom-function/login", strings.NewReader(`{"userId":"a"}`))
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		return w.Code
	}
	statuses := make(chan int)
	for range 2 {
		go func() { statuses <- try() }()
		<-asked
	}
	go func() { statuses <- try() }()
	select {
	case status := <-statuses:
		if status != http.StatusTooManyRequests {
			t.Errorf("a third login got status %d while two were in progress", status)
		}
	case <-asked:
		t.Fatal("a third login was tried while two that may fail were in progress")
	}
	for _, tt := range []struct {
		err    error
		status int
	}{{nil, http.StatusOK}, {errors.New("wrong"), http.StatusUnauthorized}} {
		answer <- tt.err
		if got := <-statuses; got != tt.status {
			t.Errorf("got status %d, want %d", got, tt.status)
		}
	}
	go func() { statuses <- try() }() // one login has failed, and the other has succeeded
	<-asked
	answer <- errors.New("wrong")
	if got := <-statuses; got != http.StatusUnauthorized {
		t.Errorf("got status %d, want 401", got)
	}
	if got := try(); got != http.StatusTooManyRequests {
		t.Errorf("after two failures got status %d, want 429", got)
	}
}

func TestFailuresAreCountedByAddress(t *testing.T) {
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 1, FailedLogins: 0.001, TrustForwarded: true})
	try := func(from string) int {
		return d.sendWith("POST", appPath+"/auth/providers/custom-token/login", http.Header{"X-Forwarded-For": {from}}, object{"token": "x"}).status
	}
	for _, tt := range []struct {
		from   string
		status int
	}{
		{"192.0.2.1", 401}, {"192.0.2.1", 429}, {"spoofed, 192.0.2.1", 429}, {"::ffff:192.0.2.1", 429}, {"192.0.2.2", 401},
		{"2001:db8::1", 401}, {"2001:db8::ffff:2", 429}, {"2001:db8:0:1::1", 401},
		// Some proxies send the client's port as well.
		{"192.0.2.3:1024", 401}, {"192.0.2.3:1025", 429}, {"192.0.2.3", 429}, {"192.0.2.4:1024", 401}, {"[::ffff:192.0.2.4]:1", 429},
		{"[2001:db8:0:2::1]:1024", 401}, {"[2001:db8:0:2::2]", 429}, {`"[2001:db8:0:2::3]:80"`, 429}, {"[2001:db8:0:3::1%eth0]:80", 401},
		// Without an address in it, the address of the proxy counts.
		{"unknown", 401}, {"_hidden", 429}, {"", 429}, {"192.0.2.5, ", 429},
	} {
		if got := try(tt.from); got != tt.status {
			t.Errorf("from %s got status %d, want %d", tt.from, got, tt.status)
		}
	}
}

func TestOnlyTheAddressesThatFailedLastAreRemembered(t *testing.T) {
	const generation = 8192
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 1, FailedLogins: 1e-9, TrustForwarded: true})
	fail := func(from uint32) int {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], from)
		r := httptest.NewRequest("POST", appPath+"/auth/providers/custom-token/login", strings.NewReader(`{"token":"x"}`))
		r.Header.Set("X-Forwarded-For", netip.AddrFrom4(b).String())
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		return w.Code
	}
	for from := range uint32(2 * generation) {
		if got := fail(from); got != 401 {
			t.Fatalf("the first failure of address %d got status %d", from, got)
		}
	}
	for _, tt := range []struct {
		from uint32
		want int
	}{
		{2*generation - 1, 429}, // in the younger generation
		{0, 429},                // moved from the older generation to the younger
		{1, 401},                // forgotten with the rest of the older generation
		{0, 429},
		{2*generation - 1, 429},
	} {
		if got := fail(tt.from); got != tt.want {
			t.Errorf("address %d got status %d, want %d", tt.from, got, tt.want)
		}
	}
}

func TestForwardedAddressesCountOnlyWithTrustForwarded(t *testing.T) {
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 1, FailedLogins: 0.001})
	for i, status := range []int{401, 429} {
		from := http.Header{"X-Forwarded-For": {fmt.Sprint("192.0.2.", i)}}
		d.sendWith("POST", appPath+"/auth/providers/custom-token/login", from, object{"token": "x"}).want(status)
	}
}

func TestTheLimitOfFailuresCanBeSwitchedOff(t *testing.T) {
	d := newDouble(t, &appservices.Options{FailedLoginBurst: 1, FailedLogins: -1})
	for range 20 {
		d.tryLogin("custom-token", object{"token": "x"}).refused(401, "InvalidSession", "unauthorized")
	}
}

// writes returns the number of transactions that have written to the store.
func writes(d *double) uint64 {
	d.t.Helper()
	stats, err := d.store.Stats(d.t.Context())
	must(d.t, err)
	return stats.Commits
}

func TestAProxyThatHidesItsClientsIsAWarning(t *testing.T) {
	const hidden, unseen = "the proxy has sent no address in X-Forwarded-For", "a proxy seems to forward the requests"
	for _, tt := range []struct {
		name   string
		opts   appservices.Options
		header http.Header
		want   string
	}{
		{"not trusted", appservices.Options{}, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, unseen},
		{"not trusted, by RFC 7239", appservices.Options{}, http.Header{"Forwarded": {"for=192.0.2.1"}}, unseen},
		{"no proxy", appservices.Options{}, http.Header{}, ""},
		{"trusted", appservices.Options{TrustForwarded: true}, http.Header{"X-Forwarded-For": {"192.0.2.1:80"}}, ""},
		{"trusted, no address", appservices.Options{TrustForwarded: true}, http.Header{"X-Forwarded-For": {"unknown"}}, hidden},
		{"trusted, by RFC 7239", appservices.Options{TrustForwarded: true}, http.Header{"Forwarded": {"for=192.0.2.1"}}, hidden},
	} {
		var log logged
		tt.opts.Logger = log.logger()
		d := newDouble(t, &tt.opts)
		for range 3 {
			d.sendWith("GET", appPath+"/location", tt.header, nil).want(http.StatusOK)
		}
		got := strings.Count(log.String(), `"level":"WARN"`)
		if tt.want == "" && got != 0 || tt.want != "" && (got != 1 || !strings.Contains(log.String(), tt.want)) {
			t.Errorf("%s: there are %d warnings in %s", tt.name, got, log.String())
		}
	}
}

func TestForwardedProtocolsAreHTTPOrHTTPS(t *testing.T) {
	d := newDouble(t, &appservices.Options{TrustForwarded: true})
	for proto, want := range map[string]string{"https": "https://", "HTTPS": "https://", "http": "http://", "wss": "http://", "": "http://", "https, http": "http://"} {
		r := d.sendWith("GET", appPath+"/location", http.Header{"X-Forwarded-Proto": {proto}}, nil).want(http.StatusOK)
		if got, _ := r.json()["hostname"].(string); !strings.HasPrefix(got, want) {
			t.Errorf("forwarded by %q, the address is %s", proto, got)
		}
	}
}

// The store has room for no more hashes of a kind than one address may have. Without lines of their
// own, the requests of one address would fill it, and others would be busy.
func TestOneAddressDoesNotFillTheStoresQueues(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
		Cost: latchkey.Cost{Memory: 4 << 10, Passes: 1, Lanes: 1}, HashQueue: max(4, runtime.GOMAXPROCS(0)), MaxKeysPerUser: -1,
	})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	d := serve(t, store, appservices.NewClock(start), nil)
	u := d.signUp("ada@example.com")
	const requests = 24
	for name, call := range map[string]func(i int, token string) int{
		"wrong passwords": func(int, string) int {
			return d.tryLogin("local-userpass", credentials("ada@example.com", "wrong-password")).status
		},
		"registrations": func(i int, _ string) int {
			return d.userpass("register", object{"email": fmt.Sprintf("user-%d@example.com", i), "password": password}).status
		},
		"first logins of keys": func(_ int, token string) int { return d.tryLogin("api-key", object{"key": token}).status },
		"new keys": func(i int, _ string) int {
			return d.keys("POST", "", u.refresh, object{"name": fmt.Sprint("new-", i)}).status
		},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := make([]string, requests)
			if name == "first logins of keys" {
				for i := range tokens {
					_, tokens[i] = d.serverKey(fmt.Sprint("key-", i))
				}
			}
			var all sync.WaitGroup
			for i := range requests {
				all.Go(func() {
					if status := call(i, tokens[i]); status == http.StatusServiceUnavailable {
						t.Errorf("request %d is told that the store is busy", i)
					}
				})
			}
			all.Wait()
		})
	}
}
