package replication

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// An Edge is the state of an edge. It keeps everything that must outlast the process in the edge's
// store, each in the transaction that makes it true. Its methods may be called at once. But there
// should be one stream, one push and one comparison at a time.
type Edge struct {
	store access.Store
}

// OpenEdge returns the edge of a store.
func OpenEdge(ctx context.Context, s access.Store) (*Edge, error) { return &Edge{store: s}, nil }

// Hello returns what the edge asks for a stream with. The caller sets Build, Instance and Follow.
func (e *Edge) Hello() Hello { return Hello{} }

// Receive applies messages of a stream, in order, in as few transactions as it can. When it
// returns nil, everything is on disk. After an error, the caller ends the stream and begins a new
// one, which goes on where the last one was whole.
//
// now is the time of the device, before any correction.
func (e *Edge) Receive(ctx context.Context, messages []Message, now time.Time) error { return nil }

// Offset returns what has to be added to the time of the device to get the time of the hub.
func (e *Edge) Offset() time.Duration { return 0 }

// LastWord returns the time of the device when the hub spoke last, or the zero time. After a
// restart it is a time of the device that is no later.
func (e *Edge) LastWord() time.Time { return time.Time{} }

// An EdgeState is what an edge tells about itself.
type EdgeState struct {
	ID       uuid.UUID // by which the hub knows the edge
	Cursor   Cursor
	Policy   Policy
	Copying  bool // a first copy is under way
	Compare  bool // the edge has to compare before anything else
	Pending  uint64
	Cloned   bool   // another device uses the edge's credential
	NextPin  []byte // see [NextPin]
	LastWord time.Time
	Refused  string // why the hub refused the last push, or empty
}

// Status returns the edge's state.
func (e *Edge) Status(ctx context.Context) (EdgeState, error) { return EdgeState{}, nil }

// Digest returns the sum of the hashes of all the edge's live records.
func (e *Edge) Digest(ctx context.Context) (sum [16]byte, err error) { return sum, nil }

// tagsOf returns 16 bytes that say which tag secrets a store has. They differ if the secrets do, or
// how far one has come.
func tagsOf(t *merge.Tables) ([]byte, error) {
	sealed, err := t.Get(record.TableMeta, []byte(record.MetaTags))
	sum := sha256.Sum256(sealed)
	return sum[:16], err
}
