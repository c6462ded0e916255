package loopback_test

import (
	"net/http/httptest"
	"testing"

	"github.com/latchkeydb/latchkey/internal/loopback"
)

func TestOnlyProgramsOnThisMachineMayCall(t *testing.T) {
	for _, tt := range []struct {
		name, remote, host, header string
		allowed                    bool
	}{
		{"a program here", "127.0.0.1:40000", "127.0.0.1:9090", "", true},
		{"by IPv6", "[::1]:40000", "[::1]:9090", "", true},
		{"by IPv4 in IPv6", "[::ffff:127.0.0.1]:40000", "127.0.0.1", "", true},
		{"by name", "127.0.0.1:40000", "LocalHost:9090", "", true},
		{"another machine", "192.0.2.1:40000", "127.0.0.1:9090", "", false},
		{"a client without an address", "@", "127.0.0.1:9090", "", false},
		{"by a name that was changed to lead here", "127.0.0.1:40000", "rebound.example.com:9090", "", false},
		{"by an address of the network", "127.0.0.1:40000", "192.0.2.1:9090", "", false},
		{"without a host", "127.0.0.1:40000", "", "", false},
		{"a page in a browser", "127.0.0.1:40000", "127.0.0.1:9090", "Origin", false},
		{"a proxy", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-For", false},
		{"a proxy that sends Forwarded, as in RFC 7239", "127.0.0.1:40000", "127.0.0.1:9090", "Forwarded", false},
		{"a proxy that sends Via, as in RFC 9110", "127.0.0.1:40000", "127.0.0.1:9090", "Via", false},
		{"a proxy that only sends the host", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-Host", false},
		{"a proxy that only sends the scheme", "127.0.0.1:40000", "127.0.0.1:9090", "X-Forwarded-Proto", false},
		{"a proxy that only sends the address", "127.0.0.1:40000", "127.0.0.1:9090", "X-Real-IP", false},
		{"a program that sends User-Agent", "127.0.0.1:40000", "127.0.0.1:9090", "User-Agent", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr, r.Host = tt.remote, tt.host
			if tt.header != "" {
				r.Header.Set(tt.header, "x")
			}
			if err := loopback.Check(r); (err == nil) != tt.allowed {
				t.Errorf("got error %v, want allowed %t", err, tt.allowed)
			}
		})
	}
}
