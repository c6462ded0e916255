package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestALoginTellsWhoseTheTokenIs(t *testing.T) {
	s := open(t)
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user, "Ada's laptop")
	serverKey, serverToken := addKey(t, s, latchkey.ServerOwner, "backup-job")
	for _, tt := range []struct {
		name, token string
		want        latchkey.Principal
	}{
		{"a user's key", token, latchkey.Principal{KeyID: key.ID, KeyName: "Ada's laptop", Owner: user, UserID: user, Identity: email("ada"), TokenID: key.Tokens[0].ID}},
		{"a server key", serverToken, latchkey.Principal{KeyID: serverKey.ID, KeyName: "backup-job", Owner: latchkey.ServerOwner, ServerKey: true, TokenID: serverKey.Tokens[0].ID}},
	} {
		for _, login := range []string{"cold", "cached"} {
			if got, err := s.Login(t.Context(), tt.token); err != nil || got != tt.want {
				t.Errorf("%s, %s: got %+v, %v, want %+v", tt.name, login, got, err, tt.want)
			}
		}
	}
}

func TestATokenOfAnotherFormIsRefusedUnreadAndUnhashed(t *testing.T) {
	s, reads := openCounting(t)
	key, good := addKey(t, s, addUser(t, s, "ada"), "laptop")
	digits := strings.TrimPrefix(good, "lk_")
	hashes := stats(t, s).Hashes
	before := reads()
	for _, tt := range []struct{ name, token string }{
		{"empty", ""},
		{"the prefix alone", "lk_"},
		{"one character short", good[:len(good)-1]},
		{"the first character missing", good[1:]},
		{"one character more", good + "0"},
		{"twice", good + good},
		{"a mebibyte", strings.Repeat("a", 1<<20)},
		{"no prefix", digits},
		{"another prefix", "lx_" + digits},
		{"a longer prefix", "lka_" + digits},
		{"a shorter prefix", "l_" + digits},
		{"the prefix in capitals", "LK_" + digits},
		{"all in capitals", strings.ToUpper(good)},
		{"all in small letters", strings.ToLower(good)},
		{"a hyphen after the prefix", "lk-" + digits},
		{"a space before", " " + good},
		{"a space before, and as long", " " + good[:len(good)-1]},
		{"a space after", good + " "},
		{"a newline after", good + "\n"},
		{"a zero byte after", good + "\x00"},
		{"a zero byte inside", good[:20] + "\x00" + good[21:]},
		{"a digit that is not ASCII", good[:20] + "\u0663" + good[22:]},
		{"a full-width letter", good[:20] + "\uff21" + good[23:]},
		{"not UTF-8", good[:20] + "\xff" + good[21:]},
		{"zeros", "lk_" + strings.Repeat("0", 77)},
		{"z in all places", "lk_" + strings.Repeat("z", 77)},
		{"Bearer before", "Bearer " + good},
	} {
		t.Run(tt.name, func(t *testing.T) {
			who, err := s.Login(t.Context(), tt.token)
			wantError(t, err, latchkey.ErrInvalidToken)
			if who != (latchkey.Principal{}) {
				t.Errorf("got %+v with the error", who)
			}
		})
	}
	for word := range 7 {
		overflow := digits[:11*word] + strings.Repeat("z", 11) + digits[11*word+11:]
		wantRefused(t, s, "lk_"+overflow, latchkey.ErrInvalidToken)
	}
	if n := reads() - before; n != 0 {
		t.Errorf("the engine was read %d times, want 0", n)
	}
	if n := stats(t, s).Hashes - hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
	wantLogin(t, s, good, key.ID)
}

func TestALoginWhoseContextEndedReadsAndHashesNothing(t *testing.T) {
	s, reads := openCounting(t)
	_, token := addKey(t, s, latchkey.ServerOwner, "laptop")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hashes := stats(t, s).Hashes
	before := reads()
	_, err := s.Login(ctx, token)
	wantError(t, err, context.Canceled)
	if n := reads() - before; n > 1 { // the engine is asked once, and refuses
		t.Errorf("the engine was read %d times, want 1 at most", n)
	}
	if n := stats(t, s).Hashes - hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
}

// stats returns the statistics of a store, which takes a read transaction.
func stats(t testing.TB, s *latchkey.Store) latchkey.Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestATokenWithAnyOtherCharacterIsRefusedUnreadAndUnhashed(t *testing.T) {
	s, reads := openCounting(t)
	key, good := addKey(t, s, addUser(t, s, "ada"), "laptop")
	wantLogin(t, s, good, key.ID) // puts its ID into the cache
	hashes := stats(t, s).Hashes
	before := reads()
	for i := range good {
		other := []byte(good)
		for c := range 256 {
			if other[i] = byte(c); string(other) == good {
				continue
			}
			if _, err := s.Login(t.Context(), string(other)); !errors.Is(err, latchkey.ErrInvalidToken) {
				t.Fatalf("%q in place %d: got error %v, want ErrInvalidToken", c, i, err)
			}
		}
	}
	if n := reads() - before; n != 0 {
		t.Errorf("the engine was read %d times, want 0", n)
	}
	if n := stats(t, s).Hashes - hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
}

func TestATokenOfAnotherStoreIsRefusedUnreadAndUnhashed(t *testing.T) {
	s, reads := openCounting(t)
	user := addUser(t, s, "ada")
	addKey(t, s, user, "laptop")
	stranger := open(t)
	_, token := addKey(t, stranger, addUser(t, stranger, "ada"), "laptop")

	hashes := stats(t, s).Hashes
	before := reads()
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	if n := reads() - before; n != 0 {
		t.Errorf("the engine was read %d times, want 0", n)
	}
	if n := stats(t, s).Hashes - hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
}

func TestTheTokenOfAKeyThatWasNeverInsertedIsRefusedUnhashed(t *testing.T) {
	s := open(t)
	_, token, err := s.MintKey(t.Context())
	must(t, err)
	hashes := stats(t, s).Hashes
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	if n := stats(t, s).Hashes - hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
}

// loginCase is a user with a key, and everything that can be done to them.
type loginCase struct {
	*latchkey.Store
	clock *clock
	user  uuid.UUID
	key   latchkey.Key
	token string
}

// newLoginCase makes a user and a key that expires in an hour.
func newLoginCase(t testing.TB, e latchkey.Engine) *loginCase {
	t.Helper()
	c := &loginCase{clock: newClock()}
	opts := light()
	opts.Now, opts.TestClock = c.clock.now, true
	c.Store = openEngine(t, e, opts)
	c.user = addUser(t, c.Store, "ada")
	var err error
	c.key, c.token, err = c.CreateKey(t.Context(), c.user, latchkey.KeySpec{Name: "laptop", Expires: c.clock.now().Add(time.Hour)})
	must(t, err)
	return c
}

func (c *loginCase) disableKey(ctx context.Context) error  { return c.DisableKey(ctx, c.user, c.key.ID) }
func (c *loginCase) enableKey(ctx context.Context) error   { return c.EnableKey(ctx, c.user, c.key.ID) }
func (c *loginCase) deleteKey(ctx context.Context) error   { return c.DeleteKey(ctx, c.user, c.key.ID) }
func (c *loginCase) disableUser(ctx context.Context) error { return c.DisableUser(ctx, c.user) }
func (c *loginCase) enableUser(ctx context.Context) error  { return c.EnableUser(ctx, c.user) }
func (c *loginCase) deleteUser(ctx context.Context) error  { return c.DeleteUser(ctx, c.user) }
func (c *loginCase) rename(ctx context.Context) error {
	return c.RenameKey(ctx, c.user, c.key.ID, "desktop")
}
func (c *loginCase) expire(context.Context) error {
	c.clock.advance(time.Hour)
	return nil
}
func (c *loginCase) setExpiry(ctx context.Context) error {
	return c.SetExpiry(ctx, c.user, c.key.ID, c.clock.now().Add(time.Minute))
}
func (c *loginCase) expireSooner(ctx context.Context) error {
	defer c.clock.advance(time.Minute)
	return c.setExpiry(ctx)
}
func (c *loginCase) setScopes(ctx context.Context) error {
	return c.SetScopes(ctx, c.user, c.key.ID, latchkey.NewScopes("files:read"))
}
func (c *loginCase) setMetadata(ctx context.Context) error {
	return c.SetMetadata(ctx, c.user, c.key.ID, map[string]string{"room": "4"})
}

// The case logs in from 192.0.2.1.
func (c *loginCase) moveAway(ctx context.Context) error {
	return c.SetNetworks(ctx, c.user, c.key.ID, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")})
}
func (c *loginCase) moveIn(ctx context.Context) error {
	return c.SetNetworks(ctx, c.user, c.key.ID, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.0/24")})
}
func (c *loginCase) moveAnywhere(ctx context.Context) error {
	return c.SetNetworks(ctx, c.user, c.key.ID, nil)
}

type step = func(c *loginCase, ctx context.Context) error

// outcome is the end of a login: the name of the key, with its scopes and one of its metadata if it
// has any, or an error.
type outcome struct {
	name string
	err  error
}

func (o outcome) is(want outcome) bool { return o.name == want.name && errors.Is(o.err, want.err) }

func (c *loginCase) login(t testing.TB) outcome {
	who, err := c.LoginFrom(t.Context(), c.token, netip.MustParseAddr("192.0.2.1"))
	words := strings.Fields(who.KeyName + " " + who.Scopes.String() + " " + who.Metadata("room"))
	return outcome{strings.Join(words, " "), err}
}

func (c *loginCase) wantOutcome(t testing.TB, what string, want outcome) {
	t.Helper()
	if got := c.login(t); !got.is(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestALoginIsRefusedForTheFirstReasonThatApplies(t *testing.T) {
	disableKey, disableUser, expire, moveAway := (*loginCase).disableKey, (*loginCase).disableUser, (*loginCase).expire, (*loginCase).moveAway
	for _, tt := range []struct {
		name  string
		steps []step
		want  error
	}{
		{"disabled key", []step{disableKey}, latchkey.ErrKeyDisabled},
		{"expired key", []step{expire}, latchkey.ErrKeyExpired},
		{"disabled user", []step{disableUser}, latchkey.ErrUserDisabled},
		{"disabled and expired key", []step{disableKey, expire}, latchkey.ErrKeyDisabled},
		{"disabled key of a disabled user", []step{disableUser, disableKey}, latchkey.ErrKeyDisabled},
		{"expired key of a disabled user", []step{disableUser, expire}, latchkey.ErrKeyExpired},
		{"all at once", []step{disableUser, expire, disableKey}, latchkey.ErrKeyDisabled},
		{"key from elsewhere", []step{moveAway}, latchkey.ErrNetworkNotAllowed},
		{"key from elsewhere of a disabled user", []step{moveAway, disableUser}, latchkey.ErrUserDisabled},
		{"expired key from elsewhere", []step{moveAway, expire}, latchkey.ErrKeyExpired},
		{"deleted key from elsewhere", []step{moveAway, (*loginCase).deleteKey}, latchkey.ErrInvalidToken},
		{"deleted key", []step{(*loginCase).deleteKey}, latchkey.ErrInvalidToken},
		{"deleted user", []step{(*loginCase).deleteUser}, latchkey.ErrInvalidToken},
		{"deleted key of a disabled user", []step{disableUser, (*loginCase).deleteKey}, latchkey.ErrInvalidToken},
		{"deleted and disabled user", []step{disableUser, (*loginCase).deleteUser}, latchkey.ErrInvalidToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newLoginCase(t, newEngine(t))
			for _, do := range tt.steps {
				must(t, do(c, t.Context()))
			}
			for _, login := range []string{"cold", "cached"} {
				who, err := c.Login(t.Context(), c.token)
				if !errors.Is(err, tt.want) || who != (latchkey.Principal{}) {
					t.Errorf("%s: got %+v, %v, want %v", login, who, err, tt.want)
				}
			}
		})
	}
}

func TestAKeyIsGoodUntilTheSecondThatItExpires(t *testing.T) {
	c := newLoginCase(t, newEngine(t))
	c.clock.set(c.key.Expires.Add(-time.Nanosecond))
	wantLogin(t, c.Store, c.token, c.key.ID)
	wantLogin(t, c.Store, c.token, c.key.ID)
	c.clock.set(c.key.Expires)
	wantRefused(t, c.Store, c.token, latchkey.ErrKeyExpired)
	c.clock.set(c.key.Expires.Add(24 * time.Hour))
	wantRefused(t, c.Store, c.token, latchkey.ErrKeyExpired)
}

func TestAKeyLogsInAfterItOrItsUserWasEnabledAgain(t *testing.T) {
	for _, tt := range []struct {
		name            string
		disable, enable step
		refused         error
	}{
		{"key", (*loginCase).disableKey, (*loginCase).enableKey, latchkey.ErrKeyDisabled},
		{"user", (*loginCase).disableUser, (*loginCase).enableUser, latchkey.ErrUserDisabled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newLoginCase(t, newEngine(t))
			for range 3 {
				must(t, tt.disable(c, t.Context()))
				must(t, tt.disable(c, t.Context()))
				wantRefused(t, c.Store, c.token, tt.refused)
				must(t, tt.enable(c, t.Context()))
				must(t, tt.enable(c, t.Context()))
				wantLogin(t, c.Store, c.token, c.key.ID)
			}
		})
	}
}

func TestAReopenedStoreAnswersAsBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	user := addUser(t, s, "ada")
	good, goodToken := addKey(t, s, user, "good")
	disabled, disabledToken := addKey(t, s, user, "disabled")
	deleted, deletedToken := addKey(t, s, user, "deleted")
	must(t, s.DisableKey(t.Context(), user, disabled.ID))
	must(t, s.DeleteKey(t.Context(), user, deleted.ID))
	grace := addUser(t, s, "grace")
	_, graceToken := addKey(t, s, grace, "laptop")
	must(t, s.DisableUser(t.Context(), grace))
	closeStore(t, s)

	s = openAt(t, path, light())
	wantLogin(t, s, goodToken, good.ID)
	wantRefused(t, s, disabledToken, latchkey.ErrKeyDisabled)
	wantRefused(t, s, deletedToken, latchkey.ErrInvalidToken)
	wantRefused(t, s, graceToken, latchkey.ErrUserDisabled)
	must(t, s.EnableKey(t.Context(), user, disabled.ID))
	wantLogin(t, s, disabledToken, disabled.ID)
	closeStore(t, s)

	s = openAt(t, path, light())
	wantLogin(t, s, disabledToken, disabled.ID)
	wantRefused(t, s, deletedToken, latchkey.ErrInvalidToken)
}

func TestASecondLoginIsAnsweredUnreadAndUnhashedAlsoWhenItIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
		want  outcome
	}{
		{"good key", nil, outcome{name: "laptop"}},
		{"disabled key", []step{(*loginCase).disableKey}, outcome{err: latchkey.ErrKeyDisabled}},
		{"expired key", []step{(*loginCase).expire}, outcome{err: latchkey.ErrKeyExpired}},
		{"disabled user", []step{(*loginCase).disableUser}, outcome{err: latchkey.ErrUserDisabled}},
		{"good key in a network", []step{(*loginCase).moveIn}, outcome{name: "laptop"}},
		{"key from elsewhere", []step{(*loginCase).moveAway}, outcome{err: latchkey.ErrNetworkNotAllowed}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &hookedEngine{Engine: newEngine(t)}
			var reads atomic.Int64
			e.beforeView = func() { reads.Add(1) }
			c := newLoginCase(t, e)
			for _, do := range tt.steps {
				must(t, do(c, t.Context()))
			}
			c.wantOutcome(t, "the first login", tt.want)
			hashes := stats(t, c.Store).Hashes
			before := reads.Load()
			for range 3 {
				c.wantOutcome(t, "a later login", tt.want)
			}
			if n := reads.Load() - before; n != 0 {
				t.Errorf("the engine was read %d times, want 0", n)
			}
			if n := stats(t, c.Store).Hashes - hashes; n != 0 {
				t.Errorf("argon2 ran %d times, want 0", n)
			}
		})
	}
}

func TestLoginsWithADeletedKeyCostNoHash(t *testing.T) {
	for name, remove := range map[string]step{"key": (*loginCase).deleteKey, "user": (*loginCase).deleteUser} {
		t.Run(name, func(t *testing.T) {
			c := newLoginCase(t, newEngine(t))
			wantLogin(t, c.Store, c.token, c.key.ID)
			must(t, remove(c, t.Context()))
			hashes := stats(t, c.Store).Hashes
			for range 10 {
				wantRefused(t, c.Store, c.token, latchkey.ErrInvalidToken)
			}
			if n := stats(t, c.Store).Hashes - hashes; n != 0 {
				t.Errorf("argon2 ran %d times, want 0", n)
			}
		})
	}
}

// changes are what can happen to a key while it logs in, and the outcomes of logins before and
// after.
var changes = []struct {
	name          string
	prepare       step // nil means nothing
	change        step
	before, after outcome
}{
	{"DisableKey", nil, (*loginCase).disableKey, outcome{name: "laptop"}, outcome{err: latchkey.ErrKeyDisabled}},
	{"DeleteKey", nil, (*loginCase).deleteKey, outcome{name: "laptop"}, outcome{err: latchkey.ErrInvalidToken}},
	{"DisableUser", nil, (*loginCase).disableUser, outcome{name: "laptop"}, outcome{err: latchkey.ErrUserDisabled}},
	{"DeleteUser", nil, (*loginCase).deleteUser, outcome{name: "laptop"}, outcome{err: latchkey.ErrInvalidToken}},
	{"expiry", nil, (*loginCase).expire, outcome{name: "laptop"}, outcome{err: latchkey.ErrKeyExpired}},
	{"RenameKey", nil, (*loginCase).rename, outcome{name: "laptop"}, outcome{name: "desktop"}},
	{"SetExpiry to a later date", (*loginCase).expire, (*loginCase).setExpiry, outcome{err: latchkey.ErrKeyExpired}, outcome{name: "laptop"}},
	{"SetExpiry to an earlier date", nil, (*loginCase).expireSooner, outcome{name: "laptop"}, outcome{err: latchkey.ErrKeyExpired}},
	{"SetScopes", nil, (*loginCase).setScopes, outcome{name: "laptop"}, outcome{name: "laptop files:read"}},
	{"SetMetadata", nil, (*loginCase).setMetadata, outcome{name: "laptop"}, outcome{name: "laptop 4"}},
	{"SetNetworks", nil, (*loginCase).moveAway, outcome{name: "laptop"}, outcome{err: latchkey.ErrNetworkNotAllowed}},
	{"SetNetworks to none", (*loginCase).moveAway, (*loginCase).moveAnywhere, outcome{err: latchkey.ErrNetworkNotAllowed}, outcome{name: "laptop"}},
	{"EnableKey", (*loginCase).disableKey, (*loginCase).enableKey, outcome{err: latchkey.ErrKeyDisabled}, outcome{name: "laptop"}},
	{"EnableUser", (*loginCase).disableUser, (*loginCase).enableUser, outcome{err: latchkey.ErrUserDisabled}, outcome{name: "laptop"}},
}

// gaps are the moments before and after each read of a cold login.
var gaps = []struct {
	name      string
	view      int // the number of the login's read transaction, from 1
	after     bool
	looksThen bool // the login reads once more after the gap
}{
	{"before the verifier is read", 1, false, true},
	{"after the verifier was read", 1, true, true},
	{"while it hashes", 2, true, true},
	{"before the last look", 3, false, true},
	{"after the last look", 3, true, false},
}

// inGap makes the engine call fn once, in a gap of the next login.
func (e *hookedEngine) inGap(view int, after bool, fn func()) {
	views := 0
	hook := func() {
		if views++; views == view {
			e.beforeView, e.afterView = nil, nil
			fn()
		}
	}
	if after {
		e.afterView = hook
	} else {
		e.beforeView = hook
	}
}

func TestALoginThatBeginsAfterAChangeSeesItWhateverAnotherLoginDoes(t *testing.T) {
	for _, tt := range changes {
		for _, gap := range gaps {
			for _, cached := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/cached=%t", tt.name, gap.name, cached), func(t *testing.T) {
					e := &hookedEngine{Engine: newEngine(t)}
					c := newLoginCase(t, e)
					if tt.prepare != nil {
						must(t, tt.prepare(c, t.Context()))
					}
					happened := false
					e.inGap(gap.view, gap.after, func() {
						happened = true
						if cached { // another login has put the key into the cache meanwhile
							c.wantOutcome(t, "a login before it", tt.before)
						}
						must(t, tt.change(c, t.Context()))
						for range 2 {
							c.wantOutcome(t, "a login after it", tt.after)
						}
					})
					underWay := c.login(t)
					if !happened {
						t.Fatal("the login has no such gap")
					}
					if !underWay.is(tt.after) && (gap.looksThen || !underWay.is(tt.before)) {
						t.Errorf("the login under way: got %v, want %v", underWay, tt.after)
					}
					for range 3 {
						c.wantOutcome(t, "a login after both", tt.after)
					}
				})
			}
		}
	}
}

// commitEngine is an engine that calls hooks around its commits, and can report that a commit
// failed in its last step.
type commitEngine struct {
	latchkey.Engine
	beforeUpdate func()
	beforeCommit func() // after the function of the transaction has returned nil
	afterCommit  func() // after the commit is visible, before its caller knows
	lost         bool   // whether the change is dropped
	verdict      error  // returned by Update in place of nil
}

func (e *commitEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	call(e.beforeUpdate)
	if e.lost {
		return e.verdict
	}
	err := e.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		err := fn(tx)
		if err == nil {
			call(e.beforeCommit)
		}
		return err
	})
	call(e.afterCommit)
	if err == nil {
		err = e.verdict
	}
	return err
}

func call(hook func()) {
	if hook != nil {
		hook()
	}
}

func TestAnEntryCachedDuringACommitIsForgottenWhenItReturns(t *testing.T) {
	for _, tt := range changes {
		if tt.name == "expiry" {
			continue // this call commits nothing
		}
		for _, when := range []string{"before it begins", "before it commits", "before it returns"} {
			t.Run(tt.name+"/"+when, func(t *testing.T) {
				e := &commitEngine{Engine: newEngine(t)}
				c := newLoginCase(t, e)
				if tt.prepare != nil {
					must(t, tt.prepare(c, t.Context()))
				}
				meanwhile := func() {
					for range 2 { // one login that reads, and one that the cache answers
						if got := c.login(t); !got.is(tt.before) && !got.is(tt.after) {
							t.Errorf("a login meanwhile: got %v, want %v or %v", got, tt.before, tt.after)
						}
					}
				}
				switch when {
				case "before it begins":
					e.beforeUpdate = meanwhile
				case "before it commits":
					e.beforeCommit = meanwhile
				case "before it returns":
					e.afterCommit = meanwhile
				}
				must(t, tt.change(c, t.Context()))
				e.beforeUpdate, e.beforeCommit, e.afterCommit = nil, nil, nil
				for range 3 {
					c.wantOutcome(t, "a login after it", tt.after)
				}
			})
		}
	}
}

func TestALoginThatEndsBetweenTheCommitAndTheReturnOfAChangeCachesNothingStale(t *testing.T) {
	for _, tt := range changes {
		if tt.name == "expiry" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			hooked := &hookedEngine{Engine: newEngine(t)}
			e := &commitEngine{Engine: hooked}
			c := newLoginCase(t, e)
			if tt.prepare != nil {
				must(t, tt.prepare(c, t.Context()))
			}
			committed, mayReturn, returned := make(chan struct{}), make(chan struct{}), make(chan error)
			hooked.inGap(3, true, func() { // after the last read of the login
				e.afterCommit = func() {
					close(committed)
					<-mayReturn
				}
				go func() { returned <- tt.change(c, t.Context()) }()
				<-committed
			})
			c.wantOutcome(t, "the login that looked before", tt.before)
			close(mayReturn)
			must(t, <-returned)
			e.afterCommit = nil
			for range 3 {
				c.wantOutcome(t, "a login after it", tt.after)
			}
		})
	}
}

func TestNoLoginThatBeginsAfterARevocationSucceedsHoweverManyRun(t *testing.T) {
	c := newLoginCase(t, newEngine(t))
	revocations := []struct{ revoke, restore step }{
		{(*loginCase).disableKey, (*loginCase).enableKey},
		{(*loginCase).disableUser, (*loginCase).enableUser},
	}
	// era is odd while the key is revoked: from the return of revoke to the call of restore.
	var era atomic.Int64
	var done atomic.Bool
	var refused atomic.Int64
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !done.Load() && !t.Failed() {
				before := era.Load()
				_, err := c.Login(t.Context(), c.token)
				switch revoked := before%2 == 1 && era.Load() == before; {
				case err != nil && !errors.Is(err, latchkey.ErrKeyDisabled) && !errors.Is(err, latchkey.ErrUserDisabled):
					t.Errorf("got error %v", err)
				case revoked && err == nil:
					t.Error("a revoked key logged in")
				case revoked:
					refused.Add(1)
				}
			}
		})
	}
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for round := range rounds {
		r := revocations[round%2]
		must(t, r.revoke(c, t.Context()))
		era.Add(1)
		// Until the callers have met the revocation.
		for seen := refused.Load(); refused.Load() < seen+20 && !t.Failed(); {
			if _, err := c.Login(t.Context(), c.token); err == nil {
				t.Error("a revoked key logged in")
			}
		}
		era.Add(1)
		must(t, r.restore(c, t.Context()))
		wantLogin(t, c.Store, c.token, c.key.ID)
	}
	done.Store(true)
	callers.Wait()
}

func TestErrCommitUnknownEmptiesTheCache(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			var reads atomic.Int64
			hooked := &hookedEngine{Engine: newEngine(t), beforeView: func() { reads.Add(1) }}
			e := &commitEngine{Engine: hooked}
			c := newLoginCase(t, e)
			other, otherToken := addKey(t, c.Store, c.user, "other")
			wantLogin(t, c.Store, c.token, c.key.ID)
			wantLogin(t, c.Store, otherToken, other.ID)

			e.lost, e.verdict = lost, fmt.Errorf("the disk is gone: %w", latchkey.ErrCommitUnknown)
			wantError(t, c.disableKey(t.Context()), latchkey.ErrCommitUnknown)
			e.lost, e.verdict = false, nil

			before := reads.Load()
			wantLogin(t, c.Store, otherToken, other.ID)
			if reads.Load() == before {
				t.Error("a key that the change did not touch was answered from the cache")
			}
			before = reads.Load()
			want := outcome{err: latchkey.ErrKeyDisabled}
			if lost {
				want = outcome{name: "laptop"}
			}
			c.wantOutcome(t, "the key that the change was about", want)
			if reads.Load() == before {
				t.Error("the key that the change was about was answered from the cache")
			}
		})
	}
}

func TestALoginThatReadBeforeErrCommitUnknownIsNotRemembered(t *testing.T) {
	hooked := &hookedEngine{Engine: newEngine(t)}
	e := &commitEngine{Engine: hooked}
	c := newLoginCase(t, e)
	hooked.inGap(3, true, func() {
		e.verdict = latchkey.ErrCommitUnknown
		wantError(t, c.disableKey(t.Context()), latchkey.ErrCommitUnknown)
		e.verdict = nil
	})
	c.wantOutcome(t, "the login that looked before", outcome{name: "laptop"})
	wantRefused(t, c.Store, c.token, latchkey.ErrKeyDisabled)
}

func TestAPanicOfTheEngineReleasesTheCache(t *testing.T) {
	for _, panics := range []bool{true, false} {
		t.Run(fmt.Sprintf("panics=%t", panics), func(t *testing.T) {
			e := &commitEngine{Engine: newEngine(t)}
			c := newLoginCase(t, e)
			wantLogin(t, c.Store, c.token, c.key.ID)
			e.afterCommit = func() {
				if panics {
					panic("the engine's own")
				}
				runtime.Goexit()
			}
			var caller sync.WaitGroup
			caller.Go(func() {
				defer func() { _ = recover() }()
				_ = c.disableUser(t.Context())
			})
			caller.Wait()
			e.afterCommit = nil
			wantRefused(t, c.Store, c.token, latchkey.ErrUserDisabled)
			hits := stats(t, c.Store).Hits
			wantRefused(t, c.Store, c.token, latchkey.ErrUserDisabled)
			if stats(t, c.Store).Hits == hits {
				t.Error("the key is not remembered any more")
			}
		})
	}
}

// changeLast changes the last digit of a token.
func changeLast(token string) string {
	if all, isZero := strings.CutSuffix(token, "0"); isZero {
		return all + "1"
	}
	return token[:len(token)-1] + "0"
}

func TestLoginsThatTheCacheOrTheTagDecidesAllocateNothing(t *testing.T) {
	c := newLoginCase(t, newEngine(t))
	wantLogin(t, c.Store, c.token, c.key.ID)
	disabled, disabledToken := addKey(t, c.Store, c.user, "disabled")
	must(t, c.DisableKey(t.Context(), c.user, disabled.ID))
	wantRefused(t, c.Store, disabledToken, latchkey.ErrKeyDisabled)
	full, fullToken, err := c.CreateKey(t.Context(), c.user, fullSpec("full", c.clock.now().Add(time.Hour)))
	must(t, err)
	here := netip.MustParseAddr("2001:db8::1%eth0")
	if who, err := c.LoginFrom(t.Context(), fullToken, here); err != nil || who.KeyID != full.ID {
		t.Fatalf("logged in with key %s, %v, want %s", who.KeyID, err, full.ID)
	}
	for _, tt := range []struct {
		name, token string
		want        error
	}{
		{"cached", c.token, nil},
		{"cached, with something in every field", fullToken, nil},
		{"cached and disabled", disabledToken, latchkey.ErrKeyDisabled},
		{"forged", "lk_" + strings.Repeat("0", 77), latchkey.ErrInvalidToken},
		{"forged, with the ID of a key", changeLast(c.token), latchkey.ErrInvalidToken},
		{"malformed", c.token[1:], latchkey.ErrInvalidToken},
		{"malformed, and as long as a token", strings.Repeat("~", 80), latchkey.ErrInvalidToken},
	} {
		ctx := t.Context()
		var err error
		login := func() {
			var who latchkey.Principal
			who, err = c.LoginFrom(ctx, tt.token, here)
			who.Scopes.Has("files:read")
			who.Metadata("room")
		}
		if n := testing.AllocsPerRun(1000, login); n != 0 {
			t.Errorf("%s: %v allocations, want 0", tt.name, n)
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got error %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestWithoutACacheEveryLoginReadsAndHashes(t *testing.T) {
	opts := light()
	opts.CacheSize = -1
	s := openWith(t, opts)
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user, "laptop")
	hashes := stats(t, s).Hashes
	for range 3 {
		wantLogin(t, s, token, key.ID)
	}
	if st := stats(t, s); st.Hashes-hashes != 3 || st.Misses != 3 || st.CacheSize != 0 {
		t.Errorf("%d hashes, %d misses, %d keys in the cache; want 3, 3, 0", st.Hashes-hashes, st.Misses, st.CacheSize)
	}
	must(t, s.DisableKey(t.Context(), user, key.ID))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
}

func TestTheCacheHoldsNoMoreKeysThanCacheSize(t *testing.T) {
	opts := light()
	opts.CacheSize = 3
	s := openWith(t, opts)
	user := addUser(t, s, "ada")
	for i := range 10 {
		key, token := addKey(t, s, user, fmt.Sprint(i))
		wantLogin(t, s, token, key.ID)
	}
	if n := stats(t, s).CacheSize; n != 3 {
		t.Errorf("the cache has %d keys, want 3", n)
	}
}

func TestAKeyLogsInOnlyIfItsCostFitsIntoHashMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, &latchkey.Options{Cost: latchkey.Cost{Memory: 256, Passes: 1, Lanes: 1}})
	key, token := addKey(t, s, latchkey.ServerOwner, "laptop")
	closeStore(t, s)

	s = openAt(t, path, &latchkey.Options{Cost: latchkey.LightCost, HashMemory: 256<<10 - 1})
	wantRefused(t, s, token, latchkey.ErrCostTooHigh)
	if n := stats(t, s).Hashes; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
	other, otherToken := addKey(t, s, latchkey.ServerOwner, "other")
	wantLogin(t, s, otherToken, other.ID)
	closeStore(t, s)

	s = openAt(t, path, &latchkey.Options{Cost: latchkey.LightCost, HashMemory: 256 << 10})
	wantLogin(t, s, token, key.ID)
}

func TestLoginsThatRaceWithCloseSucceedOrReturnErrClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	var tokens []string
	for i := range 8 {
		_, token := addKey(t, s, latchkey.ServerOwner, fmt.Sprint(i))
		tokens = append(tokens, token)
	}
	closeStore(t, s)
	rounds := 30
	if testing.Short() {
		rounds = 6
	}
	for range rounds {
		s := openAt(t, path, light())
		var callers sync.WaitGroup
		begun := make(chan struct{}, len(tokens))
		for _, token := range tokens {
			callers.Go(func() {
				begun <- struct{}{}
				for {
					_, err := s.Login(t.Context(), token)
					if errors.Is(err, latchkey.ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("got error %v", err)
						return
					}
				}
			})
		}
		<-begun
		closeStore(t, s)
		callers.Wait()
		wantRefused(t, s, tokens[0], latchkey.ErrClosed)
		wantRefused(t, s, "lk_malformed", latchkey.ErrClosed)
	}
}

// interruptedEngine is an engine that drops the state of some read transactions.
type interruptedEngine struct {
	latchkey.Engine
	left atomic.Int32 // how many
}

func (e *interruptedEngine) View(ctx context.Context, fn func(tx latchkey.EngineTx) error) error {
	return e.Engine.View(ctx, func(tx latchkey.EngineTx) error {
		if err := fn(tx); err != nil || e.left.Add(-1) < 0 {
			return err
		}
		return latchkey.ErrInterrupted
	})
}

func TestALoginReadsAgainWhatTheEngineHasDropped(t *testing.T) {
	e := &interruptedEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user, "laptop")
	e.left.Store(3) // of the two transactions of a login
	wantLogin(t, s, token, key.ID)
	if n := e.left.Load(); n >= 0 {
		t.Errorf("%d transactions were not interrupted", n+1)
	}
	e.left.Store(3)
	if got, err := s.Key(t.Context(), user, key.ID); err != nil || got.ID != key.ID {
		t.Errorf("Key: %v, %v", got, err)
	}
}
