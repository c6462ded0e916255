package names

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// cases are texts with the problem that each kind has with them.
var cases = []struct{ about, text, stored, subject, name string }{
	{about: "one letter", text: "a"},
	{about: "256 bytes", text: strings.Repeat("x", 256)},
	{about: "256 bytes of two-byte letters", text: strings.Repeat("é", 128)},
	{about: "white space inside", text: "Ada's\u00a0old\u3000laptop"},
	{about: "an invisible character inside, which joins two emoji", text: "👩‍💻"},
	{about: "a variation selector at the end, which makes an emoji red", text: "❤️"},
	{about: "a combining mark alone, which has a shape", text: "\u0301"},
	{about: "a number sign of the category Cf, which is visible", text: "\u0600"},
	{about: "a code point that has no meaning yet", text: "\U0010ffff"},
	{about: "the replacement character", text: "\ufffd"},

	{"empty", "", "is empty", "is empty", "is empty"},
	{"257 bytes", strings.Repeat("x", 257), long257, long257, long257},
	{"257 bytes, of which 256 are letters", strings.Repeat("x", 255) + "é", long257, long257, long257},
	{"half a letter", "a\xc3", "is not UTF-8", "is not UTF-8", "is not UTF-8"},
	{"a surrogate", "\xed\xa0\x80", "is not UTF-8", "is not UTF-8", "is not UTF-8"},
	{"a tab", "a\tb", tab, tab, tab},
	{"a tab at the end", "a\t", tab, tab, tab},
	{"the last C1 control", "a\u009f", "has the control character U+009F", "has the control character U+009F", "has the control character U+009F"},

	{"a space", " ", "", unseenText, unseenText},
	{"three kinds of nothing", "\u200b\u00a0\ufe0f", "", unseenText, unseenText},
	{"the Hangul filler", "\u3164", "", unseenText, unseenText},
	{"the empty pattern of Braille", "\u2800", "", unseenText, unseenText},
	{"a space at the beginning", " a", "", "begins with white space, U+0020", "begins with white space, U+0020"},
	{"a space at the end", "a ", "", "ends with white space, U+0020", "ends with white space, U+0020"},
	{"a no-break space at the end", "a\u00a0", "", "ends with white space, U+00A0", "ends with white space, U+00A0"},
	{"a line separator at the end", "a\u2028", "", "ends with white space, U+2028", "ends with white space, U+2028"},
	{"a byte-order mark", "\ufeffa", "", "begins with the invisible character U+FEFF", "begins with the invisible character U+FEFF"},
	{"a zero-width space at the end", "a\u200b", "", "ends with the invisible character U+200B", "ends with the invisible character U+200B"},
	{"a mark of direction at the end", "مفتاح\u200f", "", "ends with the invisible character U+200F", "ends with the invisible character U+200F"},

	{"a UUID", "01a21b42-3c1d-7000-8000-0123aceba7ff", "", "", idText},
	{"a UUID in capitals", "01A21B42-3C1D-7000-8000-0123ACEBA7FF", "", "", idText},
	{"an ObjectId", "5f60207f14dfb25d23101102", "", "", idText},
	{"an ObjectId in capitals", "5F60207F14DFB25D23101102", "", "", idText},
	{about: "23 hexadecimal digits", text: "5f60207f14dfb25d2310110"},
	{about: "25 hexadecimal digits", text: "5f60207f14dfb25d231011020"},
	{about: "24 digits, of which one is not hexadecimal", text: "5f60207f14dfb25d2310110g"},
	{about: "a UUID without its hyphens", text: "01a21b423c1d700080000123aceba7ff"},
	{about: "a UUID with a word before it", text: "key-01a21b42-3c1d-7000-8000-0123aceba7ff"},
}

const (
	long257    = "has 257 bytes; the most is 256"
	tab        = "has the control character U+0009"
	unseenText = "has nothing visible in it"
	idText     = "has the form of an ID"
)

func TestATextIsRefusedForTheRuleThatItBreaks(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.about, func(t *testing.T) {
			for k, want := range []string{Stored: tt.stored, Subject: tt.subject, Name: tt.name} {
				if got := Problem(Kind(k), tt.text); got != want {
					t.Errorf("as kind %d: got %q, want %q", k, got, want)
				}
			}
		})
	}
}

// The rules once more, as regular expressions.
var (
	control  = regexp.MustCompile(`\p{Cc}`)
	edge     = regexp.MustCompile(`^[\p{Z}\p{Cf}]|[\p{Z}\p{Cf}]$`)
	visible  = regexp.MustCompile(`[\p{L}\p{N}\p{P}\p{S}]`)
	prepends = regexp.MustCompile(`[\x{0600}-\x{0605}\x{06DD}\x{070F}\x{0890}\x{0891}\x{08E2}\x{110BD}\x{110CD}]`)
	hexOnly  = regexp.MustCompile(`^[0-9a-fA-F-]+$`)
)

func FuzzProblem(f *testing.F) {
	for _, tt := range cases {
		f.Add(tt.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		stored, subject, name := Problem(Stored, s), Problem(Subject, s), Problem(Name, s)
		sound := s != "" && len(s) <= 256 && utf8.ValidString(s) && !control.MatchString(s)
		if (stored == "") != sound {
			t.Errorf("in a record, %q %s", s, stored)
		}
		if stored != "" && subject != stored || subject != "" && name != subject {
			t.Errorf("%q: %q in a record, %q as a subject, %q as a name", s, stored, subject, name)
		}
		if !sound || prepends.MatchString(s) {
			return
		}
		switch {
		case edge.MatchString(s) && subject == "":
			t.Errorf("%q is a subject", s)
		case !edge.MatchString(s) && visible.MatchString(s) && subject != "" && subject != unseenText:
			t.Errorf("the subject %q %s", s, subject)
		}
		if name != subject && (name != idText || !hexOnly.MatchString(s) || len(s) != 24 && len(s) != 36) {
			t.Errorf("the name %q %s", s, name)
		}
	})
}

func TestCutKeepsWholeCharacters(t *testing.T) {
	for _, tt := range []struct {
		text string
		n    int
		want string
	}{
		{"abc", 3, "abc"},
		{"abc", 2, "ab"},
		{"aé", 2, "a"},
		{"aé", 3, "aé"},
		{"👩‍💻", 3, ""},
		{"", 0, ""},
	} {
		if got := Cut(tt.text, tt.n); got != tt.want {
			t.Errorf("Cut(%q, %d): got %q, want %q", tt.text, tt.n, got, tt.want)
		}
	}
}

func TestQuoteShortensALongText(t *testing.T) {
	for text, want := range map[string]string{
		"Ada\u200b":              `"Ada\u200b"`,
		strings.Repeat("x", 64):  `"` + strings.Repeat("x", 64) + `"`,
		strings.Repeat("é", 128): `"` + strings.Repeat("é", 20) + `…"`,
	} {
		if got := Quote(text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
