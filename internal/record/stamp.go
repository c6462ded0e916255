package record

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// A Stamp orders the writes to a field: by Lamport counter (Lamport, "Time, Clocks, and the
// Ordering of Events in a Distributed System", 1978), then by the replica that wrote. The counter
// of a write is one more than the greatest counter in the record at that moment, so a write that
// has seen another one has the higher stamp. The zero Stamp is that of a field that was never set.
type Stamp struct {
	Counter uint64
	Replica uuid.UUID
}

// Compare compares two stamps, as [cmp.Compare] does.
func (s Stamp) Compare(other Stamp) int {
	return cmp.Or(cmp.Compare(s.Counter, other.Counter), bytes.Compare(s.Replica[:], other.Replica[:]))
}

// max returns the higher of two stamps.
func (s Stamp) max(other Stamp) Stamp {
	if s.Compare(other) < 0 {
		return other
	}
	return s
}

// next returns the stamp of the next write by a replica to a record that has stamps.
func next(replica uuid.UUID, stamps []Stamp) Stamp {
	last := uint64(0)
	for _, s := range stamps {
		last = max(last, s.Counter)
	}
	if last < math.MaxUint64 { // no honest record comes so far
		last++
	}
	return Stamp{Counter: last, Replica: replica}
}

// A Register is a field that any replica may set. Of two versions the one with the higher stamp
// wins.
type Register[T any] struct {
	Value T
	Stamp Stamp
	// Replaces is the counter of the stamp of the value that the writer had seen from another
	// replica, or 0 if there was none. It tells whether a write knew of another write.
	Replaces uint64
}

// Set returns the register after a write.
func (r Register[T]) Set(value T, at Stamp) Register[T] {
	if r.Stamp.Replica != at.Replica {
		r.Replaces = r.Stamp.Counter
	}
	return Register[T]{value, at, r.Replaces}
}

// merge returns the version with the higher stamp. Two values under one stamp come of a file that
// was copied. Then the value with the greater encoding wins, so that all replicas choose the same
// one. Of equal values the one that replaces less wins.
func (r Register[T]) merge(other Register[T], encode func(T) []byte) Register[T] {
	switch c := r.Stamp.Compare(other.Stamp); {
	case c > 0:
		return r
	case c < 0:
		return other
	}
	if cmp.Or(bytes.Compare(encode(r.Value), encode(other.Value)), cmp.Compare(other.Replaces, r.Replaces)) >= 0 {
		return r
	}
	return other
}

// A replicaTable has the replicas of a record's stamps, in the order of their IDs. A record stores
// each ID once, and each stamp by the place of its replica in the table.
type replicaTable []uuid.UUID

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

func newReplicaTable(stamps []Stamp) (t replicaTable) {
	for _, s := range stamps {
		if s.Counter != 0 {
			t = append(t, s.Replica)
		}
	}
	sorted.Func(t, compareIDs)
	return slices.Compact(t)
}

func (t replicaTable) place(id uuid.UUID) uint64 {
	i, _ := slices.BinarySearchFunc(t, id, compareIDs)
	return uint64(i)
}

// fields writes the table.
func (t replicaTable) fields(m *Message, field int) {
	for _, id := range t {
		m.element(field, id[:])
	}
}

// decodeReplicas reads the table from a record's message.
func decodeReplicas(message []byte, field int) (t replicaTable, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return nil, err
		}
		if f.Num == field {
			id, err := DecodeID(f.Bytes)
			if err != nil {
				return nil, err
			}
			t = append(t, id)
		}
	}
	return t, nil
}

// The fields of every message that has a stamp. The message's own fields begin with 3.
const (
	fieldCounter = 1
	fieldReplica = 2

	fieldValue    = 3 // of a register
	fieldReplaces = 15
)

// appendStamp writes a stamp.
func (t replicaTable) appendStamp(m *Message, s Stamp) {
	if s.Counter != 0 {
		m.Number(fieldCounter, s.Counter)
		m.Number(fieldReplica, t.place(s.Replica))
	}
}

// stamped returns a message that begins with a stamp.
func (t replicaTable) stamped(s Stamp, rest func(*Message)) Message {
	var m Message
	t.appendStamp(&m, s)
	rest(&m)
	return m
}

// stampFields reads the fields of a message that has a stamp, and calls fn with all other fields.
func (t replicaTable) stampFields(message []byte, fn func(Field) error) (s Stamp, err error) {
	place := uint64(0)
	for f, err := range Fields(message) {
		if err != nil {
			return s, err
		}
		switch f.Num {
		case fieldCounter:
			s.Counter = f.Number
		case fieldReplica:
			place = f.Number
		default:
			if err := fn(f); err != nil {
				return s, err
			}
		}
	}
	if s.Counter == 0 {
		return Stamp{}, nil
	}
	if place >= uint64(len(t)) {
		return s, fmt.Errorf("%w: a stamp of replica %d of %d", ErrDamaged, place, len(t))
	}
	s.Replica = t[place]
	return s, nil
}

// encodeRegister returns the message of a register, whose value has the fields that value writes.
func encodeRegister[T any](r Register[T], t replicaTable, value func(*Message)) Message {
	return t.stamped(r.Stamp, func(m *Message) {
		value(m)
		m.Number(fieldReplaces, r.Replaces)
	})
}

// decodeRegister reads the message of a register. It calls fn with each field of the value.
func decodeRegister[T any](b []byte, t replicaTable, fn func(value *T, f Field) error) (r Register[T], err error) {
	r.Stamp, err = t.stampFields(b, func(f Field) error {
		switch f.Num {
		case fieldValue:
			return fn(&r.Value, f)
		case fieldReplaces:
			r.Replaces = f.Number
		}
		return nil
	})
	return r, err
}
