package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// This file has the page for administrators: the flags of serve for it, its server, and the command
// page.

// errAdminAddress means that serve cannot listen on the address of --admin.
var errAdminAddress = errors.New("cannot listen for the page")

// defaultPageAddr is the address of the page if --admin is given without one.
const defaultPageAddr = "127.0.0.1:9091"

// pageServer is the page's server, if serve has the flag --admin.
type pageServer struct {
	addr, url, certFile, keyFile string

	listener net.Listener
	page     *admin.Page
}

func (p *pageServer) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&p.addr, "admin", "", "serve a page for administrators on `HOST:PORT`; write --admin=HOST:PORT, or --admin alone for "+defaultPageAddr)
	flags.Lookup("admin").NoOptDefVal = defaultPageAddr
	flags.StringVar(&p.url, "admin-url", "", "the `URL` by which browsers reach the page (default the address of --admin)")
	flags.StringVar(&p.certFile, "admin-cert", "", "the `FILE` with the page's certificate and its chain, in PEM")
	flags.StringVar(&p.keyFile, "admin-key", "", "the `FILE` with the private key of the certificate, in PEM")
}

// on reports whether there is a page.
func (p *pageServer) on() bool { return p.addr != "" }

// check returns an error if the flags contradict each other.
func (p *pageServer) check() error {
	switch {
	case !p.on() && (p.url != "" || p.certFile != "" || p.keyFile != ""):
		return usagef("--admin-url, --admin-cert and --admin-key are for the page for administrators; give --admin too")
	case (p.certFile == "") != (p.keyFile == ""):
		return usagef("--admin-cert and --admin-key belong together")
	case p.url != "" && !isBaseURL(p.url):
		return usagef("--admin-url must be a scheme and a host, such as https://keys.example.com")
	case p.certFile != "" && strings.HasPrefix(p.url, "http://"):
		return usagef("--admin-url must begin with https, because there is a certificate")
	}
	return nil
}

// listen listens on the page's address. Only a loopback address can be without TLS.
func (p *pageServer) listen() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", errAdminAddress, err)
	}
	addr := l.Addr().(*net.TCPAddr)
	switch {
	case p.certFile == "" && !addr.IP.IsLoopback():
		err = usagef("other machines can reach %s, and the page needs TLS there; give --admin-cert and --admin-key", p.addr)
	case addr.IP.IsUnspecified() && p.url == "":
		err = usagef("--admin names no host that a browser could go to; give --admin-url")
	case p.certFile != "":
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(p.certFile, p.keyFile); err == nil {
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
		}
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	p.listener = l
	return nil
}

// base returns the URL by which browsers reach the page.
func (p *pageServer) base() string {
	if p.url != "" {
		return p.url
	}
	u := url.URL{Scheme: "http", Host: p.listener.Addr().String()}
	if host, _, err := net.SplitHostPort(p.addr); err == nil && host != "" {
		_, port, _ := net.SplitHostPort(u.Host)
		u.Host = net.JoinHostPort(host, port) // the name, for which the certificate is good
	}
	if p.certFile != "" {
		u.Scheme = "https"
	}
	return u.String()
}

// start serves the page for a store, and returns a function that ends it.
func (p *pageServer) start(store *latchkey.Store, opts admin.Options, log *slog.Logger) (end func(context.Context), err error) {
	if p.page, err = admin.NewPage(store, p.base(), &opts); err != nil {
		return nil, err
	}
	srv := &http.Server{
		Handler:           p.page,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	srv.RegisterOnShutdown(p.page.Close) // ends the streams of changes
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the page for administrators has ended", "reason", err.Error())
		}
	}()
	log.Info("serving the page for administrators", "url", p.base())
	return func(ctx context.Context) {
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
	}, nil
}

func pageCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "page",
		Short: "Print a URL that signs one browser in on the page for administrators",
		Long: `Print a URL that signs one browser in on the page for administrators. The program that has the store
open must serve the page, as latchkey serve --admin does.

The URL is good once, within 5 minutes. Whoever has it can administer the store, so do not pass it on.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := c.file()
			if err != nil {
				return err
			}
			client, end, err := c.dial(cmd.Context(), path)
			if err != nil {
				return fmt.Errorf("page of %s: %w", path, err)
			}
			signIn, err := client.As(c.actor).SignInURL(cmd.Context())
			if err = errors.Join(err, end()); err != nil {
				return fmt.Errorf("page of %s: %w", path, err)
			}
			return c.print(struct { // without the Format that hides the URL
				URL string `json:"url"`
			}{signIn}, func(w io.Writer) { fmt.Fprintln(w, signIn) })
		},
	}
}
