package appservicestest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/appservices/appservicestest"
)

// An exampleT replaces the *testing.T of a test, because an example has none.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func (t *exampleT) Helper()                  {}
func (t *exampleT) Context() context.Context { return context.Background() }
func (t *exampleT) Output() io.Writer        { return io.Discard }
func (t *exampleT) Cleanup(fn func())        { t.cleanups = append(t.cleanups, fn) }
func (t *exampleT) Fatal(args ...any)        { log.Fatal(args...) }

// end does what go test does at the end of a test.
func (t *exampleT) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

var ada = appservices.Seed{Users: []appservices.SeedUser{{
	Email: "ada@example.com", Password: "correct horse",
	Keys: []appservices.SeedKey{{Name: "laptop"}},
}}}

// send does what an SDK does, and returns the status and the fields of the reply.
func send(method, url, bearer, body string) (status int, reply map[string]string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&reply)
	return resp.StatusCode, reply
}

// logIn logs in with a key.
func logIn(double *appservicestest.Server, token string) (status int, session map[string]string) {
	path := "/api/client/v2.0/app/" + double.AppID + "/auth/providers/api-key/login"
	return send("POST", double.URL+path, "", `{"key":"`+token+`"}`)
}

// In a test, t is the *testing.T of the test. The app or its SDK gets the URL and the AppID.
func ExampleStart() {
	t := &exampleT{}
	defer t.end()
	double := appservicestest.Start(t, &appservicestest.Options{Seed: appservices.Seed{
		Users: []appservices.SeedUser{{
			Email: "ada@example.com", Password: "correct horse",
			Keys: []appservices.SeedKey{{Name: "laptop"}},
		}},
	}})

	status, session := logIn(double, double.Token("ada@example.com", "laptop"))
	fmt.Println(status, session["user_id"] == double.Seeded.Users[0].ID)

	// The work of an administrator goes through the store.
	key := double.Seeded.Users[0].Keys[0].Key
	if err := double.Store.DisableKey(context.Background(), key.Owner, key.ID); err != nil {
		log.Fatal(err)
	}
	status, refusal := logIn(double, double.Token("ada@example.com", "laptop"))
	fmt.Println(status, refusal["error_code"])
	// Output:
	// 200 true
	// 401 AuthError
}

// Fixtures can contain IDs and tokens that are the same in every run.
func ExampleStart_fixtures() {
	t := &exampleT{}
	defer t.end()
	seed := ada
	seed.Value = "fixtures-1"
	double := appservicestest.Start(t, &appservicestest.Options{Seed: seed})

	fmt.Println(double.Seeded.Users[0].ID)
	fmt.Println(double.Token("ada@example.com", "laptop"))
	// Output:
	// 6955b9009f9c8eb84d0960ce
	// lk_08YRRPw2KvoFWcB5Ev1IJV6QBJQSThy5i6a2RelY86JR2KBYhWGEFm7HYKmG9fwUgtJ9ZE0y5tvpf
}

func ExampleServer_clock() {
	t := &exampleT{}
	defer t.end()
	double := appservicestest.Start(t, &appservicestest.Options{
		Seed:    ada,
		Handler: appservices.Options{AccessTokenLife: time.Minute},
	})
	_, session := logIn(double, double.Token("ada@example.com", "laptop"))
	profile := double.URL + "/api/client/v2.0/auth/profile"

	status, _ := send("GET", profile, session["access_token"], "")
	fmt.Println(status)

	double.Clock.Advance(time.Minute)
	status, refusal := send("GET", profile, session["access_token"], "")
	fmt.Println(status, refusal["error"])
	// Output:
	// 200
	// 401 invalid session: access token expired
}

func ExampleServer_Fault() {
	t := &exampleT{}
	defer t.end()
	double := appservicestest.Start(t, &appservicestest.Options{Seed: ada})
	token := double.Token("ada@example.com", "laptop")

	// The second login fails, and the third login gets no answer.
	logins := "/app/*/auth/providers/*/login"
	double.Fault(appservices.Fault{Method: "POST", Path: logins, From: 2, To: 2, Status: 503, Error: "down for a moment"})
	double.Fault(appservices.Fault{Method: "POST", Path: logins, From: 3, To: 3, Drop: true})
	for range 4 {
		status, reply := logIn(double, token)
		fmt.Printf("%d %q\n", status, reply["error"])
	}
	// Output:
	// 200 ""
	// 503 "down for a moment"
	// 0 ""
	// 200 ""
}
