package latchkey_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
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

func TestAKeyWithNetworksLogsInFromTheseOnly(t *testing.T) {
	for _, tt := range []struct {
		networks string
		in, out  string // addresses
	}{
		{"192.0.2.0/24", "192.0.2.0 192.0.2.255 ::ffff:192.0.2.1 ::ffff:192.0.2.1%eth0", "192.0.3.0 192.0.1.255 2001:db8::1 ::192.0.2.1"},
		{"192.0.2.77/24", "192.0.2.1", "192.0.3.77"},
		{"192.0.2.7/32", "192.0.2.7", "192.0.2.6"},
		{"2001:db8::/32", "2001:db8::1 2001:db8:ffff::1%eth0", "2001:db9:: fe80::1 192.0.2.1"},
		{"fe80::/10", "fe80::1%eth0 fe80::1", "::1"},
		{"192.0.2.0/24 198.51.100.0/24 2001:db8::/32", "192.0.2.1 198.51.100.1 2001:db8::1", "203.0.113.1 2001:db9::1"},
		{"::ffff:192.0.2.0/120", "192.0.2.1 ::ffff:192.0.2.1", "192.0.3.1"},
		{"0.0.0.0/0", "192.0.2.1 ::ffff:192.0.2.1", "::1 2001:db8::1"},
		{"::ffff:0.0.0.0/96", "192.0.2.1", "::1"},
		{"::/0", "::1 2001:db8::1%eth0", "192.0.2.1 ::ffff:192.0.2.1"},
		{"", "192.0.2.1 2001:db8::1%eth0", ""},
	} {
		t.Run(tt.networks, func(t *testing.T) {
			s := open(t)
			networks := prefixes(tt.networks)
			made, madeToken, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "made", Networks: networks})
			must(t, err)
			set, setToken := addKey(t, s, addUser(t, s, "ada"), "set")
			must(t, s.SetNetworks(t.Context(), set.Owner, set.ID, networks))
			for token, key := range map[string]latchkey.Key{madeToken: made, setToken: set} {
				for cached := range 2 { // the first one is cold
					for _, text := range strings.Fields(tt.in) {
						if who, err := s.LoginFrom(t.Context(), token, netip.MustParseAddr(text)); err != nil || who.KeyID != key.ID {
							t.Errorf("%d from %s: got key %s, %v, want %s", cached, text, who.KeyID, err, key.ID)
						}
					}
					for _, text := range strings.Fields(tt.out) {
						if who, err := s.LoginFrom(t.Context(), token, netip.MustParseAddr(text)); !errors.Is(err, latchkey.ErrNetworkNotAllowed) || who != (latchkey.Principal{}) {
							t.Errorf("%d from %s: got %+v, %v, want %v", cached, text, who, err, latchkey.ErrNetworkNotAllowed)
						}
					}
				}
			}
		})
	}
}

func TestAKeyWithNetworksDoesNotLogInFromAnUnknownAddress(t *testing.T) {
	s := open(t)
	_, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "job", Networks: prefixes("0.0.0.0/0 ::/0")})
	must(t, err)
	for range 2 {
		wantRefused(t, s, token, latchkey.ErrNetworkNotAllowed)
		_, err = s.LoginFrom(t.Context(), token, netip.Addr{})
		wantError(t, err, latchkey.ErrNetworkNotAllowed)
	}
	// Only a holder of the secret learns that the key has networks.
	wantRefused(t, s, changeLast(token), latchkey.ErrInvalidToken)
}

func TestNetworksAreKeptInOneForm(t *testing.T) {
	s := open(t)
	key, _ := addKey(t, s, latchkey.ServerOwner, "job")
	given := prefixes("192.0.2.7/24 ::ffff:198.51.100.9/120 2001:db8::1/32 10.0.0.0/8")
	must(t, s.SetNetworks(t.Context(), latchkey.ServerOwner, key.ID, given))
	key.Networks = prefixes("192.0.2.0/24 198.51.100.0/24 2001:db8::/32 10.0.0.0/8")
	for _, change := range []func(){func() {}, func() { given[0] = netip.MustParsePrefix("0.0.0.0/0") }} {
		change()
		if got, err := s.Key(t.Context(), latchkey.ServerOwner, key.ID); err != nil || !reflect.DeepEqual(got, key) {
			t.Errorf("the key is %+v, %v, want %+v", got, err, key)
		}
	}
}

func TestNetworksThatNoKeyCanHaveAreRefused(t *testing.T) {
	s := open(t)
	key, _ := addKey(t, s, latchkey.ServerOwner, "job")
	var most []netip.Prefix
	for i := range latchkey.MaxNetworks {
		most = append(most, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i)))
	}
	must(t, s.SetNetworks(t.Context(), latchkey.ServerOwner, key.ID, most))
	for name, networks := range map[string][]netip.Prefix{
		"one too many":                append(slices.Clone(most), netip.MustParsePrefix("2001:db8::/32")),
		"the zero network":            {{}},
		"a length that is too great":  {netip.PrefixFrom(netip.MustParseAddr("192.0.2.0"), 33)},
		"IPv4 addresses and others":   prefixes("::ffff:0:0/95"),
		"a good one and the zero one": append(prefixes("10.0.0.0/8"), netip.Prefix{}),
	} {
		t.Run(name, func(t *testing.T) {
			wantNoKey(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "new", Networks: networks}, latchkey.ErrInvalidNetwork)
			wantNoChange(t, s, func() {
				wantError(t, s.SetNetworks(t.Context(), latchkey.ServerOwner, key.ID, networks), latchkey.ErrInvalidNetwork)
			})
		})
	}
}

// The expected answer compares the bits of both addresses in the form of 16 bytes.
func FuzzNetworks(f *testing.F) {
	s := open(f)
	key, token := addKey(f, s, latchkey.ServerOwner, "job")
	f.Add("192.0.2.0/24", "::ffff:192.0.2.1%eth0")
	f.Add("::/0", "192.0.2.1")
	f.Add("::ffff:0:0/96", "255.255.255.255")
	f.Add("2001:db8::/33", "2001:db8:8000::")
	f.Fuzz(func(t *testing.T, network, addr string) {
		n, err := netip.ParsePrefix(network)
		if err != nil {
			t.Skip()
		}
		a, err := netip.ParseAddr(addr)
		if err != nil {
			t.Skip()
		}
		if err := s.SetNetworks(t.Context(), latchkey.ServerOwner, key.ID, []netip.Prefix{n}); err != nil {
			if wantError(t, err, latchkey.ErrInvalidNetwork); !n.Addr().Is4In6() {
				t.Errorf("%s is refused: %v", n, err)
			}
			return
		}
		wide, from, bits := n.Addr().As16(), a.As16(), n.Bits()
		if n.Addr().Is4() {
			bits += 96
		}
		want := a.Unmap().Is4() == n.Addr().Unmap().Is4()
		for i := range bits {
			mask := byte(0x80) >> (i % 8)
			want = want && wide[i/8]&mask == from[i/8]&mask
		}
		if _, err := s.LoginFrom(t.Context(), token, a); want && err != nil || !want && !errors.Is(err, latchkey.ErrNetworkNotAllowed) {
			t.Errorf("%s from %s: got %v, want allowed: %t", n, a, err, want)
		}
	})
}
