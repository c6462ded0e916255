// Package keyimport moves keys into a store that were made elsewhere. The holders of the keys go on
// with the tokens that they have.
//
// Most systems keep a hash of each token. The store keeps the same hash for the imported key, and
// checks tokens against it. A [Scheme] says how a system hashes its tokens, and what its tokens
// look like. [New] makes what the store needs of some schemes:
//
//	foreign, err := keyimport.New(keyimport.BetterAuth().Scheme)
//	store, err := latchkey.Open("keys.db", &latchkey.Options{Foreign: foreign})
//
// [Read] reads the keys that another system has exported. It reads the formats of Unkey, of
// djangorestframework-api-key and of better-auth, and a general one. [Import] makes the keys in a
// store, and [Export] writes what a store has.
//
// # What an imported key costs
//
// A token of the store's own has a tag, so that a string which is no token is refused for the price
// of a MAC. A foreign token has none. In a store that was opened with [latchkey.Options].Foreign, a
// string in the form of a foreign token costs one hash and a look at a filter in memory, and a
// string that the filter lets pass costs a look at the file. So make the forms of schemes as narrow
// as the tokens are.
//
// Tokens with a digest of the whole token ([SHA256], [SHA512]) are found by it, and a string that
// is no token costs nothing more. Tokens with a [Bcrypt] or [Argon2id] hash, which has a salt, are
// found by a handle: a part of the token that the other system keeps in clear, such as a prefix. If
// a handle exists, a string with it costs a slow hash. The store makes at most one such hash a
// second for each handle, and has a queue of its own for them. So a stranger with the handle of a
// key can make the first login of its holder wait, or fail with [latchkey.ErrBusy]. After the first
// login, the store has a hash at its own cost, and knows most wrong tokens without it.
//
// The store does not see tokens that are in the form of its own tokens: its prefix, an underscore,
// and 77 letters and digits. Give the store another prefix if the old tokens look like that.
//
// # What is not imported
//
// A digest without a salt is safe only for tokens that nobody can guess. Do not import digests of
// passwords, or of tokens with less than 128 random bits.
//
// Limits of rates and roles are not imported. A key with a limited number of uses is refused,
// because it would become a key without that limit.
package keyimport

import (
	"errors"
	"fmt"

	"github.com/latchkeydb/latchkey"
)

// Keys knows the tokens of some schemes. It is made for [latchkey.Options].Foreign, and is safe for
// concurrent use.
type Keys struct{ schemes []Scheme }

var _ latchkey.Foreign = (*Keys)(nil)

// MaxSchemes is how many schemes one store can have, because each can cost a hash for a string.
const MaxSchemes = 8

// New returns what a store needs of some schemes.
//
// Errors: [ErrInvalidScheme].
func New(schemes ...Scheme) (*Keys, error) {
	if len(schemes) > MaxSchemes {
		return nil, fmt.Errorf("%w: %d schemes are more than %d", ErrInvalidScheme, len(schemes), MaxSchemes)
	}
	names := map[string]bool{}
	k := &Keys{}
	for _, s := range schemes {
		if err := s.validate(); err != nil {
			return nil, err
		}
		if names[s.Name] {
			return nil, fmt.Errorf("%w: two have the name %q", ErrInvalidScheme, s.Name)
		}
		names[s.Name] = true
		k.schemes = append(k.schemes, s)
	}
	return k, nil
}

// Handles returns the handles of the keys that a token may belong to, at most one for each scheme.
func (k *Keys) Handles(token string) (handles []latchkey.ForeignHandle) {
	for i := range k.schemes {
		if h, ok := k.schemes[i].handle(token); ok {
			handles = append(handles, h)
		}
	}
	return handles
}

// Memory returns how many bytes [Keys.Verify] takes for a verifier at most, or 0 for a digest.
//
// Errors: an error that wraps [latchkey.ErrCorrupt] if the verifier cannot be read or costs too
// much.
func (k *Keys) Memory(verifier string) (int64, error) {
	v, err := parseVerifier(verifier)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", latchkey.ErrCorrupt, err)
	}
	return v.memory(), nil
}

// Verify reports whether a verifier was made from a token.
//
// Errors: those of [Keys.Memory].
func (k *Keys) Verify(token, verifier string) (bool, error) {
	v, err := parseVerifier(verifier)
	if err != nil {
		return false, fmt.Errorf("%w: %w", latchkey.ErrCorrupt, err)
	}
	if len(token) > MaxTokenLength {
		return false, nil
	}
	return v.matches(token), nil
}

// The errors of the package.
var (
	// ErrInvalidScheme means that a [Scheme] cannot be used. The text says why.
	ErrInvalidScheme = errors.New("invalid scheme")
	// ErrInvalidVerifier means that a hash is not of the kind that its scheme has, or costs too
	// much.
	ErrInvalidVerifier = errors.New("invalid verifier")
)
