package bench

import (
	"os"

	"golang.org/x/sys/unix"
)

const canEvict = true

// evict has the operating system drop what it has of a file in memory, as after a reboot.
func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err // the system drops only what is on the disk
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
