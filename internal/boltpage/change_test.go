package boltpage

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestAKeyOfTheChangeIndexTellsTheChange(t *testing.T) {
	for _, tt := range []struct {
		sequence   uint64
		table, key string
	}{
		{0, "t", "a"}, {1, "t", "\x00"}, {1<<64 - 1, "users", "a\x00b"}, {1 << 32, strings.Repeat("n", MaxTrackedName), strings.Repeat("k", MaxKey)},
	} {
		k := ChangeKey(tt.sequence, tt.table, []byte(tt.key))
		if len(k) > maxPageKey {
			t.Errorf("the key of %s/%.10s has %d bytes, want at most %d", tt.table, tt.key, len(k), maxPageKey)
		}
		sequence, table, key, ok := SplitChangeKey(k)
		if !ok || sequence != tt.sequence || table != tt.table || string(key) != tt.key {
			t.Errorf("%x: got %d %q %q %t", k, sequence, table, key, ok)
		}
	}
	for _, k := range []string{
		"", "\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x01t", "\x00\x00\x00\x00\x00\x00\x00\x01t\x00",
		"\x00\x00\x00\x00\x00\x00\x00\x01\x00a", "\x00\x00\x00\x00\x00\x00\x00\x01" + strings.Repeat("n", MaxTrackedName+1) + "\x00a",
	} {
		if _, _, _, ok := SplitChangeKey([]byte(k)); ok {
			t.Errorf("%x was taken for a key", k)
		}
	}
}

func TestTheKeysOfTheChangeIndexAreInTheOrderOfTheChanges(t *testing.T) {
	keys := [][]byte{
		ChangeKey(1, "u", []byte("a")), ChangeKey(2, "t", []byte("b")), ChangeKey(2, "t", []byte("b\x00")), ChangeKey(2, "t", []byte("c")),
		ChangeKey(2, "tt", []byte("a")), ChangeKey(255, "t", []byte("a")), ChangeKey(256, "t", []byte("a")),
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Errorf("got %x", keys)
	}
}

func TestAValueOfATrackedTableHasItsSequence(t *testing.T) {
	for _, value := range []string{"", "value"} {
		sequence, got, ok := SplitTracked(JoinTracked(1<<40, []byte(value)))
		if !ok || sequence != 1<<40 || string(got) != value {
			t.Errorf("%q: got %d %q %t", value, sequence, got, ok)
		}
	}
	if _, _, ok := SplitTracked(make([]byte, 7)); ok {
		t.Error("seven bytes have a sequence")
	}
}

func TestATallySaysHowManyEntriesATableHasAndWhetherItIsTracked(t *testing.T) {
	for _, entries := range []uint64{0, 1, 1<<63 - 1} {
		for _, tracked := range []bool{false, true} {
			if tally := NewTally(entries, tracked); tally.Entries() != entries || tally.Tracked() != tracked {
				t.Errorf("%d, %t: got %d, %t", entries, tracked, tally.Entries(), tally.Tracked())
			}
		}
	}
}
