package replication_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

func TestAClaimWaitsUntilItIsConfirmedOrRefused(t *testing.T) {
	for _, confirm := range []bool{true, false} {
		s := newScene(t, replication.PushNothing, replication.HubOptions{})
		must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
		must(t, s.e.DeleteKey(t.Context(), record.ServerOwner, s.server.ID))
		claims := []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:]), s.e.copy(record.TableDeadKeys, s.server.ID[:])}
		for range 2 { // which is no second claim
			if why := s.e.push(replication.PushRequest{Claims: claims}); why != "" {
				t.Fatal(why)
			}
		}
		s.w.open() // claims outlive the hub
		waiting, err := s.w.hub.Claims(t.Context())
		must(t, err)
		if len(waiting) != 2 || waiting[0].Number == waiting[1].Number || waiting[0].Edge != s.e.id || !waiting[0].Came.Equal(s.w.now) {
			t.Fatalf("the claims are %+v", waiting)
		}
		if !slices.Equal(waiting[0].Actions, []string{"key.disabled"}) || !slices.Equal(waiting[1].Actions, []string{"key.deleted"}) {
			t.Errorf("the claims are %q and %q", waiting[0].Actions, waiting[1].Actions)
		}
		if s.e.status().Claims != 2 {
			t.Errorf("the status has %d claims", s.e.status().Claims)
		}
		if k, err := s.w.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || k.Disabled {
			t.Errorf("a claim has effect at the hub: %+v, %v", k, err)
		}
		s.e.sync()
		if k, err := s.e.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || !k.Disabled {
			t.Errorf("a claim has no effect at the edge: %v", err)
		}
		s.e.compare(nil)
		if k, err := s.e.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || !k.Disabled {
			t.Errorf("after a comparison a claim has no effect at the edge: %v", err)
		}
		for _, c := range waiting {
			decide := s.w.hub.RefuseClaim
			if confirm {
				decide = s.w.hub.ConfirmClaim
			}
			must(t, decide(t.Context(), c.Number))
			if err := decide(t.Context(), c.Number); !errors.Is(err, replication.ErrNoClaim) {
				t.Errorf("deciding a second time: %v", err)
			}
		}
		s.w.open() // and so does a refusal
		s.e.sync()
		for name, store := range map[string]*site{"hub": s.w.site, "edge": s.e.site} {
			if k, err := store.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || k.Disabled != confirm {
				t.Errorf("confirm %v: at the %s the key is disabled: %v, %v", confirm, name, k.Disabled, err)
			}
			if _, err := store.Key(t.Context(), record.ServerOwner, s.server.ID); (err != nil) != confirm {
				t.Errorf("confirm %v: at the %s the server key: %v", confirm, name, err)
			}
		}
		// The hub tells a refusal once. A later change by the edge counts.
		must(t, s.w.SetUserMetadata(t.Context(), s.ada.ID, map[string]string{"a": "b"}))
		s.e.drain()
		s.e.got = nil
		s.e.feed.Close()
		s.e.sync()
		for _, m := range s.e.got {
			if _, ok := m.(replication.Replace); ok {
				t.Errorf("confirm %v: the edge is told again to take the hub's version", confirm)
			}
		}
	}
}

func TestAHubAcceptsDisablingsThatAreClaimed(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{AcceptClaims: true})
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	must(t, s.e.RenameKey(t.Context(), record.ServerOwner, s.server.ID, "other"))
	if why := s.e.push(replication.PushRequest{Claims: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:]), s.e.copy(record.TableKeys, s.server.ID[:])}}); why != "" {
		t.Fatal(why)
	}
	if k, err := s.w.Key(t.Context(), s.ada.ID, s.key.ID); err != nil || !k.Disabled {
		t.Errorf("the disabling is not accepted: %v", err)
	}
	waiting, err := s.w.hub.Claims(t.Context())
	if err != nil || len(waiting) != 1 || !slices.Equal(waiting[0].Actions, []string{"key.renamed"}) {
		t.Errorf("the claims are %+v, %v", waiting, err)
	}
}

func TestAClaimThatTheHubHasByNowIsGone(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	must(t, s.e.DisableKey(t.Context(), s.ada.ID, s.key.ID))
	if why := s.e.push(replication.PushRequest{Claims: []record.Copy{s.e.copy(record.TableKeys, s.key.ID[:])}}); why != "" {
		t.Fatal(why)
	}
	must(t, s.w.DeleteKey(t.Context(), s.ada.ID, s.key.ID))
	if waiting, err := s.w.hub.Claims(t.Context()); err != nil || len(waiting) > 0 {
		t.Errorf("the claims are %+v, %v", waiting, err)
	}
}

func TestTheClaimsOfAnEdgeHaveABound(t *testing.T) {
	s := newScene(t, replication.PushNothing, replication.HubOptions{})
	why := ""
	for n := 0; n < 200 && why == ""; n++ {
		id := uuid.Must(uuid.NewV7())
		u := record.User{ID: id, Created: day0}
		stamp := record.Stamp{Counter: 1, Replica: s.e.ReplicaID()}
		u.Groups = u.Groups.Set("north", stamp)
		message := record.Message(u.Encode())
		message.Bytes(99, make([]byte, 50_000))
		c := record.Copy{Domain: s.w.DomainID(), Table: record.TableUsers, Key: id[:], Sealed: record.Seal(record.TableUsers, id[:], message)}
		why = s.e.push(replication.PushRequest{Claims: []record.Copy{c}})
	}
	if waiting, err := s.w.hub.Claims(t.Context()); err != nil || len(waiting) != 83 || why == "" {
		t.Errorf("%d claims wait, %v: %q", len(waiting), err, why)
	}
}
