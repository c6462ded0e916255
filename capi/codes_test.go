package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// unreachable are the errors of package latchkey that no call of the C library returns, and why. If
// one is returned all the same, its code is LK_OTHER.
var unreachable = map[string]string{
	"ErrKeyDeleted":          "C has no EnsureKey",
	"ErrInvalidMintedKey":    "C has no minted keys",
	"ErrInvalidTagSecret":    "C does not replace tag secrets",
	"ErrInvalidRecord":       "C does not merge records",
	"ErrNotPermitted":        "C neither merges records nor changes scopes",
	"ErrStale":               "C has no edges",
	"ErrInvalidData":         "C has no tables of its own",
	"ErrInTransaction":       "C has no transactions",
	"ErrUnavailable":         "C has no engine but the file",
	"ErrNoSpace":             "C has no engine but the file",
	"ErrTransactionTooLarge": "C has no engine but the file",
}

// errorsIn returns the names of the exported errors that a file of the root package declares.
func errorsIn(t *testing.T, path string) (names []string) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, s := range g.Specs {
				for _, name := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

func TestEveryErrorOfTheLibraryHasACode(t *testing.T) {
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	names := errorsIn(t, "../errors.go")
	if len(names) < 50 {
		t.Fatalf("errors.go has %d errors, which cannot be all", len(names))
	}
	for _, name := range names {
		coded := strings.Contains(string(source), "latchkey."+name+"}")
		if why := unreachable[name]; coded == (why != "") {
			t.Errorf("%s has a code: %v; it is unreachable: %q; one of the two must hold", name, coded, why)
		}
	}
}

func TestTheHeaderHasTheCodes(t *testing.T) {
	header, err := os.ReadFile("latchkey.h")
	if err != nil {
		t.Fatal(err)
	}
	var inHeader, inTable []string
	block := regexp.MustCompile(`(?s)enum lk_codes \{(.*?)\};`).FindSubmatch(header)
	for _, m := range regexp.MustCompile(`(LK_\w+) = (\d+)`).FindAllSubmatch(block[1], -1) {
		inHeader = append(inHeader, string(m[1])+" "+string(m[2]))
	}
	seen := map[int32]bool{0: true}
	inTable = append(inTable, "LK_OK 0")
	for _, c := range codes {
		if seen[c.code] {
			t.Errorf("%s has the number of another code", c.name)
		}
		seen[c.code] = true
		inTable = append(inTable, c.name+" "+strconv.Itoa(int(c.code)))
	}
	slices.Sort(inHeader)
	slices.Sort(inTable)
	if !slices.Equal(inHeader, inTable) {
		t.Errorf("latchkey.h has\n%q\nand codes has\n%q", inHeader, inTable)
	}
	for _, name := range regexp.MustCompile(`LK_[A-Z_]+`).FindAllString(string(header), -1) {
		if name != "LK_ABI_VERSION" && !slices.ContainsFunc(inHeader, func(s string) bool { return strings.HasPrefix(s, name+" ") }) {
			t.Errorf("a comment in latchkey.h names %s, which is no code", name)
		}
	}
}

func TestEveryFunctionOfTheHeaderTellsItsContract(t *testing.T) {
	header, err := os.ReadFile("latchkey.h")
	if err != nil {
		t.Fatal(err)
	}
	text := string(header)
	functions := regexp.MustCompile(`(?m)^[a-z0-9_]+ \*?(lk_\w+)\(.*\);$`).FindAllStringSubmatchIndex(text, -1)
	if len(functions) < 30 {
		t.Fatalf("latchkey.h has %d functions, which cannot be all", len(functions))
	}
	for _, f := range functions {
		name, before := text[f[2]:f[3]], text[:f[0]]
		comment := before[strings.LastIndex(before, "/*\n"):]
		about := strings.Contains(comment, "* "+name+" ") || strings.HasSuffix(name, "_free") && strings.Contains(comment, "lk_…_free")
		if !about {
			t.Errorf("the comment before %s is not about it", name)
		}
		for _, part := range []string{"* Ownership: ", "* Threads: ", "* Stability: ABI 1"} {
			if !strings.Contains(comment, part) {
				t.Errorf("the comment of %s has no %q", name, part)
			}
		}
		returnsCode := strings.HasPrefix(text[f[0]:], "lk_code ")
		if returnsCode && !strings.Contains(text[f[0]:f[1]], "lk_error **error);") {
			t.Errorf("%s can fail, and its last parameter is not error", name)
		}
		if returnsCode && !strings.Contains(comment, "* Codes: ") {
			t.Errorf("the comment of %s lists no codes", name)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "#define ") && line != "#define LATCHKEY_H" {
			t.Errorf("line %d has a macro, which generators of bindings do not see", i+1)
		}
	}
}

func TestAnErrorGetsTheCodeThatSaysMost(t *testing.T) {
	_, notThere := os.Open("testdata/not-there")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"wrapped", fmt.Errorf("login: %w", latchkey.ErrBusy), "LK_BUSY"},
		{"a file that is gone and so changed", errors.Join(latchkey.ErrFileChanged, latchkey.ErrFileGone), "LK_FILE_GONE"},
		{"no file", notThere, "LK_NO_FILE"},
		{"no file, but a safety copy", fmt.Errorf("%w: %w", latchkey.ErrFileGone, fs.ErrNotExist), "LK_FILE_GONE"},
		{"a finding that has a cause", fmt.Errorf("%w since now: %w", latchkey.ErrLastUseFailed, latchkey.ErrFileGone), "LK_LAST_USE_FAILED"},
		{"a full disk", &fs.PathError{Op: "write", Path: "keys.db", Err: syscall.ENOSPC}, "LK_SYSTEM"},
		{"a bare number", syscall.EIO, "LK_SYSTEM"},
		{"unknown", errors.New("something"), "LK_OTHER"},
		{"unreachable", latchkey.ErrStale, "LK_OTHER"},
		{"a panic", panicError("lk_secret"), "LK_INTERNAL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := codeOf(tt.err)
			i := slices.IndexFunc(codes, func(c coded) bool { return c.name == tt.want })
			if got != codes[i].code {
				t.Errorf("codeOf(%v) = %d, want %s", tt.err, got, tt.want)
			}
		})
	}
	if codeOf(nil) != 0 {
		t.Error("no error has a code")
	}
}

func TestAPanicDoesNotTellItsValue(t *testing.T) {
	if text := panicError("lk_secret").Error(); strings.Contains(text, "lk_secret") {
		t.Errorf("the text is %q", text)
	}
	var nothing []int
	defer func() {
		if text := panicError(recover()).Error(); !strings.Contains(text, "index out of range") {
			t.Errorf("the text of a runtime error is %q", text)
		}
	}()
	_ = nothing[len(os.Args)]
}

func TestFindingsAreTakenApart(t *testing.T) {
	one := fmt.Errorf("%w: %w", latchkey.ErrSafetyCopyFailed, fs.ErrPermission)
	two := latchkey.ErrClockBehind
	got := findingsOf(errors.Join(one, nil, errors.Join(two, latchkey.ErrCorrupt)))
	if !slices.Equal(got, []error{one, two, latchkey.ErrCorrupt}) {
		t.Errorf("got %q", got)
	}
	if got := findingsOf(nil); len(got) != 0 {
		t.Errorf("no error has the findings %q", got)
	}
}

func TestANumberIsNotUsedAgain(t *testing.T) {
	var table storeTable
	if _, err := table.find(1); !errors.Is(err, errHandle) {
		t.Errorf("a number that was never given: %v", err)
	}
	s, other := new(latchkey.Store), new(latchkey.Store)
	first := table.add(s)
	if got, err := table.find(first); got != s || err != nil {
		t.Errorf("got %p and %v, want %p", got, err, s)
	}
	if got, err := table.remove(first); got != s || err != nil {
		t.Errorf("removed %p and %v, want %p", got, err, s)
	}
	if second := table.add(other); second == first {
		t.Errorf("the number %d is used again", first)
	}
	for _, fn := range []func(uint64) (*latchkey.Store, error){table.find, table.remove} {
		if got, err := fn(first); got != nil || !errors.Is(err, latchkey.ErrClosed) {
			t.Errorf("a number that was removed: got %p and %v, want ErrClosed", got, err)
		}
	}
}
