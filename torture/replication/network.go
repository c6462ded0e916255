package replication

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// This file carries what hub and edges say to each other, and says what each message must do.

// A line is an open stream from the hub to an edge.
type line struct {
	feed  *core.Feed
	queue []core.Message // on its way
	idle  bool           // the hub has said everything
	asked *core.CompareRequest
}

// hangUp ends the line of an edge. The hub hears of that now or never.
func (n *node) hangUp() {
	if n.line != nil {
		n.line.feed.Close()
		n.line = nil
	}
}

// dial begins a line, and ends that of another device with the credential.
func (n *node) dial() error {
	n.hangUp()
	hello := n.edge.Hello()
	hello.Build, hello.Instance, hello.Follow = "simulated", n.instance, true
	n.bug.onHello(n, &hello)
	hello, err := carried(hello, core.DecodeHello)
	if err != nil {
		return err
	}
	var feed *core.Feed
	crashed, err := n.world.hub.attempt(func() (err error) {
		feed, err = n.world.hub.hub.Hello(n.ctx, n.credential, hello, n.world.hub.time())
		return err
	})
	if crashed || err != nil {
		return n.refusedBy(crashed, err)
	}
	for _, e := range n.edges {
		if e != n && e.credential == n.credential {
			e.line = nil
		}
	}
	n.world.era = feed.Welcome.At
	n.line, n.held = &line{feed: feed}, map[name]*state{}
	if err := n.send(feed.Welcome); err != nil {
		return err
	}
	if feed.Cloned {
		if err := n.send(core.Cloned{}); err != nil {
			return err
		}
	}
	n.logf("%s dials: how %d", n.label, feed.Welcome.How)
	return n.world.hub.settle(step{})
}

// refusedBy decides whether an error of the hub is a fault of the simulated world.
func (n *node) refusedBy(crashed bool, err error) error {
	n.hangUp()
	switch {
	case crashed:
		return n.world.hub.settle(step{})
	case errors.Is(err, core.ErrUnknownEdge) && n.unknown():
		return nil
	case errors.Is(err, core.ErrReplaced):
		return nil
	}
	return fmt.Errorf("the hub to %s: %w", n.label, err)
}

// send puts a message on its way to an edge.
func (n *node) send(m core.Message) error {
	m, err := core.ReadMessage(bytes.NewReader(core.AppendMessage(nil, m)))
	if err != nil {
		return fmt.Errorf("a message of the hub: %w", err)
	}
	n.line.queue = append(n.line.queue, n.bug.onTheWay(n, m)...)
	return nil
}

// carried returns what the other side reads of a body.
func carried[T interface{ Encode() []byte }](body T, decode func([]byte) (T, error)) (T, error) {
	read, err := decode(body.Encode())
	if err != nil {
		err = fmt.Errorf("a %T that was encoded: %w", body, err)
	}
	return read, err
}

// pull takes the next messages from the hub.
func (n *node) pull() error {
	batch, err := n.line.feed.Next(n.ctx, 1+n.random.IntN(4000))
	if err != nil {
		return n.refusedBy(n.world.hub.disk.crashed, err)
	}
	l := n.line
	for _, m := range batch.Messages {
		if err := n.send(m); err != nil {
			return err
		}
	}
	l.idle = len(batch.Messages) == 0 && !batch.More
	if l.idle {
		beat, err := l.feed.Beat(n.ctx, n.world.hub.time())
		if err != nil {
			return n.refusedBy(n.world.hub.disk.crashed, err)
		}
		if err := n.send(beat); err != nil {
			return err
		}
	}
	if batch.End && len(l.queue) == 0 {
		n.hangUp()
	}
	return nil
}

// deliver gives the first messages that are on their way to the edge.
func (n *node) deliver(count int) error {
	l := n.line
	messages := l.queue[:count]
	l.queue = l.queue[count:]
	s := n.expect(messages)
	for _, m := range messages {
		if e, ok := m.(core.Entry); ok && kinds[e.Table] != "" {
			at, is := n.copied(record.Copy{Table: e.Table, Key: e.Key, Sealed: e.Value})
			n.held[at] = is
		}
	}
	for at, is := range n.held {
		is = joined(n.state(at), is)
		s.merged[at], s.perhaps[at] = append(s.merged[at], is), true
		if at.kind == "key" && is.owner != latchkey.ServerOwner {
			s.merged[at] = append(s.merged[at], is.buried()) // if the owner is deleted
		}
		if at.kind == "user" && is.dead {
			for k := range n.content {
				if key := n.state(k); key.kind == "key" && string(key.owner[:]) == at.id {
					s.merged[k], s.perhaps[k] = append(s.merged[k], key.buried()), true
				}
			}
		}
	}
	n.brings = n.brings || isToBring(messages, n.edge.Hello().Cursor)
	var err error
	s.crashed, err = n.attempt(func() error { return n.edge.Receive(n.ctx, messages, n.clock()) })
	n.logf("%s receives%s: %v", n.label, describe(messages), err)
	if err != nil && !s.crashed {
		if !errors.Is(err, merge.ErrInvalid) { // which may end a first copy that then begins anew
			return fmt.Errorf("%s receives%s: %w", n.label, describe(messages), err)
		}
		n.hangUp()
		s.crashed = true
	}
	if s.crashed {
		for _, m := range messages {
			if f, ok := m.(core.Forget); ok {
				n.forget(nameOf(f.Table, f.Key))
			}
		}
		return n.settle(s)
	}
	var copies []record.Copy
	for _, m := range messages {
		if r, ok := m.(core.Record); ok {
			copies = append(copies, r.Copy)
		}
	}
	if err := n.bug.afterMerge(n, copies); err != nil {
		return err
	}
	if err := n.settle(s); err != nil {
		return err
	}
	n.remember(messages)
	return n.checkTime(messages)
}

// remember notes what has come with the hub's MAC, and what was forgotten.
func (n *node) remember(messages []core.Message) {
	for _, m := range messages {
		switch m := m.(type) {
		case core.Record:
			at, s := n.copied(m.Copy)
			if len(m.MAC) > 0 {
				n.signed[at] = joined(n.signed[at], s)
				delete(n.leaving, at)
			}
		case core.Replace:
			at := nameOf(m.Copy.Table, m.Copy.Key)
			gone := []name{at}
			for k, s := range n.signed {
				if len(m.Copy.Sealed) == 0 && at.kind == "user" && s.dead && string(s.owner[:]) == at.id {
					gone = append(gone, k)
				}
			}
			for _, k := range gone {
				switch {
				case !n.brings:
					n.drop(k)
				case len(m.Copy.Sealed) == 0 && n.signed[k] != nil:
					n.leaving[k] = true
				}
			}
		case core.Forget:
			n.forget(nameOf(m.Table, m.Key))
		}
	}
}

// forget notes that an edge was told to forget a record, and with a user the keys. The edge keeps
// no copy of what it does not get any more, so the hub can lose the record with its next backup.
// Only a hub that has perhaps lost it already gets the copy before the edge drops it.
func (n *node) forget(at name) {
	gone := []name{at}
	for k, s := range n.signed {
		if k.kind == "key" && at.kind == "user" && string(s.owner[:]) == at.id {
			gone = append(gone, k)
		}
	}
	for _, at := range gone {
		n.forgotten[at] = true
		if n.signed[at] == nil {
			continue
		}
		if n.leaving[at] = true; !n.brings {
			n.drop(at)
		}
	}
}

// drop notes that an edge has no copy with the hub's MAC any more.
func (n *node) drop(at name) {
	delete(n.signed, at)
	delete(n.leaving, at)
}

// bring notes that the hub has got copies with its MAC. They come in the order of their names.
func (n *node) bring(signed []core.Record) {
	for _, r := range signed {
		last := nameOf(r.Copy.Table, r.Copy.Key)
		if n.leaving[last] {
			n.drop(last)
		}
		if !slices.ContainsFunc(sorted(n.signed), last.isBefore) {
			n.brought()
		}
	}
}

// brought notes that the hub has got all copies with its MAC.
func (n *node) brought() {
	n.brings = false
	for _, at := range sorted(n.leaving) {
		n.drop(at)
	}
}

// isToBring reports whether a Welcome makes an edge with a cursor bring all that has the hub's MAC.
func isToBring(messages []core.Message, had core.Cursor) bool {
	return slices.ContainsFunc(messages, func(m core.Message) bool {
		w, ok := m.(core.Welcome)
		return ok && w.How == core.CompareFirst && had.Incarnation != uuid.Nil && (w.At.Incarnation != had.Incarnation || w.At.Era != had.Era)
	})
}

// checkTime returns an error unless an edge that has just heard the time has the hub's time.
func (n *node) checkTime(messages []core.Message) error {
	told := slices.ContainsFunc(messages, func(m core.Message) bool {
		switch m.(type) {
		case core.Welcome, core.Beat:
			return true
		}
		return false
	})
	off := n.time().Sub(n.world.hub.time()).Abs()
	if told && off > time.Minute {
		return fmt.Errorf("%s has heard the time, and is %v off", n.label, off)
	}
	return nil
}

func describe(messages []core.Message) (text string) {
	for _, m := range messages {
		switch m := m.(type) {
		case core.Record:
			text += fmt.Sprintf(" %s %s", m.Copy.Table, nameOf(m.Copy.Table, m.Copy.Key))
		case core.Replace:
			text += fmt.Sprintf(" replace %s %s", m.Copy.Table, nameOf(m.Copy.Table, m.Copy.Key))
		case core.Forget:
			text += fmt.Sprintf(" forget %s %s", m.Table, nameOf(m.Table, m.Key))
		case core.Entry:
			text += fmt.Sprintf(" entry %s", m.Table)
		default:
			text += fmt.Sprintf(" %T", m)
		}
	}
	return text
}

// states are what a node knows of its records while something is merged.
type states struct {
	*node
	now  map[name]*state
	gone map[name][]*state // by record, the states that it goes through
}

func (n *node) states() *states {
	s := &states{n, map[name]*state{}, map[name][]*state{}}
	for at := range n.content {
		s.now[at] = n.state(at)
	}
	return s
}

// set gives a record a state. nil means that it is gone.
func (s *states) set(at name, is *state) {
	if s.now[at] == is {
		return
	}
	s.now[at] = is
	s.gone[at] = append(s.gone[at], is)
}

// merge merges a version of a record, and what follows from that for other records.
func (s *states) merge(at name, theirs *state) { s.change(at, joined(s.now[at], theirs)) }

// push takes a version of a record that an edge pushes.
func (s *states) push(at name, theirs *state) {
	s.change(at, pushed(s.now[at], theirs, s.store.ReplicaID()))
}

func (s *states) change(at name, is *state) {
	s.set(at, is)
	for _, k := range sorted(s.now) {
		key := s.now[k]
		if k.kind != "key" || key == nil || key.dead {
			continue
		}
		of := name{"user", string(key.owner[:])}
		if k != at && of != at {
			continue // the hub has sent it in place of the edge's, and the owner is not decided
		}
		if owner := s.now[of]; owner != nil && owner.dead {
			s.set(k, key.buried())
		}
	}
}

// forget takes a record out, and a user with its keys. The keys go also where the user has not
// come, because the user moved while a first copy was under way.
func (s *states) forget(at name, dead bool) {
	was := s.now[at]
	if was != nil && was.dead == dead {
		s.set(at, nil)
	}
	if at.kind == "user" && !dead && (was == nil || !was.dead) {
		for _, k := range sorted(s.now) {
			if key := s.now[k]; k.kind == "key" && key != nil && !key.dead && string(key.owner[:]) == at.id {
				s.set(k, nil)
			}
		}
	}
}

// expect returns what messages of the hub must make of the records of an edge.
func (n *node) expect(messages []core.Message) step {
	perhaps := map[name]bool{}
	s := n.states()
	for _, m := range messages {
		switch m := m.(type) {
		case core.Record:
			s.merge(n.copied(m.Copy))
		case core.Replace:
			at, is := n.copied(m.Copy)
			if len(m.Copy.Sealed) > 0 {
				s.merge(at, is) // for now, if it has changed here again
				s.change(at, is)
				if n.brings && n.signed[at] != nil {
					s.merge(at, n.signed[at]) // which the hub has yet to get
				}
			} else { // also the keys of a user that has not come
				was := s.now[at]
				s.forget(at, was != nil && was.dead)
			}
			if at.kind == "user" && len(m.Copy.Sealed) == 0 { // the deletion was refused
				for _, k := range sorted(s.now) {
					if key := s.now[k]; k.kind == "key" && key != nil && key.dead && string(key.owner[:]) == at.id {
						s.set(k, nil)
					}
				}
			}
		case core.Forget:
			s.forget(nameOf(m.Table, m.Key), isDead(m.Table))
		}
	}
	for _, m := range messages {
		if r, ok := m.(core.Replace); ok {
			// Or not yet, because it has changed here again, also since the edge has listed it.
			at := nameOf(r.Copy.Table, r.Copy.Key)
			perhaps[at] = true
			for k := range s.gone {
				if key := n.state(k); key != nil && key.kind == "key" && string(key.owner[:]) == at.id {
					perhaps[k] = true
				}
			}
		}
	}
	return step{merged: s.gone, perhaps: perhaps}
}

// copied returns what is known of a copy.
func (w *world) copied(c record.Copy) (name, *state) {
	at := nameOf(c.Table, c.Key)
	return at, w.known[place{at, version{c.Table, string(c.Sealed)}}]
}

// give pushes what the hub does not know. The request or the reply can get lost.
func (n *node) give() (more bool, err error) {
	if n.chance(3) {
		n.edge.UsesDue()
	}
	var request core.PushRequest
	var pushing *core.Pushing
	crashed, err := n.attempt(func() (err error) {
		request, pushing, err = n.edge.Pending(n.ctx, 1+n.random.IntN(4000))
		return err
	})
	if crashed {
		return false, n.settle(step{crashed: true})
	}
	if err != nil {
		return false, fmt.Errorf("%s pushes: %w", n.label, err)
	}
	if request.IsEmpty() {
		n.brought()
	}
	more = len(request.Records)+len(request.Claims)+len(request.Signed)+len(request.Uses) > 0
	if n.faults && n.chance(8) {
		return false, nil // the request is lost
	}
	reply, ok, err := n.world.hub.take(n, request)
	if err != nil || !ok || n.faults && n.chance(8) {
		return false, err
	}
	if n.faults && n.chance(8) {
		// The request comes twice.
		if _, ok, err := n.world.hub.take(n, request); err != nil || !ok {
			return false, err
		}
	}
	if reply.Refused == "" && reply.Policy == 0 {
		n.bring(request.Signed)
	}
	gone, err := n.expectPushed(request)
	if err != nil {
		return false, err
	}
	gone.crashed, err = n.attempt(func() error { return n.edge.Pushed(n.ctx, pushing, reply) })
	crashed = gone.crashed
	if crashed {
		n.unheard = &request
	}
	if err != nil && !crashed {
		return false, fmt.Errorf("%s hears of its push: %w", n.label, err)
	}
	return more && reply.Policy == 0, n.settle(gone)
}

// expectPushed returns what an edge may do when the hub has taken a push: it forgets the records
// that are in no group of the edge. The hub has their revocations then.
func (n *node) expectPushed(request core.PushRequest) (step, error) {
	is, err := n.edge.Status(n.ctx)
	if err != nil {
		return step{}, err
	}
	s := n.states()
	copies := slices.Concat(request.Records, request.Claims)
	for _, r := range request.Signed {
		copies = append(copies, r.Copy)
	}
	perhaps := map[name]bool{}
	for _, c := range copies {
		at := nameOf(c.Table, c.Key)
		if r := s.now[at]; r != nil && !is.Policy.Has(n.groupOf(r)) {
			s.forget(at, false)
		}
	}
	for at := range s.gone {
		perhaps[at] = true
		n.forget(at)
	}
	return step{merged: s.gone, perhaps: perhaps}, nil
}

// take takes a push at the hub.
func (h *node) take(n *node, request core.PushRequest) (reply core.PushReply, ok bool, err error) {
	if request, err = carried(request, core.DecodePushRequest); err != nil {
		return reply, false, err
	}
	s := step{merged: h.expectPush(n, request)}
	s.crashed, err = h.attempt(func() (err error) {
		reply, err = h.hub.Push(h.ctx, n.credential, request, h.time())
		return err
	})
	if err != nil && !s.crashed {
		return reply, false, n.refusedBy(false, err)
	}
	if reply, err = carried(reply, core.DecodePushReply); err != nil {
		return reply, false, err
	}
	h.logf("%s pushes %d records, %d claims, %d signed, %d uses: %q", n.label, len(request.Records), len(request.Claims), len(request.Signed), len(request.Uses), reply.Refused)
	if s.crashed {
		return reply, false, h.settle(s)
	}
	if reply.Refused != "" || reply.Policy != 0 {
		s.merged = nil
	} else if err := h.bug.afterMerge(h, slices.Concat(request.Records, request.Uses)); err != nil {
		return reply, false, err
	}
	if err := h.settle(s); err != nil {
		return reply, false, err
	}
	return reply, true, h.checkUses()
}

// checkUses returns an error if the hub has a last use that is in the future.
func (h *node) checkUses() error {
	for r, err := range h.store.LastUses(h.ctx, time.Time{}) {
		if err != nil {
			return err
		}
		c, err := record.DecodeCopy(r.Export())
		if err != nil {
			return err
		}
		message, err := record.Open(c.Table, c.Key, c.Sealed)
		if err != nil {
			return err
		}
		minute, err := record.DecodeLastUse(message)
		if err != nil {
			return err
		}
		if used := time.Unix(int64(minute)*60, 0); used.After(h.time()) {
			return fmt.Errorf("the hub has a last use at %s, and it is %s", used, h.time())
		}
	}
	return nil
}

// expectPush returns what a push must make of the records of the hub if it is taken.
func (h *node) expectPush(n *node, request core.PushRequest) map[name][]*state {
	s := h.states()
	for _, r := range request.Signed {
		s.merge(h.copied(r.Copy))
	}
	for _, c := range request.Records {
		s.push(h.copied(c))
	}
	return s.gone
}

// compare takes the next step of a comparison.
func (n *node) compare() (done bool, err error) {
	l := n.line
	if l.asked == nil {
		asked, err := n.edge.Compare(n.ctx)
		if err != nil {
			return false, fmt.Errorf("%s compares: %w", n.label, err)
		}
		l.asked = &asked
	}
	asked, err := carried(*l.asked, core.DecodeCompareRequest)
	if err != nil {
		return false, err
	}
	reply, err := n.world.hub.hub.Compare(n.ctx, n.credential, asked)
	if err != nil {
		return false, n.refusedBy(n.world.hub.disk.crashed, err)
	}
	if reply, err = carried(reply, core.DecodeCompareReply); err != nil {
		return false, err
	}
	n.logf("%s compares: %d ranges differ, %s, %d wanted %s", n.label, len(reply.Differ), describe(reply.Messages), len(reply.Wanted), reply.Refused)
	s := n.expect(reply.Messages)
	var next *core.CompareRequest
	s.crashed, err = n.attempt(func() (err error) {
		next, err = n.edge.Compared(n.ctx, *l.asked, reply, n.clock())
		return err
	})
	if errors.Is(err, core.ErrAgain) {
		n.hangUp()
		return false, n.settle(s)
	}
	if err != nil && !s.crashed {
		return false, fmt.Errorf("%s compares: %w", n.label, err)
	}
	l.asked = next
	var copies []record.Copy
	for _, m := range reply.Messages {
		switch m := m.(type) {
		case core.Record:
			copies = append(copies, m.Copy)
		case core.Forget:
			n.forget(nameOf(m.Table, m.Key))
		}
	}
	if !s.crashed {
		if err := n.bug.afterMerge(n, copies); err != nil {
			return false, err
		}
	}
	return next == nil, n.settle(s)
}
