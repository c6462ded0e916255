package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

func TestServeLogsOnceWhatIsWrongWithTheStore(t *testing.T) {
	gone, stale := latchkey.ErrFileGone, errors.New("the safety copy cannot be made")
	answers := []error{nil, nil, gone, gone, errors.Join(gone, stale), stale, nil, nil, gone}
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time, len(answers))
	for range answers {
		ticks <- time.Time{}
	}
	health := func(context.Context) error {
		answer := answers[0]
		if answers = answers[1:]; len(answers) == 0 {
			defer cancel() // after the last answer was logged, there is no tick
		}
		return answer
	}
	logged := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	watchHealth(ctx, ticks, health, logged)
	want := `level=ERROR msg="the store is not well" finding="the store's file is gone"
level=ERROR msg="the store is not well" finding="the safety copy cannot be made"
level=WARN msg="the store is well again"
`
	if got := log.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, strings.TrimSpace(want))
	}
}
