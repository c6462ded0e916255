package etcd_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// The faults that this package makes are faults indeed: a node that is cut off or stopped cannot
// answer a linearizable read, the others go on, and a node that was killed has what was committed.
func TestTheClusterFailsWhereItIsToldTo(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	random := form.NewRandom(form.NewSeed(t), 0)
	all := c.dial(0, 1, 2)
	defer all.Close()
	put := func(value string) {
		t.Helper()
		eventually(t, "a put", func(ctx context.Context) bool {
			_, err := all.Put(ctx, "k", value)
			return err == nil
		})
	}
	reads := func(i int, want string) {
		t.Helper()
		client := c.admin(i)
		defer client.Close()
		eventually(t, "a read of "+want, func(ctx context.Context) bool {
			r, err := client.Get(ctx, "k")
			return err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == want
		})
	}
	refuses := func(i int) {
		t.Helper()
		client := c.admin(i)
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r, err := client.Get(ctx, "k"); err == nil {
			t.Errorf("node %d answers a linearizable read: %v", i, r)
		}
	}
	stale := func(i int, want string) {
		t.Helper()
		client := c.admin(i)
		defer client.Close()
		r, err := client.Get(t.Context(), "k", clientv3.WithSerializable())
		must(t, err)
		if got := string(r.Kvs[0].Value); got != want {
			t.Errorf("node %d has %s, want %s", i, got, want)
		}
	}

	put("1")
	for i := range size {
		reads(i, "1")
	}
	for _, state := range []wireState{wireCut, wireMute} {
		minority := c.leader()
		c.isolate(minority, state)
		c.awaitOther(minority)
		put("2")
		refuses(minority)
		stale(minority, "1")
		c.heal()
		reads(minority, "2")
		put("1")
		reads(minority, "1")
	}
	stopped := c.follower(random)
	c.stop(stopped)
	put("3")
	refuses(stopped)
	c.goOn(stopped)
	reads(stopped, "3")

	killed := c.leader()
	c.kill(killed)
	c.awaitOther(killed)
	put("4")
	c.startAll()
	reads(killed, "4")

	for i := range size {
		c.kill(i)
	}
	c.startAll()
	for i := range size {
		reads(i, "4")
	}
}
