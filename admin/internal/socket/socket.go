// Package socket makes and finds the socket on which a program serves the administration of its
// store, for one user of the machine.
//
// On Unix the socket lies beside the store's file, under the name of the file and ".sock". Where
// that path is too long for the address of a socket, or where the file system has no sockets, the
// socket lies in the user's runtime directory, under a hash of the file's path. On Windows the
// socket is a named pipe.
//
// This is what can go wrong, and what the package does about it:
//
//   - Another user of the machine connects. The socket has mode 0600 before it has its name, and
//     the listener asks the system for the user of each connection.
//   - Another user answers in the place of the program. The client asks the system for the owner of
//     the socket, and for the user at the other end.
//   - A program crashed and left its socket. The next holder of the store's lock replaces the
//     socket. Nobody else does. A client that finds such a socket looks in the other places, too.
//   - Something else has the socket's name: a file, a directory, a symbolic link, or another user's
//     socket. It stays as it is. The listener returns an error, and the client does not follow it.
//   - The directory is replaced while the socket is made. The listener opens the directory once and
//     works inside it, and returns an error if the directory's path leads somewhere else.
//   - A second program takes over the socket of a program whose store's file was moved away. The
//     listener of the first program leaves the new socket alone when it closes.
//   - A crash leaves the directory in which the socket is made. The next listener removes it.
package socket

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
)

var (
	// ErrNotServed means that no program serves the store. A socket that a crashed program has left
	// counts as none.
	ErrNotServed = errors.New("no program serves the administration of this store")

	// ErrServed means that this process serves the store already. Close the other socket first.
	ErrServed = errors.New("this process serves the store already")

	// ErrInTheWay means that something has the name of the socket that is no socket of this user.
	// A person should find out what it is, and remove it.
	ErrInTheWay = errors.New("something else has the name of the socket")

	// ErrUntrusted means that the socket, or the program behind it, belongs to another user.
	ErrUntrusted = errors.New("the socket belongs to somebody else")
)

// A Conn is a connection that a [Listener] has accepted.
type Conn struct {
	net.Conn
	// User is the ID of the user at the other end: a number, or a security identifier on Windows.
	User string
}

// resolve returns the path of the file itself, so that every path that leads to a file by symbolic
// links leads to one socket. The file may be missing.
func resolve(file string) (string, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		return real, nil
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
		return filepath.Join(dir, filepath.Base(file)), nil
	}
	return file, nil
}

// hashName returns a name for the socket of a file whose directory the socket does not lie in.
func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return fmt.Sprintf("latchkey-%x", sum[:12])
}

// served has the paths of the files that this process listens for.
var served sync.Map

// serve marks a file as served by this process, until end is called.
//
// It returns [ErrServed] if the file is served already.
func serve(real string) (end func(), err error) {
	if _, loaded := served.LoadOrStore(real, true); loaded {
		return nil, ErrServed
	}
	return sync.OnceFunc(func() { served.Delete(real) }), nil
}
