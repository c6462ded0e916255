package appservices

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// failures bounds how often logins from one address may fail. It remembers the addresses whose logins failed last: at
// most two generations of them, of which the older is forgotten when the younger is full.
type failures struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu           sync.Mutex
	young, older map[netip.Prefix]*rate.Limiter
	underWay     map[netip.Prefix]int // logins of which it is not known yet whether they fail
}

// maxAddresses in each generation take some 2 MiB together.
const maxAddresses = 8192

// begin lets a login from an address begin, unless it would be one too many if it failed, and all that are under way with
// it. So no more are tried at once than may fail. If it returns true, end must be called.
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

// end ends what begin has begun, after count if the login has failed.
func (f *failures) end(addr netip.Addr) {
	from := network(addr)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.underWay[from]--; f.underWay[from] == 0 {
		delete(f.underWay, from)
	}
}

// count takes note of a failed login, and reports whether it was one too many.
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

// remote is the address that a request came from.
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
	return addr.Unmap().WithZone("") // a zone can be any text
}

// network is what failures are counted by: a host has a whole IPv6 network of 64 bits to choose addresses from.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// lastForwarded is what the nearest proxy says.
func lastForwarded(r *http.Request, header string) string {
	v := strings.Join(r.Header.Values(header), ",")
	return strings.TrimSpace(v[strings.LastIndexByte(v, ',')+1:])
}
