package latchkey

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// randomSource draws the secrets of tokens and domains, and new IDs.
type randomSource struct {
	mu   sync.Mutex
	r    io.Reader // nil means the source of the operating system
	made uint64    // the number of IDs drawn from r
}

// fill fills b with random bytes. If the source fails, the program ends, because it must not go on
// without secrets.
func (s *randomSource) fill(b []byte) {
	if s.r == nil {
		rand.Read(b)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.ReadFull(s.r, b); err != nil {
		panic("latchkey: Options.InsecureRand failed: " + err.Error())
	}
}

// id makes an ID of version 7 (RFC 9562) for a time, which may differ from the clock that the uuid
// package reads. With a source of its own, the IDs of one millisecond are in the order in which
// they were made.
func (s *randomSource) id(now time.Time) (id uuid.UUID, err error) {
	if s.r == nil {
		id, err = uuid.NewV7()
	} else {
		s.fill(id[8:])
		s.mu.Lock()
		binary.BigEndian.PutUint16(id[6:], uint16(s.made&0x0fff|0x7000))
		s.made++
		s.mu.Unlock()
		id[8] = id[8]&0x3f | 0x80
	}
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id, err
}

// uuid makes a random ID of version 4.
func (s *randomSource) uuid() (id uuid.UUID) {
	s.fill(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
