package httpauth

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey/internal/address"
)

// address returns the caller's address by the rule of [Options].TrustedProxies. It returns the zero
// address if the caller's address is not known.
func (a *Auth) address(r *http.Request) netip.Addr {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // which allocates nothing, unlike Parse
	addr := address.Plain(remote.Addr())
	if len(a.opts.TrustedProxies) == 0 {
		return addr
	}
	for _, list := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for more := true; more; {
			if !address.In(a.opts.TrustedProxies, addr) {
				return addr
			}
			var last string
			if i := strings.LastIndexByte(list, ','); i >= 0 {
				list, last = list[:i], list[i+1:]
			} else {
				last, more = list, false
			}
			if addr = address.Parse(strings.TrimSpace(last)); !addr.IsValid() {
				// No proxy writes this, so nothing before it can be believed.
				return addr
			}
		}
	}
	return addr
}

// unmapped returns a copy of networks in which each network of IPv4 addresses that are written as
// IPv6 addresses is a network of IPv4 addresses, because the addresses of callers are IPv4, too.
func unmapped(networks []netip.Prefix) []netip.Prefix {
	networks = slices.Clone(networks)
	for i, n := range networks {
		networks[i], _ = address.PlainNetwork(n)
	}
	return networks
}
