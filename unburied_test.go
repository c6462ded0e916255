package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/unburied"
)

// fill makes the data of a pair full, or not.
func (p pair) fill(full bool) {
	p.aEngine.SetFull(full)
	p.bEngine.SetFull(full)
}

// settle lets a pair write what waits for space.
func settle() {
	time.Sleep(time.Minute) // of the bubble's clock
	synctest.Wait()
}

// wantNoKeys fails the test unless an owner has no key, and nothing is wrong with that.
func wantNoKeys(t testing.TB, s *latchkey.Store, owner uuid.UUID) {
	t.Helper()
	keys, err := s.Keys(t.Context(), owner)
	if err != nil && !errors.Is(err, latchkey.ErrUserNotFound) || len(keys) > 0 {
		t.Errorf("got %d keys and %v, want none", len(keys), err)
	}
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func TestAKeyOfAFullEngineCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := light()
		opts.OnChange = func(tx *latchkey.Tx, c latchkey.Change) error {
			return tx.AppTable("hook").Put(c.Key[:], fmt.Append(nil, c.Actor, c.Actions))
		}
		p := openPair(t, opts)
		ada := addUser(t, p.a, "ada")
		key, token := addKey(t, p.a, ada, "laptop")
		other, otherToken := addKey(t, p.a, ada, "phone")
		apart := replicaOf(t, p.a, nil)
		send(t, p.a, apart)
		for _, s := range []*latchkey.Store{p.a, p.b} {
			wantLogin(t, s, token, key.ID)
		}
		p.fill(true)
		ctx := latchkey.WithActor(t.Context(), "eve")
		wantError(t, p.a.DisableKey(ctx, ada, key.ID), latchkey.ErrNoSpace)
		wantLogin(t, p.b, token, key.ID)
		must(t, p.a.DeleteKey(ctx, ada, key.ID))
		for _, s := range []*latchkey.Store{p.a, p.b} {
			wantRefused(t, s, token, latchkey.ErrInvalidToken)
			keys, err := s.Keys(t.Context(), ada)
			if must(t, err); len(keys) != 1 || keys[0].ID != other.ID {
				t.Errorf("got the keys %+v, want the other one", keys)
			}
			wantError(t, s.DeleteKey(ctx, ada, key.ID), latchkey.ErrKeyNotFound)
		}
		settle()
		p.fill(false)
		settle()
		must(t, p.b.View(t.Context(), func(tx *latchkey.Tx) error {
			heard, err := tx.AppTable("hook").Get(key.ID[:])
			if string(heard) != "eve[key.deleted]" {
				t.Errorf("the hook heard %q last", heard)
			}
			return err
		}))
		send(t, p.b, apart)
		wantRefused(t, apart, token, latchkey.ErrInvalidToken)
		addKey(t, p.b, ada, "laptop")
		wantLogin(t, p.b, otherToken, other.ID)
	})
}

// Another store of the domain can send a key that was deleted, as long as there is no tombstone.
func TestADeletedKeyOfAFullEngineDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.NewShared()
		s := openEngine(t, e, light())
		ada := addUser(t, s, "ada")
		key, token := addKey(t, s, ada, "laptop")
		apart := replicaOf(t, s, nil)
		send(t, s, apart)
		e.SetFull(true)
		must(t, s.DeleteKey(t.Context(), ada, key.ID))
		e.SetFull(false)
		for range 2 {
			send(t, apart, s)
			settle()
			wantRefused(t, s, token, latchkey.ErrInvalidToken)
		}
	})
}

func TestAUserOfAFullEngineCanBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := light()
		opts.MaxKeysPerUser = -1
		p := openPair(t, opts)
		user, err := p.a.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "Oslo"})
		must(t, err)
		ada := user.ID
		var tokens []string
		for _, name := range []string{"laptop", "phone", "clock"} {
			_, token := addKey(t, p.a, ada, name)
			tokens = append(tokens, token)
		}
		apart := replicaOf(t, p.a, nil)
		send(t, p.a, apart)
		synctest.Wait()
		for _, token := range tokens {
			mustLogin(t, p.b, token)
		}
		p.fill(true)
		must(t, p.a.DeleteUser(t.Context(), ada))
		for _, s := range []*latchkey.Store{p.a, p.b} {
			for _, token := range tokens {
				wantRefused(t, s, token, latchkey.ErrInvalidToken)
			}
			wantNoKeys(t, s, ada)
			_, err := s.UserByIdentity(t.Context(), email("ada"))
			wantError(t, err, latchkey.ErrUserNotFound)
			wantError(t, s.DeleteUser(t.Context(), ada), latchkey.ErrUserNotFound) // and no keys
		}
		p.fill(false)
		settle()
		wantNoKeys(t, p.b, ada)
		wantError(t, p.b.DeleteUser(t.Context(), ada), latchkey.ErrUserNotFound)
		if again := addUser(t, p.b, "ada"); again == ada {
			t.Error("the next user with the identity has the same ID")
		}
		send(t, p.b, apart)
		for _, token := range tokens {
			wantRefused(t, apart, token, latchkey.ErrInvalidToken)
		}
	})
}

func TestADeletionOnAFullEngineIsFinishedByTheNextOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.NewShared()
		other := e.Open()
		s, err := latchkey.OpenWith(e, light())
		must(t, err)
		ada := addUser(t, s, "ada")
		user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob"), Group: "Oslo"})
		must(t, err)
		bob := user.ID
		eve := addUser(t, s, "eve") // without keys
		laptop, _ := addKey(t, s, ada, "laptop")
		_, phone := addKey(t, s, bob, "phone")
		server, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup", Group: "Oslo"})
		must(t, err)
		apart := replicaOf(t, s, nil)
		send(t, s, apart)
		e.SetFull(true)
		must(t, s.DeleteKey(t.Context(), ada, laptop.ID))
		must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, server.ID))
		must(t, s.DeleteUser(t.Context(), bob))
		must(t, s.DeleteUser(t.Context(), eve))
		closeStore(t, s)

		s = openEngine(t, other, light())
		settle()
		wantRefused(t, s, phone, latchkey.ErrInvalidToken)
		for _, owner := range []uuid.UUID{ada, bob, latchkey.ServerOwner} {
			wantNoKeys(t, s, owner)
		}
		for _, id := range []uuid.UUID{bob, server.ID} {
			if !slices.ContainsFunc(recordsOf(t, s), func(r latchkey.ReplicaRecord) bool {
				b := r.Export()
				return bytes.Contains(b, id[:]) && bytes.Contains(b, []byte("Oslo"))
			}) {
				t.Errorf("the tombstone of %s has no group", id)
			}
		}
		if !hasTombstone(t, s, record.TableDeadUsers, eve) {
			t.Error("the user without keys has no tombstone")
		}
		send(t, s, apart)
		if keys, err := apart.Keys(t.Context(), ada); err != nil || len(keys) > 0 {
			t.Errorf("the other store has %d keys, %v, after the tombstones have come", len(keys), err)
		}
		_, err = apart.KeyByID(t.Context(), server.ID)
		wantError(t, err, latchkey.ErrKeyNotFound)
		_, err = apart.User(t.Context(), bob)
		wantError(t, err, latchkey.ErrUserNotFound)
		for subject, was := range map[string]uuid.UUID{"bob": bob, "eve": eve} {
			if again := addUser(t, s, subject); again == was {
				t.Errorf("the next user with the identity of %s has the same ID", subject)
			}
		}
	})
}

// hasTombstone reports whether a store has a tombstone.
func hasTombstone(t testing.TB, s *latchkey.Store, table string, id uuid.UUID) bool {
	t.Helper()
	return slices.ContainsFunc(recordsOf(t, s), func(r latchkey.ReplicaRecord) bool {
		c, err := record.DecodeCopy(r.Export())
		must(t, err)
		return c.Table == table && bytes.Equal(c.Key, id[:])
	})
}

// The process that has deleted ends before there is space. Another one, which was open all the
// time, finishes its work.
func TestADeletionOnAFullEngineIsFinishedByAnyProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		user, err := p.a.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob"), Group: "Oslo"})
		must(t, err)
		ada, bob, eve := addUser(t, p.a, "ada"), user.ID, addUser(t, p.a, "eve") // eve has no keys
		_, err = p.a.LinkIdentity(t.Context(), eve, email("eve2"))
		must(t, err)
		laptop, _ := addKey(t, p.a, ada, "laptop")
		addKey(t, p.a, bob, "phone")
		apart := replicaOf(t, p.a, nil)
		send(t, p.a, apart)
		settle()
		p.fill(true)
		must(t, p.a.DeleteKey(t.Context(), ada, laptop.ID))
		must(t, p.a.DeleteUser(t.Context(), bob))
		must(t, p.a.DeleteUser(t.Context(), eve))
		closeStore(t, p.a)
		time.Sleep(10 * time.Minute) // of the bubble's clock
		p.fill(false)
		time.Sleep(unburied.Every * time.Duration(unburied.LookEach))
		synctest.Wait()
		if !hasTombstone(t, p.b, record.TableDeadKeys, laptop.ID) || !hasTombstone(t, p.b, record.TableDeadUsers, bob) || !hasTombstone(t, p.b, record.TableDeadUsers, eve) {
			t.Error("a tombstone is missing")
		}
		must(t, p.bEngine.View(t.Context(), func(tx latchkey.EngineTx) error {
			for e, err := range tx.Scan("identities", nil, nil) {
				if must(t, err); !bytes.Equal(e.Value, ada[:]) {
					t.Errorf("the index has %q", e.Key)
				}
			}
			return nil
		}))
		send(t, p.b, apart)
		for _, gone := range []uuid.UUID{bob, eve} {
			_, err := apart.User(t.Context(), gone)
			wantError(t, err, latchkey.ErrUserNotFound)
		}
		// Nothing is left to look for.
		before := sequence(t, p.b)
		time.Sleep(3 * unburied.Every * time.Duration(unburied.LookEach))
		synctest.Wait()
		if n := sequence(t, p.b); n != before {
			t.Errorf("%d commits follow", n-before)
		}
	})
}

func sequence(t testing.TB, s *latchkey.Store) (n uint64) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error { n = tx.Sequence(); return nil }))
	return n
}

// Something is deleted without a tombstone while a process goes through the indexes, and behind its
// back. Then the process that has deleted it ends.
func TestADeletionBehindTheBackOfTheProcessThatLooksIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.NewShared()
		other := e.Open()
		s, err := latchkey.OpenWith(e, light())
		must(t, err)
		ada, eve := addUser(t, s, "ada"), addUser(t, s, "eve")
		laptop, _ := addKey(t, s, ada, "laptop")
		phone, _ := addKey(t, s, ada, "phone")
		e.SetFull(true)
		must(t, s.DeleteKey(t.Context(), ada, laptop.ID))
		const last = 4 // the entry, the counts, and the two indexes
		step := 0
		view := func(ctx context.Context, fn func(*merge.Tables) error) error {
			err := access.Of(s).View(ctx, fn)
			if step++; step == last { // the look is over, and its mark is still there
				must(t, s.DeleteKey(t.Context(), ada, phone.ID))
				must(t, s.DeleteUser(t.Context(), eve))
			}
			return err
		}
		update := func(ctx context.Context, fn func(*merge.Tables) error) error {
			e.SetFull(false)
			defer e.SetFull(true)
			return access.Of(s).Update(ctx, fn)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var looks sync.WaitGroup
		looks.Go(func() { unburied.New(s.DomainID(), update, view).Run(ctx) })
		synctest.Wait()
		cancel()
		looks.Wait()
		if step != last {
			t.Errorf("the look took %d readings, want %d", step, last)
		}
		closeStore(t, s)
		s = openEngine(t, other, light())
		settle()
		if !hasTombstone(t, s, record.TableDeadKeys, phone.ID) || !hasTombstone(t, s, record.TableDeadUsers, eve) {
			t.Error("a tombstone is missing")
		}
	})
}

func TestAFullEngineThatNobodySharesRefusesDeletions(t *testing.T) {
	e := memory.NewShared()
	s := openEngine(t, struct{ latchkey.Engine }{e}, light())
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "laptop")
	e.SetFull(true)
	wantError(t, s.DeleteKey(t.Context(), ada, key.ID), latchkey.ErrNoSpace)
	wantError(t, s.DeleteUser(t.Context(), ada), latchkey.ErrNoSpace)
	wantLogin(t, s, token, key.ID)
	e.SetFull(false)
}

// trusting is an engine that is fresh although it hears of nothing, as within its bound.
type trusting struct{ *memory.Shared }

func (trusting) Fresh() bool { return true }

func TestTheProcessThatRevokesNeedsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := trusting{memory.NewShared()}
		s := openEngine(t, e, light())
		e.SetDeaf(true)
		for name, revoke := range map[string]func(user, key uuid.UUID) error{
			"disable": func(user, key uuid.UUID) error { return s.DisableKey(t.Context(), user, key) },
			"delete":  func(user, key uuid.UUID) error { return s.DeleteKey(t.Context(), user, key) },
			"delete on a full engine": func(user, key uuid.UUID) error {
				e.SetFull(true)
				return s.DeleteKey(t.Context(), user, key)
			},
			"delete the user on a full engine": func(user, _ uuid.UUID) error {
				e.SetFull(true)
				return s.DeleteUser(t.Context(), user)
			},
		} {
			user := addUser(t, s, name)
			key, token := addKey(t, s, user, "laptop")
			wantLogin(t, s, token, key.ID)
			must(t, revoke(user, key.ID))
			if who, err := s.Login(t.Context(), token); err == nil {
				t.Errorf("%s: logged in as %+v", name, who)
			}
			e.SetFull(false)
		}
		e.SetDeaf(false)
	})
}
