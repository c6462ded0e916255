package replication

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// maxReply is about how many bytes of messages a reply to a comparison has.
const maxReply = 4 << 20

// Compare compares what an edge has with what it should have. It is for an edge whose cursor is of
// no use, because the hub was restored or because the edge was away for too long.
//
// If the hub does not have the cursor of the edge, it may have lost what the edge has. Then it
// wants everything that the edge may push, or that bears its MAC. Otherwise the hub is right about
// all that the edge has not changed itself.
//
// Errors: [ErrUnknownEdge], [ErrMessage]; an error of the store.
func (h *Hub) Compare(ctx context.Context, id uuid.UUID, r CompareRequest) (reply CompareReply, err error) {
	p, _, err := h.heard(ctx, id, r.Cursor, time.Time{})
	if err != nil {
		return reply, err
	}
	if r.Policy != p.Version {
		reply.Refused = "the edge has an outdated policy, so it must ask for a stream first"
		return reply, nil
	}
	h.index.mu.Lock()
	defer h.index.mu.Unlock()
	if err := h.index.update(ctx, h.store); err != nil {
		return reply, err
	}
	if len(r.Listed) == 0 {
		return h.compareSums(id, p, r)
	}
	return h.compareItems(ctx, id, p, r)
}

// compareSums is the first step. The caller holds the mutex of the index.
func (h *Hub) compareSums(id uuid.UUID, p Policy, r CompareRequest) (reply CompareReply, err error) {
	theirs := map[rangeOf]Summary{}
	for _, s := range r.Summaries {
		at := rangeOf{s.Table, s.Range}
		if _, twice := theirs[at]; twice || !slices.Contains(summed, s.Table) {
			return reply, bad("the sum of range %d of table %q, which is no table with sums or came twice", s.Range, s.Table)
		}
		theirs[at] = s
	}
	for _, table := range summed {
		for i := range 256 {
			at := rangeOf{table, byte(i)}
			ours, its := h.index.sum(at, p), theirs[at]
			if ours.Count != its.Count || ours.Sum != its.Sum {
				reply.Differ = append(reply.Differ, Summary{Table: table, Range: byte(i)})
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.edges[id]
	if e == nil {
		return reply, ErrUnknownEdge
	}
	e.compared, e.matched = e.seen, len(reply.Differ) == 0
	e.changes++
	reply.Messages = []Message{Mark{h.cursorOf(e, merge.Position{Sequence: h.index.at})}}
	return reply, nil
}

// compareItems is a later step. The caller holds the mutex of the index.
func (h *Hub) compareItems(ctx context.Context, id uuid.UUID, p Policy, r CompareRequest) (reply CompareReply, err error) {
	var listed []rangeOf
	items := map[rangeOf][]Item{}
	for _, s := range r.Listed {
		if at := (rangeOf{s.Table, s.Range}); slices.Contains(summed, s.Table) && !slices.Contains(listed, at) {
			listed = append(listed, at)
		} else {
			return reply, bad("range %d of table %q, which is no table with sums or came twice", s.Range, s.Table)
		}
	}
	for _, i := range r.Items {
		if !isTracked(i.Table) || len(i.Key) == 0 || i.Table != record.TableGroups && len(i.Key) != 16 {
			return reply, bad("an item %q/%x", i.Table, i.Key)
		}
		at := rangeOf{liveTable(i.Table), RangeOf(i.Table, i.Key)}
		items[at] = append(items[at], i)
	}
	h.mu.Lock()
	own := h.belongs(r.Cursor, h.index.at)
	h.mu.Unlock()
	err = h.store.View(ctx, func(t *merge.Tables) error {
		reply = CompareReply{}
		d := &differences{hub: h, t: t, policy: p, filter: newFilter(t, p), restored: !own, claimed: map[string]bool{}}
		if d.state, err = readHubState(t); err != nil {
			return err
		}
		claims, err := readClaims(t)
		if err != nil {
			return err
		}
		for _, c := range claims {
			if c.Edge == id {
				d.claimed[string(locate(liveTable(c.Copy.Table), c.Copy.Key))] = true
			}
		}
		for _, at := range listed {
			if d.size > maxReply {
				d.reply.More = true
				break
			}
			if err := d.compare(at, items[at]); err != nil {
				return err
			}
		}
		reply = d.reply
		return nil
	})
	return reply, err
}

// differences makes the reply to a later step of a comparison.
type differences struct {
	hub    *Hub
	t      *merge.Tables
	policy Policy
	filter *filter
	state  hubState
	// restored says that the hub may have lost what the edge has.
	restored bool
	// claimed are the records that the edge has claimed something of. They stay as they are at the
	// edge until an administrator has decided.
	claimed map[string]bool

	reply CompareReply
	size  int
}

// compare compares a range.
func (d *differences) compare(at rangeOf, items []Item) error {
	groups := d.hub.index.numbersOf(d.policy)
	has := d.hub.index.items[at]
	seen := map[string]bool{}
	for _, i := range items {
		if i.Table != at.table {
			continue // a tombstone, see below
		}
		seen[string(i.Key)] = true
		ours, found := has[string(i.Key)]
		found = found && ours.isIn(groups)
		var err error
		switch {
		case found && ours.hash == i.Hash:
		case found:
			err = d.differs(i)
		default:
			err = d.missing(i)
		}
		if err != nil {
			return err
		}
	}
	for _, i := range items {
		if i.Table == at.table {
			continue
		}
		seen[string(i.Key)] = true
		if err := d.dead(i, at.table); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(has)) {
		if seen[key] || !has[key].isIn(groups) {
			continue
		}
		if err := d.send(at.table, []byte(key), false); err != nil {
			return err
		}
	}
	return nil
}

// send adds the hub's record to the reply.
func (d *differences) send(table string, key []byte, replace bool) error {
	sealed, err := d.t.Get(table, key)
	if err != nil || sealed == nil {
		return err
	}
	r, err := d.hub.record(d.filter, table, key, sealed)
	if err != nil || r == nil {
		return err // it has changed since, and the stream will tell
	}
	d.size += 64 + len(sealed)
	if replace {
		d.reply.Messages = append(d.reply.Messages, Replace(*r))
	} else {
		d.reply.Messages = append(d.reply.Messages, *r)
	}
	return nil
}

func (d *differences) forget(i Item) {
	d.size += 32
	d.reply.Messages = append(d.reply.Messages, Forget{i.Table, i.Key})
}

func (d *differences) want(i Item) { d.reply.Wanted = append(d.reply.Wanted, i) }

func (d *differences) isClaimed(i Item) bool {
	return d.claimed[string(locate(liveTable(i.Table), i.Key))]
}

// differs is for a live record of which edge and hub have different versions.
func (d *differences) differs(i Item) error {
	// A hub that was restored cannot tell whether the edge knows of a revocation. If the edge may
	// not push what it has, it brings it as a claim, see takeClaims.
	claimed := d.isClaimed(i)
	wants := !claimed && (i.Own || d.restored)
	if wants {
		d.want(i)
	}
	// Nobody may know of what the edge has beyond that, for example of a claim that was refused.
	return d.send(i.Table, i.Key, !wants && !claimed)
}

// missing is for a live record of the edge that the hub does not have in the groups of the edge.
func (d *differences) missing(i Item) error {
	if dead := deadTable(i.Table); dead != "" {
		sealed, err := d.t.Get(dead, i.Key)
		if err != nil {
			return err
		}
		if sealed != nil {
			before := len(d.reply.Messages)
			if err := d.send(dead, i.Key, false); err != nil {
				return err
			}
			if len(d.reply.Messages) == before { // the edge does not get the tombstone
				d.forget(i)
			}
			return nil
		}
	}
	sealed, err := d.t.Get(i.Table, i.Key)
	if err != nil {
		return err
	}
	j := &judge{state: d.state}
	switch {
	case sealed != nil: // in another group
		d.forget(i)
	case i.Signed && d.restored, d.isClaimed(i):
		d.wantUnlessClaimed(i)
	case (i.Own || d.restored) && d.policy.Push == PushAll && !j.maybePruned(i.Table, i.Key, time.Time{}):
		d.want(i)
	default:
		d.forget(i)
	}
	return nil
}

func (d *differences) wantUnlessClaimed(i Item) {
	if !d.isClaimed(i) {
		d.want(i)
	}
}

// dead is for a tombstone of the edge.
func (d *differences) dead(i Item, live string) error {
	ours, err := d.t.Get(i.Table, i.Key)
	if err != nil {
		return err
	}
	if ours != nil {
		if HashOf(i.Table, i.Key, ours) != i.Hash {
			return d.send(i.Table, i.Key, false)
		}
		return nil
	}
	sealed, err := d.t.Get(live, i.Key)
	switch {
	case err != nil:
		return err
	case sealed != nil || i.Own || i.Signed && d.restored:
		d.wantUnlessClaimed(i)
	default:
		d.forget(i) // it was pruned
	}
	return nil
}
