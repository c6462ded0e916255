package main

import (
	"net/http/httptest"
	"testing"
)

func TestTheControlEndpointIsForThisMachineAlone(t *testing.T) {
	for _, tt := range []struct {
		name, remote, host, header string
		allowed                    bool
	}{
		{"a program here", "127.0.0.1:40000", "127.0.0.1:9090", "", true},
		{"by IPv6", "[::1]:40000", "[::1]:9090", "", true},
		{"by IPv4 in IPv6", "[::ffff:127.0.0.1]:40000", "127.0.0.1", "", true},
		{"by name", "127.0.0.1:40000", "LocalHost:9090", "", true},
		{"another machine", "192.0.2.1:40000", "127.0.0.1:9090", "", false},
		{"no address", "@", "127.0.0.1:9090", "", false},
		{"by a name that leads here", "127.0.0.1:40000", "rebound.example.com:9090", "", false},
		{"by an address of the network", "127.0.0.1:40000", "192.0.2.1:9090", "", false},
		{"by no name", "127.0.0.1:40000", "", "", false},
		{"a page in a browser", "127.0.0.1:40000", "127.0.0.1:9090", "Origin", false},
		{"a proxy", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-For", false},
		{"a proxy that keeps to RFC 7239", "127.0.0.1:40000", "127.0.0.1:9090", "Forwarded", false},
		{"a proxy that keeps to RFC 9110", "127.0.0.1:40000", "127.0.0.1:9090", "Via", false},
		{"a proxy that tells the host alone", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-Host", false},
		{"a proxy that tells the scheme alone", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-Proto", false},
		{"a proxy that tells the address alone", "127.0.0.1:40000", "127.0.0.1:9090", "X-Real-IP", false},
		{"a program that says what it is", "127.0.0.1:40000", "127.0.0.1:9090", "User-Agent", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/.latchkey/control/clock", nil)
			r.RemoteAddr, r.Host = tt.remote, tt.host
			if tt.header != "" {
				r.Header.Set(tt.header, "x")
			}
			if err := checkLocal(r); (err == nil) != tt.allowed {
				t.Errorf("got error %v, and allowed is %v", err, tt.allowed)
			}
		})
	}
}
