package latchkey

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
)

// changeIndex reads the change index in its order: the records that changed, and their sequences.
func changeIndex(t testing.TB, s *Store) (sequences []uint64, changed []string) {
	t.Helper()
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for e, err := range etx.Scan(tableChanges, nil, nil) {
			if err != nil {
				return err
			}
			sequences = append(sequences, binary.BigEndian.Uint64(e.Key))
			changed = append(changed, fmt.Sprintf("%d %x", e.Value[0], e.Value[1:]))
		}
		return nil
	}))
	return sequences, changed
}

// recordSequences returns the sequence in each record, tombstones included.
func recordSequences(t testing.TB, s *Store) map[string]uint64 {
	t.Helper()
	sequences := map[string]uint64{}
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for e, err := range etx.Scan(tableUsers, nil, nil) {
			if err != nil {
				return err
			}
			u, err := decodeUser(uuid.UUID(e.Key), e.Value)
			if err != nil {
				return err
			}
			sequences[fmt.Sprintf("%d %x", userKind, e.Key)] = u.sequence
		}
		for e, err := range etx.Scan(tableKeys, nil, nil) {
			if err != nil {
				return err
			}
			k, err := decodeKey(uuid.UUID(e.Key), e.Value)
			if err != nil {
				return err
			}
			sequences[fmt.Sprintf("%d %x", keyKind, e.Key)] = k.sequence
		}
		return nil
	}))
	return sequences
}

// wantChangeIndex fails the test unless the change index has each record once, at the sequence in
// the record, and nothing else.
func wantChangeIndex(t *testing.T, s *Store) {
	t.Helper()
	want := recordSequences(t, s)
	sequences, changed := changeIndex(t, s)
	if len(changed) != len(want) {
		t.Errorf("the change index has %d entries for %d records", len(changed), len(want))
	}
	for i, record := range changed {
		if want[record] != sequences[i] {
			t.Errorf("the change index has record %s at sequence %d, and the record has %d", record, sequences[i], want[record])
		}
		delete(want, record)
	}
	for record, sequence := range want {
		t.Errorf("record %s, at sequence %d, is not in the change index", record, sequence)
	}
	if last, now := slices.Max(append(sequences, 0)), stats(t, s).Sequence; last != now {
		t.Errorf("the last change is %d, and the store is at %d", last, now)
	}
}

// changer makes random changes to a store with few users and keys, so that most calls find what
// they name.
type changer struct {
	*rand.Rand
	keys []Key // all keys that were ever made
}

func (c *changer) identity() Identity {
	return Identity{ProviderLocalUserpass, fmt.Sprint("user ", c.IntN(6))}
}

// owner returns a random user, or ServerOwner, or nobody.
func (c *changer) owner(tx *Tx) uuid.UUID {
	if c.IntN(4) == 0 {
		return ServerOwner
	}
	user, _ := tx.UserByIdentity(c.identity())
	return user.ID
}

// key returns a random key, which may be deleted.
func (c *changer) key() (owner, id uuid.UUID) {
	if len(c.keys) == 0 {
		return ServerOwner, uuid.Nil
	}
	key := c.keys[c.IntN(len(c.keys))]
	return key.Owner, key.ID
}

func (c *changer) name() string { return fmt.Sprint("key ", c.IntN(5)) }

// step does one random operation in a transaction. minted may be inserted once.
func (c *changer) step(tx *Tx, minted MintedKey) error {
	switch c.IntN(13) {
	case 0, 1:
		_, err := tx.CreateUser(UserSpec{c.identity()})
		return err
	case 2:
		_, err := tx.CreateUser(UserSpec{Identity{Provider: ProviderAnonymous}})
		return err
	case 3:
		_, err := tx.LinkIdentity(c.owner(tx), c.identity())
		return err
	case 4:
		return tx.DisableUser(c.owner(tx))
	case 5:
		return tx.EnableUser(c.owner(tx))
	case 6:
		return tx.DeleteUser(c.owner(tx))
	case 7:
		owner, id := c.key()
		return tx.RenameKey(owner, id, c.name())
	case 8:
		return tx.DisableKey(c.key())
	case 9:
		return tx.EnableKey(c.key())
	case 10:
		return tx.DeleteKey(c.key())
	case 11:
		_, err := tx.UnlinkIdentity(c.owner(tx), c.identity())
		return err
	}
	key, err := tx.InsertKey(c.owner(tx), KeySpec{Name: c.name()}, minted)
	if err == nil {
		c.keys = append(c.keys, key)
	}
	return err
}

func TestTheChangeIndexHasEachRecordOnceAtItsLastChange(t *testing.T) {
	s := open(t, nil)
	c := &changer{Rand: rand.New(rand.NewPCG(newSeed(t), 0))}
	writes, refusals := 0, 0
	for round := range 40 {
		minted, _, err := s.MintKeys(t.Context(), 10, nil)
		must(t, err)
		for i := range minted {
			before := recordSequences(t, s)
			st := stats(t, s)
			err := s.Update(t.Context(), func(tx *Tx) error { return c.step(tx, minted[i]) })
			now := stats(t, s).Sequence
			switch {
			case err != nil && now != st.Sequence:
				t.Errorf("round %d: refused with %v, and the sequence went from %d to %d", round, err, st.Sequence, now)
			case now < st.Sequence:
				t.Errorf("round %d: the sequence went back from %d to %d", round, st.Sequence, now)
			case err != nil:
				refusals++
			case now > st.Sequence:
				writes++
			}
			// A record that changed has a sequence that no record had before.
			for record, sequence := range recordSequences(t, s) {
				if sequence != before[record] && sequence <= st.Sequence {
					t.Errorf("round %d: record %s went from sequence %d to %d", round, record, before[record], sequence)
				}
			}
		}
		if round%10 == 0 {
			s = reopen(t, s, nil)
		}
		wantChangeIndex(t, s)
		for finding := range s.Check(t.Context()) {
			t.Fatalf("round %d: %v", round, finding)
		}
	}
	if writes < 50 || refusals < 50 {
		t.Errorf("%d writes and %d refusals show little", writes, refusals)
	}
}

func TestTheChangeIndexHoldsAfterTransactionsOfManySteps(t *testing.T) {
	s := open(t, nil)
	c := &changer{Rand: rand.New(rand.NewPCG(newSeed(t), 1))}
	given := errors.New("given up")
	for round := range 20 {
		minted, _, err := s.MintKeys(t.Context(), 20, nil)
		must(t, err)
		before := stats(t, s).Sequence
		_, changedBefore := changeIndex(t, s)
		err = s.Update(t.Context(), func(tx *Tx) error {
			for _, m := range minted {
				_ = c.step(tx, m) // a refused step leaves the others as they are
			}
			if round%4 == 3 {
				return given
			}
			return nil
		})
		if round%4 == 3 {
			_, changed := changeIndex(t, s)
			if err != given || stats(t, s).Sequence != before || !slices.Equal(changed, changedBefore) {
				t.Errorf("round %d: given up with %v, and yet the index has changed", round, err)
			}
		} else if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wantChangeIndex(t, s)
	}
	wantSound(t, s)
}

func TestADeletionOfAUserChangesTheUserAndEachKey(t *testing.T) {
	s := open(t, nil)
	user := addUser(t, s, "ada")
	for _, name := range []string{"a", "b", "c"} {
		_, _, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: name})
		must(t, err)
	}
	addServerKey(t, s, "backup")
	before := stats(t, s).Sequence
	must(t, s.DeleteUser(t.Context(), user.ID))
	sequences, changed := changeIndex(t, s)
	if n := len(changed); n != 5 || sequences[n-1] != before+4 || sequences[0] != before {
		t.Fatalf("the index has %d entries from %d to %d, want 5 from %d to %d", n, sequences[0], sequences[n-1], before, before+4)
	}
	// The keys come first, so that a reader of the index in its order never meets a key whose user
	// is gone.
	if want := fmt.Sprintf("%d %x", userKind, user.ID[:]); changed[4] != want {
		t.Errorf("the last change is of %s, want %s", changed[4], want)
	}
}

// An old version of a page has the record from before its user or key was disabled. Writing that
// record again must not make it the latest.
func TestARecordOfAnEarlierStateIsNotWrittenAgain(t *testing.T) {
	h := openInhabited(t)
	must(t, h.DisableUser(t.Context(), h.ada.id))
	must(t, h.DisableKey(t.Context(), ServerOwner, h.backup.id))
	h.putUser(h.ada)
	h.putKey(h.backup)
	_, linkErr := h.LinkIdentity(t.Context(), h.ada.id, Identity{ProviderLocalUserpass, "also ada"})
	_, unlinkErr := h.UnlinkIdentity(t.Context(), h.ada.id, h.ada.identities[0].Identity)
	for call, err := range map[string]error{
		"LinkIdentity":   linkErr,
		"UnlinkIdentity": unlinkErr,
		"DisableUser":    h.DisableUser(t.Context(), h.ada.id),
		"RenameKey":      h.RenameKey(t.Context(), ServerOwner, h.backup.id, "restore"),
	} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", call, err, ErrCorrupt)
		}
	}
	if _, err := h.Login(t.Context(), h.laptopToken); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Login: got %v, want %v", err, ErrCorrupt)
	}
	_, err := h.Repair(t.Context())
	must(t, err)
	if user, err := h.User(t.Context(), h.ada.id); err != nil || !user.Disabled {
		t.Errorf("repaired: got %+v, %v", user, err)
	}
}
