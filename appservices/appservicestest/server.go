// Package appservicestest gives a Go test a running double of the hosted service. The double is an
// [appservices.Handler] behind a server. An app or an SDK uses it by its base URL:
//
//	double := appservicestest.Start(t, nil)
//	app := myapp.New(double.URL, double.AppID)
//
// Each double is independent of all others, and starts in a fraction of a millisecond, because it
// keeps everything in memory and hashes at a light cost. A double can start with users and keys.
// Its clock stands until the test moves it. The test can also make requests fail.
package appservicestest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// Options describes a double. A nil *Options and the zero value give a double without users.
type Options struct {
	// AppID is the only app ID that the double knows. The default is "app-test".
	AppID string

	// Seed is the double's initial content. If the seed has a value, all IDs and tokens are the
	// same in every run, as long as the test makes its requests one after the other.
	Seed appservices.Seed

	// Handler changes how the double answers, for example how long its tokens are good. Start sets
	// AppIDs, Now and LogPages. For a seed with a value, it also sets InsecureRand. The defaults of
	// WriteLimit and MailLimit are no limit.
	Handler appservices.Options

	// Clock is the double's clock. The default clock stands at the time of Start.
	Clock *appservices.Clock

	// Store is the store that the double uses. The double does not close it. Its clock should be
	// Clock, with [latchkey.Options].TestClock. The default is a new store in memory. If the test
	// gives a store, the options of that store decide whether the IDs and tokens of a seed are the
	// same in every run.
	Store *latchkey.Store
}

// A Server is a running double. Several goroutines may call its methods at once.
type Server struct {
	URL   string // the base URL of SDKs, such as http://127.0.0.1:41234
	AppID string

	// Seeded has the IDs and tokens of the seed.
	Seeded appservices.Seeded

	// Clock is the double's clock. It stands until the test moves it or lets it run. If the seed
	// has a value, the clock starts at [appservices.SeedTime].
	Clock *appservices.Clock

	// Store is the double's store. A test uses it to do the work of an administrator.
	Store *latchkey.Store

	Handler *appservices.Handler

	t testing.TB
}

// Start runs a double on a free port of the loopback interface, until the test and its subtests
// end. The double logs requests to the log of the test, unless the options have a logger. opts may
// be nil. If the double cannot start, the test fails.
func Start(t testing.TB, opts *Options) *Server {
	t.Helper()
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.AppID == "" {
		o.AppID = "app-test"
	}
	if o.Clock == nil {
		o.Clock = appservices.NewClock(time.Now())
	}
	s := &Server{AppID: o.AppID, Clock: o.Clock, Store: o.Store, t: t}
	o.Handler.AppIDs, o.Handler.Now, o.Handler.LogPages = []string{s.AppID}, s.Clock.Now, true
	if o.Handler.WriteLimit == 0 {
		o.Handler.WriteLimit = -1
	}
	if o.Handler.MailLimit == 0 {
		o.Handler.MailLimit = -1
	}
	if o.Handler.Logger == nil {
		o.Handler.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if s.Store == nil {
		s.openStore(&o)
	}
	var err error
	if s.Handler, err = appservices.New(s.Store, &o.Handler); err != nil {
		t.Fatal(err)
	}
	if s.Seeded, err = s.Handler.Seed(t.Context(), s.AppID, o.Seed); err != nil {
		t.Fatal(err)
	}
	s.listen()
	return s
}

func (s *Server) openStore(o *Options) {
	s.t.Helper()
	settings := &latchkey.Options{Cost: latchkey.LightCost, AppServicesNames: true, Now: s.Clock.Now, TestClock: true}
	if o.Seed.Value != "" {
		s.Clock.Set(appservices.SeedTime)
		settings.InsecureRand, o.Handler.InsecureRand = appservices.Deterministic(o.Seed.Value)
	}
	store, err := memory.Open(settings)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Store = store
	s.t.Cleanup(func() {
		if err := store.Close(); err != nil {
			s.t.Error(err)
		}
	})
}

// listen serves requests until the test ends. Requests in progress end with the test, even if they
// would take longer.
func (s *Server) listen() {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.URL = "http://" + listener.Addr().String()
	ctx, cut := context.WithCancel(context.Background())
	var life sync.RWMutex // read-locked by requests
	ended := false
	srv := appservices.NewServer("", s.Handler)
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		life.RLock()
		defer life.RUnlock()
		if ended {
			panic(http.ErrAbortHandler)
		}
		s.Handler.ServeHTTP(w, r)
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(listener) // always http.ErrServerClosed
	}()
	s.t.Cleanup(func() {
		cut()
		_ = srv.Close()
		<-served
		life.Lock()
		defer life.Unlock()
		ended = true
	})
}

// Fault puts a fault in force, as [appservices.Handler.AddFault] does. If the fault is invalid, the
// test fails.
func (s *Server) Fault(f appservices.Fault) {
	s.t.Helper()
	if err := s.Handler.AddFault(f); err != nil {
		s.t.Fatal(err)
	}
}

// Token returns the token of a seeded key. The key's user has the given e-mail address. If there is
// no such key, the test fails.
func (s *Server) Token(email, key string) string {
	s.t.Helper()
	for _, u := range s.Seeded.Users {
		if u.Email == email {
			return s.find(u.Keys, key)
		}
	}
	s.t.Fatalf("the seed has no user %q", email)
	return ""
}

// ServerToken returns the token of a seeded server key. If there is no such key, the test fails.
func (s *Server) ServerToken(key string) string {
	s.t.Helper()
	return s.find(s.Seeded.ServerKeys, key)
}

func (s *Server) find(keys []appservices.SeededKey, name string) string {
	s.t.Helper()
	for _, k := range keys {
		if k.Name == name {
			return k.Token
		}
	}
	s.t.Fatalf("the seed has no such key %q", name)
	return ""
}
