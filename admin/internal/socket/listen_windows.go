package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// A Listener accepts the connections of one user to the pipe of a file.
type Listener struct {
	net.Listener
	path string
	user string // the only user with access

	end       func() // of serve
	closeOnce sync.Once
}

// Listen makes the pipe of a file. The process must hold the lock of the store in the file. A pipe
// ends with its program, so no crash leaves one.
//
// Errors: [ErrServed]; [ErrInTheWay] if another program has made a pipe with the name; the
// operating system's error.
func Listen(file string) (*Listener, error) {
	real, err := resolve(file)
	if err != nil {
		return nil, err
	}
	end, err := serve(strings.ToLower(real))
	if err != nil {
		return nil, err
	}
	l, err := listenPipe(real)
	if err != nil {
		end()
		return nil, err
	}
	l.end = end
	return l, nil
}

func listenPipe(real string) (*Listener, error) {
	me, err := currentUser()
	if err != nil {
		return nil, err
	}
	path := pipeName(real, me)
	// The user owns the pipe (O), also where the process is elevated. The list is complete, so the
	// pipe inherits nothing (P). The list denies everything to callers from the network (NU), and
	// allows everything (GA) to the user. NU comes first, because the first entry that applies
	// counts.
	pipe, err := winio.ListenPipe(path, &winio.PipeConfig{
		SecurityDescriptor: fmt.Sprintf("O:%sD:P(D;;GA;;;NU)(A;;GA;;;%[1]s)", me),
	})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s: %w", ErrInTheWay, path, err)
	}
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: pipe, path: path, user: me}, nil
}

// Path returns the name of the pipe.
func (l *Listener) Path() string { return l.path }

// Accept returns the next connection, as a [*Conn].
//
// Errors: those of net.Listener, such as [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, winio.ErrPipeListenerClosed) {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	return &Conn{conn, l.user}, nil
}

// Close ends listening. The pipe goes when its last connection is closed.
//
// Errors: the operating system's error.
func (l *Listener) Close() (err error) {
	l.closeOnce.Do(func() {
		err = l.Listener.Close()
		l.end()
	})
	return err
}

// Dial connects to the program that serves the store in a file. The program must be of the same
// user.
//
// Errors: [ErrNotServed]; [ErrUntrusted]; the operating system's error; ctx's error.
func Dial(ctx context.Context, file string) (net.Conn, error) {
	real, err := resolve(file)
	if err != nil {
		return nil, err
	}
	me, err := currentUser()
	if err != nil {
		return nil, err
	}
	// The program at the other end cannot act in the name of the client, because DialPipeContext
	// connects without an identity.
	path := pipeName(real, me)
	conn, err := winio.DialPipeContext(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrNotServed, file)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s: %w", ErrUntrusted, path, err)
	case err != nil:
		return nil, err
	}
	if err := checkOwner(conn, path, me); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// checkOwner returns [ErrUntrusted] unless the pipe belongs to a user. Only a program of the user,
// or one that may do everything, can make a pipe that belongs to the user.
//
// Errors: the operating system's error.
func checkOwner(conn net.Conn, path, user string) error {
	handle := windows.Handle(conn.(interface{ Fd() uintptr }).Fd())
	descriptor, err := windows.GetSecurityInfo(handle, windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("read the owner of %s: %w", path, err)
	}
	owner, _, err := descriptor.Owner()
	if err != nil {
		return fmt.Errorf("read the owner of %s: %w", path, err)
	}
	if owner.String() != user {
		return fmt.Errorf("%w: %s belongs to %s", ErrUntrusted, path, owner)
	}
	return nil
}

// pipeName returns the name of the pipe of a file, for a user. All users of the machine share the
// names of pipes, and the same path can lead each of them to another file.
func pipeName(real, user string) string {
	return `\\.\pipe\` + hashName(strings.ToLower(real)+"\x00"+user)
}

// currentUser returns the security identifier of the user of this process.
func currentUser() (string, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return "", err
	}
	return user.User.Sid.String(), nil
}
