package frame_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/latchkeydb/latchkey/internal/frame"
)

func read(b []byte, most int) ([]byte, error) {
	return frame.Read(bufio.NewReader(bytes.NewReader(b)), most)
}

func TestFramesAreReadAsTheyWereWritten(t *testing.T) {
	bodies := [][]byte{{}, []byte("a"), bytes.Repeat([]byte("b"), 127), bytes.Repeat([]byte("c"), 128), bytes.Repeat([]byte("d"), 70_000)}
	var all []byte
	for _, body := range bodies {
		all = frame.Append(all, body)
	}
	r := bufio.NewReader(bytes.NewReader(all))
	for i, want := range bodies {
		if got, err := frame.Read(r, 70_000); err != nil || !bytes.Equal(got, want) {
			t.Errorf("frame %d has %d bytes, %v, want %d", i, len(got), err, len(want))
		}
	}
	if _, err := frame.Read(r, 70_000); err != io.EOF {
		t.Errorf("after the last frame: %v, want io.EOF", err)
	}
}

func TestAFrameThatIsCutShortOrTooLongIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"nothing", nil, io.EOF},
		{"no body", []byte{3}, io.ErrUnexpectedEOF},
		{"half a body", []byte{3, 'a'}, io.ErrUnexpectedEOF},
		{"half a length", []byte{0x80}, io.ErrUnexpectedEOF},
		{"one byte too many", []byte{4, 'a', 'b', 'c', 'd'}, frame.ErrBad},
		{"a length of 2^63", []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, frame.ErrBad},
		{"a length of more than 64 bits", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, frame.ErrBad},
		{"a length without an end", bytes.Repeat([]byte{0x80}, 20), frame.ErrBad},
		{"a length in more bytes than it needs", []byte{0x81, 0x00, 'a'}, frame.ErrBad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if body, err := read(tt.bytes, 3); !errors.Is(err, tt.want) || body != nil {
				t.Errorf("got %q, %v, want %v", body, err, tt.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(frame.Append(frame.Append(nil, []byte("one")), nil))
	f.Add([]byte{0x81, 0x00, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		var back []byte
		for {
			body, err := frame.Read(r, 1<<10)
			switch {
			case err == io.EOF:
				if !bytes.Equal(back, b) {
					t.Errorf("%x was read, and written again it is %x", b, back)
				}
				return
			case errors.Is(err, frame.ErrBad), err == io.ErrUnexpectedEOF:
				return
			case err != nil:
				t.Fatal(err)
			}
			back = frame.Append(back, body)
		}
	})
}
