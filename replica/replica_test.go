package replica_test

import (
	"context"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

func TestAnEdgeChecksTheTokensOfItsHub(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	wantLogin(t, "after the first copy", e.Store(), token, nil)
	if s := e.Status(); !s.Copied || s.Domain != h.store.DomainID() || s.HubURL != h.url {
		t.Errorf("the status of the edge is %+v", s)
	}
	_, later := addKey(t, h.store, "phone", "")
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	e.sync()
	wantLogin(t, "a key that was made later", e.Store(), later, nil)
	wantLogin(t, "a key that was disabled later", e.Store(), token, latchkey.ErrKeyDisabled)
}

func TestAnEdgeThatFollowsHearsOfARevocationAtOnce(t *testing.T) {
	h := newHub(t, nil)
	key, token := addKey(t, h.store, "laptop", "")
	e := h.join(everything())
	stop := e.follow()
	must(t, h.store.DisableKey(t.Context(), latchkey.ServerOwner, key.ID))
	await(t, e.Store(), "the key is disabled", func() bool {
		k, err := e.Store().KeyByID(t.Context(), key.ID)
		return err == nil && k.Disabled
	})
	wantLogin(t, "after the revocation", e.Store(), token, latchkey.ErrKeyDisabled)
	wantErr(t, "Follow", stop(), context.Canceled)
}

func TestAnEdgeGetsItsGroupsAlone(t *testing.T) {
	h := newHub(t, nil)
	_, north := addKey(t, h.store, "n", "north")
	_, south := addKey(t, h.store, "s", "south")
	_, none := addKey(t, h.store, "x", "")
	e := h.join(replica.Policy{Groups: []string{"north"}})
	wantLogin(t, "a key of the group", e.Store(), north, nil)
	wantLogin(t, "a key of another group", e.Store(), south, latchkey.ErrInvalidToken)
	wantLogin(t, "a key of no group", e.Store(), none, latchkey.ErrInvalidToken)
	must(t, h.SetPolicy(t.Context(), e.Status().Edge, replica.Policy{Groups: []string{"south"}}))
	e.sync()
	wantLogin(t, "a key of the former group", e.Store(), north, latchkey.ErrInvalidToken)
	wantLogin(t, "a key of the new group", e.Store(), south, nil)
}
