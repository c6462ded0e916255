//go:build unix

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
)

// place is a place where the socket of a file may lie.
type place struct {
	dir, name string
	private   bool // the directory must belong to the user alone
}

func (p place) path() string { return filepath.Join(p.dir, p.name) }

// beside returns the place beside a file.
func beside(real string) place {
	return place{dir: filepath.Dir(real), name: filepath.Base(real) + ".sock"}
}

// placesToListen returns the places for the socket of a file, the best one first.
func placesToListen(real string) []place {
	places := []place{beside(real)}
	// A program that was started without XDG_RUNTIME_DIR does not use /run/user: the directory goes
	// when the user logs out, while the program goes on.
	if dir := xdgRuntimeDir(); dir != "" {
		places = append(places, place{dir, hashName(real) + ".sock", true})
	}
	return append(places, place{ownTempDir(os.TempDir(), os.Geteuid()), hashName(real) + ".sock", true})
}

// placesToLook returns the places where the sockets of some users may lie. The program and the
// client can have different environments, so there are more of them than places to listen.
func placesToLook(real string, users []int) []place {
	dirs := []string{xdgRuntimeDir()}
	for _, user := range users {
		if runtime.GOOS == "linux" {
			dirs = append(dirs, "/run/user/"+strconv.Itoa(user))
		}
		dirs = append(dirs, ownTempDir(os.TempDir(), user), ownTempDir("/tmp", user))
	}
	places := []place{beside(real)}
	for i, dir := range dirs {
		if dir != "" && !slices.Contains(dirs[:i], dir) {
			places = append(places, place{dir, hashName(real) + ".sock", true})
		}
	}
	return places
}

// xdgRuntimeDir returns the user's runtime directory, or "" if there is none. The XDG Base
// Directory Specification says that a relative path does not count.
func xdgRuntimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return ""
}

func ownTempDir(temp string, user int) string {
	return filepath.Join(temp, "latchkey-"+strconv.Itoa(user))
}

// checkPrivate returns [ErrUntrusted] unless dir is a directory of one of users, and no link to
// one, and nobody else can read or write the directory.
//
// Errors: the operating system's error.
func checkPrivate(dir string, users []int) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", ErrUntrusted, dir)
	case !slices.Contains(users, ownerOf(info)):
		return fmt.Errorf("%w: the directory %s is of user %d", ErrUntrusted, dir, ownerOf(info))
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: other users can open the directory %s; its mode must be 0700", ErrUntrusted, dir)
	}
	return nil
}

// checkSocket returns nil if info is of a socket that belongs to one of users.
func checkSocket(info fs.FileInfo, users []int) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("it is a symbolic link")
	case info.Mode()&fs.ModeSocket == 0:
		return errors.New("it is not a socket")
	case !slices.Contains(users, ownerOf(info)):
		return fmt.Errorf("it is of user %d", ownerOf(info))
	}
	return nil
}

// ownerOf returns the ID of a file's owner.
func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}
