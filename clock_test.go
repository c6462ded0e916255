package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// morning is when these tests begin. It is after the release of every version that will be tested.
var morning = time.Date(2036, 5, 6, 7, 8, 9, 0, time.UTC)

// wallClock is a clock that runs, and that the test sets.
type wallClock struct {
	ahead atomic.Int64 // of the clock of the test's bubble
	reads atomic.Int64
}

func (w *wallClock) now() time.Time {
	w.reads.Add(1)
	return time.Now().Add(time.Duration(w.ahead.Load()))
}

func (w *wallClock) set(t time.Time) { w.ahead.Store(int64(time.Until(t))) }

// clockCase is a store whose clock the test sets. It has a key that expires in an hour.
type clockCase struct {
	*latchkey.Store
	t     *testing.T
	wall  *wallClock
	path  string
	owner uuid.UUID
	token string
}

// withClock runs a test of a store. The clock says morning.
func withClock(t *testing.T, test func(t *testing.T, c *clockCase)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &clockCase{t: t, wall: &wallClock{}, path: filepath.Join(t.TempDir(), "keys.db")}
		c.wall.set(morning)
		c.open()
		c.owner = addUser(t, c.Store, "ada")
		_, c.token = addExpiring(t, c.Store, c.owner, "visitor")
		test(t, c)
		must(t, c.Close())
	})
}

func (c *clockCase) options() *latchkey.Options {
	opts := light()
	opts.Now = c.wall.now
	opts.FileCheckEvery = -1 // hours pass, and a look each second would take most of a test's time
	return opts
}

func (c *clockCase) open() { c.openWith(c.options()) }

func (c *clockCase) openWith(opts *latchkey.Options) {
	c.t.Helper()
	s, err := latchkey.TryOpen(c.t, c.path, opts)
	must(c.t, err)
	c.Store = s
}

// reopenAt closes the store, sets the clock, and opens the store with opts.
func (c *clockCase) reopenAt(now time.Time, opts *latchkey.Options) {
	c.t.Helper()
	closeStore(c.t, c.Store)
	c.wall.set(now)
	c.openWith(opts)
}

// write makes a change, so that the file learns the time if that is due.
func (c *clockCase) write() {
	c.t.Helper()
	addUser(c.t, c.Store, uuid.NewString())
}

func (c *clockCase) wantGood() {
	c.t.Helper()
	if _, err := c.Login(c.t.Context(), c.token); err != nil {
		c.t.Error(err)
	}
}

func (c *clockCase) wantExpired() {
	c.t.Helper()
	wantRefused(c.t, c.Store, c.token, latchkey.ErrKeyExpired)
}

// wantNow fails the test unless the store's time is at.
func (c *clockCase) wantNow(at time.Time) {
	c.t.Helper()
	if got := c.Now(); !got.Equal(at) {
		c.t.Errorf("the store's time is %s, want %s", got, at)
	}
}

// wantNotBefore fails the test if the store's time is before at.
func (c *clockCase) wantNotBefore(at time.Time) {
	c.t.Helper()
	if got := c.Now(); got.Before(at) {
		c.t.Errorf("the store's time is %s, want %s or later", got, at)
	}
}

// pass lets a time pass, and then the goroutines of the store.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAClockThatIsSetBackDoesNotSetTheStoreBack(t *testing.T) {
	for _, cacheSize := range []int{0, -1} {
		withClock(t, func(t *testing.T, c *clockCase) {
			opts := c.options()
			opts.CacheSize = cacheSize
			c.reopenAt(morning, opts)
			c.wantGood()
			c.wall.set(morning.Add(time.Hour))
			c.wantExpired()
			made, err := c.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")})
			must(t, err)

			c.wall.set(morning.Add(-time.Hour))
			c.wantExpired()
			c.wantNotBefore(made.Created)
			if next, err := c.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("eve")}); err != nil || next.Created.Before(made.Created) {
				t.Errorf("a user that was made later is of %s, %v, and the one before of %s", next.Created, err, made.Created)
			}
			before := c.Now()
			pass(3 * time.Hour)
			c.wantNow(before.Add(3 * time.Hour))
		})
	}
}

func TestAnExpiredKeyStaysExpiredWhenTheClockIsSetBackBeforeTheStoreIsOpenedAgain(t *testing.T) {
	for _, tt := range []struct {
		what   string
		write  func(c *clockCase)
		learns bool
	}{
		{"a change", (*clockCase).write, true},
		{"application data", func(c *clockCase) { putNote(c.t, c.Store, "note") }, true},
		{"only reading", (*clockCase).wantExpired, false},
		{"a failed change", func(c *clockCase) {
			wantError(c.t, c.DeleteUser(c.t.Context(), uuid.New()), latchkey.ErrUserNotFound)
		}, false},
		{"nothing to change", func(c *clockCase) { must(c.t, c.EnableUser(c.t.Context(), c.owner)) }, false},
	} {
		withClock(t, func(t *testing.T, c *clockCase) {
			pass(61 * time.Minute)
			tt.write(c)
			for range 2 {
				c.reopenAt(morning.Add(-time.Hour), c.options())
				if tt.learns {
					c.wantExpired()
					c.wantNotBefore(morning.Add(61 * time.Minute))
				} else {
					c.wantGood()
				}
			}
		})
	}
}

func putNote(t *testing.T, s *latchkey.Store, text string) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.AppTable("notes").Put([]byte("ada"), []byte(text)) }))
}

func TestASuspendedMachineIsSeenAtOnceAndWithoutALogin(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		c.wantGood()
		// The monotonic clock stands while the machine sleeps.
		c.wall.set(morning.Add(8 * time.Hour))
		c.wantExpired()
		c.wantNow(morning.Add(8 * time.Hour))
		c.wall.set(morning.Add(16 * time.Hour))
		pass(time.Second)
		c.wall.set(morning)
		c.wantNotBefore(morning.Add(16 * time.Hour))
		wantError(t, c.Health(t.Context()), latchkey.ErrClockBehind)
	})
}

func TestADeviceWithoutAClockGoesOnFromTheTimeThatTheFileRemembers(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		boot := time.Unix(0, 0)
		at := morning
		for range 3 {
			c.reopenAt(boot, c.options())
			c.wantNotBefore(at)
			at = c.Now()
			pass(30 * time.Minute)
			c.wantNow(at.Add(30 * time.Minute))
			c.write()
			at = at.Add(30 * time.Minute)
		}
		c.wantExpired()
		wantError(t, c.Health(t.Context()), latchkey.ErrClockBehind)
		wantError(t, c.ResetClock(t.Context()), latchkey.ErrClockBehind)
		c.wantExpired()
	})
}

func TestNoStoreBelievesATimeBeforeTheRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := light()
		opts.Now = func() time.Time { return time.Unix(60, 0) }
		s := openAt(t, filepath.Join(t.TempDir(), "keys.db"), opts)
		if got, least := s.Now(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); got.Before(least) {
			t.Errorf("the store's time is %s, want %s or later", got, least)
		}
		wantNoKey(t, s, addUser(t, s, "ada"), latchkey.KeySpec{Name: "laptop", Expires: time.Unix(3600, 0)}, latchkey.ErrInvalidExpiry)
		wantError(t, s.Health(t.Context()), latchkey.ErrClockBehind)
	})
}

func TestResetClockPutsRightATimeThatWasFarAhead(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		pass(10 * time.Minute)
		c.write()
		// Somebody typed the wrong year.
		c.wall.set(morning.AddDate(10, 0, 0))
		c.wantExpired()
		_, short, err := c.CreateKey(t.Context(), c.owner, latchkey.KeySpec{Name: "short", Expires: morning.AddDate(10, 0, 1)})
		must(t, err)
		must(t, c.Health(t.Context()))
		right := morning.Add(20 * time.Minute)
		for range 2 {
			c.wall.set(right)
			c.wantExpired()
			wantError(t, c.Health(t.Context()), latchkey.ErrClockBehind)
			c.reopenAt(right, c.options())
		}

		must(t, c.ResetClock(t.Context()))
		for range 2 {
			c.wantNow(right)
			c.wantGood()
			must(t, c.Health(t.Context()))
			if st, err := c.Stats(t.Context()); err != nil || st.ClockResets != 1 {
				t.Errorf("got %d resets, %v, want 1", st.ClockResets, err)
			}
			c.reopenAt(right, c.options())
		}
		if _, err := c.Login(t.Context(), short); err != nil {
			t.Error(err)
		}
		// From here on, all is as before.
		pass(time.Hour)
		c.write()
		c.reopenAt(morning, c.options())
		c.wantExpired()
		c.wantNow(right.Add(time.Hour))
		must(t, c.ResetClock(t.Context()))
		if st, err := c.Stats(t.Context()); err != nil || st.ClockResets != 2 {
			t.Errorf("got %d resets, %v, want 2", st.ClockResets, err)
		}
		c.wantNow(morning)
	})
}

func TestHealthToleratesAClockThatIsTenMinutesBehind(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		c.wall.set(c.wall.now().Add(-10 * time.Minute))
		must(t, c.Health(t.Context()))
		c.wall.set(c.wall.now().Add(-time.Second))
		err := c.Health(t.Context())
		wantError(t, err, latchkey.ErrClockBehind)
		pass(24 * time.Hour)
		// serve logs a finding once, so the text must not change.
		if again := c.Health(t.Context()); again == nil || again.Error() != err.Error() {
			t.Errorf("got %v, and before %v", again, err)
		}
	})
}

func TestAReadOnlyStoreReadsTheRememberedTimeAndWritesNone(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		pass(2 * time.Hour)
		c.write()
		closeStore(t, c.Store)
		before := readFile(t, c.path)
		opts := c.options()
		opts.ReadOnly = true
		c.openWith(opts)
		c.reopenAt(morning, opts)
		c.wantExpired()
		c.wantNow(morning.Add(2 * time.Hour))
		pass(time.Hour)
		c.wantNow(morning.Add(3 * time.Hour))
		wantError(t, c.Health(t.Context()), latchkey.ErrClockBehind)
		wantError(t, c.ResetClock(t.Context()), latchkey.ErrReadOnly)
		c.wantExpired()
		if !bytes.Equal(readFile(t, c.path), before) {
			t.Error("the file has changed")
		}
	})
}

func TestAReaderThatGoesOnWithAnotherFileLearnsItsTime(t *testing.T) {
	needsOpenFiles(t)
	withClock(t, func(t *testing.T, c *clockCase) {
		closeStore(t, c.Store)
		before := readFile(t, c.path)
		pass(2 * time.Hour)
		c.open()
		c.write()
		closeStore(t, c.Store)
		after := readFile(t, c.path)

		overwriteFile(t, c.path, before)
		c.wall.set(morning)
		opts := c.options()
		opts.ReadOnly, opts.FileCheckEvery = true, time.Second
		c.openWith(opts)
		c.wantNow(morning)
		c.wantGood()
		replace(t, c.path, after)
		pass(time.Second)
		c.wantNow(morning.Add(2 * time.Hour))
		c.wantExpired()
	})
}

func TestATestClockIsBelievedAlsoWhenItGoesBack(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		pass(2 * time.Hour)
		c.write()
		opts := c.options()
		opts.TestClock = true
		c.reopenAt(morning, opts) // the file remembers a later time
		c.wantNow(morning)
		c.wantGood()
		c.wall.set(morning.AddDate(20, 0, 0))
		c.wantExpired()
		c.write()
		c.wall.set(morning)
		c.wantGood()
		must(t, c.Health(t.Context()))
		must(t, c.ResetClock(t.Context()))
		c.wall.set(time.Unix(60, 0)) // before the release
		c.wantNow(time.Unix(60, 0))
		must(t, c.ResetClock(t.Context()))

		c.reopenAt(morning, c.options()) // the file remembers what it did before
		c.wantNow(morning.Add(2 * time.Hour))
		if st, err := c.Stats(t.Context()); err != nil || st.ClockResets != 0 {
			t.Errorf("got %d resets, %v, want none", st.ClockResets, err)
		}
	})
}

func TestACachedLoginOfAKeyWithoutAnExpiryDateReadsNoClock(t *testing.T) {
	withClock(t, func(t *testing.T, c *clockCase) {
		key, token := addKey(t, c.Store, c.owner, "resident")
		wantLogin(t, c.Store, token, key.ID)
		c.wantGood()
		before := c.wall.reads.Load()
		wantLogin(t, c.Store, token, key.ID)
		if reads := c.wall.reads.Load() - before; reads != 0 {
			t.Errorf("the clock was read %d times, want 0", reads)
		}
		c.wantGood()
		if reads := c.wall.reads.Load() - before; reads != 1 {
			t.Errorf("for a key that expires, the clock was read %d times, want once", reads)
		}
	})
}

// timeCounting is an engine that counts the writes of the remembered time.
type timeCounting struct {
	latchkey.Engine
	again  bool // run each function twice, as an engine that has lost a race
	fail   error
	writes int // in transactions that were committed
}

type countingTx struct {
	latchkey.EngineTx
	writes *int
}

func (tx countingTx) Put(table string, key, value []byte) error {
	if table == "meta" && string(key) == "clock" {
		*tx.writes++
	}
	return tx.EngineTx.Put(table, key, value)
}

func (e *timeCounting) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	errLost := errors.New("lost a race")
	if e.again {
		err := e.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return errLost
		})
		if !errors.Is(err, errLost) {
			return err
		}
	}
	writes := 0
	err := e.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := fn(countingTx{tx, &writes}); err != nil {
			return err
		}
		return e.fail
	})
	if err == nil {
		e.writes += writes
	}
	return err
}

func TestTheFileLearnsTheTimeAtMostOnceAMinute(t *testing.T) {
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := &timeCounting{Engine: newEngine(t), again: again}
			s := openEngine(t, e, light())
			want := func(writes int, what string) {
				t.Helper()
				if e.writes != writes {
					t.Errorf("after %s, the time was written %d times, want %d", what, e.writes, writes)
				}
			}
			addUser(t, s, "first")
			want(1, "the first change")
			for range 6 {
				pass(10 * time.Second)
				addUser(t, s, uuid.NewString())
			}
			want(1, "a minute of changes")
			pass(10 * time.Minute)
			want(1, "ten quiet minutes")
			e.fail = errors.New("the commit fails")
			_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("nobody")})
			wantError(t, err, e.fail)
			e.fail = nil
			addUser(t, s, "second")
			want(2, "the next change")
			putNote(t, s, "one")
			want(2, "a change of application data")
			pass(61 * time.Second)
			putNote(t, s, "two")
			want(3, "a change of application data after a minute")
		})
	}
}
