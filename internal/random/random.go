// Package random draws secrets and IDs.
package random

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A Source draws the secrets of tokens and domains, and new IDs. It is safe for concurrent use.
type Source struct {
	// Reader is where the random bytes come from. Nil means the operating system. One goroutine
	// reads from it at a time.
	Reader io.Reader

	mu sync.Mutex // guards the reading of Reader

	idMu sync.Mutex
	last time.Time // of the last ID
	made uint16    // how many IDs were made in the millisecond of last before the last ID
}

// Fill fills b with random bytes. If the source fails, the program ends, because it must not go on
// without secrets.
func (s *Source) Fill(b []byte) {
	if s.Reader == nil {
		rand.Read(b)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.ReadFull(s.Reader, b); err != nil {
		panic("latchkey: Options.InsecureRand failed: " + err.Error())
	}
}

// ID makes an ID of version 7 (RFC 9562) for the time that clock returns, and returns that time.
// The time has no parts of a millisecond. The first 4,096 IDs of one millisecond are in the order
// in which they were made.
func (s *Source) ID(clock func() time.Time) (id uuid.UUID, now time.Time) {
	s.Fill(id[8:])
	s.idMu.Lock()
	defer s.idMu.Unlock()
	// The clock is read with the mutex locked. Otherwise a time that was read earlier could be used
	// later, and the count would begin again too soon.
	now = clock()
	if s.made++; !now.Equal(s.last) {
		s.last, s.made = now, 0
	}
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	binary.BigEndian.PutUint16(id[6:], s.made&0x0fff|0x7000)
	id[8] = id[8]&0x3f | 0x80
	return id, now
}

// UUID makes a random ID of version 4.
func (s *Source) UUID() (id uuid.UUID) {
	s.Fill(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}
