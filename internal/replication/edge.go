package replication

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// An edge keeps its state in the table replica, under keys that begin with "edge/".
const (
	edgeState   = "edge/state"    // the state of an Edge
	edgePending = "edge/pending/" // table 0 key → a pending; or keptPending table 0 key
	edgeSigned  = "edge/signed/"  // table 0 key → a Record with a MAC
)

// keepWord is how old the last word in the file can be while the hub speaks. More writes would wear
// the flash of a device that does nothing else.
const keepWord = 10 * time.Minute

// An Edge is the state of an edge. It keeps everything that must outlast the process in the edge's
// store, each in the transaction that makes it true. Its methods may be called at once. But there
// should be one stream, one push and one comparison at a time.
type Edge struct {
	store access.Store

	work sync.Mutex // is held by what writes the state, so that nothing writes an older one

	mu      sync.Mutex // guards the fields below, and is never held in a transaction
	state   state
	wrote   state // what the file has
	tags    []byte
	cloned  bool
	nextPin []byte
	refused string // why the hub refused the last push
	skipped error  // why a record of the hub could not be merged

	copied   []Entry // of a first copy, not written yet
	copiedAs int     // their size
	alone    bool    // records are pushed one by one, because the hub has refused a push of several
	uses     bool    // last uses are due
	usedTo   []byte  // the last one that the hub got of those that are due
	usedMost uint32  // the latest minute of those

	comparing *comparison
}

// state is what an edge knows of its hub, and of how far it has come.
type state struct {
	id     uuid.UUID // by which the hub knows the edge
	cursor Cursor
	policy Policy
	offset time.Duration // what the hub's time is ahead of the device's
	word   time.Time     // of the device, when the hub spoke last
	resets uint64        // of the hub's time
	// merging says that the first copy is merged record by record, because the store was not empty.
	merging bool
	// reindex says that records can lack entries of indexes since the first copy.
	reindex bool
	// compare says that the edge has to compare before anything else.
	compare bool
	// bring says that the hub has to get the signed copies behind the key brought.
	bring   bool
	brought []byte
	used    uint32 // the minute of the latest last use that the hub has
	// self is the replica ID of the store. If the store has another one, it was restored or
	// salvaged.
	self uuid.UUID
}

// moveTo sets the cursor. The sequence of the last push stays in it until the cursor is beyond.
func (s *state) moveTo(c Cursor) {
	if c.Era == s.cursor.Era && c.At.Sequence < s.cursor.Taken {
		c.Taken = max(c.Taken, s.cursor.Taken)
	}
	s.cursor = c
}

func (s state) encode() (m record.Message) {
	m.Bytes(1, s.id[:])
	m.Bytes(2, encodeCursor(s.cursor))
	if len(s.policy.Groups) > 0 {
		m.Bytes(3, encodePolicy(s.policy))
	}
	ms := s.offset.Milliseconds()
	m.Number(4, uint64(ms)<<1^uint64(ms>>63)) // zigzag, as in Protocol Buffers
	if !s.word.IsZero() {
		m.Number(5, milliseconds(s.word))
	}
	m.Number(6, s.resets)
	m.Bool(7, s.merging)
	m.Bool(8, s.reindex)
	m.Bool(9, s.compare)
	m.Bool(10, s.bring)
	m.Bytes(11, s.brought)
	m.Number(12, uint64(s.used))
	m.Bytes(13, s.self[:])
	return m
}

func decodeState(message []byte) (s state, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return s, err
		}
		switch f.Num {
		case 1:
			s.id, err = decodeID(f.Bytes)
		case 2:
			s.cursor, err = decodeCursor(f.Bytes)
		case 3:
			s.policy, err = decodePolicy(f.Bytes)
		case 4:
			ms := int64(f.Number>>1) ^ -int64(f.Number&1)
			s.offset = time.Duration(ms) * time.Millisecond
		case 5:
			s.word, err = fromMilliseconds(f.Number)
		case 6:
			s.resets = f.Number
		case 7:
			s.merging = f.Number != 0
		case 8:
			s.reindex = f.Number != 0
		case 9:
			s.compare = f.Number != 0
		case 10:
			s.bring = f.Number != 0
		case 11:
			s.brought, err = bounded(f.Bytes, maxEntryKey)
		case 12:
			s.used = uint32(f.Number)
		case 13:
			s.self, err = decodeID(f.Bytes)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// OpenEdge returns the edge of a store.
//
// Errors: an error of s; [record.ErrDamaged].
func OpenEdge(ctx context.Context, s access.Store) (*Edge, error) {
	e := &Edge{store: s, uses: true}
	err := s.View(ctx, func(t *merge.Tables) error {
		message, err := getLocal(t, []byte(edgeState))
		if err == nil {
			e.state, err = decodeState(message)
		}
		if err == nil {
			e.tags, err = tagsOf(t)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the state of the edge: %w", err)
	}
	e.wrote = e.state
	if self := s.ReplicaID(); e.state.self != self {
		if e.state.self != uuid.Nil {
			// The store may lack what came before the cursor, so the cursor must not fit.
			e.state.cursor.Policy = 0
		}
		e.state.self = self
	}
	return e, s.Share(ctx)
}

// now returns the edge's state.
func (e *Edge) now() state {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

// update runs fn in a transaction, which writes the state that fn leaves. e.work is held.
func (e *Edge) update(ctx context.Context, fn func(t *merge.Tables, s *state) error) error {
	was, next := e.now(), state{}
	err := e.store.Update(ctx, func(t *merge.Tables) error {
		next = was
		if err := fn(t, &next); err != nil {
			return err
		}
		return putLocal(t, []byte(edgeState), next.encode())
	})
	if err == nil {
		e.mu.Lock()
		e.state, e.wrote = next, next
		e.mu.Unlock()
	}
	return err
}

// Hello returns what the edge asks for a stream with. The caller sets Build, Instance and Follow.
func (e *Edge) Hello() Hello {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Hello{
		Formats: []uint64{Format}, Replica: e.store.ReplicaID(), Edge: e.state.id,
		Cursor: e.state.cursor, Policy: e.state.policy.Version, Tags: e.tags,
	}
}

// Offset returns what has to be added to the time of the device to get the time of the hub.
func (e *Edge) Offset() time.Duration { return e.now().offset }

// LastWord returns the time of the device when the hub spoke last, or the zero time. After a
// restart it is a time of the device that is no later.
func (e *Edge) LastWord() time.Time { return e.now().word }

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
	Skipped  error  // why a record of the hub could not be merged, or nil
}

// Status returns the edge's state.
func (e *Edge) Status(ctx context.Context) (EdgeState, error) {
	e.mu.Lock()
	s := EdgeState{
		ID: e.state.id, Cursor: e.state.cursor, Policy: e.state.policy,
		Copying: e.state.cursor.Copying != "", Compare: e.state.compare,
		Cloned: e.cloned, NextPin: e.nextPin, LastWord: e.state.word, Refused: e.refused, Skipped: e.skipped,
	}
	e.mu.Unlock()
	err := e.store.View(ctx, func(t *merge.Tables) error {
		return scanLocal(t, edgePending, func(_, _ []byte) error { s.Pending++; return nil })
	})
	return s, err
}

// tagsOf returns 16 bytes that say which tag secrets a store has. They differ if the secrets do, or
// how far one has come.
func tagsOf(t *merge.Tables) ([]byte, error) {
	sealed, err := t.Get(record.TableMeta, []byte(record.MetaTags))
	sum := sha256.Sum256(sealed)
	return sum[:sizeTags], err
}
