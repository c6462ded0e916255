package main

import (
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/memory"
)

func TestTheNameOfAMachineIsMadeFitForAChain(t *testing.T) {
	for host, want := range map[string]audit.Chain{
		"shop-1": "shop-1", "Shop_1.Example.com": "shop-1.example.com", "büro": "b-ro", "--x": "x", "": "host", "東京": "host", strings.Repeat("x", 70): audit.Chain(strings.Repeat("x", 64)),
	} {
		got := fitChain(host)
		if _, err := audit.ParseChain(string(got)); err != nil || got != want {
			t.Errorf("fitChain(%q): got %q, %v; want %q", host, got, err, want)
		}
	}
}

func TestChangesGoIntoAChainOfTheMachineOnEtcdAlone(t *testing.T) {
	c := &cli{}
	if got := c.chainFor("keys.db"); got != "" {
		t.Errorf("in a file: got %q, want the default chain", got)
	}
	if got := c.chainFor("etcd://10.0.0.1/latchkey"); got == "" {
		t.Error("on etcd: got the default chain")
	}
	for _, name := range []string{"", "shop-1"} {
		if err := c.chain.Set(name); err != nil {
			t.Fatal(err)
		}
		if got := c.chainFor("etcd://10.0.0.1/latchkey"); string(got) != name {
			t.Errorf("got %q, want %q", got, name)
		}
	}
}

func TestADamagedListOfChainsDoesNotKeepAKeyGood(t *testing.T) {
	opts := latchkey.Options{Cost: latchkey.LightCost}
	keepTrail(&opts, "shop-1")
	s, err := memory.Open(&opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "job"})
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		err := s.View(t.Context(), func(tx *latchkey.Tx) error {
			for _, err := range audit.Chain("shop-1").Entries(tx, 0) {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Fatalf("a store without a trail has %d entries", n)
	}
	err = s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.AppTable(audit.TableName).Put([]byte("cWrong"), nil) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DisableKey(t.Context(), latchkey.ServerOwner, key.ID); err != nil {
		t.Error(err)
	}
	if n := count(); n != 1 {
		t.Errorf("there are %d entries, want 1", n)
	}
}
