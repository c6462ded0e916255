package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// bounded is an engine that takes only so many writes in a transaction.
type bounded struct {
	latchkey.Engine
	most int
}

func (b bounded) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return b.Engine.Update(ctx, func(tx latchkey.EngineTx) error { return fn(&boundedTx{tx, b.most}) })
}

type boundedTx struct {
	latchkey.EngineTx
	left int
}

func (tx *boundedTx) Put(table string, key, value []byte) error {
	if tx.left--; tx.left < 0 {
		return latchkey.ErrTransactionTooLarge
	}
	return tx.EngineTx.Put(table, key, value)
}

func TestApplyGoesInStepsOnAnEngineThatBoundsTransactions(t *testing.T) {
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := latchkey.OpenWith(bounded{e, 12}, &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text := fmt.Sprintf("domain: %s\nusers:\n", s.DomainID())
	for i := range 10 {
		minted, _, err := s.MintKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - identity: ada%d\n    keys:\n      - name: laptop\n        minted: %s\n", i, minted.Export())
	}
	apply := func(text string) int {
		t.Helper()
		m, err := parseManifest([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a := &applying{cli: &cli{}, prune: true, manifest: m}
		steps, err := a.steps(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		changes, err := a.apply(t.Context(), s, steps)
		if err != nil {
			t.Fatal(err)
		}
		return len(changes)
	}
	head, _, _ := strings.Cut(text, "users:")
	for _, step := range []struct {
		text string
		want int
	}{{text, 20}, {text, 0}, {head, 20}, {head, 0}} {
		if n := apply(step.text); n != step.want {
			t.Errorf("apply made %d changes, want %d", n, step.want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add("domain: 11111111-1111-4111-8111-111111111111\nusers:\n  - identity: ada@example.com\n    group: a\n    metadata: {a: b}\n    disabled: yes\n    keys: []\n")
	f.Add("domain: &a 11111111-1111-4111-8111-111111111111\nserver_keys: [{name: *a, expires: 2001-01-01, networks: [10.0.0.0/8]}]\n")
	f.Add("users: {a: 'b")
	f.Add("users: &u [{keys: *u}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseManifest([]byte(text)); err != nil && !strings.Contains(err.Error(), "line") {
			t.Errorf("the error %q names no line", err)
		}
	})
}
