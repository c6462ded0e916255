package appservices

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/latchkeydb/latchkey/internal/address"
)

// remote returns the address that a request came from.
func (h *Handler) remote(r *http.Request) netip.Addr {
	addr := address.Parse(r.RemoteAddr)
	forwarded := strings.Trim(lastForwarded(r, "X-Forwarded-For"), `"`)
	switch {
	case !h.opts.TrustForwarded:
		if (forwarded != "" || r.Header.Get("Forwarded") != "") && (addr.IsLoopback() || addr.IsPrivate()) {
			h.warnOfProxy("a proxy seems to forward the requests, and all its clients count as one address: set TrustForwarded if the proxy sets X-Forwarded-For")
		}
	case address.Parse(forwarded).IsValid():
		addr = address.Parse(forwarded)
	default:
		h.warnOfProxy("the proxy has sent no address in X-Forwarded-For, and its clients without one count as one address")
	}
	return addr
}

// warnOfProxy logs once that many clients count as one address.
func (h *Handler) warnOfProxy(text string) {
	h.warnedOfProxy.Do(func() { h.log.Warn(text) })
}

// lastForwarded returns the value of header that the nearest proxy has added.
func lastForwarded(r *http.Request, header string) string {
	v := strings.Join(r.Header.Values(header), ",")
	return strings.TrimSpace(v[strings.LastIndexByte(v, ',')+1:])
}
