package latchkey

import (
	"testing"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestTokensUnderAnOldTagSecretAreGoodUntilItIsRetired(t *testing.T) {
	s := open(t, nil)
	oldKey, oldToken := addServerKey(t, s, "old")

	both, _, err := s.domain.Tags.Add([16]byte{1, 2, 3}, s.now())
	must(t, err)
	s = reopenWithTags(t, s, both) // accepted, so that other stores may begin to use it
	stillOld, stillOldToken := addServerKey(t, s, "still old")
	used, err := both.Use(1, s.now())
	must(t, err)
	s = reopenWithTags(t, s, used)
	newKey, newToken := addServerKey(t, s, "new")
	wantLogin(t, s, oldToken, oldKey.ID)
	wantLogin(t, s, stillOldToken, stillOld.ID)
	wantLogin(t, s, newToken, newKey.ID)

	retired, err := used.Retire(0, s.now())
	must(t, err)
	s = reopenWithTags(t, s, retired)
	wantLogin(t, s, newToken, newKey.ID)
	wantRefused(t, s, oldToken, ErrInvalidToken)
	wantRefused(t, s, stillOldToken, ErrInvalidToken)
	if st := stats(t, s); st.Forged != 2 {
		t.Errorf("%d tokens were found forged, want 2", st.Forged)
	}
}

// reopenWithTags writes other tag secrets, and opens the store again.
func reopenWithTags(t *testing.T, s *Store, tags record.TagSecrets) *Store {
	t.Helper()
	plant(t, s, tableMeta, metaTags, record.Seal(tableMeta, metaTags, tags.Encode()))
	return reopen(t, s, nil)
}

func TestAStoreThatIsMadeInADomainKnowsThatAnotherStoreCanHaveItsKeys(t *testing.T) {
	s := open(t, nil)
	other := open(t, &Options{Domain: s.DomainSecrets()})
	if a, b := s.replica.Load().Shared, other.replica.Load().Shared; a || !b {
		t.Errorf("shared: %v and %v", a, b)
	}
	// So the token that a rotation ends does not come back from the other store.
	key, _ := addServerKey(t, other, "doorbell")
	_, _, err := other.RotateServerKey(t.Context(), key.ID, Rotation{})
	must(t, err)
	if k := storedKey(t, other, key.ID); len(k.Verifiers.All) != 2 {
		t.Errorf("the verifiers are %+v", k.Verifiers)
	}
}

func TestCheckFindsTagSecretsThatHaveFallenBack(t *testing.T) {
	s := open(t, nil)
	_, err := s.AddTagSecret(t.Context())
	must(t, err)
	wantSound(t, s)
	s = reopen(t, s, nil)
	must(t, s.UseTagSecret(t.Context(), 1))
	wantSound(t, s)
	for what, tags := range map[string]record.TagSecrets{
		"fallen back": {All: s.domain.Tags.All[:1]}, "of another store": record.FirstTagSecret([16]byte{1}),
	} {
		plant(t, s, tableMeta, metaTags, record.Seal(tableMeta, metaTags, tags.Encode()))
		findings := 0
		for range s.Check(t.Context()) {
			findings++
		}
		if findings != 1 {
			t.Errorf("%s: %d findings, want 1", what, findings)
		}
	}
}
