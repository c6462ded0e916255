package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/replica"
)

// errHubAddress means that hub cannot listen on the address of --addr.
var errHubAddress = errors.New("cannot listen for edges")

// hubServer is one run of the command hub.
type hubServer struct {
	*cli
	addr                        string
	certFile, keyFile, nextFile string
	selfSigned, noSocket        bool
	keepTombstones, dropAfter   time.Duration
	acceptClaims                bool
	logFormat                   choiceFlag
	cost                        latchkey.Cost
	page                        pageServer
	metrics                     metricsServer

	log *slog.Logger
}

func hubCommand(c *cli) *cobra.Command {
	s := &hubServer{cli: c, logFormat: newLogFormat()}
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Serve the store to edges, which are stores that join it and follow it",
		Long: `Serve the store to edges. An edge is a store of its own, which joins the hub with an invitation and has
then the users and keys that the hub lets it have. It checks tokens without asking anybody, also while
the network is down. Make an invitation with latchkey replica invite, and join with latchkey join.

Edges reach the hub by TLS. The certificate needs no authority, because an invitation has the hash of
the hub's public key, and edges accept no other key. With --self-signed, hub makes a key and a
certificate in the files of --cert and --key, unless the files are there already. Keep the file of the
key: edges that have joined accept no hub with another key, unless it was announced to them with
--next-cert before.

Without a certificate, hub listens on a loopback address alone. That is for tests, and for a proxy with
TLS on the same machine. Invitations then have no key, and edges go by the authorities of their system.

A store on etcd can have several hubs, on several machines behind one address. Edges take them for one
hub, so give all of them copies of the same --cert and --key. There is no file beside which --self-signed
could keep the two, so name them. Make invitations with --hub-cert, because no command finds a running
hub there. Let each hub keep a mirror, with ?mirror=FILE at the end of the URL.

While hub runs, other commands go through its socket beside the store's file. hub ends with an interrupt
or SIGTERM. An edge that follows the hub connects again when the hub is back.`,
		Example: examples(
			"latchkey hub --addr :7443 --self-signed",
			"latchkey hub --addr :7443 --cert hub.crt --key hub.key",
			"latchkey hub --addr 127.0.0.1:7443",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.addr, "addr", "127.0.0.1:7443", "the `HOST:PORT` to listen on; port 0 is any free port")
	flags.StringVar(&s.certFile, "cert", "", "the `FILE` with the certificate and its chain, in PEM")
	flags.StringVar(&s.keyFile, "key", "", "the `FILE` with the private key of the certificate, in PEM")
	flags.BoolVar(&s.selfSigned, "self-signed", false, "make --cert and --key if they are not there; without their names, they are the store's file and .crt or .key")
	flags.StringVar(&s.nextFile, "next-cert", "", "the `FILE` with a certificate of another key, which is announced to edges, and that --cert will have later")
	flags.BoolVar(&s.acceptClaims, "accept-claims", false, "accept the disablings that an edge may not push, in place of listing them with latchkey replica claims")
	flags.Var((*lifeFlag)(&s.keepTombstones), "keep-tombstones", "how long the hub remembers at least that a key was deleted; never restore the hub from an older backup (default 400d)")
	flags.Var((*lifeFlag)(&s.dropAfter), "drop-after", "how long an edge may be silent before it has to compare its records with those of the hub (default 180d)")
	flags.Var((*costFlag)(&s.cost), "cost", "the cost of hashing a key, as for key create")
	flags.Lookup("cost").DefValue = ""
	s.page.addFlags(flags)
	addNoSocketFlag(cmd, &s.noSocket)
	s.metrics.addFlags(flags)
	flags.Var(&s.logFormat, "log-format", "the format of the log: text or json")
	flags.BoolVarP(&s.quiet, "quiet", "q", false, "log only warnings and errors")
	for _, file := range []string{"cert", "key", "next-cert", "admin-cert", "admin-key"} {
		_ = cmd.RegisterFlagCompletionFunc(file, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	}
	_ = cmd.RegisterFlagCompletionFunc("cost", cobra.FixedCompletions([]string{"default", "light"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions(s.logFormat.choices, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// newLogFormat returns the value of the flag --log-format.
func newLogFormat() choiceFlag { return choiceFlag{"text", []string{"text", "json"}} }

// newLog returns the log of a server, which goes to standard error.
func (c *cli) newLog(format choiceFlag) *slog.Logger {
	opts := &slog.HandlerOptions{}
	if c.quiet {
		opts.Level = slog.LevelWarn
	}
	if format.value == "json" {
		return slog.New(slog.NewJSONHandler(c.stderr, opts))
	}
	return slog.New(slog.NewTextHandler(c.stderr, opts))
}

// certificates returns the certificate of the server, or nil for none, and the options of the hub.
func (s *hubServer) certificates(path string) (cert *tls.Certificate, opts replica.HubOptions, err error) {
	opts = replica.HubOptions{AcceptClaims: s.acceptClaims, KeepTombstones: s.keepTombstones, DropAfter: s.dropAfter, Logger: s.log}
	if s.selfSigned {
		if s.certFile == "" && s.keyFile == "" {
			if etcd.IsURL(path) {
				return nil, opts, usagef("the certificate has no place beside a store on etcd; name its files with --cert and --key, and give all hubs of the store the same two")
			}
			s.certFile, s.keyFile = path+".crt", path+".key"
		}
		if err := makeCertificate(s.certFile, s.keyFile); err != nil {
			return nil, opts, err
		}
	}
	if (s.certFile == "") != (s.keyFile == "") {
		return nil, opts, usagef("--cert and --key belong together")
	}
	if s.certFile == "" && s.nextFile != "" {
		return nil, opts, usagef("--next-cert follows a certificate; give --cert and --key too")
	}
	if s.certFile != "" {
		pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
		if err != nil {
			return nil, opts, badCertificate(s.certFile, err)
		}
		cert, opts.Certificate = &pair, pair.Leaf
	}
	opts.NextCertificate, err = readCertificate(s.nextFile)
	return cert, opts, err
}

// badCertificate returns the error for a certificate that cannot be used.
func badCertificate(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return explainMissing(err, path)
	}
	return usagef("%s: %w", path, err)
}

// readCertificate returns the first certificate in a file, or nil without a path.
func readCertificate(path string) (*x509.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readOwn(path)
	if err != nil {
		return nil, explainMissing(err, path)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, usagef("%s: it does not begin with a certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, badCertificate(path, err)
	}
	return cert, nil
}

// makeCertificate makes a private key, and a certificate that is signed with it, unless both files
// are there.
func makeCertificate(certFile, keyFile string) error {
	if certFile == "" || keyFile == "" {
		return usagef("--cert and --key belong together")
	}
	_, certErr := os.Stat(certFile)
	_, keyErr := os.Stat(keyFile)
	switch {
	case certErr == nil && keyErr == nil:
		return nil
	case certErr == nil || keyErr == nil:
		there, missing := certFile, keyFile
		if certErr != nil {
			there, missing = missing, there
		}
		return usagef("%s is there, and %s is not; find the other file, or move the one away, but edges that have joined accept no other key", there, missing)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "localhost"
	}
	// Edges go by the key alone, and the clock of an edge may be wrong. So the certificate is good
	// at any time; the end is the one of RFC 5280, section 4.1.2.5, for no end.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "latchkey hub"},
		NotBefore:    time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The key comes first. If the certificate then fails, the error of the next run says so.
	if err := writeNew(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})); err != nil {
		return err
	}
	return writeNew(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// listen listens for edges. Only a loopback address can be without TLS.
func (s *hubServer) listen(cert *tls.Certificate) (net.Listener, error) {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHubAddress, err)
	}
	if cert == nil {
		if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			return nil, errors.Join(usagef("other machines can reach %s, and edges need TLS there; give --self-signed, or --cert and --key", s.addr), l.Close())
		}
		return l, nil
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}), nil
}

// run serves edges until ctx ends or a signal comes.
func (s *hubServer) run(ctx context.Context) error {
	path, err := s.existing()
	if err != nil {
		return err
	}
	if err := s.page.check(); err != nil {
		return err
	}
	if isEdge(path) {
		return usagef("%s is the store of an edge, which follows a hub and cannot be one", path)
	}
	s.log = s.newLog(s.logFormat)
	cert, opts, err := s.certificates(path)
	if err != nil {
		return err
	}
	listener, err := s.listen(cert)
	if err != nil {
		return err
	}
	defer listener.Close()
	if s.page.on() {
		if err := s.page.listen(); err != nil {
			return err
		}
		defer s.page.listener.Close()
	}
	if s.metrics.on() {
		if err := s.metrics.listen(s.log); err != nil {
			return err
		}
		defer s.metrics.listener.Close()
	}
	store, err := openTrailed(ctx, path, replica.Options{Store: latchkey.Options{Cost: s.cost}}, s.chainFor(path), s.wait)
	if err != nil {
		return err
	}
	err = s.serve(ctx, listener, store, replica.NewHub(store.Store, &opts), cert != nil)
	return errors.Join(err, store.close())
}

// serve serves hub until ctx ends or a signal comes.
func (s *hubServer) serve(ctx context.Context, listener net.Listener, store *openedStore, hub *replica.Hub, secure bool) error {
	ctx, forced, stop := onSignals(ctx)
	defer stop()
	served := store.served()
	served.Hub, served.Logger = hub, s.log
	if s.page.on() {
		end, err := s.page.start(store.Store, served, s.log)
		if err != nil {
			return err
		}
		served.Page = s.page.page
		defer func() {
			limit, cancel := context.WithTimeout(forced, shutdownTime)
			defer cancel()
			end(limit)
		}()
	}
	if s.metrics.on() {
		defer s.metrics.start(store.Store, s.log)()
	}
	if !s.noSocket && !etcd.IsURL(s.store) {
		defer openSocket(store.Store, s.store, served, s.log)()
	}
	defer store.watch(ctx, s.log)()

	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer endRequests()
	srv := &http.Server{ // without a WriteTimeout, because streams have no end
		Handler:           hub,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	if err := s.printURL(listener.Addr().(*net.TCPAddr), secure); err != nil {
		return errors.Join(err, srv.Close())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	s.log.Info("ending")
	endRequests() // ends the streams, for which Shutdown would wait
	limit, cancel := context.WithTimeout(forced, shutdownTime)
	defer cancel()
	if srv.Shutdown(limit) != nil {
		return srv.Close()
	}
	return nil
}

// printURL prints the URL of the hub, and a sign-in URL of the page. Only standard output has the
// sign-in URL, because it is a secret.
func (s *hubServer) printURL(addr *net.TCPAddr, secure bool) error {
	doc := struct {
		URL  string `json:"url"`
		Page string `json:"page,omitempty"`
	}{URL: urlOf(addr, secure)}
	if s.page.on() {
		doc.Page = s.page.page.SignInURL()
	}
	s.log.Info("serving edges", "url", doc.URL)
	return s.print(doc, func(w io.Writer) {
		fmt.Fprintln(w, strings.Join(append([]string{doc.URL}, strings.Fields(doc.Page)...), "\n"))
	})
}
