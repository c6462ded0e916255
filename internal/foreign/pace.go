package foreign

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// maxPaced is how many keys each of two generations remembers. A key that is forgotten may be
// hashed at once. To have one forgotten, a caller needs the handles of as many other keys, and a
// hash for each.
const maxPaced = 4096

// A Pace spaces out the hashes for each key, so that a stranger with a handle can keep busy
// little of the machine. It is safe for concurrent use. The zero Pace has seen nothing.
type Pace struct {
	mu           sync.Mutex
	young, older map[uuid.UUID]time.Time // when the next hash may begin
}

// Take reports whether a hash for a key may begin now. If so, the next hash may begin after a pause
// of every.
func (p *Pace) Take(key uuid.UUID, now time.Time, every time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, found := p.young[key]
	if !found {
		next = p.older[key]
	}
	if now.Before(next) {
		return false
	}
	if !found && len(p.young) >= maxPaced {
		p.young, p.older = nil, p.young
	}
	if p.young == nil {
		p.young = make(map[uuid.UUID]time.Time)
	}
	p.young[key] = now.Add(every)
	return true
}

// Forget lets the next hash for a key begin at once, because the last one was for the holder of the
// key.
func (p *Pace) Forget(key uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.young, key)
	delete(p.older, key)
}
