package latchkey_test

import (
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

var newCorpus = flag.String("new-corpus", "", "write testdata/stores/`NAME`.db and .json with this build; never overwrite one that was released")

// corpusFile says what a store in testdata/stores must have.
type corpusFile struct {
	Now    time.Time
	Users  []latchkey.User
	Gone   []latchkey.Identity // of deleted users
	Tokens []corpusToken
}

type corpusToken struct {
	Token   string
	Key     latchkey.Key // of a live key
	Refused string       // the reason why a login fails; empty if it succeeds
}

var corpusErrors = map[string]error{
	"invalid token": latchkey.ErrInvalidToken,
	"key disabled":  latchkey.ErrKeyDisabled,
	"key expired":   latchkey.ErrKeyExpired,
	"user disabled": latchkey.ErrUserDisabled,
	"not from here": latchkey.ErrNetworkNotAllowed,
}

func TestStoresOfEveryFormatOpen(t *testing.T) {
	if *newCorpus != "" {
		writeCorpus(t, filepath.Join("testdata", "stores", *newCorpus))
	}
	files, err := filepath.Glob("testdata/stores/*.json")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("testdata/stores is empty")
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".json")
		t.Run(filepath.Base(name), func(t *testing.T) { checkCorpus(t, name) })
	}
}

func checkCorpus(t *testing.T, name string) {
	data, err := os.ReadFile(name + ".json")
	must(t, err)
	var want corpusFile
	must(t, json.Unmarshal(data, &want))
	store, err := os.ReadFile(name + ".db")
	must(t, err)
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, os.WriteFile(path, store, 0o600))
	opts := &latchkey.Options{Cost: lightest, Now: func() time.Time { return want.Now }, TestClock: true}

	for _, how := range []string{"as it is", "after a write"} {
		s := openFile(t, path, opts)
		for _, user := range want.Users {
			got, err := s.UserByIdentity(t.Context(), user.Identities[0])
			must(t, err)
			if !equalJSON(t, got, user) {
				t.Errorf("%s: got user %+v, want %+v", how, got, user)
			}
		}
		for _, i := range want.Gone {
			_, err := s.UserByIdentity(t.Context(), i)
			wantError(t, err, latchkey.ErrUserNotFound)
		}
		for _, token := range want.Tokens {
			if token.Key.ID != uuid.Nil {
				key := keyOf(t, s, token.Key.Owner, token.Key.ID)
				if !equalJSON(t, key, token.Key) {
					t.Errorf("%s: got key %+v, want %+v", how, key, token.Key)
				}
			}
			if _, err := s.Login(t.Context(), token.Token); !errors.Is(err, corpusErrors[token.Refused]) {
				t.Errorf("%s: login with key %q: got %v, want %q", how, token.Key.Name, err, token.Refused)
			}
		}
		key, _ := addKey(t, s, latchkey.ServerOwner, "made by this build")
		must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
		closeStore(t, s)
	}
}

func equalJSON(t testing.TB, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	must(t, err)
	y, err := json.Marshal(b)
	must(t, err)
	return string(x) == string(y)
}

// writeCorpus makes a store that has some of everything that the format has.
func writeCorpus(t *testing.T, name string) {
	for _, suffix := range []string{".db", ".json"} {
		if _, err := os.Stat(name + suffix); err == nil {
			t.Fatalf("%s%s is there already", name, suffix)
		}
	}
	now := newClock()
	s := openFile(t, name+".db", &latchkey.Options{Cost: latchkey.LightCost, Now: now.now, TestClock: true})
	var want corpusFile
	add := func(owner uuid.UUID, n latchkey.KeySpec, refused string) latchkey.Key {
		create := func() (latchkey.Key, string, error) { return s.CreateKey(t.Context(), owner, n) }
		if owner == latchkey.ServerOwner {
			create = func() (latchkey.Key, string, error) { return s.CreateServerKey(t.Context(), n) }
		}
		key, token, err := create()
		must(t, err)
		want.Tokens = append(want.Tokens, corpusToken{Token: token, Key: key, Refused: refused})
		return key
	}
	for _, p := range []latchkey.Provider{
		latchkey.ProviderLocalUserpass, latchkey.ProviderCustomToken, latchkey.ProviderCustomFunction, latchkey.ProviderGoogle, latchkey.ProviderFacebook, latchkey.ProviderApple,
	} {
		user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: p, Subject: "Ada Lovelace ♥"}})
		must(t, err)
		add(user.ID, latchkey.KeySpec{Name: "Ada's laptop"}, "")
	}
	anonymous, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	linked, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	linked, err = s.LinkIdentity(t.Context(), linked.ID, email("linked@example.com"))
	must(t, err)

	disabled := add(linked.ID, latchkey.KeySpec{Name: "disabled"}, "key disabled")
	must(t, s.DisableKey(t.Context(), linked.ID, disabled.ID))
	restored := add(linked.ID, latchkey.KeySpec{Name: "restored"}, "")
	must(t, s.DisableKey(t.Context(), linked.ID, restored.ID))
	must(t, s.EnableKey(t.Context(), linked.ID, restored.ID))
	renamed := add(linked.ID, latchkey.KeySpec{Name: "renamed"}, "")
	must(t, s.RenameKey(t.Context(), linked.ID, renamed.ID, "another name"))
	add(linked.ID, latchkey.KeySpec{Name: "expired", Expires: now.now().Add(time.Minute)}, "key expired")
	add(linked.ID, latchkey.KeySpec{Name: "expires", Expires: now.now().AddDate(100, 0, 0)}, "")
	deleted := add(linked.ID, latchkey.KeySpec{Name: "deleted"}, "invalid token")
	must(t, s.DeleteKey(t.Context(), linked.ID, deleted.ID))
	add(linked.ID, latchkey.KeySpec{
		Name: "scoped", Scopes: latchkey.NewScopes("files:*", "mail:read"), Metadata: map[string]string{"room": "4 ♥"}}, "")
	add(linked.ID, latchkey.KeySpec{
		Name: "at home", Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}, "not from here")
	add(latchkey.ServerOwner, latchkey.KeySpec{Name: "server"}, "")
	add(latchkey.ServerOwner, latchkey.KeySpec{Name: "server of a group", Group: "plant 7"}, "")
	_, err = s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("member@example.com"), Group: "plant 7", Metadata: map[string]string{"shift": "night"}})
	must(t, err)
	locked := addUser(t, s, "locked@example.com")
	add(locked, latchkey.KeySpec{Name: "of a disabled user"}, "user disabled")
	must(t, s.DisableUser(t.Context(), locked))
	gone := addUser(t, s, "gone@example.com")
	add(gone, latchkey.KeySpec{Name: "of a deleted user"}, "invalid token")
	must(t, s.DeleteUser(t.Context(), gone))

	for user, err := range s.Users(t.Context(), uuid.Nil) {
		must(t, err)
		want.Users = append(want.Users, user)
	}
	if len(want.Users) != 10 || anonymous.ID == linked.ID {
		t.Fatalf("made %d users", len(want.Users))
	}
	want.Gone = []latchkey.Identity{email("gone@example.com")}
	for i := range want.Tokens {
		token := &want.Tokens[i]
		if token.Key, err = s.Key(t.Context(), token.Key.Owner, token.Key.ID); token.Refused == "invalid token" {
			wantError(t, err, latchkey.ErrKeyNotFound)
			continue
		}
		must(t, err)
	}
	now.advance(time.Hour)
	want.Now = now.now()
	closeStore(t, s)
	data, err := json.MarshalIndent(want, "", "\t")
	must(t, err)
	must(t, os.WriteFile(name+".json", append(data, '\n'), 0o600))
}
