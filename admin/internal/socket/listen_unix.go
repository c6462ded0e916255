//go:build unix

package socket

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

// A Listener accepts the connections of one user to the socket of a file.
type Listener struct {
	*net.UnixListener
	dir  *os.Root // the directory of the socket
	at   place
	mine fs.FileInfo // of the socket

	end       func() // of serve
	closeOnce sync.Once
}

// Listen makes the socket of a file. The process must hold the lock of the store in the file.
//
// Listen replaces a socket of the same user that is there already. Because the process holds the
// lock, no other program serves the store: that socket was left by a program that crashed, or
// belongs to a program whose file was moved away.
//
// Errors: [ErrServed]; [ErrInTheWay]; [ErrUntrusted]; the operating system's error.
func Listen(file string) (*Listener, error) {
	real, err := resolve(file)
	if err != nil {
		return nil, err
	}
	end, err := serve(real)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, p := range placesToListen(real) {
		l, err := listenAt(p)
		if err == nil {
			l.end = end
			return l, nil
		}
		failed = append(failed, err)
		if !p.private && !hasNoSockets(err) {
			break
		}
	}
	end()
	return nil, errors.Join(failed...)
}

// errTooLong means that a path does not fit into the address of a socket.
var errTooLong = errors.New("the path is too long for a socket")

// hasNoSockets reports whether err says that a socket cannot be made in a directory, so that it has
// to be made elsewhere. VFAT answers with EPERM, and file systems of virtual machines and in user
// space with ENOTSUP, ENOSYS or EINVAL. A directory can also be one that the user may not write.
func hasNoSockets(err error) bool {
	if errors.Is(err, errTooLong) || errors.Is(err, errors.ErrUnsupported) {
		return true
	}
	return slices.ContainsFunc([]syscall.Errno{
		syscall.EPERM, syscall.EACCES, syscall.EROFS, syscall.EINVAL, syscall.ENAMETOOLONG,
	}, func(e syscall.Errno) bool { return errors.Is(err, e) })
}

// listenAt makes a socket at p.
func listenAt(p place) (*Listener, error) {
	if p.private {
		if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := checkPrivate(p.dir, []int{os.Geteuid()}); err != nil {
			return nil, err
		}
	}
	dir, err := os.OpenRoot(p.dir)
	if err != nil {
		return nil, err
	}
	l := &Listener{dir: dir, at: p}
	if err := l.make(); err != nil {
		_ = l.release()
		return nil, err
	}
	return l, nil
}

// checkName returns [ErrInTheWay] if something has the name of the socket that is no socket of this
// user.
//
// Errors: the operating system's error.
func (l *Listener) checkName() error {
	info, err := l.dir.Lstat(l.at.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkSocket(info, []int{os.Geteuid()}); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInTheWay, l.at.path(), err)
	}
	return nil
}

// make makes the socket in a directory that only this user can enter, gives it its mode, and only
// then its name. A socket that is bound to its name at once has a mode that depends on the umask,
// which belongs to the whole process.
func (l *Listener) make() error {
	if err := l.checkName(); err != nil {
		return err
	}
	// The name is the same each time, so that crashes leave no more than one directory.
	sum := sha256.Sum256([]byte(l.at.name))
	nest := fmt.Sprintf(".lk-%x", sum[:4])
	egg := filepath.Join(nest, "s")
	for _, path := range []string{l.at.path(), filepath.Join(l.at.dir, egg)} {
		if len(path) >= len(syscall.RawSockaddrUnix{}.Path) {
			return fmt.Errorf("%w: %s", errTooLong, path)
		}
	}
	l.clean(nest, egg)
	if err := l.dir.Mkdir(nest, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: %s cannot be removed", ErrInTheWay, filepath.Join(l.at.dir, nest))
		}
		return err
	}
	defer l.clean(nest, egg)

	var err error
	l.UnixListener, err = bind(filepath.Join(l.at.dir, egg))
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	// A socket is bound by a path, which may lead elsewhere by now.
	if l.mine, err = l.dir.Lstat(egg); err != nil {
		return fmt.Errorf("the directory %s was replaced: %w", l.at.dir, err)
	}
	if err := l.dir.Chmod(egg, 0o600); err != nil {
		return err
	}
	if err := l.dir.Rename(egg, l.at.name); err != nil {
		return err
	}
	if now, err := os.Lstat(l.at.path()); err != nil || !os.SameFile(now, l.mine) {
		_ = l.remove()
		return fmt.Errorf("the directory %s was replaced: there is another one at its path", l.at.dir)
	}
	return nil
}

// clean removes what make makes before the socket has its name.
func (l *Listener) clean(nest, egg string) {
	_ = l.dir.Remove(egg)
	_ = l.dir.Remove(nest)
}

// bind is the system's call, for tests of file systems without sockets and of races.
var bind = func(path string) (*net.UnixListener, error) {
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

// Path returns the path of the socket.
func (l *Listener) Path() string { return l.at.path() }

// Accept returns the next connection of this user, or of root, as a [*Conn]. It closes the
// connections of others.
//
// Errors: those of net.Listener, such as [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		user, err := peerOf(conn)
		if errors.Is(err, errors.ErrUnsupported) {
			user, err = os.Geteuid(), nil // nobody else can open the socket
		}
		if err == nil && (user == os.Geteuid() || user == 0) {
			return &Conn{conn, strconv.Itoa(user)}, nil
		}
		_ = conn.Close()
	}
}

// Close ends listening and removes the socket, unless the socket with its name is another one.
// Close the listener before the store, while nobody else can have the lock of the store.
//
// Errors: the operating system's error.
func (l *Listener) Close() (err error) {
	l.closeOnce.Do(func() {
		// Until the listener is closed, no other socket can have its number.
		err = errors.Join(l.remove(), l.release())
		l.end()
	})
	return err
}

// remove removes the socket if it is still the one that l has made.
func (l *Listener) remove() error {
	info, err := l.dir.Lstat(l.at.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, l.mine) {
		return nil
	}
	if err == nil {
		err = l.dir.Remove(l.at.name)
	}
	return err
}

// release closes what l has open.
func (l *Listener) release() error {
	var err error
	if l.UnixListener != nil {
		err = l.UnixListener.Close()
	}
	return errors.Join(err, l.dir.Close())
}
