package appservices_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// users returns how many users the store has.
func (d *double) users() (n int) {
	d.t.Helper()
	for _, err := range d.store.Users(d.t.Context(), uuid.Nil) {
		must(d.t, err)
		n++
	}
	return n
}

// pass lets time pass in steps that are no jumps of the clock, while anonymous users log in.
func (d *double) pass(days int) {
	d.t.Helper()
	for range days {
		d.clock.Advance(day)
		d.anonymous()
	}
}

func TestAnonymousUsersAreDeletedAfter90Days(t *testing.T) {
	d := newDouble(t, nil)
	old := d.anonymous()
	linked := d.anonymous()
	d.register("ada@example.com")
	d.link(linked.access, "local-userpass", credentials("ada@example.com", password)).want(http.StatusOK)
	gone := d.anonymous()
	d.deleteUser(gone.access).noContent()
	user, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err) // a program's own anonymous users are the program's

	d.pass(90)
	d.refresh(old.refresh).want(http.StatusCreated)
	d.pass(2) // each login deletes two, and there were three
	d.refresh(old.refresh).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	d.pass(5)
	d.refresh(linked.refresh).want(http.StatusCreated)
	if _, err := d.store.User(t.Context(), user.ID); err != nil {
		t.Error(err)
	}
	if got := d.records('n'); got != 91 {
		t.Errorf("there are %d records of anonymous users, want 91, one for each day", got)
	}
	if got, want := d.users(), 91+2; got != want {
		t.Errorf("there are %d users, want %d", got, want)
	}
	for finding := range d.store.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func TestUnconfirmedAddressesAreFreeAfter7Days(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{ManualConfirmation: true, Mail: mails.send})
	d.register("ada@example.com")
	confirm := mails.last(t, appservices.MailConfirm)
	d.register("bob@example.com")
	d.userpass("confirm", answer(confirm)).empty() // ada is confirmed
	again := object{"email": "bob@example.com", "password": password}
	d.pass(7)
	d.userpass("register", again).want(http.StatusConflict)
	d.pass(1)
	d.userpass("register", again).want(http.StatusCreated)
	d.loginEmail("ada@example.com")
	d.pass(6)
	d.userpass("register", again).want(http.StatusConflict) // the new account has an age of its own
	if got := d.records('r'); got != 1 {
		t.Errorf("there are %d records of unconfirmed accounts, want 1", got)
	}
}

func TestTheAgeOfAnAddressIsThatOfItsPresentAccount(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{ManualConfirmation: true, Mail: mails.send})
	d.register("ada@example.com")
	d.userpass("confirm", answer(mails.last(t, appservices.MailConfirm))).empty()
	d.deleteUser(d.loginEmail("ada@example.com").access).noContent()
	d.pass(6)
	d.register("ada@example.com")
	d.pass(3)
	d.userpass("register", object{"email": "ada@example.com", "password": password}).want(http.StatusConflict)
}

func TestAgesCanBeChangedAndSwitchedOff(t *testing.T) {
	d := newDouble(t, &appservices.Options{AnonymousLife: 2 * day, UnconfirmedLife: -1, ManualConfirmation: true})
	u := d.anonymous()
	d.register("ada@example.com")
	d.pass(3)
	d.refresh(u.refresh).want(http.StatusUnauthorized)
	d.pass(30)
	d.userpass("register", object{"email": "ada@example.com", "password": password}).want(http.StatusConflict)

	d = newDouble(t, &appservices.Options{AnonymousLife: -1})
	u = d.anonymous()
	d.pass(100)
	d.refresh(u.refresh).want(http.StatusCreated)
}

// Nothing is deleted because of a clock that is wrong.
func TestNothingIsDeletedInTheFirstDayAfterTheClockHasJumped(t *testing.T) {
	const jump = 100 * day
	d := newDouble(t, nil)
	u := d.anonymous()
	d.pass(2)
	d.clock.Advance(jump)
	for range 23 { // hours
		d.anonymous()
		d.clock.Advance(time.Hour)
	}
	d.refresh(u.refresh).want(http.StatusCreated)
	d.clock.Advance(-jump) // somebody has noticed
	d.pass(5)
	d.refresh(u.refresh).want(http.StatusCreated)

	d.clock.Advance(jump) // this time it is right
	d.anonymous()
	d.refresh(u.refresh).want(http.StatusCreated)
	d.clock.Advance(day - time.Second)
	d.anonymous()
	d.refresh(u.refresh).want(http.StatusCreated)
	d.clock.Advance(time.Second)
	d.anonymous()
	d.refresh(u.refresh).want(http.StatusUnauthorized)
}

func TestAJumpBackwardsCountsAsWell(t *testing.T) {
	d := newDouble(t, &appservices.Options{AnonymousLife: 10 * day})
	for range 40 {
		d.anonymous()
	}
	d.pass(13) // deletes six, two a day
	before := d.users()
	d.clock.Advance(-2 * day) // still more than ten days after they were made
	d.anonymous()
	if got := d.users() - before; got != 1 {
		t.Errorf("%d users were deleted", 1-got)
	}
	d.pass(1)
	if got := d.users() - before; got != 0 {
		t.Errorf("a day later %d users were deleted, want 2", 2-got)
	}
}

func TestNothingIsDeletedInTheFirstDayAfterALongPause(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "keys.db"), appservices.NewClock(start)
	d := newDoubleAt(t, path, clock, nil)
	u := d.anonymous()
	d.pass(60)
	restart := func(pause time.Duration) {
		t.Helper()
		must(t, d.store.Close())
		clock.Advance(pause)
		d = newDoubleAt(t, path, clock, nil)
		d.anonymous()
	}
	restart(40 * day)
	d.refresh(u.refresh).want(http.StatusCreated)
	restart(20 * time.Hour) // not yet a day, and a restart does not change that
	d.refresh(u.refresh).want(http.StatusCreated)
	restart(4 * time.Hour)
	d.refresh(u.refresh).want(http.StatusUnauthorized)
}

func TestWhatOneAddressCanMakeTheStoreWriteIsLimited(t *testing.T) {
	for _, tt := range []struct {
		what string
		call func(d *double, u tokens, i int) *response
		good int
	}{
		{"anonymous users", func(d *double, _ tokens, _ int) *response { return d.tryLogin("anon-user", nil) }, 200},
		{"registrations", func(d *double, _ tokens, i int) *response {
			return d.userpass("register", object{"email": fmt.Sprintf("user-%d@example.com", i), "password": password})
		}, 201},
		{"new keys", func(d *double, u tokens, i int) *response {
			r := d.keys("POST", "", u.refresh, object{"name": fmt.Sprint("key-", i)})
			if r.status == http.StatusCreated {
				d.keys("DELETE", "/"+r.json()["_id"].(string), u.refresh, nil).noContent()
			}
			return r
		}, 201},
		{"logouts", func(d *double, _ tokens, _ int) *response { return d.logOut(d.loginEmail("ada@example.com").refresh) }, 204},
	} {
		t.Run(tt.what, func(t *testing.T) {
			d := newDouble(t, &appservices.Options{WriteLimit: 30})
			u := d.signUp("ada@example.com")
			i, limit := 0, 30
			if tt.what == "registrations" {
				limit-- // ada's
			}
			for ; i < limit; i++ {
				tt.call(d, u, i).want(tt.good)
			}
			before := writes(d)
			r := tt.call(d, u, i).refused(429, "", "too many "+tt.what+" from this address")
			if got := r.header.Get("Retry-After"); got != "120" {
				t.Errorf("Retry-After is %s, want 120", got)
			}
			if n := writes(d) - before; n != 0 {
				t.Errorf("the refusal costs %d commits", n)
			}
			for _, other := range []func(){
				func() { d.loginEmail("ada@example.com") },
				func() { d.refresh(u.refresh).want(http.StatusCreated) },
			} {
				other()
			}
			d.clock.Advance(2 * time.Minute)
			tt.call(d, u, i).want(tt.good)
		})
	}
}

func TestTheLimitsOfWritesAndMailsCanBeSwitchedOff(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{WriteLimit: -1, MailLimit: -1, Mail: mails.send})
	d.register("ada@example.com")
	for range 1001 {
		d.anonymous()
	}
	for range 20 {
		d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	}
}

func TestMailsToOneAddressAreLimitedWhoeverAsks(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send, ManualConfirmation: true, TrustForwarded: true})
	ask := func(i int, route, email string) *response {
		from := http.Header{"X-Forwarded-For": {fmt.Sprint("192.0.2.", i)}}
		return d.sendWith("POST", appPath+"/auth/providers/local-userpass/"+route, from, object{"email": email})
	}
	d.register("ada@example.com") // sends the first mail
	d.register("bob@example.com")
	for i := range 9 {
		ask(i, []string{"confirm/send", "reset/send"}[i%2], "ada@example.com").empty()
	}
	before := len(mails)
	if got := ask(10, "reset/send", "ada@example.com").refused(429, "", "too many mails to this address").header.Get("Retry-After"); got != "360" {
		t.Errorf("Retry-After is %s, want 360", got)
	}
	ask(11, "confirm/send", "ada@example.com").want(http.StatusTooManyRequests)
	if len(mails) != before {
		t.Error("a mail was sent all the same")
	}
	ask(12, "reset/send", "bob@example.com").empty()
	d.clock.Advance(6 * time.Minute)
	ask(13, "reset/send", "ada@example.com").empty()
	ask(14, "reset/send", "ada@example.com").want(http.StatusTooManyRequests)
}

func TestCallsOfFunctionsCountAsMails(t *testing.T) {
	asked := 0
	d := newDouble(t, &appservices.Options{
		MailLimit: 2, ManualConfirmation: true,
		ConfirmFunction: func(context.Context, appservices.Confirmation) (appservices.Outcome, error) {
			asked++
			return appservices.Pending, nil
		},
		ResetFunction: func(context.Context, appservices.Reset) (appservices.Outcome, error) {
			asked++
			return appservices.Pending, nil
		},
	})
	d.register("ada@example.com")
	again := object{"email": "ada@example.com", "password": "another-one", "arguments": []any{}}
	d.userpass("confirm/call", again).empty()
	d.userpass("confirm/call", again).refused(429, "", "too many mails to this address")
	d.userpass("reset/call", again).refused(429, "", "too many mails to this address")
	d.userpass("register", object{"email": "bob@example.com", "password": password}).want(http.StatusCreated)
	if asked != 3 {
		t.Errorf("the functions were asked %d times, want 3", asked)
	}
}
