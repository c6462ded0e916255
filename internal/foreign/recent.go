package foreign

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Recent remembers which key was found last by a handle, so that a login whose answer is cached
// need not read the index. It only guesses: the cache decides. A later handle takes the place of an
// earlier one. Recent is safe for concurrent use, and takes no locks.
type Recent struct{ slots []atomic.Pointer[found] }

type found struct {
	handle record.Handle
	key    uuid.UUID
}

// NewRecent makes a Recent with at least so many places.
func NewRecent(size int) *Recent {
	n := 1
	for n < size {
		n *= 2
	}
	return &Recent{make([]atomic.Pointer[found], n)}
}

func (r *Recent) slot(h record.Handle) *atomic.Pointer[found] {
	return &r.slots[binary.LittleEndian.Uint32(h[:])&uint32(len(r.slots)-1)]
}

// Key returns the key that was found last by a handle.
func (r *Recent) Key(h record.Handle) (key uuid.UUID, ok bool) {
	if f := r.slot(h).Load(); f != nil && f.handle == h {
		return f.key, true
	}
	return uuid.UUID{}, false
}

// Note remembers that a key was found by a handle.
func (r *Recent) Note(h record.Handle, key uuid.UUID) {
	if have, ok := r.Key(h); !ok || have != key {
		r.slot(h).Store(&found{h, key})
	}
}
