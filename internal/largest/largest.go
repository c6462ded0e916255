// Package largest makes the largest things that a store takes. Only tests import it.
package largest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// Actor returns an actor that takes six times its length in JSON.
func Actor() string { return strings.Repeat("\x01", latchkey.MaxActor) }

// KeySpec returns the spec of the server key whose change is the largest in JSON, which escapes <
// and &.
func KeySpec() latchkey.KeySpec {
	long := strings.Repeat("<", 120)
	spec := latchkey.KeySpec{Name: long + long, Group: long}
	var scopes []string
	for i := range latchkey.MaxScopes {
		scopes = append(scopes, fmt.Sprint(long, "&", 100_000+i))
	}
	spec.Scopes = latchkey.NewScopes(scopes...)
	for i := range latchkey.MaxNetworks {
		spec.Networks = append(spec.Networks, netip.MustParsePrefix(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:66%02x/128", i)))
	}
	return spec
}
