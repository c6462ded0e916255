package latchkey

import (
	"context"
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/address"
	"github.com/latchkeydb/latchkey/internal/record"
)

// MaxNetworks is how many networks a key can have.
const MaxNetworks = record.MaxNetworks

// normalNetworks returns networks as a key keeps them.
//
// It returns ErrInvalidNetwork.
func normalNetworks(networks []netip.Prefix) ([]netip.Prefix, error) {
	normal, problem := address.Normal(networks, MaxNetworks)
	return normal, problemError(ErrInvalidNetwork, problem)
}

// SetNetworks changes where a key of owner may be used from. See [KeySpec].Networks for the rules.
// Without networks the key may be used from everywhere. If the key has the networks already,
// nothing changes. When SetNetworks returns nil, the change is on disk, and a login that begins
// afterwards is judged by the new networks.
//
// If replicas change the networks while they are apart, the networks of one replica win. If a
// restriction must hold, disable the key: see [Store.DisableKey].
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it;
// [ErrInvalidNetwork]; or an error of [Store.Update].
func (s *Store) SetNetworks(ctx context.Context, owner, id uuid.UUID, networks []netip.Prefix) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetNetworks(owner, id, networks) })
	return wrapf(err, "set the networks of key %s", id)
}

// SetNetworks is [Store.SetNetworks] in a transaction.
func (tx *Tx) SetNetworks(owner, id uuid.UUID, networks []netip.Prefix) error {
	return tx.changeKey(owner, id, func(k *record.Key, at record.Stamp) (bool, error) {
		normal, err := normalNetworks(networks)
		return setRegister(&k.Networks, normal, slices.Equal(normal, k.Networks.Value), at), err
	})
}

// LoginFrom is [Store.Login] for a caller with an address. If the key has networks, and addr is in
// none of them, LoginFrom returns [ErrNetworkNotAllowed]. The zero addr is in no network. An IPv4
// address that is written as an IPv6 address counts as an IPv4 address. The zone of an address is
// ignored.
//
// The address must be the caller's own. Behind a proxy, the address of the connection is the
// address of the proxy. A header such as X-Forwarded-For has whatever the caller wrote, unless the
// proxy sets the header.
//
// It returns the errors of [Store.Login].
func (s *Store) LoginFrom(ctx context.Context, token string, addr netip.Addr) (Principal, error) {
	return s.login(ctx, token, addr)
}
