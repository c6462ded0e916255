package admin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/memory"
)

const pageURL = "http://127.0.0.1:9091"

// A site is a page over a store in memory, with an audit trail.
type site struct {
	testing.TB
	store *latchkey.Store
	page  *admin.Page
	base  string
}

func newSite(t testing.TB, base string) *site {
	t.Helper()
	trail := audit.New(nil)
	store, err := memory.Open(&latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	page, err := admin.NewPage(store, base, &admin.Options{Trail: trail})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(page.Close)
	return &site{t, store, page, base}
}

// A browser is a browser with the page open: it keeps the cookie and the proof.
type browser struct {
	*site
	cookie *http.Cookie
	proof  string
	actor  string
}

// request returns a request as the page sends it.
func (b *browser) request(method, target, body string) *http.Request {
	b.Helper()
	r := httptest.NewRequest(method, b.base+target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:40000"
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
		r.Header.Set("Latchkey-Proof", b.proof)
	}
	return r
}

func (s *site) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.page.ServeHTTP(w, r)
	return w
}

// is fails the test unless the answer has a status, and returns the name of its problem.
func (s *site) is(w *httptest.ResponseRecorder, status int) (problem string) {
	s.Helper()
	if w.Code != status {
		s.Errorf("got %d %s, want %d", w.Code, w.Body, status)
	}
	var p admin.Problem
	_ = json.Unmarshal(w.Body.Bytes(), &p)
	return strings.TrimPrefix(p.Type, "urn:latchkey:problem:")
}

// secretOf returns the secret part of a sign-in URL.
func secretOf(t testing.TB, signIn string) string {
	t.Helper()
	secret := regexp.MustCompile(`^https?://[^/#]+/#sign-in=([A-Za-z0-9_-]{43})$`).FindStringSubmatch(signIn)
	if secret == nil {
		t.Fatalf("the sign-in URL is %s", signIn)
	}
	return secret[1]
}

// try opens a sign-in URL, and reports whether it was good.
func (b *browser) try(signIn string) bool {
	b.Helper()
	w := b.serve(b.request("POST", "/sign-in", fmt.Sprintf(`{"secret":%q}`, secretOf(b, signIn))))
	if w.Code == http.StatusForbidden {
		return false
	}
	b.is(w, http.StatusOK)
	var answer struct{ Actor, Proof string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		b.Fatal(err)
	}
	b.cookie, b.proof, b.actor = w.Result().Cookies()[0], answer.Proof, answer.Actor
	return true
}

func (s *site) signIn() *browser {
	s.Helper()
	b := &browser{site: s}
	if !b.try(s.page.SignInURL()) {
		s.Fatal("a new sign-in URL was refused")
	}
	return b
}

// status returns the status of a simple request.
func (b *browser) status() int { return b.serve(b.request("GET", "/v1/store", "")).Code }

func TestASignInURLIsGoodOnce(t *testing.T) {
	s := newSite(t, pageURL)
	signIn := s.page.SignInURL()
	b := &browser{site: s}
	if b.status() != http.StatusUnauthorized {
		t.Error("a browser was signed in from the start")
	}
	if !b.try(signIn) || b.status() != http.StatusOK {
		t.Error("the first use of the URL did not sign in")
	}
	if other := (&browser{site: s}); other.try(signIn) || other.status() != http.StatusUnauthorized {
		t.Error("the second use of the URL signed in")
	}
	if b.try(pageURL+"/#sign-in="+strings.Repeat("A", 43)) || b.status() != http.StatusOK {
		t.Error("a wrong URL ended the session")
	}
}

func TestASignInURLIsGoodForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, pageURL)
		early, late := s.page.SignInURL(), s.page.SignInURL()
		time.Sleep(5*time.Minute - time.Second)
		if !(&browser{site: s}).try(early) {
			t.Error("the URL was refused before 5 minutes had passed")
		}
		time.Sleep(time.Second)
		if (&browser{site: s}).try(late) {
			t.Error("the URL was good after 5 minutes")
		}
	})
}

func TestOnlyTheLastSignInURLsAreGood(t *testing.T) {
	s := newSite(t, pageURL)
	var all []string
	for range 17 {
		all = append(all, s.page.SignInURL())
	}
	if (&browser{site: s}).try(all[0]) {
		t.Error("the first of 17 URLs was good")
	}
	if !(&browser{site: s}).try(all[1]) {
		t.Error("the last 16 URLs are not good")
	}
}

func TestASessionEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*browser)
	}{
		{"by signing out", func(b *browser) {
			w := b.serve(b.request("POST", "/sign-out", "{}"))
			b.is(w, http.StatusNoContent)
			if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge != -1 || c[0].Name != b.cookie.Name {
				b.Errorf("the cookie stays: %v", c)
			}
		}},
		{"when nobody uses it", func(*browser) { time.Sleep(30 * time.Minute) }},
		{"when only the page itself sends requests", func(b *browser) {
			for range 30 {
				time.Sleep(time.Minute)
				r := b.request("GET", "/v1/store", "")
				r.Header.Set("Latchkey-Background", "1")
				b.serve(r)
			}
		}},
		{"after 12 hours, however much it is used", func(b *browser) {
			for range 12*60 - 29 {
				if b.status() != http.StatusOK {
					b.Error("the session has ended too early")
				}
				time.Sleep(time.Minute)
			}
		}},
		{"with the page", func(b *browser) { b.page.Close() }},
		{"when the browser signs in anew", func(b *browser) {
			next := *b
			if !next.try(b.page.SignInURL()) || next.status() != http.StatusOK {
				b.Error("a browser that is signed in cannot sign in anew")
			}
		}},
		{"when 32 other browsers have signed in", func(b *browser) {
			time.Sleep(time.Second)
			for range 32 {
				b.signIn()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newSite(t, pageURL).signIn()
				time.Sleep(29 * time.Minute)
				if b.status() != http.StatusOK {
					t.Fatal("the session has ended by itself")
				}
				// A stream of changes ends with its session.
				ended := make(chan struct{})
				go func() {
					b.serve(b.request("GET", "/v1/changes", ""))
					close(ended)
				}()
				synctest.Wait()
				tt.end(b)
				synctest.Wait()
				select {
				case <-ended:
				default:
					t.Error("the stream of changes goes on")
				}
				if got := b.is(b.serve(b.request("GET", "/v1/store", "")), http.StatusUnauthorized); got != "signed-out" {
					t.Errorf("got %s", got)
				}
			})
		})
	}
}

// The stream of a session ends by the wall clock, although no timer runs while a laptop sleeps, and
// although somebody can set the clock back.
func TestTheStreamOfASessionEndsByTheWallClock(t *testing.T) {
	for _, tt := range []struct {
		name       string
		jump, wait time.Duration
	}{
		{"after a sleep", time.Hour, time.Minute},
		{"after the clock was set back", -time.Minute, 32 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var by atomic.Int64
				defer admin.SetWallClock(&by)()
				b := newSite(t, pageURL).signIn()
				ended := make(chan struct{})
				go func() {
					b.serve(b.request("GET", "/v1/changes", ""))
					close(ended)
				}()
				synctest.Wait()
				by.Store(int64(tt.jump))
				time.Sleep(tt.wait)
				synctest.Wait()
				select {
				case <-ended:
				default:
					t.Error("the stream of changes goes on")
				}
				b.page.Close()
				<-ended
			})
		})
	}
}

// Browsers send cookies to every port of a host, where another user's program may listen.
func TestTheCookieAloneIsNotEnough(t *testing.T) {
	b := newSite(t, pageURL).signIn()
	for name, change := range map[string]func(*http.Request){
		"no proof":      func(r *http.Request) { r.Header.Del("Latchkey-Proof") },
		"a wrong proof": func(r *http.Request) { r.Header.Set("Latchkey-Proof", b.signIn().proof) },
		"no cookie":     func(r *http.Request) { r.Header.Del("Cookie") },
		"two cookies":   func(r *http.Request) { r.AddCookie(&http.Cookie{Name: b.cookie.Name, Value: "other"}) },
	} {
		r := b.request("GET", "/v1/keys", "")
		change(r)
		if w := b.serve(r); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", name, w.Code)
		}
	}
	if strings.Contains(b.actor, b.proof) || strings.Contains(b.actor, b.cookie.Value) {
		t.Error("the actor has a secret")
	}
}

func TestTheCookieIsOnlyForThePage(t *testing.T) {
	for base, name := range map[string]string{
		"http://127.0.0.1:9091":          "latchkey-9091",
		"http://localhost:9092":          "latchkey-9092",
		"https://keys.example.com":       "__Host-latchkey",
		"https://keys.example.com:8443/": "__Host-latchkey-8443",
	} {
		b := newSite(t, strings.TrimSuffix(base, "/")).signIn()
		c := b.cookie
		if c.Name != name || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 12*60*60 {
			t.Errorf("%s: the cookie is %s", base, strings.ReplaceAll(c.String(), c.Value, "…"))
		}
		if c.Secure != strings.HasPrefix(base, "https") {
			t.Errorf("%s: Secure is %v", base, c.Secure)
		}
	}
}

func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	b := newSite(t, pageURL).signIn()
	owner, err := b.store.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, method, target string
		change               func(*http.Request)
		status               int
	}{
		{"another site", "POST", "/v1/users", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"another port of the host", "POST", "/v1/users", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		{"an address that was typed in", "POST", "/v1/users", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, 403},
		{"a reading of another port", "GET", "/v1/users", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		{"a deletion of another port", "DELETE", userPath(owner.ID), func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		{"an older browser, another origin", "POST", "/v1/users", func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "http://127.0.0.1:3000")
		}, 403},
		{"a form", "POST", "/v1/users", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"a form that signs in", "POST", "/sign-in", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"another site that signs in", "POST", "/sign-in", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"a form that signs out", "POST", "/sign-out", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"another port that signs out", "POST", "/sign-out", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
		{"an image that signs out", "GET", "/sign-out", func(*http.Request) {}, 405},
		{"a link that signs in", "GET", "/sign-in", func(*http.Request) {}, 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := b.request(tt.method, tt.target, `{"identity":{"provider":"custom-token","subject":"42"}}`)
			tt.change(r)
			if w := b.serve(r); w.Code != tt.status {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tt.status)
			}
		})
	}
	if b.status() != http.StatusOK {
		t.Error("another page has ended the session")
	}
	stats, err := b.store.Stats(t.Context())
	if err != nil || stats.Users != 1 {
		t.Errorf("there are %d users, %v: another page has changed the store", stats.Users, err)
	}
}

// DNS rebinding: the host name of another page leads to this machine.
func TestOtherHostNamesAreRefused(t *testing.T) {
	local, public := newSite(t, pageURL).signIn(), newSite(t, "https://keys.example.com:8443").signIn()
	for host, want := range map[string][2]int{
		"127.0.0.1:9091":         {200, 200},
		"localhost:9091":         {200, 200},
		"LOCALHOST":              {200, 200},
		"localhost:8000":         {200, 200}, // a tunnel of ssh
		"[::1]:9091":             {200, 200},
		"127.0.0.2:9091":         {200, 200},
		"keys.example.com":       {421, 200},
		"Keys.Example.com:8443":  {421, 200},
		"evil.example":           {421, 421},
		"evil.example:9091":      {421, 421},
		"127.0.0.1.evil.example": {421, 421},
		"localhost.evil.example": {421, 421},
		"192.0.2.1:9091":         {421, 421},
		"0.0.0.0:9091":           {421, 421},
		"":                       {421, 421},
		"@127.0.0.1":             {421, 421},
		"127.0.0.1:9091@evil":    {421, 421},
	} {
		for i, b := range []*browser{local, public} {
			for _, target := range []string{"/", "/v1/store", "/sign-in"} {
				r := b.request("GET", target, "")
				r.Host = host
				w := b.serve(r)
				if got := w.Code; (got == 421) != (want[i] == 421) {
					t.Errorf("%s%s at %s: got %d, want %d", host, target, b.base, got, want[i])
				}
			}
		}
	}
}

func TestWithoutTLSOnlyThisMachineIsAnswered(t *testing.T) {
	for _, base := range []string{pageURL, "https://keys.example.com"} {
		b := newSite(t, base).signIn()
		for remote, want := range map[string]int{"127.0.0.1:40000": 200, "[::1]:40000": 200, "[::ffff:127.0.0.1]:40000": 200, "192.0.2.9:40000": 403, "[2001:db8::1]:40000": 403, "@": 403} {
			r := b.request("GET", "/v1/store", "")
			r.RemoteAddr, r.TLS = remote, nil
			if got := b.serve(r).Code; got != want {
				t.Errorf("%s from %s: got %d, want %d", base, remote, got, want)
			}
			r.TLS = &tls.ConnectionState{}
			if got := b.serve(r).Code; got != http.StatusOK {
				t.Errorf("%s from %s with TLS: got %d", base, remote, got)
			}
		}
	}
}

func TestAPageOfOtherMachinesNeedsTLS(t *testing.T) {
	store := newSite(t, pageURL).store
	for base, good := range map[string]bool{
		"http://127.0.0.1:9091": true, "http://localhost": true, "http://[::1]:9091/": true, "https://keys.example.com": true,
		"http://keys.example.com": false, "http://192.0.2.1:9091": false, "http://0.0.0.0:9091": false, "https://keys.example.com/admin": false,
		"https://ada@keys.example.com": false, "https://keys.example.com/?x": false, "ftp://localhost": false, "localhost:9091": false, "/": false, "": false, "http://%": false,
	} {
		page, err := admin.NewPage(store, base, nil)
		if (err == nil) != good || err != nil && !errors.Is(err, admin.ErrPageURL) {
			t.Errorf("%q: got %v", base, err)
		}
		if page != nil {
			page.Close()
		}
	}
}

func TestASessionMayNotHaveSecrets(t *testing.T) {
	b := newSite(t, pageURL).signIn()
	key, _, err := b.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "job"})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"GET /v1/backup", "GET /v1/keys/" + key.ID.String() + "/export", "POST /v1/page/sign-in-url"} {
		method, target, _ := strings.Cut(target, " ")
		if got := b.is(b.serve(b.request(method, target, "")), http.StatusForbidden); got != "key-required" {
			t.Errorf("%s %s: got %s", method, target, got)
		}
	}
}

func TestTheTrailNamesTheSession(t *testing.T) {
	b := newSite(t, pageURL).signIn()
	b.is(b.serve(b.request("POST", "/v1/server-keys", `{"name":"job"}`)), http.StatusCreated)
	err := b.store.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.Entries(tx, 0) {
			if err != nil || e.Change.Actor != b.actor {
				t.Errorf("the actor is %q, %v, want %q", e.Change.Actor, err, b.actor)
			}
		}
		return nil
	})
	if err != nil || !regexp.MustCompile(`^page [0-9a-f]{8}$`).MatchString(b.actor) {
		t.Errorf("the actor is %q, %v", b.actor, err)
	}
}

func TestAKeyAdministersByTheAddressOfThePage(t *testing.T) {
	s := newSite(t, pageURL)
	_, token, err := s.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	if err != nil {
		t.Fatal(err)
	}
	r := (&browser{site: s}).request("GET", "/v1/keys", "")
	r.Header.Set("Authorization", "Bearer "+token)
	s.is(s.serve(r), http.StatusOK)
	r.Header.Set("Authorization", "Bearer "+token[:len(token)-1])
	s.is(s.serve(r), http.StatusUnauthorized)
	// A wrong token is not made good by a session.
	r = s.signIn().request("GET", "/v1/keys", "")
	r.Header.Set("Authorization", "Bearer none")
	s.is(s.serve(r), http.StatusUnauthorized)
}

func TestAnAdministratorMakesSignInURLs(t *testing.T) {
	s := newSite(t, pageURL)
	a := newAPI(t, &admin.Options{Authenticate: everybody, Page: s.page})
	made := get[admin.SignInURL](a.do("POST", "/v1/page/sign-in-url", nil).is(http.StatusCreated))
	if !(&browser{site: s}).try(made.URL) {
		t.Error("the URL is not good")
	}
	if text := fmt.Sprintf("%v %+v %#v", made, made, made); strings.Contains(text, secretOf(t, made.URL)) {
		t.Errorf("the URL is printed: %s", text)
	}
	newAPI(t, nil).do("POST", "/v1/page/sign-in-url", nil).problem(http.StatusNotFound, "no-page")
	weak := func(*http.Request) (admin.Caller, error) { return admin.Caller{Actor: "weak"}, nil }
	newAPI(t, &admin.Options{Authenticate: weak, Page: s.page}).do("POST", "/v1/page/sign-in-url", nil).problem(http.StatusForbidden, "key-required")
}

func TestEveryAnswerOfThePageHasItsHeaders(t *testing.T) {
	b := newSite(t, pageURL).signIn()
	wrongHost := b.request("GET", "/", "")
	wrongHost.Host = "evil.example"
	for _, r := range []*http.Request{
		b.request("GET", "/", ""), b.request("GET", "/style.css", ""), b.request("GET", "/js/app.js", ""), b.request("GET", "/none", ""), b.request("POST", "/", ""),
		b.request("GET", "/v1/keys", ""), b.request("GET", "/v1/none", ""), b.request("POST", "/sign-in", `{"secret":"x"}`), b.request("POST", "/sign-out", "{}"),
		(&browser{site: b.site}).request("GET", "/v1/keys", ""), wrongHost,
	} {
		w := b.serve(r)
		for name, want := range map[string]string{
			"Content-Security-Policy": `^default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'$`,
			"Referrer-Policy":         "^no-referrer$", "Cache-Control": "^no-store$", "X-Content-Type-Options": "^nosniff$", "X-Frame-Options": "^DENY$",
			"Cross-Origin-Opener-Policy": "^same-origin$", "Cross-Origin-Resource-Policy": "^same-origin$",
		} {
			if got := w.Header().Values(name); len(got) != 1 || !regexp.MustCompile(want).MatchString(got[0]) {
				t.Errorf("%s %s: %s is %q", r.Method, r.URL.Path, name, got)
			}
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: other origins may read the answer", r.Method, r.URL.Path)
		}
	}
}

func TestThePageIsSmallAndOfThisHostAlone(t *testing.T) {
	b := &browser{site: newSite(t, pageURL)}
	total := 0
	err := fs.WalkDir(admin.PageFiles, "page", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(admin.PageFiles, name)
		total += len(text)
		target := strings.TrimPrefix(name, "page")
		w := b.serve(b.request("GET", strings.Replace(target, "/index.html", "/", 1), ""))
		if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), text) {
			t.Errorf("%s: got %d and %d bytes", target, w.Code, w.Body.Len())
		}
		want := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml; charset=utf-8"}[path.Ext(name)]
		if got := w.Header().Get("Content-Type"); got != want || want == "" {
			t.Errorf("%s: the type is %q", name, got)
		}
		for _, bad := range regexp.MustCompile(`(?i)\b(https?:)?//[a-z0-9.-]+\.[a-z]+[^\s"']*|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|<script>|<style|\bstyle=|\bon[a-z]+="`).FindAllString(string(text), -1) {
			if bad != "http://www.w3.org/2000/svg" {
				t.Errorf("%s has %s", name, bad)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if total == 0 || total > 150_000 {
		t.Errorf("the page has %d bytes, want at most 150,000", total)
	}
}

// A page whose browser is gone does not hold up the end of a program.
func TestClosingThePageEndsItsStreams(t *testing.T) {
	s := newSite(t, pageURL)
	server := httptest.NewUnstartedServer(s.page)
	server.Config.RegisterOnShutdown(s.page.Close)
	server.Start()
	defer server.Close()
	b := s.signIn()
	r := b.request("GET", "/v1/changes", "").Clone(t.Context())
	r.RequestURI, r.URL.Host = "", server.Listener.Addr().String()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := server.Config.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Error(err)
	}
}
