package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// writeTokens writes the file of --tokens in one step, so that a program that waits for the file
// never reads a part of it. writeTokens takes over no file that was there: it puts a new one in its
// place. A link is replaced as well, because somebody else may have placed it. Only a pipe or a
// device of this user is written to as it is, and so is an open file of this process, such as
// /dev/stdout.
func writeTokens(path string, seeded appservices.Seeded) error {
	data, err := seeded.TokensJSON()
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if isOpenFile(path) {
		return os.WriteFile(path, data, 0o600)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		if !isOwn(info) {
			return usagef("%s belongs to another user, who could read the tokens; name another file", path)
		}
		return os.WriteFile(path, data, 0o600)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = durable.Remove(f.Name()) }()
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return durable.Rename(f.Name(), path)
}

// readOwn reads a file that decides who may log in. It follows no link of another user, because
// that user could make it lead to a file of the user's own.
func readOwn(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 && !isOpenFile(path) && !isOwn(info) {
		return nil, usagef("%s is a link that another user has placed; name the file itself", path)
	}
	return os.ReadFile(path)
}

// isOpenFile reports whether path names a file that this process has open.
func isOpenFile(path string) bool {
	switch path {
	case "/dev/stdout", "/dev/stderr":
		return true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/", fmt.Sprintf("/proc/%d/fd/", os.Getpid())} {
		if number, ok := strings.CutPrefix(path, dir); ok && number != "" && strings.Trim(number, "0123456789") == "" {
			return true
		}
	}
	return false
}

// isOwn reports whether this user or root owns a file. It reports true on systems without owners.
func isOwn(info fs.FileInfo) bool {
	owner, ok := ownerOf(info)
	return !ok || owner.uid == 0 || int(owner.uid) == os.Geteuid()
}
