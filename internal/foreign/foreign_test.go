package foreign_test

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/foreign"
	"github.com/latchkeydb/latchkey/internal/record"
)

// handle returns the n-th handle.
func handle(n int) record.Handle {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return record.Handle(sum[:16])
}

// wrong returns how many of 10,000 other handles the filter has.
func wrong(f *foreign.Filter) (n int) {
	for i := range 10_000 {
		if f.Has(handle(1_000_000 + i)) {
			n++
		}
	}
	return n
}

func TestAFilterHasEveryHandleAndFewOthers(t *testing.T) {
	for _, reserved := range []bool{true, false} {
		for _, n := range []int{0, 1, 100, 20_000} {
			var f foreign.Filter
			if reserved {
				f.Reserve(n)
			}
			for i := range n {
				f.Add(handle(i))
			}
			for i := range n {
				if !f.Has(handle(i)) {
					t.Fatalf("of %d, handle %d is not there", n, i)
				}
			}
			if w := wrong(&f); w > 100 {
				t.Errorf("of %d, %d of 10,000 others are there", n, w)
			}
			if most := 4*n + 1024; f.Bytes() > most {
				t.Errorf("%d handles take %d bytes, want at most %d", n, f.Bytes(), most)
			}
		}
	}
}

func TestAFilterDoesNotGrowByTheSameHandles(t *testing.T) {
	var f foreign.Filter
	for range 10_000 {
		f.Add(handle(1))
	}
	f.Reserve(100)
	if f.Bytes() > 1024 {
		t.Errorf("one handle takes %d bytes", f.Bytes())
	}
}

func TestAFilterIsReadWhileItGrows(t *testing.T) {
	var f foreign.Filter
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 1000 {
				h := handle(w*1000 + i)
				if f.Add(h); !f.Has(h) {
					t.Errorf("handle %d is not there", w*1000+i)
				}
			}
		})
	}
	group.Wait()
	for i := range 4000 {
		if !f.Has(handle(i)) {
			t.Errorf("handle %d is not there any more", i)
		}
	}
}

func TestAFilterAllocatesNothingToLook(t *testing.T) {
	var f foreign.Filter
	h := handle(1)
	f.Add(h)
	if n := testing.AllocsPerRun(100, func() { f.Has(h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// key returns the n-th key.
func key(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

func TestAKeyIsHashedOnceInItsTime(t *testing.T) {
	var p foreign.Pace
	now := time.Unix(1000, 0)
	take := func(k int, after time.Duration, want bool) {
		t.Helper()
		if got := p.Take(key(k), now.Add(after), time.Second); got != want {
			t.Errorf("key %d after %v: got %v", k, after, got)
		}
	}
	take(1, 0, true)
	take(1, 0, false)
	take(1, 999*time.Millisecond, false)
	take(2, 300*time.Millisecond, true)
	take(1, time.Second, true)
	take(1, 1500*time.Millisecond, false)
	take(2, 1300*time.Millisecond, true)
	p.Forget(key(1))
	take(1, 1500*time.Millisecond, true)
	p.Forget(key(3))
}

func TestAPaceForgetsTheOldestKeys(t *testing.T) {
	var p foreign.Pace
	now := time.Unix(1000, 0)
	const generation = 4096
	for i := range 2 * generation {
		if !p.Take(key(i), now, time.Second) {
			t.Fatalf("key %d waits", i)
		}
	}
	for i := range 2 * generation {
		if p.Take(key(i), now, time.Second) {
			t.Fatalf("key %d does not wait", i)
		}
	}
	if !p.Take(key(2*generation), now, time.Second) || p.Take(key(2*generation), now, time.Second) {
		t.Error("the first of a third generation")
	}
	if !p.Take(key(0), now, time.Second) || p.Take(key(generation), now, time.Second) {
		t.Error("not the oldest generation was forgotten")
	}
}

func TestRecentKnowsTheLastKeyOfAHandle(t *testing.T) {
	r := foreign.NewRecent(100)
	want := func(h int, k int, found bool) {
		t.Helper()
		if got, ok := r.Key(handle(h)); ok != found || ok && got != key(k) {
			t.Errorf("handle %d: got %v, %v", h, got, ok)
		}
	}
	want(1, 0, false)
	r.Note(handle(1), key(1))
	want(1, 1, true)
	want(2, 0, false)
	r.Note(handle(1), key(2))
	want(1, 2, true)
	for i := range 1000 {
		r.Note(handle(i), key(i))
		want(i, i, true)
	}
	small := foreign.NewRecent(0)
	small.Note(handle(1), key(1))
	small.Note(handle(2), key(2))
	if _, ok := small.Key(handle(1)); ok {
		t.Error("two handles are in one place")
	}
}

func TestTheSecretOfATokenIsNoDigestThatASystemKeeps(t *testing.T) {
	token := "old-1"
	if s := foreign.Secret(token); s == sha256.Sum256([]byte(token)) || s == foreign.Secret("old-2") {
		t.Errorf("got %x", s)
	}
	long := make([]byte, 4096)
	if foreign.Secret(string(long)) == foreign.Secret(string(long[1:])) {
		t.Error("two long tokens have one secret")
	}
	if n := testing.AllocsPerRun(100, func() { foreign.Secret(token) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFilterHas(b *testing.B) {
	var f foreign.Filter
	f.Reserve(1_000_000)
	for i := range 1_000_000 {
		f.Add(handle(i))
	}
	b.ReportMetric(float64(f.Bytes()), "bytes")
	i := 0
	for b.Loop() {
		f.Has(handle(2_000_000 + i))
		i++
	}
}
