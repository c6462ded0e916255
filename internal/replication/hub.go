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
	"sync/atomic"
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

// A Hub is the state of a hub. Its methods may be called by any number of goroutines. Several
// processes can each have a Hub of one store, if they share the engine of the store.
//
// The hub keeps in memory the news of its edges, and [Hub.Save] writes them. Otherwise a commit for
// each edge would follow each change, and every edge would hear of these commits in turn.
type Hub struct {
	store  access.Store
	o      HubOptions
	secret atomic.Pointer[[]byte] // of MACs; what it points to is nil until the hub has started

	starting sync.Mutex // locked while the era is drawn

	mu       sync.Mutex // guards the fields below, and is never locked in a transaction
	known    known
	openedAt uint64 // the last commit before the hub was opened
	wentBack bool   // openedAt is from where the commits may be others than they were
	process  uuid.UUID
	eras     []era // in order; cursors are of the last one, once the hub has started
	started  bool
	floor    uint64 // see hubState
	edges    map[uuid.UUID]*edge
	alive    map[uuid.UUID]time.Time // when other processes said last that they serve edges
	resets   uint64                  // how often the store's time was reset
	batches  batches

	index index
}

// An edge is what a hub has of an edge in memory.
type edge struct {
	edgeRecord
	changes uint64 // how often something was noted
	saved   uint64 // how often it was when the edge was written
	// refusedHere is how many refusals are not in the store.
	refusedHere uint64
	noted       time.Time

	instance uuid.UUID
	feed     *Feed // nil without a stream
	// replaces are records of which the edge has to take the hub's version.
	replaces []replacement
}

// A replacement says that an edge has to take the hub's version of a record. An edge whose cursor
// has the number of the news, or a later one, has taken it.
type replacement struct {
	at     []byte // table 0 key
	number uint64
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
	Streaming bool      // the edge has a stream now, here or at another process that has said so
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
	h := &Hub{store: s, o: o, edges: map[uuid.UUID]*edge{}, alive: map[uuid.UUID]time.Time{}}
	var r reading
	err := s.View(ctx, func(t *merge.Tables) (err error) {
		if h.resets, err = resetsOf(t); err == nil {
			r, err = h.read(t, known{}, true)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	h.openedAt = r.head
	h.secret.Store(&r.secret)
	h.apply(r)
	h.markUnseen()
	return h, nil
}

// markUnseen notes that all eras are from before the process knew the store. On an engine that
// processes do not share, the hub believes what it reads: see docs/replication.md.
func (h *Hub) markUnseen() {
	for i := range h.eras {
		h.eras[i].unseen = h.store.SharesEngine()
	}
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
	if h.hasStarted() {
		return nil
	}
	h.starting.Lock()
	defer h.starting.Unlock()
	if h.hasStarted() {
		return nil
	}
	var drawn [64]byte
	if _, err := io.ReadFull(h.o.Random, drawn[:]); err != nil {
		return fmt.Errorf("draw the era of a hub: %w", err)
	}
	if err := h.store.Share(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	lives, own, wentBack := h.known.lives, era{id: uuid.UUID(drawn[32:48]), began: h.openedAt, back: h.wentBack}, h.wentBack
	old := slices.Clone(h.eras)
	h.mu.Unlock()
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
		if wentBack {
			// Another process may have found out before.
			if last, err := lastEra(t); err != nil || last.id != uuid.Nil && !slices.ContainsFunc(old, func(e era) bool { return e.id == last.id }) {
				return err
			}
		} else if h.store.SharesEngine() {
			// Other processes may have given cursors since the hub was opened.
			own.began = t.Sequence()
		}
		number := uint64(0)
		if _, err := h.tell(t, uuid.Nil, func(s *hubState) { s.eras++; number = s.eras }); err != nil {
			return err
		}
		if number > keptEras {
			if err := t.Delete(record.TableReplica, numbered8(localEra, number-keptEras)); err != nil {
				return err
			}
		}
		return putLocal(t, numbered8(localEra, number), own.encode())
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known.lives == lives {
		h.secret.Store(&secret)
		h.started, h.wentBack = true, false
		if h.process == uuid.Nil {
			h.process = uuid.UUID(drawn[48:])
		}
	}
	return nil
}

func (h *Hub) hasStarted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.started
}

// lastEra returns the era of the hub as a transaction sees it, or none.
func lastEra(t *merge.Tables) (e era, err error) {
	state, err := readHubState(t)
	if err != nil || state.eras == 0 {
		return e, err
	}
	message, err := getLocal(t, numbered8(localEra, state.eras))
	if err != nil {
		return e, err
	}
	return decodeEra(message)
}

// cursor returns the hub's cursor at a position, for all edges with a policy.
func (h *Hub) cursor(at merge.Position, policy, news uint64) Cursor {
	return Cursor{Incarnation: h.known.replica, Era: h.era(), At: at, Policy: policy, News: news}
}

// cursorOf returns the hub's cursor at a position, for an edge that begins there. The records that
// the edge has to replace come behind the cursor.
func (h *Hub) cursorOf(e *edge, at merge.Position) Cursor {
	news := h.known.news
	for _, r := range e.replaces {
		news = min(news, r.number-1)
	}
	return h.cursor(at, e.groupsAt, news)
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
	if c.Incarnation != h.known.replica || i < 0 || c.News > h.known.news {
		return false
	}
	if i+1 < len(h.eras) {
		if c.Ahead || c.Copying != "" {
			return false // the edge has more than the cursor says, and the era may end before it
		}
		head = h.eras[i].end(h.eras[i+1])
	}
	return max(c.At.Sequence, c.Taken) <= head
}

// AddEdge adds an edge, which is known by the ID of its server key. An edge that the hub has stays
// as it is.
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
	return h.change(ctx, func(t *merge.Tables) error {
		if _, err := edgeIn(t, id); !errors.Is(err, ErrUnknownEdge) {
			return err
		}
		if _, err := h.tell(t, id, nil); err != nil {
			return err
		}
		return putEdge(t, k)
	})
}

// change runs fn in a write transaction, which tells what it changes. Afterwards the hub knows it.
func (h *Hub) change(ctx context.Context, fn func(*merge.Tables) error) error {
	if err := h.store.Update(ctx, fn); err != nil {
		return err
	}
	_, err := h.catchUp(ctx, nil)
	return err
}

// SetPolicy changes what an edge gets and what it may push.
//
// Errors: [ErrUnknownEdge], [ErrPolicy].
func (h *Hub) SetPolicy(ctx context.Context, id uuid.UUID, groups []string, push Push) error {
	groups, err := checkPolicy(groups, push)
	if err != nil {
		return err
	}
	return h.change(ctx, func(t *merge.Tables) error {
		k, err := edgeIn(t, id)
		if err != nil {
			return err
		}
		was := k.policy
		if slices.Equal(was.Groups, groups) && was.Push == push {
			return nil
		}
		k.policy = Policy{Groups: groups, Push: push, Version: was.Version + 1}
		if !slices.Equal(was.Groups, groups) {
			k.groupsAt = k.policy.Version
		}
		if _, err := h.tell(t, id, nil); err != nil {
			return err
		}
		return putEdge(t, k)
	})
}

// DropEdge forgets an edge, and ends its stream.
//
// Errors: [ErrUnknownEdge].
func (h *Hub) DropEdge(ctx context.Context, id uuid.UUID) error {
	var replaces []replacement
	err := h.change(ctx, func(t *merge.Tables) error {
		e, err := readStoredEdge(t, id)
		if err == nil && e == nil {
			err = ErrUnknownEdge
		}
		if err != nil {
			return err
		}
		replaces = e.replaces
		if _, err := h.tell(t, id, nil); err != nil {
			return err
		}
		return t.Delete(record.TableReplica, edgeKey(id))
	})
	if err != nil {
		return err
	}
	return h.dropReplaces(ctx, id, replaces)
}

func replaceKey(edge uuid.UUID, at []byte) []byte {
	return slices.Concat([]byte(localReplace), edge[:], at)
}

// dropReplaces deletes the notes of records that an edge has replaced, or will never replace.
func (h *Hub) dropReplaces(ctx context.Context, id uuid.UUID, replaces []replacement) error {
	for chunk := range slices.Chunk(replaces, saveAtOnce) {
		err := h.store.Update(ctx, func(t *merge.Tables) error {
			for _, r := range chunk {
				// The record may have to be replaced again since.
				message, err := getLocal(t, replaceKey(id, r.at))
				if err != nil {
					return err
				}
				if n, err := decodeNumber(message); err != nil || n > r.number {
					return err
				}
				if err := t.Delete(record.TableReplica, replaceKey(id, r.at)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.edges[id]; e != nil {
		e.replaces = slices.DeleteFunc(e.replaces, func(r replacement) bool {
			return slices.ContainsFunc(replaces, func(gone replacement) bool { return r.number <= gone.number && bytes.Equal(r.at, gone.at) })
		})
	}
	return nil
}

// Edges returns what the hub knows of its edges, in the order of their IDs. Of an edge that speaks
// with another process, the hub knows what that process has written.
func (h *Hub) Edges(ctx context.Context, now time.Time) ([]EdgeStatus, error) {
	claims, err := h.Claims(ctx)
	if err == nil {
		err = h.hearOthers(ctx)
	}
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
			Cursor: e.cursor, Confirmed: e.confirmed, Streaming: e.feed != nil || h.streamsElsewhere(e, now), Dropped: e.dropped,
			Cloned: e.cloned, Compared: e.compared, Matched: e.matched,
			Claims: waiting[e.id], Refusals: e.refusals + e.refusedHere, Refusal: e.refusal, Refused: e.refused,
		})
	}
	slices.SortFunc(all, func(a, b EdgeStatus) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all, nil
}

// Confirmed returns how many edges have what the commits up to a sequence have changed, and how
// many edges there are.
func (h *Hub) Confirmed(ctx context.Context, sequence uint64) (have, all int, err error) {
	if err := h.hearOthers(ctx); err != nil {
		return 0, 0, err
	}
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
func (h *Hub) acknowledge(e *edge, c Cursor, head uint64) (taken []replacement) {
	if !h.fits(c, e, head) || c.Copying != "" {
		return nil
	}
	if e.changes++; !isBehind(c, e.cursor) {
		e.cursor, e.dropped = c, false
		e.confirmed, e.heard = max(e.confirmed, confirmedBy(c.At)), max(e.heard, c.News)
	}
	h.confirmQuiet(e)
	for _, r := range e.replaces {
		if r.number <= c.News {
			taken = append(taken, r)
		}
	}
	return taken
}

// confirmQuiet counts the commits behind the last Mark as confirmed, if the edge has the Mark.
// Nothing of them was for the edge. The caller holds mu.
func (h *Hub) confirmQuiet(e *edge) {
	if f := e.feed; f != nil && e.cursor.Era != uuid.Nil && e.cursor.At.Sequence >= f.marked && e.cursor.News >= f.told {
		e.confirmed, e.heard = max(e.confirmed, confirmedBy(f.at)), max(e.heard, f.news)
	}
}

// confirmedBy returns the last commit that a reader at a position has read in whole.
func confirmedBy(at merge.Position) uint64 {
	if at.Last != "" && at.Sequence > 0 {
		return at.Sequence - 1
	}
	return at.Sequence
}
