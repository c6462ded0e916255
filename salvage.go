package latchkey

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// SalvageReport says what [Salvage] brought back, and what it could not.
type SalvageReport struct {
	Users int // live users that came back
	Keys  int // live keys that came back

	// Data is the number of application records that came back. If Salvage cannot know which of two
	// commits was the last, only the records that are the same in both come back. If it can know
	// nothing about the commits, no application records come back.
	Data int

	BadPages   int // pages in use that could not be read
	BadRecords int // records with a wrong checksum
	// Uncertain is the number of users, keys and groups that came back disabled because their
	// records may not be of the last commit: a meta page or the list of free pages is lost, or the
	// change index has a later change of the record. They are disabled because that change may have
	// revoked them. A group is also one of them if its record is lost.
	Uncertain int
	// Orphaned is the number of users whose record is lost, but whose keys are not. These
	// users came back disabled, with the identity that the index has for them, or with
	// (custom-function, "lost:<ID>").
	Orphaned int
}

// Salvage makes a new store in the file out from the damaged store in the file broken. It reads
// broken page by page, and takes every record whose checksum is right. It does not change broken.
// No program should have broken open. If out is a symbolic link to a file that does not exist,
// Salvage makes that file, as [Open] does.
//
// Tokens stay good. Deleted users and keys stay deleted, unless the page with their tombstone is
// lost. [SalvageReport] says which records come back disabled. The new store is another replica of
// the domain.
//
// It returns [ErrNotStore] if broken is no regular file; [ErrCorrupt] if the record of the domain
// is lost, because no token can be checked without it; [ErrNewerFormat]; [fs.ErrExist] if out
// exists; [ErrInvalidOptions] if a path is empty; ctx's error; or the operating system's error.
func Salvage(ctx context.Context, broken, out string) (report SalvageReport, err error) {
	if broken == "" || out == "" {
		return report, wrapf(errNoPath, "salvage")
	}
	f, err := boltengine.OpenRegular(broken)
	if err != nil {
		return report, wrapf(err, "salvage %s", broken)
	}
	defer f.Close()
	s := &salvage{
		meta: map[string][]byte{}, found: map[trackedKey]salvaged{}, changes: map[trackedKey]boltpage.Place{}, identities: map[uuid.UUID]Identity{},
		users: map[uuid.UUID]*record.User{}, keys: map[uuid.UUID]*record.Key{}, groups: map[string]*record.Group{}, writer: record.NewWriter(),
	}
	err = s.read(ctx, f)
	if err == nil {
		err = s.readDomain()
	}
	if err == nil {
		s.decode()
		s.reconcile()
		err = durable.Create(durable.Resolve(out), func(tmp *os.File) error { return s.write(ctx, tmp.Name()) })
	}
	return s.report, wrapf(err, "salvage %s", broken)
}

// salvage is what a run has found so far.
type salvage struct {
	pages *boltpage.Pages
	// sure says that it is known which pages are of the last commit.
	sure bool
	// candidates has a function for each commit that may be the last. It reports whether a page is
	// of that commit.
	candidates []func(id uint64) bool
	report     SalvageReport

	domain *domain
	meta   map[string][]byte // records of the table meta, each in any version
	tags   record.TagSecrets // of all versions of their record
	shared bool              // some version of the replica's record says so
	clock  record.Clock      // the latest version

	found      map[trackedKey]salvaged
	changes    map[trackedKey]boltpage.Place // the last change of each entry in the change index
	identities map[uuid.UUID]Identity        // the identities in the index, by user
	data       []map[string][]byte           // application records, for each candidate

	users  map[uuid.UUID]*record.User
	keys   map[uuid.UUID]*record.Key
	groups map[string]*record.Group
	writer record.Writer // of disablings
}

// trackedKey is the key of an entry of a tracked table.
type trackedKey struct{ table, key string }

func trackedID(table string, id uuid.UUID) trackedKey { return trackedKey{table, string(id[:])} }

// salvaged is the latest version of a record that was found. An uncertain one may be from before
// the last commit.
type salvaged struct {
	message   []byte
	place     boltpage.Place // of its last change
	uncertain bool
}

func (s *salvage) read(ctx context.Context, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s.pages = boltpage.NewPages(f, uint64((info.Size()+boltpage.PageSize-1)/boltpage.PageSize))
	var live func(uint64) bool
	live, s.sure, s.candidates = s.pages.Live()
	for range s.candidates {
		s.data = append(s.data, map[string][]byte{})
	}
	for id := uint64(2); id < s.pages.Count(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, size, ok := s.pages.Leaf(id)
		stale := s.sure && !live(id)
		if !ok && !stale {
			s.report.BadPages++
		}
		boltpage.EachEntry(page, func(k, v []byte) {
			s.take(id, k, v, stale, !s.sure && !live(id))
		})
		id += size
	}
	return nil
}

// entryKind is the kind of an entry in a leaf page, as far as Salvage needs to know.
type entryKind int

const (
	otherEntry entryKind = iota
	domainEntry
	dataEntry
	changesEntry
	identityEntry
	trackedEntry // a record of a tracked table
	badEntry     // the record of a user or key, with a wrong checksum
)

// kindOf returns the kind of an entry. A leaf page does not tell which table it is of, so kindOf
// judges by the form and the checksum of the entry.
func kindOf(k, v []byte) entryKind {
	switch {
	case isDomainKey(k):
		return domainEntry
	case isRecord(tableData, k, v):
		return dataEntry
	case isChange(k, v):
		return changesEntry
	case isIdentityEntry(k, v):
		return identityEntry
	case tableOf(k, v) != "":
		return trackedEntry
	case len(k) == len(uuid.UUID{}) && len(v) > 0:
		return badEntry
	}
	return otherEntry
}

// isDomainKey reports whether k is the key of a record in the table meta.
func isDomainKey(k []byte) bool {
	return slices.ContainsFunc([][]byte{metaFormat, metaDomain, metaTags, metaReplica, metaClock}, func(key []byte) bool { return bytes.Equal(k, key) })
}

func isChange(k, v []byte) bool {
	_, table, _, ok := boltpage.SplitChange(k, v)
	return ok && slices.Contains(trackedTables, table)
}

// tableOf returns the tracked table that an entry is a record of, or "".
func tableOf(k, v []byte) string {
	_, sealed, ok := boltpage.SplitTracked(v)
	for _, table := range trackedTables {
		if ok && isRecord(table, k, sealed) {
			return table
		}
	}
	return ""
}

func isRecord(table string, k, v []byte) bool {
	_, err := openRecord(table, k, v)
	return err == nil
}

func isIdentityEntry(k, v []byte) bool {
	_, ok := splitIdentityIndexKey(k)
	return ok && len(v) == len(uuid.UUID{})
}

// splitIdentityIndexKey returns the identity with this key in the index. It is the reverse of
// Identity.indexKey.
func splitIdentityIndexKey(k []byte) (i Identity, ok bool) {
	provider, subject, ok := bytes.Cut(k, []byte{0})
	i = Identity{Provider(provider), string(subject)}
	return i, ok && i.check(names.Stored) == nil
}

// take keeps an entry of a page. From a page that is not in use it takes only records of the table
// meta, of which every version is good.
func (s *salvage) take(page uint64, k, v []byte, stale, uncertain bool) {
	kind := kindOf(k, v)
	if stale && kind != domainEntry {
		return
	}
	switch kind {
	case domainEntry:
		s.takeMeta(k, v)
	case dataEntry:
		for i, has := range s.candidates {
			if has(page) {
				s.data[i][string(k)] = bytes.Clone(v)
			}
		}
	case changesEntry:
		place, table, key, _ := boltpage.SplitChange(k, v)
		at := trackedKey{table, string(key)}
		s.changes[at] = max(s.changes[at], place)
	case identityEntry:
		s.identities[uuid.UUID(v)], _ = splitIdentityIndexKey(k)
	case trackedEntry:
		place, sealed, _ := boltpage.SplitTracked(v)
		at := trackedKey{tableOf(k, v), string(k)}
		if old, ok := s.found[at]; !ok || old.place < place {
			message, _ := openRecord(at.table, k, sealed)
			s.found[at] = salvaged{bytes.Clone(message), place, uncertain}
		}
	case badEntry:
		s.report.BadRecords++
	}
}

func (s *salvage) takeMeta(k, v []byte) {
	message, err := openRecord(tableMeta, k, v)
	if err != nil {
		return
	}
	switch string(k) {
	case string(metaTags):
		if tags, err := record.DecodeTagSecrets(message); err == nil {
			s.tags = s.tags.Merge(tags)
		}
		return
	case string(metaReplica):
		r, err := record.DecodeReplica(message)
		s.shared = s.shared || err == nil && r.Shared
	case string(metaClock):
		if c, err := record.DecodeClock(message); err == nil {
			s.clock = s.clock.Later(c)
		}
	}
	s.meta[string(k)] = bytes.Clone(v)
}

func (s *salvage) readDomain() error {
	s.meta[string(metaTags)] = record.Seal(tableMeta, metaTags, s.tags.Encode())
	d, err := readDomain(func(key []byte) ([]byte, error) { return s.meta[string(key)], nil })
	if err != nil {
		return err
	}
	if d == nil {
		return errNoFormat
	}
	s.domain = d
	// Some of the last writes may be lost. New writes by the same replica would get the stamps of
	// the lost ones.
	s.domain.replica = record.Replica{ID: uuid.New(), Shared: s.shared}
	return nil
}

// decode decodes the users and keys that were found. Deletion wins over them. Uncertain users, keys
// and groups are disabled.
func (s *salvage) decode() {
	for at := range s.changes {
		// A group is never deleted, so its record is lost, and the group may have been disabled.
		if _, ok := s.found[at]; !ok && at.table == tableGroups {
			s.found[at] = salvaged{uncertain: true}
		}
	}
	for at, found := range s.found {
		id, _ := uuid.FromBytes([]byte(at.key))
		flag, err := &record.Flag{}, error(nil)
		switch at.table {
		case tableUsers:
			if _, deleted := s.found[trackedID(tableDeadUsers, id)]; deleted {
				continue
			}
			var u record.User
			if u, err = record.DecodeUser(id, found.message); err == nil {
				s.users[id], flag = &u, &u.Flag
			}
		case tableKeys:
			if _, deleted := s.found[trackedID(tableDeadKeys, id)]; deleted {
				continue
			}
			var k record.Key
			if k, err = record.DecodeKey(id, found.message); err == nil {
				s.keys[id], flag = &k, &k.Flag
			}
		case tableGroups:
			var g record.Group
			if g, err = record.DecodeGroup(at.key, found.message); err == nil {
				s.groups[at.key], flag = &g, &g.Flag
			}
		default:
			continue
		}
		switch {
		case err != nil:
			s.report.BadRecords++
		case found.uncertain || found.place < s.changes[at]:
			*flag = flag.Disable(s.writer)
			s.report.Uncertain++
		}
	}
}

// reconcile enforces the rules that records obey together: every key has a user, a deleted user
// takes the keys along, and no two keys of an owner have the same name.
func (s *salvage) reconcile() {
	taken := map[string]bool{}
	for _, id := range sortedIDs(s.keys) {
		k := s.keys[id]
		if k.Owner != ServerOwner {
			if _, deleted := s.found[trackedID(tableDeadUsers, k.Owner)]; deleted {
				delete(s.keys, id)
				s.found[trackedID(tableDeadKeys, id)] = salvaged{message: k.Tombstone().Encode()}
				continue
			}
			if s.users[k.Owner] == nil {
				s.users[k.Owner] = s.orphanOwner(k.Owner, k.Created)
				s.report.Orphaned++
			}
		}
		if name := string(nameIndexKey(k.Owner, k.Name.Value, uuid.Nil)); taken[name] {
			suffix := "~" + id.String()
			k.Name.Value = names.Cut(k.Name.Value, names.MaxLength-len(suffix)) + suffix
			k.Name.Stamp = k.Next(s.domain.replica.ID)
		} else {
			taken[name] = true
		}
	}
	s.reconcileIdentities()
}

// reconcileIdentities leaves each identity to the user that it was linked to last. The other users
// with the identity were deleted, or the identity was unlinked from them. They have come back from
// an earlier commit, so they are disabled already. A user without an identity gets another one, and
// so does a user with keys whose identities are all anonymous.
func (s *salvage) reconcileIdentities() {
	hasKeys := map[uuid.UUID]bool{}
	for _, k := range s.keys {
		hasKeys[k.Owner] = true
	}
	holders := map[Identity]uuid.UUID{}
	last := map[Identity]boltpage.Place{} // of the last change of the holder
	for _, id := range sortedIDs(s.users) {
		place := s.found[trackedID(tableUsers, id)].place
		for _, i := range s.users[id].Linked() {
			if _, taken := holders[identityOf(i)]; !taken || last[identityOf(i)] < place {
				holders[identityOf(i)], last[identityOf(i)] = id, place
			}
		}
	}
	for id, u := range s.users {
		for _, i := range u.Linked() {
			if holders[identityOf(i)] != id {
				i.Unlinked, i.Stamp = true, u.Next(s.domain.replica.ID)
				*u = u.SetIdentity(i)
			}
		}
		if len(u.Linked()) == 0 || hasKeys[id] && isAnonymous(u) {
			*u = u.SetIdentity(s.linked(lostIdentity(id), u))
		}
		if !s.shared {
			*u = u.Forget()
		}
	}
}

// linked returns an identity that is linked to a user now.
func (s *salvage) linked(i Identity, u *record.User) record.Identity {
	return record.Identity{Provider: string(i.Provider), Subject: i.Subject, Stamp: u.Next(s.domain.replica.ID)}
}

// lostIdentity returns the identity for a user that would have none.
func lostIdentity(id uuid.UUID) Identity {
	return Identity{ProviderCustomFunction, "lost:" + id.String()}
}

// orphanOwner makes the record of a user of which only keys are left. The user is as old as the
// first of the keys.
func (s *salvage) orphanOwner(id uuid.UUID, created time.Time) *record.User {
	i, ok := s.identities[id]
	if !ok || i.Provider == ProviderAnonymous {
		i = lostIdentity(id)
	}
	u := record.User{ID: id, Created: created, Flag: record.Flag{}.Disable(s.writer)}
	u = u.SetIdentity(s.linked(i, &u))
	return &u
}

// write makes the file of the new store at path.
func (s *salvage) write(ctx context.Context, path string) error {
	if err := boltengine.Init(path); err != nil {
		return err
	}
	e, err := openBoltFile(path, nil)
	if err != nil {
		return err
	}
	e.Track(trackedTables...)
	err = s.writeRecords(ctx, e)
	if err == nil {
		err = s.writeData(ctx, e)
	}
	return errors.Join(err, e.Close())
}

// salvageBatch is the number of records in one transaction of the new store.
const salvageBatch = 10_000

// writeRecords writes the records in the order of their last changes, with their entries in the
// indexes.
func (s *salvage) writeRecords(ctx context.Context, e Engine) error {
	s.encode()
	all := slices.SortedFunc(maps.Keys(s.found), func(a, b trackedKey) int {
		return cmp.Or(cmp.Compare(s.found[a].place, s.found[b].place), cmp.Compare(a.table, b.table), cmp.Compare(a.key, b.key))
	})
	err := e.Update(ctx, func(etx EngineTx) error {
		if err := s.domain.create(etx); err != nil || s.clock.Time.IsZero() {
			return err
		}
		return (&Tx{etx: etx}).putClock(s.clock)
	})
	for batch := range slices.Chunk(all, salvageBatch) {
		if err != nil {
			return err
		}
		err = e.Update(ctx, func(etx EngineTx) error {
			tx := &Tx{etx: etx}
			for _, at := range batch {
				if err := s.writeRecord(tx, at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	s.report.Users, s.report.Keys = len(s.users), len(s.keys)
	return err
}

// encode replaces the users, keys and groups that were found by what they are now.
func (s *salvage) encode() {
	now := map[trackedKey][]byte{}
	for id, u := range s.users {
		now[trackedID(tableUsers, id)] = u.Encode()
	}
	for id, k := range s.keys {
		now[trackedID(tableKeys, id)] = k.Encode()
	}
	for name, g := range s.groups {
		now[trackedKey{tableGroups, name}] = g.Encode()
	}
	maps.DeleteFunc(s.found, func(at trackedKey, _ salvaged) bool {
		_, still := now[at]
		return !still && slices.Contains([]string{tableUsers, tableKeys, tableGroups}, at.table)
	})
	for at, message := range now {
		s.found[at] = salvaged{message: message, place: s.found[at].place}
	}
}

func (s *salvage) writeData(ctx context.Context, e Engine) error {
	if len(s.data) == 0 {
		return nil
	}
	data := s.data[0]
	for _, other := range s.data[1:] {
		maps.DeleteFunc(data, func(k string, v []byte) bool { return !bytes.Equal(other[k], v) })
	}
	keys := slices.Sorted(maps.Keys(data))
	s.report.Data = len(keys)
	for batch := range slices.Chunk(keys, salvageBatch) {
		err := e.Update(ctx, func(etx EngineTx) error {
			for _, k := range batch {
				if err := etx.Put(tableData, []byte(k), data[k]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeRecord writes a record and its entries in the indexes.
func (s *salvage) writeRecord(tx *Tx, at trackedKey) error {
	id, _ := uuid.FromBytes([]byte(at.key))
	group := ""
	switch at.table {
	case tableUsers:
		u := s.users[id]
		for _, i := range u.Linked() {
			if err := tx.put(tableIdentities, identityOf(i).indexKey(), id[:]); err != nil {
				return err
			}
		}
		group = u.Groups.Now()
	case tableKeys:
		k := s.keys[id]
		if err := tx.put(tableNames, nameIndexKey(k.Owner, k.Name.Value, id), nil); err != nil {
			return err
		}
		group = k.Groups.Now()
	}
	if group != "" {
		if err := tx.put(tableMembers, memberIndexKey(group, id), nil); err != nil {
			return err
		}
	}
	return tx.putRecord(at.table, []byte(at.key), s.found[at].message)
}

func sortedIDs[T any](m map[uuid.UUID]T) []uuid.UUID {
	ids := make([]uuid.UUID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}
