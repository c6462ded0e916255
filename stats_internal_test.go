package latchkey

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/internal/tokenform"
)

func TestASecretThatIsNotTheKeysCountsAsUnknown(t *testing.T) {
	s := open(t, nil)
	key, _ := addServerKey(t, s, "laptop")
	// Only a holder of the tag secret can make this token.
	other := s.tokens.Load().Make(key.ID, [tokenform.SecretSize]byte{1})
	wantRefused(t, s, other, ErrInvalidToken)
	// The ID of the key's verifier does not begin like the hash of this secret, so that nothing is
	// hashed. The one hash is from the making of the key.
	if st := stats(t, s); st.Misses != 1 || st.Hashes != 1 || st.Unknown != 1 {
		t.Errorf("got %+v, want 1 miss, 1 hash and 1 unknown", st)
	}
	secret := [tokenform.SecretSize]byte{1}
	plantHint(t, s, key.ID, secret[:])
	wantRefused(t, s, other, ErrInvalidToken)
	if st := stats(t, s); st.Misses != 2 || st.Hashes != 2 || st.Unknown != 2 {
		t.Errorf("got %+v, want 2 misses, 2 hashes and 2 unknown", st)
	}
}

func TestAWrongSecretOfACachedKeyIsNoHit(t *testing.T) {
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	wantLogin(t, s, token, key.ID)
	wantRefused(t, s, s.tokens.Load().Make(key.ID, [tokenform.SecretSize]byte{1}), ErrInvalidToken)
	if st := stats(t, s); st.Hits != 0 || st.Misses != 2 || st.Unknown != 1 {
		t.Errorf("got %+v, want no hit, 2 misses and 1 unknown", st)
	}
	wantLogin(t, s, token, key.ID)
	if st := stats(t, s); st.Hits != 1 {
		t.Errorf("the right secret: %d hits, want 1", st.Hits)
	}
}

func TestABusyLoginCountsAsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &Options{Cost: LightCost, HashQueue: 1})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		giveBack := takePermits(t, s)
		first := loginAside(t.Context(), s, one)
		synctest.Wait()
		wantRefused(t, s, two, ErrBusy)
		if st := stats(t, s); st.Misses != 2 || st.Busy != 1 {
			t.Errorf("got %+v, want 2 misses and 1 busy", st)
		}
		giveBack()
		synctest.Wait()
		wantOutcome(t, first, nil)
	})
}

func TestHashWaitIsTheTimeThatCallersWaitedForAPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil)
		_, token := addServerKey(t, s, "laptop")
		giveBack := takePermits(t, s)
		for _, patience := range []time.Duration{3 * time.Second, 5 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := s.Login(ctx, token); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got error %v, want DeadlineExceeded", err)
			}
			cancel()
		}
		synctest.Wait()
		if st := stats(t, s); st.HashWait != 8*time.Second {
			t.Errorf("got %v, want 8s", st.HashWait)
		}
		giveBack()
	})
}
