package replication

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A Claim is a change that an edge made or knows of, and that its policy does not let it push. It
// is in effect at the edge.
type Claim struct {
	Number  uint64
	Edge    uuid.UUID
	Came    time.Time
	Copy    record.Copy
	Actions []string // what the claim would change at the hub, such as "key.disabled"
}

// Claims returns the claims that wait, in the order of their numbers.
func (h *Hub) Claims(ctx context.Context) ([]Claim, error) { return nil, errors.ErrUnsupported }

// ConfirmClaim merges what a claim has.
//
// Errors: [ErrNoClaim]; [merge.ErrInvalid] if the record cannot be merged.
func (h *Hub) ConfirmClaim(ctx context.Context, n uint64) error { return errors.ErrUnsupported }

// RefuseClaim makes the edge take the hub's version of the record.
//
// Errors: [ErrNoClaim].
func (h *Hub) RefuseClaim(ctx context.Context, n uint64) error { return errors.ErrUnsupported }
