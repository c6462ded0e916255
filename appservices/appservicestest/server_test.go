package appservicestest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/appservices/appservicestest"
)

func logInByPassword(double *appservicestest.Server, email, password string) (status int, session map[string]string) {
	path := "/api/client/v2.0/app/" + double.AppID + "/auth/providers/local-userpass/login"
	return send("POST", double.URL+path, "", fmt.Sprintf(`{"username":%q,"password":%q}`, email, password))
}

func wantStatus(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got status %d, want %d", what, got, want)
	}
}

func TestADoubleHasOneAppAndTheKeysOfItsSeed(t *testing.T) {
	double := appservicestest.Start(t, &appservicestest.Options{AppID: "myapp-abcde", Seed: ada})
	for appID, want := range map[string]int{"myapp-abcde": 200, "app-test": 404} {
		got, _ := send("GET", double.URL+"/api/client/v2.0/app/"+appID+"/location", "", "")
		wantStatus(t, appID, got, want)
	}
	got, _ := logIn(double, double.Token("ada@example.com", "laptop"))
	wantStatus(t, "login with the key", got, 200)
	got, _ = logInByPassword(double, "ada@example.com", "correct horse")
	wantStatus(t, "login with the password", got, 200)
}

func TestADoubleWritesNoFiles(t *testing.T) {
	// A file in the default place would be written here, because an exampleT has no TempDir.
	t.Chdir(t.TempDir())
	for _, variable := range []string{"TMPDIR", "TMP", "TEMP"} {
		t.Setenv(variable, "no-such-directory")
	}
	et := &exampleT{}
	double := appservicestest.Start(et, &appservicestest.Options{Seed: ada})
	_, session := logInByPassword(double, "ada@example.com", "correct horse")
	got, _ := send("POST", double.URL+"/api/client/v2.0/auth/api_keys", session["refresh_token"], `{"name":"phone"}`)
	wantStatus(t, "create key", got, 201)
	if files, err := os.ReadDir("."); err != nil || len(files) > 0 {
		t.Errorf("there are the files %v, error %v", files, err)
	}
	et.end()
}

func TestDoublesAreIndependent(t *testing.T) {
	one, other := appservicestest.Start(t, &appservicestest.Options{Seed: ada}), appservicestest.Start(t, nil)
	if one.URL == other.URL {
		t.Fatalf("both are at %s", one.URL)
	}
	got, _ := logIn(other, one.Token("ada@example.com", "laptop"))
	wantStatus(t, "login with the other's key", got, 401)
	one.Clock.Advance(time.Hour)
	if one.Clock.Now().Equal(other.Clock.Now()) {
		t.Error("moving one clock has moved the other")
	}
	if err := one.Store.DisableUser(t.Context(), one.Seeded.Users[0].User.ID); err != nil {
		t.Fatal(err)
	}
	if stats, err := other.Store.Stats(t.Context()); err != nil || stats.Users != 0 {
		t.Errorf("the other has %d users, error %v", stats.Users, err)
	}
}

func TestASeedWithAValueMakesTheSameInEveryRun(t *testing.T) {
	// The later IDs and tokens are the same, too.
	run := func(value appservices.SeedValue) (all [4]any) {
		seed := ada
		seed.Value = value
		seed.Users = append(seed.Users, appservices.SeedUser{Anonymous: true})
		for i := range 12 {
			seed.ServerKeys = append(seed.ServerKeys, appservices.SeedKey{Name: fmt.Sprint("job-", i)})
		}
		double := appservicestest.Start(t, &appservicestest.Options{Seed: seed})
		_, session := logInByPassword(double, "ada@example.com", "correct horse")
		status, key := send("POST", double.URL+"/api/client/v2.0/auth/api_keys", session["refresh_token"], `{"name":"phone"}`)
		wantStatus(t, "create key", status, 201)
		return [4]any{double.Seeded, double.Store.DomainID(), session, key["key"]}
	}
	first := run("fixtures-1")
	procs := runtime.GOMAXPROCS(1)
	second := run("fixtures-1")
	runtime.GOMAXPROCS(procs)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("two runs differ:\n%v\n%v", first, second)
	}
	for i, other := range run("fixtures-2") {
		if reflect.DeepEqual(other, first[i]) {
			t.Errorf("another value makes the same: %v", other)
		}
	}
	if reflect.DeepEqual(run(""), run("")) {
		t.Error("without a value two runs make the same")
	}
}

func TestADoubleUsesItsClock(t *testing.T) {
	start := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	double := appservicestest.Start(t, &appservicestest.Options{
		Seed:  ada,
		Clock: appservices.NewClock(start),
		Handler: appservices.Options{
			AccessTokenLife: time.Minute, RefreshTokenLife: time.Hour,
		},
	})
	if made := double.Seeded.Users[0].Keys[0].Key.Created; !made.Equal(start) {
		t.Errorf("the seed was made at %v, want %v", made, start)
	}
	_, session := logInByPassword(double, "ada@example.com", "correct horse")
	refresh := func() (int, map[string]string) {
		return send("POST", double.URL+"/api/client/v2.0/auth/session", session["refresh_token"], "")
	}
	profile := func(token string) int {
		status, _ := send("GET", double.URL+"/api/client/v2.0/auth/profile", token, "")
		return status
	}
	double.Clock.Advance(time.Minute - time.Second)
	wantStatus(t, "in time", profile(session["access_token"]), 200)
	double.Clock.Advance(time.Second)
	wantStatus(t, "a minute later", profile(session["access_token"]), 401)
	status, fresh := refresh()
	wantStatus(t, "refresh", status, 201)
	wantStatus(t, "refreshed", profile(fresh["access_token"]), 200)
	double.Clock.Set(start.Add(time.Hour))
	status, _ = refresh()
	wantStatus(t, "refresh after an hour", status, 401)
}

func TestADoubleEndsWithItsTest(t *testing.T) {
	var url string
	logged := make(chan struct{}, 1)
	left := make(chan struct{})
	t.Run("test", func(t *testing.T) {
		double := appservicestest.Start(t, &appservicestest.Options{
			Handler: appservices.Options{Logger: slog.New(slog.NewTextHandler(signalWriter(logged), nil))},
		})
		url = double.URL + "/api/client/v2.0/app/app-test/location"
		status, _ := send("GET", url, "", "")
		wantStatus(t, "location", status, 200)
		<-logged

		// The test also ends a request that would wait for a very long time.
		double.Fault(appservices.Fault{Delay: 1000 * time.Hour})
		sent := make(chan struct{})
		go func() {
			defer close(left)
			req, _ := http.NewRequest("POST", url, &tellingReader{Reader: strings.NewReader("{}"), tell: func() { close(sent) }})
			if resp, err := http.DefaultClient.Do(req); err == nil {
				t.Errorf("the request was answered: %s", resp.Status)
			}
		}()
		<-sent
	})
	<-left
	if status, _ := send("GET", url, "", ""); status != 0 {
		t.Errorf("there is an answer after the test: %d", status)
	}
}

// A signalWriter sends a signal when something is written to it.
type signalWriter chan struct{}

func (w signalWriter) Write(p []byte) (int, error) {
	select {
	case w <- struct{}{}:
	default:
	}
	return len(p), nil
}

// A tellingReader tells when it was read to the end.
type tellingReader struct {
	io.Reader
	tell func()
	once sync.Once
}

func (r *tellingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.once.Do(r.tell)
	}
	return n, err
}

func TestADoubleCanUseAStoreOfTheTestsOwn(t *testing.T) {
	clock := appservices.NewClock(time.Now())
	store, err := latchkey.Open(t.TempDir()+"/keys.db", &latchkey.Options{Cost: latchkey.LightCost, Now: clock.Now, TestClock: true})
	if err != nil {
		t.Fatal(err)
	}
	var session map[string]string
	t.Run("before", func(t *testing.T) {
		double := appservicestest.Start(t, &appservicestest.Options{Store: store, Clock: clock, Seed: ada})
		_, session = logIn(double, double.Token("ada@example.com", "laptop"))
	})
	t.Run("after a restart", func(t *testing.T) {
		double := appservicestest.Start(t, &appservicestest.Options{Store: store, Clock: clock})
		status, _ := send("GET", double.URL+"/api/client/v2.0/auth/profile", session["access_token"], "")
		wantStatus(t, "profile", status, 200)
	})
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if _, err := store.Stats(context.Background()); !errors.Is(err, latchkey.ErrClosed) {
		t.Errorf("the store was closed by a double: %v", err)
	}
}

// A failingT is a test that should fail.
type failingT struct {
	exampleT
	said string
}

func (t *failingT) Fatal(args ...any)                 { t.said = fmt.Sprint(args...); runtime.Goexit() }
func (t *failingT) Fatalf(format string, args ...any) { t.Fatal(fmt.Sprintf(format, args...)) }

func TestMistakesFailTheTest(t *testing.T) {
	fail := func(do func(t testing.TB)) string {
		ft := &failingT{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			do(ft)
		}()
		<-done
		ft.end()
		return ft.said
	}
	start := func(opts *appservicestest.Options, do func(*appservicestest.Server)) func(testing.TB) {
		return func(t testing.TB) { do(appservicestest.Start(t, opts)) }
	}
	for _, tt := range []struct {
		name, want string
		do         func(testing.TB)
	}{
		{"seed", "needs a password", start(&appservicestest.Options{
			Seed: appservices.Seed{Users: []appservices.SeedUser{{Email: "ada@example.com"}}}}, nil)},
		{"options", "life", start(&appservicestest.Options{Handler: appservices.Options{AccessTokenLife: -1}}, nil)},
		{"fault", "does nothing", start(nil, func(s *appservicestest.Server) { s.Fault(appservices.Fault{}) })},
		{"user", `no user "bob@example.com"`, start(&appservicestest.Options{Seed: ada}, func(s *appservicestest.Server) { s.Token("bob@example.com", "laptop") })},
		{"key", `no such key "phone"`, start(&appservicestest.Options{Seed: ada}, func(s *appservicestest.Server) { s.Token("ada@example.com", "phone") })},
		{"server key", `no such key "laptop"`, start(&appservicestest.Options{Seed: ada}, func(s *appservicestest.Server) { s.ServerToken("laptop") })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if said := fail(tt.do); !strings.Contains(said, tt.want) {
				t.Errorf("it says %q, want something with %q", said, tt.want)
			}
		})
	}
}

// BenchmarkStart shows whether each test of a suite can have a double of its own. It measures the
// time from nothing to the first reply, with a user that has a password and a key.
func BenchmarkStart(b *testing.B) {
	opts := &appservicestest.Options{Seed: ada, Handler: appservices.Options{Logger: slog.New(slog.DiscardHandler)}}
	b.ReportAllocs()
	for b.Loop() {
		t := &exampleT{}
		double := appservicestest.Start(t, opts)
		if status, _ := send("GET", double.URL+"/api/client/v2.0/app/app-test/location", "", ""); status != 200 {
			b.Fatal(status)
		}
		b.StopTimer()
		t.end()
		b.StartTimer()
	}
}
