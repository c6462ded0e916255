// Package cache remembers secrets of keys that were proven, and the answer to their holders.
//
//   - cache.go has the table, and the queue that chooses which entry leaves.
//   - gate.go knows which answers may be remembered while keys change.
package cache

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

// MaxSize keeps the index of a cache well below the address space of a 32-bit machine.
const MaxSize = 1 << 24

// A Cache remembers secrets of keys that were proven, and the answers of type A to their holders.
// It is a hash table that readers walk without a lock, and that writers change under one. The
// number of entries is bounded. The SIEVE algorithm (Zhang et al., NSDI 2024) chooses the entry
// that leaves, so that a scan of many keys does not push out the keys that are in use. A Cache is
// safe for concurrent use.
//
// An entry holds no secret, only a salted SHA-256 of one, which tells nothing about 256 random
// bits.
type Cache[A any] struct {
	holder  func(*A) Holder
	buckets []atomic.Pointer[Entry[A]] // a power of two of them
	// A hash of 64 bits, shifted right by shift, is the number of a bucket.
	shift int
	limit int

	mu             sync.Mutex
	count          int
	newest, oldest *Entry[A] // the ends of the queue
	hand           *Entry[A] // where SIEVE continues its search; nil means at the oldest
	revoked        gate
	aside          *lastuse.Set // of tokens that are not in the cache any more
	counts         *counts      // nil unless CountHolders was called
}

// A Holder says which token an answer is for.
type Holder struct {
	Key      uuid.UUID
	Verifier [8]byte
	User     uuid.UUID // that owns the key, or uuid.Nil
	Group    string
}

// An Entry is of one secret of a key. During a rotation a key can have two.
type Entry[A any] struct {
	keyDigits [tokenform.KeyDigits]byte // the key's ID, as in its tokens
	salt      [8]byte
	digest    [sha256.Size]byte
	Answer    A

	next         atomic.Pointer[Entry[A]] // in the same bucket
	visited      atomic.Bool              // since the hand passed by
	used         atomic.Uint32            // the minute of the last login since 1970, or 0
	written      uint32                   // the minute in the table of last uses
	newer, older *Entry[A]
}

// NewEntry makes the entry of a key whose token has just been proven.
func NewEntry[A any](t *tokenform.Token, a A) *Entry[A] {
	e := &Entry[A]{Answer: a}
	copy(e.keyDigits[:], t.KeyDigits())
	rand.Read(e.salt[:])
	e.digest = e.sum(t)
	return e
}

// sum hashes the salt and the secret. They have 52 bytes, and one block of SHA-256 has room for 55.
func (e *Entry[A]) sum(t *tokenform.Token) [sha256.Size]byte {
	var block [len(e.salt) + tokenform.SecretDigits]byte
	copy(block[:], e.salt[:])
	copy(block[len(e.salt):], t.SecretDigits())
	return sha256.Sum256(block[:])
}

// matches reports, in constant time, whether the secret of a token is the one that was proven.
func (e *Entry[A]) matches(t *tokenform.Token) bool {
	digest := e.sum(t)
	// By words, because crypto/subtle compares bytes.
	diff := uint64(0)
	for i := 0; i < len(digest); i += 8 {
		diff |= binary.LittleEndian.Uint64(digest[i:]) ^ binary.LittleEndian.Uint64(e.digest[i:])
	}
	return diff == 0
}

// New returns a cache of at most limit entries, which knows by holder which token an answer is for.
// It also keeps the last uses of at most maxAside tokens that are not in the cache.
func New[A any](limit, maxAside int, holder func(*A) Holder) *Cache[A] {
	c := &Cache[A]{holder: holder, limit: limit, revoked: newGate(), aside: lastuse.NewSet(maxAside)}
	if limit > 0 {
		size := bits.Len(uint(limit - 1)) // on average at most one entry in a bucket
		c.buckets, c.shift = make([]atomic.Pointer[Entry[A]], 1<<size), 64-size
	}
	return c
}

// bucket returns the bucket of a key. It takes the last digits of the ID, which are random, and
// spreads them by Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4), because digits
// use few of the bits of a byte.
func (c *Cache[A]) bucket(key string) *atomic.Pointer[Entry[A]] {
	return &c.buckets[tokenform.Word8(key[tokenform.KeyDigits-8:])*0x9e3779b97f4a7c15>>c.shift]
}

// CountHolders makes a Hold of users and groups cheap that have no entries. It is for a cache that
// hears of the changes of other processes, which make users without telling whether they are new.
// It must be called before the first Put.
func (c *Cache[A]) CountHolders() { c.counts = newCounts() }

// Get returns the entry of a genuine token, or nil. It takes no lock and allocates nothing.
func (c *Cache[A]) Get(t *tokenform.Token) *Entry[A] {
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

// Mark returns a number for Put. The caller takes it before it reads the state of the key, so that
// Put can tell whether the state has changed since then.
func (c *Cache[A]) Mark() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revoked.drops
}

// Put remembers an entry, unless the key, its user or its group has changed since Mark was called,
// or is about to change.
func (c *Cache[A]) Put(e *Entry[A], mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit == 0 || !c.revoked.admits(c.holder(&e.Answer), mark) {
		c.setAsideLocked(e)
		return
	}
	verifier := c.holder(&e.Answer).Verifier
	old := c.findLocked(string(e.keyDigits[:]), &verifier)
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
	c.countLocked(e, 1)
	if old != nil { // readers find the new entry first by now
		c.removeLocked(old)
		if c.hand == e {
			c.hand = nil // the hand was on the newest entry, and goes on with the oldest
		}
	}
}

// Hold forgets the entries that a commit is about to make wrong, and keeps them from coming back
// until Release. A commit can be seen before the call that made it returns, and a caller that has
// seen it must not get an answer from before it.
func (c *Cache[A]) Hold(s Stale) {
	if s.None() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.count(s, 1)
	for _, id := range s.Keys {
		for e := c.findLocked(tokenform.Digits(id), nil); e != nil; e = c.findLocked(tokenform.Digits(id), nil) {
			c.removeLocked(e)
		}
	}
	if !s.many() || c.counts != nil && !c.counts.any(s) {
		return
	}
	// By the owners and groups in the entries, because a group can have many more keys than the
	// cache, and so that a damaged index cannot keep a key here.
	for e := c.oldest; e != nil; e = e.newer {
		if c.revoked.held(c.holder(&e.Answer)) {
			c.removeLocked(e)
		}
	}
}

// Release ends a hold. Answers that were read during the hold may be from before the commit, and
// are not remembered either.
func (c *Cache[A]) Release(s Stale) {
	if s.None() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked.count(s, -1)
}

// Drop forgets the entries that a change has made wrong, when the change can be seen already.
func (c *Cache[A]) Drop(s Stale) {
	c.Hold(s)
	c.Release(s)
}

// Clear forgets all keys.
func (c *Cache[A]) Clear() {
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
	if c.counts != nil {
		c.counts = newCounts()
	}
}

// Size returns the number of entries.
func (c *Cache[A]) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// evictLocked moves the hand from old to new over the entries that were visited since it last came
// by, and removes the first one that was not.
func (c *Cache[A]) evictLocked() {
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

// findLocked returns the entry of a key's token with a verifier, or nil. A nil verifier stands for
// any.
func (c *Cache[A]) findLocked(key string, verifier *[8]byte) *Entry[A] {
	if c.limit == 0 {
		return nil
	}
	e := c.bucket(key).Load()
	for e != nil && (string(e.keyDigits[:]) != key || verifier != nil && c.holder(&e.Answer).Verifier != *verifier) {
		e = e.next.Load()
	}
	return e
}

func (c *Cache[A]) removeLocked(e *Entry[A]) {
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
	c.countLocked(e, -1)
}

// countLocked counts an entry that comes or goes.
func (c *Cache[A]) countLocked(e *Entry[A], n int) {
	c.count += n
	if c.counts != nil {
		of := c.holder(&e.Answer)
		addTo(c.counts.users, of.User, n)
		addTo(c.counts.groups, of.Group, n)
	}
}

// Use notes that the token was used in a minute. It stores nothing in most logins, because that
// would move the cache line between processors.
func (e *Entry[A]) Use(minute uint32) {
	if e.used.Load() < minute {
		e.used.Store(minute)
	}
}

// lastUseOf returns the last use of an entry's token.
func (c *Cache[A]) lastUseOf(e *Entry[A]) lastuse.Use {
	of := c.holder(&e.Answer)
	return lastuse.Use{ID: lastuse.Join(of.Key, of.Verifier), Minute: e.used.Load()}
}

// SetAside keeps the last use of a token that is not remembered.
func (c *Cache[A]) SetAside(e *Entry[A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setAsideLocked(e)
}

func (c *Cache[A]) setAsideLocked(e *Entry[A]) {
	if u := c.lastUseOf(e); u.Minute > e.written {
		c.aside.Add(u)
	}
}

// Unwritten returns the last uses that no batch has written, in the order of their keys.
func (c *Cache[A]) Unwritten() []lastuse.Use {
	c.mu.Lock()
	uses := c.aside.AppendTo(nil)
	for e := c.oldest; e != nil; e = e.newer {
		if u := c.lastUseOf(e); u.Minute > e.written {
			uses = append(uses, u)
		}
	}
	c.mu.Unlock()
	return lastuse.Sort(uses)
}

// Wrote notes that a batch has written last uses.
func (c *Cache[A]) Wrote(uses []lastuse.Use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range uses {
		c.aside.Remove(u)
		verifier := u.ID.Verifier()
		if e := c.findLocked(tokenform.Digits(u.ID.Key()), &verifier); e != nil {
			e.written = u.Minute
		}
	}
}

// LastUses returns the last uses of a key's tokens, as far as they are in memory. A token can be
// among them twice.
func (c *Cache[A]) LastUses(key uuid.UUID) []lastuse.Use {
	c.mu.Lock()
	defer c.mu.Unlock()
	uses := c.aside.Of(key)
	if c.limit == 0 {
		return uses
	}
	digits := tokenform.Digits(key)
	for e := c.bucket(digits).Load(); e != nil; e = e.next.Load() {
		if string(e.keyDigits[:]) == digits {
			uses = append(uses, c.lastUseOf(e))
		}
	}
	return uses
}
