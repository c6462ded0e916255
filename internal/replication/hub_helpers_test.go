package replication_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

var day0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// a site is a store, its engine, and the time by which it lives.
type site struct {
	*latchkey.Store
	t      testing.TB
	engine latchkey.Engine
	now    time.Time
}

func openSite(t testing.TB, engine latchkey.Engine, domain latchkey.DomainSecrets) *site {
	t.Helper()
	s := &site{t: t, engine: engine, now: day0}
	var err error
	s.Store, err = latchkey.OpenWith(engine, &latchkey.Options{
		Cost: latchkey.LightCost, TestClock: true, Now: func() time.Time { return s.now }, Domain: domain,
	})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// below returns the store as replication sees it.
func (s *site) below() access.Store { return access.Of(s.Store) }

func (s *site) user(name, group string) latchkey.User {
	s.t.Helper()
	u, err := s.CreateUser(s.t.Context(), latchkey.UserSpec{
		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: name}, Group: group,
	})
	must(s.t, err)
	return u
}

func (s *site) key(owner uuid.UUID, name string) latchkey.Key {
	s.t.Helper()
	k, _, err := s.CreateKey(s.t.Context(), owner, latchkey.KeySpec{Name: name})
	must(s.t, err)
	return k
}

func (s *site) serverKey(name, group string, scopes ...string) latchkey.Key {
	s.t.Helper()
	k, _, err := s.CreateServerKey(s.t.Context(), latchkey.KeySpec{Name: name, Group: group, Scopes: latchkey.NewScopes(scopes...)})
	must(s.t, err)
	return k
}

// copy returns a copy of what the store has of a record.
func (s *site) copy(table string, key []byte) record.Copy {
	s.t.Helper()
	c := record.Copy{Domain: s.DomainID(), Table: table, Key: key}
	must(s.t, s.below().View(s.t.Context(), func(t *merge.Tables) (err error) {
		c.Sealed, err = t.Get(table, key)
		return err
	}))
	if c.Sealed == nil {
		s.t.Fatalf("the store does not have the record %s/%x", table, key)
	}
	return c
}

// has returns all live records and tombstones of a store that travel, as a list.
func (s *site) has(tables ...string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	must(s.t, s.below().View(s.t.Context(), func(t *merge.Tables) error {
		for _, table := range tables {
			for e, err := range t.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				if goes, err := t.Travels(table, e.Key, e.Value); err != nil || !goes {
					continue
				}
				all[table+"/"+string(e.Key)] = string(e.Value)
			}
		}
		return nil
	}))
	return all
}

var liveTables = []string{record.TableUsers, record.TableKeys, record.TableGroups}

// a world is a hub.
type world struct {
	*site
	hub *replication.Hub
	o   replication.HubOptions
}

func newWorld(t testing.TB, o replication.HubOptions) *world {
	return openWorld(t, memory.NewEngine(), o)
}

func openWorld(t testing.TB, engine latchkey.Engine, o replication.HubOptions) *world {
	t.Helper()
	w := &world{site: openSite(t, engine, latchkey.DomainSecrets{}), o: o}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	w.o.Random = rand.Reader
	var err error
	w.hub, err = replication.OpenHub(w.t.Context(), w.below(), w.o)
	must(w.t, err)
}

// a till is an edge that does what it is told, without any state but a cursor.
type till struct {
	*site
	w      *world
	id     uuid.UUID
	cursor replication.Cursor
	policy replication.Policy
	signed map[string]replication.Record
	got    []replication.Message // all messages that ever came
	how    replication.How
	feed   *replication.Feed
	me     uuid.UUID
	last   uuid.UUID    // what was made here last
	made   *record.Copy // what no call would make
}

func (w *world) join(push replication.Push, groups ...string) *till {
	w.t.Helper()
	k := w.serverKey("edge "+uuid.NewString(), "", "latchkey:replica")
	must(w.t, w.hub.AddEdge(w.t.Context(), k.ID, "till", replication.Policy{Groups: groups, Push: push}, w.now))
	s := openSite(w.t, memory.NewEngine(), w.DomainSecrets())
	must(w.t, s.below().Share(w.t.Context()))
	return &till{
		site: s, w: w, id: k.ID, me: uuid.New(),
		signed: map[string]replication.Record{},
	}
}

func (e *till) hello() *replication.Feed {
	e.t.Helper()
	f, err := e.w.hub.Hello(e.t.Context(), e.id, replication.Hello{
		Formats: []uint64{1}, Build: "test", Instance: e.me, Replica: e.ReplicaID(), Cursor: e.cursor, Policy: e.policy.Version,
	}, e.w.now)
	must(e.t, err)
	e.feed, e.how, e.policy = f, f.Welcome.How, f.Welcome.Policy
	return f
}

// next takes one batch.
func (e *till) next(most int) *replication.Batch {
	e.t.Helper()
	b, err := e.feed.Next(e.t.Context(), most)
	must(e.t, err)
	must(e.t, e.take(b.Messages...))
	return b
}

// drain takes everything that there is, and acknowledges it.
func (e *till) drain() {
	e.t.Helper()
	for range 10_000 {
		if b := e.next(2000); b.End || !b.More {
			e.push(replication.PushRequest{})
			return
		}
	}
	e.t.Fatal("the feed does not end")
}

// sync says Hello, compares if it must, and takes everything.
func (e *till) sync() {
	e.t.Helper()
	for range 4 {
		e.hello()
		if e.how != replication.CompareFirst {
			e.drain()
			return
		}
		e.compare(nil)
	}
	e.t.Fatal("the edge has to compare again and again")
}

// push pushes, and returns why the hub refused.
func (e *till) push(r replication.PushRequest) string {
	e.t.Helper()
	r.Cursor, r.Policy = e.cursor, e.policy.Version
	reply, err := e.w.hub.Push(e.t.Context(), e.id, r, e.w.now)
	must(e.t, err)
	if reply.Policy != 0 {
		return fmt.Sprintf("policy %d", reply.Policy)
	}
	return reply.Refused
}

// compare goes through a comparison, and returns what the hub wanted. own are the records that the
// edge has changed itself.
func (e *till) compare(own map[string]bool) (wanted []replication.Item) {
	e.t.Helper()
	r := replication.CompareRequest{Cursor: e.cursor, Policy: e.policy.Version}
	sums := map[string]*replication.Summary{}
	var items []replication.Item
	must(e.t, e.below().View(e.t.Context(), func(t *merge.Tables) error {
		for _, table := range record.TrackedTables() {
			for entry, err := range t.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				at := table + "/" + string(entry.Key)
				i := replication.Item{Table: table, Key: entry.Key, Hash: replication.HashOf(table, entry.Key, entry.Value), Own: own[at]}
				_, i.Signed = e.signed[at]
				items = append(items, i)
				if table != record.TableDeadKeys && table != record.TableDeadUsers {
					n := fmt.Sprint(table, replication.RangeOf(table, entry.Key))
					if sums[n] == nil {
						sums[n] = &replication.Summary{Table: table, Range: replication.RangeOf(table, entry.Key)}
					}
					sums[n].Add(i.Hash)
				}
			}
		}
		return nil
	}))
	for _, s := range sums {
		r.Summaries = append(r.Summaries, *s)
	}
	reply, err := e.w.hub.Compare(e.t.Context(), e.id, r)
	must(e.t, err)
	if reply.Refused != "" {
		e.t.Fatal(reply.Refused)
	}
	mark := reply.Messages[0].(replication.Mark)
	if len(reply.Differ) > 0 {
		differ := map[string]bool{}
		r := replication.CompareRequest{Cursor: e.cursor, Policy: e.policy.Version, Listed: reply.Differ}
		for _, d := range reply.Differ {
			differ[fmt.Sprint(d.Table, d.Range)] = true
		}
		for _, i := range items {
			live := map[string]string{record.TableDeadKeys: record.TableKeys, record.TableDeadUsers: record.TableUsers}[i.Table]
			if live == "" {
				live = i.Table
			}
			if differ[fmt.Sprint(live, replication.RangeOf(live, i.Key))] {
				r.Items = append(r.Items, i)
			}
		}
		reply, err := e.w.hub.Compare(e.t.Context(), e.id, r)
		must(e.t, err)
		must(e.t, e.take(reply.Messages...))
		wanted = reply.Wanted
	}
	e.cursor = mark.At
	return wanted
}

// take applies messages.
func (e *till) take(messages ...replication.Message) error {
	e.got = append(e.got, messages...)
	return e.below().Update(e.t.Context(), func(t *merge.Tables) error {
		for _, m := range messages {
			var err error
			switch m := m.(type) {
			case replication.Entry:
				err = t.PutEntries(m.Table, []merge.Entry{{Key: m.Key, Value: m.Value}})
				if m.MAC != nil {
					c := record.Copy{Domain: e.DomainID(), Table: m.Table, Key: m.Key, Sealed: m.Value}
					e.signed[m.Table+"/"+string(m.Key)] = replication.Record{Copy: c, MAC: m.MAC}
				}
			case replication.Record:
				if m.MAC != nil {
					e.signed[m.Copy.Table+"/"+string(m.Copy.Key)] = m
				}
				for more := true; more && err == nil; {
					more, err = t.Record(m.Copy)
				}
			case replication.Replace:
				err = t.Replace(m.Copy)
			case replication.Forget:
				err = t.Forget(m.Table, m.Key)
			case replication.Mark:
				e.cursor = m.At
			case replication.NewPolicy:
				e.policy = m.Policy
			}
			if err != nil {
				return fmt.Errorf("%T %+v: %w", m, m, err)
			}
		}
		return nil
	})
}

// names reports whether a message names an ID in any way.
func names(m replication.Message, id []byte) bool {
	switch m := m.(type) {
	case replication.Entry:
		return bytes.Contains(m.Key, id) || bytes.Contains(m.Value, id)
	case replication.Record:
		return bytes.Contains(m.Copy.Key, id) || bytes.Contains(m.Copy.Sealed, id)
	case replication.Replace:
		return bytes.Contains(m.Copy.Key, id) || bytes.Contains(m.Copy.Sealed, id)
	case replication.Forget:
		return bytes.Contains(m.Key, id)
	}
	return false
}

// heardOf reports whether any message that ever came names an ID.
func (e *till) heardOf(id []byte) bool {
	for _, m := range e.got {
		if names(m, id) {
			return true
		}
	}
	return false
}

// wantLike fails the test unless the edge has the live records of the hub that it is to have.
func (e *till) wantLike(keys ...string) {
	e.t.Helper()
	got, hub := e.has(liveTables...), e.w.has(liveTables...)
	want := map[string]string{}
	for _, k := range keys {
		if hub[k] == "" {
			e.t.Errorf("the hub does not have %q itself", k)
		}
		want[k] = hub[k]
	}
	for k := range want {
		if got[k] != want[k] {
			e.t.Errorf("the edge has another version of %q, or none", k)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			e.t.Errorf("the edge has %q, and should not", k)
		}
	}
}

func at(table string, id uuid.UUID) string { return table + "/" + string(id[:]) }

func usersAt(u latchkey.User) string { return at(record.TableUsers, u.ID) }
func keysAt(k latchkey.Key) string   { return at(record.TableKeys, k.ID) }
