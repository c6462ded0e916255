package latchkey_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// changeList keeps the changes that its hook is called for. While fail is set, the hook fails.
type changeList struct {
	mu   sync.Mutex
	all  []latchkey.Change
	fail error
}

func (cs *changeList) hook(_ *latchkey.Tx, c latchkey.Change) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.all = append(cs.all, c)
	return cs.fail
}

// take returns the changes since the last call of take.
func (cs *changeList) take() []latchkey.Change {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	taken := cs.all
	cs.all = nil
	return taken
}

func openWithHook(t testing.TB, hook func(*latchkey.Tx, latchkey.Change) error) *latchkey.Store {
	t.Helper()
	opts := light()
	opts.OnChange = hook
	return openWith(t, opts)
}

// told returns what a change says, in a form that tests can compare.
func told(c latchkey.Change) string {
	id, name := c.Key, c.Name
	if c.User != uuid.Nil {
		id, name = c.User, string(c.Provider)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %v %s %s", id, c.Actions, name, c.Group))
}

// wantChanges fails the test unless the hook was called for just these changes.
func wantChanges(t testing.TB, cs *changeList, want ...string) {
	t.Helper()
	var got []string
	for _, c := range cs.take() {
		got = append(got, told(c))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the hook was called for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// withoutHook are the calls of Store and Tx that write, but change nothing that the hook is about.
var withoutHook = []string{"Repair", "Compact", "Update", "AppTable", "Records"}

func TestTheHookIsCalledForEveryCallThatChangesSomething(t *testing.T) {
	wantCalled := func(t *testing.T, name string, cs *changeList, writes bool) {
		t.Helper()
		got := cs.take()
		if want := writes && !slices.Contains(withoutHook, name); (len(got) > 0) != want {
			t.Errorf("the hook was called for %v, want a call: %v", got, want)
		}
		for _, c := range got {
			if len(c.Actions) == 0 || strings.HasSuffix(string(c.Actions[0]), ".changed") {
				t.Errorf("no action has a name: %+v", c)
			}
		}
	}
	for name, c := range storeCalls {
		t.Run("Store."+name, func(t *testing.T) {
			var cs changeList
			s, h := openHousehold(t, &cs, name)
			must(t, c.call(t.Context(), s, h))
			wantCalled(t, name, &cs, c.writes)
		})
	}
	for name, c := range txCalls {
		t.Run("Tx."+name, func(t *testing.T) {
			var cs changeList
			s, h := openHousehold(t, &cs, name)
			must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return c.call(tx, h) }))
			wantCalled(t, name, &cs, c.writes)
		})
	}
}

func TestAHookThatFailsUndoesEveryCall(t *testing.T) {
	errHook := errors.New("the hook fails")
	for name, c := range storeCalls {
		if !c.writes || slices.Contains(withoutHook, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var cs changeList
			s, h := openHousehold(t, &cs, name)
			before := content(t, s)
			cs.fail = errHook
			wantError(t, c.call(t.Context(), s, h), errHook)
			if after := content(t, s); after != before {
				t.Errorf("the store has\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// openHousehold opens a store with a household, in which a call changes something.
func openHousehold(t testing.TB, cs *changeList, call string) (*latchkey.Store, household) {
	t.Helper()
	s := openWithHook(t, cs.hook)
	h := addHousehold(t, s)
	if call == "EnableUser" {
		must(t, s.DisableUser(t.Context(), h.user))
	}
	cs.take()
	return s, h
}

// content returns all users and keys of a store as text.
func content(t testing.TB, s *latchkey.Store) string {
	t.Helper()
	var all []any
	for user, err := range s.Users(t.Context(), uuid.Nil) {
		must(t, err)
		keys, err := s.Keys(t.Context(), user.ID)
		must(t, err)
		all = append(all, user, keys)
	}
	keys, err := s.Keys(t.Context(), latchkey.ServerOwner)
	must(t, err)
	b, err := json.MarshalIndent(append(all, keys), "", " ")
	must(t, err)
	return string(b)
}

func TestTheHookIsToldWhatChanged(t *testing.T) {
	var cs changeList
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	opts := light()
	opts.OnChange, opts.Now, opts.TestClock = cs.hook, func() time.Time { return now }, true
	s := openWith(t, opts)

	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "north", Metadata: map[string]string{"seat": "4"}})
	must(t, err)
	u := user.ID.String()
	wantChanges(t, &cs, u+" [user.created] local-userpass north")
	_, err = s.LinkIdentity(t.Context(), user.ID, latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "1815"})
	must(t, err)
	wantChanges(t, &cs, u+" [user.identity-linked] oauth2-google north")
	_, err = s.UnlinkIdentity(t.Context(), user.ID, email("ada"))
	must(t, err)
	wantChanges(t, &cs, u+" [user.identity-unlinked] local-userpass north")
	must(t, s.DisableUser(t.Context(), user.ID))
	must(t, s.EnableUser(t.Context(), user.ID))
	wantChanges(t, &cs, u+" [user.disabled]  north", u+" [user.enabled]  north")

	spec := latchkey.KeySpec{
		Name: "laptop", Expires: now.Add(time.Hour), Scopes: latchkey.NewScopes("files:read"),
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Metadata: map[string]string{"seat": "4"},
	}
	old, _ := must2(s.CreateKey(t.Context(), user.ID, spec))(t)
	k := old.ID.String()
	want := latchkey.Change{
		Actions: []latchkey.Action{latchkey.ActionKeyCreated}, Time: now, Key: old.ID, Owner: user.ID, Name: "laptop",
		Expires: spec.Expires, Scopes: spec.Scopes, Networks: spec.Networks,
	}
	if got := cs.take(); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("the hook was called for %+v, want %+v", got, want)
	}
	must(t, s.DisableKey(t.Context(), user.ID, old.ID))
	must(t, s.EnableKey(t.Context(), user.ID, old.ID))
	must(t, s.RenameKey(t.Context(), user.ID, old.ID, "desktop"))
	wantChanges(t, &cs, k+" [key.disabled] laptop", k+" [key.enabled] laptop", k+" [key.renamed] desktop")

	now = now.Add(time.Hour) // the key has expired, and makes way
	key, _ := must2(s.CreateKey(t.Context(), user.ID, latchkey.KeySpec{Name: "desktop"}))(t)
	made := key.ID.String()
	wantChanges(t, &cs, k+" [key.renamed] desktop~"+k[28:], made+" [key.created] desktop")
	must(t, s.DeleteUser(t.Context(), user.ID))
	wantChanges(t, &cs, made+" [key.deleted] desktop", k+" [key.deleted] desktop~"+k[28:], u+" [user.deleted] oauth2-google north")

	server, _ := must2(s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "billing", Group: "north"}))(t)
	wantChanges(t, &cs, server.ID.String()+" [key.created] billing north")
}

func TestTheHookIsToldOfNewTokensAndOfTheEndOfOldOnes(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	cs.take()
	id := key.ID.String()
	rotate(t, s, key, latchkey.Rotation{})
	wantChanges(t, &cs, id+" [key.rotated] laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	wantChanges(t, &cs, id+" [key.rotated] laptop")
	wantLogin(t, s, token, key.ID)
	wantChanges(t, &cs, id+" [key.token-ended] laptop")
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantChanges(t, &cs)
}

func TestAHookThatRefusesTheEndOfATokenStopsLaterChanges(t *testing.T) {
	errHook := errors.New("the hook fails")
	s := openWithHook(t, func(_ *latchkey.Tx, c latchkey.Change) error {
		if slices.Contains(c.Actions, latchkey.ActionKeyTokenEnded) {
			return errHook
		}
		return nil
	})
	key, old := addKey(t, s, addUser(t, s, "ada"), "laptop")
	token := rotate(t, s, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, old, latchkey.ErrInvalidToken)
	wantError(t, s.Health(t.Context()), latchkey.ErrRotationNotDurable)
	wantError(t, s.RenameKey(t.Context(), key.Owner, key.ID, "desktop"), errHook)
}

// must2 returns a function that fails the test for any error, and returns the results otherwise.
func must2(key latchkey.Key, token string, err error) func(testing.TB) (latchkey.Key, string) {
	return func(t testing.TB) (latchkey.Key, string) {
		t.Helper()
		must(t, err)
		return key, token
	}
}

func TestACallThatChangesNothingDoesNotCallTheHook(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	h := addHousehold(t, s)
	cs.take()
	must(t, s.EnableUser(t.Context(), h.user))
	must(t, s.EnableKey(t.Context(), h.user, h.key.ID))
	must(t, s.DisableKey(t.Context(), h.user, h.spare.ID))
	must(t, s.RenameKey(t.Context(), h.user, h.key.ID, h.key.Name))
	_, err := s.LinkIdentity(t.Context(), h.user, email("byron"))
	must(t, err)
	wantError(t, s.DeleteKey(t.Context(), h.user, uuid.New()), latchkey.ErrKeyNotFound)
	wantLogin(t, s, h.token, h.key.ID)
	wantChanges(t, &cs)
}

func TestHashingAnewDoesNotCallTheHook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	key, token := addKey(t, s, addUser(t, s, "ada"), "laptop")
	closeStore(t, s)
	var cs changeList
	s = openAt(t, path, &latchkey.Options{Cost: latchkey.Cost{Memory: 64, Passes: 2, Lanes: 1}, OnChange: cs.hook})
	wantLogin(t, s, token, key.ID)
	waitUntil(t, "the secret is hashed anew", func() bool {
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { _, err := tx.CreateUser(anonymous()); return err }))
		stats, err := s.Stats(t.Context())
		must(t, err)
		return stats.Rehashed > 0
	})
	for _, c := range cs.take() {
		if c.User == uuid.Nil {
			t.Errorf("the hook was called for %+v", c)
		}
	}
}

func anonymous() latchkey.UserSpec {
	return latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}}
}

func TestTheActorOfTheContextIsInTheChange(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	actor := func() string {
		t.Helper()
		got := cs.take()
		if len(got) != 1 {
			t.Fatalf("the hook was called for %v, want one change", got)
		}
		return got[0].Actor
	}
	user, err := s.CreateUser(latchkey.WithActor(t.Context(), "ada"), latchkey.UserSpec{Identity: email("bob")})
	must(t, err)
	if got := actor(); got != "ada" {
		t.Errorf("the actor is %q, want ada", got)
	}
	must(t, s.Update(latchkey.WithActor(t.Context(), "carol"), func(tx *latchkey.Tx) error { return tx.DisableUser(user.ID) }))
	if got := actor(); got != "carol" {
		t.Errorf("the actor is %q, want carol", got)
	}
	must(t, s.EnableUser(t.Context(), user.ID))
	if got := actor(); got != "" {
		t.Errorf("the actor is %q, want none", got)
	}
	must(t, s.DisableUser(latchkey.WithActor(t.Context(), "\xff"+strings.Repeat("é", latchkey.MaxActor)), user.ID))
	if got := actor(); len(got) > latchkey.MaxActor || len(got) < latchkey.MaxActor-1 || !utf8.ValidString(got) {
		t.Errorf("the actor is %q, want at most %d bytes of UTF-8", got, latchkey.MaxActor)
	}
}

func TestWhatTheHookWritesIsInTheTransaction(t *testing.T) {
	fail := false
	s := openWithHook(t, func(tx *latchkey.Tx, c latchkey.Change) error {
		if err := tx.AppTable("seen").Put(c.User[:], []byte(c.Actions[0])); err != nil {
			return err
		}
		if fail {
			return errors.New("the hook fails")
		}
		return nil
	})
	user := addUser(t, s, "ada")
	fail = true
	if err := s.DisableUser(t.Context(), user); err == nil {
		t.Error("DisableUser: got no error, want that of the hook")
	}
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		got, err := tx.AppTable("seen").Get(user[:])
		if string(got) != "user.created" {
			t.Errorf("the table has %q, want user.created", got)
		}
		return err
	}))
}

func TestWhatTheHookChangesCallsItAgain(t *testing.T) {
	var cs changeList
	s := openWithHook(t, func(tx *latchkey.Tx, c latchkey.Change) error {
		if slices.Contains(c.Actions, latchkey.ActionKeyCreated) {
			if err := tx.DisableKey(c.Owner, c.Key); err != nil {
				return err
			}
		}
		return cs.hook(tx, c)
	})
	key, token := addKey(t, s, addUser(t, s, "ada"), "laptop")
	if got := cs.take(); len(got) != 3 || told(got[2]) != key.ID.String()+" [key.disabled] laptop" {
		t.Errorf("the hook was called for %v", got)
	}
	_, err := s.Login(t.Context(), token)
	wantError(t, err, latchkey.ErrKeyDisabled)
}

func TestTheHookCannotCallTheStore(t *testing.T) {
	var s *latchkey.Store
	s = openWithHook(t, func(_ *latchkey.Tx, c latchkey.Change) error { return s.DisableUser(context.Background(), c.User) })
	_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada")})
	wantError(t, err, latchkey.ErrInTransaction)
}

func TestAPanicOfTheHookUndoesTheTransaction(t *testing.T) {
	panics := true
	s := openWithHook(t, func(*latchkey.Tx, latchkey.Change) error {
		if panics {
			panic("the hook panics")
		}
		return nil
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("CreateUser did not panic")
			}
		}()
		_, _ = s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada")})
	}()
	panics = false
	addUser(t, s, "ada") // it is not there, and the store goes on
}

func TestAChangeHasNoSecret(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	_, token := addKey(t, s, addUser(t, s, "ada@example.com"), "laptop")
	for _, c := range cs.take() {
		b, err := json.Marshal(c)
		must(t, err)
		for _, secret := range []string{token, "argon2", "ada@example.com"} {
			if text := fmt.Sprintf("%+v %s", c, b); strings.Contains(text, secret) {
				t.Errorf("the change has %q: %s", secret, text)
			}
		}
		var back latchkey.Change
		must(t, json.Unmarshal(b, &back))
		if fmt.Sprint(back) != fmt.Sprint(c) {
			t.Errorf("from JSON: %+v, want %+v", back, c)
		}
	}
}
