package appservices

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Every error that a caller of this package can branch on, with [errors.Is], beside the store's own.
var (
	// ErrInvalidOptions: a field of [Options], or the key of a [JWTVerifier], is out of its range.
	ErrInvalidOptions = errors.New("invalid options")
	// ErrInvalidFault: a [Fault] does nothing, contradicts itself, or a field of it is out of its range.
	ErrInvalidFault = errors.New("invalid fault")
	// ErrInvalidSeed: a [Seed] cannot be read, contradicts itself, or has what the hosted service would have refused.
	ErrInvalidSeed = errors.New("invalid seed")
	// ErrNoApp: there is no app with that ID, because it is none of [Options].AppIDs, or has another form than an ID.
	ErrNoApp = errors.New("there is no such app")
)

// A refusal is a reply that is an error, in the service's words. Clients choose by status and code, and some by text.
type refusal struct {
	status int
	code   string // left out of the body if empty
	text   string
	old    string        // the text before May 2024, if that was another
	bare   bool          // without a body, unless ExplainForbidden is set
	after  time.Duration // when to come back, if it is known
}

func (e *refusal) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.text) }

// Requests that are no calls.
var (
	errNotFound    = &refusal{status: http.StatusNotFound, text: "not found"}
	errMethod      = &refusal{status: http.StatusMethodNotAllowed, text: "method not allowed"}
	errBody        = &refusal{status: http.StatusBadRequest, code: "BadRequest", text: "the body is not a JSON object"}
	errBodySize    = &refusal{status: http.StatusRequestEntityTooLarge, code: "BadRequest", text: "the body is too large"}
	errBodyLost    = &refusal{status: http.StatusBadRequest, code: "BadRequest", text: "the body could not be read"}
	errInternal    = &refusal{status: http.StatusInternalServerError, code: "InternalServerError", text: "internal server error"}
	errBusy        = &refusal{status: http.StatusServiceUnavailable, text: "too busy: try again in a moment", after: time.Second}
	errClosing     = &refusal{status: http.StatusServiceUnavailable, text: "the server is closing", after: time.Second}
	errTooManyApps = &refusal{status: http.StatusServiceUnavailable, text: "too many apps"}
)

func errNoApp(appID string) error {
	return &refusal{status: http.StatusNotFound, text: fmt.Sprintf("cannot find app using Client App ID '%s'", appID)}
}

func errNoFunction(name string) error {
	return &refusal{status: http.StatusNotFound, code: "FunctionNotFound", text: fmt.Sprintf("function not found: '%s'", name)}
}

func errMissing(field string) error {
	return &refusal{status: http.StatusBadRequest, code: "MissingParameter", text: fmt.Sprintf("'%s' is a required string", field)}
}

// Logins that fail.
var (
	errPassword         = unauthorized("InvalidPassword", "invalid username/password")
	errUnconfirmed      = unauthorized("AuthError", "confirmation required")
	errAPIKey           = unauthorized("AuthError", "invalid API key")
	errUserDisabled     = unauthorized("UserDisabled", "")
	errIdentity         = unauthorized("AuthError", "the provider gave no valid ID")
	errProviderUnknown  = &refusal{status: http.StatusNotFound, code: "AuthProviderNotFound", text: "auth provider not found"}
	errTooManyFailures  = &refusal{status: http.StatusTooManyRequests, text: "too many failed logins from this address", after: time.Second}
	errLinkRequest      = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "invalid user link request"}
	errLinkOfAnonymous  = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "linking an anonymous identity is not allowed"}
	errLinkTaken        = unauthorized("InvalidSession", "a user already exists with the specified provider")
	errTooManyLinks     = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "user has too many identities"}
	errAnotherAppsToken = &refusal{status: http.StatusUnauthorized, code: "UserAppDomainMismatch", text: "the token is another app's"}
	// errLinkSecondEmail has the status that the hosted service answered, a defect that a suite records.
	errLinkSecondEmail = &refusal{
		status: http.StatusInternalServerError, code: "InternalServerError", text: "unauthorized",
		old: "linking a local-userpass identity is not allowed when one is already linked",
	}
)

func unauthorized(code, old string) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: code, text: "unauthorized", old: old}
}

func errProviderOff(p latchkey.Provider) *refusal {
	return unauthorized("AuthError", fmt.Sprintf("authentication via '%s' is unsupported", p))
}

func errToken(reason error) error {
	return unauthorized("InvalidSession", fmt.Sprintf("invalid custom auth token: %v", reason))
}

func errOAuth(p latchkey.Provider) error {
	return unauthorized("InvalidSession", fmt.Sprintf("authentication via '%s' failed", p))
}

// errFunction tells what the function said: suites of SDKs look for its text, and others for the word before it.
func errFunction(reason error) error {
	return &refusal{status: http.StatusUnauthorized, code: "AuthError", text: fmt.Sprintf("unauthorized: %v", reason)}
}

// linkFailure is err for realm-web, which refreshes its token and links again, for ever, when a link is answered with the
// code InvalidSession or just the text "unauthorized".
func linkFailure(err error) error {
	e, _ := refusalOf(err)
	if e.status != http.StatusUnauthorized {
		return err
	}
	why := e.old
	if why == "" {
		why = "these credentials cannot be linked"
	}
	return &refusal{status: e.status, code: "AuthError", text: "unauthorized: " + why}
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
	errResetByFunc    = badRequest("please use reset password via function")
)

func badRequest(text string) error {
	return &refusal{status: http.StatusBadRequest, code: "BadRequest", text: text}
}

func errNotConfirmed(email string) error {
	return badRequest(fmt.Sprintf("failed to confirm user %q", email))
}

func errNoConfirmation(email, why string) error {
	return &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("cannot run confirmation for %s: %s", email, why)}
}

func errNotReset(email string) error {
	return &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("failed to reset password for user %q", email)}
}

// Bearer tokens that are refused. Clients take a 401 to a refresh token for the end of the session.
var (
	errNoBearer         = &refusal{status: http.StatusUnauthorized, text: "must authenticate first"}
	errNoJWT            = &refusal{status: http.StatusUnauthorized, text: "expected Authorization header with JWT (Bearer schema)"}
	errAccessToken      = &refusal{status: http.StatusUnauthorized, text: "unauthorized"}
	errSignature        = &refusal{status: http.StatusUnauthorized, text: "signature is invalid"}
	errNotRefreshToken  = &refusal{status: http.StatusUnauthorized, text: "invalid refresh token: incorrect token type"}
	errInvalidSession   = invalidSession("invalid session")
	errAccessExpired    = invalidSession("invalid session: access token expired")
	errRefreshExpired   = invalidSession("invalid session: refresh token expired")
	errSessionEnded     = invalidSession("invalid session: failed to find refresh token")
	errUserGone         = invalidSession("invalid session: error finding user for endpoint")
	errServerUser       = &refusal{status: http.StatusForbidden, text: "a server key's user cannot be deleted", bare: true}
	errMayNotManageKeys = &refusal{status: http.StatusForbidden, text: "this session may not manage API keys", bare: true}
)

func invalidSession(text string) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: "InvalidSession", text: text}
}

// Keys.
var (
	errKeyNotFound   = &refusal{status: http.StatusNotFound, code: "APIKeyNotFound", text: "API key not found"}
	errKeyName       = &refusal{status: http.StatusBadRequest, code: "InvalidParameter", text: "can only contain ASCII letters, numbers, underscores, and hyphens"}
	errKeyNameAbsent = &refusal{status: http.StatusBadRequest, text: "'name' is a required string"}
	errKeyNameTaken  = &refusal{status: http.StatusConflict, code: "APIKeyAlreadyExists", text: "API key with name already exists"}
)

func errKeyLimit(limit int) error {
	return badRequest(fmt.Sprintf("user has reached the limit of %d API keys", limit))
}

// storeErrors says what the store's errors mean to a client, where a call has not said anything else.
var storeErrors = []struct{ err, reply error }{
	{latchkey.ErrKeyNotFound, errKeyNotFound},
	{latchkey.ErrInvalidName, errKeyName},
	{latchkey.ErrKeyNameTaken, errKeyNameTaken},
	{latchkey.ErrAnonymousUser, errMayNotManageKeys},
	{latchkey.ErrUserNotFound, errUserGone},
	{latchkey.ErrInvalidToken, errAPIKey},
	{latchkey.ErrKeyDisabled, errAPIKey},
	{latchkey.ErrKeyExpired, errAPIKey},
	{latchkey.ErrUserDisabled, errUserDisabled},
	{latchkey.ErrIdentityTaken, errLinkTaken},
	{latchkey.ErrInvalidIdentity, errIdentity},
	{latchkey.ErrTooManyIdentities, errTooManyLinks},
	{latchkey.ErrBusy, errBusy},
	{latchkey.ErrClosed, errClosing},
	{context.DeadlineExceeded, errBusy},
	{context.Canceled, errClosing}, // the client has left, and will not read it
}

// refusalOf is the one way from an error to what a client is told. What it does not know, it does not tell.
func refusalOf(err error) (e *refusal, known bool) {
	if errors.As(err, &e) {
		return e, true
	}
	for _, row := range storeErrors {
		if errors.Is(err, row.err) {
			return row.reply.(*refusal), true
		}
	}
	return errInternal, false
}
