package latchkey_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A system is a Foreign for tests. A token "old-<name>" is found by the hash of all of it, and
// "old.<handle>.<name>" by that of the handle. A verifier is the kind of its check, "digest",
// "slow" or "vast", and the hash of the token.
type system struct {
	asked  atomic.Int64 // for handles
	checks atomic.Int64
	before func() // each slow check
}

func hashOf(text string) (h latchkey.ForeignHandle, digits string) {
	sum := sha256.Sum256([]byte(text))
	return latchkey.ForeignHandle(sum[:16]), hex.EncodeToString(sum[:])
}

func (f *system) Handles(token string) []latchkey.ForeignHandle {
	f.asked.Add(1)
	if strings.HasPrefix(token, "lk_") {
		panic("the store asks for its own tokens")
	}
	if strings.HasPrefix(token, "old-") {
		h, _ := hashOf(token)
		return []latchkey.ForeignHandle{h}
	}
	if parts := strings.Split(token, "."); len(parts) == 3 && parts[0] == "old" {
		h, _ := hashOf(parts[1])
		return []latchkey.ForeignHandle{{1}, h} // of two schemes
	}
	return nil
}

func (f *system) Memory(verifier string) (int64, error) {
	kind, _, _ := strings.Cut(verifier, " ")
	bytes, known := map[string]int64{"digest": 0, "slow": 1000, "vast": 4 << 30}[kind]
	if !known {
		return 0, latchkey.ErrCorrupt
	}
	return bytes, nil
}

func (f *system) Verify(token, verifier string) (bool, error) {
	f.checks.Add(1)
	if f.before != nil && strings.HasPrefix(verifier, "slow") {
		f.before()
	}
	_, digits := hashOf(token)
	return strings.HasSuffix(verifier, " "+digits), nil
}

// mintOld returns the key that a token is of.
func mintOld(kind, token string) latchkey.MintedKey {
	h := (&system{}).Handles(token)
	_, digits := hashOf(token)
	return latchkey.MintForeign(h[len(h)-1], kind+" "+digits, time.Time{})
}

// addOld makes a key of owner that a token is of.
func addOld(t testing.TB, s *latchkey.Store, owner uuid.UUID, n latchkey.KeySpec, kind, token string) latchkey.Key {
	t.Helper()
	var key latchkey.Key
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
		key, err = insertKey(tx, owner, n, mintOld(kind, token))
		return err
	}))
	return key
}

func addOldServerKey(t testing.TB, s *latchkey.Store, kind, token string) latchkey.Key {
	t.Helper()
	return addOld(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: token}, kind, token)
}

func withSystem() (*latchkey.Options, *system) {
	f := &system{}
	opts := light()
	opts.Foreign = f
	return opts, f
}

func openForeign(t testing.TB) (*latchkey.Store, *system) {
	t.Helper()
	opts, f := withSystem()
	return openWith(t, opts), f
}

func TestTheHolderOfAForeignKeyGoesOnWithTheOldToken(t *testing.T) {
	s, _ := openForeign(t)
	ada := addUser(t, s, "ada")
	for _, tt := range []struct{ kind, token string }{{"digest", "old-1"}, {"slow", "old.a.1"}} {
		n := latchkey.KeySpec{Name: tt.token, Scopes: latchkey.NewScopes("files:read"), Metadata: map[string]string{"site": "Oslo"}}
		key := addOld(t, s, ada, n, tt.kind, tt.token)
		if key.ID != mintOld(tt.kind, tt.token).ID() || len(key.Tokens) != 1 {
			t.Errorf("%s: made %+v", tt.token, key)
		}
		for range 2 { // the second by the cache
			who, err := s.Login(t.Context(), tt.token)
			must(t, err)
			if who.KeyID != key.ID || who.UserID != ada || !who.Scopes.Has("files:read") || who.Metadata("site") != "Oslo" ||
				who.TokenID != key.Tokens[0].ID {
				t.Errorf("%s: got %+v", tt.token, who)
			}
		}
		used, err := s.Key(t.Context(), ada, key.ID)
		must(t, err)
		if used.LastUsed.IsZero() {
			t.Errorf("%s: no last use", tt.token)
		}
	}
	wantRefused(t, s, "old-2", latchkey.ErrInvalidToken)
	wantRefused(t, s, "old.b.1", latchkey.ErrInvalidToken)
	wantRefused(t, s, "new-1", latchkey.ErrInvalidToken)
}

func TestAForeignTokenObeysEveryRule(t *testing.T) {
	opts, _ := withSystem()
	c := newClock()
	opts.Now = c.now
	s := openWith(t, opts)
	ctx := t.Context()
	n := latchkey.KeySpec{Name: "old", Group: "north", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	key := addOld(t, s, latchkey.ServerOwner, n, "slow", "old.a.1")
	login := func(want error) {
		t.Helper()
		_, err := s.LoginFrom(ctx, "old.a.1", netip.MustParseAddr("10.1.2.3"))
		if want == nil {
			must(t, err)
		} else {
			wantError(t, err, want)
		}
	}
	owner := latchkey.ServerOwner
	login(nil)
	wantRefused(t, s, "old.a.1", latchkey.ErrNetworkNotAllowed)
	must(t, s.DisableKey(ctx, owner, key.ID))
	login(latchkey.ErrKeyDisabled)
	must(t, s.EnableKey(ctx, owner, key.ID))
	login(nil)
	must(t, s.DisableGroup(ctx, "north"))
	login(latchkey.ErrGroupDisabled)
	must(t, s.EnableGroup(ctx, "north"))
	must(t, s.SetExpiry(ctx, owner, key.ID, c.now().Add(time.Hour)))
	login(nil)
	c.advance(time.Hour)
	login(latchkey.ErrKeyExpired)
	must(t, s.SetExpiry(ctx, owner, key.ID, time.Time{}))
	login(nil)
	must(t, s.DeleteKey(ctx, owner, key.ID))
	login(latchkey.ErrInvalidToken)
}

func TestAForeignKeyThatWasDeletedStaysDeleted(t *testing.T) {
	s, _ := openForeign(t)
	key := addOldServerKey(t, s, "digest", "old-1")
	n, again := latchkey.KeySpec{Name: "again"}, mintOld("digest", "old-1")
	_, changed, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "old-1"}, again)
	if err != nil || changed {
		t.Errorf("the same key again: changed %v, %v", changed, err)
	}
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	_, _, err = s.EnsureServerKey(t.Context(), n, again)
	wantError(t, err, latchkey.ErrKeyDeleted)
	err = s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertServerKey(n, again)
		return err
	})
	wantError(t, err, latchkey.ErrInvalidMintedKey)
	wantRefused(t, s, "old-1", latchkey.ErrInvalidToken)
}

func TestTheIDOfAForeignKeyIsDerivedFromItsHandleAndVerifier(t *testing.T) {
	handle := latchkey.ForeignHandle{1, 2, 3}
	k := latchkey.MintForeign(handle, "$sha256$00", time.Time{})
	// The SHA-256 of "latchkey foreign key", a zero byte, 010203, 13 zero bytes, and "$sha256$00".
	// The version and the variant are put in.
	if got, want := k.ID().String(), "4dccbc9f-68d0-8bb0-bd0b-f150bd4b2605"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if latchkey.MintForeign(handle, "$sha256$00", time.Unix(1, 0)).ID() != k.ID() {
		t.Error("the same key is another one")
	}
	for _, other := range []latchkey.MintedKey{
		latchkey.MintForeign(latchkey.ForeignHandle{1, 2, 4}, "$sha256$00", time.Time{}), latchkey.MintForeign(handle, "$sha256$01", time.Time{}),
	} {
		if other.ID() == k.ID() {
			t.Errorf("%v is the same key", other)
		}
	}
}

func TestAForeignKeyIsNotPrintedWithItsVerifier(t *testing.T) {
	k := latchkey.MintForeign(latchkey.ForeignHandle{1}, "$sha256$c0ffee", time.Time{})
	b, err := json.Marshal(map[string]any{"key": k})
	must(t, err)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %q", k, &k, []latchkey.MintedKey{k}, k, k), string(b)} {
		if strings.Contains(text, "c0ffee") {
			t.Errorf("%s", text)
		}
	}
}

func TestForeignKeysThatNoStoreCanHaveAreRefused(t *testing.T) {
	s, _ := openForeign(t)
	for about, m := range map[string]latchkey.MintedKey{
		"no handle":           latchkey.MintForeign(latchkey.ForeignHandle{}, "slow x", time.Time{}),
		"no verifier":         latchkey.MintForeign(latchkey.ForeignHandle{1}, "", time.Time{}),
		"a verifier too long": latchkey.MintForeign(latchkey.ForeignHandle{1}, strings.Repeat("x", 257), time.Time{}),
	} {
		_, _, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "old"}, m)
		wantError(t, err, latchkey.ErrInvalidMintedKey)
		if _, err := s.KeyByID(t.Context(), m.ID()); err == nil {
			t.Errorf("%s: there is a key", about)
		}
	}
}

func TestAStringThatIsNoForeignTokenIsRefusedUnread(t *testing.T) {
	opts, f := withSystem()
	e := &hookedEngine{Engine: newEngine(t)}
	views := 0
	e.beforeView = func() { views++ }
	s := openEngine(t, e, opts)
	key := addOldServerKey(t, s, "slow", "old.a.1")
	before := views
	for _, token := range []string{"old-2", "old.b.1", "nothing", strings.Repeat("x", 1<<20), ""} {
		wantRefused(t, s, token, latchkey.ErrInvalidToken)
	}
	if views != before || f.checks.Load() != 0 {
		t.Errorf("%d readings and %d checks, want none", views-before, f.checks.Load())
	}
	wantLogin(t, s, "old.a.1", key.ID)
	before = views
	wantLogin(t, s, "old.a.1", key.ID)
	if views != before || f.checks.Load() != 1 {
		t.Errorf("a cached login: %d readings, and %d checks in all", views-before, f.checks.Load())
	}
}

func TestATokenInTheStoresOwnFormIsNoForeignToken(t *testing.T) {
	s, _ := openForeign(t)
	_, token := addKey(t, s, latchkey.ServerOwner, "new")
	wantRefused(t, s, changeLastDigit(token), latchkey.ErrInvalidToken) // Handles would panic
}

// changeLastDigit returns a token with a wrong tag.
func changeLastDigit(token string) string {
	last := byte('0')
	if token[len(token)-1] == last {
		last = '1'
	}
	return token[:len(token)-1] + string(last)
}

func TestWithoutForeignTheKeysStayAndNobodyLogsIn(t *testing.T) {
	opts, _ := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, opts)
	key := addOldServerKey(t, s, "slow", "old.a.1")
	closeStore(t, s)
	s = openAt(t, path, light())
	wantRefused(t, s, "old.a.1", latchkey.ErrInvalidToken)
	must(t, s.RenameKey(t.Context(), latchkey.ServerOwner, key.ID, "other"))
	closeStore(t, s)
	wantLogin(t, openAt(t, path, opts), "old.a.1", key.ID)
}

func TestAStrangerWithAHandleGetsOneHashASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := openForeign(t)
		key := addOldServerKey(t, s, "slow", "old.a.1")
		wantRefused(t, s, "old.a.wrong", latchkey.ErrInvalidToken)
		for range 100 {
			wantRefused(t, s, "old.a.other", latchkey.ErrBusy)
		}
		time.Sleep(time.Second)
		wantRefused(t, s, "old.a.other", latchkey.ErrInvalidToken)
		if n := f.checks.Load(); n != 2 {
			t.Errorf("%d checks, want 2", n)
		}
		wantRefused(t, s, "old.a.1", latchkey.ErrBusy) // the holder has to wait once
		time.Sleep(time.Second)
		wantLogin(t, s, "old.a.1", key.ID)
		// Afterwards the holder never waits, and other strings are refused by their hints.
		for i := range 100 {
			wantLogin(t, s, "old.a.1", key.ID)
			_, _ = s.Login(t.Context(), fmt.Sprint("old.a.stranger ", i))
		}
		closeStore(t, s)
	})
}

func TestKeysWithOneHandleShareOneHashASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := openForeign(t)
		var keys []latchkey.Key
		for i := range 8 {
			keys = append(keys, addOldServerKey(t, s, "slow", fmt.Sprint("old.a.", i)))
		}
		_, _, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "one more"}, mintOld("slow", "old.a.8"))
		wantError(t, err, latchkey.ErrInvalidMintedKey)
		start := time.Now()
		for time.Since(start) < 40*time.Second {
			_, _ = s.Login(t.Context(), "old.a.wrong")
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.checks.Load(); n != 40 {
			t.Errorf("%d checks in 40 seconds, want 40", n)
		}
		time.Sleep(8 * time.Second)
		for i, k := range keys {
			wantLogin(t, s, fmt.Sprint("old.a.", i), k.ID)
			time.Sleep(8 * time.Second)
		}
		closeStore(t, s)
	})
}

func TestTwoFirstUsesAtOnceShareOneHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := openForeign(t)
		key := addOldServerKey(t, s, "slow", "old.a.1")
		goOn := make(chan bool)
		f.before = func() { <-goOn }
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { wantLogin(t, s, "old.a.1", key.ID) })
		}
		synctest.Wait()
		close(goOn)
		all.Wait()
		if n := f.checks.Load(); n != 1 {
			t.Errorf("%d checks, want 1", n)
		}
		closeStore(t, s)
	})
}

func TestAForeignKeyThatIsRevokedDuringTheHashIsRefused(t *testing.T) {
	for want, revoke := range map[error]func(s *latchkey.Store, id uuid.UUID) error{
		latchkey.ErrKeyDisabled: func(s *latchkey.Store, id uuid.UUID) error {
			return s.DisableKey(context.Background(), latchkey.ServerOwner, id)
		},
		latchkey.ErrInvalidToken: func(s *latchkey.Store, id uuid.UUID) error {
			return s.DeleteKey(context.Background(), latchkey.ServerOwner, id)
		},
	} {
		s, f := openForeign(t)
		key := addOldServerKey(t, s, "slow", "old.a.1")
		f.before = func() {
			f.before = nil
			if err := revoke(s, key.ID); err != nil {
				t.Error(err)
			}
		}
		wantRefused(t, s, "old.a.1", want)
	}
}

func TestNoOtherLoginWaitsForForeignHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := openForeign(t)
		key, token := addKey(t, s, latchkey.ServerOwner, "new")
		digest := addOldServerKey(t, s, "digest", "old-1")
		goOn := make(chan bool)
		f.before = func() { <-goOn }
		var all sync.WaitGroup
		for i := range 64 {
			text := fmt.Sprintf("old.%d.1", i)
			addOldServerKey(t, s, "slow", text)
			all.Go(func() {
				if _, err := s.Login(t.Context(), text); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := f.checks.Load(); n != 1 {
			t.Errorf("%d checks at once, want 1", n)
		}
		addOldServerKey(t, s, "slow", "old.one more.1")
		wantRefused(t, s, "old.one more.1", latchkey.ErrBusy)
		wantLogin(t, s, "old-1", digest.ID)
		wantLogin(t, s, token, key.ID)
		_, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "other"})
		must(t, err)
		close(goOn)
		all.Wait()
		closeStore(t, s)
	})
}

func TestAForeignKeyIsHashedAnewAtItsFirstUse(t *testing.T) {
	opts, f := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, opts)
	key := addOldServerKey(t, s, "slow", "old.a.1")
	closeStore(t, s)

	// A store that only reads goes on with the old verifier.
	reading := *opts
	reading.ReadOnly = true
	for range 2 {
		s = openAt(t, path, &reading)
		wantLogin(t, s, "old.a.1", key.ID)
		closeStore(t, s)
	}
	if n := f.checks.Load(); n != 2 {
		t.Errorf("%d checks by readers, want 2", n)
	}

	s = openAt(t, path, opts)
	wantLogin(t, s, "old.a.1", key.ID)
	waitUntil(t, "a hash anew", func() bool {
		must(t, s.RenameKey(t.Context(), latchkey.ServerOwner, key.ID, fmt.Sprint("name", stats(t, s).Commits)))
		return stats(t, s).Rehashed == 1
	})
	closeStore(t, s)

	s = openAt(t, path, opts)
	wantLogin(t, s, "old.a.1", key.ID)
	if n := f.checks.Load(); n != 3 {
		t.Errorf("%d checks, want 3", n)
	}
	before := stats(t, s).Hashes
	for i := range 10 {
		wantRefused(t, s, fmt.Sprint("old.a.wrong", i), latchkey.ErrInvalidToken)
	}
	if n := stats(t, s).Hashes - before; n != 0 {
		t.Errorf("wrong tokens cost %d hashes", n)
	}
}

func TestADigestIsNotHashedAnew(t *testing.T) {
	s, _ := openForeign(t)
	key := addOldServerKey(t, s, "digest", "old-1")
	before := stats(t, s).Hashes
	wantLogin(t, s, "old-1", key.ID)
	must(t, s.RenameKey(t.Context(), latchkey.ServerOwner, key.ID, "other"))
	if st := stats(t, s); st.Hashes != before || st.Rehashed != 0 {
		t.Errorf("%d hashes, and %d anew", st.Hashes-before, st.Rehashed)
	}
}

func TestARotationOfAForeignKeyGivesATokenOfTheStore(t *testing.T) {
	opts, _ := withSystem()
	c := newClock()
	opts.Now = c.now
	s := openWith(t, opts)
	ctx := t.Context()
	key := addOldServerKey(t, s, "slow", "old.a.1")
	wantLogin(t, s, "old.a.1", key.ID)
	_, token, err := s.RotateServerKey(ctx, key.ID, latchkey.Rotation{Overlap: time.Hour})
	must(t, err)
	wantLogin(t, s, token, key.ID)
	wantLogin(t, s, "old.a.1", key.ID)
	c.advance(time.Hour + time.Second)
	wantRefused(t, s, "old.a.1", latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)

	key = addOldServerKey(t, s, "digest", "old-1")
	_, token, err = s.RotateServerKey(ctx, key.ID, latchkey.Rotation{})
	must(t, err)
	wantRefused(t, s, "old-1", latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)
	// The same key again changes nothing, and the old token stays dead.
	_, changed, err := s.EnsureServerKey(ctx, latchkey.KeySpec{Name: "old-1"}, mintOld("digest", "old-1"))
	if err != nil || changed {
		t.Errorf("changed %v, %v", changed, err)
	}
	wantRefused(t, s, "old-1", latchkey.ErrInvalidToken)

	key = addOldServerKey(t, s, "digest", "old-2")
	_, token, err = s.RotateServerKey(ctx, key.ID, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, err)
	wantLogin(t, s, "old-2", key.ID)
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, "old-2", latchkey.ErrInvalidToken)
}

func TestAForeignVerifierThatNobodyCanReadOrPayIsAnError(t *testing.T) {
	opts, f := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	addOldServerKey(t, s, "vast", "old.a.1")
	damaged := addOldServerKey(t, s, "unknown", "old.b.1")
	closeStore(t, s)
	s, err := latchkey.TryOpen(t, path, opts)
	must(t, err)
	defer closeStore(t, s)
	wantRefused(t, s, "old.a.1", latchkey.ErrCostTooHigh)
	wantRefused(t, s, "old.b.1", latchkey.ErrCorrupt)
	if n := f.checks.Load(); n != 0 {
		t.Errorf("%d checks, want none", n)
	}
	var findings []string
	for finding := range s.Check(t.Context()) {
		findings = append(findings, finding.Error())
	}
	if len(findings) != 1 || !strings.Contains(findings[0], damaged.ID.String()) {
		t.Errorf("Check: %q", findings)
	}
}

func TestForeignKeysGoThroughASalvage(t *testing.T) {
	opts, _ := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, opts)
	key := addOldServerKey(t, s, "slow", "old.a.1")
	gone := addOldServerKey(t, s, "slow", "old.b.1")
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, gone.ID))
	closeStore(t, s)
	out := filepath.Join(t.TempDir(), "out.db")
	_, err := latchkey.Salvage(t.Context(), path, out)
	must(t, err)
	s = openFile(t, out, opts)
	wantLogin(t, s, "old.a.1", key.ID)
	wantRefused(t, s, "old.b.1", latchkey.ErrInvalidToken)
}

func TestAReaderThatFollowsItsFileLearnsNewForeignKeys(t *testing.T) {
	needsOpenFiles(t)
	opts, _ := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, opts))
	newer := fork(t, path, func(s *latchkey.Store) { addOldServerKey(t, s, "digest", "old-1") })
	opts.ReadOnly, opts.FileCheckEvery = true, time.Millisecond
	s := openFile(t, path, opts)
	wantRefused(t, s, "old-1", latchkey.ErrInvalidToken)
	replace(t, path, newer)
	waitUntil(t, "a login with the new key", func() bool {
		_, err := s.Login(t.Context(), "old-1")
		return err == nil
	})
}

func TestAForeignKeyGoesThroughItsText(t *testing.T) {
	s, _ := openForeign(t)
	for _, created := range []time.Time{{}, time.UnixMilli(1767323045678).UTC()} {
		h, digits := hashOf(fmt.Sprint("old-", created.Year()))
		m := latchkey.MintForeign(h, "digest "+digits, created)
		read, err := latchkey.ParseMintedKey(m.Export())
		must(t, err)
		if read.ID() != m.ID() || read.Export() != m.Export() {
			t.Errorf("got %s, want %s", read.Export(), m.Export())
		}
		key, _, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint("old-", created.Year())}, read)
		must(t, err)
		if !created.IsZero() && !key.Created.Equal(created) || key.Created.Year() < 2000 {
			t.Errorf("the key was made at %v, want %v", key.Created, created)
		}
		wantLogin(t, s, fmt.Sprint("old-", created.Year()), key.ID)
	}
	handle := strings.Repeat("0a", 16)
	for _, bad := range []string{
		"foreign/", "foreign/" + handle + "/0", "foreign/" + strings.Repeat("00", 16) + "/0/x", "foreign/" + handle + "/-1/x", "foreign/" + handle + "/01/x",
		"foreign/" + handle + "00/0/x", "foreign/" + strings.ToUpper(handle) + "/0/x", "foreign/" + handle + "/253402300800000/x", "foreign/" + handle + "/a/x",
	} {
		if _, err := latchkey.ParseMintedKey(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestAnExportedKeyIsGoodInAnotherStoreOfTheDomain(t *testing.T) {
	opts, _ := withSystem()
	s := openWith(t, opts)
	old := addOldServerKey(t, s, "slow", "old.a.1")
	key, first := addKey(t, s, latchkey.ServerOwner, "new")
	_, token, err := s.RotateServerKey(t.Context(), key.ID, latchkey.Rotation{})
	must(t, err)
	rotated := addOldServerKey(t, s, "slow", "old.b.1")
	_, third, err := s.RotateServerKey(t.Context(), rotated.ID, latchkey.Rotation{})
	must(t, err)
	opts.Domain = s.DomainSecrets()
	other := openWith(t, opts)
	for i, id := range []uuid.UUID{old.ID, key.ID, rotated.ID} {
		m, err := s.ExportKey(t.Context(), id)
		must(t, err)
		read, err := latchkey.ParseMintedKey(m.Export())
		must(t, err)
		made, _, err := other.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint(i)}, read)
		must(t, err)
		if was, err := s.KeyByID(t.Context(), id); err != nil || !made.Created.Equal(was.Created) || made.ID != id {
			t.Errorf("made %+v, and it was %+v", made, was)
		}
	}
	wantLogin(t, other, third, rotated.ID)
	wantRefused(t, other, "old.b.1", latchkey.ErrInvalidToken)
	wantLogin(t, other, "old.a.1", old.ID)
	wantLogin(t, other, token, key.ID)
	wantRefused(t, other, first, latchkey.ErrInvalidToken)
	_, err = s.ExportKey(t.Context(), uuid.New())
	wantError(t, err, latchkey.ErrKeyNotFound)
	// In the store itself, an exported key is nothing that could come back.
	m, err := s.ExportKey(t.Context(), key.ID)
	must(t, err)
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	_, _, err = s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "new"}, m)
	wantError(t, err, latchkey.ErrKeyDeleted)
}

// An import that has returned survives a crash before the first use, and a crash before the new
// hash is written costs no more than another hash.
func TestAForeignKeyOutlivesACrash(t *testing.T) {
	opts, _ := withSystem()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, opts)
	key := addOldServerKey(t, s, "slow", "old.a.1")
	crashed := func() *latchkey.Store {
		t.Helper()
		other := filepath.Join(t.TempDir(), "keys.db")
		overwriteFile(t, other, readFile(t, path))
		return openFile(t, other, opts)
	}
	before := crashed()
	wantLogin(t, s, "old.a.1", key.ID)
	wantLogin(t, before, "old.a.1", key.ID)
	wantLogin(t, crashed(), "old.a.1", key.ID)
}

func TestAStoreWithoutForeignKeysAsksNobodyAboutATokenOfAnotherForm(t *testing.T) {
	s, asked := openForeign(t)
	_, err := s.Login(t.Context(), "old-nobody")
	if wantError(t, err, latchkey.ErrInvalidToken); asked.asked.Load() != 0 {
		t.Error("Foreign was asked for handles")
	}
	before, err := s.Stats(t.Context())
	must(t, err)
	_, err = s.Login(t.Context(), "old-nobody")
	wantError(t, err, latchkey.ErrInvalidToken)
	if after, err := s.Stats(t.Context()); err != nil || after.Malformed != before.Malformed+1 {
		t.Errorf("%d malformed tokens are counted, %v, and before %d", after.Malformed, err, before.Malformed)
	}
}
