package appservices_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// FuzzSequences runs any sequence of requests and of an administrator's calls, and compares each
// answer with a model of the service. The model knows the users, their keys, which sessions are
// good, and which keys a session can reach. At the end, the store must be sound and equal to the
// model.
func FuzzSequences(f *testing.F) {
	const register, login, create = 0, 1, 6
	f.Add([]byte{register, 0, 0, login, 0, 0, create, 0, 0, 11, 0, 0, 8, 0, 0, 11, 0, 0, 7, 0, 0, 11, 0, 0})
	f.Add([]byte{2, 0, 0, create, 0, 0, register, 1, 0, 3, 0, 1, create, 0, 0, create, 0, 0, 9, 0, 0, 13, 0, 0, login, 1, 0})
	f.Add([]byte{register, 0, 0, login, 0, 0, login, 0, 0, 4, 0, 0, 5, 0, 0, 5, 1, 0, create, 1, 1, 12, 1, 0, login, 0, 0})
	f.Add([]byte{register, 0, 0, register, 1, 0, login, 0, 0, login, 1, 0, create, 0, 0, 7, 1, 0, 8, 1, 0, 9, 1, 0, 10, 1, 0, 3, 0, 1})
	f.Add([]byte{register, 0, 0, login, 0, 0, create, 0, 0, 11, 0, 0, 14, 0, 0, 11, 0, 0, 5, 0, 0, 15, 0, 0, 5, 0, 0, 16, 0, 0, 11, 0, 0})
	many := []byte{register, 0, 0, login, 0, 0}
	for name := range byte(22) {
		many = append(many, create, 0, name)
	}
	f.Add(many)
	chance := rand.NewChaCha8([32]byte{1})
	for range 20 {
		steps := make([]byte, maxSteps)
		_, _ = chance.Read(steps) // never fails
		f.Add(steps)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := newServiceModel(t)
		for step := range slices.Chunk(steps[:min(len(steps), maxSteps)], 3) {
			if len(step) == 3 {
				m.step(t, step[0], int(step[1]), int(step[2]))
			}
		}
		m.compare()
	})
}

// maxSteps bounds the size of one run in bytes. A step is three bytes.
const maxSteps = 450

// A serviceModel is the expected state of a service, and the double that is compared with it.
type serviceModel struct {
	*double
	path     string
	starts   int
	users    []*modelUser
	accounts [2]*modelUser // by address, or nil
	sessions []*modelSession
	keys     []*modelKey
}

// A modelUser is an account. It also is a user after the first login.
type modelUser struct {
	id       string // on the wire; empty before the first login
	email    bool   // has an address; other users are anonymous
	disabled bool
	gone     bool
}

// A modelSession is the result of a login.
type modelSession struct {
	tokens
	user    *modelUser
	key     *modelKey // the key that opened the session, or nil
	out     bool      // logged out
	void    bool      // the user was disabled
	revoked bool      // the key was disabled or deleted
}

type modelKey struct {
	owner           *modelUser
	id, name, value string
	disabled, gone  bool
}

func newServiceModel(t *testing.T) *serviceModel {
	m := &serviceModel{path: filepath.Join(t.TempDir(), "keys.db")}
	m.start(t)
	return m
}

// start starts a double on the file of the model. The clock stands a millisecond later than at the
// start before, because keys of one millisecond are in no order if they are of two openings.
func (m *serviceModel) start(t *testing.T) {
	t.Helper()
	m.starts++
	m.double = newDoubleAt(t, m.path, appservices.NewClock(start.Add(time.Duration(m.starts)*time.Millisecond)), &appservices.Options{FailedLogins: -1})
}

func modelEmail(n int) string { return fmt.Sprintf("user-%d@example.com", n) }

func (m *serviceModel) step(t *testing.T, op byte, a, b int) {
	email := a % len(m.accounts)
	switch op %= 18; op {
	case 0:
		m.registers(email)
	case 1:
		m.logsIn(email, b%4 != 3)
	case 2:
		u := &modelUser{}
		m.users = append(m.users, u)
		m.opens(u, m.tryLogin("anon-user", nil), nil)
	case 11:
		m.logsInByKey(pick(m.keys, a))
	case 14, 15:
		m.administer(pick(m.users, a), op == 14)
	case 16:
		must(t, m.store.Close())
		m.start(t)
	default:
		if s := pick(m.sessions, a); s != nil {
			m.stepOf(s, op, b)
		}
	}
}

// stepOf is a step in a session.
func (m *serviceModel) stepOf(s *modelSession, op byte, b int) {
	switch op {
	case 3:
		m.links(s, b%len(m.accounts))
	case 4:
		m.logsOut(s)
	case 5:
		if r := m.refresh(s.refresh); m.isGood(s, toRefresh, r) {
			r.want(http.StatusCreated)
		}
	case 6:
		m.creates(s, fmt.Sprintf("key-%d", b%25))
	case 7:
		m.reaches(s, pick(m.keys, b), "PUT", "/enable", func(k *modelKey) { k.disabled = false })
	case 8:
		m.reaches(s, pick(m.keys, b), "PUT", "/disable", func(k *modelKey) { k.disabled = true; m.revoke(k) })
	case 9:
		m.reaches(s, pick(m.keys, b), "DELETE", "", func(k *modelKey) { k.gone = true; m.revoke(k) })
	case 10:
		m.reaches(s, pick(m.keys, b), "GET", "", nil)
	case 12:
		m.deletes(s)
	case 13:
		m.lists(s)
	case 17:
		if r := m.send("GET", prefix+"/auth/profile", s.access, nil); m.isGood(s, toRead, r) {
			r.want(http.StatusOK)
		}
	}
}

// pick returns one of the elements of from, or nil if there are none.
func pick[T any](from []*T, n int) *T {
	if len(from) == 0 {
		return nil
	}
	return from[n%len(from)]
}

// revoke ends the sessions of a key.
func (m *serviceModel) revoke(k *modelKey) {
	for _, s := range m.sessions {
		s.revoked = s.revoked || s.key == k
	}
}

// A use is a way to use a session.
type use int

const (
	toRead    use = iota // with the access token, which logging out does not end
	toChange             // with the access token, to change the user
	toRefresh            // with the refresh token
)

// isGood reports whether a session is good for a use. If it is not, isGood checks the refusal.
func (m *serviceModel) isGood(s *modelSession, u use, r *response) bool {
	m.t.Helper()
	const out = "invalid session: failed to find refresh token"
	gone, revoked := "invalid session: error finding user for endpoint", "invalid session"
	if u == toRefresh {
		gone, revoked = out, out
	}
	text := ""
	switch {
	case u != toRead && s.out:
		text = out
	case s.user.gone:
		text = gone
	case s.user.disabled:
		text = "invalid session"
	case s.void, s.key != nil && s.key.gone:
		text = gone
	case s.revoked:
		text = revoked
	case u == toChange && s.key != nil:
		r.want(http.StatusForbidden)
		return false
	default:
		return true
	}
	r.refused(http.StatusUnauthorized, "InvalidSession", text)
	return false
}

// mayManage does what isGood does, for calls about keys.
func (m *serviceModel) mayManage(s *modelSession, r *response) bool {
	m.t.Helper()
	if !m.isGood(s, toRefresh, r) {
		return false
	}
	if s.key != nil || !s.user.email {
		r.want(http.StatusForbidden)
		return false
	}
	return true
}

// opens adds the session that a reply gives, which must belong to u.
func (m *serviceModel) opens(u *modelUser, r *response, k *modelKey) {
	m.t.Helper()
	got := r.tokens()
	if u.id != "" && got.user != u.id {
		m.t.Fatalf("logged in as %s, want %s", got.user, u.id)
	}
	u.id = got.user
	m.sessions = append(m.sessions, &modelSession{tokens: got, user: u, key: k})
}

func (m *serviceModel) registers(email int) {
	r := m.userpass("register", object{"email": modelEmail(email), "password": password})
	if m.accounts[email] != nil {
		r.refused(http.StatusConflict, "AccountNameInUse", "name already in use")
		return
	}
	r.want(http.StatusCreated)
	m.accounts[email] = &modelUser{email: true}
}

func (m *serviceModel) logsIn(email int, right bool) {
	given := password
	if !right {
		given = "wrong-password"
	}
	r := m.tryLogin("local-userpass", credentials(modelEmail(email), given))
	u := m.accounts[email]
	switch {
	case u == nil || !right:
		r.refused(http.StatusUnauthorized, "InvalidPassword", "unauthorized")
	case u.disabled:
		r.refused(http.StatusUnauthorized, "UserDisabled", "unauthorized")
	default:
		if u.id == "" {
			m.users = append(m.users, u)
		}
		m.opens(u, r, nil)
	}
}

func (m *serviceModel) logsInByKey(k *modelKey) {
	if k == nil {
		return
	}
	r := m.tryLogin("api-key", object{"key": k.value})
	switch {
	case k.gone || k.owner.gone || k.disabled:
		r.refused(http.StatusUnauthorized, "AuthError", "unauthorized")
	case k.owner.disabled:
		r.refused(http.StatusUnauthorized, "UserDisabled", "unauthorized")
	default:
		m.opens(k.owner, r, k)
	}
}

func (m *serviceModel) links(s *modelSession, email int) {
	r := m.link(s.access, "local-userpass", credentials(modelEmail(email), password))
	if !m.isGood(s, toChange, r) {
		return
	}
	switch u := m.accounts[email]; {
	case u == nil:
		r.refused(http.StatusUnauthorized, "InvalidPassword", "unauthorized")
	case u == s.user:
		r.want(http.StatusOK)
	case u.id != "":
		r.refused(http.StatusUnauthorized, "InvalidSession", "unauthorized")
	case s.user.email:
		r.refused(http.StatusInternalServerError, "InternalServerError", "unauthorized")
	default:
		if got := r.tokens(); got.user != s.user.id {
			m.t.Fatalf("linked to %s, want %s", got.user, s.user.id)
		}
		s.user.email = true
		m.accounts[email] = s.user
	}
}

func (m *serviceModel) logsOut(s *modelSession) {
	r := m.logOut(s.refresh)
	if s.user.disabled {
		r.refused(http.StatusUnauthorized, "InvalidSession", "invalid session: failed to find refresh token")
		return
	}
	if m.isGood(s, toRefresh, r) {
		r.noContent()
		s.out = true
	}
}

func (m *serviceModel) deletes(s *modelSession) {
	r := m.send("DELETE", prefix+"/auth/delete", s.access, nil)
	if !m.isGood(s, toChange, r) {
		return
	}
	r.noContent()
	s.user.gone = true
	for i, u := range m.accounts {
		if u == s.user {
			m.accounts[i] = nil
		}
	}
}

// keysOf returns the keys of a user in the order of creation.
func (m *serviceModel) keysOf(u *modelUser) (keys []*modelKey) {
	for _, k := range m.keys {
		if k.owner == u && !k.gone && !u.gone {
			keys = append(keys, k)
		}
	}
	return keys
}

func (m *serviceModel) creates(s *modelSession, name string) {
	r := m.double.keys("POST", "", s.refresh, object{"name": name})
	if !m.mayManage(s, r) {
		return
	}
	keys := m.keysOf(s.user)
	switch {
	case slices.ContainsFunc(keys, func(k *modelKey) bool { return k.name == name }):
		r.refused(http.StatusConflict, "APIKeyAlreadyExists", "API key with name already exists")
	case len(keys) == 20:
		r.refused(http.StatusBadRequest, "BadRequest", "user has reached the limit of 20 API keys")
	default:
		made := r.want(http.StatusCreated).json()
		k := &modelKey{owner: s.user, name: name, id: made["_id"].(string), value: made["key"].(string)}
		m.keys = append(m.keys, k)
	}
}

// reaches makes a call with the ID of a key, which only sessions of the key's owner can reach.
func (m *serviceModel) reaches(s *modelSession, k *modelKey, method, call string, then func(*modelKey)) {
	if k == nil {
		return
	}
	r := m.double.keys(method, "/"+k.id+call, s.refresh, nil)
	if !m.mayManage(s, r) {
		return
	}
	switch {
	case k.owner != s.user || k.gone:
		r.refused(http.StatusNotFound, "APIKeyNotFound", "API key not found")
	case then == nil:
		if got := r.want(http.StatusOK).json(); !reflect.DeepEqual(got, k.shown()) {
			m.t.Fatalf("fetched %v, want %v", got, k.shown())
		}
	default:
		r.noContent()
		then(k)
	}
}

// shown returns a key in the form that clients see.
func (k *modelKey) shown() object {
	return object{"_id": k.id, "name": k.name, "disabled": k.disabled}
}

func (m *serviceModel) lists(s *modelSession) {
	r := m.double.keys("GET", "", s.refresh, nil)
	if !m.mayManage(s, r) {
		return
	}
	want := []object{}
	for _, k := range m.keysOf(s.user) {
		want = append(want, k.shown())
	}
	got := []object{}
	must(m.t, json.Unmarshal(r.want(http.StatusOK).body, &got))
	if !reflect.DeepEqual(got, want) {
		m.t.Fatalf("listed %v, want %v", got, want)
	}
}

// administer disables or enables a user in the store.
func (m *serviceModel) administer(u *modelUser, disable bool) {
	if u == nil || u.gone {
		return
	}
	id := m.storeUser(u).ID
	if !disable {
		must(m.t, m.store.EnableUser(m.t.Context(), id))
		u.disabled = false
		return
	}
	must(m.t, m.store.DisableUser(m.t.Context(), id))
	u.disabled = true
	for _, s := range m.sessions {
		s.void = s.void || s.user == u
	}
}

// storeUser returns a user of the model from the store.
func (m *serviceModel) storeUser(u *modelUser) latchkey.User {
	m.t.Helper()
	for user, err := range m.store.Users(m.t.Context(), uuid.Nil) {
		must(m.t, err)
		if appservices.UserObjectID(user) == u.id {
			return user
		}
	}
	m.t.Fatalf("the store has no user %s", u.id)
	return latchkey.User{}
}

// compare compares the store with the model.
func (m *serviceModel) compare() {
	m.t.Helper()
	for finding := range m.store.Check(m.t.Context()) {
		m.t.Errorf("Check: %v", finding)
	}
	users := 0
	for _, u := range m.users {
		if u.gone {
			continue
		}
		users++
		user := m.storeUser(u)
		keys, err := m.store.Keys(m.t.Context(), user.ID)
		must(m.t, err)
		want := m.keysOf(u)
		if user.Disabled != u.disabled || len(keys) != len(want) {
			m.t.Fatalf("the store has %+v with %d keys, want %+v with %d", user, len(keys), u, len(want))
		}
		for i, k := range keys {
			if appservices.KeyObjectID(k) != want[i].id || k.Name != want[i].name || k.Disabled != want[i].disabled {
				m.t.Errorf("key %d is %+v, want %+v", i, k, want[i])
			}
		}
	}
	stats, err := m.store.Stats(m.t.Context())
	must(m.t, err)
	if int(stats.Users) != users {
		m.t.Errorf("the store has %d users, want %d", stats.Users, users)
	}
}
