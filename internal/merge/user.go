package merge

import (
	"bytes"
	"errors"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/record"
)

// user merges the record of a user.
func (t *Tables) user(id uuid.UUID, c record.Copy) (more bool, err error) {
	theirs, err := unseal(c, record.DecodeUser)
	if err != nil {
		return false, err
	}
	if err := checkUser(theirs); err != nil {
		return false, err
	}
	if dead, err := t.has(record.TableDeadUsers, id); err != nil {
		return false, err
	} else if dead {
		return t.buryUser(theirs.Tombstone())
	}
	ours, err := get(t, record.TableUsers, id, record.DecodeUser)
	if err != nil {
		return false, err
	}
	merged, was := *theirs, []record.IndexEntry(nil)
	if ours != nil {
		merged, was = ours.Merge(*theirs), ours.Index()
		if bytes.Equal(merged.Encode(), ours.Encode()) {
			return false, t.reindex(id, merged.Index())
		}
		t.DropCached(cache.Stale{Users: []uuid.UUID{id}})
	}
	if _, err := seal(c.Table, c.Key, merged.Encode()); err != nil {
		return false, err
	}
	if err := t.changeIndex(id, was, merged.Index()); err != nil {
		return false, err
	}
	return false, t.put(c.Table, c.Key, merged.Encode())
}

// checkUser returns [ErrInvalid] if a text of the user would make a wrong entry in an index.
func checkUser(u *record.User) error {
	for _, i := range u.Identities {
		if err := checkText("the provider of an identity", i.Provider); err != nil {
			return err
		}
		if err := checkText("the subject of an identity", i.Subject); err != nil {
			return err
		}
	}
	return checkGroups(u.Groups)
}

// buryUser merges the tombstone of a user. It deletes the user and then the keys of the user. If
// more is set, some keys are left. They do not log in, because their owner is gone.
func (t *Tables) buryUser(d record.UserTombstone) (more bool, err error) {
	dead, err := get(t, record.TableDeadUsers, d.ID, record.DecodeUserTombstone)
	if err != nil {
		return false, err
	}
	ours, err := get(t, record.TableUsers, d.ID, record.DecodeUser)
	damaged := errors.Is(err, record.ErrDamaged)
	if err != nil && !damaged {
		return false, err
	}
	if ours != nil {
		d = d.Merge(ours.Tombstone())
	}
	if dead != nil {
		d = d.Merge(*dead)
	}
	keys, more, err := t.keysOf(d.ID, t.BuryAtOnce)
	if err != nil {
		return false, err
	}
	if ours != nil || damaged {
		t.DropCached(cache.Stale{Users: []uuid.UUID{d.ID}})
		if ours != nil {
			if err := t.changeIndex(d.ID, ours.Index(), nil); err != nil {
				return false, err
			}
		}
		if err := t.Delete(record.TableUsers, d.ID[:]); err != nil {
			return false, err
		}
	}
	if dead == nil || !bytes.Equal(dead.Encode(), d.Encode()) {
		if err := t.put(record.TableDeadUsers, d.ID[:], d.Encode()); err != nil {
			return false, err
		}
	}
	for _, entry := range keys {
		if err := t.buryKeyOf(d.ID, entry); err != nil {
			return false, err
		}
	}
	return more, nil
}

// buryKeyOf deletes a key of a deleted user, and the key's entry in the index of names, which can
// be wrong.
func (t *Tables) buryKeyOf(owner uuid.UUID, entry []byte) error {
	_, id, err := record.SplitNameKey(entry)
	if err == nil {
		err = t.buryKey(record.KeyTombstone{ID: id, Owner: owner})
	}
	if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, record.ErrDamaged) {
		return err
	}
	return t.Delete(record.TableNames, entry)
}

// keysOf returns the first entries of an owner in the index of names, and reports whether there are
// more.
func (t *Tables) keysOf(owner uuid.UUID, most int) (entries [][]byte, more bool, err error) {
	for e, err := range t.Scan(record.TableNames, owner[:], append(owner[:], 0xff)) {
		switch {
		case err != nil:
			return nil, false, err
		case len(entries) == most:
			return entries, true, nil
		}
		entries = append(entries, e.Key)
	}
	return entries, false, nil
}
