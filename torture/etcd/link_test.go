package etcd_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A wire is the network between two nodes, or between clients and a node. Connections of any number
// run over it. A wire can fail in the ways of networks.
type wire struct {
	mu      sync.Mutex
	state   wireState
	changed chan struct{} // closed when state changes
	conns   map[net.Conn]bool
}

// wireState is how a wire treats connections.
type wireState int

const (
	wireOpen wireState = iota
	wireSlow           // each piece waits a while
	wireMute           // connections stay open, and nothing arrives until the wire is open again
	wireCut            // connections end at once
)

// slowness is how long each piece waits on a slow wire.
const slowness = 10 * time.Millisecond

func newWire() *wire { return &wire{changed: make(chan struct{}), conns: map[net.Conn]bool{}} }

// set changes the state of the wire.
func (w *wire) set(s wireState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	close(w.changed)
	w.changed = make(chan struct{})
	if s == wireCut {
		w.drop()
	}
}

// drop ends all connections. The caller holds w.mu.
func (w *wire) drop() {
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}

// now returns the state, and a channel that is closed when the state changes.
func (w *wire) now() (wireState, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.changed
}

var errCut = errors.New("the wire is cut")

// pass waits until a piece may go on.
func (w *wire) pass() error {
	for {
		state, changed := w.now()
		switch state {
		case wireOpen:
			return nil
		case wireSlow:
			select {
			case <-time.After(slowness):
				return nil
			case <-changed:
			}
		case wireMute:
			<-changed
		case wireCut:
			return errCut
		}
	}
}

// connect adds connections, unless the wire is cut.
func (w *wire) connect(conns ...net.Conn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == wireCut {
		return errCut
	}
	for _, c := range conns {
		w.conns[c] = true
	}
	return nil
}

func (w *wire) end(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(w.conns, c)
	}
}

// A link is a port from which bytes go on to a node, which can have another port after each start.
type link struct {
	listener net.Listener
	// wireOf returns the wire of a connection, by the ID of the node that it comes from, or by "".
	wireOf func(from string) *wire
	peers  bool // whether connections come from nodes, and so begin with the head of a request

	mu     sync.Mutex
	target string // the address of the node, or "" while it is dead
}

// newLink returns a link from clients to a node. All connections use the same wire.
func newLink(w *wire) (*link, error) {
	return serveLink(&link{wireOf: func(string) *wire { return w }})
}

// newPeerLink returns a link from nodes to a node. wireOf returns the wire from the node with an
// ID, which is in hexadecimal, or empty if the node did not tell the ID.
func newPeerLink(wireOf func(from string) *wire) (*link, error) {
	return serveLink(&link{wireOf: wireOf, peers: true})
}

func serveLink(k *link) (_ *link, err error) {
	if k.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go k.serve()
	return k, nil
}

func (k *link) url() string     { return "http://" + k.address() }
func (k *link) address() string { return k.listener.Addr().String() }
func (k *link) close()          { _ = k.listener.Close() }

// lead makes new connections lead to another address.
func (k *link) lead(target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.target = target
}

func (k *link) serve() {
	for {
		from, err := k.listener.Accept()
		if err != nil {
			return // the test is over
		}
		go k.connect(from)
	}
}

// connect connects from with the node, and carries bytes until one of them ends.
func (k *link) connect(from net.Conn) {
	in := bufio.NewReaderSize(from, 32<<10)
	var head []byte
	id := ""
	if k.peers {
		var err error
		if head, id, err = readHead(in); err != nil {
			_ = from.Close()
			return
		}
	}
	w := k.wireOf(id)
	k.mu.Lock()
	target := k.target
	k.mu.Unlock()
	to, err := net.Dial("tcp", target)
	if err != nil {
		_ = from.Close()
		return
	}
	if err := w.connect(from, to); err != nil {
		_, _ = from.Close(), to.Close()
		return
	}
	go carry(w, from, to, to)
	carry(w, to, io.MultiReader(bytes.NewReader(head), in), from)
}

// readHead reads the head of a request, and the ID of the node that has sent it. Requests that have
// nothing to do with Raft, such as probes, have no ID. After such a request, a connection could go
// on with Raft messages, so readHead adds to the head that the connection ends with the answer.
func readHead(in *bufio.Reader) (head []byte, id string, err error) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return nil, "", err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("X-Server-From: ")); ok {
			id = string(bytes.TrimSpace(value))
		}
		head = append(head, line...)
	}
	if id == "" {
		head = append(head, "Connection: close\r\n"...)
	}
	return append(head, "\r\n"...), id, nil
}

// carry carries what it reads from in to a connection, until one side ends.
func carry(w *wire, to net.Conn, in io.Reader, from net.Conn) {
	defer w.end(from, to)
	piece := make([]byte, 32<<10)
	for {
		n, err := in.Read(piece)
		if err != nil || w.pass() != nil {
			return
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}
