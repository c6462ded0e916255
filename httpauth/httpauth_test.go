package httpauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/httpauth"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

// fakeStore knows one token, whose key has two scopes.
type fakeStore struct {
	err    error // of every login, if it is not nil
	logins int
	addr   netip.Addr // of the last login
}

const token = "lk_good"

var keyID = uuid.UUID{1}

func (s *fakeStore) LoginFrom(_ context.Context, t string, addr netip.Addr) (latchkey.Principal, error) {
	s.logins++
	s.addr = addr
	switch {
	case s.err != nil:
		return latchkey.Principal{}, fmt.Errorf("login with key %s: %w", keyID, s.err)
	case t != token:
		return latchkey.Principal{}, latchkey.ErrInvalidToken
	}
	return latchkey.Principal{KeyID: keyID, KeyName: "laptop", Scopes: latchkey.NewScopes("files:read", "users:*")}, nil
}

// handler answers with the name of the key.
var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	who, ok := httpauth.PrincipalFrom(r.Context())
	fmt.Fprint(w, who.KeyName, " ", ok)
})

// request returns a request with headers: a name, a value, and so on.
func request(headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/files/1?x=y", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func bearer() *http.Request { return request("Authorization", "Bearer "+token) }

func basic(name, password string) string {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth(name, password)
	return r.Header.Get("Authorization")
}

func TestTheTokenIsFoundWhereTheOptionsSay(t *testing.T) {
	all := &httpauth.Options{Header: "x-api-key", Basic: true}
	for _, tt := range []struct {
		about   string
		opts    *httpauth.Options
		headers []string
		status  int
	}{
		{"a bearer token", nil, []string{"Authorization", "Bearer " + token}, 200},
		{"another spelling of Bearer", nil, []string{"Authorization", "bEARER  " + token + " "}, 200},
		{"nothing", nil, nil, 401},
		{"another scheme", nil, []string{"Authorization", "Digest x=y"}, 401},
		{"an empty header", nil, []string{"Authorization", ""}, 401},
		{"a wrong token", nil, []string{"Authorization", "Bearer x"}, 401},
		{"Bearer without a token", nil, []string{"Authorization", "Bearer"}, 400},
		{"Bearer and blanks", nil, []string{"Authorization", "Bearer  "}, 400},
		{"two tokens in one header", nil, []string{"Authorization", "Bearer " + token + ", Bearer x"}, 400},
		{"a token with a blank", nil, []string{"Authorization", "Bearer a b"}, 400},
		{"the same token twice", nil, []string{"Authorization", "Bearer " + token, "Authorization", "Bearer " + token}, 200},
		{"two tokens", nil, []string{"Authorization", "Bearer " + token, "Authorization", "Bearer x"}, 400},
		{"a header that was not chosen", nil, []string{"X-Api-Key", token}, 401},
		{"a basic password that was not asked for", nil, []string{"Authorization", basic("any", token)}, 401},

		{"the chosen header", all, []string{"X-Api-Key", " " + token + " "}, 200},
		{"the chosen header, empty", all, []string{"X-Api-Key", ""}, 401},
		{"the chosen header and Authorization", all, []string{"X-Api-Key", token, "Authorization", "Bearer " + token}, 200},
		{"the chosen header, and Authorization for the program behind", all, []string{"X-Api-Key", token, "Authorization", "Bearer x"}, 200},
		{"the chosen header with a wrong token", all, []string{"X-Api-Key", "x", "Authorization", "Bearer " + token}, 401},
		{"the chosen header, empty, and Authorization", all, []string{"X-Api-Key", "", "Authorization", "Bearer " + token}, 200},
		{"the chosen header with two tokens", all, []string{"X-Api-Key", token, "X-Api-Key", "x"}, 400},
		{"a basic password", all, []string{"Authorization", basic("any", token)}, 200},
		{"a basic password without a name", all, []string{"Authorization", basic("", token)}, 200},
		{"no basic password", all, []string{"Authorization", basic(token, "")}, 400},
		{"no base64", all, []string{"Authorization", "Basic !"}, 400},
		{"a basic password and a bearer token", all, []string{"Authorization", "Bearer " + token, "Authorization", basic("any", token)}, 200},
		{"two basic passwords", all, []string{"Authorization", basic("any", token), "Authorization", basic("any", "x")}, 400},
		{"a basic password and another token", all, []string{"Authorization", "Bearer " + token, "Authorization", basic("any", "x")}, 400},

		{"a token without a scheme", &httpauth.Options{Header: "Authorization"}, []string{"Authorization", token}, 200},
		{"a scheme that is not asked for", &httpauth.Options{Header: "Authorization"}, []string{"Authorization", "Bearer " + token}, 401},
	} {
		s := &fakeStore{}
		w := serve(httpauth.NewWith(s, tt.opts).Require()(handler), request(tt.headers...))
		if w.Code != tt.status {
			t.Errorf("%s: got %d %s, want %d", tt.about, w.Code, w.Body, tt.status)
		}
		if w.Code == 200 && w.Body.String() != "laptop true" {
			t.Errorf("%s: the handler says %q", tt.about, w.Body)
		}
		if w.Code == 400 && s.logins != 0 {
			t.Errorf("%s: the store was asked", tt.about)
		}
	}
}

func TestEachErrorHasAStatus(t *testing.T) {
	const invalid = `Bearer realm="latchkey", error="invalid_token"`
	for _, tt := range []struct {
		err              error
		status           int
		challenge, retry string
		body             string
	}{
		{latchkey.ErrInvalidToken, 401, invalid, "", "invalid token"},
		{latchkey.ErrKeyDisabled, 401, invalid, "", "key is disabled"},
		{latchkey.ErrKeyExpired, 401, invalid, "", "key has expired"},
		{latchkey.ErrUserDisabled, 401, invalid, "", "user is disabled"},
		{latchkey.ErrGroupDisabled, 401, invalid, "", "group is disabled"},
		{latchkey.ErrNetworkNotAllowed, 403, "", "", "key may not be used from this address"},
		{latchkey.ErrBusy, 503, "", "1", "Service Unavailable"},
		{latchkey.ErrClosed, 503, "", "5", "Service Unavailable"},
		{latchkey.ErrCorrupt, 503, "", "5", "Service Unavailable"},
		{context.Canceled, 503, "", "5", "Service Unavailable"},
		{errors.New("no route to disk 7"), 503, "", "5", "Service Unavailable"},
	} {
		w := serve(httpauth.NewWith(&fakeStore{err: tt.err}, nil).Require()(handler), bearer())
		if w.Code != tt.status || httpauth.Status(tt.err) != tt.status || httpauth.Status(fmt.Errorf("wrapped: %w", tt.err)) != tt.status {
			t.Errorf("%v: got %d, Status %d, want %d", tt.err, w.Code, httpauth.Status(tt.err), tt.status)
		}
		h := w.Header()
		if h.Get("WWW-Authenticate") != tt.challenge || h.Get("Retry-After") != tt.retry || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%v: the header is %v", tt.err, h)
		}
		if w.Body.String() != tt.body+"\n" {
			t.Errorf("%v: the body is %q, want %q", tt.err, w.Body, tt.body)
		}
	}
	for name, r := range map[string]*http.Request{
		"no token after Bearer": request("Authorization", "Bearer"),
		"two tokens":            request("Authorization", "Bearer a", "Authorization", "Bearer b"),
	} {
		w := serve(httpauth.NewWith(&fakeStore{}, nil).Require()(handler), r)
		if got := w.Header().Get("WWW-Authenticate"); w.Code != 400 || got != `Bearer realm="latchkey", error="invalid_request"` {
			t.Errorf("%s: %d, %q", name, w.Code, got)
		}
	}
	if httpauth.Status(nil) != 200 {
		t.Error("the status of no error is not 200")
	}
	w := serve(httpauth.NewWith(&fakeStore{}, &httpauth.Options{Realm: `a "b" \c`, Basic: true}).Require()(handler), request())
	if got := w.Header().Values("WWW-Authenticate"); w.Code != 401 || !slices.Equal(got, []string{`Bearer realm="a \"b\" \\c"`, `Basic realm="a \"b\" \\c"`}) {
		t.Errorf("without a token: %d, %q", w.Code, got)
	}
}

func TestRequireAsksForEveryScope(t *testing.T) {
	for _, tt := range []struct {
		scopes []string
		status int
	}{
		{nil, 200}, {[]string{"files:read"}, 200}, {[]string{"files:read", "users:list"}, 200},
		{[]string{"files:write"}, 403}, {[]string{"files:read", "files:write"}, 403}, {[]string{""}, 403}, {[]string{"latchkey:admin"}, 403},
	} {
		a := httpauth.NewWith(&fakeStore{}, nil)
		require := a.Require(tt.scopes...)
		w := serve(require(handler), bearer())
		if w.Code != tt.status {
			t.Errorf("%q: got %d, want %d", tt.scopes, w.Code, tt.status)
		}
		want := ""
		if tt.status == 403 {
			want = fmt.Sprintf(`Bearer realm="latchkey", error="insufficient_scope", scope="%s"`, strings.Join(tt.scopes, " "))
		}
		if got := w.Header().Get("WWW-Authenticate"); got != want {
			t.Errorf("%q: got %s, want %s", tt.scopes, got, want)
		}
	}
	scopes := []string{"files:read"}
	h := httpauth.NewWith(&fakeStore{}, nil).Require(scopes...)(handler)
	scopes[0] = "files:write"
	if w := serve(h, bearer()); w.Code != 200 {
		t.Error("the scopes changed with the caller's slice")
	}
}

func TestARequireInsideAnotherLogsInOnce(t *testing.T) {
	s := &fakeStore{}
	a := httpauth.NewWith(s, &httpauth.Options{PerKey: httpauth.Limit{PerSecond: 0.001}})
	if w := serve(a.Require()(a.Require("files:read")(handler)), bearer()); w.Code != 200 || s.logins != 1 {
		t.Errorf("got %d after %d logins", w.Code, s.logins)
	}
	if w := serve(httpauth.NewWith(s, nil).Require()(a.Require("files:write")(handler)), bearer()); w.Code == 200 {
		t.Errorf("got %d", w.Code)
	}
	// A principal of another store is nobody to this one.
	other := &fakeStore{}
	b := httpauth.NewWith(other, &httpauth.Options{Header: "X-Other"})
	h := b.Require()(httpauth.NewWith(s, nil).Require()(handler))
	if w := serve(h, request("X-Other", token)); w.Code != 401 {
		t.Errorf("with the token of the other alone: got %d", w.Code)
	}
	if _, ok := httpauth.PrincipalFrom(t.Context()); ok {
		t.Error("a context without a principal has one")
	}
}

func TestTheContextOfARequestGoesOn(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	h := httpauth.NewWith(&fakeStore{}, nil).Require()(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Context().Value(key{}) != "value" || r.Context().Err() != nil {
			t.Error("the context lost its value")
		}
		inner, stop := context.WithTimeout(r.Context(), time.Hour)
		defer stop()
		cancel()
		<-inner.Done()
	}))
	if w := serve(h, bearer().WithContext(ctx)); w.Code != 200 {
		t.Errorf("got %d", w.Code)
	}
}

func TestTheAddressIsThatOfTheConnectionUnlessATrustedProxySaysOtherwise(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, tt := range []struct {
		about   string
		proxies []netip.Prefix
		remote  string
		headers []string
		want    string // empty if it is not known
	}{
		{"no proxies", nil, "192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"},
		{"IPv6", nil, "[2001:db8::1]:80", nil, "2001:db8::1"},
		{"IPv6 with a zone", nil, "[fe80::1%eth0]:80", nil, "fe80::1"},
		{"IPv4 in IPv6", nil, "[::ffff:192.0.2.1]:80", nil, "192.0.2.1"},
		{"a socket", nil, "@", nil, ""},
		{"a connection that is no proxy's", proxies, "192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"},
		{"a proxy without the header", proxies, "10.0.0.1:80", nil, "10.0.0.1"},
		{"a proxy", proxies, "10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a proxy in IPv6", proxies, "[::ffff:10.0.0.1]:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"what the caller wrote before", proxies, "10.0.0.1:80", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"a chain of proxies", proxies, "10.0.0.1:80", []string{"1.1.1.1, 198.51.100.1, 10.0.0.2,10.0.0.3"}, "198.51.100.1"},
		{"several headers", proxies, "10.0.0.1:80", []string{"1.1.1.1", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"only proxies", proxies, "10.0.0.1:80", []string{"10.0.0.9, 10.0.0.2"}, "10.0.0.9"},
		{"with ports", proxies, "10.0.0.1:80", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"in brackets", proxies, "10.0.0.1:80", []string{"[2001:db9::7]"}, "2001:db9::7"},
		{"in brackets with a port", proxies, "10.0.0.1:80", []string{"[2001:db9::7]:4711"}, "2001:db9::7"},
		{"a proxy in a network of IPv4 addresses written as IPv6", []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}, "10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"no address last", proxies, "10.0.0.1:80", []string{"198.51.100.1, unknown"}, ""},
		{"no address first", proxies, "10.0.0.1:80", []string{"unknown, 198.51.100.1"}, "198.51.100.1"},
		{"an empty header", proxies, "10.0.0.1:80", []string{""}, ""},
		{"a comma at the end", proxies, "10.0.0.1:80", []string{"198.51.100.1,"}, ""},
	} {
		s := &fakeStore{}
		r := bearer()
		r.RemoteAddr = tt.remote
		for _, h := range tt.headers {
			r.Header.Add("X-Forwarded-For", h)
		}
		serve(httpauth.NewWith(s, &httpauth.Options{TrustedProxies: tt.proxies}).Require()(handler), r)
		want := netip.Addr{}
		if tt.want != "" {
			want = netip.MustParseAddr(tt.want)
		}
		if s.logins != 1 || s.addr != want {
			t.Errorf("%s: got %v, want %v", tt.about, s.addr, want)
		}
	}
}

// clock is a clock that stands still.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestRequestsFromAnAddressAreLimitedGoodOrBad(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	s := &fakeStore{}
	h := httpauth.NewWith(s, &httpauth.Options{PerAddress: httpauth.Limit{PerSecond: 0.5, Burst: 2}, Now: c.Now}).Require()(handler)
	do := func(addr, auth string) *httptest.ResponseRecorder {
		r := request("Authorization", auth)
		r.RemoteAddr = addr
		return serve(h, r)
	}
	const good, bad = "Bearer " + token, "Bearer x"
	for i, want := range []int{200, 401, 429, 429} {
		if w := do("192.0.2.1:1", []string{good, bad}[i%2]); w.Code != want {
			t.Errorf("request %d: got %d, want %d", i, w.Code, want)
		} else if want == 429 && w.Header().Get("Retry-After") != "2" {
			t.Errorf("request %d: Retry-After %q", i, w.Header().Get("Retry-After"))
		}
	}
	if s.logins != 2 {
		t.Errorf("%d logins", s.logins)
	}
	if w := do("192.0.2.2:1", good); w.Code != 200 {
		t.Errorf("another address: got %d", w.Code)
	}
	c.now = c.now.Add(2 * time.Second)
	if w := do("192.0.2.1:1", good); w.Code != 200 {
		t.Errorf("after two seconds: got %d", w.Code)
	}
	// A network of 64 bits is one address.
	for i, want := range []int{200, 200, 429} {
		if w := do(fmt.Sprintf("[2001:db8::%d]:1", i), good); w.Code != want {
			t.Errorf("IPv6 request %d: got %d, want %d", i, w.Code, want)
		}
	}
	if w := do("[2001:db8:0:1::1]:1", good); w.Code != 200 {
		t.Errorf("another network: got %d", w.Code)
	}
	if w := do("@", good); w.Code != 200 {
		t.Errorf("no address: got %d", w.Code)
	}
}

func TestRequestsOfAKeyAreLimited(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	h := httpauth.NewWith(&fakeStore{}, &httpauth.Options{PerKey: httpauth.Limit{PerSecond: 1.5}, Now: c.Now}).Require()(handler)
	for i, want := range []int{200, 200, 429} { // the burst is 1.5, rounded up
		if w := serve(h, bearer()); w.Code != want {
			t.Errorf("request %d: got %d, want %d", i, w.Code, want)
		} else if want == 429 && (w.Header().Get("Retry-After") != "1" || w.Body.String() != "too many requests of the key\n") {
			t.Errorf("request %d: %v %s", i, w.Header(), w.Body)
		}
	}
	for i := range 3 {
		if w := serve(h, request("Authorization", "Bearer x")); w.Code != 401 {
			t.Errorf("bad request %d: got %d", i, w.Code)
		}
	}
}

func TestAHandlerCanAnswerARefusalInAFormatOfItsOwn(t *testing.T) {
	auth := httpauth.NewWith(&fakeStore{}, &httpauth.Options{PerKey: httpauth.Limit{PerSecond: 1}, Now: func() time.Time { return time.Unix(0, 0) }})
	for _, tt := range []struct {
		name    string
		request *http.Request
		scopes  []string
		status  int
		text    string
		header  string
		value   string
	}{
		{"a good token", bearer(), []string{"files:read"}, 200, "", "", ""},
		{"the limit", bearer(), nil, 429, "too many requests of the key", "Retry-After", "1"},
		{"no token", request(), nil, 401, "the request has no token", "Www-Authenticate", `Bearer realm="latchkey"`},
		{"a bad token", request("Authorization", "Bearer lk_bad"), nil, 401, "invalid token", "Www-Authenticate", `Bearer realm="latchkey", error="invalid_token"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			who, err := auth.Login(tt.request, tt.scopes...)
			if tt.status == 200 {
				if err != nil || who.KeyID != keyID {
					t.Errorf("got %+v, %v", who, err)
				}
				return
			}
			h := http.Header{}
			status, text := auth.Refusal(h, tt.request, err)
			if status != tt.status || text != tt.text || h.Get(tt.header) != tt.value || h.Get("Cache-Control") != "no-store" || who.KeyID == keyID {
				t.Errorf("got %d %q %v for %v", status, text, h, err)
			}
		})
	}
}

func TestLoginRefusesAKeyWithoutAScope(t *testing.T) {
	auth := httpauth.NewWith(&fakeStore{}, nil)
	who, err := auth.Login(bearer(), "files:read", "files:write")
	h := http.Header{}
	status, text := auth.Refusal(h, bearer(), err)
	if status != 403 || who.KeyID == keyID || !strings.Contains(text, "files:write") || !strings.Contains(h.Get("WWW-Authenticate"), "insufficient_scope") {
		t.Errorf("got %d %q %v, and the principal %+v", status, text, h, who)
	}
}

func TestALimitThatIsNoneLetsEverythingPass(t *testing.T) {
	for _, perSecond := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1)} {
		limit := httpauth.Limit{PerSecond: perSecond, Burst: 1}
		h := httpauth.NewWith(fixed{}, &httpauth.Options{PerKey: limit, PerAddress: limit}).Require()(handler)
		for range 3 {
			if w := serve(h, bearer()); w.Code != 200 {
				t.Errorf("%v a second: got %d", perSecond, w.Code)
			}
		}
	}
	// A limit that is hardly one is no reason for a wait that is out of range.
	h := httpauth.NewWith(fixed{}, &httpauth.Options{PerKey: httpauth.Limit{PerSecond: math.SmallestNonzeroFloat64}}).Require()(handler)
	for _, want := range []int{200, 429} {
		if w := serve(h, bearer()); w.Code != want || want == 429 && w.Header().Get("Retry-After") != "86400" {
			t.Errorf("got %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
	}
}

func TestAddressesThatAreForgottenBeginAnew(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	h := httpauth.NewWith(&fakeStore{}, &httpauth.Options{PerAddress: httpauth.Limit{PerSecond: 0.001}, Now: c.Now}).Require()(handler)
	do := func(n int) int {
		r := bearer()
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&0xff, n&0xff)
		return serve(h, r).Code
	}
	for n := range 8192 + 100 {
		do(n)
	}
	if code := do(1); code != 429 { // in the older generation, and so in the younger one again
		t.Errorf("of the generation before: got %d", code)
	}
	for n := range 2 * 8192 {
		do(100_000 + n)
	}
	if code := do(2); code != 200 {
		t.Errorf("of a generation that is gone: got %d", code)
	}
}

func TestRefusalsAreLoggedWithTheirReason(t *testing.T) {
	for _, tt := range []struct {
		err  error
		r    *http.Request
		want string
	}{
		{nil, bearer(), ""},
		{nil, request(), `level=INFO msg="request refused" status=401 address=192.0.2.1 method=GET path=/files/1 reason="the request has no token"`},
		{latchkey.ErrKeyDisabled, bearer(), `level=INFO msg="request refused" status=401 address=192.0.2.1 method=GET path=/files/1 reason="login with key ` + keyID.String() + `: key is disabled"`},
		{latchkey.ErrBusy, bearer(), "level=INFO"},
		{latchkey.ErrCorrupt, bearer(), "level=ERROR"},
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		serve(httpauth.NewWith(&fakeStore{err: tt.err}, &httpauth.Options{Logger: logger}).Require()(handler), tt.r)
		if got := log.String(); !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") || strings.Contains(got, token) {
			t.Errorf("%v: got %s", tt.err, got)
		}
	}
}

func TestNoTokenInAPathIsLogged(t *testing.T) {
	digits := strings.Repeat("Zz1", 26)[:77]
	for _, path := range []string{
		"/files/lk_" + digits, "/lk_" + digits + "/x", "/" + strings.Repeat("x/", 80) + "lk_" + digits,
		"/" + strings.Repeat("lk_"+digits+"/", 60), "/0123456789abcdefx_" + digits,
	} {
		var log bytes.Buffer
		r := request()
		r.URL.Path = path
		serve(httpauth.NewWith(&fakeStore{}, &httpauth.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}).Require()(handler), r)
		if got := log.String(); !strings.Contains(got, "…") || strings.Contains(got, "Zz1") {
			t.Errorf("%s: got %s", path, got)
		}
	}
}

func TestARequestAfterADisablingIsRefused(t *testing.T) {
	store := latchkeytest.New(t)
	key, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "laptop", Scopes: latchkey.NewScopes("files:*")})
	if err != nil {
		t.Fatal(err)
	}
	h := httpauth.New(store, nil).Require("files:read")(handler)
	get := func() *httptest.ResponseRecorder { return serve(h, request("Authorization", "Bearer "+token)) }
	for range 2 { // the second login is answered by the cache
		if w := get(); w.Code != 200 || w.Body.String() != "laptop true" {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	if err := store.DisableKey(t.Context(), key.Owner, key.ID); err != nil {
		t.Fatal(err)
	}
	if w := get(); w.Code != 401 || w.Body.String() != "key is disabled\n" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestAKeyWithNetworksIsRefusedFromElsewhere(t *testing.T) {
	store := latchkeytest.New(t)
	office := netip.MustParsePrefix("198.51.100.0/24")
	_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "laptop", Networks: []netip.Prefix{office}})
	if err != nil {
		t.Fatal(err)
	}
	h := httpauth.New(store, &httpauth.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}).Require()(handler)
	for _, tt := range []struct {
		remote, forwarded string
		status            int
	}{
		{"198.51.100.7:80", "", 200},
		{"203.0.113.7:80", "", 403},
		{"203.0.113.7:80", "198.51.100.7", 403},
		{"10.0.0.1:80", "198.51.100.7", 200},
		{"10.0.0.1:80", "198.51.100.7, 203.0.113.7", 403},
		{"10.0.0.1:80", "198.51.100.7, nobody", 403},
		{"@", "198.51.100.7", 403},
	} {
		r := request("Authorization", "Bearer "+token)
		r.RemoteAddr = tt.remote
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		if w := serve(h, r); w.Code != tt.status {
			t.Errorf("from %s with %q: got %d %s, want %d", tt.remote, tt.forwarded, w.Code, w.Body, tt.status)
		}
	}
}

// The comment of the package and docs/http.md show the table of statuses. Both have it in one form
// or the other, and each name of an error in it has the status that it really gets.
func TestTheDocsShowTheTableOfStatuses(t *testing.T) {
	page, err := os.ReadFile("../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	for row := range strings.Lines(string(page)) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 {
			continue
		}
		status, err := strconv.Atoi(strings.TrimSpace(cells[2]))
		if err != nil {
			continue
		}
		for _, name := range regexp.MustCompile("`(Err[A-Za-z]+)`").FindAllStringSubmatch(cells[1], -1) {
			listed[name[1]] = status
		}
	}
	for name, err := range map[string]error{
		"ErrInvalidToken": latchkey.ErrInvalidToken, "ErrKeyDisabled": latchkey.ErrKeyDisabled, "ErrKeyExpired": latchkey.ErrKeyExpired,
		"ErrUserDisabled": latchkey.ErrUserDisabled, "ErrGroupDisabled": latchkey.ErrGroupDisabled,
		"ErrNetworkNotAllowed": latchkey.ErrNetworkNotAllowed, "ErrBusy": latchkey.ErrBusy, "ErrClosed": latchkey.ErrClosed,
	} {
		if want := httpauth.Status(err); listed[name] != want {
			t.Errorf("docs/http.md has %d for %s, and the status is %d", listed[name], name, want)
		}
		delete(listed, name)
	}
	if len(listed) != 0 {
		t.Errorf("docs/http.md also lists %v", listed)
	}
}

func TestAGoodRequestAllocatesTwice(t *testing.T) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	r := bearer()
	r.Header.Set("X-Forwarded-For", "198.51.100.1, 198.51.100.2")
	for name, opts := range map[string]*httpauth.Options{
		"direct": nil, "behind a proxy": {TrustedProxies: proxies}, "with limits": {PerKey: httpauth.Limit{PerSecond: 1e9}, Header: "X-Api-Key"},
	} {
		h := httpauth.NewWith(fixed{}, opts).Require("files:read")(next)
		if n := testing.AllocsPerRun(200, func() { h.ServeHTTP(discard{}, r) }); n > 2 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

type discard struct{}

func (discard) Header() http.Header         { return nil }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func TestOptionsAreCopied(t *testing.T) {
	opts := &httpauth.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	s := &fakeStore{}
	h := httpauth.NewWith(s, opts).Require()(handler)
	opts.TrustedProxies[0] = netip.MustParsePrefix("11.0.0.0/8")
	r := bearer()
	r.RemoteAddr = "10.0.0.1:1"
	r.Header.Set("X-Forwarded-For", "198.51.100.1")
	serve(h, r)
	if s.addr.String() != "198.51.100.1" {
		t.Errorf("got %v", s.addr)
	}
}

func FuzzRequire(f *testing.F) {
	f.Add("Bearer "+token, "x", "198.51.100.1, 10.0.0.1", "10.0.0.1:80")
	f.Add(basic("a", token), token, "[::1]:80,,", "@")
	f.Fuzz(func(t *testing.T, authorization, key, forwarded, remote string) {
		s := &fakeStore{}
		opts := &httpauth.Options{Header: "X-Api-Key", Basic: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		r := request("Authorization", authorization, "X-Api-Key", key, "X-Forwarded-For", forwarded)
		r.RemoteAddr = remote
		w := serve(httpauth.NewWith(s, opts).Require("files:read")(handler), r)
		switch w.Code {
		case 200:
			if !strings.Contains(authorization, "Basic") && !strings.Contains(strings.ToLower(authorization), "basic") &&
				!strings.Contains(authorization, token) && strings.TrimSpace(key) != token {
				t.Errorf("%q and %q pass", authorization, key)
			}
		case 400, 401:
		default:
			t.Errorf("got %d", w.Code)
		}
		if s.addr.Is4In6() || s.addr.Zone() != "" {
			t.Errorf("the address is %v", s.addr)
		}
	})
}

// fixed is a store whose logins cost nothing.
type fixed struct{}

var principal = latchkey.Principal{KeyID: keyID, Scopes: latchkey.NewScopes("files:read")}

func (fixed) LoginFrom(context.Context, string, netip.Addr) (latchkey.Principal, error) {
	return principal, nil
}
