package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// answer is an answer that has nothing but its holder.
type answer struct{ of Holder }

func (a *answer) holder() Holder { return a.of }

type (
	cache = Cache[answer]
	entry = Entry[answer]
)

func newCache(limit int) *cache { return New(limit, 100, (*answer).holder) }

// cacheID makes an ID with a number, which is also the place of the ID in a small table.
func cacheID(n uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// cacheToken is the token that newEntry takes for a key.
func cacheToken(id uuid.UUID) *tokenform.Token { return tokenOf(id, [tokenform.SecretSize]byte{1}) }

// tokenOf is a token with a secret, taken apart.
func tokenOf(id uuid.UUID, secret [tokenform.SecretSize]byte) *tokenform.Token {
	form, t := tokenform.New("lk", [16]byte{}), &tokenform.Token{}
	form.Parse(form.Make(id, secret), t)
	return t
}

// newEntry makes the entry of a key. The owner of a server key is uuid.Max.
func newEntry(id, owner uuid.UUID) *entry {
	of := Holder{Key: id, User: owner, Group: groupOf(owner)}
	if owner == uuid.Max {
		of.User = uuid.Nil
	}
	return NewEntry(cacheToken(id), answer{of})
}

// groupOf returns the group that newEntry gives to the keys of an owner.
func groupOf(owner uuid.UUID) string { return fmt.Sprint("group of ", owner) }

// remember puts an entry for an ID into the cache, and returns it.
func remember(c *cache, id uuid.UUID) *entry { return rememberOf(c, id, uuid.Max) }

func rememberOf(c *cache, id, owner uuid.UUID) *entry {
	mark := c.Mark()
	e := newEntry(id, owner)
	c.Put(e, mark)
	return e
}

// entries lists the queue from the oldest to the newest.
func (c *Cache[A]) entries() (entries []*Entry[A]) {
	for e := c.oldest; e != nil; e = e.newer {
		entries = append(entries, e)
	}
	return entries
}

// wantConsistent fails the test unless the table and the queue, in both directions, have the same
// entries, as many as the cache counts and no more than its limit.
func wantConsistent(t testing.TB, c *cache) {
	t.Helper()
	queue := c.entries()
	var backwards []*entry
	for e := c.newest; e != nil; e = e.older {
		backwards = append(backwards, e)
	}
	slices.Reverse(backwards)
	if !slices.Equal(queue, backwards) {
		t.Fatalf("the queue has %d entries from the oldest on, and %d from the newest", len(queue), len(backwards))
	}
	inTable := 0
	for i := range c.buckets {
		for e := c.buckets[i].Load(); e != nil; e = e.next.Load() {
			inTable++
			if c.bucket(string(e.keyDigits[:])) != &c.buckets[i] || !slices.Contains(queue, e) {
				t.Fatalf("key %s is in a wrong bucket, or not in the queue", e.Answer.of.Key)
			}
		}
	}
	if inTable != len(queue) || c.Size() != len(queue) || len(queue) > c.limit {
		t.Fatalf("%d entries in the table, %d in the queue, %d counted, at most %d", inTable, len(queue), c.Size(), c.limit)
	}
	if c.counts != nil {
		users, groups := map[uuid.UUID]int{}, map[string]int{}
		for _, e := range queue {
			users[e.Answer.of.User]++
			groups[e.Answer.of.Group]++
		}
		if !maps.Equal(c.counts.users, users) || !maps.Equal(c.counts.groups, groups) {
			t.Fatalf("counted %v and %v, want %v and %v", c.counts.users, c.counts.groups, users, groups)
		}
	}
	if c.hand != nil && !slices.Contains(queue, c.hand) {
		t.Fatal("the hand is on an entry that is gone")
	}
}

// cacheModel is a cache without a table: a slice in the order of the queue. The keys of one group
// have numbers with the same remainder by modelGroups.
type cacheModel struct {
	limit int
	queue []*modelEntry // oldest first
	hand  *modelEntry   // nil means the oldest
}

const modelGroups = 4

// modelOwner returns the owner of a key in a model. Its group is that of the owner.
func modelOwner(id uuid.UUID) uuid.UUID { return cacheID(1<<20 + uint64(id[15])%modelGroups) }

type modelEntry struct {
	entry   *entry
	visited bool
}

func (m *cacheModel) find(id uuid.UUID) int {
	return slices.IndexFunc(m.queue, func(e *modelEntry) bool { return e.entry.Answer.of.Key == id })
}

func (m *cacheModel) get(id uuid.UUID) *entry {
	i := m.find(id)
	if i < 0 {
		return nil
	}
	m.queue[i].visited = true
	return m.queue[i].entry
}

func (m *cacheModel) put(e *entry) {
	m.drop(e.Answer.of.Key)
	if m.limit == 0 {
		return
	}
	if len(m.queue) == m.limit {
		m.evict()
	}
	m.queue = append(m.queue, &modelEntry{entry: e})
}

func (m *cacheModel) drop(id uuid.UUID) {
	if i := m.find(id); i >= 0 {
		m.removeAt(i)
	}
}

// dropOwner drops all keys of an owner. No other owner is in the same group.
func (m *cacheModel) dropOwner(owner uuid.UUID) {
	for i := 0; i < len(m.queue); {
		if m.queue[i].entry.Answer.of.User == owner {
			m.removeAt(i)
		} else {
			i++
		}
	}
}

func (m *cacheModel) removeAt(i int) {
	gone := m.queue[i]
	m.queue = slices.Delete(m.queue, i, i+1)
	if m.hand != gone {
		return
	}
	m.hand = nil
	if i < len(m.queue) {
		m.hand = m.queue[i]
	}
}

func (m *cacheModel) evict() {
	i := max(0, slices.Index(m.queue, m.hand))
	for m.queue[i].visited {
		m.queue[i].visited = false
		i = (i + 1) % len(m.queue)
	}
	m.hand = m.queue[i]
	m.removeAt(i)
}

// To replay a failure, replace rand.Uint64() by the seed that the test prints.
func TestTheCacheBehavesAsItsModel(t *testing.T) {
	for _, limit := range []int{0, 1, 2, 3, 8, 99, 100} {
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) {
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			c, m := newCache(limit), &cacheModel{limit: limit}
			if limit%2 == 1 {
				c.CountHolders()
			}
			// Half of the numbers share their last byte with others, and so are affected by the
			// drops of others.
			number := func() uint64 { return random.Uint64N(uint64(limit)+2) + random.Uint64N(2)<<8 }
			steps := 5000
			for step := range steps {
				id := cacheID(number())
				switch random.IntN(12) {
				default:
					if got, want := c.Get(cacheToken(id)), m.get(id); got != want {
						t.Fatalf("seed %d, step %d: Get: got %v, want %v", seed, step, got, want)
					}
				case 0, 1, 2, 3:
					m.put(rememberOf(c, id, modelOwner(id)))
				case 4:
					other := cacheID(number())
					c.drop([]uuid.UUID{id, other})
					m.drop(id)
					m.drop(other)
				case 5:
					mark := c.Mark()
					other := cacheID(number())
					c.drop([]uuid.UUID{other})
					m.drop(other)
					e := newEntry(id, modelOwner(id))
					c.Put(e, mark)
					if id[15] != other[15] {
						m.put(e)
					}
				case 7:
					// An answer that was read before the drop of any group is not remembered.
					mark, owner := c.Mark(), modelOwner(cacheID(number()))
					c.dropAll(Stale{Groups: []string{groupOf(owner)}})
					m.dropOwner(owner)
					c.Put(newEntry(id, modelOwner(id)), mark)
				case 8:
					// During a commit, no key of its group is remembered, and every other key is.
					owner := modelOwner(cacheID(number()))
					s := Stale{Groups: []string{groupOf(owner)}}
					c.Hold(s)
					m.dropOwner(owner)
					if e := rememberOf(c, id, modelOwner(id)); modelOwner(id) != owner {
						m.put(e)
					}
					c.Release(s)
				case 6:
					if random.IntN(20) == 0 {
						c.Clear()
						m.queue, m.hand = nil, nil
					}
				}
				var want []*entry
				for _, e := range m.queue {
					want = append(want, e.entry)
					if e.visited != e.entry.visited.Load() {
						t.Fatalf("seed %d, step %d: key %s is visited: %t, want %t", seed, step, e.entry.Answer.of.Key, !e.visited, e.visited)
					}
				}
				if got := c.entries(); !slices.Equal(got, want) {
					t.Fatalf("seed %d, step %d: the queue has %d entries, want %d, or another order", seed, step, len(got), len(want))
				}
				if (c.hand == nil) != (m.hand == nil) || c.hand != nil && c.hand != m.hand.entry {
					t.Fatalf("seed %d, step %d: the hand is on another entry", seed, step)
				}
				wantConsistent(t, c)
			}
		})
	}
}

func TestAScanOfManyKeysDoesNotPushOutThoseInUse(t *testing.T) {
	c := newCache(100)
	for n := range uint64(50) {
		id := cacheID(n)
		remember(c, id)
		c.Get(cacheToken(id))
	}
	for n := range uint64(10_000) {
		remember(c, cacheID(1000+n))
	}
	if c.Size() != 100 {
		t.Errorf("the cache has %d entries, want 100", c.Size())
	}
	for n := range uint64(50) {
		if id := cacheID(n); c.Get(cacheToken(id)) == nil {
			t.Errorf("key %d was pushed out", n)
		}
	}
}

func TestAKeyThatIsNotUsedAnyMoreLeavesTheCache(t *testing.T) {
	c := newCache(10)
	for n := range uint64(10) {
		id := cacheID(n)
		remember(c, id)
		c.Get(cacheToken(id))
	}
	for n := range uint64(20) {
		id := cacheID(100 + n)
		remember(c, id)
		c.Get(cacheToken(id))
	}
	for n := range uint64(10) {
		if id := cacheID(n); c.Get(cacheToken(id)) != nil {
			t.Errorf("key %d is still there after 20 others were used", n)
		}
	}
	wantConsistent(t, c)
}

func TestAnAnswerReadBeforeADropIsNotRememberedAfterIt(t *testing.T) {
	for _, tt := range []struct {
		name string
		drop func(c *cache, id uuid.UUID)
	}{
		{"drop", func(c *cache, id uuid.UUID) { c.drop([]uuid.UUID{id}) }},
		{"drop among others", func(c *cache, id uuid.UUID) { c.drop([]uuid.UUID{cacheID(7), id, cacheID(8)}) }},
		{"drop of the user", func(c *cache, _ uuid.UUID) { c.dropAll(Stale{Users: []uuid.UUID{cacheID(9)}}) }},
		{"drop of the group", func(c *cache, _ uuid.UUID) { c.dropAll(Stale{Groups: []string{groupOf(cacheID(9))}}) }},
		{"clear", func(c *cache, _ uuid.UUID) { c.Clear() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(10)
			id := cacheID(1)
			mark := c.Mark()
			tt.drop(c, id)
			c.Put(newEntry(id, cacheID(9)), mark)
			if c.Get(cacheToken(id)) != nil || c.Size() != 0 {
				t.Error("it was remembered")
			}
			if remember(c, id); c.Get(cacheToken(id)) == nil {
				t.Error("what was read after it is not remembered")
			}
		})
	}
}

func TestAnAnswerReadWhileACommitWasUnderWayIsNotRememberedAfterIt(t *testing.T) {
	id, user := cacheID(1), cacheID(9)
	for _, what := range []Stale{{Keys: []uuid.UUID{id}}, {Users: []uuid.UUID{user}}, {Groups: []string{groupOf(user)}}} {
		c := newCache(10)
		c.Hold(what)
		mark := c.Mark()
		c.Release(what)
		c.Put(newEntry(id, user), mark)
		if c.Get(cacheToken(id)) != nil {
			t.Errorf("it was remembered, for all the drops of %v", what)
		}
	}
}

func TestACommitKeepsNoOtherKeyOutOfTheCache(t *testing.T) {
	c := newCache(1000)
	held := cacheID(1)
	one, two := Stale{Keys: []uuid.UUID{held}}, Stale{Keys: []uuid.UUID{held, cacheID(2)}}
	c.Hold(one)
	c.Hold(two)
	c.Release(two)
	for n := range uint64(1000) { // some have the same last byte
		id := cacheID(n)
		if remember(c, id); (c.Get(cacheToken(id)) == nil) != (id == held) {
			t.Errorf("key %d is remembered: %t", n, id == held)
		}
	}
	c.Release(one)
	if remember(c, held); c.Get(cacheToken(held)) == nil {
		t.Error("the key is not remembered after the commit")
	}
	if len(c.revoked.holds) != 0 {
		t.Errorf("%d keys are held by nobody", len(c.revoked.holds))
	}
}

func TestADropOfAUserOrAGroupForgetsAllItsKeysAndNoOther(t *testing.T) {
	user, other := cacheID(1000), cacheID(1001)
	for name, drop := range map[string]Stale{
		"user":                {Users: []uuid.UUID{user}},
		"group":               {Groups: []string{groupOf(user)}},
		"group, beside a key": {Groups: []string{groupOf(user)}, Keys: []uuid.UUID{cacheID(3)}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(100)
			owners := []uuid.UUID{user, other, uuid.Max}
			rememberAll := func() {
				for n := range uint64(90) {
					rememberOf(c, cacheID(n), owners[n%3])
				}
			}
			wantUser := func(when string, want bool) {
				t.Helper()
				for n := range uint64(90) {
					id := cacheID(n)
					if got := c.Get(cacheToken(id)) != nil; got != (want || owners[n%3] != user) {
						t.Errorf("%s: key %d of %s is remembered: %t", when, n, owners[n%3], got)
					}
				}
				wantConsistent(t, c)
			}
			rememberAll()
			c.Hold(drop)
			wantUser("after the hold", false)
			rememberAll()
			wantUser("during it", false)
			c.Release(drop)
			wantUser("after it", false)
			rememberAll()
			wantUser("after that", true)
			if n := len(c.revoked.holds) + len(c.revoked.groupHolds); n != 0 {
				t.Errorf("%d holds are left", n)
			}
		})
	}
}

func TestADropForgetsNoOtherKey(t *testing.T) {
	c := newCache(1000)
	for n := range uint64(1000) {
		remember(c, cacheID(n))
	}
	gone := cacheID(500)
	c.drop([]uuid.UUID{gone})
	for n := range uint64(1000) {
		if id := cacheID(n); (c.Get(cacheToken(id)) == nil) != (id == gone) {
			t.Errorf("key %d is remembered: %t", n, id == gone)
		}
	}
}

func TestReadersMeetNoEntryThatWasDroppedBeforeTheyBegan(t *testing.T) {
	// Two buckets and few keys make long chains, so that readers are on entries that leave.
	c := newCache(64)
	c.buckets, c.shift = c.buckets[:2], 63
	const keys, rounds = 32, 3000
	// dropped has the entry of each key that was dropped last. It is set after drop has returned.
	var dropped [keys]atomic.Pointer[entry]
	var done atomic.Bool

	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() { // each writer has keys of its own
			for round := range rounds {
				n := w + 4*(round%(keys/4))
				id := cacheID(uint64(n))
				e := remember(c, id)
				c.drop([]uuid.UUID{id})
				dropped[n].Store(e)
				if c.Get(cacheToken(id)) != nil {
					t.Errorf("key %d is met after its drop", n)
				}
			}
		})
	}
	for range 4 {
		readers.Go(func() {
			for n := 0; !done.Load(); n = (n + 1) % keys {
				id := cacheID(uint64(n))
				before := dropped[n].Load()
				switch e := c.Get(cacheToken(id)); {
				case e == nil:
				case e == before:
					t.Errorf("key %d: the entry that was dropped before is met", n)
				case e.Answer.of.Key != id:
					t.Errorf("key %d: the entry of %s is met", n, e.Answer.of.Key)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	wantConsistent(t, c)
	if c.Size() != 0 {
		t.Errorf("%d entries are left, want 0", c.Size())
	}
}

func TestTheCacheStaysConsistentUnderConcurrentUse(t *testing.T) {
	c := newCache(50)
	var workers sync.WaitGroup
	for w := range 6 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 0))
			for range 3000 {
				id := cacheID(random.Uint64N(100))
				switch random.IntN(8) {
				default:
					if e := c.Get(cacheToken(id)); e != nil && e.Answer.of.Key != id {
						t.Errorf("got the entry of %s, want that of %s", e.Answer.of.Key, id)
					}
				case 0, 1, 2:
					remember(c, id)
				case 3:
					c.drop([]uuid.UUID{id})
				case 4:
					if random.IntN(100) == 0 {
						c.Clear()
					}
				}
			}
		})
	}
	workers.Wait()
	wantConsistent(t, c)
}

func TestAnEntryThatIsReplacedIsNeverMissed(t *testing.T) {
	c := newCache(10)
	id := cacheID(1)
	remember(c, id)
	var done atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 100_000 {
			remember(c, id)
		}
		done.Store(true)
	})
	for !done.Load() {
		if c.Get(cacheToken(id)) == nil {
			t.Error("the key is remembered, and was not found")
			break
		}
	}
	writer.Wait()
}

func TestTwoEntriesOfOneSecretHaveDifferentSalts(t *testing.T) {
	secret := cacheToken(uuid.Nil)
	a := NewEntry(secret, answer{})
	b := NewEntry(secret, answer{})
	if a.salt == b.salt || bytes.Equal(a.digest[:], b.digest[:]) {
		t.Error("two entries of one secret are alike")
	}
	other := tokenOf(uuid.Nil, [tokenform.SecretSize]byte{1, 31: 1})
	if !a.matches(secret) || a.matches(other) {
		t.Errorf("the secret matches: %t, and one with another last digit: %t", a.matches(secret), a.matches(other))
	}
	for i := range a.digest {
		if a.digest[i] ^= 1; a.matches(secret) {
			t.Errorf("byte %d of the digest is not compared", i)
		}
		a.digest[i] ^= 1
	}
}

// drop is the effect of a change of keys on the cache, if nothing happens between its commit and
// its return.
func (c *Cache[A]) drop(keys []uuid.UUID) { c.dropAll(Stale{Keys: keys}) }

func (c *Cache[A]) dropAll(s Stale) { c.Drop(s) }
