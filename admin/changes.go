package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
)

const (
	// heartbeat is how long a stream is silent at most. Proxies commonly close a connection that
	// was silent for a minute.
	heartbeat = 15 * time.Second
	// pause is the least time between two looks at the store, so that a store with thousands of
	// commits a second costs a stream ten transactions a second.
	pause = 100 * time.Millisecond
	// writeWithin is how long a client may take to receive something. It bounds what a client that
	// stands still can hold up.
	writeWithin = 30 * time.Second
	// batch is how many entries of the trail one transaction reads.
	batch = 100
)

// A stream is a stream of changes to one client. See openapi.yaml for its events.
type stream struct {
	*call
	control  *http.ResponseController
	last     audit.Position // of the last entry of the trail that was sent
	sequence uint64         // of the last commit that was sent
}

// streamChanges sends changes as they are committed (server-sent events).
func (c *call) streamChanges() error {
	if _, err := c.query(); err != nil {
		return err
	}
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		return errTooManyStreams
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	defer context.AfterFunc(c.closed, cancel)()
	if c.closed.Err() != nil {
		return latchkey.ErrClosed
	}
	s := &stream{call: c, control: http.NewResponseController(c.w)}
	if err := s.begin(ctx); err != nil {
		return err
	}
	_ = s.follow(ctx) // the client is gone, or the store or the handler was closed
	return nil
}

// begin finds the place to begin at, and sends the event ready.
func (s *stream) begin(ctx context.Context) error {
	var heads []audit.Head
	err := s.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		s.sequence = tx.Sequence()
		heads, err = audit.Heads(tx)
		return err
	})
	if err != nil {
		return err
	}
	now := audit.Position{}
	for _, h := range heads {
		now[h.Chain] = h.Number
	}
	s.last = now
	lost := false
	if text := s.r.Header.Get("Last-Event-ID"); text != "" {
		if s.last, err = audit.ParsePosition(text); err != nil {
			return fmt.Errorf("%w: Last-Event-ID must be the ID of an event of this stream", errBadRequest)
		}
		for chain, number := range s.last {
			// A store that was restored from a backup has shorter chains, or not all of them.
			if number > now[chain] {
				lost, s.last[chain] = true, now[chain]
			}
		}
	}
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.WriteHeader(http.StatusOK)
	ready := struct {
		Sequence uint64 `json:"sequence"`
		Last     string `json:"last"`
		Trail    bool   `json:"trail"`
	}{s.sequence, s.last.String(), len(heads) > 0}
	if err := s.send("ready", "", ready); err != nil {
		return nil // the client is gone, and follow finds that out, too
	}
	if lost {
		_ = s.send("lost", "", struct{}{})
	}
	return nil
}

// follow sends what is committed until ctx ends, the client is gone, or the store is closed.
func (s *stream) follow(ctx context.Context) error {
	for {
		more, err := s.sendNew(ctx)
		if err != nil {
			return err
		}
		if err := s.control.Flush(); err != nil {
			return err
		}
		if more {
			continue
		}
		for {
			wait, cancel := context.WithTimeout(ctx, heartbeat)
			err := s.store.Wait(wait, s.sequence)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			if err := s.again(); err != nil {
				return err
			}
			if err := s.write(": still here\n\n"); err != nil {
				return err
			}
			if err := s.control.Flush(); err != nil {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendNew sends the entries of the trail after the last one that was sent, and then the sequence.
// It reports whether there are more entries.
func (s *stream) sendNew(ctx context.Context) (more bool, err error) {
	var entries []audit.Entry
	var sequence uint64
	err = s.store.View(ctx, func(tx *latchkey.Tx) error {
		entries, more, sequence = nil, false, tx.Sequence()
		for e, err := range audit.All(tx, s.last) {
			if err != nil {
				return err
			}
			if more = len(entries) == batch; more {
				return nil
			}
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			_ = s.send("problem", "", problemOf(err))
			_ = s.control.Flush()
		}
		return false, err
	}
	if err := s.again(); err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Number > s.last[e.Chain]+1 { // older entries were pruned before they were sent
			if err := s.send("lost", "", struct{}{}); err != nil {
				return false, err
			}
		}
		s.last[e.Chain] = e.Number
		if err := s.send("change", s.last.String(), e); err != nil {
			return false, err
		}
	}
	if more || sequence == s.sequence {
		return more, nil
	}
	s.sequence = sequence
	return false, s.send("commit", "", struct {
		Sequence uint64 `json:"sequence"`
	}{sequence})
}

// again returns an error if the caller may no longer have the stream, and tells the client so.
func (s *stream) again() error {
	if s.caller.Again == nil {
		return nil
	}
	err := s.caller.Again()
	if err != nil {
		_ = s.send("problem", "", authenticationProblem(err))
		_ = s.control.Flush()
	}
	return err
}

// send writes an event. Its data are on one line, because JSON escapes line ends in texts.
func (s *stream) send(event, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return s.write(fmt.Sprintf("event: %s\n%sdata: %s\n\n", event, id, text))
}

func (s *stream) write(text string) error {
	// A writer without deadlines is one of a test, or of a server that has its own.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeWithin))
	_, err := s.w.Write([]byte(text))
	return err
}
