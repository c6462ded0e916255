package appservices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// The errors of this package that a caller can branch on with [errors.Is]. The store's errors come
// through, too.
var (
	// ErrInvalidOptions: a field of [Options] or of a [JWTVerifier] is invalid. The text says
	// which, and what is allowed.
	ErrInvalidOptions = errors.New("invalid options")
	// ErrInvalidJWTKey: the data that [ParseJWTKeys] was given has no key that can check tokens, or
	// has something that must not be used as a key. The text says what.
	ErrInvalidJWTKey = errors.New("invalid key for custom tokens")
	// ErrInvalidFault: a [Fault] has no effect, contradicts itself, or has an invalid field.
	ErrInvalidFault = errors.New("invalid fault")
	// ErrInvalidSeed: a [Seed] cannot be read, contradicts itself, or has something that the hosted
	// service would have refused.
	ErrInvalidSeed = errors.New("invalid seed")
	// ErrNoApp: there is no app with that ID. Either the ID is not in [Options].AppIDs, or it does
	// not have the form of an app ID.
	ErrNoApp = errors.New("there is no such app")
)

// A refusal is a reply that is an error, in the words of the hosted service. Clients decide by the
// status and the code, and some clients by the text.
type refusal struct {
	status int
	code   string // left out of the body if empty
	text   string
	old    string        // the text before May 2024, if it was different
	bare   bool          // sent without a body, unless ExplainForbidden is set
	after  time.Duration // when the client can try again, if that is known

	missing string // the part of the hosted service that is not here, if that is the reason
	form    form
}

// A form is what a refusal looks like.
type form int

const (
	formService form = iota // the form of the hosted service
	formGraphQL             // with the member that clients of GraphQL read
	formPage                // a page, if a person asks with a browser
)

func (e *refusal) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.text) }

// An explained error has a reason for the log. The client learns only the error.
type explained struct {
	error
	reason string
}

func (e *explained) Unwrap() error { return e.error }

// because adds a reason to an error. The reason must contain no secret and no e-mail address,
// because it gets into the log.
func because(err error, reason string) error { return &explained{err, reason} }

// Requests that reach no call.
var (
	errNotFound    = &refusal{status: http.StatusNotFound, text: "not found"}
	errMethod      = &refusal{status: http.StatusMethodNotAllowed, text: "method not allowed"}
	errBody        = &refusal{status: http.StatusBadRequest, code: "BadRequest", text: "the body is not a JSON object"}
	errBodySize    = &refusal{status: http.StatusRequestEntityTooLarge, code: "BadRequest", text: "the body is too large"}
	errBodyEncoded = &refusal{status: http.StatusUnsupportedMediaType, code: "BadRequest", text: "the body must not be compressed"}
	errBodyLost    = &refusal{status: http.StatusBadRequest, code: "BadRequest", text: "the body could not be read"}
	errInternal    = &refusal{status: http.StatusInternalServerError, code: "InternalServerError", text: "internal server error"}
	errUnavailable = &refusal{status: http.StatusServiceUnavailable, text: "the store cannot be reached: try again in a moment", after: 5 * time.Second}
	errNoSpace     = &refusal{status: http.StatusInsufficientStorage, text: "the store has no space left"}
	errBusy        = &refusal{status: http.StatusServiceUnavailable, text: "too busy: try again in a moment", after: time.Second}
	errClosing     = &refusal{status: http.StatusServiceUnavailable, text: "the server is closing", after: time.Second}
	errTooManyApps = &refusal{status: http.StatusServiceUnavailable, text: "too many apps"}
)

func errNoApp(appID string) error {
	return &refusal{status: http.StatusNotFound, text: fmt.Sprintf("cannot find app using Client App ID '%.100s'", appID)}
}

func errMissing(field string) error {
	return &refusal{status: http.StatusBadRequest, code: "MissingParameter", text: fmt.Sprintf("'%s' is a required string", field)}
}

// Logins that are refused.
var (
	errPassword         = unauthorized("InvalidPassword", "invalid username/password")
	errUnconfirmed      = unauthorized("AuthError", "confirmation required")
	errAPIKey           = unauthorized("AuthError", "invalid API key")
	errUserDisabled     = unauthorized("UserDisabled", "")
	errIdentity         = unauthorized("AuthError", "the provider gave no valid ID")
	errProviderUnknown  = &refusal{status: http.StatusNotFound, code: "AuthProviderNotFound", text: "auth provider not found"}
	errLinkRequest      = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "invalid user link request"}
	errLinkOfAnonymous  = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "linking an anonymous identity is not allowed"}
	errLinkTaken        = unauthorized("InvalidSession", "a user already exists with the specified provider")
	errTooManyLinks     = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "user has too many identities"}
	errAnotherAppsToken = &refusal{status: http.StatusForbidden, code: "UserAppDomainMismatch", text: "the token is another app's"}
	// errLinkSecondEmail has the status of the hosted service. The status was a defect there, but a
	// test suite of an SDK expects it.
	errLinkSecondEmail = &refusal{
		status: http.StatusInternalServerError, code: "InternalServerError", text: "unauthorized",
		old: "linking a local-userpass identity is not allowed when one is already linked",
	}
)

func errTooManyFailures(wait time.Duration) *refusal {
	return &refusal{status: http.StatusTooManyRequests, text: "too many failed logins from this address", after: wait}
}

func errTooManyWrites(what string, wait time.Duration) *refusal {
	return &refusal{status: http.StatusTooManyRequests, text: "too many " + what + " from this address", after: wait}
}

func errTooManyMails(wait time.Duration) *refusal {
	return &refusal{status: http.StatusTooManyRequests, text: "too many mails to this address", after: wait}
}

func unauthorized(code, old string) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: code, text: "unauthorized", old: old}
}

func errProviderOff(p latchkey.Provider) *refusal {
	return unauthorized("AuthError", fmt.Sprintf("authentication via '%s' is unsupported", p))
}

// errCallOff answers the calls of a provider that is off, other than logins. It has no status 401,
// because realm-web sends these calls with an access token, which it would refresh without end.
func errCallOff(p latchkey.Provider) *refusal {
	return &refusal{status: http.StatusForbidden, code: "AuthError", text: errProviderOff(p).old}
}

func errToken(reason error) error {
	return unauthorized("InvalidSession", fmt.Sprintf("invalid custom auth token: %v", reason))
}

func errOAuth(p latchkey.Provider, reason error) error {
	e := unauthorized("InvalidSession", fmt.Sprintf("authentication via '%s' failed", p))
	return because(e, fmt.Sprintf("%s: %v", e.old, reason))
}

// errFunction tells the client the text of the function's error. The test suites of some SDKs look
// for that text, and the suites of other SDKs look for the word before it.
func errFunction(reason error) error {
	return &refusal{status: http.StatusUnauthorized, code: "AuthError", text: fmt.Sprintf("unauthorized: %v", reason)}
}

// linkFailure returns err in a form that makes realm-web give up. realm-web takes a 401 for an
// access token that has expired: up to version 2.0.0 any 401, and later one with the code
// InvalidSession or with the bare text "unauthorized". It gets a new token and links again, without
// end. So realm-web gets status 403 instead. Only clients on the core get the status 500 for a
// second e-mail address, because their test suites expect it.
func linkFailure(err error) error {
	e, _ := refusalOf(err)
	if e.status != http.StatusUnauthorized && e != errLinkSecondEmail {
		return err
	}
	why, isTold := strings.CutPrefix(e.text, "unauthorized: ") // as the texts of functions have
	if !isTold {
		why = cmp.Or(e.old, "these credentials cannot be linked")
	}
	return because(&refusal{status: http.StatusForbidden, code: "AuthError", text: "unauthorized: " + why}, reasonOf(err))
}

// Registering, confirming and resetting.
var (
	errEmailTaken     = &refusal{status: http.StatusConflict, code: "AccountNameInUse", text: "name already in use"}
	errPasswordLength = badRequest("password must be between 6 and 128 characters")
	errEmail          = badRequest("email invalid")
	errTokenForm      = badRequest("invalid token data")
	errTokenUnknown   = &refusal{status: http.StatusBadRequest, code: "UserpassTokenInvalid", text: "userpass token is expired or invalid"}
	errConfirmed      = &refusal{status: http.StatusBadRequest, code: "UserAlreadyConfirmed", text: "already confirmed"}
	errNoAccount      = &refusal{status: http.StatusNotFound, code: "UserNotFound", text: "user not found"}
	errConfirmByFunc  = badRequest("please use confirm via function")
	errResetByFunc    = badRequest("please use reset password via function")
)

func badRequest(text string) error {
	return &refusal{status: http.StatusBadRequest, code: "BadRequest", text: text}
}

func errNotConfirmed(email, why string) error {
	return because(badRequest(fmt.Sprintf("failed to confirm user %q", email)), why)
}

func errNoConfirmation(email, why string) error {
	e := &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("cannot run confirmation for %s: %s", email, why)}
	return because(e, why)
}

func errNotReset(email, why string) error {
	e := &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("failed to reset password for user %q", email)}
	return because(e, why)
}

// whyNot returns why a hook did not accept a request.
func whyNot(hook string, err error) string {
	if err != nil {
		return fmt.Sprintf("%s returned the error: %v", hook, err)
	}
	return hook + " refused it"
}

// Bearer tokens that are refused. If a call with a refresh token gets status 401, clients end the
// session.
var (
	errNoBearer         = &refusal{status: http.StatusUnauthorized, text: "must authenticate first"}
	errNoJWT            = &refusal{status: http.StatusUnauthorized, text: "expected Authorization header with JWT (Bearer schema)"}
	errAccessToken      = &refusal{status: http.StatusUnauthorized, text: "unauthorized"}
	errSignature        = &refusal{status: http.StatusUnauthorized, text: "signature is invalid"}
	errNotRefreshToken  = &refusal{status: http.StatusUnauthorized, text: "invalid refresh token: incorrect token type"}
	errInvalidSession   = invalidSession("invalid session")
	errAccessExpired    = invalidSession("invalid session: access token expired")
	errRefreshExpired   = invalidSession(noRefreshToken)
	errSessionEnded     = invalidSession(noRefreshToken)
	errUserGone         = invalidSession("invalid session: error finding user for endpoint")
	errServerUser       = &refusal{status: http.StatusForbidden, text: "a server key's user cannot be deleted", bare: true}
	errKeySession       = &refusal{status: http.StatusForbidden, text: "a session that was opened with an API key can neither link an identity nor delete the user", bare: true}
	errKeysOff          = &refusal{status: http.StatusForbidden, text: "the provider api-key is off, so keys can be neither made nor enabled", bare: true}
	errMayNotManageKeys = &refusal{status: http.StatusForbidden, text: "this session may not manage API keys", bare: true}
)

// noRefreshToken is the text for a session that has ended or expired. If a logout is refused with
// any other text, the logout fails in realm-web.
const noRefreshToken = "invalid session: failed to find refresh token"

func invalidSession(text string) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: "InvalidSession", text: text}
}

// Keys.
var (
	errKeyNotFound   = &refusal{status: http.StatusNotFound, code: "APIKeyNotFound", text: "API key not found"}
	errKeyName       = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "can only contain ASCII letters, numbers, underscores, and hyphens"}
	errKeyNameLong   = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "'name' must have at most 256 characters"}
	errKeyNameID     = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "'name' must not have the form of an ID"}
	errKeyNameAbsent = &refusal{status: http.StatusBadRequest, text: "'name' is a required string"}
	errKeyNameTaken  = &refusal{status: http.StatusConflict, code: "APIKeyAlreadyExists", text: "API key with name already exists"}
)

func errKeyLimit(limit int) error {
	return badRequest(fmt.Sprintf("user has reached the limit of %d API keys", limit))
}

// storeErrors maps the store's errors to replies, for calls that do not answer an error themselves.
var storeErrors = []struct{ err, reply error }{
	{latchkey.ErrKeyNotFound, errKeyNotFound},
	{latchkey.ErrInvalidName, errKeyNameID}, // checkKeyName has found every other reason
	{latchkey.ErrKeyNameTaken, errKeyNameTaken},
	{latchkey.ErrAnonymousUser, errMayNotManageKeys},
	{latchkey.ErrUserNotFound, errUserGone},
	{latchkey.ErrInvalidToken, errAPIKey},
	{latchkey.ErrKeyDisabled, errAPIKey},
	{latchkey.ErrKeyExpired, errAPIKey},
	{latchkey.ErrNetworkNotAllowed, errAPIKey},
	{latchkey.ErrUserDisabled, errUserDisabled},
	{latchkey.ErrGroupDisabled, errAPIKey},
	{latchkey.ErrIdentityTaken, errLinkTaken},
	{latchkey.ErrInvalidIdentity, errIdentity},
	{latchkey.ErrTooManyIdentities, errTooManyLinks},
	{latchkey.ErrBusy, errBusy},
	{latchkey.ErrUnavailable, errUnavailable},
	{latchkey.ErrNoSpace, errNoSpace},
	{latchkey.ErrClosed, errClosing},
	{context.DeadlineExceeded, errBusy},
	{context.Canceled, errClosing}, // the client has left and will not read the reply
}

// refusalOf turns an error into the reply that a client gets. It is the only place that does so,
// and the client learns nothing about an error that refusalOf does not know.
func refusalOf(err error) (e *refusal, known bool) {
	if errors.As(err, &e) {
		return e, true
	}
	if e, _ := storeErrorOf(err); e != nil {
		return e, true
	}
	return errInternal, false
}

// storeErrorOf returns the reply to an error of the store, and that error without what is around
// it. Both are nil for any other error.
func storeErrorOf(err error) (reply *refusal, is error) {
	for _, row := range storeErrors {
		if errors.Is(err, row.err) {
			return row.reply.(*refusal), row.err
		}
	}
	return nil, nil
}

// reasonOf returns the reason of a refusal for the log.
func reasonOf(err error) string {
	var why *explained
	var e *refusal
	switch {
	case errors.As(err, &why):
		return why.reason
	case errors.As(err, &e):
		return cmp.Or(e.old, e.text)
	}
	if _, is := storeErrorOf(err); is != nil {
		return is.Error() // without the names and addresses around it
	}
	return err.Error()
}
