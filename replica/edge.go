package replica

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An Edge is a store that follows a hub. It is safe for concurrent use. Close it when done.
type Edge struct {
	store *latchkey.Store
	opts  Options
}

// Join makes the store at path an edge of the hub at hubURL, by an invitation of the hub, and
// copies what the edge gets. opts may be nil. The hub's URL begins with "https://", or with
// "http://" if the hub is on the same machine, see [Options].AllowPlainHTTP.
//
// Join makes the file. A file that exists is refused, unless it is an edge of the domain of the hub
// that the hub does not know any more, or that lost the file of its credential: such an edge joins
// again, and keeps what it has. If Join is interrupted, call it again with the same arguments, or
// [Open] the edge if the first copy had begun.
//
// Errors: [ErrInvitation]; [ErrWrongHub]; [ErrJoined]; [ErrNotEdge];
// [latchkey.ErrInvalidOptions]; [ErrHub]; an error of [latchkey.Open]; ctx's error; the
// network's error.
func Join(ctx context.Context, hubURL, invitation, path string, opts *Options) (*Edge, error) {
	return nil, errNotBuilt
}

// Open opens an edge that has joined. It needs no network. opts may be nil.
//
// Errors: [ErrNotEdge]; [latchkey.ErrInvalidOptions]; an error of [latchkey.Open].
func Open(path string, opts *Options) (*Edge, error) { return nil, errNotBuilt }

// Store returns the store of the edge. [Edge.Close] closes it.
func (e *Edge) Store() *latchkey.Store { return e.store }

// Sync takes over what is new at the hub, pushes what is new here and may be pushed, and takes over
// what that has brought. It leaves no connection open.
//
// Errors: [ErrFollowing]; [ErrUnknownEdge]; [ErrRevoked]; [ErrWrongHub]; [ErrRefused]; [ErrHub];
// an error of [latchkey.Store.Update]; ctx's error; the network's error.
func (e *Edge) Sync(ctx context.Context) error { return errNotBuilt }

// Follow keeps the edge like the hub until ctx ends: it takes over what is new at the hub as it
// comes, and pushes what is new here. When the connection is lost, Follow connects again, after
// pauses that grow to a minute.
//
// Errors: ctx's error when ctx has ended; [ErrUnknownEdge]; [ErrRevoked]; [ErrFollowing];
// [latchkey.ErrClosed]; an error of the store that will not go away by itself, such as
// [latchkey.ErrCorrupt].
func (e *Edge) Follow(ctx context.Context) error { return errNotBuilt }

// A Status is what an edge tells about itself.
type Status struct {
	HubURL string    `json:"hub_url"`
	Edge   uuid.UUID `json:"edge"` // the ID by which the hub knows the edge
	Domain uuid.UUID `json:"domain"`
	Policy Policy    `json:"policy"`
	// Connected reports whether a stream of the hub is open now.
	Connected bool `json:"connected"`
	// Copied reports whether the first copy has come in whole.
	Copied bool `json:"copied"`
	// Sequence is the last commit of the hub that the edge has taken over.
	Sequence uint64 `json:"sequence"`
	// LastWord is when the edge last heard of the hub, and Age how long ago that is. Both are zero
	// if it never did.
	LastWord time.Time     `json:"last_word,omitzero"`
	Age      time.Duration `json:"age"`
	// Stale reports whether logins are refused with [latchkey.ErrStale].
	Stale bool `json:"stale"`
	// Pending is how many records were changed here that the hub does not know yet.
	Pending int `json:"pending"`
	// Cloned reports whether the hub has said that another device uses the edge's credential.
	Cloned bool `json:"cloned,omitempty"`
	// KeyIssued is when the edge got its present key, which it renews after 90 days.
	KeyIssued time.Time `json:"key_issued,omitzero"`
	// Err is why the last attempt to reach the hub failed, or "".
	Err string `json:"error,omitempty"`
}

// Status tells how the edge is. It reads memory alone, so a program can ask at each operation that
// needs to be stricter than [Options].Staleness.
func (e *Edge) Status() Status { return Status{} }

// Close ends Follow, and closes the store. Closing a closed edge does nothing.
//
// Errors: those of [latchkey.Store.Close].
func (e *Edge) Close() error { return nil }
