package etcd

import "github.com/latchkeydb/latchkey"

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
