package replica

import (
	"context"
	"net"
)

// Dial makes an edge connect by a function.
func (o *Options) Dial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	o.dial = dial
}

// CredentialPath returns the path of the file of an edge's credential.
func CredentialPath(path string) string { return credentialPath(path) }
