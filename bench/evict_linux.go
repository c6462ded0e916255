package bench

import (
	"os"

	"golang.org/x/sys/unix"
)

const canEvict = true

// evict makes the operating system drop a file from memory, as a reboot does.
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
