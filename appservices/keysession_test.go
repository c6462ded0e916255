package appservices_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// deleteUser deletes the user of an access token.
func (d *double) deleteUser(access string) *response {
	d.t.Helper()
	return d.send("DELETE", prefix+"/auth/delete", access, nil)
}

// bare fails the test unless the reply is a 403 without a body.
func (r *response) bare() {
	r.t.Helper()
	r.want(http.StatusForbidden)
	if ct, ok := r.header["Content-Type"]; ok || len(r.body) > 0 {
		r.t.Errorf("a 403 has the type %q and the body %q", ct, r.body)
	}
}

// ended fails the test unless a session is good for nothing.
func (d *double) ended(u tokens) {
	d.t.Helper()
	const failed = "invalid session: failed to find refresh token"
	d.refresh(u.refresh).refused(401, "InvalidSession", failed)
	d.keys("GET", "", u.refresh, nil).refused(401, "InvalidSession", failed)
	d.logOut(u.refresh).refused(401, "InvalidSession", failed)
	for _, r := range []*response{
		d.send("GET", prefix+"/auth/profile", u.access, nil),
		d.link(u.access, "custom-function", object{"userId": "thief"}),
		d.deleteUser(u.access),
	} {
		if r.want(http.StatusUnauthorized); r.json()["error_code"] != "InvalidSession" {
			d.t.Errorf("the refusal is %s", r.body)
		}
	}
}

// wantIdentities fails the test unless a user has the given number of identities.
func (d *double) wantIdentities(email string, want int) {
	d.t.Helper()
	if got := d.user(email).Identities; len(got) != want {
		d.t.Errorf("the user has the identities %v, want %d of them", got, want)
	}
}

func TestASessionThatAUserKeyOpenedCannotTakeTheUser(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName, AllowKeySessions: true})
	_, key := d.createKey(d.signUp("ada@example.com").refresh, "device")
	thief := d.loginKey(key)
	d.register("thief@example.com")
	d.link(thief.access, "local-userpass", credentials("thief@example.com", password)).bare()
	d.link(thief.access, "custom-function", object{"userId": "thief"}).bare()
	d.link(thief.access, "api-key", object{"key": key}).bare()
	d.deleteUser(thief.access).bare()
	d.wantIdentities("ada@example.com", 1)
	if again := d.loginEmail("thief@example.com"); again.user == thief.user {
		t.Error("the thief's password logs in as the user")
	}
}

func TestExplainForbiddenTellsAKeySessionTheReason(t *testing.T) {
	d := newDouble(t, &appservices.Options{ExplainForbidden: true})
	_, key := d.createKey(d.signUp("ada@example.com").refresh, "device")
	d.deleteUser(d.loginKey(key).access).
		refused(403, "", "a session that was opened with an API key can neither link an identity nor delete the user")
}

func TestASessionEndsWithTheKeyThatOpenedIt(t *testing.T) {
	ctx := t.Context()
	for name, end := range map[string]func(s *latchkey.Store, owner latchkey.Key) error{
		"disabled": func(s *latchkey.Store, k latchkey.Key) error { return s.DisableKey(ctx, k.Owner, k.ID) },
		"disabled and enabled again": func(s *latchkey.Store, k latchkey.Key) error {
			if err := s.DisableKey(ctx, k.Owner, k.ID); err != nil {
				return err
			}
			return s.EnableKey(ctx, k.Owner, k.ID)
		},
		"deleted": func(s *latchkey.Store, k latchkey.Key) error { return s.DeleteKey(ctx, k.Owner, k.ID) },
		"in a disabled group": func(s *latchkey.Store, k latchkey.Key) error {
			set := func() error { return s.SetUserGroup(ctx, k.Owner, "acme") }
			if k.Owner == latchkey.ServerOwner {
				set = func() error { return s.SetKeyGroup(ctx, k.ID, "acme") }
			}
			return errors.Join(set(), s.DisableGroup(ctx, "acme"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, &appservices.Options{CustomFunction: byName})
			owner := d.signUp("ada@example.com")
			d.createKey(owner.refresh, "other")
			key, token, err := d.store.CreateKey(ctx, d.user("ada@example.com").ID, latchkey.KeySpec{Name: "device"})
			must(t, err)
			serverKey, serverToken := d.serverKey("backup")
			u, server := d.loginKey(token), d.loginKey(serverToken)
			d.profile(u.access)
			d.profile(server.access)

			must(t, end(d.store, key))
			must(t, end(d.store, serverKey))
			d.ended(u)
			d.ended(server)
			d.wantIdentities("ada@example.com", 1)
			d.refresh(owner.refresh).want(http.StatusCreated)
		})
	}
}

func TestASessionEndsWithTheTokenThatOpenedIt(t *testing.T) {
	for name, r := range map[string]latchkey.Rotation{
		"rotated without overlap":                {},
		"rotated until the new token is used":    {Overlap: time.Hour, UntilUsed: true},
		"rotated, and the old token's end comes": {Overlap: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t, &appservices.Options{CustomFunction: byName, AccessTokenLife: time.Hour})
			d.signUp("ada@example.com")
			key, token, err := d.store.CreateKey(t.Context(), d.user("ada@example.com").ID, latchkey.KeySpec{Name: "device"})
			must(t, err)
			serverKey, serverToken := d.serverKey("backup")
			u, server := d.loginKey(token), d.loginKey(serverToken)
			_, newToken, err := d.store.RotateKey(t.Context(), key.Owner, key.ID, r)
			must(t, err)
			_, newServerToken, err := d.store.RotateServerKey(t.Context(), serverKey.ID, r)
			must(t, err)
			if r.Overlap > 0 {
				d.profile(u.access)
				d.profile(server.access)
				d.refresh(u.refresh).want(http.StatusCreated)
				late := d.loginKey
				if r.UntilUsed {
					late = func(string) tokens { return u }
				}
				if old := late(token); !r.UntilUsed && claims(t, old.refresh)["exp"] != number(start.Add(r.Overlap)) {
					t.Errorf("a session of the old token expires at %v", claims(t, old.refresh)["exp"])
				}
			}
			next, nextServer := d.loginKey(newToken), d.loginKey(newServerToken)
			if !r.UntilUsed {
				d.clock.Advance(r.Overlap)
			}
			d.ended(u)
			d.ended(server)
			d.profile(next.access)
			d.profile(nextServer.access)
			d.refresh(next.refresh).want(http.StatusCreated)
			d.wantIdentities("ada@example.com", 1)
		})
	}
}

func TestASessionEndsWithTheTagSecretOfTheTokenThatOpenedIt(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	owner := d.signUp("ada@example.com")
	_, token := d.createKey(owner.refresh, "device")
	_, serverToken := d.serverKey("backup")
	u, server := d.loginKey(token), d.loginKey(serverToken)
	number, err := d.store.AddTagSecret(t.Context())
	must(t, err)
	must(t, d.store.UseTagSecret(t.Context(), number))
	_, newToken := d.createKey(owner.refresh, "new")
	next := d.loginKey(newToken)
	d.profile(u.access)
	d.refresh(server.refresh).want(http.StatusCreated)

	must(t, d.store.RetireTagSecret(t.Context(), 0))
	d.ended(u)
	d.ended(server)
	d.profile(next.access)
	d.refresh(next.refresh).want(http.StatusCreated)
	d.refresh(owner.refresh).want(http.StatusCreated)
}

func TestASessionExpiresWithTheKeyThatOpenedIt(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName, AccessTokenLife: time.Hour})
	d.signUp("ada@example.com")
	expires := start.Add(2 * time.Minute)
	_, token, err := d.store.CreateKey(t.Context(), d.user("ada@example.com").ID, latchkey.KeySpec{Name: "short", Expires: expires})
	must(t, err)
	_, serverToken, err := d.store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "short", Expires: expires})
	must(t, err)
	u, server := d.loginKey(token), d.loginKey(serverToken)
	for _, refresh := range []string{u.refresh, server.refresh} {
		if got := claims(t, refresh)["exp"]; got != number(expires) {
			t.Errorf("the session expires at %v, want %v", got, number(expires))
		}
	}
	d.clock.Advance(2*time.Minute - time.Second)
	d.profile(u.access)
	d.refresh(u.refresh).want(http.StatusCreated)
	d.clock.Advance(time.Second)
	for _, u := range []tokens{u, server} {
		d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session")
		d.refresh(u.refresh).want(http.StatusUnauthorized)
		d.link(u.access, "custom-function", object{"userId": "thief"}).want(http.StatusUnauthorized)
		d.deleteUser(u.access).want(http.StatusUnauthorized)
	}
}

func TestAnAccessTokenOfASessionThatWasLoggedOutChangesNothing(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName})
	u := d.signUp("ada@example.com")
	d.logOut(u.refresh).noContent()
	const failed = "invalid session: failed to find refresh token"
	d.link(u.access, "custom-function", object{"userId": "thief"}).refused(401, "InvalidSession", failed)
	d.deleteUser(u.access).refused(401, "InvalidSession", failed)
	d.wantIdentities("ada@example.com", 1)
	d.profile(u.access) // as in the hosted service
}

func TestAnAccessTokenThatOutlivesItsSessionChangesNothing(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName, AccessTokenLife: time.Hour, RefreshTokenLife: time.Minute})
	u := d.signUp("ada@example.com")
	d.clock.Advance(time.Minute)
	d.profile(u.access)
	d.link(u.access, "custom-function", object{"userId": "thief"}).want(http.StatusUnauthorized)
	d.deleteUser(u.access).want(http.StatusUnauthorized)
	d.wantIdentities("ada@example.com", 1)
}

func TestALinkThatTakesLongDoesNotOutliveItsSession(t *testing.T) {
	for name, end := range map[string]func(d *double, u tokens){
		"logged out": func(d *double, u tokens) { d.logOut(u.refresh).noContent() },
		"user disabled": func(d *double, _ tokens) {
			must(d.t, d.store.DisableUser(d.t.Context(), d.user("ada@example.com").ID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			between := func() {}
			d := newDouble(t, &appservices.Options{
				CustomFunction: func(context.Context, string, map[string]any) (string, map[string]any, error) {
					between()
					return "thief", nil, nil
				},
			})
			u := d.signUp("ada@example.com")
			between = func() { end(d, u) }
			d.link(u.access, "custom-function", object{"userId": "thief", "options": coreOptions}).want(http.StatusUnauthorized)
			d.wantIdentities("ada@example.com", 1)
		})
	}
}

// The request that makes a key may wait long for its hash. The test ends the session when the store
// reads its clock for the new key.
func TestAKeyThatIsMadeWhileItsSessionEndsIsGone(t *testing.T) {
	clock := appservices.NewClock(start)
	during := func() {}
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{
		Cost: latchkey.LightCost, Now: func() time.Time { during(); return clock.Now() }, TestClock: true,
	})
	must(t, err)
	t.Cleanup(func() { store.Close() })
	d := serve(t, store, clock, nil)
	u := d.signUp("ada@example.com")
	during = func() {
		during = func() {}
		d.logOut(u.refresh).noContent()
	}
	d.keys("POST", "", u.refresh, object{"name": "late"}).refused(401, "InvalidSession", "invalid session: failed to find refresh token")
	keys, err := store.Keys(t.Context(), d.user("ada@example.com").ID)
	if err != nil || len(keys) != 0 {
		t.Errorf("the user has %v, %v", keys, err)
	}
}

func TestInsecureKeySessionsAreThoseOfTheHostedService(t *testing.T) {
	d := newDouble(t, &appservices.Options{CustomFunction: byName, InsecureKeySessions: true})
	owner := d.signUp("ada@example.com")
	id, key := d.createKey(owner.refresh, "device")
	k := d.loginKey(key)
	d.keys("PUT", "/"+id+"/disable", owner.refresh, nil).noContent()
	d.refresh(k.refresh).want(http.StatusCreated)
	rotated, err := d.store.Keys(t.Context(), d.user("ada@example.com").ID)
	must(t, err)
	_, _, err = d.store.RotateKey(t.Context(), rotated[0].Owner, rotated[0].ID, latchkey.Rotation{})
	must(t, err)
	d.refresh(k.refresh).want(http.StatusCreated)
	d.keys("DELETE", "/"+id, owner.refresh, nil).noContent()
	d.refresh(k.refresh).want(http.StatusCreated)
	d.forbidden(k.refresh)
	d.link(k.access, "custom-function", object{"userId": "a"}).want(http.StatusOK)
	_, token, err := d.store.CreateKey(t.Context(), d.user("ada@example.com").ID, latchkey.KeySpec{Name: "short", Expires: start.Add(time.Minute)})
	must(t, err)
	short := d.loginKey(token)
	d.clock.Advance(59 * day)
	d.refresh(short.refresh).want(http.StatusCreated)
	access := d.refresh(k.refresh).want(http.StatusCreated).json()["access_token"].(string)
	d.deleteUser(access).noContent()
}

func TestASessionEndsWithTheExpiryDateThatItsKeyGetsLater(t *testing.T) {
	d := newDouble(t, nil)
	key, token := d.serverKey("backup")
	u := d.loginKey(token)
	must(t, d.store.SetExpiry(t.Context(), latchkey.ServerOwner, key.ID, start.Add(time.Minute)))
	d.send("GET", prefix+"/auth/profile", u.access, nil).want(http.StatusOK)
	d.clock.Advance(time.Minute)
	d.send("GET", prefix+"/auth/profile", u.access, nil).want(http.StatusUnauthorized)
	d.refresh(u.refresh).want(http.StatusUnauthorized)
}
