package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkeydb/latchkey"
)

// What the flags of serve take.

// choiceFlag is a flag's value: one of a few.
type choiceFlag struct {
	value string
	of    []string
}

func (c *choiceFlag) Set(s string) error {
	if !slices.Contains(c.of, s) {
		return fmt.Errorf("it is one of %s", strings.Join(c.of, ", "))
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
