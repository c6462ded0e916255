// Package outbox keeps the changes to a store for a watcher: a program part that tells other
// systems about them. Each change is put into the outbox in its own transaction, so no change is
// missed, whatever happens to the program.
//
//	box := outbox.New(nil)
//	store, err := latchkey.Open("keys.db", &latchkey.Options{OnChange: box.Append})
//	for {
//		messages, err := box.Next(ctx, store) // waits until there are some
//		if err != nil {
//			return err
//		}
//		for _, m := range messages {
//			...
//		}
//		err = box.Acknowledge(ctx, store, messages[len(messages)-1].Number)
//	}
//
// # What it promises
//
// Messages come in the order of their changes. Each comes at least once: until a message is
// acknowledged, [Outbox.Next] returns it again, also after a restart. So a watcher can meet a
// message twice, and knows it by its number. A store that was restored from a backup goes on with
// the numbers of the backup, and so can use a number again for another change.
//
// The outbox is bounded. When it is full, the oldest message is dropped for each new one, because a
// watcher that stands still must not stop a revocation. The next message that is read then says how
// many were lost, in [Message].Lost. A watcher that must miss nothing reads the store anew when it
// sees a number there.
//
// One watcher reads an outbox. Two watchers have an outbox each, with names of their own.
package outbox

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/plainjson"
)

// Options changes how an outbox is kept. A nil *Options, or one with only zero fields, is the
// default.
type Options struct {
	// Name is the name of the outbox's [latchkey.AppTable]. The default is "outbox".
	Name string

	// MaxMessages is how many messages the outbox has at most. The default is 10,000, which take
	// about 3 MB in a file.
	MaxMessages int
}

func (o *Options) name() string {
	if o == nil || o.Name == "" {
		return "outbox"
	}
	return o.Name
}

func (o *Options) maxMessages() uint64 {
	if o == nil || o.MaxMessages <= 0 {
		return 10_000
	}
	return uint64(o.MaxMessages)
}

// An Outbox keeps the changes to one store. It is safe for concurrent use.
type Outbox struct {
	name string
	max  uint64
}

// New returns an outbox. opts may be nil.
func New(opts *Options) *Outbox {
	return &Outbox{name: opts.name(), max: opts.maxMessages()}
}

// A Message is one change in the outbox.
type Message struct {
	Number uint64 `json:"number"` // from 1 on, one more for each change
	// Lost is how many messages before this one were dropped because the outbox was full.
	Lost   uint64          `json:"lost,omitempty"`
	Change latchkey.Change `json:"change"`
}

// ErrDamaged means that a message cannot be read. Its text has the number. A watcher that
// acknowledges the number goes on with the next message.
var ErrDamaged = errors.New("a message in the outbox is damaged")

// The table has the messages, each under 'e' and its number, and behind them the state under 's'.
var (
	messagesKey = []byte{'e'}
	stateKey    = []byte{'s'}
)

func messageKey(number uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'e'}, number) }

// state says which messages there are: those after dropped and after acknowledged, up to last.
type state struct {
	last         uint64
	dropped      uint64 // the last message that was removed because the outbox was full
	acknowledged uint64
}

// first returns the number of the oldest message that can be there.
func (s state) first() uint64 { return max(s.dropped, s.acknowledged) + 1 }

func (o *Outbox) state(table *latchkey.AppTable) (s state, err error) {
	b, err := table.Get(stateKey)
	if err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
		return state{}, err
	}
	if err == nil && len(b) == 24 {
		s = state{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
		if s.dropped <= s.last && s.acknowledged <= s.last && s.last < ^uint64(0) {
			return s, nil
		}
	}
	return findState(table), nil
}

// findState finds the state from the numbers of the messages, which need not be readable. It is for
// a table whose state is lost or damaged, and for one that is empty.
func findState(table *latchkey.AppTable) (s state) {
	if !hasMessage(table, messagesKey, stateKey) {
		return s
	}
	first := firstNumber(func(n uint64) bool { return hasMessage(table, messagesKey, messageKey(n+1)) })
	next := firstNumber(func(n uint64) bool { return !hasMessage(table, messageKey(n), stateKey) })
	return state{last: next - 1, acknowledged: max(first, 1) - 1}
}

// firstNumber returns the first number for which ok is true. ok is true for all greater numbers.
func firstNumber(ok func(n uint64) bool) uint64 {
	low, high := uint64(0), ^uint64(0)
	for low < high {
		if middle := low + (high-low)/2; ok(middle) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// hasMessage reports whether there is a message in a range of keys.
func hasMessage(table *latchkey.AppTable, from, to []byte) bool {
	for range table.Scan(from, to) {
		return true
	}
	return false
}

func (o *Outbox) putState(table *latchkey.AppTable, s state) error {
	b := binary.BigEndian.AppendUint64(nil, s.last)
	b = binary.BigEndian.AppendUint64(b, s.dropped)
	return table.Put(stateKey, binary.BigEndian.AppendUint64(b, s.acknowledged))
}

// Exists reports whether the outbox was ever used: whether it has or had a message.
//
// Errors: those of [latchkey.AppTable], but not [latchkey.ErrCorrupt].
func (o *Outbox) Exists(tx *latchkey.Tx) (bool, error) {
	s, err := o.state(tx.AppTable(o.name))
	return s != state{}, err
}

// Append puts a change into the outbox. It is made for [latchkey.Options].OnChange. If the file is
// damaged where the outbox is, Append lets the change go through without a message, because a
// watcher must not stop a revocation.
//
// Errors: those of [latchkey.AppTable], but not [latchkey.ErrCorrupt].
func (o *Outbox) Append(tx *latchkey.Tx, c latchkey.Change) error {
	err := o.append(tx.AppTable(o.name), c)
	if errors.Is(err, latchkey.ErrCorrupt) {
		return nil
	}
	return err
}

func (o *Outbox) append(table *latchkey.AppTable, c latchkey.Change) error {
	s, err := o.state(table)
	if err != nil {
		return err
	}
	value, err := plainjson.Marshal(c)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	s.last++
	for range dropAtOnce {
		if s.last-s.first() < o.max {
			break
		}
		s.dropped = s.first()
		if err := table.Delete(messageKey(s.dropped)); err != nil {
			return err
		}
	}
	if err := table.Put(messageKey(s.last), value); err != nil {
		return err
	}
	return o.putState(table, s)
}

// dropAtOnce is how many messages one change drops at most. It is more than one, so that the outbox
// shrinks when MaxMessages is lowered, and little, so that no change is slow.
const dropAtOnce = 8

// maxMessagesAtOnce is how many messages Next returns at most, so that no transaction is long.
const maxMessagesAtOnce = 100

// Next returns the oldest messages that are not acknowledged, at most 100. If there are none, Next
// waits for a commit that brings some.
//
// Errors: [ErrDamaged] if the oldest message cannot be read; an error of [latchkey.Store.View] or
// [latchkey.Store.Wait], such as ctx's error.
func (o *Outbox) Next(ctx context.Context, store *latchkey.Store) ([]Message, error) {
	for {
		messages, sequence, err := o.peek(ctx, store)
		if err != nil || len(messages) > 0 {
			return messages, err
		}
		if err := store.Wait(ctx, sequence); err != nil {
			return nil, err
		}
	}
}

// Peek returns what [Outbox.Next] returns, but does not wait if there is nothing.
//
// Errors: [ErrDamaged]; an error of [latchkey.Store.View].
func (o *Outbox) Peek(ctx context.Context, store *latchkey.Store) ([]Message, error) {
	messages, _, err := o.peek(ctx, store)
	return messages, err
}

// peek returns the oldest messages without waiting, and the sequence of the last commit.
func (o *Outbox) peek(ctx context.Context, store *latchkey.Store) (messages []Message, sequence uint64, err error) {
	err = store.View(ctx, func(tx *latchkey.Tx) error {
		messages, sequence = nil, tx.Sequence()
		table := tx.AppTable(o.name)
		s, err := o.state(table)
		if err != nil {
			return err
		}
		seen := s.acknowledged
		for e, err := range table.Scan(messageKey(s.first()), messageKey(s.last+1)) {
			m := Message{Number: max(seen+1, s.first())} // of a message that is damaged
			if err == nil {
				m, err = decodeMessage(e)
			}
			switch {
			case err == nil:
			case !errors.Is(err, latchkey.ErrCorrupt) && !errors.Is(err, ErrDamaged):
				return err
			case len(messages) > 0:
				return nil
			default:
				return fmt.Errorf("%w: number %d", ErrDamaged, m.Number)
			}
			m.Lost = m.Number - seen - 1
			messages, seen = append(messages, m), m.Number
			if len(messages) == maxMessagesAtOnce {
				return nil
			}
		}
		return nil
	})
	return messages, sequence, err
}

// decodeMessage returns the message of an entry. If it is damaged, only its number is right.
func decodeMessage(e latchkey.Entry) (m Message, err error) {
	if len(e.Key) == len(messagesKey)+8 {
		m.Number = binary.BigEndian.Uint64(e.Key[len(messagesKey):])
	}
	if json.Unmarshal(e.Value, &m.Change) != nil {
		return m, ErrDamaged
	}
	return m, nil
}

// acknowledgedAtOnce is how many messages Acknowledge removes in one transaction. An engine that
// bounds its transactions takes 100 writes at least.
const acknowledgedAtOnce = 90

// Acknowledge removes a message and all before it, in several transactions if they are many. A
// number that was acknowledged before changes nothing, and neither does one that no message has had
// yet.
//
// Errors: those of [latchkey.Store.Update].
func (o *Outbox) Acknowledge(ctx context.Context, store *latchkey.Store, number uint64) error {
	for done := false; !done; {
		err := store.Update(ctx, func(tx *latchkey.Tx) (err error) {
			done, err = o.acknowledge(tx.AppTable(o.name), number)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// acknowledge removes some messages up to a number, and reports whether no more are left.
func (o *Outbox) acknowledge(table *latchkey.AppTable, number uint64) (done bool, err error) {
	s, err := o.state(table)
	if err != nil || number <= s.acknowledged || number > s.last {
		return true, err
	}
	last := min(number, s.first()+acknowledgedAtOnce-1)
	for n := s.first(); n <= last; n++ {
		if err := table.Delete(messageKey(n)); err != nil {
			return false, err
		}
	}
	s.acknowledged = last
	return last == number, o.putState(table, s)
}
