package main

import (
	"context"
	"errors"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/outbox"
)

// drainOutbox delivers the messages in the outbox, and acknowledges them, if the file has changed.
// The file is not open during the deliveries.
func (w *watcher) drainOutbox(ctx context.Context) error {
	now, changed, err := w.look.again(w.file)
	if err != nil || !changed {
		return err
	}
	box := outbox.New(&outbox.Options{Name: w.outbox})
	for {
		var messages []outbox.Message
		err := w.withFile(latchkey.Options{ReadOnly: true}, func(s *latchkey.Store) (err error) {
			messages, err = box.Peek(ctx, s)
			return err
		})
		if err != nil {
			return err
		}
		w.known = true
		if len(messages) == 0 {
			w.look = now
			return nil
		}
		deliverErr := w.deliverMessages(ctx, messages)
		// The messages before a failure are acknowledged, also if ctx has ended.
		if err := errors.Join(deliverErr, w.acknowledge(context.WithoutCancel(ctx), box)); err != nil {
			return err
		}
	}
}

// acknowledge removes the messages that were delivered.
func (w *watcher) acknowledge(ctx context.Context, box *outbox.Outbox) error {
	if w.acked == 0 {
		return nil
	}
	err := w.withFile(latchkey.Options{}, func(s *latchkey.Store) error { return box.Acknowledge(ctx, s, w.acked) })
	if err == nil {
		w.acked = 0 // the store of a backup can use a number again
	}
	return err
}

// withFile opens the file without waiting, and runs fn.
func (w *watcher) withFile(opts latchkey.Options, fn func(*latchkey.Store) error) error {
	s, err := openStore(w.file, opts, 0)
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close())
}

// deliverMessages delivers messages, without those that were delivered before and could not be
// acknowledged.
func (w *watcher) deliverMessages(ctx context.Context, messages []outbox.Message) error {
	for _, m := range messages {
		if m.Number <= w.acked {
			continue
		}
		if m.Lost > 0 && m.Number-1 > w.acked {
			if err := w.deliver(ctx, lostLine{true}); err != nil {
				return err
			}
		}
		m.Lost = 0 // the line before says so
		if err := w.deliver(ctx, m); err != nil {
			return err
		}
		w.acked = m.Number
	}
	return nil
}
