package latchkey_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestAScopePermitsItsOwnNameAndAWildcardAllNamesThatBeginWithIt(t *testing.T) {
	for _, tt := range []struct {
		scopes []string
		has    []string
		not    []string
	}{
		{nil, nil, []string{"", "files", "*", "latchkey:admin"}},
		{[]string{"files:read"}, []string{"files:read"}, []string{"files", "files:", "files:rea", "files:reads", "files:read:a", "Files:read", "iles:read"}},
		{[]string{"files:*"}, []string{"files:read", "files:a:b", "files:*"}, []string{"files", "files:", "filesx:read", "file", "*"}},
		{[]string{"*"}, []string{"files", "files:read", "*", "files:*"}, []string{"", "latchkey:admin", "latchkey:", "latchkey:*"}},
		{[]string{"latchkey:admin"}, []string{"latchkey:admin"}, []string{"latchkey:replica", "files", "latchkey:*"}},
		{[]string{"latchkey:*", "latchkey:a:*", "a"}, []string{"a"}, []string{"latchkey:admin", "latchkey:a:b", "latchkey:*"}},
		// Stars that are ordinary characters.
		{[]string{"a*", "b:*c", "*d", "e:*"}, []string{"a*", "b:*c", "*d"}, []string{"ab", "b:c", "b:xc", "d", "xd"}},
		{[]string{"a", "b"}, []string{"a", "b"}, []string{"ab", "a\x00b", "\x00", "a\x00", "\x00a"}},
		{[]string{"aa", "a"}, []string{"a", "aa"}, []string{"aaa"}},
	} {
		s := latchkey.NewScopes(tt.scopes...)
		for _, scope := range tt.has {
			if !s.Has(scope) {
				t.Errorf("%q does not have %q", tt.scopes, scope)
			}
		}
		for _, scope := range tt.not {
			if s.Has(scope) {
				t.Errorf("%q has %q", tt.scopes, scope)
			}
		}
	}
}

func TestScopesThatDifferInOneCharacterAreToldApart(t *testing.T) {
	const places, letters = "....", "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for place := range places {
		scope := func(letter int) string { return places[:place] + letters[letter:letter+1] + places[place+1:] }
		var given []string
		for i := 0; i < len(letters); i += 2 {
			given = append(given, scope(i))
		}
		s := latchkey.NewScopes(given...)
		for i := range letters {
			if want := i%2 == 0; s.Has(scope(i)) != want {
				t.Errorf("Has(%q): got %v, want %v", scope(i), !want, want)
			}
		}
	}
}

func TestScopesThatAreTooManyPermitNothing(t *testing.T) {
	var given []string
	for i := range latchkey.MaxScopes + 1 {
		given = append(given, fmt.Sprintf("scope-%03d", i))
	}
	s := latchkey.NewScopes(given...)
	if !s.Has(given[latchkey.MaxScopes-1]) || s.Has(given[latchkey.MaxScopes]) || len(s.All()) != latchkey.MaxScopes {
		t.Errorf("of %d scopes there are %d", len(given), len(s.All()))
	}
}

func TestScopesCoverWhatTheyPermit(t *testing.T) {
	for _, tt := range []struct {
		scopes, other string
		want          bool
	}{
		{"", "", true},
		{"a", "", true},
		{"", "a", false},
		{"a b", "b", true},
		{"files:*", "files:read files:*", true},
		{"files:*", "files:a:*", true},
		{"files:a:*", "files:*", false},
		{"files:read", "files:*", false},
		{"*", "files:* a", true},
		{"*", "*", true},
		{"files:*", "*", false},
		{"*", "latchkey:admin", false},
		{"* latchkey:admin", "a latchkey:admin", true},
	} {
		s, other := latchkey.NewScopes(strings.Fields(tt.scopes)...), latchkey.NewScopes(strings.Fields(tt.other)...)
		if got := s.Covers(other); got != tt.want {
			t.Errorf("%q covers %q: got %v, want %v", tt.scopes, tt.other, got, tt.want)
		}
	}
}

func TestScopesAreAValue(t *testing.T) {
	given := []string{"b", "a:*", "b", "a"}
	s := latchkey.NewScopes(given...)
	if want := []string{"b", "a:*", "b", "a"}; !slices.Equal(given, want) {
		t.Errorf("NewScopes has changed its arguments to %q", given)
	}
	given[0] = "changed"
	if s != latchkey.NewScopes("a", "b", "a:*") {
		t.Error("the order of scopes matters")
	}
	all := s.All()
	if want := []string{"a", "a:*", "b"}; !slices.Equal(all, want) {
		t.Errorf("All: got %q, want %q", all, want)
	}
	all[0] = "changed"
	if !s.Has("a") || s.Has("changed") {
		t.Error("what All returned changes the scopes")
	}
	if (latchkey.Scopes{}) != latchkey.NewScopes() || !latchkey.NewScopes().IsZero() {
		t.Error("no scopes are not the zero Scopes")
	}
	b, err := json.Marshal(s)
	must(t, err)
	var back latchkey.Scopes
	must(t, json.Unmarshal(b, &back))
	if string(b) != `"a a:* b"` || back != s {
		t.Errorf("in JSON: %s, and back %q", b, back.All())
	}
	n := testing.AllocsPerRun(100, func() { s.Has("a:b") })
	if n != 0 {
		t.Errorf("Has allocates %v times", n)
	}
}

func TestTheScopesOfAKeyCanBeChanged(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "laptop")
	for _, scopes := range []latchkey.Scopes{
		latchkey.NewScopes("files:read", "latchkey:admin"), latchkey.NewScopes("*"), latchkey.NewScopes(),
	} {
		must(t, s.SetScopes(t.Context(), ada, key.ID, scopes))
		if got, err := s.Key(t.Context(), ada, key.ID); err != nil || got.Scopes != scopes {
			t.Errorf("the key has %q, %v, want %q", got.Scopes, err, scopes)
		}
		if who, err := s.Login(t.Context(), token); err != nil || who.Scopes != scopes {
			t.Errorf("logged in with %q, %v, want %q", who.Scopes, err, scopes)
		}
	}
}

func TestScopesThatNoKeyCanHaveAreRefused(t *testing.T) {
	s := open(t)
	key, _ := addKey(t, s, latchkey.ServerOwner, "job")
	var tooMany []string
	for i := range latchkey.MaxScopes + 1 {
		tooMany = append(tooMany, fmt.Sprintf("%0*d", latchkey.MaxScope, i))
	}
	must(t, s.SetScopes(t.Context(), latchkey.ServerOwner, key.ID, latchkey.NewScopes(tooMany[1:]...)))
	for name, bad := range map[string][]string{
		"one too many":                     tooMany,
		"one character too many":           {tooMany[0] + "x"},
		"empty":                            {""},
		"a blank":                          {"files read"},
		"a quotation mark":                 {`"files"`},
		"a backslash":                      {`files\read`},
		"no ASCII":                         {"dateien:öffnen"},
		"DEL":                              {"a\x7f"},
		"a wildcard of reserved scopes":    {"latchkey:*"},
		"a wildcard of some reserved ones": {"latchkey:a:*"},
		"a good one and a bad one":         {"files", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			scopes := latchkey.NewScopes(bad...)
			wantNoKey(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "new", Scopes: scopes}, latchkey.ErrInvalidScope)
			wantNoChange(t, s, func() {
				wantError(t, s.SetScopes(t.Context(), latchkey.ServerOwner, key.ID, scopes), latchkey.ErrInvalidScope)
			})
		})
	}
}

func FuzzScopes(f *testing.F) {
	f.Add("files:read files:* admin", "files:read")
	f.Add("* latchkey:admin", "latchkey:admin")
	f.Add(":* a:b:* a*", "a:b:c")
	f.Add(strings.Repeat("a:b ", 70)+strings.Repeat("x", 200), "a:b")
	f.Fuzz(func(t *testing.T, text, scope string) {
		given := strings.Fields(text)
		s := latchkey.NewScopes(given...)
		kept := s.All()
		want := false
		for _, k := range kept {
			if !slices.Contains(given, k) || k == "" || len(k) > latchkey.MaxScope {
				t.Fatalf("NewScopes(%q) has %q", given, k)
			}
			prefix, wildcard := strings.CutSuffix(k, "*")
			switch {
			case k == scope:
				want = true
			case k == "*":
				want = want || scope != "" && !strings.HasPrefix(scope, "latchkey:")
			case wildcard && strings.HasSuffix(prefix, ":"):
				want = want || len(scope) > len(prefix) && strings.HasPrefix(scope, prefix)
			}
		}
		if s.Has(scope) != want {
			t.Errorf("%q has %q: %v, want %v", kept, scope, !want, want)
		}
		if !slices.IsSorted(kept) || len(kept) > latchkey.MaxScopes {
			t.Errorf("NewScopes(%q) has %q", given, kept)
		}
		if back := latchkey.NewScopes(kept...); !slices.Equal(back.All(), kept) || !back.Covers(s) || !s.Covers(back) {
			t.Errorf("%q is %q again", kept, back.All())
		}
	})
}

func BenchmarkScopesHas(b *testing.B) {
	many := []string{"admin", "files:read", "files:write", "users:*"}
	for i := range latchkey.MaxScopes - len(many) {
		many = append(many, fmt.Sprintf("area-%d:read", i))
	}
	for _, n := range []int{4, 16, latchkey.MaxScopes} {
		s := latchkey.NewScopes(many[:n]...)
		for _, scope := range []string{"files:write", "users:list", "other"} {
			b.Run(fmt.Sprintf("%s/scopes=%d", scope, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Has(scope)
				}
			})
		}
	}
	b.Run("loop", func(b *testing.B) { // the price of the loop itself
		for b.Loop() {
		}
	})
}
