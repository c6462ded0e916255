// Package tokenform makes the tokens of a domain and takes them apart.
//
// A token is
//
//	<prefix>_<key ID, 22 digits><secret, 44 digits><tag, 11 digits>
//
// The digits are base 62: 0-9, A-Z, a-z, in the order of ASCII. Each 11 digits are 8 bytes,
// big-endian. So a token has only one spelling, tokens sort as their key IDs do, and a double-click
// selects a whole token. docs/formats.md has test vectors, and the regular expression for secret
// scanners.
//
// The tag is a MAC of the digits of the key ID and the secret, under a secret of the domain. Only
// the stores of the domain can make it. So a token that somebody else invents is refused at the
// price of a MAC, and the time does not tell which key IDs exist. The MAC is over the digits and
// not over the bytes, so that a login that the cache answers need not decode the digits.
package tokenform

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/google/uuid"
)

// The sizes of the parts of a token.
const (
	SecretSize   = 32 // in bytes
	KeyDigits    = 2 * wordDigits
	SecretDigits = 4 * wordDigits
	MaxPrefix    = 16 // in bytes, without the underscore
)

const (
	wordDigits   = 11 // base-62 digits of 8 bytes
	bodyDigits   = KeyDigits + SecretDigits
	tokenDigits  = bodyDigits + wordDigits // of a token after its prefix
	base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	notADigit    = 0x80
)

// digitValues maps a byte to its value as a digit, or to notADigit.
var digitValues = func() (values [256]uint8) {
	for c := range values {
		values[c] = notADigit
		if i := strings.IndexByte(base62Digits, byte(c)); i >= 0 {
			values[c] = uint8(i)
		}
	}
	return values
}()

// A Token is a token taken apart.
type Token struct {
	// body has the bodyDigits digits of the key ID and the secret. The tag is a MAC of them.
	body string
	tag  uint64
}

// KeyDigits returns the digits of the key ID.
func (t *Token) KeyDigits() string { return t.body[:KeyDigits] }

// SecretDigits returns the digits of the secret.
func (t *Token) SecretDigits() string { return t.body[KeyDigits:] }

// Untagged returns the token of a key without a tag. No string is such a token.
func Untagged(id uuid.UUID, secret [SecretSize]byte) Token {
	return Token{body: string(appendWords(appendWords(make([]byte, 0, bodyDigits), id[:]), secret[:]))}
}

// Decode returns the key ID and the secret. It reports false if a group of digits is greater than 8
// bytes can hold. No store makes such a token, but a holder of the tag secret can.
func (t *Token) Decode() (id uuid.UUID, secret [SecretSize]byte, ok bool) {
	var b [len(id) + len(secret)]byte
	for i := range len(b) / 8 {
		word, ok := parseWord(t.body[i*wordDigits:][:wordDigits])
		if !ok {
			return id, secret, false
		}
		binary.BigEndian.PutUint64(b[i*8:], word)
	}
	return uuid.UUID(b[:len(id)]), [SecretSize]byte(b[len(id):]), true
}

// A Form makes and checks the tokens of one domain.
type Form struct {
	prefix  string // including the underscore
	signing tagKey // of new tokens
	tags    []tagKey
}

// tagKey is a secret of the domain for tags, as the two halves of a SipHash key.
type tagKey struct{ k0, k1 uint64 }

// New returns the form of the tokens of a domain with a prefix. Under the secret signing it tags
// new tokens. Tokens that were tagged under one of the others are good, too.
func New(prefix string, signing [16]byte, others ...[16]byte) *Form {
	f := &Form{prefix: prefix + "_", signing: newTagKey(signing)}
	f.tags = append(f.tags, f.signing)
	for _, secret := range others {
		f.tags = append(f.tags, newTagKey(secret))
	}
	return f
}

// Make returns the token of a key.
func (f *Form) Make(id uuid.UUID, secret [SecretSize]byte) string {
	digits := make([]byte, 0, len(f.prefix)+tokenDigits)
	digits = append(digits, f.prefix...)
	digits = appendWords(digits, id[:])
	digits = appendWords(digits, secret[:])
	return string(appendWord(digits, f.signing.tag(string(digits[len(f.prefix):]))))
}

// Digits returns the digits of a key's ID, as its tokens have them.
func Digits(id uuid.UUID) string {
	return string(appendWords(make([]byte, 0, KeyDigits), id[:]))
}

// appendWords appends the digits of b, whose length is a multiple of 8.
func appendWords(digits, b []byte) []byte {
	for ; len(b) > 0; b = b[8:] {
		digits = appendWord(digits, binary.BigEndian.Uint64(b))
	}
	return digits
}

func appendWord(digits []byte, word uint64) []byte {
	var w [wordDigits]byte
	for i := range w {
		w[wordDigits-1-i] = base62Digits[word%62]
		word /= 62
	}
	return append(digits, w[:]...)
}

// Parse takes a token apart, and reports whether it has the prefix, the length, the alphabet and
// the form of a tag. It does not check whether the tag is right.
func (f *Form) Parse(token string, t *Token) (ok bool) {
	if len(token) != len(f.prefix)+tokenDigits || token[:len(f.prefix)] != f.prefix {
		return false
	}
	digits := token[len(f.prefix):]
	if !allDigits(digits) {
		return false
	}
	t.body = digits[:bodyDigits]
	t.tag, ok = parseWord(digits[bodyDigits:])
	return ok
}

// allDigits reports whether s has nothing but digits of base 62. s has 8 bytes or more. allDigits
// looks at 8 bytes at once. That takes less time than a table, and the same time for all bytes.
func allDigits(s string) bool {
	bad := misfits(Word8(s[len(s)-8:]))
	for ; len(s) > 8; s = s[8:] {
		bad |= misfits(Word8(s))
	}
	return bad&(0x80*everyByte) == 0
}

const everyByte = 0x0101010101010101

// misfits sets the high bit of at least one byte of its result if one of the 8 bytes of w is no
// digit. Each sum below sets the high bit of a byte that is greater than some limit. A sum carries
// into the next byte only from a byte that is not ASCII, which is a misfit already.
func misfits(w uint64) uint64 {
	const (
		from0  = (0x80 - '0') * everyByte
		after9 = (0x7f - '9') * everyByte
		fromA  = (0x80 - 'a') * everyByte
		afterZ = (0x7f - 'z') * everyByte
	)
	small := w | 0x20*everyByte // letters become lower case; numerals stay
	return w | ^(w + from0) | (small+after9)&^(small+fromA) | (small + afterZ)
}

// Word8 returns the first 8 bytes of s as a little-endian number.
func Word8(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// parseWord returns the number that 11 digits stand for, and reports whether they are digits and
// the number fits into 8 bytes. It multiplies in pairs, which the processor does in parallel, so
// that it takes a third less time than digit by digit.
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

// Genuine reports whether a store of this domain made the token. It takes the same time for every
// token.
func (f *Form) Genuine(t *Token) bool { return genuine(f.tags, t) }

// genuine reports whether the tag of a token was made under one of some secrets.
func genuine(tags []tagKey, t *Token) bool {
	good := uint64(0)
	for _, k := range tags {
		diff := k.tag(t.body) ^ t.tag
		good |= 1 ^ (diff|-diff)>>63
	}
	return good == 1
}

// tag returns the SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of
// the digits of a key ID and a secret. SipHash is made for MACs of short messages. Every login pays
// for it, and it takes a fifth of the time of HMAC-SHA-256.
func (k tagKey) tag(body string) uint64 {
	v0 := k.k0 ^ 0x736f6d6570736575
	v1 := k.k1 ^ 0x646f72616e646f6d
	v2 := k.k0 ^ 0x6c7967656e657261
	v3 := k.k1 ^ 0x7465646279746573
	const whole, odd = bodyDigits / 8 * 8, bodyDigits % 8
	_ = body[bodyDigits-1]
	for i := 0; i < whole; i += 8 {
		m := Word8(body[i:])
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	last := Word8(body[bodyDigits-8:])>>(64-8*odd) | bodyDigits<<56 // the odd bytes and the length
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

// newTagKey makes a tagKey from the 16 bytes of a tag secret, as SipHash reads its key.
func newTagKey(secret [16]byte) tagKey {
	return tagKey{binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])}
}

// IsDigit reports whether c is a digit of base 62.
func IsDigit(c byte) bool { return digitValues[c] != notADigit }

// ValidPrefix reports whether s can be the prefix of tokens: 1 to 16 ASCII letters and digits.
func ValidPrefix(s string) bool {
	if len(s) == 0 || len(s) > MaxPrefix {
		return false
	}
	for i := range len(s) {
		if !IsDigit(s[i]) {
			return false
		}
	}
	return true
}
