package manifest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// Random manifests are applied to a store that administrators change in between. A model, which is
// a few maps, says what the store must have then.

func TestRandomManifestsBringTheStoreInLine(t *testing.T) {
	for seed := range uint64(16) {
		for _, most := range []int{1 << 20, 16} {
			t.Run(fmt.Sprintf("seed=%d/writes in a transaction=%d", seed, most), func(t *testing.T) {
				w := newApplyWorld(t, seed, most)
				for range 25 {
					for range w.random.IntN(4) {
						w.administer()
					}
					if !w.apply(w.draw(), most > 16) {
						return
					}
				}
			})
		}
	}
}

const applyMaxKeys = 3

// applyWorld is a store, and what the model knows of it.
type applyWorld struct {
	*testing.T
	random *rand.Rand
	now    time.Time
	s      *latchkey.Store
	mints  []latchkey.MintedKey // for three users and the server in turn

	ever map[uuid.UUID]bool   // all keys that there were
	by   map[uuid.UUID]string // the name of the manifest for which a user or a key was made
}

// applyState has the users and the keys of a store.
type applyState struct {
	users map[latchkey.Identity]latchkey.User
	keys  map[uuid.UUID]latchkey.Key
}

func newApplyWorld(t *testing.T, seed uint64, most int) *applyWorld {
	e, err := latchkey.OpenBoltEngine(filepath.Join(t.TempDir(), "keys.db"), nil)
	must(t, err)
	w := &applyWorld{
		T: t, random: rand.New(rand.NewPCG(seed, 0)), now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
		ever: map[uuid.UUID]bool{}, by: map[uuid.UUID]string{},
	}
	w.s, err = latchkey.OpenWith(bounded{e, most}, &latchkey.Options{
		Cost: latchkey.LightCost, MaxKeysPerUser: applyMaxKeys, Now: func() time.Time { return w.now }, TestClock: true,
		InsecureRand: rand.NewChaCha8([32]byte{byte(seed)}), // the same IDs each time
	})
	must(t, err)
	t.Cleanup(func() { must(t, w.s.Close()) })
	w.mints, _, err = w.s.MintKeys(t.Context(), 16, nil)
	must(t, err)
	return w
}

func applyIdentity(i int) latchkey.Identity {
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: fmt.Sprintf("user%d@example.com", i)}
}

// state reads the store.
func (w *applyWorld) state() applyState {
	a := applyState{map[latchkey.Identity]latchkey.User{}, map[uuid.UUID]latchkey.Key{}}
	for u, err := range w.s.Users(w.Context(), uuid.Nil) {
		must(w, err)
		a.users[u.Identities[0]] = u
	}
	for k, err := range w.s.AllKeys(w.Context(), latchkey.KeyFilter{}, uuid.Nil) {
		must(w, err)
		a.keys[k.ID] = k
		w.ever[k.ID] = true
	}
	return a
}

// administer makes a change that has nothing to do with a manifest. It may be refused.
func (w *applyWorld) administer() {
	ctx, have := w.Context(), w.state()
	user := have.users[applyIdentity(w.random.IntN(3))].ID
	ids := slices.SortedFunc(maps.Keys(have.keys), func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	var key latchkey.Key
	if len(ids) > 0 {
		key = have.keys[ids[w.random.IntN(len(ids))]]
	}
	switch w.random.IntN(10) {
	case 0, 1:
		w.now = w.now.Add(24 * time.Hour)
	case 2:
		_, _ = w.s.CreateUser(ctx, latchkey.UserSpec{Identity: applyIdentity(w.random.IntN(3))})
	case 3:
		_ = w.s.DisableUser(ctx, user)
	case 4:
		if w.random.IntN(3) == 0 {
			_ = w.s.DeleteUser(ctx, user)
		}
	case 5:
		_, _, _ = w.s.CreateKey(ctx, user, latchkey.KeySpec{Name: "shared", Expires: w.now.Add(36 * time.Hour)})
	case 6:
		_ = w.s.DisableKey(ctx, key.Owner, key.ID)
	case 7:
		_ = w.s.EnableKey(ctx, key.Owner, key.ID)
	case 8:
		if w.random.IntN(3) == 0 {
			_ = w.s.DeleteKey(ctx, key.Owner, key.ID)
		}
	case 9:
		_ = w.s.Update(ctx, func(tx *latchkey.Tx) error { return tx.RenameKey(key.Owner, key.ID, "renamed") })
	}
}

// draw returns the text of a random manifest.
func (w *applyWorld) draw() string {
	var text strings.Builder
	one := func(lines ...string) string { return lines[w.random.IntN(len(lines))] }
	keys := func(owner int, indent string) {
		names := map[string]bool{}
		for i := owner; i < len(w.mints); i += 4 {
			if w.random.IntN(3) == 0 {
				continue
			}
			day := fmt.Sprintf("expires: %s", w.now.AddDate(0, 0, w.random.IntN(4)-1).Format(time.DateOnly))
			group, name := "", one(fmt.Sprint("key ", i), "shared", "common")
			if names[name] {
				continue
			}
			names[name] = true
			if owner == 3 {
				group = one("", "", "group: north")
			}
			fmt.Fprintf(&text, "%s- minted: %s\n", indent, w.mints[i].Export())
			for _, line := range []string{
				"name: " + name, one("", "", day, "expires: never"), group,
				one("", "scopes: [read]", "scopes: ['*']"), one("", "networks: [10.0.0.0/8]"), one("", "metadata: {a: b}"),
				one("", "", "disabled: true", "disabled: false"),
			} {
				if line != "" {
					fmt.Fprintf(&text, "%s  %s\n", indent, line)
				}
			}
		}
	}
	fmt.Fprintf(&text, "domain: %s\nmanifest: %s\nusers:\n", w.s.DomainID(), one("site", "site", "other"))
	for i := range 3 {
		if w.random.IntN(4) == 0 {
			continue
		}
		fmt.Fprintf(&text, "  - identity: %s\n", applyIdentity(i).Subject)
		for _, line := range []string{
			one("", "group: ''", "group: north"), one("", "metadata: {}", "metadata: {a: b}"), one("", "", "disabled: true", "disabled: false"),
		} {
			if line != "" {
				fmt.Fprintf(&text, "    %s\n", line)
			}
		}
		fmt.Fprint(&text, "    keys:\n")
		keys(i, "      ")
	}
	fmt.Fprint(&text, "server_keys:\n")
	keys(3, "  ")
	return text.String()
}

// apply applies a manifest, first as a dry run, and then twice. It reports whether the world can go
// on: after an error, steps that were taken in transactions of their own stay.
func (w *applyWorld) apply(text string, whole bool) bool {
	m, err := Parse([]byte(text))
	if err != nil {
		w.Fatalf("%v\n%s", err, text)
	}
	prune := w.random.IntN(3) == 0
	run := func(dryRun bool) ([]Change, error) {
		return m.Apply(w.Context(), w.s, Options{Prune: prune, DryRun: dryRun})
	}
	before := w.state()
	after, wantErrs := w.play(before, m, prune)
	var dry []Change
	var dryErr error
	if whole {
		dry, dryErr = run(true)
		w.want(text, "a dry run", w.state(), before)
	}
	changes, err := run(false)
	if (err == nil) != (wantErrs == nil) || err != nil && !slices.ContainsFunc(wantErrs, func(want error) bool { return errors.Is(err, want) }) {
		w.Fatalf("apply returned %v, want one of %v\n%s", err, wantErrs, text)
	}
	if err != nil {
		if !strings.Contains(err.Error(), "line ") {
			w.Errorf("the error %q names no line", err)
		}
		if whole {
			w.want(text, "an error", w.state(), before)
		}
		return whole
	}
	have := w.state()
	// The IDs of new users, the times and the tokens are not in the manifest.
	made := map[uuid.UUID]uuid.UUID{}
	for identity, u := range after.users {
		got := have.users[identity]
		made[u.ID] = got.ID
		u.ID, u.Created, u.Disablings = got.ID, got.Created, got.Disablings
		after.users[identity] = u
	}
	for id, k := range after.keys {
		got := have.keys[id]
		k.Created, k.Disablings, k.Tokens = got.Created, got.Disablings, got.Tokens
		if k.Owner != latchkey.ServerOwner {
			k.Owner = made[k.Owner]
		}
		after.keys[id] = k
	}
	w.want(text, "apply", have, after)
	w.remember(m, have)
	if whole && (dryErr != nil || len(dry) != len(changes)) {
		w.Errorf("the dry run told %v, %v, and apply %v", dry, dryErr, changes)
	}
	w.told(changes, before, have)
	if again, err := run(false); err != nil || len(again) > 0 {
		w.Errorf("the second run changed %v, %v\n%s", again, err, text)
	}
	return !w.Failed()
}

func (w *applyWorld) want(text, what string, got, want applyState) {
	if !reflect.DeepEqual(got, want) {
		w.Fatalf("after %s the store has\n%+v\nwant\n%+v\n%s", what, got, want, text)
	}
}

// told checks that the changes are those of the store.
func (w *applyWorld) told(changes []Change, before, after applyState) {
	w.Helper()
	told := map[uuid.UUID]string{}
	for _, c := range changes {
		told[c.ID] = c.Action
	}
	tell := func(id uuid.UUID, was, is bool, same bool) {
		want := map[[2]bool]string{{false, true}: "create", {true, false}: "delete", {true, true}: "change"}[[2]bool{was, is}]
		if same {
			want = ""
		}
		if told[id] != want {
			w.Errorf("apply told the change %q of %s, want %q", told[id], id, want)
		}
	}
	for identity, u := range before.users {
		now, is := after.users[identity]
		tell(u.ID, true, is, reflect.DeepEqual(u, now))
	}
	for identity, u := range after.users {
		if _, was := before.users[identity]; !was {
			tell(u.ID, false, true, false)
		}
	}
	for id, k := range before.keys {
		if now, is := after.keys[id]; !strings.Contains(now.Name, "~") { // not a key that made way
			tell(id, true, is, reflect.DeepEqual(k, now))
		}
	}
	for id := range after.keys {
		if _, was := before.keys[id]; !was {
			tell(id, false, true, false)
		}
	}
}

// remember notes for which manifest users and keys were made.
func (w *applyWorld) remember(m *Manifest, have applyState) {
	for _, u := range m.Users {
		if id := have.users[u.identity].ID; w.by[id] == "" && !w.ever[id] {
			w.by[id] = m.Name
		}
		for _, k := range u.Keys {
			w.by[k.minted.ID()] = m.Name
		}
	}
	for _, k := range m.ServerKeys {
		w.by[k.minted.ID()] = m.Name
	}
	for _, u := range have.users {
		w.ever[u.ID] = true
	}
}

// play returns what a store has after a manifest, or the errors of which apply may return each.
func (w *applyWorld) play(have applyState, m *Manifest, prune bool) (applyState, []error) {
	a := applyState{maps.Clone(have.users), maps.Clone(have.keys)}
	for _, u := range have.users {
		w.ever[u.ID] = true
	}
	if prune {
		maps.DeleteFunc(a.keys, func(id uuid.UUID, _ latchkey.Key) bool { return w.by[id] == m.Name && !m.has(id) })
	}
	for _, e := range m.Users {
		u, exists := a.users[e.identity]
		if !exists {
			u = latchkey.User{ID: uuid.New(), Identities: []latchkey.Identity{e.identity}}
		}
		if e.Group != nil {
			u.Group = *e.Group
		}
		if e.Metadata != nil {
			u.Metadata = nilIfEmpty(e.Metadata)
		}
		if e.Disabled != nil {
			u.Disabled = *e.Disabled
		}
		a.users[e.identity] = u
		for _, k := range e.Keys {
			if errs := w.playKey(a, u.ID, e.Keys, k); errs != nil {
				return a, errs
			}
		}
	}
	for _, k := range m.ServerKeys {
		if errs := w.playKey(a, latchkey.ServerOwner, m.ServerKeys, k); errs != nil {
			return a, errs
		}
	}
	if prune {
		maps.DeleteFunc(a.users, func(identity latchkey.Identity, u latchkey.User) bool {
			listed := slices.ContainsFunc(m.Users, func(e User) bool { return e.identity == identity })
			return w.by[u.ID] == m.Name && !listed && len(a.keysOf(u.ID)) == 0
		})
	}
	return a, nil
}

func nilIfEmpty(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

// keysOf returns the keys of an owner.
func (a applyState) keysOf(owner uuid.UUID) (keys []latchkey.Key) {
	for _, k := range a.keys {
		if k.Owner == owner {
			keys = append(keys, k)
		}
	}
	return keys
}

func (w *applyWorld) expired(k latchkey.Key) bool {
	return !k.Expires.IsZero() && !k.Expires.After(w.now)
}

func (w *applyWorld) playKey(a applyState, owner uuid.UUID, entries []Key, e Key) (errs []error) {
	id, to := e.minted.ID(), e.spec
	k, exists := a.keys[id]
	past := w.expired(latchkey.Key{Expires: to.Expires})
	switch {
	case !exists && w.ever[id]:
		return []error{latchkey.ErrKeyDeleted}
	case !exists && past:
		return nil
	case past && !k.Expires.Equal(to.Expires):
		errs = append(errs, latchkey.ErrInvalidExpiry)
	}
	if !exists {
		k = latchkey.Key{ID: id, Owner: owner}
	}
	good := slices.DeleteFunc(a.keysOf(owner), w.expired)
	if revived := !exists || w.expired(k) && !past; revived && owner != latchkey.ServerOwner && len(good) >= applyMaxKeys {
		errs = append(errs, latchkey.ErrTooManyKeys)
	}
	if k.Expires = to.Expires; !w.expired(k) && k.Name != to.Name {
		for _, other := range a.keysOf(owner) {
			if other.Name != to.Name || other.ID == id {
				continue
			}
			if renamed := slices.ContainsFunc(entries, func(e Key) bool { return e.minted.ID() == other.ID }); renamed && !w.expired(other) {
				other.Name = "" // until its own entry
				a.keys[other.ID] = other
				continue
			}
			if !w.expired(other) {
				errs = append(errs, latchkey.ErrKeyNameTaken)
				continue
			}
			other.Name += "~" + other.ID.String()[28:]
			a.keys[other.ID] = other
		}
		k.Name = to.Name
	}
	k.Scopes, k.Networks, k.Metadata, k.Group = to.Scopes, to.Networks, nilIfEmpty(to.Metadata), to.Group
	if e.Disabled != nil {
		k.Disabled = *e.Disabled
	}
	a.keys[id] = k
	return errs
}
