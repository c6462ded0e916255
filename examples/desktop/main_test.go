package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// In a process with appEnv, the test is the app.
const appEnv = "LATCHKEY_TEST_DESKTOP"

func TestMain(m *testing.M) {
	if os.Getenv(appEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func command(t *testing.T, path, every string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-store", path, "-every", every)
	c.Env = append(os.Environ(), appEnv+"=1")
	return c
}

// running starts the app, and returns a function that returns the next line that the app prints,
// and a function that interrupts the app.
func running(t *testing.T, path, every string) (next func() string, stop func()) {
	t.Helper()
	c := command(t, path, every)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next = func() string {
		if !lines.Scan() {
			t.Fatalf("the app has ended: %v", c.Wait())
		}
		return lines.Text()
	}
	return next, func() {
		if runtime.GOOS == "windows" { // no program can interrupt another there
			_ = c.Process.Kill()
			_ = c.Wait()
			return
		}
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestASecondStartShowsTheAppThatRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app", "keys.db")
	next, stop := running(t, path, "10ms")
	if line := next(); !strings.HasPrefix(line, "the first key,") {
		t.Errorf("the first start printed %q", line)
	}
	if line := next(); line != "running with "+path {
		t.Errorf("the first start printed %q", line)
	}
	out, err := command(t, path, "10ms").CombinedOutput()
	if want := "the app runs already; healthy: true\nkey first, disabled: false\n"; err != nil || string(out) != want {
		t.Errorf("the second start printed %q, %v", out, err)
	}
	stop()

	// The app that starts now is the first again, with the store that is there.
	next, stop = running(t, path, "10ms")
	if line := next(); line != "running with "+path {
		t.Errorf("the third start printed %q", line)
	}
	stop()
}

func TestASecondStartMakesNoStoreWhileTheFileIsGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows deletes no file that a program has open in its memory")
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	next, stop := running(t, path, "1h")
	next()
	next()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, path, "1h").CombinedOutput()
	if want := "the app runs already; healthy: false\nkey first, disabled: false\n"; err != nil || string(out) != want {
		t.Errorf("the second start printed %q, %v", out, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the second start has made a file")
	}
	stop()
}

func TestTheAppPutsItsFileBack(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows deletes no file that a program has open in its memory")
	}
	path := filepath.Join(t.TempDir(), "app", "keys.db")
	next, stop := running(t, path, "10ms")
	_, token, _ := strings.Cut(next(), "once: ")
	next()

	// A key that is disabled stays so in the file that is put back.
	local := admin.NewClient(&http.Client{Transport: admin.Transport(path)}, "http://latchkey", "")
	who, err := local.Login(t.Context(), admin.Login{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := local.ChangeKey(t.Context(), who.KeyID, admin.KeyChange{Disabled: admin.Some(true)}, admin.AnyETag); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{path, filepath.Dir(path)} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		if line := next(); line != "the file was gone, and is back" {
			t.Fatalf("the app printed %q", line)
		}
		out, err := command(t, path, "10ms").CombinedOutput()
		if want := "the app runs already; healthy: true\nkey first, disabled: true\n"; err != nil || string(out) != want {
			t.Errorf("the second start printed %q, %v", out, err)
		}
		if _, err := local.ChangeKey(t.Context(), who.KeyID, admin.KeyChange{Name: admin.Some("the first")}, admin.AnyETag); err != nil {
			t.Error(err)
		}
		if _, err := local.ChangeKey(t.Context(), who.KeyID, admin.KeyChange{Name: admin.Some("first")}, admin.AnyETag); err != nil {
			t.Error(err)
		}
	}
	stop()

	store, err := latchkey.Open(path, &latchkey.Options{MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for finding := range store.Check(t.Context()) {
		t.Error(finding)
	}
}
