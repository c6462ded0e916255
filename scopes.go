package latchkey

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

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
//   - The scope "*" permits every scope.
//
// A star elsewhere is an ordinary character. Scopes that begin with "latchkey:" are reserved for
// the project's own parts: only a key that lists one by its full name has it.
//
// Scopes is an immutable value, which can be compared with == and used by several goroutines at
// once. In JSON it is one string with a blank between two scopes, as OAuth writes them (RFC 6749,
// section 3.3). The zero Scopes permits nothing.
type Scopes struct {
	// list has the scopes in the order of their bytes, in the form that pack writes.
	list string
	// invalid says why the scopes cannot be stored, or is empty.
	invalid string
}

// The limits of [Scopes] that are stored.
const (
	MaxScopes = 64  // scopes of one key
	MaxScope  = 128 // bytes of one scope
)

const reservedScopes = "latchkey:"

// NewScopes returns scopes. Their order does not matter, and neither does it matter if a scope is
// given twice.
//
// NewScopes cannot fail. A call that stores scopes returns [ErrInvalidScope] if one of them is not
// 1 to [MaxScope] characters of ASCII that RFC 6749, section 3.3, allows in a scope (no blanks,
// quotes and backslashes), if one is a wildcard of reserved scopes, or if there are more than
// [MaxScopes]. Until then such a scope, and each one that is too many, permits nothing.
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
		if validScope(scope) {
			return false
		}
		s.invalid = fmt.Sprintf("%.80q is not 1 to %d characters of ASCII without blanks, quotes and backslashes, or is a wildcard of reserved scopes", scope, MaxScope)
		return true
	})
	s.list = pack(scopes)
	return s
}

// A packed list of n scopes is a byte with n - 1 and two flags, a mark of one byte for each scope,
// two bytes for each scope that say where its text ends, and the texts. So Has compares a text only
// with the scopes that have the mark of the text.
const (
	packedCount     = MaxScopes - 1 // the number of scopes, less one
	packedWildcards = MaxScopes     // some scope is a wildcard that ends in ":*"
	packedAll       = 2 * MaxScopes // one scope is "*"
)

func pack(scopes []string) string {
	if len(scopes) == 0 {
		return ""
	}
	head := byte(len(scopes) - 1)
	var marks, ends, texts []byte
	for _, scope := range scopes {
		switch {
		case scope == "*":
			head |= packedAll
		case isWildcard(scope):
			head |= packedWildcards
		}
		marks = append(marks, mark(scope[:len(scope)-1], scope[len(scope)-1]))
		texts = append(texts, scope...)
		ends = binary.LittleEndian.AppendUint16(ends, uint16(len(texts)))
	}
	return string(slices.Concat([]byte{head}, marks, ends, texts))
}

// mark returns the mark of a scope, which is a text and one more character.
func mark(text string, last byte) byte {
	n := len(text)
	h := uint32(n)<<8 | uint32(last)
	if n > 0 {
		h += uint32(text[n-1])<<16 + uint32(text[n/2])<<4
	}
	return byte(h * 0x9e3779b1 >> 24)
}

// has reports whether the list has the scope that is a text and one more character.
func (s Scopes) has(text string, last byte) bool {
	n := int(s.list[0]&packedCount) + 1
	marks, ends, texts := s.list[1:1+n], s.list[1+n:1+3*n], s.list[1+3*n:]
	want := mark(text, last)
	for i := 0; i < n; i++ {
		next := strings.IndexByte(marks[i:], want)
		if next < 0 {
			return false
		}
		i += next
		end, start := int(ends[2*i])|int(ends[2*i+1])<<8, 0
		if i > 0 {
			start = int(ends[2*i-2]) | int(ends[2*i-1])<<8
		}
		if scope := texts[start:end]; len(scope) == len(text)+1 && scope[len(text)] == last && scope[:len(text)] == text {
			return true
		}
	}
	return false
}

// isWildcard reports whether a scope permits all that begins with the text before its star.
func isWildcard(scope string) bool { return scope == "*" || strings.HasSuffix(scope, ":*") }

func validScope(scope string) bool {
	if isWildcard(scope) && strings.HasPrefix(scope, reservedScopes) {
		return false
	}
	return len(scope) > 0 && len(scope) <= MaxScope && !strings.ContainsFunc(scope, notInScopes)
}

func notInScopes(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }

// Has reports whether the scopes permit a scope. Has("") is false. Has takes some nanoseconds,
// however many scopes there are, and allocates nothing.
func (s Scopes) Has(scope string) bool {
	if s.list == "" || scope == "" {
		return false
	}
	if s.has(scope[:len(scope)-1], scope[len(scope)-1]) {
		return true
	}
	if s.list[0]&packedWildcards != 0 {
		for i := range len(scope) - 1 {
			if scope[i] == ':' && s.has(scope[:i+1], '*') {
				return true
			}
		}
	}
	return s.list[0]&packedAll != 0 && !strings.HasPrefix(scope, reservedScopes)
}

// Covers reports whether the scopes permit all that other permits. A program that lets its callers
// make keys gives no key more than its maker has.
func (s Scopes) Covers(other Scopes) bool {
	for _, scope := range other.All() {
		if !s.Has(scope) {
			return false
		}
	}
	return true
}

// All returns the scopes in the order of their bytes. Without any it returns an empty slice.
func (s Scopes) All() []string {
	if s.list == "" {
		return []string{}
	}
	n := int(s.list[0]&packedCount) + 1
	ends, texts := s.list[1+n:1+3*n], s.list[1+3*n:]
	all := make([]string, n)
	start := 0
	for i := range all {
		end := int(ends[2*i]) | int(ends[2*i+1])<<8
		all[i], start = texts[start:end], end
	}
	return all
}

// IsZero reports whether there are no scopes.
func (s Scopes) IsZero() bool { return s == Scopes{} }

// String returns the scopes with blanks between them.
func (s Scopes) String() string { return strings.Join(s.All(), " ") }

// MarshalText returns what [Scopes.String] returns.
func (s Scopes) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads scopes with blanks between them.
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
// If replicas change the scopes while they are apart, the scopes of one replica win. So a
// restriction that must hold is a disabling: see [Store.DisableKey].
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidScope]; or an error of [Store.Update].
func (s *Store) SetScopes(ctx context.Context, owner, id uuid.UUID, scopes Scopes) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetScopes(owner, id, scopes) })
	return wrapf(err, "set the scopes of key %s", id)
}

// SetScopes is [Store.SetScopes] in a transaction.
func (tx *Tx) SetScopes(owner, id uuid.UUID, scopes Scopes) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) {
		all := scopes.All()
		return setRegister(&k.Scopes, all, slices.Equal(all, k.Scopes.Value), at), scopes.validate()
	})
}
