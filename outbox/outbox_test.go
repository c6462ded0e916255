package outbox_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/largest"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/latchkeytest"
	"github.com/latchkeydb/latchkey/outbox"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func change(n int) latchkey.Change {
	return latchkey.Change{Actions: []latchkey.Action{latchkey.ActionKeyDisabled}, Time: time.UnixMilli(int64(n)).UTC(), Key: uuid.UUID{1}, Owner: uuid.Max, Name: fmt.Sprint(n)}
}

func update(t testing.TB, s *latchkey.Store, fn func(tx *latchkey.Tx) error) {
	t.Helper()
	must(t, s.Update(t.Context(), fn))
}

// fill appends changes with numbers from first to last, each in a transaction of its own.
func fill(t testing.TB, s *latchkey.Store, box *outbox.Outbox, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		update(t, s, func(tx *latchkey.Tx) error { return box.Append(tx, change(n)) })
	}
}

func next(t testing.TB, s *latchkey.Store, box *outbox.Outbox) []outbox.Message {
	t.Helper()
	messages, err := box.Next(t.Context(), s)
	must(t, err)
	return messages
}

// wantNext fails unless the next messages are those from first to last, of which the first follows
// so many that were lost.
func wantNext(t testing.TB, s *latchkey.Store, box *outbox.Outbox, first, last, lost int) {
	t.Helper()
	var want []outbox.Message
	for n := first; n <= last; n++ {
		want = append(want, outbox.Message{Number: uint64(n), Lost: uint64(lost), Change: change(n)})
		lost = 0
	}
	if got := next(t, s, box); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// wantNone fails if there is a message. It runs in a bubble, where the wait costs no time.
func wantNone(t testing.TB, s *latchkey.Store, box *outbox.Outbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if messages, err := box.Next(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v, want no message", messages, err)
	}
}

func TestEachChangeComesInOrderUntilItIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		wantNone(t, s, box)
		fill(t, s, box, 1, 3)
		wantNext(t, s, box, 1, 3, 0)
		wantNext(t, s, box, 1, 3, 0)
		must(t, box.Acknowledge(t.Context(), s, 2))
		wantNext(t, s, box, 3, 3, 0)
		must(t, box.Acknowledge(t.Context(), s, 1))
		must(t, box.Acknowledge(t.Context(), s, 4))
		wantNext(t, s, box, 3, 3, 0)
		fill(t, s, box, 4, 5)
		wantNext(t, s, outbox.New(nil), 3, 5, 0) // as after a restart
		must(t, box.Acknowledge(t.Context(), s, 5))
		wantNone(t, s, box)
		fill(t, s, box, 6, 6)
		wantNext(t, s, box, 6, 6, 0)
	})
}

func TestAMessageGoesWithItsTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		refused := errors.New("refused")
		err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
			must(t, box.Append(tx, change(7)))
			return refused
		})
		if !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		wantNone(t, s, box)
		update(t, s, func(tx *latchkey.Tx) error {
			must(t, box.Append(tx, change(1)))
			return box.Append(tx, change(2))
		})
		wantNext(t, s, box, 1, 2, 0)
	})
}

func TestAFullOutboxDropsTheOldestAndSaysHowManyAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(&outbox.Options{MaxMessages: 3})
		fill(t, s, box, 1, 3)
		wantNext(t, s, box, 1, 3, 0)
		fill(t, s, box, 4, 5)
		wantNext(t, s, box, 3, 5, 2)
		must(t, box.Acknowledge(t.Context(), s, 1)) // one that was dropped
		wantNext(t, s, box, 3, 5, 1)
		must(t, box.Acknowledge(t.Context(), s, 3))
		fill(t, s, box, 6, 6)
		wantNext(t, s, box, 4, 6, 0)
		fill(t, s, box, 7, 20)
		wantNext(t, s, box, 18, 20, 14)
	})
}

func TestAnOutboxThatMayBeShorterShrinksALittleWithEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := latchkeytest.New(t)
		fill(t, s, outbox.New(nil), 1, 30)
		lower := outbox.New(&outbox.Options{MaxMessages: 2})
		fill(t, s, lower, 31, 31)
		wantNext(t, s, lower, 9, 31, 8)
		fill(t, s, lower, 32, 40)
		wantNext(t, s, lower, 39, 40, 38)
	})
}

func TestAnyNumberOfMessagesIsAcknowledgedOnAnEngineThatBoundsTransactions(t *testing.T) {
	bolt, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	s, err := latchkey.OpenWith(memory.Bound(bolt, 100), nil)
	must(t, err)
	defer s.Close()
	box := outbox.New(nil)
	fill(t, s, box, 1, 203)
	must(t, box.Acknowledge(t.Context(), s, 201))
	wantNext(t, s, box, 202, 203, 0)
}

func TestManyMessagesComeInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		fill(t, s, box, 1, 250)
		for _, tt := range [][2]int{{1, 100}, {101, 200}, {201, 250}} {
			wantNext(t, s, box, tt[0], tt[1], 0)
			must(t, box.Acknowledge(t.Context(), s, uint64(tt[1])))
		}
		wantNone(t, s, box)
	})
}

func TestAWatcherThatWaitsWakesAtTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		got := make(chan []outbox.Message)
		go func() { got <- next(t, s, box) }()
		synctest.Wait()
		_ = s.Update(t.Context(), func(tx *latchkey.Tx) error {
			must(t, box.Append(tx, change(1)))
			return errors.New("refused")
		})
		synctest.Wait()
		select {
		case m := <-got:
			t.Errorf("a transaction that failed gave the watcher %+v", m)
		default:
		}
		update(t, s, func(tx *latchkey.Tx) error { return tx.AppTable("other").Put([]byte("a"), nil) })
		synctest.Wait() // the watcher has looked, and waits again
		began := time.Now()
		fill(t, s, outbox.New(nil), 1, 1)
		if m := <-got; len(m) != 1 || time.Since(began) != 0 {
			t.Errorf("got %+v after %v, want one message at once", m, time.Since(began))
		}
	})
}

func TestAWatcherThatWaitsEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := box.Next(ctx, s)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		go func() {
			_, err := box.Next(t.Context(), s)
			failed <- err
		}()
		synctest.Wait()
		must(t, s.Close())
		if err := <-failed; !errors.Is(err, latchkey.ErrClosed) {
			t.Errorf("of a store that closes: got %v", err)
		}
		if _, err := box.Next(t.Context(), s); !errors.Is(err, latchkey.ErrClosed) {
			t.Errorf("of a closed store: got %v", err)
		}
	})
}

func TestTheHookOfAStoreFillsTheOutbox(t *testing.T) {
	box := outbox.New(nil)
	s, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: box.Append})
	must(t, err)
	defer s.Close()
	got := make(chan []outbox.Message)
	go func() { got <- next(t, s, box) }()
	key, _, err := s.CreateServerKey(latchkey.WithActor(t.Context(), "ada"), latchkey.KeySpec{Name: "billing"})
	must(t, err)
	if m := <-got; len(m) != 1 || m[0].Change.Key != key.ID || m[0].Change.Actor != "ada" {
		t.Errorf("got %+v", m)
	}
}

func TestTheLargestChangeThatThereCanBeIsKept(t *testing.T) {
	box := outbox.New(nil)
	s, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: box.Append})
	must(t, err)
	defer s.Close()
	ctx := latchkey.WithActor(t.Context(), largest.Actor())
	key, _, err := s.CreateServerKey(ctx, largest.KeySpec())
	must(t, err)
	must(t, s.DisableKey(ctx, key.Owner, key.ID))
	if m := next(t, s, box); len(m) != 2 || len(m[1].Change.Scopes.All()) != latchkey.MaxScopes {
		t.Errorf("got %d messages, want 2", len(m))
	}
}

func TestOutboxesOfTwoNamesAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := latchkeytest.New(t), outbox.New(nil), outbox.New(&outbox.Options{Name: "other"})
		fill(t, s, a, 1, 2)
		fill(t, s, b, 1, 1)
		must(t, b.Acknowledge(t.Context(), s, 1))
		wantNext(t, s, a, 1, 2, 0)
		wantNone(t, s, b)
	})
}

func TestALostStateIsFoundAgain(t *testing.T) {
	number := func(n ...uint64) (b []byte) {
		for _, n := range n {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	}
	for _, tt := range []struct {
		about string
		state []byte // nil is none
	}{
		{"none", nil},
		{"short", make([]byte, 23)},
		{"acknowledged more than there are", number(5, 0, 6)},
		{"dropped more than there are", number(5, 6, 0)},
		{"the last number", number(1<<64-1, 0, 0)},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, box := latchkeytest.New(t), outbox.New(nil)
			fill(t, s, box, 1, 5)
			must(t, box.Acknowledge(t.Context(), s, 2))
			update(t, s, func(tx *latchkey.Tx) error {
				table := tx.AppTable("outbox")
				if tt.state == nil {
					return table.Delete([]byte{'s'})
				}
				return table.Put([]byte{'s'}, tt.state)
			})
			fill(t, s, box, 6, 6)
			wantNext(t, s, box, 3, 6, 0)
		})
	}
}

func TestDamageLetsChangesGoThroughAndTheWatcherGoOn(t *testing.T) {
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	box := outbox.New(nil)
	s, err := latchkey.OpenWith(e, &latchkey.Options{Cost: latchkey.LightCost, OnChange: box.Append})
	must(t, err)
	defer s.Close()
	fill(t, s, box, 1, 4)
	for _, key := range []string{"s", "e\x00\x00\x00\x00\x00\x00\x00\x01", "e\x00\x00\x00\x00\x00\x00\x00\x03"} {
		must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			v, err := tx.Get("data", []byte("outbox\x00"+key))
			must(t, err)
			v[len(v)-1]++
			return tx.Put("data", []byte("outbox\x00"+key), v)
		}))
	}
	key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "billing"})
	must(t, err)
	for _, n := range []uint64{1, 3} {
		if m, err := box.Next(t.Context(), s); !errors.Is(err, outbox.ErrDamaged) || err.Error() != fmt.Sprint(outbox.ErrDamaged, ": number ", n) {
			t.Errorf("got %+v, %v, want that message %d is damaged", m, err, n)
		}
		must(t, box.Acknowledge(t.Context(), s, n))
		m := next(t, s, box)
		if m[0].Number != n+1 {
			t.Errorf("got %+v, want message %d", m, n+1)
		}
		must(t, box.Acknowledge(t.Context(), s, n+1))
	}
	if m := next(t, s, box); len(m) != 1 || m[0].Number != 5 || m[0].Change.Key != key.ID {
		t.Errorf("got %+v", m)
	}
}

func TestADamagedMessageIsAnErrorAndCanBePassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, box := latchkeytest.New(t), outbox.New(nil)
		fill(t, s, box, 1, 3)
		update(t, s, func(tx *latchkey.Tx) error {
			return tx.AppTable("outbox").Put(binary.BigEndian.AppendUint64([]byte{'e'}, 2), []byte("{"))
		})
		wantNext(t, s, box, 1, 1, 0)
		must(t, box.Acknowledge(t.Context(), s, 1))
		if m, err := box.Next(t.Context(), s); !errors.Is(err, outbox.ErrDamaged) || err.Error() != outbox.ErrDamaged.Error()+": number 2" {
			t.Errorf("got %+v, %v", m, err)
		}
		must(t, box.Acknowledge(t.Context(), s, 2))
		wantNext(t, s, box, 3, 3, 0)
	})
}
