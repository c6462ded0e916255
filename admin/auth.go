package admin

import (
	"errors"
	"net/http"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/httpauth"
)

// ScopeAdmin is the scope of a key that may administer the store. It is reserved: no wildcard
// permits it.
const ScopeAdmin = "latchkey:admin"

// A Caller is a person or a program that may administer the store.
type Caller struct {
	// Actor is the name for the audit trail, such as "key 019b…".
	Actor string
	// Secrets lets the caller have what contains secrets: backups, exports and the
	// secrets of the domain. It is for
	// callers with a key, and for those that could read the store's file anyway.
	Secrets bool
	// Again returns an error if the caller may no longer administer the store. It is called before
	// each part of a stream of changes, a backup or an export is sent, so that these end when a key
	// is revoked. It may be nil.
	Again func() error
}

type callerKey struct{}

// RequireKey returns a function for [Options].Authenticate that lets a request pass if it has a
// token whose key has the scope [ScopeAdmin]. opts says where the token is, which proxies are
// trusted, and how requests are limited. It may be nil.
//
// The actor is "key" and the ID of the key.
func RequireKey(store *latchkey.Store, opts *httpauth.Options) func(*http.Request) (Caller, error) {
	auth := httpauth.New(store, opts)
	// A stream or a backup that goes on is no further request.
	var unlimited httpauth.Options
	if opts != nil {
		unlimited = *opts
	}
	unlimited.PerKey, unlimited.PerAddress = httpauth.Limit{}, httpauth.Limit{}
	again := httpauth.New(store, &unlimited)
	return func(r *http.Request) (Caller, error) {
		who, err := auth.Login(r, ScopeAdmin)
		if err != nil {
			h := http.Header{}
			status, reason := auth.Refusal(h, r, err)
			return Caller{}, refusal(status, reason, h)
		}
		return Caller{Actor: "key " + who.KeyID.String(), Secrets: true, Again: func() error {
			_, err := again.Login(r, ScopeAdmin)
			return err
		}}, nil
	}
}

// refusal returns the problem of a request that is refused before it is read.
func refusal(status int, reason string, h http.Header) *Problem {
	p := &Problem{Type: typeOf("unauthorized"), Title: "the request needs a key with the scope " + ScopeAdmin, Status: status, Detail: reason, header: h}
	switch status {
	case http.StatusForbidden:
		p.Type = typeOf("forbidden")
	case http.StatusTooManyRequests:
		p.Type, p.Title = typeOf("too-many-requests"), "too many requests"
	case http.StatusServiceUnavailable:
		p.Type, p.Title = typeOf("unavailable"), "the key cannot be checked now"
	case http.StatusBadRequest:
		p.Type, p.Title = typeOf("invalid-request"), "the token is not where it should be"
	}
	return p
}

// authenticationProblem returns the problem for an error of [Options].Authenticate.
func authenticationProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return refusal(httpauth.Status(err), "", nil)
}
