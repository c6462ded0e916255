package main

import (
	"errors"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/appservices/appservicestest"
)

// start runs a double that is gone after the test, and returns a session with a key of Ada's.
func start(t *testing.T) (*appservicestest.Server, *session) {
	double := appservicestest.Start(t, &appservicestest.Options{Seed: appservices.Seed{
		Users: []appservices.SeedUser{{
			Email: "ada@example.com", Password: "correct horse",
			Keys: []appservices.SeedKey{{Name: "laptop"}},
		}},
	}})
	return double, &session{base: double.URL, appID: double.AppID, key: double.Token("ada@example.com", "laptop")}
}

func wantAda(t *testing.T, s *session) {
	t.Helper()
	if email, err := s.email(t.Context()); err != nil || email != "ada@example.com" {
		t.Errorf("got %q, %v", email, err)
	}
}

func TestTheKeyTellsItsUser(t *testing.T) {
	_, s := start(t)
	wantAda(t, s)
}

// The double's clock stands until the test moves it, so the test does not wait for half an hour.
func TestAnAccessTokenThatHasExpiredIsRenewed(t *testing.T) {
	double, s := start(t)
	wantAda(t, s)
	before := s.access
	double.Clock.Advance(31 * time.Minute)
	wantAda(t, s)
	if s.access == before {
		t.Error("the access token is the one that has expired")
	}
}

func TestASessionThatHasEndedBeginsAgain(t *testing.T) {
	double, s := start(t)
	wantAda(t, s)
	before := s.refresh
	double.Clock.Advance(61 * 24 * time.Hour)
	wantAda(t, s)
	if s.refresh == before {
		t.Error("the session is the one that has ended")
	}
}

// The store of the double does the work of an administrator.
func TestADisabledKeyLogsTheAppOut(t *testing.T) {
	double, s := start(t)
	wantAda(t, s)
	key := double.Seeded.Users[0].Keys[0].Key
	if err := double.Store.DisableKey(t.Context(), key.Owner, key.ID); err != nil {
		t.Fatal(err)
	}
	if email, err := s.email(t.Context()); !errors.Is(err, errLoggedOut) {
		t.Errorf("got %q, %v", email, err)
	}
}

// A fault makes a request fail that the double would answer.
func TestTheAppOutlivesOneFailureOfTheService(t *testing.T) {
	double, s := start(t)
	double.Fault(appservices.Fault{Path: "/auth/profile", To: 1, Status: 503})
	wantAda(t, s)
	double.Fault(appservices.Fault{Path: "/auth/profile", Status: 503})
	if email, err := s.email(t.Context()); err == nil {
		t.Errorf("got %q from a service that is not available", email)
	}
}
