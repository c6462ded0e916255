package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/latchkeydb/latchkey"
)

// This file reads what people paste or redirect into a file: tokens and keys, with what editors and
// shells put around them.

// errUTF16 means that a text is in UTF-16, but does not begin with a byte-order mark.
var errUTF16 = errors.New("the text is in UTF-16 without a byte-order mark")

// decodeText returns data as UTF-8 without a byte-order mark. The shells and editors of Windows
// write such marks, and PowerShell 5 writes UTF-16. decodeText returns data that is no text, such
// as random bytes, as it is.
//
// Errors: errUTF16.
func decodeText(data []byte) ([]byte, error) {
	for _, mark := range []struct {
		bytes  string
		decode func([]byte) []byte
	}{
		{"\xef\xbb\xbf", bytes.Clone},
		{"\xff\xfe", func(b []byte) []byte { return decodeUTF16(b, binary.LittleEndian) }},
		{"\xfe\xff", func(b []byte) []byte { return decodeUTF16(b, binary.BigEndian) }},
	} {
		if rest, ok := bytes.CutPrefix(data, []byte(mark.bytes)); ok {
			if text := mark.decode(rest); text != nil && isText(text) {
				return text, nil
			}
		}
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if text := decodeUTF16(data, order); len(text) > 0 && isText(text) && isASCII(text) {
			return nil, errUTF16
		}
	}
	return data, nil
}

// decodeUTF16 returns data as UTF-8, or nil if data has an odd length.
func decodeUTF16(data []byte, order binary.ByteOrder) []byte {
	if len(data)%2 != 0 {
		return nil
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

// isText reports whether b is UTF-8 and consists of characters that can be seen, blanks, tabs and
// line ends. Invisible characters count as text, because they are copied along with text.
func isText(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.IsSpace(r) && !unicode.Is(unicode.Cf, r)
	})
}

func isASCII(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r >= utf8.RuneSelf })
}

// trimToken returns the token in input, without what people copy along with a token: white space,
// invisible characters, quotation marks, and the word Bearer. A token contains none of these.
//
// Errors: [latchkey.ErrInvalidToken] with errUTF16.
func trimToken(input []byte) (string, error) {
	text, err := decodeText(input)
	if err != nil {
		return "", fmt.Errorf("%w: %w", latchkey.ErrInvalidToken, err)
	}
	const scheme = "bearer"
	token := strings.TrimFunc(string(text), surroundsToken)
	if len(token) > len(scheme) && strings.EqualFold(token[:len(scheme)], scheme) {
		if rest := strings.TrimLeftFunc(token[len(scheme):], surroundsToken); len(rest) < len(token)-len(scheme) {
			token = rest
		}
	}
	return token, nil
}

// explainNone says in err, the refusal of a token, that there was no token, if that is so.
func explainNone(token string, err error) error {
	if token == "" && err != nil {
		return fmt.Errorf("%w: standard input has none", err)
	}
	return err
}

// surroundsToken reports whether r can stand around a token that was copied.
func surroundsToken(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Pi, unicode.Pf) || strings.ContainsRune("\"'`„‚", r)
}
