package appservices

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// The algorithms of custom tokens. Each kind of key is for one of them.
var (
	algHS256 = jwt.SigningMethodHS256.Alg()
	algRS256 = jwt.SigningMethodRS256.Alg()
	algES256 = jwt.SigningMethodES256.Alg()
)

// minSecret is the shortest secret, in bytes, that RFC 7518, section 3.2, allows for HS256.
const minSecret = 32

// minRSA is the shortest RSA key, in bits, that RFC 7518, section 3.3, allows for RS256.
const minRSA = 2048

// maxJWTKeys bounds the keys of a [JWTVerifier], which tries one key after the other.
const maxJWTKeys = 100

// ParseJWTKeys reads the keys of an authority for [JWTVerifier].Keys from the content of a file.
// The file has public keys for RS256 and ES256 in PEM, or a key or a set of keys as JSON (RFC
// 7517), or one line of text that is a secret for HS256. Certificates count as the public keys in
// them.
//
// algorithms are the algorithms that the keys may be for: "HS256", "RS256" and "ES256". Without
// algorithms, all three are allowed. A set of keys may have keys of other kinds, such as keys for
// encryption. They are left out.
//
// ParseJWTKeys takes no text for a secret that is a public key in another form, because everybody
// knows the public key and could then sign tokens.
//
// Errors: [ErrInvalidJWTKey].
func ParseJWTKeys(data []byte, algorithms ...string) ([]any, error) {
	keys, err := parseJWTKeys(bytes.TrimPrefix(data, []byte("\ufeff")))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidJWTKey, err)
	}
	for _, key := range keys {
		alg, err := algorithmOf(key)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalidJWTKey, err)
		}
		if len(algorithms) > 0 && !slices.Contains(algorithms, alg) {
			return nil, fmt.Errorf("%w: it has a key for %s, which is not among %s", ErrInvalidJWTKey, alg, strings.Join(algorithms, ", "))
		}
	}
	return keys, nil
}

func parseJWTKeys(data []byte) ([]any, error) {
	trimmed := bytes.TrimSpace(data)
	switch {
	case len(trimmed) == 0:
		return nil, errors.New("it is empty")
	case bytes.Contains(data, []byte("-----BEGIN")):
		return parsePEMKeys(data)
	case trimmed[0] == '{':
		return parseJWKs(trimmed)
	}
	secret := bytes.TrimRight(data, "\r\n")
	switch {
	case !isText(data):
		return nil, errors.New("it is neither text nor PEM; convert a public key to PEM, for example by openssl rsa -pubin -inform DER")
	case bytes.ContainsAny(secret, "\r\n"):
		return nil, errors.New("it has several lines, and is neither PEM nor JSON; a secret for HS256 is one line")
	}
	return []any{secret}, nil
}

// isText reports whether data is UTF-8 without control characters other than ends of lines and
// tabs.
func isText(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexFunc(data, func(r rune) bool {
		return unicode.IsControl(r) && r != '\r' && r != '\n' && r != '\t'
	}) < 0
}

// algorithmOf returns the algorithm that a key is for.
func algorithmOf(key any) (alg string, err error) {
	switch key := key.(type) {
	case []byte:
		return algHS256, checkSecret(key)
	case *rsa.PublicKey:
		if key == nil || key.N == nil || key.N.BitLen() < minRSA {
			return "", fmt.Errorf("an RSA key for RS256 needs at least %d bits", minRSA)
		}
		return algRS256, nil
	case *ecdsa.PublicKey:
		if key == nil || key.Curve != elliptic.P256() {
			return "", errors.New("an elliptic key for ES256 must be on the curve P-256")
		}
		return algES256, nil
	}
	return "", fmt.Errorf("a %T cannot check tokens; give a []byte, an *rsa.PublicKey or an *ecdsa.PublicKey", key)
}

// checkSecret returns an error if a secret for HS256 is too short, or if it is a public key in one
// of the forms in which public keys are written.
func checkSecret(secret []byte) error {
	if isPublicKey(secret) {
		return errors.New("it is a public key in a form that is not read here, and everybody could sign with it as a secret; give it in PEM or as a JSON Web Key")
	}
	if len(secret) < minSecret {
		return fmt.Errorf("a secret for HS256 needs at least %d bytes; a public key for RS256 or ES256 must be in PEM or a JSON Web Key", minSecret)
	}
	return nil
}

// isPublicKey reports whether data is a key of the kinds that are published, in PEM, in DER, as a
// JSON Web Key, in the forms of SSH or XML, or in DER that is written in base64 or hexadecimal
// digits.
func isPublicKey(data []byte) bool {
	for _, mark := range []string{"-----BEGIN", "---- BEGIN", `"kty"`, "<RSAKeyValue", "<?xml"} {
		if bytes.Contains(data, []byte(mark)) {
			return true
		}
	}
	for _, prefix := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"} {
		if bytes.HasPrefix(data, []byte(prefix)) {
			return true
		}
	}
	if isDER(data) {
		return true
	}
	compact := strings.Join(strings.Fields(string(data)), "")
	for _, decode := range []func(string) ([]byte, error){
		base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString, hex.DecodeString,
	} {
		if decoded, err := decode(compact); err == nil && (isDER(decoded) || isSSH(decoded)) {
			return true
		}
	}
	return false
}

// isDER reports whether data is a public key, a private key or a certificate in DER.
func isDER(data []byte) bool {
	for _, parse := range []func([]byte) error{
		func(b []byte) error { _, err := x509.ParsePKIXPublicKey(b); return err },
		func(b []byte) error { _, err := x509.ParsePKCS1PublicKey(b); return err },
		func(b []byte) error { _, err := x509.ParseCertificate(b); return err },
		func(b []byte) error { _, err := x509.ParsePKCS8PrivateKey(b); return err },
		func(b []byte) error { _, err := x509.ParsePKCS1PrivateKey(b); return err },
		func(b []byte) error { _, err := x509.ParseECPrivateKey(b); return err },
	} {
		if parse(data) == nil {
			return true
		}
	}
	return false
}

// isSSH reports whether data is a public key of SSH: the length of its name, and its name.
func isSSH(data []byte) bool {
	return len(data) > 8 && bytes.HasPrefix(data, []byte{0, 0, 0}) &&
		(bytes.HasPrefix(data[4:], []byte("ssh-")) || bytes.HasPrefix(data[4:], []byte("ecdsa-")))
}

func parsePEMKeys(data []byte) (keys []any, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, errors.New("it has a private key, which only the authority needs; give the public key")
		case block.Type == "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case block.Type == "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case block.Type == "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = certificate.PublicKey
			}
		case block.Type == "EC PARAMETERS": // says which curve a key is on, as the key itself does
			continue
		default:
			return nil, fmt.Errorf("it is PEM with the block %q, and not a public key", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("it is PEM, but its %s cannot be read: %w", strings.ToLower(block.Type), err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it is PEM, but no public key can be read")
	}
	return keys, nil
}

// A jwk is a JSON Web Key as in RFC 7517, with the fields of RFC 7518, section 6.
type jwk struct {
	Kty    string   `json:"kty"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	K      string   `json:"k"`
	D      string   `json:"d"` // only in a private key
}

// parseJWKs reads a JSON Web Key, or a set of them. It leaves out the keys that are not for one of
// the three algorithms, as RFC 7517, section 5, demands.
func parseJWKs(data []byte) (keys []any, err error) {
	var set struct {
		jwk
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("it is JSON, but no set of JSON Web Keys: %w", err)
	}
	if set.Kty != "" {
		set.Keys = append(set.Keys, set.jwk)
	}
	for i, k := range set.Keys {
		key, err := k.key()
		if err != nil {
			return nil, fmt.Errorf("JSON Web Key %d: %w", i, err)
		}
		if key != nil {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it is JSON, but has no JSON Web Key that signs by HS256, RS256 or ES256")
	}
	return keys, nil
}

// key returns the key, or nil if the key is not for one of the three algorithms.
func (k *jwk) key() (any, error) {
	if k.Use != "" && k.Use != "sig" || len(k.KeyOps) > 0 && !slices.Contains(k.KeyOps, "verify") {
		return nil, nil
	}
	is := func(kty, alg string) bool { return k.Kty == kty && (k.Alg == "" || k.Alg == alg) }
	switch {
	case is("oct", algHS256):
		return decodeBase64URL("k", k.K)
	case (is("RSA", algRS256) || is("EC", algES256)) && k.D != "":
		return nil, errors.New("it is a private key, which only the authority needs; give the public key")
	case is("RSA", algRS256):
		return k.rsaKey()
	case is("EC", algES256) && k.Crv == "P-256":
		return k.ecKey()
	}
	return nil, nil
}

func (k *jwk) rsaKey() (any, error) {
	n, err := decodeBase64URL("n", k.N)
	if err != nil {
		return nil, err
	}
	e, err := decodeBase64URL("e", k.E)
	if err != nil {
		return nil, err
	}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Bit(0) == 0 {
		return nil, errors.New("its exponent is not valid")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

func (k *jwk) ecKey() (any, error) {
	x, err := decodeBase64URL("x", k.X)
	if err != nil {
		return nil, err
	}
	y, err := decodeBase64URL("y", k.Y)
	if err != nil {
		return nil, err
	}
	// The point in the form of SEC 1, section 2.3.3.
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
}

func decodeBase64URL(field, s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("its field %q is not base64url", field)
	}
	return b, nil
}
