package tokenscan_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/tokenscan"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is what a test compares of a token that was found.
type place struct {
	Token        string
	KeyID        uuid.UUID
	Offset       int64
	Line, Column int
}

func find(t testing.TB, r io.Reader, prefix string) (all []place) {
	t.Helper()
	for f, err := range tokenscan.FindTokens(r, prefix) {
		must(t, err)
		if !strings.HasPrefix(f.Token(), f.Prefix+"_") {
			t.Errorf("the prefix of %q is %q", f.Token(), f.Prefix)
		}
		all = append(all, place{f.Token(), f.KeyID, f.Offset, f.Line, f.Column})
	}
	return all
}

type vectors struct {
	Genuine []struct {
		Prefix string    `json:"prefix"`
		KeyID  uuid.UUID `json:"key_id"`
		Token  string    `json:"token"`
	} `json:"genuine"`
	Refused []struct {
		About string `json:"about"`
		Kind  string `json:"kind"`
		Token string `json:"token"`
	} `json:"refused"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "tokens.json"))
	must(t, err)
	must(t, json.Unmarshal(data, &v))
	if len(v.Genuine) == 0 || len(v.Refused) == 0 {
		t.Fatal("there are no vectors")
	}
	return v
}

func TestEveryTokenOfTheVectorsIsFound(t *testing.T) {
	for _, v := range readVectors(t).Genuine {
		for _, prefix := range []string{v.Prefix, ""} {
			text := "first line\n\tkey = \"" + v.Token + "\"\n"
			want := []place{{v.Token, v.KeyID, 19, 2, 9}}
			if got := find(t, strings.NewReader(text), prefix); !reflect.DeepEqual(got, want) {
				t.Errorf("prefix %q: got %+v, want %+v", prefix, got, want)
			}
			if got := find(t, strings.NewReader(v.Token), prefix); len(got) != 1 || got[0].Line != 1 || got[0].Column != 1 || got[0].Offset != 0 {
				t.Errorf("alone: got %+v", got)
			}
		}
		if got := find(t, strings.NewReader(v.Token), "zz"); got != nil {
			t.Errorf("with another prefix: got %+v", got)
		}
	}
}

func TestAStringThatIsNotInTheFormOfATokenIsNotFound(t *testing.T) {
	trimmed := map[string]bool{"a space before": true, "a newline after": true}
	for _, v := range readVectors(t).Refused {
		got := find(t, strings.NewReader(v.Token), "lk")
		switch {
		case v.Kind == "forged" && !strings.Contains(v.About, "2^64"):
			if len(got) != 1 { // only the store can tell
				t.Errorf("%s: got %+v", v.About, got)
			}
		case trimmed[v.About]:
		case len(got) != 0:
			t.Errorf("%s: got %+v", v.About, got)
		}
	}
}

// sample returns a token with the prefix lk.
func sample(t testing.TB) string {
	t.Helper()
	return readVectors(t).Genuine[0].Token
}

func TestATokenIsFoundBetweenCharactersThatAreNoDigits(t *testing.T) {
	token := sample(t)
	digits := token[len("lk_"):]
	for _, tt := range []struct {
		text   string
		lk, of int // how many are found with the prefix lk, and of any
	}{
		{token, 1, 1},
		{"Bearer " + token + ".", 1, 1},
		{"é" + token + "é", 1, 1},
		{"\x00" + token + "\x00", 1, 1},
		{"API_KEY_" + token + "_old", 1, 1},
		{`\n` + token, 1, 1}, // of any prefix it is one with the prefix nlk
		{"token%3D" + token, 1, 1},
		{strings.Repeat("x", 20) + token, 1, 0},
		{token + "0", 0, 0},
		{token[:len(token)-1], 0, 0},
		{"lk__" + digits, 0, 0},
		{"lk_ " + digits, 0, 0},
		{"lk_\n" + digits, 0, 0},
		{"_" + digits, 0, 0},
		{"kl_" + digits, 0, 1},
		{"LK_" + digits, 0, 1},
		{token + " " + token, 2, 2},
		{token + "\n" + token, 2, 2},
		{token + "_" + digits, 1, 1}, // 77 digits are no prefix
		{"lk_" + token, 1, 1},
		{"lk", 0, 0},
		{"lk_", 0, 0},
		{"", 0, 0},
	} {
		if got := find(t, strings.NewReader(tt.text), "lk"); len(got) != tt.lk {
			t.Errorf("%.120q with the prefix lk: got %+v, want %d", tt.text, got, tt.lk)
		}
		if got := find(t, strings.NewReader(tt.text), ""); len(got) != tt.of {
			t.Errorf("%.120q: got %+v, want %d", tt.text, got, tt.of)
		}
	}
	if got := find(t, strings.NewReader("abcdefghij0123456_"+digits), ""); got != nil {
		t.Errorf("a prefix of 17 characters: got %+v", got)
	}
	if got := find(t, strings.NewReader("abcdefghij012345_"+digits), "abcdefghij012345"); len(got) != 1 {
		t.Errorf("a prefix of 16 characters: got %+v", got)
	}
}

func TestTokensAreFoundAcrossTheBordersOfReads(t *testing.T) {
	token := sample(t)
	for _, before := range []int{0, 1, 64<<10 - 90, 64<<10 - 80, 64<<10 - 3, 64<<10 - 1, 64 << 10, 200_000} {
		text := strings.Repeat("x ", before/2) + strings.Repeat("\n", before%2) + token + ", " + token
		want := find(t, strings.NewReader(text), "lk")
		if len(want) != 2 || want[0].Offset != int64(before) || want[1].Offset != int64(before+len(token)+2) {
			t.Errorf("%d bytes before: got %+v", before, want)
		}
		for name, r := range map[string]io.Reader{
			"byte by byte":                   iotest.OneByteReader(strings.NewReader(text)),
			"half of what was asked for":     iotest.HalfReader(strings.NewReader(text)),
			"the error with the last bytes":  iotest.DataErrReader(strings.NewReader(text)),
			"some reads that return nothing": &hesitant{r: strings.NewReader(text)},
		} {
			if got := find(t, r, "lk"); !reflect.DeepEqual(got, want) {
				t.Errorf("%d bytes before, %s: got %+v, want %+v", before, name, got, want)
			}
		}
	}
}

// hesitant returns nothing at every other read.
type hesitant struct {
	r     io.Reader
	reads int
}

func (h *hesitant) Read(b []byte) (int, error) {
	if h.reads++; h.reads%2 == 0 {
		return 0, nil
	}
	return h.r.Read(b)
}

// stuck never returns anything.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestAnErrorOfTheReaderComesLast(t *testing.T) {
	token := sample(t)
	broken := errors.New("broken")
	for _, tt := range []struct {
		r    io.Reader
		want error
		n    int
	}{
		{io.MultiReader(strings.NewReader(token), iotest.ErrReader(broken)), broken, 1},
		{stuck{}, io.ErrNoProgress, 0},
	} {
		n, err := 0, error(nil)
		for f, e := range tokenscan.FindTokens(tt.r, "lk") {
			if err = e; e == nil {
				n++
			} else if f.Token() != "" {
				t.Errorf("there is a token beside the error")
			}
		}
		if n != tt.n || !errors.Is(err, tt.want) {
			t.Errorf("got %d tokens and %v, want %d and %v", n, err, tt.n, tt.want)
		}
	}
}

func TestALoopMayEndEarly(t *testing.T) {
	token := sample(t)
	for range 2 {
		for f, err := range tokenscan.FindTokens(strings.NewReader(token+" "+token), "lk") {
			must(t, err)
			if f.Offset != 0 {
				t.Errorf("got %+v", f)
			}
			break
		}
	}
	for range tokenscan.FindTokens(strings.NewReader(token), "lk") {
		break // at the end of the text
	}
}

func TestATokenThatWasFoundIsNotPrinted(t *testing.T) {
	token := sample(t)
	for f := range tokenscan.FindTokens(strings.NewReader(token), "lk") {
		text := fmt.Sprintf("%v %+v %#v %s %q %x", f, &f, []tokenscan.Found{f}, f, f, f)
		b, err := json.Marshal(f)
		must(t, err)
		for _, printed := range []string{text, string(b)} {
			if strings.Contains(printed, token[30:]) || strings.Contains(printed, token[60:]) {
				t.Errorf("%s", printed)
			}
		}
		if want := "1:1: lk_… of key " + f.KeyID.String(); fmt.Sprint(f) != want {
			t.Errorf("got %v, want %s", f, want)
		}
	}
	if (tokenscan.Found{}).Token() != "" {
		t.Error("the zero Found has a token")
	}
}

var run = regexp.MustCompile(`[0-9A-Za-z]+`)

// findSlowly finds tokens as the docs say, with regular expressions and big numbers.
func findSlowly(text []byte, prefix string) (all []place) {
	runs := run.FindAllIndex(text, -1)
	for i := 1; i < len(runs); i++ {
		before, digits := text[runs[i-1][0]:runs[i-1][1]], string(text[runs[i][0]:runs[i][1]])
		if runs[i-1][1]+1 != runs[i][0] || text[runs[i-1][1]] != '_' || len(digits) != 77 {
			continue
		}
		p := prefix
		if p == "" {
			p = string(before)
		}
		if len(p) > 16 || !strings.HasSuffix(string(before), p) {
			continue
		}
		var id []byte
		fits := true
		for w := 0; w < 77; w += 11 {
			n := new(big.Int)
			for _, c := range []byte(digits[w : w+11]) {
				d := strings.IndexByte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", c)
				n.Mul(n, big.NewInt(62)).Add(n, big.NewInt(int64(d)))
			}
			if fits = fits && n.BitLen() <= 64; fits {
				id = append(id, n.FillBytes(make([]byte, 8))...)
			}
		}
		if !fits {
			continue
		}
		start := runs[i-1][1] - len(p)
		line := text[:start]
		all = append(all, place{
			p + "_" + digits, uuid.UUID(id[:16]), int64(start),
			1 + strings.Count(string(line), "\n"), start - strings.LastIndexByte(string(line), '\n'),
		})
	}
	return all
}

func FuzzFindTokens(f *testing.F) {
	token := sample(f)
	f.Add([]byte("a\n"+token+"\n"), "lk")
	f.Add([]byte(token+"_"+token), "")
	f.Add([]byte("abcdefghijklmnopq_"+token[3:]+"\xff\x00"+token), "k")
	f.Add([]byte("lk_"+strings.Repeat("z", 77)), "lk")
	f.Fuzz(func(t *testing.T, text []byte, prefix string) {
		want := findSlowly(text, prefix)
		if got := find(t, strings.NewReader(string(text)), prefix); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func BenchmarkFindTokens(b *testing.B) {
	text := strings.Repeat("The quick brown fox_jumps over the lazy dog.\n", 20_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		for range tokenscan.FindTokens(strings.NewReader(text), "lk") {
		}
	}
}
