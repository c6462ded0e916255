package replication

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// FuzzMessage reads hostile contents in a right frame. What can be read is written and read again
// as the same message.
func FuzzMessage(f *testing.F) {
	v := readVectors(f)
	for _, m := range v.Messages {
		f.Add(encode(v.message(f, m.Kind, m.Fields)))
	}
	for _, r := range v.Refused {
		f.Add([]byte(r.Body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(bytes.Clone(b))
		if err != nil || m == nil {
			if err != nil && !errors.Is(err, ErrMessage) && !errors.Is(err, ErrNewer) {
				t.Fatalf("%v is no error of a message", err)
			}
			return
		}
		again, err := ReadMessage(stream(AppendMessage(nil, m)))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%x was read as\n%+v, and reads back as\n%+v, %v", b, m, again, err)
		}
	})
}

// FuzzBody reads hostile requests and replies.
func FuzzBody(f *testing.F) {
	kinds := []string{"hello", "push", "push_reply", "compare", "compare_reply"}
	v := readVectors(f)
	for _, m := range v.Bodies {
		for i, kind := range kinds {
			if kind == m.Kind {
				f.Add(byte(i), []byte(m.Body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		decode := bodyDecoders[kinds[int(kind)%len(kinds)]]
		m, err := decode(bytes.Clone(b))
		if err != nil {
			if !errors.Is(err, ErrMessage) && !errors.Is(err, ErrNewer) {
				t.Fatalf("%v is no error of a message", err)
			}
			return
		}
		again, err := decode(m.Encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%x was read as\n%+v, and reads back as\n%+v, %v", b, m, again, err)
		}
	})
}
