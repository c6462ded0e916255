package salvage

import (
	"bytes"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
)

// entryKind is the kind of an entry in a leaf page, as far as a salvage needs to know.
type entryKind int

const (
	otherEntry entryKind = iota
	domainEntry
	dataEntry    // a record of an application
	replicaEntry // what replication keeps
	laterEntry   // a record of a later version, kept aside
	changesEntry
	identityEntry
	lastUseEntry
	trackedEntry // a record of a tracked table
	badEntry     // the record of a user or key, with a wrong checksum
)

// kindOf returns the kind of an entry. A leaf page does not tell which table it is of, so kindOf
// judges by the form and the checksum of the entry.
func (s *salvage) kindOf(k, v []byte) entryKind {
	switch {
	case isDomainKey(k):
		return domainEntry
	case isRecord(record.TableData, k, v):
		return dataEntry
	case isRecord(record.TableReplica, k, v):
		return replicaEntry
	case isAside(k, v):
		return laterEntry
	case isChange(k, v):
		return changesEntry
	case len(k) == len(lastuse.ID{}) && isRecord(record.TableLastUse, k, v):
		return lastUseEntry
	case s.isIdentityEntry(k, v):
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
	switch string(k) {
	case record.MetaFormat, record.MetaDomain, record.MetaTags, record.MetaReplica, record.MetaClock:
		return true
	}
	return false
}

func isChange(k, v []byte) bool { // an entry of the change index has no checksum
	_, table, key, ok := boltpage.SplitChange(k, v)
	return ok && slices.Contains(tracked, table) && record.KeyFits(table, key)
}

var tracked = record.TrackedTables()

// tableOf returns the tracked table that an entry is a record of, or "".
func tableOf(k, v []byte) string {
	_, sealed, ok := boltpage.SplitTracked(v)
	for _, table := range tracked {
		if ok && isRecord(table, k, sealed) {
			return table
		}
	}
	return ""
}

func isRecord(table string, k, v []byte) bool {
	_, err := record.Open(table, k, v)
	return err == nil
}

// isAside reports whether an entry is a record that is kept aside.
func isAside(k, v []byte) bool {
	table, key, _ := bytes.Cut(k, []byte{0})
	_, err := record.Open(string(table), key, v)
	return slices.Contains(tracked, string(table)) && record.KeyFits(string(table), key) && (err == nil || errors.Is(err, record.ErrNewer))
}

func (s *salvage) isIdentityEntry(k, v []byte) bool {
	provider, subject, ok := record.SplitIdentityKey(k)
	return ok && len(v) == len(uuid.UUID{}) && s.rules.Valid(provider, subject)
}

// take keeps an entry of a page. From a page that is not in use it takes only records of the table
// meta, of which every version is good.
func (s *salvage) take(page uint64, k, v []byte, stale, uncertain bool) {
	kind := s.kindOf(k, v)
	if stale && kind != domainEntry {
		return
	}
	switch kind {
	case domainEntry:
		s.takeMeta(k, v)
	case dataEntry:
		s.takeData(page, record.TableData, k, v)
	case replicaEntry:
		s.takeData(page, record.TableReplica, k, v)
	case laterEntry: // any of two versions is good, because each refuses logins
		s.aside[string(k)] = bytes.Clone(v)
	case changesEntry:
		place, table, key, _ := boltpage.SplitChange(k, v)
		at := entryKey{table, string(key)}
		s.changes[at] = max(s.changes[at], place)
	case identityEntry:
		provider, subject, _ := record.SplitIdentityKey(k)
		s.identities[uuid.UUID(v)] = record.Identity{Provider: provider, Subject: subject}
	case lastUseEntry:
		message, _ := record.Open(record.TableLastUse, k, v)
		if minute, err := record.DecodeLastUse(message); err == nil {
			s.uses[string(k)] = max(s.uses[string(k)], minute)
		}
	case trackedEntry:
		place, sealed, _ := boltpage.SplitTracked(v)
		at := entryKey{tableOf(k, v), string(k)}
		if old, ok := s.found[at]; !ok || old.place < place {
			message, _ := record.Open(at.table, k, sealed)
			s.found[at] = version{bytes.Clone(message), place, uncertain}
		}
	case badEntry:
		s.Counts.BadRecords++
	}
}

// takeData keeps a record whose versions do not merge, for each last commit that may have it.
func (s *salvage) takeData(page uint64, table string, k, v []byte) {
	for i, has := range s.candidates {
		if has(page) {
			message, _ := record.Open(table, k, v)
			s.data[i][entryKey{table, string(k)}] = bytes.Clone(message)
		}
	}
}

func (s *salvage) takeMeta(k, v []byte) {
	message, err := record.Open(record.TableMeta, k, v)
	if err != nil {
		return
	}
	switch string(k) {
	case record.MetaTags:
		if tags, err := record.DecodeTagSecrets(message); err == nil {
			s.tags = s.tags.Merge(tags)
		}
		return
	case record.MetaClock:
		if c, err := record.DecodeClock(message); err == nil {
			s.Clock = s.Clock.Later(c)
		}
	}
	s.Meta[string(k)] = bytes.Clone(v)
}
