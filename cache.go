package latchkey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
)

// maxCacheSize keeps the cache's index well below what a 32-bit machine can hold.
const maxCacheSize = 1 << 24

// cache remembers keys whose secret was proven, and with what answer: who the principal is, or why it is refused. It is
// a hash table that readers walk without a lock, and that writers change under one. What it holds is bounded; the SIEVE
// algorithm (Zhang et al., NSDI 2024) chooses what leaves, so that a scan of many keys does not push out those in use.
//
// An entry holds no secret, only a salted SHA-256 of one, which says nothing about 256 random bits.
type cache struct {
	buckets []atomic.Pointer[cacheEntry] // a power of two of them
	shift   int                          // what a hash of 64 bits is shifted by to be a bucket's number
	limit   int

	mu             sync.Mutex
	count          int
	newest, oldest *cacheEntry // the queue
	hand           *cacheEntry // where SIEVE goes on looking; nil for the oldest
	revoked        revocationGate
}

// staleLogins names the keys, and the users of whom all keys, have logins in the cache that may not be
// true after a transaction.
type staleLogins struct{ keys, users []uuid.UUID }

func (s *staleLogins) none() bool { return len(s.keys) == 0 && len(s.users) == 0 }

func (s *staleLogins) add(more staleLogins) {
	s.keys, s.users = append(s.keys, more.keys...), append(s.users, more.users...)
}

type cacheEntry struct {
	keyDigits [keyIDDigits]byte // the key's ID, as its tokens have it
	salt      [8]byte
	digest    [sha256.Size]byte
	answer

	next         atomic.Pointer[cacheEntry] // in the bucket
	visited      atomic.Bool                // since the hand passed
	newer, older *cacheEntry
}

// newCacheEntry makes the entry of a key whose token was just proven.
func newCacheEntry(t *parsedToken, a *answer) *cacheEntry {
	e := &cacheEntry{answer: *a}
	copy(e.keyDigits[:], t.keyDigits())
	rand.Read(e.salt[:])
	e.digest = e.sum(t)
	return e
}

// sum hashes salt and secret: 52 bytes, and 55 is the most that one block of SHA-256 has room for.
func (e *cacheEntry) sum(t *parsedToken) [sha256.Size]byte {
	var block [len(e.salt) + bodyDigits - keyIDDigits]byte
	copy(block[:], e.salt[:])
	copy(block[len(e.salt):], t.secretDigits())
	return sha256.Sum256(block[:])
}

// matches reports, in constant time, whether a token's secret is the one that was proven.
func (e *cacheEntry) matches(t *parsedToken) bool {
	digest := e.sum(t)
	diff := uint64(0) // by words, for crypto/subtle goes by bytes
	for i := 0; i < len(digest); i += 8 {
		diff |= binary.LittleEndian.Uint64(digest[i:]) ^ binary.LittleEndian.Uint64(e.digest[i:])
	}
	return diff == 0
}

func newCache(limit int) *cache {
	c := &cache{limit: limit, revoked: revocationGate{holds: make(map[uuid.UUID]int)}}
	if limit > 0 {
		size := bits.Len(uint(limit - 1)) // at most one entry a bucket on average
		c.buckets, c.shift = make([]atomic.Pointer[cacheEntry], 1<<size), 64-size
	}
	return c
}

// bucket finds a key's bucket by the random end of its ID, spread by Fibonacci hashing (Knuth, The Art of Computer
// Programming, 6.4), since digits have few of a byte's bits.
func (c *cache) bucket(key string) *atomic.Pointer[cacheEntry] {
	return &c.buckets[word8(key[keyIDDigits-8:])*0x9e3779b97f4a7c15>>c.shift]
}

// get returns the entry of a key, named by the digits of its ID, or nil. It takes no lock and allocates nothing.
func (c *cache) get(key string) *cacheEntry {
	if len(c.buckets) == 0 {
		return nil
	}
	for e := c.bucket(key).Load(); e != nil; e = e.next.Load() {
		if string(e.keyDigits[:]) == key {
			if !e.visited.Load() { // a store each time would bounce the line between processors
				e.visited.Store(true)
			}
			return e
		}
	}
	return nil
}

// mark is taken before a key's state is read, for put to know whether that is still the state.
func (c *cache) mark(id uuid.UUID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revoked.mark(id)
}

// put remembers an entry, unless the key or its user was dropped since mark.
func (c *cache) put(e *cacheEntry, mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == 0 || !c.revoked.admits(&e.principal, mark) {
		return
	}
	old := c.findLocked(string(e.keyDigits[:]))
	if old == nil && c.count >= c.limit {
		c.evictLocked()
	}
	b := c.bucket(string(e.keyDigits[:]))
	e.next.Store(b.Load())
	b.Store(e)
	e.older = c.newest
	if c.newest != nil {
		c.newest.newer = e
	} else {
		c.oldest = e
	}
	c.newest = e
	c.count++
	if old != nil { // now that whoever looks finds the new one first
		c.removeLocked(old)
		if c.hand == e {
			c.hand = nil // it was on the newest, and goes on with the oldest
		}
	}
}

// hold forgets what a commit is about to change, and remembers nothing of it until release. A change can be seen before the
// call that made it returns, and who has seen it must not log in by what was true before it.
func (c *cache) hold(s staleLogins) {
	if s.none() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.count(s, 1)
	for _, id := range s.keys {
		if e := c.findLocked(digitsOf(id)); e != nil {
			c.removeLocked(e)
		}
	}
	if len(s.users) == 0 {
		return
	}
	// By what the entries say: an index that is damaged must not keep a key of the user here.
	for e := c.oldest; e != nil; e = e.newer {
		if c.revoked.held(e.principal.UserID) {
			c.removeLocked(e)
		}
	}
}

// release ends a hold. What was read during it may be of before the commit, and is not remembered either.
func (c *cache) release(s staleLogins) {
	if s.none() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.count(s, -1)
}

// clear forgets all keys.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.countAll()
	for i := range c.buckets {
		c.buckets[i].Store(nil)
	}
	c.count, c.newest, c.oldest, c.hand = 0, nil, nil, nil
}

func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// evictLocked lets the hand pass over what was visited since it last came by, from old to new, and removes the next.
func (c *cache) evictLocked() {
	e := c.hand
	if e == nil {
		e = c.oldest
	}
	for e.visited.Load() {
		e.visited.Store(false)
		if e = e.newer; e == nil {
			e = c.oldest
		}
	}
	c.hand = e
	c.removeLocked(e)
}

func (c *cache) findLocked(key string) *cacheEntry {
	if c.limit == 0 {
		return nil
	}
	e := c.bucket(key).Load()
	for e != nil && string(e.keyDigits[:]) != key {
		e = e.next.Load()
	}
	return e
}

func (c *cache) removeLocked(e *cacheEntry) {
	link := c.bucket(string(e.keyDigits[:]))
	for link.Load() != e {
		link = &link.Load().next
	}
	link.Store(e.next.Load()) // a reader that stands on e goes on by e.next
	if c.hand == e {
		c.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		c.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		c.oldest = e.newer
	}
	c.count--
}

// revocationGate knows which answers may be remembered: those that were read after the last change
// of the key and its user, while no such change was committing. The mutex of the cache guards it.
type revocationGate struct {
	// keyDrops counts the changes of keys, for each value of the last byte of their IDs. userDrops
	// counts the changes of users, because the ID of a key does not tell its user. No number ever falls.
	keyDrops  [256]uint64
	userDrops uint64
	// holds counts the commits under way that change a key or a user.
	holds map[uuid.UUID]int
}

// mark returns a number that differs after any change of the key or its user.
func (g *revocationGate) mark(key uuid.UUID) uint64 { return g.keyDrops[lastByte(key)] + g.userDrops }

func lastByte(id uuid.UUID) byte { return id[len(id)-1] }

// admits reports whether an answer may be remembered that was read after mark was taken.
func (g *revocationGate) admits(who *Principal, mark uint64) bool {
	return !g.held(who.KeyID) && !g.held(who.UserID) && g.mark(who.KeyID) == mark
}

// held reports whether a commit is under way that changes the key or user with an ID.
func (g *revocationGate) held(id uuid.UUID) bool { return g.holds[id] > 0 }

// count counts a change of what s names, and adds holds to its holds.
func (g *revocationGate) count(s staleLogins, holds int) {
	for _, id := range s.keys {
		g.keyDrops[lastByte(id)]++
		g.hold(id, holds)
	}
	for _, id := range s.users {
		g.userDrops++
		g.hold(id, holds)
	}
}

func (g *revocationGate) hold(id uuid.UUID, holds int) {
	if g.holds[id] += holds; g.holds[id] == 0 {
		delete(g.holds, id)
	}
}

// countAll counts a change of all keys.
func (g *revocationGate) countAll() {
	for i := range g.keyDrops {
		g.keyDrops[i]++
	}
}
