package audit_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

func trailOf(chain audit.Chain) *audit.Trail { return audit.New(&audit.Options{Chain: chain}) }

// all returns the entries of all chains behind a position.
func all(t testing.TB, s *latchkey.Store, after audit.Position) (entries []audit.Entry) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.All(tx, after) {
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		return nil
	}))
	return entries
}

func heads(t testing.TB, s *latchkey.Store) (h []audit.Head) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) (err error) {
		h, err = audit.Heads(tx)
		return err
	}))
	return h
}

func verifyAll(t testing.TB, s *latchkey.Store, known ...audit.Head) error {
	t.Helper()
	return s.View(t.Context(), func(tx *latchkey.Tx) error { return audit.VerifyAll(tx, known...) })
}

func TestEachChainHasItsOwnEntries(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf(""), 1, 2)
	record(t, s, trailOf("shop-1"), 3, 5)
	record(t, s, trailOf("shop-10"), 6, 6)
	var got []string
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		chains, err := audit.Chains(tx)
		for _, c := range chains {
			must(t, c.Verify(tx))
			for e, err := range c.Entries(tx, 0) {
				must(t, err)
				if e.Chain != c {
					t.Errorf("chain %q has an entry of %q", c, e.Chain)
				}
				got = append(got, fmt.Sprintf("%s:%d:%s", c, e.Number, e.Change.Name))
			}
		}
		return err
	}))
	want := []string{":1:1", ":2:2", "shop-1:1:3", "shop-1:2:4", "shop-1:3:5", "shop-10:1:6"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if n := len(entries(t, s, 0)); n != 2 {
		t.Errorf("the default chain has %d entries, want 2", n)
	}
	must(t, verifyAll(t, s, heads(t, s)...))
}

func TestAStoreWithoutATrailHasNoChains(t *testing.T) {
	s := latchkeytest.New(t)
	if h := heads(t, s); len(h) != 0 || len(all(t, s, nil)) != 0 {
		t.Errorf("the heads are %v", h)
	}
	must(t, verifyAll(t, s))
}

func TestAChainBeginsAnewAndStaysInTheList(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf("shop-1"), 1, 3)
	before := heads(t, s)
	update(t, s, func(tx *latchkey.Tx) error { return tx.AppTable(audit.TableName).Delete([]byte("cshop-1")) })
	if h := heads(t, s); len(h) != 0 {
		t.Errorf("without the list, the heads are %v", h)
	}
	update(t, s, func(tx *latchkey.Tx) error { return audit.Chain("shop-1").Begin(tx, "ada") })
	update(t, s, func(tx *latchkey.Tx) error { return audit.Chain("shop-2").Begin(tx, "ada") })
	got := all(t, s, nil)
	if len(got) != 2 || got[0].Head().String() == got[1].Head().String() || got[0].Change.Actions[0] != audit.ActionBegun {
		t.Errorf("got %+v", got)
	}
	if h := heads(t, s); len(h) != 2 || h[0].Number != 5 || h[1].Number != 1 {
		t.Errorf("the heads are %v", h)
	}
	if err := verifyAll(t, s, before...); !errors.Is(err, audit.ErrPruned) {
		t.Errorf("got %v, want ErrPruned", err)
	}
}

func TestEachChainIsPrunedByItself(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf(""), 1, 20)
	record(t, s, audit.New(&audit.Options{Chain: "shop-1", MaxEntries: 4}), 1, 20)
	record(t, s, trailOf("shop-2"), 1, 20)
	update(t, s, func(tx *latchkey.Tx) error { return audit.Chain("shop-2").Prune(tx, 1) })
	count := map[audit.Chain]int{}
	for _, e := range all(t, s, nil) {
		count[e.Chain]++
	}
	if want := (map[audit.Chain]int{"": 20, "shop-1": 4, "shop-2": 1}); !maps.Equal(count, want) {
		t.Errorf("the chains have %v entries, want %v", count, want)
	}
	must(t, verifyAll(t, s, heads(t, s)...))
}

func TestAChainThatWasTamperedWithIsNamed(t *testing.T) {
	begin := func(t *testing.T) (*latchkey.Store, []audit.Head) {
		s := latchkeytest.New(t)
		for _, c := range []audit.Chain{"", "shop-1", "shop-2"} {
			record(t, s, trailOf(c), 1, 4)
		}
		return s, heads(t, s)
	}
	entry := func(n byte) []byte { return []byte("nshop-1\x00e\x00\x00\x00\x00\x00\x00\x00" + string(n)) }
	for _, tt := range []struct {
		about  string
		number uint64
		tamper func(table *latchkey.AppTable) error
	}{
		{"an entry that was altered", 3, func(table *latchkey.AppTable) error {
			v, err := table.Get(entry(2))
			must(t, err)
			return table.Put(entry(2), []byte(strings.Replace(string(v), `"ada"`, `"eve"`, 1)))
		}},
		{"an entry that was removed", 2, func(table *latchkey.AppTable) error { return table.Delete(entry(2)) }},
		{"the last entry", 4, func(table *latchkey.AppTable) error { return table.Delete(entry(4)) }},
		{"the whole chain", 1, func(table *latchkey.AppTable) error {
			for e, err := range table.Scan(nil, nil) {
				must(t, err)
				if strings.Contains(string(e.Key), "shop-1") {
					must(t, table.Delete(e.Key))
				}
			}
			return nil
		}},
		{"the entries of another chain", 4, func(table *latchkey.AppTable) error {
			for e, err := range table.Scan([]byte("nshop-2\x00"), []byte("nshop-2\x01")) {
				must(t, err)
				must(t, table.Put([]byte(strings.Replace(string(e.Key), "shop-2", "shop-1", 1)), e.Value))
			}
			return nil
		}},
	} {
		t.Run(tt.about, func(t *testing.T) {
			s, known := begin(t)
			if tt.about == "the entries of another chain" {
				record(t, s, trailOf("shop-1"), 9, 9) // so that the two differ
				known = heads(t, s)
				record(t, s, trailOf("shop-2"), 8, 8)
				tt.number = 5
			}
			update(t, s, func(tx *latchkey.Tx) error { return tt.tamper(tx.AppTable(audit.TableName)) })
			err := verifyAll(t, s, known...)
			wantBroken(t, tt.about, err, tt.number)
			var at *audit.BrokenError
			if !errors.As(err, &at) || at.Chain != "shop-1" || !strings.Contains(err.Error(), "chain shop-1: ") || strings.Contains(err.Error(), "shop-2") {
				t.Errorf("got %v, want an error of chain shop-1 alone", err)
			}
		})
	}
}

func TestEveryBrokenChainIsNamed(t *testing.T) {
	s := latchkeytest.New(t)
	for _, c := range []audit.Chain{"shop-1", "shop-2", "shop-3"} {
		record(t, s, trailOf(c), 1, 2)
	}
	update(t, s, func(tx *latchkey.Tx) error {
		table := tx.AppTable(audit.TableName)
		return errors.Join(table.Put([]byte("nshop-1\x00h"), []byte("short")), table.Delete([]byte("nshop-3\x00e\x00\x00\x00\x00\x00\x00\x00\x01")))
	})
	err := verifyAll(t, s)
	if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "chain shop-1: ") || !strings.Contains(err.Error(), "chain shop-3: entry 1: ") || strings.Contains(err.Error(), "shop-2") {
		t.Errorf("got %v", err)
	}
	if err := s.View(t.Context(), func(tx *latchkey.Tx) error {
		h, err := audit.Heads(tx)
		if len(h) != 2 || h[0].Chain != "shop-2" {
			t.Errorf("the heads are %v", h)
		}
		return err
	}); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("got %v, want ErrBroken", err)
	}
}

func TestAHeadOfAnotherChainIsRefused(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf("shop-1"), 1, 1)
	if err := verify(t, s, heads(t, s)...); !errors.Is(err, audit.ErrChain) {
		t.Errorf("got %v, want ErrChain", err)
	}
}

func TestTheNamesOfChains(t *testing.T) {
	for _, name := range []string{"", "a", "7", "shop-1.example.com", strings.Repeat("x", 64)} {
		if c, err := audit.ParseChain(name); err != nil || string(c) != name {
			t.Errorf("ParseChain(%q): got %q, %v", name, c, err)
		}
	}
	s := latchkeytest.New(t)
	for _, name := range []string{"Shop", "a b", "a/b", "a,b", "a:b", "-a", ".a", "a\x00", "ä", strings.Repeat("x", 65)} {
		c := audit.Chain(name)
		if _, err := audit.ParseChain(name); !errors.Is(err, audit.ErrChain) {
			t.Errorf("ParseChain(%q): got %v, want ErrChain", name, err)
		}
		for about, fn := range map[string]func(tx *latchkey.Tx) error{
			"Record":  func(tx *latchkey.Tx) error { return trailOf(c).Record(tx, change(1)) },
			"Begin":   func(tx *latchkey.Tx) error { return c.Begin(tx, "ada") },
			"Prune":   func(tx *latchkey.Tx) error { return c.Prune(tx, 1) },
			"Verify":  func(tx *latchkey.Tx) error { return c.Verify(tx) },
			"Head":    func(tx *latchkey.Tx) error { _, err := c.Head(tx); return err },
			"Entries": func(tx *latchkey.Tx) error { return lastError(c.Entries(tx, 0)) },
		} {
			if err := s.Update(t.Context(), fn); !errors.Is(err, audit.ErrChain) {
				t.Errorf("%s of %q: got %v, want ErrChain", about, name, err)
			}
		}
	}
	if h := heads(t, s); len(h) != 0 {
		t.Errorf("the chains %v have begun", h)
	}
}

func lastError(entries iter.Seq2[audit.Entry, error]) (last error) {
	for _, err := range entries {
		last = err
	}
	return last
}

func TestAHeadNamesItsChain(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf("shop-1"), 1, 3)
	h := heads(t, s)[0]
	text := h.String()
	if !strings.HasPrefix(text, "shop-1/3:") || len(text) != len("shop-1/3:")+64 {
		t.Errorf("the text of the head is %q", text)
	}
	if got, err := audit.ParseHead(text); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	for _, wrong := range []string{"/3:" + h.Hash.String(), "Shop/3:" + h.Hash.String(), "a/b/3:" + h.Hash.String(), "shop-1/3"} {
		if got, err := audit.ParseHead(wrong); err == nil {
			t.Errorf("ParseHead(%q): got %v", wrong, got)
		}
	}
}

func TestAllChainsAreOneListInTheOrderOfTheirTimes(t *testing.T) {
	s := latchkeytest.New(t)
	trails := []*audit.Trail{trailOf("b"), trailOf(""), trailOf("a")}
	const n = 400 // more than is read at once, of each chain
	for i := range n {
		c := change(i / 4 * 4)
		update(t, s, func(tx *latchkey.Tx) error { return trails[i*i%7%3].Record(tx, c) })
	}
	got := all(t, s, nil)
	if len(got) != n {
		t.Errorf("%d entries, want %d", len(got), n)
	}
	next := audit.Position{}
	for i, e := range got {
		if next[e.Chain]++; e.Number != next[e.Chain] {
			t.Fatalf("entry %d is %d of the chain %q, want %d", i, e.Number, e.Chain, next[e.Chain])
		}
		if i > 0 {
			before := got[i-1]
			if c := before.Change.Time.Compare(e.Change.Time); c > 0 || c == 0 && before.Chain > e.Chain {
				t.Fatalf("%v comes after %v", e, before)
			}
		}
	}
	if len(next) != 3 {
		t.Errorf("the list ends at %v", next)
	}
	// The list goes on from each place, by the text of the place.
	at := audit.Position{}
	for i, e := range got[:150] {
		at[e.Chain] = e.Number
		after, err := audit.ParsePosition(at.String())
		must(t, err)
		if rest := all(t, s, after); !reflect.DeepEqual(rest, got[i+1:]) {
			t.Fatalf("behind %v are %d entries, want %d", at, len(rest), n-i-1)
		}
	}
}

func TestALaterEntryWithAnEarlierTimeIsNotPassedOver(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf("a"), 5, 5)
	record(t, s, trailOf("b"), 1, 1) // by a process whose clock is late
	if got := all(t, s, audit.Position{"a": 1}); len(got) != 1 || got[0].Chain != "b" {
		t.Errorf("got %+v", got)
	}
}

func TestEntriesThatCannotBeReadComeAfterThoseOfOtherChains(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, trailOf("a"), 1, 3)
	record(t, s, trailOf("b"), 4, 6)
	update(t, s, func(tx *latchkey.Tx) error {
		return tx.AppTable(audit.TableName).Put([]byte("na\x00e\x00\x00\x00\x00\x00\x00\x00\x02"), []byte("damaged"))
	})
	var got []string
	err := s.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.All(tx, nil) {
			if err != nil {
				return err
			}
			got = append(got, e.Change.Name)
		}
		return nil
	})
	wantBroken(t, "all", err, 2)
	if !slices.Equal(got, []string{"1", "4", "5", "6"}) {
		t.Errorf("got %v", got)
	}
}

func TestPositions(t *testing.T) {
	for _, tt := range []struct {
		text string
		want audit.Position
	}{
		{"", audit.Position{}}, {"42", audit.Position{"": 42}}, {"a/1", audit.Position{"a": 1}},
		{"42,a/1,b.c/18446744073709551615", audit.Position{"": 42, "a": 1, "b.c": 1<<64 - 1}},
	} {
		if p, err := audit.ParsePosition(tt.text); err != nil || !maps.Equal(p, tt.want) || p.String() != tt.text {
			t.Errorf("ParsePosition(%q): got %v, %v", tt.text, p, err)
		}
	}
	for _, text := range []string{"x", "1,", ",1", "a/", "/1", "A/1", "a/b/1", "-1", "1 ", "18446744073709551616"} {
		if p, err := audit.ParsePosition(text); err == nil {
			t.Errorf("ParsePosition(%q): got %v", text, p)
		}
	}
}

// A spy is an engine that notes which records of trails the transactions read and write, as an
// optimistic engine does to find conflicts.
type spy struct {
	*memory.Shared

	mu    sync.Mutex // guards the fields below, because a store also writes by itself
	read  []span
	wrote map[string]bool
}

// forget begins anew.
func (s *spy) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read, s.wrote = nil, map[string]bool{}
}

// noted returns what was read and written since forget.
func (s *spy) noted() (read []span, wrote map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.read), maps.Clone(s.wrote)
}

// A span has the keys from ≤ key < to.
type span struct{ from, to string }

func (s *spy) Update(ctx context.Context, fn func(tx latchkey.EngineTx) error) error {
	return s.Shared.Update(ctx, func(tx latchkey.EngineTx) error { return fn(&spyTx{tx, s}) })
}

type spyTx struct {
	latchkey.EngineTx
	spy *spy
}

func (x *spyTx) Get(table string, key []byte) ([]byte, error) {
	x.note(table, key, append(slices.Clone(key), 0))
	return x.EngineTx.Get(table, key)
}

func (x *spyTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	x.note(table, from, to)
	return x.EngineTx.Scan(table, from, to)
}

func (x *spyTx) note(table string, from, to []byte) {
	if table == "data" {
		x.spy.mu.Lock()
		defer x.spy.mu.Unlock()
		x.spy.read = append(x.spy.read, span{string(from), string(to)})
	}
}

func (x *spyTx) Put(table string, key, value []byte) error {
	x.noteWrite(table, key)
	return x.EngineTx.Put(table, key, value)
}

func (x *spyTx) Delete(table string, key []byte) error {
	x.noteWrite(table, key)
	return x.EngineTx.Delete(table, key)
}

func (x *spyTx) noteWrite(table string, key []byte) {
	if table == "data" {
		x.spy.mu.Lock()
		defer x.spy.mu.Unlock()
		x.spy.wrote[string(key)] = true
	}
}

// conflict returns a record that one of two spies has read and the other one has written.
func conflict(a, b *spy) string {
	read, _ := a.noted()
	_, wrote := b.noted()
	for _, r := range read {
		for key := range wrote {
			if r.from <= key && key < r.to {
				return key
			}
		}
	}
	return ""
}

func TestChainsOfTwoProcessesHaveNoRecordInCommon(t *testing.T) {
	engine := memory.NewShared()
	open := func(e *memory.Shared, chain audit.Chain) (*latchkey.Store, *spy) {
		spied := &spy{Shared: e, wrote: map[string]bool{}}
		s, err := latchkey.OpenWith(spied, &latchkey.Options{
			Cost: latchkey.LightCost, OnChange: audit.New(&audit.Options{Chain: chain, MaxEntries: 3}).Record,
			Now: func() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) },
		})
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		return s, spied
	}
	a, spyA := open(engine, "a")
	b, spyB := open(engine.Open(), "b")
	for i := range 6 { // with the first entry of a chain, and with pruning
		spyA.forget()
		spyB.forget()
		addKey(t, a, fmt.Sprint("a", i))
		addKey(t, b, fmt.Sprint("b", i))
		_, byA := spyA.noted()
		_, byB := spyB.noted()
		if len(byA) < 2 || len(byB) < 2 {
			t.Fatalf("change %d wrote %q and %q", i, slices.Collect(maps.Keys(byA)), slices.Collect(maps.Keys(byB)))
		}
		if key := conflict(spyA, spyB) + conflict(spyB, spyA); key != "" {
			t.Errorf("change %d: both changes need the record %q", i, key)
		}
	}
	for _, s := range []*latchkey.Store{a, b} {
		must(t, verifyAll(t, s, heads(t, s)...))
		if got := all(t, s, nil); len(got) != 6 {
			t.Errorf("%d entries, want 6", len(got))
		}
	}
}
