package latchkey

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// boundedEngine is an engine that bounds its transactions.
type boundedEngine struct {
	Engine
	fails error // of each transaction that writes, if it is not nil
	after int   // how many transactions succeed before that
}

func (e *boundedEngine) MaxWrites() int { return 100 }

func (e *boundedEngine) Update(ctx context.Context, fn func(EngineTx) error) error {
	if e.after--; e.fails != nil && e.after < 0 {
		return e.fails
	}
	return e.Engine.Update(ctx, func(etx EngineTx) error { return fn(&boundedTx{etx, e.MaxWrites()}) })
}

type boundedTx struct {
	EngineTx
	left int
}

func (tx *boundedTx) write() error {
	if tx.left--; tx.left < 0 {
		return ErrTransactionTooLarge
	}
	return nil
}

func (tx *boundedTx) Put(table string, key, value []byte) error {
	if err := tx.write(); err != nil {
		return err
	}
	return tx.EngineTx.Put(table, key, value)
}

func (tx *boundedTx) Delete(table string, key []byte) error {
	if err := tx.write(); err != nil {
		return err
	}
	return tx.EngineTx.Delete(table, key)
}

// openBounded opens a store on a boundedEngine. It has keys that were hashed at oldCost, more than
// one transaction can write.
func openBounded(t *testing.T, opts *Options) (s *Store, e *boundedEngine, keys []Key, tokens []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	s, err := TryOpen(t, path, &Options{Cost: oldCost})
	must(t, err)
	for range 150 {
		key, token := addServerKey(t, s, "key "+time.Duration(len(keys)).String())
		keys, tokens = append(keys, key), append(tokens, token)
	}
	must(t, s.Close())
	e = &boundedEngine{Engine: EngineAt(t, path, nil)}
	s, err = OpenWith(e, opts)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, e, keys, tokens
}

func TestHashesThatWaitDoNotMakeAChangeTooLarge(t *testing.T) {
	s, _, keys, tokens := openBounded(t, &Options{Cost: LightCost})
	for i, key := range keys {
		loginAndRehash(t, s, tokens[i], key.ID)
	}
	must(t, s.DisableKey(t.Context(), ServerOwner, keys[0].ID))
	must(t, s.DisableKey(t.Context(), ServerOwner, keys[1].ID))
	for _, key := range keys {
		wantCost(t, s, key.ID, LightCost)
	}
}

func TestEndsThatWaitDoNotMakeAChangeTooLarge(t *testing.T) {
	full := errors.New("no space left on device")
	hook := func(tx *Tx, c Change) error { return tx.AppTable("hook").Put([]byte("last"), []byte(c.Key.String())) }
	s, e, keys, _ := openBounded(t, &Options{Cost: oldCost, OnChange: hook})
	var tokens []string
	for _, key := range keys {
		_, token, err := s.RotateServerKey(t.Context(), key.ID, Rotation{Overlap: time.Hour, UntilUsed: true})
		must(t, err)
		tokens = append(tokens, token)
	}
	e.fails = full
	for i, key := range keys {
		wantLogin(t, s, tokens[i], key.ID)
	}
	e.fails = nil
	for i := 0; s.Health(t.Context()) != nil; i++ {
		must(t, s.DisableKey(t.Context(), ServerOwner, keys[i].ID))
	}
	for _, key := range keys {
		if k, err := s.KeyByID(t.Context(), key.ID); err != nil || len(k.Tokens) != 1 {
			t.Fatalf("got %+v, %v", k, err)
		}
	}
}

func TestAUserOfABoundedEngineIsDeletedInSteps(t *testing.T) {
	s, e, _, _ := openBounded(t, &Options{Cost: LightCost, MaxKeysPerUser: -1})
	user := addUser(t, s, "ada")
	var tokens []string
	for i := range 60 {
		_, token := addKey(t, s, user.ID, time.Duration(i).String())
		tokens = append(tokens, token)
	}
	e.fails, e.after = errors.New("cut off"), 2 // one in vain, and one step
	if err := s.DeleteUser(t.Context(), user.ID); !errors.Is(err, e.fails) {
		t.Fatalf("got %v, want %v", err, e.fails)
	}
	n, err := read(t.Context(), s, func(tx *Tx) (int, error) { return tx.keyCounts.All(user.ID, tx.keysOf(user.ID)) })
	if must(t, err); n == 0 || n == 60 {
		t.Fatalf("%d keys are left after the first step", n)
	}
	for _, token := range tokens {
		wantRefused(t, s, token, ErrInvalidToken)
	}
	e.fails = nil
	if again := addUser(t, s, "ada"); again.ID == user.ID {
		t.Error("the next user with the identity has the same ID")
	}
	must(t, s.DeleteUser(t.Context(), user.ID))
	n, err = read(t.Context(), s, func(tx *Tx) (int, error) { return tx.keyCounts.All(user.ID, tx.keysOf(user.ID)) })
	if must(t, err); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
	if err := s.DeleteUser(t.Context(), user.ID); !errors.Is(err, ErrUserNotFound) {
		t.Errorf("a second deletion: got %v, want ErrUserNotFound", err)
	}
}
