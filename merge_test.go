package latchkey_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// recordsOf returns all records of a store that travel.
func recordsOf(t testing.TB, s *latchkey.Store) (records []latchkey.ReplicaRecord) {
	t.Helper()
	for r, err := range s.Records(t.Context(), latchkey.RecordCursor{}) {
		must(t, err)
		records = append(records, r)
	}
	return records
}

// replicaOf opens an empty store in memory, in the domain of another one.
func replicaOf(t testing.TB, s *latchkey.Store, opts *latchkey.Options) *latchkey.Store {
	t.Helper()
	if opts == nil {
		opts = light()
	}
	opts.Domain = s.DomainSecrets()
	r, err := memory.Open(opts)
	must(t, err)
	checkAtEnd(t, r)
	return r
}

// mergeAll merges records, of which none may be refused.
func mergeAll(t testing.TB, s *latchkey.Store, records []latchkey.ReplicaRecord) {
	t.Helper()
	refused, err := s.Merge(t.Context(), records)
	must(t, err)
	if len(refused) > 0 {
		t.Fatalf("%d records were refused, the first with %v", len(refused), refused[0].Err)
	}
}

// send merges all records of a store into another one, as they are after their travel.
func send(t testing.TB, from, to *latchkey.Store) {
	t.Helper()
	var records []latchkey.ReplicaRecord
	for _, r := range recordsOf(t, from) {
		parsed, err := latchkey.ParseReplicaRecord(r.Export())
		must(t, err)
		records = append(records, parsed)
	}
	mergeAll(t, to, records)
}

// exported returns what a store has of all records that travel.
func exported(t testing.TB, s *latchkey.Store) string {
	t.Helper()
	var all []string
	for _, r := range recordsOf(t, s) {
		all = append(all, fmt.Sprintf("%x", r.Export()))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// wantAgree sends everything in both directions and fails the test unless the stores have the same
// records then.
func wantAgree(t testing.TB, a, b *latchkey.Store) {
	t.Helper()
	send(t, a, b)
	send(t, b, a)
	if in, there := exported(t, a), exported(t, b); in != there {
		t.Errorf("the stores disagree:\n%s\n\n%s", in, there)
	}
}

func TestAMergeTakesWhatItsKeysAndUsersCarry(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	server, serverToken, err := hub.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup", Group: "home", Scopes: latchkey.NewScopes("files:read")})
	must(t, err)
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)

	wantLogin(t, edge, token, key.ID)
	wantLogin(t, edge, serverToken, server.ID)
	who, err := edge.Login(t.Context(), serverToken)
	must(t, err)
	if who.Group != "home" || !who.Scopes.Has("files:read") || who.KeyName != "backup" {
		t.Errorf("the principal is %+v", who)
	}
	user, err := edge.UserByIdentity(t.Context(), email("ada"))
	must(t, err)
	if user.ID != ada {
		t.Errorf("ada is %s, want %s", user.ID, ada)
	}
	if got := keyOf(t, edge, ada, key.ID); fmt.Sprint(got) != fmt.Sprint(keyOf(t, hub, ada, key.ID)) {
		t.Errorf("the key is %+v", got)
	}
	wantAgree(t, hub, edge)
}

func TestARevocationThatIsMergedIsImmediate(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(s *latchkey.Store, h household) error
		want error
	}{
		{"the key is disabled", func(s *latchkey.Store, h household) error { return s.DisableKey(t.Context(), h.user, h.key.ID) }, latchkey.ErrKeyDisabled},
		{"the key is deleted", func(s *latchkey.Store, h household) error { return s.DeleteKey(t.Context(), h.user, h.key.ID) }, latchkey.ErrInvalidToken},
		{"the user is disabled", func(s *latchkey.Store, h household) error { return s.DisableUser(t.Context(), h.user) }, latchkey.ErrUserDisabled},
		{"the user is deleted", func(s *latchkey.Store, h household) error { return s.DeleteUser(t.Context(), h.user) }, latchkey.ErrInvalidToken},
		{"the group is disabled", func(s *latchkey.Store, h household) error { return s.DisableGroup(t.Context(), "home") }, latchkey.ErrGroupDisabled},
		{"the user moves to a disabled group", func(s *latchkey.Store, h household) error {
			if err := s.DisableGroup(t.Context(), "attic"); err != nil {
				return err
			}
			return s.SetUserGroup(t.Context(), h.user, "attic")
		}, latchkey.ErrGroupDisabled},
		{"the key is rotated", func(s *latchkey.Store, h household) error {
			_, _, err := s.RotateKey(t.Context(), h.user, h.key.ID, latchkey.Rotation{})
			return err
		}, latchkey.ErrInvalidToken},
		{"the key gets networks", func(s *latchkey.Store, h household) error {
			return s.SetNetworks(t.Context(), h.user, h.key.ID, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
		}, latchkey.ErrNetworkNotAllowed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hub := open(t)
			h := addHousehold(t, hub)
			must(t, hub.SetUserGroup(t.Context(), h.user, "home"))
			edge := replicaOf(t, hub, nil)
			send(t, hub, edge)
			for range 2 { // the second time from the cache
				wantLogin(t, edge, h.token, h.key.ID)
			}
			must(t, tt.call(hub, h))
			send(t, hub, edge)
			wantRefused(t, edge, h.token, tt.want)
			wantAgree(t, hub, edge)
		})
	}
}

func TestADisablingThatNoEnablingHasSeenHolds(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)

	must(t, hub.DisableKey(t.Context(), ada, key.ID))
	for range 2 { // the edge enables what it has seen, and no more
		must(t, edge.DisableKey(t.Context(), ada, key.ID))
		must(t, edge.EnableKey(t.Context(), ada, key.ID))
	}
	wantAgree(t, hub, edge)
	wantRefused(t, edge, token, latchkey.ErrKeyDisabled)
	wantRefused(t, hub, token, latchkey.ErrKeyDisabled)
	must(t, edge.EnableKey(t.Context(), ada, key.ID))
	wantAgree(t, hub, edge)
	wantLogin(t, hub, token, key.ID)
}

func TestAFirstReaderMakesTheStoreKeepWhatMergingNeeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	hub := openAt(t, path, light())
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	before := recordsOf(t, hub)
	_, _, err := hub.RotateKey(t.Context(), ada, key.ID, latchkey.Rotation{}) // retires the token
	must(t, err)
	must(t, hub.DisableKey(t.Context(), ada, key.ID))
	must(t, hub.EnableKey(t.Context(), ada, key.ID))
	mergeAll(t, hub, before) // as from an edge that has not heard of it
	wantRefused(t, hub, token, latchkey.ErrInvalidToken)

	closeStore(t, hub)
	hub = openAt(t, path, light())
	must(t, hub.DisableKey(t.Context(), ada, key.ID))
	kept := recordsOf(t, hub)
	must(t, hub.EnableKey(t.Context(), ada, key.ID))
	mergeAll(t, hub, kept)
	if keyOf(t, hub, ada, key.ID).Disabled {
		t.Error("a disabling comes back that an enabling has seen")
	}
}

func TestDeletionWinsForGood(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	alive := recordsOf(t, hub)

	must(t, edge.DeleteKey(t.Context(), ada, key.ID))
	must(t, hub.RenameKey(t.Context(), ada, key.ID, "desktop"))
	wantAgree(t, hub, edge)
	wantRefused(t, hub, token, latchkey.ErrInvalidToken)
	mergeAll(t, edge, alive)
	wantRefused(t, edge, token, latchkey.ErrInvalidToken)
	wantAgree(t, hub, edge)

	// A deleted user takes along a key that was made elsewhere meanwhile.
	late, lateToken := addKey(t, edge, ada, "phone")
	must(t, hub.DeleteUser(t.Context(), ada))
	send(t, edge, hub)
	wantRefused(t, hub, lateToken, latchkey.ErrInvalidToken)
	if _, err := hub.KeyByID(t.Context(), late.ID); !errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Errorf("the key that arrived late: %v", err)
	}
	send(t, hub, edge)
	wantRefused(t, edge, lateToken, latchkey.ErrInvalidToken)
	mergeAll(t, edge, alive)
	if _, err := edge.User(t.Context(), ada); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("the deleted user is there again: %v", err)
	}
	wantAgree(t, hub, edge)
}

func TestATombstoneKeepsTheGroupsOfALaterMove(t *testing.T) {
	hub := open(t)
	key, _, err := hub.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup", Group: "home"})
	must(t, err)
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	must(t, edge.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	must(t, hub.SetKeyGroup(t.Context(), key.ID, "attic"))
	moved := recordsOf(t, hub)
	mergeAll(t, edge, moved) // the record arrives after the tombstone was made
	send(t, edge, hub)       // and the tombstone after the record
	wantAgree(t, hub, edge)
	if all := exported(t, edge); !strings.Contains(all, fmt.Sprintf("%x", "attic")) {
		t.Error("the tombstone does not have the group to which the record was moved")
	}
}

func TestAKeyWhoseOwnerHasNotArrivedIsRefusedAndNoDamage(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	users, keys := []latchkey.ReplicaRecord(nil), []latchkey.ReplicaRecord(nil)
	for _, r := range recordsOf(t, hub) {
		if strings.HasPrefix(r.Cursor().Last, "users") {
			users = append(users, r)
		} else {
			keys = append(keys, r)
		}
	}
	mergeAll(t, edge, keys)
	wantRefused(t, edge, token, latchkey.ErrInvalidToken)
	wantClean(t, edge)
	if _, err := edge.Keys(t.Context(), ada); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("the keys of nobody: %v", err)
	}
	mergeAll(t, edge, users)
	wantLogin(t, edge, token, key.ID)
}

func TestTwoKeysWithOneNameBothWorkAndNeitherHasIt(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	first, firstToken := addKey(t, hub, ada, "laptop")
	second, secondToken := addKey(t, edge, ada, "laptop")
	shown := func(k latchkey.Key) string { return fmt.Sprintf("laptop~%x", k.ID[12:]) }
	wantNamed := func(s *latchkey.Store, token, name string) {
		t.Helper()
		who, err := s.Login(t.Context(), token)
		must(t, err)
		if got := keyOf(t, s, ada, who.KeyID).Name; who.KeyName != name || got != name {
			t.Errorf("the key is %q, and %q to its holder, want %q", got, who.KeyName, name)
		}
	}
	wantNamed(hub, firstToken, "laptop") // which is in the cache from then on
	wantNamed(hub, firstToken, "laptop")
	wantAgree(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		wantNamed(s, firstToken, shown(first))
		wantNamed(s, secondToken, shown(second))
	}
	_, _, err := hub.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "laptop"})
	wantError(t, err, latchkey.ErrKeyNameTaken)
	_, _, err = hub.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: shown(second)})
	wantError(t, err, latchkey.ErrKeyNameTaken)

	must(t, hub.RenameKey(t.Context(), ada, first.ID, shown(first))) // as it is shown
	wantNamed(hub, firstToken, shown(first))
	wantNamed(hub, secondToken, "laptop")
	must(t, hub.RenameKey(t.Context(), ada, first.ID, "desktop"))
	wantAgree(t, hub, edge)
	wantNamed(edge, secondToken, "laptop")
	must(t, edge.RenameKey(t.Context(), ada, first.ID, shown(first)))
	wantNamed(edge, firstToken, shown(first))

	// A key that is deleted leaves the name to the other one.
	must(t, edge.DeleteKey(t.Context(), ada, first.ID))
	wantNamed(edge, secondToken, "laptop")
	wantAgree(t, hub, edge)
	wantNamed(hub, secondToken, "laptop")
}

func TestExpiredKeysWithOneNameBothMakeWay(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	clocked := func() *latchkey.Options {
		opts := light()
		opts.Now, opts.TestClock = func() time.Time { return now }, true
		return opts
	}
	hub := openWith(t, clocked())
	ada := addUser(t, hub, "ada")
	edge := replicaOf(t, hub, clocked())
	send(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		_, _, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "laptop", Expires: now.Add(time.Hour)})
		must(t, err)
	}
	wantAgree(t, hub, edge)
	now = now.Add(2 * time.Hour)
	key, _ := addKey(t, hub, ada, "laptop")
	if name := keyOf(t, hub, ada, key.ID).Name; name != "laptop" {
		t.Errorf("the new key is %q", name)
	}
}

func TestAnIdentityThatTwoUsersHaveBelongsToNeither(t *testing.T) {
	hub := open(t)
	ada, bob := addUser(t, hub, "ada"), addUser(t, hub, "bob")
	_, adasToken := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	link := func(s *latchkey.Store, user uuid.UUID) {
		t.Helper()
		_, err := s.LinkIdentity(t.Context(), user, email("both"))
		must(t, err)
	}
	link(hub, ada)
	link(edge, bob)
	wantAgree(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		_, err := s.UserByIdentity(t.Context(), email("both"))
		wantError(t, err, latchkey.ErrIdentityConflict)
		_, err = s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("both")})
		wantError(t, err, latchkey.ErrIdentityTaken)
		who, err := s.Login(t.Context(), adasToken)
		must(t, err)
		if who.Identity != email("ada") {
			t.Errorf("ada logs in as %+v", who.Identity)
		}
		wantClean(t, s)
	}
	_, err := hub.UnlinkIdentity(t.Context(), bob, email("both"))
	must(t, err)
	wantAgree(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		user, err := s.UserByIdentity(t.Context(), email("both"))
		must(t, err)
		if user.ID != ada {
			t.Errorf("the identity is %s's, want %s", user.ID, ada)
		}
	}
	// The other way out is to delete one of them.
	link2 := email("again")
	_, err = hub.LinkIdentity(t.Context(), ada, link2)
	must(t, err)
	_, err = edge.LinkIdentity(t.Context(), bob, link2)
	must(t, err)
	wantAgree(t, hub, edge)
	must(t, edge.DeleteUser(t.Context(), ada))
	wantAgree(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		user, err := s.UserByIdentity(t.Context(), link2)
		must(t, err)
		if user.ID != bob {
			t.Errorf("the identity is %s's, want %s", user.ID, bob)
		}
	}
}

func TestHealthNamesUsersWhomMergingHasLeftWithoutAnIdentity(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	_, err := hub.LinkIdentity(t.Context(), ada, email("lovelace"))
	must(t, err)
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	_, err = hub.UnlinkIdentity(t.Context(), ada, email("ada"))
	must(t, err)
	_, err = edge.UnlinkIdentity(t.Context(), ada, email("lovelace"))
	must(t, err)
	must(t, hub.Health(t.Context()))

	wantAgree(t, hub, edge)
	for _, s := range []*latchkey.Store{hub, edge} {
		err := s.Health(t.Context())
		wantError(t, err, latchkey.ErrNoIdentity)
		if !strings.Contains(err.Error(), ada.String()) {
			t.Errorf("Health says %q, and does not name user %s", err, ada)
		}
		wantLogin(t, s, token, key.ID)
	}
	_, err = edge.LinkIdentity(t.Context(), ada, email("ada"))
	must(t, err)
	must(t, edge.Health(t.Context()))
	must(t, hub.DeleteUser(t.Context(), ada))
	must(t, hub.Health(t.Context()))
	wantAgree(t, hub, edge)
	must(t, edge.Health(t.Context()))
}

func TestAPrincipalNeverHasAnIdentityThatAnotherUserHas(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	_, token := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	wantLogin(t, hub, token, keyOfToken(t, hub, token))
	_, err := edge.UnlinkIdentity(t.Context(), ada, email("ada"))
	wantError(t, err, latchkey.ErrLastIdentity)
	_, err = edge.LinkIdentity(t.Context(), ada, email("spare"))
	must(t, err)
	_, err = edge.UnlinkIdentity(t.Context(), ada, email("ada"))
	must(t, err)
	addUser(t, edge, "ada") // now the address belongs to another person
	_, err = hub.UnlinkIdentity(t.Context(), ada, email("ada"))
	wantError(t, err, latchkey.ErrLastIdentity)
	// The hub links ada's address again, so its stamp is the higher one.
	for range 3 {
		_, err = hub.LinkIdentity(t.Context(), ada, email("other"))
		must(t, err)
		_, err = hub.UnlinkIdentity(t.Context(), ada, email("ada"))
		must(t, err)
		_, err = hub.LinkIdentity(t.Context(), ada, email("ada"))
		must(t, err)
		_, err = hub.UnlinkIdentity(t.Context(), ada, email("other"))
		must(t, err)
	}
	wantLogin(t, hub, token, keyOfToken(t, hub, token))
	send(t, edge, hub)
	who, err := hub.Login(t.Context(), token)
	must(t, err)
	if who.Identity == email("ada") {
		t.Error("the principal has an identity that belongs to nobody now")
	}
}

// keyOfToken returns the ID of the key that a token belongs to.
func keyOfToken(t testing.TB, s *latchkey.Store, token string) uuid.UUID {
	t.Helper()
	who, err := s.Inspect(t.Context(), token, netip.Addr{})
	must(t, err)
	return who.KeyID
}

func TestAMergeTellsTheHookOfWhatItChangesAndOfNothingElse(t *testing.T) {
	hub := open(t)
	h := addHousehold(t, hub)
	var cs changeList
	opts := light()
	opts.OnChange = cs.hook
	edge := replicaOf(t, hub, opts)
	send(t, hub, edge)
	if n := len(cs.take()); n < 3 {
		t.Errorf("the hook was called %d times for new records", n)
	}
	send(t, hub, edge)
	wantChanges(t, &cs)
	must(t, hub.DisableKey(t.Context(), h.user, h.key.ID))
	ctx := latchkey.WithActor(t.Context(), "the hub")
	_, err := edge.Merge(ctx, recordsOf(t, hub))
	must(t, err)
	all := cs.take()
	if len(all) != 1 || all[0].Key != h.key.ID || all[0].Actions[0] != latchkey.ActionKeyDisabled || all[0].Actor != "the hub" {
		t.Errorf("the hook was called for %+v", all)
	}
	must(t, hub.DeleteUser(t.Context(), h.user))
	errHook := errors.New("the hook fails")
	cs.fail = errHook
	_, err = edge.Merge(t.Context(), recordsOf(t, hub))
	wantError(t, err, errHook)
	cs.fail = nil
	cs.take()
	send(t, hub, edge)
	deleted := 0
	for _, c := range cs.take() {
		if c.Actions[0] == latchkey.ActionUserDeleted || c.Actions[0] == latchkey.ActionKeyDeleted {
			deleted++
		}
	}
	if deleted < 2 {
		t.Errorf("the hook heard of %d deletions", deleted)
	}
	// A tombstone of a record that the store never had is no change.
	other := replicaOf(t, hub, opts)
	cs.take()
	send(t, hub, other)
	for _, c := range cs.take() {
		if strings.HasSuffix(string(c.Actions[0]), ".deleted") {
			t.Errorf("the hook was called for %+v", c)
		}
	}
}

func TestARefusedRecordKeepsNoOtherBack(t *testing.T) {
	hub, stranger := open(t), open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	addUser(t, stranger, "bob")
	edge := replicaOf(t, hub, nil)
	records := append(recordsOf(t, stranger), latchkey.ReplicaRecord{})
	records = append(records, recordsOf(t, hub)...)
	refused, err := edge.Merge(t.Context(), records)
	must(t, err)
	if len(refused) != 2 || refused[0].Index != 0 || refused[1].Index != 1 {
		t.Fatalf("refused: %+v", refused)
	}
	for _, r := range refused {
		wantError(t, r.Err, latchkey.ErrInvalidRecord)
	}
	wantLogin(t, edge, token, key.ID)
}

func TestKeysWithReservedScopesStayInTheirStore(t *testing.T) {
	hub := open(t)
	admin, _, err := hub.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes("latchkey:admin")})
	must(t, err)
	plain, plainToken := addKey(t, hub, latchkey.ServerOwner, "plain")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	_, err = edge.KeyByID(t.Context(), admin.ID)
	wantError(t, err, latchkey.ErrKeyNotFound)
	wantLogin(t, edge, plainToken, plain.ID)

	// A key that travels gets no such scope, because the stores that have it would not hear of its
	// end.
	must(t, hub.SetScopes(t.Context(), latchkey.ServerOwner, plain.ID, latchkey.NewScopes("files")))
	err = hub.SetScopes(t.Context(), latchkey.ServerOwner, plain.ID, latchkey.NewScopes("files", "latchkey:admin"))
	wantError(t, err, latchkey.ErrNotPermitted)
	minted, _, err := hub.MintKey(t.Context())
	must(t, err)
	spec := latchkey.KeySpec{Name: "configured"}
	_, _, err = hub.EnsureServerKey(t.Context(), spec, minted)
	must(t, err)
	spec.Scopes = latchkey.NewScopes("latchkey:admin")
	_, _, err = hub.EnsureServerKey(t.Context(), spec, minted)
	wantError(t, err, latchkey.ErrNotPermitted)
	// The key of one store alone can still get it.
	alone := open(t)
	key, _ := addKey(t, alone, latchkey.ServerOwner, "plain")
	must(t, alone.SetScopes(t.Context(), latchkey.ServerOwner, key.ID, latchkey.NewScopes("latchkey:admin")))

	// What travelled before comes back in vain.
	before := recordsOf(t, edge)
	must(t, hub.SetScopes(t.Context(), latchkey.ServerOwner, admin.ID, latchkey.Scopes{}))
	send(t, hub, edge)
	if _, err = edge.KeyByID(t.Context(), admin.ID); err != nil {
		t.Errorf("a key without reserved scopes does not travel: %v", err)
	}
	_ = before
}

func TestLastUsesTravelAndAreNeverInTheFuture(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	clocked := func(ahead time.Duration) *latchkey.Options {
		opts := light()
		opts.Now, opts.TestClock = func() time.Time { return now.Add(ahead) }, true
		return opts
	}
	hub := openWith(t, clocked(0))
	key, token := addKey(t, hub, latchkey.ServerOwner, "laptop")
	edge := replicaOf(t, hub, clocked(time.Hour))
	send(t, hub, edge)
	wantLogin(t, edge, token, key.ID)
	other, otherToken := addKey(t, edge, latchkey.ServerOwner, "only here")
	wantLogin(t, edge, otherToken, other.ID)
	var uses []latchkey.ReplicaRecord
	for r, err := range edge.LastUses(t.Context(), now) {
		must(t, err)
		uses = append(uses, r)
	}
	if len(uses) != 2 {
		t.Fatalf("%d last uses, want 2", len(uses))
	}
	for _, err := range edge.LastUses(t.Context(), now.Add(2*time.Hour)) {
		t.Errorf("a use that was before: %v", err)
	}
	mergeAll(t, hub, uses)
	merged := now
	now = now.Add(2 * time.Hour) // a use that was in the future is not to become true
	got, err := hub.KeyByID(t.Context(), key.ID)
	must(t, err)
	if !got.LastUsed.Equal(merged) {
		t.Errorf("the last use is %s, want %s", got.LastUsed, merged)
	}
	wantClean(t, hub)
}

func TestAGateIsAskedFirst(t *testing.T) {
	var closed error
	opts := light()
	opts.Gate = func() error { return closed }
	s := openWith(t, opts)
	key, token := addKey(t, s, latchkey.ServerOwner, "laptop")
	wantLogin(t, s, token, key.ID)
	closed = latchkey.ErrStale
	for _, token := range []string{token, "no token"} {
		if _, err := s.Login(t.Context(), token); err != latchkey.ErrStale {
			t.Errorf("Login: %v, want what the gate says", err)
		}
		if _, err := s.Inspect(t.Context(), token, netip.Addr{}); err != latchkey.ErrStale {
			t.Errorf("Inspect: %v, want what the gate says", err)
		}
	}
	closed = nil
	wantLogin(t, s, token, key.ID)
}

func TestAForeignKeyThatWasMergedLogsIn(t *testing.T) {
	hub, _ := openForeign(t)
	key := addOldServerKey(t, hub, "digest", "old-1")
	opts, _ := withSystem()
	edge := replicaOf(t, hub, opts)
	send(t, hub, edge)
	wantLogin(t, edge, "old-1", key.ID)
	wantAgree(t, hub, edge)
}

func TestATextThatIsNoCopyIsRefused(t *testing.T) {
	if b := (latchkey.ReplicaRecord{}).Export(); b != nil {
		t.Errorf("an empty record is exported as %x", b)
	}
	_, err := latchkey.ParseReplicaRecord([]byte{1, 2, 3})
	wantError(t, err, latchkey.ErrInvalidRecord)
	_, err = latchkey.ParseReplicaRecord([]byte{9})
	wantError(t, err, latchkey.ErrNewerFormat)
}

func TestRecordsThatTheStoreHasAreNotWrittenAgain(t *testing.T) {
	hub := open(t)
	h := addHousehold(t, hub)
	must(t, hub.DisableGroup(t.Context(), "home"))
	must(t, hub.DeleteUser(t.Context(), addUser(t, hub, "bob")))
	must(t, hub.DeleteKey(t.Context(), h.user, h.spare.ID))
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	sequence := func() (n uint64) {
		must(t, edge.View(t.Context(), func(tx *latchkey.Tx) error { n = tx.Sequence(); return nil }))
		return n
	}
	before := sequence()
	send(t, hub, edge)
	send(t, edge, edge)
	if n := sequence(); n != before {
		t.Errorf("%d commits for nothing, after which every other store would read the records again", n-before)
	}
}

func TestAPrincipalGetsAnIdentityBackWhenTheConflictIsOver(t *testing.T) {
	hub := open(t)
	recordsOf(t, hub)
	edge := replicaOf(t, hub, nil)
	ada, bob := addUser(t, hub, "ada"), addUser(t, edge, "bob")
	_, token := addKey(t, hub, ada, "laptop")
	_, err := edge.LinkIdentity(t.Context(), bob, email("ada"))
	must(t, err)
	wantIdentity := func(want latchkey.Identity) {
		t.Helper()
		for range 2 { // the second time from the cache
			who, err := hub.Login(t.Context(), token)
			must(t, err)
			if who.Identity != want {
				t.Errorf("ada logs in as %+v, want %+v", who.Identity, want)
			}
		}
	}
	wantIdentity(email("ada"))
	send(t, edge, hub)
	wantIdentity(latchkey.Identity{})
	_, err = hub.UnlinkIdentity(t.Context(), bob, email("ada"))
	must(t, err)
	wantIdentity(email("ada"))

	_, err = edge.LinkIdentity(t.Context(), bob, email("bobby"))
	must(t, err)
	must(t, edge.DeleteUser(t.Context(), bob))
	wantAgree(t, hub, edge)
	wantIdentity(email("ada"))
}

func TestAStoreThatFollowsAnotherHearsOfEverything(t *testing.T) {
	hub := open(t)
	edge := replicaOf(t, hub, nil)
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		var cursor latchkey.RecordCursor
		for {
			var seen uint64
			err := hub.View(ctx, func(tx *latchkey.Tx) error { seen = tx.Sequence(); return nil })
			var records []latchkey.ReplicaRecord
			for r, last := range hub.Records(ctx, cursor) {
				if err = cmp.Or(err, last); last == nil {
					records, cursor = append(records, r), r.Cursor()
				}
			}
			if err == nil {
				_, err = edge.Merge(ctx, records)
			}
			if err == nil {
				err = hub.Wait(ctx, seen)
			}
			if err != nil {
				followed <- err
				return
			}
		}
	}()
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	waitUntil(t, "the key logs in at the other store", func() bool {
		_, err := edge.Login(t.Context(), token)
		return err == nil
	})
	for range 10 {
		must(t, hub.DisableKey(t.Context(), ada, key.ID))
		waitUntil(t, "the key is disabled at the other store", func() bool {
			_, err := edge.Login(t.Context(), token)
			return errors.Is(err, latchkey.ErrKeyDisabled)
		})
		must(t, hub.EnableKey(t.Context(), ada, key.ID))
		waitUntil(t, "the key is enabled at the other store", func() bool {
			_, err := edge.Login(t.Context(), token)
			return err == nil
		})
	}
	stop()
	wantError(t, <-followed, context.Canceled)
}
