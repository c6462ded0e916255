package latchkey

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// readAll returns what Records yields after a cursor, and its error.
func readAll(t testing.TB, s *Store, since RecordCursor) (records []ReplicaRecord, last error) {
	t.Helper()
	for r, err := range s.Records(t.Context(), since) {
		if err == nil {
			records = append(records, r)
		}
		last = err
	}
	return records, last
}

// named returns the tables and keys of records.
func named(records []ReplicaRecord) (names []string) {
	for _, r := range records {
		names = append(names, position(r))
	}
	return names
}

func position(r ReplicaRecord) string { return fmt.Sprintf("%s/%x", r.get().Table, r.get().Key) }

// openReplica opens a store on a bounded engine, in the domain of another store.
func openReplica(t testing.TB, s *Store, opts *Options) *Store {
	t.Helper()
	opts.Domain = s.DomainSecrets()
	e := EngineAt(t, filepath.Join(t.TempDir(), "replica.db"), nil)
	r, err := OpenWith(&boundedEngine{Engine: e}, opts)
	must(t, err)
	t.Cleanup(func() { closeStore(t, r) })
	return r
}

func TestRecordsGoOnAfterAnyCut(t *testing.T) {
	s := open(t, nil)
	must(t, s.Update(t.Context(), func(tx *Tx) error { // a commit of more than two pages
		for i := range 2*pageSize + 10 {
			if _, err := tx.CreateUser(UserSpec{Identity: email(fmt.Sprint(i))}); err != nil {
				return err
			}
		}
		return nil
	}))
	addUser(t, s, "ada")
	addKey(t, s, addUser(t, s, "bob").ID, "laptop")
	all, err := readAll(t, s, RecordCursor{})
	must(t, err)
	if len(all) != 2*pageSize+13 {
		t.Fatalf("%d records", len(all))
	}
	for _, cut := range []int{0, 1, pageSize - 1, pageSize, 2*pageSize + 9, 2*pageSize + 10, 2*pageSize + 11, len(all) - 1} {
		rest, err := readAll(t, s, all[cut].Cursor())
		must(t, err)
		if !slices.Equal(named(rest), named(all[cut+1:])) {
			t.Errorf("after record %d come %d records, want the %d that are left", cut, len(rest), len(all)-cut-1)
		}
	}
	rest, err := readAll(t, s, RecordCursor{Sequence: all[0].Cursor().Sequence})
	must(t, err)
	if len(rest) != 3 {
		t.Errorf("after the first commit come %d records, want 3", len(rest))
	}
	if rest, err := readAll(t, s, RecordCursor{Sequence: 1 << 62, Last: "x"}); err != nil || len(rest) != 0 {
		t.Errorf("after a later commit come %d records, %v", len(rest), err)
	}
}

func TestARecordThatChangesWhileItIsReadComesLaterAsItIsThen(t *testing.T) {
	s := open(t, nil)
	var last uuid.UUID                                 // of the users that one commit makes
	must(t, s.Update(t.Context(), func(tx *Tx) error { // which is read in two pages
		for i := range pageSize + 10 {
			u, err := tx.CreateUser(UserSpec{Identity: email(fmt.Sprint(i))})
			if err != nil {
				return err
			}
			if compareIDs(u.ID, last) > 0 {
				last = u.ID
			}
		}
		return nil
	}))
	var cursor RecordCursor
	seen := map[string]int{}
	for r, err := range s.Records(t.Context(), RecordCursor{}) {
		must(t, err)
		if len(seen) == 0 {
			must(t, s.SetUserGroup(t.Context(), last, "second")) // the body may call the store
		}
		seen[position(r)]++
		cursor = r.Cursor()
	}
	at := fmt.Sprintf("users/%x", last[:])
	if seen[at] != 0 {
		t.Errorf("the record came %d times before it changed", seen[at])
	}
	rest, err := readAll(t, s, cursor)
	must(t, err)
	if len(rest) != 1 || position(rest[0]) != at {
		t.Fatalf("then come %v", named(rest))
	}
	u, err := record.Unseal(tableUsers, rest[0].get().Key, rest[0].get().Sealed, record.DecodeUser)
	must(t, err)
	if u.Groups.Now() != "second" {
		t.Errorf("the record comes as it was in group %q", u.Groups.Now())
	}
}

func TestADamagedRecordHoldsUpNoOther(t *testing.T) {
	h := openInhabited(t)
	all, err := readAll(t, h.Store, RecordCursor{})
	must(t, err)
	h.spoil(tableUsers, h.ada.ID[:])
	h.spoil(tableKeys, h.backup.ID[:])
	rest, err := readAll(t, h.Store, RecordCursor{})
	if !errors.Is(err, ErrCorrupt) || len(rest) != len(all)-2 {
		t.Errorf("%d records of %d, %v, want ErrCorrupt", len(rest), len(all), err)
	}

	// Neither does damage where records are merged. But a deletion goes through.
	other := openInhabited(t)
	must(t, other.DisableUser(t.Context(), h.ada.ID))
	must(t, other.DisableUser(t.Context(), h.bob.ID))
	must(t, other.DeleteKey(t.Context(), ServerOwner, h.backup.ID))
	records, err := readAll(t, other.Store, RecordCursor{})
	must(t, err)
	refused, err := h.Merge(t.Context(), records)
	if !errors.Is(err, ErrCorrupt) || len(refused) != 1 || position(records[refused[0].Index]) != fmt.Sprintf("users/%x", h.ada.ID[:]) {
		t.Errorf("merging: %+v, %v", refused, err)
	}
	if bob := storedUser(t, h.Store, h.bob.ID); !bob.Flag.IsDisabled() {
		t.Error("the damage of one record has kept back another")
	}
	if _, err := h.KeyByID(t.Context(), h.backup.ID); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("the damaged key that was deleted: %v", err)
	}
}

func TestAMergeFitsIntoTheTransactionsOfTheEngine(t *testing.T) {
	hub := open(t, &Options{Cost: LightCost, MaxKeysPerUser: -1})
	ada := addUser(t, hub, "ada")
	for i := range 40 {
		addKey(t, hub, ada.ID, fmt.Sprint(i))
	}
	for i := range 30 { // identities, each of which takes a write
		_, err := hub.LinkIdentity(t.Context(), ada.ID, email(fmt.Sprint("ada", i)))
		must(t, err)
	}
	calls := 0
	hook := func(tx *Tx, c Change) error {
		calls++
		for i := range 3 {
			if err := tx.AppTable("hook").Put(fmt.Append(nil, calls, i), nil); err != nil {
				return err
			}
		}
		return nil
	}
	edge := openReplica(t, hub, &Options{Cost: LightCost, OnChange: hook})
	merge := func() {
		t.Helper()
		records, err := readAll(t, hub, RecordCursor{})
		must(t, err)
		refused, err := edge.Merge(t.Context(), records)
		must(t, err)
		if len(refused) > 0 {
			t.Fatalf("refused: %v", refused[0].Err)
		}
	}
	merge()
	if keys, err := edge.Keys(t.Context(), ada.ID); err != nil || len(keys) != 40 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	must(t, hub.DeleteUser(t.Context(), ada.ID))
	merge()
	for k, err := range edge.AllKeys(t.Context(), KeyFilter{}, uuid.Nil) {
		t.Errorf("a key is left: %v, %v", k.ID, err)
	}
	for finding := range edge.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

// later returns the record of another store as a later version has written it.
func later(s *Store, table string, key []byte) ReplicaRecord {
	sealed := record.SealAs(record.Version+1, table, key, []byte("unreadable"))
	return ReplicaRecord{conceal(replicaRecord{Copy: record.Copy{Domain: s.domain.ID, Table: table, Key: key, Sealed: sealed}})}
}

func TestARecordOfALaterVersionRefusesLoginsAndLosesNothing(t *testing.T) {
	for _, table := range []string{tableKeys, tableUsers, tableGroups, tableDeadKeys, tableDeadUsers} {
		t.Run(table, func(t *testing.T) {
			h := openInhabited(t)
			must(t, h.SetUserGroup(t.Context(), h.ada.ID, "plant"))
			wantLogin(t, h.Store, h.laptopToken, h.laptop.ID)
			key := map[string][]byte{tableGroups: []byte("plant"), tableUsers: h.ada.ID[:], tableDeadUsers: h.ada.ID[:]}[table]
			if key == nil {
				key = h.laptop.ID[:]
			}
			r, err := ParseReplicaRecord(later(h.Store, table, key).Export())
			must(t, err)
			refused, err := h.Merge(t.Context(), []ReplicaRecord{r})
			must(t, err)
			if len(refused) > 0 {
				t.Fatalf("refused: %v", refused[0].Err)
			}
			wantRefused(t, h.Store, h.laptopToken, ErrNewerFormat)
			// The store's own version can still be changed.
			must(t, h.DisableKey(t.Context(), h.ada.ID, h.laptop.ID))
			records, err := readAll(t, h.Store, RecordCursor{})
			must(t, err)
			if !slices.Contains(named(records), fmt.Sprintf("keys/%x", h.laptop.ID[:])) || slices.ContainsFunc(records, func(r ReplicaRecord) bool { return r.get().IsLater() }) {
				t.Errorf("the records for other stores are %v", named(records))
			}
			if all := h.findings(); len(all) > 0 {
				t.Errorf("Check: %v", all)
			}
		})
	}
}

func TestABuildThatKnowsALaterVersionMergesIt(t *testing.T) {
	h := openInhabited(t)
	_, err := readAll(t, h.Store, RecordCursor{}) // the domain has several stores from now on
	must(t, err)
	must(t, h.DisableKey(t.Context(), h.ada.ID, h.laptop.ID))
	h.laptop.Name = record.Register[string]{Value: "desktop", Stamp: record.Stamp{Counter: 9, Replica: uuid.UUID{1}}}
	h.put(tableLater, merge.LaterKey(tableKeys, h.laptop.ID[:]), sealedKey(h.laptop))
	s := reopen(t, h.Store, nil)
	if k := storedKey(t, s, h.laptop.ID); !k.Flag.IsDisabled() || k.Name.Value != "desktop" {
		t.Errorf("the key is %+v", k)
	}
	must(t, s.EnableKey(t.Context(), h.ada.ID, h.laptop.ID))
	wantLogin(t, s, h.laptopToken, h.laptop.ID)
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func TestAMergedRetirementTakesItsHashAlong(t *testing.T) {
	hub, key, token := openWithOldKey(t)
	edge := openReplica(t, hub, &Options{Cost: LightCost})
	merge := func() {
		t.Helper()
		records, err := readAll(t, hub, RecordCursor{})
		must(t, err)
		_, err = edge.Merge(t.Context(), records)
		must(t, err)
	}
	merge()
	loginAndRehash(t, edge, token, key.ID)
	addUser(t, edge, "ada") // writes the hash
	wantCost(t, edge, key.ID, LightCost)
	_, fresh, err := hub.RotateServerKey(t.Context(), key.ID, Rotation{})
	must(t, err)
	merge()
	wantRefused(t, edge, token, ErrInvalidToken)
	wantLogin(t, edge, fresh, key.ID)
	must(t, edge.View(t.Context(), func(tx *Tx) error {
		for e, err := range tx.etx.Scan(tableHashes, nil, nil) {
			t.Errorf("a hash is left: %x, %v", e.Key, err)
		}
		return nil
	}))
}

func TestAReservedScopeThatArrivesIsNotPermitted(t *testing.T) {
	h := openInhabited(t)
	h.laptop.Scopes = record.Register[[]string]{Value: []string{"latchkey:admin"}, Stamp: record.Stamp{Counter: 9, Replica: uuid.UUID{1}}}
	c := record.Copy{Domain: h.domain.ID, Table: tableKeys, Key: h.laptop.ID[:], Sealed: sealedKey(h.laptop)}
	refused, err := h.Merge(t.Context(), []ReplicaRecord{{conceal(replicaRecord{Copy: c})}})
	must(t, err)
	if len(refused) != 1 || !errors.Is(refused[0].Err, ErrNotPermitted) {
		t.Errorf("refused: %v", refused)
	}
	if k := storedKey(t, h.Store, h.laptop.ID); len(k.Scopes.Value) > 0 {
		t.Errorf("the key has %v", k.Scopes.Value)
	}
}

func TestAReadOnlyStoreOfADomainWithOthersGivesItsRecords(t *testing.T) {
	h := openInhabited(t)
	all, err := readAll(t, h.Store, RecordCursor{})
	must(t, err)
	s := reopen(t, h.Store, &Options{Cost: LightCost, ReadOnly: true})
	again, err := readAll(t, s, RecordCursor{})
	must(t, err)
	if !slices.Equal(named(again), named(all)) {
		t.Errorf("%d records, want %d", len(again), len(all))
	}
	if _, err := s.Merge(t.Context(), all); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Merge: %v, want ErrReadOnly", err)
	}
}

func TestARecordOfALaterVersionIsNotSent(t *testing.T) {
	h := openInhabited(t)
	all, err := readAll(t, h.Store, RecordCursor{})
	must(t, err)
	h.put(tableKeys, h.laptop.ID[:], record.SealAs(record.Version+1, tableKeys, h.laptop.ID[:], []byte("unreadable")))
	h.put(tableGroups, []byte("plant"), record.SealAs(record.Version+1, tableGroups, []byte("plant"), []byte("unreadable")))
	left, err := readAll(t, h.Store, RecordCursor{})
	must(t, err)
	if len(left) != len(all)-1 || slices.Contains(named(left), fmt.Sprintf("keys/%x", h.laptop.ID[:])) {
		t.Errorf("%v are sent", named(left))
	}
}

func TestASetterSaysWhichValueOfAnotherReplicaItHasReplaced(t *testing.T) {
	ctx := t.Context()
	type field struct {
		stamp    record.Stamp
		replaces uint64
	}
	for name, f := range map[string]struct {
		set func(s *Store, owner, id uuid.UUID, i int) error
		get func(k record.Key) field
	}{
		"name": {
			func(s *Store, owner, id uuid.UUID, i int) error {
				return s.RenameKey(ctx, owner, id, fmt.Sprint("name ", i))
			},
			func(k record.Key) field { return field{k.Name.Stamp, k.Name.Replaces} },
		},
		"expires": {
			func(s *Store, owner, id uuid.UUID, i int) error {
				return s.SetExpiry(ctx, owner, id, time.Now().Add(time.Duration(i+1)*time.Hour))
			},
			func(k record.Key) field { return field{k.Expires.Stamp, k.Expires.Replaces} },
		},
		"scopes": {
			func(s *Store, owner, id uuid.UUID, i int) error {
				return s.SetScopes(ctx, owner, id, NewScopes(fmt.Sprint("a", i)))
			},
			func(k record.Key) field { return field{k.Scopes.Stamp, k.Scopes.Replaces} },
		},
		"networks": {
			func(s *Store, owner, id uuid.UUID, i int) error {
				return s.SetNetworks(ctx, owner, id, []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i))})
			},
			func(k record.Key) field { return field{k.Networks.Stamp, k.Networks.Replaces} },
		},
		"metadata": {
			func(s *Store, owner, id uuid.UUID, i int) error {
				return s.SetMetadata(ctx, owner, id, map[string]string{"i": fmt.Sprint(i)})
			},
			func(k record.Key) field { return field{k.Metadata.Stamp, k.Metadata.Replaces} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, nil)
			u := addUser(t, s, "ada")
			k, _ := addKey(t, s, u.ID, "laptop")
			here, there := s.ReplicaID(), uuid.UUID{9}
			want := uint64(0)
			for i, by := range []uuid.UUID{here, there, here, here} {
				before := f.get(storedKey(t, s, k.ID))
				if by != before.stamp.Replica {
					want = before.stamp.Counter
				}
				s.replica.Store(&record.Replica{ID: by, Shared: s.replica.Load().Shared})
				must(t, f.set(s, u.ID, k.ID, i))
				if got := f.get(storedKey(t, s, k.ID)); got.stamp.Replica != by || got.replaces != want {
					t.Errorf("write %d replaces %d, want %d", i, got.replaces, want)
				}
			}
			if want == 0 {
				t.Error("no write replaces that of another replica, so this test shows nothing")
			}
		})
	}
}
