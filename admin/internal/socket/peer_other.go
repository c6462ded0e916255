//go:build unix && !(darwin || freebsd || linux)

package socket

import (
	"errors"
	"net"
)

// peerOf returns [errors.ErrUnsupported], because this system has no such call here.
func peerOf(*net.UnixConn) (user int, err error) { return 0, errors.ErrUnsupported }
