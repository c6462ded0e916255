package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// errAddress: the address to listen on cannot be had.
var errAddress = errors.New("cannot listen")

// shutdownTime is how long requests under way have to end when the server is told to.
const shutdownTime = 5 * time.Second

// server is one run of serve.
type server struct {
	*app
	addr      string
	ephemeral bool
	seedFile  string
	tokenFile string
	control   bool
	confirm   choiceFlag
	logFormat choiceFlag
	cost      latchkey.Cost
	opts      appservices.Options

	customTokenKey string // the file
	customToken    appservices.JWTVerifier

	seed   *appservices.Seed // nil for none
	log    *slog.Logger
	clock  *appservices.Clock
	stores latchkey.Options // how stores are opened
}

func serveCommand(a *app) *cobra.Command {
	s := &server{
		app:       a,
		confirm:   choiceFlag{"automatic", []string{"automatic", "manual"}},
		logFormat: choiceFlag{"text", []string{"text", "json"}},
	}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the client API of MongoDB Realm / Atlas App Services, for its SDKs",
		Long: `Serve the client API of MongoDB Realm / Atlas App Services, so that an app with one of its SDKs logs users in and manages
their keys here, when its base URL is changed to the one that serve prints.

When it is ready, serve prints its URL on one line of standard output, and nothing else there. It logs requests to
standard error, without tokens; but what an e-mail to a user would carry, the tokens that confirm an address or reset a
password, is logged, with --quiet too, since no mail is sent. An interrupt or SIGTERM ends it when the requests under way
are answered, or after 5 seconds; a second one ends it at once.

It needs --store, for a store that latchkey init has made, or --ephemeral, for one in memory. With --ephemeral, each app ID
has a store of its own, unless there is a seed; with --store, all app IDs are names of one app. The first 100 app IDs that
are asked for get a store of their own; any other is answered with status 503 until serve is started again.

Custom tokens are JSON Web Tokens that another authority issues. With --custom-token-key they log in who is their "sub", if
they have the app ID as "aud", or what --custom-token-audience says, and an "exp" that has not passed. Custom functions and
the logins of Google, Facebook and Apple need a program in Go, which gives appservices.Options a function for each; here
they log nobody in.

--seed is a file in YAML or JSON of what is there from the start; appservices/seed.schema.json in the source is its schema:

    seed: fixtures-1              # optional: makes all IDs and tokens the same in every run
    users:
      - email: ada@example.com
        password: correct horse
        keys:
          - name: laptop
          - {name: lost, disabled: true}
      - email: bob@example.com
        password: battery staple
        disabled: true
      - identities: [{provider: custom-token, subject: "42"}]
      - anonymous: true
    server_keys:
      - name: backup-job

A store that has users, registered addresses or server keys already is left as it is. Whoever knows a seed's value can make
every token, so it needs --ephemeral. --tokens receives the IDs and tokens, as JSON, before the URL is printed:

    {"app_id":TEXT,"users":[{"id":ID,"email":TEXT,"keys":[{"id":ID,"name":TEXT,"token":TOKEN}]}],"server_keys":[...]}

--control lets programs on the same machine make requests fail, and move the clock. Never give it behind a proxy, which
may send what others sent as if it were its own:

    curl -d '{"path":"/auth/api_keys","status":500,"error_code":"InternalServerError","to":1}' URL/.latchkey/control/faults
    curl -d '{"advance":"31m"}' URL/.latchkey/control/clock

A fault has a "method", "path" (a pattern for what comes behind /api/client/v2.0; ** at its end is any rest) and "app_id"
for the requests that it is for, "from", "to" and "every" to choose among these, and "delay", "drop" or "status",
"error_code" and "error" for what happens. GET shows the faults and how often each has fired, and DELETE ends them. The
clock is given "advance" or "set", and "running", false to let it stand; GET shows it. It goes from 1970 to the end of
2105.`,
		Example: examples(
			"latchkey serve --ephemeral --seed seed.yaml --tokens tokens.json",
			"latchkey serve --ephemeral --addr 127.0.0.1:0 --control > url",
			"latchkey serve --ephemeral --custom-token-key secret.txt --custom-token-field email=mail",
			"latchkey serve --store keys.db --app-id myapp-abcde --public-url https://keys.example.com --trust-forwarded",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.addr, "addr", "127.0.0.1:9090", "the `HOST:PORT` to listen on; port 0 is any that is free")
	flags.StringArrayVar(&s.opts.AppIDs, "app-id", nil, "an app `ID` to know; may be repeated (default any)")
	flags.BoolVar(&s.ephemeral, "ephemeral", false, "keep everything in memory, which is gone when serve ends")
	flags.StringVar(&s.seedFile, "seed", "", "the `FILE` of what is there from the start")
	flags.StringVar(&s.tokenFile, "tokens", "", "the `FILE` to write the seed's IDs and tokens to")
	flags.Var((*costFlag)(&s.cost), "cost", "what a hash of a key or password costs (default light with --ephemeral, else default)")
	flags.Lookup("cost").DefValue = ""
	flags.Var((*lifeFlag)(&s.opts.AccessTokenLife), "access-token-life", "how long an access token is good (default 30m)")
	flags.Var((*lifeFlag)(&s.opts.RefreshTokenLife), "refresh-token-life", "how long a session can last (default 60d; 50 years for anonymous users)")
	flags.Var(&s.confirm, "confirm", "how e-mail addresses are confirmed: automatic, or manual with a token from the log")
	flags.Var((*providersFlag)(&s.opts.Providers), "providers", "the providers by which users can log in, with commas between them (default all)")
	flags.StringVar(&s.customTokenKey, "custom-token-key", "", "the `FILE` of the key that custom tokens are signed with: an RSA public key in PEM, or a secret for HS256")
	flags.StringVar(&s.customToken.Audience, "custom-token-audience", "", "the `TEXT` that \"aud\" of a custom token must have (default the app ID)")
	flags.StringToStringVar(&s.customToken.Fields, "custom-token-field", nil, "a field of the profile, and the claim of custom tokens that it is taken from, as `NAME=CLAIM`; may be repeated")
	flags.Lookup("custom-token-field").DefValue = ""
	flags.BoolVar(&s.opts.AllowKeySessions, "allow-key-sessions", false, "let sessions that were opened with a user key manage the user's keys")
	flags.BoolVar(&s.opts.ExplainForbidden, "explain-forbidden", false, "say why in refusals with status 403, which have no body otherwise")
	flags.Float64Var(&s.opts.FailedLogins, "failed-logins", 1, "`N` logins a second may fail from one address after --failed-login-burst have; -1 is no limit")
	flags.IntVar(&s.opts.FailedLoginBurst, "failed-login-burst", 1000, "`N` logins may fail from one address before --failed-logins matters")
	flags.StringArrayVar(&s.opts.AllowedOrigins, "allow-origin", nil, "an `ORIGIN` whose pages may call, such as https://app.example.com, or null; may be repeated (default any)")
	flags.BoolVar(&s.opts.AllowPrivateNetwork, "allow-private-network", false, "let public pages call a private address, which Chromium asks for")
	flags.StringVar(&s.opts.PublicURL, "public-url", "", "the `URL` by which clients reach the server (default what they sent the request to)")
	flags.BoolVar(&s.opts.TrustForwarded, "trust-forwarded", false, "believe X-Forwarded-Proto, -Host and -For; only behind a proxy that sets them")
	flags.BoolVar(&s.opts.OldTexts, "old-texts", false, "answer failed logins as before May 2024, for Kotlin SDKs up to 1.16")
	flags.BoolVar(&s.control, "control", false, "let programs on this machine make requests fail and move the clock")
	flags.Var(&s.logFormat, "log-format", "the format of the log: text or json")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "log warnings, errors and mails only")

	for _, file := range []string{"seed", "tokens", "custom-token-key"} {
		_ = cmd.RegisterFlagCompletionFunc(file, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	}
	for flag, values := range map[string][]string{
		"cost": {"default", "light"}, "confirm": s.confirm.of, "log-format": s.logFormat.of, "providers": providers,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func (s *server) run(cmd *cobra.Command) error {
	if err := s.check(cmd.Flags().Changed("store")); err != nil {
		return err
	}
	if err := s.readSeed(); err != nil {
		return err
	}
	if err := s.readTokenKey(); err != nil {
		return err
	}
	s.startLog()
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", errAddress, err)
	}
	defer listener.Close()
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		s.log.Warn("other machines can reach this address, and without TLS all can read what it is sent", "addr", listener.Addr().String())
	}
	s.startClock()
	if s.ephemeral {
		return s.serveMemory(cmd.Context(), listener)
	}
	return s.with(cmd.Context(), s.stores, func(one *latchkey.Store) error { return s.serve(cmd.Context(), listener, one) })
}

// check is about what flags say together.
func (s *server) check(storeGiven bool) error {
	switch {
	case s.ephemeral && storeGiven:
		return usagef("--ephemeral and --store exclude each other")
	case !s.ephemeral && s.store == "":
		return usagef("no store is named: give --store FILE, set LATCHKEY_STORE, or give --ephemeral")
	case s.tokenFile != "" && s.seedFile == "":
		return usagef("--tokens receives what --seed makes: give that too")
	case s.seedFile != "" && len(s.opts.AppIDs) > 1:
		return usagef("a seed is for one app: give --app-id once")
	case s.opts.PublicURL != "" && !isBaseURL(s.opts.PublicURL):
		return usagef("--public-url is a scheme and a host, such as https://keys.example.com")
	case s.customTokenKey == "" && (s.customToken.Audience != "" || len(s.customToken.Fields) > 0):
		return usagef("custom tokens are refused without a key: give --custom-token-key FILE")
	case s.opts.FailedLogins == 0 || math.IsNaN(s.opts.FailedLogins) || math.IsInf(s.opts.FailedLogins, 0):
		return usagef("--failed-logins is a number above 0, or -1 for no limit")
	case s.opts.FailedLoginBurst < 1:
		return usagef("--failed-login-burst is at least 1")
	}
	for _, id := range s.opts.AppIDs {
		if len(id) > 64 || latchkey.CheckAppServicesName(id) != nil {
			return usagef("--app-id is 1 to 64 letters, digits, '-' and '_'")
		}
	}
	for _, origin := range s.opts.AllowedOrigins {
		if !isOrigin(origin) {
			return usagef("--allow-origin is a scheme and a host, such as https://app.example.com, or null")
		}
	}
	return nil
}

func isBaseURL(s string) bool {
	return isOrigin(s) && (strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://"))
}

// isOrigin reports whether s is what browsers send for an origin. Apps that bring their own pages have schemes of their own,
// such as capacitor://localhost, and pages from files have null.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return s == "null" || err == nil && u.Scheme != "" && u.Host != "" && s == u.Scheme+"://"+u.Host
}

func (s *server) readSeed() error {
	if s.seedFile == "" {
		return nil
	}
	data, err := os.ReadFile(s.seedFile)
	if err != nil {
		return missing(err, s.seedFile)
	}
	if data, err = yaml.YAMLToJSONStrict(data); err == nil {
		s.seed = &appservices.Seed{}
		*s.seed, err = appservices.ParseSeed(data)
	}
	switch {
	case err != nil:
		return usagef("%s: %w", s.seedFile, err)
	case s.seed.Value != "" && !s.ephemeral:
		return usagef("%s has a value that its tokens are made from, and whoever knows it could make them too: leave it out, or give --ephemeral", s.seedFile)
	case s.seed.Value == "" && s.tokenFile == "" && s.seed.HasKeys():
		return usagef("nobody would learn the tokens of the seed's keys: give --tokens FILE")
	}
	return nil
}

func (s *server) readTokenKey() error {
	if s.customTokenKey == "" {
		return nil
	}
	data, err := os.ReadFile(s.customTokenKey)
	if err != nil {
		return missing(err, s.customTokenKey)
	}
	if s.customToken.Key, err = parseTokenKey(data); err != nil {
		return usagef("%s: %w", s.customTokenKey, err)
	}
	s.opts.CustomToken = s.customToken.Verify
	return nil
}

// missing makes errNoFile of an error that says that the file at path is not there.
func missing(err error, path string) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, errNoFile)
	}
	return err
}

func (s *server) startLog() {
	opts := &slog.HandlerOptions{}
	if s.quiet {
		opts.Level = slog.LevelWarn
	}
	s.log = slog.New(slog.NewTextHandler(s.stderr, opts))
	if s.logFormat.value == "json" {
		s.log = slog.New(slog.NewJSONHandler(s.stderr, opts))
	}
	s.opts.Logger = s.log
	s.opts.ManualConfirmation = s.confirm.value == "manual"
	s.opts.Mail = func(ctx context.Context, m appservices.Mail) {
		// At a level that --quiet keeps: the log is all that the tokens go to.
		s.log.WarnContext(ctx, "mail", "app_id", m.AppID, "email", m.Email, "kind", m.Kind, "token", m.Token, "token_id", m.TokenID)
	}
}

// startClock says how stores are opened, and by what clock. A seed with a value finds it standing.
func (s *server) startClock() {
	s.clock = appservices.NewClock(time.Now())
	if s.seed != nil && s.seed.Value != "" {
		s.clock.Set(appservices.SeedTime)
		s.stores.InsecureRand, s.opts.InsecureRand = appservices.Deterministic(s.seed.Value)
	}
	s.opts.Now, s.stores.Now, s.customToken.Now = s.clock.Now, s.clock.Now, s.clock.Now
	s.stores.Cost = s.cost
	if s.cost == (latchkey.Cost{}) && s.ephemeral {
		s.stores.Cost = latchkey.LightCost
	}
	s.stores.HashMemory = max(64<<20, int64(s.stores.Cost.Memory)<<10)
}

// serveMemory serves from one store for all apps, if there is a seed, and else from one for each app that is asked for.
// They go with the process, and need no closing.
func (s *server) serveMemory(ctx context.Context, listener net.Listener) error {
	if s.seed == nil {
		s.opts.OpenApp = func(context.Context, string) (*latchkey.Store, error) { return memory.Open(&s.stores) }
		return s.serve(ctx, listener, nil)
	}
	one, err := memory.Open(&s.stores)
	if err != nil {
		return err
	}
	return s.serve(ctx, listener, one)
}

// serve answers requests until it is told to end. one is the store of all apps, or nil.
func (s *server) serve(ctx context.Context, listener net.Listener, one *latchkey.Store) error {
	ctx, forced, stop := onSignals(ctx)
	defer stop()
	handler, err := appservices.New(one, &s.opts)
	if err != nil {
		return err
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
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	if err := s.tell(listener.Addr().(*net.TCPAddr)); err != nil {
		return errors.Join(err, srv.Close())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return s.end(forced, srv)
}

// end ends srv when the requests under way are answered, or after shutdownTime, or when forced ends.
func (s *server) end(forced context.Context, srv *http.Server) error {
	s.log.Info("ending")
	limit, cancel := context.WithTimeout(forced, shutdownTime)
	defer cancel()
	if srv.Shutdown(limit) != nil {
		s.log.Warn("requests under way were cut off", "asked_twice", limit.Err() == context.Canceled)
		return srv.Close()
	}
	return nil
}

// onSignals returns two contexts: one that the first signal to end the process ends, and one that the second does.
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

// tell prints the URL.
func (s *server) tell(addr *net.TCPAddr) error {
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	doc := struct {
		URL string `json:"url"`
	}{"http://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))}
	s.log.Info("serving", "url", doc.URL, "app_ids", s.opts.AppIDs)
	return s.print(doc, func(w io.Writer) { fmt.Fprintln(w, doc.URL) })
}

// plant makes what the seed says, unless the store is somebody's already, and writes the tokens.
func (s *server) plant(ctx context.Context, handler *appservices.Handler) error {
	appID := ""
	if len(s.opts.AppIDs) > 0 {
		appID = s.opts.AppIDs[0]
	}
	empty, err := handler.IsEmpty(ctx, appID)
	if err != nil {
		return err
	}
	if !empty {
		s.log.Warn("there are users, registered addresses or server keys in the store already: the seed was left out", "seed", s.seedFile)
		return nil
	}
	seeded, err := handler.Seed(ctx, appID, *s.seed)
	if err != nil {
		return fmt.Errorf("%s: %w", s.seedFile, err)
	}
	if s.tokenFile == "" {
		return nil
	}
	return writeTokens(s.tokenFile, seeded)
}

// writeTokens writes the file in one step, so that nobody who waits for it reads a part. A pipe or a device, such as
// /dev/stdout, is written to, and not replaced; a link stays a link.
func writeTokens(path string, seeded appservices.Seeded) error {
	data, err := json.MarshalIndent(seeded, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if file, err := filepath.EvalSymlinks(path); err == nil {
		path = file
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, data, 0o600)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
