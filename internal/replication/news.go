package replication

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Several processes can be hubs of one store, on an engine that they share. The store has
// everything that they must know of each other: eras, edges, policies, records that edges have to
// replace, and pruned tombstones. A transaction that changes these writes a piece of news, under
// the next number. Each hub reads the news in its other transactions. So it knows what a
// transaction has seen, and a change through another process holds as soon as anything of it can be
// seen.

// keptNews is how many pieces of news are kept. A hub that lacks more reads everything anew.
const keptNews = 1000

// tell writes a piece of news: an edge has changed, or something else if edge is Nil. change may
// change more of the state of the hub. tell returns the number of the news.
func (h *Hub) tell(t *merge.Tables, edge uuid.UUID, change func(*hubState)) (number uint64, err error) {
	state, err := readHubState(t)
	if err != nil {
		return 0, err
	}
	if change != nil {
		change(&state)
	}
	state.news++
	if _, err := io.ReadFull(h.o.Random, state.random[:]); err != nil {
		return 0, fmt.Errorf("draw the mark of a piece of news: %w", err)
	}
	var m record.Message
	putID(&m, 1, edge)
	m.Bytes(2, state.random[:])
	if err := putLocal(t, numbered8(localNews, state.news), m); err != nil {
		return 0, err
	}
	if state.news > keptNews {
		if err := t.Delete(record.TableReplica, numbered8(localNews, state.news-keptNews)); err != nil {
			return 0, err
		}
	}
	return state.news, writeHubState(t, state)
}

// known is what a hub knows of its store.
type known struct {
	lives   uint64 // how often the store was found to have gone back
	head    uint64 // the last commit that any transaction has seen
	replica uuid.UUID
	news    uint64
	random  [8]byte
	eras    uint64 // the number of the last era
	era     uuid.UUID
}

// A reading is what a transaction has read for the memory of a hub.
type reading struct {
	known
	from  known // what was known before
	floor uint64
	// back says that the store went back to an earlier state, for example because somebody has
	// restored a backup of the engine. Then whole is set, too: everything was read.
	back, whole bool
	secret      []byte
	eras        []era // those after the ones that were known, or all
	edges       map[uuid.UUID]*storedEdge
}

// A storedEdge is what the store has of an edge. It is nil if the edge was dropped.
type storedEdge struct {
	edgeRecord
	replaces []replacement
}

// read reads what has changed since a hub knew as much as k. k must be from before the transaction.
func (h *Hub) read(t *merge.Tables, k known, whole bool) (r reading, err error) {
	state, err := readHubState(t)
	if err != nil {
		return r, err
	}
	replica := h.store.ReplicaID()
	if h.store.SharesEngine() {
		// Another process may have changed it, and the store hears of that a moment later.
		stored, err := t.Replica()
		if err != nil {
			return r, err
		}
		replica = stored.ID
	}
	r = reading{from: k, floor: state.floor, whole: whole, known: known{
		lives: k.lives, head: t.Sequence(), replica: replica, news: state.news, random: state.random, eras: state.eras, era: k.era,
	}}
	r.back = !whole && (r.head < k.head || r.replica != k.replica || state.news < k.news)
	if !r.back && !whole && state.news == k.news && state.random == k.random {
		return r, nil
	}
	r.edges = map[uuid.UUID]*storedEdge{}
	if !r.back && !whole {
		if err := r.readNews(t); err != nil {
			return r, err
		}
		if r.eras, err = erasAfter(t, k.eras); err != nil {
			return r, err
		}
		r.back = r.back || slices.ContainsFunc(r.eras, func(e era) bool { return e.back })
	}
	if r.whole = r.whole || r.back; !r.whole {
		r.nameLastEra()
		for id := range r.edges {
			if r.edges[id], err = readStoredEdge(t, id); err != nil {
				return r, err
			}
		}
		return r, nil
	}
	if r.eras, err = erasAfter(t, 0); err != nil {
		return r, err
	}
	// The store is another one if it does not have the era that was the last one.
	knows := slices.ContainsFunc(r.eras, func(e era) bool { return e.id == k.era })
	r.back = r.back || !whole && !knows && k.era != uuid.Nil && state.eras < k.eras+keptEras
	r.nameLastEra()
	if r.secret, err = readSecret(t); err != nil {
		return r, err
	}
	return r, r.readEdges(t)
}

func (r *reading) nameLastEra() {
	if len(r.eras) > 0 {
		r.era = r.eras[len(r.eras)-1].id
	}
}

// readNews reads which edges have changed. If the news do not go back far enough, everything has to
// be read. If those that were known are others now, the store went back.
func (r *reading) readNews(t *merge.Tables) error {
	if r.from.news == 0 || r.news-r.from.news >= keptNews {
		r.whole = true
		return nil
	}
	first := true
	err := scanLocalFrom(t, localNews, numbered8(localNews, r.from.news), func(_, message []byte) error {
		var edge uuid.UUID
		var random []byte
		for f, err := range record.Fields(message) {
			if err != nil {
				return err
			}
			switch f.Num {
			case 1:
				edge, err = record.DecodeID(f.Bytes)
			case 2:
				random = f.Bytes
			}
			if err != nil {
				return err
			}
		}
		if first {
			r.back, first = !bytes.Equal(random, r.from.random[:]), false
		} else if edge != uuid.Nil {
			r.edges[edge] = nil
		}
		return nil
	})
	r.back = r.back || first
	return err
}

// readEdges reads all edges.
func (r *reading) readEdges(t *merge.Tables) error {
	r.edges = map[uuid.UUID]*storedEdge{}
	err := scanLocal(t, localEdge, func(id, message []byte) error {
		k, err := decodeEdge(id, message)
		r.edges[k.id] = &storedEdge{edgeRecord: k}
		return err
	})
	if err != nil {
		return err
	}
	return scanLocal(t, localReplace, func(key, message []byte) error {
		id, err := record.DecodeID(key[:min(len(key), 16)])
		if e := r.edges[id]; err == nil && e != nil {
			err = e.addReplacement(key[16:], message)
		}
		return err
	})
}

// readStoredEdge reads an edge, or returns nil.
func readStoredEdge(t *merge.Tables, id uuid.UUID) (*storedEdge, error) {
	message, err := getLocal(t, edgeKey(id))
	if err != nil || message == nil {
		return nil, err
	}
	e := &storedEdge{}
	if e.edgeRecord, err = decodeEdge(id[:], message); err != nil {
		return nil, err
	}
	// The names of tables begin with letters.
	own := replaceKey(id, nil)
	for entry, err := range t.Scan(record.TableReplica, own, append(bytes.Clone(own), 0xff)) {
		if err != nil {
			return nil, err
		}
		message, err := record.Open(record.TableReplica, entry.Key, entry.Value)
		if err == nil {
			err = e.addReplacement(entry.Key[len(own):], message)
		}
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *storedEdge) addReplacement(at, message []byte) error {
	number, err := decodeNumber(message)
	e.replaces = append(e.replaces, replacement{at: bytes.Clone(at), number: number})
	return err
}

// erasAfter returns the eras after the one with a number.
func erasAfter(t *merge.Tables, number uint64) (eras []era, err error) {
	err = scanLocalFrom(t, localEra, numbered8(localEra, number+1), func(_, message []byte) error {
		e, err := decodeEra(message)
		eras = append(eras, e)
		return err
	})
	return eras, err
}

// view runs fn in a read transaction. Afterwards the hub knows everything that the transaction has
// seen. The hub has started then.
func (h *Hub) view(ctx context.Context, fn func(*merge.Tables) error) error {
	for {
		if err := h.start(ctx); err != nil {
			return err
		}
		back, err := h.catchUp(ctx, fn)
		if err != nil || !back {
			return err
		}
	}
}

// catchUp is view for a hub that need not have started. It reports whether the store went back.
// Then fn may not have run, and the hub has to be started.
func (h *Hub) catchUp(ctx context.Context, fn func(*merge.Tables) error) (back bool, err error) {
	h.mu.Lock()
	from := h.known
	h.mu.Unlock()
	var r reading
	err = h.store.View(ctx, func(t *merge.Tables) (err error) {
		if r, err = h.read(t, from, false); err != nil || r.back || fn == nil {
			return err
		}
		return fn(t)
	})
	if err != nil {
		return false, err
	}
	return h.apply(r), nil
}

// apply makes what was read the memory of the hub. It reports whether the store went back.
func (h *Hub) apply(r reading) (back bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.from.lives != h.known.lives {
		return true // somebody has found out before
	}
	if r.back {
		h.goBack(r)
		return true
	}
	h.known.head = max(h.known.head, r.head)
	h.floor = max(h.floor, r.floor)
	if r.news <= h.known.news && !r.whole {
		return false
	}
	h.take(r)
	return false
}

// take takes what was read, unless the hub knows more already. The caller holds mu.
func (h *Hub) take(r reading) {
	if r.news < h.known.news {
		return
	}
	if n := r.known.eras - h.known.eras; n > 0 {
		h.eras = append(h.eras, r.eras[max(0, len(r.eras)-int(min(n, keptEras))):]...)
		h.eras = h.eras[max(0, len(h.eras)-keptEras):]
	}
	for id, stored := range r.edges {
		e := h.edges[id]
		if stored == nil {
			h.forgetEdge(e)
			continue
		}
		if e == nil {
			e = &edge{edgeRecord: stored.edgeRecord}
			h.edges[id] = e
		}
		e.learn(stored.edgeRecord)
		e.replaces = stored.replaces
	}
	for id, e := range h.edges {
		if r.whole && r.edges[id] == nil {
			h.forgetEdge(e)
		}
	}
	head := h.known.head
	h.known = r.known
	h.known.head = max(head, r.head)
}

// forgetEdge forgets an edge that was dropped, and ends its stream. The caller holds mu.
func (h *Hub) forgetEdge(e *edge) {
	if e == nil {
		return
	}
	delete(h.edges, e.id)
	if e.feed != nil {
		e.feed.end()
	}
}

// goBack takes what was read of a store that went back. All streams end, because their positions
// are those of other commits. The cursors of the present era, too, may name commits that the store
// does not have any more, and has others in their places. So a new era begins where the last one
// began, and the edges compare. If another process has found out before, the era that it has drawn
// is new here, and is the one. The caller holds mu.
func (h *Hub) goBack(r reading) {
	for _, e := range h.edges {
		h.forgetEdge(e)
	}
	for id, stored := range r.edges {
		h.edges[id] = &edge{edgeRecord: stored.edgeRecord, replaces: stored.replaces}
	}
	isOld := slices.ContainsFunc(h.eras, func(e era) bool { return e.id == r.era })
	if isOld || len(r.eras) == 0 {
		h.started, h.wentBack, h.openedAt = false, true, 0
		if n := len(r.eras); n > 0 {
			h.openedAt = r.eras[n-1].began
		}
	}
	h.eras, h.floor, h.batches.results, h.batches.order = r.eras, r.floor, nil, nil
	if h.markUnseen(); !isOld && len(h.eras) > 0 {
		h.eras[len(h.eras)-1].unseen = false
	}
	h.secret.Store(&r.secret)
	h.index.outdated.Store(true)
	h.known = r.known
	h.known.lives++
}
