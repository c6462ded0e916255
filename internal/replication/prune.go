package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A tombstone has no date, because merging needs none. The hub notes once a day which commit was
// the last one, and so it knows how old a tombstone is at the least.

// dayApart is how far apart two notes are.
const dayApart = 24 * time.Hour

// pruneAtOnce is how many tombstones one transaction prunes, and lookAtOnce how many it reads.
const (
	pruneAtOnce = 64
	lookAtOnce  = 4096
)

// Prune deletes the tombstones that every edge has passed and that are older than
// [HubOptions].KeepTombstones. It is to be called once a day or more often, because it also notes
// how old the commits are.
//
// The tombstones of keys that came from outside the store stay, because their tokens may come
// again, and so do those of users whose IDs were derived from an identity.
func (h *Hub) Prune(ctx context.Context, now time.Time) (pruned int, err error) {
	if err := h.start(ctx); err != nil {
		return 0, err
	}
	if err := h.hearOthers(ctx); err != nil {
		return 0, err
	}
	passed, heard := h.passedBy(now)
	if err := h.Save(ctx, now); err != nil {
		return 0, err
	}
	old, when, err := h.commitBefore(ctx, now)
	if err != nil {
		return 0, err
	}
	if err := h.dropPruned(ctx, heard); err != nil {
		return 0, err
	}
	until := min(passed, old)
	for _, table := range []string{record.TableDeadKeys, record.TableDeadUsers} {
		var from []byte
		for more := true; more && until > 0; {
			var keys [][]byte
			err := h.store.View(ctx, func(t *merge.Tables) (err error) {
				keys, from, more, err = prunable(t, table, from, until)
				return err
			})
			if err != nil {
				return pruned, err
			}
			for len(keys) > 0 {
				done, looked, err := h.pruneSome(ctx, table, keys[:min(len(keys), pruneAtOnce)], until, when)
				if pruned += done; err != nil {
					return pruned, err
				}
				keys = keys[looked:]
			}
		}
	}
	return pruned, nil
}

// passedBy returns the sequence up to which every edge has everything, and the last piece of news
// that every edge has heard. It drops the edges that were silent for too long.
func (h *Hub) passedBy(now time.Time) (passed, heard uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	passed, heard = math.MaxUint64, math.MaxUint64
	for _, e := range h.edges {
		if e.feed == nil && !e.dropped && now.Sub(e.seen) > h.o.DropAfter && !h.streamsElsewhere(e, now) {
			e.dropped = true
			e.changes++
		}
		if !e.dropped {
			passed, heard = min(passed, e.confirmed), min(heard, e.heard)
		}
	}
	return passed, heard
}

// commitBefore returns a commit that is older than KeepTombstones, and when it had been made at
// the latest. It notes the present commit if the last note is a day old.
func (h *Hub) commitBefore(ctx context.Context, now time.Time) (sequence uint64, when time.Time, err error) {
	err = h.store.Update(ctx, func(t *merge.Tables) error {
		sequence, when = 0, time.Time{}
		var last time.Time
		var past [][]byte
		err := scanLocal(t, localDay, func(key, message []byte) error {
			at, err := decodeDay(message)
			if last = at; err == nil && len(key) == 8 && now.Sub(at) > h.o.KeepTombstones {
				sequence, when = binary.BigEndian.Uint64(key), at
				past = append(past, bytes.Clone(key))
			}
			return err
		})
		if err != nil {
			return err
		}
		for i, key := range past {
			if i < len(past)-1 { // the last one is needed until there is a later one
				if err := t.Delete(record.TableReplica, append([]byte(localDay), key...)); err != nil {
					return err
				}
			}
		}
		if !last.IsZero() && now.Sub(last) < dayApart {
			return nil
		}
		var m record.Message
		m.Number(1, unixMilli(now))
		return putLocal(t, numbered8(localDay, t.Sequence()), m)
	})
	return sequence, when, err
}

func decodeDay(message []byte) (at time.Time, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return at, err
		}
		if f.Num == 1 {
			at = timeOf(f.Number)
		}
	}
	return at, nil
}

// prunable returns tombstones of a table, behind a key, that are no later than a commit and need
// not stay, and how far it has looked.
func prunable(t *merge.Tables, table string, behind []byte, until uint64) (keys [][]byte, last []byte, more bool, err error) {
	var from []byte
	if behind != nil {
		from = append(bytes.Clone(behind), 0)
	}
	looked := 0
	for e, err := range t.Scan(table, from, nil) {
		if err != nil {
			return nil, nil, false, err
		}
		if looked++; looked > lookAtOnce {
			return keys, last, true, nil
		}
		last = e.Key
		at, err := t.SequenceOf(table, e.Key)
		if err != nil {
			return nil, nil, false, err
		}
		if at <= until && !stays(table, e.Key, e.Value) {
			keys = append(keys, e.Key)
		}
	}
	return keys, last, false, nil
}

// stays reports whether a tombstone must stay for good.
func stays(table string, key, sealed []byte) bool {
	if table == record.TableDeadUsers {
		// The ID of a user is derived from an identity unless the user was anonymous. A derived ID
		// has version 8, and the ID of an anonymous user begins with the time.
		id, err := uuid.FromBytes(key)
		return err != nil || id.Version() != 7
	}
	d, err := record.Unseal(table, key, sealed, record.DecodeKeyTombstone)
	return err != nil || d.Foreign
}

// pruneSome deletes some tombstones, at least the first one. It notes them, so that the edges hear
// of it. It returns how many are gone, and how many it has looked at.
func (h *Hub) pruneSome(ctx context.Context, table string, keys [][]byte, until uint64, when time.Time) (pruned, looked int, err error) {
	err = h.change(ctx, func(t *merge.Tables) error {
		floor, number := uint64(0), uint64(0)
		pruned, looked = 0, 0
		for _, key := range keys {
			if looked > 0 && t.Room() < roomForOne {
				break
			}
			looked++
			at, err := t.SequenceOf(table, key)
			if err != nil {
				return err
			}
			sealed, err := t.Get(table, key)
			if err != nil {
				return err
			}
			if sealed == nil || at > until || stays(table, key, sealed) {
				continue
			}
			if number == 0 {
				state, err := readHubState(t)
				if err != nil {
					return err
				}
				number = state.news + 1
			}
			var m record.Message
			m.Bytes(1, sealed)
			if err := putLocal(t, append(numbered8(localPruned, number), locate(table, key)...), m); err != nil {
				return err
			}
			if err := t.Forget(table, key); err != nil {
				return err
			}
			pruned, floor = pruned+1, max(floor, at)
		}
		if pruned == 0 {
			return nil
		}
		_, err := h.tell(t, uuid.Nil, func(s *hubState) {
			s.floor = max(s.floor, floor)
			if when.After(s.floorTime) {
				s.floorTime = when
			}
		})
		return err
	})
	return pruned, looked, err
}

// prunedIn returns what an edge gets of the tombstones that were pruned with the news after one
// number, up to another one.
func (h *Hub) prunedIn(t *merge.Tables, f *filter, since, until uint64) (messages []Message, err error) {
	if until <= since {
		return nil, nil
	}
	for e, err := range t.Scan(record.TableReplica, numbered8(localPruned, since+1), numbered8(localPruned, until+1)) {
		if err != nil {
			return nil, err
		}
		table, key := located(e.Key[len(localPruned)+8:])
		message, err := record.Open(record.TableReplica, e.Key, e.Value)
		if err != nil {
			return nil, err
		}
		sealed, err := fieldOf(message, 1)
		if err != nil {
			return nil, err
		}
		v, err := f.of(table, key, sealed)
		if err != nil {
			return nil, err
		}
		// If the tombstone has come back, it stays.
		back, err := t.Get(table, key)
		if err != nil {
			return nil, err
		}
		if v == send && back == nil {
			messages = append(messages, Forget{table, bytes.Clone(key)})
		}
	}
	return messages, nil
}

// fieldOf returns the bytes of a field.
func fieldOf(message []byte, number int) (value []byte, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return nil, err
		}
		if f.Num == number {
			value = f.Bytes
		}
	}
	return value, nil
}

// dropPruned deletes the notes of pruned tombstones of which every edge has heard.
func (h *Hub) dropPruned(ctx context.Context, heard uint64) error {
	for more := true; more; {
		more = false
		end := after(localPruned)
		if heard < math.MaxUint64 {
			end = numbered8(localPruned, heard+1)
		}
		var keys [][]byte
		read := func(t *merge.Tables) error {
			keys, more = nil, false
			for e, err := range t.Scan(record.TableReplica, []byte(localPruned), end) {
				if err != nil {
					return err
				}
				if len(keys) == pruneAtOnce {
					more = true
					break
				}
				keys = append(keys, e.Key)
			}
			return nil
		}
		if err := h.store.View(ctx, read); err != nil || len(keys) == 0 {
			return err
		}
		err := h.store.Update(ctx, func(t *merge.Tables) error {
			for _, key := range keys {
				if err := t.Delete(record.TableReplica, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
