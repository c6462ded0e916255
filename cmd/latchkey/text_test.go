package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
)

// inUTF16 returns s in UTF-16.
func inUTF16(order binary.AppendByteOrder, s string) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

func TestATokenIsReadWithoutWhatWasCopiedAlong(t *testing.T) {
	token := "lk_" + strings.Repeat("Az09", 19) + "x"
	for _, around := range []string{
		"%", "%\n", "%\r\n", "%\n\n", " %", "\t% \n", "\u00a0%\u00a0", "\u200b%\u200b", "\ufeff%", "\u200e%\u2060", "\u3000%",
		`"%"`, "'%'\n", "`%`", "“%”", "„%“", "«%»", "‘%’", ` "%" `,
		"Bearer %", "bearer  %\n", "BEARER\t%", `"Bearer %"`, "Bearer \"%\"", "\ufeffBearer\u00a0%",
	} {
		text := strings.ReplaceAll(around, "%", token)
		for name, input := range map[string][]byte{
			"UTF-8":                []byte(text),
			"UTF-8 with a mark":    []byte("\ufeff" + text),
			"UTF-16LE with a mark": inUTF16(binary.LittleEndian, "\ufeff"+text),
			"UTF-16BE with a mark": inUTF16(binary.BigEndian, "\ufeff"+text),
		} {
			if got, err := trimToken(input); got != token || err != nil {
				t.Errorf("%s in %s: got %q, %v", around, name, got, err)
			}
		}
	}
	for _, other := range []string{"", "Bearer", "Bearer" + token, token + "\n" + token, token + "."} {
		if got, err := trimToken([]byte(other)); got != other || err != nil {
			t.Errorf("%q: got %q, %v, want it unchanged", other, got, err)
		}
	}
}

func TestUTF16WithoutAMarkIsNamed(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		if got, err := trimToken(inUTF16(order, "lk_Az09\r\n")); !errors.Is(err, errUTF16) {
			t.Errorf("%s: got %q, %v, want errUTF16", order, got, err)
		}
	}
}

func TestBytesThatAreNoTextStayAsTheyAre(t *testing.T) {
	for _, secret := range []string{
		"\xff\xfe" + strings.Repeat("\x01\x02\xfd\xd9", 8), // no text in UTF-16
		"\xff\xfe" + strings.Repeat("odd", 11),
		"\xef\xbb\xbf" + strings.Repeat("\xff\x00", 16),
		strings.Repeat("\x00\x01", 16),
		"кг" + strings.Repeat("secret", 6),
	} {
		if got, err := decodeText([]byte(secret)); !bytes.Equal(got, []byte(secret)) || err != nil {
			t.Errorf("%q: got %q, %v", secret, got, err)
		}
	}
}
