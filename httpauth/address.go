package httpauth

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// address returns the caller's address by the rule of [Options].TrustedProxies. It returns the zero
// address if the caller's address is not known.
func (a *Auth) address(r *http.Request) netip.Addr {
	var addr netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = clean(ap.Addr())
	}
	if len(a.opts.TrustedProxies) == 0 {
		return addr
	}
	for _, list := range slices.Backward(r.Header["X-Forwarded-For"]) {
		for more := true; more; {
			if !a.trusted(addr) {
				return addr
			}
			var last string
			if i := strings.LastIndexByte(list, ','); i >= 0 {
				list, last = list[:i], list[i+1:]
			} else {
				last, more = list, false
			}
			next, ok := forwardedAddress(strings.TrimSpace(last))
			if !ok {
				// No proxy writes this, so nothing before it can be believed.
				return netip.Addr{}
			}
			addr = next
		}
	}
	return addr
}

// forwardedAddress parses an address that a proxy wrote, with or without a port. It reports whether
// s is one.
func forwardedAddress(s string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return clean(addr), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return clean(ap.Addr()), true
	}
	return netip.Addr{}, false
}

// clean returns an address in the form in which two addresses of one caller are equal.
func clean(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// trusted reports whether an address is one of a trusted proxy.
func (a *Auth) trusted(addr netip.Addr) bool {
	for _, p := range a.opts.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// unmapped returns a copy of networks in which each network of IPv4 addresses that are written as
// IPv6 addresses is a network of IPv4 addresses, because the addresses of callers are IPv4, too.
func unmapped(networks []netip.Prefix) []netip.Prefix {
	networks = slices.Clone(networks)
	for i, n := range networks {
		if n.Addr().Is4In6() && n.Bits() >= 96 {
			networks[i] = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
		}
	}
	return networks
}
