package latchkey

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/latchkeydb/latchkey/internal/record"
)

// MaxNetworks is how many networks a key can have.
const MaxNetworks = record.MaxNetworks

// normalNetworks returns networks as a key keeps them. The address of a network is its first one,
// without a zone. IPv4 addresses that are written as IPv6 addresses become IPv4 addresses.
//
// It returns ErrInvalidNetwork.
func normalNetworks(networks []netip.Prefix) ([]netip.Prefix, error) {
	if len(networks) > MaxNetworks {
		return nil, fmt.Errorf("%w: %d networks are more than %d", ErrInvalidNetwork, len(networks), MaxNetworks)
	}
	var normal []netip.Prefix
	for i, n := range networks {
		if !n.IsValid() {
			return nil, fmt.Errorf("%w: network %d is none", ErrInvalidNetwork, i)
		}
		if addr := n.Addr(); addr.Is4In6() {
			// The first 96 bits say that it is an IPv4 address.
			if n.Bits() < 96 {
				return nil, fmt.Errorf("%w: %s has IPv4 addresses and others", ErrInvalidNetwork, n)
			}
			n = netip.PrefixFrom(addr.Unmap(), n.Bits()-96)
		}
		normal = append(normal, n.Masked())
	}
	return normal, nil
}

// LoginFrom is [Store.Login] for a caller with an address. If the key has a list of networks, and
// the address is in none of them, LoginFrom returns [ErrNetworkNotAllowed].
//
// The address decides nothing yet, and a key with networks is refused.
func (s *Store) LoginFrom(ctx context.Context, token string, addr netip.Addr) (Principal, error) {
	return s.Login(ctx, token)
}
