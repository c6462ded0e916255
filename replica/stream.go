package replica

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

const (
	beatEvery = 30 * time.Second
	// batchSize is about how many bytes of messages a hub reads at once for a stream, and
	// smallBatch is that for a stream that follows, where messages are few.
	batchSize  = 256 << 10
	smallBatch = 32 << 10
	// wakeCost is about what it takes to wake a stream and to send a batch. After streams were
	// woken, they sleep for as long, so that many commits in a row do not wake them for each.
	wakeCost = 10 * time.Microsecond
	maxPause = 500 * time.Millisecond
)

// streams are the open streams of a hub.
type streams struct {
	once sync.Once // begins to watch the store

	mu    sync.Mutex // guards the fields below
	open  map[*stream]struct{}
	edges map[uuid.UUID]map[*stream]struct{} // the same by edges
	news  chan struct{}                      // closed at the next commit
	head  uint64                             // the last commit of which the streams were told
	ended bool                               // the store is closed
}

// A stream is an open stream of an edge.
type stream struct {
	edge  uuid.UUID
	check chan struct{} // has an element if the key of the edge has changed
}

func (s *streams) init() {
	s.open, s.edges = map[*stream]struct{}{}, map[uuid.UUID]map[*stream]struct{}{}
	s.news = make(chan struct{})
}

// maxAtOnce is how many streams an edge can have, and how many large requests. A stream that was
// replaced ends when its last batch is sent, so an honest edge rarely has two. Without a bound, one
// edge that reads nothing could take the places of all.
const maxAtOnce = 3

// add adds a stream.
//
// Errors: [latchkey.ErrClosed]; [latchkey.ErrBusy] if the edge has too many.
func (s *streams) add(one *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return latchkey.ErrClosed
	}
	if len(s.edges[one.edge]) >= maxAtOnce {
		return latchkey.ErrBusy
	}
	s.open[one] = struct{}{}
	if s.edges[one.edge] == nil {
		s.edges[one.edge] = map[*stream]struct{}{}
	}
	s.edges[one.edge][one] = struct{}{}
	return nil
}

func (s *streams) remove(one *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, one)
	delete(s.edges[one.edge], one)
	if len(s.edges[one.edge]) == 0 {
		delete(s.edges, one.edge)
	}
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// next returns a channel that is closed at the next commit, or nil if the store is closed. A stream
// that has everything up to the commit head can wait for the channel.
func (s *streams) next() (news <-chan struct{}, head uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, s.head
	}
	return s.news, s.head
}

// wake tells all streams that there was a commit.
func (s *streams) wake(head uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head = head
	close(s.news)
	s.news = make(chan struct{})
}

// end tells all streams that the store is closed.
func (s *streams) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.news)
}

// check makes the streams of an edge look at its key again.
func (s *streams) check(edge uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.edges[edge] {
		one.mustCheck()
	}
}

func (s *streams) checkAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		one.mustCheck()
	}
}

func (s *stream) mustCheck() {
	select {
	case s.check <- struct{}{}:
	default:
	}
}

// watch wakes the streams at each commit after a sequence, until the store is closed.
func (h *Hub) watch(seen uint64) {
	defer h.streams.end()
	ctx := context.Background()
	for {
		err := h.store.Wait(ctx, seen)
		if errors.Is(err, latchkey.ErrClosed) {
			return
		}
		if err == nil {
			seen, err = h.look(ctx, seen)
		}
		pause := min(time.Duration(h.streams.count())*wakeCost, maxPause)
		if err != nil && !errors.Is(err, latchkey.ErrClosed) {
			h.log(slog.LevelError, "the hub cannot watch its store", "error", err)
			pause = time.Second
		}
		h.streams.wake(seen)
		if pause > time.Millisecond {
			time.Sleep(pause)
		}
	}
}

// maxLook is how many changes look goes through before it checks the keys of all streams.
const maxLook = 4096

// look finds the keys of edges that commits after a sequence have changed, and returns the last
// sequence.
func (h *Hub) look(ctx context.Context, after uint64) (seen uint64, err error) {
	seen = after
	err = h.store.View(ctx, func(tx *latchkey.Tx) error {
		seen = tx.Sequence()
		changes, err := access.Tables(tx).ChangesAfter(merge.Position{Sequence: after}, seen, maxLook)
		if err != nil || len(changes) >= maxLook {
			h.streams.checkAll()
			return err
		}
		for _, c := range changes {
			switch c.Table {
			case record.TableKeys, record.TableDeadKeys:
				if id, err := uuid.FromBytes(c.Key); err == nil {
					h.streams.check(id)
				}
			case record.TableGroups:
				h.streams.checkAll() // a key of an edge may be in the group
			}
		}
		return nil
	})
	return seen, err
}

// keep does what a hub has to do now and then, until the store is closed.
func (h *Hub) keep() {
	ctx := context.Background()
	ticks := time.NewTicker(keepEvery)
	defer ticks.Stop()
	for n := 1; ; n++ {
		for {
			news, _ := h.streams.next()
			if news == nil {
				return
			}
			select {
			case <-news:
				continue
			case <-ticks.C:
			}
			break
		}
		core, err := h.core(ctx)
		if err == nil {
			err = core.Save(ctx, h.store.Now())
		}
		if err == nil && n%pruneEvery == 0 {
			_, err = core.Prune(ctx, h.store.Now())
		}
		if err != nil && !errors.Is(err, latchkey.ErrClosed) {
			h.log(slog.LevelError, "the hub could not write what it knows of its edges", "error", err)
		}
	}
}

// keepEvery is how often a hub writes what it has learned of its edges, and pruneEvery is after how
// many of these times it prunes tombstones.
const (
	keepEvery  = 5 * time.Minute
	pruneEvery = 12
)

// servePull serves a stream.
func (h *Hub) servePull(w http.ResponseWriter, r *http.Request, control *http.ResponseController) error {
	ctx := r.Context()
	edge, token, err := h.login(ctx, r)
	if err != nil {
		return err
	}
	core, err := h.core(ctx)
	if err != nil {
		return err
	}
	b, err := readBody(w, r, typeMessages, maxHello)
	if err != nil {
		return err
	}
	hello, err := replication.DecodeHello(b)
	if err != nil {
		return err
	}
	h.streams.once.Do(func() {
		seen, _ := sequenceOf(ctx, h.store) // after an error, watch looks at all commits
		go h.watch(seen)
		go h.keep()
	})
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	one := &stream{edge: edge, check: make(chan struct{}, 1)}
	if err := h.streams.add(one); err != nil {
		return err
	}
	defer h.streams.remove(one)
	// The key may have been disabled before there was a stream to tell.
	if _, err := h.check(ctx, token, from.Addr()); err != nil {
		return err
	}
	feed, err := core.Hello(ctx, edge, hello, h.store.Now())
	if err != nil {
		return err
	}
	defer feed.Close()
	feed.Told = true // by streams.next
	if feed.Cloned {
		h.log(slog.LevelWarn, "two devices use the credential of one edge", "edge", edge, "from", r.RemoteAddr)
	}
	s := sender{
		h: h, w: w, control: control, feed: feed, news: one,
		follow: hello.Follow && feed.Welcome.How == replication.Resume,
		alive: func() error {
			again, err := h.check(ctx, token, from.Addr())
			if err == nil && again != edge {
				err = latchkey.ErrInvalidToken
			}
			return err
		},
	}
	s.zip = !s.follow && acceptsGzip(r)
	_ = control.SetReadDeadline(time.Time{}) // the edge says nothing more
	s.run(ctx, edge)
	return nil
}

// A sender sends the messages of a stream. It has no buffer while there is nothing to send.
type sender struct {
	h       *Hub
	w       http.ResponseWriter
	control *http.ResponseController
	feed    *replication.Feed
	news    *stream
	follow  bool // the stream goes on when the edge has everything
	zip     bool
	until   time.Time    // when a write must be over
	alive   func() error // checks the key of the edge
}

// run sends messages until the stream ends. Nobody hears of an error, because the answer has begun:
// the edge asks again.
func (s *sender) run(ctx context.Context, edge uuid.UUID) {
	s.w.Header().Set("Content-Type", typeMessages)
	if s.zip {
		s.w.Header().Set("Content-Encoding", "gzip")
	}
	err := s.begin()
	if err == nil && s.feed.Welcome.How != replication.CompareFirst {
		err = s.messages(ctx)
	}
	if err != nil {
		s.h.log(slog.LevelInfo, "the stream of an edge has ended", "edge", edge, "error", err)
		if !s.follow {
			panic(http.ErrAbortHandler) // otherwise the edge would take what it has for everything
		}
	}
}

func (s *sender) begin() error {
	first := []replication.Message{s.feed.Welcome}
	if s.feed.Cloned {
		first = append(first, replication.Cloned{})
	}
	if pin := pinOf(s.h.opts.NextCertificate); pin != nil {
		first = append(first, replication.NextPin{Pin: pin})
	}
	return s.send(encode(first))
}

// encode returns the frames of messages. Most frames of a large batch have fewer than 128 bytes.
func encode(messages []replication.Message) []byte {
	b := make([]byte, 0, 128*len(messages))
	for _, m := range messages {
		b = replication.AppendMessage(b, m)
	}
	return b
}

// errEnded means that a stream ends because the store is closed, or the hub has ended it.
var errEnded = errors.New("the hub has ended the stream")

func (s *sender) messages(ctx context.Context) error {
	most := batchSize
	if s.follow {
		most = smallBatch
	}
	// The first beat comes at a random time, so that edges that came at once do not stay in step.
	beat := time.NewTimer(beatEvery/2 + rand.N(beatEvery/2))
	defer beat.Stop()
	due := true // the edge has everything for the first time
	begin, err := sequenceOf(ctx, s.h.store)
	if err != nil {
		return err
	}
	for {
		news, head := s.h.streams.next()
		if news == nil {
			return errEnded
		}
		batch, err := s.feed.Next(ctx, most)
		if err != nil {
			return err
		}
		if len(batch.Messages) > 0 {
			if err := s.send(batch.Encoded(encode)); err != nil {
				return err
			}
		}
		switch {
		case batch.End:
			return nil
		case batch.More || batch.At < max(begin, head):
			// Streams share batches, so this batch may be older than the last commit.
			if err := s.checkIfDue(); err != nil {
				return err
			}
			continue
		case due || !s.follow:
			if err := s.beat(ctx); err != nil {
				return err
			}
			due = false
		}
		if !s.follow {
			return nil
		}
		select {
		case <-news:
		case <-beat.C:
			due = true
			beat.Reset(beatEvery)
		case <-s.feed.Done():
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		case <-s.news.check:
			if err := s.alive(); err != nil {
				return err
			}
		}
	}
}

// sequenceOf returns the last commit of a store.
func sequenceOf(ctx context.Context, store *latchkey.Store) (n uint64, err error) {
	err = store.View(ctx, func(tx *latchkey.Tx) error { n = tx.Sequence(); return nil })
	return n, err
}

// checkIfDue checks the key of the edge if something has happened to it. An edge that reads slowly
// is far from having everything for a long time.
func (s *sender) checkIfDue() error {
	select {
	case <-s.news.check:
		return s.alive()
	default:
		return nil
	}
}

// beat tells the edge that it has everything.
func (s *sender) beat(ctx context.Context) error {
	b, err := s.feed.Beat(ctx, s.h.store.Now())
	if err != nil {
		return err
	}
	if err := s.alive(); err != nil { // the key may have expired
		return err
	}
	return s.send(encode([]replication.Message{b}))
}

// zippers are writers that compress. Each has more than a megabyte.
var zippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

// send sends bytes, each time as a member of its own if they are compressed. An edge that does not
// read them loses the stream after writeTime, or a little sooner.
func (s *sender) send(b []byte) error {
	if s.zip {
		s.h.bulk <- struct{}{}
		defer func() { <-s.h.bulk }()
		z := zippers.Get().(*gzip.Writer)
		var out bytes.Buffer
		z.Reset(&out)
		_, _ = z.Write(b)
		_ = z.Close()
		zippers.Put(z)
		b = out.Bytes()
	}
	// A new deadline costs a tenth of what a small batch does.
	if now := time.Now(); s.until.Sub(now) < writeTime*9/10 {
		s.until = now.Add(writeTime)
		_ = s.control.SetWriteDeadline(s.until)
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}
