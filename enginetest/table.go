package enginetest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// Laws about the entries of tables.
var tableLaws = []law{
	{"Get returns what Put set last", getReturnsWhatPutSet},
	{"an empty value is not a missing one", emptyIsNotMissing},
	{"tables do not share keys", tablesAreApart},
	{"a transaction sees what it wrote", transactionSeesItsWrites},
	{"keys have up to 512 bytes and values up to 65536", sizes},
	{"every byte can be in a key and a value", everyByte},
	{"the caller may change the slices that it gets", resultsAreTheCallers},
	{"the caller may change the slices that it gives", argumentsAreTheCallers},
}

func getReturnsWhatPutSet(s *subject) {
	s.want("never written", "")
	s.put("t", "a", "1")
	s.put("t", "b", "2")
	s.want("t", "a=1 b=2")
	s.put("t", "a", "3")
	s.want("t", "a=3 b=2")
	s.write("t", "-a", "-was never there")
	s.write("nor was this", "-a")
	s.want("t", "b=2")
	s.view(func(tx latchkey.EngineTx) error {
		for _, tt := range []struct{ table, key, value string }{
			{"t", "b", "2"}, {"t", "a", ""}, {"t", "c", ""}, {"never written", "a", ""},
		} {
			v, err := tx.Get(tt.table, []byte(tt.key))
			if err != nil {
				return err
			}
			if string(v) != tt.value || (v == nil) != (tt.value == "") {
				s.Errorf("Get(%q, %q): got %#v, want %q", tt.table, tt.key, v, tt.value)
			}
		}
		return nil
	})
}

func emptyIsNotMissing(s *subject) {
	check := func(tx latchkey.EngineTx) error {
		for _, key := range []string{"nil", "empty"} {
			v, err := tx.Get("t", []byte(key))
			if err != nil {
				return err
			}
			if v == nil || len(v) != 0 {
				s.Errorf("Get(%q): got %#v, want a slice of no bytes", key, v)
			}
		}
		entries, err := list(tx, "t")
		if err == nil && entries != "empty= nil=" {
			s.Errorf("Scan: got %q, want both entries", entries)
		}
		return err
	}
	s.update(func(tx latchkey.EngineTx) error {
		if err := tx.Put("t", []byte("nil"), nil); err != nil {
			return err
		}
		if err := tx.Put("t", []byte("empty"), []byte{}); err != nil {
			return err
		}
		return check(tx)
	})
	s.view(check)
	s.reopen(nil)
	s.view(check)
}

func tablesAreApart(s *subject) {
	// An engine may join a table's name and a key to one key of its own. These pairs must stay
	// different.
	entries := []struct{ table, key string }{
		{"a", "b"}, {"ab", "b"}, {"a", "bb"}, {"a/b", "c"}, {"a", "b/c"}, {"a\x00b", "c"}, {"a", "b\x00c"}, {"a:b", "c"}, {"a", "b:c"},
	}
	tables := map[string]int{}
	s.update(func(tx latchkey.EngineTx) error {
		clear(tables)
		for i, e := range entries {
			tables[e.table]++
			if err := put(tx, e.table, e.key, fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	s.view(func(tx latchkey.EngineTx) error {
		for i, e := range entries {
			v, err := get(tx, e.table, e.key)
			if err != nil {
				return err
			}
			if v != fmt.Sprint(i) {
				s.Errorf("Get(%q, %q): got %q, want %d", e.table, e.key, v, i)
			}
		}
		for table, n := range tables {
			got, err := list(tx, table)
			if err != nil {
				return err
			}
			if len(strings.Fields(got)) != n {
				s.Errorf("table %q has %q, want %d entries", table, got, n)
			}
		}
		return nil
	})
}

func transactionSeesItsWrites(s *subject) {
	s.put("t", "a", "1")
	s.put("t", "b", "2")
	s.update(func(tx latchkey.EngineTx) error {
		if err := write(tx, "t", "a=3", "-b", "c=4"); err != nil {
			return err
		}
		if err := write(tx, "new", "x=5"); err != nil {
			return err
		}
		for _, tt := range []struct{ table, want string }{{"t", "a=3 c=4"}, {"new", "x=5"}} {
			got, err := list(tx, tt.table)
			if err != nil {
				return err
			}
			if got != tt.want {
				s.Errorf("table %q has %q within the transaction, want %q", tt.table, got, tt.want)
			}
		}
		if v, err := tx.Get("t", []byte("b")); v != nil || err != nil {
			s.Errorf("Get of a key that the transaction deleted: got %q, %v", v, err)
		}
		v, err := get(tx, "t", "c")
		if v != "4" {
			s.Errorf("Get of a key that the transaction put: got %q, want 4", v)
		}
		return err
	})
}

func sizes(s *subject) {
	key := func(n int) []byte { return bytes.Repeat([]byte{'k'}, n) }
	value := func(n int) []byte { return bytes.Repeat([]byte{byte(n), byte(n >> 8), 'v'}, n)[:n] }
	keySizes := []int{1, 2, 255, 256, latchkey.MaxEngineKey - 1, latchkey.MaxEngineKey}
	valueSizes := []int{0, 1, 255, 4095, 4096, 32 << 10, latchkey.MaxEngineValue - 1, latchkey.MaxEngineValue}
	table := func(n int) string { return fmt.Sprint("values of ", n) }
	for _, v := range valueSizes {
		s.update(func(tx latchkey.EngineTx) error {
			for _, k := range keySizes {
				if err := tx.Put(table(v), key(k), value(v)); err != nil {
					return fmt.Errorf("a key of %d bytes with a value of %d: %w", k, v, err)
				}
			}
			return nil
		})
	}
	s.reopen(nil)
	s.view(func(tx latchkey.EngineTx) error {
		for _, v := range valueSizes {
			n := 0
			for e, err := range tx.Scan(table(v), nil, nil) {
				if err != nil {
					return err
				}
				if n < len(keySizes) && (!bytes.Equal(e.Key, key(keySizes[n])) || !bytes.Equal(e.Value, value(v))) {
					s.Errorf("entry %d of table %q: got a key of %d bytes and a value of %d", n, table(v), len(e.Key), len(e.Value))
				}
				n++
			}
			if n != len(keySizes) {
				s.Errorf("table %q: got %d entries, want %d", table(v), n, len(keySizes))
			}
			for _, k := range keySizes {
				got, err := tx.Get(table(v), key(k))
				if err != nil {
					return err
				}
				if !bytes.Equal(got, value(v)) {
					s.Errorf("Get of a key of %d bytes with a value of %d: got %d bytes", k, v, len(got))
				}
			}
		}
		return nil
	})
}

func everyByte(s *subject) {
	s.inSteps(4*256, func(tx latchkey.EngineTx, i int) error {
		b := byte(i / 4)
		key := [][]byte{{b}, {b, 0}, {b, 0xff}, {0, b, 0}}[i%4]
		return tx.Put("t", key, append([]byte{b}, key...))
	})
	s.view(func(tx latchkey.EngineTx) error {
		var last []byte
		n := 0
		for e, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			if last != nil && bytes.Compare(last, e.Key) >= 0 {
				s.Errorf("Scan: %x came after %x", e.Key, last)
			}
			if !bytes.Equal(e.Value[1:], e.Key) {
				s.Errorf("Scan: %x has the value %x", e.Key, e.Value)
			}
			last = e.Key
			n++
		}
		if n != 4*256 {
			s.Errorf("Scan: got %d entries, want %d", n, 4*256)
		}
		return nil
	})
}

func resultsAreTheCallers(s *subject) {
	s.put("t", "a", "one")
	s.put("t", "b", "two")
	spoil := func(tx latchkey.EngineTx) error {
		v, err := tx.Get("t", []byte("a"))
		if err != nil {
			return err
		}
		fill(v)
		for e, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			fill(e.Key)
			fill(e.Value)
		}
		got, err := list(tx, "t")
		if err == nil && got != "a=one b=two" {
			s.Errorf("after changes to the slices that Get and Scan returned, the transaction has %q", got)
		}
		return err
	}
	s.view(spoil)
	s.update(func(tx latchkey.EngineTx) error {
		// An engine may keep the writes of this transaction elsewhere, so change such an entry too.
		if err := put(tx, "t", "b", "two"); err != nil {
			return err
		}
		return spoil(tx)
	})
	s.want("t", "a=one b=two")

	var kept []byte
	s.view(func(tx latchkey.EngineTx) (err error) {
		kept, err = tx.Get("t", []byte("a"))
		return err
	})
	s.put("t", "a", "six")
	if string(kept) != "one" {
		s.Errorf("the slice that Get returned has become %q, want one", kept)
	}
}

func argumentsAreTheCallers(s *subject) {
	s.update(func(tx latchkey.EngineTx) error {
		key, value := []byte("a"), []byte("one")
		if err := tx.Put("t", key, value); err != nil {
			return err
		}
		fill(key)
		fill(value)
		key = []byte("b")
		if err := write(tx, "t", "b=two", "c=three"); err != nil {
			return err
		}
		if err := tx.Delete("t", key); err != nil {
			return err
		}
		fill(key)
		got, err := list(tx, "t")
		if err == nil && got != "a=one c=three" {
			s.Errorf("after changes to the slices that Put and Delete were given, the transaction has %q", got)
		}
		return err
	})
	s.want("t", "a=one c=three")
	s.view(func(tx latchkey.EngineTx) error {
		from, to := []byte("a"), []byte("b")
		entries := tx.Scan("t", from, to)
		copy(from, "c")
		n := 0
		for e, err := range entries {
			if err != nil {
				return err
			}
			if n++; string(e.Key) != "a" {
				s.Errorf("after changes to the bounds, Scan yielded %q, want a alone", e.Key)
			}
			copy(to, "z")
		}
		if n == 0 {
			s.Error("after changes to the bounds, Scan yielded nothing, want a")
		}
		return nil
	})
}

// fill overwrites every byte of b.
func fill(b []byte) {
	for i := range b {
		b[i] = '#'
	}
}
