package boltpage

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAnEntryOfTheChangeIndexTellsTheChange(t *testing.T) {
	for _, tt := range []struct {
		sequence, number uint64
		table, key       string
	}{
		{0, 0, "t", "a"}, {1, 2, "t", "\x00"}, {MaxSequence, MaxNumber, "users", "a\x00b"},
		{1 << 32, 0, strings.Repeat("n", MaxTrackedName), strings.Repeat("k", MaxKey)},
	} {
		place := NewPlace(tt.sequence, tt.number)
		if place.Sequence() != tt.sequence || place.String() != fmt.Sprintf("%d.%d", tt.sequence, tt.number) {
			t.Errorf("place %d.%d: got %s, of sequence %d", tt.sequence, tt.number, place, place.Sequence())
		}
		at, table, key, ok := SplitChange(place.Key(), ChangedEntry(tt.table, []byte(tt.key)))
		if !ok || at != place || table != tt.table || string(key) != tt.key {
			t.Errorf("%s %q %q: got %s %q %q %t", place, tt.table, tt.key, at, table, key, ok)
		}
	}
	for _, tt := range []struct{ k, v string }{
		{"\x00\x00\x00\x00\x00\x00\x00", "t\x00a"}, {"\x00\x00\x00\x00\x00\x00\x00\x00\x00", "t\x00a"}, {"", "t\x00a"},
		{"\x00\x00\x00\x00\x00\x00\x00\x00", ""}, {"\x00\x00\x00\x00\x00\x00\x00\x00", "t"}, {"\x00\x00\x00\x00\x00\x00\x00\x00", "t\x00"},
		{"\x00\x00\x00\x00\x00\x00\x00\x00", "\x00a"}, {"\x00\x00\x00\x00\x00\x00\x00\x00", strings.Repeat("n", MaxTrackedName+1) + "\x00a"},
		{"\x00\x00\x00\x00\x00\x00\x00\x00", "t\x00" + strings.Repeat("k", MaxKey+1)},
	} {
		if _, _, _, ok := SplitChange([]byte(tt.k), []byte(tt.v)); ok {
			t.Errorf("%x → %q was taken for a change", tt.k, tt.v)
		}
	}
}

func TestTheKeysOfTheChangeIndexAreInTheOrderOfTheChanges(t *testing.T) {
	var keys [][]byte
	for _, sequence := range []uint64{0, 1, 255, 256, 1 << 32, MaxSequence} {
		for _, number := range []uint64{0, 1, 255, 256, MaxNumber} {
			keys = append(keys, NewPlace(sequence, number).Key())
		}
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Errorf("got %x", keys)
	}
}

func TestAValueOfATrackedTableHasItsPlace(t *testing.T) {
	for _, value := range []string{"", "value"} {
		place, got, ok := SplitTracked(JoinTracked(NewPlace(1<<32, 5), []byte(value)))
		if !ok || place != NewPlace(1<<32, 5) || string(got) != value {
			t.Errorf("%q: got %s %q %t", value, place, got, ok)
		}
	}
	if _, _, ok := SplitTracked(make([]byte, 7)); ok {
		t.Error("seven bytes have a place")
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
