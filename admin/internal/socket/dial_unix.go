//go:build unix

package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
)

// Dial connects to the program that serves the store in a file. It looks in each place where the
// socket may lie.
//
// The program must be of the same user. Root may also connect to a program of the file's owner,
// because root can do what that user can.
//
// Errors: [ErrNotServed]; [ErrUntrusted]; the operating system's error; ctx's error.
func Dial(ctx context.Context, file string) (net.Conn, error) {
	real, err := resolve(file)
	if err != nil {
		return nil, err
	}
	users := []int{os.Geteuid()}
	if users[0] == 0 {
		if info, err := os.Stat(real); err == nil && ownerOf(info) > 0 {
			users = append(users, ownerOf(info))
		}
	}
	var failed []error
	for _, p := range placesToLook(real, users) {
		conn, err := dialAt(ctx, p, users)
		if err == nil {
			return conn, nil
		}
		// A socket that refuses connections was left by a program that crashed.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, errTooLong) {
			failed = append(failed, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(failed) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotServed, file)
	}
	return nil, errors.Join(failed...)
}

// dialAt connects to the socket at p, which must be of one of users.
func dialAt(ctx context.Context, p place, users []int) (net.Conn, error) {
	info, err := os.Lstat(p.path())
	if errors.Is(err, syscall.ENAMETOOLONG) || err == nil && len(p.path()) >= len(syscall.RawSockaddrUnix{}.Path) {
		return nil, errTooLong
	}
	if err != nil {
		return nil, err
	}
	if p.private {
		if err := checkPrivate(p.dir, users); err != nil {
			return nil, err
		}
	}
	if err := checkSocket(info, users); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUntrusted, p.path(), err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.path())
	if err != nil {
		return nil, err
	}
	user, err := peerOf(conn.(*net.UnixConn))
	if errors.Is(err, errors.ErrUnsupported) || err == nil && slices.Contains(users, user) {
		return dialed{conn.(*net.UnixConn), p}, nil
	}
	_ = conn.Close()
	if err == nil {
		err = fmt.Errorf("%w: a program of user %d answers at %s", ErrUntrusted, user, p.path())
	}
	return nil, err
}

// A dialed is a connection whose remote address is the path of the socket. The system tells the
// name under which the socket was made.
type dialed struct {
	*net.UnixConn
	at place
}

func (d dialed) RemoteAddr() net.Addr { return &net.UnixAddr{Name: d.at.path(), Net: "unix"} }
