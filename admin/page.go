package admin

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// ErrPageURL means that a page cannot have a URL. A page on the loopback address can have one that
// begins with http. Every other page needs TLS, and a URL that begins with https.
var ErrPageURL = errors.New("the URL of a page begins with https, or with http and a loopback address, and has no path")

// ErrNoPage means that the program has no [Page], or does not name it in [Options].
var ErrNoPage = errors.New("the program serves no page")

// Page serves a page for browsers, on which people administer a store, and the API that the page
// uses. It is safe for concurrent use.
//
// People sign in with the URLs that [Page.SignInURL] returns. A session may not have backups and
// exported keys. The actor is "page" and the public ID of the session.
type Page struct {
	api      *Handler
	url      *url.URL
	host     string // that url names, in lower case, without the port
	sessions *sessions
}

// NewPage returns a page for a store. base is the URL by which browsers reach the page, such as
// http://127.0.0.1:9091 or https://keys.example.com. The page must be at the root of its host.
//
// The page answers requests for the host of base and for loopback addresses. A request without TLS
// is refused unless it comes from the same machine, where a proxy with TLS may run.
//
// opts may be nil. Requests with an Authorization header are not the page's. They are decided by
// [Options].Authenticate, which by default asks for a key.
//
// Errors: [ErrPageURL].
func NewPage(store *latchkey.Store, base string, opts *Options) (*Page, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%w", ErrPageURL)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopbackName(u.Hostname())) {
		return nil, fmt.Errorf("%s: %w", u.Redacted(), ErrPageURL)
	}
	p := &Page{
		url:      &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"},
		host:     strings.ToLower(u.Hostname()),
		sessions: newSessions(u.Scheme == "https", u.Port()),
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	byKey := o.Authenticate
	if byKey == nil {
		byKey = RequireKey(store, nil)
	}
	o.Authenticate = func(r *http.Request) (Caller, error) {
		if s, ok := r.Context().Value(sessionKey{}).(*session); ok {
			return Caller{Actor: s.actor, Again: func() error { return p.sessions.again(s) }}, nil
		}
		if r.Header.Get("Authorization") == "" {
			return Caller{}, problemOf(errSignedOut)
		}
		return byKey(r)
	}
	p.api = New(store, &o)
	return p, nil
}

// SignInURL returns a URL that signs one browser in, once, within the next 5 minutes. The URL is a
// secret. Its secret part is the fragment, which browsers keep to themselves. Only the last 16 URLs
// that were not used are good.
func (p *Page) SignInURL() string {
	u := *p.url
	u.Fragment = "sign-in=" + p.sessions.newLink()
	return u.String()
}

// Close ends all sessions and all streams of changes. It does not close the store. Give it to
// [http.Server.RegisterOnShutdown], because Shutdown waits for streams.
func (p *Page) Close() {
	p.sessions.endAll()
	p.api.Close()
}

// ServeHTTP answers a request for the page, one of its files, or the API.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, header := range pageHeaders {
		w.Header().Set(header[0], header[1])
	}
	limitReading(w, r)
	c := &call{Handler: p.api, w: w, r: r}
	switch {
	case !p.isOurs(r.Host):
		c.refuse(errWrongHost)
	case r.TLS == nil && !isLocal(r.RemoteAddr):
		c.refuse(errNoTLS)
	case r.URL.Path == "/sign-in" || r.URL.Path == "/sign-out":
		if err := p.sign(c); err != nil {
			c.refuse(err)
		}
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		p.serveAPI(w, r)
	default:
		if err := serveFile(w, r); err != nil {
			c.refuse(err)
		}
	}
}

// pageHeaders are the headers of all answers. The policy permits the page's own files and requests
// to its own server, and nothing else: nothing inline, no other host, no frame, no form that sends
// something elsewhere, and no text that becomes HTML.
var pageHeaders = [][2]string{
	{"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"},
	{"Referrer-Policy", "no-referrer"},
	{"Cache-Control", "no-store"},
	{"X-Content-Type-Options", "nosniff"},
	{"X-Frame-Options", "DENY"},
	{"Cross-Origin-Opener-Policy", "same-origin"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
}

// isOurs reports whether a browser that sends a Host header has been led here on purpose. The page
// of another host can change what its host name leads to, but not the name (DNS rebinding).
func (p *Page) isOurs(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	return strings.EqualFold(name, p.host) || isLoopbackName(name)
}

// isLoopbackName reports whether a host is localhost or a loopback address.
func isLoopbackName(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// isLocal reports whether the address of a client is one of this machine.
func isLocal(remote string) bool {
	addr, err := netip.ParseAddrPort(remote)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// sign signs a browser in or out.
func (p *Page) sign(c *call) error {
	if c.r.Method != http.MethodPost {
		c.w.Header().Set("Allow", http.MethodPost)
		return errMethod
	}
	if err := p.fromPage(c.r); err != nil {
		return err
	}
	if c.r.URL.Path == "/sign-out" {
		if media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			return errMediaType
		}
		p.sessions.end(p.sessions.find(c.r))
		http.SetCookie(c.w, p.sessions.cookie("", -1))
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	var body struct {
		Secret string `json:"secret"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	s, cookie, proof, ok := p.sessions.begin(body.Secret)
	if !ok {
		return errLinkUsed
	}
	p.sessions.end(p.sessions.find(c.r)) // the browser forgets its cookie
	http.SetCookie(c.w, p.sessions.cookie(cookie, int(sessionLife.Seconds())))
	return c.answer(http.StatusOK, struct {
		Actor string `json:"actor"`
		Proof string `json:"proof"`
	}{s.actor, proof})
}

// fromPage returns an error if a request comes from another page than this one. Pages of other
// ports of the same host count as other pages, although browsers send cookies to all ports.
func (p *Page) fromPage(r *http.Request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return errCrossOrigin
	}
	if p.api.origin.Check(r) != nil {
		return errCrossOrigin
	}
	return nil
}

// serveAPI serves the API, for the session of a request if there is one.
func (p *Page) serveAPI(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		p.api.ServeHTTP(w, r)
		return
	}
	if err := p.fromPage(r); err != nil {
		(&call{Handler: p.api, w: w, r: r}).refuse(err)
		return
	}
	s := p.sessions.use(r)
	if s == nil {
		p.api.ServeHTTP(w, r)
		return
	}
	ctx, cancel := s.context(r.Context())
	defer cancel()
	p.api.ServeHTTP(w, r.WithContext(ctx))
}

// createSignInURL answers with a sign-in URL of the page.
func (c *call) createSignInURL() error {
	if c.opts.Page == nil {
		return ErrNoPage
	}
	return c.answer(http.StatusCreated, SignInURL{c.opts.Page.SignInURL()})
}

//go:embed page/index.html page/style.css page/icon.svg page/js
var pageFiles embed.FS

// mediaTypes are the types of the page's files. They do not depend on the system's list of types.
var mediaTypes = map[string]string{".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

// serveFile serves one of the page's files.
func serveFile(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if name == "" {
		name = "index.html"
	}
	body, err := fs.ReadFile(pageFiles, "page/"+name)
	if err != nil {
		return errNoRoute
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return errMethod
	}
	w.Header().Set("Content-Type", mediaTypes[path.Ext(name)]+"; charset=utf-8")
	_, _ = w.Write(body)
	return nil
}
