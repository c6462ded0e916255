package latchkey_test

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

// TestMain keeps the files of the short form in memory, on systems that have a directory for that.
// On a disk, most of the time of these tests would be the time of their syncs.
func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) (code int) {
	flag.Parse()
	if testing.Short() && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the heap is small, and collecting it takes a quarter of the time
	}
	isChild := os.Getenv(childVariable) != "" // which uses the directory of its parent
	if testing.Short() && !isChild && runtime.GOOS == "linux" {
		if dir, err := os.MkdirTemp("/dev/shm", "latchkey-"); err == nil {
			defer os.RemoveAll(dir)
			os.Setenv("TMPDIR", dir)
		}
	}
	return m.Run()
}
