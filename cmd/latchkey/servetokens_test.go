//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestTokensTakeOverNoFileAndFollowNoLink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "profile"), filepath.Join(dir, "tokens.json")
	if err := os.WriteFile(victim, []byte("precious"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, place := range map[string]func() error{
		"a link":                   func() error { return os.Symlink(victim, path) },
		"a link to nothing":        func() error { return os.Symlink(filepath.Join(dir, "nothing"), path) },
		"a hard link":              func() error { return os.Link(victim, path) },
		"a file that all can read": func() error { return os.WriteFile(path, nil, 0o666) },
		"nothing":                  func() error { return nil },
	} {
		_ = os.Remove(path)
		if err := place(); err != nil {
			t.Fatal(err)
		}
		if err := writeTokens(path, appservices.Seeded{AppID: "demo"}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: the file has the mode %v, %v", name, info.Mode(), err)
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte(`"demo"`)) {
			t.Errorf("%s: the file has %s, %v", name, b, err)
		}
		if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
			t.Errorf("%s: the other file has %s, %v", name, b, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "nothing")); err == nil {
			t.Errorf("%s: the link was followed", name)
		}
	}
}

func TestTokensGoIntoAPipeOfTheSameUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("the file system has no pipes: ", err)
	}
	read := make(chan []byte, 1)
	go func() {
		b, _ := os.ReadFile(path)
		read <- b
	}()
	if err := writeTokens(path, appservices.Seeded{AppID: "demo"}); err != nil {
		t.Fatal(err)
	}
	if b := <-read; !bytes.Contains(b, []byte(`"demo"`)) {
		t.Errorf("the pipe gave %s", b)
	}
	if os.Geteuid() != 0 {
		return // only root can give the pipe to somebody else
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := writeTokens(path, appservices.Seeded{}); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("a pipe of another user gives %v", err)
	}
}

func TestOpenFilesOfTheProcess(t *testing.T) {
	for path, want := range map[string]bool{
		"/dev/stdout": true, "/dev/stderr": true, "/dev/fd/3": true, "/proc/self/fd/63": true,
		"/dev/fd/": false, "/dev/fd/../sda": false, "/dev/stdin2": false, "tokens.json": false, "/proc/1/fd/1": false,
	} {
		if got := isOpenFile(path); got != want {
			t.Errorf("%s: got %t", path, got)
		}
	}
}

func TestNoLinkOfAnotherUserIsRead(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "seed.yaml"), filepath.Join(dir, "link.yaml")
	if err := os.WriteFile(file, []byte("users: []"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if b, err := readOwn(path); err != nil || string(b) != "users: []" {
			t.Errorf("%s: got %q, %v", path, b, err)
		}
	}
	if os.Geteuid() != 0 {
		return // only root can give the link to somebody else
	}
	if err := os.Lchown(link, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if b, err := readOwn(link); err == nil || !strings.Contains(err.Error(), "a link that another user has placed") {
		t.Errorf("a link of another user: got %q, %v", b, err)
	}
}
