package torture_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// The time of a refusal must not tell which key IDs exist, nor how much of a secret is right. The
// short form logs |t|, and asserts only that a planted leak is found, because few samples on a busy
// machine prove nothing else.

// tokenClasses are kinds of tokens that are all refused. Each kind has equally many.
type tokenClasses struct {
	existing, unknown   []string // random secret and tag; ID of a cached key or of no key
	firstByte, lastByte []string // token of a cached key with one byte of the secret changed
	good                string   // the token of one key
	goodFirst, goodLast []string // good with one byte of its secret changed
}

func TestTheTimeOfARefusalTellsNothingAboutKeyIDsOrSecrets(t *testing.T) {
	samples := timingSamples(t)
	seed := form.NewSeed(t)
	s := open(t, &latchkey.Options{Cost: light})
	c := makeTokenClasses(t, s, form.NewRandom(seed, 0))
	login := func(token string) { _, _ = s.Login(t.Context(), token) }
	for i, tt := range []struct {
		name    string
		classes [2][]string
	}{
		{"an existing and an unknown key ID", [2][]string{c.existing, c.unknown}},
		{"a secret wrong in the first and in the last byte", [2][]string{c.firstByte, c.lastByte}},
		{"a random secret and one that is wrong in the first byte", [2][]string{c.existing, c.firstByte}},
		{"an unknown key ID and a secret wrong in the last byte", [2][]string{c.unknown, c.lastByte}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := timeClasses(t, form.NewRandom(seed, i), samples, tt.classes, login)
			t.Logf("|t| = %.2f over %d samples", got, samples)
			if form.Long() && got >= leakThreshold {
				t.Errorf("|t| = %.2f over %d samples, want less than %.1f", got, samples, leakThreshold)
			}
		})
	}
}

// The harness must be able to find a leak. This leak is a comparison, after the login, that ends at
// the first difference.
func TestAComparisonThatEndsAtTheFirstDifferenceShowsInTheTime(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("the clock of Wine 8 has steps of 9 µs, and the difference is smaller")
	}
	samples := timingSamples(t)
	seed := form.NewSeed(t)
	s := open(t, &latchkey.Options{Cost: light})
	c := makeTokenClasses(t, s, form.NewRandom(seed, 0))
	equal := 0
	leaky := func(token string) {
		_, _ = s.Login(t.Context(), token)
		if equalToTheFirstDifference(token, c.good) {
			equal++
		}
	}
	got := timeClasses(t, form.NewRandom(seed, 1), samples, [2][]string{c.goodFirst, c.goodLast}, leaky)
	t.Logf("|t| = %.2f over %d samples, with a planted leak", got, samples)
	if got < leakThreshold || equal > 0 {
		t.Errorf("|t| = %.2f over %d samples, with a planted leak; want more than %.1f", got, samples, leakThreshold)
	}
}

// Two equal classes must show no difference.
func TestTheTimesOfOneClassOfTokensShowNoDifference(t *testing.T) {
	if !form.Long() {
		t.Skip("asserted in the long form only")
	}
	samples := timingSamples(t)
	seed := form.NewSeed(t)
	s := open(t, &latchkey.Options{Cost: light})
	c := makeTokenClasses(t, s, form.NewRandom(seed, 0))
	login := func(token string) { _, _ = s.Login(t.Context(), token) }
	got := timeClasses(t, form.NewRandom(seed, 1), samples, [2][]string{c.existing, c.existing}, login)
	t.Logf("|t| = %.2f", got)
	if got >= leakThreshold {
		t.Errorf("|t| = %.2f, want less than %.1f", got, leakThreshold)
	}
}

// timingSamples returns how many samples a test takes. The paper's threshold needs at least a
// million.
func timingSamples(t *testing.T) int {
	t.Helper()
	if underRace {
		t.Skip("the race detector takes more time than what is measured")
	}
	if *samplesFlag > 0 {
		return *samplesFlag
	}
	return form.Amount(200_000, 2_000_000)
}

func equalToTheFirstDifference(a, b string) bool {
	for i := range len(a) {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func makeTokenClasses(t *testing.T, s *latchkey.Store, random *rand.Rand) *tokenClasses {
	t.Helper()
	var cached, unknown []string
	for range 64 { // in turns, so that the timestamps in both kinds of IDs are alike
		cached = append(cached, createServerKeys(t, s, 64)...)
		_, never, err := s.MintKeys(t.Context(), 64, nil)
		must(t, err)
		unknown = append(unknown, never...)
	}
	c := &tokenClasses{good: cached[0]}
	for i, token := range cached {
		_, err := s.Login(t.Context(), token)
		must(t, err)
		c.existing = append(c.existing, withRandomSecret(token, random))
		c.unknown = append(c.unknown, withRandomSecret(unknown[i], random))
		c.firstByte = append(c.firstByte, withWrongByte(token, 0, random))
		c.lastByte = append(c.lastByte, withWrongByte(token, 31, random))
		c.goodFirst = append(c.goodFirst, withWrongByte(c.good, 0, random))
		c.goodLast = append(c.goodLast, withWrongByte(c.good, 31, random))
	}
	return c
}

// withRandomSecret returns a token with the same key ID and a random secret and tag.
func withRandomSecret(token string, random *rand.Rand) string {
	return editToken(token, func(words []uint64) {
		for i := 2; i < len(words); i++ {
			words[i] = random.Uint64()
		}
	})
}

// withWrongByte returns a token with one byte of its secret changed and the same ID and tag.
func withWrongByte(token string, at int, random *rand.Rand) string {
	return editToken(token, func(words []uint64) {
		var secret [32]byte
		for i := range 4 {
			binary.BigEndian.PutUint64(secret[8*i:], words[2+i])
		}
		secret[at] ^= byte(1 + random.IntN(255))
		for i := range 4 {
			words[2+i] = binary.BigEndian.Uint64(secret[8*i:])
		}
	})
}

// editToken takes a token apart into its words of 8 bytes, which are 11 digits each, lets edit
// change them, and puts the token together again. Two words are the key ID, four are the secret,
// and one is the tag.
func editToken(token string, edit func(words []uint64)) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	const wordDigits = 11
	prefix, body, _ := strings.Cut(token, "_")
	var words []uint64
	for ; body != ""; body = body[wordDigits:] {
		n := uint64(0)
		for _, d := range body[:wordDigits] {
			n = n*62 + uint64(strings.IndexRune(digits, d))
		}
		words = append(words, n)
	}
	edit(words)
	out := prefix + "_"
	for _, n := range words {
		word := make([]byte, wordDigits)
		for i := range word {
			word[wordDigits-1-i] = digits[n%62]
			n /= 62
		}
		out += string(word)
	}
	return out
}
