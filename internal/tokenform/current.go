package tokenform

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A State is the form of a domain's tokens under some tag secrets.
type State struct {
	Form
	Secrets record.TagSecrets
	// leaving are secrets that a commit in progress retires. No tag under them is good for certain.
	leaving []tagKey
}

// NewState returns the form of a domain's tokens under its tag secrets.
func NewState(prefix string, secrets record.TagSecrets) *State {
	signing, _ := secrets.Signing()
	var others [][16]byte
	for _, t := range secrets.Accepted() {
		if t.Number != signing.Number {
			others = append(others, t.Secret)
		}
	}
	return &State{Form: *New(prefix, signing.Secret, others...), Secrets: secrets}
}

// Leaving reports whether the tag of a token is good under a secret that a commit in progress
// retires. Then the store has to look whether the commit can be seen.
func (s *State) Leaving(t *Token) bool { return genuine(s.leaving, t) }

// without returns the state while a commit is in progress that leaves a domain with other secrets.
// New tokens are made as before.
func (s *State) without(next record.TagSecrets) *State {
	held := *s
	held.tags = nil
	for _, k := range s.tags {
		if slices.ContainsFunc(next.Accepted(), func(t record.TagSecret) bool { return newTagKey(t.Secret) == k }) {
			held.tags = append(held.tags, k)
		} else {
			held.leaving = append(slices.Clone(held.leaving), k)
		}
	}
	return &held
}

// Current holds the state that logins go by. They load it without a lock, and a commit that changes
// the tag secrets replaces it.
type Current struct {
	state  atomic.Pointer[State]
	prefix string

	mu      sync.Mutex
	holds   uint64 // how many commits have begun
	pending uint64 // how many of these have not ended
}

// Begin sets the first state.
func (c *Current) Begin(prefix string, secrets record.TagSecrets) {
	c.prefix = prefix
	c.state.Store(NewState(prefix, secrets))
}

// Load returns the state. It takes no lock and allocates nothing.
func (c *Current) Load() *State { return c.state.Load() }

// Hold is called before a commit that changes the tag secrets to next. The commit can be seen
// before the call that makes it has returned. So until Release, tags under a secret that goes are
// good no longer for certain.
func (c *Current) Hold(next record.TagSecrets) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds++
	c.pending++
	c.state.Store(c.Load().without(next))
}

// Release ends a number of holds, after their commits have succeeded or failed. Then it calls
// Reload.
func (c *Current) Release(holds uint64, read func() (record.TagSecrets, error)) {
	if holds == 0 {
		return
	}
	c.mu.Lock()
	c.pending -= holds
	c.mu.Unlock()
	c.Reload(read)
}

// Reload makes the tag secrets that read returns the ones that logins go by, and reports whether it
// has. It leaves that to the last Release if a commit that changes them is in progress. If read
// fails, the state stays.
func (c *Current) Reload(read func() (record.TagSecrets, error)) bool {
	c.mu.Lock()
	holds, pending := c.holds, c.pending
	c.mu.Unlock()
	if pending > 0 {
		return false
	}
	secrets, err := read() // without the lock, which a writer that read waits for may need
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holds != holds { // so secrets can be old
		return false
	}
	c.state.Store(NewState(c.prefix, secrets))
	return true
}
