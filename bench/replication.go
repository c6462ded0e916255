package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/replica"
)

// Edge compares a cached login at an edge that follows its hub with one in a store without
// replicas.
var Edge = Group{
	Name:  "edge",
	Title: "Does a cached login cost more at an edge?",
	Open: func(e *Env) ([]Case, error) {
		var cases []Case
		f, err := e.openFleet(1)
		if err != nil {
			return nil, err
		}
		if err := f.addReal(1, f.address); err != nil {
			return nil, err
		}
		keys, err := f.hub.do(order{Do: "keys", N: 1})
		if err != nil {
			return nil, err
		}
		alone, err := e.openNew()
		if err != nil {
			return nil, err
		}
		tokens, err := addServerKeys(alone, 1)
		if err != nil {
			return nil, err
		}
		cases = append(cases, Case{Name: "alone", Body: logins(alone, tokens), NoAllocs: true})
		if err := f.real[0].arrived(keys.Tokens[0]); err != nil {
			return nil, err
		}
		return append(cases, Case{
			Name: "edge", Body: logins(f.real[0].Store(), keys.Tokens), NoAllocs: true,
			Ratios: []Ratio{{To: "alone", Max: 1.03}},
		}), nil
	},
}

// Replication measures a hub with many edges. Edges that only have to be there keep nothing but
// their cursor. Ten real edges are the ones that are measured. The hub, the many edges and the real
// edges are three processes, which share the processors.
var Replication = Group{
	Name:   "replication",
	Title:  "What do a hub and its edges cost?",
	Time:   time.Millisecond, // each measurement runs once in a round
	Rounds: 3,
	Open: func(e *Env) ([]Case, error) {
		streams, keys := e.replicationSizes()
		f, err := e.openFleet(streams)
		if err != nil {
			return nil, err
		}
		if err := f.addReal(realEdges, f.address); err != nil {
			return nil, err
		}
		if _, err := f.edges.do(order{Do: "connect"}); err != nil {
			return nil, err
		}
		many := "/streams=" + sizeName(streams)
		revocation := shared(f.revocations)
		reconnect := shared(f.reconnect)
		copied := shared(func() (map[string]float64, error) { return e.firstCopy(keys) })
		return []Case{
			{Name: "revocation" + many + "/median", Unit: "median-ns", Max: 100e6, Body: revocation()},
			{Name: "revocation" + many + "/p99", Unit: "p99-ns", Max: 1e9, Body: revocation()},
			{Name: "reconnect" + many, Unit: "last-ns", Max: 60e9, Body: reconnect()},
			{Name: "hub-memory" + many, Unit: "KiB/stream", Max: 80, Body: reconnect()},
			{Name: "first-copy/keys=" + sizeName(keys), Unit: "µs/record", Max: 10, Body: copied()},
			{Name: "first-copy/memory/keys=" + sizeName(keys), Unit: "MiB", Max: 64, Body: copied()},
			{Name: "wire/changes=1000", Unit: "KB/day", Max: 1000, Body: single(func() (map[string]float64, error) { return e.changesOnTheWire(streams) })},
			{Name: "wire/idle", Unit: "KB/day", Max: 200, Body: single(func() (map[string]float64, error) { return e.idleOnTheWire(streams) })},
		}, nil
	},
}

// replicationSizes returns how many streams a hub has, and how many keys a first copy.
func (e *Env) replicationSizes() (streams, keys int) {
	switch largest := e.Sizes[len(e.Sizes)-1]; {
	case largest >= 5_000_000:
		return 10_000, 1_000_000
	case largest >= 100_000:
		return 1_000, 100_000
	default:
		return 20, largest
	}
}

// realEdges is how many real edges there are.
const realEdges = 10

// shared returns a function that makes the bodies of cases which share a measurement. A
// measurement serves each of the bodies once.
func shared(measure func() (map[string]float64, error)) func() func(*testing.B) error {
	var left []map[string]float64 // results that a body has not reported, by body
	return func() func(*testing.B) error {
		i := len(left)
		left = append(left, nil)
		return single(func() (map[string]float64, error) {
			if left[i] == nil {
				result, err := measure()
				if err != nil {
					return nil, err
				}
				for j := range left {
					left[j] = result
				}
			}
			result := left[i]
			left[i] = nil
			return result, nil
		})
	}
}

// single returns a body that measures once, and reports everything that measure returns.
func single(measure func() (map[string]float64, error)) func(*testing.B) error {
	return func(b *testing.B) error {
		result, err := measure()
		for unit, value := range result {
			b.ReportMetric(value, unit)
		}
		return err
	}
}

// fewStreams is the least number of streams in a run whose figures mean something. A test that only
// runs everything has fewer, and does not wait for what takes long.
const fewStreams = 1_000

func (f *fleet) isTiny() bool { return f.streams < fewStreams }

// A fleet is a hub with its edges.
type fleet struct {
	env     *Env
	open    order // of the hub
	hub     *process
	edges   *process // the many
	streams int
	address string
	real    []*realEdge
}

// A realEdge is an edge with a file.
type realEdge struct {
	*replica.Edge
	unfollow func() error
}

// openFleet starts a hub, and edges that have joined it.
func (e *Env) openFleet(streams int) (*fleet, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	f := &fleet{env: e, streams: streams, open: order{
		Do: "open", Path: filepath.Join(dir, "hub.db"), Certificate: filepath.Join(dir, "hub.pem"), Address: "127.0.0.1:0",
	}}
	if err := writeCertificate(f.open.Certificate); err != nil {
		return nil, err
	}
	if err := f.startHub(); err != nil {
		return nil, err
	}
	if f.edges, err = e.startProgram("edges"); err != nil {
		return nil, err
	}
	invited, err := f.hub.do(order{Do: "invite", N: streams})
	if err != nil {
		return nil, err
	}
	_, err = f.edges.do(order{Do: "join", Address: f.address, Invitations: invited.Invitations})
	return f, err
}

// startHub starts the hub, at the same address if it ran before.
func (f *fleet) startHub() (err error) {
	if f.hub, err = f.env.startProgram("hub"); err != nil {
		return err
	}
	opened, err := f.hub.do(f.open)
	f.open.Address, f.address = opened.Address, opened.Address
	return err
}

// addReal lets real edges join, and follow the hub. They find it at an address.
func (f *fleet) addReal(n int, address string) error {
	invited, err := f.hub.do(order{Do: "invite", N: n})
	if err != nil {
		return err
	}
	dir, err := f.env.tempDir()
	if err != nil {
		return err
	}
	for i, invitation := range invited.Invitations {
		edge, err := replica.Join(context.Background(), "https://"+address, invitation, filepath.Join(dir, fmt.Sprintf("edge%d.db", i)), &replica.Options{
			Store: latchkey.Options{Cost: latchkey.LightCost},
		})
		if err != nil {
			return err
		}
		r := &realEdge{Edge: edge}
		f.env.onClose(func() error { _ = r.unfollow(); return r.Close() })
		f.real = append(f.real, r)
		r.follow()
		if err := r.connected(); err != nil {
			return err
		}
	}
	return nil
}

// follow makes the edge follow its hub, without the pause that it may be in.
func (r *realEdge) follow() {
	if r.unfollow != nil {
		_ = r.unfollow()
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Follow(ctx) }()
	r.unfollow = func() error { end(); return <-ended }
}

// errSlow means that something did not happen at all.
var errSlow = errors.New("waited five minutes in vain")

// waitUntil waits until something holds. Nothing is measured meanwhile.
func waitUntil(holds func() bool) error {
	for start := time.Now(); !holds(); {
		if time.Since(start) > 5*time.Minute {
			return errSlow
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil
}

func (r *realEdge) connected() error { return waitUntil(func() bool { return r.Status().Connected }) }

// arrived waits until a token is good.
func (r *realEdge) arrived(token string) error {
	return waitUntil(func() bool { return login(r.Store(), token) == nil })
}

// revocations revokes keys at the hub, one after the other, and measures how long it takes until
// the real edges refuse them. The time begins before the call at the hub. The next revocation waits
// until all edges have heard of the last one.
func (f *fleet) revocations() (map[string]float64, error) {
	if _, err := f.edges.do(order{Do: "forget"}); err != nil {
		return nil, err
	}
	n, pause := 30, 200*time.Millisecond
	if f.isTiny() {
		n, pause = 3, 0
	}
	keys, err := f.hub.do(order{Do: "keys", N: n})
	if err != nil {
		return nil, err
	}
	for _, token := range keys.Tokens { // the edges remember the keys
		for _, r := range f.real {
			if err := r.arrived(token); err != nil {
				return nil, err
			}
		}
	}
	received := n * f.streams
	if _, err := f.edges.do(order{Do: "received", N: received}); err != nil {
		return nil, err
	}
	times, all, calls := newHistogram(), newHistogram(), newHistogram()
	for i, token := range keys.Tokens {
		<-time.After(pause)
		refused := make(chan time.Time, len(f.real))
		errs := make(chan error, len(f.real))
		for _, r := range f.real {
			before := sequenceOf(r.Store())
			go func() { errs <- whenRefused(r.Store(), token, before, refused) }()
		}
		revoked, err := f.hub.do(order{Do: "disable", ID: keys.IDs[i]})
		if err != nil {
			return nil, err
		}
		for range f.real {
			if err := <-errs; err != nil {
				return nil, err
			}
			record(times, (<-refused).Sub(revoked.Time))
		}
		received += f.streams
		last, err := f.edges.do(order{Do: "received", N: received})
		if err != nil {
			return nil, err
		}
		record(all, last.Time.Sub(revoked.Time))
		record(calls, revoked.Took)
	}
	return map[string]float64{
		"median-ns":      float64(times.ValueAtPercentile(50)),
		"p99-ns":         float64(times.ValueAtPercentile(99)),
		"last-stream-ns": float64(all.ValueAtPercentile(50)),
		"call-ns":        float64(calls.ValueAtPercentile(50)),
	}, nil
}

// sequenceOf returns the last commit of a store, or 0 if the store cannot be read.
func sequenceOf(s *latchkey.Store) (n uint64) {
	_ = s.View(context.Background(), func(tx *latchkey.Tx) error { n = tx.Sequence(); return nil })
	return n
}

// whenRefused logs in after each commit behind a sequence, until a token is refused as disabled. It
// sends the time when it was.
func whenRefused(s *latchkey.Store, token string, after uint64, when chan<- time.Time) error {
	ctx, end := context.WithTimeout(context.Background(), 5*time.Minute)
	defer end()
	for {
		if err := s.Wait(ctx, after); err != nil {
			return err
		}
		err := login(s, token)
		now := time.Now()
		if errors.Is(err, latchkey.ErrKeyDisabled) {
			when <- now
			return nil
		}
		if err != nil {
			return err
		}
		after = sequenceOf(s)
	}
}

// reconnect ends the hub, starts it again, and lets all edges connect at once. The hub has no key
// in its cache. Then reconnect measures the memory of the hub, and that of a process that has as
// many streams with net/http alone.
func (f *fleet) reconnect() (map[string]float64, error) {
	if _, err := f.edges.do(order{Do: "disconnect"}); err != nil {
		return nil, err
	}
	if _, err := f.hub.do(order{Do: "close"}); err != nil {
		return nil, err
	}
	if err := f.hub.end(); err != nil {
		return nil, err
	}
	if err := f.startHub(); err != nil {
		return nil, err
	}
	before, err := f.hub.do(order{Do: "memory"})
	if err != nil {
		return nil, err
	}
	connected, err := f.edges.do(order{Do: "connect"})
	if err != nil {
		return nil, err
	}
	after, err := f.hub.do(order{Do: "memory"})
	if err != nil {
		return nil, err
	}
	if _, err := f.edges.do(order{Do: "forget"}); err != nil {
		return nil, err
	}
	for _, r := range f.real {
		r.follow()
		if err := r.connected(); err != nil {
			return nil, err
		}
	}
	bare, err := f.idleMemory()
	each := kib(after.Memory-before.Memory) / float64(f.streams)
	return map[string]float64{
		"last-ns": float64(connected.Took), "attempts-in-vain": float64(connected.N),
		"KiB/stream": each, "KiB-beyond-net/http": each - bare,
	}, err
}

// idleMemory returns the memory for each stream of a process that has as many as the hub, with
// net/http alone.
func (f *fleet) idleMemory() (float64, error) {
	hub, err := f.env.startProgram("hub")
	if err != nil {
		return 0, err
	}
	defer hub.end()
	dir, err := f.env.tempDir()
	if err != nil {
		return 0, err
	}
	opened, err := hub.do(order{Do: "open", Path: filepath.Join(dir, "idle.db"), Certificate: f.open.Certificate, Address: "127.0.0.1:0"})
	if err != nil {
		return 0, err
	}
	edges, err := f.env.startProgram("edges")
	if err != nil {
		return 0, err
	}
	defer edges.end()
	before, err := hub.do(order{Do: "memory"})
	if err != nil {
		return 0, err
	}
	if _, err := edges.do(order{Do: "idle", N: f.streams, Address: opened.Address}); err != nil {
		return 0, err
	}
	after, err := hub.do(order{Do: "memory"})
	return kib(after.Memory-before.Memory) / float64(f.streams), err
}

func kib(bytes int64) float64 { return float64(bytes) / (1 << 10) }

// firstCopy copies a store of many keys into an empty one, in a process of its own.
func (e *Env) firstCopy(keys int) (map[string]float64, error) {
	st, err := e.stock(keys)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(e.Dir, "run-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path, certificate := filepath.Join(dir, "hub.db"), filepath.Join(dir, "hub.pem")
	if err := errors.Join(copyFile(st.Path, path), writeCertificate(certificate)); err != nil {
		return nil, err
	}
	hub, err := e.startProgram("hub")
	if err != nil {
		return nil, err
	}
	defer hub.end()
	opened, err := hub.do(order{Do: "open", Path: path, Certificate: certificate, Address: "127.0.0.1:0"})
	if err != nil {
		return nil, err
	}
	invited, err := hub.do(order{Do: "invite", N: 1})
	if err != nil {
		return nil, err
	}
	edge, err := e.startProgram("copy")
	if err != nil {
		return nil, err
	}
	defer edge.end()
	copied, err := edge.do(order{Do: "join", Address: opened.Address, Invitations: invited.Invitations, Path: filepath.Join(dir, "edge.db")})
	if err != nil {
		return nil, err
	}
	if copied.N < keys {
		return nil, fmt.Errorf("%d records were copied, of more than %d", copied.N, keys)
	}
	return map[string]float64{
		"µs/record": float64(copied.Took.Microseconds()) / float64(copied.N),
		"records/s": float64(copied.N) / copied.Took.Seconds(),
		"MiB":       mib(copied.Memory),
	}, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// A relay is between an edge and its hub, and counts the bytes in both directions. TLS is in them.
type relay struct {
	hub      string
	hasty    bool // does not wait until nothing comes any more
	listener net.Listener
	bytes    atomic.Int64
	open     atomic.Int64 // connections
}

func (e *Env) openRelay(hub string, hasty bool) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e.onClose(l.Close)
	r := &relay{hub: hub, hasty: hasty, listener: l}
	go func() {
		for {
			edge, err := l.Accept()
			if err != nil {
				return // the listener is closed
			}
			go r.connect(edge)
		}
	}()
	return r, nil
}

func (r *relay) connect(edge net.Conn) {
	defer edge.Close()
	hub, err := net.Dial("tcp", r.hub)
	if err != nil {
		return
	}
	defer hub.Close()
	r.open.Add(1)
	defer r.open.Add(-1)
	ended := make(chan struct{}, 2)
	for _, c := range [][2]net.Conn{{edge, hub}, {hub, edge}} {
		go func() {
			_, _ = io.Copy(counter{c[0], &r.bytes}, c[1]) // until one of them ends
			ended <- struct{}{}
		}()
	}
	<-ended
}

type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Writer.Write(b)
}

// wireEdge starts a hub and a real edge that reaches it through a relay. streams is how many
// streams the other measurements have.
func (e *Env) wireEdge(streams int) (*fleet, *relay, error) {
	f, err := e.openFleet(0)
	if err != nil {
		return nil, nil, err
	}
	r, err := e.openRelay(f.address, streams < fewStreams)
	if err != nil {
		return nil, nil, err
	}
	err = f.addReal(1, r.listener.Addr().String())
	if err == nil {
		err = r.quiet()
	}
	return f, r, err
}

// quiet waits until only the stream is open, and nothing has come for a while.
func (r *relay) quiet() error {
	last, since := int64(-1), time.Now()
	return waitUntil(func() bool {
		if n := r.bytes.Load(); n != last || r.open.Load() != 1 {
			last, since = n, time.Now()
		}
		return r.hasty || time.Since(since) > 3*time.Second
	})
}

const (
	daySeconds = 24 * 60 * 60
	beatEvery  = 30 * time.Second
)

// confirmationsADay is how often an edge confirms at most in a day what has come, apart from
// revocations: ten times, and then every twenty minutes.
const confirmationsADay = 10 + 24*60/20

// changesOnTheWire measures changes that come one by one, so that none shares anything with
// another, and the confirmations, each of which has a connection of its own.
func (e *Env) changesOnTheWire(streams int) (map[string]float64, error) {
	changes := 4
	f, r, err := e.wireEdge(streams)
	if err != nil {
		return nil, err
	}
	keys, err := f.hub.do(order{Do: "keys", N: 1})
	if err == nil {
		err = f.real[0].arrived(keys.Tokens[0])
	}
	if err == nil {
		err = r.quiet()
	}
	if err != nil {
		return nil, err
	}
	var ones, confirmations []float64
	for i := range changes {
		before, seen := r.bytes.Load(), sequenceOf(f.real[0].Store())
		if _, err := f.hub.do(order{Do: "change", ID: keys.IDs[0], N: i}); err != nil {
			return nil, err
		}
		ctx, end := context.WithTimeout(context.Background(), time.Minute)
		err := f.real[0].Store().Wait(ctx, seen)
		end()
		if err != nil {
			return nil, err
		}
		one := r.bytes.Load() - before // unless the edge has begun to confirm already
		if err := r.quiet(); err != nil {
			return nil, err
		}
		ones = append(ones, float64(one))
		confirmations = append(confirmations, float64(r.bytes.Load()-before-one))
	}
	slices.Sort(ones)
	slices.Sort(confirmations)
	one, confirmation := ones[len(ones)/2], confirmations[len(confirmations)/2]
	return map[string]float64{
		"KB/day": (1000*one + confirmationsADay*confirmation) / 1000, "B/change": one, "B/confirmation": confirmation,
	}, nil
}

// idleOnTheWire measures a beat of the hub with an edge that has nothing else to do.
func (e *Env) idleOnTheWire(streams int) (map[string]float64, error) {
	beats := float64(daySeconds) / beatEvery.Seconds()
	if streams < fewStreams { // too short a run to wait for a beat
		return map[string]float64{"KB/day": beats * beatSize() / 1000}, nil
	}
	_, r, err := e.wireEdge(streams)
	if err != nil {
		return nil, err
	}
	before := r.bytes.Load()
	<-time.After(beatEvery)
	each := float64(r.bytes.Load() - before)
	return map[string]float64{"KB/day": beats * each / 1000, "B/beat": each, "B/beat-reckoned": beatSize()}, nil
}

// beatSize returns how many bytes a beat takes on the wire: the message, the chunk of HTTP around
// it, and the record of TLS 1.3 around that.
func beatSize() float64 {
	message := replication.AppendMessage(nil, replication.Beat{Time: time.Now(), Resets: 1})
	chunk := len(fmt.Sprintf("%x\r\n\r\n", len(message))) + len(message)
	const header, kind, tag = 5, 1, 16
	return float64(chunk + header + kind + tag)
}
