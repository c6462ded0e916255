package latchkey_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// secrets are the strings that no output may have, by their descriptions.
type secrets map[string]string

// addToken adds a token, and its secret as digits and as bytes.
func (s secrets) addToken(t testing.TB, what, token string) {
	t.Helper()
	_, digits, _ := strings.Cut(token, "_")
	if len(digits) != 77 {
		t.Fatalf("%q is not a token", token)
	}
	s["the token of "+what] = token
	s["the digits of the secret of "+what] = digits[22:66]
	var secret []byte
	for word := digits[22:66]; word != ""; word = word[11:] {
		secret = append(secret, decodeWord(word[:11])...)
	}
	s.addBytes("the secret of "+what, secret)
}

// decodeWord decodes 11 base-62 digits, which are 8 bytes.
func decodeWord(digits string) []byte {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	word := new(big.Int)
	for _, digit := range digits {
		word.Mul(word, big.NewInt(62)).Add(word, big.NewInt(int64(strings.IndexRune(alphabet, digit))))
	}
	return binary.BigEndian.AppendUint64(nil, word.Uint64())
}

// addBytes adds bytes in the forms in which they can be formatted.
func (s secrets) addBytes(what string, b []byte) {
	s[what] = string(b)
	s[what+" in hexadecimal"] = hex.EncodeToString(b)
	s[what+" in capital hexadecimal"] = strings.ToUpper(hex.EncodeToString(b))
	s[what+" in base64"] = base64.RawStdEncoding.EncodeToString(b)
	s[what+" in base64 for URLs"] = base64.RawURLEncoding.EncodeToString(b)
	s[what+" in decimal"] = strings.Trim(fmt.Sprint(b), "[]")
	s[what+" in Go"] = strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}")
	s[what+" in JSON"] = strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ",")
}

// addHalves adds a secret in the form of two numbers of 64 bits, as SipHash takes its key.
func (s secrets) addHalves(what string, b []byte) {
	for i, half := range []uint64{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])} {
		s[fmt.Sprintf("half %d of %s", i, what)] = fmt.Sprint(half)
		s[fmt.Sprintf("half %d of %s in hexadecimal", i, what)] = fmt.Sprintf("%x", half)
		s[fmt.Sprintf("half %d of %s in capital hexadecimal", i, what)] = fmt.Sprintf("%X", half)
	}
}

// addStored adds the secrets in the engine: the stored verifiers, and the secrets of the domain.
func (s secrets) addStored(t testing.TB, e latchkey.Engine) {
	t.Helper()
	phc := regexp.MustCompile(`\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})`)
	must(t, e.View(t.Context(), func(etx latchkey.EngineTx) error {
		for entry, err := range etx.Scan("keys", nil, nil) {
			if err != nil {
				return err
			}
			if m := phc.FindSubmatch(entry.Value); m != nil {
				what := fmt.Sprintf("the verifier of %x", entry.Key)
				s[what], s["the hash of "+what] = string(m[0]), string(m[2])
				hash, err := base64.RawStdEncoding.DecodeString(string(m[2]))
				must(t, err)
				s.addBytes("the bytes of "+what, hash)
			}
		}
		domain, err := etx.Get("meta", []byte("domain"))
		must(t, err)
		// The record has a version; an ID of 16 bytes under the tag 0a; and the secret for user
		// IDs, of 32 bytes, under 12.
		if len(domain) < 53 || domain[1] != 0x0a || domain[19] != 0x12 {
			t.Fatalf("the domain's record is not as expected: %x", domain)
		}
		s.addBytes("the secret that user IDs are derived from", domain[21:53])
		tags, err := etx.Get("meta", []byte("tags"))
		must(t, err)
		// The record has a version and a secret for tags, of 16 bytes under the tag 12.
		if len(tags) < 21 || tags[1] != 0x0a || tags[3] != 0x12 {
			t.Fatalf("the record of the tag secrets is not as expected: %x", tags)
		}
		s.addBytes("the secret that tags are made under", tags[5:21])
		s.addHalves("the secret that tags are made under", tags[5:21])
		return nil
	}))
}

// shownBy returns the descriptions of the secrets that text has.
func (s secrets) shownBy(text string) (shown []string) {
	for what, secret := range s {
		if strings.Contains(text, secret) {
			shown = append(shown, what)
		}
	}
	return shown
}

// renderings returns the outputs of a program that prints, marshals or logs a value.
func renderings(t testing.TB, v any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, verb := range "vsqdxXtbcoOUeEfFgGpT" {
		for _, flags := range []string{"", "+", "#"} {
			format := "%" + flags + string(verb)
			out[format] = printed(t, format, v)
		}
	}
	if marshaled, err := json.Marshal(v); err == nil {
		out["JSON"] = string(marshaled)
	} else {
		out["the error of JSON"] = err.Error()
	}
	var text, jsonText bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&jsonText, nil)} {
		logger := slog.New(handler).With("with", v).WithGroup("group")
		logger.Info("message", "value", v, slog.Group("inner", "value", v))
	}
	out["slog's text"], out["slog's JSON"] = text.String(), jsonText.String()
	return out
}

// printed is fmt.Sprintf. For a verb that does not fit, fmt follows pointers further, even into the
// memory map of a file beyond the end of the file.
func printed(t testing.TB, format string, v any) (text string) {
	t.Helper()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%T in %s: %v", v, format, r)
		}
	}()
	return fmt.Sprintf(format, v)
}

// wantSilent fails the test if a value, a value that holds it, or a value that it points to shows
// one of the secrets.
func (s secrets) wantSilent(t testing.TB, name string, v any) {
	t.Helper()
	forms := map[string]any{
		name:                             v,
		name + " in a slice":             []any{v},
		name + " in a map":               map[string]any{"v": v},
		name + " in an exported field":   struct{ V any }{v},
		name + " in an unexported field": struct{ v any }{v},
	}
	if rv := reflect.ValueOf(v); rv.Kind() != reflect.Pointer {
		pointer := reflect.New(rv.Type())
		pointer.Elem().Set(rv)
		forms["a pointer to "+name] = pointer.Interface()
	} else if !holdsLock(rv.Type().Elem()) {
		forms["what "+name+" points to"] = rv.Elem().Interface()
	}
	for form, v := range forms {
		leaks := map[string][]string{} // the renderings that show each secret
		for how, text := range renderings(t, v) {
			for _, what := range s.shownBy(text) {
				leaks[what] = append(leaks[what], how)
			}
		}
		for what, how := range leaks {
			t.Errorf("%s shows %s in %d renderings, such as %s", form, what, len(how), slices.Min(how))
		}
	}
}

// holdsLock reports whether go vet forbids to copy values of a type.
func holdsLock(typ reflect.Type) bool {
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[sync.Locker]()) {
		return true
	}
	if typ.Kind() == reflect.Struct {
		for i := range typ.NumField() {
			if holdsLock(typ.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

func TestTheSearchForSecretsFindsThem(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	_, token := addKey(t, s, latchkey.ServerOwner, "backup")
	all := secrets{}
	all.addToken(t, "backup", token)
	all.addStored(t, e)
	shows := func(v any) (found bool) {
		for _, text := range renderings(t, v) {
			found = found || len(all.shownBy(text)) > 0
		}
		return found
	}
	secret := []byte(all["the secret of backup"])
	tagSecret := []byte(all["the secret that tags are made under"])
	for name, v := range map[string]any{
		"a token in a field":     struct{ token string }{token},
		"a secret in an array":   struct{ secret [32]byte }{[32]byte(secret)},
		"a secret behind a type": &struct{ Secret []byte }{secret},
		"a domain's secret":      struct{ tags []any }{[]any{[16]byte(tagSecret)}},
		"an error with a token":  fmt.Errorf("no such token: %q", token),
	} {
		if !shows(v) {
			t.Errorf("%s was not found", name)
		}
	}
	must(t, e.View(t.Context(), func(etx latchkey.EngineTx) error {
		for entry, err := range etx.Scan("keys", nil, nil) {
			must(t, err)
			if !shows(string(entry.Value)) {
				t.Error("a stored verifier was not found")
			}
		}
		return nil
	}))
}

func TestNothingThatIsPrintedMarshaledOrLoggedShowsASecret(t *testing.T) {
	e := newEngine(t)
	opts := light()
	s := openEngine(t, e, opts)
	h := addHousehold(t, s)
	minted, mintedToken, err := s.MintKey(t.Context())
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		// So that its verifier can be looked up.
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "minted"}, minted)
		return err
	}))
	who, err := s.Login(t.Context(), h.token)
	must(t, err)
	user, err := s.User(t.Context(), h.user)
	must(t, err)
	stats, err := s.Stats(t.Context())
	must(t, err)

	all := secrets{}
	all.addToken(t, "laptop", h.token)
	all.addToken(t, "a minted key", mintedToken)
	all.addStored(t, e)
	for name, v := range map[string]any{
		"the store":              s,
		"options":                opts,
		"the engine":             e,
		"a user":                 user,
		"a key":                  h.key,
		"a principal":            who,
		"a minted key":           minted,
		"a record for a replica": recordsOf(t, s)[0],
		"records for replicas":   recordsOf(t, s),
		"minted keys":            []latchkey.MintedKey{minted},
		"statistics":             stats,
	} {
		all.wantSilent(t, name, v)
	}
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.Key(h.user, h.key.ID)
		all.wantSilent(t, "a reading transaction", tx)
		return err
	}))
	var kept *latchkey.Tx
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		kept = tx
		err := tx.RenameKey(h.user, h.key.ID, "desktop")
		all.wantSilent(t, "a writing transaction", tx)
		return err
	}))
	all.wantSilent(t, "a transaction that has ended", kept)
	must(t, s.Close())
	all.wantSilent(t, "a closed store", s)
	all.wantSilent(t, "a closed engine", e)
}

func TestATransactionOfTheEngineDoesNotPrintItsContents(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	key, _ := addKey(t, s, latchkey.ServerOwner, "backup")
	all := secrets{}
	all.addStored(t, e)
	shown := func(when string, etx latchkey.EngineTx) {
		t.Helper()
		for how, text := range renderings(t, etx) {
			if shown := all.shownBy(text); shown != nil || strings.Contains(text, "$argon2id") {
				t.Errorf("%s, %s shows %q: %.200q", when, how, shown, text)
			}
		}
	}
	must(t, e.View(t.Context(), func(etx latchkey.EngineTx) error {
		_, err := etx.Get("keys", key.ID[:])
		shown("after a Get", etx)
		return err
	}))
	must(t, e.Update(t.Context(), func(etx latchkey.EngineTx) error {
		record, err := etx.Get("keys", key.ID[:])
		must(t, err)
		must(t, etx.Put("keys", key.ID[:], []byte("another")))
		// This keeps the old value, to be able to undo the change.
		must(t, etx.Put("keys", key.ID[:], record))
		must(t, etx.Put("data", []byte("a copy"), record))
		shown("after a Put", etx)
		return etx.Delete("data", []byte("a copy"))
	}))
}

func TestVerifiersThatAreReplacedAreNotShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	opts := light()
	opts.Cost.Memory *= 2
	s := openAt(t, path, opts)
	key, token := addKey(t, s, latchkey.ServerOwner, "backup")
	closeStore(t, s)

	e := latchkey.EngineAt(t, path, nil)
	s = openEngine(t, e, light())
	all := secrets{}
	all.addStored(t, e)
	wantLogin(t, s, token, key.ID)
	// The new verifier is computed in the background, and stored by the next write after that.
	// Each round makes a change, because a second disabling would write nothing.
	for n, rehashed := 0, uint64(0); rehashed == 0; n++ {
		all.wantSilent(t, "a store with a verifier to be written", s)
		var kept *latchkey.Tx
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			kept = tx
			return tx.RenameKey(latchkey.ServerOwner, key.ID, fmt.Sprint("backup ", n))
		}))
		all.addStored(t, e)
		all.wantSilent(t, "the transaction that wrote it", kept)
		stats, err := s.Stats(t.Context())
		must(t, err)
		rehashed = stats.Rehashed
	}
}

func TestNoErrorShowsASecret(t *testing.T) {
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	e := &damagedEngine{Engine: newEngine(t)}
	s := openEngine(t, e, opts)
	h := addHousehold(t, s)
	stranger := open(t)
	_, foreign := addKey(t, stranger, latchkey.ServerOwner, "backup")
	visitor := latchkey.KeySpec{Name: "visitor", Expires: c.now().Add(time.Hour)}
	expiring, expiringToken, err := s.CreateKey(t.Context(), h.user, visitor)
	must(t, err)
	_, disabledToken := addKey(t, s, h.user, "disabled")
	deleted, deletedToken := addKey(t, s, h.user, "deleted")
	must(t, s.DeleteKey(t.Context(), h.user, deleted.ID))
	keys, err := s.Keys(t.Context(), h.user)
	must(t, err)
	must(t, s.DisableKey(t.Context(), h.user, keys[len(keys)-1].ID))
	bob := addUser(t, s, "bob")
	_, bobsToken := addKey(t, s, bob, "laptop")
	must(t, s.DisableUser(t.Context(), bob))
	c.advance(2 * time.Hour)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()

	all := secrets{}
	for what, token := range map[string]string{
		"laptop": h.token, "a foreign key": foreign, "an expired key": expiringToken, "a disabled key": disabledToken,
		"a deleted key": deletedToken, "a disabled user's key": bobsToken,
	} {
		all.addToken(t, what, token)
	}
	all.addStored(t, e)

	var failures []error
	wantFailure := func(err error, want error) {
		t.Helper()
		wantError(t, err, want)
		failures = append(failures, err)
	}
	login := func(s *latchkey.Store, ctx context.Context, token string) error {
		_, err := s.Login(ctx, token)
		return err
	}
	for range 2 { // while the keys are not cached, and while they are
		for token, want := range map[string]error{
			foreign:                                latchkey.ErrInvalidToken,
			expiringToken:                          latchkey.ErrKeyExpired,
			disabledToken:                          latchkey.ErrKeyDisabled,
			deletedToken:                           latchkey.ErrInvalidToken,
			bobsToken:                              latchkey.ErrUserDisabled,
			h.token[:len(h.token)-1]:               latchkey.ErrInvalidToken,
			h.token + "0":                          latchkey.ErrInvalidToken,
			" " + h.token:                          latchkey.ErrInvalidToken,
			"Bearer " + h.token:                    latchkey.ErrInvalidToken,
			strings.Replace(h.token, "k", "x", 1):  latchkey.ErrInvalidToken,
			h.token[:50] + strings.Repeat("0", 30): latchkey.ErrInvalidToken,
		} {
			wantFailure(login(s, t.Context(), token), want)
		}
	}
	wantFailure(login(s, cancelled, h.token), context.Canceled)
	for _, e.key = range []string{"domain", "tags"} {
		e.damage = func(value []byte) []byte { value[20] ^= 1; return value }
		_, err = latchkey.OpenWith(e, opts)
		wantFailure(err, latchkey.ErrCorrupt)
	}
	e.key = ""

	// Every call, with everything wrong that can be wrong.
	nobody := household{user: uuid.New(), key: expiring, spare: expiring, token: foreign}
	for _, call := range storeCalls {
		failures = append(failures, call.call(t.Context(), s, nobody), call.call(cancelled, s, h))
	}
	minted := mint(t, s)
	wantFailure(s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "\n"}, minted)
		return err
	}), latchkey.ErrInvalidName)
	wantFailure(stranger.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertServerKey(latchkey.KeySpec{Name: "a"}, minted)
		return err
	}), latchkey.ErrInvalidMintedKey)
	// A token in the place of something else.
	prefixed := *opts
	prefixed.TokenPrefix = h.token
	_, err = latchkey.OpenWith(newEngine(t), &prefixed)
	wantFailure(err, latchkey.ErrInvalidOptions)
	for want, n := range map[error]latchkey.KeySpec{
		latchkey.ErrInvalidName:  {Name: h.token + "\n"},
		latchkey.ErrInvalidGroup: {Name: "a", Group: h.token + "\n"},
		latchkey.ErrInvalidScope: {Name: "a", Scopes: latchkey.NewScopes(h.token + " ")},
	} {
		_, _, err := s.CreateServerKey(t.Context(), n)
		wantFailure(err, want)
	}

	closed := open(t)
	closeStore(t, closed)
	for _, call := range storeCalls {
		wantFailure(call.call(t.Context(), closed, h), latchkey.ErrClosed)
	}

	for _, failure := range failures {
		if failure == nil {
			continue
		}
		all.wantSilent(t, fmt.Sprintf("the error %q", failure), failure)
		for err := failure; err != nil; err = errors.Unwrap(err) {
			if shown := all.shownBy(fmt.Sprintf("%#v", err)); shown != nil {
				t.Errorf("what the error %q wraps shows %q", failure, shown)
			}
		}
	}
}

func TestTheStoreHoldsNeitherTokenNorSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	h := addHousehold(t, s)
	all := secrets{}
	all.addToken(t, "laptop", h.token)
	ids := [][]byte{h.key.ID[:]}
	for i := range 20 {
		key, token := addKey(t, s, latchkey.ServerOwner, fmt.Sprint(i))
		all.addToken(t, key.Name, token)
		ids = append(ids, key.ID[:])
		wantLogin(t, s, token, key.ID)
		wantLogin(t, s, token, key.ID)
		must(t, s.RenameKey(t.Context(), latchkey.ServerOwner, key.ID, key.Name+" renamed"))
		wantRefused(t, s, token[:len(token)-1], latchkey.ErrInvalidToken)
	}
	closeStore(t, s)
	state := stateAt(t, path)
	if shown := all.shownBy(state); shown != nil {
		t.Errorf("the store has %q", shown)
	}
	for _, id := range append(ids, []byte("$argon2id$"), []byte("laptop")) {
		if !strings.Contains(state, string(id)) {
			t.Errorf("%x is not in the store, so this test does not look where things are", id)
		}
	}
}
