package latchkey_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func sequenceOf(t testing.TB, s *latchkey.Store) uint64 {
	t.Helper()
	stats, err := s.Stats(t.Context())
	must(t, err)
	return stats.Sequence
}

// wantNoChange fails the test if call changes the sequence or commits anything.
func wantNoChange(t testing.TB, s *latchkey.Store, call func()) {
	t.Helper()
	before, err := s.Stats(t.Context())
	must(t, err)
	call()
	after, err := s.Stats(t.Context())
	must(t, err)
	if after.Sequence != before.Sequence || after.Commits != before.Commits {
		t.Errorf("the sequence went from %d to %d in %d commits, want no change",
			before.Sequence, after.Sequence, after.Commits-before.Commits)
	}
}

func TestEachWriteMovesTheSequenceOn(t *testing.T) {
	s := open(t)
	if sequenceOf(t, s) == 0 {
		t.Error("a new store is at sequence 0")
	}
	var ada uuid.UUID
	var key latchkey.Key
	room := map[string]string{"room": "4"}
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"CreateUser", func() error { ada = addUser(t, s, "ada"); return nil }},
		{"LinkIdentity", func() error { _, err := s.LinkIdentity(t.Context(), ada, email("lovelace")); return err }},
		{"UnlinkIdentity", func() error { _, err := s.UnlinkIdentity(t.Context(), ada, email("ada")); return err }},
		{"CreateKey", func() error { key, _ = addKey(t, s, ada, "laptop"); return nil }},
		{"RenameKey", func() error { return s.RenameKey(t.Context(), ada, key.ID, "desktop") }},
		{"SetExpiry", func() error { return s.SetExpiry(t.Context(), ada, key.ID, s.Now().Add(time.Hour)) }},
		{"SetScopes", func() error { return s.SetScopes(t.Context(), ada, key.ID, latchkey.NewScopes("files:read")) }},
		{"SetNetworks", func() error { return s.SetNetworks(t.Context(), ada, key.ID, home) }},
		{"SetMetadata", func() error { return s.SetMetadata(t.Context(), ada, key.ID, room) }},
		{"SetUserMetadata", func() error { return s.SetUserMetadata(t.Context(), ada, room) }},
		{"DisableKey", func() error { return s.DisableKey(t.Context(), ada, key.ID) }},
		{"EnableKey", func() error { return s.EnableKey(t.Context(), ada, key.ID) }},
		{"DisableUser", func() error { return s.DisableUser(t.Context(), ada) }},
		{"EnableUser", func() error { return s.EnableUser(t.Context(), ada) }},
		{"DeleteKey", func() error { return s.DeleteKey(t.Context(), ada, key.ID) }},
		{"DeleteUser", func() error { return s.DeleteUser(t.Context(), ada) }},
	} {
		before := sequenceOf(t, s)
		if err := step.call(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if after := sequenceOf(t, s); after <= before {
			t.Errorf("%s: the sequence went from %d to %d", step.name, before, after)
		}
	}
}

func TestACallThatChangesNothingWritesNothing(t *testing.T) {
	s := open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	key, token := addKey(t, s, ada, "laptop")
	addKey(t, s, ada, "phone")
	disabled, _ := addKey(t, s, ada, "disabled")
	must(t, s.DisableKey(t.Context(), ada, disabled.ID))
	eve := addUser(t, s, "eve")
	must(t, s.DisableUser(t.Context(), eve))
	room, both := map[string]string{"room": "4"}, latchkey.NewScopes("files:read", "mail:*")
	inFull, _, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{
		Name: "in full", Expires: s.Now().Add(time.Hour), Scopes: both, Networks: home, Metadata: room})
	must(t, err)
	must(t, s.SetUserMetadata(t.Context(), ada, room))
	refused := errors.New("the function refuses")
	for _, tt := range []struct {
		name string
		call func() error
		want error
	}{
		{"DisableKey of a disabled key", func() error { return s.DisableKey(t.Context(), ada, disabled.ID) }, nil},
		{"DisableUser of a disabled user", func() error { return s.DisableUser(t.Context(), eve) }, nil},
		{"EnableKey of an enabled key", func() error { return s.EnableKey(t.Context(), ada, key.ID) }, nil},
		{"EnableUser of an enabled user", func() error { return s.EnableUser(t.Context(), ada) }, nil},
		{"RenameKey to the name it has", func() error { return s.RenameKey(t.Context(), ada, key.ID, "laptop") }, nil},
		{"SetExpiry to the date it has", func() error {
			return s.SetExpiry(t.Context(), ada, inFull.ID, inFull.Expires.Add(time.Millisecond).Local())
		}, nil},
		{"SetExpiry of a key without a date", func() error { return s.SetExpiry(t.Context(), ada, key.ID, time.Time{}) }, nil},
		{"SetScopes to those it has", func() error {
			return s.SetScopes(t.Context(), ada, inFull.ID, latchkey.NewScopes("mail:*", "files:read"))
		}, nil},
		{"SetScopes of a key without scopes", func() error { return s.SetScopes(t.Context(), ada, key.ID, latchkey.Scopes{}) }, nil},
		{"SetNetworks to those it has", func() error {
			return s.SetNetworks(t.Context(), ada, inFull.ID, []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.7/120")})
		}, nil},
		{"SetNetworks of a key without networks", func() error { return s.SetNetworks(t.Context(), ada, key.ID, []netip.Prefix{}) }, nil},
		{"SetMetadata to those it has", func() error { return s.SetMetadata(t.Context(), ada, inFull.ID, room) }, nil},
		{"SetMetadata of a key without metadata", func() error { return s.SetMetadata(t.Context(), ada, key.ID, map[string]string{}) }, nil},
		{"SetUserMetadata to those the user has", func() error { return s.SetUserMetadata(t.Context(), ada, room) }, nil},
		{"CreateKeys of none", func() error { _, _, err := s.CreateKeys(t.Context(), nil, nil); return err }, nil},
		{"MintKey", func() error { _, _, err := s.MintKey(t.Context()); return err }, nil},
		{"Login", func() error { _, err := s.Login(t.Context(), token); return err }, nil},
		{"an empty Update", func() error { return s.Update(t.Context(), func(*latchkey.Tx) error { return nil }) }, nil},
		{"an Update that fails after a change", func() error {
			return s.Update(t.Context(), func(tx *latchkey.Tx) error {
				must(t, tx.DeleteUser(ada))
				return refused
			})
		}, refused},
		{"RenameKey to a taken name", func() error { return s.RenameKey(t.Context(), ada, key.ID, "phone") }, latchkey.ErrKeyNameTaken},
		{"CreateKey with a taken name", func() error {
			_, _, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "phone"})
			return err
		}, latchkey.ErrKeyNameTaken},
		{"CreateUser with a taken identity", func() error {
			_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")})
			return err
		}, latchkey.ErrIdentityTaken},
		{"DeleteKey by somebody else", func() error { return s.DeleteKey(t.Context(), bob, key.ID) }, latchkey.ErrKeyNotFound},
		{"UnlinkIdentity of the only identity", func() error {
			_, err := s.UnlinkIdentity(t.Context(), ada, email("ada"))
			return err
		}, latchkey.ErrLastIdentity},
		{"DeleteUser of nobody", func() error { return s.DeleteUser(t.Context(), uuid.New()) }, latchkey.ErrUserNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantNoChange(t, s, func() { wantError(t, tt.call(), tt.want) })
		})
	}
}
