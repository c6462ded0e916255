package etcd_test

import (
	"net"
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
	requests bool // new connections hold back the requests
	answers  bool // new connections hold back the answers
	conns    []*conn
}

type conn struct {
	client, server net.Conn
	requests       bool
	answers        bool
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
			server, err := net.Dial("tcp", l.target)
			if err != nil {
				client.Close()
				continue
			}
			l.mu.Lock()
			c := &conn{client: client, server: server, requests: l.requests, answers: l.answers}
			l.conns = append(l.conns, c)
			l.mu.Unlock()
			pumps.Go(func() { l.pump(server, client, &c.requests) })
			pumps.Go(func() {
				l.pump(client, server, &c.answers)
				client.Close()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.hold(false, false)
		l.cut()
		l.mu.Lock()
		for _, c := range l.conns {
			c.server.Close()
		}
		l.mu.Unlock()
		pumps.Wait()
	})
	return l
}

// pump copies while held is false.
func (l *link) pump(to, from net.Conn, held *bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		for *held {
			l.changed.Wait()
		}
		l.mu.Unlock()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// hold holds back requests and answers, or passes them on.
func (l *link) hold(requests, answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests, l.answers = requests, answers
	for _, c := range l.conns {
		c.requests, c.answers = requests, answers
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
