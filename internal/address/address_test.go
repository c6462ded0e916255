package address_test

import (
	"net/netip"
	"testing"

	"github.com/latchkeydb/latchkey/internal/address"
)

func TestAnAddressIsParsedToItsPlainForm(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1":             "192.0.2.1",
		"192.0.2.1:80":          "192.0.2.1",
		"2001:db8::1":           "2001:db8::1",
		"[2001:db8::1]":         "2001:db8::1",
		"[2001:db8::1]:80":      "2001:db8::1",
		"[fe80::1%eth0]:80":     "fe80::1",
		"::ffff:192.0.2.1":      "192.0.2.1",
		"[::ffff:192.0.2.1]:80": "192.0.2.1",
		"":                      "invalid IP",
		"@":                     "invalid IP",
		"192.0.2.1:port":        "invalid IP",
		"example.com:80":        "invalid IP",
	} {
		if got := address.Parse(s).String(); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

func TestTheAddressesOfOneHostCountAsOne(t *testing.T) {
	for addr, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "2001:db8::1:2:3:4": "2001:db8::/64"} {
		if got := address.Counted(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestAnAddressIsInANetworkByItsPlainForm(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{
		"192.0.2.1": true, "::ffff:192.0.2.1": true, "fe80::1%eth0": true, "198.51.100.1": false, "2001:db8::1": false,
	} {
		if got := address.In(networks, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %t", addr, got)
		}
	}
	if address.In(networks, netip.Addr{}) {
		t.Error("the zero address is in a network")
	}
}

func TestANetworkOfMappedAddressesBecomesAnIPv4Network(t *testing.T) {
	for network, want := range map[string]string{
		"::ffff:192.0.2.0/120": "192.0.2.0/24", "192.0.2.0/24": "192.0.2.0/24", "2001:db8::/32": "2001:db8::/32", "::ffff:0.0.0.0/90": "",
	} {
		got, ok := address.PlainNetwork(netip.MustParsePrefix(network))
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: got %s, %t, want %s", network, got, ok, want)
		}
	}
}
