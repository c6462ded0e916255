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
	mu     sync.Mutex
	r      io.Reader // nil means the source of the operating system
	made   uint64    // the number of IDs drawn from r, or else of IDs of the millisecond latest
	latest int64
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

// id makes an ID of version 7 (RFC 9562) for a time. The IDs of one millisecond are in the order in
// which they were made, up to 4,096 of them.
func (s *randomSource) id(now time.Time) (id uuid.UUID) {
	s.fill(id[8:])
	ms := now.UnixMilli()
	s.mu.Lock()
	if s.r == nil && ms != s.latest {
		s.latest, s.made = ms, 0
	}
	binary.BigEndian.PutUint16(id[6:], uint16(s.made&0x0fff|0x7000))
	s.made++
	s.mu.Unlock()
	id[8] = id[8]&0x3f | 0x80
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// uuid makes a random ID of version 4.
func (s *randomSource) uuid() (id uuid.UUID) {
	s.fill(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
