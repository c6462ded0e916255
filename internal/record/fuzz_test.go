package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/latchkeydb/latchkey/internal/record"
)

// fuzzKind checks what must hold of any two messages of a kind of record. Decoding does not panic.
// A record reads back as it was written. Merging does not depend on the order, and merging a record
// with itself changes nothing.
func fuzzKind(f *testing.F, k kind) {
	f.Add(k.bytes, k.bytes)
	fields := split(f, k.bytes)
	for i := range fields {
		var without []byte
		for j := range fields {
			if j != i {
				without = append(without, fields[j]...)
			}
		}
		f.Add(without, bytes.Repeat(k.bytes, 2))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		va, err := k.decode(a)
		if err != nil {
			wantDamaged(t, err)
			return
		}
		encoded := k.encode(va)
		back, err := k.decode(encoded)
		if err != nil || !reflect.DeepEqual(back, va) {
			t.Fatalf("%x reads back as\n%+v, %v, want\n%+v", encoded, back, err, va)
		}
		if merged := k.encode(k.merge(va, back)); !bytes.Equal(merged, encoded) {
			t.Errorf("merged with itself %x is %x", encoded, merged)
		}
		vb, err := k.decode(b)
		if err != nil {
			return
		}
		ab, ba := k.merge(va, vb), k.merge(vb, va)
		if err, refused := ab.(error); refused {
			if !errors.Is(err, record.ErrDifferentOwner) {
				t.Errorf("merging: %v", err)
			}
			return
		}
		if !bytes.Equal(k.encode(ab), k.encode(ba)) {
			t.Errorf("merged in two orders:\n%+v\n%+v", ab, ba)
		}
		if again := k.merge(ab, va); !bytes.Equal(k.encode(again), k.encode(ab)) {
			t.Errorf("merged again:\n%+v\n%+v", again, ab)
		}
		if back, err := k.decode(k.encode(ab)); err != nil || !reflect.DeepEqual(back, ab) {
			t.Errorf("merged, it reads back as\n%+v, %v, want\n%+v", back, err, ab)
		}
	})
}

func FuzzDecodeKey(f *testing.F)           { fuzzKind(f, kinds()[0]) }
func FuzzDecodeUser(f *testing.F)          { fuzzKind(f, kinds()[1]) }
func FuzzDecodeGroup(f *testing.F)         { fuzzKind(f, kinds()[2]) }
func FuzzDecodeKeyTombstone(f *testing.F)  { fuzzKind(f, kinds()[3]) }
func FuzzDecodeUserTombstone(f *testing.F) { fuzzKind(f, kinds()[4]) }

func FuzzOpen(f *testing.F) {
	f.Add("keys", keyID[:], fullKey().Encode())
	f.Fuzz(func(t *testing.T, table string, key, message []byte) {
		got, err := record.Open(table, key, record.Seal(table, key, message))
		must(t, err)
		if !bytes.Equal(got, message) {
			t.Errorf("got %x, want %x", got, message)
		}
		if _, err := record.Open(table, key, message); err != nil && !errors.Is(err, record.ErrNewer) {
			wantDamaged(t, err)
		}
	})
}
