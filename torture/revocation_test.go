package torture_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// These tests show that revocation is immediate: in histories of many goroutines (see
// history_test.go), and between a commit and the return of the call that made it.

func TestEveryHistoryOfLoginsAndRevocationsIsLinearizable(t *testing.T) {
	for _, tt := range []struct {
		name     string
		opts     latchkey.Options
		restless bool
	}{
		{"all keys cached", latchkey.Options{}, false},
		{"all keys cached, and slow between steps", latchkey.Options{}, true},
		{"few keys cached, and slow between steps", latchkey.Options{CacheSize: 3}, true},
		{"no key cached, and few can wait", latchkey.Options{CacheSize: -1, HashQueue: 3}, true},
		{"an audit trail, and last uses that are written all the time", latchkey.Options{
			OnChange: audit.New(nil).Record, LastUseEvery: time.Millisecond,
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seed := form.NewSeed(t)
			for round := range form.Amount(12, 400) {
				s, path := openForHistory(t, tt.opts, tt.restless)
				history := recordHistory(t, s, s.Login, seed, round)
				must(t, s.Close())
				checkAndClose(t, openFile(t, path, nil))
				if result, path := judge(t, history, os.TempDir()); result != porcupine.Ok {
					t.Fatalf("round %d: the history of %d calls is %s; open %s in a browser", round, len(history), result, path)
				}
			}
		})
	}
}

// The checker must be able to fail: it finds a cache that believes its entries for too long.
func TestTheCheckerFindsALoginThatIsRememberedForTooLong(t *testing.T) {
	seed := form.NewSeed(t)
	dir := t.TempDir()
	for round := range 50 {
		s, _ := openForHistory(t, latchkey.Options{}, false)
		stale := &staleLogins{store: s, left: make(map[string]int)}
		history := recordHistory(t, s, stale.login, seed, round)
		must(t, s.Close())
		result, path := judge(t, history, dir)
		if result == porcupine.Ok {
			continue // no remembered key was revoked in this history
		}
		if info, err := os.Stat(path); result != porcupine.Illegal || err != nil || info.Size() == 0 {
			t.Errorf("the history is %s and shown in %s (%v), want Illegal and a page", result, path, err)
		}
		return
	}
	t.Error("50 histories of a stale cache were all found linearizable")
}

// staleLogins remembers a successful login, and answers the next few logins with its token without
// the store.
type staleLogins struct {
	store *latchkey.Store
	mu    sync.Mutex
	left  map[string]int
	last  map[string]latchkey.Principal
}

func (l *staleLogins) login(ctx context.Context, token string) (latchkey.Principal, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left[token] > 0 {
		l.left[token]--
		return l.last[token], nil
	}
	who, err := l.store.Login(ctx, token)
	if err == nil {
		if l.last == nil {
			l.last = make(map[string]latchkey.Principal)
		}
		l.left[token], l.last[token] = 5, who
	}
	return who, err
}

func openForHistory(t *testing.T, opts latchkey.Options, restless bool) (s *latchkey.Store, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keys.db")
	engine, err := latchkey.OpenBoltEngine(path, nil)
	must(t, err)
	if restless {
		engine = restlessEngine{engine}
	}
	opts.Cost = light
	s, err = latchkey.OpenWith(engine, &opts)
	must(t, err)
	return s, path
}

// restlessEngine lets other goroutines run between the end of a transaction and the caller's next
// step. A store with a wrong order of steps fails there.
type restlessEngine struct{ latchkey.Engine }

func (e restlessEngine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	defer yieldAWhile()
	return e.Engine.View(ctx, fn)
}

func (e restlessEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	defer yieldAWhile()
	return e.Engine.Update(ctx, fn)
}

func yieldAWhile() {
	for range rand.IntN(100) {
		runtime.Gosched()
	}
}

// A change is visible from the moment of its commit, which is a little before its call returns. A
// caller that has seen the change may rely on it.
func TestAChangeThatOneCallHasSeenHoldsForEveryLoginAfterIt(t *testing.T) {
	type calls struct {
		*latchkey.Store
		user, key uuid.UUID
	}
	disableKey := func(c calls) error { return c.DisableKey(context.Background(), c.user, c.key) }
	enableKey := func(c calls) error { return c.EnableKey(context.Background(), c.user, c.key) }
	deleteKey := func(c calls) error { return c.DeleteKey(context.Background(), c.user, c.key) }
	disableUser := func(c calls) error { return c.DisableUser(context.Background(), c.user) }
	enableUser := func(c calls) error { return c.EnableUser(context.Background(), c.user) }
	deleteUser := func(c calls) error { return c.DeleteUser(context.Background(), c.user) }
	moveAway := func(c calls) error {
		return c.SetNetworks(context.Background(), c.user, c.key, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	}
	moveBack := func(c calls) error { return c.SetNetworks(context.Background(), c.user, c.key, nil) }
	disableGroup := func(c calls) error { return c.DisableGroup(context.Background(), "acme") }
	enableGroup := func(c calls) error { return c.EnableGroup(context.Background(), "acme") }
	leaveGroup := func(c calls) error { return c.SetUserGroup(context.Background(), c.user, "") }
	useNewTagSecret := func(c calls) error {
		number, err := c.AddTagSecret(context.Background())
		if err != nil {
			return err
		}
		return c.UseTagSecret(context.Background(), number)
	}
	retireTagSecret := func(c calls) error { return c.RetireTagSecret(context.Background(), 0) }
	for _, tt := range []struct {
		name   string
		before func(calls) error // made before the login that is remembered; nil for none
		change func(calls) error
		again  func(calls) error // made after the commit of change and before its return
		told   string            // the answer to again
		login  string            // the answer to a login after again
	}{
		{"a key that is deleted twice", nil, deleteKey, deleteKey, "ErrKeyNotFound", "ErrInvalidToken"},
		{"a key that is deleted, and then to be disabled", nil, deleteKey, disableKey, "ErrKeyNotFound", "ErrInvalidToken"},
		{"a key that is disabled twice", nil, disableKey, disableKey, "ok", "ErrKeyDisabled"},
		{"a key that is enabled twice", disableKey, enableKey, enableKey, "ok", "ok"},
		{"a key that gets networks twice", nil, moveAway, moveAway, "ok", "ErrNetworkNotAllowed"},
		{"a key that loses its networks twice", moveAway, moveBack, moveBack, "ok", "ok"},
		{"a user who is deleted twice", nil, deleteUser, deleteUser, "ErrUserNotFound", "ErrInvalidToken"},
		{"a user who is deleted, and then to be disabled", nil, deleteUser, disableUser, "ErrUserNotFound", "ErrInvalidToken"},
		{"a user who is disabled twice", nil, disableUser, disableUser, "ok", "ErrUserDisabled"},
		{"a user who is enabled twice", disableUser, enableUser, enableUser, "ok", "ok"},
		{"a group that is disabled twice", nil, disableGroup, disableGroup, "ok", "ErrGroupDisabled"},
		{"a group that is enabled twice", disableGroup, enableGroup, enableGroup, "ok", "ok"},
		{"a tag secret that is retired twice", useNewTagSecret, retireTagSecret, retireTagSecret, "ok", "ErrInvalidToken"},
		{"a user who leaves a disabled group twice", disableGroup, leaveGroup, leaveGroup, "ok", "ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bolt, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
			must(t, err)
			engine := &heldEngine{Engine: bolt}
			s, err := latchkey.OpenWith(engine, &latchkey.Options{Cost: light})
			must(t, err)
			t.Cleanup(func() { checkAndClose(t, s) })
			user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "acme"})
			must(t, err)
			key, token, err := s.CreateKey(t.Context(), user.ID, latchkey.KeySpec{Name: "laptop"})
			must(t, err)
			c := calls{s, user.ID, key.ID}
			if tt.before != nil {
				must(t, tt.before(c))
			}
			_, _ = s.Login(t.Context(), token)

			committed, letGo := engine.holdNext()
			returned := make(chan error)
			go func() { returned <- tt.change(c) }()
			<-committed
			if told := outcome(tt.again(c)); told != tt.told {
				t.Errorf("the second call was told %s, want %s", told, tt.told)
			}
			_, err = s.Login(t.Context(), token)
			close(letGo)
			must(t, <-returned)
			if got := outcome(err); got != tt.login {
				t.Errorf("Login after the second call: %s, want %s", got, tt.login)
			}
		})
	}
}

// heldEngine can hold an Update between its commit and its return.
type heldEngine struct {
	latchkey.Engine
	next atomic.Pointer[hold]
}

type hold struct{ committed, letGo chan struct{} }

// holdNext makes the engine hold the next Update. The engine closes committed when it holds the
// Update, and lets the Update return when letGo is closed.
func (e *heldEngine) holdNext() (committed <-chan struct{}, letGo chan<- struct{}) {
	h := &hold{make(chan struct{}), make(chan struct{})}
	e.next.Store(h)
	return h.committed, h.letGo
}

func (e *heldEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	h := e.next.Swap(nil)
	err := e.Engine.Update(ctx, fn)
	if h != nil {
		close(h.committed)
		<-h.letGo
	}
	return err
}
