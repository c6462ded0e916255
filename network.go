package latchkey

import (
	"context"
	"net/netip"
)

// LoginFrom is [Store.Login] for a caller with an address. If the key has a list of networks, and
// the address is in none of them, LoginFrom returns [ErrNetworkNotAllowed].
//
// Networks cannot be stored yet, so the address decides nothing.
func (s *Store) LoginFrom(ctx context.Context, token string, addr netip.Addr) (Principal, error) {
	return s.Login(ctx, token)
}
