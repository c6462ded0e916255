package audit_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// change returns a change that has its number in it.
func change(n int) latchkey.Change {
	return latchkey.Change{
		Actions: []latchkey.Action{latchkey.ActionKeyRenamed}, Time: time.UnixMilli(int64(n)).UTC(), Actor: "ada", Key: uuid.UUID{1}, Owner: uuid.Max, Name: fmt.Sprint(n),
	}
}

// record records changes with numbers from first to last, each in a transaction of its own.
func record(t testing.TB, s *latchkey.Store, trail *audit.Trail, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		update(t, s, func(tx *latchkey.Tx) error { return trail.Record(tx, change(n)) })
	}
}

func update(t testing.TB, s *latchkey.Store, fn func(tx *latchkey.Tx) error) {
	t.Helper()
	must(t, s.Update(t.Context(), fn))
}

func entries(t testing.TB, s *latchkey.Store, after uint64) (all []audit.Entry) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.Entries(tx, after) {
			if err != nil {
				return err
			}
			all = append(all, e)
		}
		return nil
	}))
	return all
}

func currentHead(t testing.TB, s *latchkey.Store) (h audit.Head) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) (err error) {
		h, err = audit.CurrentHead(tx)
		return err
	}))
	return h
}

func verify(t testing.TB, s *latchkey.Store, known ...audit.Head) error {
	t.Helper()
	return s.View(t.Context(), func(tx *latchkey.Tx) error { return audit.Verify(tx, known...) })
}

// wantBroken fails unless a trail is broken at an entry.
func wantBroken(t testing.TB, about string, err error, number uint64) {
	t.Helper()
	var at *audit.BrokenError
	if !errors.Is(err, audit.ErrBroken) || !errors.As(err, &at) || at.Number != number {
		t.Errorf("%s: got %v, want a trail that is broken at entry %d", about, err, number)
	}
}

func TestEachChangeIsAnEntryInTheOrderOfChanges(t *testing.T) {
	s, trail := latchkeytest.New(t), audit.New(nil)
	if h := currentHead(t, s); h != (audit.Head{}) || len(entries(t, s, 0)) != 0 {
		t.Errorf("the head of an empty trail is %v", h)
	}
	must(t, verify(t, s))
	record(t, s, trail, 1, 5)
	all := entries(t, s, 0)
	for i, e := range all {
		if e.Number != uint64(i+1) || !reflect.DeepEqual(e.Change, change(i+1)) {
			t.Errorf("entry %d is %+v", i+1, e)
		}
	}
	if len(all) != 5 || all[4].Head() != currentHead(t, s) {
		t.Errorf("%d entries, and the head is %v", len(all), currentHead(t, s))
	}
	if got := entries(t, s, 3); !reflect.DeepEqual(got, all[3:]) {
		t.Errorf("after entry 3: %+v", got)
	}
	if got := entries(t, s, math.MaxUint64); len(got) != 0 {
		t.Errorf("after the last number: %+v", got)
	}
	must(t, verify(t, s, currentHead(t, s), all[0].Head(), all[2].Head(), audit.Head{}))
}

func TestAnEntryGoesWithItsTransaction(t *testing.T) {
	s, trail := latchkeytest.New(t), audit.New(nil)
	refused := errors.New("refused")
	err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
		must(t, trail.Record(tx, change(1)))
		must(t, trail.Record(tx, change(2)))
		return refused
	})
	if !errors.Is(err, refused) || len(entries(t, s, 0)) != 0 {
		t.Errorf("got %v, and %d entries", err, len(entries(t, s, 0)))
	}
	update(t, s, func(tx *latchkey.Tx) error {
		must(t, trail.Record(tx, change(1)))
		return trail.Record(tx, change(2))
	})
	if n := len(entries(t, s, 0)); n != 2 {
		t.Errorf("%d entries", n)
	}
	must(t, verify(t, s))
}

func TestATrailThatWasTamperedWithIsBrokenWhereItWas(t *testing.T) {
	key := func(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, n) }
	get := func(table *latchkey.AppTable, k []byte) []byte {
		v, err := table.Get(k)
		must(t, err)
		return v
	}
	for _, tt := range []struct {
		about  string
		number uint64
		tamper func(table *latchkey.AppTable) error
	}{
		{"an entry that was changed", 4, func(table *latchkey.AppTable) error {
			v := get(table, key(3))
			return table.Put(key(3), []byte(strings.Replace(string(v), `"ada"`, `"eve"`, 1)))
		}},
		{"the last entry that was changed", 5, func(table *latchkey.AppTable) error {
			v := get(table, key(5))
			return table.Put(key(5), []byte(strings.Replace(string(v), `"ada"`, `"eve"`, 1)))
		}},
		{"an entry that was removed", 3, func(table *latchkey.AppTable) error { return table.Delete(key(3)) }},
		{"the first entry that was removed", 1, func(table *latchkey.AppTable) error { return table.Delete(key(1)) }},
		{"the last entry that was removed", 5, func(table *latchkey.AppTable) error { return table.Delete(key(5)) }},
		{"an entry that was added", 6, func(table *latchkey.AppTable) error { return table.Put(key(6), get(table, key(5))) }},
		{"an entry under another number", 3, func(table *latchkey.AppTable) error { return table.Put(key(3), get(table, key(4))) }},
		{"an entry with another number", 6, func(table *latchkey.AppTable) error {
			hash := sha256.Sum256(get(table, key(5)))
			return table.Put(key(6), slices.Concat(hash[:], make([]byte, 8), []byte("{}")))
		}},
		{"an entry before the first", 0, func(table *latchkey.AppTable) error {
			v := slices.Concat(make([]byte, 40), get(table, key(1))[40:])
			return table.Put(key(0), v)
		}},
		{"an entry of no bytes", 2, func(table *latchkey.AppTable) error { return table.Put(key(2), nil) }},
		{"an entry that is no JSON", 2, func(table *latchkey.AppTable) error { return table.Put(key(2), get(table, key(2))[:45]) }},
		{"a head of another entry", 5, func(table *latchkey.AppTable) error {
			v := get(table, []byte{'h'})
			v[20]++
			return table.Put([]byte{'h'}, v)
		}},
		{"a head of an earlier entry", 5, func(table *latchkey.AppTable) error {
			hash := sha256.Sum256(get(table, key(4)))
			return table.Put([]byte{'h'}, append(binary.BigEndian.AppendUint64(nil, 4), hash[:]...))
		}},
	} {
		s := latchkeytest.New(t)
		record(t, s, audit.New(nil), 1, 5)
		update(t, s, func(tx *latchkey.Tx) error { return tt.tamper(tx.AppTable(audit.TableName)) })
		wantBroken(t, tt.about, verify(t, s), tt.number)
	}
}

func TestAChainThatWasMadeAnewIsNotThatOfAKnownHead(t *testing.T) {
	s, trail := latchkeytest.New(t), audit.New(nil)
	record(t, s, trail, 1, 5)
	known := currentHead(t, s)

	other := latchkeytest.New(t)
	record(t, other, trail, 1, 4)
	wantBroken(t, "a trail that was cut back", verify(t, other, known), 5)
	update(t, other, func(tx *latchkey.Tx) error { return trail.Record(tx, change(99)) })
	wantBroken(t, "another fifth entry", verify(t, other, known), 5)
	record(t, other, trail, 6, 9)
	wantBroken(t, "and others after it", verify(t, other, known), 5)
	must(t, verify(t, other))

	record(t, s, trail, 6, 9)
	must(t, verify(t, s, known))
	wrong := known
	wrong.Hash[0]++
	wantBroken(t, "two known heads that differ", verify(t, s, known, wrong), 5)
	wantBroken(t, "two known heads that differ", verify(t, s, wrong, known), 5)
	wantBroken(t, "a known head that is wrong", verify(t, s, wrong), 5)
	wantBroken(t, "a known head of no entry", verify(t, s, audit.Head{Hash: known.Hash}), 0)
}

func TestPruningKeepsTheChain(t *testing.T) {
	s, trail := latchkeytest.New(t), audit.New(&audit.Options{MaxEntries: 3})
	var heads []audit.Head
	for n := 1; n <= 7; n++ {
		record(t, s, trail, n, n)
		heads = append(heads, currentHead(t, s))
	}
	all := entries(t, s, 0)
	if len(all) != 3 || all[0].Number != 5 || all[2].Number != 7 {
		t.Errorf("%d entries from %d on", len(all), all[0].Number)
	}
	// The anchor is the head of the entry that went last.
	must(t, verify(t, s, append(heads[3:], audit.Head{})...))
	if err := verify(t, s, heads[2:]...); !errors.Is(err, audit.ErrPruned) {
		t.Errorf("a head before the anchor: got %v, want ErrPruned", err)
	}
	wrong := heads[3]
	wrong.Hash[0]++
	wantBroken(t, "another head of the anchor's number", verify(t, s, wrong), 4)

	update(t, s, func(tx *latchkey.Tx) error { return audit.Prune(tx, 5) })
	if n := len(entries(t, s, 0)); n != 3 {
		t.Errorf("pruning to more than there are leaves %d entries", n)
	}
	update(t, s, func(tx *latchkey.Tx) error { return audit.Prune(tx, 0) })
	if n := len(entries(t, s, 0)); n != 0 {
		t.Errorf("pruning to none leaves %d entries", n)
	}
	must(t, verify(t, s, heads[6]))
	record(t, s, trail, 8, 9)
	if all := entries(t, s, 0); len(all) != 2 || all[0].Number != 8 {
		t.Errorf("after pruning all: %+v", all)
	}
	must(t, verify(t, s, heads[6]))
}

func TestATrailThatMayBeShorterShrinksALittleWithEachChange(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, audit.New(&audit.Options{MaxEntries: -1}), 1, 30)
	lower := audit.New(&audit.Options{MaxEntries: 5})
	record(t, s, lower, 31, 31)
	if n := len(entries(t, s, 0)); n != 23 {
		t.Errorf("after one change there are %d entries, want 23", n)
	}
	record(t, s, lower, 32, 40)
	if n := len(entries(t, s, 0)); n != 5 {
		t.Errorf("after some changes there are %d entries, want 5", n)
	}
	must(t, verify(t, s))
}

func TestALostHeadIsFoundAgain(t *testing.T) {
	for _, tt := range []struct{ max, recorded int }{{-1, 5}, {3, 5}, {-1, 1}, {1, 3}} {
		s, trail := latchkeytest.New(t), audit.New(&audit.Options{MaxEntries: tt.max})
		record(t, s, trail, 1, tt.recorded)
		want := currentHead(t, s)
		update(t, s, func(tx *latchkey.Tx) error { return tx.AppTable(audit.TableName).Delete([]byte{'h'}) })
		if got := currentHead(t, s); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		record(t, s, trail, 6, 6)
		must(t, verify(t, s, want))
	}
}

func TestRecordsOfTheTrailThatCannotBeReadAreErrBroken(t *testing.T) {
	last := append(binary.BigEndian.AppendUint64(nil, math.MaxUint64), make([]byte, 32)...)
	for _, tt := range []struct {
		about      string
		key, value []byte
	}{
		{"a head of no bytes", []byte{'h'}, nil},
		{"a head of 39 bytes", []byte{'h'}, make([]byte, 39)},
		{"a head with the last number", []byte{'h'}, last},
		{"an anchor of 41 bytes", []byte{'a'}, make([]byte, 41)},
		{"an anchor with the last number", []byte{'a'}, last},
		{"an entry with a short key", []byte("exyz"), make([]byte, 50)},
	} {
		s := latchkeytest.New(t)
		update(t, s, func(tx *latchkey.Tx) error { return tx.AppTable(audit.TableName).Put(tt.key, tt.value) })
		if err := verify(t, s); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Verify: got %v", tt.about, err)
		}
		err := s.Update(t.Context(), func(tx *latchkey.Tx) error { return audit.New(&audit.Options{MaxEntries: 1}).Record(tx, change(1)) })
		if err != nil && !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Record: got %v", tt.about, err)
		}
		err = s.View(t.Context(), func(tx *latchkey.Tx) error {
			for _, err := range audit.Entries(tx, 0) {
				return err
			}
			return nil
		})
		if err != nil && !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Entries: got %v", tt.about, err)
		}
	}
}

func TestAnEntryWithTheNumberOfAnotherIsNotRead(t *testing.T) {
	s := latchkeytest.New(t)
	update(t, s, func(tx *latchkey.Tx) error {
		return tx.AppTable(audit.TableName).Put(binary.BigEndian.AppendUint64([]byte{'e'}, 2), append(make([]byte, 40), "{}"...))
	})
	err := s.View(t.Context(), func(tx *latchkey.Tx) error {
		for e, err := range audit.Entries(tx, 0) {
			if err == nil {
				t.Errorf("got %+v", e)
			}
			return err
		}
		return nil
	})
	wantBroken(t, "Entries", err, 2)
}

func TestAHeadHasAText(t *testing.T) {
	s := latchkeytest.New(t)
	record(t, s, audit.New(nil), 1, 3)
	h := currentHead(t, s)
	got, err := audit.ParseHead(h.String())
	must(t, err)
	if got != h || !strings.HasPrefix(h.String(), "3:") || len(h.String()) != 2+64 {
		t.Errorf("%q is %v again", h, got)
	}
	b, err := json.Marshal(entries(t, s, 2)[0])
	must(t, err)
	var e audit.Entry
	must(t, json.Unmarshal(b, &e))
	if e.Head() != h {
		t.Errorf("in JSON %s", b)
	}
	b, err = json.Marshal(map[string]audit.Head{"head": h})
	must(t, err)
	if want := `{"head":"` + h.String() + `"}`; string(b) != want {
		t.Errorf("in JSON %s, want %s", b, want)
	}
	hash := strings.Repeat("a", 64)
	for _, text := range []string{"", ":", "3", "3:", ":" + hash, "x:" + hash, "-1:" + hash, "3:" + hash[1:], "3:" + hash + "a", "3:" + hash + "aa", "3:" + hash[1:] + "g", "18446744073709551616:" + hash, " 3:" + hash} {
		if h, err := audit.ParseHead(text); err == nil {
			t.Errorf("ParseHead(%q): got %v", text, h)
		}
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add("42:" + strings.Repeat("9f", 32))
	f.Add("42")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := audit.ParseHead(text)
		if err != nil {
			return
		}
		back, err := audit.ParseHead(h.String())
		if err != nil || back != h {
			t.Errorf("%q is %v, and back %v, %v", text, h, back, err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("e\x00\x00\x00\x00\x00\x00\x00\x01"), append(make([]byte, 39), "\x01{}"...), []byte{'h'}, make([]byte, 40))
	s := latchkeytest.New(f)
	undo := errors.New("undo")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 []byte) {
		err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
			table := tx.AppTable(audit.TableName)
			for _, e := range []latchkey.Entry{{Key: key1, Value: value1}, {Key: key2, Value: value2}} {
				if err := table.Put(e.Key, e.Value); err != nil {
					return undo
				}
			}
			if err := audit.Verify(tx); err != nil {
				if !errors.Is(err, audit.ErrBroken) {
					t.Errorf("Verify: %v", err)
				}
				return undo
			}
			if err := audit.New(nil).Record(tx, change(1)); err != nil {
				t.Errorf("a trail that was verified: %v", err)
			}
			if err := audit.Verify(tx); err != nil {
				t.Errorf("a trail with one entry more: %v", err)
			}
			return undo
		})
		if !errors.Is(err, undo) {
			t.Error(err)
		}
	})
}
