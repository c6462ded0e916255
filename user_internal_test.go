package latchkey

import (
	"errors"
	"strconv"
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

func TestAUserMadeAgainHasTheIDOfTheNumberOfFormerUsers(t *testing.T) {
	s := open(t, nil)
	ada := Identity{ProviderLocalUserpass, "ada"}
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		counter := &readCounter{EngineTx: tx.etx, table: tableUsers}
		tx.etx = counter
		for former := range uint64(600) {
			counter.reads = 0
			user, err := tx.CreateUser(UserSpec{Identity: ada})
			must(t, err)
			if want := s.domain.UserID(ada.indexKey(), former); user.ID != want {
				t.Fatalf("after %d users: got user %s, want %s", former, user.ID, want)
			}
			if counter.reads > 20 { // 2 × log₂ 600, and one more
				t.Fatalf("after %d users: %d users were read", former, counter.reads)
			}
			if _, err := tx.CreateUser(UserSpec{Identity: ada}); !errors.Is(err, ErrIdentityTaken) {
				t.Fatalf("after %d users, and making the user again: got %v, want %v", former, err, ErrIdentityTaken)
			}
			if former%3 == 0 {
				must(t, tx.DeleteUser(user.ID))
				continue
			}
			_, err = tx.LinkIdentity(user.ID, Identity{ProviderCustomToken, user.ID.String()})
			must(t, err)
			_, err = tx.UnlinkIdentity(user.ID, ada)
			must(t, err)
		}
		return nil
	}))
	wantSound(t, s)
}

func TestAnIdentityThatGoesBackToAFormerUserIsTakenAndThenFreeAgain(t *testing.T) {
	ada, lovelace := Identity{ProviderLocalUserpass, "ada"}, Identity{ProviderLocalUserpass, "lovelace"}
	for holder := range 5 {
		s := open(t, nil)
		must(t, s.Update(t.Context(), func(tx *Tx) error {
			var users []User
			for i := range 5 {
				user, err := tx.CreateUser(UserSpec{Identity: ada})
				must(t, err)
				_, err = tx.LinkIdentity(user.ID, Identity{ProviderCustomToken, string(rune('a' + i))})
				must(t, err)
				_, err = tx.UnlinkIdentity(user.ID, ada)
				must(t, err)
				users = append(users, user)
			}
			_, err := tx.LinkIdentity(users[holder].ID, ada)
			must(t, err)
			if user, err := tx.CreateUser(UserSpec{Identity: ada}); !errors.Is(err, ErrIdentityTaken) {
				t.Errorf("while user %d has it: got user %s, %v, want %v", holder, user.ID, err, ErrIdentityTaken)
			}
			_, err = tx.UnlinkIdentity(users[holder].ID, ada)
			must(t, err)
			// A user that began with another identity has no number.
			other, err := tx.CreateUser(UserSpec{Identity: lovelace})
			must(t, err)
			_, err = tx.LinkIdentity(other.ID, ada)
			must(t, err)
			_, err = tx.UnlinkIdentity(other.ID, ada)
			must(t, err)
			user, err := tx.CreateUser(UserSpec{Identity: ada})
			if want := s.domain.UserID(ada.indexKey(), 5); err != nil || user.ID != want {
				t.Errorf("after user %d: got user %s, %v, want %s", holder, user.ID, err, want)
			}
			return nil
		}))
		wantSound(t, s)
	}
}

func TestUnlinkingLeavesAnIdentityToTheUserInTheIndex(t *testing.T) {
	h := openInhabited(t)
	shared := h.lovelace()
	h.bob = h.bob.SetIdentity(h.ada.Linked()[1])
	h.putUser(h.bob)
	if len(h.findings()) == 0 {
		t.Fatal("two users have one identity, and Check does not find it")
	}
	_, err := h.UnlinkIdentity(t.Context(), h.bob.ID, shared)
	must(t, err)
	if user, err := h.UserByIdentity(t.Context(), shared); err != nil || user.ID != h.ada.ID {
		t.Errorf("got user %s, %v, want %s", user.ID, err, h.ada.ID)
	}
	wantSound(t, h.Store)
}

// rewrite gives a user another subject, and a key another name, without a look at the rules.
func rewrite(t *testing.T, s *Store, user, key uuid.UUID, text string) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		k, err := tx.getKey(key)
		must(t, err)
		must(t, tx.setName(k, text, k.Next(s.ReplicaID())))
		u, err := tx.getUser(user)
		must(t, err)
		must(t, tx.delete(tableIdentities, identityOf(u.Identities[0]).indexKey()))
		u.Identities[0].Subject = text
		must(t, tx.claim(identityOf(u.Identities[0]), user))
		return errors.Join(tx.putKey(k), tx.putUser(u))
	}))
}

func TestAUserAndAKeyFromBeforeTheRulesForTextsAreLikeOthers(t *testing.T) {
	for _, text := range []string{" ", " laptop", "laptop\u200b", "\ufefflaptop", "\u3164", uuid.NewString(), "5f60207f14dfb25d23101102"} {
		t.Run(strconv.Quote(text), func(t *testing.T) {
			s := open(t, nil)
			user := addUser(t, s, "ada")
			key, token := addKey(t, s, user.ID, "laptop")
			rewrite(t, s, user.ID, key.ID, text)
			wantSound(t, s)

			old := Identity{ProviderLocalUserpass, text}
			if found, err := s.UserByIdentity(t.Context(), old); err != nil || found.ID != user.ID {
				t.Errorf("found user %s, %v, want %s", found.ID, err, user.ID)
			}
			if found, err := s.Key(t.Context(), user.ID, key.ID); err != nil || found.Name != text {
				t.Errorf("found key %q, %v, want %q", found.Name, err, text)
			}
			must(t, s.DisableKey(t.Context(), user.ID, key.ID))
			must(t, s.EnableKey(t.Context(), user.ID, key.ID))
			must(t, s.RenameKey(t.Context(), user.ID, key.ID, text)) // changes nothing
			_, err := s.LinkIdentity(t.Context(), user.ID, old)      // changes nothing
			must(t, err)
			wantLogin(t, s, token, key.ID)
			// A second one cannot be made.
			if err := s.RenameKey(t.Context(), user.ID, key.ID, text+" "); !errors.Is(err, ErrInvalidName) {
				t.Errorf("renamed: got %v, want %v", err, ErrInvalidName)
			}

			must(t, s.RenameKey(t.Context(), user.ID, key.ID, "desktop"))
			_, err = s.LinkIdentity(t.Context(), user.ID, Identity{ProviderLocalUserpass, "ada"})
			must(t, err)
			_, err = s.UnlinkIdentity(t.Context(), user.ID, old)
			must(t, err)
			rewrite(t, s, user.ID, key.ID, text)
			must(t, s.DeleteKey(t.Context(), user.ID, key.ID))
			must(t, s.DeleteUser(t.Context(), user.ID))
			wantSound(t, s)
		})
	}
}

func TestALostTombstoneGivesAwayNeitherAnIdentityNorTheIDOfALiveUser(t *testing.T) {
	ada := Identity{ProviderLocalUserpass, "ada"}
	for lost := range uint64(12) {
		s := open(t, nil)
		ids := map[uuid.UUID]bool{} // IDs that have a record
		must(t, s.Update(t.Context(), func(tx *Tx) error {
			for range 12 {
				user, err := tx.CreateUser(UserSpec{Identity: ada})
				must(t, err)
				must(t, tx.DeleteUser(user.ID))
				ids[user.ID] = true
			}
			last, err := tx.CreateUser(UserSpec{Identity: ada})
			must(t, err)
			ids[last.ID] = true
			id := s.domain.UserID(ada.indexKey(), lost)
			delete(ids, id)
			must(t, tx.etx.Delete(tableDeadUsers, id[:]))

			if _, err := tx.CreateUser(UserSpec{Identity: ada}); !errors.Is(err, ErrIdentityTaken) {
				t.Errorf("without tombstone %d: got %v, want %v", lost, err, ErrIdentityTaken)
			}
			must(t, tx.DeleteUser(last.ID))
			again, err := tx.CreateUser(UserSpec{Identity: ada})
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
	if user, err := s.CreateUser(t.Context(), UserSpec{Identity: ada}); !errors.Is(err, ErrIdentityTaken) {
		t.Errorf("got user %s, %v, want %v", user.ID, err, ErrIdentityTaken)
	}
}
