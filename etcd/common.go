package etcd

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// common knows which keys most transactions read, so that a transaction gets the values of these
// keys together with the first one that it asks for.
type common struct {
	mu     sync.Mutex
	read   map[string]int // how many transactions have read a key
	of     int            // the number of transactions in read
	likely []string       // the keys for the next transactions
}

// The keys are chosen anew after so many transactions. A key is common if a quarter of them has
// read it, and its value is short. There are at most so many common keys.
const (
	commonAfter = 32
	mostCommon  = 8
	longest     = 4096
)

// keys returns the keys that most transactions read.
func (c *common) keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.likely
}

// note counts what a transaction has read.
func (c *common) note(reads map[string]seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read == nil {
		c.read = make(map[string]int)
	}
	for key, s := range reads {
		if len(s.value) <= longest {
			c.read[key]++
		}
	}
	if c.of++; c.of < commonAfter {
		return
	}
	keys := slices.SortedFunc(maps.Keys(c.read), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.read[b], c.read[a]), cmp.Compare(a, b))
	})
	keys = slices.DeleteFunc(keys, func(key string) bool { return c.read[key] < commonAfter/4 })
	c.likely = slices.Clip(keys[:min(len(keys), mostCommon)])
	c.read, c.of = nil, 0
}
