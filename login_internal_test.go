package latchkey

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/foreign"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
	"github.com/latchkeydb/latchkey/internal/vector"
)

// revocations are the ways to revoke a key, and the error of its logins afterwards.
var revocations = []struct {
	name   string
	revoke func(ctx context.Context, s *Store, owner, id uuid.UUID) error
	want   error
}{
	{"DisableKey", func(ctx context.Context, s *Store, owner, id uuid.UUID) error { return s.DisableKey(ctx, owner, id) }, ErrKeyDisabled},
	{"DeleteKey", func(ctx context.Context, s *Store, owner, id uuid.UUID) error { return s.DeleteKey(ctx, owner, id) }, ErrInvalidToken},
	{"DisableUser", func(ctx context.Context, s *Store, owner, _ uuid.UUID) error { return s.DisableUser(ctx, owner) }, ErrUserDisabled},
	{"DeleteUser", func(ctx context.Context, s *Store, owner, _ uuid.UUID) error { return s.DeleteUser(ctx, owner) }, ErrInvalidToken},
	{"DisableGroup", func(ctx context.Context, s *Store, _, _ uuid.UUID) error { return s.DisableGroup(ctx, "acme") }, ErrGroupDisabled},
	{"SetUserGroup", func(ctx context.Context, s *Store, owner, _ uuid.UUID) error {
		return s.SetUserGroup(ctx, owner, "umbrella")
	}, ErrGroupDisabled},
}

// addHolder makes a user in the group acme, with a key. It disables the group umbrella.
func addHolder(t testing.TB, s *Store) (user User, key Key, token string) {
	t.Helper()
	user, err := s.CreateUser(t.Context(), UserSpec{Identity: email("ada"), Group: "acme"})
	must(t, err)
	must(t, s.DisableGroup(t.Context(), "umbrella"))
	key, token = addKey(t, s, user.ID, "laptop")
	return user, key, token
}

func TestAKeyRevokedDuringTheHashIsRefused(t *testing.T) {
	for _, tt := range revocations {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				user, key, token := addHolder(t, s)

				call, _ := s.flight.Join(hashQuestion(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID)))
				s.flight.Begin(call)
				outcome := loginAside(t.Context(), s, token)
				synctest.Wait()
				wantWaiting(t, outcome)

				if err := tt.revoke(t.Context(), s, user.ID, key.ID); err != nil {
					t.Fatal(err)
				}
				s.flight.Done(call, true, nil)
				synctest.Wait()
				wantOutcome(t, outcome, tt.want)
				for range 3 {
					wantRefused(t, s, token, tt.want)
				}
			})
		})
	}
}

func TestAKeyThatTheIndexesHaveLostIsRevokedWithItsUserOrGroup(t *testing.T) {
	for _, tt := range revocations[2:] {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/cached=%t", tt.name, cached), func(t *testing.T) {
				s := open(t, nil)
				user, key, token := addHolder(t, s)
				if cached {
					wantLogin(t, s, token, key.ID)
				}
				must(t, s.Update(t.Context(), func(tx *Tx) error {
					if err := tx.delete(tableMembers, record.MemberKey("acme", user.ID)); err != nil {
						return err
					}
					return tx.etx.Delete(tableNames, record.NameKey(user.ID, "laptop", key.ID))
				}))
				must(t, tt.revoke(t.Context(), s, user.ID, key.ID))
				if who, err := s.Login(t.Context(), token); err == nil {
					t.Errorf("%s logged in", who.KeyID)
				}
			})
		}
	}
}

// An old version of a page has the record from before its key or user was disabled.
func TestAKeyWithARecordOfAnEarlierStateDoesNotLogInAndIsNotWrittenAgain(t *testing.T) {
	for table, disable := range map[string]func(s *Store, key Key) error{
		tableKeys:  func(s *Store, key Key) error { return s.DisableKey(t.Context(), key.Owner, key.ID) },
		tableUsers: func(s *Store, key Key) error { return s.DisableUser(t.Context(), key.Owner) },
	} {
		t.Run(table, func(t *testing.T) {
			s := open(t, nil)
			key, token := addWideKey(t, s, "ada")
			entries := map[string]uuid.UUID{table: map[string]uuid.UUID{tableKeys: key.ID, tableUsers: key.Owner}[table]}
			s = reopenWithOldPages(t, s, entries, func(s *Store) { must(t, disable(s, key)) })
			for range 2 {
				wantRefused(t, s, token, ErrCorrupt)
			}
			err := disable(s, key)
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("disabled again: got %v, want %v", err, ErrCorrupt)
			}
			wantRefused(t, s, token, ErrCorrupt)
		})
	}
}

func TestAVerifierThatChangesDuringTheHashIsProvenAnew(t *testing.T) {
	for _, tt := range []struct {
		name       string
		sameSecret bool
		want       error
	}{
		{"hashed anew from the same secret", true, nil},
		{"of another secret", false, ErrInvalidToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, nil)
				key, token := addServerKey(t, s, "laptop")
				before := stats(t, s).Hashes
				giveBack := takePermits(t, s)
				outcome := loginAside(t.Context(), s, token)
				synctest.Wait()

				secret := secretOf(t, s, token)
				if !tt.sameSecret {
					secret[0] ^= 1
				}
				v := newVerifier(secret[:], LightCost)
				plantVerifier(t, s, key.ID, v.String())
				giveBack()
				synctest.Wait()
				wantOutcome(t, outcome, tt.want)
				wantHashes(t, s, before, 2)
			})
		})
	}
}

func TestLoginsUseNoMoreMemoryThanHashMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{Cost: LightCost, HashMemory: units(4).bytes()})
		s.hasher.Slots = 100
		var tokens []string
		for i := range 20 {
			_, token := addServerKey(t, s, fmt.Sprint(i))
			tokens = append(tokens, token)
		}
		mustAcquire(t, s.hasher, units(2))
		var outcomes []<-chan error
		for _, token := range tokens {
			outcomes = append(outcomes, loginAside(t.Context(), s, token))
		}
		synctest.Wait()
		if n := s.hasher.Waiting(); n != 20 {
			t.Errorf("%d hashes wait, want 20", n)
		}
		s.hasher.release(units(2))
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, nil)
		}
		if st := stats(t, s); st.HashPeak != units(2).bytes() {
			t.Errorf("the peak is %d bytes, want %d", st.HashPeak, units(2).bytes())
		}
		wantIdle(t, s.hasher)
	})
}

func TestCloseWaitsForHashesThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		hash := make(chan struct{})
		if !s.goBackground(func() { <-hash }) {
			t.Fatal("the store is open, and takes no work")
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait")
		default:
		}
		if s.goBackground(func() {}) {
			t.Error("the store takes work while it closes")
		}
		close(hash)
		synctest.Wait()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestALoginThatWaitsForItsHashWhenTheStoreClosesReturnsErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, token := addServerKey(t, s, "laptop")
		giveBack := takePermits(t, s)
		outcome := loginAside(t.Context(), s, token)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		giveBack()
		synctest.Wait()
		wantOutcome(t, outcome, ErrClosed)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		wantIdle(t, s.hasher)
	})
}

func TestATokenWithATagAndAWordTooLargeIsRefused(t *testing.T) {
	var vectors struct {
		Regexp  string
		Genuine []any
		Refused []struct {
			About, Kind, Prefix, Token string
			TagSecret                  vector.Hex `json:"tag_secret"`
		}
	}
	vector.Read(t, "tokens.json", &vectors)
	tried := uint64(0)
	for _, v := range vectors.Refused {
		if v.Kind != "tagged" {
			continue
		}
		s := reopenWithTags(t, open(t, nil), record.FirstTagSecret([16]byte(v.TagSecret)))
		wantRefused(t, s, v.Token, ErrInvalidToken)
		if st := stats(t, s); st.Unknown != 1 {
			t.Errorf("%s: got %+v, want one unknown token", v.About, st)
		}
		tried++
	}
	if tried == 0 {
		t.Error("there are no such tokens in the vectors")
	}
}

// bytesIn collects the bytes of everything that can be reached from v, except through atomic
// pointers. It returns a string for each array, slice and string.
func bytesIn(v reflect.Value, seen map[uintptr]bool) (found []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			found = bytesIn(v.Elem(), seen)
		}
	case reflect.Interface:
		if !v.IsNil() {
			found = bytesIn(v.Elem(), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			found = append(found, bytesIn(v.Field(i), seen)...)
		}
	case reflect.String:
		found = []string{v.String()}
	case reflect.Array, reflect.Slice:
		var flat []byte
		for i := range v.Len() {
			if e := v.Index(i); e.Kind() == reflect.Uint8 {
				flat = append(flat, byte(e.Uint()))
			} else {
				found = append(found, bytesIn(e, seen)...)
			}
		}
		found = append(found, string(flat))
	}
	return found
}

func TestAnEntryHoldsNeitherSecretNorTokenNorVerifier(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	wantLogin(t, s, token, key.ID)
	var parsed tokenform.Token
	s.tokens.Load().Parse(token, &parsed)
	v, err := parseVerifier(verifierOf(t, s, key.ID))
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := parsed.Decode()
	kept := [][]byte{secret[:8], []byte(parsed.SecretDigits()[:11]), v.Hash[:8], v.Salt[:8], []byte("argon2id")}

	leaks := func(entry any) (n int) {
		for _, text := range bytesIn(reflect.ValueOf(entry), make(map[uintptr]bool)) {
			for _, secret := range kept {
				n += strings.Count(text, string(secret))
			}
		}
		return n
	}
	e := s.cache.Get(&parsed)
	if e == nil {
		t.Fatal("the key is not in the cache")
	}
	if n := leaks(e); n != 0 {
		t.Errorf("the entry holds what it must not in %d places", n)
	}
	if n := leaks(struct {
		*cache.Entry[answer]
		leak error
	}{e, fmt.Errorf("login with %s: %w", token, ErrKeyExpired)}); n == 0 {
		t.Error("a planted token was not found: the test shows nothing")
	}
	if n := leaks(&struct{ leak tokenform.Token }{parsed}); n == 0 {
		t.Error("a planted secret was not found: the test shows nothing")
	}
}

// BenchmarkCacheMemory measures the memory of a key in a full cache of the default size: the entry,
// the name of the key, and a share of the table.
func BenchmarkCacheMemory(b *testing.B) {
	const keys = 10_000
	s := open(b, &Options{Cost: LightCost, CacheSize: keys})
	minted, tokens, err := s.MintKeys(b.Context(), keys, nil)
	if err == nil {
		err = s.Update(b.Context(), func(tx *Tx) error {
			for i, m := range minted {
				if _, err := tx.InsertServerKey(KeySpec{Name: fmt.Sprintf("device-%05d", i)}, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // frees the memory that finalizers of the first run have released
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		s.cache = cache.New(0, 0, (*answer).holder)
		before := heap()
		s.cache = cache.New(keys, 0, (*answer).holder)
		for _, token := range tokens {
			if _, err := s.Login(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((float64(heap())-float64(before))/keys, "bytes/key")
	}
	if s.cache.Size() != keys {
		b.Fatalf("the cache has %d keys, want %d", s.cache.Size(), keys)
	}
}

// digests is a Foreign for tokens that begin with "old".
type digests struct{}

func (digests) Handles(token string) []ForeignHandle {
	if !strings.HasPrefix(token, "old") {
		return nil
	}
	return []ForeignHandle{{1}}
}

func (digests) Memory(string) (int64, error) { return 0, nil }

func (digests) Verify(token, verifier string) (bool, error) {
	sum := sha256.Sum256([]byte(token))
	return verifier == hex.EncodeToString(sum[:]), nil
}

// A thief of the file knows the tag secret and the digests of foreign tokens.
func TestTheFileIsNotEnoughToLogInWithAForeignKey(t *testing.T) {
	s := open(t, &Options{Cost: LightCost, Foreign: digests{}})
	sum := sha256.Sum256([]byte("old token"))
	m := MintForeign(ForeignHandle{1}, hex.EncodeToString(sum[:]), time.Time{})
	key, _, err := s.EnsureServerKey(t.Context(), KeySpec{Name: "old"}, m)
	must(t, err)
	forged := s.tokens.Load().Make(key.ID, sum)
	for range 2 {
		wantRefused(t, s, forged, ErrInvalidToken)
		wantRefused(t, s, "old"+forged, ErrInvalidToken)
		wantLogin(t, s, "old token", key.ID) // the second time it is in the cache
	}
	// The holder of the old token could make a token of it, if the file was stolen, too. It is no
	// token that the store has made.
	made := s.tokens.Load().Make(key.ID, foreign.Secret("old token"))
	s.cache.Clear()
	wantRefused(t, s, made, ErrInvalidToken)
}

func TestACachedLoginWithAForeignTokenAllocatesLittle(t *testing.T) {
	s := open(t, &Options{Cost: LightCost, Foreign: digests{}})
	sum := sha256.Sum256([]byte("old token"))
	_, _, err := s.EnsureServerKey(t.Context(), KeySpec{Name: "old"}, MintForeign(ForeignHandle{1}, hex.EncodeToString(sum[:]), time.Time{}))
	must(t, err)
	ctx := t.Context()
	n := testing.AllocsPerRun(100, func() { _, _ = s.Login(ctx, "old token") })
	if n > 2 { // the list of handles, and the token that the cache is asked for
		t.Errorf("%v allocations, want at most 2", n)
	}
}

func TestInspectingATokenAnswersAsALoginAndLeavesNoTrace(t *testing.T) {
	s, key, old := openWithOldKey(t) // a login would hash it anew
	_, token, err := s.RotateServerKey(t.Context(), key.ID, Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, err)
	gone, goneToken := addServerKey(t, s, "gone")
	must(t, s.DeleteKey(t.Context(), ServerOwner, gone.ID))
	off, offToken := addServerKey(t, s, "off")
	must(t, s.DisableKey(t.Context(), ServerOwner, off.ID))
	before, content := stats(t, s), dump(t, s)
	for range 2 {
		for _, good := range []string{token, old} { // the new one would end the old one
			if who, err := s.Inspect(t.Context(), good, netip.Addr{}); err != nil || who.KeyID != key.ID || who.KeyName != "laptop" {
				t.Errorf("got %+v, %v", who, err)
			}
		}
		for bad, want := range map[string]error{
			offToken: ErrKeyDisabled, goneToken: ErrInvalidToken, "lk_": ErrInvalidToken, old[:len(old)-1] + "!": ErrInvalidToken,
			strings.Repeat("0", len(old)): ErrInvalidToken, old[:40] + "0000" + old[44:]: ErrInvalidToken,
		} {
			if who, err := s.Inspect(t.Context(), bad, netip.Addr{}); !errors.Is(err, want) || who != (Principal{}) {
				t.Errorf("%s: got %+v, %v, want %v", bad, who, err, want)
			}
		}
	}
	after := stats(t, s)
	after.Hashes, after.HashWait, after.HashPeak = before.Hashes, before.HashWait, before.HashPeak
	if after != before {
		t.Errorf("the counters were %+v, and are %+v", before, after)
	}
	if waiting := s.rehashes.Len(); waiting > 0 {
		t.Errorf("%d hashes wait for a write", waiting)
	}
	must(t, s.writeLastUses(t.Context()))
	if now := dump(t, s); !slices.Equal(now, content) {
		t.Errorf("the store had\n%s\nand has\n%s", strings.Join(content, "\n"), strings.Join(now, "\n"))
	}
	wantUsed(t, s, key.ID, time.Time{})
	wantLogin(t, s, old, key.ID)
}
