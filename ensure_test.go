package latchkey_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// wantEnsured ensures a key, and fails the test unless the key then has what spec says.
func wantEnsured(t *testing.T, s *latchkey.Store, owner uuid.UUID, spec latchkey.KeySpec, minted latchkey.MintedKey, wantChanged bool) latchkey.Key {
	t.Helper()
	before, err := s.Stats(t.Context())
	must(t, err)
	ensure := func() (latchkey.Key, bool, error) {
		if owner == latchkey.ServerOwner {
			return s.EnsureServerKey(t.Context(), spec, minted)
		}
		return s.EnsureKey(t.Context(), owner, spec, minted)
	}
	key, changed, err := ensure()
	must(t, err)
	after, err := s.Stats(t.Context())
	must(t, err)
	if changed != wantChanged || (after.Sequence != before.Sequence) != wantChanged {
		t.Errorf("changed %t, and %d commits; want %t", changed, after.Sequence-before.Sequence, wantChanged)
	}
	stored, err := s.Key(t.Context(), owner, minted.ID())
	must(t, err)
	if !reflect.DeepEqual(key, stored) {
		t.Errorf("EnsureKey returned %+v, and the store has %+v", key, stored)
	}
	got := latchkey.KeySpec{Name: key.Name, Expires: key.Expires, Scopes: key.Scopes, Networks: key.Networks, Metadata: key.Metadata, Group: key.Group}
	if !reflect.DeepEqual(got, spec) {
		t.Errorf("the key has %+v, want %+v", got, spec)
	}
	return key
}

func TestEnsuringAKeyMakesItOnceAndThenBringsItInLine(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	for _, owner := range []uuid.UUID{ada, latchkey.ServerOwner} {
		minted, token, err := s.MintKey(t.Context())
		must(t, err)
		spec := latchkey.KeySpec{Name: "laptop"}
		wantEnsured(t, s, owner, spec, minted, true)
		wantEnsured(t, s, owner, spec, minted, false)
		wantLogin(t, s, token, minted.ID())
		changes := []func(){
			func() { spec.Name = "desktop" },
			func() { spec.Expires = time.Now().Add(time.Hour).UTC().Truncate(time.Second) },
			func() { spec.Scopes = latchkey.NewScopes("files:read", "a") },
			func() { spec.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
			func() { spec.Networks = nil },
			func() { spec.Metadata = map[string]string{"site": "Turin"} },
			func() {
				if owner == latchkey.ServerOwner {
					spec.Group = "north"
				} else {
					spec.Name = "table"
				}
			},
			func() {
				spec = latchkey.KeySpec{Name: "all at once", Scopes: latchkey.NewScopes("b")}
			},
		}
		for _, change := range changes {
			change()
			wantEnsured(t, s, owner, spec, minted, true)
			wantEnsured(t, s, owner, spec, minted, false)
		}
		who, err := s.Login(t.Context(), token)
		if must(t, err); !who.Scopes.Has("b") || who.Scopes.Has("a") || who.KeyName != "all at once" {
			t.Errorf("the login found %+v", who)
		}
	}
}

func TestEnsuringAKeyLeavesItDisabledAndDeleted(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	spec := latchkey.KeySpec{Name: "laptop"}
	wantEnsured(t, s, ada, spec, minted, true)
	must(t, s.DisableKey(t.Context(), ada, minted.ID()))
	wantEnsured(t, s, ada, spec, minted, false)
	_, err = s.Login(t.Context(), token)
	wantError(t, err, latchkey.ErrKeyDisabled)
	must(t, s.DeleteKey(t.Context(), ada, minted.ID()))
	wantNoChange(t, s, func() {
		_, changed, err := s.EnsureKey(t.Context(), ada, spec, minted)
		if wantError(t, err, latchkey.ErrKeyDeleted); changed {
			t.Error("the error came with a change")
		}
		_, _, err = s.EnsureServerKey(t.Context(), spec, minted)
		wantError(t, err, latchkey.ErrKeyDeleted)
	})
}

func TestEnsuringAKeyThatWasRotatedLeavesItsNewToken(t *testing.T) {
	s := open(t)
	minted, old, err := s.MintKey(t.Context())
	must(t, err)
	spec := latchkey.KeySpec{Name: "job"}
	wantEnsured(t, s, latchkey.ServerOwner, spec, minted, true)
	for _, r := range []latchkey.Rotation{{Overlap: time.Hour}, {}} {
		_, token, err := s.RotateServerKey(t.Context(), minted.ID(), r)
		must(t, err)
		wantEnsured(t, s, latchkey.ServerOwner, spec, minted, false)
		wantLogin(t, s, token, minted.ID())
	}
	_, err = s.Login(t.Context(), old)
	wantError(t, err, latchkey.ErrInvalidToken)
}

func TestEnsuringAKeyRefusesAnotherOwnerSecretOrDomain(t *testing.T) {
	s, stranger := open(t), open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	minted := mint(t, s)
	spec := latchkey.KeySpec{Name: "laptop"}
	wantEnsured(t, s, ada, spec, minted, true)
	parts := strings.SplitN(mint(t, s).Export(), "/", 4)
	parts[1] = minted.ID().String()
	secret, err := latchkey.ParseMintedKey(strings.Join(parts, "/"))
	must(t, err)
	wantNoChange(t, s, func() {
		for name, c := range map[string]struct {
			owner  uuid.UUID
			minted latchkey.MintedKey
			says   string
			want   error
		}{
			"another user":    {bob, minted, "another owner", latchkey.ErrInvalidMintedKey},
			"another secret":  {ada, secret, "another secret", latchkey.ErrInvalidMintedKey},
			"another domain":  {ada, mint(t, stranger), "it is of domain", latchkey.ErrInvalidMintedKey},
			"an empty key":    {ada, latchkey.MintedKey{}, "", latchkey.ErrInvalidMintedKey},
			"the server":      {latchkey.ServerOwner, minted, "", latchkey.ErrUserNotFound},
			"an unknown user": {uuid.New(), mint(t, s), "", latchkey.ErrUserNotFound},
		} {
			_, _, err := s.EnsureKey(t.Context(), c.owner, spec, c.minted)
			if wantError(t, err, c.want); !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: the error %q does not say %q", name, err, c.says)
			}
		}
		_, _, err := s.EnsureServerKey(t.Context(), spec, minted)
		wantError(t, err, latchkey.ErrInvalidMintedKey)
	})
}

func TestEnsuringAKeyRefusesWhatNoKeyCanHaveAndChangesNothing(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	addKey(t, s, ada, "phone")
	minted := mint(t, s)
	wantEnsured(t, s, ada, latchkey.KeySpec{Name: "laptop"}, minted, true)
	scopes := latchkey.NewScopes("new") // would change if only the bad part were refused
	wantNoChange(t, s, func() {
		for want, spec := range map[error]latchkey.KeySpec{
			latchkey.ErrInvalidName:     {Scopes: scopes},
			latchkey.ErrKeyNameTaken:    {Scopes: scopes, Name: "phone"},
			latchkey.ErrInvalidExpiry:   {Scopes: scopes, Name: "laptop", Expires: time.Now().Add(-time.Hour)},
			latchkey.ErrInvalidScope:    {Scopes: latchkey.NewScopes("a b"), Name: "desktop"},
			latchkey.ErrInvalidNetwork:  {Scopes: scopes, Name: "laptop", Networks: make([]netip.Prefix, 1)},
			latchkey.ErrInvalidMetadata: {Scopes: scopes, Name: "laptop", Metadata: map[string]string{"": "a"}},
			latchkey.ErrInvalidGroup:    {Scopes: scopes, Name: "laptop", Group: "north"},
		} {
			_, _, err := s.EnsureKey(t.Context(), ada, spec, minted)
			wantError(t, err, want)
			err = s.Update(t.Context(), func(tx *latchkey.Tx) error {
				_, _, err := tx.EnsureKey(ada, spec, minted)
				wantError(t, err, want)
				return err
			})
			wantError(t, err, want)
		}
	})
}

func TestEnsuringAKeyThatHasExpiredLeavesItsNameOrRevivesIt(t *testing.T) {
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	s := openWith(t, opts)
	ada := addUser(t, s, "ada")
	minted := mint(t, s)
	spec := latchkey.KeySpec{Name: "laptop", Expires: c.now().Add(time.Hour).UTC().Truncate(time.Second)}
	wantEnsured(t, s, ada, spec, minted, true)
	c.advance(2 * time.Hour)
	next, _ := addKey(t, s, ada, "laptop") // the expired key makes way
	key, changed, err := s.EnsureKey(t.Context(), ada, spec, minted)
	if must(t, err); changed || key.Name == "laptop" {
		t.Errorf("the expired key changed: %t; its name is %q", changed, key.Name)
	}
	spec.Expires = c.now().Add(time.Hour).UTC().Truncate(time.Second)
	_, _, err = s.EnsureKey(t.Context(), ada, spec, minted)
	wantError(t, err, latchkey.ErrKeyNameTaken)
	must(t, s.DeleteKey(t.Context(), ada, next.ID))
	wantEnsured(t, s, ada, spec, minted, true)
}

func TestTheHookHearsOfAnEnsuredKeyOnce(t *testing.T) {
	var heard []latchkey.Change
	opts := light()
	opts.OnChange = func(_ *latchkey.Tx, c latchkey.Change) error { heard = append(heard, c); return nil }
	s := openWith(t, opts)
	minted := mint(t, s)
	wantEnsured(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "job"}, minted, true)
	wantEnsured(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "job"}, minted, false)
	wantEnsured(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "night", Scopes: latchkey.NewScopes("a"), Group: "north"}, minted, true)
	if len(heard) != 2 || len(heard[1].Actions) != 3 {
		t.Errorf("the hook heard %+v, want two changes, the second one with three actions", heard)
	}
}
