package latchkey_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func prefixes(list string) (all []netip.Prefix) {
	for _, s := range strings.Fields(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestNetworksAreKeptWithoutWhatDoesNotMatter(t *testing.T) {
	s := open(t)
	for name, tt := range map[string]struct{ given, want string }{
		"none":                       {"", ""},
		"as they are":                {"192.0.2.0/24 2001:db8::/32 10.1.2.3/32", "192.0.2.0/24 2001:db8::/32 10.1.2.3/32"},
		"bits behind the prefix":     {"192.0.2.77/24 2001:db8::77/32", "192.0.2.0/24 2001:db8::/32"},
		"IPv4 as IPv6":               {"::ffff:192.0.2.77/120 ::ffff:0.0.0.0/96", "192.0.2.0/24 0.0.0.0/0"},
		"everywhere":                 {"0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"},
		"as many as there can be":    {strings.Repeat("::1/128 ", latchkey.MaxNetworks), strings.Repeat("::1/128 ", latchkey.MaxNetworks)},
		"one more":                   {strings.Repeat("::1/128 ", latchkey.MaxNetworks+1), "refused"},
		"IPv4 addresses, and others": {"::ffff:0:0/95", "refused"},
	} {
		key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name, Networks: prefixes(tt.given)})
		if tt.want == "refused" {
			wantError(t, err, latchkey.ErrInvalidNetwork)
			continue
		}
		must(t, err)
		if want := prefixes(tt.want); !reflect.DeepEqual(key.Networks, want) {
			t.Errorf("%s: got %v, want %v", name, key.Networks, want)
		}
		var want error
		if tt.want != "" {
			want = latchkey.ErrNetworkNotAllowed
		}
		for range 2 { // cold and cached
			wantRefused(t, s, token, want)
		}
	}
	_, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "no network", Networks: make([]netip.Prefix, 1)})
	wantError(t, err, latchkey.ErrInvalidNetwork)
}

func TestAnInvalidScopeIsRefusedBeforeAnythingIsHashed(t *testing.T) {
	s := open(t)
	spec := latchkey.KeySpec{Name: "laptop", Scopes: latchkey.NewScopes("files:read", "with a blank")}
	wantNoChange(t, s, func() {
		_, _, err := s.CreateServerKey(t.Context(), spec)
		wantError(t, err, latchkey.ErrInvalidScope)
	})
	if st, err := s.Stats(t.Context()); err != nil || st.Hashes != 0 {
		t.Errorf("argon2 ran %d times, %v, want never", st.Hashes, err)
	}
}
