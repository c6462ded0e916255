package appservices_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The ten points that are easy to get wrong. A mistake in any of them breaks an unmodified SDK.

var hex24 = regexp.MustCompile(`^[0-9a-f]{24}$`)

func TestEasyToGetWrong01TheContentTypeIsJSONWithoutParameters(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	for _, r := range []*response{
		d.send("GET", appPath+"/location", "", nil),
		d.tryLogin("anon-user", nil),
		d.tryLogin("api-key", object{"key": "wrong"}),
		d.send("GET", prefix+"/auth/profile", u.access, nil),
		d.keys("GET", "", u.refresh, nil),
		d.keys("GET", "", "", nil),
		d.send("GET", "/nowhere", "", nil),
	} {
		if got := r.header["Content-Type"]; len(got) != 1 || got[0] != "application/json" {
			t.Errorf("%s has the content type %q", r.body, got)
		}
	}
}

func TestEasyToGetWrong02IDsAre24LowerCaseHexadecimalDigits(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	ids := map[string]any{"key": id, "user": u.user, "device": u.device}
	profile := d.profile(u.access)
	ids["user in profile"], ids["domain"] = profile["user_id"], profile["domain_id"]
	identity := profile["identities"].([]any)[0].(object)
	ids["identity"], ids["provider"] = identity["id"], identity["provider_id"]
	for what, id := range ids {
		if s, ok := id.(string); !ok || !hex24.MatchString(s) {
			t.Errorf("the ID of the %s is %v", what, id)
		}
	}
}

// everyKeyCall returns the six calls about keys, with the statuses that the key's owner gets.
func everyKeyCall(id string) []struct {
	method, path string
	body         any
	status       int
} {
	return []struct {
		method, path string
		body         any
		status       int
	}{
		{"POST", "", object{"name": "another"}, http.StatusCreated},
		{"GET", "", nil, http.StatusOK},
		{"GET", "/" + id, nil, http.StatusOK},
		{"PUT", "/" + id + "/disable", nil, http.StatusNoContent},
		{"PUT", "/" + id + "/enable", nil, http.StatusNoContent},
		{"DELETE", "/" + id, nil, http.StatusNoContent},
	}
}

func TestEasyToGetWrong03AllSixKeyCallsTakeTheRefreshToken(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	for _, call := range everyKeyCall(id) {
		d.keys(call.method, call.path, u.access, call.body).refused(401, "", "invalid refresh token: incorrect token type")
	}
	for _, call := range everyKeyCall(id) {
		d.keys(call.method, call.path, u.refresh, call.body).want(call.status)
	}
}

func TestEasyToGetWrong04TokensAreJWTsWithIntegerTimes(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	for name, token := range map[string]string{"access": u.access, "refresh": u.refresh} {
		c := claims(t, token)
		for _, claim := range []string{"exp", "iat"} {
			n, ok := c[claim].(json.Number)
			if !ok || strings.ContainsAny(n.String(), ".eE") {
				t.Errorf("%s of the %s token is %v", claim, name, c[claim])
			}
		}
		if c["sub"] != u.user {
			t.Errorf("the %s token is of %v, want %s", name, c["sub"], u.user)
		}
	}
}

func TestEasyToGetWrong05OnlyFaultsOfTheSessionGet401(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	d.createKey(u.refresh, "laptop")
	for _, r := range []*response{
		d.keys("POST", "", u.refresh, object{"name": "laptop"}),
		d.keys("POST", "", u.refresh, object{"name": "%s"}),
		d.keys("POST", "", u.refresh, "{"),
		d.keys("GET", "/000000000000000000000000", u.refresh, nil),
		d.keys("PATCH", "", u.refresh, nil),
		d.keys("GET", "", d.anonymous().refresh, nil),
		d.link(u.access, "anon-user", nil),
		d.link(u.access, "nobody", nil),
	} {
		if r.status < 400 || r.status == http.StatusUnauthorized {
			t.Errorf("got status %d with %s", r.status, r.body)
		}
	}
	d.keys("GET", "", u.refresh, nil).want(http.StatusOK)
}

func TestEasyToGetWrong06ProfilesHaveDataOfStringsAndKnownProviders(t *testing.T) {
	d := newDouble(t, nil)
	_, serverKey := d.serverKey("backup")
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	known := map[any]bool{"anon-user": true, "local-userpass": true, "api-key": true}
	for _, access := range []string{u.access, d.anonymous().access, d.loginKey(key).access, d.loginKey(serverKey).access} {
		p := d.profile(access)
		data, ok := p["data"].(object)
		if !ok {
			t.Errorf("data is %v", p["data"])
		}
		for field, value := range data {
			if _, ok := value.(string); !ok {
				t.Errorf("data has %s: %v", field, value)
			}
		}
		identities, ok := p["identities"].([]any)
		if !ok || len(identities) == 0 {
			t.Errorf("identities are %v", p["identities"])
		}
		for _, i := range identities {
			if !known[i.(object)["provider_type"]] {
				t.Errorf("an identity is %v", i)
			}
		}
	}
}

func TestEasyToGetWrong07FetchedKeysHaveThreeFields(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	want := `{"_id":"` + id + `","name":"laptop","disabled":false}`
	if got := string(d.keys("GET", "/"+id, u.refresh, nil).body); got != want {
		t.Errorf("a key is %s, want %s", got, want)
	}
	if got := string(d.keys("GET", "", u.refresh, nil).body); got != "["+want+"]" {
		t.Errorf("keys are %s, want [%s]", got, want)
	}
}

func TestEasyToGetWrong08TheHostNameIsTheOneThatTheClientUsed(t *testing.T) {
	d := newDouble(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", d.url+appPath+"/location", nil)
	must(t, err)
	r.Host = "10.0.2.2:9090"
	resp, err := http.DefaultTransport.RoundTrip(r)
	must(t, err)
	defer resp.Body.Close()
	var body object
	must(t, json.NewDecoder(resp.Body).Decode(&body))
	if body["hostname"] != "http://10.0.2.2:9090" || body["ws_hostname"] != "ws://10.0.2.2:9090" {
		t.Errorf("the location is %v", body)
	}
}

func TestEasyToGetWrong09ErrorsHaveALink(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	form := regexp.MustCompile(`^` + regexp.QuoteMeta(d.url) + `/groups/[0-9a-f]{24}/apps/[0-9a-f]{24}/logs\?co_id=[0-9a-f]{24}$`)
	for _, r := range []*response{
		d.keys("GET", "/000000000000000000000000", u.refresh, nil),
		d.userpass("register", object{"email": "ada@example.com", "password": password}),
		d.tryLogin("api-key", object{"key": "wrong"}),
		d.keys("GET", "", "", nil),
	} {
		if link, _ := r.json()["link"].(string); !form.MatchString(link) {
			t.Errorf("the link of %s has another form", r.body)
		}
	}
}

func TestEasyToGetWrong10SuccessWithoutContentHasNoContentType(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	d.keys("PUT", "/"+id+"/disable", u.refresh, nil).noContent()
	d.keys("PUT", "/"+id+"/enable", u.refresh, nil).noContent()
	d.keys("DELETE", "/"+id, u.refresh, nil).noContent()
	d.send("DELETE", prefix+"/auth/session", d.loginEmail("ada@example.com").refresh, nil).noContent()
	d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent()
	d.send("OPTIONS", "/anything", "", nil).noContent()
}
