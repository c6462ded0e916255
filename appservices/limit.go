package appservices

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/latchkeydb/latchkey"

	"github.com/latchkeydb/latchkey/internal/address"
)

// limits bounds how often something happens for each key, such as an address. It remembers the keys
// that were used last, in two generations. When the younger generation is full, the older one is
// forgotten.
type limits[K comparable] struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu           sync.Mutex
	young, older map[K]*rate.Limiter
}

// maxLimiters bounds each of the two generations, which take about 2 MiB together.
const maxLimiters = 8192

// take counts one event of a key. If the event exceeds the limit, take returns how long it takes
// until another event is allowed, and otherwise 0.
func (l *limits[K]) take(key K) (wait time.Duration) {
	if l.limit == rate.Inf {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.findLocked(key)
	if limiter == nil {
		limiter = rate.NewLimiter(l.limit, l.burst)
		l.rememberLocked(key, limiter)
	}
	if limiter.AllowN(l.now(), 1) {
		return 0
	}
	return l.waitLocked(key)
}

// waitLocked returns how long it takes until an event of a key is allowed.
func (l *limits[K]) waitLocked(key K) time.Duration {
	missing := (1 - l.leftLocked(key)) / float64(l.limit)
	return time.Duration(min(max(missing, 0), maxWait) * float64(time.Second))
}

// maxWait is the longest wait in seconds, so that it fits into a [time.Duration].
const maxWait = 24 * 60 * 60

// leftLocked returns how many events of a key are allowed now.
func (l *limits[K]) leftLocked(key K) float64 {
	if l.limit == rate.Inf {
		return math.Inf(1)
	}
	if limiter := l.findLocked(key); limiter != nil {
		return limiter.TokensAt(l.now())
	}
	return float64(l.burst)
}

// findLocked returns the limiter of a key, or nil. It moves the limiter to the younger generation.
func (l *limits[K]) findLocked(key K) *rate.Limiter {
	if limiter := l.young[key]; limiter != nil {
		return limiter
	}
	limiter := l.older[key]
	if limiter != nil {
		l.rememberLocked(key, limiter)
	}
	return limiter
}

func (l *limits[K]) rememberLocked(key K, limiter *rate.Limiter) {
	if l.young == nil || len(l.young) >= maxLimiters {
		l.young, l.older = make(map[K]*rate.Limiter), l.young
	}
	l.young[key] = limiter
}

// A writeKey is something that strangers can make the store write, and the address that it comes
// from.
type writeKey struct {
	what string
	from netip.Prefix
}

// countWrite counts something that a stranger makes the store write.
//
// Errors: errTooManyWrites.
func (c *call) countWrite(what string) error {
	if wait := c.h.writes.take(writeKey{what, address.Counted(c.h.remote(c.r))}); wait > 0 {
		return errTooManyWrites(what, wait)
	}
	return nil
}

// countMail counts a mail to an address.
//
// Errors: errTooManyMails.
func (c *call) countMail(email string) error {
	if wait := c.h.mails.take(sha256.Sum256([]byte(c.app.wireID + email))); wait > 0 {
		return errTooManyMails(wait)
	}
	return nil
}

// hourly returns limits of n events in an hour, or no limits if n is negative.
func hourly[K comparable](n int, now func() time.Time) limits[K] {
	if n < 0 {
		return limits[K]{limit: rate.Inf, now: now}
	}
	return limits[K]{limit: rate.Limit(float64(n) / time.Hour.Seconds()), burst: n, now: now}
}

// failures bounds how many logins by one provider may fail from one address. Each provider counts
// for itself: a client that keeps sending a custom token that has expired must not keep out the
// passwords of its office.
type failures struct {
	limits[failureKey]
	underWay map[failureKey]int // logins in progress
}

type failureKey struct {
	provider latchkey.Provider
	from     netip.Prefix
}

// countFailures reports whether failed logins by a provider count. Keys do not, because nobody can
// guess a key. Nor do anonymous logins, which cannot fail.
func countFailures(p latchkey.Provider) bool {
	return p != latchkey.ProviderAPIKey && p != latchkey.ProviderAnonymous
}

// begin begins a login. A login in progress counts as failed, so that no more logins run at once
// than may fail. If begin returns 0, the caller must call end. Otherwise the login may not begin,
// and begin returns how long to wait.
func (f *failures) begin(key failureKey) (wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leftLocked(key) < float64(f.underWay[key]+1) {
		return max(f.waitLocked(key), time.Second) // at least until one in progress has succeeded
	}
	if f.underWay == nil {
		f.underWay = make(map[failureKey]int)
	}
	f.underWay[key]++
	return 0
}

// end ends a login for which begin returned 0. If the login failed, the caller must call take
// before end.
func (f *failures) end(key failureKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.underWay[key]--; f.underWay[key] == 0 {
		delete(f.underWay, key)
	}
}
