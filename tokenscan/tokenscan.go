// Package tokenscan finds tokens in any text, such as source code, logs and messages, by the form
// that docs/formats.md publishes. A store then tells which of them are good.
//
//	for found, err := range tokenscan.FindTokens(file, "lk") {
//		if err != nil {
//			return err
//		}
//		answer, err := tokenscan.Ask(ctx, store, found)
//		if err != nil {
//			return err
//		}
//		fmt.Println(found, answer.State)
//	}
//
// A token in a text that others can read is no longer a secret, even if the text has been deleted
// since. Disable its key, or rotate the key without overlap.
package tokenscan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"strings"

	"github.com/google/uuid"
)

// A Found is a string that has the form of a token, and its place in a text. It prints without the
// token.
type Found struct {
	Prefix string    `json:"prefix"` // of the token
	KeyID  uuid.UUID `json:"key_id"` // of the token's key, which need not exist
	Offset int64     `json:"offset"` // of the token's first byte in the text
	Line   int       `json:"line"`   // from 1 on
	Column int       `json:"column"` // of the token's first byte in its line, from 1 on

	// token is a function, because fmt prints the content of an unexported string.
	token func() string
}

// Token returns the token.
func (f Found) Token() string {
	if f.token == nil {
		return ""
	}
	return f.token()
}

// Format writes the place, the prefix and the key's ID, whatever the verb.
func (f Found) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "%d:%d: %s_… of key %s", f.Line, f.Column, f.Prefix, f.KeyID)
}

const (
	maxPrefix   = 16
	wordDigits  = 11
	words       = 7
	tokenDigits = words * wordDigits // after the underscore
)

// maxEmptyReads is how often in a row a reader may return neither bytes nor an error.
const maxEmptyReads = 100

// FindTokens yields the strings in a text that have the form of a token with a prefix, in the order
// of the text. With an empty prefix it yields tokens of any prefix. The text can be of any length
// and need not be text at all: FindTokens reads it once, and keeps 64 KiB of it in memory.
//
// A token with a given prefix is also found behind other characters, as in "%3Dlk_…" or
// "\nlk_…", where the text has escape sequences. With an empty prefix these characters would be
// taken for a part of the prefix. FindTokens leaves out digits that do not stand for groups of 8
// bytes. Of the strings of random letters and digits in the form of a token, one in 1,400 remains.
// FindTokens does not find tokens in texts that are compressed, encrypted, in base64 or in UTF-16.
//
// If r returns an error other than [io.EOF], the error is the last element.
func FindTokens(r io.Reader, prefix string) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		s := scanner{wanted: prefix, line: 1}
		buf := make([]byte, 64<<10)
		for empty := 0; ; {
			n, err := r.Read(buf)
			if empty++; n > 0 {
				empty = 0
			}
			if err == nil && empty == maxEmptyReads {
				err = io.ErrNoProgress
			}
			for rest := buf[:n]; len(rest) > 0; {
				rest = rest[s.digits(rest):]
				if len(rest) > 0 {
					if s.endsToken() && !yield(s.found(), nil) {
						return
					}
					s.other(rest[0])
					rest = rest[1:]
				}
			}
			if err == nil {
				continue
			}
			if s.endsToken() && !yield(s.found(), nil) {
				return
			}
			if !errors.Is(err, io.EOF) {
				yield(Found{}, err)
			}
			return
		}
	}
}

// A scanner looks at a text, which it takes in runs of digits of base 62, and single bytes between
// two runs.
type scanner struct {
	wanted string // the prefix, or empty for any

	offset    int64 // of the next byte
	line      int
	lineStart int64

	// The run of digits at the end of what was taken: its length, which may be 0, its first digits,
	// and its last digits.
	length int64
	first  [tokenDigits]byte
	last   [maxPrefix]byte

	// prefix is the prefix of a token whose digits are the run. It is empty if there is no
	// underscore before the run, or no prefix before the underscore.
	prefix string
}

// digits takes the digits at the beginning of b, and returns how many there are.
func (s *scanner) digits(b []byte) (n int) {
	for n < len(b) && isDigit[b[n]] {
		n++
	}
	if s.length < tokenDigits {
		copy(s.first[s.length:], b[:n])
	}
	kept := copy(s.last[:], s.last[min(n, maxPrefix):])
	copy(s.last[kept:], b[max(0, n-maxPrefix):n])
	s.length += int64(n)
	s.offset += int64(n)
	return n
}

// other takes a byte that is no digit.
func (s *scanner) other(c byte) {
	s.prefix = ""
	if c == '_' {
		s.prefix = s.asPrefix()
	}
	s.length = 0
	s.offset++
	if c == '\n' {
		s.line++
		s.lineStart = s.offset
	}
}

// asPrefix returns the prefix that the run ends with, or "" if it ends with none.
func (s *scanner) asPrefix() string {
	tail := string(s.last[maxPrefix-min(s.length, maxPrefix):])
	switch {
	case s.wanted != "" && strings.HasSuffix(tail, s.wanted):
		return s.wanted
	case s.wanted == "" && s.length <= maxPrefix:
		return tail
	}
	return ""
}

// endsToken reports whether the run has the digits of a token. The caller knows that no digit
// follows.
func (s *scanner) endsToken() bool {
	if s.prefix == "" || s.length != tokenDigits {
		return false
	}
	for i := range words {
		if _, ok := parseWord(s.first[i*wordDigits:][:wordDigits]); !ok {
			return false
		}
	}
	return true
}

// found returns the token that ends with the run.
func (s *scanner) found() Found {
	var id uuid.UUID
	for i := range len(id) / 8 {
		word, _ := parseWord(s.first[i*wordDigits:][:wordDigits])
		binary.BigEndian.PutUint64(id[8*i:], word)
	}
	token := s.prefix + "_" + string(s.first[:])
	start := s.offset - int64(len(token))
	return Found{
		Prefix: s.prefix, KeyID: id, Offset: start, Line: s.line, Column: int(start-s.lineStart) + 1,
		token: func() string { return token },
	}
}

// isDigit tells which bytes are digits of base 62.
var isDigit = func() (is [256]bool) {
	for _, c := range []byte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		is[c] = true
	}
	return is
}()

// parseWord returns the number that digits of base 62 stand for, and reports whether the number
// fits into 8 bytes.
func parseWord(digits []byte) (word uint64, ok bool) {
	for _, c := range digits {
		d := uint64(c - '0')
		switch {
		case c >= 'a':
			d = uint64(c-'a') + 36
		case c >= 'A':
			d = uint64(c-'A') + 10
		}
		high, low := bits.Mul64(word, 62)
		sum, carry := bits.Add64(low, d, 0)
		if high+carry != 0 {
			return 0, false
		}
		word = sum
	}
	return word, true
}
