package packed

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Scopes are a list of scopes.
//
// A packed list of n scopes is a byte with n - 1 and two flags, a mark of one byte for each scope,
// two bytes for each scope that say where its text ends, and the texts. So Has compares a text only
// with the scopes that have the mark of the text.
type Scopes string

// The first byte.
const (
	headCount     = record.MaxScopes - 1 // the number of scopes, less one
	headWildcards = record.MaxScopes     // some scope is a wildcard that ends in ":*"
	headAll       = 2 * record.MaxScopes // one scope is "*"
)

// PackScopes packs scopes, which are valid, at most [record.MaxScopes], and in the order of their
// bytes, each once.
func PackScopes(scopes []string) Scopes {
	if len(scopes) == 0 {
		return ""
	}
	head := byte(len(scopes) - 1)
	var marks, ends, texts []byte
	for _, scope := range scopes {
		switch {
		case scope == "*":
			head |= headAll
		case isWildcard(scope):
			head |= headWildcards
		}
		marks = append(marks, mark(scope[:len(scope)-1], scope[len(scope)-1]))
		texts = append(texts, scope...)
		ends = binary.LittleEndian.AppendUint16(ends, uint16(len(texts)))
	}
	return Scopes(slices.Concat([]byte{head}, marks, ends, texts))
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
	n := int(s[0]&headCount) + 1
	marks, ends, texts := string(s[1:1+n]), string(s[1+n:1+3*n]), string(s[1+3*n:])
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

// reserved begins the scopes that no wildcard permits.
const reserved = "latchkey:"

// isWildcard reports whether a scope permits all that begins with the text before its star.
func isWildcard(scope string) bool { return scope == "*" || strings.HasSuffix(scope, ":*") }

// ValidScope reports whether a scope can be stored.
func ValidScope(scope string) bool {
	if isWildcard(scope) && strings.HasPrefix(scope, reserved) {
		return false
	}
	return len(scope) > 0 && len(scope) <= record.MaxScope && !strings.ContainsFunc(scope, notInScopes)
}

func notInScopes(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }

// Has reports whether the scopes permit a scope.
func (s Scopes) Has(scope string) bool {
	if s == "" || scope == "" {
		return false
	}
	if s.has(scope[:len(scope)-1], scope[len(scope)-1]) {
		return true
	}
	if s[0]&headWildcards != 0 {
		for i := range len(scope) - 1 {
			if scope[i] == ':' && s.has(scope[:i+1], '*') {
				return true
			}
		}
	}
	return s[0]&headAll != 0 && !strings.HasPrefix(scope, reserved)
}

// All returns the scopes in the order of their bytes. Without any it returns an empty slice.
func (s Scopes) All() []string {
	if s == "" {
		return []string{}
	}
	n := int(s[0]&headCount) + 1
	ends, texts := s[1+n:1+3*n], string(s[1+3*n:])
	all := make([]string, n)
	start := 0
	for i := range all {
		end := int(ends[2*i]) | int(ends[2*i+1])<<8
		all[i], start = texts[start:end], end
	}
	return all
}
