package merge

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
)

// key merges the record of a key. The owner need not have arrived yet.
func (t *Tables) key(id uuid.UUID, c record.Copy) error {
	theirs, err := unseal(c, record.DecodeKey)
	if err != nil {
		return err
	}
	if err := t.checkKey(theirs); err != nil {
		return err
	}
	dead, err := t.has(record.TableDeadKeys, id)
	if err == nil && !dead {
		dead, err = t.has(record.TableDeadUsers, theirs.Owner)
	}
	if err != nil {
		return err
	}
	if dead {
		return t.buryKey(theirs.Tombstone())
	}
	ours, err := get(t, record.TableKeys, id, record.DecodeKey)
	if err != nil {
		return err
	}
	if ours == nil {
		ours = &record.Key{ID: id, Owner: theirs.Owner, Created: theirs.Created}
		return t.changeKey(ours, *theirs, nil)
	}
	if IsReserved(ours.Scopes.Value) {
		return ErrReserved
	}
	merged, err := ours.Merge(*theirs)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if bytes.Equal(merged.Encode(), ours.Encode()) {
		return t.reindex(id, merged.Index())
	}
	t.DropCached(cache.Stale{Keys: []uuid.UUID{id}})
	return t.changeKey(ours, merged, ours.Index())
}

// changeKey writes the record of a key in the place of an earlier version, which has some entries
// in indexes.
func (t *Tables) changeKey(was *record.Key, is record.Key, index []record.IndexEntry) error {
	if _, err := seal(record.TableKeys, is.ID[:], is.Encode()); err != nil {
		return err
	}
	if err := t.EndVerifiers(was, unchanged(was.Verifiers, is.Verifiers)); err != nil {
		return err
	}
	if err := t.changeIndex(is.ID, index, is.Index()); err != nil {
		return err
	}
	return t.put(record.TableKeys, is.ID[:], is.Encode())
}

// unchanged returns the verifiers of is without those whose hash was another one before. The hashes
// and last uses that the store keeps of these are of the other secret.
func unchanged(was, is record.Verifiers) record.Verifiers {
	is.All = slices.DeleteFunc(slices.Clone(is.All), func(v record.Verifier) bool {
		before, found := was.Find(v.ID)
		return found && before.PHC != v.PHC
	})
	return is
}

// EndVerifiers deletes the hashes, the last uses and the entries in the index of handles of
// verifiers of a key that are not in kept, or are retired there.
func (t *Tables) EndVerifiers(k *record.Key, kept record.Verifiers) error {
	for _, v := range k.Verifiers.All {
		if left, found := kept.Find(v.ID); found && !left.Retired {
			continue
		}
		if v.Handle != (record.Handle{}) {
			if err := t.Delete(record.TableHandles, record.HandleKey(v.Handle, k.ID)); err != nil {
				return err
			}
		}
		id := rehash.ID{Key: k.ID, Verifier: v.ID}.TableKey()
		hash, err := t.Get(record.TableHashes, id)
		if err == nil && hash != nil {
			err = t.Delete(record.TableHashes, id)
		}
		if err != nil {
			return err
		}
	}
	return t.EndUses(k, kept)
}

// reserved is the beginning of reserved scopes.
const reserved = "latchkey:"

// IsReserved reports whether a key with some scopes stays in its store, because a part of the
// project uses the key.
func IsReserved(scopes []string) bool {
	return slices.ContainsFunc(scopes, func(s string) bool { return strings.HasPrefix(s, reserved) })
}

// checkKey returns [ErrInvalid] if the key would make a wrong entry in an index or has a verifier
// that cannot be used, and [ErrReserved].
func (t *Tables) checkKey(k *record.Key) error {
	if IsReserved(k.Scopes.Value) {
		return ErrReserved
	}
	if err := checkText("the name of a key", k.Name.Value); err != nil {
		return err
	}
	for _, v := range k.Verifiers.All {
		if v.Retired || v.Handle != (record.Handle{}) {
			continue
		}
		if err := t.CheckPHC(v.PHC); err != nil {
			return fmt.Errorf("%w: a verifier of the key cannot be used", ErrInvalid)
		}
	}
	if k.Owner != record.ServerOwner && len(k.Groups) > 0 {
		return fmt.Errorf("%w: the key of a user has a group of its own", ErrInvalid)
	}
	return checkGroups(k.Groups)
}

// buryKey merges the tombstone of a key, and deletes the key.
func (t *Tables) buryKey(d record.KeyTombstone) error {
	ours, err := get(t, record.TableKeys, d.ID, record.DecodeKey)
	damaged := errors.Is(err, record.ErrDamaged)
	if err != nil && !damaged {
		return err
	}
	dead, err := get(t, record.TableDeadKeys, d.ID, record.DecodeKeyTombstone)
	if err != nil {
		return err
	}
	if ours != nil {
		d, err = d.Merge(ours.Tombstone())
	}
	if err == nil && dead != nil {
		d, err = d.Merge(*dead)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if ours != nil || damaged {
		t.DropCached(cache.Stale{Keys: []uuid.UUID{d.ID}})
		if ours != nil {
			if err := t.EndVerifiers(ours, record.Verifiers{}); err != nil {
				return err
			}
			if err := t.changeIndex(d.ID, ours.Index(), nil); err != nil {
				return err
			}
		}
		if err := t.Delete(record.TableKeys, d.ID[:]); err != nil {
			return err
		}
	}
	if dead != nil && bytes.Equal(dead.Encode(), d.Encode()) {
		return nil
	}
	return t.put(record.TableDeadKeys, d.ID[:], d.Encode())
}

// use merges the last use of a verifier. The use of a key that the store does not have is no news.
func (t *Tables) use(c record.Copy) error {
	minute, err := DecodeUse(c.Key, c.Sealed)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	id := lastuse.ID(c.Key)
	k, err := get(t, record.TableKeys, id.Key(), record.DecodeKey)
	if err != nil || k == nil {
		return err
	}
	return t.raiseUse(k, id.Verifier(), minute)
}
