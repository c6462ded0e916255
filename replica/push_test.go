package replica_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

func policy(push replica.Push, groups ...string) replica.Policy {
	return replica.Policy{Groups: groups, Push: push}
}

func TestWhatAnEdgeMayNotPushIsNotPermittedThere(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	ctx, s := t.Context(), e.Store()
	_, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: "own"})
	wantErr(t, "CreateServerKey", err, latchkey.ErrNotPermitted)
	wantErr(t, "RenameKey", s.RenameKey(ctx, latchkey.ServerOwner, key.ID, "other"), latchkey.ErrNotPermitted)
	wantErr(t, "DeleteKey", s.DeleteKey(ctx, latchkey.ServerOwner, key.ID), latchkey.ErrNotPermitted)
	_, err = s.AddTagSecret(ctx)
	wantErr(t, "AddTagSecret", err, latchkey.ErrNotPermitted)
	wantLogin(t, "afterwards", s, token, nil)
}

func TestADisablingAtAnEdgeIsAClaimAtTheHub(t *testing.T) {
	h := newHub(t, nil)
	first, firstToken := addKey(t, h.store, "first", "")
	second, secondToken := addKey(t, h.store, "second", "")
	e := h.join(everything())
	ctx := t.Context()
	for _, key := range []latchkey.Key{first, second} {
		must(t, e.Store().DisableKey(ctx, latchkey.ServerOwner, key.ID))
	}
	if n := e.Status().Pending; n != 2 {
		t.Errorf("%d records are pending, want 2", n)
	}
	e.sync()
	wantLogin(t, "at the hub", h.store, firstToken, nil)
	wantLogin(t, "at the edge", e.Store(), firstToken, latchkey.ErrKeyDisabled)
	claims := get[[]replica.Claim](t)(h.Claims(ctx))
	if len(claims) != 2 {
		t.Fatalf("the hub has the claims %+v", claims)
	}
	numbers := map[uuid.UUID]uint64{}
	for _, c := range claims {
		numbers[c.ID] = c.Number
		if c.Edge != e.Status().Edge || c.Table != "keys" || c.What != "key.disabled" || c.Arrived.IsZero() {
			t.Errorf("the hub has the claim %+v", c)
		}
	}
	wantErr(t, "Health of the hub", h.store.Health(ctx), replica.ErrClaims)
	must(t, h.ConfirmClaim(ctx, numbers[first.ID]))
	must(t, h.RefuseClaim(ctx, numbers[second.ID]))
	wantErr(t, "a claim that is over", h.RefuseClaim(ctx, numbers[second.ID]), replica.ErrClaimNotFound)
	must(t, h.store.Health(ctx))
	e.sync()
	e.sync()
	wantLogin(t, "the confirmed claim at the hub", h.store, firstToken, latchkey.ErrKeyDisabled)
	wantLogin(t, "the refused claim at the edge", e.Store(), secondToken, nil)
}

func TestAnEdgeThatMayPushDisablingsDisables(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "north")
	e, other := h.join(policy(replica.PushRevocations, "north")), h.join(policy(replica.PushNothing, "north"))
	must(t, e.Store().DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	e.sync()
	other.sync()
	wantLogin(t, "at the hub", h.store, token, latchkey.ErrKeyDisabled)
	wantLogin(t, "at another edge", other.Store(), token, latchkey.ErrKeyDisabled)
	wantErr(t, "EnableKey", e.Store().EnableKey(t.Context(), latchkey.ServerOwner, key.ID), latchkey.ErrNotPermitted)
}

func TestAnEdgeThatMayPushEverythingMakesKeys(t *testing.T) {
	h := newHub(t, nil)
	e := h.join(policy(replica.PushAll, "*"))
	stop := e.follow()
	user := get[latchkey.User](t)(e.Store().CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada"}}))
	key, token, err := e.Store().CreateKey(t.Context(), user.ID, latchkey.KeySpec{Name: "laptop"})
	must(t, err)
	await(t, h.store, "the key has come", func() bool {
		_, err := h.store.Login(t.Context(), token)
		return err == nil
	})
	must(t, h.store.DeleteKey(t.Context(), user.ID, key.ID))
	await(t, e.Store(), "the key is deleted", func() bool {
		_, err := e.Store().Login(t.Context(), token)
		return errors.Is(err, latchkey.ErrInvalidToken)
	})
	_ = stop()
}

func TestLastUsesReachTheHub(t *testing.T) {
	h := newHub(t, func(h *hub) { h.clock.now = time.Now() })
	key, token := addKey(t, h.store, "laptop", "")
	e := h.join(policy(replica.PushUse, "*"))
	wantLogin(t, "at the edge", e.Store(), token, nil)
	e.sync()
	if got := get[latchkey.Key](t)(h.store.KeyByID(t.Context(), key.ID)); got.LastUsed.IsZero() {
		t.Error("the hub does not know that the key was used")
	}
}

func TestTheHookAndTheGateOfTheProgramAreCalled(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e := newEdge(t)
	var changes []latchkey.Action
	closed := errors.New("closed for lunch")
	gate := error(nil)
	e.options.Store.OnChange = func(_ *latchkey.Tx, c latchkey.Change) error {
		changes = append(changes, c.Actions...)
		return nil
	}
	e.options.Store.Gate = func() error { return gate }
	e.options.Staleness = replica.Strict(time.Hour)
	e.join(h.url, h.invite(everything()))
	wantLogin(t, "with the gate open", e.Store(), token, nil)
	gate = closed
	wantLogin(t, "with the gate closed", e.Store(), token, closed)
	changes = nil
	must(t, e.Store().DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	if len(changes) != 1 || changes[0] != latchkey.ActionKeyDisabled {
		t.Errorf("the hook heard of %v", changes)
	}
}

func TestTheHubKnowsHowManyEdgesHaveConfirmedARevocation(t *testing.T) {
	h := newHub(t, nil)
	key, _ := addKey(t, h.store, "laptop", "")
	first, _ := h.join(everything()), h.join(everything())
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	var sequence uint64
	must(t, h.store.View(t.Context(), func(tx *latchkey.Tx) error { sequence = tx.Sequence(); return nil }))
	want := func(what string, wantHave int) {
		t.Helper()
		have, all, err := h.Confirmed(t.Context(), sequence)
		if err != nil || have != wantHave || all != 2 {
			t.Errorf("%s: %d of %d edges have confirmed, %v; want %d of 2", what, have, all, err, wantHave)
		}
	}
	want("before", 0)
	first.sync()
	want("after one edge has synced", 1)
}
