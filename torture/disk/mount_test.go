package disk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey/torture/disk"
)

// These tests use a disk that they have mounted themselves. This is safe because they map no file
// of it, and because no other test runs at the same time, which might start a program.

// newMountedFile makes a file of one page on a mounted disk.
func newMountedFile(t *testing.T, d *disk.Disk) (f *os.File, path string) {
	t.Helper()
	dir, _ := mount(t, d)
	path = filepath.Join(dir, "file")
	f = openMounted(t, path, os.O_CREATE)
	writePage(t, f, 'a')
	must(t, f.Sync())
	return f, path
}

func openMounted(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func writePage(t *testing.T, f *os.File, of byte) {
	t.Helper()
	_, err := f.WriteAt(bytes.Repeat([]byte{of}, pageSize), 0)
	must(t, err)
}

func wantPage(t *testing.T, path string, of byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, bytes.Repeat([]byte{of}, pageSize)) {
		t.Errorf("the file begins with %q, want %q", got[:1], of)
	}
}

func wantErrno(t *testing.T, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestAWriteThatTheDiskRefusesIsNeverRead(t *testing.T) {
	d := disk.New()
	f, path := newMountedFile(t, d)
	d.Fail(disk.Fault{Op: disk.Write, Nth: 1, Err: syscall.ENOSPC})
	_, err := f.WriteAt([]byte("b"), 0)
	wantErrno(t, err, syscall.ENOSPC)
	wantPage(t, path, 'a')
}

func TestDataThatASyncHasLostIsStillReadOnlyFromADiskWithACache(t *testing.T) {
	for name, seen := range map[string]byte{"with a cache": 'b', "without": 'a'} {
		t.Run(name, func(t *testing.T) {
			d := disk.New()
			if seen == 'b' {
				d.Cache()
			}
			f, path := newMountedFile(t, d)
			d.Fail(disk.Fault{Op: disk.Sync, Nth: 1, Err: syscall.EIO})
			writePage(t, f, 'b')
			wantErrno(t, f.Sync(), syscall.EIO)
			must(t, f.Sync())
			must(t, f.Close())
			must(t, openMounted(t, path, 0).Sync())
			wantPage(t, path, seen)
			if got := d.Files()["file"][0]; got != 'a' {
				t.Errorf("the disk has %q, want the data that was synced", got)
			}
			// After another write and sync, the data is on the disk.
			f = openMounted(t, path, 0)
			writePage(t, f, 'b')
			must(t, f.Sync())
			if got := d.Files()["file"][0]; got != 'b' {
				t.Errorf("the disk has %q, want the data that was written again", got)
			}
		})
	}
}

func TestADiskWithoutPowerAnswersWithEIO(t *testing.T) {
	d := disk.New()
	f, path := newMountedFile(t, d)
	d.CutAfter(1)
	_, err := f.WriteAt([]byte("b"), 0)
	wantErrno(t, err, syscall.EIO)
	wantErrno(t, f.Sync(), syscall.EIO)
	wantErrno(t, f.Truncate(0), syscall.EIO)
	wantErrno(t, os.Rename(path, path+".new"), syscall.EIO)
	_, err = os.ReadFile(path)
	wantErrno(t, err, syscall.EIO)
}

func TestASpoiltSectorCannotBeReadAndItsNeighboursCan(t *testing.T) {
	d := disk.New()
	f, _ := newMountedFile(t, d)
	d.Spoil("file", 1024)
	sector := make([]byte, 512)
	for at := int64(0); at < pageSize; at += 512 {
		switch _, err := f.ReadAt(sector, at); {
		case at == 1024:
			wantErrno(t, err, syscall.EIO)
		case err != nil:
			t.Errorf("the sector at %d: %v", at, err)
		}
	}
}
