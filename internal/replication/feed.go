package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Feed is what a hub has for one edge, message by message. It is some two hundred bytes, and has
// no goroutine. One goroutine at a time may use it.
type Feed struct {
	// Welcome is the first message.
	Welcome Welcome
	// Cloned says that a stream of another device with the edge's credential was ended for this
	// one. Then the edge has to get a [Cloned].
	Cloned bool
	// Told says that the caller of Next hears of each commit. Then Next does not look whether there
	// are later commits than those of a batch that feeds share.
	Told bool

	hub  *Hub
	done chan struct{}

	// The mutex of the hub guards these.
	edge   *edge
	ended  bool
	at     merge.Position // behind what the feed has returned
	marked uint64         // the sequence of the last Mark that the feed has returned
	news   uint64         // the last piece of news of which the feed has told
	told   uint64         // the one in the last Mark

	// These are for the user of the feed alone.
	how     How
	policy  uint64 // the version of the policy that the edge knows
	tags    []byte // what tagsOf says of the tag secrets that the edge has
	copying string // the table of the first copy, or ""
	copyKey []byte
}

// A Batch is what [Feed.Next] returns. Feeds that have the same groups and the same position share
// the messages of their batches, so the messages must not be changed.
type Batch struct {
	Messages []Message
	// More says that there is more already. Otherwise the feed has returned everything up to the
	// commit At, and unless the feed is Told, there is nothing until a later one.
	More bool
	At   uint64
	// End says that the stream ends with the batch. The edge asks for another one.
	End bool

	bytes *encoded
}

// encoded are the bytes of the messages of a batch.
type encoded struct {
	once  sync.Once
	bytes []byte
}

// Encoded returns what encode returns of the messages. It calls encode once for all feeds that
// share the messages. The result must not be changed.
func (b *Batch) Encoded(encode func([]Message) []byte) []byte {
	if b.bytes == nil {
		return encode(b.Messages)
	}
	b.bytes.once.Do(func() { b.bytes.bytes = encode(b.Messages) })
	return b.bytes.bytes
}

// quietMark is how many commits that do not concern an edge pass until it gets a Mark all the same.
const quietMark = 1000

// Hello begins a feed. A feed of the edge that there was ends.
//
// Errors: [ErrUnknownEdge], [ErrFormat].
func (h *Hub) Hello(ctx context.Context, id uuid.UUID, hello Hello, now time.Time) (*Feed, error) {
	if !slices.Contains(hello.Formats, Format) {
		return nil, fmt.Errorf("%w: the edge reads %d, and the hub writes %d", ErrFormat, hello.Formats, Format)
	}
	if err := h.start(ctx); err != nil {
		return nil, err
	}
	if err := h.dropIdleClaims(ctx, id); err != nil {
		return nil, err
	}
	for {
		f, visit, err := h.hello(ctx, id, hello, now)
		if err != nil || f != nil {
			return f, err
		}
		if err := h.noteVisit(ctx, visit, now); err != nil {
			return nil, err
		}
	}
}

// hello begins a feed, or returns what the store must know of the edge before that.
func (h *Hub) hello(ctx context.Context, id uuid.UUID, hello Hello, now time.Time) (f *Feed, visit edgeRecord, err error) {
	var head, resets uint64
	var stored edgeRecord
	err = h.view(ctx, func(t *merge.Tables) (err error) {
		head = t.Sequence()
		if resets, err = resetsOf(t); err == nil {
			stored, err = edgeIn(t, id)
		}
		return err
	})
	if err != nil {
		return nil, visit, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.edges[id]
	if e == nil {
		return nil, visit, ErrUnknownEdge
	}
	e.learn(stored)
	h.resets = max(h.resets, resets)
	f = &Feed{hub: h, done: make(chan struct{}), edge: e, policy: e.policy.Version, tags: hello.Tags}
	c := hello.Cursor
	// The claims of a device that has joined again are those of another edge, and their refusals do
	// not reach the device.
	again := hello.Edge != uuid.Nil && hello.Edge != id
	var has Cursor // what the edge is known to have
	switch {
	case c.Incarnation == uuid.Nil && c.Era == uuid.Nil:
		f.how, f.copying = FirstCopy, merge.CopiedTables()[0]
		f.at = merge.Position{Sequence: head}
		c = h.cursorOf(e, f.at)
		c.Copying = f.copying
	case again || !h.fits(c, e, head):
		f.how = CompareFirst
		if again || !h.belongs(c, head) { // so that the edge brings what the hub may have lost
			c = h.cursorOf(e, merge.Position{Sequence: head})
		}
	case c.Copying != "":
		c.Era = h.era()
		f.how, f.at, f.copying, f.copyKey = FirstCopy, c.At, c.Copying, c.CopyKey
		if !slices.Contains(merge.CopiedTables(), c.Copying) {
			return nil, visit, fmt.Errorf("%w: a first copy does not have the table %q", ErrMessage, c.Copying)
		}
	default:
		c.Era = h.era()
		f.at, has = c.At, c
	}
	f.marked, f.news, f.told = f.at.Sequence, c.News, c.News
	// A hub that is alone has the visits of the edge in memory.
	moved := h.store.SharesEngine() && e.stream != h.process
	if moved || e.replica != hello.Replica || isBehind(has, e.cursor) {
		visit := e.edgeRecord
		visit.replica, visit.cursor, visit.confirmed, visit.heard, visit.stream = hello.Replica, has, confirmedBy(has.At), has.News, h.process
		return nil, visit, nil
	}
	if old := e.feed; old != nil {
		if e.instance != hello.Instance && !hello.follows(e.instance) {
			f.Cloned, e.cloned = true, now
		}
		old.end()
	}
	e.feed, e.instance = f, hello.Instance
	e.changes++
	if !now.Before(e.seen) {
		e.build, e.seen = shortened(hello.Build), now
	}
	e.dropped = false
	if f.how == Resume {
		h.acknowledge(e, c, head)
	}
	f.Welcome = Welcome{Format: Format, Time: now, Resets: resets, Policy: e.policy.clone(), Edge: id, How: f.how, At: c}
	return f, visit, nil
}

// follows reports whether the device was opened as an instance before.
func (h Hello) follows(instance uuid.UUID) bool {
	return instance == h.Before || slices.Contains(h.Earlier, instance)
}

// noteVisit writes at once what other processes must know of an edge. Its replica ID tells which
// changes the edge has made itself. If the edge has less than it had confirmed, for example because
// it was restored from a backup, nobody may go on by what was confirmed, and a process from which
// the edge has gone cannot know.
func (h *Hub) noteVisit(ctx context.Context, visit edgeRecord, now time.Time) error {
	return h.store.Update(ctx, func(t *merge.Tables) error {
		k, err := edgeIn(t, visit.id)
		if err != nil {
			return err
		}
		k.replica, k.stream, k.visits = visit.replica, visit.stream, max(k.visits, visit.visits)+1
		k.cursor, k.confirmed, k.heard = visit.cursor, visit.confirmed, visit.heard
		if h.store.SharesEngine() {
			if err := putAlive(t, visit.stream, now); err != nil {
				return err
			}
		}
		return putEdge(t, k)
	})
}

func (p Policy) clone() Policy {
	p.Groups = slices.Clone(p.Groups)
	return p
}

// end ends the feed. The caller holds the mutex of the hub.
func (f *Feed) end() {
	if f.ended {
		return
	}
	f.ended = true
	close(f.done)
	if f.edge.feed == f {
		f.edge.feed = nil
		f.edge.changes++ // other processes hear that there is no stream
	}
}

// Done is closed when the feed has ended.
func (f *Feed) Done() <-chan struct{} { return f.done }

// Close says that the stream is over.
func (f *Feed) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.end()
}

// Beat returns the message by which the edge learns that the hub is there. It reads nothing.
//
// Errors: [ErrReplaced].
func (f *Feed) Beat(_ context.Context, now time.Time) (Beat, error) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.ended {
		return Beat{}, ErrReplaced
	}
	f.edge.seen = now
	return Beat{Time: now, Resets: f.hub.resets}, nil
}

// Next returns what comes next: messages of about most bytes, or more if a single change is larger.
//
// Errors: [ErrReplaced]; an error of the store. The feed can be used again after an error.
func (f *Feed) Next(ctx context.Context, most int) (*Batch, error) {
	h := f.hub
	h.mu.Lock()
	if f.ended {
		h.mu.Unlock()
		return nil, ErrReplaced
	}
	p, of := f.edge.policy, part{groupsAt: f.edge.groupsAt, after: f.at, news: f.news, most: most, lives: h.known.lives}
	h.mu.Unlock()
	of.groups = p.set()
	if p.Version != f.policy {
		over := of.groupsAt > f.policy
		f.policy = p.Version
		if over {
			f.how = CompareFirst
		}
		return &Batch{Messages: []Message{NewPolicy{p.clone()}}, More: true, End: over}, nil
	}
	switch {
	case f.how == CompareFirst:
		return &Batch{End: true}, nil
	case f.copying != "":
		return f.copy(ctx, p, of.groupsAt, most)
	}
	r, more, err := h.changes(ctx, of, p, f.Told)
	if errors.Is(err, errPruned) {
		f.how = CompareFirst
		return &Batch{End: true}, nil
	}
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	var waiting []replacement
	for _, w := range f.edge.replaces {
		if w.number > of.news && w.number <= r.mark.News {
			waiting = append(waiting, w)
		}
	}
	h.mu.Unlock()
	if other, err := f.hasOther(p); err != nil {
		return nil, err
	} else if other {
		return f.Next(ctx, most)
	}
	b := &Batch{Messages: r.messages, More: more, At: r.at.Sequence, bytes: &r.bytes}
	if !bytes.Equal(r.tags, f.tags) {
		b = b.with([]Message{Secrets{r.export}}, nil)
	}
	if len(waiting) > 0 {
		messages, err := f.replacements(ctx, p, waiting)
		if err != nil {
			return nil, err
		}
		b = b.with(nil, messages)
	}
	mark := len(r.messages) > 0
	if !mark && (len(b.Messages) > 0 || r.at.Sequence >= f.marked+quietMark) {
		mark = true
		b = b.with(nil, []Message{Mark{r.mark}})
	}
	f.tags = r.tags
	h.mu.Lock()
	defer h.mu.Unlock()
	f.at, f.news = r.at, r.mark.News
	if mark {
		f.marked, f.told = r.at.Sequence, r.mark.News
	} else if f.edge.feed == f {
		h.confirmQuiet(f.edge)
	}
	return b, nil
}

// with returns a batch of its own with more messages, which come before the Mark.
func (b *Batch) with(first, last []Message) *Batch {
	messages := slices.Concat(first, b.Messages)
	end := len(messages)
	if n := len(b.Messages); n > 0 {
		if _, marked := b.Messages[n-1].(Mark); marked {
			end--
		}
	}
	return &Batch{Messages: slices.Insert(messages, end, last...), More: b.More, At: b.At, End: b.End}
}

// replacements returns what the edge has to take from the hub in place of its own.
func (f *Feed) replacements(ctx context.Context, p Policy, waiting []replacement) (messages []Message, err error) {
	err = f.hub.store.View(ctx, func(t *merge.Tables) error {
		messages = nil
		for _, r := range waiting {
			these, err := f.hub.replacement(newFilter(t, p), r.at)
			if err != nil {
				return err
			}
			messages = append(messages, these...)
		}
		return nil
	})
	return messages, err
}

// replacement returns the messages by which an edge takes the hub's version of a record, and of the
// keys of a user: a deletion of the user at the edge has taken them along, also those that came to
// the hub later.
func (h *Hub) replacement(f *filter, at []byte) ([]Message, error) {
	table, key := located(at)
	for _, of := range []string{deadTable(table), table} {
		if of == "" {
			continue
		}
		sealed, err := f.t.Get(of, key)
		if err != nil {
			return nil, err
		}
		if sealed == nil {
			continue
		}
		m, err := h.record(f, of, key, sealed)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		messages := []Message{Replace(*m)}
		if of != record.TableUsers {
			return messages, nil
		}
		keys, err := h.keysOf(f, uuid.UUID(key))
		for _, k := range keys {
			messages = append(messages, Replace(k))
		}
		return messages, err
	}
	return []Message{Replace{Copy: record.Copy{Domain: h.store.DomainID(), Table: table, Key: key}}}, nil
}

// deadTable returns the table of the tombstones of a table, or "".
func deadTable(table string) string {
	switch table {
	case record.TableUsers:
		return record.TableDeadUsers
	case record.TableKeys:
		return record.TableDeadKeys
	}
	return ""
}

// record returns a record as an edge gets it, or nil if the edge does not get it.
func (h *Hub) record(f *filter, table string, key, sealed []byte) (*Record, error) {
	if goes, err := travels(f.t, table, key, sealed); err != nil || !goes {
		return nil, err
	}
	v, err := f.of(table, key, sealed)
	if err != nil || v != send {
		return nil, err
	}
	return h.signed(table, key, sealed)
}

// signed returns a record with its MAC, if the hub signs it.
func (h *Hub) signed(table string, key, sealed []byte) (*Record, error) {
	c := record.Copy{Domain: h.store.DomainID(), Table: table, Key: key, Sealed: sealed}
	mac, err := h.mac(c)
	return &Record{Copy: c, MAC: mac}, err
}

// mac returns the MAC of a record, or nil if the hub does not sign it.
func (h *Hub) mac(c record.Copy) ([]byte, error) {
	if signs, err := needsMAC(c.Table, c.Key, c.Sealed); err != nil || !signs {
		return nil, err
	}
	return macOf(*h.secret.Load(), c), nil
}

// hasOther reports whether the edge has another policy than p by now, which the transaction of a
// batch may have seen already. It returns ErrReplaced if the feed has ended.
func (f *Feed) hasOther(p Policy) (bool, error) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.ended {
		return false, ErrReplaced
	}
	return f.edge.policy.Version != p.Version, nil
}

// copy returns the next part of a first copy.
func (f *Feed) copy(ctx context.Context, p Policy, groupsAt uint64, most int) (*Batch, error) {
	h := f.hub
	b := &Batch{More: true}
	var last []byte
	var head uint64
	err := h.view(ctx, func(t *merge.Tables) error {
		head = t.Sequence()
		only := newFilter(t, p)
		page, err := t.CopyTable(f.copying, f.copyKey, most, func(table string, key, sealed []byte) (bool, error) {
			v, err := only.of(table, key, sealed)
			return v == send, err
		})
		if err != nil {
			return err
		}
		last = page.Last
		b.Messages = make([]Message, 0, len(page.Entries)+1) // and a Mark
		for _, e := range page.Entries {
			mac, err := h.mac(record.Copy{Domain: h.store.DomainID(), Table: f.copying, Key: e.Key, Sealed: e.Value})
			if err != nil {
				return err
			}
			b.Messages = append(b.Messages, Entry{Table: f.copying, Key: e.Key, Value: e.Value, MAC: mac})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if other, err := f.hasOther(p); err != nil {
		return nil, err
	} else if other {
		return f.Next(ctx, most)
	}
	f.copyKey = last
	if last == nil {
		tables := merge.CopiedTables()
		i := slices.Index(tables, f.copying)
		if f.copying = ""; i+1 < len(tables) {
			f.copying = tables[i+1]
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.cursor(f.at, groupsAt, f.news)
	c.Copying, c.CopyKey, c.Taken = f.copying, f.copyKey, head
	b.Messages = append(b.Messages, Mark{c})
	return b, nil
}

// A part names what feeds share: the changes behind a position for some groups.
type part struct {
	groups   string
	groupsAt uint64
	after    merge.Position
	news     uint64 // the last piece of news that has come
	most     int
	lives    uint64 // see known
}

// A result is what there is behind a position.
type result struct {
	messages []Message
	bytes    encoded
	at       merge.Position
	more     bool   // there was more when it was read
	news     uint64 // the last piece of news of which the messages tell
	mark     Cursor
	tags     []byte
	export   []byte
}

// batches are the last results, for feeds that come to the same position.
type batches struct {
	building sync.Mutex
	results  map[part]*result
	order    []part // the oldest first
}

// keptBatches is how many results are kept. Feeds that follow are at the same position, so there is
// one for each policy that names other groups.
const keptBatches = 64

// errPruned means that tombstones behind a position were pruned, so that their changes would be
// missing.
var errPruned = errors.New("tombstones behind the cursor were pruned")

// changes returns what comes behind a position, and reports whether there is more behind that. The
// changes of a commit are read, filtered and put into messages once for all feeds that have the
// same groups. If the feed is told of commits, a result that is there costs no transaction.
//
// Errors: errPruned; an error of the store.
func (h *Hub) changes(ctx context.Context, of part, p Policy, told bool) (r *result, more bool, err error) {
	var head uint64
	if r = h.shared(of); r == nil {
		h.batches.building.Lock()
		defer h.batches.building.Unlock()
		if r = h.shared(of); r == nil {
			return h.build(ctx, of, p)
		}
	}
	if told {
		return r, r.more, nil
	}
	// There may be commits that nobody has read.
	err = h.store.View(ctx, func(t *merge.Tables) error { head = t.Sequence(); return nil })
	return r, r.at != merge.Position{Sequence: head}, err
}

// build reads what comes behind a position, and keeps it for other feeds.
func (h *Hub) build(ctx context.Context, of part, p Policy) (r *result, more bool, err error) {
	var resets, head uint64
	err = h.view(ctx, func(t *merge.Tables) (err error) {
		if resets, err = resetsOf(t); err != nil {
			return err
		}
		head = t.Sequence()
		r, err = h.readChanges(t, of, p)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.more = r.at != merge.Position{Sequence: head}
	h.resets = max(h.resets, resets)
	r.mark = h.cursor(r.at, of.groupsAt, r.news)
	if len(r.messages) > 0 {
		r.messages = append(r.messages, Mark{r.mark})
	}
	if r.at == of.after {
		return r, r.more, nil // there will be something behind it
	}
	if h.batches.results == nil {
		h.batches.results = map[part]*result{}
	}
	h.batches.results[of] = r
	if h.batches.order = append(h.batches.order, of); len(h.batches.order) > keptBatches {
		delete(h.batches.results, h.batches.order[0])
		h.batches.order = slices.Delete(h.batches.order, 0, 1)
	}
	return r, r.more, nil
}

func (h *Hub) shared(of part) *result {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.batches.results[of]
}

// someChanges is how many changes are read at once.
const someChanges = 64

// readChanges reads what comes behind a position, without the Mark.
func (h *Hub) readChanges(t *merge.Tables, of part, p Policy) (r *result, err error) {
	head := t.Sequence()
	r = &result{at: of.after, news: of.news}
	state, err := readHubState(t)
	if err != nil {
		return nil, err
	}
	if of.after.Sequence < state.floor {
		return nil, errPruned
	}
	if r.tags, err = tagsOf(t); err != nil {
		return nil, err
	}
	secrets, err := record.ReadMeta(func(key []byte) ([]byte, error) { return t.Get(record.TableMeta, key) })
	if err != nil {
		return nil, err
	}
	r.export = secrets.Export()
	f, size := newFilter(t, p), 0
	for size < of.most && r.at != (merge.Position{Sequence: head}) {
		changes, err := t.ChangesAfter(r.at, head, someChanges)
		if err != nil {
			return nil, err
		}
		for chunk := range slices.Chunk(changes, someChanges) {
			copies, _, err := t.Copies(h.store.DomainID(), chunk)
			if err != nil {
				return nil, err
			}
			for _, c := range copies {
				messages, err := h.messages(f, c.Copy)
				if err != nil {
					return nil, err
				}
				r.messages = append(r.messages, messages...)
				size += sizeOf(messages)
				if r.at = c.At; size >= of.most {
					break
				}
			}
			if size >= of.most {
				break
			}
		}
		if size < of.most {
			r.at = merge.Position{Sequence: head}
			if n := len(changes); n >= someChanges {
				r.at.Sequence = changes[n-1].Sequence
			}
		}
	}
	if r.at != (merge.Position{Sequence: head}) {
		return r, nil
	}
	// A cursor with the news of the last commit must have all commits, too. So a hub that has the
	// commit of the cursor has the news.
	r.news = state.news
	pruned, err := h.prunedIn(t, f, of.news, r.news)
	r.messages = append(r.messages, pruned...)
	return r, err
}

// messages returns what an edge gets of a record that has changed.
func (h *Hub) messages(f *filter, c record.Copy) (messages []Message, err error) {
	v, err := f.of(c.Table, c.Key, c.Sealed)
	switch {
	case errors.Is(err, record.ErrDamaged):
		return nil, nil // so that damage of one record keeps back no other
	case err != nil || v == passOver:
		return nil, err
	case v == forget:
		return []Message{Forget{c.Table, c.Key}}, nil
	}
	r, err := h.signed(c.Table, c.Key, c.Sealed)
	if err != nil {
		return nil, err
	}
	messages = []Message{*r}
	if c.Table != record.TableUsers {
		return messages, nil
	}
	if moved, err := f.hasMoved(c.Key, c.Sealed); err != nil || !moved {
		return messages, err
	}
	keys, err := h.keysOf(f, uuid.UUID(c.Key))
	for _, k := range keys {
		messages = append(messages, k)
	}
	return messages, err
}

// keysOf returns the keys of a user, as far as an edge gets them.
func (h *Hub) keysOf(f *filter, user uuid.UUID) (keys []Record, err error) {
	for e, err := range f.t.Scan(record.TableNames, user[:], append(user[:], 0xff)) {
		if err != nil {
			return nil, err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			continue // a wrong entry, which is damage
		}
		sealed, err := f.t.Get(record.TableKeys, id[:])
		if err != nil {
			return nil, err
		}
		if sealed == nil {
			continue
		}
		r, err := h.record(f, record.TableKeys, id[:], sealed)
		if err != nil {
			return nil, err
		}
		if r != nil {
			keys = append(keys, *r)
		}
	}
	return keys, nil
}

func sizeOf(messages []Message) (size int) {
	for _, m := range messages {
		switch m := m.(type) {
		case Record:
			size += 64 + len(m.Copy.Sealed)
		default:
			size += 32
		}
	}
	return size
}
