package disk_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/latchkeydb/latchkey/torture/disk"
)

// manyCalls is more calls, or changes of the disk, than any test here makes. A test that makes so
// many is stuck.
const manyCalls = 10_000

// mount mounts a disk. If that is impossible, mount skips the test. On Linux, it ends the test if
// the environment variable CI is set.
func mount(t testing.TB, d *disk.Disk) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	end, err := d.Mount(dir)
	switch {
	case err != nil && os.Getenv("CI") != "" && runtime.GOOS == "linux":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	mounted := true
	unmount = func() {
		t.Helper()
		if !mounted {
			return
		}
		mounted = false
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}
