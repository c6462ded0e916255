package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestAUserIsFoundByIDAndByIdentityAlsoAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	c := newClock()
	c.advance(123456789 * time.Nanosecond)
	opts := light()
	opts.Now, opts.TestClock = c.now, true

	s := openAt(t, path, opts)
	made, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada")})
	must(t, err)
	want := latchkey.User{
		ID:         made.ID,
		Identities: []latchkey.Identity{email("ada")},
		Created:    time.Date(2026, 1, 2, 3, 4, 5, 123_000_000, time.UTC),
	}
	if !reflect.DeepEqual(made, want) {
		t.Errorf("CreateUser: got %+v, want %+v", made, want)
	}
	closeStore(t, s)

	s = openAt(t, path, opts)
	for name, find := range map[string]func() (latchkey.User, error){
		"by ID":       func() (latchkey.User, error) { return s.User(t.Context(), made.ID) },
		"by identity": func() (latchkey.User, error) { return s.UserByIdentity(t.Context(), email("ada")) },
	} {
		if got, err := find(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
}

func TestAUserThatWasNeverMadeIsNotFound(t *testing.T) {
	s := open(t)
	addUser(t, s, "ada")
	for _, id := range []uuid.UUID{uuid.New(), uuid.Nil, latchkey.ServerOwner} {
		_, err := s.User(t.Context(), id)
		wantError(t, err, latchkey.ErrUserNotFound)
	}
	for _, i := range []latchkey.Identity{email("bob"), {Provider: latchkey.ProviderCustomToken, Subject: "ada"}} {
		_, err := s.UserByIdentity(t.Context(), i)
		wantError(t, err, latchkey.ErrUserNotFound)
	}
}

func TestProvidersAreThoseOfTheHostedService(t *testing.T) {
	s := open(t)
	for _, p := range []latchkey.Provider{
		"anon-user", "local-userpass", "custom-token", "custom-function",
		"oauth2-google", "oauth2-facebook", "oauth2-apple", "api-key",
	} {
		i := latchkey.Identity{Provider: p, Subject: "ada"}
		made, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: i})
		must(t, err)
		if found, err := s.UserByIdentity(t.Context(), i); err != nil || found.ID != made.ID {
			t.Errorf("%s: found user %s, %v, want %s", p, found.ID, err, made.ID)
		}
	}
	for _, p := range []latchkey.Provider{"", "github", "Local-Userpass", "local-userpass ", "local-userpass\x00"} {
		t.Run(strconv.Quote(string(p)), func(t *testing.T) {
			wantInvalidIdentity(t, s, latchkey.Identity{Provider: p, Subject: "bob"}, latchkey.ErrInvalidIdentity)
		})
	}
}

func TestASubjectIs1To256BytesOfTextThatPeopleCanSee(t *testing.T) {
	s := open(t)
	for _, tt := range slices.Concat(goodTexts, idTexts) {
		t.Run(tt.name, func(t *testing.T) {
			must(t, latchkey.CheckIdentity(email(tt.text)))
			id := addUser(t, s, tt.text)
			found, err := s.UserByIdentity(t.Context(), email(tt.text))
			must(t, err)
			if found.ID != id || found.Identities[0].Subject != tt.text {
				t.Errorf("found user %s with subject %q", found.ID, found.Identities[0].Subject)
			}
		})
	}
	for _, tt := range badTexts {
		t.Run(tt.name, func(t *testing.T) {
			wantInvalidIdentity(t, s, email(tt.text), latchkey.ErrInvalidIdentity)
		})
	}
	for _, tt := range invisibleTexts {
		t.Run(tt.name, func(t *testing.T) { wantInvalidIdentity(t, s, email(tt.text), latchkey.ErrUserNotFound) })
	}
	// Only the first identity of an anonymous user may have an empty subject.
	_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: "\n"}})
	wantError(t, err, latchkey.ErrInvalidIdentity)
}

// wantInvalidIdentity fails the test unless i can be given to nobody. missing is the error of a
// search for it.
func wantInvalidIdentity(t *testing.T, s *latchkey.Store, i latchkey.Identity, missing error) {
	t.Helper()
	wantError(t, latchkey.CheckIdentity(i), latchkey.ErrInvalidIdentity)
	_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: i})
	wantError(t, err, latchkey.ErrInvalidIdentity)
	_, err = s.UserByIdentity(t.Context(), i)
	wantError(t, err, missing)
	known, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(t.Name())})
	must(t, err)
	_, err = s.LinkIdentity(t.Context(), known.ID, i)
	wantError(t, err, latchkey.ErrInvalidIdentity)
}

func TestSubjectsAreComparedByteByByte(t *testing.T) {
	s := open(t)
	seen := map[uuid.UUID]string{}
	for _, subject := range lookAlikes {
		id := addUser(t, s, subject)
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q are one user", subject, other)
		}
		seen[id] = subject
	}
}

func TestAnIdentityBelongsToOneUser(t *testing.T) {
	s := open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	linked := latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "ada"}
	_, err := s.LinkIdentity(t.Context(), ada, linked)
	must(t, err)
	anonymous := latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: "visitor"}
	_, err = s.CreateUser(t.Context(), latchkey.UserSpec{Identity: anonymous})
	must(t, err)

	wantNoChange(t, s, func() {
		for _, i := range []latchkey.Identity{email("ada"), linked, anonymous} {
			_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: i})
			wantError(t, err, latchkey.ErrIdentityTaken)
		}
		for _, i := range []latchkey.Identity{email("ada"), linked} {
			_, err := s.LinkIdentity(t.Context(), bob, i)
			wantError(t, err, latchkey.ErrIdentityTaken)
		}
	})
}

func TestLinkedIdentitiesAreListedInTheOrderOfLinking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	want := []latchkey.Identity{email("ada"), email("zoe"), {Provider: latchkey.ProviderCustomToken, Subject: "1"}, email("bea")}
	for _, i := range want[1:] {
		got, err := s.LinkIdentity(t.Context(), ada, i)
		must(t, err)
		if got.Identities[len(got.Identities)-1] != i {
			t.Errorf("LinkIdentity returned the identities %v, want %v at the end", got.Identities, i)
		}
	}
	closeStore(t, s)

	s = openAt(t, path, light())
	for _, i := range want {
		got, err := s.UserByIdentity(t.Context(), i)
		must(t, err)
		if got.ID != ada || !slices.Equal(got.Identities, want) {
			t.Errorf("by %v: got user %s with %v, want %s with %v", i, got.ID, got.Identities, ada, want)
		}
	}
}

func TestLinkingAnIdentityOfTheSameUserChangesNothing(t *testing.T) {
	s := open(t)
	anonymous, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	want, err := s.LinkIdentity(t.Context(), anonymous.ID, email("ada"))
	must(t, err)
	wantNoChange(t, s, func() {
		for _, i := range want.Identities {
			if got, err := s.LinkIdentity(t.Context(), anonymous.ID, i); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("linking %v again: got %+v, %v, want %+v", i, got, err, want)
			}
		}
	})
}

func TestAnAnonymousIdentityCannotBeLinked(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	for _, subject := range []string{"", "visitor"} {
		_, err := s.LinkIdentity(t.Context(), ada, latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: subject})
		wantError(t, err, latchkey.ErrInvalidIdentity)
	}
}

func TestAnUnlinkedIdentityIsFreeForAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	google := latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "ada"}
	for _, i := range []latchkey.Identity{google, email("lovelace")} {
		_, err := s.LinkIdentity(t.Context(), ada, i)
		must(t, err)
	}
	key, token := addKey(t, s, ada, "laptop")

	// The user's first identity, from which the ID was derived, goes to a colleague.
	got, err := s.UnlinkIdentity(t.Context(), ada, email("ada"))
	must(t, err)
	left := []latchkey.Identity{google, email("lovelace")}
	if got.ID != ada || !slices.Equal(got.Identities, left) {
		t.Errorf("UnlinkIdentity returned user %s with %v, want %s with %v", got.ID, got.Identities, ada, left)
	}
	_, err = s.UserByIdentity(t.Context(), email("ada"))
	wantError(t, err, latchkey.ErrUserNotFound)
	colleague := addUser(t, s, "ada")
	if colleague == ada {
		t.Fatal("the colleague is the first user")
	}
	// The other identity is linked to a user that exists already.
	_, err = s.UnlinkIdentity(t.Context(), ada, google)
	must(t, err)
	_, err = s.LinkIdentity(t.Context(), colleague, google)
	must(t, err)
	closeStore(t, s)

	s = openAt(t, path, light())
	for i, want := range map[latchkey.Identity]uuid.UUID{email("ada"): colleague, google: colleague, email("lovelace"): ada} {
		if got, err := s.UserByIdentity(t.Context(), i); err != nil || got.ID != want {
			t.Errorf("%v is user %s, %v, want %s", i, got.ID, err, want)
		}
	}
	wantLogin(t, s, token, key.ID)
}

func TestAnUnlinkedIdentityCanBeLinkedAgain(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	_, err := s.LinkIdentity(t.Context(), ada, email("lovelace"))
	must(t, err)
	for range 2 {
		_, err := s.UnlinkIdentity(t.Context(), ada, email("ada"))
		must(t, err)
		got, err := s.LinkIdentity(t.Context(), ada, email("ada"))
		must(t, err)
		if want := []latchkey.Identity{email("lovelace"), email("ada")}; !slices.Equal(got.Identities, want) {
			t.Errorf("the user has the identities %v, want %v", got.Identities, want)
		}
	}
}

func TestOnlyAnIdentityOfTheUserCanBeUnlinked(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	_, err := s.LinkIdentity(t.Context(), ada, email("lovelace"))
	must(t, err)
	bob := addUser(t, s, "bob")
	wantNoChange(t, s, func() {
		for _, i := range []latchkey.Identity{
			email("bob"), email("nobody"), email("Ada"), email(""), {Provider: latchkey.ProviderGoogle, Subject: "ada"}, {},
		} {
			_, err := s.UnlinkIdentity(t.Context(), ada, i)
			wantError(t, err, latchkey.ErrIdentityNotFound)
		}
		_, err := s.UnlinkIdentity(t.Context(), bob, email("ada"))
		wantError(t, err, latchkey.ErrIdentityNotFound)
	})
}

func TestTheLastIdentityOfAUserCannotBeUnlinked(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	wantLast := func(i latchkey.Identity) {
		t.Helper()
		wantNoChange(t, s, func() {
			_, err := s.UnlinkIdentity(t.Context(), ada, i)
			wantError(t, err, latchkey.ErrLastIdentity)
		})
	}
	wantLast(email("ada"))
	_, err := s.LinkIdentity(t.Context(), ada, email("lovelace"))
	must(t, err)
	_, err = s.UnlinkIdentity(t.Context(), ada, email("ada"))
	must(t, err)
	wantLast(email("lovelace"))
}

func TestAUserWithKeysKeepsAnIdentityThatIsNotAnonymous(t *testing.T) {
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	s := openWith(t, opts)
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	anonymous := user.Identities[0]
	link := func(i latchkey.Identity) {
		t.Helper()
		_, err := s.LinkIdentity(t.Context(), user.ID, i)
		must(t, err)
	}
	unlink := func(i latchkey.Identity, want error) {
		t.Helper()
		_, err := s.UnlinkIdentity(t.Context(), user.ID, i)
		wantError(t, err, want)
	}
	link(email("ada"))
	unlink(email("ada"), nil) // there are no keys
	link(email("ada"))
	key, _, err := s.CreateKey(t.Context(), user.ID, latchkey.KeySpec{Name: "laptop", Expires: c.now().Add(time.Hour)})
	must(t, err)
	wantNoChange(t, s, func() { unlink(email("ada"), latchkey.ErrUserHasKeys) })
	must(t, s.DisableKey(t.Context(), user.ID, key.ID))
	c.advance(2 * time.Hour)
	// A disabled or expired key is a key, because it can be enabled, and the clock can go back.
	wantNoChange(t, s, func() { unlink(email("ada"), latchkey.ErrUserHasKeys) })
	link(email("lovelace"))
	unlink(email("ada"), nil)
	unlink(email("lovelace"), latchkey.ErrUserHasKeys)
	unlink(anonymous, nil)
	unlink(email("lovelace"), latchkey.ErrLastIdentity)

	// Two changes in one transaction see each other.
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		if _, err := tx.LinkIdentity(user.ID, email("countess")); err != nil {
			return err
		}
		_, err := tx.UnlinkIdentity(user.ID, email("lovelace"))
		return err
	}))
}

func TestTheDisablingsOfAUserAndOfAKeyGrowWithEachDisabling(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	laptop, _ := addKey(t, s, ada, "laptop")
	want := func(what string, n uint64) {
		t.Helper()
		user, err := s.User(t.Context(), ada)
		must(t, err)
		key, err := s.Key(t.Context(), ada, laptop.ID)
		must(t, err)
		if user.Disablings != n || key.Disablings != n {
			t.Errorf("%s: the user has %d disablings, the key %d, want %d", what, user.Disablings, key.Disablings, n)
		}
	}
	enable := func() {
		must(t, s.EnableUser(t.Context(), ada))
		must(t, s.EnableKey(t.Context(), ada, laptop.ID))
	}
	disable := func() {
		must(t, s.DisableUser(t.Context(), ada))
		must(t, s.DisableKey(t.Context(), ada, laptop.ID))
	}
	want("new", 0)
	enable()
	want("enabled, and it was enabled", 0)
	for n := range uint64(3) {
		disable()
		want("disabled", n+1)
		disable()
		want("disabled, and it was disabled", n+1)
		enable()
		want("enabled", n+1)
	}
}

func TestAUserWhoIsGoneCannotBeChanged(t *testing.T) {
	s := open(t)
	gone := addUser(t, s, "ada")
	must(t, s.DeleteUser(t.Context(), gone))
	wantNoChange(t, s, func() {
		for _, id := range []uuid.UUID{gone, uuid.New(), uuid.Nil, latchkey.ServerOwner} {
			_, err := s.LinkIdentity(t.Context(), id, email("bob"))
			wantError(t, err, latchkey.ErrUserNotFound)
			_, err = s.UnlinkIdentity(t.Context(), id, email("ada"))
			wantError(t, err, latchkey.ErrUserNotFound)
			wantError(t, s.DisableUser(t.Context(), id), latchkey.ErrUserNotFound)
			wantError(t, s.EnableUser(t.Context(), id), latchkey.ErrUserNotFound)
			wantError(t, s.DeleteUser(t.Context(), id), latchkey.ErrUserNotFound)
		}
	})
}

func TestAUserHasAtMost64Identities(t *testing.T) {
	s := open(t)
	long := func(i int) latchkey.Identity {
		return latchkey.Identity{Provider: latchkey.ProviderCustomFunction, Subject: strings.Repeat("x", 253) + strconv.Itoa(100+i)}
	}
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: long(0)})
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := 1; i < 64; i++ {
			if _, err := tx.LinkIdentity(user.ID, long(i)); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err = s.LinkIdentity(t.Context(), user.ID, long(64))
	wantError(t, err, latchkey.ErrTooManyIdentities)
	_, err = s.LinkIdentity(t.Context(), user.ID, long(63))
	must(t, err)
	if user, err = s.User(t.Context(), user.ID); err != nil || len(user.Identities) != 64 {
		t.Errorf("the user has %d identities, %v, want 64", len(user.Identities), err)
	}
}

func TestAnonymousUsersHaveRandomIDsOfVersion7AndOthersDerivedOnesOfVersion8(t *testing.T) {
	s := open(t)
	anonymous := latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}}
	one, err := s.CreateUser(t.Context(), anonymous)
	must(t, err)
	two, err := s.CreateUser(t.Context(), anonymous)
	must(t, err)
	if one.ID == two.ID {
		t.Error("two anonymous users are one")
	}
	for _, user := range []latchkey.User{one, two} {
		if user.ID.Version() != 7 || user.ID.Variant() != uuid.RFC4122 {
			t.Errorf("anonymous user %s: version %d, want 7", user.ID, user.ID.Version())
		}
		if user.Identities[0].Subject != user.ID.String() {
			t.Errorf("anonymous user %s has the subject %q, want the ID", user.ID, user.Identities[0].Subject)
		}
	}
	if id := addUser(t, s, "ada"); id.Version() != 8 || id.Variant() != uuid.RFC4122 {
		t.Errorf("user %s: version %d, want 8", id, id.Version())
	}
}

func TestTheSameIdentityGivesTheSameIDOnlyInTheSameDomain(t *testing.T) {
	a, stranger := open(t), open(t)
	b := openOfDomain(t, a)
	addUser(t, b, "somebody else first")
	if x, y := addUser(t, a, "ada"), addUser(t, b, "ada"); x != y {
		t.Errorf("two stores of one domain made ada %s and %s", x, y)
	}
	if x, y := addUser(t, a, "bob"), addUser(t, stranger, "bob"); x == y {
		t.Errorf("stores of two domains both made bob %s", x)
	}

	// The same is true of a user that was deleted in between, if both stores have deleted it the
	// same number of times.
	for _, s := range []*latchkey.Store{a, b} {
		user, err := s.UserByIdentity(t.Context(), email("ada"))
		must(t, err)
		must(t, s.DeleteUser(t.Context(), user.ID))
	}
	if x, y := addUser(t, a, "ada"), addUser(t, b, "ada"); x != y {
		t.Errorf("two stores of one domain made ada again as %s and %s", x, y)
	}
}

func TestAUserWhoIsMadeAgainAfterADeletionGetsAnotherID(t *testing.T) {
	s := open(t)
	var ids []uuid.UUID
	for range 5 {
		id := addUser(t, s, "ada")
		if slices.Contains(ids, id) {
			t.Fatalf("the ID %s was ada's before", id)
		}
		ids = append(ids, id)
		must(t, s.DeleteUser(t.Context(), id))
	}
	for _, id := range ids {
		_, err := s.User(t.Context(), id)
		wantError(t, err, latchkey.ErrUserNotFound)
	}
}

func TestDisablingAndEnablingAUserAreIdempotent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	key, token := addKey(t, s, ada, "laptop")
	bobs, bobsToken := addKey(t, s, bob, "laptop")
	for range 2 {
		must(t, s.EnableUser(t.Context(), ada))
		wantUserDisabled(t, s, ada, false)
		wantLogin(t, s, token, key.ID)
	}
	for range 2 {
		must(t, s.DisableUser(t.Context(), ada))
		wantUserDisabled(t, s, ada, true)
		wantRefused(t, s, token, latchkey.ErrUserDisabled)
		wantLogin(t, s, bobsToken, bobs.ID)
	}
	closeStore(t, s)

	s = openAt(t, path, light())
	wantRefused(t, s, token, latchkey.ErrUserDisabled)
	for range 2 {
		must(t, s.EnableUser(t.Context(), ada))
		wantUserDisabled(t, s, ada, false)
		wantLogin(t, s, token, key.ID)
	}
}

func wantUserDisabled(t *testing.T, s *latchkey.Store, id uuid.UUID, want bool) {
	t.Helper()
	user, err := s.User(t.Context(), id)
	must(t, err)
	if user.Disabled != want {
		t.Fatalf("Disabled is %v, want %v", user.Disabled, want)
	}
}

func TestADisabledUsersKeysAreManagedAsBefore(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	must(t, s.DisableUser(t.Context(), ada))
	key, token := addKey(t, s, ada, "laptop")
	wantRefused(t, s, token, latchkey.ErrUserDisabled)
	must(t, s.RenameKey(t.Context(), ada, key.ID, "desktop"))
	must(t, s.DisableKey(t.Context(), ada, key.ID))
	must(t, s.DeleteKey(t.Context(), ada, key.ID))
	must(t, s.DeleteUser(t.Context(), ada))
}

func TestDeletingAUserDeletesTheKeysInTheSameCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	google := latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "ada"}
	_, err := s.LinkIdentity(t.Context(), ada, google)
	must(t, err)
	var keys []latchkey.Key
	var tokens []string
	for _, name := range []string{"laptop", "phone", "old phone"} {
		key, token := addKey(t, s, ada, name)
		keys, tokens = append(keys, key), append(tokens, token)
	}
	must(t, s.DisableKey(t.Context(), ada, keys[2].ID))
	bobs, bobsToken := addKey(t, s, bob, "laptop")
	wantLogin(t, s, tokens[0], keys[0].ID) // puts the key into the cache

	before, err := s.Stats(t.Context())
	must(t, err)
	must(t, s.DeleteUser(t.Context(), ada))
	after, err := s.Stats(t.Context())
	must(t, err)
	if n := after.Commits - before.Commits; n != 1 {
		t.Errorf("the deletion took %d commits, want 1", n)
	}
	if after.Users != 1 || after.Keys != 1 {
		t.Errorf("%d users and %d keys are left, want 1 and 1", after.Users, after.Keys)
	}

	for range 2 { // before and after reopening
		_, err := s.User(t.Context(), ada)
		wantError(t, err, latchkey.ErrUserNotFound)
		_, err = s.Keys(t.Context(), ada)
		wantError(t, err, latchkey.ErrUserNotFound)
		for _, i := range []latchkey.Identity{email("ada"), google} {
			_, err = s.UserByIdentity(t.Context(), i)
			wantError(t, err, latchkey.ErrUserNotFound)
		}
		for i, key := range keys {
			_, err := s.Key(t.Context(), ada, key.ID)
			wantError(t, err, latchkey.ErrKeyNotFound)
			wantRefused(t, s, tokens[i], latchkey.ErrInvalidToken)
		}
		wantLogin(t, s, bobsToken, bobs.ID)
		closeStore(t, s)
		s = openAt(t, path, light())
	}

	// The identities are free, and can go to two different users.
	_, err = s.LinkIdentity(t.Context(), bob, google)
	must(t, err)
	addKey(t, s, addUser(t, s, "ada"), "laptop")
}

func TestTheRecordsOfADeletedUserHaveNothingPersonal(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	user := addUser(t, s, "ada@example.com")
	_, err := s.LinkIdentity(t.Context(), user, latchkey.Identity{Provider: latchkey.ProviderGoogle, Subject: "lovelace-1815"})
	must(t, err)
	key, _ := addKey(t, s, user, "difference engine")
	must(t, s.RenameKey(t.Context(), user, key.ID, "analytical engine"))
	alone, _ := addKey(t, s, latchkey.ServerOwner, "tabulator")
	personal := []string{"ada@example.com", "lovelace-1815", "analytical engine", "tabulator", "local-userpass", "$argon2id$"}
	for _, text := range personal {
		if !engineHolds(t, e, text) {
			t.Fatalf("%q is not where this test looks", text)
		}
	}

	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, alone.ID))
	must(t, s.DeleteUser(t.Context(), user))
	for _, text := range append(personal, "difference engine") {
		if engineHolds(t, e, text) {
			t.Errorf("%q is still in a table", text)
		}
	}
}

// tables are the names of the tables of a store.
var tables = []string{"meta", "users", "identities", "keys", "names", "groups", "members", "deadusers", "deadkeys", "hashes"}

// engineHolds reports whether a key or value of a table has text in it.
func engineHolds(t *testing.T, e latchkey.Engine, text string) (found bool) {
	t.Helper()
	must(t, e.View(t.Context(), func(etx latchkey.EngineTx) error {
		for _, table := range tables {
			for entry, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				found = found || bytes.Contains(entry.Key, []byte(text)) || bytes.Contains(entry.Value, []byte(text))
			}
		}
		return nil
	}))
	return found
}

// addUsers makes n users and returns their IDs in order.
func addUsers(t *testing.T, s *latchkey.Store, n int) []uuid.UUID {
	t.Helper()
	ids := make([]uuid.UUID, n)
	updateEach(t, s, n, func(tx *latchkey.Tx, i int) error {
		user, err := tx.CreateUser(latchkey.UserSpec{Identity: email(strconv.Itoa(i))})
		ids[i] = user.ID
		return err
	})
	slices.SortFunc(ids, compareIDs)
	return ids
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// listUsers returns the IDs that Users yields.
func listUsers(t *testing.T, s *latchkey.Store, after uuid.UUID) []uuid.UUID {
	t.Helper()
	ids := []uuid.UUID{}
	for user, err := range s.Users(t.Context(), after) {
		must(t, err)
		ids = append(ids, user.ID)
	}
	return ids
}

func TestUsersAreListedInTheOrderOfTheirIDsFromAnyCursor(t *testing.T) {
	s := open(t)
	if got := listUsers(t, s, uuid.Nil); len(got) != 0 {
		t.Errorf("an empty store lists %d users", len(got))
	}
	ids := addUsers(t, s, 600) // more than one page
	if got := listUsers(t, s, uuid.Nil); !slices.Equal(got, ids) {
		t.Errorf("listed %d users, want all %d in order", len(got), len(ids))
	}
	for _, i := range []int{0, 255, 256, 257, 511, 598, 599} {
		if got := listUsers(t, s, ids[i]); !slices.Equal(got, ids[i+1:]) {
			t.Errorf("after the user at %d: listed %d users, want the other %d in order", i, len(got), len(ids)-i-1)
		}
	}
	i := slices.IndexFunc(ids, func(id uuid.UUID) bool { return id[15] > 0 })
	between := ids[i]
	between[15]-- // no user has this ID
	if got := listUsers(t, s, between); !slices.Equal(got, ids[i:]) {
		t.Errorf("after an ID that is nobody's: listed %d users, want %d", len(got), len(ids)-i)
	}
	if got := listUsers(t, s, uuid.Max); len(got) != 0 {
		t.Errorf("after the last ID there is: listed %d users", len(got))
	}

	// A disabled user is listed, and a deleted one is not. The 512 users that are left end with a
	// full page.
	must(t, s.DisableUser(t.Context(), ids[599]))
	updateEach(t, s, 88, func(tx *latchkey.Tx, i int) error { return tx.DeleteUser(ids[100+i]) })
	if got, want := listUsers(t, s, uuid.Nil), slices.Concat(ids[:100], ids[188:]); !slices.Equal(got, want) {
		t.Errorf("after deletions: listed %d users, want the %d that are left", len(got), len(want))
	}
}

func TestTheBodyOfALoopOverUsersMayWrite(t *testing.T) {
	e := &hookedEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	ids := addUsers(t, s, 300)
	reading := 0
	e.beforeView = func() { reading++ }
	e.afterView = func() { reading-- }

	seen := 0
	for user, err := range s.Users(t.Context(), uuid.Nil) {
		must(t, err)
		if reading != 0 {
			t.Fatal("a read transaction is open in the body")
		}
		must(t, s.DeleteUser(t.Context(), user.ID))
		seen++
	}
	if seen != len(ids) {
		t.Errorf("met %d users, want %d", seen, len(ids))
	}
	if left := listUsers(t, s, uuid.Nil); len(left) != 0 {
		t.Errorf("%d users are left, want none", len(left))
	}
}

func TestALoopOverUsersCanBeContinued(t *testing.T) {
	s := open(t)
	ids := addUsers(t, s, 300)
	var got []uuid.UUID
	for len(got) < len(ids) {
		after := uuid.Nil
		if len(got) > 0 {
			after = got[len(got)-1]
		}
		for user, err := range s.Users(t.Context(), after) {
			must(t, err)
			got = append(got, user.ID)
			if len(got)%100 == 0 {
				break
			}
		}
	}
	if !slices.Equal(got, ids) {
		t.Error("three loops over a hundred users each did not meet all users in order")
	}
}

func TestASecondLoopOverTheSameUsersBeginsWhereTheFirstDid(t *testing.T) {
	s := open(t)
	ids := addUsers(t, s, 300)
	users := s.Users(t.Context(), ids[9])
	for loop := range 2 {
		var got []uuid.UUID
		for user, err := range users {
			must(t, err)
			got = append(got, user.ID)
		}
		if !slices.Equal(got, ids[10:]) {
			t.Errorf("loop %d met %d users, want %d", loop+1, len(got), len(ids)-10)
		}
	}
}

func TestALoopOverUsersEndsWithTheErrorThatStoppedIt(t *testing.T) {
	s := open(t)
	addUsers(t, s, 300)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	met := 0
	var last error
	for _, err := range s.Users(ctx, uuid.Nil) {
		if last != nil {
			t.Error("the loop went on after an error")
		}
		last = err
		if err == nil {
			met++
		}
		cancel()
	}
	if !errors.Is(last, context.Canceled) || met == 0 || met == 300 {
		t.Errorf("met %d users and then %v, want one page and then %v", met, last, context.Canceled)
	}
}

func TestUsersInATransactionSeesWhatTheTransactionDid(t *testing.T) {
	s := open(t)
	ids := addUsers(t, s, 3)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		if err := tx.DeleteUser(ids[1]); err != nil {
			return err
		}
		var got []uuid.UUID
		for user, err := range tx.Users(uuid.Nil) {
			if err != nil {
				return err
			}
			got = append(got, user.ID)
		}
		if want := []uuid.UUID{ids[0], ids[2]}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return nil
	}))
}
