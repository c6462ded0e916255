package appservices_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

func (d *double) refresh(token string) *response {
	d.t.Helper()
	return d.send("POST", prefix+"/auth/session", token, nil)
}

func (d *double) logOut(token string) *response {
	d.t.Helper()
	return d.send("DELETE", prefix+"/auth/session", token, nil)
}

const day = 24 * time.Hour

func TestTokensHaveTheClaimsOfTheHostedService(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	profile := d.profile(u.access)
	access, refresh := claims(t, u.access), claims(t, u.refresh)
	identity := profile["identities"].([]any)[0].(object)
	delete(identity, "provider_data")
	session := refresh["baas_id"]
	for _, tt := range []struct {
		name      string
		got, want object
	}{
		{"access", access, object{
			"sub": u.user, "typ": "access", "iss": session, "exp": number(start.Add(30 * time.Minute)), "iat": number(start),
			"baas_device_id": u.device, "stitch_devId": u.device,
			"baas_domain_id": profile["domain_id"], "stitch_domainId": profile["domain_id"],
		}},
		{"refresh", refresh, object{
			"sub": u.user, "typ": "refresh", "baas_id": session, "stitch_id": session, "exp": number(start.Add(60 * day)), "iat": number(start),
			"baas_device_id": u.device, "stitch_devId": u.device,
			"baas_domain_id": profile["domain_id"], "stitch_domainId": profile["domain_id"],
			"baas_identity": identity, "stitch_ident": identity, "baas_data": nil, "stitch_data": nil,
		}},
	} {
		for claim := range tt.got {
			if strings.HasPrefix(claim, "latchkey") { // the handler's own claims
				delete(tt.got, claim)
			}
		}
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("the %s token has\n%v, want\n%v", tt.name, tt.got, tt.want)
		}
	}
	if s, _ := session.(string); !hex24.MatchString(s) {
		t.Errorf("the session's ID is %v", session)
	}
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(u.access, ".")[0])
	must(t, err)
	if string(header) != `{"alg":"HS256","typ":"JWT"}` {
		t.Errorf("the header is %s", header)
	}
}

func number(t time.Time) json.Number { return json.Number(fmt.Sprint(t.Unix())) }

func TestLivesOfTokens(t *testing.T) {
	lives := func(u tokens) (access, refresh time.Duration) {
		life := func(token string) time.Duration {
			exp, _ := claims(t, token)["exp"].(json.Number).Int64()
			return time.Unix(exp, 0).Sub(start)
		}
		return life(u.access), life(u.refresh)
	}
	d := newDouble(t, nil)
	if access, refresh := lives(d.anonymous()); access != 30*time.Minute || refresh != 50*365*day {
		t.Errorf("the tokens of an anonymous user live %v and %v", access, refresh)
	}
	d = newDouble(t, &appservices.Options{AccessTokenLife: 2 * time.Second, RefreshTokenLife: time.Hour})
	for _, u := range []tokens{d.anonymous(), d.signUp("ada@example.com")} {
		if access, refresh := lives(u); access != 2*time.Second || refresh != time.Hour {
			t.Errorf("with options, tokens live %v and %v", access, refresh)
		}
	}
}

func TestATokensLifeIsExactWhileTheClockRuns(t *testing.T) {
	d := newDouble(t, nil)
	var ticks atomic.Int64
	h, err := appservices.New(d.store, &appservices.Options{
		CustomFunction: byName,
		Now:            func() time.Time { return start.Add(time.Duration(ticks.Add(1)) * 999 * time.Millisecond) },
	})
	must(t, err)
	server := httptest.NewServer(h)
	defer server.Close()
	d.url = server.URL
	life := func(token string) time.Duration {
		c := claims(t, token)
		exp, _ := c["exp"].(json.Number).Int64()
		iat, _ := c["iat"].(json.Number).Int64()
		return time.Duration(exp-iat) * time.Second
	}
	u := d.signUp("ada@example.com")
	linked := d.link(u.access, "custom-function", object{"userId": "a"}).tokens()
	refreshed := d.refresh(u.refresh).want(http.StatusCreated).json()["access_token"].(string)
	for name, access := range map[string]string{"login": u.access, "link": linked.access, "refresh": refreshed} {
		if got := life(access); got != 30*time.Minute {
			t.Errorf("the access token after a %s lives %v", name, got)
		}
	}
	if got := life(u.refresh); got != 60*day {
		t.Errorf("a refresh token lives %v", got)
	}
}

func TestRefreshingGivesOneNewAccessToken(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	d.clock.Advance(time.Hour)
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session: access token expired")
	body := d.refresh(u.refresh).want(http.StatusCreated).json()
	access, ok := body["access_token"].(string)
	if !ok || len(body) != 1 {
		t.Fatalf("the reply is %v", body)
	}
	d.profile(access)
}

func TestLoggingOutEndsOnlyThatSession(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	other := d.loginEmail("ada@example.com")
	d.logOut(u.refresh).noContent()
	const gone = "invalid session: failed to find refresh token"
	d.logOut(u.refresh).refused(401, "InvalidSession", gone)
	d.refresh(u.refresh).refused(401, "InvalidSession", gone)
	d.keys("GET", "", u.refresh, nil).refused(401, "InvalidSession", gone)
	d.profile(u.access) // good until it expires
	d.refresh(other.refresh).want(http.StatusCreated)
}

func TestRecordsOfEndedSessionsAreDeletedAfterTheirExpiry(t *testing.T) {
	d := newDouble(t, &appservices.Options{RefreshTokenLife: time.Hour})
	for range 5 {
		d.logOut(d.anonymous().refresh).noContent()
	}
	if n := d.records('e'); n != 5 {
		t.Fatalf("%d ended sessions are kept, want 5", n)
	}
	d.clock.Advance(2 * time.Hour)
	for range 5 {
		d.logOut(d.anonymous().refresh).noContent()
	}
	if n := d.records('e'); n != 5 {
		t.Errorf("%d ended sessions are kept, want 5", n)
	}
}

func TestAnEndedSessionStaysEndedWhenTheClockGoesForthAndBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(d *double) tokens
		jump time.Duration // goes past the end of the session
	}{
		{"of sixty days", func(d *double) tokens { return d.loginEmail("ada@example.com") }, 61 * day},
		{"of fifty years", (*double).anonymous, 51 * 365 * day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, nil)
			d.register("ada@example.com")
			const ended = "invalid session: failed to find refresh token"
			var out []tokens
			for range 3 { // each round begins at the same time as the first
				out = append(out, tt.open(d))
				d.logOut(out[len(out)-1].refresh).noContent()
				d.clock.Advance(tt.jump)
				d.logOut(d.anonymous().refresh).noContent() // deletes records of expired sessions
				d.clock.Advance(-tt.jump)
				for i, u := range out {
					if r := d.refresh(u.refresh); r.status != 401 {
						t.Errorf("session %d of %d is good again", i, len(out))
					} else {
						r.refused(401, "InvalidSession", ended)
					}
				}
				u := d.loginEmail("ada@example.com")
				d.refresh(u.refresh).want(http.StatusCreated)
				d.keys("GET", "", u.refresh, nil).want(http.StatusOK)
				d.logOut(u.refresh).noContent()
				d.refresh(u.refresh).refused(401, "InvalidSession", ended)
			}
		})
	}
}

func TestDeletingOldRecordsEndsNoGoodSession(t *testing.T) {
	d := newDouble(t, nil)
	d.register("ada@example.com")
	logInAndOut := func() { d.logOut(d.loginEmail("ada@example.com").refresh).noContent() }
	d.logOut(d.anonymous().refresh).noContent()
	d.clock.Advance(51 * 365 * day)
	logInAndOut() // deletes the record of a session of fifty years
	d.clock.Advance(-51 * 365 * day)
	logInAndOut()
	d.clock.Advance(59 * day)
	u := d.loginEmail("ada@example.com")
	d.clock.Advance(2 * day)
	logInAndOut() // must not delete the record of the session of sixty days
	d.refresh(u.refresh).want(http.StatusCreated)
}

func TestDisablingAUserEndsTheSessionsForGood(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	user := d.user("ada@example.com")
	must(t, d.store.DisableUser(t.Context(), user.ID))
	d.refresh(u.refresh).refused(401, "InvalidSession", "invalid session")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session")
	must(t, d.store.EnableUser(t.Context(), user.ID))
	d.refresh(u.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session: error finding user for endpoint")
	d.profile(d.loginEmail("ada@example.com").access)
}

// unlink takes an e-mail address from its user.
func (d *double) unlink(email string) {
	d.t.Helper()
	i := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email}
	_, err := d.store.UnlinkIdentity(d.t.Context(), d.user(email).ID, i)
	must(d.t, err)
}

func TestAnUnlinkedIdentityEndsItsSessionsAndItsPassword(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	first := d.signUp("sales@example.com")
	d.link(first.access, "custom-function", object{"userId": "ada"}).want(http.StatusOK)
	_, key := d.createKey(first.refresh, "laptop")
	byFunction, byKey := d.login("custom-function", object{"userId": "ada"}), d.loginKey(key)
	d.unlink("sales@example.com")

	d.ended(first)
	d.tryLogin("local-userpass", credentials("sales@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	// The user goes on with the other identity and the keys.
	for _, u := range []tokens{byFunction, byKey, d.loginKey(key)} {
		d.refresh(u.refresh).want(http.StatusCreated)
		d.profile(u.access)
	}
	if u := d.login("custom-function", object{"userId": "ada"}); u.user != first.user {
		t.Errorf("the other identity is user %s now, and was %s", u.user, first.user)
	}

	// The colleague who gets the address is another user, with another password.
	d.userpass("register", object{"email": "sales@example.com", "password": "colleague"}).want(http.StatusCreated)
	second := d.login("local-userpass", credentials("sales@example.com", "colleague"))
	if second.user == first.user {
		t.Error("the colleague is the first user")
	}
	if list := d.keys("GET", "", second.refresh, nil).want(http.StatusOK); string(list.body) != "[]" {
		t.Errorf("the colleague has the keys %s", list.body)
	}
	d.ended(first)
	d.tryLogin("local-userpass", credentials("sales@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	d.profile(d.loginKey(key).access)
}

func TestAKeyThatHasLoggedInStaysAmongTheIdentitiesWhenOthersAreUnlinked(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.signUp("ada@example.com")
	for _, name := range []string{"a", "b"} {
		d.link(u.access, "custom-function", object{"userId": name}).want(http.StatusOK)
	}
	_, key := d.createKey(u.refresh, "laptop")
	byKey := d.loginKey(key)
	want := d.profile(byKey.access)["identities"].([]any)
	d.unlink("ada@example.com")
	got := d.profile(byKey.access)["identities"].([]any)
	if !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("the identities are %v, want %v", got, want[1:])
	}
}

func TestDeletingAUserEndsEverything(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	d.loginKey(key)
	d.link(u.access, "custom-function", object{"userId": "a"}).want(http.StatusOK)
	d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent()
	d.tryLogin("api-key", object{"key": key}).refused(401, "AuthError", "unauthorized")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session: error finding user for endpoint")
	d.refresh(u.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	// realm-web logs out after a deletion, and reads this text as success.
	d.logOut(u.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	for _, kind := range []byte("akp") {
		if n := d.records(kind); n != 0 {
			t.Errorf("%d records of the kind %q are left after the deletion of the user", n, kind)
		}
	}
}

// forge signs claims with a key that is not the app's key.
func forge(header, claims string) string { return sign([]byte("guessed"), header, claims) }

func sign(key []byte, header, claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	s := b64([]byte(header)) + "." + b64([]byte(claims))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(s))
	return s + "." + b64(mac.Sum(nil))
}

func TestErrorsOfBearerTokens(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	const schema = "expected Authorization header with JWT (Bearer schema)"
	body := func(token string) string {
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		must(t, err)
		return string(b)
	}
	forged := func(header, token string) string { return "Bearer " + forge(header, body(token)) }
	const hs256, none = `{"alg":"HS256","typ":"JWT"}`, `{"alg":"none","typ":"JWT"}`
	unsigned := func(token string) string { return "Bearer " + token[:strings.LastIndexByte(token, '.')+1] }
	for _, tt := range []struct {
		name            string
		header          []string // Authorization
		onAccess        string
		onRefresh       string
		access, refresh string // codes
	}{
		{"no header", nil, "must authenticate first", "must authenticate first", "", ""},
		{"an empty token", []string{"Bearer "}, "unauthorized", schema, "", ""},
		{"an empty header", []string{""}, "unauthorized", schema, "", ""},
		{"null", []string{"Bearer null"}, "unauthorized", schema, "", ""},
		{"undefined", []string{"Bearer undefined"}, "unauthorized", schema, "", ""},
		{"three parts of nonsense", []string{"Bearer a.b.c"}, "unauthorized", schema, "", ""},
		{"another scheme", []string{"Basic YTpi"}, "unauthorized", schema, "", ""},
		{"a bad signature", []string{forged(hs256, u.refresh)}, "unauthorized", "signature is invalid", "", ""},
		{"no signature", []string{unsigned(u.refresh)}, "unauthorized", "signature is invalid", "", ""},
		{"no algorithm", []string{forged(none, u.refresh)}, "unauthorized", "signature is invalid", "", ""},
		{"another algorithm", []string{forged(`{"alg":"HS512"}`, u.refresh)}, "unauthorized", "signature is invalid", "", ""},
		{"claims of the wrong type", []string{"Bearer " + forge(hs256, `{"exp":"x","typ":7}`)}, "unauthorized", schema, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{}
			if tt.header != nil {
				header["Authorization"] = tt.header
			}
			for _, path := range []string{"GET /auth/profile", "DELETE /auth/delete", "POST /app/demo-abcde/functions/call"} {
				method, path, _ := strings.Cut(path, " ")
				d.sendWith(method, prefix+path, header, nil).refused(401, tt.access, tt.onAccess)
			}
			for _, call := range everyKeyCall("x") {
				d.sendWith(call.method, prefix+"/auth/api_keys"+call.path, header, "{").refused(401, tt.refresh, tt.onRefresh)
			}
			for _, method := range []string{"POST", "DELETE"} {
				d.sendWith(method, prefix+"/auth/session", header, nil).refused(401, tt.refresh, tt.onRefresh)
			}
		})
	}
	t.Run("an access token where a refresh token belongs", func(t *testing.T) {
		d.refresh(u.access).refused(401, "", "invalid refresh token: incorrect token type")
	})
	t.Run("a refresh token where an access token belongs", func(t *testing.T) {
		d.send("GET", prefix+"/auth/profile", u.refresh, nil).refused(401, "InvalidSession", "invalid session")
	})
	t.Run("expired", func(t *testing.T) {
		d.clock.Advance(60*day - time.Second)
		d.refresh(u.refresh).want(http.StatusCreated)
		d.clock.Advance(time.Second)
		d.refresh(u.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
		d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session: access token expired")
	})
}

// realm-web's logOut fails unless the text of a refusal contains these words.
func TestLoggingOutOfASessionThatIsNoMoreSaysSo(t *testing.T) {
	for name, end := range map[string]func(d *double, u tokens){
		"logged out":    func(d *double, u tokens) { d.logOut(u.refresh).noContent() },
		"expired":       func(d *double, u tokens) { d.clock.Advance(60 * day) },
		"user deleted":  func(d *double, u tokens) { d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent() },
		"user disabled": func(d *double, u tokens) { must(t, d.store.DisableUser(t.Context(), d.user("ada@example.com").ID)) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, nil)
			u := d.signUp("ada@example.com")
			end(d, u)
			d.logOut(u.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
		})
	}
}

func TestATokenWithoutAnExpiryDateHasExpired(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	endless := func(token string) string {
		c := claims(t, token)
		delete(c, "exp")
		b, err := json.Marshal(c)
		must(t, err)
		return sign(d.signingKey(), `{"alg":"HS256","typ":"JWT"}`, string(b))
	}
	d.refresh(endless(u.refresh)).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	d.send("GET", prefix+"/auth/profile", endless(u.access), nil).
		refused(401, "InvalidSession", "invalid session: access token expired")
}

func TestTokensOfAnotherStoreAreRefused(t *testing.T) {
	u := newDouble(t, nil).signUp("ada@example.com")
	newDouble(t, nil).refresh(u.refresh).refused(401, "", "signature is invalid")
}

func TestTheBearerSchemeIgnoresCase(t *testing.T) {
	d := newDouble(t, nil)
	u := d.anonymous()
	d.sendWith("GET", prefix+"/auth/profile", http.Header{"Authorization": {"bearer " + u.access}}, nil).want(http.StatusOK)
}

func TestSeveralSpacesMayFollowTheBearerScheme(t *testing.T) {
	d := newDouble(t, nil)
	u := d.anonymous()
	d.sendWith("GET", prefix+"/auth/profile", http.Header{"Authorization": {"Bearer   " + u.access}}, nil).want(http.StatusOK)
}

func TestTheFirstAuthorizationHeaderCounts(t *testing.T) {
	d := newDouble(t, nil)
	good, bad := "Bearer "+d.anonymous().access, "Bearer x"
	d.sendWith("GET", prefix+"/auth/profile", http.Header{"Authorization": {good, bad}}, nil).want(http.StatusOK)
	d.sendWith("GET", prefix+"/auth/profile", http.Header{"Authorization": {bad, good}}, nil).refused(401, "", "unauthorized")
}

func TestATokenHasOnlyOneSpelling(t *testing.T) {
	d := newDouble(t, nil)
	token := d.anonymous().refresh
	last := len(token) - 1
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		want := http.StatusUnauthorized
		if token[last] == byte(c) {
			want = http.StatusCreated
		}
		if got := d.refresh(token[:last] + string(c)).status; got != want {
			t.Errorf("with %q for the last character %q got status %d, want %d", c, token[last], got, want)
		}
	}
	d.refresh(token+"=").refused(401, "", "expected Authorization header with JWT (Bearer schema)")
}

func TestTokensStayGoodWhenTheClockGoesBack(t *testing.T) {
	d := newDouble(t, nil)
	u := d.anonymous()
	d.clock.Advance(-time.Hour)
	d.profile(u.access)
	d.refresh(u.refresh).want(http.StatusCreated)
}

func TestEverythingOutlivesARestart(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "keys.db"), appservices.NewClock(start)
	var mails outbox
	opts := &appservices.Options{Mail: mails.send}
	before := newDoubleAt(t, path, clock, opts)
	u := before.signUp("ada@example.com")
	id, key := before.createKey(u.refresh, "laptop")
	before.loginKey(key)
	profile := before.profile(u.access)
	out := before.loginEmail("ada@example.com")
	before.logOut(out.refresh).noContent()
	before.register("bob@example.com")
	before.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	must(t, before.store.Close())
	clock.Advance(time.Minute)

	after := newDoubleAt(t, path, clock, opts)
	if got := after.profile(u.access); !reflect.DeepEqual(got, profile) {
		t.Errorf("the profile is\n%v, want\n%v", got, profile)
	}
	after.refresh(u.refresh).want(http.StatusCreated)
	after.refresh(out.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	after.keys("GET", "/"+id, u.refresh, nil).want(http.StatusOK)
	for _, again := range []tokens{after.loginKey(key), after.loginEmail("ada@example.com")} {
		if again.user != u.user {
			t.Errorf("the user is %s, want %s", again.user, u.user)
		}
	}
	after.loginEmail("bob@example.com")
	after.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()
	after.login("local-userpass", credentials("ada@example.com", "another-one"))
}

func TestAccessTokensHaveThePresentCustomUserData(t *testing.T) {
	var data map[string]any
	var failure error
	d := newDouble(t, &appservices.Options{
		UserData: func(_ context.Context, user latchkey.User) (map[string]any, error) { return data, failure },
	})
	u := d.signUp("ada@example.com")
	if got, ok := claims(t, u.access)["user_data"]; ok {
		t.Errorf("there is user data: %v", got)
	}
	data = map[string]any{"colour": "red"}
	access := d.refresh(u.refresh).want(http.StatusCreated).json()["access_token"].(string)
	if got := claims(t, access)["user_data"]; !reflect.DeepEqual(got, data) {
		t.Errorf("the user data is %v, want %v", got, data)
	}
	failure = errors.New("the database of colours is away")
	d.refresh(u.refresh).refused(500, "InternalServerError", "internal server error")
}

// openApps returns an OpenApp that opens a store for each app in a directory.
func openApps(t *testing.T, dir string) func(context.Context, string) (*latchkey.Store, error) {
	return func(_ context.Context, appID string) (*latchkey.Store, error) {
		store, err := latchkey.Open(filepath.Join(dir, appID+".db"), &latchkey.Options{Cost: latchkey.LightCost})
		if err == nil {
			t.Cleanup(func() { store.Close() })
		}
		return store, err
	}
}

func TestAppsWithStoresOfTheirOwnAreSeparate(t *testing.T) {
	clock := appservices.NewClock(start)
	opts := &appservices.Options{OpenApp: openApps(t, t.TempDir())}
	d := serve(t, nil, clock, opts)
	u := d.signUp("ada@example.com")
	const other = prefix + "/app/other-abcde/auth/providers/local-userpass/"
	d.send("POST", other+"login", "", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	d.send("POST", other+"register", "", object{"email": "ada@example.com", "password": password}).want(http.StatusCreated)
	d.send("POST", other+"login?link=true", u.access, credentials("ada@example.com", password)).
		refused(403, "UserAppDomainMismatch", "the token is another app's")
	there := d.send("POST", other+"login", "", credentials("ada@example.com", password)).tokens()
	if a, b := d.profile(u.access), d.profile(there.access); a["domain_id"] == b["domain_id"] || a["user_id"] == b["user_id"] {
		t.Errorf("the profiles are %v and %v", a, b)
	}
}

func TestATokenFindsItsAppAfterARestart(t *testing.T) {
	clock, dir := appservices.NewClock(start), t.TempDir()
	var stores []*latchkey.Store
	open := openApps(t, dir)
	opts := &appservices.Options{OpenApp: func(ctx context.Context, appID string) (*latchkey.Store, error) {
		s, err := open(ctx, appID)
		stores = append(stores, s)
		return s, err
	}}
	u := serve(t, nil, clock, opts).signUp("ada@example.com")
	must(t, stores[0].Close())
	serve(t, nil, clock, opts).refresh(u.refresh).want(http.StatusCreated)
}

func TestAnAppStaysOpenedWhenItsFirstClientLeaves(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	open, opened := openApps(t, t.TempDir()), 0
	d := serve(t, nil, appservices.NewClock(start), &appservices.Options{
		OpenApp: func(ctx context.Context, appID string) (*latchkey.Store, error) {
			opened++
			leave()
			if err := ctx.Err(); err != nil {
				t.Errorf("the context ends with the request: %v", err)
			}
			return open(ctx, appID)
		},
	})
	d.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", appPath+"/location", nil))
	d.send("GET", appPath+"/location", "", nil).want(http.StatusOK)
	if opened != 1 {
		t.Errorf("the app was opened %d times, want once", opened)
	}
}

func TestAtMost100AppsAreOpened(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	defer store.Close()
	opened := 0
	d := serve(t, nil, appservices.NewClock(start), &appservices.Options{
		OpenApp: func(context.Context, string) (*latchkey.Store, error) { opened++; return store, nil },
	})
	for i := range 100 {
		d.send("GET", fmt.Sprintf("%s/app/app-%d/location", prefix, i), "", nil).want(http.StatusOK)
	}
	d.send("GET", prefix+"/app/app-100/location", "", nil).refused(503, "", "too many apps")
	d.send("GET", prefix+"/app/app-0/location", "", nil).want(http.StatusOK)
	if opened != 100 {
		t.Errorf("%d apps were opened, want 100", opened)
	}
}

func TestAnAppThatCannotBeOpenedEndsNoSession(t *testing.T) {
	clock, dir := appservices.NewClock(start), t.TempDir()
	u := serve(t, nil, clock, &appservices.Options{OpenApp: openApps(t, dir)}).anonymous()
	d := serve(t, nil, clock, &appservices.Options{
		OpenApp: func(context.Context, string) (*latchkey.Store, error) { return nil, latchkey.ErrLocked },
	})
	d.refresh(u.refresh).refused(500, "InternalServerError", "internal server error")
}

func TestAllAppIDsMeanTheSameAppInOneStore(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	again := d.send("POST", prefix+"/app/another-name/auth/providers/local-userpass/login", "", credentials("ada@example.com", password)).tokens()
	if again.user != u.user {
		t.Errorf("the user is %s, want %s", again.user, u.user)
	}
}

func TestTokensAreGoodWhereTheirAppIDIsKnown(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "keys.db"), appservices.NewClock(start)
	start := func(appIDs ...string) *double {
		return newDoubleAt(t, path, clock, &appservices.Options{AppIDs: appIDs})
	}
	d := start("demo-abcde")
	u := d.signUp("ada@example.com")
	id, key := d.createKey(u.refresh, "laptop")
	must(t, d.store.Close())

	d = start("other-abcde")
	d.refresh(u.refresh).refused(401, "", "signature is invalid")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "", "unauthorized")
	d.tryLogin("api-key", object{"key": key}).refused(404, "", "cannot find app using Client App ID 'demo-abcde'")
	const login = prefix + "/app/other-abcde/auth/providers/"
	d.send("POST", login+"api-key/login", "", object{"key": key}).want(http.StatusOK)
	again := d.send("POST", login+"local-userpass/login", "", credentials("ada@example.com", password)).tokens()
	if again.user != u.user {
		t.Errorf("the user is %s, want %s", again.user, u.user)
	}
	d.keys("GET", "/"+id, again.refresh, nil).want(http.StatusOK)
	must(t, d.store.Close())

	d = start()
	d.refresh(u.refresh).want(http.StatusCreated)
	d.refresh(again.refresh).want(http.StatusCreated)
}

func TestTheActorOfAChangeIsTheUserAndTheKeyOfTheSession(t *testing.T) {
	var actors []string
	clock := appservices.NewClock(start)
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
		Cost: latchkey.LightCost, Now: clock.Now, TestClock: true,
		OnChange: func(_ *latchkey.Tx, c latchkey.Change) error {
			actors = append(actors, fmt.Sprintf("%s: %s", c.Actions[0], c.Actor))
			return nil
		},
	})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	d := serve(t, store, clock, &appservices.Options{AllowKeySessions: true})
	u := d.signUp("ada@example.com")
	user := d.user("ada@example.com").ID
	_, token := d.createKey(u.refresh, "laptop")
	keys, err := store.Keys(t.Context(), user)
	must(t, err)
	d.createKey(d.loginKey(token).refresh, "phone")
	d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent()

	byUser, byKey := fmt.Sprintf("user %s", user), fmt.Sprintf("user %s, key %s", user, keys[0].ID)
	want := []string{
		"user.created: ", "key.created: " + byUser, "key.created: " + byKey,
		"key.deleted: " + byUser, "key.deleted: " + byUser, "user.deleted: " + byUser,
	}
	if !slices.Equal(actors, want) {
		t.Errorf("the hook was told\n%s\nwant\n%s", strings.Join(actors, "\n"), strings.Join(want, "\n"))
	}
}
