package latchkey

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

	"github.com/latchkeydb/latchkey/internal/record"
)

type tokenVectors struct {
	Regexp  string
	Genuine []struct {
		About, Prefix, Token string
		TagSecret            hexBytes  `json:"tag_secret"`
		KeyID                uuid.UUID `json:"key_id"`
		Secret, Tag          hexBytes
	}
	Refused []struct {
		About, Kind, Prefix, Token string
		TagSecret                  hexBytes `json:"tag_secret"`
	}
}

func vectorFormat(prefix string, tagSecret []byte) *tokenFormat {
	return &tokenFormat{prefix: prefix + "_", tags: []tagKey{newTagKey([16]byte(tagSecret))}}
}

func TestTagsAreSipHashOfTheReferenceVectors(t *testing.T) {
	var vectors struct {
		Tags []struct {
			About             string
			Key, Message, Tag hexBytes
		}
	}
	readVectors(t, "tags.json", &vectors)
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
	readVectors(t, "tokens.json", &vectors)
	form := regexp.MustCompile(vectors.Regexp)
	for _, v := range vectors.Genuine {
		t.Run(v.About, func(t *testing.T) {
			f := vectorFormat(v.Prefix, v.TagSecret)
			if got := f.format(v.KeyID, [secretSize]byte(v.Secret)); got != v.Token {
				t.Fatalf("format: got %s, want %s", got, v.Token)
			}
			var p parsedToken
			if !f.parse(v.Token, &p) || !f.genuine(&p) {
				t.Fatal("the token is refused")
			}
			id, secret, ok := p.decode()
			if !ok || id != v.KeyID || !bytes.Equal(secret[:], v.Secret) || p.tag != binary.BigEndian.Uint64(v.Tag) {
				t.Errorf("parse: got %+v, key ID %s, secret %x, %t", p, id, secret, ok)
			}
			if p.keyDigits() != digitsOf(v.KeyID) {
				t.Errorf("the digits of the key ID are %s, want %s", p.keyDigits(), digitsOf(v.KeyID))
			}
			if !form.MatchString(v.Token) {
				t.Errorf("the token does not match %s", form)
			}
		})
	}
	for _, v := range vectors.Refused {
		t.Run(v.Kind+"/"+v.About, func(t *testing.T) {
			f := vectorFormat(v.Prefix, v.TagSecret)
			var p parsedToken
			parsed := f.parse(v.Token, &p)
			if want := v.Kind != "malformed"; parsed != want {
				t.Fatalf("parse: got %t, want %t", parsed, want)
			}
			if !parsed {
				return
			}
			if genuine, want := f.genuine(&p), v.Kind == "tagged"; genuine != want {
				t.Errorf("genuine: got %t, want %t", genuine, want)
			}
			if _, _, ok := p.decode(); ok && v.Kind == "tagged" {
				t.Error("its key ID and secret are read")
			}
		})
	}
}

func TestEveryMintedTokenMatchesTheDocumentedRegexp(t *testing.T) {
	var vectors tokenVectors
	readVectors(t, "tokens.json", &vectors)
	form := regexp.MustCompile(vectors.Regexp)
	for _, prefix := range []string{"k", "lk", "abcdefghij012345"} {
		f := vectorFormat(prefix, make([]byte, 16))
		for range 100 {
			if token := f.format(uuid.New(), sha256.Sum256([]byte{byte(len(f.prefix))})); !form.MatchString(token) {
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
	f := vectorFormat("lk", make([]byte, 16))
	tag := len(f.prefix) + bodyDigits
	token := f.format(uuid.UUID{}, [secretSize]byte{})
	// Then another digit in any place, and not only in the first, may make the tag too large.
	if token[tag] >= 'L' {
		t.Fatalf("the tag of %s begins with too large a digit for this test", token)
	}
	for i := len(f.prefix); i < len(token); i++ {
		for c := range 256 {
			other := token[:i] + string([]byte{byte(c)}) + token[i+1:]
			var p parsedToken
			parsed := f.parse(other, &p)
			if isDigit := strings.IndexByte(base62Digits, byte(c)) >= 0; parsed && !isDigit || !parsed && isDigit && i != tag {
				t.Errorf("with %q in place %d: it is read: %t", c, i, parsed)
			}
		}
	}
}

func TestATokenWithATagAndAWordTooLargeIsRefused(t *testing.T) {
	s := open(t, nil)
	for i := range bodyDigits / wordDigits {
		// The digits of 2^64 are LygHa16AHYG.
		digits := strings.Repeat("0", i*wordDigits) + "LygHa16AHYG" + strings.Repeat("0", bodyDigits-(i+1)*wordDigits)
		token := s.tokens.prefix + string(appendWord([]byte(digits), s.tokens.tags[0].tag(digits)))
		var p parsedToken
		if !s.tokens.parse(token, &p) || !s.tokens.genuine(&p) {
			t.Fatal("whoever has the tag secret cannot make it")
		}
		wantRefused(t, s, token, ErrInvalidToken)
	}
	if st := stats(t, s); st.Unknown != 6 {
		t.Errorf("%d tokens are unknown, want 6", st.Unknown)
	}
}

func TestTokensSortAsTheirKeyIDsDo(t *testing.T) {
	f := vectorFormat("lk", make([]byte, 16))
	for range 1000 {
		a, b := uuid.New(), uuid.New()
		copy(b[:], a[:rand.IntN(16)]) // so that they do not always differ in the first byte
		before := f.format(a, [secretSize]byte{0xff}) < f.format(b, [secretSize]byte{})
		if a != b && before != (bytes.Compare(a[:], b[:]) < 0) {
			t.Fatalf("the tokens of %s and %s sort the other way", a, b)
		}
	}
}

func TestTokensUnderAnOldTagSecretAreGoodUntilItIsRetired(t *testing.T) {
	s := open(t, nil)
	oldKey, oldToken := addServerKey(t, s, "old")

	both := s.domain.tags.Add([16]byte{1, 2, 3})
	s = reopenWithTags(t, s, both) // accepted, so that other stores may begin to use it
	stillOld, stillOldToken := addServerKey(t, s, "still old")
	s = reopenWithTags(t, s, both.Set(1, record.TagUsed))
	newKey, newToken := addServerKey(t, s, "new")
	wantLogin(t, s, oldToken, oldKey.ID)
	wantLogin(t, s, stillOldToken, stillOld.ID)
	wantLogin(t, s, newToken, newKey.ID)

	s = reopenWithTags(t, s, both.Set(1, record.TagUsed).Set(0, record.TagRetired))
	wantLogin(t, s, newToken, newKey.ID)
	wantRefused(t, s, oldToken, ErrInvalidToken)
	wantRefused(t, s, stillOldToken, ErrInvalidToken)
	if st := stats(t, s); st.Forged != 2 {
		t.Errorf("%d tokens were found forged, want 2", st.Forged)
	}
}

// reopenWithTags writes other tag secrets, and opens the store again.
func reopenWithTags(t *testing.T, s *Store, tags record.TagSecrets) *Store {
	t.Helper()
	plant(t, s, tableMeta, metaTags, record.Seal(tableMeta, metaTags, tags.Encode()))
	return reopen(t, s, nil)
}

func FuzzParseToken(f *testing.F) {
	var vectors tokenVectors
	readVectors(f, "tokens.json", &vectors)
	for _, v := range vectors.Genuine {
		f.Add(v.Token)
	}
	for _, v := range vectors.Refused {
		f.Add(v.Token)
	}
	format := vectorFormat("lk", vectors.Genuine[0].TagSecret)
	f.Fuzz(func(t *testing.T, token string) {
		fuzzToken(t, format, token)
		// Most inputs do not have the length of a token. So the test tries them as the digits of a
		// token, too.
		digits := token + strings.Repeat("0", tokenDigits)
		fuzzToken(t, format, format.prefix+digits[:tokenDigits])
	})
}

// fuzzToken fails the test if a token passes for genuine, but is not the token of its own key ID
// and secret.
func fuzzToken(t *testing.T, format *tokenFormat, token string) {
	var p parsedToken
	if !format.parse(token, &p) {
		return
	}
	if spelled := string(appendWord([]byte(format.prefix+p.body), p.tag)); spelled != token {
		t.Errorf("%q was read, and is spelled %q", token, spelled)
	}
	id, secret, ok := p.decode()
	if made := format.format(id, secret); ok && format.genuine(&p) != (made == token) {
		t.Errorf("%q passes for genuine: %t, and the token is %q", token, format.genuine(&p), made)
	}
}
