package replication

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// saveAtOnce is how many edges one transaction of Save writes.
const saveAtOnce = 64

// A process that serves edges says so each time it saves. It is believed for staysAlive, and its
// record goes after forgetProcess.
const (
	staysAlive    = 15 * time.Minute
	forgetProcess = 24 * time.Hour
)

// Save writes what the hub has learned of its edges since the last Save, such as their cursors. It
// is to be called every few minutes, and before the store is closed. A loss costs nothing but time.
// What another process has written stays, as far as it is newer.
func (h *Hub) Save(ctx context.Context, now time.Time) error {
	if err := h.hearOthers(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	var unsaved []uuid.UUID
	for id, e := range h.edges {
		if e.changes != e.saved {
			unsaved = append(unsaved, id)
		}
	}
	h.mu.Unlock()
	slices.SortFunc(unsaved, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for chunk := range slices.Chunk(unsaved, saveAtOnce) {
		if err := h.saveSome(ctx, chunk); err != nil {
			return err
		}
	}
	return h.sayAlive(ctx, now)
}

func (h *Hub) saveSome(ctx context.Context, ids []uuid.UUID) error {
	h.mu.Lock()
	unsaved := map[uuid.UUID]edge{}
	process := h.process
	for _, id := range ids {
		if e := h.edges[id]; e != nil {
			unsaved[id] = *e
		}
	}
	h.mu.Unlock()
	var written map[uuid.UUID]edgeRecord
	err := h.store.Update(ctx, func(t *merge.Tables) error {
		written = map[uuid.UUID]edgeRecord{}
		for _, id := range ids {
			has, found := unsaved[id]
			if !found {
				continue
			}
			stored, err := readStoredEdge(t, id)
			if err != nil {
				return err
			}
			if stored == nil {
				continue // it was dropped
			}
			k := has.edgeRecord
			k.learn(stored.edgeRecord)
			k.policy, k.groupsAt = stored.policy, stored.groupsAt
			k.refusals = stored.refusals + has.refusedHere
			switch {
			case has.visits < stored.visits: // the edge has gone to another process
			case has.feed != nil:
				k.stream = process
			case k.stream == process:
				k.stream = uuid.Nil
			}
			if err := putEdge(t, k); err != nil {
				return err
			}
			written[id] = k
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, k := range written {
		if e := h.edges[id]; e != nil {
			e.learn(k)
			e.saved = unsaved[id].changes
			e.refusedHere -= unsaved[id].refusedHere
		}
	}
	return nil
}

// sayAlive writes that the process serves edges, and in which era, if there can be others.
func (h *Hub) sayAlive(ctx context.Context, now time.Time) error {
	h.mu.Lock()
	process, alive, era := h.process, maps.Clone(h.alive), h.known.era
	h.mu.Unlock()
	if process == uuid.Nil || !h.store.SharesEngine() {
		return nil
	}
	return h.store.Update(ctx, func(t *merge.Tables) error {
		gone := 0
		for id, at := range alive {
			if gone < saveAtOnce && now.Sub(at) > forgetProcess {
				gone++
				if err := t.Delete(record.TableReplica, processKey(id)); err != nil {
					return err
				}
			}
		}
		if err := putAlive(t, process, now); err != nil {
			return err
		}
		return noteReached(t, era)
	})
}

// noteReached writes how far the store has come in an era, if that is the present one.
func noteReached(t *merge.Tables, id uuid.UUID) error {
	state, err := readHubState(t)
	if err != nil {
		return err
	}
	last, err := lastEra(t)
	if err != nil || last.id != id {
		return err
	}
	last.reached = t.Sequence()
	return putLocal(t, numbered8(localEra, state.eras), last.encode())
}

func putAlive(t *merge.Tables, process uuid.UUID, now time.Time) error {
	var m record.Message
	m.Number(1, unixMilli(now))
	return putLocal(t, processKey(process), m)
}

func processKey(id uuid.UUID) []byte { return append([]byte(localProcess), id[:]...) }

// hearOthers reads what other processes have written of their edges, if there can be any. The
// news have everything that must be known at once.
func (h *Hub) hearOthers(ctx context.Context) error {
	if !h.store.SharesEngine() {
		return nil
	}
	var edges []edgeRecord
	var alive map[uuid.UUID]time.Time
	_, err := h.catchUp(ctx, func(t *merge.Tables) error {
		edges, alive = nil, map[uuid.UUID]time.Time{}
		err := scanLocal(t, localProcess, func(key, message []byte) error {
			id, err := record.DecodeID(key)
			if err != nil {
				return err
			}
			ms, err := decodeNumber(message)
			alive[id] = timeOf(ms)
			return err
		})
		if err != nil {
			return err
		}
		return scanLocal(t, localEdge, func(id, message []byte) error {
			k, err := decodeEdge(id, message)
			edges = append(edges, k)
			return err
		})
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if alive != nil {
		h.alive = alive
	}
	for _, k := range edges {
		if e := h.edges[k.id]; e != nil {
			e.learn(k)
			h.confirmQuiet(e)
		}
	}
	return nil
}

// streamsElsewhere reports whether another process has noted that it has a stream of an edge, and
// was alive a short time ago. The caller holds mu.
func (h *Hub) streamsElsewhere(e *edge, now time.Time) bool {
	return e.stream != uuid.Nil && e.stream != h.process && now.Sub(h.alive[e.stream]) <= staysAlive
}
