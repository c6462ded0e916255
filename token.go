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
// The tag is a MAC of the digits of key ID and secret under a secret of the domain. Only the domain's stores can make one,
// so what anybody else invents is refused for the price of a MAC, and the price tells nothing about which key IDs exist.
// Since it is over the text, and not over the bytes, a login that the cache answers never turns digits into bytes.

const (
	secretSize   = 32
	wordDigits   = 11 // base-62 digits of 8 bytes
	keyIDDigits  = 2 * wordDigits
	bodyDigits   = keyIDDigits + 4*wordDigits // and the secret's
	tokenDigits  = bodyDigits + wordDigits    // and the tag's
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

// parsedToken is what a token has: the digits of key ID and secret, and the tag that is a MAC of them.
type parsedToken struct {
	body string // of bodyDigits digits
	tag  uint64
}

func (t *parsedToken) keyDigits() string    { return t.body[:keyIDDigits] }
func (t *parsedToken) secretDigits() string { return t.body[keyIDDigits:] }

// decode returns key ID and secret. It is not ok if a word has more than 8 bytes: no store has made such a token, but who
// has the tag secret can.
func (t *parsedToken) decode() (id uuid.UUID, secret [secretSize]byte, ok bool) {
	var b [len(id) + len(secret)]byte
	for i := range len(b) / 8 {
		word, ok := parseWord(t.body[i*wordDigits:][:wordDigits])
		if !ok {
			return id, secret, false
		}
		binary.BigEndian.PutUint64(b[i*8:], word)
	}
	return uuid.UUID(b[:len(id)]), [secretSize]byte(b[len(id):]), true
}

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
	digits := make([]byte, 0, len(f.prefix)+tokenDigits)
	digits = append(digits, f.prefix...)
	digits = appendWords(digits, id[:])
	digits = appendWords(digits, secret[:])
	return string(appendWord(digits, f.tags[0].tag(string(digits[len(f.prefix):]))))
}

// digitsOf is a key's ID as its tokens have it.
func digitsOf(id uuid.UUID) string {
	return string(appendWords(make([]byte, 0, keyIDDigits), id[:]))
}

// appendWords writes bytes, a multiple of 8.
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

// parse reads a token, and reports whether it has a token's prefix, length, alphabet and tag. It does not look whether the
// tag is right.
func (f *tokenFormat) parse(token string, t *parsedToken) (ok bool) {
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

// allDigits reports whether s, of 8 bytes or more, has nothing but digits of base 62. It looks at 8 bytes at once, in less
// time than a table takes, and in the same for all bytes.
func allDigits(s string) bool {
	bad := misfits(word8(s[len(s)-8:]))
	for ; len(s) > 8; s = s[8:] {
		bad |= misfits(word8(s))
	}
	return bad&(0x80*everyByte) == 0
}

const everyByte = 0x0101010101010101

// misfits sets the high bit of some byte if one of the 8 is no digit. What is added to a byte sets its high bit if it is
// greater than a certain other; it carries into the next byte only from one that is not ASCII, and so a misfit already.
func misfits(w uint64) uint64 {
	const (
		from0  = (0x80 - '0') * everyByte
		after9 = (0x7f - '9') * everyByte
		fromA  = (0x80 - 'a') * everyByte
		afterZ = (0x7f - 'z') * everyByte
	)
	small := w | 0x20*everyByte // the letters small, the numerals as they are
	return w | ^(w + from0) | (small+after9)&^(small+fromA) | (small + afterZ)
}

// word8 reads the first 8 bytes of s as a little-endian number.
func word8(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
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
		diff := k.tag(t.body) ^ t.tag
		good |= 1 ^ (diff|-diff)>>63
	}
	return good == 1
}

// tag is SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of the digits of key ID and secret.
// It is made for a MAC of few bytes on any machine: a fifth of the time of HMAC-SHA-256 here, where every login pays for it.
func (k tagKey) tag(body string) uint64 {
	v0 := k.k0 ^ 0x736f6d6570736575
	v1 := k.k1 ^ 0x646f72616e646f6d
	v2 := k.k0 ^ 0x6c7967656e657261
	v3 := k.k1 ^ 0x7465646279746573
	const whole, odd = bodyDigits / 8 * 8, bodyDigits % 8
	_ = body[bodyDigits-1]
	for i := 0; i < whole; i += 8 {
		m := word8(body[i:])
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	last := word8(body[bodyDigits-8:])>>(64-8*odd) | bodyDigits<<56 // the odd bytes, and the length
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
