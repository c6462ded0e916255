package address

import (
	"fmt"
	"net/netip"
)

// Normal returns networks as a key keeps them, at most some number. The address of a network is its
// first one, without a zone. IPv4 addresses that are written as IPv6 addresses become IPv4
// addresses. If the networks cannot be kept, Normal says why.
func Normal(networks []netip.Prefix, most int) (normal []netip.Prefix, problem string) {
	if len(networks) > most {
		return nil, fmt.Sprintf("%d networks are more than %d", len(networks), most)
	}
	for i, n := range networks {
		if !n.IsValid() {
			return nil, fmt.Sprintf("network %d is none", i)
		}
		n, ok := PlainNetwork(n)
		if !ok {
			return nil, fmt.Sprintf("%s has IPv4 addresses and others", n)
		}
		normal = append(normal, n.Masked())
	}
	return normal, ""
}
