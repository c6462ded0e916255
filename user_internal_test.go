package latchkey

import (
	"errors"
	"testing"

	"github.com/google/uuid"
)

// readCounter is a transaction that counts the reads of one table.
type readCounter struct {
	EngineTx
	table string
	reads int
}

func (tx *readCounter) Get(table string, key []byte) ([]byte, error) {
	if table == tx.table {
		tx.reads++
	}
	return tx.EngineTx.Get(table, key)
}

func TestAUserMadeAgainHasTheIDOfTheNumberOfDeletions(t *testing.T) {
	s := open(t, nil)
	ada := Identity{ProviderLocalUserpass, "ada"}
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		counter := &readCounter{EngineTx: tx.etx, table: tableUsers}
		tx.etx = counter
		for deletions := range uint64(600) {
			counter.reads = 0
			user, err := tx.CreateUser(UserSpec{ada})
			must(t, err)
			if want := s.domain.userID(ada, deletions); user.ID != want {
				t.Fatalf("after %d deletions: got user %s, want %s", deletions, user.ID, want)
			}
			if counter.reads > 20 { // 2 × log₂ 600, and one more
				t.Fatalf("after %d deletions: %d users were read", deletions, counter.reads)
			}
			if _, err := tx.CreateUser(UserSpec{ada}); !errors.Is(err, ErrIdentityTaken) {
				t.Fatalf("after %d deletions, and making the user again: got %v, want %v", deletions, err, ErrIdentityTaken)
			}
			must(t, tx.DeleteUser(user.ID))
		}
		return nil
	}))
	wantSound(t, s)
}

func TestALostTombstoneGivesAwayNeitherAnIdentityNorTheIDOfALiveUser(t *testing.T) {
	ada := Identity{ProviderLocalUserpass, "ada"}
	for lost := range uint64(12) {
		s := open(t, nil)
		ids := map[uuid.UUID]bool{} // IDs that have a record
		must(t, s.Update(t.Context(), func(tx *Tx) error {
			for range 12 {
				user, err := tx.CreateUser(UserSpec{ada})
				must(t, err)
				must(t, tx.DeleteUser(user.ID))
				ids[user.ID] = true
			}
			last, err := tx.CreateUser(UserSpec{ada})
			must(t, err)
			ids[last.ID] = true
			id := s.domain.userID(ada, lost)
			delete(ids, id)
			must(t, tx.etx.Delete(tableUsers, id[:]))

			if _, err := tx.CreateUser(UserSpec{ada}); !errors.Is(err, ErrIdentityTaken) {
				t.Errorf("without tombstone %d: got %v, want %v", lost, err, ErrIdentityTaken)
			}
			must(t, tx.DeleteUser(last.ID))
			again, err := tx.CreateUser(UserSpec{ada})
			if err != nil || ids[again.ID] {
				t.Errorf("without tombstone %d: got user %s, %v, want an ID that has no record", lost, again.ID, err)
			}
			return nil
		}))
	}
}

func TestAnIdentityMissingFromTheIndexCannotBeTaken(t *testing.T) {
	s := open(t, nil)
	ada := Identity{ProviderLocalUserpass, "ada"}
	addUser(t, s, "ada")
	must(t, s.Update(t.Context(), func(tx *Tx) error { return tx.etx.Delete(tableIdentities, ada.indexKey()) }))
	if user, err := s.CreateUser(t.Context(), UserSpec{ada}); !errors.Is(err, ErrIdentityTaken) {
		t.Errorf("got user %s, %v, want %v", user.ID, err, ErrIdentityTaken)
	}
}
