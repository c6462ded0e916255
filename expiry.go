package latchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// SetExpiry changes when a key of owner stops logging in. The date is rounded down to the second.
// The zero time means never. If the key has the date already, nothing changes. When SetExpiry
// returns nil, the change is on disk, and a login that begins afterwards is judged by the new date.
//
// A key that has expired logs in again if it gets a later date. If another key took its name
// meanwhile, the key keeps the name that it got then: see [KeySpec].Name.
//
// If replicas change the date while they are apart, one of the dates wins, and it may be the later
// one. If the end must hold, disable the key: see [Store.DisableKey].
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidExpiry]; [ErrTooManyKeys] if the key has expired, and its user has as many other keys
// as the user may have; or an error of [Store.Update].
func (s *Store) SetExpiry(ctx context.Context, owner, id uuid.UUID, expires time.Time) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetExpiry(owner, id, expires) })
	return wrapf(err, "set the expiry date of key %s", id)
}

// SetExpiry is [Store.SetExpiry] in a transaction.
func (tx *Tx) SetExpiry(owner, id uuid.UUID, expires time.Time) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) { return tx.setExpiry(k, expires, at) })
}

// setExpiry gives a key an expiry date, and reports whether the key had another one.
func (tx *Tx) setExpiry(k *record.Key, expires time.Time, at record.Stamp) (changed bool, err error) {
	e, err := tx.newExpiry(expires)
	if e.Equal(k.Expires.Value) && e.IsZero() == expires.IsZero() {
		return false, nil // also if the date has passed
	}
	if err == nil && k.ExpiredAt(tx.now()) {
		err = tx.revive(k.Owner)
	}
	return setRegister(&k.Expires, e, false, at), err
}

// newExpiry returns an expiry date as the store keeps it. Beside the date, it returns
// ErrInvalidExpiry if no key can get the date now.
func (tx *Tx) newExpiry(t time.Time) (e time.Time, err error) {
	if t.IsZero() {
		return time.Time{}, nil
	}
	e = t.UTC().Truncate(time.Second)
	switch {
	case !e.After(tx.now()):
		err = fmt.Errorf("%w: %s has passed", ErrInvalidExpiry, e.Format(time.RFC3339))
	case e.After(record.LastTime):
		err = fmt.Errorf("%w: the year %d cannot be written in RFC 3339", ErrInvalidExpiry, e.Year())
	}
	return e, err
}

// revive counts an expired key of owner among the keys that have not expired, or returns
// ErrTooManyKeys.
func (tx *Tx) revive(owner uuid.UUID) error {
	if owner == ServerOwner {
		return nil
	}
	if err := tx.checkLimit(owner, 0); err != nil {
		return err
	}
	tx.keyCounts.Revived(owner)
	return nil
}
