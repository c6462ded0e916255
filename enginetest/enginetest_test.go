package enginetest_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
)

func ExampleRun() {
	var t *testing.T // in a test, its parameter

	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		return latchkey.OpenBoltEngine(filepath.Join(dir, "keys.db"), opts)
	})
}

func TestSoundEnginesKeepTheLaws(t *testing.T) {
	t.Run("one writer at a time", func(t *testing.T) { enginetest.Run(t, openMemory("")) })
	t.Run("a bound on transactions", func(t *testing.T) { enginetest.Run(t, openMemory("bounded")) })
	t.Run("several openings", func(t *testing.T) { enginetest.Run(t, openMemory("shared")) })
	t.Run("writers at once, and again", func(t *testing.T) { enginetest.Run(t, openMemory("runs again")) })
}

// faultVariable is the environment variable that tells a child process which fault its engine has.
const faultVariable = "ENGINETEST_FAULT"

func TestEveryFaultBreaksItsLaw(t *testing.T) {
	if fault := os.Getenv(faultVariable); fault != "" {
		enginetest.Run(t, openMemory(fault))
		return
	}
	for _, tt := range []struct{ fault, law string }{
		{"takes empty for missing", "an empty value is not a missing one"},
		{"keeps all tables in one", "tables do not share keys"},
		{"cuts long keys", "keys have up to 512 bytes and values up to 65536"},
		{"cuts long values", "keys have up to 512 bytes and values up to 65536"},
		{"gives its own slices away", "the caller may change the slices that it gets"},
		{"keeps the slices of its callers", "the caller may change the slices that it gives"},
		{"keeps the bounds of a Scan", "the caller may change the slices that it gives"},
		{"scans backwards", "Scan goes in the order of bytes"},
		{"includes where a Scan ends", "Scan keeps within its bounds"},
		{"leaves out where a Scan begins", "Scan keeps within its bounds"},
		{"scans what there was when the Scan began", "Scan goes on to the next key that exists at that moment"},
		{"scans by counting", "Scan goes on to the next key that exists at that moment"},
		{"scans by counting", "any mixture of writes and scans agrees with a sorted map"},
		{"wraps the error of fn", "the error of fn comes back as it is"},
		{"keeps what a failed Update wrote", "an Update that fails leaves nothing"},
		{"keeps what a panic or Goexit leaves", "an Update that fails leaves nothing"},
		{"keeps what a panic or Goexit leaves", "an Update that fails undoes nothing of another Update"},
		{"swallows panics", "an Update that fails leaves nothing"},
		{"counts every run of fn", "only the last run of fn counts"},
		{"reads the newest state", "a View sees one state"},
		{"shows what is not committed", "a View does not wait for a writer and sees nothing of it"},
		{"lets a View wait for the writer", "a View does not wait for a writer and sees nothing of it"},
		{"lets writers run at once", "writers at the same time lose no update"},
		{"looks only for conflicts of writes", "nothing that a transaction has read changes before its commit"},
		{"publishes entry by entry", "no reader sees half of a transaction"},
		{"runs an Update of a done context", "a context that is done begins no transaction"},
		{"runs a View of a done context", "a context that is done begins no transaction"},
		{"waits for its turn whatever the context", "a context that ends while an Update waits ends the Update"},
		{"reports a later cancellation as if it had undone the commit", "a context that ends after fn has begun undoes no commit"},
		{"writes in a View", "a View refuses to write"},
		{"answers after its end", "a transaction that has ended answers ErrClosed"},
		{"never goes on", "each commit has a greater sequence"},
		{"numbers a View", "each commit has a greater sequence"},
		{"numbers an Update that fails", "each commit has a greater sequence"},
		{"numbers an Update that writes nothing", "each commit has a greater sequence"},
		{"forgets its sequence when it is closed", "each commit has a greater sequence"},
		{"draws no random numbers", "each commit has a random number of its own"},
		{"draws a random number for each caller", "each commit has a random number of its own"},
		{"yields changes in the order of keys", "Changes yields each entry once, by its last change, in order"},
		{"yields the change before the first", "Changes yields each entry once, by its last change, in order"},
		{"tracks every table", "Changes yields each entry once, by its last change, in order"},
		{"keeps the changes of deleted entries", "Changes yields each entry once, by its last change, in order"},
		{"keeps the first sequence of an entry", "Changes yields each entry once, by its last change, in order"},
		{"numbers each write", "all changes of a commit have its sequence"},
		{"keeps the changes of deleted entries", "changes and counts agree with a model"},
		{"keeps what a failed Update wrote", "an Update that fails leaves nothing in the numbering"},
		{"numbers an Update that fails", "an Update that fails leaves nothing in the numbering"},
		{"shows the newest numbering", "a View sees the numbering of one state"},
		{"hides its own changes", "an Update sees its own changes"},
		{"counts before its own writes", "an Update sees its own changes"},
		{"counts what it has put", "an Update sees its own changes"},
		{"cuts long keys", "tracked tables take the largest keys and values"},
		{"takes empty for missing", "tracked tables take the largest keys and values"},
		{"numbers a change like the commit before", "whoever follows the changes misses none"},
		{"wakes nobody", "Wait ends with a commit"},
		{"does not wait", "Wait ends with a commit"},
		{"waits whatever the context", "Wait ends with its context, and with Close"},
		{"waits after Close", "Wait ends with its context, and with Close"},
		{"refuses the hundredth write", "a transaction that is too large changes nothing"},
		{"keeps what is not too much", "a transaction that is too large changes nothing"},
		{"calls it another error", "a transaction that is too large changes nothing"},
		{"loses the last commit when it is closed", "every commit is there after reopening"},
		{"loses the last commit when it is closed", "Close among writers loses nothing that was acknowledged"},
		{"runs Updates on an engine for reading", "a read-only engine runs no Update"},
		{"reads after Close", "after Close every call returns ErrClosed, and Close does nothing"},
		{"fails when it is closed again", "after Close every call returns ErrClosed, and Close does nothing"},
		{"closes under its transactions", "Close waits for transactions under way"},
		{"drops what is beyond the hundredth write", "a million small records"},
		{"leaves entries out of a backup", "a backup has the state of one moment"},
		{"backs each table up at another moment", "a backup has the state of one moment"},
		{"loses entries in Compact", "Compact keeps every entry and its sequence"},
		{"loses what is committed during Compact", "Compact keeps every entry and its sequence"},
		{"numbers entries anew in Compact", "Compact keeps every entry and its sequence"},
		{"repairs what is sound", "RepairEngine of a sound engine repairs nothing"},
		{"miscounts after a deletion", "any mixture of writes and scans of a tracked table agrees with a sorted map"},
		{"finds damage where there is none", "CheckEngine finds nothing in a sound engine"},
		{"counts no commits", "Commits counts the commits since the opening"},
		{"counts a View as a commit", "Commits counts the commits since the opening"},
		{"counts the commits before its opening", "Commits counts the commits since the opening"},
		{"shows what others commit late", "a transaction sees what another opening has committed"},
		{"wakes only its own", "Wait ends with a commit of another opening"},
		{"locks out its own writers only", "writers at several openings lose no update"},
		{"tells nobody else", "every opening hears of every change"},
		{"tells of no deletions", "every opening hears of every change"},
		{"is never fresh", "every opening hears of every change"},
		{"takes a commit of another opening for a restoration", "an engine that nobody has restored does not say so"},
		{"tells what it does not show yet", "a change can be read when it is told"},
		{"skips entries of a sound table", "NextReadable returns nil for a sound table"},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			// A law that waits for ever fails by the child's timeout. Some faults show only at the
			// right moment, which may not come on a busy machine. So the law is tried several
			// times.
			var out []byte
			var exit *exec.ExitError
			for tries := 0; exit == nil; tries++ {
				child := exec.Command(os.Args[0], "-test.short", "-test.timeout=5s",
					"-test.run=^TestEveryFaultBreaksItsLaw$/^"+strings.ReplaceAll(tt.law, " ", "_")+"$")
				child.Env = append(os.Environ(), faultVariable+"="+tt.fault)
				var err error
				if out, err = child.CombinedOutput(); !errors.As(err, &exit) && tries == 20 {
					t.Fatalf("the law did not fail (%v):\n%s", err, out)
				}
			}
			if !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic: test timed out") {
				t.Errorf("the child did not get to the law:\n%s", out)
			}
		})
	}
}
