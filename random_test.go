package latchkey_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestTheSameInsecureRandMakesTheSameStore(t *testing.T) {
	make := func(seed byte) (made []string) {
		c := newClock()
		s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, InsecureRand: rand.NewChaCha8([32]byte{seed}), Now: c.now, TestClock: true})
		ada := addUser(t, s, "ada")
		nobody, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
		must(t, err)
		made = append(made, s.DomainID().String(), ada.String(), nobody.ID.String())
		var requests []latchkey.KeyRequest
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			requests = append(requests, latchkey.KeyRequest{Owner: ada, KeySpec: latchkey.KeySpec{Name: name}})
		}
		keys, tokens, err := s.CreateKeys(t.Context(), requests, nil)
		must(t, err)
		for i, key := range keys {
			wantLogin(t, s, tokens[i], key.ID)
			made = append(made, key.ID.String(), tokens[i])
			if i > 0 && key.ID.String() <= keys[i-1].ID.String() {
				t.Errorf("key %d has ID %s, after %s", i, key.ID, keys[i-1].ID)
			}
		}
		return made
	}
	first := make(1)
	if again := make(1); !slices.Equal(first, again) {
		t.Errorf("got\n%q\nand then\n%q", first, again)
	}
	for i, other := range make(2) {
		if other == first[i] {
			t.Errorf("another source gives %s too", other)
		}
	}
}

func TestTheIDsOfOneMillisecondAreInTheOrderOfTheirMaking(t *testing.T) {
	c := newClock() // stands
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Now: c.now, TestClock: true})
	last := ""
	for range 100 {
		user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
		must(t, err)
		if id := user.ID.String(); id <= last {
			t.Fatalf("the ID %s comes after %s", id, last)
		}
		last = user.ID.String()
	}
}

func TestAnInsecureRandThatRepeatsItselfGivesNoIDTwice(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%t", deleted), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			c := newClock()
			reopen := func() *latchkey.Store {
				return openAt(t, path, &latchkey.Options{Cost: latchkey.LightCost, InsecureRand: rand.NewChaCha8([32]byte{1}), Now: c.now, TestClock: true})
			}
			anonymous := func(subject string) latchkey.UserSpec {
				return latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous, Subject: subject}}
			}
			closeStore(t, reopen()) // draws the secrets of the domain
			s := reopen()
			one, err := s.CreateUser(t.Context(), anonymous("one"))
			must(t, err)
			want := error(nil)
			if deleted {
				must(t, s.DeleteUser(t.Context(), one.ID))
				want = latchkey.ErrUserNotFound
			}
			closeStore(t, s)

			s = reopen()
			two, err := s.CreateUser(t.Context(), anonymous("two"))
			wantError(t, err, latchkey.ErrIdentityTaken)
			if two.ID != uuid.Nil {
				t.Errorf("the second user is %s", two.ID)
			}
			found, err := s.User(t.Context(), one.ID)
			wantError(t, err, want)
			if !deleted && !slices.Equal(found.Identities, one.Identities) {
				t.Errorf("the first user is %+v, want %+v", found, one)
			}
		})
	}
}

func TestAnInsecureRandThatFailsMakesNoStoreAndKeepsNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	opts := light()
	opts.InsecureRand = iotest.ErrReader(errors.New("no entropy"))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the store was made without secrets")
			}
		}()
		_, _ = latchkey.TryOpen(t, path, opts)
	}()
	closeStore(t, openAt(t, path, &latchkey.Options{Cost: latchkey.LightCost, LockTimeout: -1}))
}
