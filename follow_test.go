package latchkey_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A pair is two stores on the same data, as two processes open them.
type pair struct {
	a, b             *latchkey.Store
	aEngine, bEngine *memory.Shared
}

func openPair(t testing.TB, opts *latchkey.Options) (p pair) {
	t.Helper()
	p.aEngine = memory.NewShared()
	p.bEngine = p.aEngine.Open()
	p.a, p.b = openEngine(t, p.aEngine, opts), openEngine(t, p.bEngine, opts)
	return p
}

// ways are how a store can come to know of a change of another process.
var ways = []struct {
	name   string
	before func(*memory.Shared)
	after  func(*memory.Shared)
}{
	{"it hears of it", func(*memory.Shared) {}, func(*memory.Shared) { synctest.Wait() }},
	{"it is not fresh", func(e *memory.Shared) { e.SetDeaf(true) }, func(*memory.Shared) {}},
	{"it has missed it", func(e *memory.Shared) { e.SetDeaf(true) }, func(e *memory.Shared) {
		e.Lose()
		e.SetDeaf(false)
		synctest.Wait()
	}},
}

func TestAChangeByAnotherProcessIsSeenByTheNextLogin(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for _, tt := range []struct {
				name   string
				change func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error
				want   error
				is     func(latchkey.Principal) bool
			}{
				{name: "DisableKey", want: latchkey.ErrKeyDisabled, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					return s.DisableKey(ctx, user, key.ID)
				}},
				{name: "DeleteKey", want: latchkey.ErrInvalidToken, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					return s.DeleteKey(ctx, user, key.ID)
				}},
				{name: "DisableUser", want: latchkey.ErrUserDisabled, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, _ latchkey.Key) error {
					return s.DisableUser(ctx, user)
				}},
				{name: "DeleteUser", want: latchkey.ErrInvalidToken, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, _ latchkey.Key) error {
					return s.DeleteUser(ctx, user)
				}},
				{name: "DisableGroup", want: latchkey.ErrGroupDisabled, change: func(ctx context.Context, s *latchkey.Store, _ uuid.UUID, _ latchkey.Key) error {
					return s.DisableGroup(ctx, "Oslo")
				}},
				{name: "RotateKey", want: latchkey.ErrInvalidToken, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					_, _, err := s.RotateKey(ctx, user, key.ID, latchkey.Rotation{})
					return err
				}},
				{name: "SetNetworks", want: latchkey.ErrNetworkNotAllowed, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					return s.SetNetworks(ctx, user, key.ID, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
				}},
				{name: "SetScopes", is: func(p latchkey.Principal) bool { return p.Scopes.Has("files:read") }, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					return s.SetScopes(ctx, user, key.ID, latchkey.NewScopes("files:read"))
				}},
				{name: "RenameKey", is: func(p latchkey.Principal) bool { return p.KeyName == "phone" }, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, key latchkey.Key) error {
					return s.RenameKey(ctx, user, key.ID, "phone")
				}},
				{name: "SetUserGroup", is: func(p latchkey.Principal) bool { return p.Group == "Rome" }, change: func(ctx context.Context, s *latchkey.Store, user uuid.UUID, _ latchkey.Key) error {
					return s.SetUserGroup(ctx, user, "Rome")
				}},
				{name: "RetireTagSecret", want: latchkey.ErrInvalidToken, change: func(ctx context.Context, s *latchkey.Store, _ uuid.UUID, _ latchkey.Key) error {
					if _, err := s.AddTagSecret(ctx); err != nil {
						return err
					}
					if err := s.UseTagSecret(ctx, 1); err != nil {
						return err
					}
					return s.RetireTagSecret(ctx, 0)
				}},
			} {
				t.Run(tt.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := openPair(t, light())
						user, err := p.a.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("ada"), Group: "Oslo"})
						must(t, err)
						key, token := addKey(t, p.a, user.ID, "laptop")
						synctest.Wait()
						wantLogin(t, p.b, token, key.ID)
						before := hashes(t, p.b)
						way.before(p.bEngine)
						must(t, tt.change(t.Context(), p.a, user.ID, key))
						way.after(p.bEngine)
						who, err := p.b.Login(t.Context(), token)
						wantError(t, err, tt.want)
						if tt.is != nil && !tt.is(who) {
							t.Errorf("got %+v", who)
						}
						if n := hashes(t, p.b) - before; n > 0 && !p.bEngine.Fresh() {
							t.Errorf("the login has hashed %d times", n)
						}
						p.bEngine.SetDeaf(false)
						synctest.Wait()
						_, err = p.b.Login(t.Context(), token)
						wantError(t, err, tt.want)
					})
				})
			}
		})
	}
}

func TestALoginReadsInsteadOfHashingWhileTheEngineIsNotFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		key, token := addKey(t, p.a, latchkey.ServerOwner, "backup")
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)
		before := hashes(t, p.b)
		p.bEngine.SetDeaf(true)
		addKey(t, p.a, latchkey.ServerOwner, "another") // so that the engine has missed something
		for range 3 {
			wantLogin(t, p.b, token, key.ID)
		}
		if n := hashes(t, p.b) - before; n != 0 {
			t.Errorf("3 logins have hashed %d times, want 0", n)
		}
		p.bEngine.SetUnavailable(true)
		wantRefused(t, p.b, token, latchkey.ErrUnavailable)
		_, err := p.b.Inspect(t.Context(), token, netip.Addr{})
		wantError(t, err, latchkey.ErrUnavailable)
		wantRefused(t, p.b, "lk_forged", latchkey.ErrInvalidToken)
		p.bEngine.SetDeaf(false)
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)
		p.bEngine.SetUnavailable(false)
	})
}

func TestAnEntryThatAnotherProcessDeletesWithoutATombstoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		key, token := addKey(t, p.a, latchkey.ServerOwner, "backup")
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)
		sealed := []byte(nil)
		must(t, p.aEngine.Update(t.Context(), func(tx latchkey.EngineTx) (err error) {
			sealed, err = tx.Get("keys", key.ID[:])
			must(t, err)
			return tx.Delete("keys", key.ID[:])
		}))
		synctest.Wait()
		wantRefused(t, p.b, token, latchkey.ErrInvalidToken)
		must(t, p.aEngine.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("keys", key.ID[:], sealed) }))
	})
}

func TestAStoreLearnsTagSecretsAndHandlesOfAnotherProcess(t *testing.T) {
	for _, way := range ways {
		if way.name == "it is not fresh" {
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts, _ := withSystem()
				p := openPair(t, opts)
				way.before(p.bEngine)
				useNewTagSecret(t, p.a)
				key, token := addKey(t, p.a, latchkey.ServerOwner, "backup")
				old := addOldServerKey(t, p.a, "digest", "old-1")
				way.after(p.bEngine)
				wantLogin(t, p.b, token, key.ID)
				wantLogin(t, p.b, "old-1", old.ID)
				if a, b := p.a.DomainSecrets().Export(), p.b.DomainSecrets().Export(); string(a) != string(b) {
					t.Error("the two processes have other secrets")
				}
			})
		})
	}
}

// A program that keeps sessions ends them when their token is not in Key.Tokens any more.
func TestTheTokensOfAKeyFollowTheTagSecretsOfAnotherProcess(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts, _ := withSystem()
				p := openPair(t, opts)
				key, _ := addKey(t, p.a, latchkey.ServerOwner, "backup")
				useNewTagSecret(t, p.a)
				way.before(p.bEngine)
				must(t, p.a.RetireTagSecret(t.Context(), 0))
				way.after(p.bEngine)
				got, err := p.b.Key(t.Context(), latchkey.ServerOwner, key.ID)
				must(t, err)
				if len(got.Tokens) > 0 {
					t.Errorf("the key has the tokens %v under a secret that was retired", got.Tokens)
				}
			})
		})
	}
}

func TestALoginWithAForeignTokenReadsWhileTheEngineIsNotFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, f := withSystem()
		p := openPair(t, opts)
		key := addOldServerKey(t, p.a, "slow", "old-1")
		synctest.Wait()
		wantLogin(t, p.b, "old-1", key.ID)
		checks := f.checks.Load()
		p.bEngine.SetDeaf(true)
		addKey(t, p.a, latchkey.ServerOwner, "another")
		wantLogin(t, p.b, "old-1", key.ID)
		if n := f.checks.Load() - checks; n != 0 {
			t.Errorf("the verifier was checked %d times, want 0", n)
		}
		must(t, p.a.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
		wantRefused(t, p.b, "old-1", latchkey.ErrKeyDisabled)
	})
}

func TestTheTimeOfAnotherProcessIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early, late := newClock(), newClock()
		late.advance(24 * time.Hour)
		a := memory.NewShared()
		b := a.Open()
		opts := func(c *clock) *latchkey.Options { return &latchkey.Options{Cost: latchkey.LightCost, Now: c.now} }
		other, s := openEngine(t, a, opts(late)), openEngine(t, b, opts(early))
		addUser(t, other, "ada")
		synctest.Wait()
		if got := s.Now(); got.Before(late.now()) {
			t.Errorf("the time is %v, want that of the other process, %v", got, late.now())
		}
		late.advance(-24 * time.Hour)
		must(t, other.ResetClock(t.Context()))
		synctest.Wait()
		if got := s.Now(); got.After(early.now().Add(time.Hour)) {
			t.Errorf("the time is %v after the reset, want %v", got, early.now())
		}
	})
}

func TestWhatDependsOnOtherRecordsFollowsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		apart := replicaOf(t, p.a, nil)
		ada := addUser(t, p.a, "ada")
		key, token := addKey(t, p.a, ada, "laptop")
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)

		addUser(t, apart, "ada") // the same user, with a key of the same name
		addKey(t, apart, ada, "laptop")
		eve := addUser(t, apart, "eve")
		_, err := apart.LinkIdentity(t.Context(), eve, email("ada2"))
		must(t, err)
		_, err = p.a.LinkIdentity(t.Context(), ada, email("ada2"))
		must(t, err)
		_, err = p.a.UnlinkIdentity(t.Context(), ada, email("ada"))
		must(t, err)
		synctest.Wait()
		who, err := p.b.Login(t.Context(), token)
		must(t, err)
		if who.Identity != email("ada2") || who.KeyName != "laptop" {
			t.Fatalf("got %+v", who)
		}
		send(t, apart, p.a)
		synctest.Wait()
		who, err = p.b.Login(t.Context(), token)
		must(t, err)
		want, err := p.a.Login(t.Context(), token)
		must(t, err)
		if who.KeyName != want.KeyName || who.Identity != want.Identity || who.KeyName == "laptop" || who.Identity == email("ada2") {
			t.Errorf("got %+v, want %+v", who, want)
		}
	})
}

func TestNobodyLogsInWhileTheDataAreOfAnotherDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		key, token := addKey(t, p.a, latchkey.ServerOwner, "backup")
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)
		other := memory.NewShared()
		openEngine(t, other, light())
		meta := map[string][]byte{}
		swap := func(e *memory.Shared, with map[string][]byte) {
			was := map[string][]byte{}
			must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error {
				for entry, err := range tx.Scan("meta", nil, nil) {
					must(t, err)
					was[string(entry.Key)] = entry.Value
				}
				for k, v := range with {
					must(t, tx.Put("meta", []byte(k), v))
				}
				return nil
			}))
			meta = was
		}
		swap(other, nil)
		swap(p.aEngine, meta)
		synctest.Wait()
		wantRefused(t, p.b, token, latchkey.ErrFileChanged)
		swap(p.aEngine, meta)
		synctest.Wait()
		wantLogin(t, p.b, token, key.ID)
	})
}

// restores returns the number of restorations in the record of the replica.
func restores(t testing.TB, e latchkey.Engine) (n uint64) {
	t.Helper()
	must(t, e.View(t.Context(), func(tx latchkey.EngineTx) error {
		r, err := record.ReadReplica(func(key []byte) ([]byte, error) { return tx.Get("meta", key) })
		n = r.Restores
		return err
	}))
	return n
}

// Two processes notice each restoration. They begin one new incarnation, also if the state that
// comes back is from before an earlier restoration.
func TestARestoredEngineBeginsANewIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		early, earlyToken := addKey(t, p.a, latchkey.ServerOwner, "backup")
		had := map[uuid.UUID]bool{p.a.ReplicaID(): true}
		states := []latchkey.Engine{memory.CopyEngine(p.aEngine)}
		for round, back := range []int{0, 1, 0, 2} {
			must(t, p.a.DisableKey(t.Context(), latchkey.ServerOwner, early.ID))
			late, lateToken := addKey(t, p.a, latchkey.ServerOwner, "late")
			synctest.Wait()
			wantLogin(t, p.b, lateToken, late.ID)
			p.aEngine.Restore(states[back])
			synctest.Wait()
			id := p.a.ReplicaID()
			if had[id] || p.b.ReplicaID() != id {
				t.Errorf("round %d: the replica IDs are %s and %s, and %t", round, id, p.b.ReplicaID(), had[id])
			}
			had[id] = true
			if n := restores(t, p.aEngine); n != uint64(round+1) {
				t.Errorf("round %d: the store counts %d restorations", round, n)
			}
			for _, s := range []*latchkey.Store{p.a, p.b} {
				wantLogin(t, s, earlyToken, early.ID)
				wantRefused(t, s, lateToken, latchkey.ErrInvalidToken)
			}
			states = append(states, memory.CopyEngine(p.aEngine))
		}
		if n := p.aEngine.Restored() + p.bEngine.Restored(); n != 0 {
			t.Error("the engines were not told of the last incarnation")
		}
	})
}

func TestAFullEngineBeginsTheNewIncarnationWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPair(t, light())
		key, token := addKey(t, p.a, latchkey.ServerOwner, "backup")
		synctest.Wait()
		before := p.a.ReplicaID()
		state := memory.CopyEngine(p.aEngine)
		addUser(t, p.a, "ada")
		p.fill(true)
		p.aEngine.Restore(state)
		settle()
		if p.a.ReplicaID() != before || p.aEngine.Restored() == 0 {
			t.Error("the full engine has a new incarnation")
		}
		wantLogin(t, p.b, token, key.ID)
		if h := hashes(t, p.b); h != 1 {
			t.Errorf("the first login after the restoration has hashed %d times", h)
		}
		wantLogin(t, p.b, token, key.ID)
		if h := hashes(t, p.b); h != 1 {
			t.Errorf("after two logins, the store has hashed %d times", h)
		}
		p.fill(false)
		settle()
		if id := p.a.ReplicaID(); id == before || p.b.ReplicaID() != id || p.aEngine.Restored() != 0 {
			t.Error("there is no new incarnation")
		}
	})
}

func TestAStoreForReadingFollowsTheNewIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.NewShared()
		other := e.Open()
		s := openEngine(t, e, light())
		opts := light()
		opts.ReadOnly = true
		reader := openEngine(t, other, opts)
		before := s.ReplicaID()
		state := memory.CopyEngine(e)
		addUser(t, s, "ada")
		e.Restore(state)
		synctest.Wait()
		if id := reader.ReplicaID(); id == before || id != s.ReplicaID() || other.Restored() != 0 {
			t.Errorf("the replica ID is %s, and was %s", id, before)
		}
	})
}

// To replay a failure, replace rand.Uint64() by the seed that the test prints.
func TestNoLoginFollowsARevocationByAnyProcess(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := openPair(t, light())
	stores := []*latchkey.Store{p.a, p.b}
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(worker)))
			user := addUser(t, p.a, fmt.Sprint("user", worker))
			must(t, p.a.SetUserGroup(t.Context(), user, fmt.Sprint("group", worker)))
			for round := range 60 {
				one, two := stores[random.IntN(2)], stores[random.IntN(2)]
				key, token := addKey(t, one, user, fmt.Sprint(round))
				wantLogin(t, two, token, key.ID)
				var logins sync.WaitGroup
				for range random.IntN(3) { // which may remember the key at the moment of the change
					logins.Go(func() { _, _ = two.Login(t.Context(), token) })
				}
				undo, refused := revoke(t, random, one, user, key.ID, worker)
				for _, s := range stores {
					wantRefused(t, s, token, refused)
				}
				logins.Wait()
				for _, s := range stores {
					wantRefused(t, s, token, refused)
				}
				if undo != nil {
					must(t, undo())
					wantLogin(t, two, token, key.ID)
					must(t, two.DeleteKey(t.Context(), user, key.ID))
					wantRefused(t, one, token, latchkey.ErrInvalidToken)
				}
			}
		})
	}
	workers.Wait()
}

// revoke takes the right to log in from a key in one of several ways. It returns what gives the
// right back, or nil, and the error of logins.
func revoke(t testing.TB, random *rand.Rand, s *latchkey.Store, user, key uuid.UUID, worker int) (undo func() error, refused error) {
	ctx, group := t.Context(), fmt.Sprint("group", worker)
	switch random.IntN(4) {
	case 0:
		must(t, s.DisableKey(ctx, user, key))
		return func() error { return s.EnableKey(ctx, user, key) }, latchkey.ErrKeyDisabled
	case 1:
		must(t, s.DisableUser(ctx, user))
		return func() error { return s.EnableUser(ctx, user) }, latchkey.ErrUserDisabled
	case 2:
		must(t, s.DisableGroup(ctx, group))
		return func() error { return s.EnableGroup(ctx, group) }, latchkey.ErrGroupDisabled
	}
	must(t, s.DeleteKey(ctx, user, key))
	return nil, latchkey.ErrInvalidToken
}
