package appservices_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

func TestTheLocationHasFourFields(t *testing.T) {
	d := newDouble(t, nil)
	body := d.send("GET", appPath+"/location", "", nil).want(http.StatusOK).json()
	want := object{"deployment_model": "GLOBAL", "location": "US-VA", "hostname": d.url, "ws_hostname": "ws" + strings.TrimPrefix(d.url, "http")}
	if fmt.Sprint(body) != fmt.Sprint(want) {
		t.Errorf("the location is %v, want %v", body, want)
	}
}

func TestTheLocationBehindAProxy(t *testing.T) {
	forwarded := http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"spoofed.example, keys.example.com"}}
	for _, tt := range []struct {
		name     string
		opts     appservices.Options
		hostname string // the server's own if empty
	}{
		{"unless asked, it is not believed", appservices.Options{}, ""},
		{"trusted", appservices.Options{TrustForwarded: true}, "https://keys.example.com"},
		{"a public URL", appservices.Options{TrustForwarded: true, PublicURL: "https://public.example/"}, "https://public.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, &tt.opts)
			if tt.hostname == "" {
				tt.hostname = d.url
			}
			body := d.sendWith("GET", appPath+"/location", forwarded, nil).json()
			if body["hostname"] != tt.hostname || body["ws_hostname"] != "ws"+strings.TrimPrefix(tt.hostname, "http") {
				t.Errorf("the location is %v, want %s", body, tt.hostname)
			}
			if link, _ := d.sendWith("GET", "/x", forwarded, nil).json()["link"].(string); !strings.HasPrefix(link, tt.hostname+"/groups/") {
				t.Errorf("the link of an error is %s", link)
			}
		})
	}
}

func TestTheLocationHasTheSchemeThatTheServerSpeaks(t *testing.T) {
	server := httptest.NewTLSServer(newDouble(t, nil).handler)
	defer server.Close()
	resp, err := server.Client().Get(server.URL + appPath + "/location")
	must(t, err)
	defer resp.Body.Close()
	var body object
	must(t, json.NewDecoder(resp.Body).Decode(&body))
	want := strings.TrimPrefix(server.URL, "https")
	if body["hostname"] != "https"+want || body["ws_hostname"] != "wss"+want {
		t.Errorf("the location is %v, want %s", body, server.URL)
	}
}

func TestAnUnknownAppIsNotFoundOnAllItsPaths(t *testing.T) {
	d := newDouble(t, &appservices.Options{AppIDs: []string{"demo-abcde"}})
	for _, path := range []string{"GET /location", "POST /auth/providers/anon-user/login", "POST /auth/providers/local-userpass/register", "GET /nowhere"} {
		method, path, _ := strings.Cut(path, " ")
		d.send(method, prefix+"/app/other"+path, "", nil).refused(404, "", "cannot find app using Client App ID 'other'")
	}
	d.send("GET", appPath+"/location", "", nil).want(http.StatusOK)
}

func TestMalformedAppIDsAreNotFound(t *testing.T) {
	d := serve(t, nil, appservices.NewClock(start), &appservices.Options{
		OpenApp: func(_ context.Context, appID string) (*latchkey.Store, error) {
			return nil, fmt.Errorf("%q was opened", appID)
		},
	})
	for _, id := range []string{"..", "a%00b", "a.b", strings.Repeat("a", 65), "%C3%A9"} {
		if r := d.send("GET", prefix+"/app/"+id+"/location", "", nil); r.status != http.StatusNotFound {
			t.Errorf("for %q got status %d with %s", id, r.status, r.body)
		}
	}
}

func TestSlashesMayBeRepeated(t *testing.T) {
	d := newDouble(t, nil)
	for _, path := range []string{"/" + appPath + "/location", "//api///client/v2.0/app//demo-abcde/location"} {
		d.send("GET", path, "", nil).want(http.StatusOK)
	}
	d.send("POST", "/"+appPath+"//auth/providers/anon-user/login", "", object{}).want(http.StatusOK)
}

func TestEveryCallWorksWithABaseURLThatEndsInASlash(t *testing.T) {
	d := newDouble(t, nil)
	d.url += "/"
	d.send("GET", appPath+"/location", "", nil).want(http.StatusOK)
	u := d.signUp("ada@example.com")
	d.profile(u.access)
	d.refresh(u.refresh).want(http.StatusCreated)
	id, _ := d.createKey(u.refresh, "laptop")
	for _, call := range everyKeyCall(id) {
		d.keys(call.method, call.path, u.refresh, call.body).want(call.status)
	}
	d.logOut(u.refresh).noContent()
}

func TestASegmentOfAPathMayBeEscaped(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	d.send("GET", prefix+"/app/demo%2Dabcde/location", "", nil).want(http.StatusOK)
	d.keys("GET", fmt.Sprintf("/%%%x%s", id[0], id[1:]), u.refresh, nil).want(http.StatusOK)
	d.send("GET", prefix+"/app%2Fdemo-abcde/location", "", nil).refused(404, "", "not found")
	d.send("GET", prefix+"/app/a%2Fb/location", "", nil).refused(404, "", "cannot find app using Client App ID 'a/b'")
}

func TestPathsOfNoCallAreNotFound(t *testing.T) {
	d := newDouble(t, nil)
	for _, path := range []string{"/.latchkey/control/clock", prefix, prefix + "/auth", prefix + "/app", appPath, prefix + "/auth/api_keys/a/b/c", appPath + "/location/"} {
		d.send("GET", path, "", nil).refused(404, "", "not found")
	}
	d.send("POST", "/nowhere", "", nil).refused(404, "", "not found")
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	d := newDouble(t, nil)
	for _, tt := range []struct{ method, path, allow string }{
		{"POST", appPath + "/location", "GET, HEAD"},
		{"PUT", appPath + "/auth/providers/anon-user/login", "POST, GET, HEAD"},
		{"GET", appPath + "/auth/providers/local-userpass/login", "POST"},
		{"PUT", prefix + "/auth/session", "POST, DELETE"},
		{"PUT", prefix + "/auth/api_keys", "POST, GET, HEAD"},
		{"POST", prefix + "/auth/api_keys/x/enable", "PUT"},
		{"BREW", prefix + "/auth/profile", "GET, HEAD"},
		{"HEAD", prefix + "/auth/session", "POST, DELETE"},
	} {
		r := d.send(tt.method, tt.path, "", nil).want(http.StatusMethodNotAllowed)
		if tt.method != "HEAD" {
			r.refused(405, "", "method not allowed")
		}
		if got := r.header.Get("Allow"); got != tt.allow {
			t.Errorf("%s %s allows %q, want %q", tt.method, tt.path, got, tt.allow)
		}
	}
}

func TestAHeadIsAnsweredAsAGetWithoutTheBody(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, _ := d.createKey(u.refresh, "laptop")
	for _, tt := range []struct {
		path, token string
		status      int
	}{
		{appPath + "/location", "", 200},
		{prefix + "/auth/profile", u.access, 200},
		{prefix + "/auth/profile", "", 401},
		{prefix + "/auth/api_keys", u.refresh, 200},
		{prefix + "/auth/api_keys/" + id, u.refresh, 200},
		{prefix + "/auth/api_keys/" + u.user, u.refresh, 404},
		{appPath + "/functions/call", u.access, 404},
		{"/nowhere", "", 404},
	} {
		get := d.send("GET", tt.path, tt.token, nil).want(tt.status)
		head := d.send("HEAD", tt.path, tt.token, nil).want(tt.status)
		for _, header := range []string{"Content-Type", "Content-Length", "Cache-Control"} {
			if head.header.Get(header) != get.header.Get(header) {
				t.Errorf("HEAD %s has %s %q, and GET has %q", tt.path, header, head.header.Get(header), get.header.Get(header))
			}
		}
		if len(head.body) > 0 {
			t.Errorf("HEAD %s has the body %q", tt.path, head.body)
		}
	}
}

func TestNoReplyMayBeStored(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	must(t, d.handler.AddFault(appservices.Fault{Path: "/auth/session", Status: 500, Error: "no luck"}))
	for name, r := range map[string]*response{
		"a login":         d.tryLogin("local-userpass", credentials("ada@example.com", password)),
		"a refused login": d.tryLogin("local-userpass", credentials("ada@example.com", "wrong")),
		"a link":          d.link(u.access, "local-userpass", credentials("ada@example.com", password)),
		"a new key":       d.keys("POST", "", u.refresh, object{"name": "laptop"}),
		"no such path":    d.send("GET", "/nowhere", "", nil),
		"no body":         d.keys("GET", "", d.anonymous().refresh, nil).want(http.StatusForbidden),
		"a fault":         d.refresh(u.refresh).want(http.StatusInternalServerError),
	} {
		if got := r.header.Get("Cache-Control"); got != "no-cache, no-store, must-revalidate" {
			t.Errorf("%s has Cache-Control %q", name, got)
		}
	}
}

func TestBodiesThatAreNotJSONObjectsAreRefused(t *testing.T) {
	d := newDouble(t, nil)
	for _, body := range []string{
		"{", "[]", "null", "7", `"x"`, `{} {}`, `{}x`, `{"a":}`, `{"a":1,}`, "{\"a\":\"\xff\"}", "\xef\xbb\xbf{}",
		strings.Repeat("[", 20_000), `{"a":` + strings.Repeat(`{"a":`, 12_000),
	} {
		r := d.tryLogin("anon-user", body)
		if r.status != http.StatusBadRequest {
			t.Errorf("%.20q: got status %d with %s", body, r.status, r.body)
			continue
		}
		r.refused(400, "BadRequest", "the body is not a JSON object")
	}
}

func TestIfAFieldOccursTwiceTheLastValueCounts(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	if got := d.keys("POST", "", u.refresh, `{"name":"a","name":"b"}`).want(http.StatusCreated).json()["name"]; got != "b" {
		t.Errorf("the name is %v", got)
	}
	d.keys("POST", "", u.refresh, `{"Name":"c"}`).refused(400, "", "'name' is a required string")
}

func TestTheContentTypeOfARequestIsIgnored(t *testing.T) {
	d := newDouble(t, nil)
	for _, ct := range []string{"application/json;charset=utf-8", "application/json; charset=utf-8", "text/plain", "", "nonsense"} {
		d.sendWith("POST", appPath+"/auth/providers/anon-user/login", http.Header{"Content-Type": {ct}}, object{}).want(http.StatusOK)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	d := newDouble(t, nil)
	d.tryLogin("anon-user", `{"x":"`+strings.Repeat("x", 64<<10-8)+`"}`).want(http.StatusOK)
	d.tryLogin("anon-user", `{"x":"`+strings.Repeat("x", 64<<10)+`"}`).refused(413, "BadRequest", "the body is too large")
	d = newDouble(t, &appservices.Options{MaxBody: 10})
	d.tryLogin("anon-user", `{"x":1234}`).want(http.StatusOK)
	d.tryLogin("anon-user", `{"x":12345}`).refused(413, "BadRequest", "the body is too large")
}

// A logged collects log lines.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

func TestAPanicGetsStatus500AndIsLogged(t *testing.T) {
	var log logged
	d := newDouble(t, &appservices.Options{
		Logger:   log.logger(),
		UserData: func(context.Context, latchkey.User) (map[string]any, error) { panic("the secret of the panic") },
	})
	r := d.tryLogin("anon-user", nil).refused(500, "InternalServerError", "internal server error")
	if !strings.Contains(log.String(), "the secret of the panic") || !strings.Contains(log.String(), r.header.Get("X-Appservices-Request-Id")) {
		t.Errorf("the log does not have the panic: %s", log.String())
	}
}

func TestAPanicInAHookGetsStatus500(t *testing.T) {
	const said = "the hook has panicked"
	email := object{"email": "ada@example.com", "password": password}
	login := func(provider string) string { return provider + "/login" }
	type data = map[string]any
	for _, tt := range []struct {
		name string
		opts appservices.Options
		call string // the path after auth/providers
		body any
	}{
		{"Mail", appservices.Options{ManualConfirmation: true, Mail: func(context.Context, appservices.Mail) { panic(said) }},
			"local-userpass/register", email},
		{"ConfirmFunction", appservices.Options{
			ManualConfirmation: true,
			ConfirmFunction:    func(context.Context, appservices.Confirmation) (appservices.Outcome, error) { panic(said) },
		}, "local-userpass/register", email},
		{"ResetFunction", appservices.Options{
			ResetFunction: func(context.Context, appservices.Reset) (appservices.Outcome, error) { panic(said) },
		}, "local-userpass/reset/call", object{"email": "bob@example.com", "password": password}},
		{"CustomFunction", appservices.Options{
			CustomFunction: func(context.Context, string, map[string]any) (string, data, error) { panic(said) },
		}, login("custom-function"), nil},
		{"CustomToken", appservices.Options{
			CustomToken: func(context.Context, string, string) (string, data, error) { panic(said) },
		}, login("custom-token"), object{"token": "x"}},
		{"OAuth", appservices.Options{
			OAuth: func(context.Context, string, latchkey.Provider, map[string]string) (string, data, error) {
				panic(said)
			},
		}, login("oauth2-google"), object{"id_token": "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			d := newDouble(t, nil)
			d.register("bob@example.com")
			tt.opts.Logger = log.logger()
			d = serve(t, d.store, d.clock, &tt.opts)
			d.send("POST", appPath+"/auth/providers/"+tt.call, "", tt.body).refused(500, "InternalServerError", "internal server error")
			if !strings.Contains(log.String(), said) {
				t.Errorf("the log does not have the panic: %s", log.String())
			}
			d.anonymous() // the handler still works
		})
	}
}

func TestTheLogHasNoTokensAndNoPasswords(t *testing.T) {
	var log logged
	var mails outbox
	d := newDouble(t, &appservices.Options{Logger: log.logger(), Mail: mails.send})
	u := d.signUp("ada@example.com")
	_, key := d.createKey(u.refresh, "laptop")
	k := d.loginKey(key)
	d.tryLogin("local-userpass", credentials("ada@example.com", "wrong-password"))
	d.tryLogin("api-key", object{"key": key + "x"})
	d.refresh(k.refresh)
	d.link(u.access, "api-key", object{"key": key})
	d.userpass("reset/send", object{"email": "ada@example.com"})
	m := mails.last(t, appservices.MailReset)
	d.userpass("reset", newPassword(m, "another-one"))
	// Secrets in a path or a query by mistake.
	for _, secret := range []string{key, u.refresh, m.Token} {
		d.keys("GET", "/"+secret, u.refresh, nil)
		d.send("GET", "/"+secret+"?token="+secret, "", nil)
		d.send("GET", appPath+"/location?token="+secret, "", nil)
	}
	must(t, d.store.Close())
	d.refresh(u.refresh)

	lines := log.String()
	for name, secret := range map[string]string{
		"the key's value": key, "a password": password, "a new password": "another-one", "an access token": u.access,
		"a refresh token": u.refresh, "a mailed token": m.Token, "an email": "ada@example.com",
	} {
		if strings.Contains(lines, secret) || len(secret) > 60 && strings.Contains(lines, secret[20:50]) {
			t.Errorf("%s is in the log", name)
		}
	}
	if !strings.Contains(lines, `"path":"/api/client/v2.0/auth/api_keys"`) || !strings.Contains(lines, `"status":401`) {
		t.Errorf("the log lacks requests: %s", lines)
	}
}

func TestALogLineDescribesTheRequestAndTheReply(t *testing.T) {
	var log logged
	d := newDouble(t, &appservices.Options{Logger: log.logger()})
	r := d.tryLogin("api-key", object{"key": "x"})
	var line object
	must(t, json.Unmarshal([]byte(log.String()), &line))
	if line["method"] != "POST" || line["path"] != appPath+"/auth/providers/api-key/login" || line["status"] != 401.0 ||
		line["remote"] != "127.0.0.1" || line["request_id"] != r.header.Get("X-Appservices-Request-Id") || line["duration"] == nil {
		t.Errorf("the line is %v", line)
	}
}

// logLine returns the line of the log that a refusal's link names.
func (l *logged) line(t *testing.T, r *response) object {
	t.Helper()
	id := r.header.Get("X-Appservices-Request-Id")
	if len(r.body) > 0 {
		link, _ := r.json()["link"].(string)
		_, id, _ = strings.Cut(link, "co_id=")
	}
	for text := range strings.SplitSeq(l.String(), "\n") {
		var line object
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == "request" && line["request_id"] == id {
			return line
		}
	}
	t.Fatalf("the log has no request %s", id)
	return nil
}

func TestEveryRefusalHasItsReasonInTheLog(t *testing.T) {
	var log logged
	var mails outbox
	failing := errors.New("no such account at the provider")
	d := newDouble(t, &appservices.Options{
		Logger: log.logger(), Mail: mails.send, CustomFunction: byName, ManualConfirmation: true,
		OAuth: func(context.Context, string, latchkey.Provider, map[string]string) (string, map[string]any, error) {
			return "", nil, failing
		},
		CustomToken: func(context.Context, string, string) (string, map[string]any, error) {
			return "", nil, errors.New("token has invalid audience")
		},
	})
	ada := object{"email": "ada@example.com"}
	d.userpass("register", object{"email": "ada@example.com", "password": password}).want(http.StatusCreated)
	unconfirmed := d.tryLogin("local-userpass", credentials("ada@example.com", password))
	d.userpass("confirm", answer(mails.last(t, appservices.MailConfirm))).empty()
	u := d.loginEmail("ada@example.com")
	id, key := d.createKey(u.refresh, "laptop")
	byKey := d.loginKey(key)
	bob := d.login("custom-function", object{"userId": "bob"})
	_, bobsKey := d.createKey(bob.refresh, "laptop")
	forged := strings.TrimRight(bobsKey, "x") // one token in 62 ends in x
	forged = forged[:len(forged)-1] + strings.Repeat("x", len(bobsKey)-len(forged)+1)
	_, serverToken := d.serverKey("backup")
	server := d.loginKey(serverToken)
	d.userpass("reset/send", ada).empty()
	reset := newPassword(mails.last(t, appservices.MailReset), "another-one")
	otherToken := object{"token": strings.Repeat("ab", 64), "tokenId": reset["tokenId"], "password": password}
	gone := d.login("custom-function", object{"userId": "eve"})
	d.logOut(gone.refresh).noContent()
	must(t, d.handler.AddFault(appservices.Fault{Path: "/app/fault/**", Status: 500}))

	for _, tt := range []struct {
		name   string
		reply  *response
		reason string
	}{
		{"a wrong password", d.tryLogin("local-userpass", credentials("ada@example.com", "wrong")), "the password is wrong"},
		{"an unknown address", d.tryLogin("local-userpass", credentials("nobody@example.com", "wrong")), "nobody has registered this address"},
		{"an unconfirmed address", unconfirmed, "confirmation required"},
		{"a string that is no key", d.tryLogin("api-key", object{"key": "x"}), "invalid token"},
		{"a key that is off", d.keys("PUT", "/"+id+"/disable", u.refresh, nil), ""},
		{"a key that is off", d.tryLogin("api-key", object{"key": key}), "key is disabled"},
		{"a session of a key that is off", d.refresh(byKey.refresh), "the key that opened the session was disabled"},
		{"a custom token", d.tryLogin("custom-token", object{"token": "x"}), "invalid custom auth token: token has invalid audience"},
		{"a function that refuses", d.tryLogin("custom-function", object{"userId": "nobody"}), "unauthorized: Authentication failed"},
		{"a hook that refuses", d.tryLogin("oauth2-google", object{"id_token": "x"}),
			"authentication via 'oauth2-google' failed: no such account at the provider"},
		{"another's key, linked", d.link(u.access, "api-key", object{"key": bobsKey}), "the key is not the user's"},
		{"a wrong password, linked", d.link(bob.access, "local-userpass", object{"username": "ada@example.com", "password": "x"}), "the password is wrong"},
		{"another's address, linked", d.link(bob.access, "local-userpass", object{"username": "ada@example.com", "password": password}),
			"a user already exists with the specified provider"},
		{"no bearer", d.keys("GET", "", "", nil), "must authenticate first"},
		{"a bearer that is no token", d.keys("GET", "", "null", nil), "token is malformed: token contains an invalid number of segments"},
		{"an access token that is none", d.send("GET", prefix+"/auth/profile", "x", nil), "token is malformed: token contains an invalid number of segments"},
		{"the wrong token", d.send("GET", prefix+"/auth/profile", u.refresh, nil), "a refresh token cannot stand for an access token"},
		{"a logged-out session", d.refresh(gone.refresh), "the session was logged out"},
		{"an anonymous user's keys", d.keys("GET", "", d.anonymous().refresh, nil), "the user is anonymous, and has linked no other identity"},
		{"a server key's keys", d.keys("GET", "", server.refresh, nil), "a server key opened the session"},
		{"deleting a server key's user", d.send("DELETE", prefix+"/auth/delete", server.access, nil), "a server key's user cannot be deleted"},
		{"no such key", d.keys("GET", "/x", u.refresh, nil), "the user has no key with this ID"},
		{"a key without an ID", d.keys("GET", "/", u.refresh, nil), "the user has no key with this ID"},
		{"a bad name", d.keys("POST", "", u.refresh, object{"name": "$"}), "can only contain ASCII letters, numbers, underscores, and hyphens"},
		{"a long name", d.keys("POST", "", u.refresh, object{"name": strings.Repeat("a", 257)}), "'name' must have at most 256 characters"},
		{"a long address", d.userpass("register", object{"email": strings.Repeat("x", 129), "password": password}), "the address has more than 128 characters"},
		{"an address with a NUL", d.userpass("register", object{"email": "\x00", "password": password}),
			"the address has control characters, has white space or an invisible character at an end, or has more than 256 bytes"},
		{"no address", d.userpass("register", object{"password": password}), "the address is missing, empty, or not a string"},
		{"confirmation without a function", d.userpass("confirm/call", ada), "there is no confirmation function"},
		{"a reset without a function", d.userpass("reset/call", object{"email": "ada@example.com", "password": password}), "Options.ResetFunction is not set"},
		{"another's mail", d.userpass("reset", otherToken), "the token is not the one with this ID"},
		{"a mail for another purpose", d.userpass("confirm", reset), "the token is for another purpose: reset"},
		{"a byte order mark", d.tryLogin("anon-user", "\xef\xbb\xbf{}"), "the body begins with a byte order mark"},
		{"UTF-16", d.tryLogin("anon-user", "\xff\xfe{\x00}\x00"), "the body is not UTF-8"},
		{"no such function", d.send("POST", appPath+"/functions/call", u.access, object{"name": "sum"}), "function not found: 'sum'"},
		{"a wrong method", d.send("PUT", prefix+"/auth/session", "", nil), "method not allowed"},
		{"a fault", d.send("GET", prefix+"/app/fault/location", "", nil), "a fault answered"},
		{"an unknown key", d.tryLogin("api-key", object{"key": forged}), "invalid token"},
	} {
		if tt.reason == "" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			line := log.line(t, tt.reply)
			if line["reason"] != tt.reason || line["status"] != float64(tt.reply.status) || tt.reply.status < 400 {
				t.Errorf("got the line %v, want the reason %q", line, tt.reason)
			}
			if len(tt.reply.body) > 0 && line["error_code"] != tt.reply.json()["error_code"] {
				t.Errorf("got the line %v, and the reply %s", line, tt.reply.body)
			}
		})
	}
	if strings.Contains(log.String(), "example.com") {
		t.Errorf("the log has an address: %s", log.String())
	}
}

func TestALogLineIsBounded(t *testing.T) {
	for name, send := range map[string]func(d *double, u tokens) *response{
		"a path of many segments": func(d *double, _ tokens) *response { return d.send("POST", strings.Repeat("/abc", 10_000), "", nil) },
		"a path of one segment":   func(d *double, _ tokens) *response { return d.send("POST", "/"+strings.Repeat("a", 40_000), "", nil) },
		"a method":                func(d *double, _ tokens) *response { return d.send(strings.Repeat("X", 40_000), "/", "", nil) },
		"an app ID": func(d *double, _ tokens) *response {
			return d.send("GET", prefix+"/app/"+strings.Repeat("a%20", 10_000), "", nil)
		},
		"the name of a function": func(d *double, u tokens) *response {
			return d.send("POST", appPath+"/functions/call", u.access, object{"name": strings.Repeat("ä b", 10_000)})
		},
		"a function's error": func(d *double, _ tokens) *response { return d.tryLogin("custom-function", object{"userId": "wordy"}) },
	} {
		t.Run(name, func(t *testing.T) {
			var log logged
			d := newDouble(t, &appservices.Options{Logger: log.logger(), CustomFunction: func(_ context.Context, _ string, payload map[string]any) (string, map[string]any, error) {
				if payload["userId"] == "wordy" {
					return "", nil, errors.New(strings.Repeat("no, ", 400))
				}
				return "ada", nil, nil
			}})
			r := send(d, d.login("custom-function", object{"userId": "ada"}))
			line := log.line(t, r)
			if b, err := json.Marshal(line); err != nil || len(b) > 1200 || line["reason"] == nil {
				t.Errorf("the line has %d bytes: %.2000s", len(b), b)
			}
		})
	}
}

func TestACompressedBodyIsRefusedAsSuch(t *testing.T) {
	d := newDouble(t, nil)
	login := appPath + "/auth/providers/anon-user/login"
	d.sendWith("POST", login, http.Header{"Content-Encoding": {"gzip"}}, "\x1f\x8b").refused(415, "BadRequest", "the body must not be compressed")
	d.sendWith("POST", login, http.Header{"Content-Encoding": {"identity"}}, "{}").want(http.StatusOK)
}

func TestALogLineHasTheWholeAddress(t *testing.T) {
	for forwarded, want := range map[string]string{
		"2001:db8::1:2:3:4": "2001:db8::1:2:3:4", "::ffff:192.0.2.1": "192.0.2.1", "fe80::1%any text": "fe80::1", "spoofed": "127.0.0.1",
	} {
		var log logged
		d := newDouble(t, &appservices.Options{Logger: log.logger(), TrustForwarded: true})
		r := d.sendWith("GET", "/nowhere", http.Header{"X-Forwarded-For": {forwarded}}, nil).want(http.StatusNotFound)
		if line := log.line(t, r); line["remote"] != want {
			t.Errorf("forwarded for %s, the line has %v, want %s", forwarded, line["remote"], want)
		}
	}
}

func TestLoginsBeyondTheHashQueueAreToldToComeBack(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
		// One hash runs, and one waits.
		Cost: latchkey.Cost{Memory: 8 << 10, Passes: 1, Lanes: 1}, HashMemory: 8 << 20, HashQueue: 1,
	})
	must(t, err)
	defer store.Close()
	d := serve(t, store, appservices.NewClock(start), nil)
	keys := make([]string, 16)
	for i := range keys {
		_, keys[i], err = store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint("key-", i)})
		must(t, err)
	}

	replies := make([]*httptest.ResponseRecorder, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			r := httptest.NewRequest("POST", appPath+"/auth/providers/api-key/login", strings.NewReader(`{"key":"`+key+`"}`))
			replies[i] = httptest.NewRecorder()
			d.handler.ServeHTTP(replies[i], r)
		})
	}
	wg.Wait()
	good := 0
	for _, w := range replies {
		if w.Code == http.StatusOK {
			good++
			continue
		}
		r := &response{t, w.Code, w.Header(), w.Body.Bytes()}
		if got := r.refused(503, "", "too busy: try again in a moment").header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q, want 1", got)
		}
	}
	if good == 0 || good == len(replies) {
		t.Errorf("%d of %d logins were answered", good, len(replies))
	}
	for _, key := range keys { // one after the other, all keys log in
		d.loginKey(key)
	}
}

func TestClientsOfABusyStoreAreToldToComeBack(t *testing.T) {
	d := serve(t, nil, appservices.NewClock(start), &appservices.Options{
		OpenApp: func(context.Context, string) (*latchkey.Store, error) {
			return nil, fmt.Errorf("hash: %w", latchkey.ErrBusy)
		},
	})
	r := d.tryLogin("anon-user", nil).refused(503, "", "too busy: try again in a moment")
	if got := r.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q, want 1", got)
	}
}

func TestClientsOfAClosedStoreAreToldToComeBack(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	must(t, d.store.Close())
	for _, r := range []*response{d.tryLogin("anon-user", nil), d.tryLogin("api-key", object{"key": "x"}), d.refresh(u.refresh)} {
		if got := r.refused(503, "", "the server is closing").header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q, want 1", got)
		}
	}
}

// A failing is an engine whose transactions fail when the test wants it.
type failing struct {
	latchkey.Engine
	write, read error
}

func (e *failing) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.write != nil {
		return e.write
	}
	return e.Engine.Update(ctx, fn)
}

func (e *failing) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.read != nil {
		return e.read
	}
	return e.Engine.View(ctx, fn)
}

func TestClientsLearnOnlyThatTheStoreFailed(t *testing.T) {
	engine, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	broken := &failing{Engine: engine}
	store, err := latchkey.OpenWith(broken, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	var log logged
	d := serve(t, store, appservices.NewClock(start), &appservices.Options{Logger: log.logger()})
	u := d.signUp("ada@example.com")
	id, key := d.createKey(u.refresh, "laptop")

	const path = "/var/lib/latchkey/keys.db"
	for _, err := range []error{
		&fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC},
		fmt.Errorf("%s: %w", path, latchkey.ErrCommitUnknown),
		fmt.Errorf("%s: %w", path, latchkey.ErrSyncFailed),
		fmt.Errorf("%s: %w", path, latchkey.ErrReadOnly),
		fmt.Errorf("%s: %w", path, latchkey.ErrCorrupt),
	} {
		fails := func(r *response) {
			t.Helper()
			r.refused(500, "InternalServerError", "internal server error")
			if !strings.Contains(log.String(), path) {
				t.Errorf("the log does not have the error %v: %s", err, log.String())
			}
			log.reset()
		}
		broken.write = err
		fails(d.tryLogin("anon-user", nil))
		fails(d.userpass("register", object{"email": "bob@example.com", "password": password}))
		fails(d.keys("POST", "", u.refresh, object{"name": "phone"}))
		fails(d.keys("PUT", "/"+id+"/disable", u.refresh, nil))
		fails(d.keys("DELETE", "/"+id, u.refresh, nil))
		fails(d.logOut(u.refresh))
		fails(d.send("DELETE", prefix+"/auth/delete", u.access, nil))
		d.loginKey(key) // this login writes nothing
		d.loginEmail("ada@example.com")
		broken.read = err
		fails(d.tryLogin("local-userpass", credentials("ada@example.com", password)))
		fails(d.keys("GET", "", u.refresh, nil))
		fails(d.refresh(u.refresh))
		fails(d.send("GET", prefix+"/auth/profile", u.access, nil))
		broken.write, broken.read = nil, nil
		d.keys("GET", "/"+id, u.refresh, nil).want(http.StatusOK) // the change did not happen
	}
}

func TestPagesOfAllowedOriginsMayReadEveryReply(t *testing.T) {
	some := appservices.Options{AllowedOrigins: []string{"https://app.example.com"}}
	for _, tt := range []struct {
		name, origin, allowed string
		opts                  appservices.Options
	}{
		{"all", "https://any.example", "https://any.example", appservices.Options{}},
		{"all, no origin", "", "*", appservices.Options{}},
		{"one of some", "https://app.example.com", "https://app.example.com", some},
		{"another than those", "https://any.example", "", some},
		{"some, no origin", "", "", some},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.FailedLoginBurst, tt.opts.FailedLogins = 1, 1e-9
			tt.opts.UserData = func(context.Context, latchkey.User) (map[string]any, error) { panic("for the status") }
			d := newDouble(t, &tt.opts)
			d.fault(appservices.Fault{Path: "/app/*/functions/call", Status: 503})
			header := http.Header{}
			if tt.origin != "" {
				header.Set("Origin", tt.origin)
			}
			const login = "POST " + appPath + "/auth/providers/"
			for _, call := range []struct {
				path   string
				body   any
				status int
			}{
				{"GET " + appPath + "/location", nil, 200},
				{"GET " + prefix + "/auth/profile", nil, 401},
				{"GET /nowhere", nil, 404},
				{"OPTIONS /nowhere", nil, 204},
				{"PUT " + appPath + "/location", nil, 405},
				{login + "anon-user/login", strings.Repeat(" ", 64<<10+1), 413},
				{login + "custom-token/login", object{"token": "x"}, 401},
				{login + "custom-token/login", object{"token": "x"}, 429},
				{login + "anon-user/login", nil, 500},
				{"POST " + appPath + "/functions/call", nil, 503},
			} {
				method, path, _ := strings.Cut(call.path, " ")
				r := d.sendWith(method, path, header, call.body).want(call.status)
				if got := r.header.Get("Access-Control-Allow-Origin"); got != tt.allowed {
					t.Errorf("%s %s allows %q, want %q", method, path, got, tt.allowed)
				}
				if got := r.header.Get("Vary"); got != "Origin" {
					t.Errorf("%s %s varies by %q", method, path, got)
				}
			}
		})
	}
}

func TestAPreflightIsAnsweredOnEveryPath(t *testing.T) {
	d := newDouble(t, &appservices.Options{AppIDs: []string{"demo-abcde"}})
	for _, path := range []string{"/", prefix + "/app/unknown/location", prefix + "/auth/api_keys/x/enable", appPath + "/auth/providers/x/login"} {
		r := d.sendWith("OPTIONS", path, http.Header{"Origin": {"https://any.example"}, "Access-Control-Request-Private-Network": {"true"}}, nil)
		r.noContent()
		for header, want := range map[string]string{
			"Access-Control-Allow-Origin":          "https://any.example",
			"Access-Control-Allow-Methods":         "GET, POST, PUT, PATCH, DELETE, OPTIONS",
			"Access-Control-Allow-Headers":         "Authorization, Content-Type, Accept",
			"Access-Control-Max-Age":               "600",
			"Access-Control-Allow-Private-Network": "",
		} {
			if got := r.header.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", path, header, got, want)
			}
		}
	}
}

func TestAPreflightAllowsTheRequestedHeaders(t *testing.T) {
	d := newDouble(t, &appservices.Options{AllowPrivateNetwork: true})
	r := d.sendWith("OPTIONS", appPath+"/location", http.Header{
		"Access-Control-Request-Headers": {"authorization,x-mine"}, "Access-Control-Request-Private-Network": {"true"},
	}, nil)
	if got := r.header.Get("Access-Control-Allow-Headers"); got != "authorization,x-mine" {
		t.Errorf("allowed headers are %q", got)
	}
	if got := r.header.Get("Access-Control-Allow-Private-Network"); got != "true" {
		t.Errorf("the private network is allowed: %q", got)
	}
}

func TestTheServerLimitsSlowClients(t *testing.T) {
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	defer store.Close()
	h, err := appservices.New(store, nil)
	must(t, err)
	s := appservices.NewServer("127.0.0.1:0", h)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a bound is missing: %+v", s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/location HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n", appPath, strings.Repeat("x", 128<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got status %d for headers of 128 KiB", resp.StatusCode)
	}
	must(t, s.Close())
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestTheServerStopsWaitingForAnIncompleteRequest(t *testing.T) {
	d := newDouble(t, nil)
	const post = "POST " + appPath + "/auth/providers/anon-user/login HTTP/1.1\r\nHost: x\r\n"
	for _, tt := range []struct {
		name, sent string
		after      time.Duration
		reply      string
	}{
		{"half a header", post, 10 * time.Second, ""},
		{"half a body", post + "Content-Length: 100\r\n\r\n{", 30 * time.Second, "the body could not be read"},
		{"no second request", post + "Content-Length: 0\r\n\r\n", 2 * time.Minute, "access_token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := make(pipes)
				s := appservices.NewServer("", d.handler)
				go s.Serve(listener)
				defer s.Close()
				conn, err := listener.dial(t.Context(), "", "")
				must(t, err)
				defer conn.Close()
				begun := time.Now()
				_, err = io.WriteString(conn, tt.sent)
				must(t, err)
				reply, err := io.ReadAll(conn)
				must(t, err)
				if took := time.Since(begun); took < tt.after || took > tt.after+time.Second {
					t.Errorf("the connection was closed after %v, want %v", took, tt.after)
				}
				if got := string(reply); !strings.Contains(got, tt.reply) || tt.reply == "" && got != "" {
					t.Errorf("the reply is %q", got)
				}
			})
		})
	}
}

func TestTheLocationForARequestWithoutAHostIsTheLocalAddress(t *testing.T) {
	d := newDouble(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	must(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/location HTTP/1.0\r\n\r\n", appPath)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	if !strings.Contains(string(b), `"hostname":"`+d.url+`"`) {
		t.Errorf("the location is %s, want %s", b, d.url)
	}
}

func TestTheSameRandomnessAndClockGiveTheSameTokens(t *testing.T) {
	run := func() tokens {
		clock := appservices.NewClock(start)
		store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
			Cost: latchkey.LightCost, Now: clock.Now, TestClock: true, InsecureRand: &counter{},
		})
		must(t, err)
		defer store.Close()
		return serve(t, store, clock, &appservices.Options{InsecureRand: &counter{}}).signUp("ada@example.com")
	}
	if a, b := run(), run(); a != b {
		t.Errorf("the tokens are\n%v and\n%v", a, b)
	}
}

// A counter is a reader of bytes that are not random at all.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		c.n++
		p[i] = c.n
	}
	return len(p), nil
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	for name, opts := range map[string]appservices.Options{
		"a negative life":        {AccessTokenLife: -time.Second},
		"a life below a second":  {RefreshTokenLife: time.Millisecond},
		"a life of half seconds": {AccessTokenLife: 1500 * time.Millisecond},
		"a negative body":        {MaxBody: -1},
		"a negative burst":       {FailedLoginBurst: -1},
		"a rate that is none":    {FailedLogins: math.NaN()},
		"a URL without a scheme": {PublicURL: "keys.example.com"},
		"a URL with a path":      {PublicURL: "https://example.com/keys"},
		"a URL that is none":     {PublicURL: "http://%"},
		"a URL with a query":     {PublicURL: "https://keys.example.com?x"},
		"a URL with a fragment":  {PublicURL: "https://keys.example.com#x"},
		"a URL with a user":      {PublicURL: "https://ada@keys.example.com"},
		"a URL in other letters": {PublicURL: "HTTPS://keys.example.com"},
		"an ID that is no app's": {AppIDs: []string{"demo-abcde", "my app"}},
		"an empty app ID":        {AppIDs: []string{""}},
		"a function that is never called": {ConfirmFunction: func(context.Context, appservices.Confirmation) (appservices.Outcome, error) {
			return appservices.Accepted, nil
		}},
		"an unknown provider": {Providers: []latchkey.Provider{latchkey.ProviderAPIKey, "apikey"}},
	} {
		if _, err := appservices.New(nil, &opts); !errors.Is(err, appservices.ErrInvalidOptions) {
			t.Errorf("%s: got %v, want ErrInvalidOptions", name, err)
		}
	}
}

func TestConcurrentFirstLoginsMakeOneUser(t *testing.T) {
	d := newDouble(t, nil)
	d.register("ada@example.com")
	users := make([]string, 8)
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			r := httptest.NewRequest("POST", appPath+"/auth/providers/local-userpass/login",
				strings.NewReader(`{"username":"ada@example.com","password":"`+password+`"}`))
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			var body struct {
				UserID string `json:"user_id"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != http.StatusOK {
				t.Errorf("status %d: %v", w.Code, err)
			}
			users[i] = body.UserID
		})
	}
	wg.Wait()
	for _, u := range users {
		if u != users[0] {
			t.Fatalf("the users are %v", users)
		}
	}
}
