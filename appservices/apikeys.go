package appservices

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A keyReply has exactly these fields, because the test suites of SDKs compare whole replies.
type keyReply struct {
	ID       string `json:"_id"`
	Key      string `json:"key,omitempty"` // the token, only when the key is made
	Name     string `json:"name"`
	Disabled bool   `json:"disabled"`
}

func newKeyReply(k latchkey.Key, token string) keyReply {
	return keyReply{ID: KeyObjectID(k), Key: token, Name: k.Name, Disabled: k.Disabled}
}

// keyOwner returns the user whose keys a request is about, if the session may manage keys.
func (c *call) keyOwner() (uuid.UUID, error) {
	_, owner, err := c.keySession()
	return owner, err
}

// keySession does what keyOwner does, and also returns the session.
func (c *call) keySession() (*session, uuid.UUID, error) {
	s, p, err := c.authenticate(refreshToken)
	switch {
	case err != nil:
		return nil, uuid.Nil, err
	case p.server != nil:
		return nil, uuid.Nil, because(errMayNotManageKeys, "a server key opened the session")
	case s.identity.Provider == latchkey.ProviderAPIKey && !c.h.opts.AllowKeySessions:
		return nil, uuid.Nil, because(errMayNotManageKeys, "a user key opened the session")
	case !slices.ContainsFunc(p.user.Identities, func(i latchkey.Identity) bool { return i.Provider != latchkey.ProviderAnonymous }):
		return nil, uuid.Nil, because(errMayNotManageKeys, "the user is anonymous, and has linked no other identity")
	}
	return s, p.user.ID, nil
}

const maxKeyName = 256

// checkKeyName returns an error unless a key can have this name. A store can allow more names.
func checkKeyName(name string) error {
	switch {
	case len(name) > maxKeyName && latchkey.CheckAppServicesName(name[:maxKeyName]) == nil:
		return errKeyNameLong
	case latchkey.CheckAppServicesName(name) != nil:
		return errKeyName
	}
	return nil
}

// keysEnabled returns an error if the provider api-key is off. Then keys can be neither made nor
// enabled. They can still be listed, disabled and deleted, because a user must always be able to
// revoke a key.
func (c *call) keysEnabled() error {
	if c.h.enabled(latchkey.ProviderAPIKey) != nil {
		return errKeysOff
	}
	return nil
}

func (c *call) createKey() (reply, error) {
	s, owner, err := c.keySession()
	if err == nil {
		err = c.keysEnabled()
	}
	if err != nil {
		return reply{}, err
	}
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	name, ok := d.text("name")
	if !ok || name == "" {
		return reply{}, errKeyNameAbsent
	}
	if err := checkKeyName(name); err != nil {
		return reply{}, err
	}
	if err := c.countWrite("new keys"); err != nil {
		return reply{}, err
	}
	var key latchkey.Key
	var token string
	err = c.inLine(hashKey, func() (err error) {
		key, token, err = c.app.store.CreateKey(c.ctx(), owner, latchkey.KeySpec{Name: name})
		return err
	})
	switch {
	case errors.Is(err, latchkey.ErrTooManyKeys):
		return reply{}, c.keyLimitReached(owner)
	case err != nil:
		return reply{}, err
	}
	// The request may have waited long. If the session has ended meanwhile, nobody gets the token.
	if _, err := c.holder(s, refreshToken, true); err != nil {
		if failure := c.app.store.DeleteKey(context.WithoutCancel(c.ctx()), owner, key.ID); failure != nil {
			c.h.log.WarnContext(c.ctx(), "a key whose token nobody got was not deleted", "error", failure, "request_id", c.requestID)
		}
		return reply{}, err
	}
	return reply{http.StatusCreated, newKeyReply(key, token)}, nil
}

// keyLimitReached returns errKeyLimit for a user who can have no more keys. The number of the
// user's keys that count is the limit, or more if the limit was lowered.
func (c *call) keyLimitReached(owner uuid.UUID) error {
	keys, err := c.app.store.Keys(c.ctx(), owner)
	if err != nil {
		return err
	}
	now := c.app.store.Now()
	counted := slices.DeleteFunc(keys, func(k latchkey.Key) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) })
	return errKeyLimit(len(counted))
}

func (c *call) listKeys() (reply, error) {
	owner, err := c.keyOwner()
	if err != nil {
		return reply{}, err
	}
	keys, err := c.app.store.Keys(c.ctx(), owner)
	list := make([]keyReply, len(keys)) // an empty list is [] and not null
	for i, k := range keys {
		list[i] = newKeyReply(k, "")
	}
	return reply{http.StatusOK, list}, err
}

// key returns the key that the path names, if it belongs to the session's user. The digits of the
// ID can be upper case, because an ObjectId is a number.
func (c *call) key() (latchkey.Key, error) {
	owner, err := c.keyOwner()
	if err != nil {
		return latchkey.Key{}, err
	}
	keys, err := c.app.store.Keys(c.ctx(), owner)
	if err != nil {
		return latchkey.Key{}, err
	}
	id := strings.ToLower(c.params[0])
	for _, k := range keys {
		if KeyObjectID(k) == id {
			return k, nil
		}
	}
	return latchkey.Key{}, because(errKeyNotFound, "the user has no key with this ID")
}

// nameNoKey answers a call that has an empty key ID.
func (c *call) nameNoKey() (reply, error) {
	if _, err := c.keyOwner(); err != nil {
		return reply{}, err
	}
	return reply{}, because(errKeyNotFound, "the path has no ID")
}

func (c *call) fetchKey() (reply, error) {
	key, err := c.key()
	return reply{http.StatusOK, newKeyReply(key, "")}, err
}

func (c *call) enableKey() (reply, error) {
	key, err := c.key()
	if err == nil {
		err = c.keysEnabled()
	}
	if err != nil {
		return reply{}, err
	}
	return noContent, c.app.store.EnableKey(c.ctx(), key.Owner, key.ID)
}

func (c *call) disableKey() (reply, error) {
	key, err := c.key()
	if err != nil {
		return reply{}, err
	}
	return noContent, c.app.store.DisableKey(c.ctx(), key.Owner, key.ID)
}

func (c *call) deleteKey() (reply, error) {
	key, err := c.key()
	if err != nil {
		return reply{}, err
	}
	err = c.delete(func(tx *latchkey.Tx) error { return data(tx).Delete(usedKey(key.ID)) },
		func(tx *latchkey.Tx) error { return tx.DeleteKey(key.Owner, key.ID) },
		func() error { return c.app.store.DeleteKey(c.ctx(), key.Owner, key.ID) })
	return noContent, err
}

// delete deletes this package's records and then a user or a key, in one transaction. If the engine
// is full, or bounds its transactions, delete does the two one after the other. whole is the
// deletion of the store, which works all the same.
func (c *call) delete(records, from func(*latchkey.Tx) error, whole func() error) error {
	err := c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if err := records(tx); err != nil {
			return err
		}
		return from(tx)
	})
	if !errors.Is(err, latchkey.ErrNoSpace) && !errors.Is(err, latchkey.ErrTransactionTooLarge) {
		return err
	}
	if err := c.app.store.Update(c.ctx(), records); err != nil {
		return err
	}
	return whole()
}
