package replicas_test

import (
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// A link is the network between an edge and the hub: a port that the edge connects to, and from
// which bytes go on to the hub. A link can fail in the ways of networks.
type link struct {
	listener net.Listener

	mu    sync.Mutex
	hub   string // the address of the hub
	state linkState
	conns map[net.Conn]bool // of both sides
	rand  *rand.Rand
}

// linkState is how a link treats connections.
type linkState int

const (
	linkOpen  linkState = iota
	linkSlow            // each piece waits a while, and each connection ends after some pieces
	linkMute            // connections stay open, and nothing arrives
	linkLossy           // a piece is lost now and then, so that what comes after it is garbage
	linkCut             // connections end at once
	linkStates
)

func newLink(seed uint64) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, conns: map[net.Conn]bool{}, rand: rand.New(rand.NewPCG(seed, 1))}
	go k.serve()
	return k, nil
}

func (k *link) address() string { return k.listener.Addr().String() }

// set changes the state of the link. All connections that there are end, as if the edge had come to
// another network.
func (k *link) set(s linkState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = s
	k.drop()
}

// lead makes the link lead to another address, because the hub has started again.
func (k *link) lead(hub string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hub = hub
	k.drop()
}

// drop ends all connections. The caller holds k.mu.
func (k *link) drop() {
	for c := range k.conns {
		_ = c.Close()
	}
	clear(k.conns)
}

func (k *link) close() {
	_ = k.listener.Close()
	k.set(linkCut)
}

func (k *link) serve() {
	for {
		edge, err := k.listener.Accept()
		if err != nil {
			return // the test is over
		}
		go k.connect(edge)
	}
}

// connect connects an edge with the hub, and carries bytes until one of them ends.
func (k *link) connect(edge net.Conn) {
	k.mu.Lock()
	address, state := k.hub, k.state
	k.conns[edge] = true
	k.mu.Unlock()
	if state == linkCut || address == "" {
		k.end(edge)
		return
	}
	hub, err := net.Dial("tcp", address)
	if err != nil {
		k.end(edge)
		return
	}
	k.mu.Lock()
	if k.state != state || k.hub != address {
		k.mu.Unlock()
		k.end(edge, hub)
		return
	}
	k.conns[hub] = true
	k.mu.Unlock()
	go k.carry(edge, hub, state)
	k.carry(hub, edge, state)
}

func (k *link) carry(from, to net.Conn, state linkState) {
	defer k.end(from, to)
	piece := make([]byte, 4<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		switch state {
		case linkMute:
			continue
		case linkLossy:
			if k.chance(8) {
				continue
			}
		case linkSlow:
			if k.chance(12) {
				return
			}
			<-time.After(time.Duration(k.number(20)) * time.Millisecond)
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

func (k *link) chance(in int) bool { return k.number(in) == 0 }

func (k *link) number(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rand.IntN(n)
}

func (k *link) end(conns ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(k.conns, c)
	}
}
