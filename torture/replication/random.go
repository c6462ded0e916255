package replication

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	mathrand "math/rand/v2"
	"sync"

	"github.com/google/uuid"
)

// A run must have the same random numbers each time, also where the store takes them from the
// operating system: in writers, salts and new replica IDs.

// entropy is the source of all randomness while a run lasts.
type entropy struct {
	mu     sync.Mutex
	source io.Reader
	// writers replaces the next eight bytes that are asked for, if it is not nil.
	writer []byte
}

func (e *entropy) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(b) == len(e.writer) {
		defer func() { e.writer = nil }()
		return copy(b, e.writer), nil
	}
	return e.source.Read(b)
}

// seeded replaces the randomness of the process until restore is called.
func seeded(seed uint64) (e *entropy, restore func()) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	e = &entropy{source: mathrand.NewChaCha8(key)}
	before := rand.Reader
	rand.Reader = e
	uuid.SetRand(e)
	return e, func() {
		rand.Reader = before
		uuid.SetRand(nil)
	}
}
