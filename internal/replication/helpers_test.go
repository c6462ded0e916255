package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// now is the time of every device in these tests.
var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// openStore opens a store in memory that passes every check at the end of the test.
func openStore(t testing.TB, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	opts.Cost = latchkey.LightCost
	s, err := memory.Open(opts)
	must(t, err)
	t.Cleanup(func() {
		for finding := range s.Check(context.Background()) {
			t.Errorf("Check: %v", finding)
		}
		must(t, s.Close())
	})
	return s
}

// A source is a store that is the source of what an edge gets. It stands in for a hub.
type source struct {
	*latchkey.Store
	t      testing.TB
	secret []byte
	at     Cursor
}

func openSource(t testing.TB) *source {
	t.Helper()
	h := &source{t: t, secret: []byte("secret"), Store: openStore(t, &latchkey.Options{})}
	must(t, access.Of(h.Store).Share(t.Context()))
	h.at = Cursor{Incarnation: h.ReplicaID(), Era: uuid.UUID{1}}
	return h
}

// welcome returns the beginning of a stream of changes.
func (h *source) welcome(p Policy) Welcome {
	return Welcome{Format: Format, Time: now, Policy: p, Edge: uuid.UUID{7}, How: Resume, At: Cursor{Incarnation: h.at.Incarnation, Era: h.at.Era}}
}

// copies returns what the source has of all records that travel.
func (h *source) copies() (all []record.Copy) {
	h.t.Helper()
	must(h.t, access.Of(h.Store).View(h.t.Context(), func(t *merge.Tables) error {
		changes, err := t.ChangesAfter(merge.Position{}, t.Sequence(), 1<<20)
		if err != nil {
			return err
		}
		h.at.At = merge.Position{Sequence: t.Sequence()}
		copied, _, err := t.Copies(h.DomainID(), changes)
		for _, c := range copied {
			all = append(all, c.Copy)
		}
		return err
	}))
	return all
}

// records returns messages with all records, and a Mark.
func (h *source) records() (messages []Message) {
	h.t.Helper()
	for _, c := range h.copies() {
		messages = append(messages, h.signed(c))
	}
	return append(messages, Mark{h.at})
}

// signed returns the message of a record, with a MAC.
func (h *source) signed(c record.Copy) Record { return Record{c, macOf(h.secret, c)} }

// copyOf returns what a store has of a record, or nil.
func copyOf(t testing.TB, s *latchkey.Store, table string, key []byte) (c *record.Copy) {
	t.Helper()
	must(t, access.Of(s).View(t.Context(), func(tables *merge.Tables) error {
		sealed, err := tables.Get(table, key)
		if sealed != nil {
			c = &record.Copy{Domain: s.DomainID(), Table: table, Key: key, Sealed: sealed}
		}
		return err
	}))
	return c
}

// A device is an edge and its store.
type device struct {
	*Edge
	*latchkey.Store
	t      testing.TB
	faulty *faulty
}

var errFault = errors.New("the device lost its power")

// faulty is a store that loses its power in a transaction that writes.
type faulty struct {
	access.Store
	left   int  // transactions until then; below zero never
	commit bool // the last transaction commits all the same
	calls  int
}

func (f *faulty) Update(ctx context.Context, fn func(*merge.Tables) error) error {
	f.calls++
	if f.left == 0 {
		if f.commit {
			if err := f.Store.Update(ctx, fn); err != nil {
				return err
			}
			return errFault
		}
		return f.Store.Update(ctx, func(t *merge.Tables) error { return errors.Join(fn(t), errFault) })
	}
	f.left--
	return f.Store.Update(ctx, fn)
}

// openDevice opens an edge of the domain of a store.
func openDevice(t testing.TB, hub *latchkey.Store) *device {
	t.Helper()
	d := &device{t: t}
	d.Store = openStore(t, &latchkey.Options{Domain: hub.DomainSecrets(), OnChange: func(tx *latchkey.Tx, c latchkey.Change) error {
		tables := access.Tables(tx)
		if tables.Merging || d.Edge == nil {
			return nil
		}
		change := Change{User: c.User, Key: c.Key, Group: c.Group, Scopes: c.Scopes.All()}
		for _, a := range c.Actions {
			change.Actions = append(change.Actions, string(a))
		}
		return d.Changed(tables, change)
	}})
	d.faulty = &faulty{Store: access.Of(d.Store), left: -1}
	d.restart()
	return d
}

// restart opens the edge anew, on what is on disk.
func (d *device) restart() {
	d.t.Helper()
	d.faulty.left = -1
	e, err := OpenEdge(d.t.Context(), d.faulty)
	must(d.t, err)
	d.Edge = e
}

func (d *device) receive(messages ...Message) {
	d.t.Helper()
	must(d.t, d.Receive(d.t.Context(), messages, now))
}

// pending returns what the edge pushes next, in words, and takes it as taken.
func (d *device) pushes() (words []string) {
	d.t.Helper()
	for {
		r, p, err := d.Pending(d.t.Context(), 1<<20)
		must(d.t, err)
		if r.IsEmpty() {
			return words
		}
		words = append(words, inWords(r)...)
		must(d.t, d.Pushed(d.t.Context(), p, PushReply{}))
	}
}

func inWords(r PushRequest) (words []string) {
	for _, c := range r.Records {
		words = append(words, "record "+c.Table)
	}
	for _, c := range r.Claims {
		words = append(words, "claim "+c.Table)
	}
	for _, c := range r.Signed {
		words = append(words, "signed "+c.Copy.Table)
	}
	for _, c := range r.Uses {
		words = append(words, "use "+c.Table)
	}
	slices.Sort(words)
	return words
}

func wantWords(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func addUser(t testing.TB, s *latchkey.Store, name, group string) uuid.UUID {
	t.Helper()
	u, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: name}, Group: group})
	must(t, err)
	return u.ID
}

func addKey(t testing.TB, s *latchkey.Store, user uuid.UUID, name string) (uuid.UUID, string) {
	t.Helper()
	k, token, err := s.CreateKey(t.Context(), user, latchkey.KeySpec{Name: name})
	must(t, err)
	return k.ID, token
}

func wantLogin(t testing.TB, s *latchkey.Store, token string, want error) {
	t.Helper()
	if _, err := s.Login(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("login: %v, want %v", err, want)
	}
}

// contents returns what a store has of all live records that travel, by their names.
func contents(t testing.TB, s *latchkey.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, access.Of(s).View(t.Context(), func(tables *merge.Tables) error {
		for _, table := range merge.CopiedTables() {
			for e, err := range tables.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				if isTracked(table) {
					travels, err := tables.Travels(table, e.Key, e.Value)
					if err != nil {
						return err
					}
					if !travels {
						continue
					}
				}
				all[fmt.Sprintf("%s/%x", table, e.Key)] = string(e.Value)
			}
		}
		return nil
	}))
	return all
}

func wantSame(t testing.TB, a, b *latchkey.Store) {
	t.Helper()
	ours, theirs := contents(t, a), contents(t, b)
	for name, value := range ours {
		if !bytes.Equal([]byte(theirs[name]), []byte(value)) {
			t.Errorf("%s differs", name)
		}
	}
	for name := range theirs {
		if _, found := ours[name]; !found {
			t.Errorf("%s is at one only", name)
		}
	}
}

var allOfIt = Policy{Groups: []string{AllGroups}, Push: PushAll, Version: 1}

func withPush(p Push) Policy { return Policy{Groups: []string{AllGroups}, Push: p, Version: 1} }
