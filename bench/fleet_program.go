package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/replica"
)

func init() {
	programs["hub"] = func() program { return &hubProgram{} }
	programs["edges"] = func() program { return newEdgesProgram() }
	programs["copy"] = func() program { return copyProgram{} }
}

// An order says what a program has to do.
type order struct {
	Do          string    `json:"do"`
	Path        string    `json:"path,omitempty"`
	Certificate string    `json:"certificate,omitempty"` // the path of a PEM file
	Address     string    `json:"address,omitempty"`
	Invitations []string  `json:"invitations,omitempty"`
	N           int       `json:"n,omitempty"`
	ID          uuid.UUID `json:"id,omitzero"`
	Tokens      []string  `json:"tokens,omitempty"`
}

// An answer is what came of an order.
type answer struct {
	Err         string          `json:"err,omitempty"`
	Address     string          `json:"address,omitempty"`
	Invitations []string        `json:"invitations,omitempty"`
	IDs         []uuid.UUID     `json:"ids,omitempty"`
	Tokens      []string        `json:"tokens,omitempty"`
	Time        time.Time       `json:"time,omitzero"`
	Took        time.Duration   `json:"took,omitempty"`
	N           int             `json:"n,omitempty"`
	Times       []time.Duration `json:"times,omitempty"`

	// In bytes, after a collection. Memory is without pages of files, Resident with them, and Most
	// the most that Memory was, before a collection.
	Memory   int64 `json:"memory,omitempty"`
	Resident int64 `json:"resident,omitempty"`
	Most     int64 `json:"most,omitempty"`
}

// A hubProgram is a hub over TLS, which also has a path where net/http alone keeps a stream open.
type hubProgram struct {
	store  *latchkey.Store
	hub    *replica.Hub
	server *http.Server
}

// idlePath is the path of streams that have nothing but net/http.
const idlePath = "/idle"

func (p *hubProgram) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "open":
		a.Address, err = p.open(o)
	case "close":
		err = errors.Join(p.store.Close(), p.server.Close())
	case "invite":
		a.Invitations, err = p.invite(ctx, o.N)
	case "keys":
		a.IDs, a.Tokens, err = p.keys(ctx, o.N)
	case "disable":
		a.Time = time.Now()
		err = p.store.DisableKey(ctx, latchkey.ServerOwner, o.ID)
		a.Took = time.Since(a.Time)
	case "change":
		err = p.store.SetMetadata(ctx, latchkey.ServerOwner, o.ID, map[string]string{"room": fmt.Sprint(o.N)})
	case "memory":
		a.Memory, err = memory()
	default:
		err = errors.New("unknown order")
	}
	return a, err
}

func (p *hubProgram) open(o order) (address string, err error) {
	pair, err := tls.LoadX509KeyPair(o.Certificate, o.Certificate)
	if err != nil {
		return "", err
	}
	if p.store, err = latchkey.Open(o.Path, &latchkey.Options{Cost: latchkey.LightCost}); err != nil {
		return "", err
	}
	p.hub = replica.NewHub(p.store, &replica.HubOptions{Certificate: pair.Leaf})
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.Handle("/", p.hub)
	mux.HandleFunc(idlePath, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	p.server = &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	go func() { _ = p.server.ServeTLS(l, "", "") }() // until the server is closed
	return l.Addr().String(), nil
}

// allGroups is the policy of all edges.
var allGroups = replica.Policy{Groups: []string{"*"}, Push: replica.PushNothing}

// invite makes invitations. Many goroutines make them, because they share the syncs.
func (p *hubProgram) invite(ctx context.Context, n int) ([]string, error) {
	all := make([]string, n)
	return all, inParallel(n, 64, func(i int) (err error) {
		all[i], err = p.hub.Invite(ctx, allGroups)
		return err
	})
}

func (p *hubProgram) keys(ctx context.Context, n int) (ids []uuid.UUID, tokens []string, err error) {
	minted, tokens, err := p.store.MintKeys(ctx, n, nil)
	if err != nil {
		return nil, nil, err
	}
	err = p.store.Update(ctx, func(tx *latchkey.Tx) error {
		for _, m := range minted {
			key, err := tx.InsertServerKey(latchkey.KeySpec{Name: "device-" + m.ID().String()}, m)
			if err != nil {
				return err
			}
			ids = append(ids, key.ID)
		}
		return nil
	})
	return ids, tokens, err
}

// memory returns the memory of the process that is no page of a file, after a collection.
func memory() (int64, error) {
	runtime.GC()
	debug.FreeOSMemory()
	r, err := readResident()
	return r.Anon, err
}

// inParallel calls fn for each number below n, from some goroutines.
func inParallel(n, goroutines int, fn func(i int) error) error {
	numbers := make(chan int)
	go func() {
		defer close(numbers)
		for i := range n {
			numbers <- i
		}
	}()
	errs := make([]error, min(n, goroutines))
	var all sync.WaitGroup
	for g := range errs {
		all.Go(func() {
			for i := range numbers {
				if errs[g] == nil {
					errs[g] = fn(i)
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// An edgesProgram is thousands of edges that keep in memory how far they have come, and no records.
// They speak as real edges do, and read the stream as real edges read it.
type edgesProgram struct {
	address string
	edges   []*thinEdge

	mu       sync.Mutex // guards the fields below
	changed  *sync.Cond
	received int       // records, by all edges
	wanted   int       // how many somebody waits for
	last     time.Time // when the last of them came
	lost     error     // why a stream has ended, or nil
}

type thinEdge struct {
	token    string
	instance uuid.UUID
	cursor   replication.Cursor
	policy   uint64
	conn     net.Conn
}

func newEdgesProgram() *edgesProgram {
	p := &edgesProgram{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *edgesProgram) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "join":
		err = p.join(ctx, o)
	case "connect":
		a, err = p.connect()
	case "idle":
		a, err = p.idle(o)
	case "disconnect":
		for _, e := range p.edges {
			_ = e.conn.Close()
		}
	case "received": // waits until all edges together have received so many records since "forget"
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wanted = o.N
		for p.received < o.N && p.lost == nil {
			p.changed.Wait()
		}
		a.N, a.Time, err = p.received, p.last, p.lost
	case "forget":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.received, p.lost = 0, nil
	default:
		err = errors.New("unknown order")
	}
	return a, err
}

// insecure lets an edge speak to any hub. Real edges compare the key with the invitation instead.
var insecure = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}

// join exchanges invitations for tokens.
func (p *edgesProgram) join(ctx context.Context, o order) error {
	p.address = o.Address
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: insecure, MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	first := len(p.edges)
	p.edges = append(p.edges, make([]*thinEdge, len(o.Invitations))...)
	return inParallel(len(o.Invitations), 64, func(i int) error {
		token, err := exchange(ctx, client, "https://"+o.Address, o.Invitations[i], fmt.Sprintf("edge %d", first+i))
		p.edges[first+i] = &thinEdge{token: token, instance: uuid.New()}
		return err
	})
}

// exchange exchanges an invitation for the token of an edge.
func exchange(ctx context.Context, client *http.Client, hub, invitation, name string) (token string, err error) {
	_, text, _ := strings.Cut(invitation, "_")
	secret, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, 32)
	rand.Read(nonce)
	body, err := json.Marshal(map[string]any{"secret": secret[:32], "nonce": nonce, "name": name, "build": "bench"})
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hub+"/latchkey/v1/join", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	reply, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	var joined struct{ Token, Code string }
	if err := json.NewDecoder(reply.Body).Decode(&joined); err != nil {
		return "", err
	}
	if joined.Token == "" {
		err = fmt.Errorf("join: %s, %s", reply.Status, joined.Code)
	}
	return joined.Token, err
}

// connect connects all edges at once, and waits until each has everything. N is how many attempts
// were in vain. Real edges pause in the same way before they try again.
func (p *edgesProgram) connect() (a answer, err error) {
	if err := p.copyOnce(); err != nil {
		return a, err
	}
	start := time.Now()
	served := make(chan error, len(p.edges))
	var again atomic.Int64
	for _, e := range p.edges {
		go func() {
			for pause := time.Second; ; pause = min(2*pause, time.Minute) {
				messages, err := e.connect(p.address)
				if err == nil {
					served <- nil
					p.follow(e, messages)
					return
				}
				if time.Since(start) > 5*time.Minute {
					served <- err
					return
				}
				again.Add(1)
				<-time.After(mathrand.N(pause))
			}
		}()
	}
	for range p.edges {
		err = errors.Join(err, <-served)
	}
	a.Took, a.N = time.Since(start), int(again.Load())
	return a, err
}

// copyOnce lets one edge make a first copy, and all others go on from there. Nothing here measures
// thousands of first copies.
func (p *edgesProgram) copyOnce() error {
	if len(p.edges) == 0 || p.edges[0].cursor.Incarnation != uuid.Nil {
		return nil
	}
	if _, err := p.edges[0].connect(p.address); err != nil {
		return err
	}
	for _, e := range p.edges[1:] {
		e.cursor, e.policy = p.edges[0].cursor, p.edges[0].policy
	}
	return p.edges[0].conn.Close()
}

// follow counts what an edge receives until the stream ends.
func (p *edgesProgram) follow(e *thinEdge, messages *bufio.Reader) {
	for {
		m, err := replication.ReadMessage(messages)
		_, isRecord := m.(replication.Record)
		if isRecord || err != nil {
			p.count(err)
		}
		if err != nil {
			return
		}
		e.note(m)
	}
}

// count counts a record, or notes why a stream has ended.
func (p *edgesProgram) count(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.received, p.last = p.received+1, time.Now()
	case !errors.Is(err, net.ErrClosed):
		p.lost = err
	}
	if p.received >= p.wanted || p.lost != nil {
		p.changed.Broadcast()
	}
}

// note keeps what an edge has to know of a message.
func (e *thinEdge) note(m replication.Message) {
	switch m := m.(type) {
	case replication.Welcome:
		e.policy = m.Policy.Version
	case replication.Mark:
		e.cursor = m.At
	}
}

// connect opens the stream of an edge, and reads until the edge has everything.
func (e *thinEdge) connect(address string) (messages *bufio.Reader, err error) {
	if e.conn, err = tls.Dial("tcp", address, insecure); err != nil {
		return nil, err
	}
	in := bufio.NewReader(e.conn)
	for {
		hello := replication.Hello{
			Formats: []uint64{replication.Format}, Build: "bench", Instance: e.instance, Replica: e.instance,
			Cursor: e.cursor, Policy: e.policy, Follow: true,
		}
		body, err := e.ask(in, address, "/latchkey/v1/pull", hello.Encode())
		if err != nil {
			_ = e.conn.Close()
			return nil, err
		}
		messages := bufio.NewReaderSize(body, 512)
		done, err := e.catchUp(messages)
		if done {
			return messages, nil
		}
		if err != nil {
			_ = e.conn.Close()
			return nil, err
		}
	}
}

// catchUp reads a stream until the edge has everything. It reports false at the end of the stream,
// because a stream with a first copy ends when the copy is whole.
func (e *thinEdge) catchUp(messages *bufio.Reader) (done bool, err error) {
	follows := false
	for {
		m, err := replication.ReadMessage(messages)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		switch m := m.(type) {
		case replication.Welcome:
			follows = m.How == replication.Resume
		case replication.Beat:
			if follows {
				return true, nil
			}
		}
		e.note(m)
	}
}

// ask sends a request over the edge's connection, and returns the body of the answer.
func (e *thinEdge) ask(in *bufio.Reader, address, path string, body []byte) (io.Reader, error) {
	r, err := http.NewRequest(http.MethodPost, "https://"+address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/vnd.latchkey.replication")
	r.Header.Set("Authorization", "Bearer "+e.token)
	out := bufio.NewWriter(e.conn)
	if err := r.Write(out); err != nil {
		return nil, err
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	reply, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, err
	}
	if reply.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(reply.Body)
		return nil, fmt.Errorf("%s: %s: %s", path, reply.Status, text)
	}
	return reply.Body, nil
}

// idle opens streams that have nothing but net/http, and keeps them open until "disconnect".
func (p *edgesProgram) idle(o order) (a answer, err error) {
	p.edges = make([]*thinEdge, o.N)
	return a, inParallel(o.N, 64, func(i int) (err error) {
		e := &thinEdge{token: "none"}
		p.edges[i] = e
		if e.conn, err = tls.Dial("tcp", o.Address, insecure); err != nil {
			return err
		}
		_, err = e.ask(bufio.NewReader(e.conn), o.Address, idlePath, []byte("hello"))
		return err
	})
}

// A copyProgram joins a hub, and so makes a first copy.
type copyProgram struct{}

func (copyProgram) do(ctx context.Context, o order) (a answer, err error) {
	before, err := memory()
	if err != nil {
		return a, err
	}
	most := watchMemory()
	start := time.Now()
	e, err := replica.Join(ctx, "https://"+o.Address, o.Invitations[0], o.Path, nil)
	a.Took = time.Since(start)
	a.Memory = most() - before
	if err != nil {
		return a, err
	}
	stats, err := e.Store().Stats(ctx)
	a.N = int(stats.Keys + stats.Users)
	return a, errors.Join(err, e.Close())
}

// watchMemory reads the memory of the process a hundred times a second, until the function that it
// returns is called, which returns the most.
func watchMemory() (end func() int64) {
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(10 * time.Millisecond)
		defer ticks.Stop()
		for {
			if r, err := readResident(); err == nil {
				most.Store(max(most.Load(), r.Anon))
			}
			select {
			case <-ticks.C:
			case <-done:
				return
			}
		}
	}()
	return func() int64 { close(done); <-ended; return most.Load() }
}

// writeCertificate writes a new key and its certificate to a file.
func writeCertificate(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), 0o600)
}
