package appservices_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/latchkeydb/latchkey/appservices"
)

// pemOf returns a public key in PEM.
func pemOf(t *testing.T, key any) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: derOf(t, key)})
}

func derOf(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	must(t, err)
	return der
}

// certificateOf returns a certificate of a key in DER.
func certificateOf(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: start, NotAfter: start.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return der
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func rsaJWK(key *rsa.PublicKey) object {
	return object{"kty": "RSA", "kid": "1", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}
}

func ecJWK(t *testing.T, key *ecdsa.PublicKey) object {
	t.Helper()
	point, err := key.Bytes()
	must(t, err)
	half := (len(point) - 1) / 2
	return object{"kty": "EC", "crv": key.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
}

// changed returns a copy of o with other fields.
func changed(o object, fields object) object {
	c := object{}
	for _, from := range []object{o, fields} {
		for name, value := range from {
			c[name] = value
		}
	}
	return c
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

func TestParseJWTKeysReadsTheFormsInWhichKeysArePublished(t *testing.T) {
	private := authorityRSA()
	rsaKey, ecdsaKey, secret := &private.PublicKey, &authorityEC().PublicKey, authoritySecret
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(rsaKey)})
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificateOf(t, private)})
	foreign := []object{
		changed(rsaJWK(rsaKey), object{"use": "enc"}),
		changed(rsaJWK(rsaKey), object{"alg": "RS512"}),
		changed(rsaJWK(rsaKey), object{"key_ops": []string{"encrypt"}}),
		ecJWK(t, &ecKey(elliptic.P384()).PublicKey),
		{"kty": "OKP", "crv": "Ed25519", "x": b64(make([]byte, 32))},
	}
	for _, tt := range []struct {
		name string
		data []byte
		want []any
	}{
		{"a secret", secret, []any{secret}},
		{"a secret with an end of line", append([]byte("0123456789abcdef0123456789abcdef"), "\r\n"...), []any{secret}},
		{"a secret that ends in a blank", append([]byte("0123456789abcdef0123456789abcdef"), " \n"...), []any{append([]byte("0123456789abcdef0123456789abcdef"), ' ')}},
		{"a secret after a byte-order mark", append([]byte("\ufeff"), secret...), []any{secret}},
		{"a secret in base64", []byte(base64.StdEncoding.EncodeToString(secret)), []any{[]byte(base64.StdEncoding.EncodeToString(secret))}},
		{"an RSA key in PEM", pemOf(t, rsaKey), []any{rsaKey}},
		{"an RSA key in PEM of PKCS #1", pkcs1, []any{rsaKey}},
		{"a certificate", certificate, []any{rsaKey}},
		{"an elliptic key in PEM", pemOf(t, ecdsaKey), []any{ecdsaKey}},
		{"two keys in PEM", append(pemOf(t, rsaKey), pemOf(t, ecdsaKey)...), []any{rsaKey, ecdsaKey}},
		{"one JSON Web Key", jsonOf(t, rsaJWK(rsaKey)), []any{rsaKey}},
		{"a set of keys", jsonOf(t, object{"keys": []object{rsaJWK(rsaKey), ecJWK(t, ecdsaKey)}}), []any{rsaKey, ecdsaKey}},
		{"a secret as a JSON Web Key", jsonOf(t, object{"kty": "oct", "k": b64(secret)}), []any{secret}},
		{"a set with keys for other things", jsonOf(t, object{"keys": append(foreign, changed(rsaJWK(rsaKey), object{"use": "sig", "alg": "RS256"}))}), []any{rsaKey}},
	} {
		got, err := appservices.ParseJWTKeys(tt.data)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// All of these are a public key or a mistake. None may become a secret that everybody knows.
func TestParseJWTKeysTakesNoPublicKeyForASecret(t *testing.T) {
	private := authorityRSA()
	rsaKey := &private.PublicKey
	der := derOf(t, rsaKey)
	inUTF16 := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(string(pemOf(t, rsaKey)))) {
		inUTF16 = binary.LittleEndian.AppendUint16(inUTF16, unit)
	}
	pemBody := strings.Join(strings.Split(string(pemOf(t, rsaKey)), "\n")[1:], "\n")
	pemBody = pemBody[:strings.Index(pemBody, "-----")]
	ssh := binary.BigEndian.AppendUint32(nil, 7)
	ssh = append(append(ssh, "ssh-rsa"...), der...)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	for name, data := range map[string][]byte{
		"nothing":                          nil,
		"blanks":                           []byte(" \n\n"),
		"a short secret":                   []byte("0123456789abcdef0123456789abcde\n"),
		"several lines":                    []byte("0123456789abcdef0123456789abcdef\n0123456789abcdef\n"),
		"DER":                              der,
		"DER of PKCS #1":                   x509.MarshalPKCS1PublicKey(rsaKey),
		"a certificate in DER":             certificateOf(t, private),
		"base64 of PEM without its lines":  []byte(pemBody),
		"base64 in one line":               []byte(base64.StdEncoding.EncodeToString(der)),
		"base64url without padding":        []byte(b64(der)),
		"hexadecimal digits":               []byte(hex.EncodeToString(der)),
		"base64 of a certificate":          []byte(base64.StdEncoding.EncodeToString(certificateOf(t, private))),
		"SSH":                              []byte("ssh-rsa " + base64.StdEncoding.EncodeToString(ssh) + " ada@laptop"),
		"base64 of SSH":                    []byte(base64.StdEncoding.EncodeToString(ssh)),
		"SSH2":                             []byte("---- BEGIN SSH2 PUBLIC KEY ---- " + base64.StdEncoding.EncodeToString(ssh)),
		"XML":                              []byte("<RSAKeyValue><Modulus>" + base64.StdEncoding.EncodeToString(rsaKey.N.Bytes()) + "</Modulus></RSAKeyValue>"),
		"PEM in UTF-16":                    inUTF16,
		"PEM in UTF-16 without a mark":     inUTF16[2:],
		"PEM that is cut off":              pemOf(t, rsaKey)[:200],
		"PEM with a broken key":            pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der[:100]}),
		"a private key in PEM":             pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"a private key in base64":          []byte(base64.StdEncoding.EncodeToString(pkcs8)),
		"a key for a request":              pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		"a short RSA key":                  pemOf(t, &weak.PublicKey),
		"another curve":                    pemOf(t, &ecKey(elliptic.P384()).PublicKey),
		"JSON that is cut off":             []byte(`{"keys":[`),
		"JSON without keys":                []byte(`{"keys":[]}`),
		"JSON of something else":           []byte(`{"issuer":"https://login.example.com"}`),
		"a list of JSON Web Keys":          jsonOf(t, []object{rsaJWK(rsaKey)}),
		"a private JSON Web Key":           jsonOf(t, changed(rsaJWK(rsaKey), object{"d": b64(private.D.Bytes())})),
		"a JSON Web Key without an n":      jsonOf(t, object{"kty": "RSA", "e": "AQAB"}),
		"a JSON Web Key with an even e":    jsonOf(t, changed(rsaJWK(rsaKey), object{"e": "Ag"})),
		"a JSON Web Key with a large e":    jsonOf(t, changed(rsaJWK(rsaKey), object{"e": "AQABAQAB"})),
		"a point that is not on the curve": jsonOf(t, changed(ecJWK(t, &authorityEC().PublicKey), object{"x": b64(make([]byte, 32))})),
		"an empty secret in JSON":          []byte(`{"kty":"oct","k":""}`),
		"a short secret in JSON":           []byte(`{"kty":"oct","k":"c2hvcnQ"}`),
		"a map of certificates": jsonOf(t, object{
			"1": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificateOf(t, private)})),
		}),
	} {
		got, err := appservices.ParseJWTKeys(data)
		if !errors.Is(err, appservices.ErrInvalidJWTKey) {
			t.Errorf("%s: got %d keys and %v, want ErrInvalidJWTKey", name, len(got), err)
			continue
		}
		if len(data) > 20 && bytes.Contains([]byte(err.Error()), data[:20]) {
			t.Errorf("%s: the error shows the data: %v", name, err)
		}
	}
}

func TestParseJWTKeysRefusesKeysForOtherAlgorithms(t *testing.T) {
	rsaKey, ecdsaKey := &authorityRSA().PublicKey, &authorityEC().PublicKey
	both := jsonOf(t, object{"keys": []object{rsaJWK(rsaKey), ecJWK(t, ecdsaKey)}})
	for _, tt := range []struct {
		name       string
		data       []byte
		algorithms []string
		good       bool
	}{
		{"a public key where a secret is needed", pemOf(t, rsaKey), []string{"HS256"}, false},
		{"a secret where a public key is needed", authoritySecret, []string{"RS256", "ES256"}, false},
		{"an elliptic key for RS256", pemOf(t, ecdsaKey), []string{"RS256"}, false},
		{"a set with a key for another algorithm", both, []string{"RS256"}, false},
		{"a set with keys for both", both, []string{"RS256", "ES256"}, true},
		{"a secret", authoritySecret, []string{"HS256"}, true},
	} {
		if _, err := appservices.ParseJWTKeys(tt.data, tt.algorithms...); (err == nil) != tt.good || !tt.good && !errors.Is(err, appservices.ErrInvalidJWTKey) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}
