package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
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

// Processes with an audit trail write one chain, because each entry is in the transaction of its
// change, and follows the entry that the transaction has read.
func TestProcessesWriteOneAuditTrail(t *testing.T) {
	ctx := t.Context()
	var stores []*latchkey.Store
	for range 2 {
		trail := audit.New(nil)
		s, err := latchkey.OpenWith(etcd.NewWith(client(t, node.address), t.Name(), etcd.Options{}), &latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		stores = append(stores, s)
	}
	const each = 8
	var done sync.WaitGroup
	for i, s := range stores {
		for j := range each {
			done.Go(func() {
				actor := latchkey.WithActor(ctx, fmt.Sprint(i))
				if _, _, err := s.CreateServerKey(actor, latchkey.KeySpec{Name: fmt.Sprint(i, " ", j)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	done.Wait()
	for i, s := range stores {
		err := s.View(ctx, func(tx *latchkey.Tx) error {
			by := map[string]int{}
			for e, err := range audit.Entries(tx, 0) {
				if err != nil {
					return err
				}
				by[e.Change.Actor]++
			}
			if by["0"] != each || by["1"] != each {
				t.Errorf("process %d finds %v entries, want %d of each process", i, by, each)
			}
			return audit.Verify(tx)
		})
		if err != nil {
			t.Error(err)
		}
	}
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

// A transaction that only deletes cannot depend on everything, because the first one has removed
// the commit key. So it must not read too much.
func TestAtAFullQuotaAUserWithManyKeysIsDeleted(t *testing.T) {
	ctx := t.Context()
	_, l := own(t, func(c *embed.Config) { c.QuotaBackendBytes = 16 << 20 })
	s, err := latchkey.OpenWith(etcd.New(client(t, l.address), t.Name()), &latchkey.Options{Cost: latchkey.LightCost, MaxKeysPerUser: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	user, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	var tokens []string
	for i := range 300 {
		_, token, err := s.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	filler := client(t, l.address)
	for n := 0; ; n++ {
		_, err := filler.Put(ctx, fmt.Sprint("filler/", n), strings.Repeat("x", 1<<20))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteUser(ctx, user.ID); err != nil {
		t.Errorf("DeleteUser: %v", err)
	}
	for i, token := range tokens {
		if _, err := s.Login(ctx, token); !errors.Is(err, latchkey.ErrInvalidToken) {
			t.Fatalf("a login with key %d: %v, want ErrInvalidToken", i, err)
		}
	}
}

// Processes that write chains of their own do not run a change again because of the trail.
func TestAChangeDoesNotWaitForTheAuditChainOfAnotherProcess(t *testing.T) {
	for _, tt := range []struct {
		chains [2]audit.Chain
		runs   int
	}{{[2]audit.Chain{"", ""}, 2}, {[2]audit.Chain{"a", "b"}, 1}} {
		t.Run(fmt.Sprintf("%q", tt.chains), func(t *testing.T) {
			ctx := t.Context()
			var stores [2]*latchkey.Store
			var engines [2]*overtaken
			for i, chain := range tt.chains {
				e := etcd.NewWith(client(t, node.address), t.Name(), etcd.Options{})
				engines[i] = &overtaken{e, e.(latchkey.EngineBounder), e.(latchkey.EngineWatcher), nil}
				s, err := latchkey.OpenWith(engines[i], &latchkey.Options{Cost: latchkey.LightCost, OnChange: audit.New(&audit.Options{Chain: chain}).Record})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				stores[i] = s
			}
			disable := make([]func(tx *latchkey.Tx) error, 2)
			for i, s := range stores {
				key, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: fmt.Sprint(i)})
				if err != nil {
					t.Fatal(err)
				}
				disable[i] = func(tx *latchkey.Tx) error { return tx.DisableKey(latchkey.ServerOwner, key.ID) }
			}
			engines[0].between = func() {
				if err := stores[1].Update(ctx, disable[1]); err != nil {
					t.Error(err)
				}
			}
			runs := 0
			if err := stores[0].Update(ctx, func(tx *latchkey.Tx) error { runs++; return disable[0](tx) }); err != nil {
				t.Fatal(err)
			}
			if runs != tt.runs {
				t.Errorf("the change ran %d times, want %d", runs, tt.runs)
			}
			err := stores[1].View(ctx, func(tx *latchkey.Tx) error {
				n := 0
				for _, err := range audit.All(tx, nil) {
					if err != nil {
						return err
					}
					n++
				}
				if n != 4 {
					t.Errorf("the chains have %d entries, want 4", n)
				}
				return audit.VerifyAll(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
