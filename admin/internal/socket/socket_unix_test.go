//go:build unix

package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// newFile returns the path of a file in a directory of its own. The path is short enough for a
// socket. The runtime directories are empty ones.
func newFile(t *testing.T) string {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", newDir(t))
	t.Setenv("TMPDIR", newDir(t))
	file := filepath.Join(newDir(t), "keys.db")
	write(t, file)
	return file
}

func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(shortTemp, "lk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

var shortTemp = os.TempDir()

// newLongFile is newFile, except that the path is too long for the address of a socket.
func newLongFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(filepath.Dir(newFile(t)), strings.Repeat("a", 60), strings.Repeat("b", 60), "keys.db")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, file)
	return file
}

func write(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("keys"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listen listens for a file and greets each connection with the name, until the test ends.
func listen(t *testing.T, file, name string) *Listener {
	t.Helper()
	l, err := Listen(file)
	if err != nil {
		t.Fatal(err)
	}
	greet(t, l, name)
	return l
}

func greet(t *testing.T, l net.Listener, name string) {
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
}

// crash ends a listener as the death of its program does: the socket stays.
func crash(l *Listener) {
	_ = l.release()
	l.end()
}

// answer returns what the program that serves a file says.
func answer(t *testing.T, file string) string {
	t.Helper()
	conn, err := Dial(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func wantAnswer(t *testing.T, file, want string) {
	t.Helper()
	if got := answer(t, file); got != want {
		t.Errorf("%q answers for %s, want %q", got, file, want)
	}
}

func wantDialError(t *testing.T, file string, want error) {
	t.Helper()
	conn, err := Dial(t.Context(), file)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("Dial: got %v, want %v", err, want)
	}
}

func wantListenError(t *testing.T, file string, want error) {
	t.Helper()
	l, err := Listen(file)
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("Listen: got %v, want %v", err, want)
	}
}

// wantNames compares the names in a directory.
func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}

// hookBind puts hook in the place of bind until the test ends.
func hookBind(t *testing.T, hook func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error)) {
	system := bind
	bind = func(path string) (*net.UnixListener, error) { return hook(path, system) }
	t.Cleanup(func() { bind = system })
}

func TestASocketLiesBesideItsFileAndGoesWithItsListener(t *testing.T) {
	file := newFile(t)
	wantDialError(t, file, ErrNotServed)
	l := listen(t, file, "hello")
	wantAnswer(t, file, "hello")
	if l.Path() != file+".sock" {
		t.Errorf("the socket is %s", l.Path())
	}
	conn, err := Dial(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != l.Path() {
		t.Errorf("the connection is to %s", conn.RemoteAddr())
	}
	wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	wantNames(t, filepath.Dir(file), "keys.db")
	wantDialError(t, file, ErrNotServed)
}

func TestASocketHasItsModeBeforeItHasItsName(t *testing.T) {
	file := newFile(t)
	defer syscall.Umask(syscall.Umask(0))
	hookBind(t, func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		l, err := bind(path)
		info, statErr := os.Stat(filepath.Dir(path))
		if statErr != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the socket is made in a directory with %v (%v), want 0700", info.Mode(), statErr)
		}
		if _, err := os.Lstat(file + ".sock"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket has its name at once: %v", err)
		}
		return l, err
	})
	l := listen(t, file, "hello")
	info, err := os.Lstat(l.Path())
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket has %v (%v), want a socket with 0600", info.Mode(), err)
	}
}

func TestAllPathsToAFileLeadToOneSocket(t *testing.T) {
	file := newFile(t)
	dir := filepath.Dir(file)
	linked := filepath.Join(newDir(t), "link")
	for from, to := range map[string]string{filepath.Join(dir, "other.db"): "keys.db", linked: dir} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	listen(t, filepath.Join(linked, "other.db"), "hello")
	wantAnswer(t, filepath.Join(dir, "other.db"), "hello")
	wantAnswer(t, filepath.Join(linked, "keys.db"), "hello")
	t.Chdir(dir)
	wantAnswer(t, "keys.db", "hello")
	wantListenError(t, file, ErrServed)
}

func TestAProgramIsFoundAfterItsFileIsGone(t *testing.T) {
	file := newFile(t)
	listen(t, file, "hello")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, file, "hello")
}

func TestASocketThatACrashLeftIsReplaced(t *testing.T) {
	file := newFile(t)
	l, err := Listen(file)
	if err != nil {
		t.Fatal(err)
	}
	crash(l)
	wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock")
	wantDialError(t, file, ErrNotServed)
	wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock") // a client removes nothing
	listen(t, file, "the next")
	wantAnswer(t, file, "the next")
}

func TestAListenerLeavesASocketAloneThatHasReplacedItsOwn(t *testing.T) {
	file := newFile(t)
	first, err := Listen(file)
	if err != nil {
		t.Fatal(err)
	}
	first.end() // so that this process may play the second program
	listen(t, file, "the second")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, file, "the second")
}

func TestAListenerThatLostItsSocketCloses(t *testing.T) {
	file := newFile(t)
	l := listen(t, file, "hello")
	if err := os.Remove(l.Path()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestOfManyListenersAtOnceOneSucceeds(t *testing.T) {
	file := newFile(t)
	var all sync.WaitGroup
	var made atomic.Pointer[Listener]
	for range 16 {
		all.Go(func() {
			l, err := Listen(file)
			if err != nil && !errors.Is(err, ErrServed) {
				t.Errorf("got %v, want ErrServed", err)
			}
			if err == nil && !made.CompareAndSwap(nil, l) {
				t.Error("two listeners have the socket")
			}
		})
	}
	all.Wait()
	greet(t, made.Load(), "hello")
	wantAnswer(t, file, "hello")
	wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock")
}

func TestWhatIsInTheWayStaysAndIsNotFollowed(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, at string)
	}{
		{"a file", func(t *testing.T, at string) { write(t, at) }},
		{"a directory", func(t *testing.T, at string) {
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link to another program's socket", func(t *testing.T, at string) {
			other := filepath.Join(newDir(t), "other.db")
			write(t, other)
			if err := os.Symlink(listen(t, other, "another program").Path(), at); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link to nothing", func(t *testing.T, at string) {
			if err := os.Symlink(filepath.Join(newDir(t), "nothing"), at); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := newFile(t)
			tt.make(t, file+".sock")
			before, err := os.Lstat(file + ".sock")
			if err != nil {
				t.Fatal(err)
			}
			wantListenError(t, file, ErrInTheWay)
			wantDialError(t, file, ErrUntrusted)
			after, err := os.Lstat(file + ".sock")
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
				t.Errorf("it has changed: %v, %v", after, err)
			}
			wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock")
			if err := os.RemoveAll(file + ".sock"); err != nil {
				t.Fatal(err)
			}
			listen(t, file, "hello") // the failure has left nothing behind
		})
	}
}

func TestADirectoryThatIsReplacedMeanwhileGetsNoSocket(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before bool // whether the directory is replaced before the socket is bound
		nest   bool // whether the other directory has one for the making of the socket, too
	}{
		{"before the socket is made", true, false},
		{"before the socket is made, with all it needs", true, true},
		{"after the socket is made", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := newFile(t)
			dir := filepath.Dir(file)
			moved := filepath.Join(newDir(t), "moved")
			hookBind(t, func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
				replace := func() {
					if err := errors.Join(os.Rename(dir, moved), os.Mkdir(dir, 0o700)); err != nil {
						t.Fatal(err)
					}
					if tt.nest {
						if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
							t.Fatal(err)
						}
					}
				}
				if tt.before {
					replace()
				}
				l, err := bind(path)
				if !tt.before {
					replace()
				}
				return l, err
			})
			if l, err := Listen(file); err == nil {
				t.Errorf("Listen has made %s", l.Path())
				_ = l.Close()
			}
			wantNames(t, moved, "keys.db")
			if _, err := os.Lstat(file + ".sock"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the other directory has the socket: %v", err)
			}
		})
	}
}

func TestWhatACrashLeftOfTheMakingOfASocketIsRemoved(t *testing.T) {
	file := newFile(t)
	kept := filepath.Join(newDir(t), "kept")
	hookBind(t, func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		l, err := bind(path)
		if err == nil {
			err = os.Rename(filepath.Dir(path), kept) // out of the reach of Listen, like a crash
		}
		return l, err
	})
	if _, err := Listen(file); err == nil {
		t.Fatal("a socket was made")
	}
	var nest string
	hookBind(t, func(path string, _ func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		nest = filepath.Dir(path)
		return nil, syscall.EMFILE
	})
	wantListenError(t, file, syscall.EMFILE)
	wantNames(t, filepath.Dir(file), "keys.db") // a mere failure leaves nothing
	if err := os.Rename(kept, nest); err != nil {
		t.Fatal(err)
	}

	hookBind(t, func(path string, _ func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	})
	listen(t, file, "hello")
	wantAnswer(t, file, "hello")
	wantNames(t, filepath.Dir(file), "keys.db", "keys.db.sock")
}

func TestAFileWhosePathIsTooLongForASocketIsNotServedUnlessSomebodyDoes(t *testing.T) {
	wantDialError(t, newLongFile(t), ErrNotServed)
	// The name of the file leaves no room for ".sock".
	file := filepath.Join(filepath.Dir(newFile(t)), strings.Repeat("a", 253))
	write(t, file)
	wantDialError(t, file, ErrNotServed)
}

func TestASocketLiesInTheRuntimeDirectoryWhereItsPathWouldBeTooLong(t *testing.T) {
	file := newLongFile(t)
	wantDialError(t, file, ErrNotServed)
	l := listen(t, file, "hello")
	if filepath.Dir(l.Path()) != os.Getenv("XDG_RUNTIME_DIR") {
		t.Errorf("the socket is %s", l.Path())
	}
	wantAnswer(t, file, "hello")
	wantNames(t, filepath.Dir(file), "keys.db")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantNames(t, os.Getenv("XDG_RUNTIME_DIR"))
}

func TestTwoFilesInTheRuntimeDirectoryHaveTwoSockets(t *testing.T) {
	file := newLongFile(t)
	other := filepath.Join(filepath.Dir(file), "other.db")
	write(t, other)
	listen(t, file, "hello")
	listen(t, other, "the other")
	wantAnswer(t, file, "hello")
	wantAnswer(t, other, "the other")
}

func TestAFileWithALongNameHasASocketInTheRuntimeDirectory(t *testing.T) {
	file := filepath.Join(filepath.Dir(newFile(t)), strings.Repeat("n", 253))
	write(t, file)
	listen(t, file, "hello")
	wantAnswer(t, file, "hello")
}

func TestASocketLiesInTheRuntimeDirectoryWhereTheFileSystemHasNone(t *testing.T) {
	for _, refusal := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.EROFS, syscall.EINVAL, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		t.Run(refusal.Error(), func(t *testing.T) {
			file := newFile(t)
			hookBind(t, func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
				if strings.HasPrefix(path, filepath.Dir(file)) {
					return nil, &net.OpError{Op: "listen", Net: "unix", Err: os.NewSyscallError("bind", refusal)}
				}
				return bind(path)
			})
			l := listen(t, file, "hello")
			if filepath.Dir(l.Path()) != os.Getenv("XDG_RUNTIME_DIR") {
				t.Errorf("the socket is %s", l.Path())
			}
			wantAnswer(t, file, "hello")
			wantNames(t, filepath.Dir(file), "keys.db")
		})
	}
}

func TestAFailureThatIsNotOfTheFileSystemIsReported(t *testing.T) {
	file := newFile(t)
	hookBind(t, func(string, func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		return nil, syscall.EMFILE
	})
	wantListenError(t, file, syscall.EMFILE)
	wantNames(t, os.Getenv("XDG_RUNTIME_DIR"))
}

// A crash before the file was moved to a file system without sockets leaves both.
func TestAnOldSocketBesideTheFileDoesNotHideTheOneInTheRuntimeDirectory(t *testing.T) {
	file := newFile(t)
	l, err := Listen(file)
	if err != nil {
		t.Fatal(err)
	}
	crash(l)
	hookBind(t, func(path string, bind func(string) (*net.UnixListener, error)) (*net.UnixListener, error) {
		if strings.HasPrefix(path, filepath.Dir(file)) {
			return nil, syscall.EPERM
		}
		return bind(path)
	})
	listen(t, file, "hello")
	wantAnswer(t, file, "hello")
}

func TestAProgramAndAClientWithOtherEnvironmentsFindEachOther(t *testing.T) {
	file := newLongFile(t)
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	t.Setenv("XDG_RUNTIME_DIR", "")
	l := listen(t, file, "hello")
	if want := filepath.Join(os.Getenv("TMPDIR"), fmt.Sprint("latchkey-", os.Geteuid())); filepath.Dir(l.Path()) != want {
		t.Errorf("the socket is %s, want it in %s", l.Path(), want)
	}
	info, err := os.Lstat(filepath.Dir(l.Path()))
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("its directory has %v (%v), want 0700", info.Mode(), err)
	}
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	wantAnswer(t, file, "hello")
}

func TestARelativeRuntimeDirectoryDoesNotCount(t *testing.T) {
	file := newLongFile(t)
	t.Chdir(newDir(t))
	t.Setenv("XDG_RUNTIME_DIR", ".")
	listen(t, file, "hello")
	wantNames(t, ".")
}

func TestARuntimeDirectoryThatOthersCanOpenIsNotUsed(t *testing.T) {
	file := newLongFile(t)
	open := os.Getenv("XDG_RUNTIME_DIR")
	l := listen(t, file, "hello")
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	wantDialError(t, file, ErrUntrusted)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = listen(t, file, "hello")
	if filepath.Dir(l.Path()) == open {
		t.Errorf("the socket is %s", l.Path())
	}
	wantAnswer(t, file, "hello")
}

func TestALinkToARuntimeDirectoryIsNotUsed(t *testing.T) {
	file := newLongFile(t)
	t.Setenv("XDG_RUNTIME_DIR", "")
	target := newDir(t)
	own := ownTempDir(os.TempDir(), os.Geteuid())
	if err := os.Symlink(target, own); err != nil {
		t.Fatal(err)
	}
	wantListenError(t, file, ErrUntrusted)
	wantNames(t, target)
	if err := os.WriteFile(filepath.Join(target, hashName(file)+".sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantDialError(t, file, ErrUntrusted)
}

func TestDialEndsWithItsContext(t *testing.T) {
	file := newFile(t)
	listen(t, file, "hello")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, file); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
