package replication

import (
	"context"
	"time"
)

// Compare begins a comparison with the hub, which the edge needs after a [Welcome] with
// [CompareFirst].
func (e *Edge) Compare(ctx context.Context) (CompareRequest, error) { return CompareRequest{}, nil }

// Compared takes the hub's reply, and returns the next request. If that is nil, the comparison is
// over. What the hub wants is pending then, so a push should follow, and a new stream after that.
func (e *Edge) Compared(ctx context.Context, asked CompareRequest, reply CompareReply, now time.Time) (next *CompareRequest, err error) {
	return nil, nil
}
