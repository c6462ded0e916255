package durable

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Holders returns the processes that have the lock on the file at path, as far as the system tells:
// only processes that this process can see, so none of another container, and none at all without
// /proc.
func Holders(path string) []Holder {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer locks.Close()
	var holders []Holder
	for _, l := range parseLocks(locks) {
		if l.inode != stat.Ino {
			continue
		}
		// Some file systems show another device in /proc/locks than to stat. The open files of the
		// process decide, where they may be seen. They also tell whether a process that was forked
		// since has the lock, and not the one that took it.
		has, seen := hasOpen(l.PID, info)
		if has || !seen && l.device == deviceName(uint64(stat.Dev)) {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.PID))
			l.Name = strings.TrimSuffix(string(name), "\n")
			holders = append(holders, l.Holder)
		}
	}
	return holders
}

// fileLock is a line of /proc/locks.
type fileLock struct {
	Holder
	device string // major and minor number, in hexadecimal
	inode  uint64
}

// parseLocks returns the locks of flock that r lists in the form of /proc/locks. It leaves out the
// processes that wait for a lock.
//
//	1: FLOCK  ADVISORY  WRITE 11823 00:27:2 0 EOF
//	1: -> FLOCK  ADVISORY  WRITE 11824 00:27:2 0 EOF
func parseLocks(r io.Reader) (locks []fileLock) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		colon := strings.LastIndexByte(f[5], ':')
		if err != nil || pid <= 0 || colon < 0 {
			continue
		}
		inode, err := strconv.ParseUint(f[5][colon+1:], 10, 64)
		if err != nil {
			continue
		}
		locks = append(locks, fileLock{Holder{PID: pid, Writing: f[3] == "WRITE"}, f[5][:colon], inode})
	}
	return locks
}

// deviceName returns a device number in the form of /proc/locks.
func deviceName(device uint64) string {
	major := device>>8&0xfff | device>>32&^0xfff
	minor := device&0xff | device>>12&^0xff
	return fmt.Sprintf("%02x:%02x", major, minor&0xffffffff)
}

// hasOpen reports whether a process has a file open, and whether its open files may be seen at all.
func hasOpen(pid int, file os.FileInfo) (has, seen bool) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.Open(dir)
	if err != nil {
		return false, os.IsNotExist(err)
	}
	defer open.Close()
	names, _ := open.Readdirnames(-1) // those before an error are good
	for _, name := range names {
		if info, err := os.Stat(dir + "/" + name); err == nil && os.SameFile(info, file) {
			return true, true
		}
	}
	return false, true
}
