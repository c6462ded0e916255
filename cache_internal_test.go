package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/tokenform"
)

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

// newEntry makes the entry of a key.
func newEntry(id, owner uuid.UUID) *cacheEntry {
	who := Principal{KeyID: id, UserID: owner, Group: groupOf(owner)}
	if owner == ServerOwner {
		who.UserID, who.ServerKey = uuid.Nil, true
	}
	return newCacheEntry(cacheToken(id), &answer{principal: who})
}

// groupOf returns the group that newEntry gives to the keys of an owner.
func groupOf(owner uuid.UUID) string { return fmt.Sprint("group of ", owner) }

// remember puts an entry for an ID into the cache, and returns it.
func remember(c *cache, id uuid.UUID) *cacheEntry { return rememberOf(c, id, ServerOwner) }

func rememberOf(c *cache, id, owner uuid.UUID) *cacheEntry {
	mark := c.mark(id)
	e := newEntry(id, owner)
	c.put(e, mark)
	return e
}

// entries lists the queue from the oldest to the newest.
func (c *cache) entries() (entries []*cacheEntry) {
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
	var backwards []*cacheEntry
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
				t.Fatalf("key %s is in a wrong bucket, or not in the queue", e.principal.KeyID)
			}
		}
	}
	if inTable != len(queue) || c.size() != len(queue) || len(queue) > c.limit {
		t.Fatalf("%d entries in the table, %d in the queue, %d counted, at most %d", inTable, len(queue), c.size(), c.limit)
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
	entry   *cacheEntry
	visited bool
}

func (m *cacheModel) find(id uuid.UUID) int {
	return slices.IndexFunc(m.queue, func(e *modelEntry) bool { return e.entry.principal.KeyID == id })
}

func (m *cacheModel) get(id uuid.UUID) *cacheEntry {
	i := m.find(id)
	if i < 0 {
		return nil
	}
	m.queue[i].visited = true
	return m.queue[i].entry
}

func (m *cacheModel) put(e *cacheEntry) {
	m.drop(e.principal.KeyID)
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
		if m.queue[i].entry.principal.UserID == owner {
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
	for _, limit := range []int{0, 1, 2, 3, 8, 100} {
		t.Run(fmt.Sprint("limit=", limit), func(t *testing.T) {
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			c, m := newCache(limit), &cacheModel{limit: limit}
			// Half of the numbers share their last byte with others, and so are affected by the
			// drops of others.
			number := func() uint64 { return random.Uint64N(uint64(limit)+2) + random.Uint64N(2)<<8 }
			steps := 5000
			for step := range steps {
				id := cacheID(number())
				switch random.IntN(12) {
				default:
					if got, want := c.get(cacheToken(id)), m.get(id); got != want {
						t.Fatalf("seed %d, step %d: get: got %v, want %v", seed, step, got, want)
					}
				case 0, 1, 2, 3:
					m.put(rememberOf(c, id, modelOwner(id)))
				case 4:
					other := cacheID(number())
					c.drop([]uuid.UUID{id, other})
					m.drop(id)
					m.drop(other)
				case 5:
					mark := c.mark(id)
					other := cacheID(number())
					c.drop([]uuid.UUID{other})
					m.drop(other)
					e := newEntry(id, modelOwner(id))
					c.put(e, mark)
					if id[15] != other[15] {
						m.put(e)
					}
				case 7:
					// An answer that was read before the drop of any group is not remembered.
					mark, owner := c.mark(id), modelOwner(cacheID(number()))
					c.dropAll(staleLogins{groups: []string{groupOf(owner)}})
					m.dropOwner(owner)
					c.put(newEntry(id, modelOwner(id)), mark)
				case 8:
					// During a commit, no key of its group is remembered, and every other key is.
					owner := modelOwner(cacheID(number()))
					s := staleLogins{groups: []string{groupOf(owner)}}
					c.hold(s)
					m.dropOwner(owner)
					if e := rememberOf(c, id, modelOwner(id)); modelOwner(id) != owner {
						m.put(e)
					}
					c.release(s)
				case 6:
					if random.IntN(20) == 0 {
						c.clear()
						m.queue, m.hand = nil, nil
					}
				}
				var want []*cacheEntry
				for _, e := range m.queue {
					want = append(want, e.entry)
					if e.visited != e.entry.visited.Load() {
						t.Fatalf("seed %d, step %d: key %s is visited: %t, want %t", seed, step, e.entry.principal.KeyID, !e.visited, e.visited)
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
		c.get(cacheToken(id))
	}
	for n := range uint64(10_000) {
		remember(c, cacheID(1000+n))
	}
	if c.size() != 100 {
		t.Errorf("the cache has %d entries, want 100", c.size())
	}
	for n := range uint64(50) {
		if id := cacheID(n); c.get(cacheToken(id)) == nil {
			t.Errorf("key %d was pushed out", n)
		}
	}
}

func TestAKeyThatIsNotUsedAnyMoreLeavesTheCache(t *testing.T) {
	c := newCache(10)
	for n := range uint64(10) {
		id := cacheID(n)
		remember(c, id)
		c.get(cacheToken(id))
	}
	for n := range uint64(20) {
		id := cacheID(100 + n)
		remember(c, id)
		c.get(cacheToken(id))
	}
	for n := range uint64(10) {
		if id := cacheID(n); c.get(cacheToken(id)) != nil {
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
		{"drop of the user", func(c *cache, _ uuid.UUID) { c.dropAll(staleLogins{users: []uuid.UUID{cacheID(9)}}) }},
		{"drop of the group", func(c *cache, _ uuid.UUID) { c.dropAll(staleLogins{groups: []string{groupOf(cacheID(9))}}) }},
		{"clear", func(c *cache, _ uuid.UUID) { c.clear() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(10)
			id := cacheID(1)
			mark := c.mark(id)
			tt.drop(c, id)
			c.put(newEntry(id, cacheID(9)), mark)
			if c.get(cacheToken(id)) != nil || c.size() != 0 {
				t.Error("it was remembered")
			}
			if remember(c, id); c.get(cacheToken(id)) == nil {
				t.Error("what was read after it is not remembered")
			}
		})
	}
}

func TestAnAnswerReadWhileACommitWasUnderWayIsNotRememberedAfterIt(t *testing.T) {
	id, user := cacheID(1), cacheID(9)
	for _, what := range []staleLogins{{keys: []uuid.UUID{id}}, {users: []uuid.UUID{user}}, {groups: []string{groupOf(user)}}} {
		c := newCache(10)
		c.hold(what)
		mark := c.mark(id)
		c.release(what)
		c.put(newEntry(id, user), mark)
		if c.get(cacheToken(id)) != nil {
			t.Errorf("it was remembered, for all the drops of %v", what)
		}
	}
}

func TestACommitKeepsNoOtherKeyOutOfTheCache(t *testing.T) {
	c := newCache(1000)
	held := cacheID(1)
	one, two := staleLogins{keys: []uuid.UUID{held}}, staleLogins{keys: []uuid.UUID{held, cacheID(2)}}
	c.hold(one)
	c.hold(two)
	c.release(two)
	for n := range uint64(1000) { // some have the same last byte
		id := cacheID(n)
		if remember(c, id); (c.get(cacheToken(id)) == nil) != (id == held) {
			t.Errorf("key %d is remembered: %t", n, id == held)
		}
	}
	c.release(one)
	if remember(c, held); c.get(cacheToken(held)) == nil {
		t.Error("the key is not remembered after the commit")
	}
	if len(c.revoked.holds) != 0 {
		t.Errorf("%d keys are held by nobody", len(c.revoked.holds))
	}
}

func TestADropOfAUserOrAGroupForgetsAllItsKeysAndNoOther(t *testing.T) {
	user, other := cacheID(1000), cacheID(1001)
	for name, drop := range map[string]staleLogins{
		"user":                {users: []uuid.UUID{user}},
		"group":               {groups: []string{groupOf(user)}},
		"group, beside a key": {groups: []string{groupOf(user)}, keys: []uuid.UUID{cacheID(3)}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(100)
			owners := []uuid.UUID{user, other, ServerOwner}
			rememberAll := func() {
				for n := range uint64(90) {
					rememberOf(c, cacheID(n), owners[n%3])
				}
			}
			wantUser := func(when string, want bool) {
				t.Helper()
				for n := range uint64(90) {
					id := cacheID(n)
					if got := c.get(cacheToken(id)) != nil; got != (want || owners[n%3] != user) {
						t.Errorf("%s: key %d of %s is remembered: %t", when, n, owners[n%3], got)
					}
				}
				wantConsistent(t, c)
			}
			rememberAll()
			c.hold(drop)
			wantUser("after the hold", false)
			rememberAll()
			wantUser("during it", false)
			c.release(drop)
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
		if id := cacheID(n); (c.get(cacheToken(id)) == nil) != (id == gone) {
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
	var dropped [keys]atomic.Pointer[cacheEntry]
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
				if c.get(cacheToken(id)) != nil {
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
				switch e := c.get(cacheToken(id)); {
				case e == nil:
				case e == before:
					t.Errorf("key %d: the entry that was dropped before is met", n)
				case e.principal.KeyID != id:
					t.Errorf("key %d: the entry of %s is met", n, e.principal.KeyID)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	wantConsistent(t, c)
	if c.size() != 0 {
		t.Errorf("%d entries are left, want 0", c.size())
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
					if e := c.get(cacheToken(id)); e != nil && e.principal.KeyID != id {
						t.Errorf("got the entry of %s, want that of %s", e.principal.KeyID, id)
					}
				case 0, 1, 2:
					remember(c, id)
				case 3:
					c.drop([]uuid.UUID{id})
				case 4:
					if random.IntN(100) == 0 {
						c.clear()
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
		if c.get(cacheToken(id)) == nil {
			t.Error("the key is remembered, and was not found")
			break
		}
	}
	writer.Wait()
}

// bytesIn collects the bytes of everything that can be reached from v, except through atomic
// pointers. It returns a string for each array, slice and string.
func bytesIn(v reflect.Value, seen map[uintptr]bool) (found []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			found = bytesIn(v.Elem(), seen)
		}
	case reflect.Interface:
		if !v.IsNil() {
			found = bytesIn(v.Elem(), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			found = append(found, bytesIn(v.Field(i), seen)...)
		}
	case reflect.String:
		found = []string{v.String()}
	case reflect.Array, reflect.Slice:
		var flat []byte
		for i := range v.Len() {
			if e := v.Index(i); e.Kind() == reflect.Uint8 {
				flat = append(flat, byte(e.Uint()))
			} else {
				found = append(found, bytesIn(e, seen)...)
			}
		}
		found = append(found, string(flat))
	}
	return found
}

func TestAnEntryHoldsNeitherSecretNorTokenNorVerifier(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	wantLogin(t, s, token, key.ID)
	var parsed tokenform.Token
	s.tokens.Parse(token, &parsed)
	v, err := parseVerifier(verifierOf(t, s, key.ID))
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := parsed.Decode()
	kept := [][]byte{secret[:8], []byte(parsed.SecretDigits()[:11]), v.hash[:8], v.salt[:8], []byte("argon2id")}

	leaks := func(entry any) (n int) {
		for _, text := range bytesIn(reflect.ValueOf(entry), make(map[uintptr]bool)) {
			for _, secret := range kept {
				n += strings.Count(text, string(secret))
			}
		}
		return n
	}
	e := s.cache.get(&parsed)
	if e == nil {
		t.Fatal("the key is not in the cache")
	}
	if n := leaks(e); n != 0 {
		t.Errorf("the entry holds what it must not in %d places", n)
	}
	if n := leaks(struct {
		*cacheEntry
		leak error
	}{e, fmt.Errorf("login with %s: %w", token, ErrKeyExpired)}); n == 0 {
		t.Error("a planted token was not found: the test shows nothing")
	}
	if n := leaks(&struct{ leak tokenform.Token }{parsed}); n == 0 {
		t.Error("a planted secret was not found: the test shows nothing")
	}
}

func TestTwoEntriesOfOneSecretHaveDifferentSalts(t *testing.T) {
	secret := cacheToken(uuid.Nil)
	a := newCacheEntry(secret, &answer{})
	b := newCacheEntry(secret, &answer{})
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

// BenchmarkCacheMemory measures the memory of a key in a full cache of the default size: the entry,
// the name of the key, and a share of the table.
func BenchmarkCacheMemory(b *testing.B) {
	const keys = 10_000
	s := open(b, &Options{Cost: LightCost, CacheSize: keys})
	minted, tokens, err := s.MintKeys(b.Context(), keys, nil)
	if err == nil {
		err = s.Update(b.Context(), func(tx *Tx) error {
			for i, m := range minted {
				if _, err := tx.InsertServerKey(KeySpec{Name: fmt.Sprintf("device-%05d", i)}, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // frees the memory that finalizers of the first run have released
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		s.cache = newCache(0)
		before := heap()
		s.cache = newCache(keys)
		for _, token := range tokens {
			if _, err := s.Login(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((float64(heap())-float64(before))/keys, "bytes/key")
	}
	if s.cache.size() != keys {
		b.Fatalf("the cache has %d keys, want %d", s.cache.size(), keys)
	}
}

// drop is the effect of a change of keys on the cache, if nothing happens between its commit and
// its return.
func (c *cache) drop(keys []uuid.UUID) { c.dropAll(staleLogins{keys: keys}) }

func (c *cache) dropAll(s staleLogins) {
	c.hold(s)
	c.release(s)
}
