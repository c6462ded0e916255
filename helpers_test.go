package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// light returns the options for tests that are not about hashing.
func light() *latchkey.Options { return &latchkey.Options{Cost: latchkey.LightCost} }

// open opens a new store, checks it when the test ends, and closes it.
func open(t testing.TB) *latchkey.Store { return openWith(t, light()) }

func openWith(t testing.TB, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

// openAt opens the store at path, checks it when the test ends, and closes it, unless the test has
// closed it already.
func openAt(t testing.TB, path string, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	s, err := latchkey.TryOpen(t, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	checkAtEnd(t, s)
	return s
}

// openFile is openAt for a test about the file at path.
func openFile(t testing.TB, path string, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	latchkey.AboutFile(t)
	return openAt(t, path, opts)
}

// stateAt returns everything that the closed store at path has: the bytes of its file, or its
// entries.
func stateAt(t testing.TB, path string) string {
	t.Helper()
	if latchkey.OtherEngine == nil {
		return string(readFile(t, path))
	}
	var state strings.Builder
	must(t, latchkey.EngineAt(t, path, nil).View(t.Context(), func(etx latchkey.EngineTx) error {
		state.Reset()
		for _, table := range tables {
			for e, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				fmt.Fprintf(&state, "%s: %s=%s\n", table, e.Key, e.Value)
			}
		}
		return nil
	}))
	return state.String()
}

func checkAtEnd(t testing.TB, s *latchkey.Store) {
	t.Helper()
	t.Cleanup(func() {
		for finding := range s.Check(context.Background()) {
			if !errors.Is(finding, latchkey.ErrClosed) {
				t.Errorf("Check: %v", finding)
			}
		}
		closeStore(t, s)
	})
}

func closeStore(t testing.TB, s *latchkey.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// email returns the identity that addUser gives to a user.
func email(subject string) latchkey.Identity {
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: subject}
}

// addUser makes a user known by subject.
func addUser(t testing.TB, s *latchkey.Store, subject string) uuid.UUID {
	t.Helper()
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(subject)})
	if err != nil {
		t.Fatal(err)
	}
	return user.ID
}

// addKey makes a key of owner.
func addKey(t testing.TB, s *latchkey.Store, owner uuid.UUID, name string) (latchkey.Key, string) {
	t.Helper()
	key, token, err := createKey(t.Context(), s, owner, latchkey.KeySpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return key, token
}

// createKey makes a key of owner, a user or ServerOwner.
func createKey(ctx context.Context, s *latchkey.Store, owner uuid.UUID, n latchkey.KeySpec) (latchkey.Key, string, error) {
	if owner == latchkey.ServerOwner {
		return s.CreateServerKey(ctx, n)
	}
	return s.CreateKey(ctx, owner, n)
}

// createKeys makes a key for each request in one transaction. Requests for ServerOwner are allowed.
func createKeys(ctx context.Context, s *latchkey.Store, requests []latchkey.KeyRequest) (keys []latchkey.Key, tokens []string, err error) {
	minted, tokens, err := s.MintKeys(ctx, len(requests), nil)
	if err != nil {
		return nil, nil, err
	}
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		keys = nil
		for i, r := range requests {
			key, err := insertKey(tx, r.Owner, r.KeySpec, minted[i])
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, tokens, err
}

// keyOf returns a key as the store has it now, without its last uses.
func keyOf(t testing.TB, s *latchkey.Store, owner, id uuid.UUID) latchkey.Key {
	t.Helper()
	key, err := s.Key(t.Context(), owner, id)
	must(t, err)
	key.LastUsed, key.Tokens = time.Time{}, slices.Clone(key.Tokens)
	for i := range key.Tokens {
		key.Tokens[i].LastUsed = time.Time{}
	}
	return key
}

// insertKey turns a minted key into a key of owner, a user or ServerOwner.
func insertKey(tx *latchkey.Tx, owner uuid.UUID, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, error) {
	if owner == latchkey.ServerOwner {
		return tx.InsertServerKey(n, m)
	}
	return tx.InsertKey(owner, n, m)
}

// updateEach runs fn for each number below n, in transactions that are small, because an engine can
// bound them.
func updateEach(t testing.TB, s *latchkey.Store, n int, fn func(tx *latchkey.Tx, i int) error) {
	t.Helper()
	const each = 20
	for from := 0; from < n; from += each {
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			for i := from; i < min(from+each, n); i++ {
				if err := fn(tx, i); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// must fails the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails the test unless err is want.
func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// waitUntil lets other goroutines run until done reports true. It fails the test after a minute,
// which is far longer than anything here takes.
func waitUntil(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("it did not happen within a minute: %s", what)
		}
	}
}

// wantLogin fails the test unless token logs in as the key with an ID.
func wantLogin(t testing.TB, s *latchkey.Store, token string, keyID uuid.UUID) {
	t.Helper()
	who, err := s.Login(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if who.KeyID != keyID {
		t.Fatalf("logged in with key %s, want %s", who.KeyID, keyID)
	}
}

// wantRefused fails the test unless token is refused with want.
func wantRefused(t testing.TB, s *latchkey.Store, token string, want error) {
	t.Helper()
	_, err := s.Login(t.Context(), token)
	wantError(t, err, want)
}

// openCounting opens a store, and returns a function that returns the number of its read
// transactions.
func openCounting(t testing.TB) (s *latchkey.Store, views func() int) {
	t.Helper()
	e := &hookedEngine{Engine: newEngine(t)}
	var n atomic.Int64
	e.beforeView = func() { n.Add(1) }
	return openEngine(t, e, light()), func() int { return int(n.Load()) }
}

// newEngine opens an empty engine, and closes the engine when the test ends.
func newEngine(t testing.TB) latchkey.Engine {
	t.Helper()
	return latchkey.EngineAt(t, filepath.Join(t.TempDir(), "keys.db"), nil)
}

func openEngine(t testing.TB, e latchkey.Engine, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	s, err := latchkey.OpenWith(e, opts)
	if err != nil {
		t.Fatal(err)
	}
	checkAtEnd(t, s)
	return s
}

// symlink makes a symbolic link at link that leads to path, or skips the test where that fails.
// Wine 8 makes no link, but reports that it has made one.
func symlink(t testing.TB, path, link string) {
	t.Helper()
	err := os.Symlink(path, link)
	if err == nil && os.Getenv("LATCHKEY_WINE") != "" {
		_, err = os.Readlink(link)
	}
	if err != nil {
		t.Skipf("symbolic links: %v", err)
	}
}

// hookedEngine is an engine that calls hooks around its transactions. Set the hooks while no call
// is running.
type hookedEngine struct {
	latchkey.Engine
	beforeView func()
	afterView  func() // after the transaction has read, before its caller knows
}

func (e *hookedEngine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.beforeView != nil {
		e.beforeView()
	}
	err := e.Engine.View(ctx, fn)
	if e.afterView != nil {
		e.afterView()
	}
	return err
}

// clock is a clock that the test moves.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.set(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) set(t time.Time)         { c.ns.Store(t.UnixNano()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }
