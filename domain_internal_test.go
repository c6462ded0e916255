package latchkey

import (
	"testing"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestTokensUnderAnOldTagSecretAreGoodUntilItIsRetired(t *testing.T) {
	s := open(t, nil)
	oldKey, oldToken := addServerKey(t, s, "old")

	both := s.domain.tags.Add([16]byte{1, 2, 3})
	s = reopenWithTags(t, s, both) // accepted, so that other stores may begin to use it
	stillOld, stillOldToken := addServerKey(t, s, "still old")
	s = reopenWithTags(t, s, both.Set(1, record.TagUsed))
	newKey, newToken := addServerKey(t, s, "new")
	wantLogin(t, s, oldToken, oldKey.ID)
	wantLogin(t, s, stillOldToken, stillOld.ID)
	wantLogin(t, s, newToken, newKey.ID)

	s = reopenWithTags(t, s, both.Set(1, record.TagUsed).Set(0, record.TagRetired))
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
