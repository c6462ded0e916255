// Package loggable makes texts fit for a log that a client may have made up.
package loggable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	longest     = 300 // bytes of a text in the log
	longestWord = 40  // no token is as short
)

// Text returns a text in a form for the log. It replaces the words that are long enough to be a
// token, and cuts the text off.
func Text(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		n := strings.IndexFunc(text, endsWord)
		if n < 0 {
			n = len(text)
		}
		word := text[:n]
		if n > longestWord {
			word = "…"
		}
		if text = text[n:]; text != "" {
			_, size := utf8.DecodeRuneInString(text)
			word, text = word+text[:size], text[size:]
		}
		if b.Len()+len(word) > longest {
			return b.String() + "…"
		}
		b.WriteString(word)
	}
	return b.String()
}

// endsWord reports whether a character cannot be part of a token.
func endsWord(r rune) bool {
	return r != '_' && r != '-' && r != '.' && r != '=' && r != '+' && r != '%' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
}
