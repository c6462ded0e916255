package latchkey

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/phc"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

func TestLoginsOfOneColdKeyShareOneHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := stats(t, s).Hashes

		giveBack := takePermits(t, s)
		var outcomes []<-chan error
		for range 50 {
			outcomes = append(outcomes, loginAside(t.Context(), s, token))
		}
		synctest.Wait()
		if n := s.hasher.Waiting(); n != 1 {
			t.Errorf("%d hashes wait for 50 logins, want 1", n)
		}
		giveBack()
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, nil)
		}
		wantHashes(t, s, before, 1)
	})
}

func TestACallerWhoseContextEndsLeavesAndTheHashGoesOnForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := stats(t, s).Hashes
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		first := loginAside(ctx, s, token)
		synctest.Wait()
		second := loginAside(t.Context(), s, token)
		synctest.Wait()
		leave()
		synctest.Wait()
		wantOutcome(t, first, context.Canceled)
		wantWaiting(t, second)
		third := loginAside(t.Context(), s, token)
		synctest.Wait()

		giveBack()
		synctest.Wait()
		wantOutcome(t, second, nil)
		wantOutcome(t, third, nil)
		wantHashes(t, s, before, 1)
		wantIdle(t, s.hasher)
	})
}

func TestALoginJoinsARunningHashWhoseCallersHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		key, token := addServerKey(t, s, "laptop")
		before := stats(t, s).Hashes

		// The test takes the part of the hash, which begins and ends when the test says so.
		call, first := s.flight.Join(hashQuestion(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID)))
		if !first || !s.flight.Begin(call) {
			t.Fatal("the hash does not begin")
		}
		ctx, leave := context.WithCancel(t.Context())
		left := loginAside(ctx, s, token)
		synctest.Wait()
		wantWaiting(t, left)
		leave()
		s.flight.Leave(call)
		synctest.Wait()
		wantOutcome(t, left, context.Canceled)

		later := loginAside(t.Context(), s, token)
		synctest.Wait()
		wantWaiting(t, later)
		s.flight.Done(call, true, nil)
		synctest.Wait()
		wantOutcome(t, later, nil)
		wantHashes(t, s, before, 0)
	})
}

func TestNothingIsHashedWhenEverybodyHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := stats(t, s).Hashes
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		outcomes := []<-chan error{loginAside(ctx, s, token), loginAside(ctx, s, token), loginAside(ctx, s, token)}
		synctest.Wait()
		leave()
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, context.Canceled)
		}
		if n := s.hasher.Waiting(); n != 0 {
			t.Errorf("%d hashes still wait, want 0", n)
		}
		giveBack()
		synctest.Wait()
		wantHashes(t, s, before, 0)
		wantIdle(t, s.hasher)
	})
}

func TestNothingIsHashedWhenTheLastCallerLeavesAsThePermitComes(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	before := stats(t, s).Hashes
	secret := secretOf(t, s, token)
	stored := storedVerifierOf(t, s, key.ID)
	call, _ := s.flight.Join(hashQuestion(key.ID, secret, stored.phc))
	call.Context = t.Context() // as if the caller left too late to stop the permit
	s.flight.Leave(call)
	if ok, err := s.compare(call, &loginHash{storedVerifier: stored, cost: s.cost, hasher: s.hasher, flight: s.flight}); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("got %t, %v, want false, Canceled", ok, err)
	}
	s.flight.Done(call, false, nil)
	wantHashes(t, s, before, 0)
	wantIdle(t, s.hasher)
}

func TestMoreLoginsThanTheQueueHoldsAreBusyAndTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{Cost: LightCost, HashQueue: 2})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		_, three := addServerKey(t, s, "three")
		giveBack := takePermits(t, s)

		first, second := loginAside(t.Context(), s, one), loginAside(t.Context(), s, two)
		synctest.Wait()
		third := loginAside(t.Context(), s, three)
		again := loginAside(t.Context(), s, one) // needs no room of its own
		synctest.Wait()
		wantOutcome(t, third, ErrBusy)
		wantWaiting(t, first)
		wantWaiting(t, second)
		wantWaiting(t, again)

		giveBack()
		synctest.Wait()
		wantOutcome(t, first, nil)
		wantOutcome(t, second, nil)
		wantOutcome(t, again, nil)
		if _, err := s.Login(t.Context(), three); err != nil {
			t.Errorf("the busy one, tried again: got error %v", err)
		}
		if st := stats(t, s); st.Busy != 1 {
			t.Errorf("%d logins were busy, want 1", st.Busy)
		}
	})
}

func TestALoginThatLeavesMakesRoomInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{Cost: LightCost, HashQueue: 1})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		loginAside(ctx, s, one)
		synctest.Wait()
		leave()
		synctest.Wait()
		second := loginAside(t.Context(), s, two)
		synctest.Wait()
		wantWaiting(t, second)
		giveBack()
		synctest.Wait()
		wantOutcome(t, second, nil)
	})
}

func TestALoginDoesNotJoinAHashForAnotherVerifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		key, token := addServerKey(t, s, "laptop")
		call, _ := s.flight.Join(hashQuestion(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID)))
		s.flight.Begin(call)

		other := newVerifier(make([]byte, tokenform.SecretSize), LightCost)
		plantVerifier(t, s, key.ID, other.String())
		outcome := loginAside(t.Context(), s, token)
		synctest.Wait()
		s.flight.Done(call, true, nil) // true for the verifier that was replaced
		synctest.Wait()
		wantOutcome(t, outcome, ErrInvalidToken)
	})
}

func TestAKeyWithALightVerifierWaitsForNoOtherAndIsNotHashedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, ordinary := addServerKey(t, s, "ordinary")
		mint := func(key uuid.UUID) (MintedKey, string) {
			minted, token, err := access.MintLight(t.Context(), s, key)
			must(t, err)
			return minted.(MintedKey), token
		}
		insert := func(name, scope string) (Key, string) {
			minted, token := mint(uuid.Nil)
			key, err := write(t.Context(), s, func(tx *Tx) (Key, error) {
				return tx.InsertServerKey(KeySpec{Name: name, Scopes: NewScopes(scope)}, minted)
			})
			must(t, err)
			return key, token
		}

		giveBack := takePermits(t, s)
		edge, token := insert("edge", "latchkey:replica")
		other, otherToken := insert("other", "files:read") // which is hashed as any key
		waiting := []<-chan error{loginAside(t.Context(), s, ordinary), loginAside(t.Context(), s, otherToken)}
		synctest.Wait()
		wantLogin(t, s, token, edge.ID)
		minted, next := mint(edge.ID)
		must(t, s.Update(t.Context(), func(tx *Tx) error {
			_, err := tx.RotateServerKey(edge.ID, Rotation{}, minted)
			return err
		}))
		wantRefused(t, s, token, ErrInvalidToken)
		wantLogin(t, s, next, edge.ID)
		for _, w := range waiting {
			wantWaiting(t, w)
		}
		giveBack()
		synctest.Wait()
		for _, w := range waiting {
			wantOutcome(t, w, nil)
		}

		s.background.Wait()
		addUser(t, s, "ada") // a write takes hashes that were made anew along
		wantCost(t, s, edge.ID, Cost(phc.Least))
		wantCost(t, s, other.ID, LightCost)
	})
}
