// Package address has the form in which the addresses of callers are compared and counted.
package address

import (
	"net/netip"
	"strings"
)

// Plain returns an address in the form in which two addresses of one caller are equal. An IPv4
// address that is written as an IPv6 address becomes an IPv4 address. The zone goes, because it
// could be any text.
func Plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// Parse returns the plain address in s, which may have a port and brackets. It returns the zero
// address if there is none.
func Parse(s string) netip.Addr {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return Plain(addr)
	}
	withPort, _ := netip.ParseAddrPort(s)
	return Plain(withPort.Addr())
}

// Counted returns the network that counts as one address. For IPv6 this is a network of 64 bits,
// because a single host can use all of its addresses.
func Counted(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// In reports whether an address is in one of networks. A plain address is in no network of IPv4
// addresses that are written as IPv6 addresses.
func In(networks []netip.Prefix, addr netip.Addr) bool {
	addr = Plain(addr) // a Prefix has no address with a zone
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// PlainNetwork returns a network of plain addresses. It reports false, and returns n, if n has IPv4
// addresses that are written as IPv6 addresses, and others.
func PlainNetwork(n netip.Prefix) (plain netip.Prefix, ok bool) {
	if !n.Addr().Is4In6() {
		return n, true
	}
	if n.Bits() < 96 { // the first 96 bits say that it is an IPv4 address
		return n, false
	}
	return netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96), true
}
