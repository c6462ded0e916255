package etcd

import (
	"context"

	"github.com/latchkeydb/latchkey"
)

// Waiting returns how many transactions wait for the group that is under way.
func Waiting(e latchkey.Engine) int {
	q := &e.(*engine).queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// Sending reports whether a group is under way.
func Sending(e latchkey.Engine) bool {
	q := &e.(*engine).queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sending
}

var CheckVersion = checkVersion

// Proof returns the revision of the commit that the last probe of an engine has read.
func Proof(e latchkey.Engine) int64 {
	f := e.(*engine).feed
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proof.revision
}

// Probe makes an engine ask etcd now how far it is.
func Probe(ctx context.Context, e latchkey.Engine) { e.(*engine).feed.probeOnce(ctx) }
