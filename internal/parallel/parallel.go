// Package parallel runs a function for many numbers at once.
package parallel

import (
	"context"
	"sync/atomic"
)

// Each calls fn with each number below n, as many calls at once as workers says. After each call it
// calls after with the number of calls that have ended, in the goroutine of the caller, so that the
// caller can recover from a panic of after. No call of fn is running when Each returns.
//
// Each returns the first error of fn or after, or ctx's error.
func Each(ctx context.Context, n, workers int, after func(done int) error, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan error)
	done := 0
	defer func() {
		cancel() // the calls that are left return at once
		for ; done < n; done++ {
			<-results
		}
	}()
	var next atomic.Int64
	for range min(n, workers) {
		go func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				results <- fn(ctx, i)
			}
		}()
	}
	for done < n {
		err := <-results
		done++
		if err == nil {
			err = after(done)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
