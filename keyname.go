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
	expired, err := tx.checkNameFree(k.Owner, name)
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
	if err := tx.delete(tableNames, record.NameKey(k.Owner, k.Name.Value, k.ID)); err != nil {
		return err
	}
	k.Name = record.Register[string]{Value: name, Stamp: at}
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

// checkNameFree returns ErrKeyNameTaken if another key of owner has a name, and does not make way.
// If an expired key has the name, checkNameFree returns its record, for giveWay.
func (tx *Tx) checkNameFree(owner uuid.UUID, name string) (expired *record.Key, err error) {
	k, err := tx.keyNamed(owner, name)
	if err != nil || k == nil {
		return nil, err
	}
	if !k.ExpiredAt(tx.now()) {
		return nil, nameTaken(name)
	}
	other, err := tx.keyNamed(owner, tx.nameOfExpired(k))
	if err == nil && other != nil {
		err = fmt.Errorf("%w by an expired key, which cannot make way because %s is taken, too", nameTaken(name), names.Quote(tx.nameOfExpired(k)))
	}
	return k, err
}

func nameTaken(name string) error { return fmt.Errorf("%w: %s", ErrKeyNameTaken, names.Quote(name)) }

// keyNamed returns the record of owner's key with a name, or nil if there is none.
func (tx *Tx) keyNamed(owner uuid.UUID, name string) (*record.Key, error) {
	low := record.NameKey(owner, name, uuid.Nil)
	for e, err := range tx.etx.Scan(tableNames, low, append(record.NameKey(owner, name, uuid.Max), 0)) {
		if err != nil {
			return nil, err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			return nil, recordError(err)
		}
		return tx.indexedKey(owner, id)
	}
	return nil, nil
}

// giveWay renames an expired key, so that its name is free. A nil k means that the name is free
// already.
func (tx *Tx) giveWay(k *record.Key) error {
	if k == nil {
		return nil
	}
	return tx.changeKey(k.Owner, k.ID, func(k *record.Key, at record.Stamp) (bool, error) {
		return true, tx.setName(k, tx.nameOfExpired(k), at)
	})
}

// nameOfExpired returns the name that an expired key gets when another key takes its name. The last
// digits of an ID are random, and the first ones are the time.
func (tx *Tx) nameOfExpired(k *record.Key) string {
	separator := "~"
	if tx.store.appServicesNames {
		separator = "-"
	}
	suffix := fmt.Sprintf("%s%x", separator, k.ID[12:])
	return names.Cut(k.Name.Value, names.MaxLength-len(suffix)) + suffix
}
