// Package httpauth lets an HTTP server ask for API keys: a token goes in, the principal is in the
// request's context, and a refusal has the right status.
//
//	auth := httpauth.New(store, nil)
//	mux.Handle("GET /files/", auth.Require("files:read")(files))
//
// In the handler, [PrincipalFrom] returns the [latchkey.Principal] of the request.
//
// # Where the token is
//
// The token is in the header "Authorization: Bearer TOKEN" (RFC 6750), in a header of the program's
// choice, or in the password of HTTP Basic authentication (RFC 7617). The last two are off unless
// [Options] says otherwise. If a request has the chosen header, the header Authorization is not
// read, because it may be for the program behind. A request with two different tokens in one header
// is refused. A token in a URL is never read, because URLs are logged.
//
// # Statuses
//
// One table decides which status a refused request gets:
//
//	no token                                             401
//	a malformed header, or two different tokens          400
//	ErrInvalidToken, ErrKeyDisabled, ErrKeyExpired,
//	ErrUserDisabled, ErrGroupDisabled                    401
//	a scope that the key does not have                   403
//	ErrNetworkNotAllowed                                 403
//	a limit of Options is exceeded                       429, with Retry-After
//	ErrBusy                                              503, with Retry-After: 1
//	every other error                                    503, with Retry-After: 5
//
// Every refusal by status 400 or 401, and a refusal because of a scope, has the header
// WWW-Authenticate. Every refusal has the header Cache-Control: no-store.
//
// # Browsers
//
// Before a page of another origin sends a request with a token, the browser asks by a request
// OPTIONS, which has no token. So a handler for such requests (CORS) stands before [Auth.Require].
package httpauth

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/address"
)

// Options changes how requests are checked. A nil *Options, or one with only zero fields, is the
// safe choice. New copies it.
type Options struct {
	// Header is a header with the token and nothing else, such as "X-Api-Key". A request without
	// this header may still have its token in the header Authorization. The default is none.
	Header string

	// Basic also takes the password of HTTP Basic authentication as the token, with any user name.
	// It is for clients that cannot send another header, such as package managers. A browser that
	// is refused then asks its user for a name and a password.
	Basic bool

	// Realm is the realm in WWW-Authenticate. The default is "latchkey".
	Realm string

	// TrustedProxies are the networks of the proxies whose header X-Forwarded-For is believed. If a
	// connection comes from one of them, the caller's address is the last address in the header
	// that is not in one of them. The default is none: the caller's address is the address of the
	// connection, and a header that anybody can send decides nothing.
	//
	// The caller's address is not known if that address in the header cannot be read, or if the
	// connection is one of a Unix socket. All such callers count as one address, and a key with
	// networks is refused.
	TrustedProxies []netip.Prefix

	// PerKey limits the requests of one key, and PerAddress the requests from one address, whether
	// or not they have a good token. An IPv6 address counts as its network of 64 bits. The default
	// is no limit. Each of the two remembers between 8,192 and 16,384 keys or addresses, in at most
	// some megabytes. A key or address that is forgotten begins anew.
	PerKey, PerAddress Limit

	// Now is the clock of the limits. The default is [time.Now].
	Now func() time.Time

	// Logger gets a line with the reason of each refusal. The level is Error if the store failed,
	// and Info otherwise. No line has a token. The default is no log.
	Logger *slog.Logger
}

// Auth checks the requests of an HTTP server. It is safe for concurrent use.
type Auth struct {
	store     loginer
	opts      Options
	keys      *limits[[16]byte]
	addresses *limits[netip.Prefix]
}

// loginer has the one method of a store that the package calls.
type loginer interface {
	LoginFrom(ctx context.Context, token string, addr netip.Addr) (latchkey.Principal, error)
}

// New returns an Auth that checks tokens against a store. opts may be nil.
func New(store *latchkey.Store, opts *Options) *Auth { return newAuth(store, opts) }

func newAuth(store loginer, opts *Options) *Auth {
	a := &Auth{store: store}
	if opts != nil {
		a.opts = *opts
		a.opts.TrustedProxies = unmapped(opts.TrustedProxies)
	}
	if a.opts.Realm == "" {
		a.opts.Realm = "latchkey"
	}
	if a.opts.Now == nil {
		a.opts.Now = time.Now
	}
	a.opts.Header = http.CanonicalHeaderKey(a.opts.Header)
	a.keys = newLimits[[16]byte](a.opts.PerKey)
	a.addresses = newLimits[netip.Prefix](a.opts.PerAddress)
	return a
}

// Require returns a middleware that lets a request pass if it has a good token whose key permits
// every scope. Without scopes it asks for a good token only. The handler behind it finds the
// principal with [PrincipalFrom].
//
// A Require inside another one of the same Auth checks only the scopes.
func (a *Auth) Require(scopes ...string) func(http.Handler) http.Handler {
	scopes = append([]string(nil), scopes...)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			known, _ := r.Context().Value(principalKey{}).(*principalContext)
			if known == nil || known.auth != a { // a principal of another store means nothing here
				who, err := a.Login(r)
				if err != nil {
					a.refuse(w, r, err)
					return
				}
				known = &principalContext{Context: r.Context(), auth: a, who: who}
				r = r.WithContext(known)
			}
			if err := checkScopes(known.who, scopes); err != nil {
				a.refuse(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// A principalContext is a context with a principal. It takes one allocation, where
// [context.WithValue] takes two.
type principalContext struct {
	context.Context
	auth *Auth
	who  latchkey.Principal
}

type principalKey struct{}

// Value returns the context itself for the package's own key.
func (c *principalContext) Value(key any) any {
	if key == (principalKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// PrincipalFrom returns the principal of a request that [Auth.Require] let pass, and reports
// whether there is one.
func PrincipalFrom(ctx context.Context) (latchkey.Principal, bool) {
	if known, ok := ctx.Value(principalKey{}).(*principalContext); ok {
		return known.who, true
	}
	return latchkey.Principal{}, false
}

// Login checks the limits of a request, its token, and that the token's key permits every scope. It
// is for handlers that answer a refusal in a format of their own, with [Auth.Refusal]. Other
// handlers use [Auth.Require].
//
// Errors: those of [latchkey.Store.LoginFrom]; others, which [Status] and Refusal know.
func (a *Auth) Login(r *http.Request, scopes ...string) (latchkey.Principal, error) {
	who, err := a.login(r)
	if err == nil {
		err = checkScopes(who, scopes)
	}
	if err != nil {
		return latchkey.Principal{}, err
	}
	return who, nil
}

// checkScopes returns an errScope if a principal lacks one of scopes.
func checkScopes(who latchkey.Principal, scopes []string) error {
	for _, scope := range scopes {
		if !who.Scopes.Has(scope) {
			return &scopeError{missing: scope, asked: strings.Join(scopes, " ")}
		}
	}
	return nil
}

// login checks the limits and the token of a request.
func (a *Auth) login(r *http.Request) (latchkey.Principal, error) {
	addr := a.address(r)
	if wait := a.addresses.take(address.Counted(addr), a.opts.Now); wait > 0 {
		return latchkey.Principal{}, &limitError{"too many requests from the address", wait}
	}
	token, err := a.token(r)
	if err != nil {
		return latchkey.Principal{}, err
	}
	who, err := a.store.LoginFrom(r.Context(), token, addr)
	if err != nil {
		return latchkey.Principal{}, err
	}
	if wait := a.keys.take(who.KeyID, a.opts.Now); wait > 0 {
		return latchkey.Principal{}, &limitError{"too many requests of the key", wait}
	}
	return who, nil
}
