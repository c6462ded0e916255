package appservices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A JWTVerifier checks the JSON Web Tokens that another authority issues. Its method Verify fits
// [Options].CustomToken. A token must be signed by the authority, be meant for this service, not be
// expired, and name the user in "sub". A JWTVerifier is safe for concurrent use as long as nobody
// changes it.
type JWTVerifier struct {
	// Keys are the authority's keys, from 1 to 100: a []byte of at least 32 bytes for HS256, an
	// [*rsa.PublicKey] of at least 2,048 bits for RS256, an [*ecdsa.PublicKey] on the curve P-256
	// for ES256. [ParseJWTKeys] reads them from a file. A token must be signed with one of them. If
	// they belong to several authorities, each authority can log in every user.
	Keys []any `json:"-"`
	// Audiences are the values of "aud" that are this service. A token must have one of them. There
	// is no default, because a token that the authority has issued for another service must not log
	// in here.
	Audiences []string
	// Issuers are the values of "iss" that a token may have. The default is any, or none.
	Issuers []string
	// Fields maps each field of the user's profile to the claim that it is taken from. Dots lead
	// into objects, as in "user_data.name". A name, an e-mail address and the other fields that
	// clients read as text are taken only from a string.
	Fields map[string]string
	// Now is the clock. The default is [time.Now].
	Now func() time.Time `json:"-"`
}

// Check returns [ErrInvalidOptions] if Verify would refuse every token, because Keys or Audiences
// are missing or not valid. Call it at the start of a program.
func (v *JWTVerifier) Check() error {
	_, err := v.byAlgorithm()
	return err
}

// byAlgorithm returns the keys by the algorithm that each is for.
func (v *JWTVerifier) byAlgorithm() (map[string][]jwt.VerificationKey, error) {
	switch {
	case len(v.Keys) == 0 || len(v.Keys) > maxJWTKeys:
		return nil, fmt.Errorf("%w: JWTVerifier.Keys has %d keys, and must have 1 to %d", ErrInvalidOptions, len(v.Keys), maxJWTKeys)
	case len(v.Audiences) == 0 || slices.Contains(v.Audiences, ""):
		return nil, fmt.Errorf("%w: JWTVerifier.Audiences must have one or more values, and none that is empty", ErrInvalidOptions)
	}
	keys := make(map[string][]jwt.VerificationKey)
	for i, key := range v.Keys {
		alg, err := algorithmOf(key)
		if err != nil {
			return nil, fmt.Errorf("%w: JWTVerifier.Keys[%d]: %w", ErrInvalidOptions, i, err)
		}
		keys[alg] = append(keys[alg], key)
	}
	return keys, nil
}

// Verify returns the subject of a token, and the fields for the profile. It does not use the app
// ID, which the caller chooses.
//
// Errors: [ErrInvalidOptions] as Check returns it, and an error with the reason for a token that is
// refused.
func (v *JWTVerifier) Verify(_ context.Context, _, token string) (id string, data map[string]any, err error) {
	keys, err := v.byAlgorithm()
	if err != nil {
		return "", nil, err
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods([]string{algHS256, algRS256, algES256}),
		jwt.WithAudience(v.Audiences...), jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(), // so that each token has only one spelling
	}
	if v.Now != nil {
		opts = append(opts, jwt.WithTimeFunc(v.Now))
	}
	// Only keys for the token's own algorithm are tried, so that a public key is never a secret.
	find := func(t *jwt.Token) (any, error) {
		fit := keys[t.Method.Alg()]
		if len(fit) == 0 {
			return nil, fmt.Errorf("no key is for %s", t.Method.Alg())
		}
		return jwt.VerificationKeySet{Keys: fit}, nil
	}
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(token, claims, find, opts...); err != nil {
		return "", nil, err
	}
	if issuer, _ := claims["iss"].(string); len(v.Issuers) > 0 && !slices.Contains(v.Issuers, issuer) {
		return "", nil, jwt.ErrTokenInvalidIssuer
	}
	id, _ = claims["sub"].(string)
	if id == "" {
		return "", nil, errors.New("the token has no subject")
	}
	data = make(map[string]any, len(v.Fields))
	for field, claim := range v.Fields {
		if value, ok := claimAt(claims, claim); ok {
			data[field] = value
		}
	}
	return id, data, nil
}

// claimAt returns the claim with a name. Unless there is such a claim, dots in the name lead into
// objects: user_data.name is the member name of the claim user_data. The name of a claim can be a
// URL, which has dots, too.
func claimAt(claims map[string]any, name string) (value any, ok bool) {
	if value, ok := claims[name]; ok {
		return value, true
	}
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if inner, isObject := claims[name[:i]].(map[string]any); isObject {
			if value, ok := claimAt(inner, name[i+1:]); ok {
				return value, true
			}
		}
	}
	return nil, false
}
