package appservices

import (
	"context"
	"net/netip"
	"runtime"
	"sync"

	"github.com/latchkeydb/latchkey/internal/address"
)

// lines bounds how many hashes of a kind one address has in the store's queues, so that an address
// that sends many requests does not make the others wait. The other requests of the address wait in
// a line of their own, first come, first served.
type lines struct {
	mu  sync.Mutex
	all map[lineKey]*line
}

type lineKey struct {
	kind hashKind
	from netip.Prefix
}

// A hashKind is a purpose of hashes. The store has a queue for each of them, too.
type hashKind string

const (
	hashLogin    hashKind = "login"    // the first login of a key
	hashCheck    hashKind = "check"    // the check of a password
	hashPassword hashKind = "password" // a new password
	hashKey      hashKind = "key"      // a new key
)

type line struct {
	places   chan struct{} // has an element for each hash in the store's queue
	requests int           // in the line, and in the store's queue
}

// maxLine bounds the requests of one address and kind. It is as large as a burst of failed logins,
// so that test suites do not reach it by accident.
const maxLine = 1000

// linePlaces returns how many hashes of a kind one address may have in the store's queue: as many
// as can run, so that a single address can use the whole machine, but at least four.
func linePlaces() int { return max(4, runtime.GOMAXPROCS(0)) }

// enter waits for a place in the store's queue. If enter returns nil, the caller must call leave.
//
// Errors: errBusy if the line is too long, and ctx's error.
func (l *lines) enter(ctx context.Context, key lineKey) error {
	l.mu.Lock()
	if l.all == nil {
		l.all = make(map[lineKey]*line)
	}
	own := l.all[key]
	if own == nil {
		own = &line{places: make(chan struct{}, linePlaces())}
		l.all[key] = own
	}
	if own.requests >= maxLine {
		l.mu.Unlock()
		return errBusy
	}
	own.requests++
	l.mu.Unlock()

	select {
	case own.places <- struct{}{}: // serves goroutines in the order of their coming
		return nil
	case <-ctx.Done():
		l.drop(key, own)
		return ctx.Err()
	}
}

// leave gives back the place that enter waited for.
func (l *lines) leave(key lineKey) {
	l.mu.Lock()
	own := l.all[key]
	l.mu.Unlock()
	<-own.places
	l.drop(key, own)
}

func (l *lines) drop(key lineKey, own *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own.requests--; own.requests == 0 {
		delete(l.all, key)
	}
}

// inLine runs hash when the address of the request has a place in the store's queue for a kind of
// hash.
func (c *call) inLine(kind hashKind, hash func() error) error {
	key := lineKey{kind, address.Counted(c.h.remote(c.r))}
	if err := c.h.lines.enter(c.ctx(), key); err != nil {
		return err
	}
	defer c.h.lines.leave(key)
	return hash()
}
