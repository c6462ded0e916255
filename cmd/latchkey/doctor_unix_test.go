//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDoctorSaysWhoMayReadAndWriteTheStore(t *testing.T) {
	s, path := newStore(t)
	must(t, s.Close())
	dir := filepath.Dir(path)
	for _, tt := range []struct {
		name      string
		file, dir os.FileMode
		finding   string
		state     string
		text      string
	}{
		{"the owner alone", 0o600, 0o700, "permissions", stateGood, "-rw-------, owner "},
		{"a group", 0o640, 0o700, "permissions", stateGood, ": the group can read it"},
		{"everybody reads", 0o604, 0o700, "permissions", stateWarning, ": everybody can read it"},
		{"everybody writes", 0o666, 0o700, "permissions", stateWarning, ": everybody can write to it"},
		{"a directory of the owner", 0o600, 0o755, "directory", stateGood, "drwxr-xr-x, owner "},
		{"a directory of everybody", 0o600, 0o777, "directory", stateWarning, "everybody can replace the file"},
		{"a directory such as /tmp", 0o600, 0o777 | os.ModeSticky, "directory", stateGood, "owner "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.Chmod(path, tt.file))
			must(t, os.Chmod(dir, tt.dir))
			d, err := diagnose(t.Context(), path)
			must(t, err)
			wantFinding(t, found(d, tt.finding), tt.state, tt.text)
		})
	}
}

// asNobody runs doctor as a user without privileges. If this process is root's, that user owns
// neither the file nor its directory.
func asNobody(t *testing.T, path string) (stdout string, status int) {
	t.Helper()
	program, err := exec.LookPath("latchkey")
	must(t, err)
	cmd := exec.Command(program, "doctor", "--store", path)
	if os.Geteuid() == 0 {
		for dir := filepath.Dir(program); strings.HasPrefix(dir, os.TempDir()); dir = filepath.Dir(dir) {
			if dir != os.TempDir() {
				must(t, os.Chmod(dir, 0o755))
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return string(out), exit.ExitCode()
	}
	must(t, err)
	return string(out), exitDone
}

func TestDoctorOfAFileThatMayNotBeRead(t *testing.T) {
	s, path := newStore(t)
	must(t, s.Close())
	for dir := filepath.Dir(path); dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chmod(path, 0o000))
	stdout, status := asNobody(t, path)
	if status != exitFailed || !strings.Contains(stdout, "this user can neither read it nor write to it") || !strings.Contains(stdout, "permission denied\n") {
		t.Errorf("got %d, %s", status, stdout)
	}
	if os.Geteuid() == 0 {
		must(t, os.Chmod(path, 0o644))
		if stdout, status := asNobody(t, path); status != exitWarned || !strings.Contains(stdout, "damage       none") {
			t.Errorf("a file that may be read: got %d, %s", status, stdout)
		}
		must(t, os.Chmod(path, 0o640))
		must(t, os.Chown(path, 0, 65534))
		if stdout, status := asNobody(t, path); status != exitDone || !strings.Contains(stdout, "this user can only read it") {
			t.Errorf("a file of the group: got %d, %s", status, stdout)
		}
		must(t, os.Chmod(path, 0o600))
		must(t, os.Chown(path, 65534, 65534))
		if stdout, status := asNobody(t, path); status != exitWarned || !strings.Contains(stdout, "the owner of the file cannot make files in it") {
			t.Errorf("a directory of another user: got %d, %s", status, stdout)
		}
		must(t, os.Chown(path, 0, 0))
		must(t, os.Chown(filepath.Dir(path), 65534, 65534))
		d, err := diagnose(t.Context(), path)
		must(t, err)
		wantFinding(t, found(d, "permissions"), stateWarning, "owner root, group root, but the directory's owner is ")
	}
}

func TestDoctorChangesNothing(t *testing.T) {
	s, path := newStore(t)
	must(t, s.Close())
	sound, err := os.ReadFile(path)
	must(t, err)
	spoilt := bytes.Clone(sound)
	copy(spoilt[3*4096:], bytes.Repeat([]byte{0xa5}, 4096))
	for name, data := range map[string][]byte{
		"sound": sound, "spoilt": spoilt, "cut short": sound[:9000], "empty": {}, "no store": bytes.Repeat([]byte("x"), 20000), "no meta page": append(make([]byte, 8192), sound[8192:]...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keys.db")
			must(t, os.WriteFile(path, data, 0o600))
			before, err := os.Stat(path)
			must(t, err)
			if _, err := diagnose(t.Context(), path); err != nil {
				t.Error(err)
			}
			after, err := os.Stat(path)
			must(t, err)
			got, err := os.ReadFile(path)
			must(t, err)
			entries, err := os.ReadDir(dir)
			must(t, err)
			if !bytes.Equal(got, data) || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() || len(entries) != 1 {
				t.Errorf("the file was changed, or there are others: %v", entries)
			}
		})
	}
}
