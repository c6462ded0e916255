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

// samplesFlag has more samples find smaller differences.
var samplesFlag = flag.Int("samples", 0, "how many samples each timing test takes; 0 for the form's own number")

// TestMain runs the tests, or one of the programs that tests start as processes of their own.
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

// setChecks says how many programs rapid draws, and from which seed, unless its own flags do.
func setChecks() {
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["rapid.checks"] {
		checks := form.Amount("40", "3000")
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

// programVariable names, in the environment, the program that the test binary is to be in place of running tests.
const programVariable = "LATCHKEY_TORTURE_PROGRAM"

var programs = map[string]func() error{}

// pick returns an element of a list that is not empty.
func pick[T any](random *rand.Rand, list []T) T { return list[random.IntN(len(list))] }

// open opens a store in a new file.
func open(t testing.TB, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

// openFile opens the store at path, checks it when the test ends, and closes it, unless the test has closed it already.
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

// email is the identity of a user known by subject.
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

// patience bounds how long a test waits for another goroutine. No wait takes a hundredth of it, unless
// the machine stands still.
const patience = 3 * time.Minute

// waitFor calls done until it reports true, and lets other goroutines run in between. It ends the test
// if that takes longer than patience; what names the thing that did not happen.
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

// outcomes names every error that a test can meet and goes on from.
var outcomes = []struct {
	err  error
	name string
}{
	{latchkey.ErrInvalidToken, "ErrInvalidToken"},
	{latchkey.ErrKeyDisabled, "ErrKeyDisabled"},
	{latchkey.ErrKeyExpired, "ErrKeyExpired"},
	{latchkey.ErrUserDisabled, "ErrUserDisabled"},
	{latchkey.ErrUserNotFound, "ErrUserNotFound"},
	{latchkey.ErrKeyNotFound, "ErrKeyNotFound"},
	{latchkey.ErrKeyNameTaken, "ErrKeyNameTaken"},
	{latchkey.ErrIdentityTaken, "ErrIdentityTaken"},
	{latchkey.ErrTooManyKeys, "ErrTooManyKeys"},
	{latchkey.ErrAnonymousUser, "ErrAnonymousUser"},
	{latchkey.ErrInvalidName, "ErrInvalidName"},
	{latchkey.ErrInvalidIdentity, "ErrInvalidIdentity"},
	{latchkey.ErrInvalidExpiry, "ErrInvalidExpiry"},
	{latchkey.ErrInvalidMintedKey, "ErrInvalidMintedKey"},
	{latchkey.ErrReadOnly, "ErrReadOnly"},
	{latchkey.ErrBusy, "ErrBusy"},
	{context.Canceled, "canceled"},
}

// outcome names the error of a call: "ok" for none, its sentinel's name, or its text for one that no test expects.
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

// errorNamed is the error that outcome gave a name to.
func errorNamed(name string) error {
	for _, o := range outcomes {
		if o.name == name {
			return o.err
		}
	}
	return errors.New(name)
}
