// Package appservicestest gives a Go test a running double of the hosted service, [appservices.Handler], that an app or an
// SDK is pointed at by base URL:
//
//	double := appservicestest.Start(t, nil)
//	app := myapp.New(double.URL, double.AppID)
//
// Each double is a world of its own, ready in a fraction of a millisecond: it keeps everything in memory, and hashes at a
// light cost. It can be given users and keys to start with; its clock stands until the test moves it; and it can be told
// to fail.
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

// Options changes what a double is. A nil *Options, or one with only zero fields, is a double without users.
type Options struct {
	// AppID is the only app that the double knows. The default is "app-test".
	AppID string

	// Seed is what the double holds from the start. If it has a value, all IDs and tokens are the same in every run, as
	// long as the test makes its requests one after the other.
	Seed appservices.Seed

	// Handler changes how the double answers, such as how long its tokens are good. Start sets AppIDs and Now, and, for a
	// seed with a value, InsecureRand.
	Handler appservices.Options

	// Clock is the double's time. The default stands at the time of Start.
	Clock *appservices.Clock

	// Store is a store of the test's own for the double to use, which the double does not close. It should go by Clock. The
	// default is a new one in memory. A store of the test's own decides itself whether a seed's IDs are always the same.
	Store *latchkey.Store
}

// A Server is a running double. Its methods may be called by several goroutines.
type Server struct {
	URL   string // such as http://127.0.0.1:41234: what SDKs call the base URL
	AppID string

	// Seeded is what was made of the seed: IDs, and tokens.
	Seeded appservices.Seeded

	// Clock is the double's time. It stands until the test moves it or lets it run; if the seed has a value, at
	// [appservices.SeedTime].
	Clock *appservices.Clock

	// Store has what the double keeps, and is the way to do what an administrator would.
	Store *latchkey.Store

	Handler *appservices.Handler

	t testing.TB
}

// Start runs a double on a free port of the loopback interface, until the test and its subtests end. It logs requests to
// the test's log, unless there is a logger in the options. opts may be nil. If it cannot start, the test fails.
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
	o.Handler.AppIDs, o.Handler.Now = []string{s.AppID}, s.Clock.Now
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
	settings := &latchkey.Options{Cost: latchkey.LightCost, AppServicesNames: true, Now: s.Clock.Now}
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

// listen serves requests until the test ends. What is under way then ends with it, however long it would still take.
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
		_ = srv.Serve(listener) // what it returns is that it was closed
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

// Fault makes requests fail, as [appservices.Handler.AddFault] says. If the fault is invalid, the test fails.
func (s *Server) Fault(f appservices.Fault) {
	s.t.Helper()
	if err := s.Handler.AddFault(f); err != nil {
		s.t.Fatal(err)
	}
}

// Token returns the token of a seeded key of the user with an e-mail address. If there is none, the test fails.
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

// ServerToken returns the token of a seeded server key. If there is none, the test fails.
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
