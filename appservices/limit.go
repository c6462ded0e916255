package appservices

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// failures bounds how many logins from one address may fail. It remembers the addresses that failed
// last, in two generations. When the younger generation is full, the older one is forgotten.
type failures struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu           sync.Mutex
	young, older map[netip.Prefix]*rate.Limiter
	underWay     map[netip.Prefix]int // logins in progress
}

// maxAddresses bounds each of the two generations, which take about 2 MiB together.
const maxAddresses = 8192

// begin reports whether a login from addr may begin. A login in progress counts as failed, so that
// no more logins run at once than may fail. If begin returns true, the caller must call end.
func (f *failures) begin(addr netip.Addr) bool {
	from := network(addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	left := float64(f.burst)
	if l := f.findLocked(from); l != nil {
		left = l.TokensAt(f.now())
	}
	if f.limit != rate.Inf && left < float64(f.underWay[from]+1) {
		return false
	}
	if f.underWay == nil {
		f.underWay = make(map[netip.Prefix]int)
	}
	f.underWay[from]++
	return true
}

// end ends a login for which begin returned true. If the login failed, the caller must call count
// before end.
func (f *failures) end(addr netip.Addr) {
	from := network(addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.underWay[from]--; f.underWay[from] == 0 {
		delete(f.underWay, from)
	}
}

// count counts a failed login, and reports whether it exceeds the limit.
func (f *failures) count(addr netip.Addr) (tooMany bool) {
	from := network(addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.findLocked(from)
	if l == nil {
		l = rate.NewLimiter(f.limit, f.burst)
	}
	if f.young[from] == nil {
		if f.young == nil || len(f.young) >= maxAddresses {
			f.young, f.older = make(map[netip.Prefix]*rate.Limiter), f.young
		}
		f.young[from] = l
	}
	return !l.AllowN(f.now(), 1)
}

func (f *failures) findLocked(from netip.Prefix) *rate.Limiter {
	if l := f.young[from]; l != nil {
		return l
	}
	return f.older[from]
}

// remote returns the address that a request came from.
func (h *Handler) remote(r *http.Request) netip.Addr {
	var addr netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = ap.Addr()
	}
	if h.opts.TrustForwarded {
		if forwarded, err := netip.ParseAddr(lastForwarded(r, "X-Forwarded-For")); err == nil {
			addr = forwarded
		}
	}
	return addr.Unmap().WithZone("") // a zone could be any text
}

// network returns the network by which failures are counted. For IPv6 this is a network of 64 bits,
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
