package keyimport_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/keyimport"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKeys(t testing.TB, schemes ...keyimport.Scheme) *keyimport.Keys {
	t.Helper()
	k, err := keyimport.New(schemes...)
	must(t, err)
	return k
}

// handleOf returns what a key is found by.
func handleOf(k latchkey.MintedKey) (h latchkey.ForeignHandle) {
	b, _ := hex.DecodeString(strings.Split(k.Export(), "/")[1])
	copy(h[:], b)
	return h
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	return string(data)
}

// A made is a verifier that another program has made.
type made struct {
	About    string `json:"about"`
	Hash     string `json:"hash"`
	Token    string `json:"token"`
	Verifier string `json:"verifier"`
}

func verifiers(t testing.TB) []made {
	t.Helper()
	var v struct{ Verifiers []made }
	must(t, json.Unmarshal([]byte(readFile(t, "verifiers.json")), &v))
	return v.Verifiers
}

func TestAVerifierThatAnotherProgramMadeKnowsItsToken(t *testing.T) {
	k := newKeys(t)
	for _, v := range verifiers(t) {
		ok, err := k.Verify(v.Token, v.Verifier)
		if err != nil || !ok {
			t.Errorf("%s: got %v, %v", v.About, ok, err)
		}
		for _, other := range []string{"", v.Token[:len(v.Token)-1], v.Token[1:], strings.ToLower(v.Token) + "_"} {
			if v.About == "bcrypt of 72 bytes" && other == v.Token+"_" {
				continue // bcrypt uses 72 bytes
			}
			if ok, err := k.Verify(other, v.Verifier); err != nil || ok {
				t.Errorf("%s: another token: got %v, %v", v.About, ok, err)
			}
		}
		n, err := k.Memory(v.Verifier)
		must(t, err)
		if v.Hash == "argon2id" != (n > 64<<10) || strings.HasPrefix(v.Hash, "sha") != (n == 0) {
			t.Errorf("%s: Memory: got %d", v.About, n)
		}
	}
	if n, _ := k.Memory("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"); n < 19456<<10 || n > 20000<<10 {
		t.Errorf("of 19 MiB, Memory: got %d", n)
	}
	if ok, err := k.Verify(strings.Repeat("x", keyimport.MaxTokenLength+1), "$sha256$"+strings.Repeat("0", 64)); ok || err != nil {
		t.Errorf("a token that is too long: got %v, %v", ok, err)
	}
}

func TestAVerifierOutOfBoundsIsRefusedAndNeverHashed(t *testing.T) {
	const salt, hash = "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	argon := func(costs string) string { return "$argon2id$v=19$" + costs + "$" + salt + "$" + hash }
	bcrypt := "$2b$04$" + strings.Repeat("a", 53)
	k := newKeys(t)
	for _, v := range []string{argon("m=64,t=1,p=1"), bcrypt} {
		if ok, err := k.Verify("x", v); ok || err != nil {
			t.Errorf("%s: got %v, %v", v, ok, err)
		}
	}
	for _, v := range []string{
		"", "$", "$$", "sha256$" + strings.Repeat("0", 64), "$md5$00", "$sha256$", "$sha256$" + strings.Repeat("0", 63), "$sha256$" + strings.Repeat("0", 65),
		"$sha256$" + strings.Repeat("g", 64), "$sha256$" + strings.Repeat("A", 64), "$sha512$" + strings.Repeat("0", 64), "$sha256$" + strings.Repeat("0", 300),
		"$2b$", bcrypt[:59], bcrypt + "a", "$2b$15$" + bcrypt[7:], "$2b$31$" + bcrypt[7:], "$2b$99$" + bcrypt[7:], "$2b$xx$" + bcrypt[7:], "$2b$03$" + bcrypt[7:],
		"$2x$04$" + bcrypt[7:], bcrypt[:30] + "$" + bcrypt[31:], bcrypt[:30] + "\x00" + bcrypt[31:], "$2b$04a" + bcrypt[7:],
		argon("m=7,t=1,p=1"), argon("m=64,t=0,p=1"), argon("m=64,t=1,p=0"), argon("m=127,t=1,p=16"), argon("m=1048577,t=1,p=1"), argon("m=4194304,t=1,p=1"), argon("m=1048576,t=3,p=1"), argon("m=32769,t=64,p=1"), argon("m=64,t=65,p=1"),
		argon("m=64,t=1,p=17"), argon("m=4294967360,t=1,p=1"), argon("m=64,t=1"), argon("t=1,m=64,p=1"), argon("m=+64,t=1,p=1"), argon("m=64,t=1,p=257"),
		argon("m=" + strings.Repeat("0", 200) + "64,t=1,p=1"), "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAB$" + hash,
		argon("m=64,t=1,p=1,keyid=AA"), argon(""), "$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + hash, "$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + hash,
		argon("m=64,t=1,p=1") + "$", argon("m=64,t=1,p=1") + "=", argon("m=64,t=1,p=1") + "\n",
		"$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAA$" + hash, "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$AAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=64,t=1,p=1$" + strings.Repeat("A", 87) + "$" + hash, "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + strings.Repeat("A", 87),
	} {
		if ok, err := k.Verify("x", v); ok || !errors.Is(err, latchkey.ErrCorrupt) || !errors.Is(err, keyimport.ErrInvalidVerifier) {
			t.Errorf("%q: got %v, %v", v, ok, err)
		}
		if n, err := k.Memory(v); n != 0 || !errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("%q: Memory: got %d, %v", v, n, err)
		}
	}
}

func prefixed(name string) keyimport.Scheme {
	return keyimport.Scheme{Name: name, Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Separator: "."}}
}

func TestAKeyAndItsTokenHaveTheSameHandle(t *testing.T) {
	const token = "app_ab12.secret-secret-3456"
	digest := sha256.Sum256([]byte(token))
	bcrypt := "$2b$04$" + strings.Repeat("a", 53)
	for _, tt := range []struct {
		about        string
		scheme       keyimport.Scheme
		hash, handle string
	}{
		{"a digest", keyimport.Scheme{Name: "a", Hash: keyimport.SHA256}, hex.EncodeToString(digest[:]), ""},
		{"a digest in capitals", keyimport.Scheme{Name: "a", Hash: keyimport.SHA256}, strings.ToUpper(hex.EncodeToString(digest[:])), ""},
		{"a prefix", prefixed("a"), bcrypt, "app_ab12"},
		{"a longer prefix", keyimport.Scheme{Name: "a", Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Separator: "-", Count: 2}}, bcrypt, "app_ab12.secret-secret"},
		{"the last characters", keyimport.Scheme{Name: "a", Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Last: 4}}, bcrypt, "3456"},
	} {
		key, err := tt.scheme.Key(tt.hash, tt.handle, time.Time{})
		must(t, err)
		if got := newKeys(t, tt.scheme).Handles(token); !reflect.DeepEqual(got, []latchkey.ForeignHandle{handleOf(key)}) {
			t.Errorf("%s: got %x, want %x", tt.about, got, handleOf(key))
		}
		if got := newKeys(t, tt.scheme).Handles(token + "x"); len(got) == 1 && got[0] == handleOf(key) && tt.scheme.Handle.Separator == "" {
			t.Errorf("%s: another token has the same handle", tt.about)
		}
		other := tt.scheme
		other.Name = "b"
		same := newKeys(t, other).Handles(token)[0] == handleOf(key)
		if isDigest := tt.handle == ""; same != isDigest {
			t.Errorf("%s: the handle in another scheme is the same: %v", tt.about, same)
		}
	}
	sha512, err := keyimport.Scheme{Name: "c", Hash: keyimport.SHA512}.Key(verifiers(t)[len(verifiers(t))-1].Verifier[len("$sha512$"):], "", time.Time{})
	must(t, err)
	if got := newKeys(t, keyimport.Scheme{Name: "c", Hash: keyimport.SHA512}).Handles(verifiers(t)[0].Token); len(got) != 1 || got[0] != handleOf(sha512) {
		t.Errorf("SHA-512: got %x, want %x", got, handleOf(sha512))
	}
}

func TestAStringOfAnotherFormHasNoHandle(t *testing.T) {
	digests := keyimport.Scheme{Name: "digests", Hash: keyimport.SHA256, Prefix: "app_", MinLength: 10, MaxLength: 20}
	k := newKeys(t, digests, prefixed("prefixed"), keyimport.Scheme{Name: "last", Hash: keyimport.Argon2id, Handle: keyimport.Handle{Last: 10}, MinLength: 1})
	for _, tt := range []struct {
		token string
		want  int
	}{
		{"app_123456", 0}, {"app_1234567", 2}, {"app_12345", 0}, {"app_" + strings.Repeat("x", 16), 2}, {"app_" + strings.Repeat("x", 17), 1},
		{"", 0}, {"short", 0}, {"0123456789", 0}, {"0123456789x", 1}, {"ab12.secretsecretsecret", 2}, {".secretsecretsecret", 1},
		{strings.Repeat("x", 55) + ".secret", 2}, {strings.Repeat("x", 56) + ".secret", 1},
		{"app_1234 67", 0}, {"app_1234\x007", 0}, {"app_1234é7", 0}, {strings.Repeat("x", 512), 1}, {strings.Repeat("x", 513), 0},
	} {
		if tt.token == "app_123456" {
			tt.want = 1 // of 10 characters, so none is before the last 10
		}
		if got := k.Handles(tt.token); len(got) != tt.want {
			t.Errorf("%.40q: got %d handles, want %d", tt.token, len(got), tt.want)
		}
	}
}

func TestSchemesThatCannotBeUsedAreRefused(t *testing.T) {
	good := prefixed("a")
	for _, tt := range []struct {
		about  string
		change func(s *keyimport.Scheme)
	}{
		{"no name", func(s *keyimport.Scheme) { s.Name = "" }},
		{"a name with a blank", func(s *keyimport.Scheme) { s.Name = "a b" }},
		{"a name that is too long", func(s *keyimport.Scheme) { s.Name = strings.Repeat("x", 65) }},
		{"no hash", func(s *keyimport.Scheme) { s.Hash = "" }},
		{"another hash", func(s *keyimport.Scheme) { s.Hash = "md5" }},
		{"a digest with a handle", func(s *keyimport.Scheme) { s.Hash = keyimport.SHA256 }},
		{"no handle", func(s *keyimport.Scheme) { s.Handle = keyimport.Handle{} }},
		{"two handles", func(s *keyimport.Scheme) { s.Handle.Last = 3 }},
		{"a negative handle", func(s *keyimport.Scheme) { s.Handle = keyimport.Handle{Last: -1} }},
		{"a handle that is too long", func(s *keyimport.Scheme) { s.Handle = keyimport.Handle{Last: 129} }},
		{"a negative count", func(s *keyimport.Scheme) { s.Handle.Count = -1 }},
		{"a count of last characters", func(s *keyimport.Scheme) { s.Handle = keyimport.Handle{Last: 3, Count: 1} }},
		{"a separator that cannot be in a token", func(s *keyimport.Scheme) { s.Handle.Separator = " " }},
		{"a prefix that cannot be in a token", func(s *keyimport.Scheme) { s.Prefix = "é" }},
		{"a negative length", func(s *keyimport.Scheme) { s.MinLength = -1 }},
		{"a length that is too great", func(s *keyimport.Scheme) { s.MaxLength = 513 }},
		{"lengths in the wrong order", func(s *keyimport.Scheme) { s.MinLength, s.MaxLength = 30, 20 }},
	} {
		s := good
		tt.change(&s)
		if _, err := keyimport.New(s); !errors.Is(err, keyimport.ErrInvalidScheme) {
			t.Errorf("%s: New: got %v", tt.about, err)
		}
		if _, err := s.Key("$2b$04$"+strings.Repeat("a", 53), "x", time.Time{}); !errors.Is(err, keyimport.ErrInvalidScheme) {
			t.Errorf("%s: Key: got %v", tt.about, err)
		}
	}
	if _, err := keyimport.New(good, good); !errors.Is(err, keyimport.ErrInvalidScheme) {
		t.Errorf("two of one name: got %v", err)
	}
	var many []keyimport.Scheme
	for i := range keyimport.MaxSchemes + 1 {
		many = append(many, prefixed(fmt.Sprint(i)))
	}
	if _, err := keyimport.New(many...); !errors.Is(err, keyimport.ErrInvalidScheme) {
		t.Errorf("too many: got %v", err)
	}
	newKeys(t, many[1:]...)
}

func TestAHashThatIsNotTheSchemesIsRefusedAndNotShown(t *testing.T) {
	bcrypt := "$2b$04$" + strings.Repeat("a", 53)
	digests := keyimport.Scheme{Name: "d", Hash: keyimport.SHA256}
	last := keyimport.Scheme{Name: "l", Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Last: 4}}
	for _, tt := range []struct {
		about        string
		scheme       keyimport.Scheme
		hash, handle string
	}{
		{"bcrypt for a digest", digests, bcrypt, ""},
		{"a digest of zeros", digests, strings.Repeat("0", 64), ""},
		{"a longer digest", digests, strings.Repeat("c0ffee00", 16), ""},
		{"a digest with a handle", digests, strings.Repeat("c0ffee00", 8), "x"},
		{"a digest for bcrypt", prefixed("p"), "$sha256$" + strings.Repeat("c0ffee00", 8), "x"},
		{"argon2id for bcrypt", prefixed("p"), "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x"},
		{"no handle", prefixed("p"), bcrypt, ""},
		{"a handle that is too long", prefixed("p"), bcrypt, strings.Repeat("x", 129)},
		{"a handle that leaves bcrypt nothing of the secret", prefixed("p"), bcrypt, strings.Repeat("x", 56)},
		{"a handle with a blank", prefixed("p"), bcrypt, "a b"},
		{"a handle of another length", last, bcrypt, "123"},
	} {
		_, err := tt.scheme.Key(tt.hash, tt.handle, time.Time{})
		if !errors.Is(err, keyimport.ErrInvalidVerifier) {
			t.Errorf("%s: got %v", tt.about, err)
		}
		if err != nil && (strings.Contains(err.Error(), "c0ffee") || strings.Contains(err.Error(), "aaaa")) {
			t.Errorf("%s: the error shows the hash: %v", tt.about, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	for _, v := range verifiers(f) {
		f.Add(v.Token, v.Verifier)
	}
	f.Add("x", "$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, token, verifier string) {
		k := newKeys(t)
		if n, _ := k.Memory(verifier); n > 4<<20 || strings.HasPrefix(verifier, "$2") && !strings.Contains(verifier[:min(len(verifier), 7)], "$04$") ||
			strings.Contains(verifier, ",t=") && !strings.Contains(verifier, ",t=1,") {
			return // slow
		}
		ok, err := k.Verify(token, verifier)
		if err != nil && (ok || !errors.Is(err, latchkey.ErrCorrupt)) {
			t.Errorf("got %v, %v", ok, err)
		}
	})
}

func FuzzHandles(f *testing.F) {
	f.Add("app_ab12.secretsecret-1234", ".", 1, 0)
	f.Add("x", "--", 3, 4)
	f.Add("ab---cd--ef--secret", "--", 2, 0)
	f.Add(strings.Repeat("a", 60)+".secret", ".", 1, 0)
	f.Fuzz(func(t *testing.T, token, separator string, count, last int) {
		s := keyimport.Scheme{Name: "a", Hash: keyimport.Bcrypt, MinLength: 1, Handle: keyimport.Handle{Separator: separator, Count: count, Last: last}}
		k, err := keyimport.New(s)
		if err != nil {
			return
		}
		handles := k.Handles(token)
		if len(handles) == 0 {
			return
		}
		// The handle that the docs describe is the one that is found.
		var handle string
		if last > 0 {
			handle = token[len(token)-last:]
		} else {
			parts := strings.SplitN(token, separator, max(count, 1)+1)
			handle = strings.Join(parts[:len(parts)-1], separator)
		}
		key, err := s.Key("$2b$04$"+strings.Repeat("a", 53), handle, time.Time{})
		if err != nil || handleOf(key) != handles[0] {
			t.Errorf("%q with the handle %q: %v, %x and %x", token, handle, err, handleOf(key), handles[0])
		}
	})
}

// digestOf returns the SHA-256 of a token in hexadecimal digits.
func digestOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
