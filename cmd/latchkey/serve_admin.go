package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/admin/metrics"
)

// This file has what serve offers to administrators and to their monitoring: the socket beside the
// store's file, and the pages of --metrics.

// errMetricsAddress means that serve cannot listen on the address of --metrics.
var errMetricsAddress = errors.New("cannot listen for metrics")

// addNoSocketFlag adds the flag --no-socket to a command that opens the socket of administrators.
func addNoSocketFlag(cmd *cobra.Command, noSocket *bool) {
	cmd.Flags().BoolVar(noSocket, "no-socket", false, "open no socket beside the store's file, by which this user can administer the store meanwhile")
}

// openSocket opens the socket of administrators for the store in the file at path, and returns a
// function that closes it. Without the socket, the program does its work all the same.
func openSocket(store *latchkey.Store, path string, opts admin.Options, log *slog.Logger) (end func()) {
	socket, err := admin.Listen(store, path, &opts)
	if err != nil {
		log.Warn("the store cannot be administered while the program runs", "reason", line(text(err)), "advice", socketAdvice(err))
		return func() {}
	}
	log.Info("serving administrators on a socket", "path", socket.Path())
	return func() {
		if err := socket.Close(); err != nil {
			log.Warn("the socket was not removed; the next program replaces it", "reason", line(text(err)))
		}
	}
}

// socketAdvice says what to do if the socket cannot be opened.
func socketAdvice(err error) string {
	const without = "to serve without a socket, give --no-socket"
	switch {
	case errors.Is(err, admin.ErrInTheWay):
		return "find out what that is and remove it, and start the program again; " + without
	case errors.Is(err, admin.ErrUntrusted):
		return "set XDG_RUNTIME_DIR or TMPDIR to a directory that only this user can open, and start the program again; " + without
	}
	return "find out why, and start the program again; " + without
}

// metricsServer is the server of metrics and probes, if serve has the flag --metrics.
type metricsServer struct {
	addr     string
	listener net.Listener
}

func (m *metricsServer) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&m.addr, "metrics", "", "serve metrics for Prometheus and probes on `HOST:PORT`: /metrics, /healthz and /readyz; without HOST, on 127.0.0.1")
}

func (m *metricsServer) on() bool { return m.addr != "" }

// listen listens on the address of --metrics.
func (m *metricsServer) listen(log *slog.Logger) (err error) {
	host, port, err := net.SplitHostPort(m.addr)
	if err != nil && !strings.Contains(m.addr, ":") {
		host, port, err = "", m.addr, nil
	}
	if err == nil {
		m.listener, err = net.Listen("tcp", net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errMetricsAddress, err)
	}
	if addr := m.listener.Addr().(*net.TCPAddr); !addr.IP.IsLoopback() {
		log.Warn("other machines can reach the metrics, which tell how many users, keys and logins there are", "addr", addr.String())
	}
	return nil
}

// start serves the metrics of a store, and returns a function that ends it.
func (m *metricsServer) start(store *latchkey.Store, log *slog.Logger) (end func()) {
	srv := &http.Server{
		Handler:           metrics.Handler(store),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the metrics have ended", "reason", err.Error())
		}
	}()
	log.Info("serving metrics", "url", "http://"+m.listener.Addr().String()+"/metrics")
	return func() {
		_ = srv.Close()
		<-done
	}
}
