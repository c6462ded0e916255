package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/largest"
)

// openTrail opens the store in a file, with a trail.
func openTrail(t testing.TB, path string) (*latchkey.Store, *audit.Trail) {
	t.Helper()
	trail := audit.New(nil)
	s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, trail
}

// openEngine opens a store with a trail, and returns its engine, too.
func openEngine(t testing.TB) (*latchkey.Store, latchkey.Engine, *audit.Trail) {
	t.Helper()
	trail := audit.New(nil)
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	s, err := latchkey.OpenWith(e, &latchkey.Options{Cost: latchkey.LightCost, OnChange: trail.Record})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, e, trail
}

func addKey(t testing.TB, s *latchkey.Store, name string) latchkey.Key {
	t.Helper()
	key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name})
	must(t, err)
	return key
}

// damage spoils the checksum of a record of the trail.
func damage(t testing.TB, e latchkey.Engine, key []byte) {
	t.Helper()
	k := append([]byte(audit.TableName+"\x00"), key...)
	must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error {
		v, err := tx.Get("data", k)
		if v == nil {
			t.Fatalf("there is no record %q", k)
		}
		must(t, err)
		v[len(v)-1]++
		return tx.Put("data", k, v)
	}))
}

func TestWritersAtOnceKeepTheChain(t *testing.T) {
	s, _ := openTrail(t, filepath.Join(t.TempDir(), "keys.db"))
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			ctx := latchkey.WithActor(context.Background(), fmt.Sprint("writer", w))
			for n := range each {
				i := latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: fmt.Sprint(w, "-", n)}
				if _, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, verify(t, s))
	byActor := map[string]int{}
	for _, e := range entries(t, s, 0) {
		byActor[e.Change.Actor]++
	}
	for w := range writers {
		if n := byActor[fmt.Sprint("writer", w)]; n != each {
			t.Errorf("writer %d has %d entries, want %d", w, n, each)
		}
	}
}

func TestTheLargestChangeThatThereCanBeIsRecorded(t *testing.T) {
	s, _ := openTrail(t, filepath.Join(t.TempDir(), "keys.db"))
	ctx := latchkey.WithActor(t.Context(), largest.Actor())
	key, _, err := s.CreateServerKey(ctx, largest.KeySpec())
	must(t, err)
	must(t, s.DisableKey(ctx, key.Owner, key.ID))
	if n := len(entries(t, s, 0)); n != 2 {
		t.Errorf("there are %d entries, want 2", n)
	}
}

func TestABrokenTrailLetsAKeyBeDisabledAndNoneBeMade(t *testing.T) {
	s, e, trail := openEngine(t)
	key, other := addKey(t, s, "billing"), addKey(t, s, "backup")
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "ada"}})
	must(t, err)
	number, err := s.AddTagSecret(t.Context())
	must(t, err)
	must(t, s.UseTagSecret(t.Context(), number))
	must(t, trail.Health())
	damage(t, e, []byte{'h'})

	must(t, s.RetireTagSecret(t.Context(), 0))
	must(t, s.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, other.ID))
	must(t, s.DeleteUser(t.Context(), user.ID))
	if err := trail.Health(); !errors.Is(err, audit.ErrBroken) || !errors.Is(err, latchkey.ErrCorrupt) || !strings.HasSuffix(err.Error(), "without an entry: 4") {
		t.Errorf("Health: got %v, want 4 changes without an entry", err)
	}
	if err := verify(t, s); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Verify: got %v, want ErrBroken", err)
	}
	if err := s.EnableKey(t.Context(), latchkey.ServerOwner, key.ID); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("EnableKey: got %v, want ErrBroken", err)
	}
	if _, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "new"}); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("CreateServerKey: got %v, want ErrBroken", err)
	}
	// One change that is refused undoes the transaction.
	err = s.Update(t.Context(), func(tx *latchkey.Tx) error {
		must(t, tx.RenameKey(latchkey.ServerOwner, key.ID, "old"))
		return tx.DeleteKey(latchkey.ServerOwner, key.ID)
	})
	if !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Update: got %v, want ErrBroken", err)
	}
	if k, err := s.Key(t.Context(), latchkey.ServerOwner, key.ID); err != nil || !k.Disabled || k.Name != "billing" {
		t.Errorf("the key is %+v, %v", k, err)
	}

	update(t, s, func(tx *latchkey.Tx) error { return audit.Begin(tx, "ada") })
	must(t, s.EnableKey(t.Context(), latchkey.ServerOwner, key.ID))
	must(t, trail.Health())
	must(t, verify(t, s))
}

func TestATrailBegunAnewGoesOnWithLaterNumbers(t *testing.T) {
	for _, tt := range []struct {
		about string
		spoil func(e latchkey.Engine)
	}{
		{"a whole trail", func(latchkey.Engine) {}},
		{"a damaged head", func(e latchkey.Engine) { damage(t, e, []byte{'h'}) }},
		{"a damaged entry", func(e latchkey.Engine) { damage(t, e, []byte("e\x00\x00\x00\x00\x00\x00\x00\x03")) }},
		{"a damaged last entry and a damaged head", func(e latchkey.Engine) {
			damage(t, e, []byte{'h'})
			damage(t, e, []byte("e\x00\x00\x00\x00\x00\x00\x00\x05"))
		}},
		{"damaged entries beside each other", func(e latchkey.Engine) {
			damage(t, e, []byte("e\x00\x00\x00\x00\x00\x00\x00\x01"))
			damage(t, e, []byte("e\x00\x00\x00\x00\x00\x00\x00\x02"))
		}},
	} {
		t.Run(tt.about, func(t *testing.T) {
			s, e, trail := openEngine(t)
			record(t, s, trail, 1, 5)
			known := currentHead(t, s)
			tt.spoil(e)
			update(t, s, func(tx *latchkey.Tx) error { return audit.Begin(tx, "ada") })
			all := entries(t, s, 0)
			if len(all) != 1 || all[0].Number <= 5 || all[0].Change.Actor != "ada" || all[0].Change.Time.After(s.Now()) || fmt.Sprint(all[0].Change.Actions) != "[audit.begun]" {
				t.Errorf("the trail has %+v", all)
			}
			record(t, s, trail, 1, 1)
			must(t, verify(t, s))
			if err := verify(t, s, known); !errors.Is(err, audit.ErrPruned) {
				t.Errorf("a head from before: got %v, want ErrPruned", err)
			}
		})
	}
}

func TestATrailCanBeginBeforeTheFirstChange(t *testing.T) {
	s, _, trail := openEngine(t)
	update(t, s, func(tx *latchkey.Tx) error { return audit.Begin(tx, "ada") })
	record(t, s, trail, 1, 1)
	if all := entries(t, s, 0); len(all) != 2 || all[0].Number != 1 {
		t.Errorf("the trail has %+v", all)
	}
	must(t, verify(t, s, audit.Head{}))
}

func TestAnEntryWithTheLastNumberDoesNotKeepATrailFromBeginning(t *testing.T) {
	s, _, trail := openEngine(t)
	update(t, s, func(tx *latchkey.Tx) error {
		return tx.AppTable(audit.TableName).Put([]byte("e\xff\xff\xff\xff\xff\xff\xff\xff"), make([]byte, 50))
	})
	update(t, s, func(tx *latchkey.Tx) error { return audit.Begin(tx, "ada") })
	record(t, s, trail, 1, 1)
	must(t, verify(t, s))
	if h := currentHead(t, s); h.Number == math.MaxUint64 || h.Number == 0 {
		t.Errorf("the head is %v", h)
	}
}

func TestARestoredStoreLacksTheEntriesSinceTheBackup(t *testing.T) {
	dir := t.TempDir()
	s, _ := openTrail(t, filepath.Join(dir, "keys.db"))
	key := addKey(t, s, "billing")
	old := currentHead(t, s)
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	must(t, s.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	late := currentHead(t, s)

	path := filepath.Join(dir, "restored.db")
	must(t, latchkey.Restore(t.Context(), &backup, path))
	restored, _ := openTrail(t, path)
	must(t, verify(t, restored, old))
	wantBroken(t, "a head from after the backup", verify(t, restored, late), late.Number)
	must(t, restored.DisableKey(t.Context(), latchkey.ServerOwner, key.ID)) // the chain goes on
	must(t, verify(t, restored, old))
}

func TestASalvagedStoreHasItsTrail(t *testing.T) {
	dir := t.TempDir()
	s, _ := openTrail(t, filepath.Join(dir, "keys.db"))
	for n := range 50 {
		addKey(t, s, fmt.Sprint("key", n))
	}
	known := currentHead(t, s)
	must(t, s.Close())

	out := filepath.Join(dir, "salvaged.db")
	_, err := latchkey.Salvage(t.Context(), filepath.Join(dir, "keys.db"), out)
	must(t, err)
	salvaged, _ := openTrail(t, out)
	must(t, verify(t, salvaged, known))
	addKey(t, salvaged, "later")
	must(t, verify(t, salvaged, known))
	if n := len(entries(t, salvaged, 0)); n != 51 {
		t.Errorf("the trail has %d entries, want 51", n)
	}
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}

func TestTheTrailSaysWhatWasChangedAndByWhom(t *testing.T) {
	s, _, _ := openEngine(t)
	ctx := latchkey.WithActor(t.Context(), "ada")
	key, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: "billing", Scopes: latchkey.NewScopes("files:read")})
	must(t, err)
	all := entries(t, s, 0)
	if len(all) != 1 {
		t.Fatalf("the trail has %d entries, want 1", len(all))
	}
	if c := all[0].Change; c.Actor != "ada" || c.Key != key.ID || c.User != uuid.Nil || !c.Scopes.Has("files:read") {
		t.Errorf("the entry is %+v", all[0])
	}
}

func TestADamagedOldEntryDoesNotKeepAChangeFromBeingRecorded(t *testing.T) {
	s, e, trail := openEngine(t)
	record(t, s, trail, 1, 3)
	damage(t, e, []byte("e\x00\x00\x00\x00\x00\x00\x00\x01"))
	record(t, s, audit.New(&audit.Options{MaxEntries: 2}), 4, 4)
	if h := currentHead(t, s); h.Number != 4 {
		t.Errorf("the head is %v, want that of entry 4", h)
	}
	if err := verify(t, s); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Verify: got %v, want ErrBroken", err)
	}
}
