package replication

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Push takes what an edge gives. What it refuses, it refuses whole, says why in the reply, and
// records it. The acknowledgement of a cursor alone writes nothing.
//
// Errors: [ErrUnknownEdge].
func (h *Hub) Push(ctx context.Context, id uuid.UUID, r PushRequest, now time.Time) (PushReply, error) {
	return PushReply{}, errors.ErrUnsupported
}
