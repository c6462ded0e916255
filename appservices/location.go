package appservices

import (
	"cmp"
	"net"
	"net/http"
	"strings"
)

// A locationReply tells clients the addresses for all other requests. Old cores require all four
// fields.
type locationReply struct {
	DeploymentModel string `json:"deployment_model"`
	Location        string `json:"location"`
	Hostname        string `json:"hostname"`
	WSHostname      string `json:"ws_hostname"`
}

func (c *call) location() (reply, error) {
	base := c.baseURL()
	return reply{http.StatusOK, locationReply{
		DeploymentModel: "GLOBAL",
		Location:        "US-VA",
		Hostname:        base,
		WSHostname:      "ws" + strings.TrimPrefix(base, "http"),
	}}, nil
}

// baseURL returns the scheme and the authority by which the client reached the handler. The server
// cannot know them by itself, for example behind a mapped port or for a client in an emulator.
func (c *call) baseURL() string {
	o := &c.h.opts
	if o.PublicURL != "" {
		return strings.TrimRight(o.PublicURL, "/")
	}
	scheme, host := "http", c.r.Host
	if c.r.TLS != nil {
		scheme = "https"
	}
	if o.TrustForwarded {
		if proto := strings.ToLower(lastForwarded(c.r, "X-Forwarded-Proto")); proto == "http" || proto == "https" {
			scheme = proto
		}
		host = cmp.Or(lastForwarded(c.r, "X-Forwarded-Host"), host)
	}
	if addr, ok := c.ctx().Value(http.LocalAddrContextKey).(net.Addr); ok {
		host = cmp.Or(host, addr.String())
	}
	return scheme + "://" + host
}
