package durable

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestTheHoldersOfALockAreNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	must(t, os.WriteFile(path, nil, 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	want := func(what string, writing ...bool) {
		t.Helper()
		for _, name := range []string{path, filepath.Join(dir, "link.db")} {
			got := Holders(name)
			if len(got) != len(writing) {
				t.Errorf("%s: got %v, want %d holders", what, got, len(writing))
			}
			for i, h := range got {
				if h.PID != os.Getpid() || h.Writing != writing[i] || h.Name == "" {
					t.Errorf("%s: got %+v, want this process, writing %t", what, h, writing[i])
				}
			}
		}
	}
	must(t, os.Symlink("keys.db", filepath.Join(dir, "link.db")))
	want("nobody")
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	want("a reader", false)
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	want("a writer", true)
	must(t, os.WriteFile(filepath.Join(dir, "other.db"), nil, 0o600))
	if got := Holders(filepath.Join(dir, "other.db")); got != nil {
		t.Errorf("another file: got %v", got)
	}
	Unlock(f)
	want("nobody any more")
	if got := Holders(filepath.Join(dir, "no-such.db")); got != nil {
		t.Errorf("no file: got %v", got)
	}
}

func TestTheListOfLocksIsRead(t *testing.T) {
	const list = `1: POSIX  ADVISORY  WRITE 11150 fe:00:10286213 0 0
2: FLOCK  ADVISORY  WRITE 11823 00:27:2 0 EOF
2: -> FLOCK  ADVISORY  WRITE 11824 00:27:2 0 EOF
3: FLOCK  ADVISORY  READ  17 103:02:18446744073709551615 0 EOF
4: OFDLCK ADVISORY  READ  -1 00:06:1028 0 EOF
5: FLOCK  ADVISORY  READ  0 00:06:1028 0 EOF
6: FLOCK  ADVISORY  READ  x 00:06:1028 0 EOF
7: FLOCK  ADVISORY  READ  5 00:06:y 0 EOF
8: FLOCK  ADVISORY  READ  5 6 0 EOF
9: FLOCK
`
	want := []fileLock{
		{Holder{PID: 11823, Writing: true}, "00:27", 2},
		{Holder{PID: 17}, "103:02", 1<<64 - 1},
	}
	if got := parseLocks(strings.NewReader(list)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestADeviceIsNamedAsInTheListOfLocks(t *testing.T) {
	for device, want := range map[uint64]string{0x27: "00:27", 0xfe00: "fe:00", 0x10302: "103:02", 0x100802: "08:102", 0x0000100000000001: "1000:01"} {
		if got := deviceName(device); got != want {
			t.Errorf("%#x: got %s, want %s", device, got, want)
		}
	}
}

func TestAHolderIsPrintedAsAPersonLooksForIt(t *testing.T) {
	for want, h := range map[string]Holder{
		"process 7 (serve)":       {PID: 7, Name: "serve"},
		"process 7":               {PID: 7},
		"process 7 (a\uFFFD[31m)": {PID: 7, Name: "a\x1b[31m"},
	} {
		if got := h.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
