package replication

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A Feed is what a hub has for one edge, message by message. It is a few dozen bytes, and has no
// goroutine. One goroutine at a time may use it.
type Feed struct {
	// Welcome is the first message.
	Welcome Welcome
	// Cloned says that a stream of another device with the edge's credential was ended for this
	// one. Then the edge has to get a [Cloned].
	Cloned bool

	hub  *Hub
	edge *edge
	done chan struct{}
}

type edge struct{}

// A Batch is what [Feed.Next] returns. Feeds that have the same policy and the same position share
// their batches, so a batch must not be changed.
type Batch struct {
	Messages []Message
	More     bool // there is more already
	// End says that the stream ends with the batch. The edge asks for another one.
	End bool

	once    sync.Once
	encoded []byte
}

// Encoded returns what encode returns of the messages. It calls encode once for all feeds that
// share the batch. The result must not be changed.
func (b *Batch) Encoded(encode func([]Message) []byte) []byte {
	b.once.Do(func() { b.encoded = encode(b.Messages) })
	return b.encoded
}

// Hello begins a feed. A feed of the edge that there was ends.
//
// Errors: [ErrUnknownEdge], [ErrFormat].
func (h *Hub) Hello(ctx context.Context, id uuid.UUID, hello Hello, now time.Time) (*Feed, error) {
	return nil, errors.ErrUnsupported
}

// Next returns what comes next: messages of about most bytes, or more if a single change is larger.
// Without a message and without More, the edge has everything. [access.Store] then tells when there
// is a new commit.
//
// Errors: [ErrReplaced].
func (f *Feed) Next(ctx context.Context, most int) (*Batch, error) {
	return nil, errors.ErrUnsupported
}

// Done is closed when the hub has ended the feed.
func (f *Feed) Done() <-chan struct{} { return f.done }

// Beat returns the message by which the edge learns that the hub is there.
func (f *Feed) Beat(ctx context.Context, now time.Time) (Beat, error) {
	return Beat{}, errors.ErrUnsupported
}

// Close says that the stream is over.
func (f *Feed) Close() {}
