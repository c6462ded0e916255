//go:build unix

package main

import (
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileOwner is the owner of a file.
type fileOwner struct {
	uid         uint32
	user, group string // names, or numbers without a name
}

// ownerOf returns the owner of a file, and reports whether the system has owners.
func ownerOf(info fs.FileInfo) (fileOwner, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileOwner{}, false
	}
	o := fileOwner{stat.Uid, strconv.Itoa(int(stat.Uid)), strconv.Itoa(int(stat.Gid))}
	if u, err := user.LookupId(o.user); err == nil {
		o.user = u.Username
	}
	if g, err := user.LookupGroupId(o.group); err == nil {
		o.group = g.Name
	}
	return o, true
}

// isMe reports whether this process runs as the owner of a file, and not as root.
func isMe(info fs.FileInfo) bool {
	owner, ok := ownerOf(info)
	return ok && owner.uid != 0 && int(owner.uid) == os.Geteuid()
}

// canRead returns an error if this process cannot read path. It opens nothing.
func canRead(path string) error { return unix.Access(path, unix.R_OK) }

// canWrite returns an error if this process cannot write to path. It opens nothing.
func canWrite(path string) error { return unix.Access(path, unix.W_OK) }
