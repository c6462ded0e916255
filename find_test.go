package latchkey_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestAKeyIsFoundByItsIDWithItsOwner(t *testing.T) {
	s := open(t)
	key, _ := addKey(t, s, addUser(t, s, "ada"), "laptop")
	server, _ := addKey(t, s, latchkey.ServerOwner, "door")
	for _, want := range []latchkey.Key{key, server} {
		got, err := s.KeyByID(t.Context(), want.ID)
		if err != nil || got.Owner != want.Owner || got.Name != want.Name {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	must(t, s.DeleteKey(t.Context(), key.Owner, key.ID))
	for _, id := range []uuid.UUID{key.ID, key.Owner, uuid.Nil, latchkey.ServerOwner} {
		got, err := s.KeyByID(t.Context(), id)
		wantError(t, err, latchkey.ErrKeyNotFound)
		if got.ID != uuid.Nil {
			t.Errorf("%s: got %+v beside the error", id, got)
		}
	}
}

// wantNames fails the test unless keys has the keys with these names, in the order of their IDs.
func wantNames(t testing.TB, keys iter.Seq2[latchkey.Key, error], want ...string) {
	t.Helper()
	var got []string
	var last uuid.UUID
	for k, err := range keys {
		must(t, err)
		if bytes.Compare(k.ID[:], last[:]) <= 0 {
			t.Errorf("key %s comes after %s", k.ID, last)
		}
		last = k.ID
		got = append(got, k.Name)
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("got the keys %q, want %q", got, want)
	}
}

func TestAllKeysListsTheKeysThatAgreeWithTheFilter(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return now }, TestClock: true})
	ada, bob, eve := addMember(t, s, "ada", "acme"), addMember(t, s, "bob", "umbrella"), addMember(t, s, "eve", "acme")
	add := func(owner uuid.UUID, n latchkey.KeySpec) latchkey.Key {
		key, _, err := createKey(t.Context(), s, owner, n)
		must(t, err)
		return key
	}
	server := latchkey.ServerOwner
	add(ada, latchkey.KeySpec{Name: "laptop"})
	add(ada, latchkey.KeySpec{Name: "phone", Expires: now.Add(time.Hour)})
	add(bob, latchkey.KeySpec{Name: "laptop bob", Expires: now.Add(48 * time.Hour)})
	off := add(bob, latchkey.KeySpec{Name: "off", Expires: now.Add(3 * time.Hour)})
	must(t, s.DisableKey(t.Context(), bob, off.ID))
	add(server, latchkey.KeySpec{Name: "door", Group: "acme", Expires: now.Add(24 * time.Hour)})
	add(server, latchkey.KeySpec{Name: "lamp"})
	gone := add(server, latchkey.KeySpec{Name: "gone", Group: "acme"})
	must(t, s.DeleteKey(t.Context(), server, gone.ID))
	oldOff := add(server, latchkey.KeySpec{Name: "off too", Group: "umbrella", Expires: now.Add(time.Hour)})
	must(t, s.DisableKey(t.Context(), server, oldOff.ID))
	now = now.Add(2 * time.Hour)
	all := []string{"laptop", "phone", "laptop bob", "off", "door", "lamp", "off too"}

	type filter = latchkey.KeyFilter
	for _, tt := range []struct {
		filter filter
		want   []string
	}{
		{filter{}, all},
		{filter{Owner: ada}, []string{"laptop", "phone"}},
		{filter{Owner: eve}, nil},
		{filter{Owner: uuid.New()}, nil},
		{filter{Owner: gone.ID}, nil},
		{filter{Owner: oldOff.ID}, nil}, // a key owns nothing
		{filter{Owner: server}, []string{"door", "lamp", "off too"}},
		{filter{Group: "acme"}, []string{"laptop", "phone", "door"}},
		{filter{Group: "umbrella"}, []string{"laptop bob", "off", "off too"}},
		{filter{Group: "acm"}, nil},
		{filter{Group: strings.Repeat("n", 1000)}, nil},
		{filter{Group: "acme", Owner: server}, []string{"door"}},
		{filter{Group: "acme", Owner: bob}, nil},
		{filter{NamePrefix: "laptop"}, []string{"laptop", "laptop bob"}},
		{filter{NamePrefix: "laptop", Owner: bob}, []string{"laptop bob"}},
		{filter{NamePrefix: "x"}, nil},
		{filter{State: latchkey.KeyEnabled}, []string{"laptop", "laptop bob", "door", "lamp"}},
		{filter{State: latchkey.KeyDisabled}, []string{"off", "off too"}},
		{filter{State: latchkey.KeyExpired}, []string{"phone", "off too"}},
		{filter{State: latchkey.KeyExpired, Group: "acme"}, []string{"phone"}},
		{filter{ExpiringBefore: now}, nil},
		{filter{ExpiringBefore: now.Add(time.Hour)}, []string{"off"}},
		{filter{ExpiringBefore: now.Add(22*time.Hour - 1)}, []string{"off"}},
		{filter{ExpiringBefore: now.Add(22 * time.Hour)}, []string{"off", "door"}},
		{filter{ExpiringBefore: now.Add(9999 * time.Hour), State: latchkey.KeyEnabled}, []string{"laptop bob", "door"}},
	} {
		t.Run(fmt.Sprintf("%+v", tt.filter), func(t *testing.T) {
			wantNames(t, s.AllKeys(t.Context(), tt.filter, uuid.Nil), tt.want...)
			must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
				wantNames(t, tx.AllKeys(tt.filter, uuid.Nil), tt.want...)
				return nil
			}))
		})
	}
	wantNames(t, s.ExpiringBefore(t.Context(), now.Add(22*time.Hour)), "off", "door")
}

func TestAllKeysGoesOnAfterAnyKey(t *testing.T) {
	s := open(t)
	ada := addMember(t, s, "ada", "acme")
	addNumberedKeys(t, s, ada, 0, 3)
	addNumberedKeys(t, s, latchkey.ServerOwner, 0, 3)
	for _, f := range []latchkey.KeyFilter{{}, {Owner: ada}, {Group: "acme"}} {
		var all []uuid.UUID
		for k, err := range s.AllKeys(t.Context(), f, uuid.Nil) {
			must(t, err)
			all = append(all, k.ID)
		}
		if len(all) < 3 {
			t.Fatalf("%+v: %d keys", f, len(all))
		}
		for i, after := range all {
			rest := s.AllKeys(t.Context(), f, after)
			for range 2 { // a loop can be run again
				var got []uuid.UUID
				for k, err := range rest {
					must(t, err)
					got = append(got, k.ID)
				}
				if !slices.Equal(got, all[i+1:]) {
					t.Errorf("%+v, after key %d: got %v, want %v", f, i, got, all[i+1:])
				}
			}
		}
	}
}

// More keys than a page has are read in several transactions, also if the filter lists few of them.
func TestAllKeysReadsManyKeysInShortTransactionsAndLetsTheLoopWrite(t *testing.T) {
	e := &countingViews{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	const users = 600
	minted, _, err := s.MintKeys(t.Context(), users, nil)
	must(t, err)
	updateEach(t, s, users, func(tx *latchkey.Tx, i int) error {
		u, err := tx.CreateUser(latchkey.UserSpec{Identity: email(fmt.Sprint(i)), Group: "acme"})
		if err != nil {
			return err
		}
		_, err = tx.InsertKey(u.ID, latchkey.KeySpec{Name: fmt.Sprintf("key %03d", i)}, minted[i])
		return err
	})
	for _, f := range []latchkey.KeyFilter{{}, {Group: "acme"}, {NamePrefix: "key 5"}} {
		e.views = 0
		n := 0
		for k, err := range s.AllKeys(t.Context(), f, uuid.Nil) {
			must(t, err)
			if n++; n%100 == 1 {
				must(t, s.RenameKey(t.Context(), k.Owner, k.ID, k.Name+"!"))
			}
		}
		want := users
		if f.NamePrefix != "" {
			want = 100
		}
		if n != want {
			t.Errorf("%+v: %d keys, want %d", f, n, want)
		}
		if e.views < users/256+1 {
			t.Errorf("%+v: %d keys were read in %d transactions", f, users, e.views)
		}
	}
}

// countingViews counts read transactions.
type countingViews struct {
	latchkey.Engine
	views int
}

func (e *countingViews) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	e.views++
	return e.Engine.View(ctx, fn)
}
