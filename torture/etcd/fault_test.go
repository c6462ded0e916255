package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// These tests make one fault each, while callers use a store at each node, and one that knows all
// nodes. They run side by side, because they mostly wait.

// everywhere is the number of the store that knows all nodes.
const everywhere = size

// beginHistory starts a cluster, four stores, and callers of each.
func beginHistory(t *testing.T, opts clusterOptions) (c *cluster, r *recorder, random *rand.Rand) {
	t.Helper()
	t.Parallel()
	seed := form.NewSeed(t)
	c = newCluster(t, opts)
	r = newRecorder(t, append(c.openEach(), c.open(0, 1, 2))...)
	r.pause = 40 * time.Millisecond
	r.start(seed, 2)
	r.await(0, 1, 2, everywhere)
	return c, r, form.NewRandom(seed, -1)
}

// others returns the numbers of the stores that do not use a node. The store that knows all nodes
// is slow while one of them takes requests and does not answer.
func others(i int) []int { return []int{(i + 1) % size, (i + 2) % size} }

// Many callers at each store do the same things at the same time, so that their transactions meet,
// and share those of etcd.
func TestHistoriesAreRightWhereCallersMeet(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	c := newCluster(t, clusterOptions{})
	r := newRecorder(t, c.openEach()...)
	r.start(seed, 6)
	for range form.Amount(4, 200) {
		r.await(0, 1, 2)
	}
	c.finish(r)
}

// Calls at all stores meet at one key, or at one name. A key that was deleted stays away, and only
// one key gets the name.
func TestCallsThatMeetSeeEachOther(t *testing.T) {
	t.Parallel()
	form.NewSeed(t)
	c := newCluster(t, clusterOptions{})
	stores := c.openEach()
	ctx := t.Context()
	// together makes calls at each store at the same time. Another call may have been first.
	together := func(calls ...func(s *latchkey.Store) error) {
		var all sync.WaitGroup
		for _, s := range stores {
			for _, call := range calls {
				all.Go(func() {
					if err := call(s); err != nil && !errors.Is(err, latchkey.ErrKeyNotFound) && !errors.Is(err, latchkey.ErrKeyNameTaken) {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
	}
	owner := newToken(t, stores[0]).owner
	var named []uuid.UUID
	for i := range 5 {
		k, _, err := stores[0].CreateKey(ctx, owner, latchkey.KeySpec{Name: fmt.Sprint("key ", i)})
		must(t, err)
		named = append(named, k.ID)
	}
	for round := range form.Amount(100, 3000) {
		k := newToken(t, stores[0])
		together(
			func(s *latchkey.Store) error { return s.DisableKey(ctx, k.owner, k.id) },
			func(s *latchkey.Store) error { return s.DeleteKey(ctx, k.owner, k.id) },
			func(s *latchkey.Store) error { return s.EnableKey(ctx, k.owner, k.id) },
		)
		if _, err := stores[1].Key(ctx, k.owner, k.id); !errors.Is(err, latchkey.ErrKeyNotFound) {
			t.Fatalf("a key after its deletion: %v", err)
		}
		// While the commit of a new user is under way, the others gather in a group.
		name := fmt.Sprint("round ", round)
		renamings := many(3, func(s *latchkey.Store) error {
			_, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{
				Provider: latchkey.ProviderLocalUserpass, Subject: uuid.NewString(),
			}})
			return err
		})
		for _, id := range named {
			renamings = append(renamings, func(s *latchkey.Store) error { return s.RenameKey(ctx, owner, id, name) })
		}
		together(renamings...)
		keys, err := stores[1].Keys(ctx, owner)
		must(t, err)
		keys = slices.DeleteFunc(keys, func(k latchkey.Key) bool { return k.Name != name })
		if len(keys) != 1 {
			t.Fatalf("round %d: %d keys have one name", round, len(keys))
		}
	}
	for finding := range stores[0].Check(ctx) {
		t.Errorf("Check: %v", finding)
	}
}

func TestNothingAcknowledgedIsLostWhenANodeIsKilled(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	for range form.Amount(2, 40) {
		i := c.follower(random)
		c.kill(i)
		r.await(append(others(i), everywhere)...)
		c.startAll()
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

func TestNothingAcknowledgedIsLostWhenTheLeaderIsKilled(t *testing.T) {
	c, r, _ := beginHistory(t, clusterOptions{})
	for range form.Amount(2, 40) {
		i := c.leader()
		c.kill(i)
		r.await(append(others(i), everywhere)...)
		c.startAll()
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

func TestNothingAcknowledgedIsLostWhenAllNodesAreKilled(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{sync: true})
	for range form.Amount(2, 40) {
		for _, i := range random.Perm(size) {
			c.kill(i)
		}
		c.startAll()
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

func TestTheOthersGoOnWhileANodeIsStopped(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	for round := range form.Amount(2, 40) {
		i := c.leader()
		if round%2 == 1 {
			i = c.follower(random)
		}
		c.stop(i)
		r.await(others(i)...)
		r.outlast()
		c.goOn(i)
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

func TestHistoriesAreRightOverASlowNetwork(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	for range form.Amount(1, 40) {
		i := random.IntN(size)
		c.isolate(i, wireSlow)
		c.clients[(i+1)%size].set(wireSlow)
		r.await(0, 1, 2, everywhere)
		c.heal()
	}
	c.finish(r)
}

// The connections of a store end again and again, with answers to commits on the way. The store
// finds out which commits took place, or says that it cannot. If it ran a transaction again whose
// commit took place, the name of a new key would be taken, or a key to delete would be gone.
func TestACommitWhoseAnswerIsLostTakesPlaceOnceOrNever(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	stop := func() {
		cancel()
		writers.Wait()
	}
	t.Cleanup(stop)
	var written atomic.Int64
	for i := range 6 {
		s, owner := r.stores[0], newToken(t, r.stores[0]).owner
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				k, _, err := s.CreateKey(context.Background(), owner, latchkey.KeySpec{Name: fmt.Sprint("key-", n)})
				if err == nil {
					err = s.DeleteKey(context.Background(), owner, k.ID)
				}
				if err == nil {
					written.Add(1)
				} else if !slices.ContainsFunc(failures, func(target error) bool { return errors.Is(err, target) }) {
					t.Errorf("writer %d: %v", i, err)
				}
			}
		})
	}
	for range form.Amount(15, 1000) {
		// On a slow wire, an answer is on the way most of the time.
		c.clients[0].set(wireSlow)
		enough := written.Load() + 1 + random.Int64N(6)
		eventually(t, "writes", func(context.Context) bool { return written.Load() >= enough })
		c.clients[0].set(wireCut)
	}
	c.heal()
	stop()
	r.await(0, 1, 2, everywhere)
	c.finish(r)
}

func TestCompactionDisturbsNobody(t *testing.T) {
	c, r, _ := beginHistory(t, clusterOptions{})
	for range form.Amount(5, 200) {
		c.compact(0)
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

// A store that can reach only a node which is cut off from the others does not believe what it
// remembers for longer than the bound. While the store can reach nothing else, it refuses.
func TestAStoreThatIsCutOffRefusesAfterTheBound(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	for _, state := range form.Amount([]wireState{wireMute, wireCut}, many(20, wireMute, wireCut)) {
		i := random.IntN(size)
		maker := r.stores[everywhere]
		revoked, kept, untried := newToken(t, maker), newToken(t, maker), newToken(t, maker)
		for _, k := range []token{revoked, kept, untried} {
			_, err := r.stores[i].Login(t.Context(), k.text)
			must(t, err)
		}
		c.isolate(i, state)
		cut := time.Now()
		other := r.stores[others(i)[random.IntN(2)]]
		for _, k := range []token{untried, revoked} {
			eventually(t, "a revocation", func(ctx context.Context) bool {
				return other.DisableKey(ctx, k.owner, k.id) == nil
			})
		}
		disabled := time.Now()
		// The store refuses for good when both tokens have been refused after the bound.
		eventually(t, "refusals of the store that is cut off", func(context.Context) bool {
			began := time.Now()
			_, err := r.stores[i].Login(t.Context(), revoked.text)
			_, errKept := r.stores[i].Login(t.Context(), kept.text)
			if err == nil && began.Sub(disabled) > bound {
				t.Fatalf("a token that was disabled %v ago logs in", began.Sub(disabled))
			}
			return began.Sub(cut) > 2*bound && errors.Is(err, latchkey.ErrUnavailable) && errors.Is(errKept, latchkey.ErrUnavailable)
		})
		r.await(others(i)...)
		c.heal()
		eventually(t, "the revocation at the store that was cut off", func(ctx context.Context) bool {
			_, err := r.stores[i].Login(ctx, revoked.text)
			return errors.Is(err, latchkey.ErrKeyDisabled)
		})
		r.await(0, 1, 2, everywhere)
		r.outlast()
		refuses(t, r.stores[i], untried)
	}
	c.finish(r)
}

// A store that could not reach etcd for a while knows afterwards what has changed meanwhile, even
// if etcd has compacted the changes.
func TestAStoreThatWasAwayKnowsWhatHasChanged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	s, other := c.open(0), c.open(1, 2)
	for _, tt := range []struct {
		name     string
		state    wireState
		compacts bool
	}{
		{"its connections were mute", wireMute, false},
		{"its connections were cut", wireCut, false},
		{"its connections were cut, and etcd was compacted", wireCut, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept, tried, untried := newToken(t, other), newToken(t, other), newToken(t, other)
			login := func(k token) error { _, err := s.Login(t.Context(), k.text); return err }
			for _, k := range []token{kept, tried, untried} {
				must(t, login(k))
			}
			c.clients[0].set(tt.state)
			for _, k := range []token{tried, untried} {
				must(t, other.DisableKey(t.Context(), k.owner, k.id))
			}
			disabled := time.Now()
			if tt.compacts {
				// etcd keeps the last change before the revision that it compacts, so make another.
				newToken(t, other)
				c.compact(1)
			}
			eventually(t, "a refusal of the store that is away", func(context.Context) bool {
				return errors.Is(login(kept), latchkey.ErrUnavailable)
			})
			c.heal()
			back := time.Now()
			eventually(t, "logins of the store that is back", func(context.Context) bool {
				began := time.Now()
				if err := login(tried); err == nil && began.Sub(disabled) > bound {
					t.Fatalf("a token that was disabled %v ago logs in", began.Sub(disabled))
				}
				return login(kept) == nil && time.Since(back) > bound
			})
			refuses(t, s, untried)
		})
	}
}

// All faults, in any order.
func TestHistoriesAreRightWhateverHappens(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{})
	for range form.Amount(3, 100) {
		i := random.IntN(size)
		if random.IntN(2) == 0 {
			i = c.leader()
		}
		switch random.IntN(5) {
		case 0:
			c.kill(i)
		case 1:
			c.stop(i)
		case 2:
			c.isolate(i, wireMute)
		case 3:
			c.isolate(i, wireCut)
		case 4:
			c.clients[i].set([]wireState{wireSlow, wireMute, wireCut}[random.IntN(3)])
		}
		r.await(others(i)...)
		if random.IntN(2) == 0 {
			c.compact((i + 1) % size)
		}
		if random.IntN(2) == 0 {
			r.outlast()
		}
		c.heal()
		c.startAll()
		r.await(0, 1, 2, everywhere)
	}
	c.finish(r)
}

func many[T any](n int, of ...T) (all []T) {
	for range n {
		all = append(all, of...)
	}
	return all
}

// refuses ends the test if a store lets a disabled token log in. The store believes what it
// remembers, and since the token was disabled, no login has made the store forget it.
func refuses(t *testing.T, s *latchkey.Store, disabled token) {
	t.Helper()
	eventually(t, "a refusal", func(context.Context) bool {
		_, err := s.Login(t.Context(), disabled.text)
		if err == nil {
			t.Fatal("a token that was disabled while the store was away logs in")
		}
		return errors.Is(err, latchkey.ErrKeyDisabled)
	})
}

// A token is one that a test keeps to itself.
type token struct {
	owner, id uuid.UUID
	text      string
}

// newToken makes a user with one key.
func newToken(t testing.TB, s *latchkey.Store) token {
	t.Helper()
	u, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{
		Provider: latchkey.ProviderLocalUserpass, Subject: uuid.NewString(),
	}})
	must(t, err)
	k, text, err := s.CreateKey(t.Context(), u.ID, latchkey.KeySpec{Name: "laptop"})
	must(t, err)
	return token{u.ID, k.ID, text}
}
