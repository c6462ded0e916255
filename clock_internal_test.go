package latchkey

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

// plantClock plants a record of the remembered time.
func plantClock(t testing.TB, s *Store, c record.Clock) {
	t.Helper()
	plant(t, s, tableMeta, metaClock, record.Seal(tableMeta, metaClock, c.Encode()))
}

// storedClock returns what the file has.
func storedClock(t testing.TB, s *Store) record.Clock {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*record.Clock, error) {
		c, err := loadClock(tx.etx)
		return &c, err
	})
}

func TestAChangeThatSharesACommitWithAResetDoesNotUndoIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		addUser(t, s, "ada")
		time.Sleep(time.Hour)
		// The reset is in the file, but ResetClock has not returned yet.
		reset := record.Clock{Time: s.Now().Add(-30 * time.Minute), Resets: 1}
		plantClock(t, s, reset)
		addUser(t, s, "bob")
		if got := storedClock(t, s); !got.Time.Equal(reset.Time) || got.Resets != 1 {
			t.Errorf("the file has %+v, want %+v", got, reset)
		}
		s.clock.Adopt(reset)
		s.clock.Adopt(record.Clock{Time: s.Now().Add(time.Hour)}) // of a change before the reset
		if kept := s.clock.Kept(); kept.Resets != 1 || s.Now().Sub(reset.Time) > time.Second {
			t.Errorf("the store has %+v, and its time is %s, want %s", kept, s.Now(), reset.Time)
		}
		addUser(t, s, "eve")
		time.Sleep(2 * time.Minute)
		addUser(t, s, "dan")
		if got := storedClock(t, s); !got.Time.Equal(s.Now()) || got.Resets != 1 {
			t.Errorf("the file has %+v, want %s", got, s.Now())
		}
	})
}

func TestAnEarlierTimeIsNotWrittenOverALaterOne(t *testing.T) {
	s := open(t, nil)
	later := record.Clock{Time: s.Now().Add(time.Hour)}
	plantClock(t, s, later) // by another transaction
	addUser(t, s, "ada")
	if got := storedClock(t, s); !got.Time.Equal(later.Time) {
		t.Errorf("the file has %+v, want %+v", got, later)
	}
}

func TestADamagedTimeIsFoundAndKeepsNoChangeBack(t *testing.T) {
	s := open(t, nil)
	ada := addUser(t, s, "ada")
	plant(t, s, tableMeta, metaClock, []byte("damaged"))
	s.clock.Set(record.Clock{}) // so that the next change is to write the time
	must(t, s.DisableUser(t.Context(), ada.ID))
	findings := 0
	for err := range s.Check(t.Context()) {
		if findings++; !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	}
	if findings != 1 {
		t.Errorf("%d findings, want 1", findings)
	}
	closeStore(t, s)
	if _, err := TryOpen(t, pathOf(s), nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open: got %v, want ErrCorrupt", err)
	}
}

func TestFieldsOfTheTimeFromALaterBuildAreKept(t *testing.T) {
	s := open(t, nil)
	var later record.Message
	later.Number(9, 9)
	plantClock(t, s, record.Clock{Unknown: record.Unknown(later)})
	addUser(t, s, "ada")
	must(t, s.ResetClock(t.Context()))
	if got := storedClock(t, s); string(got.Unknown) != string(later) || got.Resets != 1 {
		t.Errorf("the file has %+v, want the unknown fields %x", got, later)
	}
}

func TestASalvagedStoreRemembersTheTime(t *testing.T) {
	AboutFile(t)
	s := open(t, nil)
	addUser(t, s, "ada")
	must(t, s.ResetClock(t.Context()))
	at := record.Clock{Time: s.Now().Add(time.Hour), Resets: 1}
	plantClock(t, s, at)
	closeStore(t, s)
	out := filepath.Join(t.TempDir(), "salvaged.db")
	_, err := Salvage(t.Context(), pathOf(s), out)
	must(t, err)
	s = openPath(t, out, nil)
	if got := storedClock(t, s); !got.Time.Equal(at.Time.Truncate(time.Millisecond)) || got.Resets != 1 {
		t.Errorf("the file has %+v, want %+v", got, at)
	}
	wantSound(t, s)
}

func TestTheTickNeedsNoClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads, seconds atomic.Int64
		begin := time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC)
		now := func() time.Time { return begin.Add(time.Duration(seconds.Load()) * time.Second) }
		s := open(t, &Options{Cost: LightCost, Now: func() time.Time { reads.Add(1); return now() }})
		seconds.Store(3600)
		time.Sleep(time.Second)
		synctest.Wait()
		before := reads.Load()
		if got, want := s.clock.Minute(), uint32(now().Unix()/60); got != want || reads.Load() != before {
			t.Errorf("it is minute %d, want %d, after %d readings", got, want, reads.Load()-before)
		}
	})
}
