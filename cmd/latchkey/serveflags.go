package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// The flags of serve: their names, their completion, what they say together, and what each takes.

// addFlags gives cmd, which is serve, its flags.
func (s *server) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()

	// The store, and what is in it from the start.
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "keep everything in memory, which is gone when serve ends")
	flags.StringArrayVar(&s.opts.AppIDs, "app-id", nil, "an app `ID` to know; may be repeated (default any)")
	flags.StringVar(&s.seedFile, "seed", "", "the `FILE` of what is there from the start")
	flags.StringVar(&s.tokenFile, "tokens", "", "the `FILE` to write the seed's IDs and tokens to")
	flags.Var((*costFlag)(&s.cost), "cost", "what a hash of a key or password costs (default light with --ephemeral, else default)")
	flags.Lookup("cost").DefValue = ""

	// Logins and sessions.
	flags.Var((*providersFlag)(&s.opts.Providers), "providers", "the providers by which users can log in, with commas between them (default all)")
	flags.Var(&s.confirmation, "confirm", "how e-mail addresses are confirmed: automatic, or manual with a token from the log")
	flags.StringVar(&s.customTokenKey, "custom-token-key", "", "the `FILE` of the key that custom tokens are signed with: an RSA public key in PEM, or a secret for HS256")
	flags.StringVar(&s.customToken.Audience, "custom-token-audience", "", "the `TEXT` that \"aud\" of a custom token must have (default the app ID)")
	flags.StringToStringVar(&s.customToken.Fields, "custom-token-field", nil, "a field of the profile, and the claim of custom tokens that it is taken from, as `NAME=CLAIM`; may be repeated")
	flags.Lookup("custom-token-field").DefValue = ""
	flags.Var((*lifeFlag)(&s.opts.AccessTokenLife), "access-token-life", "how long an access token is good (default 30m)")
	flags.Var((*lifeFlag)(&s.opts.RefreshTokenLife), "refresh-token-life", "how long a session can last (default 60d; 50 years for anonymous users)")
	flags.BoolVar(&s.opts.AllowKeySessions, "allow-key-sessions", false, "let sessions that were opened with a user key manage the user's keys")
	flags.Float64Var(&s.opts.FailedLogins, "failed-logins", 1, "`N` logins a second may fail from one address after --failed-login-burst have; -1 is no limit")
	flags.IntVar(&s.opts.FailedLoginBurst, "failed-login-burst", 1000, "`N` logins may fail from one address before --failed-logins matters")

	// The network.
	flags.StringVar(&s.addr, "addr", "127.0.0.1:9090", "the `HOST:PORT` to listen on; port 0 is any that is free")
	flags.StringVar(&s.opts.PublicURL, "public-url", "", "the `URL` by which clients reach the server (default what they sent the request to)")
	flags.BoolVar(&s.opts.TrustForwarded, "trust-forwarded", false, "believe X-Forwarded-Proto, -Host and -For; only behind a proxy that sets them")
	flags.StringArrayVar(&s.opts.AllowedOrigins, "allow-origin", nil, "an `ORIGIN` whose pages may call, such as https://app.example.com, or null; may be repeated (default any)")
	flags.BoolVar(&s.opts.AllowPrivateNetwork, "allow-private-network", false, "let public pages call a private address, which Chromium asks for")

	// Answers, tests and the log.
	flags.BoolVar(&s.opts.ExplainForbidden, "explain-forbidden", false, "say why in refusals with status 403, which have no body otherwise")
	flags.BoolVar(&s.opts.OldTexts, "old-texts", false, "answer failed logins as before May 2024, for Kotlin SDKs up to 1.16")
	flags.BoolVar(&s.control, "control", false, "let programs on this machine make requests fail and move the clock")
	flags.Var(&s.logFormat, "log-format", "the format of the log: text or json")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "log warnings, errors and mails only")
}

// completeFlags says what a shell offers for the values of the flags.
func (s *server) completeFlags(cmd *cobra.Command) {
	for _, file := range []string{"seed", "tokens", "custom-token-key"} {
		_ = cmd.RegisterFlagCompletionFunc(file, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	}
	for flag, values := range map[string][]string{
		"cost": {"default", "light"}, "confirm": s.confirmation.choices, "log-format": s.logFormat.choices, "providers": providers,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// checkFlags is about what flags say together.
func (s *server) checkFlags(storeGiven bool) error {
	switch {
	case s.ephemeral && storeGiven:
		return usagef("--ephemeral and --store exclude each other")
	case !s.ephemeral && s.store == "":
		return usagef("no store is named: give --store FILE, set LATCHKEY_STORE, or give --ephemeral")
	case s.tokenFile != "" && s.seedFile == "":
		return usagef("--tokens receives what --seed makes: give that too")
	case s.seedFile != "" && len(s.opts.AppIDs) > 1:
		return usagef("a seed is for one app: give --app-id once")
	case s.opts.PublicURL != "" && !isBaseURL(s.opts.PublicURL):
		return usagef("--public-url is a scheme and a host, such as https://keys.example.com")
	case s.customTokenKey == "" && (s.customToken.Audience != "" || len(s.customToken.Fields) > 0):
		return usagef("custom tokens are refused without a key: give --custom-token-key FILE")
	case s.opts.FailedLogins == 0 || math.IsNaN(s.opts.FailedLogins) || math.IsInf(s.opts.FailedLogins, 0):
		return usagef("--failed-logins is a number above 0, or -1 for no limit")
	case s.opts.FailedLoginBurst < 1:
		return usagef("--failed-login-burst is at least 1")
	}
	for _, id := range s.opts.AppIDs {
		if len(id) > 64 || latchkey.CheckAppServicesName(id) != nil {
			return usagef("--app-id is 1 to 64 letters, digits, '-' and '_'")
		}
	}
	for _, origin := range s.opts.AllowedOrigins {
		if !isOrigin(origin) {
			return usagef("--allow-origin is a scheme and a host, such as https://app.example.com, or null")
		}
	}
	return nil
}

func isBaseURL(s string) bool {
	return isOrigin(s) && (strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://"))
}

// isOrigin reports whether s is what browsers send for an origin. Apps that bring their own pages have schemes of their own,
// such as capacitor://localhost, and pages from files have null.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return s == "null" || err == nil && u.Scheme != "" && u.Host != "" && s == u.Scheme+"://"+u.Host
}

// choiceFlag is a flag's value: one of a few.
type choiceFlag struct {
	value   string
	choices []string
}

func (c *choiceFlag) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("it is one of %s", strings.Join(c.choices, ", "))
	}
	c.value = s
	return nil
}

func (c *choiceFlag) String() string { return c.value }
func (c *choiceFlag) Type() string   { return "WORD" }

// lifeFlag is a flag's value: how long a token is good, in whole seconds, or in days.
type lifeFlag time.Duration

func (l *lifeFlag) Set(s string) error {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // 179 years at most
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second || d%time.Second != 0 {
		return errors.New("it is a duration of whole seconds or days, such as 30m or 60d")
	}
	*l = lifeFlag(d)
	return nil
}

func (l *lifeFlag) String() string {
	if *l == 0 {
		return ""
	}
	return time.Duration(*l).String()
}

func (l *lifeFlag) Type() string { return "DURATION" }

// providers are those that --providers chooses from.
var providers = []string{
	string(latchkey.ProviderAnonymous), string(latchkey.ProviderLocalUserpass), string(latchkey.ProviderAPIKey), string(latchkey.ProviderCustomToken),
	string(latchkey.ProviderCustomFunction), string(latchkey.ProviderGoogle), string(latchkey.ProviderFacebook), string(latchkey.ProviderApple),
}

// providersFlag is a flag's value: providers, with commas between them.
type providersFlag []latchkey.Provider

func (p *providersFlag) Set(s string) error {
	*p = nil
	for name := range strings.SplitSeq(s, ",") {
		if !slices.Contains(providers, name) {
			return fmt.Errorf("it is some of %s, with commas between them", strings.Join(providers, ", "))
		}
		*p = append(*p, latchkey.Provider(name))
	}
	return nil
}

func (p *providersFlag) String() string {
	names := make([]string, len(*p))
	for i, name := range *p {
		names[i] = string(name)
	}
	return strings.Join(names, ",")
}

func (p *providersFlag) Type() string { return "LIST" }

func (s *server) readTokenKey() error {
	if s.customTokenKey == "" {
		return nil
	}
	data, err := os.ReadFile(s.customTokenKey)
	if err != nil {
		return explainMissing(err, s.customTokenKey)
	}
	if s.customToken.Key, err = parseTokenKey(data); err != nil {
		return usagef("%s: %w", s.customTokenKey, err)
	}
	s.opts.CustomToken = s.customToken.Verify
	return nil
}

// minSecret is the least that RFC 7518, section 3.2, allows for HS256, in bytes.
const minSecret = 32

// parseTokenKey reads what --custom-token-key names: a public key, or else a secret. What looks like PEM is never a secret:
// with a public key for one, everybody could sign.
func parseTokenKey(data []byte) (any, error) {
	if bytes.Contains(data, []byte("-----BEGIN")) {
		key, err := jwt.ParseRSAPublicKeyFromPEM(data)
		if err != nil {
			return nil, fmt.Errorf("it is in PEM, and no RSA public key: %w", err)
		}
		return key, nil
	}
	secret := bytes.TrimRight(data, "\r\n")
	if len(secret) < minSecret {
		return nil, fmt.Errorf("a secret for HS256 has at least %d bytes, and the public key for RS256 is in PEM", minSecret)
	}
	return secret, nil
}
