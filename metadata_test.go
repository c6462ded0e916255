package latchkey_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// fullSpec has something in every field of a KeySpec.
func fullSpec(name string, expires time.Time) latchkey.KeySpec {
	return latchkey.KeySpec{
		Name: name, Expires: expires, Scopes: latchkey.NewScopes("files:*", "mail:read"),
		Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		Metadata: map[string]string{"room": "4 ♥", "empty": ""},
	}
}

func TestAKeyAndAUserKeepWhatTheyWereMadeWith(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	userSpec := latchkey.UserSpec{Identity: email("ada"), Group: "plant 7", Metadata: map[string]string{"shift": "night"}}
	user, err := s.CreateUser(t.Context(), userSpec)
	must(t, err)
	keySpec := fullSpec("laptop", time.Now().Add(time.Hour).Truncate(time.Second))
	key, _, err := s.CreateKey(t.Context(), user.ID, keySpec)
	must(t, err)
	serverSpec := latchkey.KeySpec{Name: "backup", Group: "plant 7"}
	serverKey, _, err := s.CreateServerKey(t.Context(), serverSpec)
	must(t, err)

	if user.Group != userSpec.Group || !maps.Equal(user.Metadata, userSpec.Metadata) {
		t.Errorf("the user is %+v, want what is in %+v", user, userSpec)
	}
	if key.Scopes != keySpec.Scopes || !reflect.DeepEqual(key.Networks, keySpec.Networks) || !maps.Equal(key.Metadata, keySpec.Metadata) || key.Group != "" {
		t.Errorf("the key is %+v, want what is in %+v", key, keySpec)
	}
	if serverKey.Group != serverSpec.Group || !serverKey.Scopes.IsZero() || serverKey.Networks != nil || serverKey.Metadata != nil {
		t.Errorf("the server key is %+v, want what is in %+v", serverKey, serverSpec)
	}

	// Nobody changes the store by changing what it was given.
	keySpec.Networks[0], keySpec.Metadata["room"], userSpec.Metadata["shift"] = netip.Prefix{}, "5", "day"
	closeStore(t, s)
	s = openAt(t, path, light())
	must(t, s.RenameKey(t.Context(), user.ID, key.ID, "desktop"))
	key.Name = "desktop"
	gotUser, err := s.User(t.Context(), user.ID)
	must(t, err)
	gotKey, err := s.Key(t.Context(), user.ID, key.ID)
	must(t, err)
	gotServerKey, err := s.Key(t.Context(), latchkey.ServerOwner, serverKey.ID)
	must(t, err)
	for _, tt := range []struct{ got, want any }{{gotUser, user}, {gotKey, key}, {gotServerKey, serverKey}} {
		data, err := json.Marshal(tt.got)
		must(t, err)
		again := reflect.New(reflect.TypeOf(tt.got))
		must(t, json.Unmarshal(data, again.Interface()))
		if !reflect.DeepEqual(tt.got, tt.want) || !equalJSON(t, again.Interface(), tt.want) {
			t.Errorf("got %+v, in JSON %s, want %+v", tt.got, data, tt.want)
		}
	}
}

func TestAPrincipalHasWhatTheKeyCarries(t *testing.T) {
	s := open(t)
	user := addUser(t, s, "ada")
	_, err := s.LinkIdentity(t.Context(), user, email("lovelace"))
	must(t, err)
	spec := fullSpec("laptop", time.Now().Add(time.Hour).Truncate(time.Second))
	spec.Networks = nil
	_, token, err := s.CreateKey(t.Context(), user, spec)
	must(t, err)
	wantPrincipal := func(first string) {
		t.Helper()
		for _, login := range []string{"cold", "cached"} {
			who, err := s.Login(t.Context(), token)
			must(t, err)
			if who.Scopes != spec.Scopes || !who.Expires.Equal(spec.Expires) || who.Identity != email(first) {
				t.Errorf("%s: got %+v, want what is in %+v, and the identity %s", login, who, spec, first)
			}
			for name, want := range map[string]string{"room": "4 ♥", "empty": "", "shift": "", "": ""} {
				if got := who.Metadata(name); got != want {
					t.Errorf("%s: the metadata have %q under %q, want %q", login, got, name, want)
				}
			}
		}
	}
	wantPrincipal("ada")
	_, err = s.UnlinkIdentity(t.Context(), user, email("ada"))
	must(t, err)
	wantPrincipal("lovelace") // the first one now
}

func TestMetadataAreBounded(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = ""
		}
		return m
	}
	long := strings.Repeat("x", latchkey.MaxMetadataSize)
	for _, tt := range []struct {
		name     string
		metadata map[string]string
		want     error
	}{
		{"none", map[string]string{}, nil},
		{"as many as there can be", many(latchkey.MaxMetadata), nil},
		{"one more", many(latchkey.MaxMetadata + 1), latchkey.ErrInvalidMetadata},
		{"as long as they can be", map[string]string{"a": long[1:]}, nil},
		{"one byte more", map[string]string{"a": long}, latchkey.ErrInvalidMetadata},
		{"one byte more in two entries", map[string]string{"a": long[:2000], "b": long[2001:]}, latchkey.ErrInvalidMetadata},
		{"any text", map[string]string{" x ": "\x00\n ♥"}, nil},
		{"an empty name", map[string]string{"": "x"}, latchkey.ErrInvalidMetadata},
		{"a name with a control character", map[string]string{"a\nb": "x"}, latchkey.ErrInvalidMetadata},
		{"a long name", map[string]string{long[:257]: "x"}, latchkey.ErrInvalidMetadata},
		{"a name that is not UTF-8", map[string]string{"\xff": "x"}, latchkey.ErrInvalidMetadata},
		{"a value that is not UTF-8", map[string]string{"x": "\xff"}, latchkey.ErrInvalidMetadata},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(tt.name), Metadata: tt.metadata})
			wantError(t, err, tt.want)
			key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: tt.name, Metadata: tt.metadata})
			wantError(t, err, tt.want)
			another, _ := addKey(t, s, latchkey.ServerOwner, tt.name+", set later")
			wantError(t, s.SetMetadata(t.Context(), latchkey.ServerOwner, another.ID, tt.metadata), tt.want)
			wantError(t, s.SetUserMetadata(t.Context(), ada, tt.metadata), tt.want)
			if tt.want != nil {
				return
			}
			if !maps.Equal(user.Metadata, tt.metadata) || !maps.Equal(key.Metadata, tt.metadata) {
				t.Errorf("the user has %q and the key %q, want %q", user.Metadata, key.Metadata, tt.metadata)
			}
			who, err := s.Login(t.Context(), token)
			must(t, err)
			for name, want := range tt.metadata {
				if got := who.Metadata(name); got != want {
					t.Errorf("the principal has %q under %q, want %q", got, name, want)
				}
			}
		})
	}
}

func TestMetadataAreReplacedWhole(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "laptop")
	for _, metadata := range []map[string]string{{"room": "4", "shift": "night"}, {"floor": "2"}, nil} {
		given := maps.Clone(metadata)
		must(t, s.SetMetadata(t.Context(), ada, key.ID, given))
		must(t, s.SetUserMetadata(t.Context(), ada, given))
		if given != nil {
			given["room"] = "changed"
		}
		key.Metadata = metadata
		if got := keyOf(t, s, ada, key.ID); !reflect.DeepEqual(got, key) {
			t.Errorf("the key is %+v, want %+v", got, key)
		}
		if got, err := s.User(t.Context(), ada); err != nil || !reflect.DeepEqual(got.Metadata, metadata) {
			t.Errorf("the user has %q, %v, want %q", got.Metadata, err, metadata)
		}
		if who, err := s.Login(t.Context(), token); err != nil || who.Metadata("room") != metadata["room"] {
			t.Errorf("logged in with %q, %v, want %q", who.Metadata("room"), err, metadata["room"])
		}
	}
	wantError(t, s.SetUserMetadata(t.Context(), key.ID, nil), latchkey.ErrUserNotFound)
}
