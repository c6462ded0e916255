package latchkey_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestALimitedAddressSpaceIsEnoughForASmallerMap(t *testing.T) {
	const limited = "LATCHKEY_TEST_LIMITED"
	path := os.Getenv(limited)
	if path == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestALimitedAddressSpace", "-test.v")
		cmd.Env = append(os.Environ(), limited+"="+filepath.Join(t.TempDir(), "keys.db"))
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skip("an emulator cannot start a program, and this test limits its own process")
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	// The child leaves itself room for 200 MiB more, and for the pages that it has already.
	var pages, resident uint64
	statm, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	_, err = fmt.Sscan(string(statm), &pages, &resident)
	must(t, err)
	space := pages*uint64(os.Getpagesize()) + 200<<20
	must(t, syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: space, Max: space}))
	if _, err := syscall.Mmap(-1, 0, 900<<20, syscall.PROT_READ, syscall.MAP_ANON|syscall.MAP_PRIVATE); err == nil {
		t.Skip("the limit limits nothing here")
	}
	for i := range 2 { // a new store, and one that is there
		s, err := latchkey.Open(path, light())
		must(t, err)
		_, token := addKey(t, s, addUser(t, s, fmt.Sprint("user ", i)), "laptop")
		mustLogin(t, s, token)
		closeStore(t, s)
	}
}
