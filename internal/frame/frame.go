// Package frame writes byte strings one after another so that a reader can tell them apart.
//
// A frame is the length of a byte string, as a varint of Protocol Buffers in the fewest bytes, and
// the byte string. docs/replication.md uses frames for copies of records.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrBad means that what was read is no frame, or that the frame is longer than the reader allows.
var ErrBad = errors.New("bad frame")

// Append appends the frame of a body to b.
func Append(b, body []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// A Source is what frames are read from, such as a [bufio.Reader].
type Source interface {
	io.Reader
	io.ByteReader
}

// Read reads a frame, and returns its body. It takes no memory for a body that is longer than most
// bytes.
//
// Errors: [io.EOF] if there is no further frame; [io.ErrUnexpectedEOF] if the frame is cut short;
// [ErrBad]; r's error.
func Read(r Source, most int) (body []byte, err error) {
	length, err := readLength(r)
	if err != nil {
		return nil, err
	}
	if length > uint64(most) {
		return nil, fmt.Errorf("%w: it has %d bytes, and the most is %d", ErrBad, length, most)
	}
	body = make([]byte, length)
	if _, err = io.ReadFull(r, body); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// readLength reads a varint in the fewest bytes.
func readLength(r io.ByteReader) (length uint64, err error) {
	for shift := 0; shift < 64; shift += 7 {
		b, err := r.ReadByte()
		if errors.Is(err, io.EOF) && shift > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		if b == 0 && shift > 0 || shift == 63 && b > 1 {
			break
		}
		length |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return length, nil
		}
	}
	return 0, fmt.Errorf("%w: its length is no varint in the fewest bytes", ErrBad)
}
