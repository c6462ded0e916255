package appservices_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// costing opens the store in a file at a cost, and starts a double on it.
func costing(t *testing.T, path string, store latchkey.Options, opts *appservices.Options) *double {
	t.Helper()
	clock := appservices.NewClock(start)
	store.Now, store.TestClock = clock.Now, true
	s, err := latchkey.Open(path, &store)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return serve(t, s, clock, opts)
}

func (d *double) hashes() uint64 {
	d.t.Helper()
	stats, err := d.store.Stats(d.t.Context())
	must(d.t, err)
	return stats.Hashes
}

var (
	oldCost = latchkey.LightCost
	newCost = latchkey.Cost{Memory: 128, Passes: 1, Lanes: 1}
)

func TestARefusedPasswordCostsTheSameWhetherOrNotItsAddressIsKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	before := costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	before.register("ada@example.com")
	before.signUp("gone@example.com")
	must(t, before.store.Close())
	d := costing(t, path, latchkey.Options{Cost: newCost}, nil)
	d.register("bob@example.com")
	must(t, d.store.DeleteUser(t.Context(), d.user("gone@example.com").ID))
	_, err := d.store.CreateUser(t.Context(), latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "made-by-a-program@example.com"},
	})
	must(t, err)

	refuse := func(d *double, want uint64) {
		t.Helper()
		for _, email := range []string{
			"ada@example.com", "bob@example.com", "nobody@example.com", "gone@example.com", "made-by-a-program@example.com",
			"", strings.Repeat("x", 300),
		} {
			hashes, commits := d.hashes(), writes(d)
			d.tryLogin("local-userpass", credentials(email, "wrong-password")).refused(401, "InvalidPassword", "unauthorized")
			if got := d.hashes() - hashes; got != want {
				t.Errorf("%.40q costs %d hashes, want %d", email, got, want)
			}
			if got := writes(d) - commits; got != 0 {
				t.Errorf("%.40q costs %d commits", email, got)
			}
		}
	}
	refuse(d, 2) // one of each cost
	d.loginEmail("ada@example.com")
	refuse(d, 2) // the double does not know yet that no verifier has the old cost

	must(t, d.store.Close())
	d = costing(t, path, latchkey.Options{Cost: newCost}, nil)
	refuse(d, 2) // the account of gone@example.com still has the old cost
	d.register("gone@example.com")
	must(t, d.store.Close())
	d = costing(t, path, latchkey.Options{Cost: newCost}, nil)
	refuse(d, 1)
	must(t, d.store.Close())
	d = costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	refuse(d, 1)
}

// While the costs are counted at the start, somebody may register with the store's cost.
func TestTheStoresOwnCostIsNotForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	before := costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	before.register("ada@example.com")
	must(t, before.store.Close())
	d := costing(t, path, latchkey.Options{Cost: newCost}, nil)
	u := d.signUp("bob@example.com")
	d.deleteUser(u.access).noContent()
	must(t, d.store.Close())
	for _, tt := range []struct {
		cost latchkey.Cost
		want uint64
	}{{newCost, 2}, {oldCost, 1}} {
		d = costing(t, path, latchkey.Options{Cost: tt.cost}, nil)
		hashes := d.hashes()
		d.tryLogin("local-userpass", credentials("nobody@example.com", password)).want(http.StatusUnauthorized)
		if got := d.hashes() - hashes; got != tt.want {
			t.Errorf("at the cost %+v a refusal costs %d hashes, want %d", tt.cost, got, tt.want)
		}
		must(t, d.store.Close())
	}
}

func TestBeforeAnybodyHasRegisteredARefusedPasswordCostsAHash(t *testing.T) {
	d := newDouble(t, nil)
	before := d.hashes()
	d.tryLogin("local-userpass", credentials("nobody@example.com", password)).refused(401, "InvalidPassword", "unauthorized")
	if n := d.hashes() - before; n != 1 {
		t.Errorf("it costs %d hashes, want 1", n)
	}
}

func TestAPasswordIsHashedAnewWhenItIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	var mails outbox
	before := costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	before.signUp("ada@example.com")
	must(t, before.store.Close())

	d := costing(t, path, latchkey.Options{Cost: newCost}, &appservices.Options{Mail: mails.send})
	d.userpass("reset/send", object{"email": "ada@example.com"}).empty()
	d.tryLogin("local-userpass", credentials("ada@example.com", "wrong-password")).want(http.StatusUnauthorized)
	if got := d.verifier(); !strings.Contains(got, "$m=64,") {
		t.Errorf("after a wrong password, the verifier is %s", got)
	}
	hashes := d.hashes()
	d.loginEmail("ada@example.com")
	if got := d.verifier(); !strings.Contains(got, "$m=128,") {
		t.Errorf("after a login, the verifier is %s", got)
	}
	if got := d.hashes() - hashes; got != 2 {
		t.Errorf("the login costs %d hashes, want 2", got)
	}
	commits := writes(d)
	d.loginEmail("ada@example.com")
	if got := writes(d) - commits; got != 0 {
		t.Errorf("the second login costs %d commits", got)
	}
	// The password is the same, so the mail is still good.
	d.userpass("reset", newPassword(mails.last(t, appservices.MailReset), "another-one")).empty()
}

func TestALinkHashesThePasswordAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	before := costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	before.register("ada@example.com")
	must(t, before.store.Close())
	d := costing(t, path, latchkey.Options{Cost: newCost}, nil)
	d.link(d.anonymous().access, "local-userpass", credentials("ada@example.com", password)).want(http.StatusOK)
	if got := d.verifier(); !strings.Contains(got, "$m=128,") {
		t.Errorf("the verifier is %s", got)
	}
}

// verifier returns the verifier of the only account.
func (d *double) verifier() string {
	d.t.Helper()
	found := ""
	must(d.t, d.store.View(d.t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range tx.AppTable("appservices").Scan([]byte("a"), []byte("b")) {
			must(d.t, err)
			_, rest, _ := strings.Cut(string(e.Value), `"verifier":"`)
			found, _, _ = strings.Cut(rest, `"`)
		}
		return nil
	}))
	return found
}

func TestAVerifierThatNeedsTooMuchMemoryIsAWrongPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	const memory = 4 << 20
	before := costing(t, path, latchkey.Options{Cost: latchkey.Cost{Memory: 8 << 10, Passes: 1, Lanes: 1}}, nil)
	before.register("ada@example.com")
	must(t, before.store.Close())
	var log logged
	d := costing(t, path, latchkey.Options{Cost: oldCost, HashMemory: memory}, &appservices.Options{Logger: log.logger()})
	d.register("bob@example.com")
	for _, tt := range []struct{ email, password string }{
		{"ada@example.com", password}, {"ada@example.com", "wrong-password"}, {"bob@example.com", "wrong-password"}, {"nobody@example.com", password},
	} {
		before := d.hashes()
		d.tryLogin("local-userpass", credentials(tt.email, tt.password)).refused(401, "InvalidPassword", "unauthorized")
		if got := d.hashes() - before; got != 1 {
			t.Errorf("%s costs %d hashes, want 1", tt.email, got)
		}
	}
	if got := strings.Count(log.String(), "some passwords need more memory for their hash than the store may use"); got != 1 {
		t.Errorf("the log is %s", log.String())
	}
}

func TestALoginSucceedsAlsoIfItsPasswordCannotBeHashedAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	before := costing(t, path, latchkey.Options{Cost: oldCost}, nil)
	before.signUp("ada@example.com")
	must(t, before.store.Close())

	store, err := latchkey.Open(path, &latchkey.Options{Cost: newCost, ReadOnly: true})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	var log logged
	h, err := appservices.New(store, &appservices.Options{Logger: log.logger()})
	must(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	d := &double{t: t, url: server.URL, store: store, handler: h}
	d.loginEmail("ada@example.com")
	if !strings.Contains(log.String(), "a password was not hashed anew") {
		t.Errorf("the log is %s", log.String())
	}
}
