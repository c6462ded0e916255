package appservices_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// signingKey returns the store's key that signs sessions, as a thief of the file would.
func (d *double) signingKey() (key []byte) {
	d.t.Helper()
	must(d.t, d.store.View(d.t.Context(), func(tx *latchkey.Tx) error {
		record, err := tx.AppTable("appservices").Get([]byte("s"))
		if len(record) != 16+8+32 {
			d.t.Fatalf("the record of the key has %d bytes", len(record))
		}
		key = bytes.Clone(record[16+8:])
		return err
	}))
	return key
}

// stolen returns a refresh token of a user that a thief of the signing key has made. The thief
// knows the user's identity, which is in the file, too.
func (d *double) stolen(key []byte, email string) string {
	d.t.Helper()
	user := d.user(email)
	b, err := json.Marshal(object{
		"exp": start.Add(9999 * day).Unix(), "typ": "refresh", "baas_id": "0123456789abcdef01234567",
		"baas_identity": claims(d.t, d.loginEmail(email).refresh)["baas_identity"],
		"latchkey":      object{"app": "demo-abcde", "disablings": user.Disablings, "forgotten": int64(1) << 40, "user": user.ID.String()},
	})
	must(d.t, err)
	return sign(key, `{"alg":"HS256","typ":"JWT"}`, string(b))
}

func TestEndSessionsShutsOutTheThiefOfAFile(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	thief := d.stolen(d.signingKey(), "ada@example.com")
	// The key in the file is enough to make the token.
	d.keys("POST", "", thief, object{"name": "thief"}).want(http.StatusCreated)

	must(t, d.handler.EndSessions(t.Context(), ""))
	d.keys("POST", "", thief, object{"name": "again"}).refused(401, "", "signature is invalid")
	d.refresh(thief).refused(401, "", "signature is invalid")
	d.refresh(u.refresh).refused(401, "", "signature is invalid")
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "", "unauthorized")
	again := d.loginEmail("ada@example.com")
	d.refresh(again.refresh).want(http.StatusCreated)
	d.profile(again.access)
}

func TestEndSessionsOutlivesARestart(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "keys.db"), appservices.NewClock(start)
	before := newDoubleAt(t, path, clock, nil)
	old := before.signUp("ada@example.com")
	must(t, before.handler.EndSessions(t.Context(), ""))
	u := before.loginEmail("ada@example.com")
	must(t, before.store.Close())

	after := newDoubleAt(t, path, clock, nil)
	after.refresh(old.refresh).refused(401, "", "signature is invalid")
	after.refresh(u.refresh).want(http.StatusCreated)
}

func TestEndSessionsEndsTheSessionsOfTheStoresOtherHandlers(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	other, err := appservices.New(d.store, &appservices.Options{Now: d.clock.Now})
	must(t, err)
	must(t, other.EndSessions(t.Context(), ""))
	d.send("GET", prefix+"/auth/profile", u.access, nil).refused(401, "InvalidSession", "invalid session")
	// The handler has read the new key.
	d.refresh(u.refresh).refused(401, "", "signature is invalid")

	must(t, other.EndSessions(t.Context(), ""))
	again := d.loginEmail("ada@example.com") // a login learns the new key, too
	d.refresh(again.refresh).want(http.StatusCreated)
	server := httptest.NewServer(other)
	defer server.Close()
	d.url = server.URL
	d.refresh(again.refresh).want(http.StatusCreated)
}

func TestASessionThatAnotherHandlerHasOpenedWithANewKeyIsGood(t *testing.T) {
	d := newDouble(t, nil)
	old := d.signUp("ada@example.com")
	o, err := appservices.New(d.store, &appservices.Options{Now: d.clock.Now})
	must(t, err)
	must(t, o.EndSessions(t.Context(), ""))
	server := httptest.NewServer(o)
	defer server.Close()
	here := d.url
	d.url = server.URL
	u := d.loginEmail("ada@example.com")
	d.url = here
	d.send("GET", prefix+"/auth/profile", u.access, nil).want(http.StatusOK)
	d.refresh(u.refresh).want(http.StatusCreated)
	d.refresh(old.refresh).refused(401, "", "signature is invalid")
}

func TestEndSessionsNeedsAnApp(t *testing.T) {
	d := newDouble(t, &appservices.Options{AppIDs: []string{"demo-abcde"}})
	if err := d.handler.EndSessions(t.Context(), "other"); !errors.Is(err, appservices.ErrNoApp) {
		t.Errorf("got %v, want ErrNoApp", err)
	}
	must(t, d.handler.EndSessions(t.Context(), "demo-abcde"))
}

// The engine of the store is restored from an earlier state while the handler serves.
func TestAnEngineThatIsRestoredEndsEverySession(t *testing.T) {
	engine := memory.NewShared()
	store, err := latchkey.OpenWith(engine, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	d := serve(t, store, appservices.NewClock(start), nil)
	u := d.signUp("ada@example.com")
	state := memory.CopyEngine(engine)
	must(t, d.handler.EndSessions(t.Context(), ""))
	lost := d.loginEmail("ada@example.com")
	before := store.ReplicaID()
	engine.Restore(state)
	for store.ReplicaID() == before {
		runtime.Gosched()
	}
	for _, old := range []tokens{u, lost} {
		if r := d.refresh(old.refresh); r.status == http.StatusCreated {
			t.Error("a session goes on")
		}
	}
	again := d.loginEmail("ada@example.com")
	d.refresh(again.refresh).want(http.StatusCreated)
	d.profile(again.access)
}

// A store that was salvaged, restored or recovered may have lost the record that a session was
// ended.
func TestAStoreThatMayHaveLostSomethingEndsEverySessionAndLosesNoPassword(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, from, to string) error{
		"salvaged": func(t *testing.T, from, to string) error {
			_, err := latchkey.Salvage(t.Context(), from, to)
			return err
		},
		"restored from a backup": func(t *testing.T, from, to string) error {
			s, err := latchkey.Open(from, &latchkey.Options{ReadOnly: true})
			must(t, err)
			defer s.Close()
			var backup bytes.Buffer
			must(t, s.Backup(t.Context(), &backup))
			return latchkey.Restore(t.Context(), &backup, to)
		},
		"recovered from a safety copy": func(t *testing.T, from, to string) error {
			b, err := os.ReadFile(from)
			must(t, err)
			must(t, os.WriteFile(to+".safety", b, 0o600))
			s, err := latchkey.Open(to, &latchkey.Options{RecoverFromSafetyCopy: true})
			must(t, err)
			return s.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, clock := t.TempDir(), appservices.NewClock(start)
			before := newDoubleAt(t, filepath.Join(dir, "keys.db"), clock, nil)
			u := before.signUp("ada@example.com")
			thief := before.stolen(before.signingKey(), "ada@example.com")
			must(t, before.store.Close())
			must(t, replace(t, filepath.Join(dir, "keys.db"), filepath.Join(dir, "other.db")))

			after := newDoubleAt(t, filepath.Join(dir, "other.db"), clock, nil)
			after.refresh(u.refresh).refused(401, "", "signature is invalid")
			after.refresh(thief).refused(401, "", "signature is invalid")
			if again := after.loginEmail("ada@example.com"); again.user != u.user {
				t.Errorf("the user is %s, want %s", again.user, u.user)
			}
			if n := after.records('s'); n != 1 {
				t.Errorf("the store has %d keys that sign, want 1", n)
			}
		})
	}
}
