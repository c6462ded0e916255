package latchkey

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
)

// wantAllTracked fails the test unless the engine yields each record and tombstone once, and
// nothing else. It returns the sequences by table and key.
func wantAllTracked(t *testing.T, s *Store) map[string]uint64 {
	t.Helper()
	sequences := map[string]uint64{}
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for c, err := range etx.Changes(0) {
			if err != nil {
				return err
			}
			what := fmt.Sprintf("%s/%x", c.Table, c.Key)
			if sequences[what] != 0 {
				t.Errorf("%s is yielded twice", what)
			}
			sequences[what] = c.Sequence
		}
		n := 0
		for _, table := range trackedTables {
			for e, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				n++
				if what := fmt.Sprintf("%s/%x", table, e.Key); sequences[what] == 0 {
					t.Errorf("%s is not yielded", what)
				}
			}
		}
		if len(sequences) != n {
			t.Errorf("%d changes are yielded of %d records", len(sequences), n)
		}
		return nil
	}))
	return sequences
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

func (c *changer) group() string { return []string{"", "", "plant", "garden"}[c.IntN(4)] }

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
		_, err := tx.CreateUser(UserSpec{Identity: c.identity(), Group: c.group()})
		return err
	case 2:
		_, err := tx.CreateUser(UserSpec{Identity: Identity{Provider: ProviderAnonymous}})
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
	owner, spec := c.owner(tx), KeySpec{Name: c.name()}
	if owner == ServerOwner {
		spec.Group = c.group()
	}
	key, err := tx.insertKey(owner, spec, minted)
	if err == nil {
		c.keys = append(c.keys, key)
	}
	return err
}

func TestTheStoreIsSoundAndTrackedAfterAnyChanges(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared=", shared), func(t *testing.T) { changeAtRandom(t, shared) })
	}
}

func changeAtRandom(t *testing.T, shared bool) {
	s := open(t, nil)
	if shared {
		s = share(t, s)
	}
	c := &changer{Rand: rand.New(rand.NewPCG(newSeed(t), 0))}
	writes, refusals := 0, 0
	for round := range 20 {
		minted, _, err := s.MintKeys(t.Context(), 10, nil)
		must(t, err)
		for i := range minted {
			before := wantAllTracked(t, s)
			st := stats(t, s).Sequence
			err := s.Update(t.Context(), func(tx *Tx) error { return c.step(tx, minted[i]) })
			now := stats(t, s).Sequence
			switch {
			case err != nil && now != st:
				t.Errorf("round %d: refused with %v, and the sequence went from %d to %d", round, err, st, now)
			case now < st:
				t.Errorf("round %d: the sequence went back from %d to %d", round, st, now)
			case err != nil:
				refusals++
			case now > st:
				writes++
			}
			for record, sequence := range wantAllTracked(t, s) {
				if sequence != before[record] && sequence <= st {
					t.Errorf("round %d: record %s went from sequence %d to %d", round, record, before[record], sequence)
				}
			}
		}
		if round%10 == 0 {
			s = reopen(t, s, nil)
		}
		wantSound(t, s)
	}
	if writes < 25 || refusals < 25 {
		t.Errorf("%d writes and %d refusals show little", writes, refusals)
	}
}

func TestTheStoreIsSoundAfterTransactionsOfManySteps(t *testing.T) {
	s := open(t, nil)
	c := &changer{Rand: rand.New(rand.NewPCG(newSeed(t), 1))}
	given := errors.New("given up")
	for round := range 20 {
		minted, _, err := s.MintKeys(t.Context(), 20, nil)
		must(t, err)
		before := dump(t, s)
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
			if err != given || !slices.Equal(dump(t, s), before) {
				t.Errorf("round %d: given up with %v, and yet the tables have changed", round, err)
			}
		} else if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wantAllTracked(t, s)
		wantSound(t, s)
	}
}
