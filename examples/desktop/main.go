// Desktop is the skeleton of an app on a desktop that keeps keys. People start such an app twice,
// and clean up files that they do not know. The app runs until it is interrupted:
//
//	go run -C examples/desktop . -store "$PWD/keys.db"
//
// A second start finds the app that runs, by the socket beside the store's file, shows what the app
// has, and ends. The command latchkey finds the app the same way. If the file is deleted while the
// app runs, the app puts it back. docs/tutorial-desktop.md goes on: with a file that is deleted
// while no app runs, with backups, and with other languages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

func main() {
	dir, err := os.UserConfigDir()
	if err != nil {
		log.Fatal(err)
	}
	path := flag.String("store", filepath.Join(dir, "latchkey-desktop", "keys.db"), "the `FILE` of the store")
	every := flag.Duration("every", time.Second, "how often the app looks at its store")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *path, *every, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run shows the app that runs, or else is that app until ctx ends.
func run(ctx context.Context, path string, every time.Duration, out io.Writer) error {
	// The file may be gone while the app runs, so the socket is asked before the file is opened.
	err := showRunning(ctx, path, out)
	if !errors.Is(err, admin.ErrNotServed) {
		return err
	}
	a, err := start(path)
	if errors.Is(err, latchkey.ErrLocked) { // another start was faster
		if shown := showRunning(ctx, path, out); !errors.Is(shown, admin.ErrNotServed) {
			return shown
		}
	}
	if err != nil {
		return err
	}
	defer func() { a.close() }()
	if err := a.welcome(ctx, out); err != nil {
		return err
	}
	fmt.Fprintln(out, "running with", path)

	for looks := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-looks.C:
		}
		// Another file in the place of the store's may be what somebody wants there, so only a file
		// that is gone is put back.
		health := a.store.Health(ctx)
		switch {
		case errors.Is(health, latchkey.ErrFileGone):
			if err := a.putBack(ctx); err != nil {
				fmt.Fprintln(out, "the file is gone, and cannot be put back yet:", err)
				continue
			}
			a.close()
			again, err := start(path)
			if err != nil {
				return err
			}
			a = again
			fmt.Fprintln(out, "the file was gone, and is back")
		case errors.Is(health, latchkey.ErrFileChanged):
			return health
		}
	}
}

// showRunning prints what the app that has the store open says about it.
//
// Errors: [admin.ErrNotServed] if no app runs.
func showRunning(ctx context.Context, path string, out io.Writer) error {
	conn, err := admin.Dial(ctx, path)
	if err != nil {
		return err
	}
	conn.Close()
	running := admin.NewClient(&http.Client{Transport: admin.Transport(path)}, "http://latchkey", "")
	health, err := running.Health(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "the app runs already; healthy:", health.OK)
	for key, err := range running.Keys(ctx, latchkey.KeyFilter{}) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "key %s, disabled: %t\n", key.Name, key.Disabled)
	}
	return nil
}

// An app has the store open, and serves the socket.
type app struct {
	path   string
	store  *latchkey.Store
	socket *admin.Socket
}

// start opens the store, and makes it if there is none.
func start(path string) (*app, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	store, err := latchkey.Open(path, nil)
	if err != nil {
		return nil, err
	}
	socket, err := admin.Listen(store, path, nil)
	if err != nil {
		store.Close()
		return nil, err
	}
	return &app{path, store, socket}, nil
}

func (a *app) close() {
	a.socket.Close()
	a.store.Close()
}

// welcome makes the first key in a new store.
func (a *app) welcome(ctx context.Context, out io.Writer) error {
	_, token, err := a.store.CreateServerKey(ctx, latchkey.KeySpec{Name: "first"})
	if errors.Is(err, latchkey.ErrKeyNameTaken) {
		return nil
	}
	if err == nil {
		fmt.Fprintln(out, "the first key, whose token is shown this once:", token)
	}
	return err
}

// putBack makes the file anew from a backup of the store, which still has everything. A store whose
// file is gone refuses changes, so nothing is newer than the backup. If something has come to the
// path meanwhile, Restore leaves it there and returns an error.
func (a *app) putBack(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(a.path), 0o700); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(a.store.Backup(ctx, w)) }()
	err := latchkey.Restore(ctx, r, a.path)
	r.CloseWithError(err) // ends a backup that Restore did not read to its end
	return err
}
