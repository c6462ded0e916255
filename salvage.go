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

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// SalvageReport says what [Salvage] brought back, and what not.
type SalvageReport struct {
	Users int // that came back, not counting deleted ones
	Keys  int // that came back, not counting deleted ones

	// Data counts records of applications that came back. Where it cannot be known which of two commits was the last, those
	// come back that are the same in both; where nothing can be known, none.
	Data int

	BadPages   int // pages in use that could not be read
	BadRecords int // records whose checksum does not hold
	// Uncertain counts users and keys that may not be of the last commit, because a meta page or the list of free pages is
	// lost, or the change index has a later change of them. They came back disabled: what was revoked must not return.
	Uncertain int
	// Orphaned counts users whose record is lost and whose keys are not. They came back disabled, with the identity that
	// the index has for them, or with (custom-function, "lost:<ID>").
	Orphaned int
}

// Salvage reads what it can of the damaged store in the file broken, page by page, takes every record whose checksum
// holds, and makes a new store of them in the file out. It does not change broken, which no program should have open.
// Tokens stay good, as does what was deleted stay deleted, unless the page that says so is lost; see [SalvageReport] for
// what comes back disabled. The new store is another replica of the domain. If out is a symbolic link that leads to nothing,
// Salvage makes the file where the link leads, as [Open] does.
//
// It returns [ErrCorrupt] if the record of the domain is lost, without which no token can be checked, or broken is no
// regular file; [ErrNewerFormat]; [fs.ErrExist] if out exists; ctx's error, or the operating system's.
func Salvage(ctx context.Context, broken, out string) (report SalvageReport, err error) {
	f, err := openRegular(broken)
	if err != nil {
		return report, wrapf(err, "salvage")
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

// salvage is what one run has found so far.
type salvage struct {
	pages      *boltpage.Pages
	sure       bool                   // that it knows which pages are of the last commit
	candidates []func(id uint64) bool // which pages are of each commit that may be the last
	report     SalvageReport

	domain     *domain
	meta       map[string][]byte // records of the table meta that never change
	users      map[uuid.UUID]salvaged[userRecord]
	keys       map[uuid.UUID]salvaged[keyRecord]
	identities map[uuid.UUID]Identity // what the index has, by user
	changes    map[uuid.UUID]uint64   // the last change of each record, by the change index
	data       []map[string][]byte    // records of applications, in each commit that may be the last
}

// salvaged is a record, and whether it may be of an earlier state.
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

// entryKind says which table an entry of a leaf page is of, as far as Salvage needs to know.
type entryKind int

const (
	otherEntry entryKind = iota
	domainEntry
	dataEntry
	changesEntry
	identityEntry
	userEntry
	keyEntry
	badEntry // a user or key whose checksum does not hold
)

// kindOf finds out the kind of an entry by its form and its checksum, because a leaf page does not
// tell its table.
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

// splitIdentityIndexKey is the reverse of Identity.indexKey.
func splitIdentityIndexKey(k []byte) (i Identity, ok bool) {
	provider, subject, ok := bytes.Cut(k, []byte{0})
	i = Identity{Provider(provider), string(subject)}
	return i, ok && i.validate() == nil
}

// take keeps an entry of a page. From a stale page it takes only what never changes.
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
	// Some of its last writes may be lost, and others would get their stamps.
	s.domain.replica = uuid.New()
	s.meta[string(metaReplica)] = s.domain.encodeReplica()
	return nil
}

// reconcile applies the rules that records obey together: what is uncertain is disabled, every key has a user, deletion
// wins, and no two names are alike.
func (s *salvage) reconcile() {
	for id, u := range s.users {
		if (u.uncertain || u.record.sequence < s.changes[id]) && !u.record.deleted {
			u.record.disabled = true
			s.report.Uncertain++
			s.users[id] = u
		}
	}
	names := map[string]bool{}
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
		if name := string(nameIndexKey(k.record.owner, k.record.name, uuid.Nil)); names[name] {
			k.record.name += "~" + id.String()
		} else {
			names[name] = true
		}
		s.keys[id] = k
	}
	s.reconcileIdentities()
}

// reconcileIdentities leaves each identity to the user who got it last. The others are of an earlier state, in which somebody
// deleted has come back: they are disabled already, and whoever has no identity left gets one.
func (s *salvage) reconcileIdentities() {
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
		all := len(u.record.identities)
		u.record.identities = slices.DeleteFunc(u.record.identities, func(i identityRecord) bool { return holders[i.Identity] != id })
		if all > 0 && len(u.record.identities) == 0 {
			u.record.identities = []identityRecord{{Identity: lostIdentity(id), linked: u.record.made}}
		}
		s.users[id] = u
	}
}

// lostIdentity is for a user who would have none.
func lostIdentity(id uuid.UUID) Identity {
	return Identity{ProviderCustomFunction, "lost:" + id.String()}
}

// orphanOwner is a user of whom only keys are left.
func (s *salvage) orphanOwner(id uuid.UUID, made stamp) userRecord {
	i, ok := s.identities[id]
	if !ok || i.Provider == ProviderAnonymous {
		i = lostIdentity(id)
	}
	return userRecord{id: id, made: made, disabledFlag: disabledFlag{disablings: 1, disabled: true}, identities: []identityRecord{{Identity: i, linked: made}}}
}

// write makes the new store's file at path.
func (s *salvage) write(ctx context.Context, path string) error {
	if err := fillBolt(path); err != nil {
		return err
	}
	e, err := openBolt(path, nil)
	if err != nil {
		return err
	}
	err = s.writeRecords(ctx, e)
	if err == nil {
		err = s.writeData(ctx, e)
	}
	return errors.Join(err, e.Close())
}

// salvageBatch is how many records one transaction of the new store has.
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
				// Each keeps its sequence, unless another has it: counters of stamps refer to it.
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
