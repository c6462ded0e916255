// Package names has the rules for the texts by which people know users and keys: the names of keys
// and the subjects of identities.
package names

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// MaxLength is the length of the longest text in bytes.
const MaxLength = 256

// A Kind says what a text is for.
type Kind int

// The kinds, from the one with the fewest rules to the one with the most. Each kind has the rules
// of the kinds before it.
const (
	// Stored is a text that is in a record already. The store reads it, even if it was made before
	// a rule for new texts existed.
	Stored Kind = iota
	// Subject is the subject of an identity that a user is to get.
	Subject
	// Name is the name that a key is to get.
	Name
)

// rules are all rules for a text, in the order in which they are checked. problem returns what is
// wrong with a text, or "".
var rules = []struct {
	least   Kind // the first kind that has the rule
	problem func(s string) string
}{
	{Stored, empty},
	{Stored, tooLong},
	{Stored, notUTF8},
	{Stored, controlled},
	{Subject, unseen},
	{Subject, badEdge},
	{Name, likeID},
}

// Problem returns the rule that s breaks, as the end of a sentence about s, or "" if s breaks none.
func Problem(k Kind, s string) string {
	for _, r := range rules {
		if r.least > k {
			break
		}
		if problem := r.problem(s); problem != "" {
			return problem
		}
	}
	return ""
}

func empty(s string) string {
	if s == "" {
		return "is empty"
	}
	return ""
}

func tooLong(s string) string {
	if len(s) > MaxLength {
		return fmt.Sprintf("has %d bytes; the most is %d", len(s), MaxLength)
	}
	return ""
}

func notUTF8(s string) string {
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	return ""
}

func controlled(s string) string {
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Sprintf("has the control character %U", r)
		}
	}
	return ""
}

// unseen finds a text that looks empty.
func unseen(s string) string {
	for _, r := range s {
		if !isBlank(r) {
			return ""
		}
	}
	return "has nothing visible in it"
}

// isBlank reports whether r leaves no mark where a text is shown. Beside the characters that isEdge
// knows, these are characters that only change others, such as variation selectors, and letters
// that stand for nothing, such as U+3164, the Hangul filler.
func isBlank(r rune) bool {
	const emptyBraille = '\u2800'
	return isEdge(r) || r == emptyBraille || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// badEdge finds a text that looks like a shorter one.
func badEdge(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	switch {
	case isEdge(first):
		return "begins with " + edgeText(first)
	case isEdge(last):
		return "ends with " + edgeText(last)
	}
	return ""
}

// isEdge reports whether r is white space or an invisible character, so that nobody sees r at the
// beginning or the end of a text. Some characters of the category Cf, such as U+0600, are visible.
func isEdge(r rune) bool {
	if unicode.Is(unicode.Cf, r) {
		return !unicode.Is(unicode.Prepended_Concatenation_Mark, r)
	}
	return unicode.In(r, unicode.White_Space, unicode.Z)
}

func edgeText(r rune) string {
	if unicode.In(r, unicode.White_Space, unicode.Z) {
		return fmt.Sprintf("white space, %U", r)
	}
	return fmt.Sprintf("the invisible character %U", r)
}

// likeID finds a text that a program which takes an ID or a name would take for an ID.
func likeID(s string) string {
	var err error
	switch len(s) {
	case 24: // an ObjectId
		_, err = hex.DecodeString(s)
	case 36: // a UUID in the usual form
		_, err = uuid.Parse(s)
	default:
		return ""
	}
	if err != nil {
		return ""
	}
	return "has the form of an ID"
}

// Cut returns the beginning of s, at most n bytes. It cuts between two characters.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Quote returns s in quotation marks, for an error. It shortens a long s, which may be a token in
// the wrong place.
func Quote(s string) string {
	const most, kept = 64, 40 // a UUID and an ordinary address are shorter than most
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(Cut(s, kept) + "…")
}
