package latchkey_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// household is the content of a store on which every call can succeed: a user with two identities
// and two keys, a server key, a disabled group, the attic, and tag secret 1, which is accepted.
type household struct {
	user       uuid.UUID    // ada, also known as byron
	key, spare latchkey.Key // of the user; spare is disabled
	token      string       // of key
	minted     latchkey.MintedKey
	serverKey  uuid.UUID

	newToken, newServerToken latchkey.MintedKey // of key and of serverKey
}

func addHousehold(t testing.TB, s *latchkey.Store) (h household) {
	t.Helper()
	h.user = addUser(t, s, "ada")
	_, err := s.LinkIdentity(t.Context(), h.user, email("byron"))
	must(t, err)
	h.key, h.token = addKey(t, s, h.user, "laptop")
	h.spare, _ = addKey(t, s, h.user, "phone")
	must(t, s.DisableKey(t.Context(), h.user, h.spare.ID))
	h.minted = mint(t, s)
	serverKey, _ := addKey(t, s, latchkey.ServerOwner, "doorbell")
	h.serverKey = serverKey.ID
	must(t, s.DisableGroup(t.Context(), "attic"))
	h.newToken = mintToken(t, s, h.key)
	h.newServerToken = mintToken(t, s, serverKey)
	_, err = s.AddTagSecret(t.Context())
	must(t, err)
	return h
}

func mint(t testing.TB, s *latchkey.Store) latchkey.MintedKey {
	t.Helper()
	minted, _, err := s.MintKey(t.Context())
	must(t, err)
	return minted
}

func mintToken(t testing.TB, s *latchkey.Store, key latchkey.Key) latchkey.MintedKey {
	t.Helper()
	minted, _, err := s.MintToken(t.Context(), key.Owner, key.ID)
	must(t, err)
	return minted
}

// home is a network of 192.0.2.1.
var home = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}

// storeCall calls a method of Store, which succeeds on a household.
type storeCall struct {
	writes bool
	call   func(ctx context.Context, s *latchkey.Store, h household) error
}

// storeCalls has every method of Store but Close.
var storeCalls = map[string]storeCall{
	"CreateUser": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: email("bob")})
		return err
	}},
	"User": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.User(ctx, h.user)
		return err
	}},
	"ResetClock": {true, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.ResetClock(ctx) }},
	"TagSecrets": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.TagSecrets(ctx)
		return err
	}},
	"AddTagSecret": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.AddTagSecret(ctx)
		return err
	}},
	"UseTagSecret":    {true, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.UseTagSecret(ctx, 1) }},
	"RetireTagSecret": {true, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.RetireTagSecret(ctx, 1) }},
	"TakeTagSecrets": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		other, err := memory.Open(&latchkey.Options{Domain: s.DomainSecrets()})
		if err != nil {
			return err
		}
		defer other.Close()
		if _, err := other.AddTagSecret(context.Background()); err != nil {
			return err
		}
		return s.TakeTagSecrets(ctx, other.DomainSecrets())
	}},
	"Records": {true, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.Records(ctx, latchkey.RecordCursor{}) {
			last = err
		}
		return last
	}},
	"LastUses": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.LastUses(ctx, time.Time{}) {
			last = err
		}
		return last
	}},
	"Merge": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		other, err := memory.Open(&latchkey.Options{Domain: s.DomainSecrets()})
		if err != nil {
			return err
		}
		defer other.Close()
		_, err = other.CreateUser(context.Background(), latchkey.UserSpec{Identity: email("carol")})
		var records []latchkey.ReplicaRecord
		for r, last := range other.Records(context.Background(), latchkey.RecordCursor{}) {
			records, err = append(records, r), cmp.Or(err, last)
		}
		if err == nil {
			_, err = s.Merge(ctx, records)
		}
		return err
	}},
	"Health": {false, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.Health(ctx) }},
	"UserByIdentity": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.UserByIdentity(ctx, email("ada"))
		return err
	}},
	"Users": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.Users(ctx, uuid.Nil) {
			last = err
		}
		return last
	}},
	"LinkIdentity": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.LinkIdentity(ctx, h.user, email("lovelace"))
		return err
	}},
	"UnlinkIdentity": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.UnlinkIdentity(ctx, h.user, email("byron"))
		return err
	}},
	"EnableUser":  {true, func(ctx context.Context, s *latchkey.Store, h household) error { return s.EnableUser(ctx, h.user) }},
	"DisableUser": {true, func(ctx context.Context, s *latchkey.Store, h household) error { return s.DisableUser(ctx, h.user) }},
	"DeleteUser":  {true, func(ctx context.Context, s *latchkey.Store, h household) error { return s.DeleteUser(ctx, h.user) }},
	"CreateKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.CreateKey(ctx, h.user, latchkey.KeySpec{Name: "desktop"})
		return err
	}},
	"CreateServerKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.CreateServerKey(ctx, latchkey.KeySpec{Name: "desktop"})
		return err
	}},
	"CreateKeys": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.CreateKeys(ctx, []latchkey.KeyRequest{{Owner: h.user, KeySpec: latchkey.KeySpec{Name: "desktop"}}}, nil)
		return err
	}},
	"ExportKey": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.ExportKey(ctx, h.key.ID)
		return err
	}},
	"MintKey": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, _, err := s.MintKey(ctx)
		return err
	}},
	"MintKeys": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, _, err := s.MintKeys(ctx, 2, nil)
		return err
	}},
	"EnsureKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.EnsureKey(ctx, h.user, latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"EnsureServerKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.EnsureServerKey(ctx, latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"Key": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.Key(ctx, h.user, h.key.ID)
		return err
	}},
	"Keys": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.Keys(ctx, h.user)
		return err
	}},
	"RenameKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.RenameKey(ctx, h.user, h.key.ID, "desktop")
	}},
	"SetExpiry": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetExpiry(ctx, h.user, h.key.ID, s.Now().Add(time.Hour))
	}},
	"SetScopes": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetScopes(ctx, h.user, h.key.ID, latchkey.NewScopes("files:read"))
	}},
	"SetNetworks": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetNetworks(ctx, h.user, h.spare.ID, home)
	}},
	"SetMetadata": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetMetadata(ctx, h.user, h.key.ID, map[string]string{"room": "4"})
	}},
	"SetUserMetadata": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetUserMetadata(ctx, h.user, map[string]string{"shift": "night"})
	}},
	"EnableKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.EnableKey(ctx, h.user, h.spare.ID)
	}},
	"DisableKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.DisableKey(ctx, h.user, h.key.ID)
	}},
	"DeleteKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.DeleteKey(ctx, h.user, h.key.ID)
	}},
	"KeyByID": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.KeyByID(ctx, h.key.ID)
		return err
	}},
	"AllKeys": {false, func(ctx context.Context, s *latchkey.Store, h household) (last error) {
		for _, err := range s.AllKeys(ctx, latchkey.KeyFilter{Owner: h.user}, uuid.Nil) {
			last = err
		}
		return last
	}},
	"ExpiringBefore": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.ExpiringBefore(ctx, time.Now()) {
			last = err
		}
		return last
	}},
	"UnusedSince": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.UnusedSince(ctx, time.Now()) {
			last = err
		}
		return last
	}},
	"Group": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.Group(ctx, "home")
		return err
	}},
	"Groups": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for _, err := range s.Groups(ctx, "") {
			last = err
		}
		return last
	}},
	"EnableGroup": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		return s.EnableGroup(ctx, "attic")
	}},
	"DisableGroup": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		return s.DisableGroup(ctx, "home")
	}},
	"SetUserGroup": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetUserGroup(ctx, h.user, "home")
	}},
	"SetKeyGroup": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		return s.SetKeyGroup(ctx, h.serverKey, "home")
	}},
	"RotateKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.RotateKey(ctx, h.user, h.key.ID, latchkey.Rotation{Overlap: time.Hour})
		return err
	}},
	"RotateServerKey": {true, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.RotateServerKey(ctx, h.serverKey, latchkey.Rotation{})
		return err
	}},
	"MintToken": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, _, err := s.MintToken(ctx, h.user, h.key.ID)
		return err
	}},
	"HashPassword": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.HashPassword(ctx, "hunter22")
		return err
	}},
	"CheckPassword": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.CheckPassword(ctx, "", "hunter22")
		return err
	}},
	"Login": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.Login(ctx, h.token)
		return err
	}},
	"Inspect": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.Inspect(ctx, h.token, netip.Addr{})
		return err
	}},
	"LoginFrom": {false, func(ctx context.Context, s *latchkey.Store, h household) error {
		_, err := s.LoginFrom(ctx, h.token, netip.MustParseAddr("192.0.2.1"))
		return err
	}},
	"Check": {false, func(ctx context.Context, s *latchkey.Store, _ household) (last error) {
		for err := range s.Check(ctx) {
			last = err
		}
		return last
	}},
	"Repair": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.Repair(ctx)
		return err
	}},
	"Backup": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		return s.Backup(ctx, io.Discard)
	}},
	"Compact": {true, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.Compact(ctx) }},
	"Stats": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		_, err := s.Stats(ctx)
		return err
	}},
	"Wait": {false, func(ctx context.Context, s *latchkey.Store, _ household) error { return s.Wait(ctx, 0) }},
	"View": {false, func(ctx context.Context, s *latchkey.Store, _ household) error {
		return s.View(ctx, func(*latchkey.Tx) error { return nil })
	}},
	"Update": {true, func(ctx context.Context, s *latchkey.Store, _ household) error {
		return s.Update(ctx, func(*latchkey.Tx) error { return nil })
	}},
}

// txCall calls a method of Tx, which succeeds on a household, and which changes something if it
// writes.
type txCall struct {
	writes bool
	call   func(tx *latchkey.Tx, h household) error
}

// txCalls has every method of Tx.
var txCalls = map[string]txCall{
	"CreateUser": {true, func(tx *latchkey.Tx, _ household) error {
		_, err := tx.CreateUser(latchkey.UserSpec{Identity: email("bob")})
		return err
	}},
	"UserSequence":   {false, func(tx *latchkey.Tx, h household) error { _, err := tx.UserSequence(h.user); return err }},
	"KeySequence":    {false, func(tx *latchkey.Tx, h household) error { _, err := tx.KeySequence(h.key.ID); return err }},
	"GroupSequence":  {false, func(tx *latchkey.Tx, _ household) error { _, err := tx.GroupSequence("north"); return err }},
	"ExportKey":      {false, func(tx *latchkey.Tx, h household) error { _, err := tx.ExportKey(h.key.ID); return err }},
	"User":           {false, func(tx *latchkey.Tx, h household) error { _, err := tx.User(h.user); return err }},
	"UserByIdentity": {false, func(tx *latchkey.Tx, _ household) error { _, err := tx.UserByIdentity(email("ada")); return err }},
	"Users": {false, func(tx *latchkey.Tx, _ household) (last error) {
		for _, err := range tx.Users(uuid.Nil) {
			last = err
		}
		return last
	}},
	"LinkIdentity": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.LinkIdentity(h.user, email("lovelace"))
		return err
	}},
	"UnlinkIdentity": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.UnlinkIdentity(h.user, email("byron"))
		return err
	}},
	"EnableUser":  {true, func(tx *latchkey.Tx, h household) error { return tx.EnableUser(h.user) }},
	"DisableUser": {true, func(tx *latchkey.Tx, h household) error { return tx.DisableUser(h.user) }},
	"DeleteUser":  {true, func(tx *latchkey.Tx, h household) error { return tx.DeleteUser(h.user) }},
	"EnsureKey": {true, func(tx *latchkey.Tx, h household) error {
		_, _, err := tx.EnsureKey(h.user, latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"EnsureServerKey": {true, func(tx *latchkey.Tx, h household) error {
		_, _, err := tx.EnsureServerKey(latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"InsertKey": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"InsertServerKey": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.InsertServerKey(latchkey.KeySpec{Name: "desktop"}, h.minted)
		return err
	}},
	"Key":       {false, func(tx *latchkey.Tx, h household) error { _, err := tx.Key(h.user, h.key.ID); return err }},
	"Keys":      {false, func(tx *latchkey.Tx, h household) error { _, err := tx.Keys(h.user); return err }},
	"RenameKey": {true, func(tx *latchkey.Tx, h household) error { return tx.RenameKey(h.user, h.key.ID, "desktop") }},
	"SetExpiry": {true, func(tx *latchkey.Tx, h household) error {
		return tx.SetExpiry(h.user, h.key.ID, time.Now().Add(time.Hour))
	}},
	"SetScopes": {true, func(tx *latchkey.Tx, h household) error {
		return tx.SetScopes(h.user, h.key.ID, latchkey.NewScopes("files:read"))
	}},
	"SetNetworks": {true, func(tx *latchkey.Tx, h household) error { return tx.SetNetworks(h.user, h.spare.ID, home) }},
	"SetMetadata": {true, func(tx *latchkey.Tx, h household) error {
		return tx.SetMetadata(h.user, h.key.ID, map[string]string{"room": "4"})
	}},
	"SetUserMetadata": {true, func(tx *latchkey.Tx, h household) error {
		return tx.SetUserMetadata(h.user, map[string]string{"shift": "night"})
	}},
	"EnableKey":  {true, func(tx *latchkey.Tx, h household) error { return tx.EnableKey(h.user, h.spare.ID) }},
	"DisableKey": {true, func(tx *latchkey.Tx, h household) error { return tx.DisableKey(h.user, h.key.ID) }},
	"DeleteKey":  {true, func(tx *latchkey.Tx, h household) error { return tx.DeleteKey(h.user, h.key.ID) }},
	"KeyByID":    {false, func(tx *latchkey.Tx, h household) error { _, err := tx.KeyByID(h.key.ID); return err }},
	"AllKeys": {false, func(tx *latchkey.Tx, h household) (last error) {
		for _, err := range tx.AllKeys(latchkey.KeyFilter{Owner: h.user}, uuid.Nil) {
			last = err
		}
		return last
	}},
	"ExpiringBefore": {false, func(tx *latchkey.Tx, _ household) (last error) {
		for _, err := range tx.ExpiringBefore(time.Now()) {
			last = err
		}
		return last
	}},
	"UnusedSince": {false, func(tx *latchkey.Tx, _ household) (last error) {
		for _, err := range tx.UnusedSince(time.Now()) {
			last = err
		}
		return last
	}},
	"Group": {false, func(tx *latchkey.Tx, _ household) error { _, err := tx.Group("home"); return err }},
	"Groups": {false, func(tx *latchkey.Tx, _ household) (last error) {
		for _, err := range tx.Groups("") {
			last = err
		}
		return last
	}},
	"EnableGroup":  {true, func(tx *latchkey.Tx, _ household) error { return tx.EnableGroup("attic") }},
	"DisableGroup": {true, func(tx *latchkey.Tx, _ household) error { return tx.DisableGroup("home") }},
	"SetUserGroup": {true, func(tx *latchkey.Tx, h household) error { return tx.SetUserGroup(h.user, "home") }},
	"SetKeyGroup":  {true, func(tx *latchkey.Tx, h household) error { return tx.SetKeyGroup(h.serverKey, "home") }},
	"RotateKey": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.RotateKey(h.user, h.key.ID, latchkey.Rotation{}, h.newToken)
		return err
	}},
	"RotateServerKey": {true, func(tx *latchkey.Tx, h household) error {
		_, err := tx.RotateServerKey(h.serverKey, latchkey.Rotation{Overlap: time.Hour}, h.newServerToken)
		return err
	}},
	"AppTable": {true, func(tx *latchkey.Tx, _ household) error {
		return tx.AppTable("notes").Put([]byte("ada"), []byte("met"))
	}},
}

func TestTheTablesOfCallsHaveEveryMethod(t *testing.T) {
	// fmt calls Format.
	others := []string{"Close", "DomainID", "DomainSecrets", "Format", "NeedsRehash", "Now", "ReplicaID", "Sequence", "TokenPrefix"}
	for i := range reflect.TypeFor[*latchkey.Store]().NumMethod() {
		name := reflect.TypeFor[*latchkey.Store]().Method(i).Name
		if _, ok := storeCalls[name]; !ok && !slices.Contains(others, name) {
			t.Errorf("Store.%s is not in storeCalls", name)
		}
	}
	for i := range reflect.TypeFor[*latchkey.Tx]().NumMethod() {
		name := reflect.TypeFor[*latchkey.Tx]().Method(i).Name
		if _, ok := txCalls[name]; !ok && !slices.Contains(others, name) {
			t.Errorf("Tx.%s is not in txCalls", name)
		}
	}
}

func TestEveryCallSucceedsOnAnOpenStore(t *testing.T) {
	for name, c := range storeCalls {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			must(t, c.call(t.Context(), s, addHousehold(t, s)))
		})
	}
}

func TestEveryCallAfterCloseIsErrClosed(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	wantLogin(t, s, h.token, h.key.ID) // puts the key into the cache
	closeStore(t, s)
	for name, c := range storeCalls {
		t.Run(name, func(t *testing.T) { wantError(t, c.call(t.Context(), s, h), latchkey.ErrClosed) })
	}
	closeStore(t, s)
}

func TestEveryCallEndsWithItsContext(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantNoHash(t, s, func() {
		for name, c := range storeCalls {
			t.Run(name, func(t *testing.T) { wantError(t, c.call(ctx, s, h), context.Canceled) })
		}
	})
}

func TestAReadOnlyStoreReadsAndLogsInAndRefusesChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	h := addHousehold(t, s)
	closeStore(t, s)
	before := stateAt(t, path)

	opts := light()
	opts.ReadOnly = true
	s = openAt(t, path, opts)
	for range 2 {
		for name, c := range storeCalls {
			t.Run(name, func(t *testing.T) {
				if !c.writes {
					must(t, c.call(t.Context(), s, h))
					return
				}
				wantNoHash(t, s, func() { wantError(t, c.call(t.Context(), s, h), latchkey.ErrReadOnly) })
			})
		}
	}
	another := openAt(t, path, opts)
	wantLogin(t, another, h.token, h.key.ID)
	closeStore(t, another)
	closeStore(t, s)
	if stateAt(t, path) != before {
		t.Error("the store has changed")
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	file, err := os.ReadFile(path)
	must(t, err)
	return file
}

func TestAViewRefusesChanges(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	for name, c := range txCalls {
		t.Run(name, func(t *testing.T) {
			var want error
			if c.writes && name != "EnableUser" { // the user is enabled already
				want = latchkey.ErrReadOnly
			}
			wantNoChange(t, s, func() {
				wantError(t, s.View(t.Context(), func(tx *latchkey.Tx) error { return c.call(tx, h) }), want)
				// Nothing is left over either if the function hides the refusal.
				must(t, s.View(t.Context(), func(tx *latchkey.Tx) error { _ = c.call(tx, h); return nil }))
			})
		})
	}
}

func TestATransactionIsClosedWhenItsFunctionHasReturned(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	var viewed, updated, failed *latchkey.Tx
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error { viewed = tx; return nil }))
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { updated = tx; return tx.DisableKey(h.user, h.spare.ID) }))
	_ = s.Update(t.Context(), func(tx *latchkey.Tx) error { failed = tx; return errors.New("no") })
	wantNoChange(t, s, func() {
		for name, c := range txCalls {
			t.Run(name, func(t *testing.T) {
				for _, tx := range []*latchkey.Tx{viewed, updated, failed} {
					wantError(t, c.call(tx, h), latchkey.ErrClosed)
				}
			})
		}
	})
}

// endWithin returns a context for calls that would otherwise wait for ever. It ends after a minute,
// which is far longer than the calls take.
func endWithin(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// inTransaction returns the ways to run a function in a transaction of s.
func inTransaction(s *latchkey.Store) map[string]func(context.Context, func(*latchkey.Tx) error) error {
	return map[string]func(context.Context, func(*latchkey.Tx) error) error{"Update": s.Update, "View": s.View}
}

func TestACallInsideATransactionOfItsStoreFailsAtOnce(t *testing.T) {
	waitForNothing := []string{"MintKey", "MintKeys", "HashPassword", "CheckPassword", "Health"}
	for name, c := range storeCalls {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			h := addHousehold(t, s)
			for kind, transaction := range inTransaction(s) {
				wantNoChange(t, s, func() {
					must(t, transaction(t.Context(), func(*latchkey.Tx) error {
						err := c.call(endWithin(t), s, h)
						if slices.Contains(waitForNothing, name) {
							must(t, err)
						} else if !errors.Is(err, latchkey.ErrInTransaction) {
							t.Errorf("in the function of %s: got %v, want %v", kind, err, latchkey.ErrInTransaction)
						}
						return nil
					}))
				})
			}
			must(t, c.call(endWithin(t), s, h)) // nothing is left over
		})
	}
}

func TestCloseInsideATransactionLeavesTheStoreOpen(t *testing.T) {
	s := open(t)
	for kind, transaction := range inTransaction(s) {
		must(t, transaction(t.Context(), func(tx *latchkey.Tx) error {
			if err := s.Close(); !errors.Is(err, latchkey.ErrInTransaction) {
				t.Errorf("in the function of %s: got %v, want %v", kind, err, latchkey.ErrInTransaction)
			}
			_, err := tx.Keys(latchkey.ServerOwner)
			return err
		}))
	}
	addUser(t, s, "ada")
	closeStore(t, s)
}

func TestATransactionMayUseAnotherStore(t *testing.T) {
	from, to := open(t), open(t)
	ada := addUser(t, from, "ada")
	must(t, to.Update(t.Context(), func(tx *latchkey.Tx) error {
		return from.View(endWithin(t), func(source *latchkey.Tx) error {
			user, err := source.User(ada)
			must(t, err)
			wantError(t, from.DisableUser(endWithin(t), ada), latchkey.ErrInTransaction)
			wantError(t, to.DisableUser(endWithin(t), ada), latchkey.ErrInTransaction)
			_, err = tx.CreateUser(latchkey.UserSpec{Identity: user.Identities[0]})
			return err
		})
	}))
}

func TestACallOfAnotherGoroutineIsNotTakenForOneInsideTheTransaction(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	must(t, s.Update(t.Context(), func(*latchkey.Tx) error {
		disabled, read := make(chan error), make(chan error)
		go func() { disabled <- s.DisableUser(ctx, ada) }()
		go func() { _, err := s.User(endWithin(t), ada); read <- err }()
		must(t, <-read)
		cancel()
		if err := <-disabled; err != nil { // on some engines it does not wait
			wantError(t, err, context.Canceled)
		}
		return nil
	}))
	must(t, s.DisableUser(t.Context(), ada))
}

func TestTheBodyOfALoopOverFindingsMayRepair(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	h := addHousehold(t, s)
	name := slices.Concat(h.user[:], []byte("laptop\x00"), h.key.ID[:])
	must(t, e.Update(t.Context(), func(etx latchkey.EngineTx) error { return etx.Delete("names", name) }))
	findings := 0
	for range s.Check(t.Context()) {
		if findings++; findings == 1 {
			_, err := s.Repair(endWithin(t))
			must(t, err)
		}
	}
	if findings == 0 {
		t.Error("nothing was found")
	}
}

func TestTheFunctionsErrorComesBackAsItIs(t *testing.T) {
	s := open(t)
	want := fmt.Errorf("mine: %w", fs.ErrExist)
	fail := func(*latchkey.Tx) error { return want }
	if got := s.Update(t.Context(), fail); got != want {
		t.Errorf("Update: got %#v, want %#v", got, want)
	}
	if got := s.View(t.Context(), fail); got != want {
		t.Errorf("View: got %#v, want %#v", got, want)
	}
}

func TestAnUpdateHappensWholeOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	h := addHousehold(t, s)
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	steps := func(tx *latchkey.Tx) error {
		bob, err := tx.CreateUser(latchkey.UserSpec{Identity: email("bob")})
		must(t, err)
		_, err = tx.InsertKey(bob.ID, latchkey.KeySpec{Name: "laptop"}, minted)
		must(t, err)
		must(t, tx.DisableKey(h.user, h.key.ID))
		must(t, tx.DeleteKey(h.user, h.spare.ID))
		_, err = tx.LinkIdentity(h.user, email("lovelace"))
		must(t, err)
		// The transaction sees its own changes.
		keys, err := tx.Keys(h.user)
		must(t, err)
		if len(keys) != 1 || !keys[0].Disabled {
			t.Errorf("inside, ada's keys are %+v, want the first, disabled", keys)
		}
		return nil
	}
	failed := errors.New("the function fails")
	wantNoChange(t, s, func() {
		wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { must(t, steps(tx)); return failed }), failed)
	})
	wantLogin(t, s, h.token, h.key.ID)
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	_, err = s.UserByIdentity(t.Context(), email("bob"))
	wantError(t, err, latchkey.ErrUserNotFound)

	must(t, s.Update(t.Context(), steps))
	for range 2 { // before and after reopening
		_, err := s.Login(t.Context(), token)
		must(t, err)
		wantRefused(t, s, h.token, latchkey.ErrKeyDisabled)
		_, err = s.Key(t.Context(), h.user, h.spare.ID)
		wantError(t, err, latchkey.ErrKeyNotFound)
		found, err := s.UserByIdentity(t.Context(), email("lovelace"))
		must(t, err)
		if found.ID != h.user {
			t.Errorf("lovelace is %s, want %s", found.ID, h.user)
		}
		closeStore(t, s)
		s = openAt(t, path, light())
	}
}

// failingEngine is an engine whose transactions fail at one of their writes.
type failingEngine struct {
	latchkey.Engine
	failAt int // the number of the write in its transaction, from 1; 0 means never
}

var errNoRoom = errors.New("no room")

func (e *failingEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx latchkey.EngineTx) error {
		return fn(&failingTx{EngineTx: etx, left: e.failAt})
	})
}

type failingTx struct {
	latchkey.EngineTx
	left int
}

func (tx *failingTx) fail() bool { tx.left--; return tx.left == 0 }

func (tx *failingTx) Put(table string, key, value []byte) error {
	if tx.fail() {
		return errNoRoom
	}
	return tx.EngineTx.Put(table, key, value)
}

func (tx *failingTx) Delete(table string, key []byte) error {
	if tx.fail() {
		return errNoRoom
	}
	return tx.EngineTx.Delete(table, key)
}

func TestACallWhoseTransactionFailsAtAnyWriteChangesNothing(t *testing.T) {
	for name, c := range storeCalls {
		if !c.writes || slices.Contains([]string{"Update", "EnableUser", "Repair", "Compact"}, name) {
			continue // the call writes nothing, or not in a transaction
		}
		t.Run(name, func(t *testing.T) {
			e := &failingEngine{Engine: newEngine(t)}
			s := openEngine(t, e, light())
			h := addHousehold(t, s)
			wantLogin(t, s, h.token, h.key.ID)
			if name == "Merge" {
				// In a transaction of its own, Merge first writes that the domain has several
				// stores.
				recordsOf(t, s)
			}
			before := dump(t, e)
			for e.failAt = 1; ; e.failAt++ {
				err := c.call(t.Context(), s, h)
				if err == nil {
					break
				}
				wantError(t, err, errNoRoom)
				if !slices.Equal(dump(t, e), before) {
					t.Fatalf("the tables have changed although write %d failed", e.failAt)
				}
				wantLogin(t, s, h.token, h.key.ID)
			}
			if e.failAt < 2 {
				t.Error("no write could fail")
			}
			if slices.Equal(dump(t, e), before) {
				t.Error("the tables have not changed although the call succeeded")
			}
		})
	}
}

func TestAnOperationThatFailsHalfWayFailsItsTransaction(t *testing.T) {
	for name, c := range txCalls {
		if !c.writes || name == "EnableUser" || name == "AppTable" {
			continue // the call writes nothing, or only once
		}
		t.Run(name, func(t *testing.T) {
			e := &failingEngine{Engine: newEngine(t)}
			s := openEngine(t, e, light())
			h := addHousehold(t, s)
			before := dump(t, e)
			for e.failAt = 1; ; e.failAt++ {
				err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
					_ = c.call(tx, h)
					return nil
				})
				if err == nil {
					break
				}
				wantError(t, err, errNoRoom)
				if !slices.Equal(dump(t, e), before) {
					t.Fatalf("the tables have changed although write %d failed", e.failAt)
				}
			}
			if slices.Equal(dump(t, e), before) {
				t.Error("the tables have not changed although nothing failed")
			}
		})
	}
}

func TestARefusedOperationLeavesItsTransactionAsItWas(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	h := addHousehold(t, s)
	addUser(t, s, "bob")
	addKey(t, s, h.user, "desktop")
	nobody := household{user: uuid.New(), key: h.key, spare: h.spare}
	before := dump(t, e)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for name, c := range txCalls {
			who := nobody
			switch name {
			case "CreateUser", "RenameKey":
				who = h
			case "DisableGroup", "EnableGroup":
				continue // refused only by the name of the group
			}
			if err := c.call(tx, who); c.writes && name != "AppTable" && err == nil {
				t.Errorf("%s was not refused", name)
			}
		}
		_, err := tx.InsertKey(h.user, latchkey.KeySpec{Name: "desktop"}, h.minted)
		wantError(t, err, latchkey.ErrKeyNameTaken)
		_, err = tx.LinkIdentity(h.user, email("bob"))
		wantError(t, err, latchkey.ErrIdentityTaken)
		return tx.AppTable("notes").Delete([]byte("ada"))
	}))
	if !slices.Equal(dump(t, e), before) {
		t.Error("the tables have changed")
	}
}

// losingEngine is an engine that can fail to commit.
type losingEngine struct {
	latchkey.Engine
	loses bool
}

func (e *losingEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx latchkey.EngineTx) error {
		err := fn(etx)
		if err == nil && e.loses {
			err = errNoRoom
		}
		return err
	})
}

func TestACallWhoseCommitFailsReturnsNothingBesideItsError(t *testing.T) {
	e := &losingEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	h := addHousehold(t, s)
	e.loses = true
	user, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")})
	wantError(t, err, errNoRoom)
	linked, err := s.LinkIdentity(t.Context(), h.user, email("lovelace"))
	wantError(t, err, errNoRoom)
	unlinked, err := s.UnlinkIdentity(t.Context(), h.user, email("byron"))
	wantError(t, err, errNoRoom)
	key, token, err := s.CreateKey(t.Context(), h.user, latchkey.KeySpec{Name: "desktop"})
	wantError(t, err, errNoRoom)
	requests := []latchkey.KeyRequest{{Owner: h.user, KeySpec: latchkey.KeySpec{Name: "desktop"}}}
	keys, tokens, err := s.CreateKeys(t.Context(), requests, nil)
	wantError(t, err, errNoRoom)
	if user.ID != uuid.Nil || linked.ID != uuid.Nil || unlinked.ID != uuid.Nil || key.ID != uuid.Nil || token != "" || keys != nil || tokens != nil {
		t.Errorf("got %+v, %+v, %+v, %+v, a token of %d bytes, %d keys and %d tokens", user, linked, unlinked, key, len(token), len(keys), len(tokens))
	}
}

// dump returns every entry of every table.
func dump(t testing.TB, e latchkey.Engine) (entries []string) {
	t.Helper()
	must(t, e.View(t.Context(), func(etx latchkey.EngineTx) error {
		for _, table := range tables {
			for entry, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				entries = append(entries, fmt.Sprintf("%s/%x: %x", table, entry.Key, entry.Value))
			}
		}
		return nil
	}))
	return entries
}

// rerunningEngine runs every writing function twice, as an engine that lost a race does.
type rerunningEngine struct{ latchkey.Engine }

func (e rerunningEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	lost := errors.New("lost a race")
	err := e.Engine.Update(ctx, func(etx latchkey.EngineTx) error {
		if err := fn(etx); err != nil {
			return err
		}
		return lost
	})
	if err != lost {
		return err
	}
	return e.Engine.Update(ctx, fn)
}

func TestACallWhoseFunctionRunsTwiceChangesTheStoreOnce(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, rerunningEngine{e}, light())
	h := addHousehold(t, s)
	commits := e.(latchkey.CommitCounter).Commits
	before := commits()
	keys := addNumberedKeys(t, s, h.user, 0, 3)
	must(t, s.DeleteKey(t.Context(), h.user, keys[0].ID))
	stats, err := s.Stats(t.Context())
	must(t, err)
	if n := commits() - before; stats.Users != 1 || stats.Keys != 5 || n != 2 {
		t.Errorf("%d users and %d keys after %d commits, want 1 and 5 after 2", stats.Users, stats.Keys, n)
	}
	got, err := s.Keys(t.Context(), h.user)
	must(t, err)
	if len(got) != 4 || !reflect.DeepEqual(got[2:], keys[1:]) {
		t.Errorf("the keys are %+v", got)
	}
}

func TestAKeyIsCachedAgainAfterAChangeOfItThatRanTwice(t *testing.T) {
	s := openEngine(t, rerunningEngine{newEngine(t)}, light())
	h := addHousehold(t, s)
	must(t, s.RenameKey(t.Context(), h.user, h.key.ID, "desktop"))
	must(t, s.DisableUser(t.Context(), h.user))
	must(t, s.EnableUser(t.Context(), h.user))
	for range 2 {
		wantLogin(t, s, h.token, h.key.ID)
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Hits != 1 {
		t.Errorf("the cache decided %d of two logins, want 1", st.Hits)
	}
}

func TestCloseIsIdempotentAndSafeBesideCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	h := addHousehold(t, s)

	var wg sync.WaitGroup
	var made [8][]latchkey.Key
	begun := make(chan struct{}, len(made))
	for i := range made {
		wg.Go(func() {
			for n := 0; ; n++ {
				key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: fmt.Sprint(i, " ", n)})
				if err == nil {
					made[i] = append(made[i], key)
					_, err = s.Login(t.Context(), h.token)
				}
				if err == nil {
					_, err = s.Stats(t.Context())
				}
				if n == 3 {
					begun <- struct{}{}
				}
				if err != nil {
					if !errors.Is(err, latchkey.ErrClosed) {
						t.Errorf("got %v, want %v", err, latchkey.ErrClosed)
					}
					return
				}
			}
		})
	}
	for range made {
		<-begun
	}
	for range 3 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	wg.Wait()

	s = openAt(t, path, light())
	for _, key := range slices.Concat(made[:]...) {
		if got, err := s.Key(t.Context(), latchkey.ServerOwner, key.ID); err != nil || !reflect.DeepEqual(got, key) {
			t.Errorf("got %+v, %v, want %+v, which CreateKey returned before the store was closed", got, err, key)
		}
	}
}

func TestCloseWaitsForAView(t *testing.T) {
	s := open(t)
	h := addHousehold(t, s)
	closed := make(chan error)
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		go func() { closed <- s.Close() }()
		waitUntil(t, "Close begins", func() bool {
			return errors.Is(storeCalls["Stats"].call(t.Context(), s, h), latchkey.ErrClosed)
		})
		_, err := tx.Key(h.user, h.key.ID)
		return err
	}))
	must(t, <-closed)
}

func TestNilOptionsAreTheDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, nil)
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "Ada's laptop")
	if !strings.HasPrefix(token, "lk_") {
		t.Errorf("the token begins with %q, want lk_", token[:3])
	}
	if age := time.Since(key.Created); age < -time.Minute || age > time.Minute {
		t.Errorf("the key was made %s ago", age)
	}
	closeStore(t, s)
	s = openAt(t, path, &latchkey.Options{})
	wantLogin(t, s, token, key.ID)
}

func TestOptionsAreCopied(t *testing.T) {
	opts := light()
	opts.TokenPrefix = "mine"
	s := openWith(t, opts)
	*opts = latchkey.Options{
		ReadOnly: true, MaxKeysPerUser: 1, AppServicesNames: true, TokenPrefix: "yours", CacheSize: -1, HashMemory: 1,
		Now: func() time.Time { t.Error("the clock was exchanged"); return time.Time{} },
	}
	ada := addUser(t, s, "ada")
	addKey(t, s, ada, "one")
	_, token := addKey(t, s, ada, "Ada's second")
	if !strings.HasPrefix(token, "mine_") {
		t.Errorf("the token begins with %q, want mine_", token[:5])
	}
}

func TestOptionsOutOfRangeAreRefusedAndNoFileIsMade(t *testing.T) {
	for name, opts := range map[string]latchkey.Options{
		"a prefix of 17 letters":           {TokenPrefix: strings.Repeat("p", 17)},
		"a prefix with an underscore":      {TokenPrefix: "my_app"},
		"a prefix with a hyphen":           {TokenPrefix: "my-app"},
		"a prefix that is not ASCII":       {TokenPrefix: "clé"},
		"a prefix with a space":            {TokenPrefix: " lk"},
		"a cost without passes":            {Cost: latchkey.Cost{Memory: 64, Lanes: 1}},
		"a cost without lanes":             {Cost: latchkey.Cost{Memory: 64, Passes: 1}},
		"a cost without memory":            {Cost: latchkey.Cost{Passes: 1, Lanes: 1}},
		"less than 8 KiB for each lane":    {Cost: latchkey.Cost{Memory: 31, Passes: 1, Lanes: 4}},
		"more than 1 GiB":                  {Cost: latchkey.Cost{Memory: 1<<20 + 1, Passes: 1, Lanes: 1}, HashMemory: 1 << 40},
		"more than 64 passes":              {Cost: latchkey.Cost{Memory: 64, Passes: 65, Lanes: 1}},
		"more than 16 lanes":               {Cost: latchkey.Cost{Memory: 256, Passes: 1, Lanes: 17}},
		"a hash larger than the bound":     {HashMemory: 7<<20 - 1},
		"a bound below zero":               {HashMemory: -1},
		"a queue below zero":               {HashQueue: -1},
		"a cache that no machine can hold": {CacheSize: 1<<24 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			_, err := latchkey.Open(path, &opts)
			wantError(t, err, latchkey.ErrInvalidOptions)
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not say which file", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a file: %v", err)
			}
			_, err = latchkey.OpenWith(newEngine(t), &opts)
			wantError(t, err, latchkey.ErrInvalidOptions)
		})
	}
}

func TestOptionsAtTheEdgeOfTheirRangeAreTaken(t *testing.T) {
	for name, opts := range map[string]latchkey.Options{
		"a prefix of 1 digit":         {TokenPrefix: "7", Cost: latchkey.LightCost},
		"a prefix of 16 letters":      {TokenPrefix: strings.Repeat("P", 16), Cost: latchkey.LightCost},
		"the least cost":              {Cost: latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}},
		"64 passes":                   {Cost: latchkey.Cost{Memory: 8, Passes: 64, Lanes: 1}},
		"16 lanes":                    {Cost: latchkey.Cost{Memory: 128, Passes: 1, Lanes: 16}},
		"a hash as large as allowed":  {Cost: latchkey.Cost{Memory: 64, Passes: 1, Lanes: 1}, HashMemory: 64 << 10},
		"no wait for the lock":        {LockTimeout: -1, Cost: latchkey.LightCost},
		"a cache of one key":          {CacheSize: 1, Cost: latchkey.LightCost},
		"logins that never wait long": {HashQueue: 1, Cost: latchkey.LightCost},
	} {
		t.Run(name, func(t *testing.T) {
			s := openWith(t, &opts)
			key, token := addKey(t, s, latchkey.ServerOwner, "backup")
			wantLogin(t, s, token, key.ID)
			if prefix := opts.TokenPrefix; prefix != "" && !strings.HasPrefix(token, prefix+"_") {
				t.Errorf("a token begins with %q, want %q", token[:len(prefix)+1], prefix+"_")
			}
		})
	}
}

func TestAStoreKeepsThePrefixThatItWasMadeWith(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	with := func(prefix string) *latchkey.Options {
		opts := light()
		opts.TokenPrefix = prefix
		return opts
	}
	s := openAt(t, path, with("acme"))
	key, token := addKey(t, s, latchkey.ServerOwner, "backup")
	closeStore(t, s)
	before := stateAt(t, path)

	for _, prefix := range []string{"lk", "Acme", "acm", "acme2"} {
		for _, readOnly := range []bool{false, true} {
			opts := with(prefix)
			opts.ReadOnly = readOnly
			_, err := latchkey.TryOpen(t, path, opts)
			wantError(t, err, latchkey.ErrInvalidOptions)
		}
	}
	if stateAt(t, path) != before {
		t.Error("the store has changed")
	}
	for _, prefix := range []string{"", "acme"} {
		s := openAt(t, path, with(prefix))
		wantLogin(t, s, token, key.ID)
		if _, another := addKey(t, s, latchkey.ServerOwner, "another"+prefix); !strings.HasPrefix(another, "acme_") {
			t.Errorf("a new token begins with %q, want acme_", another[:5])
		}
		closeStore(t, s)
	}
}

// seal makes a record from a message. It follows the description of the format, and does not use
// the package.
func seal(version byte, table, key string, message ...byte) []byte {
	record := append([]byte{version}, message...)
	sum := crc32.Checksum(slices.Concat([]byte(table), []byte(key), record), crc32.MakeTable(crc32.Castagnoli))
	return binary.BigEndian.AppendUint32(record, sum)
}

func TestAFileOfALaterFormatIsErrNewerFormatAndStaysAsItIs(t *testing.T) {
	for name, format := range map[string][]byte{
		"a later format":                        seal(2, "meta", "format", 8, 2),
		"a much later format":                   seal(2, "meta", "format", 8, 0xff, 0xff, 0xff, 0xff, 1),
		"a later format that says more":         seal(2, "meta", "format", 8, 2, 0x12, 3, 'n', 'e', 'w'),
		"a later version of the record itself":  seal(3, "meta", "format", 8, 1),
		"a record of which nothing can be read": seal(9, "meta", "format", 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			s := openFile(t, path, light())
			addHousehold(t, s)
			closeStore(t, s)
			e, err := latchkey.OpenBoltEngine(path, nil)
			must(t, err)
			// A later format has only the record of its format where this version looks for it.
			must(t, e.Update(t.Context(), func(etx latchkey.EngineTx) error {
				return errors.Join(
					etx.Put("meta", []byte("format"), format),
					etx.Delete("meta", []byte("domain")),
					etx.Put("meta", []byte("tags"), []byte("another thing")))
			}))
			must(t, e.Close())
			before := readFile(t, path)

			for _, readOnly := range []bool{false, true} {
				opts := light()
				opts.ReadOnly = readOnly
				_, err := latchkey.Open(path, opts)
				wantError(t, err, latchkey.ErrNewerFormat)
				if !strings.Contains(err.Error(), path) {
					t.Errorf("%q does not say which file", err)
				}
			}
			if !bytes.Equal(readFile(t, path), before) {
				t.Error("the file has changed")
			}
		})
	}
}

// damagedEngine is an engine that returns something else for one key of the table meta.
type damagedEngine struct {
	latchkey.Engine
	key    string
	damage func(value []byte) []byte
}

func (e *damagedEngine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.View(ctx, func(etx latchkey.EngineTx) error { return fn(&damagedTx{etx, e}) })
}

type damagedTx struct {
	latchkey.EngineTx
	e *damagedEngine
}

func (tx *damagedTx) Get(table string, key []byte) ([]byte, error) {
	value, err := tx.EngineTx.Get(table, key)
	if table == "meta" && string(key) == tx.e.key && err == nil {
		value = tx.e.damage(value)
	}
	return value, err
}

func TestAStoreWithoutASoundDomainIsErrCorrupt(t *testing.T) {
	e := &damagedEngine{Engine: newEngine(t)}
	addHousehold(t, openEngine(t, e, light()))
	wantCorrupt := func(what string, damage func([]byte) []byte) {
		t.Helper()
		e.damage = damage
		if _, err := latchkey.OpenWith(e, light()); !errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("%s of %s: got %v, want %v", what, e.key, err, latchkey.ErrCorrupt)
		}
	}
	for _, e.key = range []string{"format", "domain", "tags", "replica"} {
		size := 0
		e.damage = func(value []byte) []byte { size = len(value); return value }
		openEngine(t, e, light())
		for i := range size {
			for bit := range 8 {
				wantCorrupt(fmt.Sprintf("bit %d of byte %d", bit, i), func(value []byte) []byte { value[i] ^= 1 << bit; return value })
			}
			wantCorrupt(fmt.Sprintf("the first %d bytes", i), func(value []byte) []byte { return value[:i] })
		}
		wantCorrupt("an empty message", func([]byte) []byte { return seal(2, "meta", e.key) })
	}
	e.key = "tags"
	wantCorrupt("a retired secret alone", func([]byte) []byte { return seal(2, "meta", e.key, 0x0a, 2, 0x18, 2) })
	for _, e.key = range []string{"domain", "tags", "replica"} {
		wantCorrupt("the lack", func([]byte) []byte { return nil })
		wantCorrupt("an ID of 3 bytes", func([]byte) []byte { return seal(2, "meta", e.key, 0x0a, 3, 1, 2, 3) })
	}
	e.key = ""
}

func TestAnEmptyEngineBecomesAStore(t *testing.T) {
	e := newEngine(t)
	opts := light()
	opts.ReadOnly = true
	_, err := latchkey.OpenWith(e, opts)
	wantError(t, err, latchkey.ErrReadOnly)
	if entries := dump(t, e); len(entries) != 0 {
		t.Errorf("a refused opening left %q", entries)
	}

	h := addHousehold(t, openEngine(t, e, light()))
	again := openEngine(t, e, opts)
	wantLogin(t, again, h.token, h.key.ID)
	_, err = again.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")})
	wantError(t, err, latchkey.ErrReadOnly)
}

// racingEngine is an engine in which another program begins a store after Open has found the engine
// empty.
type racingEngine struct {
	latchkey.Engine
	race func()
	once atomic.Bool
}

func (e *racingEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if !e.once.Swap(true) {
		e.race()
	}
	return e.Engine.Update(ctx, fn)
}

func TestTwoOpeningsOfAnEmptyEngineMakeOneDomain(t *testing.T) {
	e := &racingEngine{Engine: newEngine(t)}
	var first *latchkey.Store
	e.race = func() { first = openEngine(t, e, light()) }
	second := openEngine(t, e, light())
	key, token := addKey(t, first, latchkey.ServerOwner, "backup")
	wantLogin(t, second, token, key.ID)
}

func TestAClosedStoreHasClosedItsEngine(t *testing.T) {
	e := newEngine(t)
	closeStore(t, openEngine(t, e, light()))
	wantError(t, e.View(t.Context(), func(latchkey.EngineTx) error { return nil }), latchkey.ErrClosed)
}

func TestAFailedOpeningOfAnEngineLeavesItOpen(t *testing.T) {
	e := newEngine(t)
	_, err := latchkey.OpenWith(e, &latchkey.Options{HashQueue: -1})
	wantError(t, err, latchkey.ErrInvalidOptions)
	openEngine(t, e, light())
}

func TestAFailedOpenClosesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, light()))
	opts := light()
	opts.TokenPrefix = "another"
	_, err := latchkey.Open(path, opts)
	wantError(t, err, latchkey.ErrInvalidOptions)
	opts = light()
	opts.LockTimeout = -1
	openFile(t, path, opts)
}

func TestAPathMayHaveNoDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	s := openFile(t, "keys.db", light())
	key, token := addKey(t, s, latchkey.ServerOwner, "backup")
	closeStore(t, s)
	entries, err := os.ReadDir(".")
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "keys.db" {
		t.Errorf("the directory has %v, want keys.db alone", entries)
	}
	s = openFile(t, filepath.Join(".", "keys.db"), light())
	wantLogin(t, s, token, key.ID)
	closeStore(t, s)
}

func TestAStoreThatCannotBeMadeSaysWhere(t *testing.T) {
	latchkey.AboutFile(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("no directory"), 0o600))
	for _, tt := range []struct {
		name, path string
		readOnly   bool
		want       error // nil means any error
	}{
		{"a missing directory", filepath.Join(dir, "missing", "keys.db"), false, fs.ErrNotExist},
		{"a file for a directory", filepath.Join(file, "keys.db"), false, nil},
		{"a directory", dir, false, nil},
		{"a missing file, to be read only", filepath.Join(dir, "keys.db"), true, fs.ErrNotExist},
		{"no path", "", false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := light()
			opts.ReadOnly = tt.readOnly
			s, err := latchkey.Open(tt.path, opts)
			if err == nil {
				closeStore(t, s)
				t.Fatal("it was opened")
			}
			if tt.want != nil {
				wantError(t, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%q does not say which file", err)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want the one file that was there", entries, err)
	}
}

func TestADirectoryWithoutWritePermissionIsErrPermission(t *testing.T) {
	latchkey.AboutFile(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o500))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	switch {
	case runtime.GOOS == "windows":
		t.Skip("on Windows a directory's mode does not keep files out")
	case os.Getuid() == 0:
		dir = "/sys" // not even root can write here
		if _, err := os.Stat(dir); err != nil {
			t.Skip("root may write to every directory but /sys, and there is none here")
		}
	}
	_, err := latchkey.Open(filepath.Join(dir, "keys.db"), light())
	wantError(t, err, fs.ErrPermission)
}
