package latchkey_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/latchkeydb/latchkey"
)

func TestOneSourceOfChanceMakesTheSameStore(t *testing.T) {
	make := func(seed byte) (made []string) {
		c := newClock()
		s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Rand: rand.NewChaCha8([32]byte{seed}), Now: c.now})
		ada := addUser(t, s, "ada")
		nobody, err := s.CreateUser(t.Context(), latchkey.NewUser{Identity: latchkey.Identity{Provider: latchkey.AnonUser}})
		must(t, err)
		made = append(made, s.DomainID().String(), ada.String(), nobody.ID.String())
		var requests []latchkey.NewKeyFor
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			requests = append(requests, latchkey.NewKeyFor{Owner: ada, NewKey: latchkey.NewKey{Name: name}})
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

func TestASourceOfChanceThatFailsMakesNoStore(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the store was made without secrets")
		}
	}()
	opts := light()
	opts.Rand = iotest.ErrReader(errors.New("no entropy"))
	openWith(t, opts)
}
