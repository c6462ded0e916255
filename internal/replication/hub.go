package replication

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
)

// Format is the format of the messages that this build writes, and the only one that it reads.
const Format = 1

// The errors of a hub. An error of the store comes as it is.
var (
	// ErrUnknownEdge means that the hub has no such edge.
	ErrUnknownEdge = errors.New("the hub does not know the edge")
	// ErrPolicy means that a policy names no group, or a group in a wrong way.
	ErrPolicy = errors.New("the policy is not valid")
	// ErrFormat means that the edge reads no format of messages that the hub writes.
	ErrFormat = errors.New("hub and edge have no format of messages in common")
	// ErrReplaced means that a feed has ended because the edge has asked for another one, or
	// because it was dropped.
	ErrReplaced = errors.New("the stream was ended by the hub")
	// ErrNoClaim means that there is no claim with a number.
	ErrNoClaim = errors.New("the hub has no such claim")
)

// HubOptions are the options of a hub. The zero value of each but Random is its default.
type HubOptions struct {
	Random io.Reader // not nil
	// KeepTombstones is how long a tombstone stays at the least. The default is 400 days. No backup
	// that is older may become the hub again.
	KeepTombstones time.Duration
	// AcceptClaims says that disablings that an edge claims are merged at once.
	AcceptClaims bool
	// DropAfter is how long an edge can be silent until the hub does not wait for it any more. The
	// default is 180 days.
	DropAfter time.Duration
}

// A Hub is the state of a hub. Its methods may be called by any number of goroutines.
type Hub struct {
	store access.Store
	o     HubOptions

	mu    sync.Mutex // guards the fields below
	edges map[uuid.UUID]*edge
}

// An EdgeStatus is what a hub knows of an edge.
type EdgeStatus struct {
	ID     uuid.UUID // of the edge's server key
	Name   string
	Policy Policy
	Build  string // the version of the edge's library
	Joined time.Time
	Seen   time.Time // when the edge was heard of last
	// Cursor is how far the edge says that it has come. Confirmed is the sequence up to which the
	// edge has everything that concerns it.
	Cursor    Cursor
	Confirmed uint64
	Streaming bool      // the edge has a stream now
	Dropped   bool      // the edge was silent for too long
	Cloned    time.Time // when two devices used the credential of the edge last; mostly zero
	Compared  time.Time // when the edge compared last
	Matched   bool      // nothing differed then
	Claims    int       // how many claims of the edge wait
	Refusals  uint64    // how many pushes were refused
	Refusal   string    // why the last one was refused
	Refused   time.Time // when
}

// OpenHub makes the hub of a store. The first time it draws the hub's secret. Each time it draws an
// era, so that no cursor of another copy of the store counts for this one.
func OpenHub(ctx context.Context, s access.Store, o HubOptions) (*Hub, error) {
	return nil, errors.ErrUnsupported
}

// AddEdge adds an edge, which is known by the ID of its server key.
//
// Errors: [ErrPolicy].
func (h *Hub) AddEdge(ctx context.Context, id uuid.UUID, name string, p Policy, now time.Time) error {
	return errors.ErrUnsupported
}

// SetPolicy changes what an edge gets and what it may push.
//
// Errors: [ErrUnknownEdge], [ErrPolicy].
func (h *Hub) SetPolicy(ctx context.Context, id uuid.UUID, groups []string, push Push) error {
	return errors.ErrUnsupported
}

// DropEdge forgets an edge, and ends its stream.
//
// Errors: [ErrUnknownEdge].
func (h *Hub) DropEdge(ctx context.Context, id uuid.UUID) error { return errors.ErrUnsupported }

// RekeyEdge gives an edge another ID, because it has another server key.
//
// Errors: [ErrUnknownEdge].
func (h *Hub) RekeyEdge(ctx context.Context, from, to uuid.UUID) error { return errors.ErrUnsupported }

// Edges returns what the hub knows of its edges, in the order of their IDs.
func (h *Hub) Edges(ctx context.Context) ([]EdgeStatus, error) { return nil, errors.ErrUnsupported }

// Confirmed returns how many edges have what the commits up to a sequence have changed, and how
// many edges there are.
func (h *Hub) Confirmed(ctx context.Context, sequence uint64) (have, all int, err error) {
	return 0, 0, errors.ErrUnsupported
}

// Save writes what the hub has learned of its edges since the last Save, such as their cursors. It
// is to be called every few minutes, and before the store is closed. What is lost costs nothing but
// time.
func (h *Hub) Save(ctx context.Context, now time.Time) error { return errors.ErrUnsupported }

// Prune deletes the tombstones that every edge has passed and that are older than
// [HubOptions].KeepTombstones. It is to be called once a day or more often, because it also notes
// how old the commits are.
func (h *Hub) Prune(ctx context.Context, now time.Time) (pruned int, err error) {
	return 0, errors.ErrUnsupported
}
