package keyimport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/keyimport"
)

func openStore(t testing.TB, path string, opts latchkey.Options, schemes ...keyimport.Scheme) *latchkey.Store {
	t.Helper()
	opts.Cost, opts.Foreign = latchkey.LightCost, newKeys(t, schemes...)
	s, err := latchkey.Open(path, &opts)
	must(t, err)
	t.Cleanup(func() {
		for finding := range s.Check(t.Context()) {
			if !errors.Is(finding, latchkey.ErrClosed) && !errors.Is(finding, t.Context().Err()) {
				t.Errorf("Check: %v", finding)
			}
		}
		must(t, s.Close())
	})
	return s
}

func newStore(t testing.TB, schemes ...keyimport.Scheme) *latchkey.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "keys.db"), latchkey.Options{}, schemes...)
}

// importText imports keys, which must succeed.
func importText(t testing.TB, s *latchkey.Store, f keyimport.Format, text string, opts *keyimport.ImportOptions) keyimport.Report {
	t.Helper()
	r, err := keyimport.Import(t.Context(), s, f, readKeys(t, text, f), opts)
	must(t, err)
	return r
}

func sequence(t testing.TB, s *latchkey.Store) uint64 {
	t.Helper()
	st, err := s.Stats(t.Context())
	must(t, err)
	return st.Sequence
}

// The tokens of the keys in testdata, by their places in the files.
var holders = []struct {
	file   string
	format keyimport.Format
	tokens map[int]string
	wants  map[int]error
}{
	{"django.csv", keyimport.DjangoAPIKey(), map[int]string{
		0: "L2QI3SbO.7FW1h5WeRXHV5NhhkXc1Q830xQ2GJDxr", 1: "DiZNM1Af.paR2rmF83o1q7d5j0oqLmlBk3XxdjnJx", 2: "vqz9oyDD.DdHsnuBmDzZckiQ8OhcokyGjFTCzQjFB",
	}, map[int]error{2: latchkey.ErrKeyDisabled}},
	{"better-auth.jsonl", keyimport.BetterAuth(), map[int]string{
		0: "app_VpWJIoVAnwZTxacjGdySNERVnfbAmFKeRzzxHWdHTuvjHqyylyrNeaQqJzhbZjfq", 1: "TIaKyZtwIPEcTcaOUkGInrUxVAGakQJoPMMgXkfJEDaHeuTVpmiDHyfwtFPShYxD",
		2: "IWPYkAApWKFeFnVLMqRRzTUrrTYIpwxhTcIQeOcWnIPrRULjluxksaWPVrRhQJmq",
	}, map[int]error{2: latchkey.ErrKeyDisabled}},
	{"unkey.jsonl", keyimport.Unkey(), map[int]string{0: "my-secret-key", 1: "my-other-secret-key"}, map[int]error{1: latchkey.ErrKeyDisabled}},
}

func TestTheHoldersOfOtherSystemsKeysGoOnWithTheirTokens(t *testing.T) {
	for _, h := range holders {
		s := newStore(t, h.format.Scheme)
		entries := readKeys(t, readFile(t, h.file), h.format)
		r, err := keyimport.Import(t.Context(), s, h.format, entries, nil)
		must(t, err)
		if len(r.Keys) != len(entries) || r.Known != 0 {
			t.Errorf("%s: %+v", h.file, r)
		}
		for i, e := range entries {
			who, err := s.Login(t.Context(), h.tokens[i])
			if !errors.Is(err, h.wants[i]) || err == nil && (who.KeyID != e.Key.ID() || who.KeyName != e.Name || who.Scopes.String() != e.Scopes.String()) {
				t.Errorf("%s: key %d: got %+v, %v", h.file, i, who, err)
			}
			if want := (latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: e.Owner}); err == nil && e.Owner != "" && who.Identity != want {
				t.Errorf("%s: key %d is of %v, want %v", h.file, i, who.Identity, want)
			}
		}
		before := sequence(t, s)
		again, err := keyimport.Import(t.Context(), s, h.format, entries, nil)
		must(t, err)
		if len(again.Keys) != 0 || len(again.Users) != 0 || len(again.Disabled) != 0 || again.Known != len(entries) || sequence(t, s) != before {
			t.Errorf("%s: the second import: %+v, %d commits", h.file, again, sequence(t, s)-before)
		}
		schemes, err := keyimport.StoredSchemes(t.Context(), s)
		must(t, err)
		if !reflect.DeepEqual(schemes, []keyimport.Scheme{h.format.Scheme}) {
			t.Errorf("%s: the store has the schemes %+v", h.file, schemes)
		}
	}
}

func TestTokensWithSlowHashesLogInByTheirHandles(t *testing.T) {
	for _, hash := range []keyimport.Hash{keyimport.Bcrypt, keyimport.Argon2id} {
		f := keyimport.General(keyimport.Scheme{Name: "old", Hash: hash, Handle: keyimport.Handle{Separator: "."}})
		for _, v := range verifiers(t) {
			if v.Hash != string(hash) || !strings.HasPrefix(v.Token, "ab12.") {
				continue
			}
			s := newStore(t, f.Scheme)
			r := importText(t, s, f, `{"hash":"`+v.Verifier+`","handle":"ab12","name":"old"}`, nil)
			who, err := s.Login(t.Context(), v.Token)
			must(t, err)
			if who.KeyID != r.Keys[0] {
				t.Errorf("%s: got %+v", v.About, who)
			}
			if _, err := s.Login(t.Context(), v.Token+"x"); !errors.Is(err, latchkey.ErrInvalidToken) {
				t.Errorf("%s: another token: %v", v.About, err)
			}
		}
	}
}

func TestAnImportChangesNothingIfAnythingIsWrong(t *testing.T) {
	s := newStore(t, general().Scheme)
	importText(t, s, general(), "hash,name\n"+digest(1)+",one\n"+digest(2)+",two\n", nil)
	deleted := readKeys(t, "hash\n"+digest(2)+"\n", general())[0].Key.ID()
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, deleted))
	before := sequence(t, s)
	long := strings.Repeat("x", 300)
	text := "hash,name,owner,scopes,group\n" + digest(3) + ",three,ada,,\n" + digest(4) + ",one,,,\n" + digest(2) + ",two,,,\n" + digest(5) + "," + long + ",bob,,\n" +
		digest(6) + ",six," + long + ",,\n" + digest(7) + ",seven,," + long + ",\n" + digest(8) + ",eight,,,*\n"
	_, err := keyimport.Import(t.Context(), s, general(), readKeys(t, text, general()), nil)
	var errs keyimport.Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	for i, want := range []struct {
		line int
		err  error
	}{
		{3, latchkey.ErrKeyNameTaken}, {4, latchkey.ErrKeyDeleted}, {5, latchkey.ErrInvalidName}, {6, latchkey.ErrInvalidIdentity}, {7, latchkey.ErrInvalidScope},
		{8, latchkey.ErrInvalidGroup},
	} {
		if i >= len(errs) || errs[i].Line != want.line || !errors.Is(errs[i], want.err) || !errors.Is(err, want.err) {
			t.Fatalf("got %v, want line %d: %v", err, want.line, want.err)
		}
	}
	if len(errs) != 6 || sequence(t, s) != before {
		t.Errorf("%v, and %d commits", err, sequence(t, s)-before)
	}
}

func TestADryRunChangesNothingAndReportsTheSame(t *testing.T) {
	s := newStore(t, general().Scheme)
	text := "hash,name,owner,expires\n" + digest(1) + ",a,ada,\n" + digest(2) + ",b,ada,\n" + digest(3) + ",c,,2020-01-01\n"
	before := sequence(t, s)
	dry := importText(t, s, general(), text, &keyimport.ImportOptions{DryRun: true})
	if sequence(t, s) != before {
		t.Error("something was changed")
	}
	r := importText(t, s, general(), text, &keyimport.ImportOptions{Provider: latchkey.ProviderLocalUserpass})
	if len(r.Users) != 1 || len(dry.Users) != 1 || !reflect.DeepEqual(r.Keys, dry.Keys) || !reflect.DeepEqual(r.Expired, []int{4}) || !reflect.DeepEqual(dry.Expired, r.Expired) {
		t.Errorf("got %+v, dry %+v", r, dry)
	}
	u, err := s.User(t.Context(), r.Users[0])
	must(t, err)
	if want := (latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada"}); u.Identities[0] != want {
		t.Errorf("got %+v", u)
	}
}

func TestAnotherImportDisablesAndChangesNothingElse(t *testing.T) {
	s := newStore(t, general().Scheme)
	ctx := t.Context()
	r := importText(t, s, general(), "hash,name,scopes,disabled\n"+digest(1)+",a,x y,false\n"+digest(2)+",b,,true\n", nil)
	must(t, s.SetScopes(ctx, latchkey.ServerOwner, r.Keys[0], latchkey.NewScopes("x")))
	must(t, s.RenameKey(ctx, latchkey.ServerOwner, r.Keys[0], "other"))
	must(t, s.EnableKey(ctx, latchkey.ServerOwner, r.Keys[1]))
	again := importText(t, s, general(), "hash,name,scopes,disabled\n"+digest(1)+",a,x y,true\n"+digest(2)+",b,,false\n", nil)
	if again.Known != 2 || !reflect.DeepEqual(again.Disabled, r.Keys[:1]) {
		t.Errorf("got %+v", again)
	}
	for i, want := range []struct {
		name, scopes string
		disabled     bool
	}{{"other", "x", true}, {"b", "", false}} {
		k, err := s.KeyByID(ctx, r.Keys[i])
		must(t, err)
		if k.Name != want.name || k.Scopes.String() != want.scopes || k.Disabled != want.disabled {
			t.Errorf("got %+v, want %+v", k, want)
		}
	}
}

func TestTheLimitOfKeysHoldsForAnImport(t *testing.T) {
	s := newStore(t, general().Scheme)
	text := "hash,name,owner\n"
	for i := range 21 {
		text += fmt.Sprintf("%s,key %d,ada\n", digest(i), i)
	}
	_, err := keyimport.Import(t.Context(), s, general(), readKeys(t, text, general()), nil)
	var errs keyimport.Errors
	if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Line != 22 || !errors.Is(err, latchkey.ErrTooManyKeys) {
		t.Errorf("got %v", err)
	}
}

func TestManyKeysWithOneHandleAreRefused(t *testing.T) {
	f := keyimport.General(prefixed("old"))
	s := newStore(t, f.Scheme)
	text := "hash,name,handle\n"
	for i := range 9 {
		text += fmt.Sprintf("$2b$04$%s,key %d,same\n", strings.Repeat(string(rune('a'+i)), 53), i)
	}
	_, err := keyimport.Import(t.Context(), s, f, readKeys(t, text, f), nil)
	var errs keyimport.Errors
	if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Line != 10 {
		t.Errorf("got %v", err)
	}
}

func TestADigestOfAStoresOwnTokenMakesNoWayIn(t *testing.T) {
	s := newStore(t, general().Scheme)
	key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "own"})
	must(t, err)
	h, err := general().Scheme.Key(digestOf(token), "", time.Time{})
	must(t, err)
	other, _, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "copy"}, h)
	must(t, err)
	who, err := s.Login(t.Context(), token)
	must(t, err)
	if who.KeyID != key.ID || who.KeyID == other.ID {
		t.Errorf("got %+v", who)
	}
	must(t, s.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	if _, err := s.Login(t.Context(), token); !errors.Is(err, latchkey.ErrKeyDisabled) {
		t.Errorf("got %v", err)
	}
}

func TestTwoSchemesOfOneNameAreRefused(t *testing.T) {
	s := newStore(t, general().Scheme)
	importText(t, s, general(), "hash\n"+digest(1)+"\n", nil)
	other := general()
	other.Scheme.Prefix = "app_"
	_, err := keyimport.Import(t.Context(), s, other, readKeys(t, "hash\n"+digest(2)+"\n", other), nil)
	if !errors.Is(err, keyimport.ErrInvalidScheme) {
		t.Errorf("got %v", err)
	}
	for i := range keyimport.MaxSchemes {
		f := general()
		f.Scheme.Name = fmt.Sprint("s", i)
		_, err = keyimport.Import(t.Context(), s, f, readKeys(t, "hash\n"+digest(10+i)+"\n", f), nil)
	}
	if !errors.Is(err, keyimport.ErrInvalidScheme) {
		t.Errorf("more than %d schemes: got %v", keyimport.MaxSchemes, err)
	}
}

// export returns an export of a store.
func export(t testing.TB, s *latchkey.Store, withVerifiers bool) string {
	t.Helper()
	var b bytes.Buffer
	must(t, keyimport.Export(t.Context(), s, &b, &keyimport.ExportOptions{WithVerifiers: withVerifiers}))
	return b.String()
}

func TestAnExportIsImportedAsItWas(t *testing.T) {
	f := keyimport.BetterAuth()
	old := prefixed("old")
	s := newStore(t, f.Scheme, old)
	ctx := t.Context()
	importText(t, s, f, readFile(t, "better-auth.jsonl"), nil)
	importText(t, s, keyimport.General(old), `{"hash":"`+verifiers(t)[0].Verifier+`","handle":"ab12","name":"slow"}`, nil)
	ada, err := s.CreateUser(ctx, latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}, Group: "north", Metadata: map[string]string{"plan": "pro"},
	})
	must(t, err)
	_, err = s.LinkIdentity(ctx, ada.ID, latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "ada/1"})
	must(t, err)
	_, err = s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: uuid.NewString()}})
	must(t, err)
	bob, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "bob@example.com"}})
	must(t, err)
	must(t, s.DisableUser(ctx, bob.ID))
	n := latchkey.KeySpec{Name: "a \"key\" <b>", Scopes: latchkey.NewScopes("*", "x"), Metadata: map[string]string{"": "", "a": "b"}, Expires: time.Now().Add(time.Hour)}
	n.Metadata = map[string]string{"a": "b"}
	key, token, err := s.CreateKey(ctx, ada.ID, n)
	must(t, err)
	rotated, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: "job", Group: "south"})
	must(t, err)
	_, second, err := s.RotateServerKey(ctx, rotated.ID, latchkey.Rotation{Overlap: time.Hour})
	must(t, err)

	moved, err := general().Scheme.Key(digest(1), "", time.UnixMilli(1767323045678))
	must(t, err)
	_, _, err = s.EnsureServerKey(ctx, latchkey.KeySpec{Name: "moved"}, moved)
	must(t, err)
	_, third, err := s.RotateServerKey(ctx, moved.ID(), latchkey.Rotation{})
	must(t, err)

	bare := export(t, s, false)
	if strings.Contains(bare, "argon2id$") || strings.Contains(bare, "$2b$") || strings.Contains(bare, "minted") || strings.Contains(bare, token) {
		t.Errorf("the export has verifiers:\n%s", bare)
	}
	if got := problems(t, bare, keyimport.Latchkey()); len(got) != 7 || !strings.HasSuffix(got[0], "only an export with verifiers can be imported") {
		t.Errorf("got %q", got)
	}
	text := export(t, s, true)
	domain := s.DomainSecrets()
	other := openStore(t, filepath.Join(t.TempDir(), "other.db"), latchkey.Options{Domain: domain}, f.Scheme, old)
	r := importText(t, other, keyimport.Latchkey(), text, nil)
	if len(r.Keys) != 7 || len(r.Users) != 3 {
		t.Errorf("got %+v", r)
	}
	for token, id := range map[string]uuid.UUID{
		token: key.ID, second: rotated.ID, third: moved.ID(), holders[1].tokens[0]: readKeys(t, readFile(t, "better-auth.jsonl"), f)[0].Key.ID(),
	} {
		who, err := other.Login(ctx, token)
		if err != nil || who.KeyID != id {
			t.Errorf("got %+v, %v", who, err)
		}
	}
	// Last uses are not imported. Everything else of the other store is written again as it was.
	for i, lines := 0, [2][]string{lines(text), lines(export(t, other, true))}; i < max(len(lines[0]), len(lines[1])); i++ {
		if len(lines[0]) != len(lines[1]) || withoutUse(lines[0][i]) != withoutUse(lines[1][i]) {
			t.Fatalf("line %d:\ngot  %s\nwant %s", i+1, strings.Join(lines[1], "\n"), strings.Join(lines[0], "\n"))
		}
	}
	before := sequence(t, other)
	if again := importText(t, other, keyimport.Latchkey(), text, nil); again.Known != 7 || sequence(t, other) != before {
		t.Errorf("the second import: %+v", again)
	}

	// In another domain, only the keys that were made elsewhere are good.
	stranger := newStore(t)
	_, err = keyimport.Import(ctx, stranger, keyimport.Latchkey(), readKeys(t, text, keyimport.Latchkey()), nil)
	var errs keyimport.Errors
	if !errors.As(err, &errs) || len(errs) != 3 || !errors.Is(err, latchkey.ErrInvalidMintedKey) {
		t.Errorf("got %v", err)
	}
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// withoutUse returns a line of an export without the last use, and a user's line as any other's,
// because users have other IDs in another order.
func withoutUse(line string) string {
	if i := strings.Index(line, `,"last_used":`); i >= 0 {
		end := strings.IndexAny(line[i+1:], ",}")
		line = line[:i] + line[i+1+end:]
	}
	if strings.HasPrefix(line, `{"user"`) {
		return "user"
	}
	return line
}

func TestADamagedExportIsRefusedLineByLine(t *testing.T) {
	got := problems(t, strings.Join([]string{
		`{"minted":"foreign/` + strings.Repeat("0a", 16) + `/0/$2b$31$` + strings.Repeat("a", 53) + `","name":"a"}`,
		`{"minted":"foreign/00/0/x","name":"a"}`, `{"minted":"x","name":"a"}`, `{"name":"a"}`,
		`{"user":{"identities":[]}}`, `{"user":{"identity":"ada"}}`, `{"user":"ada"}`, `{"scheme":{"name":""}}`, `{"scheme":[]}`, `{"user":{"identities":[{}]},"x":1}`,
		`{"minted":"x","owner":"ada"}`,
	}, "\n"), keyimport.Latchkey())
	if len(got) < 11 {
		t.Errorf("got %q", got)
	}
	for i, line := range got {
		if !strings.HasPrefix(line, "line ") || strings.Contains(line, "aaaa") {
			t.Errorf("%d: %s", i, line)
		}
	}
}

// countingContext counts how often somebody asks whether it has ended. It ends after left times.
type countingContext struct {
	context.Context
	left int
}

func (c *countingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestAnImportEndsWithItsContext(t *testing.T) {
	f := keyimport.General(keyimport.Scheme{Name: "old", Hash: keyimport.SHA256})
	text := "hash\n"
	for i := range 50 {
		text += fmt.Sprintf("%x\n", sha256.Sum256([]byte{byte(i)}))
	}
	s := newStore(t, f.Scheme)
	entries := readKeys(t, text, f)
	before := sequence(t, s)
	if _, err := keyimport.Import(&countingContext{t.Context(), 40}, s, f, entries, nil); !errors.Is(err, context.Canceled) || sequence(t, s) != before {
		t.Errorf("got %v, and %d commits", err, sequence(t, s)-before)
	}
}

func TestABoundedEngineTakesAnImportInSteps(t *testing.T) {
	s, err := latchkey.OpenWith(memory.Bound(memory.NewEngine(), 100), &latchkey.Options{Cost: latchkey.LightCost, Foreign: newKeys(t)})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	text := "hash,owner\n"
	for i := range 150 {
		text += fmt.Sprintf("%s,user %d\n", digest(i), i%40)
	}
	_, err = keyimport.Import(t.Context(), s, general(), readKeys(t, text, general()), &keyimport.ImportOptions{DryRun: true})
	if !errors.Is(err, latchkey.ErrTransactionTooLarge) {
		t.Errorf("a dry run: got %v, want ErrTransactionTooLarge", err)
	}
	if r := importText(t, s, general(), text, nil); len(r.Keys) != 150 || len(r.Users) != 40 || r.Known != 0 {
		t.Errorf("made %d keys and %d users, and knew %d", len(r.Keys), len(r.Users), r.Known)
	}
	if r := importText(t, s, general(), text, nil); len(r.Keys)+len(r.Users) != 0 || r.Known != 150 {
		t.Errorf("the second time: made %d keys and %d users, and knew %d", len(r.Keys), len(r.Users), r.Known)
	}
}
