package appservices_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// FuzzHandler sends any bytes as the method, the path with its query, the bearer and the body of
// requests, one request after the other. Words in the input stand for values that the handler gave:
// $A and $R for tokens, $K for the ID of a key, $V for its value.
func FuzzHandler(f *testing.F) {
	for _, seed := range []struct{ method, target, bearer, body string }{
		{"GET", appPath + "/location", "", ""},
		{"POST", appPath + "/auth/providers/anon-user/login", "", `{"options":{"device":{"deviceId":{"$oid":"65a1b2c3d4e5f60718293a4c"}}}}`},
		{"POST", appPath + "/auth/providers/local-userpass/login?link=true", "Bearer $A", `{"username":"a","password":"b"}`},
		{"POST", appPath + "/auth/providers/custom-function/login", "", `{"a":[{"$date":{"$numberLong":"1"}},{"$numberInt":"x"}],"options":7}`},
		{"POST", appPath + "/auth/providers/api-key/login", "", `{"key":"$V"}`},
		{"POST", appPath + "/auth/providers/local-userpass/register", "Bearer null", `{"email":"a","password":"123456"}`},
		{"POST", appPath + "/auth/providers/local-userpass/reset/call", "", `{"email":"a","password":"123456","arguments":[]}`},
		{"POST", appPath + "/auth/providers/local-userpass/confirm", "", `{"token":"","tokenId":""}`},
		{"POST", appPath + "/functions/call", "Bearer $A", `{"name":"x"}`},
		{"POST", prefix + "/auth/session", "Bearer $R", ""},
		{"DELETE", prefix + "/auth/session", "bearer a.b.c", ""},
		{"GET", prefix + "/auth/profile", "Bearer $A", ""},
		{"POST", prefix + "/auth/api_keys", "Bearer $R", `{"name":"laptop"}`},
		{"PUT", "//api/client/v2.0//auth/api_keys/$K/enable", "Bearer $R", ""},
		{"GET", prefix + "/auth/api_keys/%00", "Bearer $R", "\xff"},
		{"DELETE", prefix + "/auth/api_keys/a%2Fb", "Bearer $R", ""},
		{"PUT", prefix + "/auth/api_keys//enable", "Bearer $R", ""},
		{"GET", appPath + "/functions/call?baas_request=e30", "", ""},
		{"OPTIONS", "*", "", ""},
	} {
		f.Add(seed.method, seed.target, seed.bearer, []byte(seed.body))
	}

	store, err := latchkey.Open(filepath.Join(f.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	must(f, err)
	f.Cleanup(func() { store.Close() })
	var log logged
	d := serve(f, store, appservices.NewClock(start), &appservices.Options{
		CustomFunction: byName, FailedLogins: -1, Logger: log.logger(),
	})
	u := d.signUp("fuzz@example.com")
	id, key := d.createKey(u.refresh, "laptop")
	words := strings.NewReplacer("$A", u.access, "$R", u.refresh, "$K", id, "$V", key)

	f.Fuzz(func(t *testing.T, method, target, bearer string, body []byte) {
		path, query, _ := strings.Cut(words.Replace(target), "?")
		r := httptest.NewRequest("GET", "/", bytes.NewReader([]byte(words.Replace(string(body)))))
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		if unescaped, err := url.PathUnescape(path); err == nil { // as a server does
			r.URL.Path, r.URL.RawPath = unescaped, path
		}
		if bearer != "" {
			r.Header.Set("Authorization", words.Replace(bearer))
		}
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		switch {
		case strings.Contains(log.String(), "panic"):
			t.Fatalf("a panic: %s", log.String())
		case w.Code >= 500 && w.Code != http.StatusServiceUnavailable && !isSecondEmail(w):
			t.Fatalf("status %d with %s", w.Code, w.Body)
		case w.Code >= 400 && w.Code != http.StatusForbidden:
			wantErrorShape(t, w.Code, w.Header(), w.Body.Bytes())
		}
		log.reset()
	})
}

// isSecondEmail reports whether a reply is the answer with status 500 that the hosted service gave
// by mistake.
func isSecondEmail(w *httptest.ResponseRecorder) bool {
	return strings.Contains(w.Body.String(), `"error":"unauthorized","error_code":"InternalServerError"`)
}
