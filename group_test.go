package latchkey_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

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
