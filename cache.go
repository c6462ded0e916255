package latchkey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// maxCacheSize keeps the index of the cache well below the address space of a 32-bit machine.
const maxCacheSize = 1 << 24

// cache remembers secrets of keys that were proven, and the answer to their holders: the principal,
// or the reason why it is refused. It is a hash table that readers walk without a lock, and that
// writers change under one. The number of entries is bounded. The SIEVE algorithm (Zhang et al.,
// NSDI 2024) chooses the entry that leaves, so that a scan of many keys does not push out the keys
// that are in use.
//
// An entry holds no secret, only a salted SHA-256 of one, which tells nothing about 256 random
// bits.
type cache struct {
	buckets []atomic.Pointer[cacheEntry] // a power of two of them
	// A hash of 64 bits, shifted right by shift, is the number of a bucket.
	shift int
	limit int

	mu             sync.Mutex
	count          int
	newest, oldest *cacheEntry // the ends of the queue
	hand           *cacheEntry // where SIEVE continues its search; nil means at the oldest
	revoked        revocationGate
	aside          *lastuse.Set // of tokens that are not in the cache any more
}

// staleLogins are the keys, and the users and groups with all their keys, whose entries in the
// cache may be wrong after a transaction.
type staleLogins struct {
	keys, users []uuid.UUID
	groups      []string
}

func (s *staleLogins) none() bool { return len(s.keys) == 0 && !s.many() }

// many reports whether the number of keys is not known.
func (s *staleLogins) many() bool { return len(s.users) > 0 || len(s.groups) > 0 }

func (s *staleLogins) add(more staleLogins) {
	s.keys, s.users = append(s.keys, more.keys...), append(s.users, more.users...)
	s.groups = append(s.groups, more.groups...)
}

// A cacheEntry is of one secret of a key. During a rotation a key can have two.
type cacheEntry struct {
	keyDigits [tokenform.KeyDigits]byte // the key's ID, as in its tokens
	salt      [8]byte
	digest    [sha256.Size]byte
	answer

	next         atomic.Pointer[cacheEntry] // in the same bucket
	visited      atomic.Bool                // since the hand passed by
	used         atomic.Uint32              // the minute of the last login since 1970, or 0
	written      uint32                     // the minute in the table of last uses
	newer, older *cacheEntry
}

// newCacheEntry makes the entry of a key whose token has just been proven.
func newCacheEntry(t *tokenform.Token, a *answer) *cacheEntry {
	e := &cacheEntry{answer: *a}
	copy(e.keyDigits[:], t.KeyDigits())
	rand.Read(e.salt[:])
	e.digest = e.sum(t)
	return e
}

// sum hashes the salt and the secret. They have 52 bytes, and one block of SHA-256 has room for 55.
func (e *cacheEntry) sum(t *tokenform.Token) [sha256.Size]byte {
	var block [len(e.salt) + tokenform.SecretDigits]byte
	copy(block[:], e.salt[:])
	copy(block[len(e.salt):], t.SecretDigits())
	return sha256.Sum256(block[:])
}

// matches reports, in constant time, whether the secret of a token is the one that was proven.
func (e *cacheEntry) matches(t *tokenform.Token) bool {
	digest := e.sum(t)
	// By words, because crypto/subtle compares bytes.
	diff := uint64(0)
	for i := 0; i < len(digest); i += 8 {
		diff |= binary.LittleEndian.Uint64(digest[i:]) ^ binary.LittleEndian.Uint64(e.digest[i:])
	}
	return diff == 0
}

func newCache(limit int) *cache {
	c := &cache{limit: limit, revoked: newRevocationGate(), aside: lastuse.NewSet(maxUsesAside)}
	if limit > 0 {
		size := bits.Len(uint(limit - 1)) // on average at most one entry in a bucket
		c.buckets, c.shift = make([]atomic.Pointer[cacheEntry], 1<<size), 64-size
	}
	return c
}

// bucket returns the bucket of a key. It takes the last digits of the ID, which are random, and
// spreads them by Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4), because digits
// use few of the bits of a byte.
func (c *cache) bucket(key string) *atomic.Pointer[cacheEntry] {
	return &c.buckets[tokenform.Word8(key[tokenform.KeyDigits-8:])*0x9e3779b97f4a7c15>>c.shift]
}

// get returns the entry of a genuine token, or nil. It takes no lock and allocates nothing.
func (c *cache) get(t *tokenform.Token) *cacheEntry {
	if len(c.buckets) == 0 {
		return nil
	}
	key := t.KeyDigits()
	for e := c.bucket(key).Load(); e != nil; e = e.next.Load() {
		if string(e.keyDigits[:]) == key && e.matches(t) {
			// Not stored each time, because that would move the cache line between processors.
			if !e.visited.Load() {
				e.visited.Store(true)
			}
			return e
		}
	}
	return nil
}

// mark returns a number for put. The caller takes it before it reads the state of the key, so that
// put can tell whether the state has changed since then.
func (c *cache) mark(id uuid.UUID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revoked.mark(id)
}

// put remembers an entry, unless the key, its user or its group has changed since mark was taken,
// or is about to change.
func (c *cache) put(e *cacheEntry, mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == 0 || !c.revoked.admits(&e.principal, mark) {
		c.setAsideLocked(e)
		return
	}
	old := c.findLocked(string(e.keyDigits[:]), e.principal.TokenID)
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
	if old != nil { // readers find the new entry first by now
		c.removeLocked(old)
		if c.hand == e {
			c.hand = nil // the hand was on the newest entry, and goes on with the oldest
		}
	}
}

// hold forgets the entries that a commit is about to make wrong, and keeps them from coming back
// until release. A commit can be seen before the call that made it returns, and a caller that has
// seen it must not get an answer from before it.
func (c *cache) hold(s staleLogins) {
	if s.none() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.count(s, 1)
	for _, id := range s.keys {
		for e := c.findLocked(tokenform.Digits(id), ""); e != nil; e = c.findLocked(tokenform.Digits(id), "") {
			c.removeLocked(e)
		}
	}
	if !s.many() {
		return
	}
	// By the owners and groups in the entries, because a group can have many more keys than the
	// cache, and so that a damaged index cannot keep a key here.
	for e := c.oldest; e != nil; e = e.newer {
		if c.revoked.held(&e.principal) {
			c.removeLocked(e)
		}
	}
}

// release ends a hold. Answers that were read during the hold may be from before the commit, and
// are not remembered either.
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
	for e := c.oldest; e != nil; e = e.newer {
		c.setAsideLocked(e)
	}
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

// evictLocked moves the hand from old to new over the entries that were visited since it last came
// by, and removes the first one that was not.
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

// findLocked returns the entry of a key's token with an ID, or nil. An empty ID stands for any.
func (c *cache) findLocked(key, tokenID string) *cacheEntry {
	if c.limit == 0 {
		return nil
	}
	e := c.bucket(key).Load()
	for e != nil && (string(e.keyDigits[:]) != key || tokenID != "" && e.principal.TokenID != tokenID) {
		e = e.next.Load()
	}
	return e
}

func (c *cache) removeLocked(e *cacheEntry) {
	c.setAsideLocked(e)
	link := c.bucket(string(e.keyDigits[:]))
	for link.Load() != e {
		link = &link.Load().next
	}
	link.Store(e.next.Load()) // a reader that is on e continues by e.next
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

// use notes that the token was used in a minute. It stores nothing in most logins, because that
// would move the cache line between processors.
func (e *cacheEntry) use(minute uint32) {
	if e.used.Load() < minute {
		e.used.Store(minute)
	}
}

// lastUse returns the last use of an entry's token.
func (e *cacheEntry) lastUse() lastuse.Use {
	return lastuse.Use{ID: lastuse.Join(e.principal.KeyID, e.verifier), Minute: e.used.Load()}
}

// setAside keeps the last use of a token that is not remembered.
func (c *cache) setAside(e *cacheEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setAsideLocked(e)
}

func (c *cache) setAsideLocked(e *cacheEntry) {
	if u := e.lastUse(); u.Minute > e.written {
		c.aside.Add(u)
	}
}

// unwritten returns the last uses that no batch has written, in the order of their keys.
func (c *cache) unwritten() []lastuse.Use {
	c.mu.Lock()
	uses := c.aside.AppendTo(nil)
	for e := c.oldest; e != nil; e = e.newer {
		if u := e.lastUse(); u.Minute > e.written {
			uses = append(uses, u)
		}
	}
	c.mu.Unlock()
	return lastuse.Sort(uses)
}

// wrote notes that a batch has written last uses.
func (c *cache) wrote(uses []lastuse.Use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range uses {
		c.aside.Remove(u)
		if e := c.findLocked(tokenform.Digits(u.ID.Key()), tokenID(u.ID.Verifier())); e != nil {
			e.written = u.Minute
		}
	}
}

// lastUse returns the minute of the last use of a key, as far as it is in memory, or 0.
func (c *cache) lastUse(key uuid.UUID) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	latest := c.aside.Latest(key)
	if c.limit == 0 {
		return latest
	}
	digits := tokenform.Digits(key)
	for e := c.bucket(digits).Load(); e != nil; e = e.next.Load() {
		if string(e.keyDigits[:]) == digits {
			latest = max(latest, e.used.Load())
		}
	}
	return latest
}

// revocationGate tells which answers may be remembered: answers that were read after the last
// change of the key, its user and its group, and while no such change was committing. The mutex of
// the cache guards it.
type revocationGate struct {
	// keyDrops counts the changes of keys, separately for each value of the last byte of their IDs.
	// otherDrops counts the changes of users and groups, because a key's ID does not tell these.
	// The numbers never fall.
	keyDrops   [256]uint64
	otherDrops uint64
	// holds and groupHolds count the commits in progress that change a key or user, or a group.
	holds      map[uuid.UUID]int
	groupHolds map[string]int
}

func newRevocationGate() revocationGate {
	return revocationGate{holds: make(map[uuid.UUID]int), groupHolds: make(map[string]int)}
}

// mark returns a number that is greater after each change of the key, its user or its group.
func (g *revocationGate) mark(key uuid.UUID) uint64 { return g.keyDrops[lastByte(key)] + g.otherDrops }

func lastByte(id uuid.UUID) byte { return id[len(id)-1] }

// admits reports whether an answer that was read after mark was taken may be remembered.
func (g *revocationGate) admits(who *Principal, mark uint64) bool {
	return !g.held(who) && g.mark(who.KeyID) == mark
}

// held reports whether a commit is in progress that changes the key, its user or its group.
func (g *revocationGate) held(who *Principal) bool {
	return g.holds[who.KeyID] > 0 || g.holds[who.UserID] > 0 || g.groupHolds[who.Group] > 0
}

// count counts a change of everything in s, and adds holds to the number of its holds.
func (g *revocationGate) count(s staleLogins, holds int) {
	for _, id := range s.keys {
		g.keyDrops[lastByte(id)]++
		addHolds(g.holds, id, holds)
	}
	for _, id := range s.users {
		g.otherDrops++
		addHolds(g.holds, id, holds)
	}
	for _, name := range s.groups {
		g.otherDrops++
		addHolds(g.groupHolds, name, holds)
	}
}

func addHolds[K comparable](holds map[K]int, of K, n int) {
	if holds[of] += n; holds[of] == 0 {
		delete(holds, of)
	}
}

// countAll counts a change of every key.
func (g *revocationGate) countAll() {
	for i := range g.keyDrops {
		g.keyDrops[i]++
	}
}
