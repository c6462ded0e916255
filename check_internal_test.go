package latchkey

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// wrongs are the ways in which a store can be wrong. Repair makes derived data again.
var wrongs = []struct {
	name    string
	derived bool
	plant   func(h *inhabited)
}{
	{"a user's record is damaged", false, func(h *inhabited) { h.spoil(tableUsers, h.ada.id[:]) }},
	{"a user's tombstone is damaged", false, func(h *inhabited) { h.spoil(tableUsers, h.gone.id[:]) }},
	{"a user's record is missing", false, func(h *inhabited) { h.remove(tableUsers, h.ada.id[:]) }},
	{"a user's record is another's", false, func(h *inhabited) { h.put(tableUsers, h.bob.id[:], h.ada.encode()) }},
	{"a user's ID is too short", false, func(h *inhabited) { h.put(tableUsers, h.bob.id[:15], h.bob.encode()) }},
	{"a user has no identity", false, func(h *inhabited) { h.bob.identities = nil; h.putUser(h.bob) }},
	{"two users have one identity", false, func(h *inhabited) {
		h.bob.identities = append(h.bob.identities, h.ada.identities[0])
		h.putUser(h.bob)
	}},
	{"a user's last change is not in the change index", true, func(h *inhabited) { h.bob.sequence--; h.putUser(h.bob) }},
	{"a user changed without a sequence", true, func(h *inhabited) { h.bob.sequence = 0; h.putUser(h.bob) }},
	{"a user is ahead of the store", true, func(h *inhabited) { h.bob.sequence += 1000; h.putUser(h.bob) }},

	{"an identity is not in the index", true, func(h *inhabited) { h.remove(tableIdentities, h.ada.identities[1].indexKey()) }},
	{"the index gives an identity to another user", true, func(h *inhabited) {
		h.put(tableIdentities, h.ada.identities[1].indexKey(), h.bob.id[:])
	}},
	{"the index gives an identity to nobody", true, func(h *inhabited) {
		h.put(tableIdentities, h.ada.identities[1].indexKey(), uuid.Nil[:])
	}},
	{"the index has an identity that its user has not", true, func(h *inhabited) {
		h.put(tableIdentities, Identity{ProviderCustomToken, "1"}.indexKey(), h.ada.id[:])
	}},
	{"the index has an identity of a deleted user", true, func(h *inhabited) {
		h.put(tableIdentities, Identity{ProviderLocalUserpass, "gone"}.indexKey(), h.gone.id[:])
	}},
	{"the index of identities has half an ID", true, func(h *inhabited) {
		h.put(tableIdentities, h.ada.identities[1].indexKey(), h.ada.id[:8])
	}},
	{"the index of identities has an unreadable key", true, func(h *inhabited) {
		h.put(tableIdentities, []byte{0xff}, h.ada.id[:])
	}},

	{"a key's record is damaged", false, func(h *inhabited) { h.spoil(tableKeys, h.laptop.id[:]) }},
	{"a key's tombstone is damaged", false, func(h *inhabited) { h.spoil(tableKeys, h.lost.id[:]) }},
	{"a key's record is another's", false, func(h *inhabited) { h.put(tableKeys, h.laptop.id[:], h.backup.encode()) }},
	{"a key's ID is too long", false, func(h *inhabited) { h.put(tableKeys, append(h.laptop.id[:], 0), h.laptop.encode()) }},
	{"a key belongs to a user who never was", false, func(h *inhabited) {
		h.remove(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id))
		h.laptop.owner = uuid.UUID{1}
		h.put(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id), nil)
		h.putKey(h.laptop)
	}},
	{"a key belongs to a deleted user", false, func(h *inhabited) {
		h.remove(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id))
		h.laptop.owner = h.gone.id
		h.put(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id), nil)
		h.putKey(h.laptop)
	}},
	{"a key belongs to an anonymous user", false, func(h *inhabited) {
		for _, i := range h.ada.identities {
			h.remove(tableIdentities, i.indexKey())
		}
		h.ada.identities = []identityRecord{{Identity: Identity{ProviderAnonymous, "visitor"}}}
		h.put(tableIdentities, h.ada.identities[0].indexKey(), h.ada.id[:])
		h.putUser(h.ada)
	}},
	{"a key has no verifier", false, func(h *inhabited) { h.laptop.verifier = ""; h.putKey(h.laptop) }},
	{"a key's verifier is no PHC string", false, func(h *inhabited) { h.laptop.verifier = "$2b$10$abc"; h.putKey(h.laptop) }},
	{"a key's verifier would take all memory", false, func(h *inhabited) {
		v, err := parseVerifier(h.laptop.verifier)
		must(h.t, err)
		v.cost.Memory = maxCostMemory + 1
		h.laptop.verifier = v.String()
		h.putKey(h.laptop)
	}},
	{"a key has a name that none can have", false, func(h *inhabited) {
		h.remove(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id))
		h.laptop.name = "a\nb"
		h.put(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id), nil)
		h.putKey(h.laptop)
	}},
	{"two keys of one owner have one name", false, func(h *inhabited) {
		other, _ := addServerKey(h.t, h.Store, "restore")
		h.remove(tableNames, nameIndexKey(ServerOwner, "restore", other.ID))
		k := storedKey(h.t, h.Store, other.ID)
		k.name = h.backup.name
		h.put(tableNames, nameIndexKey(ServerOwner, k.name, k.id), nil)
		h.putKey(k)
	}},
	{"a key's last change is not in the change index", true, func(h *inhabited) { h.laptop.sequence++; h.putKey(h.laptop) }},
	{"a tombstone's last change is not in the change index", true, func(h *inhabited) { h.lost.sequence++; h.putKey(h.lost) }},
	{"a key is ahead of the store, and so is its entry in the change index", true, func(h *inhabited) {
		h.remove(tableChanges, sequenceKey(h.laptop.sequence))
		h.laptop.sequence += 1000
		h.putKey(h.laptop)
		h.put(tableChanges, sequenceKey(h.laptop.sequence), changeEntry(keyKind, h.laptop.id))
	}},

	{"a name is not in the index", true, func(h *inhabited) {
		h.remove(tableNames, nameIndexKey(h.laptop.owner, h.laptop.name, h.laptop.id))
	}},
	{"the index has another name for a key", true, func(h *inhabited) {
		h.put(tableNames, nameIndexKey(h.laptop.owner, "phone", h.laptop.id), nil)
	}},
	{"the index has another owner for a key", true, func(h *inhabited) {
		h.put(tableNames, nameIndexKey(h.bob.id, h.laptop.name, h.laptop.id), nil)
	}},
	{"the index has a name of a deleted key", true, func(h *inhabited) {
		h.put(tableNames, nameIndexKey(h.lost.owner, "lost", h.lost.id), nil)
	}},
	{"the index has a name of a key that never was", true, func(h *inhabited) {
		h.put(tableNames, nameIndexKey(h.ada.id, "phone", uuid.UUID{1}), nil)
	}},
	{"the index of names has a key that is too short", true, func(h *inhabited) { h.put(tableNames, h.ada.id[:], nil) }},
	{"the index of names has a key without its zero", true, func(h *inhabited) {
		h.put(tableNames, bytes.Repeat([]byte{1}, 40), nil)
	}},

	{"an application's record is damaged", false, func(h *inhabited) {
		h.put(tableData, []byte("notes\x00ada"), sealRecord(tableData, []byte("notes\x00bob"), []byte("met")))
	}},

	{"a change is missing", true, func(h *inhabited) { h.remove(tableChanges, sequenceKey(h.backup.sequence)) }},
	{"a tombstone's change is missing", true, func(h *inhabited) { h.remove(tableChanges, sequenceKey(h.gone.sequence)) }},
	{"a record has two changes", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(h.laptop.made.counter-1), changeEntry(keyKind, h.laptop.id))
	}},
	{"a record has two changes to come", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(1000), changeEntry(keyKind, h.laptop.id))
		h.put(tableChanges, sequenceKey(1001), changeEntry(keyKind, h.laptop.id))
	}},
	{"a change is of a record that never was", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(1000), changeEntry(userKind, uuid.UUID{1}))
	}},
	{"a change without a sequence is of a record that never was", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(0), changeEntry(userKind, uuid.UUID{1}))
	}},
	{"a change is of another kind", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(h.backup.sequence), changeEntry(userKind, h.backup.id))
	}},
	{"a change is of no kind", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(h.backup.sequence), changeEntry(9, h.backup.id))
	}},
	{"a change has a short sequence", true, func(h *inhabited) {
		h.put(tableChanges, []byte{1, 2, 3}, changeEntry(keyKind, h.backup.id))
	}},
	{"a change has half an ID", true, func(h *inhabited) {
		h.put(tableChanges, sequenceKey(h.backup.sequence), changeEntry(keyKind, h.backup.id)[:9])
	}},

	{"a user too many is counted", true, func(h *inhabited) { h.putState(func(st *storeState) { st.users++ }) }},
	{"a key too few is counted", true, func(h *inhabited) { h.putState(func(st *storeState) { st.keys-- }) }},
	{"the store is behind its changes", true, func(h *inhabited) { h.putState(func(st *storeState) { st.sequence -= 2 }) }},
	{"the state is damaged", true, func(h *inhabited) { h.spoil(tableMeta, metaState) }},
	{"the state is missing", true, func(h *inhabited) { h.remove(tableMeta, metaState) }},

	{"the format is damaged", false, func(h *inhabited) { h.spoil(tableMeta, metaFormat) }},
	{"the format is missing", false, func(h *inhabited) { h.remove(tableMeta, metaFormat) }},
	{"the domain is damaged", false, func(h *inhabited) { h.spoil(tableMeta, metaDomain) }},
	{"the domain is missing", false, func(h *inhabited) { h.remove(tableMeta, metaDomain) }},
	{"the domain is another", false, func(h *inhabited) {
		other := open(h.t, nil)
		h.put(tableMeta, metaDomain, sealRecord(tableMeta, metaDomain, other.domain.encode()))
	}},
	{"the replica's ID is damaged", false, func(h *inhabited) { h.spoil(tableMeta, metaReplica) }},
	{"the replica's ID is missing", false, func(h *inhabited) { h.remove(tableMeta, metaReplica) }},
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
			user, err := tx.CreateUser(UserSpec{Identity{ProviderLocalUserpass, fmt.Sprint("user ", i)}})
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

var spreadTables = []string{tableUsers, tableIdentities, tableKeys, tableNames, tableChanges, tableData}

func TestCheckGoesOnBehindAPageThatCannotBeRead(t *testing.T) {
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
	pages := boltpage.NewPages(bytes.NewReader(file), uint64(len(file)/boltpage.PageSize))
	live, _, _ := pages.Live()
	found := 0
	for id := uint64(2); id < pages.Count(); {
		leaf, size, _ := pages.Leaf(id)
		boltpage.EachEntry(leaf, func(k, _ []byte) {
			if live(id) && string(k) == key {
				page = id
				found++
			}
		})
		id += size
	}
	if found != 1 {
		t.Fatalf("%d pages in use have the key %x, want one", found, key)
	}
	return page
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
			before, _ := changeIndex(t, h.Store)
			must(t, h.DisableKey(t.Context(), ServerOwner, h.backup.id))
			must(t, h.RenameKey(t.Context(), h.ada.id, h.laptop.id, "desktop"))
			if _, err := h.CreateUser(t.Context(), UserSpec{Identity{ProviderLocalUserpass, "ada"}}); !errors.Is(err, ErrIdentityTaken) {
				t.Errorf("making ada again: got %v, want %v", err, ErrIdentityTaken)
			}
			must(t, h.DeleteUser(t.Context(), h.ada.id))
			if findings := h.findings(); len(findings) != 0 {
				t.Errorf("after four more changes: %v", findings)
			}
			if now := stats(t, h.Store).Sequence; now <= slices.Max(before) {
				t.Errorf("the store is at %d after changes that followed %d", now, slices.Max(before))
			}
		})
	}
}

func TestRepairBringsNothingBackThatWasRevoked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		revoke func(h *inhabited) error
		stale  func(h *inhabited) // puts back the record from before the change
	}{
		{"a disabled key", func(h *inhabited) error {
			return h.DisableKey(h.t.Context(), h.ada.id, h.laptop.id)
		}, func(h *inhabited) { h.putKey(h.laptop) }},
		{"a deleted key", func(h *inhabited) error {
			return h.DeleteKey(h.t.Context(), h.ada.id, h.laptop.id)
		}, func(h *inhabited) { h.putKey(h.laptop) }},
		{"a disabled user", func(h *inhabited) error {
			return h.DisableUser(h.t.Context(), h.ada.id)
		}, func(h *inhabited) { h.putUser(h.ada) }},
		{"a key of a deleted user", func(h *inhabited) error {
			return h.DeleteUser(h.t.Context(), h.ada.id)
		}, func(h *inhabited) { h.putUser(h.ada); h.putKey(h.laptop) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			wantLogin(t, h.Store, h.laptopToken, h.laptop.id)
			must(t, tt.revoke(h))
			tt.stale(h)
			if _, err := h.Repair(t.Context()); err != nil {
				t.Errorf("Repair: %v", err)
			}
			if _, err := h.Login(t.Context(), h.laptopToken); err == nil {
				t.Error("it logs in again")
			}
		})
	}
}

func TestAKeyThatRepairDisablesIsForgottenByTheCache(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(h *inhabited) []byte // makes a change of which only the change index knows
		want   error
	}{
		{"a key", func(h *inhabited) []byte { return changeEntry(keyKind, h.laptop.id) }, ErrKeyDisabled},
		{"a user", func(h *inhabited) []byte { return changeEntry(userKind, h.ada.id) }, ErrUserDisabled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := openInhabited(t)
			wantLogin(t, h.Store, h.laptopToken, h.laptop.id)
			h.put(tableChanges, sequenceKey(1000), tt.change(h))
			wantLogin(t, h.Store, h.laptopToken, h.laptop.id) // puts the key into the cache
			repaired, err := h.Repair(t.Context())
			if err != nil || repaired == 0 {
				t.Fatalf("repaired: %d, %v", repaired, err)
			}
			if _, err := h.Login(t.Context(), h.laptopToken); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestARecordThatCannotBeReadIsOneFinding(t *testing.T) {
	for name, spoil := range map[string]func(h *inhabited){
		"a user's": func(h *inhabited) { h.spoil(tableUsers, h.ada.id[:]) },
		"a key's":  func(h *inhabited) { h.spoil(tableKeys, h.laptop.id[:]) },
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
	record := h.bob.encode()
	h.put(tableUsers, h.bob.id[:], sealedAs(2, tableUsers, h.bob.id[:], record[1:len(record)-4]))
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
			h.put(tableIdentities, h.ada.identities[0].indexKey(), h.bob.id[:])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), h.ada.identities[0].Identity)
			return err
		}},
		{"an identity of a deleted user", func(h *inhabited) {
			h.put(tableIdentities, h.ada.identities[0].indexKey(), h.gone.id[:])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), h.ada.identities[0].Identity)
			return err
		}},
		{"an identity of half an ID", func(h *inhabited) {
			h.put(tableIdentities, h.ada.identities[0].indexKey(), h.ada.id[:8])
		}, func(h *inhabited) error {
			_, err := h.UserByIdentity(h.t.Context(), h.ada.identities[0].Identity)
			return err
		}},
		{"a name of another user's key", func(h *inhabited) {
			h.put(tableNames, nameIndexKey(h.bob.id, "mine", h.laptop.id), nil)
		}, func(h *inhabited) error {
			_, err := h.Keys(h.t.Context(), h.bob.id)
			return err
		}},
		{"a name of a deleted key", func(h *inhabited) {
			h.put(tableNames, nameIndexKey(h.ada.id, "lost", h.lost.id), nil)
		}, func(h *inhabited) error {
			_, err := h.Keys(h.t.Context(), h.ada.id)
			return err
		}},
		{"a name of a key that never was, when its user is deleted", func(h *inhabited) {
			h.put(tableNames, nameIndexKey(h.ada.id, "phone", uuid.UUID{1}), nil)
		}, func(h *inhabited) error { return h.DeleteUser(h.t.Context(), h.ada.id) }},
		{"a name of another user's key, when the one who has it not is deleted", func(h *inhabited) {
			h.put(tableNames, nameIndexKey(h.bob.id, "mine", h.laptop.id), nil)
		}, func(h *inhabited) error { return h.DeleteUser(h.t.Context(), h.bob.id) }},
		{"an unreadable entry among a user's names", func(h *inhabited) {
			h.put(tableNames, append(h.ada.id[:], bytes.Repeat([]byte{1}, 40)...), nil)
		}, func(h *inhabited) error {
			_, _, err := h.CreateKey(h.t.Context(), h.ada.id, KeySpec{Name: "phone"})
			return err
		}},
		{"an unreadable user on the list", func(h *inhabited) {
			h.put(tableUsers, []byte{1}, h.ada.encode())
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
		{"the state, when a user is made", func(h *inhabited) { h.spoil(tableMeta, metaState) }, func(h *inhabited, tx *Tx) error {
			_, err := tx.CreateUser(UserSpec{Identity{ProviderLocalUserpass, "carol"}})
			return err
		}},
		{"the state, when a key is deleted", func(h *inhabited) { h.spoil(tableMeta, metaState) }, func(h *inhabited, tx *Tx) error {
			return tx.DeleteKey(h.ada.id, h.laptop.id)
		}},
		{"an earlier record, when a key is renamed", func(h *inhabited) { h.laptop.sequence--; h.putKey(h.laptop) },
			func(h *inhabited, tx *Tx) error { return tx.RenameKey(h.ada.id, h.laptop.id, "desktop") }},
		{"an earlier record, when an identity is linked", func(h *inhabited) { h.bob.sequence--; h.putUser(h.bob) },
			func(h *inhabited, tx *Tx) error {
				_, err := tx.LinkIdentity(h.bob.id, Identity{ProviderCustomToken, "bob"})
				return err
			}},
		{"a key of a later version, when its user is deleted", func(h *inhabited) {
			record := h.laptop.encode()
			h.put(tableKeys, h.laptop.id[:], sealedAs(2, tableKeys, h.laptop.id[:], record[1:len(record)-4]))
			// This key is deleted first.
			_, _, err := h.CreateKey(h.t.Context(), h.ada.id, KeySpec{Name: "desktop"})
			must(h.t, err)
		}, func(h *inhabited, tx *Tx) error { return tx.DeleteUser(h.ada.id) }},
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
	h.remove(tableMeta, metaFormat)
	path := pathOf(h.Store)
	closeStore(t, h.Store)
	if _, err := Open(path, &Options{Cost: LightCost}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
	for _, table := range []string{tableUsers, tableKeys, tableIdentities, tableNames, tableChanges, tableData} {
		t.Run("only the table "+table+" is left", func(t *testing.T) {
			h := openInhabited(t)
			must(t, h.engine.Update(t.Context(), func(etx EngineTx) error {
				if err := etx.Put(tableData, []byte("notes\x00ada"), nil); err != nil {
					return err
				}
				for _, other := range []string{tableMeta, tableUsers, tableKeys, tableIdentities, tableNames, tableChanges, tableData} {
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
	h.spoil(tableIdentities, h.ada.identities[0].indexKey())
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
			return newChecker(t.Context(), h.newTx(etx), func(finding error) bool {
				t.Errorf("interrupted before read %d: %v", n, finding)
				return true
			}).run()
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
