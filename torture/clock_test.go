package torture_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/latchkeydb/latchkey"
)

// A clock jumps forwards and backwards while a store is used, opened again and left alone. The
// store's time must keep its promises, and every login of a key with an expiry date must go by it.

func TestKeysExpireByATimeThatNeverRunsBackwardsHoweverTheClockJumps(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(drawClockStep), 1, 30).Draw(rt, "steps")
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		w := &jumpingClock{path: path}
		synctest.Test(t, func(*testing.T) { w.playAll(steps) })
		if w.broken != "" {
			rt.Fatalf("%s\n%s", strings.Join(w.lines, "\n"), w.broken)
		}
		if err := os.Remove(path); err != nil {
			rt.Error(err)
		}
	})
}

// A clockStep is one step of such a program.
type clockStep struct {
	do string
	by time.Duration // of a jump, a pause, or an expiry date from now
}

// yearsBack is a jump to before the release.
const yearsBack = -150_000 * time.Hour

var (
	clockSteps  = words("jump", 4, "pause", 4, "login", 6, "create", 2, "set expiry", 3, "write", 2, "reopen", 3, "reset", 1)
	jumps       = []time.Duration{time.Second, 2 * time.Minute, 3 * time.Hour, 700 * time.Hour, -time.Second, -2 * time.Minute, -20 * time.Minute, -3 * time.Hour, -700 * time.Hour, yearsBack}
	pauses      = []time.Duration{300 * time.Millisecond, time.Second, 50 * time.Second, 5 * time.Minute, 2 * time.Hour}
	expiryDates = []time.Duration{time.Second, 30 * time.Second, 10 * time.Minute, 2 * time.Hour, 500 * time.Hour, -time.Minute}
)

func drawClockStep(t *rapid.T) clockStep {
	s := clockStep{do: evenly(t, clockSteps)}
	switch s.do {
	case "jump":
		s.by = evenly(t, jumps)
	case "pause":
		s.by = evenly(t, pauses)
	case "create", "set expiry":
		s.by = evenly(t, expiryDates)
	}
	return s
}

// release is a time that no store takes for the present, because the version was released later.
var release = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// jumpingClock plays steps on a store, and knows what its time can be.
type jumpingClock struct {
	path  string
	store *latchkey.Store
	ahead atomic.Int64 // of the clock that jumps over the one that does not, in nanoseconds

	low, high time.Time // the bounds of the store's time
	kept      time.Time // the earliest time that the file can remember

	made    int // keys
	token   string
	key     latchkey.Key
	expires time.Time
	lines   []string
	broken  string // the promise that was broken
}

func (w *jumpingClock) clock() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func (w *jumpingClock) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

func (w *jumpingClock) playAll(steps []clockStep) {
	w.ahead.Store(int64(time.Until(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))))
	w.low, w.high, w.kept = release, release, release
	w.open()
	w.create(10 * time.Minute)
	for _, s := range steps {
		if w.broken != "" {
			break
		}
		w.play(s)
		w.lines = append(w.lines, fmt.Sprintf("%s %s → clock %s, time %s", s.do, s.by, w.clock().Format(time.RFC3339), w.now().Format(time.RFC3339)))
		finding := w.store.Health(context.Background())
		if behind := w.now().Sub(w.clock()) > 10*time.Minute; errors.Is(finding, latchkey.ErrClockBehind) != behind {
			w.fail("Health says %v", finding)
		}
	}
	if err := w.store.Close(); err != nil {
		w.fail("Close: %v", err)
	}
}

func (w *jumpingClock) open() {
	s, err := latchkey.Open(w.path, &latchkey.Options{Cost: light, FileCheckEvery: -1, Now: w.clock})
	if err != nil {
		panic(err)
	}
	w.store = s
}

// now returns the store's time, which must be in the bounds. It is the lower bound from then on.
func (w *jumpingClock) now() time.Time {
	now := w.store.Now()
	clock := w.clock().UTC().Truncate(time.Millisecond)
	w.high = later(w.high, clock)
	switch {
	case now.Before(w.low):
		w.fail("the time is %s, and was at least %s before", now, w.low)
	case now.After(w.high):
		w.fail("the time is %s, and nothing was later than %s", now, w.high)
	case now.Before(clock):
		w.fail("the time is %s, and the clock says %s", now, clock)
	}
	w.low = now
	return now
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wrote notes that a change has been made.
func (w *jumpingClock) wrote() { w.kept = later(w.kept, w.now().Add(-time.Minute)) }

func (w *jumpingClock) play(s clockStep) {
	ctx := context.Background()
	switch s.do {
	case "jump":
		w.now()
		w.ahead.Add(int64(s.by))
	case "pause":
		// The time runs slower by a thousandth while it is a little ahead of the clock.
		slower := s.by / 1000
		if w.now().Sub(w.clock()) > 10*time.Minute {
			slower = 0
		}
		time.Sleep(s.by)
		w.low, w.high = w.low.Add(s.by-slower-2*time.Millisecond), w.high.Add(s.by)
	case "login":
		w.login()
	case "create":
		w.create(s.by)
	case "set expiry":
		to := w.now().Add(s.by).Truncate(time.Second)
		err := w.store.SetExpiry(ctx, w.key.Owner, w.key.ID, to)
		switch past := !to.After(w.now()) && !to.Equal(w.expires); {
		case past && !errors.Is(err, latchkey.ErrInvalidExpiry), !past && err != nil:
			w.fail("SetExpiry to %s: %v", to, err)
		case err == nil && !to.Equal(w.expires):
			w.expires = to
			w.wrote()
		}
	case "write":
		if _, err := w.store.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}}); err != nil {
			w.fail("CreateUser: %v", err)
		}
		w.wrote()
	case "reopen":
		w.now()
		if err := w.store.Close(); err != nil {
			w.fail("Close: %v", err)
		}
		w.low = w.kept
		w.open()
	case "reset":
		right := !w.clock().Before(release)
		err := w.store.ResetClock(ctx)
		if right && err != nil || !right && !errors.Is(err, latchkey.ErrClockBehind) {
			w.fail("ResetClock: %v", err)
		}
		if right {
			now := w.clock().UTC().Truncate(time.Millisecond)
			w.low, w.high, w.kept = now, now, now
		}
	}
}

// create makes another key, which the steps are about from then on.
func (w *jumpingClock) create(expires time.Duration) {
	w.made++
	to := w.now().Add(expires).Truncate(time.Second)
	key, token, err := w.store.CreateServerKey(context.Background(), latchkey.KeySpec{Name: fmt.Sprint("key ", w.made), Expires: to})
	switch past := !to.After(w.now()); {
	case past && !errors.Is(err, latchkey.ErrInvalidExpiry), !past && err != nil:
		w.fail("CreateServerKey with %s: %v", to, err)
	case err == nil:
		if !key.Created.Equal(w.now()) {
			w.fail("the key was made at %s", key.Created)
		}
		w.key, w.token, w.expires = key, token, to
		w.wrote()
	}
}

// login logs in. The store's time alone decides. A login that succeeds is the last use.
func (w *jumpingClock) login() {
	now := w.now()
	_, err := w.store.Login(context.Background(), w.token)
	expired := !now.Before(w.expires)
	if expired && !errors.Is(err, latchkey.ErrKeyExpired) || !expired && err != nil {
		w.fail("at %s, the login of a key that expires at %s: %v", now, w.expires, err)
		return
	}
	key, failed := w.store.KeyByID(context.Background(), w.key.ID)
	if failed != nil || err == nil && !key.LastUsed.Equal(now.Truncate(time.Minute)) || key.LastUsed.After(now) {
		w.fail("the last use at %s was at %s, %v", now, key.LastUsed, failed)
	}
}
