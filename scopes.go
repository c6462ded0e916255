package latchkey

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/packed"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Scopes are the permissions that a key carries. The program that embeds the store checks them, by
// [Scopes.Has]. A key without scopes logs in and is permitted nothing.
//
// A scope is a text that means something to the program, such as "files:read". Scopes are compared
// byte by byte. Two kinds of scopes permit more than their own name:
//
//   - A scope that ends in ":*" permits every scope that begins with the text before the star, at
//     any depth: "files:*" permits "files:read" and "files:a:b", but neither "files" nor
//     "filesx:read".
//   - The scope "*" permits every scope that is not reserved.
//
// A star elsewhere is an ordinary character. Scopes that begin with "latchkey:" are reserved for
// the project's own parts. A key has such a scope only if its scopes have the full name.
//
// Scopes is an immutable value, which can be compared with == and used by several goroutines at
// once. In JSON it is one string with a blank between two scopes, as OAuth writes them (RFC 6749,
// section 3.3). The zero Scopes permits nothing.
type Scopes struct {
	list packed.Scopes
	// invalid says why the scopes cannot be stored, or is empty.
	invalid string
}

// The limits of [Scopes] that are stored.
const (
	MaxScopes = 64  // scopes of one key
	MaxScope  = 128 // bytes of one scope
)

// The build fails unless these are the limits of a record.
var (
	_ = [1]struct{}{}[MaxScopes-record.MaxScopes]
	_ = [1]struct{}{}[MaxScope-record.MaxScope]
)

// NewScopes returns the Scopes with the given texts. Their order does not matter, and a scope that
// is given twice counts once.
//
// NewScopes cannot fail. A call that stores scopes returns [ErrInvalidScope] if one of them is not
// 1 to [MaxScope] characters of ASCII that RFC 6749, section 3.3, allows in a scope (no blanks,
// quotes and backslashes), if one is a wildcard of reserved scopes, or if there are more than
// [MaxScopes]. In the Scopes that NewScopes returns, such a scope permits nothing, and neither does
// a scope beyond [MaxScopes].
func NewScopes(scopes ...string) Scopes {
	scopes = slices.Clone(scopes)
	slices.Sort(scopes)
	scopes = slices.Compact(scopes)
	var s Scopes
	if len(scopes) > MaxScopes {
		s.invalid = fmt.Sprintf("%d scopes are more than %d", len(scopes), MaxScopes)
		scopes = scopes[:MaxScopes]
	}
	scopes = slices.DeleteFunc(scopes, func(scope string) bool {
		if packed.ValidScope(scope) {
			return false
		}
		s.invalid = fmt.Sprintf("%.40q is not 1 to %d characters of ASCII without blanks, quotes and backslashes, or is a wildcard of reserved scopes", scope, MaxScope)
		return true
	})
	s.list = packed.PackScopes(scopes)
	return s
}

// Has reports whether the scopes permit a scope. Has("") is false. Has takes some nanoseconds,
// however many scopes there are, and allocates nothing.
func (s Scopes) Has(scope string) bool { return s.list.Has(scope) }

// Covers reports whether the scopes permit all that other permits. A program that lets its callers
// make keys calls Covers, so that no new key permits more than the key of the caller.
func (s Scopes) Covers(other Scopes) bool {
	for _, scope := range other.All() {
		if !s.Has(scope) {
			return false
		}
	}
	return true
}

// All returns the scopes in the order of their bytes. If there are no scopes, the slice is empty
// and not nil.
func (s Scopes) All() []string { return s.list.All() }

// IsZero reports whether s is the zero Scopes. Scopes that cannot be stored are not zero.
func (s Scopes) IsZero() bool { return s == Scopes{} }

// String returns the scopes with blanks between them.
func (s Scopes) String() string { return strings.Join(s.All(), " ") }

// MarshalText returns what [Scopes.String] returns.
func (s Scopes) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads scopes with white space between them, by [NewScopes]. It returns no error.
func (s *Scopes) UnmarshalText(b []byte) error {
	*s = NewScopes(strings.Fields(string(b))...)
	return nil
}

// validate returns ErrInvalidScope unless the scopes can be stored.
func (s Scopes) validate() error {
	if s.invalid != "" {
		return fmt.Errorf("%w: %s", ErrInvalidScope, s.invalid)
	}
	return nil
}

// SetScopes changes what a key of owner permits. If the key has the scopes already, nothing
// changes. When SetScopes returns nil, the change is on disk, and a login that begins afterwards
// gets the new scopes.
//
// If replicas change the scopes while they are apart, the scopes of one replica win. If a
// restriction must hold, disable the key: see [Store.DisableKey].
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidScope]; [ErrNotPermitted] for the first reserved scope of a key in a domain with
// several stores, because the others would not hear of later changes of the key; or an error of
// [Store.Update].
func (s *Store) SetScopes(ctx context.Context, owner, id uuid.UUID, scopes Scopes) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetScopes(owner, id, scopes) })
	return wrapf(err, "set the scopes of key %s", id)
}

// SetScopes is [Store.SetScopes] in a transaction.
func (tx *Tx) SetScopes(owner, id uuid.UUID, scopes Scopes) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) {
		all := scopes.All()
		if err := tx.checkReserved(k.Scopes.Value, all); err != nil {
			return false, err
		}
		return setRegister(&k.Scopes, all, slices.Equal(all, k.Scopes.Value), at), scopes.validate()
	})
}

// checkReserved returns ErrNotPermitted if a key would get its first reserved scope in a store that
// has or had replicas. The key may be in other stores already, and later changes of a key with
// reserved scopes do not travel.
func (tx *Tx) checkReserved(was, is []string) error {
	if merge.IsReserved(was) || !merge.IsReserved(is) || !tx.isShared() {
		return nil
	}
	return fmt.Errorf("%w: an existing key can get no reserved scope, because the domain has several stores; make another key", ErrNotPermitted)
}
