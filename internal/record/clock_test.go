package record_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestAClockIsReadAsItWasWritten(t *testing.T) {
	noon := time.Date(2027, 1, 2, 12, 0, 0, 5_000_000, time.UTC)
	unknown := slices.Concat(varint(7, 1), field(9, []byte("later")))
	for _, c := range []record.Clock{
		{Time: time.UnixMilli(0).UTC()},
		{Time: noon},
		{Time: record.LastTime, Resets: 1<<64 - 1, Unknown: unknown},
	} {
		if got, err := record.DecodeClock(c.Encode()); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("got %+v, %v, want %+v", got, err, c)
		}
	}
	for about, message := range map[string][]byte{
		"a time after the year 9999": varint(1, 253402300800_000),
		"a field that is cut short":  {2 << 3},
	} {
		if c, err := record.DecodeClock(message); !errors.Is(err, record.ErrDamaged) {
			t.Errorf("%s: got %+v, %v", about, c, err)
		}
	}
}

func TestTheLaterOfTwoClocksHasMoreResetsOrTheLaterTime(t *testing.T) {
	noon := time.Date(2027, 1, 2, 12, 0, 0, 0, time.UTC)
	order := []record.Clock{{}, {Time: noon}, {Time: noon.Add(time.Hour)}, {Time: noon.Add(-time.Hour), Resets: 1}, {Time: noon, Resets: 1}}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Later(b), order[max(i, j)]; !reflect.DeepEqual(got, want) {
				t.Errorf("of %+v and %+v, got %+v", a, b, got)
			}
		}
	}
}
