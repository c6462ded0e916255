package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// rotate rotates a key of a user or of the server.
func rotate(t testing.TB, s *latchkey.Store, key latchkey.Key, r latchkey.Rotation) (token string) {
	t.Helper()
	rotated, token, err := rotateKey(t.Context(), s, key.Owner, key.ID, r)
	must(t, err)
	if rotated.ID != key.ID || rotated.Name != key.Name || rotated.Owner != key.Owner || !rotated.Created.Equal(key.Created) {
		t.Errorf("rotating %+v gave %+v", key, rotated)
	}
	return token
}

func rotateKey(ctx context.Context, s *latchkey.Store, owner, id uuid.UUID, r latchkey.Rotation) (latchkey.Key, string, error) {
	if owner == latchkey.ServerOwner {
		return s.RotateServerKey(ctx, id, r)
	}
	return s.RotateKey(ctx, owner, id, r)
}

// openClocked opens a store whose clock the test moves.
func openClocked(t testing.TB) (*latchkey.Store, *clock, *latchkey.Options) {
	t.Helper()
	now := newClock()
	opts := light()
	opts.Now, opts.TestClock = now.now, true
	return openWith(t, opts), now, opts
}

func TestARotationWithoutOverlapEndsTheOldTokenAtOnceAndUnhashed(t *testing.T) {
	for _, cached := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "keys.db")
		s := openAt(t, path, light())
		for _, owner := range []uuid.UUID{addUser(t, s, "ada"), latchkey.ServerOwner} {
			key, old := addKey(t, s, owner, "laptop")
			if cached {
				wantLogin(t, s, old, key.ID)
			}
			token := rotate(t, s, key, latchkey.Rotation{})
			before := hashes(t, s)
			wantRefused(t, s, old, latchkey.ErrInvalidToken)
			if n := hashes(t, s) - before; n != 0 {
				t.Errorf("refusing the old token took %d hashes, want 0", n)
			}
			wantLogin(t, s, token, key.ID)
			if n := hashes(t, s) - before; n != 1 {
				t.Errorf("the first login with the new token took %d hashes, want 1", n)
			}
			closeStore(t, s)
			s = openAt(t, path, light())
			wantRefused(t, s, old, latchkey.ErrInvalidToken)
			wantLogin(t, s, token, key.ID)
		}
	}
}

func TestBothTokensAreGoodAndCachedDuringAnOverlap(t *testing.T) {
	s, now, _ := openClocked(t)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour})
	before := hashes(t, s)
	for range 3 {
		wantLogin(t, s, old, key.ID)
		wantLogin(t, s, token, key.ID)
	}
	if n := hashes(t, s) - before; n != 2 {
		t.Errorf("three logins with each of two tokens took %d hashes, want 2", n)
	}
	for _, presented := range []string{old, token} {
		allocations := testing.AllocsPerRun(100, func() {
			if _, err := s.Login(t.Context(), presented); err != nil {
				t.Error(err)
			}
		})
		if allocations != 0 {
			t.Errorf("a cached login during an overlap makes %v allocations, want 0", allocations)
		}
	}
	now.advance(time.Hour - time.Second)
	wantLogin(t, s, old, key.ID)
	now.advance(time.Second)
	before = hashes(t, s)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)
	if n := hashes(t, s) - before; n != 0 {
		t.Errorf("after the overlap there were %d hashes, want 0", n)
	}
}

func TestAnOverlapIsNeverShorterThanItWasAskedToBe(t *testing.T) {
	s, now, _ := openClocked(t)
	now.advance(700 * time.Millisecond)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	rotate(t, s, key, latchkey.Rotation{Overlap: time.Nanosecond})
	wantLogin(t, s, old, key.ID)
	now.advance(300 * time.Millisecond)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
}

func TestAnOverlapOfAnyLengthLeavesTheOldTokenGood(t *testing.T) {
	s := open(t)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	rotate(t, s, key, latchkey.Rotation{Overlap: math.MaxInt64})
	wantLogin(t, s, old, key.ID)
}

func TestTheTokensOfAKeyAreToldWithTheirEnds(t *testing.T) {
	s, now, _ := openClocked(t)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour})
	first, err := s.Login(t.Context(), old)
	must(t, err)
	second, err := s.Login(t.Context(), token)
	must(t, err)
	if first.TokenID == second.TokenID || len(first.TokenID) != 16 {
		t.Errorf("the tokens are called %q and %q", first.TokenID, second.TokenID)
	}
	got := keyOf(t, s, key.Owner, key.ID)
	want := []latchkey.KeyToken{{ID: first.TokenID, Ends: now.now().Add(time.Hour)}, {ID: second.TokenID}}
	if !reflect.DeepEqual(got.Tokens, want) {
		t.Errorf("the tokens are %v, want %v", got.Tokens, want)
	}
	rotate(t, s, key, latchkey.Rotation{})
	got = keyOf(t, s, key.Owner, key.ID)
	if len(got.Tokens) != 1 || got.Tokens[0].ID == second.TokenID {
		t.Errorf("after a rotation without overlap the tokens are %v", got.Tokens)
	}
}

func TestARotationDuringAnOverlapEndsTheOlderToken(t *testing.T) {
	s, now, _ := openClocked(t)
	key, first := addKey(t, s, addUser(t, s, "ada"), "laptop")
	second := rotate(t, s, key, latchkey.Rotation{Overlap: 2 * time.Hour})
	wantLogin(t, s, first, key.ID)
	third := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour})
	wantRefused(t, s, first, latchkey.ErrInvalidToken)
	wantLogin(t, s, second, key.ID)
	wantLogin(t, s, third, key.ID)
	now.advance(time.Hour)
	wantRefused(t, s, second, latchkey.ErrInvalidToken)
	wantLogin(t, s, third, key.ID)

	fourth := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour})
	fifth := rotate(t, s, key, latchkey.Rotation{})
	for _, ended := range []string{first, second, third, fourth} {
		wantRefused(t, s, ended, latchkey.ErrInvalidToken)
	}
	wantLogin(t, s, fifth, key.ID)
}

func TestTheFirstLoginWithTheNewTokenEndsTheOldOneDurably(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	wantLogin(t, s, old, key.ID)
	wantLogin(t, s, old, key.ID)
	before := hashes(t, s)
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)
	if n := hashes(t, s) - before; n != 1 {
		t.Errorf("two logins with the new token took %d hashes, want 1", n)
	}
	closeStore(t, s)
	s = openAt(t, path, light())
	sequence := stats(t, s).Sequence
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)
	if now := stats(t, s).Sequence; now != sequence {
		t.Errorf("the second process wrote: sequence %d, then %d", sequence, now)
	}
	must(t, s.Health(t.Context()))
}

func TestALoginThatIsRefusedEndsNoToken(t *testing.T) {
	s, _, _ := openClocked(t)
	user := addUser(t, s, "ada")
	key, old := addKey(t, s, user, "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, s.DisableKey(t.Context(), user, key.ID))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.EnableKey(t.Context(), user, key.ID))
	must(t, s.DisableUser(t.Context(), user))
	wantRefused(t, s, token, latchkey.ErrUserDisabled)
	must(t, s.EnableUser(t.Context(), user))
	wantLogin(t, s, old, key.ID)
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
}

func TestADisabledOrExpiredKeyCanBeRotatedAndStaysSo(t *testing.T) {
	s, now, _ := openClocked(t)
	user := addUser(t, s, "ada")
	key, _ := addKey(t, s, user, "laptop")
	must(t, s.DisableKey(t.Context(), user, key.ID))
	token := rotate(t, s, key, latchkey.Rotation{})
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.EnableKey(t.Context(), user, key.ID))
	wantLogin(t, s, token, key.ID)

	short, _, err := s.CreateKey(t.Context(), user, latchkey.KeySpec{Name: "short", Expires: now.now().Add(time.Minute)})
	must(t, err)
	now.advance(time.Minute)
	wantRefused(t, s, rotate(t, s, short, latchkey.Rotation{}), latchkey.ErrKeyExpired)
}

func TestARotationNeedsNoRoomForAnotherKey(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = 1
	s := openWith(t, opts)
	key, _ := addKey(t, s, addUser(t, s, "ada"), "laptop")
	wantLogin(t, s, rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour}), key.ID)
}

func TestARotationThatIsRefusedHashesNothingAndChangesNothing(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	ctx := t.Context()
	bob := addUser(t, s, "bob")
	before, sequence := hashes(t, s), stats(t, s).Sequence
	for _, tt := range []struct {
		name      string
		owner, id uuid.UUID
		r         latchkey.Rotation
		want      error
	}{
		{"another owner", bob, h.key.ID, latchkey.Rotation{}, latchkey.ErrKeyNotFound},
		{"no such key", h.user, uuid.New(), latchkey.Rotation{}, latchkey.ErrKeyNotFound},
		{"a user's key as a server key", latchkey.ServerOwner, h.key.ID, latchkey.Rotation{}, latchkey.ErrKeyNotFound},
		{"a negative overlap", h.user, h.key.ID, latchkey.Rotation{Overlap: -1}, latchkey.ErrInvalidRotation},
		{"until used without an overlap", h.user, h.key.ID, latchkey.Rotation{UntilUsed: true}, latchkey.ErrInvalidRotation},
	} {
		key, token, err := rotateKey(ctx, s, tt.owner, tt.id, tt.r)
		if !errors.Is(err, tt.want) || token != "" || !reflect.DeepEqual(key, latchkey.Key{}) {
			t.Errorf("%s: got %v, %q, %v, want %v", tt.name, key, token, err, tt.want)
		}
		err = s.Update(ctx, func(tx *latchkey.Tx) error {
			if tt.owner == latchkey.ServerOwner {
				_, err = tx.RotateServerKey(tt.id, tt.r, h.newServerToken)
			} else {
				_, err = tx.RotateKey(tt.owner, tt.id, tt.r, h.newToken)
			}
			return err
		})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s, in a transaction: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, _, err := s.RotateKey(ctx, latchkey.ServerOwner, h.serverKey, latchkey.Rotation{}); !errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Errorf("RotateKey of a server key: got %v", err)
	}
	if err := s.Update(ctx, func(tx *latchkey.Tx) error {
		_, err := tx.RotateKey(latchkey.ServerOwner, h.serverKey, latchkey.Rotation{}, h.newServerToken)
		return err
	}); !errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Errorf("Tx.RotateKey of a server key: got %v", err)
	}
	if hashes(t, s) != before || stats(t, s).Sequence != sequence {
		t.Error("a rotation that was refused has hashed or written")
	}
	wantLogin(t, s, h.token, h.key.ID)
}

// A MintedKey of MintToken is good for one rotation of its key, and for nothing else. A caller that
// has kept one cannot bring back the token.
func TestAMintedTokenIsGoodForTheNextRotationOfItsKeyAlone(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	other := addHousehold(t, open(t))
	minted, token, err := s.MintToken(t.Context(), h.user, h.key.ID)
	must(t, err)
	use := func(id uuid.UUID, m latchkey.MintedKey) error {
		return s.Update(t.Context(), func(tx *latchkey.Tx) error {
			_, err := tx.RotateKey(h.user, id, latchkey.Rotation{}, m)
			return err
		})
	}
	wantError(t, use(h.spare.ID, minted), latchkey.ErrInvalidMintedKey)
	wantError(t, use(h.key.ID, latchkey.MintedKey{}), latchkey.ErrInvalidMintedKey)
	wantError(t, use(h.key.ID, mint(t, s)), latchkey.ErrInvalidMintedKey)
	wantError(t, use(h.key.ID, other.newToken), latchkey.ErrInvalidMintedKey)
	must(t, use(h.key.ID, minted))
	wantLogin(t, s, token, h.key.ID)
	wantRefused(t, s, h.token, latchkey.ErrInvalidToken)
	last := rotate(t, s, h.key, latchkey.Rotation{})
	for _, late := range []latchkey.MintedKey{minted, h.newToken} {
		wantError(t, use(h.key.ID, late), latchkey.ErrInvalidMintedKey)
	}
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	wantLogin(t, s, last, h.key.ID)

	unused := mintToken(t, s, h.key)
	must(t, s.DeleteKey(t.Context(), h.user, h.key.ID))
	wantError(t, use(h.key.ID, unused), latchkey.ErrKeyNotFound)
	wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "again"}, unused)
		return err
	}), latchkey.ErrInvalidMintedKey)
	never := mintToken(t, s, h.spare)
	wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "again"}, never)
		return err
	}), latchkey.ErrInvalidMintedKey)
}

func TestAKeyOfMintKeyCannotRotateTheKeyThatItBecame(t *testing.T) {
	s := open(t)
	user := addUser(t, s, "ada")
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		key, err := tx.InsertKey(user, latchkey.KeySpec{Name: "laptop"}, minted)
		if err != nil {
			return err
		}
		if _, err := tx.RotateKey(user, key.ID, latchkey.Rotation{}, minted); !errors.Is(err, latchkey.ErrInvalidMintedKey) {
			t.Errorf("got %v", err)
		}
		return nil
	}), nil)
	if _, err := s.Login(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func TestOfRotationsAtTheSameTimeTheLastOneHolds(t *testing.T) {
	s := open(t)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	const n = 8
	tokens := make(chan string, n)
	for range n {
		go func() {
			_, token, err := s.RotateKey(context.Background(), key.Owner, key.ID, latchkey.Rotation{})
			if err != nil {
				t.Error(err)
			}
			tokens <- token
		}()
	}
	var made []string
	for range n {
		made = append(made, <-tokens)
	}
	good := 0
	for _, token := range made {
		if _, err := s.Login(t.Context(), token); err == nil {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d tokens are good, want 1", good)
	}
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	got, err := s.Key(t.Context(), key.Owner, key.ID)
	must(t, err)
	if len(got.Tokens) != 1 {
		t.Errorf("the key has the tokens %v, want one", got.Tokens)
	}
}

func TestAReadOnlyProcessRefusesTheOldTokenOnceItHasSeenTheNewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	now := newClock()
	opts := light()
	opts.Now, opts.TestClock = now.now, true
	s := openAt(t, path, opts)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	closeStore(t, s)

	opts.ReadOnly = true
	s = openAt(t, path, opts)
	wantLogin(t, s, old, key.ID)
	wantLogin(t, s, old, key.ID)
	must(t, s.Health(t.Context()))
	before := hashes(t, s)
	for range 3 {
		wantLogin(t, s, token, key.ID)
		wantRefused(t, s, old, latchkey.ErrInvalidToken)
	}
	if n := hashes(t, s) - before; n != 1 {
		t.Errorf("there were %d hashes, want 1", n)
	}
	got, err := s.Key(t.Context(), key.Owner, key.ID)
	must(t, err)
	if len(got.Tokens) != 1 {
		t.Errorf("this process tells of the tokens %v", got.Tokens)
	}
	err = s.Health(t.Context())
	wantError(t, err, latchkey.ErrRotationNotDurable)
	if !strings.Contains(err.Error(), key.ID.String()) || !strings.Contains(err.Error(), latchkey.ErrReadOnly.Error()) {
		t.Errorf("Health says %v", err)
	}
	now.advance(time.Hour)
	must(t, s.Health(t.Context()))
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
}

// fullEngine is an engine whose Update fails while fails is set.
type fullEngine struct {
	latchkey.Engine
	fails  error
	before func() // called before a failure, if it is not nil
}

func (e *fullEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.fails != nil && e.before != nil {
		e.before()
	}
	if e.fails != nil {
		return e.fails
	}
	return e.Engine.Update(ctx, fn)
}

// openRotated opens a store on a fullEngine, with a key whose old token is good until the new one
// is used.
func openRotated(t *testing.T) (s *latchkey.Store, e *fullEngine, path string, key latchkey.Key, old, token string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keys.db")
	e = &fullEngine{Engine: latchkey.EngineAt(t, path, nil)}
	s, err := latchkey.OpenWith(e, light())
	must(t, err)
	key, old = addKey(t, s, addUser(t, s, "ada"), "laptop")
	token = rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	return s, e, path, key, old, token
}

func TestTheEndOfAnOldTokenIsWrittenWithTheNextChangeIfTheDiskWasFull(t *testing.T) {
	s, e, path, key, old, token := openRotated(t)
	wantLogin(t, s, old, key.ID)
	e.fails = errors.New("no space left on device")
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantError(t, s.Health(t.Context()), latchkey.ErrRotationNotDurable)

	e.fails = nil
	addUser(t, s, "bob")
	must(t, s.Health(t.Context()))
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantClean(t, s)
	closeStore(t, s)
	s = openAt(t, path, light())
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantLogin(t, s, token, key.ID)
}

// A process that ends before the end of the old token is on disk leaves the token good, until the
// new token logs in again.
func TestAfterACrashTheNewTokenEndsTheOldOneAgain(t *testing.T) {
	s, e, path, key, old, token := openRotated(t)
	e.fails = errors.New("no space left on device")
	wantLogin(t, s, token, key.ID)
	closeStore(t, s)
	s = openAt(t, path, light())
	wantLogin(t, s, old, key.ID)
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	must(t, s.Health(t.Context()))
}

func TestALoginFailsIfItsContextEndsBeforeTheOldTokenHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := &fullEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	e.fails, e.before = errors.New("no space left on device"), cancel
	_, err := s.Login(ctx, token)
	wantError(t, err, context.Canceled)
	e.fails, e.before = nil, nil
	wantLogin(t, s, old, key.ID)
	must(t, s.Health(t.Context()))
}

func TestARestoredBackupHasTheTokensOfItsTime(t *testing.T) {
	latchkey.AboutFile(t)
	dir := t.TempDir()
	s := open(t)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	token := rotate(t, s, key, latchkey.Rotation{})
	path := filepath.Join(dir, "keys.db")
	must(t, latchkey.Restore(t.Context(), &backup, path))
	restored := openFile(t, path, light())
	wantLogin(t, restored, old, key.ID)
	wantRefused(t, restored, token, latchkey.ErrInvalidToken)
}

func TestTheHookHearsOfRotationsAndOfTheFirstUse(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	cs.take()
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	wantLogin(t, s, token, key.ID)
	wantLogin(t, s, token, key.ID)
	id := key.ID.String()
	wantChanges(t, &cs, id+" [key.rotated] laptop", id+" [key.token-ended] laptop")

	// A hook that refuses the end is like a disk that is full.
	token = rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	cs.take()
	cs.fail = errors.New("the hook fails")
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantError(t, s.Health(t.Context()), latchkey.ErrRotationNotDurable)
	cs.take()
	cs.fail = nil
	bob := addUser(t, s, "bob")
	wantChanges(t, &cs, bob.String()+" [user.created] local-userpass", id+" [key.token-ended] laptop")
	must(t, s.Health(t.Context()))
}

// An address that the key may not be used from ends no token, whatever was cached.
func TestALoginFromAnAddressThatIsRefusedEndsNoToken(t *testing.T) {
	s := open(t)
	key, old, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "door", Networks: home})
	must(t, err)
	inside, outside := home[0].Addr().Next(), netip.MustParseAddr("198.51.100.1")
	from := func(token string, addr netip.Addr, want error) {
		t.Helper()
		_, err := s.LoginFrom(t.Context(), token, addr)
		wantError(t, err, want)
	}
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	from(token, outside, latchkey.ErrNetworkNotAllowed)
	from(old, inside, nil)
	from(token, inside, nil)
	from(old, inside, latchkey.ErrInvalidToken)
}

// groupOnce is an engine that calls a function after a write, and cannot read groups in the
// transaction after that.
type groupOnce struct {
	latchkey.Engine
	after  func()
	broken bool
}

func (e *groupOnce) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	after := e.after
	e.after = nil
	err := e.Engine.Update(ctx, fn)
	if after != nil {
		after()
		e.broken = true
	}
	return err
}

func (e *groupOnce) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	broken := e.broken
	e.broken = false
	return e.Engine.View(ctx, func(etx latchkey.EngineTx) error { return fn(groupTx{etx, broken}) })
}

type groupTx struct {
	latchkey.EngineTx
	broken bool
}

func (tx groupTx) Get(table string, key []byte) ([]byte, error) {
	if tx.broken && table == "groups" {
		return nil, errors.New("input/output error")
	}
	return tx.EngineTx.Get(table, key)
}

func TestAnAnswerThatCouldNotBeReadIsNotRemembered(t *testing.T) {
	e := &groupOnce{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	key, _ := addKey(t, s, latchkey.ServerOwner, "laptop")
	must(t, s.SetKeyGroup(t.Context(), key.ID, "acme"))
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	// The group is disabled as soon as the old token has ended.
	e.after = func() { must(t, s.DisableGroup(t.Context(), "acme")) }
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
}
