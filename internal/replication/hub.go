package replication

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Format is the format of the messages that this build writes, and the only one that it reads.
const Format = 1

// The errors of a hub. An error of the store comes as it is.
var (
	// ErrUnknownEdge means that the hub has no such edge.
	ErrUnknownEdge = errors.New("the hub does not know the edge")
	// ErrPolicy means that a policy names no group, or a group in a wrong way.
	ErrPolicy = errors.New("the policy is not valid")
	// ErrFormat means that the edge reads no format of messages that the hub writes.
	ErrFormat = errors.New("hub and edge have no format of messages in common")
	// ErrReplaced means that a feed has ended because the edge has asked for another one, or
	// because it was dropped.
	ErrReplaced = errors.New("the stream was ended by the hub")
	// ErrNoClaim means that there is no claim with a number.
	ErrNoClaim = errors.New("the hub has no such claim")
)

// HubOptions are the options of a hub. The zero value of each but Random is its default.
type HubOptions struct {
	Random io.Reader // not nil
	// KeepTombstones is how long a tombstone stays at the least. The default is 400 days. No backup
	// that is older may become the hub again.
	KeepTombstones time.Duration
	// AcceptClaims says that disablings that an edge claims are merged at once.
	AcceptClaims bool
	// DropAfter is how long an edge can be silent until the hub does not wait for it any more. The
	// default is 180 days.
	DropAfter time.Duration
}

// A Hub is the state of a hub. Its methods may be called by any number of goroutines. A store has
// one Hub at a time.
//
// The hub keeps in memory the news of its edges, and [Hub.Save] writes them. Otherwise a commit for
// each edge would follow each change, and every edge would hear of these commits in turn.
type Hub struct {
	store access.Store
	o     HubOptions

	starting sync.Mutex // locked while the era is drawn

	mu       sync.Mutex // guards the fields below
	openedAt uint64     // the last commit before the hub was opened
	secret   []byte     // of MACs; nil until the hub has started
	eras     []era      // in order; the last one is the hub's own, once it has started
	started  bool
	floor    uint64 // see hubState
	edges    map[uuid.UUID]*edge
	resets   uint64 // how often the store's time was reset, as far as the hub has seen
	batches  batches

	index index
}

// An edge is what a hub has of an edge in memory.
type edge struct {
	edgeRecord
	dirty bool      // not written as it is
	noted time.Time // when a refused push was written last

	instance uuid.UUID
	replica  uuid.UUID
	feed     *Feed // nil without a stream
	// replaces are records of which the edge has to take the hub's version.
	replaces []*replacement
}

// A replacement says that an edge has to take the hub's version of a record.
type replacement struct {
	at   []byte // table 0 key
	sent bool   // in the present stream
	// behind is the sequence of the last Mark before it was sent. The edge has it when the edge
	// acknowledges a later one.
	behind uint64
}

// An EdgeStatus is what a hub knows of an edge.
type EdgeStatus struct {
	ID     uuid.UUID // of the edge's server key
	Name   string
	Policy Policy
	Build  string // the version of the edge's library
	Joined time.Time
	Seen   time.Time // when the edge was heard of last
	// Cursor is how far the edge says that it has come. Confirmed is the sequence up to which the
	// edge has everything that concerns it.
	Cursor    Cursor
	Confirmed uint64
	Streaming bool      // the edge has a stream now
	Dropped   bool      // the edge was silent for too long
	Cloned    time.Time // when two devices used the credential of the edge last; mostly zero
	Compared  time.Time // when the edge compared last
	Matched   bool      // nothing differed then
	Claims    int       // how many claims of the edge wait
	Refusals  uint64    // how many pushes were refused
	Refusal   string    // why the last one was refused
	Refused   time.Time // when
}

// keptEras is how many eras a hub keeps. An edge with a cursor of an earlier one compares.
const keptEras = 1000

// OpenHub makes the hub of a store. It writes nothing.
func OpenHub(ctx context.Context, s access.Store, o HubOptions) (*Hub, error) {
	o.KeepTombstones = cmp.Or(o.KeepTombstones, 400*24*time.Hour)
	o.DropAfter = cmp.Or(o.DropAfter, 180*24*time.Hour)
	h := &Hub{store: s, o: o}
	err := s.View(ctx, func(t *merge.Tables) error { return h.load(t) })
	if err != nil {
		return nil, err
	}
	return h, nil
}

// load reads what the hub has kept.
func (h *Hub) load(t *merge.Tables) (err error) {
	h.openedAt, h.edges, h.eras = t.Sequence(), map[uuid.UUID]*edge{}, nil
	state, err := readHubState(t)
	if err != nil {
		return err
	}
	h.floor = state.floor
	if h.secret, err = readSecret(t); err != nil {
		return err
	}
	if h.resets, err = resetsOf(t); err != nil {
		return err
	}
	err = scanLocal(t, localEra, func(_, message []byte) error {
		e, err := decodeEra(message)
		h.eras = append(h.eras, e)
		return err
	})
	if err != nil {
		return err
	}
	err = scanLocal(t, localEdge, func(id, message []byte) error {
		k, err := decodeEdge(id, message)
		h.edges[k.id] = &edge{edgeRecord: k}
		return err
	})
	if err != nil {
		return err
	}
	return scanLocal(t, localReplace, func(key, _ []byte) error {
		id, err := record.DecodeID(key[:min(len(key), 16)])
		if e := h.edges[id]; err == nil && e != nil {
			e.replaces = append(e.replaces, &replacement{at: bytes.Clone(key[16:])})
		}
		return err
	})
}

func readSecret(t *merge.Tables) ([]byte, error) {
	message, err := getLocal(t, []byte(localSecret))
	if err != nil {
		return nil, err
	}
	for f, err := range record.Fields(message) {
		if err != nil {
			return nil, err
		}
		if f.Num == 1 {
			return bytes.Clone(f.Bytes), nil
		}
	}
	return nil, nil
}

// resetsOf returns how often the store's time was reset.
func resetsOf(t *merge.Tables) (uint64, error) {
	message, err := record.GetMeta(func(key []byte) ([]byte, error) { return t.Get(record.TableMeta, key) }, record.MetaClock)
	if err != nil || message == nil {
		return 0, err
	}
	c, err := record.DecodeClock(message)
	return c.Resets, err
}

// start draws the secret of the hub, the first time, and an era, the first time after it was
// opened. No cursor of another copy of the store counts for this one from then on.
func (h *Hub) start(ctx context.Context) error {
	h.starting.Lock()
	defer h.starting.Unlock()
	h.mu.Lock()
	started := h.started
	h.mu.Unlock()
	if started {
		return nil
	}
	var drawn [48]byte
	if _, err := io.ReadFull(h.o.Random, drawn[:]); err != nil {
		return fmt.Errorf("draw the era of a hub: %w", err)
	}
	if err := h.store.Share(ctx); err != nil {
		return err
	}
	own := era{id: uuid.UUID(drawn[32:]), began: h.openedAt}
	var secret []byte
	err := h.store.Update(ctx, func(t *merge.Tables) (err error) {
		if secret, err = readSecret(t); err != nil {
			return err
		}
		if secret == nil {
			secret = drawn[:32]
			var m record.Message
			m.Bytes(1, secret)
			if err := putLocal(t, []byte(localSecret), m); err != nil {
				return err
			}
		}
		state, err := readHubState(t)
		if err != nil {
			return err
		}
		state.eras++
		if state.eras > keptEras {
			if err := t.Delete(record.TableReplica, numbered8(localEra, state.eras-keptEras)); err != nil {
				return err
			}
		}
		if err := putLocal(t, numbered8(localEra, state.eras), own.encode()); err != nil {
			return err
		}
		return writeHubState(t, state)
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secret, h.started = secret, true
	h.eras = append(h.eras, own)
	return nil
}

// cursor returns the hub's cursor at a position, for an edge.
func (h *Hub) cursor(at merge.Position, policy uint64) Cursor {
	return Cursor{Incarnation: h.store.ReplicaID(), Era: h.era(), At: at, Policy: policy}
}

// era returns the era of the hub. A cursor that belongs to the hub also holds in this era.
func (h *Hub) era() uuid.UUID { return h.eras[len(h.eras)-1].id }

// fits reports whether the changes after a cursor are all that an edge needs. head is the sequence
// of the last commit. The hub must have started, and the caller holds mu.
func (h *Hub) fits(c Cursor, e *edge, head uint64) bool {
	return h.belongs(c, head) && c.At.Sequence >= h.floor && c.Policy == e.groupsAt
}

// belongs reports whether the hub has the commit of a cursor, and what it took of the edge.
func (h *Hub) belongs(c Cursor, head uint64) bool {
	i := slices.IndexFunc(h.eras, func(e era) bool { return e.id == c.Era })
	if c.Incarnation != h.store.ReplicaID() || i < 0 {
		return false
	}
	if i+1 < len(h.eras) {
		if c.Ahead || c.Copying != "" {
			return false // the edge has more than the cursor says, and the era may end before it
		}
		head = h.eras[i+1].began
	}
	return max(c.At.Sequence, c.Taken) <= head
}

// AddEdge adds an edge, which is known by the ID of its server key.
//
// Errors: [ErrPolicy].
func (h *Hub) AddEdge(ctx context.Context, id uuid.UUID, name string, p Policy, now time.Time) error {
	groups, err := checkPolicy(p.Groups, p.Push)
	if err != nil {
		return err
	}
	// A device that joins again still has the cursor that it had under another policy. So the first
	// version depends on the groups. It is the same for all edges with the same groups, because
	// they share what they get.
	hash := sha256.Sum256([]byte(Policy{Groups: groups}.set()))
	version := 1 + uint64(binary.BigEndian.Uint32(hash[:]))
	k := edgeRecord{id: id, name: name, policy: Policy{Groups: groups, Push: p.Push, Version: version}, groupsAt: version, joined: now, seen: now}
	if err := h.start(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.write(ctx, k); err != nil {
		return err
	}
	h.edges[id] = &edge{edgeRecord: k}
	return nil
}

// write writes what the hub knows of an edge. The caller holds mu, so that no two writes of an edge
// change their order.
func (h *Hub) write(ctx context.Context, k edgeRecord) error {
	return h.store.Update(ctx, func(t *merge.Tables) error {
		return putLocal(t, append([]byte(localEdge), k.id[:]...), k.encode())
	})
}

// SetPolicy changes what an edge gets and what it may push.
//
// Errors: [ErrUnknownEdge], [ErrPolicy].
func (h *Hub) SetPolicy(ctx context.Context, id uuid.UUID, groups []string, push Push) error {
	groups, err := checkPolicy(groups, push)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.edges[id]
	if e == nil {
		return ErrUnknownEdge
	}
	k := e.edgeRecord
	if slices.Equal(k.policy.Groups, groups) && k.policy.Push == push {
		return nil
	}
	k.policy = Policy{Groups: groups, Push: push, Version: k.policy.Version + 1}
	if !slices.Equal(groups, e.policy.Groups) {
		k.groupsAt = k.policy.Version
	}
	if err := h.write(ctx, k); err != nil {
		return err
	}
	e.edgeRecord, e.dirty = k, false
	return nil
}

// DropEdge forgets an edge, and ends its stream.
//
// Errors: [ErrUnknownEdge].
func (h *Hub) DropEdge(ctx context.Context, id uuid.UUID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.edges[id]
	if e == nil {
		return ErrUnknownEdge
	}
	err := h.store.Update(ctx, func(t *merge.Tables) error {
		if err := t.Delete(record.TableReplica, append([]byte(localEdge), id[:]...)); err != nil {
			return err
		}
		for _, r := range e.replaces {
			if err := t.Delete(record.TableReplica, replaceKey(id, r.at)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	delete(h.edges, id)
	if e.feed != nil {
		e.feed.end()
	}
	return nil
}

func replaceKey(edge uuid.UUID, at []byte) []byte {
	return slices.Concat([]byte(localReplace), edge[:], at)
}

// Knows reports whether the hub has an edge.
func (h *Hub) Knows(id uuid.UUID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.edges[id] != nil
}

// Edges returns what the hub knows of its edges, in the order of their IDs.
func (h *Hub) Edges(ctx context.Context) ([]EdgeStatus, error) {
	claims, err := h.Claims(ctx)
	if err != nil {
		return nil, err
	}
	waiting := map[uuid.UUID]int{}
	for _, c := range claims {
		waiting[c.Edge]++
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []EdgeStatus
	for _, e := range h.edges {
		p := e.policy
		p.Groups = slices.Clone(p.Groups)
		all = append(all, EdgeStatus{
			ID: e.id, Name: e.name, Policy: p, Build: e.build, Joined: e.joined, Seen: e.seen,
			Cursor: e.cursor, Confirmed: e.confirmed, Streaming: e.feed != nil, Dropped: e.dropped,
			Cloned: e.cloned, Compared: e.compared, Matched: e.matched,
			Claims: waiting[e.id], Refusals: e.refusals, Refusal: e.refusal, Refused: e.refused,
		})
	}
	slices.SortFunc(all, func(a, b EdgeStatus) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all, nil
}

// Confirmed returns how many edges have what the commits up to a sequence have changed, and how
// many edges there are.
func (h *Hub) Confirmed(ctx context.Context, sequence uint64) (have, all int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.edges {
		if e.confirmed >= sequence {
			have++
		}
	}
	return have, len(h.edges), nil
}

// acknowledge notes how far an edge has come. It returns the replacements that the edge has. The
// caller holds mu.
func (h *Hub) acknowledge(e *edge, c Cursor, head uint64) (taken []*replacement) {
	if !h.fits(c, e, head) || c.Copying != "" {
		return nil
	}
	e.cursor, e.dirty, e.dropped = c, true, false
	e.confirmed = confirmedBy(c.At)
	f := e.feed
	if f == nil {
		return nil
	}
	if c.At.Sequence >= f.marked {
		e.confirmed = max(e.confirmed, confirmedBy(f.at))
	}
	for _, r := range e.replaces {
		if r.sent && c.At.Sequence > r.behind {
			taken = append(taken, r)
		}
	}
	return taken
}

// confirmedBy returns the last commit that a reader at a position has read in whole.
func confirmedBy(at merge.Position) uint64 {
	if at.Last != "" && at.Sequence > 0 {
		return at.Sequence - 1
	}
	return at.Sequence
}

// saveAtOnce is how many edges one transaction of Save writes.
const saveAtOnce = 64

// Save writes what the hub has learned of its edges since the last Save, such as their cursors. It
// is to be called every few minutes, and before the store is closed. A loss costs nothing but time.
func (h *Hub) Save(ctx context.Context, now time.Time) error {
	h.mu.Lock()
	var dirty []uuid.UUID
	for id, e := range h.edges {
		if e.dirty {
			dirty = append(dirty, id)
		}
	}
	h.mu.Unlock()
	slices.SortFunc(dirty, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for chunk := range slices.Chunk(dirty, saveAtOnce) {
		if err := h.saveSome(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hub) saveSome(ctx context.Context, ids []uuid.UUID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.store.Update(ctx, func(t *merge.Tables) error {
		for _, id := range ids {
			if e := h.edges[id]; e != nil {
				if err := putLocal(t, append([]byte(localEdge), id[:]...), e.encode()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if e := h.edges[id]; e != nil {
			e.dirty = false
		}
	}
	return nil
}
