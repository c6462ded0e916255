package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

// certificateFiles are the names of files, or empty.
type certificateFiles struct{ ca, cert, key string }

// certificates is what a connection needs for TLS. Each handshake reads the files again.
type certificates struct {
	credentials.TransportCredentials // of the files as they were at first
	files                            certificateFiles

	mu   sync.Mutex // guards last
	last *tls.Config
}

// readCertificates reads the files for the first time.
func readCertificates(files certificateFiles) (*certificates, error) {
	config, err := files.read()
	if err != nil {
		return nil, err
	}
	return &certificates{TransportCredentials: credentials.NewTLS(config), files: files, last: config}, nil
}

// ClientHandshake makes a connection safe. gRPC calls it for each new connection.
func (c *certificates) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.now()).ClientHandshake(ctx, authority, conn)
}

// Clone returns c, because connections share what was read.
func (c *certificates) Clone() credentials.TransportCredentials { return c }

// now returns what the files have now, or what they had when they could be read last. A file can be
// half written at this moment.
func (c *certificates) now() *tls.Config {
	config, err := c.files.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.last = config
	}
	return c.last
}

func (f certificateFiles) read() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("the certificate %s and its key: %w", f.cert, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
