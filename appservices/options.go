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

// Options changes how a [Handler] answers. A nil *Options and the zero value answer as the hosted
// service did, and confirm e-mail addresses automatically. New copies the options.
//
// Several goroutines call the functions at once. If a function panics, or if UserData or OpenApp
// returns an error, the request gets status 500.
type Options struct {
	// AppIDs are the known app IDs. By default, every ID of 1 to 64 ASCII letters, digits, '-' and
	// '_' is known.
	AppIDs []string

	// OpenApp gives each app a store of its own. It is called when an app ID is used for the first
	// time. The store must stay open as long as the handler is used, and the caller closes it. At
	// most 100 apps are opened, and requests for further app IDs get status 503. ctx does not end
	// with the request. All other requests wait until OpenApp returns. By default, all app IDs are
	// names of one app, in the handler's store.
	OpenApp func(ctx context.Context, appID string) (*latchkey.Store, error)

	// PublicURL is the scheme and the authority by which clients reach the handler, such as
	// "https://keys.example.com". Clients send all requests but the first to this address. By
	// default, it is the address that the request was sent to.
	PublicURL string

	// TrustForwarded makes the handler use the last values of X-Forwarded-Proto, X-Forwarded-Host
	// and X-Forwarded-For. The last value of X-Forwarded-For is an address, with or without a port.
	// Set TrustForwarded only behind a proxy that sets these headers. Without it, all clients of a
	// proxy count as one address.
	TrustForwarded bool

	// AccessTokenLife is how long an access token is good, in whole seconds. The default is 30
	// minutes, as in the hosted service.
	AccessTokenLife time.Duration

	// RefreshTokenLife is how long a session lasts, in whole seconds. The default is that of the
	// hosted service: 60 days, and 50 years for an anonymous user.
	RefreshTokenLife time.Duration

	// OldTexts answers failed logins with the texts that the hosted service had before May 2024.
	// Kotlin SDKs up to 1.16 choose their exceptions by these texts.
	OldTexts bool

	// AllowKeySessions lets a session that was opened with a user key manage the user's keys. Then
	// a thief of one key can make others.
	AllowKeySessions bool

	// InsecureKeySessions makes a session that was opened with a user key what it was in the hosted
	// service. It lets the session link identities to the user and delete the user, and the session
	// goes on after the key was disabled or deleted, or has expired. So a thief of a key can keep
	// the user for good. Set it only in tests of programs that rely on this.
	InsecureKeySessions bool

	// ExplainForbidden adds a body to replies with status 403. The hosted service sent none.
	ExplainForbidden bool

	// Providers are the providers that users can log in with. All calls of other providers are
	// refused and change nothing: without local-userpass, for example, nobody can register. Without
	// api-key, keys can be neither made nor enabled. The default is all providers.
	Providers []latchkey.Provider

	// ManualConfirmation requires that an e-mail address is confirmed before a user can log in with
	// it. The token that Mail receives confirms the address, or ConfirmFunction does.
	ManualConfirmation bool

	// Mail receives the contents of each e-mail. The client's request waits until Mail returns. By
	// default, the contents are dropped.
	Mail func(ctx context.Context, m Mail)

	// ConfirmFunction decides whether a new e-mail address is confirmed, if ManualConfirmation is
	// set. An error refuses the address. The client does not learn the error's text.
	ConfirmFunction func(ctx context.Context, c Confirmation) (Outcome, error)

	// ResetFunction decides whether a user gets the new password that the client asks for. With a
	// ResetFunction, passwords are reset by mail only if it returns Pending. An error refuses the
	// request. The client does not learn the error's text.
	ResetFunction func(ctx context.Context, r Reset) (Outcome, error)

	// ResetEndsSessions ends all sessions of a user when the user's password is reset, so that
	// somebody who had the password before is logged out. The user's keys go on. In the hosted
	// service sessions went on.
	ResetEndsSessions bool

	// CustomFunction authenticates users for the provider custom-function. payload is the document
	// that the client sent, without the wrappings of Extended JSON. id identifies the user. The
	// rules for it are those of [latchkey.CheckIdentity]. data goes into the profile, and has at
	// most 32 KiB as JSON. An error refuses the login, and the client learns its text. By default,
	// the provider is off.
	CustomFunction func(ctx context.Context, appID string, payload map[string]any) (id string, data map[string]any, err error)

	// CustomToken authenticates users for the provider custom-token. The method Verify of a
	// [JWTVerifier] is such a function. The results are as for CustomFunction, but the client
	// learns an error's text only with OldTexts, or when it links. By default, all tokens are
	// refused.
	CustomToken func(ctx context.Context, appID, token string) (id string, data map[string]any, err error)

	// OAuth authenticates users for the providers oauth2-google, oauth2-facebook and oauth2-apple.
	// credentials has the field that the client sent: authCode or id_token for Google, accessToken
	// for Facebook, id_token for Apple. The results are as for CustomFunction, but the client does
	// not learn an error's text. By default, all logins are refused.
	OAuth func(ctx context.Context, appID string, provider latchkey.Provider, credentials map[string]string) (id string, data map[string]any, err error)

	// UserData returns the custom user data for an access token. It is called at each login and
	// each refresh. If it returns no data, the token has none.
	UserData func(ctx context.Context, user latchkey.User) (map[string]any, error)

	// AllowedOrigins are the origins whose pages may call the handler from a browser, such as
	// "https://app.example.com". By default, all origins may, as in the hosted service.
	AllowedOrigins []string

	// AllowPrivateNetwork lets public pages call the handler at a private address. Chromium asks
	// whether they may.
	AllowPrivateNetwork bool

	// MaxBody is the largest body of a request in bytes. The default is 64 KiB.
	MaxBody int64

	// FailedLogins is how many logins a second may fail by one provider and from one address after
	// FailedLoginBurst logins have failed. An IPv6 network of 64 bits counts as one address.
	// Further logins get status 429, and their credentials are not checked. A login in progress
	// counts as failed until it succeeds. Logins with keys do not count, because nobody can guess a
	// key. The default is 1. If FailedLogins is negative, there is no limit.
	FailedLogins float64

	// FailedLoginBurst is how many logins may fail by one provider and from one address before
	// FailedLogins applies. The default is 1,000.
	FailedLoginBurst int

	// WriteLimit is how many of each of these things one remote address can do in an hour: make
	// anonymous users, register e-mail addresses, create keys, and log out. It bounds what
	// strangers can make the store write. Further calls get status 429. The default is 1,000. If
	// WriteLimit is negative, there is no limit.
	WriteLimit int

	// MailLimit is how many mails can go to one e-mail address in an hour, whoever asks for them. A
	// call of ConfirmFunction or ResetFunction counts as a mail. Further requests get status 429.
	// The default is 10. If MailLimit is negative, there is no limit.
	MailLimit int

	// AnonymousLife is the age at which an anonymous user is deleted who has linked no other
	// identity, as the hosted service did. UnconfirmedLife is that of a registered e-mail address
	// that nobody has confirmed. They are deleted one by one when others are made. After the
	// store's clock has jumped by more than a day, and after a pause of more than a day, nothing is
	// deleted for a day. The defaults are 90 days and 7 days. If an age is negative, nothing is
	// deleted for it.
	AnonymousLife, UnconfirmedLife time.Duration

	// Logger receives a record of each request, without tokens, passwords and query. By default,
	// requests are not logged.
	Logger *slog.Logger

	// LogPages serves the page that a refusal's link leads to, with the request and the reason.
	// Only programs on the same machine can read the pages, and nobody can through a proxy. The
	// last 1,000 refused requests have a page.
	LogPages bool

	// Now is the handler's clock. Sessions and links in mails expire by it, because the SDKs
	// compare the times in a session with the clock of their own machine. So a session lasts longer
	// if this clock is set back. Keys expire by the store's time, which never runs backwards, and a
	// key that has expired ends its sessions. Both clocks should show the same time. Several
	// goroutines call Now at once. The default is [time.Now].
	Now func() time.Time

	// InsecureRand is the source of session IDs, device IDs, tokens in mails, and the key that
	// signs sessions. It is for tests that need the same values in every run. Never set it outside
	// tests, because its output is enough to make any session. One goroutine at a time reads it.
	// The default is [crypto/rand.Reader].
	InsecureRand io.Reader
}

// Mail has the contents of an e-mail to a user.
type Mail struct {
	AppID string
	Email string
	Kind  MailKind
	// The client passes Token and TokenID to the SDK's confirmUser or resetPassword. They are good
	// once, for 30 minutes.
	Token   string `json:"-"`
	TokenID string `json:"-"`
}

// A MailKind is the purpose of a mail.
type MailKind string

// The kinds of mail.
const (
	MailConfirm MailKind = "confirm" // confirms the address
	MailReset   MailKind = "reset"   // lets the user set a new password
)

// An Outcome is the decision of a ConfirmFunction or a ResetFunction.
type Outcome int

// The outcomes.
const (
	Refused  Outcome = iota // the client gets a refusal
	Pending                 // Token and TokenID complete the request later
	Accepted                // the address is confirmed, or the password is set
)

// A Confirmation is the input of ConfirmFunction. If ConfirmFunction returns Pending, Token and
// TokenID confirm the address later.
type Confirmation struct {
	AppID, Email string
	Token        string `json:"-"`
	TokenID      string `json:"-"`
}

// A Reset is the input of ResetFunction. If ResetFunction returns Pending, Token and TokenID reset
// the password later.
type Reset struct {
	AppID, Email string
	Password     string `json:"-"`
	Token        string `json:"-"`
	TokenID      string `json:"-"`
	// Arguments are the other arguments of the client, without the wrappings of Extended JSON.
	Arguments []any `json:"-"`
}

// accessLife is 30 minutes by default, as in the hosted service.
func (o *Options) accessLife() time.Duration {
	if o.AccessTokenLife == 0 {
		return 30 * time.Minute
	}
	return o.AccessTokenLife
}

// refreshLife is 60 days by default, as in the hosted service. Anonymous users cannot log in again,
// so their sessions last 50 years.
func (o *Options) refreshLife(p latchkey.Provider) time.Duration {
	switch {
	case o.RefreshTokenLife != 0:
		return o.RefreshTokenLife
	case p == latchkey.ProviderAnonymous:
		return 50 * 365 * 24 * time.Hour
	}
	return 60 * 24 * time.Hour
}

// maxBody is 64 KiB by default. The largest body that an SDK sends by itself has less than 2 KiB.
// Only payloads of custom functions can be larger.
func (o *Options) maxBody() int64 {
	if o.MaxBody == 0 {
		return 64 << 10
	}
	return o.MaxBody
}

// failedLogins is 1 a second by default, so that one address can try 86,400 passwords a day.
func (o *Options) failedLogins() rate.Limit {
	switch {
	case o.FailedLogins == 0:
		return 1
	case o.FailedLogins < 0:
		return rate.Inf
	}
	return rate.Limit(o.FailedLogins)
}

// failedLoginBurst is 1,000 by default, so that test suites do not reach the limit by accident.
func (o *Options) failedLoginBurst() int {
	if o.FailedLoginBurst == 0 {
		return 1000
	}
	return o.FailedLoginBurst
}

// writeLimit is 1,000 by default: more than an office needs, and some 13 MB of anonymous users a
// day.
func (o *Options) writeLimit() int {
	if o.WriteLimit == 0 {
		return 1000
	}
	return o.WriteLimit
}

// mailLimit is 10 by default, so that nobody can fill the mailbox of somebody else.
func (o *Options) mailLimit() int {
	if o.MailLimit == 0 {
		return 10
	}
	return o.MailLimit
}

// anonymousLife is 90 days by default, as in the hosted service.
func (o *Options) anonymousLife() time.Duration {
	if o.AnonymousLife == 0 {
		return 90 * 24 * time.Hour
	}
	return o.AnonymousLife
}

// unconfirmedLife is 7 days by default. Whoever confirms later has to register again.
func (o *Options) unconfirmedLife() time.Duration {
	if o.UnconfirmedLife == 0 {
		return 7 * 24 * time.Hour
	}
	return o.UnconfirmedLife
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
			return fmt.Errorf("%w: the life of a token is %v, and must be one or more whole seconds", ErrInvalidOptions, life)
		}
	}
	for _, id := range o.AppIDs {
		if !validAppID(id) {
			return fmt.Errorf("%w: AppIDs has %.100q, and an app ID is 1 to 64 ASCII letters, digits, '-' and '_'", ErrInvalidOptions, id)
		}
	}
	for _, p := range o.Providers {
		if !slices.Contains(providers, p) {
			return fmt.Errorf("%w: Providers has %q, which is not a provider", ErrInvalidOptions, p)
		}
	}
	switch u, err := url.Parse(o.PublicURL); {
	case err != nil, o.PublicURL != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		strings.TrimRight(o.PublicURL, "/") != u.Scheme+"://"+u.Host):
		return fmt.Errorf("%w: PublicURL is %q, and must be http or https and an authority, such as https://keys.example.com", ErrInvalidOptions, o.PublicURL)
	case o.ConfirmFunction != nil && !o.ManualConfirmation:
		return fmt.Errorf("%w: ConfirmFunction is never called without ManualConfirmation", ErrInvalidOptions)
	case o.WriteLimit < -1 || o.MailLimit < -1:
		return fmt.Errorf("%w: WriteLimit and MailLimit must be -1 for no limit, 0 for the default, or more", ErrInvalidOptions)
	case o.maxBody() < 0:
		return fmt.Errorf("%w: MaxBody must not be negative", ErrInvalidOptions)
	case o.failedLoginBurst() < 0 || math.IsNaN(o.FailedLogins):
		return fmt.Errorf("%w: FailedLoginBurst must not be negative, and FailedLogins must be a number", ErrInvalidOptions)
	}
	return nil
}
