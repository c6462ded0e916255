package replica

import (
	"context"
	"net"

	"github.com/latchkeydb/latchkey/internal/replication"
)

// Dial makes an edge connect by a function.
func (o *Options) Dial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	o.dial = dial
}

// CredentialPath returns the path of the file of an edge's credential.
func CredentialPath(path string) string { return credentialPath(path) }

// Token returns the token of an edge.
func Token(e *Edge) string { return e.cred().Token }

// Hello returns what an edge asks for a stream with.
func Hello(e *Edge) replication.Hello {
	hello := e.core.Load().Hello()
	hello.Instance, hello.Before, hello.Earlier, hello.Follow = e.cred().Instance, e.cred().Before, e.cred().Earlier, true
	return hello
}
