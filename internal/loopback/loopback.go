// Package loopback tells the requests of programs on the same machine from all others.
package loopback

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Check returns an error unless a program on this machine sent r to a loopback address or to
// localhost. It refuses requests that a proxy may have forwarded. It also refuses requests that a
// browser may have sent for a page of another origin, or for a page whose host name was changed to
// lead to this machine. A person can open a page with a browser.
//
// The text of the error goes on with a sentence whose subject is the refused thing.
func Check(r *http.Request) error {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	host, _, splitErr := net.SplitHostPort(r.Host)
	if splitErr != nil {
		host = r.Host
	}
	to, _ := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err != nil || !from.Addr().IsLoopback():
		return errors.New("is only for programs on the same machine")
	case !strings.EqualFold(host, "localhost") && !to.IsLoopback():
		return errors.New("can only be reached by a loopback address or localhost")
	}
	for _, header := range foreign {
		if len(r.Header.Values(header)) > 0 {
			return fmt.Errorf("refuses requests with the header %s", header)
		}
	}
	return nil
}

// foreign are the headers that browsers and proxies add to requests. Other programs do not send
// them.
var foreign = []string{
	"Origin", "Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip",
}
