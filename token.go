package latchkey

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/google/uuid"
)

// A token is
//
//	<prefix>_<key ID, 22 digits><secret, 44 digits><tag, 11 digits>
//
// The digits are base 62 (0-9, A-Z, a-z, in the order of ASCII); each 11 of them are 8 bytes, big-endian. So a token has
// one spelling, sorts as its key ID does, and a double-click selects it. docs/formats.md has test vectors, and the
// regular expression for secret scanners.
//
// The tag is a MAC of key ID and secret under a secret of the domain. Only the domain's stores can make one, so what
// anybody else invents is refused for the price of a MAC, and the price tells nothing about which key IDs exist.

const (
	secretSize   = 32
	wordDigits   = 11 // base-62 digits of 8 bytes
	tokenWords   = 7  // 2 of the key ID, 4 of the secret, 1 of the tag
	tokenDigits  = tokenWords * wordDigits
	maxPrefix    = 16
	base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	notADigit    = 0x80
)

// digitValues maps a byte to the digit that it is, or to notADigit.
var digitValues = func() (values [256]uint8) {
	for c := range values {
		values[c] = notADigit
		if i := strings.IndexByte(base62Digits, byte(c)); i >= 0 {
			values[c] = uint8(i)
		}
	}
	return values
}()

// parsedToken is a token's bytes: key ID and secret, which the tag is a MAC of, and the tag.
type parsedToken struct {
	body [16 + secretSize]byte
	tag  uint64
}

func (t *parsedToken) keyID() uuid.UUID          { return uuid.UUID(t.body[:16]) }
func (t *parsedToken) secret() *[secretSize]byte { return (*[secretSize]byte)(t.body[16:]) }

// tokenFormat mints and checks the tokens of one domain.
type tokenFormat struct {
	prefix string // with its underscore
	tags   []tagKey
}

// tagKey is one of the domain's secrets for tags, as the two halves of a SipHash key. The first of a domain's list tags
// new tokens; tokens tagged under the others are good until those are retired.
type tagKey struct{ k0, k1 uint64 }

// format makes the token of a key.
func (f *tokenFormat) format(id uuid.UUID, secret [secretSize]byte) string {
	var body [16 + secretSize]byte
	copy(body[:], id[:])
	copy(body[16:], secret[:])

	digits := make([]byte, 0, len(f.prefix)+tokenDigits)
	digits = append(digits, f.prefix...)
	for i := 0; i < len(body); i += 8 {
		digits = appendWord(digits, binary.BigEndian.Uint64(body[i:]))
	}
	return string(appendWord(digits, f.tags[0].tag(&body)))
}

func appendWord(digits []byte, word uint64) []byte {
	var w [wordDigits]byte
	for i := range w {
		w[wordDigits-1-i] = base62Digits[word%62]
		word /= 62
	}
	return append(digits, w[:]...)
}

// parse reads a token, and reports whether it has the one form that a token can have. It does not look at the tag.
func (f *tokenFormat) parse(token string, t *parsedToken) bool {
	if len(token) != len(f.prefix)+tokenDigits || token[:len(f.prefix)] != f.prefix {
		return false
	}
	digits := token[len(f.prefix):]
	for i := range tokenWords - 1 {
		word, ok := parseWord(digits[i*wordDigits : (i+1)*wordDigits])
		if !ok {
			return false
		}
		binary.BigEndian.PutUint64(t.body[i*8:], word)
	}
	var ok bool
	t.tag, ok = parseWord(digits[(tokenWords-1)*wordDigits:])
	return ok
}

// parseWord reads 11 digits, and reports whether they are digits and no more than 8 bytes hold. It multiplies in pairs,
// which the processor does side by side: a third less time than digit by digit.
func parseWord(digits string) (word uint64, ok bool) {
	_ = digits[wordDigits-1]
	d0, d1, d2, d3 := digitValues[digits[0]], digitValues[digits[1]], digitValues[digits[2]], digitValues[digits[3]]
	d4, d5, d6, d7 := digitValues[digits[4]], digitValues[digits[5]], digitValues[digits[6]], digitValues[digits[7]]
	d8, d9, d10 := digitValues[digits[8]], digitValues[digits[9]], digitValues[digits[10]]
	bad := (d0 | d1 | d2 | d3 | d4 | d5 | d6 | d7 | d8 | d9 | d10) & notADigit

	const pair, quad = 62 * 62, 62 * 62 * 62 * 62
	q0 := (uint64(d0)*62+uint64(d1))*pair + uint64(d2)*62 + uint64(d3)
	q1 := (uint64(d4)*62+uint64(d5))*pair + uint64(d6)*62 + uint64(d7)
	ten := (q0*quad+q1)*pair + uint64(d8)*62 + uint64(d9) // ten digits cannot overflow
	hi, lo := bits.Mul64(ten, 62)
	word, carry := bits.Add64(lo, uint64(d10), 0)
	return word, bad == 0 && hi+carry == 0
}

// genuine reports whether a store of this domain made the token. It takes the same time for every token.
func (f *tokenFormat) genuine(t *parsedToken) bool {
	good := uint64(0)
	for _, k := range f.tags {
		diff := k.tag(&t.body) ^ t.tag
		good |= 1 ^ (diff|-diff)>>63
	}
	return good == 1
}

// tag is SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of key ID and secret. It is made
// for a MAC of few bytes on any machine: a fifth of the time of HMAC-SHA-256 here, where every login pays for it.
func (k tagKey) tag(body *[16 + secretSize]byte) uint64 {
	v0 := k.k0 ^ 0x736f6d6570736575
	v1 := k.k1 ^ 0x646f72616e646f6d
	v2 := k.k0 ^ 0x6c7967656e657261
	v3 := k.k1 ^ 0x7465646279746573
	for i := 0; i < len(body); i += 8 {
		m := binary.LittleEndian.Uint64(body[i:])
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	const last = uint64(len(body)) << 56 // the length, after no odd bytes
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}

// newTagKey reads the 16 bytes of a tag secret, as SipHash reads its key.
func newTagKey(secret [16]byte) tagKey {
	return tagKey{binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])}
}

// validPrefix reports whether s can be a token's prefix: 1 to 16 ASCII letters and digits.
func validPrefix(s string) bool {
	if len(s) == 0 || len(s) > maxPrefix {
		return false
	}
	for i := range len(s) {
		if digitValues[s[i]] == notADigit {
			return false
		}
	}
	return true
}
