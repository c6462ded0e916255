package replica

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A client sends the requests of an edge to its hub. It never follows a redirect, and sends nothing
// before the other side has shown that it has one of the pinned keys.
type client struct {
	hub       *url.URL
	transport *http.Transport
}

// The bounds of the client. A hub that serves ten thousand edges that all come at once answers the
// last of them after a minute, so waiting for an answer may take longer.
const (
	dialTimeout      = 15 * time.Second
	handshakeTimeout = 60 * time.Second
	answerTimeout    = 2 * time.Minute
	keepConnection   = 5 * time.Second
	maxError         = 4 << 10  // bytes of an answer that is an error
	maxAnswer        = 64 << 10 // bytes of the answer to a join
)

// checkURL reads the URL of a hub, and refuses one over which an edge must not speak.
//
// Errors: [latchkey.ErrInvalidOptions].
func checkURL(text string, pinned, allowPlain bool) (*url.URL, error) {
	u, err := url.Parse(text)
	bad := func(why string) (*url.URL, error) {
		return nil, fmt.Errorf("%w: the hub's URL %s", latchkey.ErrInvalidOptions, why)
	}
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return bad(`must look like "https://hub.example:7443"`)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return bad("must have no user, no query and no fragment")
	case u.Scheme == "https":
	case u.Scheme != "http":
		return bad(`must begin with "https://"`)
	case pinned:
		return bad(`begins with "http://", but the hub was joined by the hash of its key, so it must begin with "https://"`)
	case !allowPlain && !isLoopback(u.Hostname()):
		return bad(`begins with "http://" and leads to another machine: use "https://", or set AllowPlainHTTP if nobody can listen on the way`)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// isLoopback reports whether a host is this machine for sure.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost")
}

// noHTTP2 keeps a client from HTTP/2, which has larger buffers.
var noHTTP2 = map[string]func(string, *tls.Conn) http.RoundTripper{}

// newClient returns a client. seen is called with the pin of the key that the hub has shown, in
// each handshake. It may be nil.
func newClient(o *Options, hub *url.URL, pins [][]byte, seen func(pin []byte)) *client {
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: o.sessions},
		TLSHandshakeTimeout:    handshakeTimeout,
		TLSNextProto:           noHTTP2,
		DisableCompression:     true,
		IdleConnTimeout:        keepConnection,
		ResponseHeaderTimeout:  answerTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		ReadBufferSize:         4 << 10,
	}
	if o.dial != nil {
		t.DialContext = o.dial
	}
	if hub.Scheme == "https" {
		t.Proxy = http.ProxyFromEnvironment // never over plain HTTP: it would get the token
	}
	if len(pins) > 0 {
		t.TLSClientConfig.InsecureSkipVerify = true // VerifyConnection verifies
		t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(s, pins, seen) }
	}
	return &client{hub: hub, transport: t}
}

// checkPin returns [ErrWrongHub] unless the other side of a connection has a pinned key.
func checkPin(s tls.ConnectionState, pins [][]byte, seen func(pin []byte)) error {
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it has shown no certificate", ErrWrongHub)
	}
	shown := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
	for _, pin := range pins {
		if subtle.ConstantTimeCompare(shown[:], pin) == 1 {
			if seen != nil {
				seen(pin)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: the SHA-256 of its public key is %x", ErrWrongHub, shown)
}

// close closes the connections that no request uses.
func (c *client) close() { c.transport.CloseIdleConnections() }

// The paths of a hub.
const (
	pathJoin    = "/latchkey/v1/join"
	pathRenew   = "/latchkey/v1/renew"
	pathPull    = "/latchkey/v1/pull"
	pathPush    = "/latchkey/v1/push"
	pathCompare = "/latchkey/v1/compare"
)

// The types of bodies.
const (
	typeJSON     = "application/json"
	typeMessages = "application/vnd.latchkey.replication"
)

// post sends a request. The caller closes the body of the answer, whose status is 200.
//
// Errors: [ErrWrongHub]; an [*answerError]; [ErrHub]; ctx's error; the network's error.
func (c *client) post(ctx context.Context, path, token, contentType string, body []byte, compress bool) (*http.Response, error) {
	u := *c.hub
	u.Path += path
	packed := compress && len(body) > 1<<10
	if packed {
		body = zip(body)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Accept-Encoding", "gzip")
	if packed {
		r.Header.Set("Content-Encoding", "gzip")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		if answer.Header.Get("Content-Encoding") == "gzip" {
			answer.Body = &unzipped{raw: answer.Body}
		}
		return answer, nil
	}
	defer answer.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(answer.Body, maxError))
	e := &answerError{status: answer.StatusCode}
	if json.Unmarshal(b, e) != nil || e.Code == "" {
		return nil, fmt.Errorf("%w: it says %s", ErrHub, answer.Status)
	}
	return nil, e
}

// ask sends a request, and returns the body of the answer, of at most most bytes.
//
// Errors: those of post.
func (c *client) ask(ctx context.Context, path, token, contentType string, body []byte, compress bool, most int64) ([]byte, error) {
	answer, err := c.post(ctx, path, token, contentType, body, compress)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%w: its answer has more than %d bytes", ErrHub, most)
	}
	return b, err
}

// An answerError is an answer that is an error.
type answerError struct {
	status int
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (e *answerError) Error() string {
	if reason := e.reason().Error(); e.Detail == reason {
		return reason
	}
	return fmt.Sprintf("%s: %.300q", e.reason(), e.Detail)
}
func (e *answerError) Unwrap() error { return e.reason() }

// The codes of errors.
const (
	codeInvitation  = "invitation"  // the invitation is not good
	codeUnknown     = "unknown"     // the token, or its edge, is not known
	codeExpired     = "expired"     // the key has expired, and can be exchanged
	codeRevoked     = "revoked"     // the key is disabled, or cannot be exchanged any more
	codeNetwork     = "network"     // the key may not be used from this address
	codeRequest     = "request"     // the request is not as it should be
	codeFormat      = "format"      // hub and edge have no format in common
	codeBusy        = "busy"        // try again
	codeUnavailable = "unavailable" // the hub cannot work now
)

var reasons = map[string]error{
	codeInvitation: ErrInvitation, codeUnknown: ErrUnknownEdge, codeRevoked: ErrRevoked,
}

func (e *answerError) reason() error {
	if err := reasons[e.Code]; err != nil {
		return err
	}
	return ErrHub
}

// isCode reports whether an error is an answer with a code.
func isCode(err error, code string) bool {
	var e *answerError
	return errors.As(err, &e) && e.Code == code
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

// unzipped reads a compressed body. It begins to read at the first call of Read.
type unzipped struct {
	raw io.ReadCloser
	z   *gzip.Reader
}

func (u *unzipped) Read(b []byte) (int, error) {
	if u.z == nil {
		z, err := gzip.NewReader(u.raw)
		if err != nil {
			return 0, asHub(err)
		}
		u.z = z
	}
	n, err := u.z.Read(b)
	return n, asHub(err)
}

// asHub returns [ErrHub] if an error says that what was read is not compressed.
func asHub(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt) {
		return fmt.Errorf("%w: %w", ErrHub, err)
	}
	return err
}

func (u *unzipped) Close() error { return u.raw.Close() }
