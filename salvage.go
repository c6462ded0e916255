package latchkey

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/names"
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
	// Uncertain is the number of users and keys that came back disabled because their records may
	// not be of the last commit: a meta page or the list of free pages is lost, or the change index
	// has a later change of the record. They are disabled because that change may have revoked
	// them.
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
		users: map[uuid.UUID]salvaged[userRecord]{}, keys: map[uuid.UUID]salvaged[keyRecord]{},
		meta: map[string][]byte{}, identities: map[uuid.UUID]Identity{}, changes: map[uuid.UUID]uint64{},
	}
	err = s.read(ctx, f)
	if err == nil {
		err = s.readDomain()
	}
	if err == nil {
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

	domain     *domain
	meta       map[string][]byte // records of the table meta that never change
	users      map[uuid.UUID]salvaged[userRecord]
	keys       map[uuid.UUID]salvaged[keyRecord]
	identities map[uuid.UUID]Identity // the identities in the index, by user
	changes    map[uuid.UUID]uint64   // the last change of each record in the change index
	data       []map[string][]byte    // application records, for each candidate
}

// salvaged is a record. An uncertain record may be from before the last commit.
type salvaged[T any] struct {
	record    T
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
	userEntry
	keyEntry
	badEntry // the record of a user or key, with a wrong checksum
)

// kindOf returns the kind of an entry. A leaf page does not tell which table it is of, so kindOf
// judges by the form and the checksum of the entry.
func kindOf(k, v []byte) entryKind {
	byID := len(k) == len(uuid.UUID{})
	switch {
	case isDomainKey(k):
		return domainEntry
	case isRecord(tableData, k, v):
		return dataEntry
	case len(k) == 8 && len(v) == 17:
		return changesEntry
	case isIdentityEntry(k, v):
		return identityEntry
	case byID && isRecord(tableUsers, k, v):
		return userEntry
	case byID && isRecord(tableKeys, k, v):
		return keyEntry
	case byID && len(v) > 0:
		return badEntry
	}
	return otherEntry
}

// isDomainKey reports whether k is the key of a record in the table meta that never changes.
func isDomainKey(k []byte) bool {
	return bytes.Equal(k, metaFormat) || bytes.Equal(k, metaDomain) || bytes.Equal(k, metaReplica)
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

// take keeps an entry of a page. From a page that is not in use it takes only records that never
// change.
func (s *salvage) take(page uint64, k, v []byte, stale, uncertain bool) {
	kind := kindOf(k, v)
	if stale && kind != domainEntry {
		return
	}
	switch kind {
	case domainEntry:
		if isRecord(tableMeta, k, v) {
			s.meta[string(k)] = bytes.Clone(v)
		}
	case dataEntry:
		for i, has := range s.candidates {
			if has(page) {
				s.data[i][string(k)] = bytes.Clone(v)
			}
		}
	case changesEntry:
		id := uuid.UUID(v[1:])
		s.changes[id] = max(s.changes[id], binary.BigEndian.Uint64(k))
	case identityEntry:
		s.identities[uuid.UUID(v)], _ = splitIdentityIndexKey(k)
	case userEntry:
		u, err := decodeUser(uuid.UUID(k), v)
		if err != nil {
			s.report.BadRecords++
			return
		}
		if old, ok := s.users[u.id]; !ok || old.record.sequence < u.sequence {
			s.users[u.id] = salvaged[userRecord]{u, uncertain}
		}
	case keyEntry:
		key, err := decodeKey(uuid.UUID(k), v)
		if err != nil {
			s.report.BadRecords++
			return
		}
		if old, ok := s.keys[key.id]; !ok || old.record.sequence < key.sequence {
			s.keys[key.id] = salvaged[keyRecord]{key, uncertain}
		}
	case badEntry:
		s.report.BadRecords++
	}
}

func (s *salvage) readDomain() error {
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
	s.domain.replica = uuid.New()
	s.meta[string(metaReplica)] = s.domain.encodeReplica()
	return nil
}

// reconcile enforces the rules that records obey together: uncertain records are disabled, every
// key has a user, deletion wins, and no two keys of an owner have the same name.
func (s *salvage) reconcile() {
	for id, u := range s.users {
		if (u.uncertain || u.record.sequence < s.changes[id]) && !u.record.deleted {
			u.record.disabled = true
			s.report.Uncertain++
			s.users[id] = u
		}
	}
	taken := map[string]bool{}
	for _, id := range sortedIDs(s.keys) {
		k := s.keys[id]
		if k.record.deleted {
			continue
		}
		if k.uncertain || k.record.sequence < s.changes[id] {
			k.record.disabled = true
			s.report.Uncertain++
		}
		if owner := k.record.owner; owner != ServerOwner {
			u, ok := s.users[owner]
			if !ok {
				u = salvaged[userRecord]{record: s.orphanOwner(owner, k.record.made)}
				s.users[owner] = u
				s.report.Orphaned++
			}
			if u.record.deleted {
				delete(s.keys, id)
				continue
			}
		}
		if name := string(nameIndexKey(k.record.owner, k.record.name, uuid.Nil)); taken[name] {
			suffix := "~" + id.String()
			k.record.name = names.Cut(k.record.name, names.MaxLength-len(suffix)) + suffix
		} else {
			taken[name] = true
		}
		s.keys[id] = k
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
		if !k.record.deleted {
			hasKeys[k.record.owner] = true
		}
	}
	holders := map[Identity]uuid.UUID{}
	last := map[Identity]stamp{}
	for _, id := range sortedIDs(s.users) {
		for _, i := range s.users[id].record.identities {
			if _, taken := holders[i.Identity]; !taken || last[i.Identity].counter < i.linked.counter {
				holders[i.Identity], last[i.Identity] = id, i.linked
			}
		}
	}
	for id, u := range s.users {
		u.record.identities = slices.DeleteFunc(u.record.identities, func(i identityRecord) bool { return holders[i.Identity] != id })
		if !u.record.deleted && (len(u.record.identities) == 0 || hasKeys[id] && u.record.anonymous()) {
			u.record.identities = append(u.record.identities, identityRecord{Identity: lostIdentity(id), linked: u.record.made})
		}
		s.users[id] = u
	}
}

// lostIdentity returns the identity for a user that would have none.
func lostIdentity(id uuid.UUID) Identity {
	return Identity{ProviderCustomFunction, "lost:" + id.String()}
}

// orphanOwner makes the record of a user of which only keys are left.
func (s *salvage) orphanOwner(id uuid.UUID, made stamp) userRecord {
	i, ok := s.identities[id]
	if !ok || i.Provider == ProviderAnonymous {
		i = lostIdentity(id)
	}
	return userRecord{id: id, made: made, disabledFlag: disabledFlag{disablings: 1, disabled: true}, identities: []identityRecord{{Identity: i, linked: made}}}
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
	err = s.writeRecords(ctx, e)
	if err == nil {
		err = s.writeData(ctx, e)
	}
	return errors.Join(err, e.Close())
}

// salvageBatch is the number of records in one transaction of the new store.
const salvageBatch = 10_000

func (s *salvage) writeRecords(ctx context.Context, e Engine) error {
	type change struct {
		kind     recordKind
		id       uuid.UUID
		sequence uint64
	}
	var changes []change
	for id, u := range s.users {
		changes = append(changes, change{userKind, id, u.record.sequence})
	}
	for id, k := range s.keys {
		changes = append(changes, change{keyKind, id, k.record.sequence})
	}
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.sequence, b.sequence), bytes.Compare(a.id[:], b.id[:]))
	})
	st := &storeState{}
	for first := true; first || len(changes) > 0; first = false {
		batch := changes[:min(len(changes), salvageBatch)]
		changes = changes[len(batch):]
		begin := *st
		err := e.Update(ctx, func(etx EngineTx) error {
			*st = begin
			tx := &Tx{etx: etx, replica: s.domain.replica, state: st}
			for _, c := range batch {
				// Each record keeps its sequence, because the counters of stamps refer to it,
				// unless another record has taken the sequence.
				if c.sequence > 0 {
					st.sequence = max(st.sequence, c.sequence-1)
				}
				if err := s.writeRecord(tx, c.kind, c.id); err != nil {
					return err
				}
			}
			for key, record := range s.meta {
				if err := tx.put(tableMeta, []byte(key), record); err != nil {
					return err
				}
			}
			return tx.putState()
		})
		if err != nil {
			return err
		}
	}
	s.report.Users, s.report.Keys = int(st.users), int(st.keys)
	return nil
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
func (s *salvage) writeRecord(tx *Tx, kind recordKind, id uuid.UUID) error {
	if kind == userKind {
		u := s.users[id].record
		u.sequence = 0
		if !u.deleted {
			tx.state.users++
			for _, i := range u.identities {
				if err := tx.put(tableIdentities, i.indexKey(), id[:]); err != nil {
					return err
				}
			}
		}
		if _, err := tx.nextChange(userKind, id, &u.sequence); err != nil {
			return err
		}
		return tx.putUser(&u)
	}
	k := s.keys[id].record
	k.sequence = 0
	if !k.deleted {
		tx.state.keys++
		if err := tx.put(tableNames, nameIndexKey(k.owner, k.name, id), nil); err != nil {
			return err
		}
	}
	if _, err := tx.nextChange(keyKind, id, &k.sequence); err != nil {
		return err
	}
	return tx.putKey(&k)
}

func sortedIDs[T any](m map[uuid.UUID]T) []uuid.UUID {
	ids := make([]uuid.UUID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}
