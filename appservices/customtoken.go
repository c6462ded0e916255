package appservices

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A JWTVerifier checks the JSON Web Tokens that another authority issues. Its method Verify fits
// [Options].CustomToken. A token must be signed by the authority, be meant for the app, not be
// expired, and name the user in "sub". A JWTVerifier is safe for concurrent use as long as nobody
// changes it.
type JWTVerifier struct {
	// Key is the authority's key: a []byte for HS256, an [*rsa.PublicKey] for RS256.
	Key any
	// Audience is the value that "aud" must contain. The default is the app ID.
	Audience string
	// Fields maps each field of the user's profile to the claim that it is taken from.
	Fields map[string]string
	// Now is the clock. The default is [time.Now].
	Now func() time.Time
}

// Verify returns the subject of a token, and the fields for the profile.
//
// Errors: [ErrInvalidOptions] if Key has another type, and an error with the reason for a token
// that is refused.
func (v *JWTVerifier) Verify(_ context.Context, appID, token string) (id string, data map[string]any, err error) {
	method := ""
	switch v.Key.(type) {
	case []byte:
		method = jwt.SigningMethodHS256.Alg()
	case *rsa.PublicKey:
		method = jwt.SigningMethodRS256.Alg()
	default:
		return "", nil, fmt.Errorf("%w: JWTVerifier.Key is a %T, and must be a []byte or an *rsa.PublicKey", ErrInvalidOptions, v.Key)
	}
	if v.Audience != "" {
		appID = v.Audience
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods([]string{method}), jwt.WithAudience(appID), jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(), // so that each token has only one spelling
	}
	if v.Now != nil {
		opts = append(opts, jwt.WithTimeFunc(v.Now))
	}
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return v.Key, nil }, opts...); err != nil {
		return "", nil, err
	}
	id, _ = claims["sub"].(string)
	if id == "" {
		return "", nil, errors.New("the token has no subject")
	}
	data = make(map[string]any, len(v.Fields))
	for field, claim := range v.Fields {
		if value, ok := claims[claim]; ok {
			data[field] = value
		}
	}
	return id, data, nil
}
