package etcd

import (
	"context"
	"testing"
)

// Events between a commit and the question about it can be lost when the feed begins again.
func TestAFeedThatBeganAgainDoesNotKnowOfACommitBefore(t *testing.T) {
	e := New(nil, "prefix").(*engine)
	f, random := e.feed, [8]byte{1}
	f.expect(random)
	f.restarts++
	f.position = 100
	if at, _, err := f.seen(context.Background(), random, 50); err == nil {
		t.Errorf("the commit is said to be at revision %d, although it can be one of those that were lost", at)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
