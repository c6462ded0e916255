package latchkey_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestAKeyDoesNotExistForAnyoneButItsOwner(t *testing.T) {
	s := open(t)
	ada, bob, gone := addUser(t, s, "ada"), addUser(t, s, "bob"), addUser(t, s, "gone")
	must(t, s.DeleteUser(t.Context(), gone))
	adas, token := addKey(t, s, ada, "laptop")
	servers, serverToken := addKey(t, s, latchkey.ServerOwner, "backup")
	deleted, _ := addKey(t, s, ada, "lost")
	must(t, s.DeleteKey(t.Context(), ada, deleted.ID))

	calls := map[string]func(owner, id uuid.UUID) error{
		"Key":        func(owner, id uuid.UUID) error { _, err := s.Key(t.Context(), owner, id); return err },
		"EnableKey":  func(owner, id uuid.UUID) error { return s.EnableKey(t.Context(), owner, id) },
		"DisableKey": func(owner, id uuid.UUID) error { return s.DisableKey(t.Context(), owner, id) },
		"DeleteKey":  func(owner, id uuid.UUID) error { return s.DeleteKey(t.Context(), owner, id) },
		"RenameKey":  func(owner, id uuid.UUID) error { return s.RenameKey(t.Context(), owner, id, "mine") },
		"SetExpiry": func(owner, id uuid.UUID) error {
			return s.SetExpiry(t.Context(), owner, id, s.Now().Add(time.Hour))
		},
		"SetExpiry to the one it has": func(owner, id uuid.UUID) error {
			return s.SetExpiry(t.Context(), owner, id, time.Time{})
		},
		"SetScopes":   func(owner, id uuid.UUID) error { return s.SetScopes(t.Context(), owner, id, latchkey.NewScopes("*")) },
		"SetNetworks": func(owner, id uuid.UUID) error { return s.SetNetworks(t.Context(), owner, id, nil) },
		"SetMetadata": func(owner, id uuid.UUID) error { return s.SetMetadata(t.Context(), owner, id, nil) },
		"RenameKey to its name": func(owner, id uuid.UUID) error {
			return s.RenameKey(t.Context(), owner, id, "laptop")
		},
	}
	for _, tt := range []struct {
		name      string
		owner, id uuid.UUID
	}{
		{"another user", bob, adas.ID},
		{"the server", latchkey.ServerOwner, adas.ID},
		{"a deleted user", gone, adas.ID},
		{"a made-up owner", uuid.New(), adas.ID},
		{"nobody", uuid.Nil, adas.ID},
		{"the key itself", adas.ID, adas.ID},
		{"a user, of a server key", ada, servers.ID},
		{"nobody, of a server key", uuid.Nil, servers.ID},
		{"the owner, of a deleted key", ada, deleted.ID},
	} {
		for name, call := range calls {
			t.Run(name+" by "+tt.name, func(t *testing.T) {
				wantNoChange(t, s, func() {
					err := call(tt.owner, tt.id)
					wantError(t, err, latchkey.ErrKeyNotFound)
					// The error must not tell a key of another owner from a key that never was.
					never := uuid.New()
					want := strings.ReplaceAll(call(ada, never).Error(), never.String(), tt.id.String())
					if err.Error() != want {
						t.Errorf("got %q, want %q", err, want)
					}
				})
			})
		}
	}

	if keys, err := s.Keys(t.Context(), bob); err != nil || len(keys) != 0 {
		t.Errorf("bob's keys: %v, %v, want none", keys, err)
	}
	if keys, err := s.Keys(t.Context(), latchkey.ServerOwner); err != nil || !reflect.DeepEqual(keys, []latchkey.Key{servers}) {
		t.Errorf("the server's keys: %v, %v, want only its own", keys, err)
	}
	for token, want := range map[string]latchkey.Key{token: adas, serverToken: servers} {
		wantLogin(t, s, token, want.ID)
		if got := keyOf(t, s, want.Owner, want.ID); !reflect.DeepEqual(got, want) {
			t.Errorf("key: got %+v, want %+v", got, want)
		}
	}
}

func TestAKeyIsFetchedAsItWasMadeAlsoAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	c := newClock()
	c.advance(987654321 * time.Nanosecond)
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	s := openAt(t, path, opts)
	ada := addUser(t, s, "ada")

	expires := time.Date(2027, 6, 5, 23, 2, 1, 0, time.FixedZone("two hours east", 7200))
	made, _, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "laptop", Expires: expires.Add(999 * time.Millisecond)})
	must(t, err)
	want := latchkey.Key{
		ID:      made.ID,
		Owner:   ada,
		Name:    "laptop",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 987_000_000, time.UTC),
		Expires: time.Date(2027, 6, 5, 21, 2, 1, 0, time.UTC),
		Tokens:  made.Tokens,
	}
	if !reflect.DeepEqual(made, want) {
		t.Errorf("CreateKey: got %+v, want %+v", made, want)
	}
	if made.ID.Version() != 7 || made.ID.Variant() != uuid.RFC4122 {
		t.Errorf("the ID %s has version %d, want 7", made.ID, made.ID.Version())
	}
	if sec, nsec := made.ID.Time().UnixTime(); !time.Unix(sec, nsec).Equal(want.Created) {
		t.Errorf("the ID %s is of %s, want %s", made.ID, time.Unix(sec, nsec).UTC(), want.Created)
	}
	closeStore(t, s)

	s = openAt(t, path, opts)
	if got := keyOf(t, s, ada, made.ID); !reflect.DeepEqual(got, want) {
		t.Errorf("Key: got %+v, want %+v", got, want)
	}
	if got, err := s.Keys(t.Context(), ada); err != nil || !reflect.DeepEqual(got, []latchkey.Key{want}) {
		t.Errorf("Keys: got %+v, %v, want %+v", got, err, want)
	}
}

func TestATimeOutOfRangeIsStoredAsTheNearestInRange(t *testing.T) {
	for _, tt := range []struct{ clock, want time.Time }{
		{time.Date(12026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{time.Date(1901, 1, 2, 3, 4, 5, 0, time.UTC), time.Unix(0, 0).UTC()},
		{time.Time{}, time.Unix(0, 0).UTC()},
	} {
		t.Run(tt.clock.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			opts := light()
			opts.Now, opts.TestClock = func() time.Time { return tt.clock }, true
			s := openAt(t, path, opts)
			ada := addUser(t, s, "ada")
			made, token := addKey(t, s, ada, "laptop")
			closeStore(t, s)
			s = openAt(t, path, opts)
			user, err := s.User(t.Context(), ada)
			must(t, err)
			key, err := s.Key(t.Context(), ada, made.ID)
			must(t, err)
			if !user.Created.Equal(tt.want) || !key.Created.Equal(tt.want) || !reflect.DeepEqual(key, made) {
				t.Errorf("got the user of %s, and the key %+v, made as %+v; want %s", user.Created, key, made, tt.want)
			}
			if _, err := json.Marshal(key); err != nil {
				t.Error(err)
			}
			wantLogin(t, s, token, made.ID)
		})
	}
}

func TestAnAnonymousUserCanHaveNoKeysUntilAnIdentityIsLinked(t *testing.T) {
	s := open(t)
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	wantNoKey(t, s, user.ID, latchkey.KeySpec{Name: "laptop"}, latchkey.ErrAnonymousUser)
	_, err = s.LinkIdentity(t.Context(), user.ID, email("ada"))
	must(t, err)
	key, token := addKey(t, s, user.ID, "laptop")
	wantLogin(t, s, token, key.ID)
}

func TestThePrincipalOfAServerKeyCanHaveNoKeys(t *testing.T) {
	s := open(t)
	key, token := addKey(t, s, latchkey.ServerOwner, "backup")
	who, err := s.Login(t.Context(), token)
	must(t, err)
	if want := (latchkey.Principal{KeyID: key.ID, KeyName: "backup", Owner: latchkey.ServerOwner, ServerKey: true, TokenID: key.Tokens[0].ID}); who != want {
		t.Errorf("got %+v, want %+v", who, want)
	}
	for _, owner := range []uuid.UUID{who.UserID, uuid.Nil, key.ID} {
		wantNoKey(t, s, owner, latchkey.KeySpec{Name: "laptop"}, latchkey.ErrUserNotFound)
		_, err := s.Keys(t.Context(), owner)
		wantError(t, err, latchkey.ErrUserNotFound)
	}
}

// wantNoKey fails the test unless every way to make a key is refused with want before anything is
// hashed.
func wantNoKey(t *testing.T, s *latchkey.Store, owner uuid.UUID, n latchkey.KeySpec, want error) {
	t.Helper()
	minted, _, err := s.MintKey(t.Context())
	must(t, err)
	good := addUser(t, s, uuid.NewString())
	wantNoHash(t, s, func() {
		_, _, err := createKey(t.Context(), s, owner, n)
		wantError(t, err, want)
		if owner != latchkey.ServerOwner {
			_, _, err = s.CreateKeys(t.Context(), []latchkey.KeyRequest{
				{Owner: good, KeySpec: latchkey.KeySpec{Name: "good"}}, {Owner: owner, KeySpec: n},
			}, nil)
			wantError(t, err, want)
		}
		err = s.Update(t.Context(), func(tx *latchkey.Tx) error {
			_, err := insertKey(tx, owner, n, minted)
			return err
		})
		wantError(t, err, want)
	})
}

func wantNoHash(t *testing.T, s *latchkey.Store, call func()) {
	t.Helper()
	before, err := s.Stats(t.Context())
	must(t, err)
	wantNoChange(t, s, call)
	after, err := s.Stats(t.Context())
	must(t, err)
	if n := after.Hashes - before.Hashes; n != 0 {
		t.Errorf("it cost %d hashes, want none", n)
	}
}

func TestAUserWhoDoesNotExistCanHaveNoKeys(t *testing.T) {
	s := open(t)
	gone := addUser(t, s, "gone")
	must(t, s.DeleteUser(t.Context(), gone))
	for _, owner := range []uuid.UUID{gone, uuid.New()} {
		wantNoKey(t, s, owner, latchkey.KeySpec{Name: "laptop"}, latchkey.ErrUserNotFound)
	}
}

func TestServerKeysAreMadeByCallsOfTheirOwn(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	laptop := latchkey.KeySpec{Name: "laptop"}
	wantNoChange(t, s, func() {
		wantNoHash(t, s, func() {
			_, _, err := s.CreateKey(t.Context(), latchkey.ServerOwner, laptop)
			wantError(t, err, latchkey.ErrUserNotFound)
			_, _, err = s.CreateKeys(t.Context(), []latchkey.KeyRequest{{Owner: ada, KeySpec: laptop}, {Owner: latchkey.ServerOwner, KeySpec: laptop}}, nil)
			wantError(t, err, latchkey.ErrUserNotFound)
			err = s.Update(t.Context(), func(tx *latchkey.Tx) error {
				_, err := tx.InsertKey(latchkey.ServerOwner, laptop, minted)
				return err
			})
			wantError(t, err, latchkey.ErrUserNotFound)
		})
	})

	var key latchkey.Key
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.InsertServerKey(laptop, minted)
		return err
	}))
	who, err := s.Login(t.Context(), token)
	must(t, err)
	if want := (latchkey.Principal{KeyID: key.ID, KeyName: "laptop", Owner: latchkey.ServerOwner, ServerKey: true, TokenID: key.Tokens[0].ID}); who != want {
		t.Errorf("logged in as %+v, want %+v", who, want)
	}
	for _, do := range []error{
		s.DisableKey(t.Context(), who.Owner, who.KeyID),
		s.EnableKey(t.Context(), who.Owner, who.KeyID),
		s.RenameKey(t.Context(), who.Owner, who.KeyID, "desktop"),
		s.DeleteKey(t.Context(), who.Owner, who.KeyID),
	} {
		must(t, do)
	}
}

// addNumberedKeys makes n keys of owner, which have numbers as names. first is the first number.
func addNumberedKeys(t *testing.T, s *latchkey.Store, owner uuid.UUID, first, n int) []latchkey.Key {
	t.Helper()
	var requests []latchkey.KeyRequest
	for i := range n {
		requests = append(requests, latchkey.KeyRequest{Owner: owner, KeySpec: latchkey.KeySpec{Name: strconv.Itoa(first + i)}})
	}
	keys, _, err := createKeys(t.Context(), s, requests)
	must(t, err)
	return keys
}

func TestAUserHasAtMost20Keys(t *testing.T) {
	s := open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	keys := addNumberedKeys(t, s, ada, 0, 19)
	addKey(t, s, ada, "the twentieth")
	wantFull := func() {
		t.Helper()
		wantNoKey(t, s, ada, latchkey.KeySpec{Name: "one more"}, latchkey.ErrTooManyKeys)
	}
	wantFull()

	must(t, s.DisableKey(t.Context(), ada, keys[0].ID)) // disabled keys count
	wantFull()
	must(t, s.RenameKey(t.Context(), ada, keys[0].ID, "renamed")) // makes no key
	addKey(t, s, bob, "another user's")
	must(t, s.DeleteKey(t.Context(), ada, keys[0].ID)) // deleted keys do not count
	addKey(t, s, ada, "the twentieth again")
	// The name is checked before the limit.
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "the twentieth"}, latchkey.ErrKeyNameTaken)
	must(t, s.DeleteKey(t.Context(), ada, keys[1].ID))
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.DeleteKey(ada, keys[2].ID) }))
	addNumberedKeys(t, s, ada, 100, 2)
	wantFull()
}

func TestAnOptionChangesHowManyKeysAUserHas(t *testing.T) {
	for _, tt := range []struct {
		option, made int
		refused      bool
	}{
		{1, 1, true},
		{3, 3, true},
		{25, 25, true},
		{-1, 45, false},
	} {
		t.Run(strconv.Itoa(tt.option), func(t *testing.T) {
			opts := light()
			opts.MaxKeysPerUser = tt.option
			s := openWith(t, opts)
			ada := addUser(t, s, "ada")
			addNumberedKeys(t, s, ada, 0, tt.made)
			if tt.refused {
				wantNoKey(t, s, ada, latchkey.KeySpec{Name: "one more"}, latchkey.ErrTooManyKeys)
			} else {
				addKey(t, s, ada, "one more")
			}
		})
	}
}

// scanningEngine counts the entries that scans yield.
type scanningEngine struct {
	latchkey.Engine
	entries int
}

func (e *scanningEngine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.View(ctx, func(etx latchkey.EngineTx) error { return fn(&scanningTx{etx, e}) })
}

func (e *scanningEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx latchkey.EngineTx) error { return fn(&scanningTx{etx, e}) })
}

type scanningTx struct {
	latchkey.EngineTx
	e *scanningEngine
}

func (tx *scanningTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	return func(yield func(latchkey.Entry, error) bool) {
		for entry, err := range tx.EngineTx.Scan(table, from, to) {
			tx.e.entries++
			if !yield(entry, err) {
				return
			}
		}
	}
}

func TestTheKeysOfAUserWithoutLimitAreNotCountedForEachNewOne(t *testing.T) {
	e := &scanningEngine{Engine: newEngine(t)}
	opts := light()
	opts.MaxKeysPerUser = -1
	s := openEngine(t, e, opts)
	ada := addUser(t, s, "ada")
	addNumberedKeys(t, s, ada, 0, 50)
	e.entries = 0
	addNumberedKeys(t, s, ada, 50, 50)
	if e.entries != 0 {
		t.Errorf("%d entries were read to make 50 keys beside 50 others, want 0", e.entries)
	}
}

func TestTheKeysOfAUserAreCountedOnceForManyNewOnes(t *testing.T) {
	e := &scanningEngine{Engine: newEngine(t)}
	opts := light()
	opts.MaxKeysPerUser = 1000
	s := openEngine(t, e, opts)
	ada := addUser(t, s, "ada")
	addNumberedKeys(t, s, ada, 0, 50)
	e.entries = 0
	addNumberedKeys(t, s, ada, 50, 50)
	if e.entries > 2*50 {
		t.Errorf("%d entries were read to make 50 keys beside 50 others, want 50 before they are hashed and 50 after", e.entries)
	}
}

func TestTheLimitCountsTheChangesOfItsOwnTransaction(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = 3
	s := openEngine(t, rerunningEngine{newEngine(t)}, opts)
	ada := addUser(t, s, "ada")
	addKey(t, s, ada, "zero")
	minted, _, err := s.MintKeys(t.Context(), 6, nil)
	must(t, err)
	work := func(tx *latchkey.Tx) error {
		insert := func(i int) (latchkey.Key, error) {
			return tx.InsertKey(ada, latchkey.KeySpec{Name: strconv.Itoa(i)}, minted[i])
		}
		first, err := insert(0)
		must(t, err)
		_, err = insert(1)
		must(t, err)
		_, err = insert(2)
		wantError(t, err, latchkey.ErrTooManyKeys)
		must(t, tx.RenameKey(ada, first.ID, "renamed")) // still counts as one
		_, err = insert(2)
		wantError(t, err, latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, first.ID))
		_, err = insert(3)
		must(t, err)
		_, err = insert(4)
		wantError(t, err, latchkey.ErrTooManyKeys)
		return nil
	}
	failed := errors.New("the function fails")
	wantNoChange(t, s, func() {
		wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { must(t, work(tx)); return failed }), failed)
	})
	must(t, s.Update(t.Context(), work)) // a failed transaction does not count
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "one more"}, latchkey.ErrTooManyKeys)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		if err := tx.DeleteUser(ada); err != nil {
			return err
		}
		again, err := tx.CreateUser(latchkey.UserSpec{Identity: email("ada")})
		must(t, err)
		_, err = tx.InsertKey(again.ID, latchkey.KeySpec{Name: "first"}, minted[5])
		return err
	}))
}

// openWithClock opens a store whose clock the test moves.
func openWithClock(t *testing.T, opts *latchkey.Options) (*latchkey.Store, *clock) {
	t.Helper()
	c := newClock()
	opts.Now, opts.TestClock = c.now, true
	return openWith(t, opts), c
}

// addExpiring makes a key of owner that expires in an hour.
func addExpiring(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) (latchkey.Key, string) {
	t.Helper()
	key, token, err := createKey(t.Context(), s, owner, latchkey.KeySpec{Name: name, Expires: s.Now().Add(time.Hour)})
	must(t, err)
	return key, token
}

func TestExpiredKeysDoNotCountTowardsTheLimit(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	var expiring []latchkey.Key
	var tokens []string
	for i := range 15 {
		key, token := addExpiring(t, s, ada, fmt.Sprint("week ", i))
		expiring, tokens = append(expiring, key), append(tokens, token)
	}
	addNumberedKeys(t, s, ada, 0, 5)
	oneMore := latchkey.KeySpec{Name: "one more"}
	wantNoKey(t, s, ada, oneMore, latchkey.ErrTooManyKeys)
	before := c.now()
	c.advance(time.Hour)

	// Each way to make keys has room for 15.
	addNumberedKeys(t, s, ada, 5, 10)
	addKey(t, s, ada, "15")
	var requests []latchkey.KeyRequest
	for i := range 5 {
		requests = append(requests, latchkey.KeyRequest{Owner: ada, KeySpec: latchkey.KeySpec{Name: strconv.Itoa(16 + i)}})
	}
	wantNoHash(t, s, func() {
		_, _, err := s.CreateKeys(t.Context(), requests, nil)
		wantError(t, err, latchkey.ErrTooManyKeys)
	})
	_, _, err := s.CreateKeys(t.Context(), requests[:4], nil)
	must(t, err)
	wantNoKey(t, s, ada, oneMore, latchkey.ErrTooManyKeys)
	must(t, s.DeleteKey(t.Context(), ada, expiring[0].ID)) // makes no room
	wantNoKey(t, s, ada, oneMore, latchkey.ErrTooManyKeys)

	// The clock goes back, and the expired keys are good again. They count again, too.
	c.set(before)
	wantLogin(t, s, tokens[1], expiring[1].ID)
	keys, err := s.Keys(t.Context(), ada)
	must(t, err)
	if len(keys) != 34 {
		t.Errorf("ada has %d keys, want 34", len(keys))
	}
	for _, key := range keys[:14] {
		wantNoKey(t, s, ada, oneMore, latchkey.ErrTooManyKeys)
		must(t, s.DeleteKey(t.Context(), ada, key.ID))
	}
	wantNoKey(t, s, ada, oneMore, latchkey.ErrTooManyKeys)
	must(t, s.DeleteKey(t.Context(), ada, keys[14].ID))
	addKey(t, s, ada, "one more")
}

func TestTheLimitCountsTheExpiredKeysThatItsOwnTransactionDeletes(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = 2
	s, c := openWithClock(t, opts)
	ada := addUser(t, s, "ada")
	old, _ := addExpiring(t, s, ada, "old")
	older, _ := addExpiring(t, s, ada, "older")
	c.advance(time.Hour)
	first, _ := addKey(t, s, ada, "first")
	minted, _, err := s.MintKeys(t.Context(), 4, nil)
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		insert := func(i int, want error) {
			_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: strconv.Itoa(i)}, minted[i])
			wantError(t, err, want)
		}
		insert(0, nil)
		insert(1, latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, old.ID))
		insert(1, latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, first.ID))
		insert(1, nil)
		insert(2, latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, older.ID))
		insert(2, latchkey.ErrTooManyKeys)
		return nil
	}))
}

func TestNoKeyExpiresDuringATransaction(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	addExpiring(t, s, ada, "week")
	minted, _, err := s.MintKeys(t.Context(), 2, nil)
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: "day", Expires: c.now().Add(time.Minute)}, minted[0])
		must(t, err)
		c.advance(time.Hour)
		_, err = tx.InsertKey(ada, latchkey.KeySpec{Name: "week"}, minted[1])
		wantError(t, err, latchkey.ErrKeyNameTaken)
		return nil
	}))
	addKey(t, s, ada, "week")
}

func TestServerKeysAreNotLimited(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = 1
	s := openWith(t, opts)
	addNumberedKeys(t, s, latchkey.ServerOwner, 0, 45)
	addKey(t, s, latchkey.ServerOwner, "one more")
}

func TestKeysBeyondALoweredLimitGoOnWorkingAndNoMoreCanBeMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	addNumberedKeys(t, s, ada, 0, 3)
	key, token := addKey(t, s, ada, "laptop")
	closeStore(t, s)

	opts := light()
	opts.MaxKeysPerUser = 2
	s = openAt(t, path, opts)
	wantLogin(t, s, token, key.ID)
	must(t, s.DisableKey(t.Context(), ada, key.ID))
	must(t, s.EnableKey(t.Context(), ada, key.ID))
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "one more"}, latchkey.ErrTooManyKeys)
	keys, err := s.Keys(t.Context(), ada)
	must(t, err)
	for _, key := range keys[:3] {
		must(t, s.DeleteKey(t.Context(), ada, key.ID))
	}
	addKey(t, s, ada, "one more")
}

func TestDisablingAndEnablingAKeyAreIdempotent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	for _, owner := range []uuid.UUID{addUser(t, s, "ada"), latchkey.ServerOwner} {
		key, token := addKey(t, s, owner, "laptop")
		other, otherToken := addKey(t, s, owner, "phone")
		if key.Disabled {
			t.Error("a new key is disabled")
		}
		for range 2 {
			must(t, s.EnableKey(t.Context(), owner, key.ID))
			wantKeyDisabled(t, s, key, false)
			wantLogin(t, s, token, key.ID)
		}
		for range 2 {
			must(t, s.DisableKey(t.Context(), owner, key.ID))
			wantKeyDisabled(t, s, key, true)
			wantRefused(t, s, token, latchkey.ErrKeyDisabled)
			wantLogin(t, s, otherToken, other.ID)
		}
		closeStore(t, s)

		s = openAt(t, path, light())
		wantKeyDisabled(t, s, key, true)
		wantRefused(t, s, token, latchkey.ErrKeyDisabled)
		for range 2 {
			must(t, s.EnableKey(t.Context(), owner, key.ID))
			wantKeyDisabled(t, s, key, false)
			wantLogin(t, s, token, key.ID)
		}
	}
}

func wantKeyDisabled(t *testing.T, s *latchkey.Store, key latchkey.Key, want bool) {
	t.Helper()
	got, err := s.Key(t.Context(), key.Owner, key.ID)
	must(t, err)
	if got.Disabled != want {
		t.Fatalf("Disabled is %v, want %v", got.Disabled, want)
	}
}

func TestADeletedKeyIsGoneForGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	insert := func(name string) (key latchkey.Key, err error) {
		err = s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
			key, err = tx.InsertKey(ada, latchkey.KeySpec{Name: name}, minted)
			return err
		})
		return key, err
	}
	key, err := insert("laptop")
	must(t, err)
	disabled, disabledToken := addKey(t, s, ada, "phone")
	must(t, s.DisableKey(t.Context(), ada, disabled.ID))
	wantLogin(t, s, token, key.ID) // so that it is cached
	must(t, s.DeleteKey(t.Context(), ada, key.ID))
	must(t, s.DeleteKey(t.Context(), ada, disabled.ID))

	for range 2 { // as it stands, and after reopening
		wantRefused(t, s, token, latchkey.ErrInvalidToken)
		wantRefused(t, s, disabledToken, latchkey.ErrInvalidToken)
		wantError(t, s.EnableKey(t.Context(), ada, disabled.ID), latchkey.ErrKeyNotFound)
		wantError(t, s.DeleteKey(t.Context(), ada, key.ID), latchkey.ErrKeyNotFound)
		_, err = insert("laptop")
		wantError(t, err, latchkey.ErrInvalidMintedKey)
		if keys, err := s.Keys(t.Context(), ada); err != nil || len(keys) != 0 {
			t.Errorf("got the keys %v, %v, want none", keys, err)
		}
		closeStore(t, s)
		s = openAt(t, path, light())
	}
}

func TestKeysAreListedInTheOrderOfTheirCreation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	s := openAt(t, path, opts)
	for _, owner := range []uuid.UUID{addUser(t, s, "ada"), latchkey.ServerOwner} {
		if keys, err := s.Keys(t.Context(), owner); err != nil || keys == nil || len(keys) != 0 {
			t.Errorf("without any key: got %#v, %v, want an empty slice", keys, err)
		}
		var want []latchkey.Key
		for _, name := range []string{"m", "z", "a", "b"} {
			key, _ := addKey(t, s, owner, name)
			want = append(want, key)
			c.advance(time.Hour)
		}
		// Keys that are made at one time are in the order of their IDs.
		want = append(want, addNumberedKeys(t, s, owner, 0, 5)...)

		// Later changes of a key do not move it.
		must(t, s.RenameKey(t.Context(), owner, want[2].ID, "zz"))
		must(t, s.EnableKey(t.Context(), owner, want[0].ID))
		must(t, s.DisableKey(t.Context(), owner, want[1].ID))
		want[1].Disabled, want[1].Disablings, want[2].Name = true, 1, "zz"
		closeStore(t, s)
		s = openAt(t, path, opts)
		if got, err := s.Keys(t.Context(), owner); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		c.set(time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC)) // before what records can hold
		if last, _ := addKey(t, s, owner, "last"); !last.Created.Equal(time.Unix(0, 0)) {
			t.Errorf("a key made in 1969 is of %s, want 1970", last.Created)
		}
		c.set(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	}
}

func TestCreateKeysReturnsKeysAndTokensInTheOrderOfTheRequests(t *testing.T) {
	s := open(t)
	ada, bob, eve := addUser(t, s, "ada"), addUser(t, s, "bob"), addUser(t, s, "eve")
	var requests []latchkey.KeyRequest
	for i := range 30 {
		owner := []uuid.UUID{ada, bob, eve}[i%3]
		requests = append(requests, latchkey.KeyRequest{Owner: owner, KeySpec: latchkey.KeySpec{Name: fmt.Sprint("sensor ", i/3)}})
	}
	var progress []int
	keys, tokens, err := s.CreateKeys(t.Context(), requests, func(done, total int) {
		if total != len(requests) {
			t.Errorf("progress of %d, want %d", total, len(requests))
		}
		progress = append(progress, done)
	})
	must(t, err)
	if len(keys) != len(requests) || len(tokens) != len(requests) {
		t.Fatalf("got %d keys and %d tokens, want %d", len(keys), len(tokens), len(requests))
	}
	for i, r := range requests {
		if keys[i].Owner != r.Owner || keys[i].Name != r.Name {
			t.Errorf("key %d is %q of %s, want %q of %s", i, keys[i].Name, keys[i].Owner, r.Name, r.Owner)
		}
		wantLogin(t, s, tokens[i], keys[i].ID)
	}
	for i, done := range progress {
		if done != i+1 {
			t.Fatalf("progress went %v, want 1 to %d", progress, len(requests))
		}
	}
	if len(progress) != len(requests) {
		t.Errorf("progress was reported %d times, want %d", len(progress), len(requests))
	}
}

func TestProgressIsCalledInTheGoroutineOfItsCaller(t *testing.T) {
	s := open(t)
	for at := 1; at <= 20; at++ {
		func() {
			defer func() {
				if r := recover(); r != at {
					t.Errorf("recovered %v, want %d", r, at)
				}
			}()
			_, _, err := s.MintKeys(t.Context(), 20, func(done, _ int) {
				if done == at {
					panic(at)
				}
			})
			t.Errorf("after a panic MintKeys returned %v", err)
		}()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _, err := s.MintKeys(t.Context(), 20, func(done, _ int) {
				if done == at {
					runtime.Goexit() // as t.FailNow does
				}
			})
			t.Errorf("in a goroutine that has ended MintKeys returned %v", err)
		}()
		<-ended
	}
	addNumberedKeys(t, s, latchkey.ServerOwner, 0, 20) // all permits to hash are back
}

func TestProgressMayCloseTheStore(t *testing.T) {
	s := open(t)
	_, _, err := s.MintKeys(t.Context(), 1000, func(done, _ int) {
		if done > 1 {
			t.Errorf("a closed store went on to %d", done)
		}
		closeStore(t, s)
	})
	wantError(t, err, latchkey.ErrClosed)
}

func TestCreateKeysMakesAllKeysInOneCommit(t *testing.T) {
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, MaxKeysPerUser: -1})
	ada := addUser(t, s, "ada")
	requests := make([]latchkey.KeyRequest, 50) // any engine has room for so many
	for i := range requests {
		requests[i] = latchkey.KeyRequest{Owner: ada, KeySpec: latchkey.KeySpec{Name: strconv.Itoa(i)}}
	}
	before, err := s.Stats(t.Context())
	must(t, err)
	_, _, err = s.CreateKeys(t.Context(), requests, nil)
	must(t, err)
	after, err := s.Stats(t.Context())
	must(t, err)
	if n := after.Commits - before.Commits; n != 1 || after.Keys != 50 || after.Hashes != 50 {
		t.Errorf("%d keys took %d commits and %d hashes, want 50, 1 and 50", after.Keys, n, after.Hashes)
	}
}

func TestCreateKeysIsRefusedWholeAndUnhashedForOneBadRequest(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	anonymous, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	addKey(t, s, ada, "taken")
	for _, tt := range []struct {
		name  string
		owner uuid.UUID
		bad   latchkey.KeySpec
		want  error
	}{
		{"no user", uuid.New(), latchkey.KeySpec{Name: "a"}, latchkey.ErrUserNotFound},
		{"an anonymous user", anonymous.ID, latchkey.KeySpec{Name: "a"}, latchkey.ErrAnonymousUser},
		{"no name", ada, latchkey.KeySpec{}, latchkey.ErrInvalidName},
		{"a taken name", ada, latchkey.KeySpec{Name: "taken"}, latchkey.ErrKeyNameTaken},
		{"expired", ada, latchkey.KeySpec{Name: "a", Expires: time.Unix(1, 0)}, latchkey.ErrInvalidExpiry},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := []latchkey.KeyRequest{
				{Owner: ada, KeySpec: latchkey.KeySpec{Name: "one"}},
				{Owner: ada, KeySpec: latchkey.KeySpec{Name: "two"}},
				{Owner: tt.owner, KeySpec: tt.bad},
			}
			wantNoHash(t, s, func() {
				keys, tokens, err := s.CreateKeys(t.Context(), requests, func(int, int) { t.Error("progress was made") })
				wantError(t, err, tt.want)
				if keys != nil || tokens != nil {
					t.Errorf("got %d keys and %d tokens beside the error", len(keys), len(tokens))
				}
			})
		})
	}
}

func TestCreateKeysIsRefusedUnhashedWhenItsRequestsCollide(t *testing.T) {
	s := open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	addNumberedKeys(t, s, ada, 0, 18)
	request := func(owner uuid.UUID, name string) latchkey.KeyRequest {
		return latchkey.KeyRequest{Owner: owner, KeySpec: latchkey.KeySpec{Name: name}}
	}
	for _, tt := range []struct {
		name     string
		requests []latchkey.KeyRequest
		want     error
	}{
		{"a name twice", []latchkey.KeyRequest{
			request(bob, "a"), request(ada, "a"), request(bob, "a"),
		}, latchkey.ErrKeyNameTaken},
		{"too many together", []latchkey.KeyRequest{
			request(ada, "a"), request(bob, "a"), request(ada, "b"), request(ada, "c"),
		}, latchkey.ErrTooManyKeys},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantNoHash(t, s, func() {
				_, _, err := s.CreateKeys(t.Context(), tt.requests, nil)
				wantError(t, err, tt.want)
			})
		})
	}
	_, _, err := s.CreateKeys(t.Context(), []latchkey.KeyRequest{request(ada, "a"), request(bob, "a"), request(ada, "b")}, nil)
	must(t, err)
}

func TestACancelledCreateKeysMakesNothing(t *testing.T) {
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, MaxKeysPerUser: -1})
	ada := addUser(t, s, "ada")
	var requests []latchkey.KeyRequest
	for i := range 200 {
		requests = append(requests, latchkey.KeyRequest{Owner: ada, KeySpec: latchkey.KeySpec{Name: strconv.Itoa(i)}})
	}
	for _, at := range []int{1, 100, 200} {
		t.Run(fmt.Sprint("at ", at), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			before, err := s.Stats(t.Context())
			must(t, err)
			wantNoChange(t, s, func() {
				keys, tokens, err := s.CreateKeys(ctx, requests, func(done, _ int) {
					if done == at {
						cancel()
					}
				})
				wantError(t, err, context.Canceled)
				if keys != nil || tokens != nil {
					t.Errorf("got %d keys and %d tokens beside the error", len(keys), len(tokens))
				}
			})
			after, err := s.Stats(t.Context())
			must(t, err)
			// A hash that has begun goes on to its end, on each processor. No other hash begins.
			if n := after.Hashes - before.Hashes; n > uint64(at+runtime.GOMAXPROCS(0)) {
				t.Errorf("%d hashes were computed, and it was cancelled after %d", n, at)
			}
			if after.Keys != 0 {
				t.Errorf("%d keys were made, want none", after.Keys)
			}
		})
	}
}
