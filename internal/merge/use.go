package merge

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The last uses of tokens are in a table of their own, one entry for each verifier.

// UsesOf yields the entries of a key in the table of last uses.
func (t *Tables) UsesOf(key uuid.UUID) iter.Seq2[Entry, error] {
	end := lastuse.Join(key, [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return t.Scan(record.TableLastUse, key[:], append(end[:], 0))
}

// DecodeUse returns the minute in an entry of the table of last uses.
//
// Errors: [record.ErrDamaged] or [record.ErrNewer].
func DecodeUse(key, sealed []byte) (minute uint32, err error) {
	message, err := record.Open(record.TableLastUse, key, sealed)
	if err != nil {
		return 0, err
	}
	return record.DecodeLastUse(message)
}

// AppendUses appends the entries of a key's verifiers that are not retired to uses.
//
// Errors: those of [DecodeUse] and of Get.
func AppendUses(uses []lastuse.Use, tx getter, k *record.Key) ([]lastuse.Use, error) {
	for _, v := range k.Verifiers.All {
		if v.Retired {
			continue
		}
		id := lastuse.Join(k.ID, v.ID)
		sealed, err := tx.Get(record.TableLastUse, id[:])
		if err == nil && sealed != nil {
			var minute uint32
			minute, err = DecodeUse(id[:], sealed)
			uses = append(uses, lastuse.Use{ID: id, Minute: minute})
		}
		if err != nil {
			return nil, err
		}
	}
	return uses, nil
}

// A getter reads tables.
type getter interface {
	Get(table string, key []byte) ([]byte, error)
}

// RaisedUse returns the entry that the last use of a verifier changes in the table, or none if a
// later use is there. The use of a verifier that is retired counts for the oldest one that is not.
// No use is later than the store's time.
func (t *Tables) RaisedUse(k *record.Key, verifier record.VerifierID, minute uint32) (u lastuse.Use, err error) {
	kept := k.Verifiers.Good(time.Time{})
	if len(kept) > 0 && !slices.ContainsFunc(kept, func(v record.Verifier) bool { return v.ID == verifier }) {
		verifier = kept[0].ID
	}
	id := lastuse.Join(k.ID, verifier)
	sealed, err := t.Get(record.TableLastUse, id[:])
	if err != nil {
		return u, err
	}
	var has uint32
	if sealed != nil {
		has, _ = DecodeUse(id[:], sealed) // damage is written over
	}
	// The minute in the table is after the store's time if the clock was reset.
	now := max(has, minute)
	if now = min(now, uint32(t.Now().Unix()/60)); now == has {
		return u, nil
	}
	return lastuse.Use{ID: id, Minute: now}, nil
}

// raiseUse writes the last use of a verifier, unless a later one is there.
func (t *Tables) raiseUse(k *record.Key, verifier record.VerifierID, minute uint32) error {
	u, err := t.RaisedUse(k, verifier, minute)
	if err != nil || u.Minute == 0 {
		return err
	}
	return t.put(record.TableLastUse, u.ID[:], record.EncodeLastUse(u.Minute))
}

// EndUses deletes the last uses of a key, except those of verifiers that are in kept and not
// retired. The latest of what it deletes counts for the oldest verifier in kept.
func (t *Tables) EndUses(k *record.Key, kept record.Verifiers) error {
	var latest uint32
	for e, err := range t.UsesOf(k.ID) {
		if err != nil {
			return err
		}
		if len(e.Key) == len(lastuse.ID{}) {
			if v, found := kept.Find(lastuse.ID(e.Key).Verifier()); found && !v.Retired {
				continue
			}
		}
		minute, _ := DecodeUse(e.Key, e.Value) // damage does not keep a key from being changed
		latest = max(latest, minute)
		if err := t.Delete(record.TableLastUse, e.Key); err != nil {
			return err
		}
	}
	all := kept.Good(time.Time{})
	if latest == 0 || len(all) == 0 {
		return nil
	}
	after := *k
	after.Verifiers = kept
	return t.raiseUse(&after, all[0].ID, latest)
}
