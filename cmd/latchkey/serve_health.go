package main

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// healthEvery is how often serve asks the store how it is. The store itself looks at its file once
// a second.
const healthEvery = 5 * time.Second

// watchHealth logs each finding of health once, when it begins, and logs when all is well again. It
// asks at each tick, until ctx ends.
func watchHealth(ctx context.Context, ticks <-chan time.Time, health func(context.Context) error, log *slog.Logger) {
	for known := []string{}; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		err := health(ctx)
		if ctx.Err() != nil {
			return
		}
		var now []string
		for _, finding := range splitError(err) {
			now = append(now, line(text(finding)))
		}
		for _, finding := range now {
			if !slices.Contains(known, finding) {
				log.Error("the store is not well", "finding", finding)
			}
		}
		if len(now) == 0 && len(known) > 0 {
			log.Warn("the store is well again")
		}
		known = now
	}
}
