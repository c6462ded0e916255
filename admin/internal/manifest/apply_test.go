package manifest

import (
	"context"
	"errors"
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
	s := openBounded(t, 12)
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
		m, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		changes, err := m.Apply(t.Context(), s, Options{Prune: true})
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

func TestKeysSwapTheirNames(t *testing.T) {
	for _, most := range []int{1 << 20, 12} {
		s := openBounded(t, most)
		var mints []latchkey.MintedKey
		for range 3 {
			minted, _, err := s.MintKey(t.Context())
			must(t, err)
			mints = append(mints, minted)
		}
		write := func(names ...string) *Manifest {
			text := fmt.Sprintf("domain: %s\nserver_keys:\n", s.DomainID())
			for i, name := range names {
				text += fmt.Sprintf("- {name: %s, minted: '%s'}\n", name, mints[i].Export())
			}
			m, err := Parse([]byte(text))
			must(t, err)
			return m
		}
		_, err := write("a", "b", "c").Apply(t.Context(), s, Options{})
		must(t, err)
		_, _, err = s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "by hand"})
		must(t, err)
		changes, err := write("b", "c", "a").Apply(t.Context(), s, Options{})
		must(t, err)
		var told []string
		for _, c := range changes {
			told = append(told, fmt.Sprint(c.Fields))
		}
		if want := "[[{name a b}] [{name b c}] [{name c a}]]"; fmt.Sprint(told) != want {
			t.Errorf("apply told %v, want %s", told, want)
		}
		for i, want := range []string{"b", "c", "a"} {
			k, err := s.KeyByID(t.Context(), mints[i].ID())
			if must(t, err); k.Name != want {
				t.Errorf("key %d is called %s, want %s", i, k.Name, want)
			}
		}
		// A name that a key of no entry has is taken.
		if _, err := write("b", "by hand").Apply(t.Context(), s, Options{}); !errors.Is(err, latchkey.ErrKeyNameTaken) {
			t.Errorf("got %v", err)
		}
		if again, err := write("b", "c", "a").Apply(t.Context(), s, Options{}); err != nil || len(again) > 0 {
			t.Errorf("the second application made %v, %v", again, err)
		}
	}
}

func TestADryRunThatTakesSeveralTransactionsSaysSo(t *testing.T) {
	s := openBounded(t, 12)
	text := fmt.Sprintf("domain: %s\nusers:\n", s.DomainID())
	for i := range 10 {
		text += fmt.Sprintf("- identity: ada%d\n", i)
	}
	m, err := Parse([]byte(text))
	must(t, err)
	if changes, err := m.Apply(t.Context(), s, Options{DryRun: true}); !errors.Is(err, latchkey.ErrTransactionTooLarge) || len(changes) > 0 {
		t.Errorf("got %v, %v", changes, err)
	}
}

// openBounded opens a store on an engine that takes only so many writes in a transaction.
func openBounded(t testing.TB, most int) *latchkey.Store {
	t.Helper()
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	s, err := latchkey.OpenWith(bounded{e, most}, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// cancelling is an engine that cancels a context when something is written, and counts the writes.
type cancelling struct {
	latchkey.Engine
	cancel func()
	writes int
}

func (c *cancelling) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return c.Engine.Update(ctx, func(tx latchkey.EngineTx) error { return fn(cancellingTx{tx, c}) })
}

type cancellingTx struct {
	latchkey.EngineTx
	c *cancelling
}

func (tx cancellingTx) Put(table string, key, value []byte) error {
	tx.c.writes++
	tx.c.cancel()
	return tx.EngineTx.Put(table, key, value)
}

func TestAnApplicationEndsWithItsContext(t *testing.T) {
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	c := &cancelling{Engine: e, cancel: func() {}}
	s, err := latchkey.OpenWith(c, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	defer s.Close()
	text := fmt.Sprintf("domain: %s\nusers:\n", s.DomainID())
	for i := range 100 {
		text += fmt.Sprintf("- identity: ada%d\n", i)
	}
	m, err := Parse([]byte(text))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel, c.writes = cancel, 0
	changes, err := m.Apply(ctx, s, Options{})
	if !errors.Is(err, context.Canceled) || len(changes) > 0 || c.writes > 20 {
		t.Errorf("got %v and %v after %d writes", changes, err, c.writes)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("domain: 11111111-1111-4111-8111-111111111111\nusers:\n  - identity: ada@example.com\n    group: a\n    metadata: {a: b}\n    disabled: yes\n    keys: []\n")
	f.Add("domain: &a 11111111-1111-4111-8111-111111111111\nserver_keys: [{name: *a, expires: 2001-01-01, networks: [10.0.0.0/8]}]\n")
	f.Add("users: {a: 'b")
	f.Add("users: &u [{keys: *u}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := Parse([]byte(text)); err != nil && !strings.Contains(err.Error(), "line") {
			t.Errorf("the error %q names no line", err)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
