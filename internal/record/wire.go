package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/google/uuid"
)

// Messages are written in the wire format of Protocol Buffers, and docs/latchkey.proto describes
// them. Like proto3, a message leaves out fields that are zero. Fields are written in the order of
// their numbers, so a record has one encoding.

// The wire types of Protocol Buffers. Records use the first two. The others can only be in fields
// of a later build.
const (
	wireVarint  = 0
	wireBytes   = 2
	wireFixed64 = 1
	wireFixed32 = 5
)

// Message is the encoding of a message that is being written.
type Message []byte

// Number appends a number, unless it is zero.
func (m *Message) Number(field int, v uint64) {
	if v != 0 {
		m.pair(uint64(field)<<3|wireVarint, v)
	}
}

// Bool appends a flag, unless it is false.
func (m *Message) Bool(field int, v bool) {
	if v {
		m.Number(field, 1)
	}
}

// Bytes appends bytes, unless there are none.
func (m *Message) Bytes(field int, v []byte) {
	if len(v) != 0 {
		m.element(field, v)
	}
}

// element appends an element of a repeated field, which may be empty.
func (m *Message) element(field int, v []byte) {
	m.pair(uint64(field)<<3|wireBytes, uint64(len(v)))
	*m = append(*m, v...)
}

// pair appends two numbers. The compiler would copy it to each of the hundred places where a field
// is written.
//
//go:noinline
func (m *Message) pair(a, b uint64) {
	*m = binary.AppendUvarint(binary.AppendUvarint(*m, a), b)
}

// Field is one field of a message.
type Field struct {
	Num    int
	Number uint64 // of a number
	Bytes  []byte // of bytes; they belong to the message
	raw    []byte // the field as it was written
}

// Fields yields the fields of a message. An error, which wraps [ErrDamaged], is the last element.
func Fields(message []byte) iter.Seq2[Field, error] {
	return func(yield func(Field, error) bool) {
		for rest := message; len(rest) > 0; {
			f, size, err := nextField(rest)
			if !yield(f, err) || err != nil {
				return
			}
			rest = rest[size:]
		}
	}
}

func nextField(b []byte) (f Field, size int, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f, 0, fmt.Errorf("%w: bad field tag", ErrDamaged)
	}
	f.Num = int(tag >> 3)
	switch tag & 7 {
	case wireVarint:
		if f.Number, size = binary.Uvarint(b[n:]); size <= 0 {
			return f, 0, fmt.Errorf("%w: bad number in field %d", ErrDamaged, f.Num)
		}
	case wireBytes:
		length, m := binary.Uvarint(b[n:])
		if m <= 0 || length > uint64(len(b)-n-m) {
			return f, 0, fmt.Errorf("%w: bad length of field %d", ErrDamaged, f.Num)
		}
		size = m + int(length)
		f.Bytes = b[n+m : n+size]
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	default:
		return f, 0, fmt.Errorf("%w: bad wire type in field %d", ErrDamaged, f.Num)
	}
	if size > len(b)-n {
		return f, 0, fmt.Errorf("%w: field %d is cut short", ErrDamaged, f.Num)
	}
	f.raw = b[:n+size]
	return f, n + size, nil
}

// Unknown has the fields that this build does not know, as they were written, in the order of their
// numbers. An older build keeps them, so that it does not lose what a newer build has stored.
type Unknown []byte

// add appends a field that this build does not know.
func (u *Unknown) add(f Field) { *u = append(*u, f.raw...) }

// byNumber splits the fields by their numbers.
func (u Unknown) byNumber() map[int][]byte {
	all := map[int][]byte{}
	for f, err := range Fields(u) {
		if err == nil {
			all[f.Num] = append(all[f.Num], f.raw...)
		}
	}
	return all
}

func joinUnknown(all map[int][]byte) (u Unknown) {
	numbers := make([]int, 0, len(all))
	for n := range all {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		u = append(u, all[n]...)
	}
	return u
}

// sorted returns the same fields in the order of their numbers.
func (u Unknown) sorted() Unknown {
	if len(u) == 0 { // as nearly always
		return nil
	}
	return joinUnknown(u.byNumber())
}

// merge takes, for each number, the greater of both values, compared as bytes.
func (u Unknown) merge(other Unknown) Unknown {
	all := u.byNumber()
	for n, v := range other.byNumber() {
		if bytes.Compare(v, all[n]) > 0 {
			all[n] = v
		}
	}
	return joinUnknown(all)
}

// DecodeID reads an ID.
//
// Errors: [ErrDamaged].
func DecodeID(b []byte) (id uuid.UUID, err error) {
	if len(b) != len(id) {
		return id, fmt.Errorf("%w: an ID of %d bytes", ErrDamaged, len(b))
	}
	return uuid.UUID(b), nil
}
