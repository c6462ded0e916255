package bench

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Carried compares cached logins of keys that carry something with those of a bare key. The caller
// logs in from the second of two networks, so that both are compared with the address.
var Carried = Group{
	Name:  "carried",
	Title: "What do scopes, metadata, networks and an expiry date add to a cached login?",
	Open: func(e *Env) ([]Case, error) {
		s, err := e.openNew()
		if err != nil {
			return nil, err
		}
		scopes := latchkey.NewScopes("admin", "files:*", "mail:read", "users:list")
		metadata := map[string]string{"room": "4", "shift": "night"}
		networks := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		var cases []Case
		for _, c := range []struct {
			name string
			spec latchkey.KeySpec
			most float64
		}{
			{"bare", latchkey.KeySpec{}, 0},
			{"scopes+metadata", latchkey.KeySpec{Scopes: scopes, Metadata: metadata}, 1.15},
			{"networks=2", latchkey.KeySpec{Scopes: scopes, Metadata: metadata, Networks: networks}, 1.25},
			{"expiry", latchkey.KeySpec{Scopes: scopes, Metadata: metadata, Expires: time.Now().Add(24 * time.Hour)}, 1.4},
		} {
			c.spec.Name = c.name
			_, token, err := s.CreateServerKey(context.Background(), c.spec)
			if err != nil {
				return nil, err
			}
			made := Case{Name: c.name, Body: loginsFrom(s, token, netip.MustParseAddr("2001:db8::7")), NoAllocs: true}
			if c.most > 0 {
				made.Ratios = []Ratio{{To: "bare", Max: c.most}}
			}
			cases = append(cases, made)
		}
		return cases, nil
	},
}

// loginsFrom logs in from an address.
func loginsFrom(s *latchkey.Store, token string, addr netip.Addr) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.LoginFrom(ctx, token, addr); err != nil {
				return err
			}
		}
		return nil
	}
}
