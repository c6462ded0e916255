package etcd_test

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
)

// link is the way from a client to a member. A test can hold back what passes there, and cut the
// connections.
type link struct {
	address string // for the client
	target  string

	mu       sync.Mutex
	changed  *sync.Cond
	down     bool // new connections are closed at once
	requests bool // new connections hold back the requests
	answers  bool // new connections hold back the answers
	conns    []*conn
}

// conn is a connection of a client, and the connection to the member that belongs to it.
type conn struct {
	client, server    net.Conn
	requests, answers way
}

// way is one direction of a connection.
type way struct {
	held    bool
	pending []byte // what was read and not written yet
	ended   bool   // nothing more is read
}

func newLink(t testing.TB, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{address: listener.Addr().String(), target: target}
	l.changed = sync.NewCond(&l.mu)
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			down := l.down
			l.mu.Unlock()
			if down {
				client.Close()
				continue
			}
			server, err := net.Dial("tcp", l.target)
			if err != nil {
				client.Close()
				continue
			}
			l.mu.Lock()
			c := &conn{client: client, server: server, requests: way{held: l.requests}, answers: way{held: l.answers}}
			l.conns = append(l.conns, c)
			l.mu.Unlock()
			pumps.Go(func() { l.read(client, &c.requests) })
			pumps.Go(func() { l.write(server, &c.requests) })
			pumps.Go(func() { l.read(server, &c.answers) })
			pumps.Go(func() {
				l.write(client, &c.answers)
				client.Close()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.setDown(true)
		l.hold(false, false)
		pumps.Wait()
	})
	return l
}

// read reads until the connection ends.
func (l *link) read(from net.Conn, w *way) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		w.pending = append(w.pending, buffer[:n]...)
		w.ended = err != nil
		l.changed.Broadcast()
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// write writes what was read, unless it is held back.
func (l *link) write(to net.Conn, w *way) {
	for {
		l.mu.Lock()
		for w.held || len(w.pending) == 0 && !w.ended {
			l.changed.Wait()
		}
		next := w.pending
		w.pending = nil
		l.mu.Unlock()
		if len(next) == 0 {
			return
		}
		if _, err := to.Write(next); err != nil {
			return
		}
	}
}

// holds reports whether a request that is held back contains a text.
func (l *link) holds(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.conns, func(c *conn) bool { return bytes.Contains(c.requests.pending, []byte(text)) })
}

// hold holds back requests and answers, or passes them on.
func (l *link) hold(requests, answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests, l.answers = requests, answers
	for _, c := range l.conns {
		c.requests.held, c.answers.held = requests, answers
	}
	l.changed.Broadcast()
}

// cut closes the connections of the client. The servers keep theirs, with the requests that are
// held back, until the end of the test. New connections hold nothing back.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests, l.answers = false, false
	for _, c := range l.conns {
		c.client.Close()
	}
}

// setDown closes all connections, and lets nobody connect until it is called again.
func (l *link) setDown(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for _, c := range l.conns {
		c.client.Close()
		c.server.Close()
	}
}
