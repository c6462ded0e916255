package main

import (
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestNetworksAreSeparatedByBlanksOrCommas(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want string
	}{
		{"", ""},
		{" , ", ""},
		{"192.0.2.0/24", "192.0.2.0/24"},
		{"192.0.2.0/24 2001:db8::/32", "192.0.2.0/24 2001:db8::/32"},
		{"192.0.2.0/24,2001:db8::/32, 10.0.0.0/8", "192.0.2.0/24 2001:db8::/32 10.0.0.0/8"},
		{"192.0.2.7 2001:db8::7", "192.0.2.7/32 2001:db8::7/128"},
	} {
		var want []netip.Prefix
		for _, text := range strings.Fields(tt.want) {
			want = append(want, netip.MustParsePrefix(text))
		}
		if got, err := parseNetworks(tt.flag); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("parseNetworks(%q) = %v, %v; want %v", tt.flag, got, err, want)
		}
	}
	for _, flag := range []string{"home", "192.0.2.0/33", "192.0.2", "192.0.2.0/24;10.0.0.0/8", "fe80::1%eth0", "fe80::1%eth0/64", "192.0.2.0/"} {
		if got, err := parseNetworks(flag); err == nil {
			t.Errorf("parseNetworks(%q) = %v, want an error", flag, got)
		}
	}
}

func FuzzNetworksAreParsedAsTheyAreShown(f *testing.F) {
	f.Add("192.0.2.0/24, 2001:db8::/32")
	f.Add("192.0.2.7 ::ffff:192.0.2.7")
	f.Fuzz(func(t *testing.T, flag string) {
		networks, err := parseNetworks(flag)
		if err != nil {
			return
		}
		var texts []string
		for _, n := range networks {
			if !n.IsValid() {
				t.Fatalf("parseNetworks(%q) has a network that is none", flag)
			}
			texts = append(texts, n.String())
		}
		if again, err := parseNetworks(strings.Join(texts, " ")); err != nil || !reflect.DeepEqual(again, networks) {
			t.Errorf("%q is shown as %q, which is parsed as %v, %v", flag, texts, again, err)
		}
	})
}

func TestMetadataAreChangedByName(t *testing.T) {
	metadata := map[string]string{"room": "4", "shift": "night"}
	for _, tt := range []struct {
		flags []string
		want  map[string]string
	}{
		{nil, metadata},
		{[]string{"room=5"}, map[string]string{"room": "5", "shift": "night"}},
		{[]string{"room=", "floor=2"}, map[string]string{"floor": "2", "shift": "night"}},
		{[]string{"room=", "room=a=b"}, map[string]string{"room": "a=b", "shift": "night"}},
		{[]string{"absent="}, metadata},
	} {
		got, err := changeMetadata(metadata, tt.flags)
		if err != nil || !maps.Equal(got, tt.want) {
			t.Errorf("changeMetadata(%q) = %q, %v; want %q", tt.flags, got, err, tt.want)
		}
	}
	if !maps.Equal(metadata, map[string]string{"room": "4", "shift": "night"}) {
		t.Errorf("changeMetadata has changed its argument to %q", metadata)
	}
	for _, flag := range []string{"", "room", "=4"} {
		if got, err := changeMetadata(nil, []string{flag}); err == nil {
			t.Errorf("changeMetadata(%q) = %q, want an error", flag, got)
		}
	}
}
