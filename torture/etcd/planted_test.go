package etcd_test

import (
	"context"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// The judge must be able to fail: it finds an engine that says nothing of the changes of other
// processes, and one that does not compare what it has read.
func TestTheJudgeFindsAnEngineWithAFault(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	c := newCluster(t, clusterOptions{})
	c.open(0, 1, 2) // makes the store
	for _, tt := range []struct {
		name   string
		silent bool // the fault shows only when the bound is over
		wrap   func(latchkey.Engine) latchkey.Engine
	}{
		{"it hears nothing", true, func(e latchkey.Engine) latchkey.Engine { return deaf{e} }},
		{"it does not compare", false, func(e latchkey.Engine) latchkey.Engine {
			return careless{e, e.(latchkey.EngineWatcher)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for round := range uint64(40) {
				var stores []*latchkey.Store
				for i := range size {
					stores = append(stores, c.openWith(tt.wrap, i))
				}
				r := newRecorder(t, stores...)
				found := 0
				r.report, r.dir = func(string, ...any) { found++ }, t.TempDir()
				r.start(seed+round, 6)
				r.await(0, 1, 2)
				r.await(0, 1, 2)
				if tt.silent {
					r.finish(c.open(0, 1, 2))
				} else {
					r.stop()
					r.readAndJudge(c.open(0, 1, 2))
				}
				if found > 0 {
					t.Logf("%d findings in round %d", found, round)
					return
				}
			}
			t.Error("40 histories were all found right")
		})
	}
}

// deaf is an engine that hears nothing of other processes, and calls itself fresh.
type deaf struct{ latchkey.Engine }

func (deaf) Watch(func([]latchkey.TrackedChange)) {}
func (deaf) Fresh() bool                          { return true }

// careless is an engine whose updates get keys from an older state, which they do not compare when
// they commit.
type careless struct {
	latchkey.Engine
	latchkey.EngineWatcher
}

func (e careless) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.View(ctx, func(old latchkey.EngineTx) error {
		return e.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
			return fn(carelessTx{tx, old, map[string]bool{}})
		})
	})
}

type carelessTx struct {
	latchkey.EngineTx
	old latchkey.EngineTx
	own map[string]bool // what the transaction has written
}

func (tx carelessTx) Get(table string, key []byte) ([]byte, error) {
	if tx.own[table+string(key)] {
		return tx.EngineTx.Get(table, key)
	}
	return tx.old.Get(table, key)
}

func (tx carelessTx) Put(table string, key, value []byte) error {
	tx.own[table+string(key)] = true
	return tx.EngineTx.Put(table, key, value)
}

func (tx carelessTx) Delete(table string, key []byte) error {
	tx.own[table+string(key)] = true
	return tx.EngineTx.Delete(table, key)
}
