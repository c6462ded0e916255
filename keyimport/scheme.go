package keyimport

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A Hash is how a system hashes its tokens.
type Hash string

// The hashes.
const (
	SHA256   Hash = "sha256"   // SHA-256 of the whole token, without a salt
	SHA512   Hash = "sha512"   // SHA-512 of the whole token, without a salt
	Bcrypt   Hash = "bcrypt"   // bcrypt of the whole token, of which it uses 72 bytes
	Argon2id Hash = "argon2id" // argon2id of the whole token
)

func (h Hash) isDigest() bool { return h == SHA256 || h == SHA512 }

// A Handle says which part of a token a key is found by. Either Separator or Last is set.
type Handle struct {
	// Separator ends the handle, which begins the token: of "ab12.secret" the handle is "ab12" if
	// Separator is ".". Count is which separator ends the handle, and 0 is the first.
	Separator string `json:"separator,omitempty"`
	Count     int    `json:"count,omitempty"`

	// Last is how many characters at the end of a token are the handle.
	Last int `json:"last,omitempty"`
}

// The limits of schemes and tokens.
const (
	MaxTokenLength = 512 // bytes of a token
	MaxHandle      = 128 // bytes of a handle
	maxSchemeName  = 64

	// maxBcryptHandle is how many bytes of a token can come before its secret if the hash is
	// bcrypt, which takes no notice of more than 72 bytes. At least 16 of them must be of the
	// secret.
	maxBcryptHandle = 72 - 16
)

// A Scheme says how a system hashes its tokens, and what its tokens look like. All tokens are of
// printable ASCII without blanks.
type Scheme struct {
	// Name tells the scheme from others in one store. It must stay the same as long as the store
	// has keys of the scheme, because handles contain it.
	Name string `json:"name"`
	Hash Hash   `json:"hash"`
	// Handle is for the hashes [Bcrypt] and [Argon2id]. With a digest it must be zero.
	Handle Handle `json:"handle,omitzero"`

	// Prefix begins every token, if it is not empty.
	Prefix string `json:"prefix,omitempty"`
	// MinLength and MaxLength bound the length of tokens. The defaults are 16 and [MaxTokenLength].
	MinLength int `json:"min_length,omitempty"`
	MaxLength int `json:"max_length,omitempty"`
}

func (s *Scheme) minLength() int {
	if s.MinLength == 0 {
		return 16
	}
	return s.MinLength
}

func (s *Scheme) maxLength() int {
	if s.MaxLength == 0 {
		return MaxTokenLength
	}
	return s.MaxLength
}

func (s *Scheme) validate() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w %.80q: %s", ErrInvalidScheme, s.Name, fmt.Sprintf(format, args...))
	}
	h := s.Handle
	switch {
	case s.Name == "" || len(s.Name) > maxSchemeName || !printable(s.Name):
		return invalid("the name is not 1 to %d characters of ASCII without blanks", maxSchemeName)
	case s.Hash != SHA256 && s.Hash != SHA512 && s.Hash != Bcrypt && s.Hash != Argon2id:
		return invalid("there is no hash %.80q", s.Hash)
	case s.Hash.isDigest() && h != (Handle{}):
		return invalid("a digest needs no handle")
	case !s.Hash.isDigest() && (h.Separator == "") == (h.Last == 0):
		return invalid("the handle has either a separator or a number of last characters")
	case h.Last < 0 || h.Last > MaxHandle || h.Count < 0 || h.Count > MaxHandle || h.Last != 0 && h.Count != 0:
		return invalid("the handle is out of bounds")
	case h.Separator != "" && !printable(h.Separator):
		return invalid("the separator is not of printable ASCII")
	case s.Prefix != "" && !printable(s.Prefix):
		return invalid("the prefix is not of printable ASCII")
	case s.minLength() < 1 || s.maxLength() > MaxTokenLength || s.minLength() > s.maxLength():
		return invalid("lengths from %d to %d are not within 1 and %d", s.minLength(), s.maxLength(), MaxTokenLength)
	}
	return nil
}

// printable reports whether a text is of printable ASCII without blanks.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// handle returns the handle of the keys that a token may belong to. ok is false if the string is no
// token of the scheme.
func (s *Scheme) handle(token string) (h latchkey.ForeignHandle, ok bool) {
	if len(token) < s.minLength() || len(token) > s.maxLength() || !strings.HasPrefix(token, s.Prefix) || !printable(token) {
		return h, false
	}
	switch s.Hash {
	case SHA256:
		sum := sha256.Sum256([]byte(token))
		return latchkey.ForeignHandle(sum[:len(h)]), true
	case SHA512:
		sum := sha512.Sum512([]byte(token))
		return latchkey.ForeignHandle(sum[:len(h)]), true
	}
	text, ok := s.Handle.of(token)
	if !ok || s.hidesSecret(text) {
		return h, false
	}
	return s.handleOf(text), true
}

// of returns the part of a token that is the handle. It is not ok if the token has none.
func (h Handle) of(token string) (text string, ok bool) {
	if h.Last > 0 {
		if len(token) <= h.Last {
			return "", false
		}
		return token[len(token)-h.Last:], true
	}
	end := 0
	for range max(h.Count, 1) {
		i := strings.Index(token[end:], h.Separator)
		if i < 0 {
			return "", false
		}
		end += i + len(h.Separator)
	}
	text = token[:end-len(h.Separator)]
	return text, text != "" && len(text) <= MaxHandle
}

// hidesSecret reports whether bcrypt would take too little notice of the secret behind a handle.
func (s *Scheme) hidesSecret(handle string) bool {
	return s.Hash == Bcrypt && s.Handle.Last == 0 && len(handle)+len(s.Handle.Separator) > maxBcryptHandle
}

// handleOf returns the handle that a store has for a part of a token.
func (s *Scheme) handleOf(text string) latchkey.ForeignHandle {
	sum := sha256.Sum256([]byte(s.Name + "\x00" + text))
	return latchkey.ForeignHandle(sum[:16])
}

// Key returns the key of the scheme with a hash, as the other system keeps it: the hexadecimal
// digits of a digest, or a string that begins with "$2" (bcrypt) or "$argon2id$". handle is the
// part of the token that the key is found by; for a digest it is empty. created is when the key was
// made, or the zero time if that is not known.
//
// Errors: [ErrInvalidVerifier]; [ErrInvalidScheme].
func (s Scheme) Key(hash, handle string, created time.Time) (latchkey.MintedKey, error) {
	if err := s.validate(); err != nil {
		return latchkey.MintedKey{}, err
	}
	if s.Hash.isDigest() {
		hash = "$" + string(s.Hash) + "$" + strings.ToLower(hash)
	}
	v, err := parseVerifier(hash)
	if err != nil {
		return latchkey.MintedKey{}, err
	}
	if v.hash != s.Hash {
		return latchkey.MintedKey{}, fmt.Errorf("%w: it is of %s, and the scheme %s has %s", ErrInvalidVerifier, v.hash, s.Name, s.Hash)
	}
	if s.Hash.isDigest() {
		if handle != "" {
			return latchkey.MintedKey{}, fmt.Errorf("%w: a digest has no handle", ErrInvalidVerifier)
		}
		h := latchkey.ForeignHandle(v.digest[:16])
		if h == (latchkey.ForeignHandle{}) { // no token has this digest, and a zero handle is none
			return latchkey.MintedKey{}, fmt.Errorf("%w: it begins with zeros", ErrInvalidVerifier)
		}
		return latchkey.MintForeign(h, hash, created), nil
	}
	if handle == "" {
		return latchkey.MintedKey{}, fmt.Errorf("%w: a hash with a salt needs the handle of its token", ErrInvalidVerifier)
	}
	if len(handle) > MaxHandle || !printable(handle) || s.Handle.Last != 0 && len(handle) != s.Handle.Last {
		return latchkey.MintedKey{}, fmt.Errorf("%w: the handle %.80q is none of the scheme %s", ErrInvalidVerifier, handle, s.Name)
	}
	if s.hidesSecret(handle) {
		return latchkey.MintedKey{}, fmt.Errorf("%w: bcrypt uses 72 bytes of a token, and the handle leaves less than 16 of them to the secret", ErrInvalidVerifier)
	}
	return latchkey.MintForeign(s.handleOf(handle), hash, created), nil
}
