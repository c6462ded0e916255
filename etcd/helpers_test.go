package etcd_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// engine is an engine with methods that make a test fail.
type engine struct {
	latchkey.Engine
	t testing.TB
}

// open makes an engine on the shared member, with the prefix of the test, or through l.
func open(t testing.TB, l *link, opts etcd.Options) engine {
	t.Helper()
	c := client(t, node.address)
	t.Cleanup(func() { // for another run of the test
		if _, err := c.Delete(context.Background(), t.Name()+"/", clientv3.WithPrefix()); err != nil {
			t.Error(err)
		}
	})
	address := node.address
	if l != nil {
		address = l.address
	}
	return openAt(t, address, opts)
}

func openAt(t testing.TB, address string, opts etcd.Options) engine {
	t.Helper()
	e := engine{etcd.NewWith(client(t, address), t.Name(), opts), t}
	e.Track("t")
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

// update runs fn in an Update that must succeed. On a machine that is busy, etcd can seem to be out
// of reach for a moment.
func (e engine) update(fn func(tx latchkey.EngineTx) error) {
	e.t.Helper()
	e.reach("Update", func() error { return e.Update(e.t.Context(), fn) })
}

func (e engine) reach(name string, call func() error) {
	e.t.Helper()
	var err error
	until(e.t, "etcd answers", func() bool {
		err = call()
		return !errors.Is(err, latchkey.ErrUnavailable)
	})
	if err != nil {
		e.t.Errorf("%s: %v", name, err)
	}
}

func (e engine) put(key, value string) {
	e.t.Helper()
	e.update(func(tx latchkey.EngineTx) error { return tx.Put("t", []byte(key), []byte(value)) })
}

// commitAgain waits until the engine can commit.
func (e engine) commitAgain() {
	e.t.Helper()
	until(e.t, "the engine commits again", func() bool {
		return e.Update(e.t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("again"), nil) }) == nil
	})
}

func (e engine) remove(key string) {
	e.t.Helper()
	e.update(func(tx latchkey.EngineTx) error { return tx.Delete("t", []byte(key)) })
}

func (e engine) get(key string) string {
	e.t.Helper()
	var v []byte
	e.view(func(tx latchkey.EngineTx) (err error) {
		v, err = tx.Get("t", []byte(key))
		return err
	})
	return string(v)
}

func (e engine) view(fn func(tx latchkey.EngineTx) error) {
	e.t.Helper()
	e.reach("View", func() error { return e.View(e.t.Context(), fn) })
}

// sequence returns the sequence of the commit that last changed an entry.
func (e engine) sequence(key string) (n uint64) {
	e.t.Helper()
	e.view(func(tx latchkey.EngineTx) (err error) {
		n, err = tx.SequenceOf("t", []byte(key))
		return err
	})
	return n
}

func (e engine) last() uint64 {
	e.t.Helper()
	var n uint64
	e.reach("Commit", func() (err error) {
		n, _, err = e.Commit(e.t.Context())
		return err
	})
	return n
}

func (e engine) health() error {
	return e.Engine.(latchkey.EngineHealther).EngineHealth(e.t.Context())
}

// healthy waits until nothing is wrong with the engine. On a busy machine, etcd can seem to be out
// of reach for a moment.
func (e engine) healthy() {
	e.t.Helper()
	until(e.t, "nothing is wrong", func() bool { return e.health() == nil })
}

func (e engine) fresh() bool { return e.Engine.(latchkey.EngineWatcher).Fresh() }

// restored returns how often the engine has noticed a restoration of which it was not told that the
// store has another replica ID.
func (e engine) restored() uint64 { return e.Engine.(latchkey.RestoreWatcher).Restored() }

// renew tells the engine that the store has another replica ID.
func (e engine) renew() { e.Engine.(latchkey.RestoreWatcher).Renewed(e.restored()) }

// follower has what an engine passes to its store.
type follower struct {
	mu      sync.Mutex
	changes []latchkey.TrackedChange
	all     int // how often anything may have changed
}

// follow must be called before the first transaction.
func (e engine) follow() *follower {
	f := &follower{}
	e.Engine.(latchkey.EngineWatcher).Watch(func(changes []latchkey.TrackedChange) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if changes == nil {
			f.all++ // once at the beginning
		}
		f.changes = append(f.changes, changes...)
	})
	return f
}

// has reports whether an entry was passed to the store.
func (f *follower) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.changes, func(c latchkey.TrackedChange) bool { return string(c.Key) == key })
}

// lost returns how often anything may have changed, other than at the beginning.
func (f *follower) lost() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all - 1
}

// until waits until done reports true. The timeout of go test bounds the wait.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for begun := time.Now(); !done(); {
		if time.Since(begun) > time.Minute {
			t.Fatalf("waited a minute until %s", what)
		}
		runtime.Gosched()
	}
}

// keys returns the keys of the test's table.
func (e engine) keys() string {
	e.t.Helper()
	var keys []string
	e.view(func(tx latchkey.EngineTx) error {
		keys = nil
		for entry, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			keys = append(keys, string(entry.Key))
		}
		return nil
	})
	return strings.Join(keys, " ")
}

// number returns the number that the entry has.
func number(tx latchkey.EngineTx, key string) (n int, err error) {
	v, err := tx.Get("t", []byte(key))
	return len(v), err
}

// add adds one to the number that the entry has.
func add(tx latchkey.EngineTx, key string) error {
	v, err := tx.Get("t", []byte(key))
	if err != nil {
		return err
	}
	return tx.Put("t", []byte(key), append(v, '.'))
}

// result is the error of a call in another goroutine.
func result(call func() error) <-chan error {
	r := make(chan error, 1)
	go func() { r <- call() }()
	return r
}

// serve serves the questions about a member's state, and what register registers.
func serve(t testing.TB, s pb.MaintenanceServer, register ...func(s *grpc.Server)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterMaintenanceServer(server, s)
	for _, r := range register {
		r(server)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}
