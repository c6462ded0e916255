package etcd_test

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// quickCost is the lowest cost that a store accepts.
var quickCost = latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}

// prefix is where the stores are in etcd.
const prefix = "torture"

// open opens a store that knows some of the nodes.
func (c *cluster) open(nodes ...int) *latchkey.Store {
	c.t.Helper()
	return c.openWith(func(e latchkey.Engine) latchkey.Engine { return e }, nodes...)
}

// openWith opens a store on an engine that wrap has changed.
func (c *cluster) openWith(wrap func(latchkey.Engine) latchkey.Engine, nodes ...int) *latchkey.Store {
	c.t.Helper()
	client := c.dial(nodes...)
	c.t.Cleanup(func() { _ = client.Close() })
	return openOn(c.t, client, wrap)
}

func openOn(t testing.TB, client *clientv3.Client, wrap func(latchkey.Engine) latchkey.Engine) *latchkey.Store {
	t.Helper()
	s, err := latchkey.OpenWith(wrap(etcd.NewWith(client, prefix, etcd.Options{Timeout: bound})), &latchkey.Options{Cost: quickCost, MaxKeysPerUser: -1})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// openEach opens a store at each node, which knows no other node.
func (c *cluster) openEach() []*latchkey.Store {
	c.t.Helper()
	var stores []*latchkey.Store
	for i := range size {
		stores = append(stores, c.open(i))
	}
	return stores
}

// finish ends a history, and judges it. Then the store must be whole.
func (c *cluster) finish(r *recorder) {
	c.t.Helper()
	c.heal()
	c.startAll()
	fresh := c.open(0, 1, 2)
	r.finish(fresh)
	for finding := range fresh.Check(c.t.Context()) {
		c.t.Errorf("Check: %v", finding)
	}
}
