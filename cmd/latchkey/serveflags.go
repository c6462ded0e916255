package main

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// This file has the flags of serve: their names, their completion, the check of all flags together,
// and the types of their values.

// addFlags adds the flags of serve to cmd.
func (s *server) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()

	// The store and the seed.
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "keep everything in memory, and lose it when serve ends")
	flags.StringArrayVar(&s.opts.AppIDs, "app-id", nil, "an app `ID` that clients may use; can be repeated (default any)")
	flags.StringVar(&s.seedFile, "seed", "", "the `FILE` that lists what is in the store from the start")
	flags.StringVar(&s.tokenFile, "tokens", "", "the `FILE` that receives the IDs and tokens of the seed")
	flags.Var((*costFlag)(&s.cost), "cost", "the cost of hashing a key or password, as for key create (default light with --ephemeral, else default)")
	flags.Lookup("cost").DefValue = ""

	// Logins and sessions.
	flags.Var((*providersFlag)(&s.opts.Providers), "providers", "the providers that users can log in with, separated by commas; can be repeated (default all)")
	flags.Var(&s.confirmation, "confirm", "how e-mail addresses are confirmed: automatic, or manual with a token from the log")
	s.customToken.addFlags(flags)
	flags.Var((*lifeFlag)(&s.opts.AccessTokenLife), "access-token-life", "how long an access token is valid (default 30m)")
	flags.Var((*lifeFlag)(&s.opts.RefreshTokenLife), "refresh-token-life", "how long a session lasts at most (default 60d; 50 years for anonymous users)")
	flags.BoolVar(&s.opts.ResetEndsSessions, "reset-ends-sessions", false, "end all sessions of a user when the user's password is reset")
	flags.BoolVar(&s.endSessions, "end-sessions", false, "end all sessions of earlier runs, for example after the store's file was stolen")
	flags.BoolVar(&s.opts.AllowKeySessions, "allow-key-sessions", false, "let a session that was opened with a user key manage the user's keys")
	flags.BoolVar(&s.opts.InsecureKeySessions, "insecure-key-sessions", false, "for tests with --ephemeral: let a session that was opened with a user key link, delete the user, and outlive the key")
	flags.Float64Var(&s.opts.FailedLogins, "failed-logins", 1, "after the burst, let `N` logins per second fail by one provider from one address; -1 for no limit")
	flags.IntVar(&s.opts.FailedLoginBurst, "failed-login-burst", 1000, "let `N` logins fail by one provider from one address before --failed-logins limits them")
	flags.Var((*limitFlag)(&s.opts.WriteLimit), "write-limit", "let one address make N anonymous users an hour, and as many registrations, keys and logouts; -1 for no limit (default 1000; no limit with --ephemeral)")
	flags.Var((*limitFlag)(&s.opts.MailLimit), "mail-limit", "let N mails an hour go to one e-mail address; -1 for no limit (default 10; no limit with --ephemeral)")
	flags.Var((*ageFlag)(&s.opts.AnonymousLife), "anonymous-life", "the age at which anonymous users are deleted, or never (default 90d)")
	flags.Var((*ageFlag)(&s.opts.UnconfirmedLife), "unconfirmed-life", "the age at which registered addresses that nobody has confirmed are deleted, or never (default 7d)")

	// The network.
	flags.StringVar(&s.addr, "addr", "127.0.0.1:9090", "the `HOST:PORT` to listen on; port 0 is any free port")
	flags.StringVar(&s.opts.PublicURL, "public-url", "", "the `URL` that clients reach the server by (default the one that the request was sent to)")
	flags.BoolVar(&s.opts.TrustForwarded, "trust-forwarded", false, "believe X-Forwarded-Proto, -Host and -For; only for use behind a proxy that sets them")
	flags.StringArrayVar(&s.opts.AllowedOrigins, "allow-origin", nil, "an `ORIGIN` whose pages may send requests, such as https://app.example.com, or null; can be repeated (default any)")
	flags.BoolVar(&s.opts.AllowPrivateNetwork, "allow-private-network", false, "let public pages send requests to a private address, which Chromium asks for")

	// Administrators and monitoring.
	s.page.addFlags(flags)
	addNoSocketFlag(cmd, &s.noSocket)
	s.metrics.addFlags(flags)

	// Answers, tests and the log.
	flags.BoolVar(&s.opts.ExplainForbidden, "explain-forbidden", false, "say the reason in answers with status 403, which otherwise have no body")
	flags.BoolVar(&s.opts.OldTexts, "old-texts", false, "answer failed logins with the texts of before May 2024, for Kotlin SDKs up to 1.16")
	flags.BoolVar(&s.control, "control", false, "let programs on this machine make requests fail and move the clock")
	flags.Var(&s.logFormat, "log-format", "the format of the log: text or json")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "log only warnings, errors and the tokens of e-mails")
}

// completeFlags sets what a shell offers for the values of the flags.
func (s *server) completeFlags(cmd *cobra.Command) {
	for _, file := range []string{"seed", "tokens", "custom-token-key", "admin-cert", "admin-key"} {
		_ = cmd.RegisterFlagCompletionFunc(file, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	}
	for flag, values := range map[string][]string{
		"cost": {"default", "light"}, "custom-token-algorithm": tokenAlgorithms, "confirm": s.confirmation.choices, "log-format": s.logFormat.choices, "providers": providers,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// checkFlags returns an error if the flags contradict each other, or if one of them has a value
// that is out of bounds.
func (s *server) checkFlags(storeGiven bool) error {
	switch {
	case s.ephemeral && storeGiven:
		return usagef("--ephemeral and --store cannot be used together")
	case !s.ephemeral && s.store == "":
		return usagef("no store is named; give --store FILE, set LATCHKEY_STORE, or give --ephemeral")
	case s.metrics.on() && s.ephemeral && s.seedFile == "":
		return usagef("--metrics is about one store; give --store FILE, or --seed FILE too")
	case s.endSessions && s.ephemeral:
		return usagef("--end-sessions is for a store that had sessions before; give --store FILE")
	case s.opts.InsecureKeySessions && !s.ephemeral:
		return usagef("--insecure-key-sessions is for tests; give --ephemeral too")
	case s.tokenFile != "" && s.seedFile == "":
		return usagef("--tokens receives the tokens of a seed; give --seed FILE too")
	case s.seedFile != "" && len(s.opts.AppIDs) > 1:
		return usagef("a seed is for one app; give --app-id once")
	case s.opts.PublicURL != "" && !isBaseURL(s.opts.PublicURL):
		return usagef("--public-url must be a scheme and a host, such as https://keys.example.com")
	case s.opts.FailedLogins == 0 || math.IsNaN(s.opts.FailedLogins) || math.IsInf(s.opts.FailedLogins, 0):
		return usagef("--failed-logins must be a number above 0, or -1 for no limit")
	case s.opts.FailedLoginBurst < 1:
		return usagef("--failed-login-burst must be at least 1")
	}
	if err := s.page.check(); err != nil {
		return err
	}
	if err := s.customToken.check(s.opts.AppIDs); err != nil {
		return err
	}
	isOff := func(p latchkey.Provider) bool {
		return len(s.opts.Providers) > 0 && !slices.Contains(s.opts.Providers, p)
	}
	switch {
	case len(s.customToken.keyFiles) > 0 && isOff(latchkey.ProviderCustomToken):
		return usagef("custom tokens are off; add custom-token to --providers, or leave out --custom-token-key")
	case s.confirmation.value == "manual" && isOff(latchkey.ProviderLocalUserpass):
		return usagef("e-mail addresses are off; add local-userpass to --providers, or leave out --confirm manual")
	}
	for _, id := range s.opts.AppIDs {
		if len(id) > 64 || latchkey.CheckAppServicesName(id) != nil {
			return usagef("--app-id must be 1 to 64 letters, digits, '-' and '_'")
		}
	}
	for _, origin := range s.opts.AllowedOrigins {
		if !isOrigin(origin) {
			return usagef("--allow-origin must be a scheme and a host, such as https://app.example.com, or null")
		}
	}
	return nil
}

func isBaseURL(s string) bool {
	return isOrigin(s) && (strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://"))
}

// isOrigin reports whether s has the form of an origin that a browser sends. It accepts any scheme,
// because apps that bring their own pages use schemes of their own, as in capacitor://localhost.
// The origin of a page from a file is null.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return s == "null" || err == nil && u.Scheme != "" && u.Host != "" && s == u.Scheme+"://"+u.Host
}

// choiceFlag is the value of a flag that takes one word of a few.
type choiceFlag struct {
	value   string
	choices []string
}

func (c *choiceFlag) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("it must be one of %s", strings.Join(c.choices, ", "))
	}
	c.value = s
	return nil
}

func (c *choiceFlag) String() string { return c.value }
func (c *choiceFlag) Type() string   { return "WORD" }

// lifeFlag is the value of a flag that takes a token's life, in whole seconds or in days.
type lifeFlag time.Duration

func (l *lifeFlag) Set(s string) error {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // 179 years at most
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second || d%time.Second != 0 {
		return errors.New("it must be a duration of whole seconds or days, such as 30m or 60d")
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

// ageFlag is the value of a flag that takes an age, or never, which is a negative age.
type ageFlag time.Duration

func (a *ageFlag) Set(s string) error {
	if s == "never" {
		*a = -1
		return nil
	}
	var life lifeFlag
	if life.Set(s) != nil {
		return errors.New("it must be a duration of whole seconds or days, such as 90d, or never")
	}
	*a = ageFlag(life)
	return nil
}

func (a *ageFlag) String() string {
	if *a < 0 {
		return "never"
	}
	return (*lifeFlag)(a).String()
}

func (a *ageFlag) Type() string { return "AGE" }

// limitFlag is the value of a flag that takes a number above 0, or -1 for no limit.
type limitFlag int

func (l *limitFlag) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < -1 || n == 0 {
		return errors.New("it must be a number above 0, or -1 for no limit")
	}
	*l = limitFlag(n)
	return nil
}

func (l *limitFlag) String() string {
	if *l == 0 {
		return ""
	}
	return strconv.Itoa(int(*l))
}

func (l *limitFlag) Type() string { return "N" }

func (l *lifeFlag) Type() string { return "DURATION" }

// providers are the providers that --providers can name.
var providers = []string{
	string(latchkey.ProviderAnonymous), string(latchkey.ProviderLocalUserpass), string(latchkey.ProviderAPIKey), string(latchkey.ProviderCustomToken),
	string(latchkey.ProviderCustomFunction), string(latchkey.ProviderGoogle), string(latchkey.ProviderFacebook), string(latchkey.ProviderApple),
}

// providersFlag is the value of a flag that takes providers, separated by commas.
type providersFlag []latchkey.Provider

func (p *providersFlag) Set(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		if !slices.Contains(providers, name) {
			return fmt.Errorf("it must be some of %s, separated by commas", strings.Join(providers, ", "))
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
