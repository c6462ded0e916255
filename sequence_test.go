package latchkey_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestASequenceTellsThatARecordWasChanged(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user, "laptop")
	other, _ := addKey(t, s, user, "phone")
	sequences := func() (seq [4]uint64) {
		must(t, s.View(ctx, func(tx *latchkey.Tx) (err error) {
			if seq[0], err = tx.UserSequence(user); err != nil {
				return err
			}
			if seq[1], err = tx.KeySequence(key.ID); err != nil {
				return err
			}
			if seq[2], err = tx.KeySequence(other.ID); err != nil {
				return err
			}
			seq[3], err = tx.GroupSequence("north")
			return err
		}))
		return seq
	}
	for _, tt := range []struct {
		name   string
		change func() error
		want   [4]bool // which sequences grow
	}{
		{"a login", func() error { _, err := s.Login(ctx, token); return err }, [4]bool{}},
		{"a rename", func() error { return s.RenameKey(ctx, user, key.ID, "tablet") }, [4]bool{1: true}},
		{"a group of the user", func() error { return s.SetUserGroup(ctx, user, "north") }, [4]bool{0: true}},
		{"a disabled group", func() error { return s.DisableGroup(ctx, "north") }, [4]bool{3: true}},
		{"a disabled user", func() error { return s.DisableUser(ctx, user) }, [4]bool{0: true}},
		{"a disabled key", func() error { return s.DisableKey(ctx, user, other.ID) }, [4]bool{2: true}},
	} {
		before := sequences()
		must(t, tt.change())
		after := sequences()
		for i, grows := range tt.want {
			if grows != (after[i] > before[i]) || !grows && after[i] != before[i] {
				t.Errorf("%s: sequence %d went from %d to %d", tt.name, i, before[i], after[i])
			}
		}
	}
}

func TestASequenceInATransactionCountsItsOwnChange(t *testing.T) {
	s := open(t)
	user := addUser(t, s, "ada")
	key, _ := addKey(t, s, user, "laptop")
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		if n, err := tx.KeySequence(key.ID); err != nil || n > tx.Sequence() {
			t.Errorf("before: got %d, %v, and the last commit is %d", n, err, tx.Sequence())
		}
		must(t, tx.RenameKey(user, key.ID, "phone"))
		if n, err := tx.KeySequence(key.ID); err != nil || n <= tx.Sequence() {
			t.Errorf("after: got %d, %v, and the last commit is %d", n, err, tx.Sequence())
		}
		return nil
	}))
}

func TestWhatIsNotThereHasTheSequence0(t *testing.T) {
	s := open(t)
	user := addUser(t, s, "ada")
	key, _ := addKey(t, s, user, "laptop")
	must(t, s.DeleteUser(t.Context(), user))
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		for name, sequence := range map[string]func() (uint64, error){
			"a deleted user":   func() (uint64, error) { return tx.UserSequence(user) },
			"a deleted key":    func() (uint64, error) { return tx.KeySequence(key.ID) },
			"no user":          func() (uint64, error) { return tx.UserSequence(uuid.New()) },
			"no group":         func() (uint64, error) { return tx.GroupSequence("") },
			"an unknown group": func() (uint64, error) { return tx.GroupSequence("north") },
			"a long name":      func() (uint64, error) { return tx.GroupSequence(strings.Repeat("n", 1000)) },
		} {
			if n, err := sequence(); n != 0 || err != nil {
				t.Errorf("%s: got %d, %v, want 0", name, n, err)
			}
		}
		return nil
	}))
}
