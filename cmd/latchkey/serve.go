package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/replica"
)

// errAddress means that serve cannot listen on the address of --addr.
var errAddress = errors.New("cannot listen")

// shutdownTime is how long the server waits for requests in progress when it is told to end.
// Windows ends a program 5 s after its console was closed.
const shutdownTime = 4 * time.Second

// server is one run of the command serve.
type server struct {
	*cli
	trail        *audit.Trail  // of the store
	edge         *replica.Edge // nil unless the store is one of an edge
	addr         string
	ephemeral    bool
	seedFile     string
	tokenFile    string
	endSessions  bool
	control      bool
	noSocket     bool
	confirmation choiceFlag
	logFormat    choiceFlag
	cost         latchkey.Cost
	opts         appservices.Options

	customToken customTokenFlags
	page        pageServer
	metrics     metricsServer

	seed   *seedDocument // nil without --seed
	log    *slog.Logger
	clock  *appservices.Clock
	stores latchkey.Options // the options that every store is opened with
}

//go:embed serve.txt
var serveHelp string

func serveCommand(c *cli) *cobra.Command {
	s := &server{
		cli:          c,
		confirmation: choiceFlag{"automatic", []string{"automatic", "manual"}},
		logFormat:    newLogFormat(),
		stores:       latchkey.Options{AppServicesNames: true},
	}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the client API of MongoDB Realm / Atlas App Services, for its SDKs",
		Long:  strings.TrimSpace(serveHelp),
		Example: examples(
			"latchkey serve --ephemeral --seed seed.yaml --tokens tokens.json",
			"latchkey serve --ephemeral --addr 127.0.0.1:0 --control > url",
			"latchkey serve --ephemeral --app-id myapp-abcde --custom-token-key jwks.json --custom-token-field email=mail",
			"latchkey serve --store keys.db --admin",
			"latchkey serve --store keys.db --app-id myapp-abcde --public-url https://keys.example.com --trust-forwarded",
		),
		Args: func(cmd *cobra.Command, args []string) error {
			if s.page.on() && len(args) > 0 {
				return errors.New("serve takes no arguments; an address of --admin follows an equals sign, as in --admin=127.0.0.1:9091")
			}
			return takes()(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	s.addFlags(cmd)
	s.completeFlags(cmd)
	return cmd
}

func (s *server) run(cmd *cobra.Command) error {
	if err := s.checkFlags(cmd.Flags().Changed("store")); err != nil {
		return err
	}
	if err := s.readSeed(); err != nil {
		return err
	}
	s.opts.ManualConfirmation, s.opts.LogPages = s.confirmation.value == "manual", true
	s.startLog()
	if err := s.readTokenKeys(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", errAddress, err)
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
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		s.log.Warn("other machines can reach this address, and without TLS others on the network can read the requests", "addr", listener.Addr().String())
		if s.opts.PublicURL == "" {
			s.log.Warn("replies name the host that a request was sent to, so a cache in front could send clients elsewhere; give --public-url")
		}
	}
	s.startClock()
	s.setCost()
	s.setLimits()
	if s.ephemeral {
		return s.serveMemory(cmd.Context(), listener)
	}
	path, err := s.existing()
	if err != nil {
		return err
	}
	one, err := openTrailed(cmd.Context(), path, replica.Options{Store: s.stores, Logger: s.log}, s.chainFor(path), s.wait)
	if err != nil {
		return err
	}
	s.trail, s.edge = one.trail, one.edge
	ctx, cancel := context.WithCancel(cmd.Context())
	var watch sync.WaitGroup
	if s.edge != nil {
		watch.Go(func() {
			if err := s.edge.Follow(ctx); ctx.Err() == nil {
				s.log.Error("the store no longer follows its hub", "reason", line(text(err)))
			}
		})
	}
	health := func(ctx context.Context) error { return errors.Join(one.Health(ctx), s.trail.Health()) }
	watch.Go(func() { watchHealth(ctx, time.Tick(healthEvery), health, s.log) })
	err = s.serve(cmd.Context(), listener, one.Store)
	cancel()
	watch.Wait()
	if !errors.Is(err, audit.ErrBroken) { // the error says so already
		if err := s.trail.Health(); err != nil {
			s.warn(line(text(err)), trailAdvice)
		}
	}
	return errors.Join(err, one.close())
}

func (s *server) startLog() {
	s.log = s.newLog(s.logFormat)
	s.opts.Logger = s.log
	s.opts.Mail = func(ctx context.Context, m appservices.Mail) {
		// The level must be one that --quiet keeps, because only the log has these tokens.
		s.log.WarnContext(ctx, "mail", "app_id", m.AppID, "email", m.Email, "kind", m.Kind, "token", m.Token, "token_id", m.TokenID)
	}
}

// startClock makes the clock of the stores, the sessions and the custom tokens. If the seed has a
// value, the clock stands at [appservices.SeedTime] until the seed is planted. The stores go back
// with the clock if the control endpoint can move it.
func (s *server) startClock() {
	s.clock = appservices.NewClock(time.Now())
	if s.seed != nil && s.seed.Value != "" {
		s.clock.Set(appservices.SeedTime)
		s.stores.InsecureRand, s.opts.InsecureRand = appservices.Deterministic(s.seed.Value)
		s.stores.TestClock = true
	}
	s.stores.TestClock = s.stores.TestClock || s.control
	s.opts.Now, s.stores.Now, s.customToken.verifier.Now = s.clock.Now, s.clock.Now, s.clock.Now
}

// setCost sets the cost of hashes in the stores, and the memory that hashes may use at the same
// time.
func (s *server) setCost() {
	s.stores.Cost = s.cost
	if s.cost == (latchkey.Cost{}) && s.ephemeral {
		s.stores.Cost = latchkey.LightCost
	}
	s.stores.HashMemory = max(64<<20, int64(s.stores.Cost.Memory)<<10)
}

// setLimits lifts the limits that are there to protect the disk and other people, if nothing is
// kept. The tests that use such a store make many users.
func (s *server) setLimits() {
	for _, limit := range []*int{&s.opts.WriteLimit, &s.opts.MailLimit} {
		if s.ephemeral && *limit == 0 {
			*limit = -1
		}
	}
}

// serveMemory serves stores in memory: one store for all apps if there is a seed or a page for
// administrators, or else a store for each app. The stores need no closing, because they end with
// the process.
func (s *server) serveMemory(ctx context.Context, listener net.Listener) error {
	if s.page.on() { // which shows the trail
		s.trail = audit.New(nil)
		s.stores.OnChange = s.trail.Record
	}
	if s.seed == nil && !s.page.on() {
		s.opts.OpenApp = func(context.Context, string) (*latchkey.Store, error) { return memory.Open(&s.stores) }
		return s.serve(ctx, listener, nil)
	}
	one, err := memory.Open(&s.stores)
	if err != nil {
		return err
	}
	return s.serve(ctx, listener, one)
}

// serve answers requests until ctx ends or a signal comes. one is the store of all apps. It is nil
// if each app has a store of its own.
func (s *server) serve(ctx context.Context, listener net.Listener, one *latchkey.Store) error {
	ctx, forced, stop := onSignals(ctx)
	defer stop()
	handler, err := appservices.New(one, &s.opts)
	if err != nil {
		return err
	}
	if s.endSessions {
		if err := handler.EndSessions(ctx, ""); err != nil {
			return err
		}
		s.log.Warn("all sessions of earlier runs have ended, because --end-sessions was given")
	}
	if s.seed != nil {
		if err := s.plant(ctx, handler); err != nil {
			return err
		}
	}
	s.clock.Set(time.Now())
	s.clock.Run()

	srv := appservices.NewServer(listener.Addr().String(), handler)
	if s.control {
		srv.Handler = newControl(handler, s.clock, s.log)
	}
	if s.page.on() {
		end, err := s.page.start(one, s.administered(), s.log)
		if err != nil {
			return err
		}
		defer func() {
			limit, cancel := context.WithTimeout(forced, shutdownTime)
			defer cancel()
			end(limit)
		}()
	}
	if s.metrics.on() {
		defer s.metrics.start(one, s.log)()
	}
	if !s.ephemeral && !s.noSocket && !etcd.IsURL(s.store) {
		defer openSocket(one, s.store, s.administered(), s.log)()
	}
	actor := context.WithoutCancel(ctx)
	srv.BaseContext = func(net.Listener) context.Context { return actor }
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	if err := s.printURL(listener.Addr().(*net.TCPAddr)); err != nil {
		return errors.Join(err, srv.Close())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return s.end(forced, srv)
}

// administered returns the options for administering the store.
func (s *server) administered() admin.Options {
	return admin.Options{Trail: s.trail, Page: s.page.page, Logger: s.log, Edge: s.edge}
}

// end ends srv as soon as the requests in progress are answered. It cuts these requests off after
// shutdownTime, or when forced ends.
func (s *server) end(forced context.Context, srv *http.Server) error {
	s.log.Info("ending")
	limit, cancel := context.WithTimeout(forced, shutdownTime)
	defer cancel()
	if srv.Shutdown(limit) != nil {
		s.log.Warn("requests in progress were cut off", "asked_twice", limit.Err() == context.Canceled)
		return srv.Close()
	}
	return nil
}

// onSignals returns two contexts. The first interrupt or SIGTERM ends the first context, and the
// next one ends the second.
func onSignals(parent context.Context) (first, second context.Context, stop func()) {
	first, endFirst := context.WithCancel(parent)
	second, endSecond := context.WithCancel(context.Background())
	signals, stopped := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for _, end := range []func(){endFirst, endSecond} {
			select {
			case <-signals:
				end()
			case <-stopped:
				return
			}
		}
	}()
	return first, second, func() {
		signal.Stop(signals)
		close(stopped)
		endFirst()
		endSecond()
	}
}

// urlOf returns a URL of a server that listens on addr.
func urlOf(addr *net.TCPAddr, secure bool) string {
	host, scheme := addr.IP.String(), "http"
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	if secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// printURL prints the URL of the server, which listens on addr, and a sign-in URL of the page. Only
// standard output has the sign-in URL, because it is a secret.
func (s *server) printURL(addr *net.TCPAddr) error {
	doc := struct {
		URL  string `json:"url"`
		Page string `json:"page,omitempty"`
	}{URL: urlOf(addr, false)}
	if s.page.on() {
		doc.Page = s.page.page.SignInURL()
	}
	s.log.Info("serving", "url", doc.URL, "app_ids", s.opts.AppIDs)
	return s.print(doc, func(w io.Writer) {
		fmt.Fprintln(w, doc.URL)
		if doc.Page != "" {
			fmt.Fprintln(w, doc.Page)
		}
	})
}
