package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/latchkeydb/latchkey"
)

// ErrURL means that a text is no URL of a store on etcd. The error's text says what is wrong, and
// does not repeat the URL, because it may have a password.
var ErrURL = errors.New("not the URL of a store on etcd")

// IsURL reports whether a text begins as the URL of a store on etcd does.
func IsURL(text string) bool {
	return strings.HasPrefix(text, "etcd://") || strings.HasPrefix(text, "etcds://")
}

// Open makes an engine from the URL of a store on etcd:
//
//	etcd://HOST:PORT,HOST:PORT,.../PREFIX
//	etcds://HOST:PORT,HOST:PORT,.../PREFIX?cacert=FILE&cert=FILE&key=FILE&credentials=FILE
//
// The scheme etcds is for TLS. The default port is 2379. PREFIX is the prefix of [New], and begins
// behind the first slash. The parameters can be left out:
//
//   - cacert is a file with the certificates, in PEM, of the authorities that sign the certificates
//     of the servers. The default is the authorities that the system trusts.
//   - cert and key are the files of a certificate for the client and of its private key, in PEM.
//   - credentials is a file with a user of etcd and the password in one line: USER:PASSWORD. It can
//     also stand in a URL without TLS.
//   - mirror is the file of [Options].Mirror. It can also stand in a URL without TLS.
//   - watch-age and unreachable are [Options].WatchAge and [Options].Unreachable, in the format of
//     [time.ParseDuration], such as 500ms or 1m30s.
//
// A parameter counts more than the field of opts.
//
// Each new connection reads the files of certificates again, so that they can be replaced while the
// engine is open. If the new files cannot be used, the connection is made with the former ones. The
// file with the credentials is read again when etcd no longer accepts what it had, so that the
// password can be changed as well. Until etcd and the file have the same password, the methods of
// the engine return errors.
//
// Closing the engine also ends its connections.
//
// Errors: [ErrURL]; [latchkey.ErrUnavailable] if there are credentials and etcd does not answer;
// the operating system's error of reading a file; an error that says what is wrong with a file.
func Open(text string, opts Options) (latchkey.Engine, error) {
	u, err := parseURL(text)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w: %w", ErrURL, err)
	}
	reason := &reason{}
	config := clientv3.Config{
		Endpoints: u.endpoints,
		Logger:    zap.NewNop(),
		// Without these, a server that has vanished is noticed after minutes.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		DialTimeout: opts.timeout(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(reason.note)},
	}
	if u.tls {
		certificates, err := readCertificates(u.files)
		if err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		config.DialOptions = append(config.DialOptions, grpc.WithTransportCredentials(certificates))
	}
	if u.credentials != "" {
		if config.Username, config.Password, err = readCredentials(u.credentials); err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		config.DialOptions = append(config.DialOptions, grpc.WithChainUnaryInterceptor(freshCredentials(u.credentials)))
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, (&engine{reason: reason}).explain(context.Background(), err)
	}
	opts.Mirror = cmp.Or(u.mirror, opts.Mirror)
	opts.WatchAge = cmp.Or(u.watchAge, opts.WatchAge)
	opts.Unreachable = cmp.Or(u.unreachable, opts.Unreachable)
	e := NewWith(client, u.prefix, opts).(*engine)
	e.reason = reason
	return &owner{e}, nil
}

// owner is an engine with a client of its own.
type owner struct{ *engine }

func (o *owner) Close() error {
	err := o.engine.Close()
	_ = o.client.Close() // the second call returns an error
	return err
}

// place is what a URL says.
type place struct {
	endpoints   []string
	prefix      string
	tls         bool
	files       certificateFiles
	credentials string
	mirror      string
	watchAge    time.Duration
	unreachable time.Duration
}

// parseURL reads a URL. Package net/url does not read more than one host.
func parseURL(text string) (p place, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	switch scheme {
	case "etcd":
	case "etcds":
		p.tls = true
	default:
		return p, errors.New("it must begin with etcd:// or etcds://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return p, errors.New("a user and a password do not belong there; write USER:PASSWORD to a file, and name it with ?credentials=FILE")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		endpoint, err := endpointOf(host, p.tls)
		if err != nil {
			return p, err
		}
		p.endpoints = append(p.endpoints, endpoint)
	}
	if p.prefix, err = url.PathUnescape(path); err != nil || p.prefix == "" {
		return p, errors.New("there must be a prefix behind the hosts, such as in etcd://host:2379/latchkey")
	}
	return p, p.parameters(query)
}

// endpointOf returns the endpoint of a host, which may have a port.
func endpointOf(host string, tls bool) (string, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil { // there is no port
		name, port, err = net.SplitHostPort(host + ":2379")
	}
	if err != nil || name == "" || strings.ContainsAny(name, " #%") {
		return "", errors.New("a host is missing or wrong; hosts are HOST:PORT, with a comma between two")
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", errors.New("a port is wrong; it is a number up to 65535")
	}
	scheme := "http://"
	if tls {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(name, port), nil
}

// parameters reads the parameters of a URL.
func (p *place) parameters(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("its parameters are not NAME=VALUE with & between two")
	}
	for name, texts := range values {
		if err := p.parameter(name, texts); err != nil {
			return err
		}
	}
	if (p.files.cert == "") != (p.files.key == "") {
		return errors.New("cert and key belong together")
	}
	return nil
}

// parameter reads one parameter.
func (p *place) parameter(name string, texts []string) error {
	forTLS := map[string]*string{"cacert": &p.files.ca, "cert": &p.files.cert, "key": &p.files.key}
	files := map[string]*string{"credentials": &p.credentials, "mirror": &p.mirror}
	maps.Copy(files, forTLS)
	durations := map[string]*time.Duration{"watch-age": &p.watchAge, "unreachable": &p.unreachable}
	text := ""
	if len(texts) == 1 {
		text = texts[0]
	}
	switch {
	case forTLS[name] != nil && !p.tls:
		return fmt.Errorf("the parameter %s is for TLS; begin the URL with etcds://", name)
	case files[name] != nil && text == "":
		return fmt.Errorf("the parameter %s must name one file", name)
	case files[name] != nil:
		*files[name] = text
	case durations[name] != nil:
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || name == "watch-age" && d < leastWatchAge {
			return fmt.Errorf("the parameter %s must be one duration, such as 500ms, 10s or 1m30s; watch-age is at least %v, and unreachable is more than 0", name, leastWatchAge)
		}
		*durations[name] = d
	default:
		return fmt.Errorf("there is no parameter %.20q; there are cacert, cert, key, credentials, mirror, watch-age and unreachable", name)
	}
	return nil
}
