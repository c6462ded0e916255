package tokenscan_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/latchkeytest"
	"github.com/latchkeydb/latchkey/tokenscan"
)

// create makes a server key.
func create(t testing.TB, s *latchkey.Store, spec latchkey.KeySpec) (latchkey.Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), spec)
	must(t, err)
	return key, token
}

// ask returns the answer of a store to the only token in a text.
func ask(t testing.TB, s *latchkey.Store, text string) (a tokenscan.Answer, err error) {
	t.Helper()
	found := 0
	for f, e := range tokenscan.FindTokens(strings.NewReader(text), "lk") {
		must(t, e)
		found++
		a, err = tokenscan.Ask(t.Context(), s, f)
	}
	if found != 1 {
		t.Fatalf("%d tokens were found", found)
	}
	return a, err
}

func TestAStoreTellsWhichTokensAreGood(t *testing.T) {
	s := latchkeytest.New(t)
	good, goodToken := create(t, s, latchkey.KeySpec{Name: "good"})
	disabled, disabledToken := create(t, s, latchkey.KeySpec{Name: "disabled"})
	must(t, s.DisableKey(t.Context(), disabled.Owner, disabled.ID))
	deleted, deletedToken := create(t, s, latchkey.KeySpec{Name: "deleted"})
	must(t, s.DeleteKey(t.Context(), deleted.Owner, deleted.ID))
	_, networkToken := create(t, s, latchkey.KeySpec{Name: "office", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	for _, tt := range []struct {
		name, token string
		state       tokenscan.State
		reason      error
	}{
		{"a good token", goodToken, tokenscan.Live, nil},
		{"a token of a disabled key", disabledToken, tokenscan.Refused, latchkey.ErrKeyDisabled},
		{"a token of a deleted key", deletedToken, tokenscan.Unknown, nil},
		{"a token that is good from a network", networkToken, tokenscan.Live, latchkey.ErrNetworkNotAllowed},
		{"a token of another store", sample(t), tokenscan.Unknown, nil},
	} {
		a, err := ask(t, s, "key: "+tt.token)
		must(t, err)
		if a.State != tt.state || a.Reason != tt.reason || (a.Principal.KeyID == good.ID) != (tt.token == goodToken) {
			t.Errorf("%s: got %+v", tt.name, a)
		}
	}
	must(t, s.Close())
	if a, err := ask(t, s, goodToken); a.State != "" || !errors.Is(err, latchkey.ErrClosed) {
		t.Errorf("a closed store says %+v, %v", a, err)
	}
}

func TestAskingLeavesNoTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	key, old := create(t, s, latchkey.KeySpec{Name: "laptop"})
	_, token, err := s.RotateServerKey(t.Context(), key.ID, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, err)
	must(t, s.Close())
	before, err := os.ReadFile(path)
	must(t, err)

	// The key has another cost than the store that is asked, so that a login would hash it anew.
	for _, readOnly := range []bool{true, false} {
		s, err = latchkey.Open(path, &latchkey.Options{ReadOnly: readOnly})
		must(t, err)
		// A login with the new token would end the old one.
		for _, good := range []string{token, old} {
			if a, err := ask(t, s, good); err != nil || a.State != tokenscan.Live || a.Principal.KeyID != key.ID {
				t.Errorf("got %+v, %v", a, err)
			}
		}
		must(t, s.Close())
		after, err := os.ReadFile(path)
		must(t, err)
		if string(before) != string(after) {
			t.Errorf("with ReadOnly %t, the file has changed", readOnly)
		}
	}
}
