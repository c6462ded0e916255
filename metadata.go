package latchkey

import (
	"context"
	"maps"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The limits of the metadata of a user or a key.
const (
	MaxMetadata     = record.MaxMetadata     // entries
	MaxMetadataSize = record.MaxMetadataSize // bytes of all names and values
)

// checkMetadata returns ErrInvalidMetadata unless metadata can be stored.
func checkMetadata(metadata map[string]string) error {
	return problemError(ErrInvalidMetadata, names.MetadataProblem(metadata, MaxMetadata, MaxMetadataSize))
}

// SetMetadata replaces all metadata of a key of owner. See [KeySpec].Metadata for the rules. If the
// key has the metadata already, nothing changes. When SetMetadata returns nil, the change is on
// disk, and a login that begins afterwards gets the new metadata.
//
// If replicas change the metadata while they are apart, the metadata of one replica win. If a
// restriction must hold, do not put it in the metadata, but disable the key: see
// [Store.DisableKey].
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidMetadata]; or an error of [Store.Update].
func (s *Store) SetMetadata(ctx context.Context, owner, id uuid.UUID, metadata map[string]string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetMetadata(owner, id, metadata) })
	return wrapf(err, "set the metadata of key %s", id)
}

// SetMetadata is [Store.SetMetadata] in a transaction.
func (tx *Tx) SetMetadata(owner, id uuid.UUID, metadata map[string]string) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) {
		return setRegister(&k.Metadata, metadata, maps.Equal(metadata, k.Metadata.Value), at), checkMetadata(metadata)
	})
}

// SetUserMetadata replaces all metadata of a user. See [KeySpec].Metadata for the rules. If the
// user has the metadata already, nothing changes.
//
// It returns [ErrUserNotFound], [ErrInvalidMetadata], or an error of [Store.Update].
func (s *Store) SetUserMetadata(ctx context.Context, user uuid.UUID, metadata map[string]string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetUserMetadata(user, metadata) })
	return wrapf(err, "set the metadata of user %s", user)
}

// SetUserMetadata is [Store.SetUserMetadata] in a transaction.
func (tx *Tx) SetUserMetadata(user uuid.UUID, metadata map[string]string) error {
	_, err := tx.changeUser(user, func(u *record.User, at record.Stamp) (bool, error) {
		return setRegister(&u.Metadata, metadata, maps.Equal(metadata, u.Metadata.Value), at), checkMetadata(metadata)
	})
	return err
}
