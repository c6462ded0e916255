package tokenform

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/vector"
)

type tokenVectors struct {
	Regexp  string
	Genuine []struct {
		About, Prefix, Token string
		TagSecret            vector.Hex `json:"tag_secret"`
		KeyID                uuid.UUID  `json:"key_id"`
		Secret, Tag          vector.Hex
	}
	Refused []struct {
		About, Kind, Prefix, Token string
		TagSecret                  vector.Hex `json:"tag_secret"`
	}
}

func vectorForm(prefix string, tagSecret []byte) *Form { return New(prefix, [16]byte(tagSecret)) }

func TestTagsAreSipHashOfTheReferenceVectors(t *testing.T) {
	var vectors struct {
		Tags []struct {
			About             string
			Key, Message, Tag vector.Hex
		}
	}
	vector.Read(t, "tags.json", &vectors)
	for _, v := range vectors.Tags {
		t.Run(v.About, func(t *testing.T) {
			tag := newTagKey([16]byte(v.Key)).tag(string(v.Message))
			if got := binary.LittleEndian.AppendUint64(nil, tag); !bytes.Equal(got, v.Tag) {
				t.Errorf("got %x, want %x", got, v.Tag)
			}
		})
	}
}

func TestTokensAreMadeAndReadAsTheVectorsSay(t *testing.T) {
	var vectors tokenVectors
	vector.Read(t, "tokens.json", &vectors)
	form := regexp.MustCompile(vectors.Regexp)
	for _, v := range vectors.Genuine {
		t.Run(v.About, func(t *testing.T) {
			f := vectorForm(v.Prefix, v.TagSecret)
			if got := f.Make(v.KeyID, [SecretSize]byte(v.Secret)); got != v.Token {
				t.Fatalf("Make: got %s, want %s", got, v.Token)
			}
			var p Token
			if !f.Parse(v.Token, &p) || !f.Genuine(&p) {
				t.Fatal("the token is refused")
			}
			id, secret, ok := p.Decode()
			if !ok || id != v.KeyID || !bytes.Equal(secret[:], v.Secret) || p.tag != binary.BigEndian.Uint64(v.Tag) {
				t.Errorf("Parse: got %+v, key ID %s, secret %x, %t", p, id, secret, ok)
			}
			if p.KeyDigits() != Digits(v.KeyID) {
				t.Errorf("the digits of the key ID are %s, want %s", p.KeyDigits(), Digits(v.KeyID))
			}
			if !form.MatchString(v.Token) {
				t.Errorf("the token does not match %s", form)
			}
		})
	}
	for _, v := range vectors.Refused {
		t.Run(v.Kind+"/"+v.About, func(t *testing.T) {
			f := vectorForm(v.Prefix, v.TagSecret)
			var p Token
			parsed := f.Parse(v.Token, &p)
			if want := v.Kind != "malformed"; parsed != want {
				t.Fatalf("Parse: got %t, want %t", parsed, want)
			}
			if !parsed {
				return
			}
			if genuine, want := f.Genuine(&p), v.Kind == "tagged"; genuine != want {
				t.Errorf("Genuine: got %t, want %t", genuine, want)
			}
			if _, _, ok := p.Decode(); ok && v.Kind == "tagged" {
				t.Error("its key ID and secret are read")
			}
		})
	}
}

func TestEveryMintedTokenMatchesTheDocumentedRegexp(t *testing.T) {
	var vectors tokenVectors
	vector.Read(t, "tokens.json", &vectors)
	form := regexp.MustCompile(vectors.Regexp)
	for _, prefix := range []string{"k", "lk", "abcdefghij012345"} {
		f := vectorForm(prefix, make([]byte, 16))
		for range 100 {
			if token := f.Make(uuid.New(), sha256.Sum256([]byte{byte(len(f.prefix))})); !form.MatchString(token) {
				t.Fatalf("%s does not match %s", token, form)
			}
		}
	}
}

func TestAWordHasOneSpelling(t *testing.T) {
	words := []uint64{0, 1, 61, 62, math.MaxUint32, math.MaxUint64 - 1, math.MaxUint64}
	for range 10_000 {
		words = append(words, rand.Uint64()>>rand.UintN(64))
	}
	for _, word := range words {
		digits := string(appendWord(nil, word))
		if got, ok := parseWord(digits); !ok || got != word {
			t.Fatalf("%d is written %s and read as %d, %t", word, digits, got, ok)
		}
	}
}

func TestAWordOfMoreThan8BytesIsRefused(t *testing.T) {
	const greatest = "LygHa16AHYF"
	if word, ok := parseWord(greatest); !ok || word != math.MaxUint64 {
		t.Fatalf("%s is read as %d, %t", greatest, word, ok)
	}
	// The next digit in each place, so that the sum overflows in every place.
	for i := range greatest {
		digit := strings.IndexByte(base62Digits, greatest[i])
		larger := greatest[:i] + base62Digits[digit+1:digit+2] + strings.Repeat("0", wordDigits-1-i)
		if word, ok := parseWord(larger); ok {
			t.Errorf("%s is read as %d", larger, word)
		}
	}
	if word, ok := parseWord("zzzzzzzzzzz"); ok {
		t.Errorf("11 z are read as %d", word)
	}
}

func TestOnlyDigitsAreReadInEveryPlaceOfAWord(t *testing.T) {
	for i := range wordDigits {
		for c := range 256 {
			digits := []byte("01234567890")
			digits[i] = byte(c)
			_, ok := parseWord(string(digits))
			if isDigit := strings.IndexByte(base62Digits, byte(c)) >= 0; ok && !isDigit {
				t.Errorf("%q is read", digits)
			}
		}
	}
}

func TestEveryByteOfATokenIsADigit(t *testing.T) {
	f := vectorForm("lk", make([]byte, 16))
	tag := len(f.prefix) + bodyDigits
	token := f.Make(uuid.UUID{}, [SecretSize]byte{})
	// Then another digit in any place, and not only in the first, may make the tag too large.
	if token[tag] >= 'L' {
		t.Fatalf("the tag of %s begins with too large a digit for this test", token)
	}
	for i := len(f.prefix); i < len(token); i++ {
		for c := range 256 {
			other := token[:i] + string([]byte{byte(c)}) + token[i+1:]
			var p Token
			parsed := f.Parse(other, &p)
			if isDigit := strings.IndexByte(base62Digits, byte(c)) >= 0; parsed && !isDigit || !parsed && isDigit && i != tag {
				t.Errorf("with %q in place %d: it is read: %t", c, i, parsed)
			}
		}
	}
}

func TestTokensSortAsTheirKeyIDsDo(t *testing.T) {
	f := vectorForm("lk", make([]byte, 16))
	for range 1000 {
		a, b := uuid.New(), uuid.New()
		copy(b[:], a[:rand.IntN(16)]) // so that they do not always differ in the first byte
		before := f.Make(a, [SecretSize]byte{0xff}) < f.Make(b, [SecretSize]byte{})
		if a != b && before != (bytes.Compare(a[:], b[:]) < 0) {
			t.Fatalf("the tokens of %s and %s sort the other way", a, b)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	var vectors tokenVectors
	vector.Read(f, "tokens.json", &vectors)
	for _, v := range vectors.Genuine {
		f.Add(v.Token)
	}
	for _, v := range vectors.Refused {
		f.Add(v.Token)
	}
	form := vectorForm("lk", vectors.Genuine[0].TagSecret)
	f.Fuzz(func(t *testing.T, token string) {
		fuzzToken(t, form, token)
		// Most inputs do not have the length of a token. So the test tries them as the digits of a
		// token, too.
		digits := token + strings.Repeat("0", tokenDigits)
		fuzzToken(t, form, form.prefix+digits[:tokenDigits])
	})
}

// fuzzToken fails the test if a token passes for genuine, but is not the token of its own key ID
// and secret.
func fuzzToken(t *testing.T, form *Form, token string) {
	var p Token
	if !form.Parse(token, &p) {
		return
	}
	if spelled := string(appendWord([]byte(form.prefix+p.body), p.tag)); spelled != token {
		t.Errorf("%q was read, and is spelled %q", token, spelled)
	}
	id, secret, ok := p.Decode()
	if made := form.Make(id, secret); ok && form.Genuine(&p) != (made == token) {
		t.Errorf("%q passes for genuine: %t, and the token is %q", token, form.Genuine(&p), made)
	}
}
