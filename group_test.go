package latchkey_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// addMember makes a user in a group.
func addMember(t testing.TB, s *latchkey.Store, subject, group string) uuid.UUID {
	t.Helper()
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(subject), Group: group})
	must(t, err)
	return user.ID
}

// addServerKeyIn makes a server key in a group.
func addServerKeyIn(t testing.TB, s *latchkey.Store, name, group string) (latchkey.Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name, Group: group})
	must(t, err)
	return key, token
}

func TestAKeyInADisabledGroupDoesNotLogInUntilTheGroupIsEnabled(t *testing.T) {
	for name, cacheSize := range map[string]int{"cache": 0, "no cache": -1} {
		t.Run(name, func(t *testing.T) {
			s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, CacheSize: cacheSize})
			key, token := addKey(t, s, addMember(t, s, "ada", "acme"), "laptop")
			server, serverToken := addServerKeyIn(t, s, "door", "acme")
			other, otherToken := addServerKeyIn(t, s, "gate", "acme2")
			alone, aloneToken := addKey(t, s, latchkey.ServerOwner, "lamp")
			logins := func(want error) {
				t.Helper()
				for range 2 {
					wantLogin(t, s, otherToken, other.ID)
					wantLogin(t, s, aloneToken, alone.ID)
					for token, id := range map[string]uuid.UUID{token: key.ID, serverToken: server.ID} {
						if want == nil {
							wantLogin(t, s, token, id)
						} else {
							wantRefused(t, s, token, want)
						}
					}
				}
			}
			logins(nil)
			for range 2 {
				must(t, s.DisableGroup(t.Context(), "acme"))
				logins(latchkey.ErrGroupDisabled)
				must(t, s.DisableGroup(t.Context(), "acme"))
				logins(latchkey.ErrGroupDisabled)
				must(t, s.EnableGroup(t.Context(), "acme"))
				logins(nil)
			}
			if who, err := s.Login(t.Context(), token); err != nil || who.Group != "acme" {
				t.Errorf("the principal is in group %q (%v), want acme", who.Group, err)
			}
			if who, err := s.Login(t.Context(), serverToken); err != nil || who.Group != "acme" {
				t.Errorf("the principal of the server key is in group %q (%v), want acme", who.Group, err)
			}
		})
	}
}

func TestADisabledGroupHoldsForMembersThatComeLater(t *testing.T) {
	s := open(t)
	must(t, s.DisableGroup(t.Context(), "acme"))
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "laptop")
	server, serverToken := addKey(t, s, latchkey.ServerOwner, "door")
	wantLogin(t, s, token, key.ID)
	wantLogin(t, s, serverToken, server.ID)

	must(t, s.SetUserGroup(t.Context(), ada, "acme"))
	must(t, s.SetKeyGroup(t.Context(), server.ID, "acme"))
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
	wantRefused(t, s, serverToken, latchkey.ErrGroupDisabled)
	_, later := addKey(t, s, ada, "phone")
	wantRefused(t, s, later, latchkey.ErrGroupDisabled)
	_, made := addServerKeyIn(t, s, "gate", "acme")
	wantRefused(t, s, made, latchkey.ErrGroupDisabled)

	must(t, s.SetUserGroup(t.Context(), ada, "umbrella"))
	wantLogin(t, s, token, key.ID)
	must(t, s.SetKeyGroup(t.Context(), server.ID, ""))
	wantLogin(t, s, serverToken, server.ID)
	must(t, s.DisableGroup(t.Context(), "umbrella"))
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
	wantLogin(t, s, serverToken, server.ID)
}

func TestADisabledKeyOrUserInADisabledGroupIsRefusedForItself(t *testing.T) {
	s := open(t)
	ada := addMember(t, s, "ada", "acme")
	key, token := addKey(t, s, ada, "laptop")
	must(t, s.DisableGroup(t.Context(), "acme"))
	must(t, s.DisableUser(t.Context(), ada))
	wantRefused(t, s, token, latchkey.ErrUserDisabled)
	must(t, s.DisableKey(t.Context(), ada, key.ID))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.EnableGroup(t.Context(), "acme"))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.EnableKey(t.Context(), ada, key.ID))
	wantRefused(t, s, token, latchkey.ErrUserDisabled)
	must(t, s.EnableUser(t.Context(), ada))
	wantLogin(t, s, token, key.ID)
}

func TestOnlyAHolderWhoProvedTheSecretLearnsThatAGroupIsDisabled(t *testing.T) {
	s := open(t)
	_, token := addServerKeyIn(t, s, "door", "acme")
	must(t, s.DisableGroup(t.Context(), "acme"))
	wantRefused(t, s, changeLast(token), latchkey.ErrInvalidToken)
	other := open(t)
	_, foreign := addServerKeyIn(t, other, "door", "acme")
	wantRefused(t, s, foreign, latchkey.ErrInvalidToken)
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
}

func TestTheStateOfAGroupOutlastsTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	_, token := addServerKeyIn(t, s, "door", "acme")
	must(t, s.DisableGroup(t.Context(), "acme"))
	must(t, s.DisableGroup(t.Context(), "umbrella"))
	must(t, s.EnableGroup(t.Context(), "umbrella"))
	closeStore(t, s)
	s = openAt(t, path, light())
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
	wantGroups(t, s, "acme disabled", "umbrella enabled")
}

// wantGroups fails the test unless the store and its transactions list these groups, with their
// states.
func wantGroups(t testing.TB, s *latchkey.Store, want ...string) {
	t.Helper()
	text := func(g latchkey.Group) string {
		state := "enabled"
		if g.Disabled {
			state = "disabled"
		}
		return g.Name + " " + state
	}
	var listed, inside []string
	for g, err := range s.Groups(t.Context(), "") {
		must(t, err)
		listed = append(listed, text(g))
		one, err := s.Group(t.Context(), g.Name)
		if err != nil || one != g {
			t.Errorf("group %q: got %+v, %v, and in the list %+v", g.Name, one, err, g)
		}
	}
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		inside = nil
		for g, err := range tx.Groups("") {
			if err != nil {
				return err
			}
			inside = append(inside, text(g))
		}
		return nil
	}))
	if !slices.Equal(listed, want) || !slices.Equal(inside, want) {
		t.Errorf("the groups are %q, and in a transaction %q, want %q", listed, inside, want)
	}
}

func TestGroupsListsTheGroupsWithMembersAndTheDisabledOnes(t *testing.T) {
	s := open(t)
	wantGroups(t, s)
	ada := addMember(t, s, "ada", "acme")
	addMember(t, s, "bob", "acme")
	addMember(t, s, "eve", "acme labs")
	key, _ := addServerKeyIn(t, s, "door", "acme")
	addServerKeyIn(t, s, "gate", "zeta")
	must(t, s.DisableGroup(t.Context(), "acme"))
	must(t, s.DisableGroup(t.Context(), "a"))
	must(t, s.DisableGroup(t.Context(), "zz"))
	must(t, s.EnableGroup(t.Context(), "zz"))
	must(t, s.EnableGroup(t.Context(), "never disabled"))
	wantGroups(t, s, "a disabled", "acme disabled", "acme labs enabled", "zeta enabled", "zz enabled")

	var after []string
	for g, err := range s.Groups(t.Context(), "acme") {
		must(t, err)
		after = append(after, g.Name)
	}
	if want := []string{"acme labs", "zeta", "zz"}; !slices.Equal(after, want) {
		t.Errorf("after acme: %q, want %q", after, want)
	}
	for _, name := range []string{"unheard of", "", strings.Repeat("n", 1000)} {
		if g, err := s.Group(t.Context(), name); err != nil || g != (latchkey.Group{Name: name}) {
			t.Errorf("a group without a record: got %+v, %v", g, err)
		}
	}

	must(t, s.SetUserGroup(t.Context(), ada, "zeta"))
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	bob, err := s.UserByIdentity(t.Context(), email("bob"))
	must(t, err)
	must(t, s.DeleteUser(t.Context(), bob.ID))
	must(t, s.EnableGroup(t.Context(), "acme"))
	wantGroups(t, s, "a disabled", "acme enabled", "acme labs enabled", "zeta enabled", "zz enabled")
}

func TestManyGroupsAreListedInOrder(t *testing.T) {
	s := open(t)
	want := make([]string, 700)
	updateEach(t, s, len(want), func(tx *latchkey.Tx, i int) error {
		name := fmt.Sprintf("group %03d", i)
		want[i] = name + " disabled"
		return tx.DisableGroup(name)
	})
	wantGroups(t, s, want...)
}

func TestAGroupThatBreaksARuleIsRefused(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	key, _ := addKey(t, s, ada, "laptop")
	server, _ := addKey(t, s, latchkey.ServerOwner, "door")
	for _, name := range []string{"*", " acme", "acme\n", "\xff", strings.Repeat("n", latchkey.MaxGroup+1)} {
		for call, err := range map[string]error{
			"DisableGroup": s.DisableGroup(t.Context(), name),
			"EnableGroup":  s.EnableGroup(t.Context(), name),
			"SetUserGroup": s.SetUserGroup(t.Context(), ada, name),
			"SetKeyGroup":  s.SetKeyGroup(t.Context(), server.ID, name),
		} {
			t.Run(fmt.Sprintf("%s %q", call, name), func(t *testing.T) { wantError(t, err, latchkey.ErrInvalidGroup) })
		}
	}
	wantError(t, s.DisableGroup(t.Context(), ""), latchkey.ErrInvalidGroup)
	wantError(t, s.EnableGroup(t.Context(), ""), latchkey.ErrInvalidGroup)
	wantError(t, s.SetUserGroup(t.Context(), uuid.New(), "acme"), latchkey.ErrUserNotFound)
	wantError(t, s.SetUserGroup(t.Context(), latchkey.ServerOwner, "acme"), latchkey.ErrUserNotFound)
	wantError(t, s.SetKeyGroup(t.Context(), uuid.New(), "acme"), latchkey.ErrKeyNotFound)
	wantError(t, s.SetKeyGroup(t.Context(), key.ID, "acme"), latchkey.ErrKeyNotFound)
	wantGroups(t, s)
}

// A tenant can have 100,000 keys. Disabling the tenant must not cost more than disabling one key.
func TestDisablingAGroupOfManyMembersIsOneSmallCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	const members = 4000
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := range members {
			_, err := tx.CreateUser(latchkey.UserSpec{Identity: email(fmt.Sprint("user ", i)), Group: "acme"})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	addMember(t, s, "ada", "small")
	key, token := addKey(t, s, addMember(t, s, "bob", "acme"), "laptop")
	wantLogin(t, s, token, key.ID)
	must(t, s.DisableGroup(t.Context(), "other")) // the table is there

	written := func(group string) (pages int) {
		t.Helper()
		before := readFile(t, path)
		was, err := s.Stats(t.Context())
		must(t, err)
		must(t, s.DisableGroup(t.Context(), group))
		is, err := s.Stats(t.Context())
		must(t, err)
		if is.Commits != was.Commits+1 || is.Sequence <= was.Sequence {
			t.Errorf("group %s: %d commits, want 1", group, is.Commits-was.Commits)
		}
		after := readFile(t, path)
		for at := 0; at < len(after); at += boltpage.PageSize {
			end := min(at+boltpage.PageSize, len(after))
			if at >= len(before) || !bytes.Equal(before[at:min(end, len(before))], after[at:end]) {
				pages++
			}
		}
		return pages
	}
	small, large := written("small"), written("acme")
	t.Logf("disabling a group writes %d pages with one member, and %d with %d", small, large, members)
	// The paths to the record and to its change, the counts, the free pages, and the meta page. A
	// page that happens to get the bytes of an old one is not counted.
	if small > 12 || large > 12 {
		t.Errorf("disabling a group writes %d pages with one member, and %d with %d", small, large, members)
	}
	wantRefused(t, s, token, latchkey.ErrGroupDisabled)
}

func TestAGroupHasANameThatPeopleCanSee(t *testing.T) {
	s := open(t)
	for i, tt := range []struct {
		group string
		want  error
	}{
		{"plant 7", nil},
		{"*.example.com ♥", nil},
		{"5f60207f14dfb25d23101102", nil}, // an ID of another system
		{strings.Repeat("x", latchkey.MaxGroup), nil},
		{strings.Repeat("x", latchkey.MaxGroup+1), latchkey.ErrInvalidGroup},
		{"*", latchkey.ErrInvalidGroup}, // stands for all groups
		{" ", latchkey.ErrInvalidGroup},
		{"plant ", latchkey.ErrInvalidGroup},
		{"a\x00b", latchkey.ErrInvalidGroup},
		{"\xff", latchkey.ErrInvalidGroup},
	} {
		user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(fmt.Sprint(i)), Group: tt.group})
		wantError(t, err, tt.want)
		key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint(i), Group: tt.group})
		wantError(t, err, tt.want)
		if tt.want == nil && (user.Group != tt.group || key.Group != tt.group) {
			t.Errorf("the user has the group %q and the key %q, want %q", user.Group, key.Group, tt.group)
		}
	}
}

func TestTheKeyOfAUserHasNoGroupOfItsOwn(t *testing.T) {
	s := open(t)
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "plant"})
	must(t, err)
	spec := latchkey.KeySpec{Name: "laptop", Group: "plant"}
	_, _, err = s.CreateKey(t.Context(), user.ID, spec)
	wantError(t, err, latchkey.ErrInvalidGroup)
	minted, _, err := s.MintKey(t.Context())
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(user.ID, spec, minted)
		wantError(t, err, latchkey.ErrInvalidGroup)
		_, err = tx.InsertServerKey(spec, minted)
		return err
	}))
}

func TestDeletedMembersLeaveTheirGroups(t *testing.T) {
	s := open(t) // Check looks at the index of members when the test ends
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "plant"})
	must(t, err)
	key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup", Group: "plant"})
	must(t, err)
	must(t, s.DeleteUser(t.Context(), user.ID))
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
}
