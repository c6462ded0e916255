package replication

import (
	"context"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
)

// A Change is a change that was made in the store of an edge, as the hook of the store tells it.
type Change struct {
	Actions   []string // such as "key.disabled"
	User, Key uuid.UUID
	Group     string
	Scopes    []string
}

// Changed decides about a change that was made here, in the transaction of the change. It notes
// what the hub must hear of. It must not be called for a change with [merge.Tables].Merging.
//
// Errors: [ErrNotPermitted], and then the transaction must not commit; an error of t.
func (e *Edge) Changed(t *merge.Tables, c Change) error { return nil }

// Pushing is what a push has taken along.
type Pushing struct{}

// Pending returns what the hub does not know, up to some number of bytes. The request has no
// records if there is nothing. Then a push says how far the edge has come. When the hub has
// replied, the caller calls [Edge.Pushed] with the same Pushing, and Pending again until there is
// nothing.
func (e *Edge) Pending(ctx context.Context, most int) (PushRequest, *Pushing, error) {
	return PushRequest{}, &Pushing{}, nil
}

// Pushed notes that the hub has replied to a push.
func (e *Edge) Pushed(ctx context.Context, p *Pushing, reply PushReply) error { return nil }
