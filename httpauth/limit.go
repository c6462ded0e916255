package httpauth

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A Limit bounds the requests of one key or address. Without PerSecond there is no limit.
type Limit struct {
	PerSecond float64 // the average
	Burst     int     // how many can come at once; the default is PerSecond, rounded up
}

// maxLimited is how many keys or addresses each of two generations remembers. A limiter takes some
// 200 bytes with its place in the map.
const maxLimited = 8192

// limits has the limiters of the keys or addresses that were seen last, in two generations. When
// the younger generation is full, the older one is forgotten. A nil limits has no limit.
type limits[K comparable] struct {
	limit Limit

	mu           sync.Mutex
	young, older map[K]*rate.Limiter
}

func newLimits[K comparable](l Limit) *limits[K] {
	if !(l.PerSecond > 0) { // also not a number
		return nil
	}
	if l.Burst < 1 {
		l.Burst = int(math.Ceil(min(l.PerSecond, math.MaxInt32)))
	}
	return &limits[K]{limit: l}
}

// take counts a request, and returns 0. If the request is one too many, take does not count it, and
// returns how long the caller must wait.
func (l *limits[K]) take(key K, now func() time.Time) (wait time.Duration) {
	if l == nil {
		return 0
	}
	at := now()
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.findLocked(key)
	if limiter.AllowN(at, 1) {
		return 0
	}
	missing := max(1-limiter.TokensAt(at), 0) / l.limit.PerSecond
	return max(time.Duration(min(missing, maxWait)*float64(time.Second)), 1)
}

// maxWait is the longest wait in seconds, so that it fits into a [time.Duration].
const maxWait = 24 * 60 * 60

// findLocked returns the limiter of a key, which it moves to the younger generation.
func (l *limits[K]) findLocked(key K) *rate.Limiter {
	if found := l.young[key]; found != nil {
		return found
	}
	found := l.older[key]
	if found == nil {
		found = rate.NewLimiter(rate.Limit(l.limit.PerSecond), l.limit.Burst)
	}
	if l.young == nil || len(l.young) >= maxLimited {
		l.young, l.older = make(map[K]*rate.Limiter), l.young
	}
	l.young[key] = found
	return found
}
