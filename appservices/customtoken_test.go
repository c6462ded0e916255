package appservices_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkeydb/latchkey/appservices"
)

// These are the keys of the tests' authority.
var (
	authoritySecret = []byte("0123456789abcdef0123456789abcdef")
	authorityRSA    = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	})
	authorityEC = sync.OnceValue(func() *ecdsa.PrivateKey { return ecKey(elliptic.P256()) })
)

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// adasClaims are the claims of a good token. A change with the value nil removes the claim.
func adasClaims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"aud": "demo-abcde", "iss": "https://login.example.com", "sub": "ada", "exp": start.Add(time.Minute).Unix(), "mail": "ada@example.com",
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, value any) bool { return value == nil })
	return c
}

// issue returns a custom token.
func issue(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	must(t, err)
	return s
}

func TestJWTVerifierChecksTheTokensOfAnAuthority(t *testing.T) {
	secret, rsaKey, ecdsaKey := authoritySecret, authorityRSA(), authorityEC()
	all := []any{[]byte("another secret, which has 32 bytes"), secret, &rsaKey.PublicKey, &ecdsaKey.PublicKey}
	hs, rs, es := jwt.SigningMethodHS256, jwt.SigningMethodRS256, jwt.SigningMethodES256
	good := adasClaims(nil)
	signed := issue(t, hs, secret, good)
	// The last character has two bits that do not count.
	respelt := signed[:len(signed)-1] + string(signed[len(signed)-1]+1)
	for _, tt := range []struct {
		name  string
		keys  []any
		token string
		good  bool
	}{
		{"HS256", []any{secret}, issue(t, hs, secret, good), true},
		{"RS256", []any{&rsaKey.PublicKey}, issue(t, rs, rsaKey, good), true},
		{"ES256", []any{&ecdsaKey.PublicKey}, issue(t, es, ecdsaKey, good), true},
		{"HS256 among other keys", all, issue(t, hs, secret, good), true},
		{"RS256 among other keys", all, issue(t, rs, rsaKey, good), true},
		{"ES256 among other keys", all, issue(t, es, ecdsaKey, good), true},
		{"an audience in a list", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"aud": []string{"x", "demo-abcde"}})), true},
		{"the other audience", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"aud": "second"})), true},
		{"for another app", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"aud": "other"})), false},
		{"for a list of other apps", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"aud": []string{"other", "x"}})), false},
		{"for nobody", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"aud": nil})), false},
		{"of another issuer", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"iss": "https://other.example.com"})), false},
		{"of no issuer", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"iss": nil})), false},
		{"expired", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"exp": start.Unix()})), false},
		{"without an end", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"exp": nil})), false},
		{"without a subject", all, issue(t, hs, secret, adasClaims(jwt.MapClaims{"sub": nil})), false},
		{"of another secret", all, issue(t, hs, []byte("another"), good), false},
		{"of another RSA key", []any{secret, &ecdsaKey.PublicKey}, issue(t, rs, rsaKey, good), false},
		{"of another elliptic key", all, issue(t, es, ecKey(elliptic.P256()), good), false},
		{"with another algorithm of the key", all, issue(t, jwt.SigningMethodRS512, rsaKey, good), false},
		{"unsigned", all, issue(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), false},
		{"signed with the public key as a secret", []any{&rsaKey.PublicKey}, issue(t, hs, rsaKey.N.Bytes(), good), false},
		{"no JWT", all, "x", false},
		{"the same signature in another spelling", all, respelt, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := &appservices.JWTVerifier{
				Keys: tt.keys, Audiences: []string{"demo-abcde", "second"}, Issuers: []string{"https://login.example.com"},
				Now: appservices.NewClock(start).Now, Fields: map[string]string{"email": "mail", "name": "absent"},
			}
			must(t, v.Check())
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
}

// Each client chooses the app ID in its path. Any app ID is known here.
func TestTheAudienceOfACustomTokenIsNotTheAppIDOfThePath(t *testing.T) {
	v := &appservices.JWTVerifier{Keys: []any{authoritySecret}, Audiences: []string{"demo-abcde"}, Now: appservices.NewClock(start).Now}
	d := newDouble(t, &appservices.Options{CustomToken: v.Verify})
	stolen := issue(t, jwt.SigningMethodHS256, authoritySecret, adasClaims(jwt.MapClaims{"aud": "some-other-service"}))
	for _, app := range []string{"demo-abcde", "some-other-service"} {
		d.send("POST", prefix+"/app/"+app+"/auth/providers/custom-token/login", "", object{"token": stolen}).
			refused(401, "InvalidSession", "unauthorized")
	}
	good := issue(t, jwt.SigningMethodHS256, authoritySecret, adasClaims(nil))
	d.send("POST", prefix+"/app/some-other-service/auth/providers/custom-token/login", "", object{"token": good}).tokens()
}

func TestAJWTVerifierThatIsNotCompleteRefusesEveryToken(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	audiences := []string{"demo-abcde"}
	empty := issue(t, jwt.SigningMethodHS256, []byte{}, adasClaims(nil))
	for name, v := range map[string]appservices.JWTVerifier{
		"no key":                 {Audiences: audiences},
		"a key of another type":  {Audiences: audiences, Keys: []any{"a string"}},
		"a private key":          {Audiences: audiences, Keys: []any{authorityRSA()}},
		"an empty secret":        {Audiences: audiences, Keys: []any{[]byte{}}},
		"a secret of 31 bytes":   {Audiences: audiences, Keys: []any{authoritySecret[1:]}},
		"a short RSA key":        {Audiences: audiences, Keys: []any{&weak.PublicKey}},
		"no RSA key":             {Audiences: audiences, Keys: []any{(*rsa.PublicKey)(nil)}},
		"another curve":          {Audiences: audiences, Keys: []any{&ecKey(elliptic.P384()).PublicKey}},
		"a public key as secret": {Audiences: audiences, Keys: []any{pemOf(t, &authorityRSA().PublicKey)}},
		"one bad key of two":     {Audiences: audiences, Keys: []any{authoritySecret, []byte("short")}},
		"no audience":            {Keys: []any{authoritySecret}},
		"an audience that is ''": {Keys: []any{authoritySecret}, Audiences: []string{"demo-abcde", ""}},
		"more keys than can be":  {Audiences: audiences, Keys: make([]any, 101)},
	} {
		if err := v.Check(); !errors.Is(err, appservices.ErrInvalidOptions) {
			t.Errorf("%s: Check returns %v, want ErrInvalidOptions", name, err)
		}
		v.Now = appservices.NewClock(start).Now
		if _, _, err := v.Verify(t.Context(), "demo-abcde", empty); !errors.Is(err, appservices.ErrInvalidOptions) {
			t.Errorf("%s: Verify returns %v, want ErrInvalidOptions", name, err)
		}
	}
}

func TestAFieldOfTheProfileCanComeFromANestedClaim(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	now := func() time.Time { return start }
	v := &appservices.JWTVerifier{Keys: []any{secret}, Audiences: []string{"demo-abcde"}, Now: now, Fields: map[string]string{
		"name": "user_data.name", "email": "https://example.com/claims.email", "first_name": "user_data.names.0.first",
		"last_name": "a.b.c", "picture_url": "user_data.none", "gender": "sub.x", "city": "user_data.address",
	}}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"aud": "demo-abcde", "sub": "ada", "exp": start.Add(time.Minute).Unix(),
		"user_data":                        object{"name": "Jean", "names": []any{object{"first": "Jean"}}, "address": object{"city": "Paris"}},
		"https://example.com/claims.email": "jean@example.com",
		"a":                                object{"x": 1}, "a.b": object{"c": "Valjean"},
	}).SignedString(secret)
	must(t, err)
	_, data, err := v.Verify(t.Context(), "demo-abcde", token)
	must(t, err)
	want := map[string]any{"name": "Jean", "email": "jean@example.com", "last_name": "Valjean", "city": object{"city": "Paris"}}
	if !reflect.DeepEqual(data, want) {
		t.Errorf("got %v, want %v", data, want)
	}
}
