package appservices

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/latchkeydb/latchkey"
)

// Options changes how a [Handler] answers. A nil *Options, or one with only zero fields, answers as the hosted service
// did, with automatic confirmation of e-mail addresses. New copies it. Several goroutines call its functions at once; the
// request of one that panics, or of a UserData or OpenApp that fails, gets status 500.
type Options struct {
	// AppIDs are the only app IDs that are known. The default is that any ID of 1 to 64 ASCII letters, digits, '-' and
	// '_' is one.
	AppIDs []string

	// OpenApp gives an app that is met for the first time a store of its own, which must last as long as the handler and is
	// OpenApp's to close. At most 100 apps are opened, and other IDs get status 503. ctx does not end with the request, and
	// all other requests wait for OpenApp. The default is that every app ID is a name of the one app in the handler's store.
	OpenApp func(ctx context.Context, appID string) (*latchkey.Store, error)

	// PublicURL is the scheme and authority by which clients reach the handler, such as "https://keys.example.com". Clients
	// send all requests after the first there. The default is what the request itself was sent to.
	PublicURL string

	// TrustForwarded believes the last word of X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For. Set it only behind a
	// proxy that sets these.
	TrustForwarded bool

	// AccessTokenLife is how long access tokens are good, in whole seconds. The default is 30 minutes, as the hosted
	// service had it.
	AccessTokenLife time.Duration

	// RefreshTokenLife is how long a session can last, in whole seconds. The default is 60 days, and 50 years for an
	// anonymous user's, as the hosted service had it.
	RefreshTokenLife time.Duration

	// OldTexts answers failed logins with the texts that the hosted service had before May 2024. Kotlin SDKs up to 1.16
	// choose exceptions by them.
	OldTexts bool

	// AllowKeySessions lets sessions that were opened with a user key manage the user's keys.
	AllowKeySessions bool

	// ExplainForbidden gives a body to the refusals with status 403, which the hosted service sent without one.
	ExplainForbidden bool

	// Providers are the providers by which users can log in. The default is all.
	Providers []latchkey.Provider

	// ManualConfirmation keeps who registers with an e-mail address from logging in until the address is confirmed with the
	// token that Mail is given, or by ConfirmFunction.
	ManualConfirmation bool

	// Mail is called with what an e-mail would carry, and the client waits for it to return. The default is that nobody is
	// told.
	Mail func(ctx context.Context, m Mail)

	// ConfirmFunction decides, with ManualConfirmation, whether a new e-mail address is confirmed. An error is a refusal,
	// and its text is not told.
	ConfirmFunction func(ctx context.Context, c Confirmation) (Outcome, error)

	// ResetFunction decides whether a password is reset to what the client asks for. With it there is no reset by mail,
	// except when it answers Pending. An error is a refusal, and its text is not told.
	ResetFunction func(ctx context.Context, r Reset) (Outcome, error)

	// CustomFunction authenticates for the provider custom-function. payload is what the client sent, with the wrappings of
	// Extended JSON taken off. id says who the user is, in 1 to 256 bytes of UTF-8 without control characters; data goes
	// into the profile, and has at most 32 KiB as JSON. An error is a refusal, and its text is told to the client. The
	// default is that the provider is not enabled.
	CustomFunction func(ctx context.Context, appID string, payload map[string]any) (id string, data map[string]any, err error)

	// CustomToken authenticates for the provider custom-token, and returns what CustomFunction does: the method Verify of a
	// [JWTVerifier] is one. The text of an error can be told to the client. The default refuses.
	CustomToken func(ctx context.Context, appID, token string) (id string, data map[string]any, err error)

	// OAuth authenticates for the providers oauth2-google, oauth2-facebook and oauth2-apple. credentials has what the client
	// sent: authCode or id_token for Google, accessToken for Facebook, id_token for Apple. It returns what CustomFunction
	// does; the text of an error is not told. The default refuses.
	OAuth func(ctx context.Context, appID string, provider latchkey.Provider, credentials map[string]string) (id string, data map[string]any, err error)

	// UserData is the custom user data of access tokens. It is asked at each login and each refresh; nil data is none.
	UserData func(ctx context.Context, user latchkey.User) (map[string]any, error)

	// AllowedOrigins are the origins whose pages in browsers may call, such as "https://app.example.com". The default is
	// all, as in the hosted service.
	AllowedOrigins []string

	// AllowPrivateNetwork lets public pages call the handler at a private address (Chromium asks for that).
	AllowPrivateNetwork bool

	// MaxBody bounds a request's body in bytes. The default is 64 KiB.
	MaxBody int64

	// FailedLogins is how many logins a second may fail from one address, an IPv6 network of 64 bits counting as one, when
	// the first FailedLoginBurst have failed. Above that they get status 429, and passwords are not looked at. A login
	// that is under way counts among them until it has not failed. The default is 1; negative is no limit.
	FailedLogins float64

	// FailedLoginBurst is how many logins may fail from one address before FailedLogins matters. The default is 1,000.
	FailedLoginBurst int

	// Logger takes a line for each request, without any token, password or query. The default is none.
	Logger *slog.Logger

	// Now is the clock. The store has one of its own, which should be the same. Several goroutines call it at once. The
	// default is [time.Now].
	Now func() time.Time

	// InsecureRand is where session IDs, device IDs, tokens for mails and the key that signs sessions come from, for tests that
	// want the same ones in every run. Whoever knows what it gives can make every session, so never set it in earnest. It
	// is read by one goroutine at a time. The default is [crypto/rand.Reader].
	InsecureRand io.Reader
}

// Mail is what an e-mail to a user would carry.
type Mail struct {
	AppID string
	Email string
	Kind  MailKind
	// Token and TokenID are what the client passes to the SDK's confirmUser or resetPassword. They are good for 30 minutes,
	// once.
	Token   string
	TokenID string
}

// A MailKind says what a mail is for.
type MailKind string

// The kinds of mail.
const (
	MailConfirm MailKind = "confirm" // confirms the address
	MailReset   MailKind = "reset"   // lets the password be set anew
)

// An Outcome is a function's decision about an account.
type Outcome int

// The outcomes.
const (
	Refused  Outcome = iota // the client is told so
	Pending                 // decided later, by Token and TokenID
	Accepted                // done
)

// Confirmation is what ConfirmFunction decides about. Token and TokenID confirm the address later if it answers Pending.
type Confirmation struct {
	AppID, Email, Token, TokenID string
}

// Reset is what ResetFunction decides about. Token and TokenID reset the password later if it answers Pending.
type Reset struct {
	AppID, Email, Password, Token, TokenID string
	// Arguments are what the client sent besides, with the wrappings of Extended JSON taken off.
	Arguments []any
}

// accessLife is the hosted service's 30 minutes by default.
func (o *Options) accessLife() time.Duration {
	if o.AccessTokenLife == 0 {
		return 30 * time.Minute
	}
	return o.AccessTokenLife
}

// refreshLife is the hosted service's 60 days by default, and 50 years for anonymous users, who cannot log in again.
func (o *Options) refreshLife(p latchkey.Provider) time.Duration {
	switch {
	case o.RefreshTokenLife != 0:
		return o.RefreshTokenLife
	case p == latchkey.ProviderAnonymous:
		return 50 * 365 * 24 * time.Hour
	}
	return 60 * 24 * time.Hour
}

// maxBody is 64 KiB by default: the largest body that an SDK sends by itself is below 2 KiB, custom functions' payloads
// are the caller's.
func (o *Options) maxBody() int64 {
	if o.MaxBody == 0 {
		return 64 << 10
	}
	return o.MaxBody
}

// failedLogins is one a second by default: who guesses passwords from one address gets 86,400 a day.
func (o *Options) failedLogins() rate.Limit {
	switch {
	case o.FailedLogins == 0:
		return 1
	case o.FailedLogins < 0:
		return rate.Inf
	}
	return rate.Limit(o.FailedLogins)
}

// failedLoginBurst is 1,000 by default, so that no suite of tests meets the limit unless it wants to.
func (o *Options) failedLoginBurst() int {
	if o.FailedLoginBurst == 0 {
		return 1000
	}
	return o.FailedLoginBurst
}

func (o *Options) now() func() time.Time {
	if o.Now == nil {
		return time.Now
	}
	return o.Now
}

func (o *Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

func (o *Options) validate() error {
	for _, life := range []time.Duration{o.accessLife(), o.refreshLife(latchkey.ProviderLocalUserpass)} {
		if life < time.Second || life%time.Second != 0 {
			return fmt.Errorf("%w: a token's life of %v is not whole seconds", ErrInvalidOptions, life)
		}
	}
	for _, id := range o.AppIDs {
		if !validAppID(id) {
			return fmt.Errorf("%w: %.100q can be no app ID", ErrInvalidOptions, id)
		}
	}
	for _, p := range o.Providers {
		if !slices.Contains(providers, p) {
			return fmt.Errorf("%w: there is no provider %q", ErrInvalidOptions, p)
		}
	}
	switch u, err := url.Parse(o.PublicURL); {
	case err != nil, o.PublicURL != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		strings.TrimRight(o.PublicURL, "/") != u.Scheme+"://"+u.Host):
		return fmt.Errorf("%w: PublicURL %q is not http or https, and an authority", ErrInvalidOptions, o.PublicURL)
	case o.maxBody() < 0:
		return fmt.Errorf("%w: MaxBody is negative", ErrInvalidOptions)
	case o.failedLoginBurst() < 0 || math.IsNaN(o.FailedLogins):
		return fmt.Errorf("%w: FailedLoginBurst is negative, or FailedLogins no number", ErrInvalidOptions)
	}
	return nil
}
