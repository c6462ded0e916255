package appservices

import (
	"net/http"
	"net/netip"
	"strings"
)

// remote returns the address that a request came from.
func (h *Handler) remote(r *http.Request) netip.Addr {
	addr := parseAddress(r.RemoteAddr)
	forwarded := lastForwarded(r, "X-Forwarded-For")
	switch {
	case !h.opts.TrustForwarded:
		if (forwarded != "" || r.Header.Get("Forwarded") != "") && (addr.IsLoopback() || addr.IsPrivate()) {
			h.warnOfProxy("a proxy seems to forward the requests, and all its clients count as one address: set TrustForwarded if the proxy sets X-Forwarded-For")
		}
	case parseAddress(forwarded).IsValid():
		addr = parseAddress(forwarded)
	default:
		h.warnOfProxy("the proxy has sent no address in X-Forwarded-For, and its clients without one count as one address")
	}
	return addr
}

// warnOfProxy logs once that many clients count as one address.
func (h *Handler) warnOfProxy(text string) {
	h.warnedOfProxy.Do(func() { h.log.Warn(text) })
}

// parseAddress returns the address in s, which may have a port, brackets, quotes, or a zone. It
// returns the zero address if there is none.
func parseAddress(s string) netip.Addr {
	s = strings.Trim(s, `"`)
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		var withPort netip.AddrPort
		if withPort, err = netip.ParseAddrPort(s); err != nil {
			return netip.Addr{}
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("") // a zone could be any text
}

// network returns the network that counts as one address. For IPv6 this is a network of 64 bits,
// because a single host can use all of its addresses.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// lastForwarded returns the value of header that the nearest proxy has added.
func lastForwarded(r *http.Request, header string) string {
	v := strings.Join(r.Header.Values(header), ",")
	return strings.TrimSpace(v[strings.LastIndexByte(v, ',')+1:])
}
