package appservices_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestJWTVerifierChecksTheTokensOfAnAuthority(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	clock := appservices.NewClock(start)
	good := jwt.MapClaims{"aud": "demo-abcde", "sub": "ada", "exp": start.Add(time.Minute).Unix(), "mail": "ada@example.com"}
	with := func(name string, value any) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range good {
			c[k] = v
		}
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(method, claims).SignedString(key)
		must(t, err)
		return s
	}
	hs, rs := jwt.SigningMethodHS256, jwt.SigningMethodRS256
	signed := sign(hs, secret, good)
	// The last character has two bits that do not count.
	respelt := signed[:len(signed)-1] + string(signed[len(signed)-1]+1)
	for _, tt := range []struct {
		name  string
		key   any
		token string
		good  bool
	}{
		{"HS256", secret, sign(hs, secret, good), true},
		{"RS256", &private.PublicKey, sign(rs, private, good), true},
		{"for another app", secret, sign(hs, secret, with("aud", "other")), false},
		{"for nobody", secret, sign(hs, secret, with("aud", nil)), false},
		{"expired", secret, sign(hs, secret, with("exp", start.Unix())), false},
		{"without an end", secret, sign(hs, secret, with("exp", nil)), false},
		{"without a subject", secret, sign(hs, secret, with("sub", nil)), false},
		{"of another key", secret, sign(hs, []byte("another"), good), false},
		{"unsigned", secret, sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), false},
		{"signed with the public key as a secret", &private.PublicKey, sign(hs, private.N.Bytes(), good), false},
		{"no JWT", secret, "x", false},
		{"the same signature in another spelling", secret, respelt, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &appservices.JWTVerifier{Key: tt.key, Now: clock.Now, Fields: map[string]string{"email": "mail", "name": "absent"}}
			d := newDouble(t, &appservices.Options{CustomToken: v.Verify})
			r := d.tryLogin("custom-token", object{"token": tt.token})
			if !tt.good {
				r.refused(401, "InvalidSession", "unauthorized")
				return
			}
			p := d.profile(r.tokens().access)
			if id := p["identities"].([]any)[0].(object)["id"]; id != "ada" || !reflect.DeepEqual(p["data"], object{"email": "ada@example.com"}) {
				t.Errorf("the profile is %v", p)
			}
		})
	}
	v := &appservices.JWTVerifier{Key: "a string"}
	if _, _, err := v.Verify(t.Context(), "demo-abcde", "x"); !errors.Is(err, appservices.ErrInvalidOptions) {
		t.Errorf("got %v, want ErrInvalidOptions", err)
	}
}
