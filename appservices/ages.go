package appservices

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// Strangers can make anonymous users and unconfirmed accounts, so both have an age at which they
// are deleted. Each has a record whose key begins with the time when it was made. Whatever makes a
// user or an account first deletes up to two old ones of each kind, so that there are never many.

// noteAnonymous makes the record of a new anonymous user.
func noteAnonymous(tx *latchkey.Tx, user latchkey.User) error {
	return data(tx).Put(append(agedKey(keyAnonymous, user.Created), user.ID[:]...), nil)
}

// noteUnconfirmed makes the record of a new account that is not confirmed.
func noteUnconfirmed(tx *latchkey.Tx, acc *account) error {
	sum := sha256.Sum256([]byte(acc.Email))
	return data(tx).Put(append(agedKey(keyUnconfirmed, acc.made()), sum[:]...), nil)
}

// agedKey returns the beginning of the key of a record that was made at a time. The records sort by
// time.
func agedKey(prefix []byte, made time.Time) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(prefix), uint64(max(made.Unix(), 0)))
}

// deleteAged deletes some anonymous users and unconfirmed accounts that are old enough, unless the
// clock has jumped lately.
func (a *app) deleteAged(tx *latchkey.Tx) error {
	now := a.store.Now()
	may, seen := a.ages.look(now)
	if seen != nil {
		if err := putJSON(tx, keyClock, seen); err != nil {
			return err
		}
	}
	if !may {
		return nil
	}
	if life := a.h.opts.anonymousLife(); life > 0 {
		old, err := firstAged(tx, keyAnonymous, now.Add(-life))
		if err != nil {
			return err
		}
		for _, key := range old {
			if err := deleteAnonymous(tx, key); err != nil {
				return err
			}
		}
	}
	if life := a.h.opts.unconfirmedLife(); life > 0 {
		old, err := firstAged(tx, keyUnconfirmed, now.Add(-life))
		if err != nil {
			return err
		}
		for _, key := range old {
			if err := deleteUnconfirmed(tx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstAged returns the keys of the first two records that were made before a time.
func firstAged(tx *latchkey.Tx, prefix []byte, before time.Time) (keys [][]byte, err error) {
	for e, err := range data(tx).Scan(prefix, agedKey(prefix, before)) {
		if err != nil {
			return nil, err
		}
		if keys = append(keys, bytes.Clone(e.Key)); len(keys) == 2 {
			break
		}
	}
	return keys, nil
}

// deleteAnonymous deletes the record of an anonymous user. It also deletes the user, unless the
// user has linked another identity.
func deleteAnonymous(tx *latchkey.Tx, key []byte) error {
	id, err := uuid.FromBytes(key[len(agedKey(keyAnonymous, time.Time{})):])
	if err != nil {
		return err
	}
	user, err := tx.User(id)
	if errors.Is(err, latchkey.ErrUserNotFound) {
		return data(tx).Delete(key)
	}
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(user.Identities, func(i latchkey.Identity) bool { return i.Provider != latchkey.ProviderAnonymous })
	if !known {
		if err := deleteRecords(tx, user); err != nil {
			return err
		}
		if err := tx.DeleteUser(id); err != nil {
			return err
		}
	}
	return data(tx).Delete(key)
}

// deleteUnconfirmed deletes the record of an account. It also deletes the account, unless the
// account was confirmed, or is another one of the same address.
func deleteUnconfirmed(tx *latchkey.Tx, key []byte) error {
	made, hash := key[len(keyUnconfirmed):len(keyUnconfirmed)+8], key[len(keyUnconfirmed)+8:]
	name := append(bytes.Clone(keyAccounts), hash...)
	var acc account
	found, err := getJSON(tx, name, &acc)
	if err != nil {
		return err
	}
	if found && !acc.Confirmed && acc.Made == int64(binary.BigEndian.Uint64(made)) {
		if err := data(tx).Delete(name); err != nil {
			return err
		}
	}
	return data(tx).Delete(key)
}

// ageClock decides whether the store's clock can be believed when something is to be deleted for
// its age. After the clock has jumped by more than a day, forwards or backwards, nothing is deleted
// for a day. A jump is a difference between what the store's clock and the system's monotonic clock
// say has passed. While no handler runs, only the store's clock tells, so a pause of more than a
// day counts as a jump.
type ageClock struct {
	mu      sync.Mutex
	seen    time.Time // the store's time at the last look
	looked  time.Time // the system's time at the last look, with the monotonic clock
	hold    time.Time // nothing is deleted before this time of the store
	written time.Time // the store's time in the record
}

// maxJump is the largest jump of the clock that counts as normal, and how long nothing is deleted
// after a larger one.
const maxJump = 24 * time.Hour

// clockRecord is what is kept of an ageClock, in Unix seconds.
type clockRecord struct {
	Seen int64 `json:"seen"`
	Hold int64 `json:"hold"`
}

// startAges starts the app's clock from its record.
func (a *app) startAges(ctx context.Context) error {
	var r *clockRecord
	err := a.store.View(ctx, func(tx *latchkey.Tx) error {
		var stored clockRecord
		found, err := getJSON(tx, keyClock, &stored)
		if found {
			r = &stored
		}
		return err
	})
	if err == nil {
		a.ages.start(a.store.Now(), r)
	}
	return err
}

// start sets the clock from its record, which is nil in a store that has none.
func (c *ageClock) start(now time.Time, r *clockRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.looked = now, time.Now()
	c.hold = now.Add(maxJump)
	if r == nil {
		return
	}
	c.written = time.Unix(r.Seen, 0)
	if jump := now.Sub(c.written); jump.Abs() <= maxJump {
		c.hold = time.Unix(r.Hold, 0)
	}
}

// look looks at the store's time. It reports whether something may be deleted for its age, and
// returns the record if that has to be written.
func (c *ageClock) look(now time.Time) (may bool, r *clockRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	jump := now.Sub(c.seen) - time.Since(c.looked)
	c.seen, c.looked = now, time.Now()
	jumped := jump.Abs() > maxJump
	if jumped {
		c.hold = now.Add(maxJump)
	}
	if jumped || now.Sub(c.written).Abs() >= time.Hour {
		c.written = now
		r = &clockRecord{Seen: now.Unix(), Hold: c.hold.Unix()}
	}
	return !now.Before(c.hold), r
}
