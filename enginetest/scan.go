package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// Laws about Scan, above all about a Scan of a table that is written to at the same time.
var scanLaws = []law{
	{"Scan goes in the order of bytes", scanGoesInOrder},
	{"Scan keeps within its bounds", scanKeepsWithinBounds},
	{"Scan can be left early and begun again", scanCanBeLeft},
	{"Scan goes on to the next key that exists at that moment", scanMeetsWrites},
	{"any mixture of writes and scans agrees with a sorted map", mixtureAgreesWithMap},
	{"any mixture of writes and scans of a tracked table agrees with a sorted map", trackedMixtureAgreesWithMap},
}

func scanGoesInOrder(s *subject) {
	sorted := []string{"\x00", "\x00\x00", "\x00\xff", "\x01", "A", "Z", "a", "a\x00", "aa", "ab", "b", "\x7f", "\x80", "é", "\xff", "\xff\x00", "\xff\xff"}
	shuffled := slices.Clone(sorted)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	scan := func(tx latchkey.EngineTx) error {
		var got []string
		for e, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			got = append(got, string(e.Key))
		}
		if !slices.Equal(got, sorted) {
			s.Errorf("Scan: got %q, want %q", got, sorted)
		}
		return nil
	}
	s.update(func(tx latchkey.EngineTx) error {
		for _, key := range shuffled {
			if err := put(tx, "t", key, "."); err != nil {
				return err
			}
		}
		return scan(tx)
	})
	s.view(scan)
}

func scanKeepsWithinBounds(s *subject) {
	check := func(tx latchkey.EngineTx) error {
		for _, tt := range []struct {
			from, to []byte
			want     string
		}{
			{nil, nil, "b d dd f"},
			{[]byte{}, nil, "b d dd f"},
			{[]byte("a"), []byte("z"), "b d dd f"},
			{[]byte("b"), []byte("f"), "b d dd"},
			{[]byte("b\x00"), []byte("f\x00"), "d dd f"},
			{[]byte("c"), []byte("e"), "d dd"},
			{[]byte("d"), []byte("d\x00"), "d"},
			{[]byte("f"), nil, "f"},
			{[]byte("f\x00"), nil, ""},
			{nil, []byte("b"), ""},
			{nil, []byte("b\x00"), "b"},
			{nil, []byte{}, ""},
			{[]byte("d"), []byte("d"), ""},
			{[]byte("f"), []byte("b"), ""},
			{[]byte("c"), []byte("c\xff"), ""},
		} {
			var keys []string
			for e, err := range tx.Scan("t", tt.from, tt.to) {
				if err != nil {
					return err
				}
				keys = append(keys, string(e.Key))
			}
			if got := strings.Join(keys, " "); got != tt.want {
				s.Errorf("Scan from %q to %q: got %q, want %q", tt.from, tt.to, got, tt.want)
			}
		}
		return nil
	}
	s.update(func(tx latchkey.EngineTx) error {
		for _, key := range []string{"d", "b", "f", "dd"} {
			if err := put(tx, "t", key, "."); err != nil {
				return err
			}
		}
		return check(tx)
	})
	s.view(check)
}

func scanCanBeLeft(s *subject) {
	s.put("t", "a", "1")
	s.put("t", "b", "2")
	scan := func(tx latchkey.EngineTx) error {
		entries := tx.Scan("t", nil, nil)
		for e, err := range entries {
			if err != nil {
				return err
			}
			if string(e.Key) != "a" {
				s.Errorf("Scan: the first key is %q, want a", e.Key)
			}
			break
		}
		// A second Scan of the same table begins while the first is in progress.
		var got []string
		for outer, err := range entries {
			if err != nil {
				return err
			}
			for inner, err := range entries {
				if err != nil {
					return err
				}
				got = append(got, string(outer.Key)+string(inner.Key))
			}
		}
		if want := "aa ab ba bb"; strings.Join(got, " ") != want {
			s.Errorf("a Scan within a Scan: got %q, want %q", got, want)
		}
		return nil
	}
	s.view(scan)
	s.update(scan)
}

// scanWrites are edits of a table. scanMeetsWrites makes them while a Scan of b, d, f and h stands
// at d. want lists all entries that the Scan then yields.
var scanWrites = []struct {
	name  string
	table string
	edits []string
	want  string
}{
	{"nothing", "t", nil, "b=0 d=0 f=0 h=0"},
	{"an insertion behind", "t", []string{"c=1"}, "b=0 d=0 f=0 h=0"},
	{"an insertion next", "t", []string{"d\x00=1"}, "b=0 d=0 d\x00=1 f=0 h=0"},
	{"an insertion ahead", "t", []string{"g=1"}, "b=0 d=0 f=0 g=1 h=0"},
	{"an insertion at the end", "t", []string{"i=1"}, "b=0 d=0 f=0 h=0 i=1"},
	{"an insertion beyond the bound", "t", []string{"z=1"}, "b=0 d=0 f=0 h=0"},
	{"a change of this value", "t", []string{"d=1"}, "b=0 d=0 f=0 h=0"},
	{"a change of the next value", "t", []string{"f=1"}, "b=0 d=0 f=1 h=0"},
	{"a deletion of this key", "t", []string{"-d"}, "b=0 d=0 f=0 h=0"},
	{"a deletion behind", "t", []string{"-b"}, "b=0 d=0 f=0 h=0"},
	{"a deletion of the next key", "t", []string{"-f"}, "b=0 d=0 h=0"},
	{"a deletion of this and the next", "t", []string{"-d", "-f"}, "b=0 d=0 h=0"},
	{"a deletion of all ahead", "t", []string{"-f", "-h"}, "b=0 d=0"},
	{"a deletion of all", "t", []string{"-b", "-d", "-f", "-h"}, "b=0 d=0"},
	{"a deletion and an insertion of the same", "t", []string{"-f", "f=1"}, "b=0 d=0 f=1 h=0"},
	{"a write to another table", "new", []string{"e=1"}, "b=0 d=0 f=0 h=0"},
}

func scanMeetsWrites(s *subject) {
	for _, tt := range scanWrites {
		s.update(func(tx latchkey.EngineTx) error {
			if err := empty(tx, "t"); err != nil {
				return err
			}
			return write(tx, "t", "b=0", "d=0", "f=0", "h=0")
		})
		s.update(func(tx latchkey.EngineTx) error {
			var got []string
			for e, err := range tx.Scan("t", []byte("a"), []byte("j")) {
				if err != nil {
					return err
				}
				got = append(got, fmt.Sprintf("%s=%s", e.Key, e.Value))
				if string(e.Key) != "d" {
					continue
				}
				if err := write(tx, tt.table, tt.edits...); err != nil {
					return err
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				s.Errorf("after %s, Scan yielded %q, want %q", tt.name, got, tt.want)
			}
			return nil
		})
	}
}

// empty deletes every key that a Scan of a table yields. It returns an error if the table has an
// entry afterwards.
func empty(tx latchkey.EngineTx, table string) error {
	for e, err := range tx.Scan(table, nil, nil) {
		if err != nil {
			return err
		}
		if err := tx.Delete(table, e.Key); err != nil {
			return err
		}
	}
	left, err := list(tx, table)
	if err == nil && left != "" {
		err = fmt.Errorf("after each key that Scan yields was deleted, the table has %q", left)
	}
	return err
}

// seedVariable is the environment variable with the seed of the law that draws its operations at
// random.
const seedVariable = "ENGINETEST_SEED"

// mixtureAgreesWithMap draws operations at random, and runs them on the engine and on a sorted
// slice in memory.
func mixtureAgreesWithMap(s *subject) {
	seed := rand.Uint64()
	if v, err := strconv.ParseUint(os.Getenv(seedVariable), 10, 64); err == nil {
		seed = v
	}
	defer func() {
		if s.Failed() {
			s.Logf("again: %s=%d go test -run '%s'", seedVariable, seed, s.Name())
		}
	}()
	errChanged := errors.New("changed its mind")
	committed := model{}
	for n := range uint64(60) {
		var m model
		fails := n%5 == 4
		err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
			mix := &mixture{EngineTx: tx, Rand: rand.New(rand.NewPCG(seed, n)), model: slices.Clone(committed), left: s.maxWrites()}
			err := mix.run()
			m = mix.model
			if err == nil && fails {
				err = errChanged
			}
			return err
		})
		if fails {
			s.wantError("Update", err, errChanged)
		} else if err != nil {
			s.Fatal(err)
		} else {
			committed = m
		}
		if n%20 == 19 {
			s.reopen(nil)
		}
		s.view(func(tx latchkey.EngineTx) error {
			return errors.Join(
				s.wantCount(tx, "t", uint64(len(committed))),
				(&mixture{EngineTx: tx, Rand: rand.New(rand.NewPCG(seed, n)), model: committed}).scan(0),
			)
		})
	}
}

func trackedMixtureAgreesWithMap(s *subject) {
	s.track()
	mixtureAgreesWithMap(s)
}

// model has the entries that the table should have, in order.
type model []latchkey.Entry

// find returns the index of the first entry whose key is key or greater. It reports whether that
// entry has the key itself.
func (m model) find(key []byte) (i int, found bool) {
	return slices.BinarySearchFunc(m, key, func(e latchkey.Entry, key []byte) int { return bytes.Compare(e.Key, key) })
}

// mixture is one transaction that runs on the engine and on the model.
type mixture struct {
	latchkey.EngineTx
	*rand.Rand
	model model
	left  int // how many writes the transaction can make
}

// run draws how fast the table grows in this transaction. Over many transactions the table grows
// and shrinks, so that an engine's tree splits and merges pages.
func (m *mixture) run() error {
	growth := m.IntN(100)
	for range 150 {
		if err := m.write(growth); err != nil {
			return err
		}
		if err := m.look(); err != nil {
			return err
		}
	}
	for range 3 {
		if err := m.scan(30); err != nil {
			return err
		}
	}
	return nil
}

// key draws a key of any length. There are so few keys that the same ones come again.
func (m *mixture) key() []byte {
	key := fmt.Appendf(nil, "%c%03d", 'a'+m.IntN(3), m.IntN(800))
	if m.IntN(20) == 0 {
		key = append(key, bytes.Repeat([]byte{'x'}, m.IntN(latchkey.MaxEngineKey-len(key)))...)
	}
	return key
}

// write puts an entry with a chance of growth in a hundred. Otherwise it deletes one.
func (m *mixture) write(growth int) error {
	if m.left == 0 {
		return nil
	}
	m.left--
	key := m.key()
	i, found := m.model.find(key)
	if m.IntN(100) < growth {
		value := bytes.Repeat([]byte{byte('A' + m.IntN(26))}, m.IntN(200))
		if m.IntN(100) == 0 {
			value = bytes.Repeat([]byte("large"), m.IntN(latchkey.MaxEngineValue/5))
		}
		if !found {
			m.model = slices.Insert(m.model, i, latchkey.Entry{Key: key})
		}
		m.model[i].Value = value
		return m.Put("t", key, value)
	}
	// Most deletions hit a key that exists.
	if i < len(m.model) && m.IntN(4) > 0 {
		key, found = m.model[i].Key, true
	}
	if found {
		m.model = slices.Delete(m.model, i, i+1)
	}
	return m.Delete("t", key)
}

// look compares the value that Get returns for one key with the model.
func (m *mixture) look() error {
	key := m.key()
	var want []byte
	if i, found := m.model.find(key); found {
		want = m.model[i].Value
	}
	got, err := m.Get("t", key)
	if err == nil && (!bytes.Equal(got, want) || (got == nil) != (want == nil)) {
		return fmt.Errorf("the value of %.20q: got %.20q, want %.20q", key, got, want)
	}
	return err
}

// scan compares one range of the table with the model. After each step of the Scan, it writes with
// a chance of writes in a hundred.
func (m *mixture) scan(writes int) error {
	var from, to []byte
	if m.IntN(3) > 0 {
		from = m.key()
	}
	if m.IntN(3) > 0 {
		to = m.key()
	}
	expect, _ := m.model.find(from)
	ended := func() bool {
		return expect == len(m.model) || to != nil && bytes.Compare(m.model[expect].Key, to) >= 0
	}
	for e, err := range m.Scan("t", from, to) {
		if err != nil {
			return err
		}
		if ended() {
			return fmt.Errorf("a Scan from %q to %q yielded %.20q, want its end", from, to, e.Key)
		}
		if want := m.model[expect]; !bytes.Equal(e.Key, want.Key) || !bytes.Equal(e.Value, want.Value) {
			return fmt.Errorf("a Scan from %q to %q: got %.20q=%.20q, want %.20q=%.20q", from, to, e.Key, e.Value, want.Key, want.Value)
		}
		for m.IntN(100) < writes {
			if err := m.write(50); err != nil {
				return err
			}
		}
		i, found := m.model.find(e.Key)
		if expect = i; found {
			expect++
		}
	}
	if !ended() {
		return fmt.Errorf("a Scan from %q to %q ended, want %.20q", from, to, m.model[expect].Key)
	}
	return nil
}
