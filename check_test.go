package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func wantClean(t testing.TB, s *latchkey.Store) {
	t.Helper()
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func TestCheckFindsNothingWrongAfterAnyCall(t *testing.T) {
	for name, c := range storeCalls {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			s := openAt(t, path, light())
			h := addHousehold(t, s)
			addKey(t, s, latchkey.ServerOwner, "backup")
			wantClean(t, s)
			must(t, c.call(t.Context(), s, h))
			wantClean(t, s)
			_ = c.call(t.Context(), s, h) // once more, which many calls refuse
			wantClean(t, s)
			closeStore(t, s)

			opts := light()
			opts.ReadOnly = true
			s = openAt(t, path, opts)
			wantClean(t, s)
		})
	}
}

func TestCheckFindsNothingWrongWithAnEmptyStore(t *testing.T) {
	wantClean(t, open(t))
}

// openUnchecked opens a store that the test will damage, and does not check it at the end.
func openUnchecked(t testing.TB, e latchkey.Engine) *latchkey.Store {
	t.Helper()
	s, err := latchkey.OpenWith(e, light())
	must(t, err)
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// plantWrongs puts n entries into an index. Check finds each of them.
func plantWrongs(t testing.TB, e latchkey.Engine, n int) {
	t.Helper()
	must(t, e.Update(t.Context(), func(etx latchkey.EngineTx) error {
		for i := range n {
			if err := etx.Put("names", fmt.Appendf(nil, "wrong %d", i), nil); err != nil {
				return err
			}
		}
		return nil
	}))
}

func TestCheckWorksOnAnEngineThatCannotCheckItself(t *testing.T) {
	e := &hookedEngine{Engine: newEngine(t)} // hides the optional abilities of bbolt
	s := openUnchecked(t, e)
	addHousehold(t, s)
	wantClean(t, s)
	plantWrongs(t, e, 1)
	wantFindings(t, s, 1)
}

func wantFindings(t testing.TB, s *latchkey.Store, want int) {
	t.Helper()
	n := 0
	for finding := range s.Check(t.Context()) {
		if !errors.Is(finding, latchkey.ErrCorrupt) {
			t.Errorf("the finding %q is not ErrCorrupt", finding)
		}
		n++
	}
	if n != want {
		t.Errorf("got %d findings, want %d", n, want)
	}
}

func TestALoopOverFindingsCanBeLeft(t *testing.T) {
	e := newEngine(t)
	s := openUnchecked(t, e)
	addHousehold(t, s)
	plantWrongs(t, e, 5)
	wantFindings(t, s, 5)
	for leave := 1; leave <= 5; leave++ {
		met := 0
		for range s.Check(t.Context()) {
			if met++; met == leave {
				break
			}
		}
	}
	wantFindings(t, s, 5)
}

func TestCheckSaysOnceThatItCouldNotRead(t *testing.T) {
	s := open(t)
	addHousehold(t, s)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	wantOnly := func(ctx context.Context, want error) {
		t.Helper()
		n := 0
		for err := range s.Check(ctx) {
			if n++; !errors.Is(err, want) || errors.Is(err, latchkey.ErrCorrupt) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		if n != 1 {
			t.Errorf("got %d errors, want 1", n)
		}
	}
	wantOnly(cancelled, context.Canceled)
	closeStore(t, s)
	wantOnly(t.Context(), latchkey.ErrClosed)
}

func TestCheckEndsWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e := newEngine(t)
	s := openUnchecked(t, e)
	addHousehold(t, s)
	plantWrongs(t, e, 5)
	var got []error
	for err := range s.Check(ctx) {
		got = append(got, err)
		cancel()
	}
	if len(got) != 2 || !errors.Is(got[0], latchkey.ErrCorrupt) || !errors.Is(got[1], context.Canceled) {
		t.Errorf("got %v, want a finding and %v", got, context.Canceled)
	}
}

// lapsing is a context that ends after a number of looks at it.
type lapsing struct {
	context.Context
	left int
}

func (ctx *lapsing) Err() error {
	if ctx.left--; ctx.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestCheckAndRepairEndWithTheirContextWhereverTheyAre(t *testing.T) {
	e := newEngine(t)
	s := openUnchecked(t, e)
	_, keys, _ := fillStore(t, s, 2)
	plantWrongs(t, e, 1)
	looks := 0
	for ended := true; ended; looks += 10 {
		ended = false
		for err := range s.Check(&lapsing{t.Context(), looks}) {
			if ended {
				t.Errorf("after its context had ended Check went on with %v", err)
			}
			ended = errors.Is(err, context.Canceled)
		}
	}
	if looks < 2*len(keys) { // at the keys and the names
		t.Errorf("Check has looked at its context %d times, and there are %d keys", looks, len(keys))
	}

	before := dump(t, e)
	for looks = 0; ; looks += 10 {
		repaired, err := s.Repair(&lapsing{t.Context(), looks})
		if err == nil {
			if repaired != 1 {
				t.Errorf("repaired: %d, want 1", repaired)
			}
			break
		}
		wantError(t, err, context.Canceled)
		if repaired != 0 || !slices.Equal(dump(t, e), before) {
			t.Fatalf("repaired: %d, or the tables have changed, beside %v", repaired, err)
		}
	}
	if looks < 2*len(keys) {
		t.Errorf("Repair has looked at its context %d times, and there are %d keys", looks, len(keys))
	}
	wantClean(t, s)
}

func TestTheBodyOfALoopOverFindingsMayLogIn(t *testing.T) {
	e := newEngine(t)
	s := openUnchecked(t, e)
	h := addHousehold(t, s)
	plantWrongs(t, e, 2)
	for range s.Check(t.Context()) {
		wantLogin(t, s, h.token, h.key.ID)
	}
}
