package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/check"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
)

// wrongs are the ways in which a store can be wrong. Repair makes derived data again.
var wrongs = []struct {
	name    string
	derived bool
	plant   func(h *inhabited)
}{
	{"a user's record is damaged", false, func(h *inhabited) { h.spoil(tableUsers, h.ada.ID[:]) }},
	{"a user's tombstone is damaged", false, func(h *inhabited) { h.spoil(tableDeadUsers, h.gone.ID[:]) }},
	{"a user's record is missing", false, func(h *inhabited) { h.remove(tableUsers, h.ada.ID[:]) }},
	{"a user's record is another's", false, func(h *inhabited) { h.put(tableUsers, h.bob.ID[:], sealedUser(h.ada)) }},
	{"a user's ID is too short", false, func(h *inhabited) { h.put(tableUsers, h.bob.ID[:15], sealedUser(h.bob)) }},
	{"a tombstone's ID is too short", false, func(h *inhabited) { h.put(tableDeadUsers, h.bob.ID[:15], sealedUser(h.bob)) }},
	{"a user has no identity", false, func(h *inhabited) { h.bob.Identities = nil; h.putUser(h.bob) }},
	{"two users have one identity", false, func(h *inhabited) {
		h.bob = h.bob.SetIdentity(h.ada.Linked()[0])
		h.putUser(h.bob)
	}},
	{"a deleted user has a record", true, func(h *inhabited) {
		h.remove(tableIdentities, email("bob").indexKey())
		h.put(tableDeadUsers, h.bob.ID[:], record.Seal(tableDeadUsers, h.bob.ID[:], h.bob.Tombstone().Encode()))
	}},

	{"an identity is not in the index", true, func(h *inhabited) { h.remove(tableIdentities, h.lovelace().indexKey()) }},
	{"the index gives an identity to another user", true, func(h *inhabited) {
		h.put(tableIdentities, h.lovelace().indexKey(), h.bob.ID[:])
	}},
	{"the index gives an identity to nobody", true, func(h *inhabited) {
		h.put(tableIdentities, h.lovelace().indexKey(), uuid.Nil[:])
	}},
	{"the index has an identity that its user has not", true, func(h *inhabited) {
		h.put(tableIdentities, Identity{ProviderCustomToken, "1"}.indexKey(), h.ada.ID[:])
	}},
	{"the index has an identity of a deleted user", true, func(h *inhabited) {
		h.put(tableIdentities, Identity{ProviderLocalUserpass, "gone"}.indexKey(), h.gone.ID[:])
	}},
	{"the index of identities has half an ID", true, func(h *inhabited) {
		h.put(tableIdentities, h.lovelace().indexKey(), h.ada.ID[:8])
	}},
	{"the index of identities has an unreadable key", true, func(h *inhabited) {
		h.put(tableIdentities, []byte{0xff}, h.ada.ID[:])
	}},

	{"a key's record is damaged", false, func(h *inhabited) { h.spoil(tableKeys, h.laptop.ID[:]) }},
	{"a key's tombstone is damaged", false, func(h *inhabited) { h.spoil(tableDeadKeys, h.lost.ID[:]) }},
	{"a key's record is another's", false, func(h *inhabited) { h.put(tableKeys, h.laptop.ID[:], sealedKey(h.backup)) }},
	{"a key's ID is too long", false, func(h *inhabited) { h.put(tableKeys, append(h.laptop.ID[:], 0), sealedKey(h.laptop)) }},
	{"a deleted key has a record", true, func(h *inhabited) {
		h.put(tableDeadKeys, h.laptop.ID[:], record.Seal(tableDeadKeys, h.laptop.ID[:], h.laptop.Tombstone().Encode()))
	}},
	{"a key belongs to a user who never was", false, func(h *inhabited) { h.giveLaptopTo(uuid.UUID{1}) }},
	{"a key belongs to a deleted user", true, func(h *inhabited) { h.giveLaptopTo(h.gone.ID) }},
	{"a key belongs to an anonymous user", false, func(h *inhabited) {
		for _, i := range h.ada.Linked() {
			h.remove(tableIdentities, identityOf(i).indexKey())
		}
		visitor := Identity{ProviderAnonymous, "visitor"}
		h.ada.Identities = []record.Identity{{Provider: string(visitor.Provider), Subject: visitor.Subject, Stamp: h.ada.Identities[0].Stamp}}
		h.put(tableIdentities, visitor.indexKey(), h.ada.ID[:])
		h.putUser(h.ada)
	}},
	{"a key has no verifier", false, func(h *inhabited) { h.laptop.Verifiers = record.Verifiers{}; h.putKey(h.laptop) }},
	{"a key's verifier is empty", false, func(h *inhabited) { h.putVerifier("") }},
	{"a key's verifier is no PHC string", false, func(h *inhabited) { h.putVerifier("$2b$10$abc") }},
	{"a key's verifier would take all memory", false, func(h *inhabited) {
		v, err := parseVerifier(h.laptop.Verifiers.All[0].PHC)
		must(h.t, err)
		v.Cost.Memory = 1<<20 + 1
		h.putVerifier(v.String())
	}},
	{"a key has a name that none can have", false, func(h *inhabited) {
		h.remove(tableNames, record.NameKey(h.laptop.Owner, h.laptop.Name.Value, h.laptop.ID))
		h.laptop.Name.Value = "a\nb"
		h.put(tableNames, record.NameKey(h.laptop.Owner, h.laptop.Name.Value, h.laptop.ID), nil)
		h.putKey(h.laptop)
	}},
	{"two keys of one owner have one name", false, func(h *inhabited) {
		other, _ := addServerKey(h.t, h.Store, "restore")
		h.remove(tableNames, record.NameKey(ServerOwner, "restore", other.ID))
		k := storedKey(h.t, h.Store, other.ID)
		k.Name.Value = h.backup.Name.Value
		h.put(tableNames, record.NameKey(ServerOwner, k.Name.Value, k.ID), nil)
		h.putKey(k)
	}},

	{"a name is not in the index", true, func(h *inhabited) {
		h.remove(tableNames, record.NameKey(h.laptop.Owner, h.laptop.Name.Value, h.laptop.ID))
	}},
	{"the index has another name for a key", true, func(h *inhabited) {
		h.put(tableNames, record.NameKey(h.laptop.Owner, "phone", h.laptop.ID), nil)
	}},
	{"the index has another owner for a key", true, func(h *inhabited) {
		h.put(tableNames, record.NameKey(h.bob.ID, h.laptop.Name.Value, h.laptop.ID), nil)
	}},
	{"the index has a name of a deleted key", true, func(h *inhabited) {
		h.put(tableNames, record.NameKey(h.lost.Owner, "lost", h.lost.ID), nil)
	}},
	{"the index has a name of a key that never was", true, func(h *inhabited) {
		h.put(tableNames, record.NameKey(h.ada.ID, "phone", uuid.UUID{1}), nil)
	}},
	{"the index of names has a key that is too short", true, func(h *inhabited) { h.put(tableNames, h.ada.ID[:], nil) }},
	{"the index of names has a key without its zero", true, func(h *inhabited) {
		h.put(tableNames, bytes.Repeat([]byte{1}, 40), nil)
	}},

	{"a group's record is damaged", false, func(h *inhabited) {
		h.put(tableGroups, []byte("plant"), record.Seal(tableGroups, []byte("garden"), nil))
	}},
	{"a user is not in the index of members", true, func(h *inhabited) { h.remove(tableMembers, record.MemberKey("plant", h.bob.ID)) }},
	{"a key is not in the index of members", true, func(h *inhabited) { h.remove(tableMembers, record.MemberKey("plant", h.backup.ID)) }},
	{"the index of members has a user of no group", true, func(h *inhabited) { h.put(tableMembers, record.MemberKey("plant", h.ada.ID), nil) }},
	{"the index of members has a key of another group", true, func(h *inhabited) {
		h.put(tableMembers, record.MemberKey("garden", h.backup.ID), nil)
	}},
	{"the index of members has a key that is gone", true, func(h *inhabited) { h.put(tableMembers, record.MemberKey("plant", h.lost.ID), nil) }},
	{"the index of members has a key that is too short", true, func(h *inhabited) { h.put(tableMembers, []byte("plant"), nil) }},

	{"a key is not in the index of handles", true, func(h *inhabited) {
		h.backup.Verifiers.All[0].Handle = record.Handle{1}
		h.putKey(h.backup)
	}},
	{"the index of handles has another handle of a key", true, func(h *inhabited) {
		h.put(tableHandles, record.HandleKey(record.Handle{1}, h.laptop.ID), nil)
	}},
	{"the index of handles has a key that is gone", true, func(h *inhabited) {
		h.put(tableHandles, record.HandleKey(record.Handle{1}, h.lost.ID), nil)
	}},
	{"the index of handles has a key that is too short", true, func(h *inhabited) { h.put(tableHandles, h.ada.ID[:], nil) }},

	{"a hash is damaged", true, func(h *inhabited) { h.put(tableHashes, h.hashID(h.laptop.ID), []byte("damage")) }},
	{"a hash is no PHC string", true, func(h *inhabited) {
		h.put(tableHashes, h.hashID(h.laptop.ID), record.Seal(tableHashes, h.hashID(h.laptop.ID), nil))
	}},
	{"a hash is of a key that is gone", true, func(h *inhabited) {
		own := rehash.Own{PHC: h.laptop.Verifiers.All[0].PHC}
		h.put(tableHashes, h.hashID(h.lost.ID), record.Seal(tableHashes, h.hashID(h.lost.ID), own.Encode()))
	}},

	{"a last use is damaged", true, func(h *inhabited) { h.put(tableLastUse, h.hashID(h.laptop.ID), []byte("damage")) }},
	{"a last use is of a key that is gone", true, func(h *inhabited) {
		h.put(tableLastUse, h.hashID(h.lost.ID), record.Seal(tableLastUse, h.hashID(h.lost.ID), record.EncodeLastUse(5)))
	}},
	{"a last use has a key that is too short", true, func(h *inhabited) {
		h.put(tableLastUse, []byte("key"), record.Seal(tableLastUse, []byte("key"), record.EncodeLastUse(5)))
	}},

	{"an application's record is damaged", false, func(h *inhabited) {
		h.put(tableData, []byte("notes\x00ada"), record.Seal(tableData, []byte("notes\x00bob"), []byte("met")))
	}},

	{"the format is damaged", false, func(h *inhabited) { h.spoil(tableMeta, []byte(record.MetaFormat)) }},
	{"the format is missing", false, func(h *inhabited) { h.remove(tableMeta, []byte(record.MetaFormat)) }},
	{"the domain is damaged", false, func(h *inhabited) { h.spoil(tableMeta, []byte(record.MetaDomain)) }},
	{"the domain is missing", false, func(h *inhabited) { h.remove(tableMeta, []byte(record.MetaDomain)) }},
	{"the domain is another", false, func(h *inhabited) {
		h.put(tableMeta, []byte(record.MetaDomain), open(h.t, nil).domain.Records()[record.MetaDomain])
	}},
	{"the tag secrets are damaged", false, func(h *inhabited) { h.spoil(tableMeta, metaTags) }},
	{"the tag secrets are missing", false, func(h *inhabited) { h.remove(tableMeta, metaTags) }},
	{"the replica's ID is damaged", false, func(h *inhabited) { h.spoil(tableMeta, metaReplica) }},
	{"the replica's ID is missing", false, func(h *inhabited) { h.remove(tableMeta, metaReplica) }},
}

// lovelace is the second identity of ada.
func (h *inhabited) lovelace() Identity { return identityOf(h.ada.Linked()[1]) }

// giveLaptopTo changes the owner of the laptop, which no call does.
func (h *inhabited) giveLaptopTo(owner uuid.UUID) {
	h.remove(tableNames, record.NameKey(h.laptop.Owner, h.laptop.Name.Value, h.laptop.ID))
	h.laptop.Owner = owner
	h.put(tableNames, record.NameKey(owner, h.laptop.Name.Value, h.laptop.ID), nil)
	h.putKey(h.laptop)
}

// putVerifier writes the laptop with another verifier.
func (h *inhabited) putVerifier(phc string) {
	h.laptop.Verifiers.All[0].PHC = phc
	h.putKey(h.laptop)
}

// hashID returns the key in the table of hashes of a key that has the laptop's verifier.
func (h *inhabited) hashID(key uuid.UUID) []byte {
	return rehash.ID{Key: key, Verifier: h.laptop.Verifiers.All[0].ID}.TableKey()
}

func TestCheckFindsEverythingThatIsWrong(t *testing.T) {
	for _, tt := range wrongs {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			if findings := h.findings(); len(findings) != 0 {
				t.Fatalf("before anything is wrong: %v", findings)
			}
			tt.plant(h)
			findings := h.findings()
			if len(findings) == 0 {
				t.Error("nothing was found")
			}
			for _, finding := range findings {
				if !errors.Is(finding, ErrCorrupt) {
					t.Errorf("the finding %q is not ErrCorrupt", finding)
				}
			}
			// Check changes nothing, so it finds the same again.
			if again := h.findings(); len(again) != len(findings) {
				t.Errorf("%d findings the first time, and %d the second", len(findings), len(again))
			}
		})
	}
}

// openSpread makes a store in which every table has several pages, and has something wrong at its
// end.
func openSpread(t *testing.T) (s *Store, wrongs []string) {
	t.Helper()
	s = open(t, nil)
	minted, _, err := s.MintKeys(t.Context(), 300, nil)
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		for i, m := range minted {
			user, err := tx.CreateUser(UserSpec{Identity: Identity{ProviderLocalUserpass, fmt.Sprint("user ", i)}})
			if err != nil {
				return err
			}
			if _, err := tx.InsertKey(user.ID, KeySpec{Name: "laptop"}, m); err != nil {
				return err
			}
			if err := tx.AppTable("notes").Put(user.ID[:], make([]byte, 100)); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, table := range spreadTables {
		plant(t, s, table, bytes.Repeat([]byte{0xff}, 16), []byte("wrong"))
	}
	for finding := range s.Check(t.Context()) {
		wrongs = append(wrongs, finding.Error())
	}
	if len(wrongs) != len(spreadTables) {
		t.Fatalf("got %q, want a finding for each of %d tables", wrongs, len(spreadTables))
	}
	return s, wrongs
}

var spreadTables = []string{tableUsers, tableIdentities, tableKeys, tableNames, tableData}

func TestCheckGoesOnBehindAPageThatCannotBeRead(t *testing.T) {
	AboutFile(t)
	s, wrongs := openSpread(t)
	first, middle := map[string]string{}, map[string]string{} // by table
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for _, table := range spreadTables {
			n := 0
			for entry, err := range etx.Scan(table, nil, nil) {
				must(t, err)
				switch n {
				case 0:
					first[table] = string(entry.Key)
				case 150:
					middle[table] = string(entry.Key)
				}
				n++
			}
		}
		return nil
	}))
	closeStore(t, s)
	file, err := os.ReadFile(pathOf(s))
	must(t, err)
	pages := map[uint64]string{}
	for _, table := range spreadTables {
		pages[leafWith(t, file, first[table])] = table
		pages[leafWith(t, file, middle[table])] = table
	}
	if len(pages) != 2*len(spreadTables) {
		t.Fatalf("got the pages %v, want two of each table", pages)
	}
	for page, table := range pages {
		t.Run(fmt.Sprint("page ", page, " of ", table), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			damaged := bytes.Clone(file)
			copy(damaged[page*boltpage.PageSize:], bytes.Repeat([]byte{0x5a}, boltpage.PageSize))
			must(t, os.WriteFile(path, damaged, 0o600))
			s := openPath(t, path, &Options{Cost: LightCost, ReadOnly: true})
			unread, missing := 0, slices.Clone(wrongs)
			for finding := range s.Check(t.Context()) {
				text := finding.Error()
				if i := slices.Index(missing, text); i >= 0 {
					missing = slices.Delete(missing, i, i+1)
					continue
				}
				if strings.Contains(text, "table "+table) {
					unread++
				}
				if !strings.Contains(text, fmt.Sprintf("page %d ", page)) {
					t.Errorf("a finding about nothing that is there: %s", text)
				}
			}
			if unread != 1 || len(missing) != 0 {
				t.Errorf("that the table cannot be read was found %d times, want once; not found: %q", unread, missing)
			}
		})
	}
}

// leafWith returns the leaf page in use of a bbolt file that has key.
func leafWith(t *testing.T, file []byte, key string) (page uint64) {
	t.Helper()
	return leafThat(t, file, func(k, _ []byte) bool { return string(k) == key })
}

func TestRepairMakesDerivedDataAgain(t *testing.T) {
	for _, tt := range wrongs {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			tt.plant(h)
			before := len(h.findings())
			repaired, err := h.Repair(t.Context())
			switch findings := h.findings(); {
			case err != nil:
				t.Errorf("Repair: %v", err)
			case tt.derived && len(findings) != 0:
				t.Errorf("after %d repairs it still is wrong: %v", repaired, findings)
			case tt.derived && repaired == 0:
				t.Error("nothing counts as repaired")
			case !tt.derived && before > 0 && len(findings) == 0:
				t.Error("what cannot be derived has vanished")
			}
			if again, err := h.Repair(t.Context()); again != 0 || err != nil {
				t.Errorf("the second Repair found %d things to do, %v", again, err)
			}
		})
	}
}

func TestARepairedStoreAcceptsWrites(t *testing.T) {
	for _, tt := range wrongs {
		if !tt.derived {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			tt.plant(h)
			_, err := h.Repair(t.Context())
			must(t, err)
			must(t, h.DisableKey(t.Context(), ServerOwner, h.backup.ID))
			if has, err := h.Key(t.Context(), h.ada.ID, h.laptop.ID); err == nil && has.Name == "laptop" {
				must(t, h.RenameKey(t.Context(), h.ada.ID, h.laptop.ID, "desktop"))
			}
			if _, err := h.CreateUser(t.Context(), UserSpec{Identity: Identity{ProviderLocalUserpass, "ada"}}); !errors.Is(err, ErrIdentityTaken) {
				t.Errorf("making ada again: got %v, want %v", err, ErrIdentityTaken)
			}
			must(t, h.DeleteUser(t.Context(), h.ada.ID))
			if findings := h.findings(); len(findings) != 0 {
				t.Errorf("after more changes: %v", findings)
			}
		})
	}
}

func TestRepairBringsNothingBackThatWasRevoked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		revoke func(s *Store, key Key) error
		tables []string // of which old pages have the records from before the change
		want   error
	}{
		{"a disabled key", func(s *Store, key Key) error {
			return s.DisableKey(t.Context(), key.Owner, key.ID)
		}, []string{tableKeys}, ErrKeyDisabled},
		{"a deleted key", func(s *Store, key Key) error {
			return s.DeleteKey(t.Context(), key.Owner, key.ID)
		}, []string{tableKeys}, ErrInvalidToken},
		{"a disabled user", func(s *Store, key Key) error {
			return s.DisableUser(t.Context(), key.Owner)
		}, []string{tableUsers}, ErrUserDisabled},
		{"a key of a deleted user", func(s *Store, key Key) error {
			return s.DeleteUser(t.Context(), key.Owner)
		}, []string{tableKeys}, ErrInvalidToken},
		{"a deleted user and the key", func(s *Store, key Key) error {
			return s.DeleteUser(t.Context(), key.Owner)
		}, []string{tableUsers, tableKeys}, ErrInvalidToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, nil)
			other, otherToken := addWideKey(t, s, "bob")
			key, token := addWideKey(t, s, "ada")
			entries := map[string]uuid.UUID{}
			for _, table := range tt.tables {
				entries[table] = map[string]uuid.UUID{tableKeys: other.ID, tableUsers: other.Owner}[table]
			}
			s = reopenWithOldPages(t, s, entries, func(s *Store) { must(t, tt.revoke(s, key)) })
			if _, err := s.Login(t.Context(), token); err == nil {
				t.Error("it logs in before the repair")
			}
			findings := 0
			for finding := range s.Check(t.Context()) {
				if !errors.Is(finding, ErrCorrupt) {
					t.Errorf("the finding %q is not ErrCorrupt", finding)
				}
				findings++
			}
			if repaired, err := s.Repair(t.Context()); findings == 0 || repaired == 0 || err != nil {
				t.Errorf("repaired %d of %d findings, %v", repaired, findings, err)
			}
			wantRefused(t, s, token, tt.want)
			wantLogin(t, s, otherToken, other.ID)
			wantSound(t, s)
			must(t, s.RenameKey(t.Context(), other.Owner, other.ID, "renamed"))
			if again, err := s.Repair(t.Context()); again != 0 || err != nil {
				t.Errorf("the second Repair found %d things to do, %v", again, err)
			}
		})
	}
}

// An entry of an earlier state that is in the cache stays there until Repair disables it.
func TestAKeyThatRepairDisablesIsForgottenByTheCache(t *testing.T) {
	h := openInhabited(t)
	wantLogin(t, h.Store, h.laptopToken, h.laptop.ID)
	h.engine = staleEngine{h.engine, TrackedChange{Table: tableKeys, Key: h.laptop.ID[:], Sequence: 1000}}
	if repaired, err := h.Repair(t.Context()); err != nil || repaired != 1 {
		t.Fatalf("repaired: %d, %v", repaired, err)
	}
	wantRefused(t, h.Store, h.laptopToken, ErrKeyDisabled)
}

func TestTheHookIsToldWhatRepairDisablesAndDeletes(t *testing.T) {
	h := openInhabited(t)
	var told []string
	h.onChange = func(_ *Tx, c Change) error {
		told = append(told, fmt.Sprint(c.Actions, " ", c.Key, " ", c.Name))
		return nil
	}
	h.engine = staleEngine{h.engine, TrackedChange{Table: tableKeys, Key: h.laptop.ID[:], Sequence: 1000}}
	if _, err := h.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{fmt.Sprintf("[key.disabled] %s laptop", h.laptop.ID)}; !slices.Equal(told, want) {
		t.Errorf("the hook was called for %q, want %q", told, want)
	}
}

func TestTheHookIsToldTheIDOfADamagedRecordThatIsDeleted(t *testing.T) {
	h := openInhabited(t)
	h.spoil(tableKeys, h.laptop.ID[:])
	var told []Change
	h.onChange = func(_ *Tx, c Change) error {
		told = append(told, c)
		return nil
	}
	if err := h.Update(t.Context(), func(tx *Tx) error { return tx.delete(tableKeys, h.laptop.ID[:]) }); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || told[0].Key != h.laptop.ID || !slices.Equal(told[0].Actions, []Action{ActionKeyDeleted}) || told[0].Name != "" {
		t.Errorf("the hook was called for %+v", told)
	}
}

// staleEngine is an engine that finds an entry of an earlier state.
type staleEngine struct {
	Engine
	stale TrackedChange
}

func (e staleEngine) Update(ctx context.Context, fn func(EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx EngineTx) error { return fn(staleTx{etx, e.stale}) })
}

type staleTx struct {
	EngineTx
	stale TrackedChange
}

func (tx staleTx) RepairEngine(context.Context) (repaired int, stale []TrackedChange, err error) {
	return 1, []TrackedChange{tx.stale}, nil
}

func TestAGroupWithARecordOfAnEarlierStateIsDisabledByRepair(t *testing.T) {
	h := openInhabited(t)
	h.put(tableGroups, []byte("plant"), record.Seal(tableGroups, []byte("plant"), record.Group{}.Encode()))
	h.engine = staleEngine{h.engine, TrackedChange{Table: tableGroups, Key: []byte("plant"), Sequence: 1000}}
	if repaired, err := h.Repair(t.Context()); err != nil || repaired != 1 {
		t.Fatalf("repaired: %d, %v", repaired, err)
	}
	g := *stored(t, h.Store, func(tx *Tx) (*record.Group, error) { return tx.getGroup("plant") })
	if !g.Flag.IsDisabled() {
		t.Errorf("the group is %+v, want it to be disabled", g)
	}
}

func TestAGroupWhoseRecordIsLostIsDisabledBySalvage(t *testing.T) {
	AboutFile(t)
	s := open(t, nil)
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		for i := range 500 { // so that the table has pages of its own
			if err := tx.DisableGroup(fmt.Sprintf("group %03d", i)); err != nil {
				return err
			}
		}
		return nil
	}))
	_, token, err := s.CreateServerKey(t.Context(), KeySpec{Name: "door", Group: "group 250"})
	must(t, err)
	closeStore(t, s)
	file, err := os.ReadFile(pathOf(s))
	must(t, err)
	page := leafThat(t, file, func(k, v []byte) bool { return string(k) == "group 250" && isTracked(tableGroups, k, v) })
	clear(file[page*boltpage.PageSize:][:boltpage.PageSize])
	broken, out := filepath.Join(t.TempDir(), "broken.db"), filepath.Join(t.TempDir(), "keys.db")
	must(t, os.WriteFile(broken, file, 0o600))

	report, err := Salvage(t.Context(), broken, out)
	if err != nil || report.Uncertain == 0 {
		t.Fatalf("got %+v, %v, want uncertain groups", report, err)
	}
	s = openPath(t, out, nil)
	wantRefused(t, s, token, ErrGroupDisabled)
	wantSound(t, s)
}

func TestARecordThatCannotBeReadIsOneFinding(t *testing.T) {
	for name, spoil := range map[string]func(h *inhabited){
		"a user's": func(h *inhabited) { h.spoil(tableUsers, h.ada.ID[:]) },
		"a key's":  func(h *inhabited) { h.spoil(tableKeys, h.laptop.ID[:]) },
	} {
		t.Run(name, func(t *testing.T) {
			h := openInhabited(t)
			spoil(h)
			if findings := h.findings(); len(findings) != 1 {
				t.Errorf("got %q, want one finding", findings)
			}
		})
	}
}

func TestARecordOfALaterVersionIsNotTakenForDamage(t *testing.T) {
	h := openInhabited(t)
	h.put(tableUsers, h.bob.ID[:], sealedAs(record.Version+1, tableUsers, h.bob.ID[:], sealedUser(h.bob)))
	if findings := h.findings(); len(findings) == 0 || !errors.Is(findings[0], ErrNewerFormat) {
		t.Errorf("got %v, want %v first", findings, ErrNewerFormat)
	}
}

func TestADamagedIndexIsAnErrorAndNeverAnotherUser(t *testing.T) {
	for _, tt := range []struct {
		name  string
		plant func(h *inhabited)
		call  func(h *inhabited) error
	}{
		{"an identity of another user", func(h *inhabited) {
			h.put(tableIdentities, email("ada").indexKey(), h.bob.ID[:])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), email("ada"))
			return err
		}},
		{"an identity of a deleted user", func(h *inhabited) {
			h.put(tableIdentities, email("ada").indexKey(), h.gone.ID[:])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), email("ada"))
			return err
		}},
		{"an identity of half an ID", func(h *inhabited) {
			h.put(tableIdentities, email("ada").indexKey(), h.ada.ID[:8])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), email("ada"))
			return err
		}},
		{"a name of another user's key", func(h *inhabited) {
			h.put(tableNames, record.NameKey(h.bob.ID, "mine", h.laptop.ID), nil)
		}, func(h *inhabited) error {
			_, err := h.Keys(h.t.Context(), h.bob.ID)
			return err
		}},
		{"a name of a deleted key", func(h *inhabited) {
			h.put(tableNames, record.NameKey(h.ada.ID, "lost", h.lost.ID), nil)
		}, func(h *inhabited) error {
			_, err := h.Keys(h.t.Context(), h.ada.ID)
			return err
		}},
		{"a name of a key that never was, when its user is deleted", func(h *inhabited) {
			h.put(tableNames, record.NameKey(h.ada.ID, "phone", uuid.UUID{1}), nil)
		}, func(h *inhabited) error { return h.DeleteUser(h.t.Context(), h.ada.ID) }},
		{"a name of another user's key, when the one who has it not is deleted", func(h *inhabited) {
			h.put(tableNames, record.NameKey(h.bob.ID, "mine", h.laptop.ID), nil)
		}, func(h *inhabited) error { return h.DeleteUser(h.t.Context(), h.bob.ID) }},
		{"an unreadable entry among a user's names", func(h *inhabited) {
			h.put(tableNames, append(h.ada.ID[:], bytes.Repeat([]byte{1}, 40)...), nil)
		}, func(h *inhabited) error {
			_, _, err := h.CreateKey(h.t.Context(), h.ada.ID, KeySpec{Name: "phone"})
			return err
		}},
		{"an unreadable user on the list", func(h *inhabited) {
			h.put(tableUsers, []byte{1}, sealedUser(h.ada))
		}, func(h *inhabited) (last error) {
			for _, err := range h.Users(h.t.Context(), uuid.Nil) {
				last = err
			}
			return last
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			tt.plant(h)
			before := stats(t, h.Store).Sequence
			if err := tt.call(h); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, ErrCorrupt)
			}
			if now := stats(t, h.Store).Sequence; now != before {
				t.Errorf("the sequence went from %d to %d", before, now)
			}
		})
	}
}

func TestDamageHalfWayThroughAnOperationFailsItsTransaction(t *testing.T) {
	for _, tt := range []struct {
		name  string
		plant func(h *inhabited)
		call  func(h *inhabited, tx *Tx) error
	}{
		{"a key of a later version, when its user is deleted", func(h *inhabited) {
			h.put(tableKeys, h.laptop.ID[:], sealedAs(record.Version+1, tableKeys, h.laptop.ID[:], sealedKey(h.laptop)))
			// This key is deleted first.
			_, _, err := h.CreateKey(h.t.Context(), h.ada.ID, KeySpec{Name: "desktop"})
			must(h.t, err)
		}, func(h *inhabited, tx *Tx) error { return tx.DeleteUser(h.ada.ID) }},
		{"the key that makes way, when another is renamed", func(h *inhabited) {
			h.laptop.Expires.Value = time.Unix(1, 0).UTC()
			var m record.Message
			m.Bytes(100, make([]byte, record.MaxSize-len(sealedKey(h.laptop))-5))
			h.laptop.Unknown = record.Unknown(m) // there is no room for a longer name
			h.putKey(h.laptop)
			_, _, err := h.CreateKey(h.t.Context(), h.ada.ID, KeySpec{Name: "desktop"})
			must(h.t, err)
		}, func(h *inhabited, tx *Tx) error {
			desktop, err := tx.keysNamed(h.ada.ID, "desktop")
			must(h.t, err)
			return tx.RenameKey(h.ada.ID, desktop[0].ID, "laptop")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			tt.plant(h)
			before := dump(t, h.Store)
			var want error
			err := h.Update(t.Context(), func(tx *Tx) error {
				want = tt.call(h, tx)
				return tx.AppTable("notes").Put([]byte("ada"), []byte("met"))
			})
			if want == nil || !errors.Is(err, want) {
				t.Errorf("got %v from the transaction, and %v from the operation", err, want)
			}
			if !slices.Equal(dump(t, h.Store), before) {
				t.Error("the tables have changed")
			}
		})
	}
}

func TestAStoreWhoseFormatIsLostIsNotTakenForAnEmptyOne(t *testing.T) {
	h := openInhabited(t)
	h.remove(tableMeta, []byte(record.MetaFormat))
	path := pathOf(h.Store)
	closeStore(t, h.Store)
	if _, err := TryOpen(t, path, &Options{Cost: LightCost}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
	for _, table := range []string{tableUsers, tableKeys, tableDeadUsers, tableDeadKeys, tableIdentities, tableNames, tableMembers, tableData} {
		t.Run("only the table "+table+" is left", func(t *testing.T) {
			h := openInhabited(t)
			must(t, h.engine.Update(t.Context(), func(etx EngineTx) error {
				if err := etx.Put(tableData, []byte("notes\x00ada"), nil); err != nil {
					return err
				}
				for _, other := range allTables {
					for e, err := range etx.Scan(other, nil, nil) {
						if err != nil {
							return err
						}
						if other == table {
							continue
						}
						if err := etx.Delete(other, e.Key); err != nil {
							return err
						}
					}
				}
				return nil
			}))
			if _, err := OpenWith(h.engine, &Options{Cost: LightCost}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, ErrCorrupt)
			}
		})
	}
}

// After an interruption Check cannot tell what is not there from what it cannot read.
func TestACheckThatIsInterruptedFindsNothingMore(t *testing.T) {
	smallMaps(t)
	h := openInhabited(t)
	h.spoil(tableIdentities, email("ada").indexKey())
	var findings []error
	for finding := range h.Check(t.Context()) {
		if len(findings) == 0 {
			must(t, outgrowMap(h.Store))
		}
		findings = append(findings, finding)
	}
	if len(findings) != 2 || !errors.Is(findings[0], ErrCorrupt) || !errors.Is(findings[1], ErrInterrupted) {
		t.Errorf("got %v, want one finding and ErrInterrupted", findings)
	}
}

// interruptedTx is a transaction that is interrupted before a call of Get.
type interruptedTx struct {
	EngineTx
	before int // the number of the call
	reads  int // the calls so far
}

func (tx *interruptedTx) interrupted() bool { return tx.reads >= tx.before }

func (tx *interruptedTx) Get(table string, key []byte) ([]byte, error) {
	if tx.reads++; tx.interrupted() {
		return nil, ErrInterrupted
	}
	return tx.EngineTx.Get(table, key)
}

func (tx *interruptedTx) Scan(table string, from, to []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if tx.interrupted() {
			yield(Entry{}, ErrInterrupted)
			return
		}
		for entry, err := range tx.EngineTx.Scan(table, from, to) {
			if !yield(entry, err) {
				return
			}
			if tx.interrupted() {
				yield(Entry{}, ErrInterrupted)
				return
			}
		}
	}
}

func TestACheckThatIsInterruptedBeforeAnyReadFindsNothing(t *testing.T) {
	h := openInhabited(t)
	for n := 1; ; n++ {
		etx := &interruptedTx{before: n}
		err := h.engine.View(t.Context(), func(inner EngineTx) error {
			etx.EngineTx = inner
			return h.newTx(etx).eachFinding(t.Context(), func(f check.Finding) error {
				t.Errorf("interrupted before read %d: %v", n, f.Err)
				return nil
			})
		})
		if !etx.interrupted() {
			must(t, err)
			if n < 20 {
				t.Errorf("a check took %d reads, so this test shows little", n-1)
			}
			return
		}
		if !errors.Is(err, ErrInterrupted) {
			t.Errorf("interrupted before read %d: got %v, want ErrInterrupted", n, err)
		}
	}
}
