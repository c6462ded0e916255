package etcd_test

import (
	"context"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// overtaken is an engine that runs a function once between the state that an Update reads and its
// commit.
type overtaken struct {
	latchkey.Engine
	latchkey.EngineBounder
	latchkey.EngineWatcher
	between func()
}

func (o *overtaken) Update(ctx context.Context, fn func(tx latchkey.EngineTx) error) error {
	return o.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		err := fn(tx)
		if between := o.between; between != nil && tx.Sequence() > 0 {
			o.between = nil
			between()
		}
		return err
	})
}

func TestALastUseIsNotWrittenForAKeyThatAnotherProcessDeletes(t *testing.T) {
	ctx := t.Context()
	open := func(wrap func(latchkey.Engine) latchkey.Engine) *latchkey.Store {
		e := etcd.NewWith(client(t, node.address), t.Name(), etcd.Options{})
		s, err := latchkey.OpenWith(wrap(e), &latchkey.Options{Cost: latchkey.LightCost})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	var o *overtaken
	one := open(func(e latchkey.Engine) latchkey.Engine {
		o = &overtaken{e, e.(latchkey.EngineBounder), e.(latchkey.EngineWatcher), nil}
		return o
	})
	other := open(func(e latchkey.Engine) latchkey.Engine { return e })
	key, token, err := one.CreateServerKey(ctx, latchkey.KeySpec{Name: "scanner"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Login(ctx, token); err != nil {
		t.Fatal(err)
	}
	o.between = func() {
		if err := other.DeleteKey(ctx, latchkey.ServerOwner, key.ID); err != nil {
			t.Error(err)
		}
	}
	if err := one.Close(); err != nil { // writes the last use
		t.Fatal(err)
	}
	if o.between != nil {
		t.Error("nothing was written")
	}
	e := engine{etcd.NewWith(client(t, node.address), t.Name(), etcd.Options{}), t}
	defer e.close()
	e.view(func(tx latchkey.EngineTx) error {
		for entry, err := range tx.Scan("lastuse", nil, nil) {
			t.Errorf("the table of last uses has an entry: %x, %v", entry.Key, err)
		}
		return nil
	})
}
