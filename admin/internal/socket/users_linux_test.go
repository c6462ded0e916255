package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stranger is the ID of another user of the machine.
const stranger = 65534

// asStranger runs fn as another user. Only root can do that.
func asStranger(t *testing.T, fn func()) {
	t.Helper()
	asUser(t, stranger, fn)
}

func asUser(t *testing.T, user uintptr, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		// Linux has a user for each thread. The thread ends with its goroutine.
		runtime.LockOSThread()
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, user, user, user)
		if errno != 0 {
			done <- errno
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// openTo lets every user write a directory of newDir, or a directory below it.
func openTo(t *testing.T, dir string) {
	t.Helper()
	for open := false; !open; dir = filepath.Dir(dir) {
		open = strings.HasPrefix(filepath.Base(dir), "lk")
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnotherUserCannotConnect(t *testing.T) {
	file := newFile(t)
	openTo(t, filepath.Dir(file))
	l := listen(t, file, "secret")
	asStranger(t, func() {
		if conn, err := net.Dial("unix", l.Path()); !errors.Is(err, syscall.EACCES) {
			t.Errorf("got %v, %v, want EACCES", conn, err)
		}
		if _, err := Dial(t.Context(), file); !errors.Is(err, ErrUntrusted) {
			t.Errorf("Dial: got %v, want ErrUntrusted", err)
		}
	})
	wantAnswer(t, file, "secret")
}

func TestAnotherUserGetsNoAnswerEvenIfTheSocketIsOpenToAll(t *testing.T) {
	file := newFile(t)
	openTo(t, filepath.Dir(file))
	l := listen(t, file, "secret")
	if err := os.Chmod(l.Path(), 0o666); err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		conn, err := net.Dial("unix", l.Path())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if said, _ := io.ReadAll(conn); len(said) > 0 {
			t.Errorf("the stranger reads %q", said)
		}
	})
	wantAnswer(t, file, "secret")
}

// strangersListener returns a listener of another user at a path.
func strangersListener(t *testing.T, path string) (l *net.UnixListener) {
	t.Helper()
	var err error
	asStranger(t, func() { l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}) })
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	greet(t, l, "the stranger")
	return l
}

func TestAnotherUsersSocketIsNeitherUsedNorReplaced(t *testing.T) {
	file := newFile(t)
	openTo(t, filepath.Dir(file))
	strangersListener(t, file+".sock")
	wantDialError(t, file, ErrUntrusted)
	wantListenError(t, file, ErrInTheWay)
	conn, err := net.Dial("unix", file+".sock")
	if err != nil {
		t.Fatal("the stranger's socket is gone:", err)
	}
	_ = conn.Close()
}

// The socket can have belonged to this user, in a directory that another user may write.
func TestAnotherUsersProgramIsNotTrustedBehindASocketOfThisUser(t *testing.T) {
	file := newFile(t)
	openTo(t, filepath.Dir(file))
	strangersListener(t, file+".sock")
	if err := os.Chown(file+".sock", os.Geteuid(), -1); err != nil {
		t.Fatal(err)
	}
	wantDialError(t, file, ErrUntrusted)
}

func TestAnotherUsersRuntimeDirectoryIsNotUsed(t *testing.T) {
	file := newLongFile(t)
	t.Setenv("XDG_RUNTIME_DIR", "")
	openTo(t, os.TempDir())
	own := ownTempDir(os.TempDir(), os.Geteuid())
	asStranger(t, func() {
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Error(err)
		}
	})
	strangersListener(t, filepath.Join(own, hashName(file)+".sock"))
	wantListenError(t, file, ErrUntrusted)
	wantDialError(t, file, ErrUntrusted)
}

func TestAnotherUsersDirectoryForTheMakingOfASocketIsNotUsed(t *testing.T) {
	file := newFile(t)
	dir := filepath.Dir(file)
	var nest string
	hookBind(t, func(path string, _ func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		nest = filepath.Dir(path)
		return nil, syscall.EMFILE
	})
	wantListenError(t, file, syscall.EMFILE)
	openTo(t, dir)
	asStranger(t, func() {
		if err := errors.Join(os.Mkdir(nest, 0o777), os.WriteFile(filepath.Join(nest, "more"), nil, 0o600)); err != nil {
			t.Error(err)
		}
	})
	wantListenError(t, file, ErrInTheWay)
}

func TestRootReachesTheProgramOfTheUserWhoOwnsTheFile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		newFile func(*testing.T) string
	}{{"beside the file", newFile}, {"in the user's runtime directory", newLongFile}} {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.newFile(t)
			t.Setenv("XDG_RUNTIME_DIR", "")
			openTo(t, filepath.Dir(file))
			openTo(t, os.TempDir())
			var l *Listener
			var err error
			asStranger(t, func() { l, err = Listen(file) })
			if err != nil {
				t.Fatal(err)
			}
			// The listener compares the user of a connection with its own.
			go asStranger(t, func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, "the user")
					_ = conn.Close()
				}
			})
			defer l.Close()
			if conn, err := Dial(t.Context(), file); err == nil {
				t.Error("root trusts the program of somebody who does not own the file")
				_ = conn.Close()
			}
			if err := os.Chown(file, stranger, -1); err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, file, "the user")
		})
	}
}

func TestOnlyRootTrustsTheProgramOfTheFilesOwner(t *testing.T) {
	const owner = 4711
	file := newFile(t)
	openTo(t, filepath.Dir(file))
	var l *net.UnixListener
	var err error
	asUser(t, owner, func() { l, err = net.ListenUnix("unix", &net.UnixAddr{Name: file + ".sock", Net: "unix"}) })
	if err = errors.Join(err, os.Chmod(file+".sock", 0o666), os.Chown(file, owner, -1)); err != nil {
		t.Fatal(err)
	}
	greet(t, l, "the owner")
	wantAnswer(t, file, "the owner")
	asStranger(t, func() {
		if conn, err := Dial(t.Context(), file); !errors.Is(err, ErrUntrusted) {
			t.Errorf("got %v, %v, want ErrUntrusted", conn, err)
		}
	})
}
