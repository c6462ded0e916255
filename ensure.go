package latchkey

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/mint"
	"github.com/latchkeydb/latchkey/internal/record"
)

// This file has keys that come from a configuration: the calls that bring a key in line with its
// entry, and that make an entry of a key.

// ExportKey returns an existing key as a [MintedKey], for another store of the domain. The
// MintedKey has the verifier of the newest good token. If that token was made elsewhere, any store
// can insert the MintedKey. Besides a backup, [MintedKey.Export] of this MintedKey is the only way
// to take a stored verifier out of a store.
//
// It returns [ErrKeyNotFound]; [ErrInvalidRotation] if no token of the key is good; or an error of
// [Store.View].
func (s *Store) ExportKey(ctx context.Context, id uuid.UUID) (MintedKey, error) {
	m, err := read(ctx, s, func(tx *Tx) (MintedKey, error) { return tx.ExportKey(id) })
	return m, wrapf(err, "export key %s", id)
}

// ExportKey is [Store.ExportKey] in a transaction.
func (tx *Tx) ExportKey(id uuid.UUID) (MintedKey, error) {
	k, err := tx.getKey(id)
	if err != nil {
		return MintedKey{}, err
	}
	if k == nil {
		return MintedKey{}, ErrKeyNotFound
	}
	v, err := tx.currentVerifier(k)
	if err == nil && tx.checkTag(v) != nil {
		err = fmt.Errorf("%w: the tag secret of the token is retired", ErrInvalidRotation)
	}
	if err != nil {
		return MintedKey{}, err
	}
	if v.Handle != (record.Handle{}) {
		return MintForeign(ForeignHandle(v.Handle), v.PHC, k.Created), nil
	}
	m := mint.Key{ID: id, Domain: tx.store.domain.ID, Created: k.Created, Verifier: record.Verifier{ID: v.ID, PHC: v.PHC, Tag: v.Tag}}
	return MintedKey{conceal(m)}, nil
}

// EnsureKey inserts a minted key as a key of user, unless the store has the key already. Then it
// gives the key the name, expiry date, scopes, networks and metadata in n. It returns the key, and
// reports whether anything has changed. So a program can call EnsureKey at each start, with what
// its configuration says.
//
// A key that was disabled stays disabled. A key that was rotated keeps its new token. A key that
// has expired, and does not get a later date, keeps its name, because it may have made way.
//
// It returns [ErrKeyDeleted] if the key was deleted; [ErrInvalidMintedKey] if minted is empty or of
// another domain, if the store does not accept its tag secret, or if the key has another owner or
// was made with another secret; [ErrNotPermitted] as [Store.SetScopes] does; or the errors of
// [Store.CreateKey] except [ErrBusy].
func (s *Store) EnsureKey(ctx context.Context, user uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		key, changed, err = tx.EnsureKey(user, n, minted)
		return err
	})
	key, err = orZero(key, wrapf(err, "ensure key %s of %s", minted.ID(), ownerText(user)))
	return key, changed && err == nil, err
}

// EnsureKey is [Store.EnsureKey] in a transaction.
func (tx *Tx) EnsureKey(user uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	if user == ServerOwner {
		return Key{}, false, ErrUserNotFound
	}
	return tx.ensureKey(user, n, minted)
}

// EnsureServerKey is [Store.EnsureKey] for a server key. It also sets the group of the key.
//
// It returns the errors of [Store.EnsureKey] that are not about users.
func (s *Store) EnsureServerKey(ctx context.Context, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		key, changed, err = tx.EnsureServerKey(n, minted)
		return err
	})
	key, err = orZero(key, wrapf(err, "ensure server key %s", minted.ID()))
	return key, changed && err == nil, err
}

// EnsureServerKey is [Store.EnsureServerKey] in a transaction.
func (tx *Tx) EnsureServerKey(n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	return tx.ensureKey(ServerOwner, n, minted)
}

func (tx *Tx) ensureKey(owner uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	var m mint.Key
	if minted.m != nil {
		m = minted.m()
	}
	if !m.IsFor(tx.store.domain.ID) {
		why := "it is empty, or its verifier is too long"
		if m.Domain != uuid.Nil {
			why = fmt.Sprintf("it is of domain %s, and the store is of domain %s", m.Domain, tx.store.domain.ID)
		}
		return Key{}, false, fmt.Errorf("%w: %s", ErrInvalidMintedKey, why)
	}
	k, err := tx.getKey(m.ID)
	if err != nil {
		return Key{}, false, err
	}
	if k == nil {
		deleted, err := tx.has(tableDeadKeys, m.ID[:])
		if err == nil && deleted {
			err = ErrKeyDeleted
		}
		if err == nil {
			m.Outside = true
			key, err = tx.insertKey(owner, n, MintedKey{conceal(m)})
		}
		return key, err == nil, err
	}
	if k.Owner != owner {
		return Key{}, false, fmt.Errorf("%w: the key has another owner", ErrInvalidMintedKey)
	}
	for _, v := range k.Verifiers.All {
		// The first verifier may be gone since a rotation.
		if v.Generation == 0 && (v.ID != m.Verifier.ID || !v.Retired && v.PHC != m.Verifier.PHC) {
			return Key{}, false, fmt.Errorf("%w: the key was made with another secret", ErrInvalidMintedKey)
		}
	}
	if err := checkSpec(owner, n); err != nil {
		return Key{}, false, err
	}
	err = tx.changeKey(owner, m.ID, func(k *record.Key, at record.Stamp) (_ bool, err error) {
		set := func(c bool, e error) { changed, err = changed || c, cmp.Or(err, e) }
		set(tx.setExpiry(k, n.Expires, at))
		if err == nil && !k.ExpiredAt(tx.now()) {
			set(tx.rename(k, n.Name, at))
		}
		networks, e := normalNetworks(n.Networks)
		set(setRegister(&k.Networks, networks, slices.Equal(networks, k.Networks.Value), at), e)
		set(false, tx.checkReserved(k.Scopes.Value, n.Scopes.All()))
		set(setRegister(&k.Scopes, n.Scopes.All(), slices.Equal(n.Scopes.All(), k.Scopes.Value), at), nil)
		set(setRegister(&k.Metadata, record.Metadata(n.Metadata), maps.Equal(n.Metadata, k.Metadata.Value), at), nil)
		if err == nil {
			set(tx.setGroup(&k.Groups, k.ID, n.Group, at))
		}
		return changed, err
	})
	if err == nil {
		key, err = tx.KeyByID(m.ID)
	}
	if err != nil {
		return Key{}, false, err
	}
	return key, changed, nil
}
