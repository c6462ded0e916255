package appservices_test

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// An outbox keeps the mails that a double sends.
type outbox []appservices.Mail

func (o *outbox) send(_ context.Context, m appservices.Mail) { *o = append(*o, m) }

// last returns the newest mail, which must be of the given kind.
func (o *outbox) last(t testing.TB, kind appservices.MailKind) appservices.Mail {
	t.Helper()
	if len(*o) == 0 {
		t.Fatal("there is no mail")
	}
	m := (*o)[len(*o)-1]
	if m.Kind != kind || m.Email != "ada@example.com" || m.AppID != "demo-abcde" || len(m.Token) != 128 || !hex24.MatchString(m.TokenID) {
		t.Fatalf("the mail is %+v", m)
	}
	return m
}

func answer(m appservices.Mail) object { return object{"token": m.Token, "tokenId": m.TokenID} }

func newPassword(m appservices.Mail, password string) object {
	return object{"token": m.Token, "tokenId": m.TokenID, "password": password}
}

func TestAnyTextCanBeAnEmail(t *testing.T) {
	d := newDouble(t, nil)
	for _, email := range []string{
		"x", "Ada Lovelace", "ADA@example.com", "ada@example.com", strings.Repeat("é", 128), strings.Repeat("漢", 85) + "x",
	} {
		d.signUp(email)
	}
}

func TestCallsThatRegisterConfirmAndResetAnswerAnEmptyObject(t *testing.T) {
	mails := &outbox{}
	d := newDouble(t, &appservices.Options{ManualConfirmation: true, Mail: mails.send})
	ada := object{"email": "ada@example.com"}
	r := d.userpass("register", object{"email": "ada@example.com", "password": password}).want(http.StatusCreated)
	if got := r.header.Get("Content-Type"); got != "application/json" || string(r.body) != "{}" {
		t.Errorf("register answers the type %q and the body %q", got, r.body)
	}
	d.userpass("confirm/send", ada).empty()
	d.userpass("confirm", answer(mails.last(t, appservices.MailConfirm))).empty()
	d.userpass("reset/send", ada).empty()
	d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()

	decides := newDouble(t, &appservices.Options{
		ManualConfirmation: true,
		ConfirmFunction: func(context.Context, appservices.Confirmation) (appservices.Outcome, error) {
			return appservices.Pending, nil
		},
		ResetFunction: func(context.Context, appservices.Reset) (appservices.Outcome, error) {
			return appservices.Pending, nil
		},
	})
	decides.register("ada@example.com")
	decides.userpass("confirm/call", ada).empty()
	decides.userpass("reset/call", object{"email": "ada@example.com", "password": "another-one"}).empty()
}

func TestRegisteringIgnoresABearer(t *testing.T) {
	d := newDouble(t, nil)
	d.send("POST", appPath+"/auth/providers/local-userpass/register", "null", object{"email": "x", "password": password}).want(http.StatusCreated)
}

func TestErrorsOfRegisteringConfirmingAndResetting(t *testing.T) {
	const length = "password must be between 6 and 128 characters"
	token, id := strings.Repeat("0", 128), "65a1b2c3d4e5f60718293a4c"
	refuse := func(context.Context, appservices.Confirmation) (appservices.Outcome, error) {
		return appservices.Accepted, errors.New("no")
	}
	refuseReset := func(context.Context, appservices.Reset) (appservices.Outcome, error) { return appservices.Refused, nil }
	automatic, manual := &appservices.Options{}, &appservices.Options{ManualConfirmation: true}
	functions := &appservices.Options{ManualConfirmation: true, ConfirmFunction: refuse, ResetFunction: refuseReset}
	for _, tt := range []struct {
		name       string
		opts       *appservices.Options
		route      string
		body       any
		status     int
		code, text string
	}{
		{"email taken", automatic, "register", object{"email": "ada@example.com", "password": password}, 409, "AccountNameInUse", "name already in use"},
		{"email of a user whom a program made", automatic, "register", object{"email": "made@example.com", "password": password}, 409, "AccountNameInUse", "name already in use"},
		{"short password", automatic, "register", object{"email": "x", "password": "12345"}, 400, "BadRequest", length},
		{"long password", automatic, "register", object{"email": "x", "password": strings.Repeat("1", 129)}, 400, "BadRequest", length},
		{"empty password", automatic, "register", object{"email": "x", "password": ""}, 400, "BadRequest", length},
		{"no password", automatic, "register", object{"email": "x"}, 400, "BadRequest", length},
		{"short password and no email", automatic, "register", object{"email": "", "password": "1"}, 400, "BadRequest", length},
		{"short password and a taken email", automatic, "register", object{"email": "ada@example.com", "password": "1"}, 400, "BadRequest", length},
		{"empty email", automatic, "register", object{"email": "", "password": password}, 400, "BadRequest", "email invalid"},
		{"email not a string", automatic, "register", object{"email": 7, "password": password}, 400, "BadRequest", "email invalid"},
		{"long email", automatic, "register", object{"email": strings.Repeat("x", 129), "password": password}, 400, "BadRequest", "email invalid"},
		{"email with a zero byte", automatic, "register", object{"email": "a\x00", "password": password}, 400, "BadRequest", "email invalid"},
		{"email with a control character", automatic, "register", object{"email": "a\u0085b", "password": password}, 400, "BadRequest", "email invalid"},
		{"email with a space at the end", automatic, "register", object{"email": "x ", "password": password}, 400, "BadRequest", "email invalid"},
		{"email with an invisible character at the beginning", automatic, "register", object{"email": "\u200bx", "password": password}, 400, "BadRequest", "email invalid"},
		{"email of more than 256 bytes", automatic, "register", object{"email": strings.Repeat("漢", 86), "password": password}, 400, "BadRequest", "email invalid"},
		{"function refuses to confirm", functions, "register", object{"email": "x", "password": password}, 400, "BadRequest", `failed to confirm user "x"`},

		{"confirm, no token", automatic, "confirm", object{}, 400, "BadRequest", "invalid token data"},
		{"confirm, token of another form", automatic, "confirm", object{"token": "x", "tokenId": id}, 400, "BadRequest", "invalid token data"},
		{"confirm, ID of another form", automatic, "confirm", object{"token": token, "tokenId": "x"}, 400, "BadRequest", "invalid token data"},
		{"confirm, unknown token", automatic, "confirm", object{"token": token, "tokenId": id}, 400, "UserpassTokenInvalid", "userpass token is expired or invalid"},
		{"reset, token of another form", automatic, "reset", object{"token": "x", "tokenId": id, "password": password}, 400, "BadRequest", "invalid token data"},
		{"reset, unknown token", automatic, "reset", object{"token": token, "tokenId": id, "password": password}, 400, "UserpassTokenInvalid", "userpass token is expired or invalid"},
		{"reset, short password", automatic, "reset", object{"token": token, "tokenId": id, "password": "1"}, 400, "BadRequest", length},

		{"confirm/send, already confirmed", automatic, "confirm/send", object{"email": "ada@example.com"}, 400, "UserAlreadyConfirmed", "already confirmed"},
		{"confirm/call, already confirmed", functions, "confirm/call", object{"email": "ada@example.com"}, 400, "UserAlreadyConfirmed", "already confirmed"},
		{"confirm/send, nobody", automatic, "confirm/send", object{"email": "nobody"}, 404, "UserNotFound", "user not found"},
		{"confirm/send, an email that can be nobody's", automatic, "confirm/send", object{"email": "\x00"}, 404, "UserNotFound", "user not found"},
		{"confirm/call, nobody", functions, "confirm/call", object{"email": "nobody"}, 404, "UserNotFound", "user not found"},
		{"reset/send, nobody", automatic, "reset/send", object{"email": "nobody"}, 404, "UserNotFound", "user not found"},
		{"reset/call, nobody", functions, "reset/call", object{"email": "nobody", "password": password}, 404, "UserNotFound", "user not found"},
		{"confirm/send, no email", automatic, "confirm/send", object{}, 400, "MissingParameter", "'email' is a required string"},
		{"confirm/call, automatic", automatic, "confirm/call", object{"email": "nobody"}, 400, "", "cannot run confirmation for nobody: automatic confirmation is enabled"},
		{"confirm/call, by mail", manual, "confirm/call", object{"email": "nobody"}, 400, "", "cannot run confirmation for nobody: there is no confirmation function"},
		{"confirm/call, function refuses", functions, "confirm/call", object{"email": "new@example.com"}, 400, "BadRequest", `failed to confirm user "new@example.com"`},
		{"reset/send, by function", functions, "reset/send", object{"email": "ada@example.com"}, 400, "BadRequest", "please use reset password via function"},
		{"reset/call, function refuses", functions, "reset/call", object{"email": "ada@example.com", "password": password}, 400, "", `failed to reset password for user "ada@example.com"`},
		{"reset/call, no function", automatic, "reset/call", object{"email": "ada@example.com", "password": password}, 400, "", `failed to reset password for user "ada@example.com"`},
		{"reset/call, short password", functions, "reset/call", object{"email": "ada@example.com", "password": "1"}, 400, "BadRequest", length},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := appservices.NewClock(start)
			d := newDoubleAt(t, t.TempDir()+"/keys.db", clock, automatic)
			d.register("ada@example.com")
			_, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{
				Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "made@example.com"},
			})
			must(t, err)
			serve(t, d.store, clock, manual).register("new@example.com")
			serve(t, d.store, clock, tt.opts).userpass(tt.route, tt.body).refused(tt.status, tt.code, tt.text)
		})
	}
}

// Otherwise the time of a refusal would tell whether an address is registered.
func TestAnUnknownEmailCostsAHashLikeAWrongPassword(t *testing.T) {
	d := newDouble(t, nil)
	d.register("ada@example.com")
	d.signUp("deleted@example.com")
	must(t, d.store.DeleteUser(t.Context(), d.user("deleted@example.com").ID))
	_, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "made@example.com"},
	})
	must(t, err)
	hashes := func() uint64 {
		stats, err := d.store.Stats(t.Context())
		must(t, err)
		return stats.Hashes
	}
	for _, email := range []string{"ada@example.com", "nobody@example.com", "deleted@example.com", "made@example.com", "", "\x00", strings.Repeat("x", 1000)} {
		before := hashes()
		d.tryLogin("local-userpass", credentials(email, "wrong-password")).refused(401, "InvalidPassword", "unauthorized")
		if n := hashes() - before; n != 1 {
			t.Errorf("for %.20q there were %d hashes, want 1", email, n)
		}
	}
}

func TestAnAddressIsConfirmedByMail(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{ManualConfirmation: true, Mail: mails.send})
	d.register("ada@example.com")
	first := mails.last(t, appservices.MailConfirm)
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "AuthError", "unauthorized")
	d.userpass("confirm/send", object{"email": "ada@example.com"}).empty()
	second := mails.last(t, appservices.MailConfirm)

	const unknown = "userpass token is expired or invalid"
	mixed := object{"token": first.Token, "tokenId": second.TokenID}
	d.userpass("confirm", mixed).refused(400, "UserpassTokenInvalid", unknown)
	d.userpass("reset", newPassword(first, password)).refused(400, "UserpassTokenInvalid", unknown)
	d.userpass("confirm", answer(second)).empty()
	d.userpass("confirm", answer(second)).refused(400, "UserpassTokenInvalid", unknown)
	d.loginEmail("ada@example.com")
}

func TestTokensOfMailsAreGoodForHalfAnHour(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send})
	d.register("ada@example.com")
	for _, tt := range []struct {
		after time.Duration
		good  bool
	}{{30*time.Minute - time.Second, true}, {30 * time.Minute, false}} {
		d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
		d.clock.Advance(tt.after)
		r := d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), password))
		if tt.good {
			r.empty()
		} else {
			r.refused(400, "UserpassTokenInvalid", "userpass token is expired or invalid")
		}
	}
}

func TestAPasswordIsResetByMail(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send})
	u := d.signUp("ada@example.com")
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	m := mails.last(t, appservices.MailReset)
	d.userpass("reset", newPassword(m, "another-one")).empty()
	d.userpass("reset", newPassword(m, "a-third-one")).refused(400, "UserpassTokenInvalid", "userpass token is expired or invalid")
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	if again := d.login("local-userpass", credentials("ada@example.com", "another-one")); again.user != u.user {
		t.Errorf("the user is %s, want %s", again.user, u.user)
	}
}

func TestAResetTokenIsOutdatedWhenTheAccountChanges(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send})
	ask := func() appservices.Mail {
		t.Helper()
		d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
		return mails.last(t, appservices.MailReset)
	}
	outdated := func(m appservices.Mail) {
		t.Helper()
		d.userpass("reset", newPassword(m, "of-a-stranger")).refused(400, "UserpassTokenInvalid", "userpass token is expired or invalid")
	}
	d.register("ada@example.com")
	first, second := ask(), ask()
	u := d.loginEmail("ada@example.com") // changes nothing
	d.userpass("reset", newPassword(second, "another-one")).empty()
	outdated(first)
	d.login("local-userpass", credentials("ada@example.com", "another-one"))

	third := ask()
	d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent()
	outdated(third)
	d.register("ada@example.com")
	outdated(third)
	d.loginEmail("ada@example.com")

	// A user that a program made has no password, so the stamp must change with the user.
	must(t, d.store.DeleteUser(t.Context(), d.user("ada@example.com").ID))
	remake := func() {
		_, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{
			Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
		})
		must(t, err)
	}
	remake()
	fourth := ask()
	must(t, d.store.DeleteUser(t.Context(), d.user("ada@example.com").ID))
	remake()
	outdated(fourth)
	d.userpass("reset", newPassword(ask(), password)).empty()
	d.loginEmail("ada@example.com")
}

func TestAnAddressCanBeConfirmedAfterAReset(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{ManualConfirmation: true, Mail: mails.send})
	d.register("ada@example.com")
	confirmation := mails.last(t, appservices.MailConfirm)
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()
	d.userpass("confirm", answer(confirmation)).empty()
	d.login("local-userpass", credentials("ada@example.com", "another-one"))
}

func TestMailTokensWorkWithAClockThatBeginsIn1970(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send})
	d.register("ada@example.com")
	d.clock.Set(time.Unix(60, 0))
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	m := mails.last(t, appservices.MailReset)
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	d.userpass("reset", newPassword(m, "another-one")).empty()
}

func TestConfirmFunctionDecidesConfirmations(t *testing.T) {
	var asked []appservices.Confirmation
	outcome := appservices.Pending
	d := newDouble(t, &appservices.Options{
		ManualConfirmation: true,
		ConfirmFunction: func(_ context.Context, c appservices.Confirmation) (appservices.Outcome, error) {
			asked = append(asked, c)
			return outcome, nil
		},
		Mail: func(context.Context, appservices.Mail) { t.Error("a mail was sent") },
	})
	d.register("ada@example.com")
	d.register("bob@example.com")
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "AuthError", "unauthorized")
	for _, email := range []string{"ada@example.com", "nobody@example.com"} {
		d.userpass("confirm/send", object{"email": email}).refused(400, "BadRequest", "please use confirm via function")
	}
	d.userpass("confirm", object{"token": asked[0].Token, "tokenId": asked[0].TokenID}).empty()
	d.loginEmail("ada@example.com")
	outcome = appservices.Accepted
	d.userpass("confirm/call", object{"email": "bob@example.com"}).empty()
	d.loginEmail("bob@example.com")
	d.signUp("eve@example.com")
	if len(asked) != 4 || asked[3].Email != "eve@example.com" || asked[3].AppID != "demo-abcde" {
		t.Errorf("the function was asked %+v", asked)
	}
}

func TestResetFunctionDecidesResets(t *testing.T) {
	var asked appservices.Reset
	outcome := appservices.Accepted
	d := newDouble(t, &appservices.Options{
		ResetFunction: func(_ context.Context, r appservices.Reset) (appservices.Outcome, error) {
			asked = r
			return outcome, nil
		},
	})
	d.register("ada@example.com")
	call := object{"email": "ada@example.com", "password": "another-one", "arguments": []any{"x", object{"$numberInt": "7"}}}
	d.userpass("reset/call", call).empty()
	if asked.Password != "another-one" || !reflect.DeepEqual(asked.Arguments, []any{"x", int64(7)}) {
		t.Errorf("the function was asked %+v", asked)
	}
	d.login("local-userpass", credentials("ada@example.com", "another-one"))

	outcome = appservices.Pending
	call["password"] = "a-third-one"
	d.userpass("reset/call", call).empty()
	d.tryLogin("local-userpass", credentials("ada@example.com", "a-third-one")).refused(401, "InvalidPassword", "unauthorized")
	d.userpass("reset", object{"token": asked.Token, "tokenId": asked.TokenID, "password": "a-third-one"}).empty()
	d.login("local-userpass", credentials("ada@example.com", "a-third-one"))
}

func TestAResetGivesAPasswordToAUserThatAProgramMade(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send})
	identity := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}
	user, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{Identity: identity})
	must(t, err)
	d.tryLogin("local-userpass", credentials("ada@example.com", "")).refused(401, "InvalidPassword", "unauthorized")
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), password)).empty()
	if got := d.loginEmail("ada@example.com").user; got != appservices.UserObjectID(user) {
		t.Errorf("the email logs in %s, want %s", got, appservices.UserObjectID(user))
	}
}

// Otherwise a stranger could register an address early, and get the account of the person that a
// program later gives the address to.
func TestAStrangersRegistrationDoesNotLogInAUserThatAProgramMakes(t *testing.T) {
	d := newDouble(t, nil)
	d.register("ada@example.com")
	_, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
	})
	must(t, err)
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
}

func TestTheEmailOfADeletedUserCanBeRegisteredAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		delete func(d *double, u tokens)
	}{
		{"by the user", func(d *double, u tokens) { d.send("DELETE", prefix+"/auth/delete", u.access, nil).noContent() }},
		{"by a program", func(d *double, _ tokens) { must(d.t, d.store.DeleteUser(d.t.Context(), d.user("ada@example.com").ID)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDouble(t, nil)
			u := d.signUp("ada@example.com")
			tt.delete(d, u)
			d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
			d.userpass("register", object{"email": "ada@example.com", "password": "another-one"}).want(http.StatusCreated)
			d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
			if again := d.login("local-userpass", credentials("ada@example.com", "another-one")); again.user == u.user {
				t.Errorf("the new user has the old one's ID %s", u.user)
			}
		})
	}
}

func TestTheAccountOfADeletedUserIsDeletedWhenSomebodyAsksForAMail(t *testing.T) {
	reset := func(d *double) {
		d.userpass("reset/send", object{"email": "ada@example.com"}).refused(404, "UserNotFound", "user not found")
	}
	confirm := func(d *double) {
		d.userpass("confirm/send", object{"email": "ada@example.com"}).refused(404, "UserNotFound", "user not found")
	}
	for name, meet := range map[string]func(d *double){"reset": reset, "confirmation": confirm} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, nil)
			d.signUp("ada@example.com")
			d.register("bob@example.com")
			must(t, d.store.DeleteUser(t.Context(), d.user("ada@example.com").ID))
			meet(d)
			if n := d.records('a'); n != 1 {
				t.Errorf("there are %d accounts, want bob's alone", n)
			}
			before := writes(d)
			meet(d)
			if n := writes(d) - before; n != 0 {
				t.Errorf("the second time there were %d writes", n)
			}
		})
	}
}

func TestDeletingAUserKeepsAnAccountWithTheSameSubject(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	d.signUp("ada@example.com")
	other := d.login("custom-function", object{"userId": "ada@example.com"})
	d.send("DELETE", prefix+"/auth/delete", other.access, nil).noContent()
	d.loginEmail("ada@example.com")
}

// A viewHook is an engine that calls a function before each read.
type viewHook struct {
	latchkey.Engine
	before func()
}

func (e *viewHook) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.before != nil {
		e.before()
	}
	return e.Engine.View(ctx, fn)
}

func TestAStrangerDoesNotGetAUserThatAProgramMakesDuringTheLogin(t *testing.T) {
	engine, err := latchkey.OpenBoltEngine(t.TempDir()+"/keys.db", nil)
	must(t, err)
	hook := &viewHook{Engine: engine}
	store, err := latchkey.OpenWith(hook, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	d := serve(t, store, appservices.NewClock(start), nil)
	d.register("ada@example.com")

	reads := 0
	hook.before = func() {
		if reads++; reads == 2 { // the first read finds the account, and the password is right
			hook.before = nil
			identity := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}
			_, err := store.CreateUser(context.Background(), latchkey.UserSpec{Identity: identity})
			if err != nil {
				t.Error(err)
			}
		}
	}
	d.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	if hook.before != nil {
		t.Error("the login has read only once, so this test shows nothing")
	}
}

func TestAProviderThatIsOffChangesNothing(t *testing.T) {
	mails := &outbox{}
	d := newDouble(t, &appservices.Options{Mail: mails.send, ManualConfirmation: true})
	d.register("ada@example.com")
	confirm := mails.last(t, appservices.MailConfirm)
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	reset, sent := mails.last(t, appservices.MailReset), len(*mails)
	before, err := d.store.Stats(t.Context())
	must(t, err)

	off := serve(t, d.store, d.clock, &appservices.Options{
		Providers: []latchkey.Provider{latchkey.ProviderAPIKey}, Mail: mails.send, ManualConfirmation: true,
	})
	for _, tt := range []struct {
		route string
		body  object
	}{
		{"register", object{"email": "bob@example.com", "password": password}},
		{"register", object{"email": "ada@example.com", "password": password}},
		{"register", object{}},
		{"confirm", answer(confirm)},
		{"confirm/send", object{"email": "ada@example.com"}},
		{"confirm/call", object{"email": "ada@example.com"}},
		{"reset", newPassword(reset, "another-one")},
		{"reset/send", object{"email": "ada@example.com"}},
		{"reset/send", object{"email": "nobody@example.com"}},
		{"reset/call", object{"email": "ada@example.com", "password": "another-one", "arguments": []any{}}},
	} {
		off.userpass(tt.route, tt.body).refused(403, "AuthError", "authentication via 'local-userpass' is unsupported")
	}
	off.tryLogin("local-userpass", credentials("ada@example.com", password)).refused(401, "AuthError", "unauthorized")
	after, err := d.store.Stats(t.Context())
	must(t, err)
	if after.Hashes != before.Hashes || after.Commits != before.Commits || len(*mails) != sent {
		t.Errorf("there were %d hashes, %d commits and %d mails", after.Hashes-before.Hashes, after.Commits-before.Commits, len(*mails)-sent)
	}
	d.userpass("confirm", answer(confirm)).empty() // the tokens are still good
	d.userpass("reset", newPassword(reset, "another-one")).empty()
}

func TestAResetEndsSessionsIfItIsToldTo(t *testing.T) {
	for _, ends := range []bool{false, true} {
		var mails outbox
		d := newDouble(t, &appservices.Options{Mail: mails.send, ResetEndsSessions: ends})
		u := d.signUp("ada@example.com")
		_, key := d.createKey(u.refresh, "laptop")
		d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
		d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()
		want := http.StatusCreated
		if ends {
			want = http.StatusUnauthorized
		}
		d.refresh(u.refresh).want(want)
		d.loginKey(key)
		again := d.login("local-userpass", credentials("ada@example.com", "another-one"))
		d.refresh(again.refresh).want(http.StatusCreated)
	}
}

func TestAResetDoesNotEnableADisabledUser(t *testing.T) {
	var mails outbox
	d := newDouble(t, &appservices.Options{Mail: mails.send, ResetEndsSessions: true})
	d.signUp("ada@example.com")
	must(t, d.store.DisableUser(t.Context(), d.user("ada@example.com").ID))
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()
	d.tryLogin("local-userpass", credentials("ada@example.com", "another-one")).refused(401, "UserDisabled", "unauthorized")

	d.register("bob@example.com") // who is no user yet
	d.userpass("reset/send", object{"email": "bob@example.com"}).empty()
	if m := mails[len(mails)-1]; m.Email != "bob@example.com" {
		t.Fatalf("the mail is to %s", m.Email)
	}
	d.userpass("reset", newPassword(mails[len(mails)-1], "another-one")).empty()
}
