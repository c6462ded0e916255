package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin/internal/socket"
	"github.com/latchkeydb/latchkey/internal/durable"
)

var (
	// ErrNotServed means that no program serves the administration of the store. The store may be
	// open in a program that does not call [Listen], or in none.
	ErrNotServed = socket.ErrNotServed

	// ErrServed means that this process serves the store already. Close the other [Socket] first.
	ErrServed = socket.ErrServed

	// ErrInTheWay means that something has the name of the socket that is no socket of this user.
	// Find out what it is, and remove it.
	ErrInTheWay = socket.ErrInTheWay

	// ErrUntrusted means that the socket, or the program behind it, belongs to another user. Act as
	// the user of the program.
	ErrUntrusted = socket.ErrUntrusted

	// ErrNotOpen means that this program does not have a store open for writing at the path. Give
	// [Listen] the path that the store was opened with.
	ErrNotOpen = errors.New("this program does not have the store at the path open for writing")
)

// A Socket serves the administration of one store, until it is closed.
type Socket struct {
	listener *socket.Listener
	server   *http.Server
	done     chan struct{} // closed when server.Serve has returned
}

// closeWait is how long Close lets requests go on. Most take milliseconds, but a backup
// can take long. Tests change it.
var closeWait = time.Second

// Listen serves the API for the store in the file at path, on a socket that only the program's user
// and root can open. path is the path that the store was opened with. opts may be nil.
//
// The socket lies beside the file, under the name of the file and ".sock". Where that is not
// possible, it lies in the user's runtime directory: $XDG_RUNTIME_DIR, or a directory below
// [os.TempDir] that only the user can open. On Windows it is a named pipe. [Dial] finds it in each
// of these places. Listen replaces a socket that a program has left behind which crashed.
//
// On the socket there is no key. Each request may do everything, because its sender could also read
// and write the file. The actor is "local user" and the ID of the user, unless a request names
// another actor; see [Client.As]. Listen does not use [Options].Authenticate.
//
// Close the Socket before the store.
//
// Errors: [ErrNotOpen]; [ErrServed]; [ErrInTheWay]; [ErrUntrusted] if no runtime directory can be
// used; [latchkey.ErrClosed]; [latchkey.ErrFileChanged]; the operating system's error.
func Listen(store *latchkey.Store, path string, opts *Options) (*Socket, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Authenticate = localUser
	handler := New(store, &o)
	s, err := listen(store, path, handler)
	if err != nil {
		handler.Close()
		return nil, err
	}
	s.server.RegisterOnShutdown(handler.Close)
	return s, nil
}

// listen serves handler for the store in the file at path.
func listen(store *latchkey.Store, path string, handler http.Handler) (*Socket, error) {
	s, err := listenFor(store, path, handler)
	if err != nil {
		return nil, fmt.Errorf("serve the administration of %s: %w", path, err)
	}
	return s, nil
}

func listenFor(store *latchkey.Store, path string, handler http.Handler) (*Socket, error) {
	if err := checkWriter(store, path); err != nil {
		return nil, err
	}
	l, err := socket.Listen(path)
	if err != nil {
		return nil, err
	}
	s := &Socket{
		listener: l,
		done:     make(chan struct{}),
		// There is no limit to the time of a request, because backups and streams of changes take
		// long. Only the program's user and root can send requests.
		server: &http.Server{
			Handler: whileInPlace(store, handler),
			ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
				return context.WithValue(ctx, localUserKey{}, conn.(*socket.Conn).User)
			},
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          log.New(io.Discard, "", 0), // standard error belongs to the program
		},
	}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(l)
	}()
	return s, nil
}

// checkWriter returns nil if this process has the lock on the file at path as the only one, because
// only the holder of the lock may replace a socket that is there.
func checkWriter(store *latchkey.Store, path string) error {
	ctx := context.Background()
	if health := store.Health(ctx); errors.Is(health, latchkey.ErrClosed) || errors.Is(health, latchkey.ErrFileChanged) {
		return health
	}
	if !durable.IsOpenHere(path) {
		return ErrNotOpen
	}
	// Several programs can have a file open for reading. An update that does nothing tells whether
	// the store only reads.
	nothing := errors.New("nothing to do")
	if err := store.Update(ctx, func(*latchkey.Tx) error { return nothing }); errors.Is(err, latchkey.ErrReadOnly) {
		return fmt.Errorf("%w: %w", ErrNotOpen, err)
	}
	return nil
}

// whileInPlace refuses all requests while another file is in the place of the store's file. A
// client that finds the socket by the path of that file means another store. If there is no file,
// nobody can mean another store, and the store may still be saved by a backup.
func whileInPlace(store *latchkey.Store, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		health := store.Health(r.Context())
		if errors.Is(health, latchkey.ErrFileChanged) && !errors.Is(health, latchkey.ErrFileGone) {
			p := problemOf(health)
			w.Header().Set("Content-Type", "application/problem+json")
			writeJSON(w, p.Status, p)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

// Path returns the path of the socket, or the name of the pipe.
func (s *Socket) Path() string { return s.listener.Path() }

// Close removes the socket, unless another program has replaced it, and ends serving. Requests in
// progress have a second to end. Close the Socket before the store. A second call does nothing.
//
// Errors: the operating system's error.
func (s *Socket) Close() error {
	err := s.listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
	<-s.done
	return err
}

// Dial connects to the program that serves the administration of the store in the file at path. The
// other end speaks HTTP.
//
// The program must be of the same user. Root may also connect to a program of the file's owner.
// Dial asks the system for the user, where the system can tell: Linux, macOS, FreeBSD and
// Windows can. Elsewhere only the owner of the socket counts.
//
// Errors: [ErrNotServed]; [ErrUntrusted]; the operating system's error; ctx's error.
func Dial(ctx context.Context, path string) (net.Conn, error) { return socket.Dial(ctx, path) }

// Transport returns a transport whose requests all go to the program that serves the administration
// of the store in the file at path, whatever host the URL of a request names. Its errors are those
// of [Dial].
//
//	client := http.Client{Transport: admin.Transport("keys.db")}
//	reply, err := client.Get("http://latchkey/…")
func Transport(path string) *http.Transport {
	return &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, path) },
		DisableCompression: true,
		// The server waits longer, so that no request meets a closed connection.
		IdleConnTimeout: time.Minute,
	}
}
