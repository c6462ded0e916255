package torture_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// More samples show smaller differences.
var samplesFlag = flag.Int("samples", 0, "how many samples each timing test takes; 0 for the form's own number")

// TestMain runs the tests, or one of the programs that tests start as separate processes.
func TestMain(m *testing.M) {
	if name := os.Getenv(programVariable); name != "" {
		if err := programs[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	setChecks()
	os.Exit(m.Run())
}

// mayEnd reports whether a call that reads for long may end with err: nil, or the error of a call
// that made a writer wait.
func mayEnd(err error) bool { return err == nil || errors.Is(err, latchkey.ErrInterrupted) }

// setChecks sets how many programs rapid draws and from which seed, unless rapid's own flags are
// given.
func setChecks() {
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["rapid.checks"] {
		checks := form.Amount("80", "3000")
		if underRace {
			checks = form.Amount("20", "1000")
		}
		_ = flag.Set("rapid.checks", checks)
	}
	if !given["rapid.steps"] {
		_ = flag.Set("rapid.steps", "60")
	}
	if !given["rapid.seed"] {
		_ = flag.Set("rapid.seed", fmt.Sprint(form.FixedSeed()))
	}
}

// programVariable is an environment variable. If it is set, the test binary runs the program that
// it names and no tests.
const programVariable = "LATCHKEY_TORTURE_PROGRAM"

var programs = map[string]func() error{}

// pick returns a random element of a list, which must not be empty.
func pick[T any](random *rand.Rand, list []T) T { return list[random.IntN(len(list))] }

// open opens a store in a new file.
func open(t testing.TB, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

// openFile opens the store at path. When the test ends, openFile checks the store and closes it. A
// store that the test has already closed is left alone.
func openFile(t testing.TB, path string, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	s, err := latchkey.Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkAndClose(t, s) })
	return s
}

func checkAndClose(t testing.TB, s *latchkey.Store) {
	t.Helper()
	for finding := range s.Check(context.Background()) {
		if !errors.Is(finding, latchkey.ErrClosed) {
			t.Errorf("Check: %v", finding)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// email returns the identity of a user with the email address subject.
func email(subject string) latchkey.Identity {
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: subject}
}

// must ends the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds how long a test waits for another goroutine. No wait takes a hundredth of it,
// unless the machine stands still.
const patience = 3 * time.Minute

// waitFor calls done until it reports true, and lets other goroutines run in between. It ends the
// test if that takes longer than patience; what names the thing that did not happen.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > patience {
			t.Fatalf("waited %v for %s", patience, what)
		}
		runtime.Gosched()
	}
}

// outcomes has a name for every error after which a test can go on.
var outcomes = []struct {
	err  error
	name string
}{
	{latchkey.ErrIdentityNotFound, "ErrIdentityNotFound"},
	{latchkey.ErrLastIdentity, "ErrLastIdentity"},
	{latchkey.ErrUserHasKeys, "ErrUserHasKeys"},
	{latchkey.ErrInvalidToken, "ErrInvalidToken"},
	{latchkey.ErrKeyDisabled, "ErrKeyDisabled"},
	{latchkey.ErrKeyExpired, "ErrKeyExpired"},
	{latchkey.ErrNetworkNotAllowed, "ErrNetworkNotAllowed"},
	{latchkey.ErrInvalidScope, "ErrInvalidScope"},
	{latchkey.ErrInvalidNetwork, "ErrInvalidNetwork"},
	{latchkey.ErrInvalidMetadata, "ErrInvalidMetadata"},
	{latchkey.ErrUserDisabled, "ErrUserDisabled"},
	{latchkey.ErrGroupDisabled, "ErrGroupDisabled"},
	{latchkey.ErrInvalidGroup, "ErrInvalidGroup"},
	{latchkey.ErrUserNotFound, "ErrUserNotFound"},
	{latchkey.ErrKeyNotFound, "ErrKeyNotFound"},
	{latchkey.ErrKeyDeleted, "ErrKeyDeleted"},
	{latchkey.ErrKeyNameTaken, "ErrKeyNameTaken"},
	{latchkey.ErrIdentityTaken, "ErrIdentityTaken"},
	{latchkey.ErrTooManyKeys, "ErrTooManyKeys"},
	{latchkey.ErrAnonymousUser, "ErrAnonymousUser"},
	{latchkey.ErrInvalidName, "ErrInvalidName"},
	{latchkey.ErrInvalidIdentity, "ErrInvalidIdentity"},
	{latchkey.ErrInvalidExpiry, "ErrInvalidExpiry"},
	{latchkey.ErrInvalidMintedKey, "ErrInvalidMintedKey"},
	{latchkey.ErrInvalidRotation, "ErrInvalidRotation"},
	{latchkey.ErrInvalidTagSecret, "ErrInvalidTagSecret"},
	{latchkey.ErrReadOnly, "ErrReadOnly"},
	{latchkey.ErrBusy, "ErrBusy"},
	{context.Canceled, "canceled"},
}

// outcome returns "ok" for nil, the sentinel's name for an error in outcomes, and the text of any
// other error.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return err.Error()
}

// errorNamed returns the error that outcome gives this name.
func errorNamed(name string) error {
	for _, o := range outcomes {
		if o.name == name {
			return o.err
		}
	}
	return errors.New(name)
}
