package boltengine

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/windows"
)

func TestADiskErrorOfWindowsOfWhichBboltKeepsTheTextIsTold(t *testing.T) {
	for _, errno := range []syscall.Errno{
		windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED,
		windows.ERROR_IO_DEVICE, windows.ERROR_CRC, windows.ERROR_WRITE_PROTECT,
	} {
		var told syscall.Errno
		// Wine has the same text for the two errors of a full disk.
		if err := translate(fmt.Errorf("truncate: %s", errno)); !errors.As(err, &told) || told.Error() != errno.Error() {
			t.Errorf("%d: got %v, want an error that tells it", uintptr(errno), err)
		}
	}
}
