package parallel_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/latchkeydb/latchkey/internal/parallel"
)

func TestEachCallsForEveryNumberOnceAndNoMoreAtOnceThanWorkers(t *testing.T) {
	var calls [100]atomic.Int32
	var running atomic.Int32
	var ended []int
	after := func(done int) error { ended = append(ended, done); return nil }
	err := parallel.Each(t.Context(), len(calls), 3, after, func(_ context.Context, i int) error {
		defer running.Add(-1)
		if running.Add(1) > 3 {
			t.Error("more than 3 calls run")
		}
		calls[i].Add(1)
		return nil
	})
	if err != nil || len(ended) != len(calls) || ended[0] != 1 || ended[99] != 100 {
		t.Errorf("got %v, after %v", err, ended)
	}
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Errorf("%d was called %d times", i, n)
		}
	}
}

func TestNoCallRunsWhenEachReturns(t *testing.T) {
	failed := errors.New("failed")
	for name, after := range map[string]func(int) error{
		"an error of a call": func(int) error { return nil },
		"an error of after":  func(int) error { return failed },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running atomic.Int32
				err := parallel.Each(t.Context(), 10, 4, after, func(ctx context.Context, i int) error {
					running.Add(1)
					defer running.Add(-1)
					if i == 0 {
						return failed
					}
					<-ctx.Done()
					return ctx.Err()
				})
				if !errors.Is(err, failed) || running.Load() != 0 {
					t.Errorf("got %v, and %d calls run", err, running.Load())
				}
			})
		})
	}
}
