package latchkey

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// RenameKey gives a key of owner another name. If the key has that name already, nothing changes.
// If an expired key of owner has the name, that key makes way, as [KeySpec].Name says.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidName]; [ErrKeyNameTaken]; or an error of [Store.Update].
func (s *Store) RenameKey(ctx context.Context, owner, id uuid.UUID, name string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.RenameKey(owner, id, name) })
	return wrapf(err, "rename key %s", id)
}

// RenameKey is [Store.RenameKey] in a transaction.
func (tx *Tx) RenameKey(owner, id uuid.UUID, name string) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) { return tx.rename(k, name, at) })
}

// rename gives a key a name, and reports whether the key had another one.
func (tx *Tx) rename(k *record.Key, name string, at record.Stamp) (changed bool, err error) {
	if k.Name.Value == name {
		return false, nil
	}
	if err := tx.checkName(name); err != nil {
		return false, err
	}
	expired, err := tx.checkNameFree(k.Owner, name, k.ID)
	if err != nil {
		return false, err
	}
	if err := tx.giveWay(expired); err != nil {
		return false, err
	}
	return true, tx.setName(k, name, at)
}

// setName gives a key a name that is free.
func (tx *Tx) setName(k *record.Key, name string, at record.Stamp) error {
	if err := tx.tables().Remove(k.ID, record.IndexEntry{Table: tableNames, Key: record.NameKey(k.Owner, k.Name.Value, k.ID)}); err != nil {
		return err
	}
	k.Name = k.Name.Set(name, at)
	return tx.put(tableNames, record.NameKey(k.Owner, name, k.ID), nil)
}

func (tx *Tx) checkName(name string) error {
	if tx.store.appServicesNames {
		return CheckAppServicesName(name)
	}
	return checkText(names.Name, name)
}

// checkText returns ErrInvalidName if a name breaks the rules for a text of kind k.
func checkText(k names.Kind, name string) error {
	if problem := names.Problem(k, name); problem != "" {
		return fmt.Errorf("%w: %s %s", ErrInvalidName, names.Quote(name), problem)
	}
	return nil
}

// CheckAppServicesName returns [ErrInvalidName] unless name is a key name that the hosted service
// accepted: 1 to 256 ASCII letters, digits, '_' and '-'. The hosted service also accepted names in
// the form of an ID, which only a store with [Options].AppServicesNames accepts.
// CheckAppServicesName is for programs that serve the SDKs of that service from a store without the
// option.
func CheckAppServicesName(name string) error {
	if err := checkText(names.Stored, name); err != nil {
		return err
	}
	for _, c := range name {
		if c >= utf8.RuneSelf || !tokenform.IsDigit(byte(c)) && c != '_' && c != '-' {
			return fmt.Errorf("%w: %s has %q; a name can only contain ASCII letters, digits, '_' and '-'", ErrInvalidName, names.Quote(name), c)
		}
	}
	return nil
}

// checkNameFree returns ErrKeyNameTaken if another key of owner than self has a name or is shown
// under it, and does not make way. It returns the expired keys that have the name, for giveWay.
func (tx *Tx) checkNameFree(owner uuid.UUID, name string, self uuid.UUID) (expired []*record.Key, err error) {
	expired, err = tx.keysNamed(owner, name)
	for _, k := range expired {
		if !k.ExpiredAt(tx.now()) {
			return nil, nameTaken(name)
		}
		others, err := tx.keysNamed(owner, tx.nameWithID(k))
		if err == nil && len(others) > 0 {
			err = fmt.Errorf("%w by an expired key, which cannot make way because %s is taken, too", nameTaken(name), names.Quote(tx.nameWithID(k)))
		}
		if err != nil {
			return nil, err
		}
	}
	if i := len(name) - len("~01234567"); err == nil && i > 0 && tx.isShared() {
		var same []*record.Key
		same, err = tx.keysNamed(owner, name[:i])
		for _, k := range same {
			if len(same) > 1 && k.ID != self && tx.nameWithID(k) == name {
				return nil, nameTaken(name)
			}
		}
	}
	return expired, err
}

func nameTaken(name string) error { return fmt.Errorf("%w: %s", ErrKeyNameTaken, names.Quote(name)) }

// keysNamed returns the records of owner's keys that have a name. There can be several only in a
// domain with several stores.
func (tx *Tx) keysNamed(owner uuid.UUID, name string) (keys []*record.Key, err error) {
	low := record.NameKey(owner, name, uuid.Nil)
	for e, err := range tx.etx.Scan(tableNames, low, append(record.NameKey(owner, name, uuid.Max), 0)) {
		if err != nil {
			return nil, err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			return nil, recordError(err)
		}
		k, err := tx.indexedKey(owner, id)
		if err != nil {
			return nil, err
		}
		if k != nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// giveWay renames expired keys, so that their name is free.
func (tx *Tx) giveWay(expired []*record.Key) error {
	for _, k := range expired {
		err := tx.changeKey(k.Owner, k.ID, func(k *record.Key, at record.Stamp) (bool, error) {
			return true, tx.setName(k, tx.nameWithID(k), at)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shownName returns the name under which callers know a key. If stores that were apart gave its
// name to several keys of the owner, no key is shown under the bare name.
func (tx *Tx) shownName(k *record.Key) (string, error) {
	if !tx.isShared() {
		return k.Name.Value, nil
	}
	others, err := tx.tables().Named(k.Owner, k.Name.Value, k.ID)
	if err != nil || len(others) == 0 {
		return k.Name.Value, recordError(err)
	}
	return tx.nameWithID(k), nil
}

// nameWithID returns the name that an expired key gets when another key takes its name, and under
// which a key is shown if another one has its name. The last digits of an ID are random, and the
// first ones are the time.
func (tx *Tx) nameWithID(k *record.Key) string {
	separator := "~"
	if tx.store.appServicesNames {
		separator = "-"
	}
	suffix := fmt.Sprintf("%s%x", separator, k.ID[12:])
	return names.Cut(k.Name.Value, names.MaxLength-len(suffix)) + suffix
}
