package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

const (
	// atOnce is how many records a transaction merges. A login waits for none of them, but another
	// writer waits for all.
	atOnce = 256
	// roomForOne is the number of writes that most records take at the most, with a signed copy.
	roomForOne = 32
	// The bounds of what a first copy holds in memory until it is written.
	copyEntries, copyBytes = 8_192, 4 << 20
)

// Receive applies messages of a stream, in order, in as few transactions as it can. When it returns
// nil, everything is on disk that a later Hello says the edge has. After an error, the caller ends
// the stream and begins a new one, which goes on where the last one was whole.
//
// now is the time of the device, before any correction.
func (e *Edge) Receive(ctx context.Context, messages []Message, now time.Time) error {
	e.work.Lock()
	defer e.work.Unlock()
	var batch []Message // that change records or the cursor
	flush := func() error {
		err := e.apply(ctx, batch)
		batch = nil
		return err
	}
	for _, m := range messages {
		var err error
		switch m := m.(type) {
		case Record, Forget, Replace, NewPolicy:
			if err = e.writeCopied(ctx, nil); err == nil {
				batch = append(batch, m)
			}
		case Mark:
			if m.At.Copying == "" && e.now().cursor.Copying == "" {
				batch = append(batch, m)
			} else if err = flush(); err == nil {
				err = e.copiedTo(ctx, m.At)
			}
		case Entry:
			if err = flush(); err == nil {
				err = e.addEntry(ctx, m)
			}
		case Welcome:
			e.copied, e.copiedAs = nil, 0
			if err = flush(); err == nil {
				err = e.welcome(ctx, m, now)
			}
		case Beat:
			if err = flush(); err == nil {
				err = e.heard(ctx, m, now)
			}
		case Secrets:
			if err = flush(); err == nil {
				err = e.takeSecrets(ctx, m)
			}
		case NextPin:
			e.mu.Lock()
			e.nextPin = m.Pin
			e.mu.Unlock()
		case Cloned:
			e.mu.Lock()
			e.cloned = true
			e.mu.Unlock()
		default:
			err = bad("a message %T in a stream", m)
		}
		if err != nil {
			return err
		}
	}
	return flush()
}

// welcome takes the beginning of a stream.
func (e *Edge) welcome(ctx context.Context, m Welcome, now time.Time) error {
	if err := e.heard(ctx, Beat{m.Time, m.Resets}, now); err != nil {
		return err
	}
	if s := e.now(); m.How == CompareFirst && s.cursor.Copying != "" {
		if err := e.reindex(ctx); err != nil {
			return err
		}
	}
	return e.update(ctx, func(_ *merge.Tables, s *state) error {
		if m.How == CompareFirst && s.id != uuid.Nil && s.id != m.Edge {
			s.cursor.Era = uuid.Nil // what the edge has claimed comes again
		}
		s.id, s.policy = m.Edge, m.Policy
		other := s.cursor.Incarnation != m.At.Incarnation || s.cursor.Era != m.At.Era
		switch {
		case m.How == CompareFirst:
			s.compare = true
			if other && s.cursor.Incarnation != uuid.Nil { // perhaps a hub that has lost something
				s.bring, s.brought = true, nil
			}
		case m.How == FirstCopy && m.At.Copying == "":
			return bad("a first copy that begins nowhere")
		default:
			s.cursor, s.compare = m.At, false
		}
		return nil
	})
}

// heard takes the time of the hub.
func (e *Edge) heard(ctx context.Context, b Beat, now time.Time) error {
	was := e.now()
	e.mu.Lock()
	e.state.offset, e.state.word = b.Time.Sub(now), now
	wrote := e.wrote
	e.mu.Unlock()
	reset := was.word.IsZero() || was.resets != b.Resets
	if reset {
		// The time of the device may have been far ahead before the hub spoke for the first time.
		if err := e.store.ResetClock(ctx); err != nil {
			return err
		}
	}
	moved := (b.Time.Sub(now) - wrote.offset).Abs()
	if !reset && moved < time.Second && now.Sub(wrote.word).Abs() < keepWord {
		return nil
	}
	return e.update(ctx, func(_ *merge.Tables, s *state) error { s.resets = b.Resets; return nil })
}

func (e *Edge) takeSecrets(ctx context.Context, m Secrets) error {
	if err := e.store.TakeTagSecrets(ctx, m.Export); err != nil {
		return err
	}
	var tags []byte
	err := e.store.View(ctx, func(t *merge.Tables) (err error) { tags, err = tagsOf(t); return err })
	if err == nil {
		e.mu.Lock()
		e.tags = tags
		e.mu.Unlock()
	}
	return err
}

// addEntry adds an entry of a first copy to those that the next transaction writes.
func (e *Edge) addEntry(ctx context.Context, m Entry) error {
	if e.now().cursor.Copying == "" {
		return bad("an entry, and no first copy is under way")
	}
	if len(e.copied) >= copyEntries || e.copiedAs >= copyBytes {
		if err := e.writeCopied(ctx, nil); err != nil {
			return err
		}
	}
	e.copied = append(e.copied, m)
	e.copiedAs += len(m.Key) + len(m.Value)
	return nil
}

// copiedTo takes a Mark in a first copy. At the end of the copy it writes what is left.
func (e *Edge) copiedTo(ctx context.Context, at Cursor) error {
	if at.Copying != "" && len(e.copied) > 0 {
		return nil // the place of the last entry will do
	}
	if at.Copying == "" {
		if err := e.writeCopied(ctx, nil); err != nil {
			return err
		}
		if err := e.nameKeys(ctx); err != nil {
			return err
		}
	}
	return e.writeCopied(ctx, &at)
}

// writeCopied writes the entries of a first copy that came since the last time, and a Mark behind
// them.
//
// Entries are written as they are if the store was empty when the copy began. Otherwise records are
// merged, which is slower, and makes the entries of indexes anew.
func (e *Edge) writeCopied(ctx context.Context, mark *Cursor) error {
	if mark == nil && len(e.copied) == 0 {
		return nil
	}
	if s := e.now(); !s.merging && s.cursor.Copying == merge.CopiedTables()[0] && s.cursor.CopyKey == nil {
		if err := e.lookForRecords(ctx); err != nil {
			return err
		}
	}
	for {
		left := 0
		err := e.update(ctx, func(t *merge.Tables, s *state) (err error) {
			if s.merging {
				left, err = e.mergeEntries(t, e.copied)
			} else if err = nothingPending(t); err == nil {
				left, err = putEntries(t, e.copied)
			}
			if done := e.copied[:len(e.copied)-left]; err == nil && len(done) > 0 {
				last := done[len(done)-1]
				s.cursor.Copying, s.cursor.CopyKey, s.cursor.Ahead = last.Table, last.Key, true
				err = e.putSigned(t, done)
			}
			if left == 0 && mark != nil {
				s.moveTo(*mark)
				s.reindex = s.reindex || mark.Copying == "" && !s.merging
				s.merging = s.merging && mark.Copying != ""
			}
			return err
		})
		if errors.Is(err, merge.ErrInvalid) && !e.now().merging {
			return e.copyAgain(ctx, err)
		}
		if err != nil {
			return err
		}
		clear(e.copied[:len(e.copied)-left])
		if left == 0 {
			e.copied, e.copiedAs = e.copied[:0], 0 // the next entries need as much room
			if mark != nil && mark.Copying == "" {
				e.copied = nil
			}
			return nil
		}
		e.copied = e.copied[len(e.copied)-left:]
	}
}

// nothingPending returns [merge.ErrInvalid] if a record was changed here, for example because the
// program does not wait for the end of the first copy.
func nothingPending(t *merge.Tables) error {
	return scanLocal(t, edgePending, func(at, _ []byte) error {
		table, key := located(bytes.TrimPrefix(at, []byte(keptPending)))
		return fmt.Errorf("%w: the record %s/%x was changed here meanwhile", merge.ErrInvalid, table, key)
	})
}

// lookForRecords notes that the records of a first copy must be merged if the store has any record.
func (e *Edge) lookForRecords(ctx context.Context) error {
	var n uint64
	err := e.store.View(ctx, func(t *merge.Tables) error {
		n = 0
		for _, table := range merge.CopiedTables() {
			some, err := t.Count(table)
			if n += some; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || n == 0 {
		return err
	}
	return e.update(ctx, func(_ *merge.Tables, s *state) error { s.merging = true; return nil })
}

// copyAgain begins the first copy anew, record by record, because entries could not be written:
// something was written here since the copy began.
func (e *Edge) copyAgain(ctx context.Context, cause error) error {
	e.copied, e.copiedAs = nil, 0
	err := e.update(ctx, func(_ *merge.Tables, s *state) error {
		s.merging, s.cursor.Copying, s.cursor.CopyKey = true, merge.CopiedTables()[0], nil
		return nil
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("the first copy begins anew: %w", cause)
}

// reindex makes the entries of indexes that a first copy has not brought, because the edge has to
// compare instead.
func (e *Edge) reindex(ctx context.Context) error {
	for _, table := range []string{record.TableUsers, record.TableKeys} {
		var all [][]byte
		err := e.scan(ctx, table, func(_ *merge.Tables, key, _ []byte) error {
			all = append(all, key)
			return nil
		})
		if err != nil {
			return err
		}
		if err := e.enterAll(ctx, table, all); err != nil {
			return err
		}
	}
	return e.update(ctx, func(_ *merge.Tables, s *state) error { s.merging = true; return nil })
}

// nameKeys makes the entries of the index of names that a first copy has not brought, because a key
// or its owner has changed on the way. By the names, an edge finds the keys of a user whom it has
// to forget.
func (e *Edge) nameKeys(ctx context.Context) error {
	var keys, names uint64
	err := e.store.View(ctx, func(t *merge.Tables) (err error) {
		if keys, err = t.Count(record.TableKeys); err == nil {
			names, err = t.Count(record.TableNames)
		}
		return err
	})
	if err != nil || keys == names {
		return err // each key has one name, so none is missing
	}
	var unnamed [][]byte
	err = e.scan(ctx, record.TableKeys, func(t *merge.Tables, key, sealed []byte) error {
		message, err := record.Open(record.TableKeys, key, sealed)
		if err != nil {
			return err
		}
		entry, err := record.DecodeNameEntry(uuid.UUID(key), message)
		if err != nil {
			return err
		}
		has, err := t.Get(record.TableNames, entry)
		if err == nil && has == nil {
			unnamed = append(unnamed, key)
		}
		return err
	})
	if err != nil {
		return err
	}
	return e.enterAll(ctx, record.TableKeys, unnamed)
}

// enterAll writes the entries of the indexes that are made from some records.
func (e *Edge) enterAll(ctx context.Context, table string, keys [][]byte) error {
	for page := range slices.Chunk(keys, atOnce) {
		err := e.update(ctx, func(t *merge.Tables, _ *state) error {
			for _, key := range page {
				if err := enter(t, table, key); err != nil && !isRefusal(err) {
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

// enter writes the entries of the indexes that are made from a record.
func enter(t *merge.Tables, table string, key []byte) error {
	sealed, err := t.Get(table, key)
	if err != nil || sealed == nil {
		return err
	}
	var entries []record.IndexEntry
	if table == record.TableUsers {
		u, err := record.Unseal(table, key, sealed, record.DecodeUser)
		if err != nil {
			return err
		}
		entries = u.Index()
	} else {
		k, err := record.Unseal(table, key, sealed, record.DecodeKey)
		if err != nil {
			return err
		}
		entries = k.Index()
	}
	for _, entry := range entries {
		if err := t.Enter(uuid.UUID(key), entry); err != nil {
			return err
		}
	}
	return nil
}

// putEntries writes entries as they are, and returns how many of them did not fit.
func putEntries(t *merge.Tables, entries []Entry) (left int, err error) {
	for len(entries) > 0 && t.Room() > roomForOne {
		var page []merge.Entry
		for _, m := range entries[:min(len(entries), t.Room()/2)] {
			if m.Table != entries[0].Table {
				break
			}
			page = append(page, merge.Entry{Key: m.Key, Value: m.Value})
		}
		if err := t.PutEntries(entries[0].Table, page); err != nil {
			return 0, err
		}
		entries = entries[len(page):]
	}
	return len(entries), nil
}

// mergeEntries merges the records among some entries, and returns how many entries are left.
func (e *Edge) mergeEntries(t *merge.Tables, entries []Entry) (left int, err error) {
	for i, m := range entries {
		if i == atOnce || t.Room() < roomForOne {
			return len(entries) - i, nil
		}
		if !isTracked(m.Table) {
			continue
		}
		c := record.Copy{Domain: e.store.DomainID(), Table: m.Table, Key: m.Key, Sealed: m.Value}
		if err := c.Check(); err != nil {
			return 0, bad("%w", err)
		}
		before := t.Writes()
		more, err := t.Record(c)
		if more {
			return len(entries) - i, nil
		}
		if err == nil && (m.Table == record.TableUsers || m.Table == record.TableKeys) {
			err = enter(t, m.Table, m.Key) // the record may be there from a copy that was given up
		}
		if err != nil && (!isRefusal(err) || t.Writes() != before) {
			return 0, err
		}
	}
	return 0, nil
}

func (e *Edge) putSigned(t *merge.Tables, entries []Entry) error {
	for _, m := range entries {
		if len(m.MAC) > 0 {
			c := record.Copy{Domain: e.store.DomainID(), Table: m.Table, Key: m.Key, Sealed: m.Value}
			if err := keepSigned(t, Record{c, m.MAC}); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply applies messages in as many transactions as it needs. A record that cannot be merged
// because of what the store has is left out.
func (e *Edge) apply(ctx context.Context, messages []Message) error {
	for _, m := range messages {
		if r, ok := m.(Record); ok && r.Copy.Domain != e.store.DomainID() {
			return bad("a record of domain %s, and the store is of domain %s", r.Copy.Domain, e.store.DomainID())
		}
	}
	refused := map[int]error{}
	for done := 0; done < len(messages); {
		next := done
		err := e.update(ctx, func(t *merge.Tables, s *state) error {
			t.Reindex = s.reindex
			next = done
			for more := false; next < len(messages) && next-done < atOnce && !more; {
				if next > done && t.Room() < roomForOne {
					break
				}
				var err error
				if refused[next] == nil {
					more, err = e.applyOne(t, s, messages[next])
				}
				if err != nil {
					return err
				}
				if !more {
					next++
				}
			}
			return nil
		})
		switch {
		case err == nil:
			done = next
		case isRefusal(err) && refused[next] == nil:
			refused[next] = err // the transaction is run again without the record
			e.mu.Lock()
			e.skipped = err
			e.mu.Unlock()
		default:
			return err
		}
	}
	return nil
}

// isRefusal reports whether an error says something about one record, and nothing about the others.
func isRefusal(err error) bool {
	return errors.Is(err, merge.ErrInvalid) || errors.Is(err, merge.ErrReserved) ||
		errors.Is(err, record.ErrDamaged) || errors.Is(err, record.ErrNewer)
}

// applyOne applies a message in a transaction. If more is set, it has done a part.
func (e *Edge) applyOne(t *merge.Tables, s *state, m Message) (more bool, err error) {
	switch m := m.(type) {
	case Record:
		s.cursor.Ahead = true
		more, err = e.merge(t, m)
	case Forget:
		err = e.forget(t, m.Table, m.Key)
	case Replace:
		more, err = e.replace(t, m)
	case Mark:
		s.moveTo(m.At)
	case NewPolicy:
		s.policy = m.Policy
	}
	return more, err
}

// merge merges a record of the hub. If more is set, it has done a part.
func (e *Edge) merge(t *merge.Tables, m Record) (more bool, err error) {
	more, err = t.Record(m.Copy)
	if err == nil && !more && len(m.MAC) > 0 {
		err = keepSigned(t, m)
	}
	if err == nil && !more {
		err = noteDeleted(t, m.Copy)
	}
	return more, err
}

// noteDeleted makes the hub hear of a deletion again, because the hub has sent the record alive:
// the hub was perhaps restored from a backup, and another edge has brought the record. The deletion
// of an owner speaks for the keys.
func noteDeleted(t *merge.Tables, c record.Copy) error {
	dead := deadTable(c.Table)
	if dead == "" {
		return nil
	}
	sealed, err := t.Get(dead, c.Key)
	if err != nil || sealed == nil {
		return err
	}
	if c.Table == record.TableKeys {
		d, err := record.Unseal(dead, c.Key, sealed, record.DecodeKeyTombstone)
		if err != nil {
			return err
		}
		if owner, err := t.Get(record.TableDeadUsers, d.Owner[:]); err != nil || owner != nil {
			return err
		}
	}
	return note(t, dead, c.Key, whatAlive)
}

// forget takes a record out of the store, and its signed copy. What the hub does not know of the
// record becomes a claim.
//
// A signed copy that the hub has yet to get stays until then. The hub was perhaps restored, and
// knows neither that the record has come into a group of the edge nor what was revoked after that.
func (e *Edge) forget(t *merge.Tables, table string, key []byte) error {
	gone := []Item{{Table: table, Key: key}}
	if table == record.TableUsers {
		for entry, err := range t.Scan(record.TableNames, key, append(bytes.Clone(key), 0xff)) {
			if err != nil {
				return err
			}
			if _, id, err := record.SplitNameKey(entry.Key); err == nil {
				gone = append(gone, Item{Table: record.TableKeys, Key: id[:]})
			}
		}
	}
	for _, i := range gone {
		if err := e.keepPending(t, i.Table, i.Key); err != nil {
			return err
		}
		if e.now().bring {
			continue
		}
		if err := t.Delete(record.TableReplica, signedKey(i.Table, i.Key)); err != nil {
			return err
		}
	}
	err := t.Forget(table, key)
	if errors.Is(err, merge.ErrReserved) {
		return nil
	}
	return err
}

// replace takes the hub's version of a record. If the record has changed here since the hub heard
// of it, the hub hears of that first, and the hub's version is merged until then. The hub perhaps
// knows of a revocation that the edge has heard of in no other message.
//
// A signed copy that the hub has yet to get stays until then, as in [Edge.forget], and what it
// revokes holds on.
func (e *Edge) replace(t *merge.Tables, m Replace) (more bool, err error) {
	m.Copy.Domain = e.store.DomainID()
	at := pendingKey(m.Copy.Table, m.Copy.Key)
	pending, err := getLocal(t, at)
	if err != nil {
		return false, err
	}
	if p, err := decodePending(pending); err == nil && p.what == whatAlive {
		if err := t.Delete(record.TableReplica, at); err != nil {
			return false, err
		}
		pending = nil // nothing was done here since
	}
	if pending != nil && len(m.Copy.Sealed) == 0 {
		return false, nil
	}
	if pending != nil {
		return e.merge(t, Record(m))
	}
	if err := t.Replace(m.Copy); err != nil {
		return false, err
	}
	if m.Copy.Table == record.TableUsers && len(m.Copy.Sealed) == 0 {
		if err := e.forgetDeadKeys(t, uuid.UUID(m.Copy.Key)); err != nil {
			return false, err
		}
	}
	if e.now().bring {
		signed, err := getSigned(t, m.Copy.Table, m.Copy.Key)
		if err != nil && !isRefusal(err) && !errors.Is(err, ErrMessage) {
			return false, err
		}
		if err == nil && signed != nil {
			switch {
			case len(m.Copy.Sealed) == 0:
				return false, nil
			case !covers(m.Copy, signed.Copy):
				return t.Record(signed.Copy)
			}
		}
	}
	if len(m.MAC) > 0 {
		return false, putSignedRecord(t, Record(m))
	}
	return false, t.Delete(record.TableReplica, signedKey(m.Copy.Table, m.Copy.Key))
}

// forgetDeadKeys takes out the tombstones of the keys of a user whose deletion was refused. The hub
// does not name the keys, because the edge does not get the user any more.
func (e *Edge) forgetDeadKeys(t *merge.Tables, user uuid.UUID) error {
	var all [][]byte
	for entry, err := range t.Scan(record.TableDeadKeys, nil, nil) {
		if err != nil {
			return err
		}
		d, err := record.Unseal(record.TableDeadKeys, entry.Key, entry.Value, record.DecodeKeyTombstone)
		if err == nil && d.Owner == user {
			all = append(all, bytes.Clone(entry.Key))
		}
	}
	for _, key := range all {
		pending, err := getLocal(t, pendingKey(record.TableDeadKeys, key))
		if err != nil {
			return err
		}
		if pending != nil {
			continue
		}
		if err := t.Forget(record.TableDeadKeys, key); err != nil {
			return err
		}
		if e.now().bring {
			continue
		}
		if err := t.Delete(record.TableReplica, signedKey(record.TableDeadKeys, key)); err != nil {
			return err
		}
	}
	return nil
}

// liveTable returns the table of the record that a tombstone is of, or table.
func liveTable(table string) string {
	switch table {
	case record.TableDeadUsers:
		return record.TableUsers
	case record.TableDeadKeys:
		return record.TableKeys
	}
	return table
}

// signedKey returns the place of the signed copy of a record, and of its tombstone.
func signedKey(table string, key []byte) []byte {
	return append([]byte(edgeSigned), locate(liveTable(table), key)...)
}

func putSignedRecord(t *merge.Tables, r Record) error {
	return putLocal(t, signedKey(r.Copy.Table, r.Copy.Key), encodeSigned(r))
}

// getSigned returns the signed copy of a record or of its tombstone, or nil.
func getSigned(t *merge.Tables, table string, key []byte) (*Record, error) {
	message, err := getLocal(t, signedKey(table, key))
	if err != nil || message == nil {
		return nil, err
	}
	r, err := decodeSigned(message)
	return &r, err
}

// keepSigned keeps a copy that bears the hub's MAC. A former copy of the record stays if it has a
// revocation that the later one lacks, because the hub was restored from a backup meanwhile. The
// hub gets it then, and answers with a copy that has both.
func keepSigned(t *merge.Tables, r Record) error {
	had, err := getSigned(t, r.Copy.Table, r.Copy.Key)
	if err != nil && !isRefusal(err) && !errors.Is(err, ErrMessage) {
		return err
	}
	if err == nil && had != nil {
		if bytes.Equal(had.Copy.Sealed, r.Copy.Sealed) && had.Copy.Table == r.Copy.Table && bytes.Equal(had.MAC, r.MAC) {
			return nil
		}
		if !covers(r.Copy, had.Copy) {
			return nil
		}
	}
	return putSignedRecord(t, r)
}

// covers reports whether a version of a record has every revocation and every group of an earlier
// one. The record of a tombstone covers all.
func covers(later, earlier record.Copy) bool {
	if later.Table != earlier.Table {
		return later.Table != liveTable(later.Table)
	}
	type part struct {
		flag   record.Flag
		groups record.Groups
	}
	var merged, is part
	switch later.Table {
	case record.TableUsers:
		a, b, ok := both(later, earlier, record.DecodeUser)
		if !ok {
			return true
		}
		m := a.Merge(b)
		merged, is = part{m.Flag, m.Groups}, part{a.Flag, a.Groups}
	case record.TableKeys:
		a, b, ok := both(later, earlier, record.DecodeKey)
		if !ok {
			return true
		}
		m, err := a.Merge(b)
		if err != nil {
			return true
		}
		merged, is = part{m.Flag, m.Groups}, part{a.Flag, a.Groups}
	case record.TableGroups:
		a, err := record.UnsealGroup(string(later.Key), later.Sealed)
		b, err2 := record.UnsealGroup(string(earlier.Key), earlier.Sealed)
		if err != nil || err2 != nil {
			return true
		}
		merged, is = part{flag: a.Merge(*b).Flag}, part{flag: a.Flag}
	}
	return reflect.DeepEqual(merged, is)
}

// both decodes two versions of a record, and reports whether they can be read.
func both[T any](a, b record.Copy, decode func(uuid.UUID, []byte) (T, error)) (first, second T, ok bool) {
	x, err := record.Unseal(a.Table, a.Key, a.Sealed, decode)
	if err != nil {
		return first, second, false
	}
	y, err := record.Unseal(b.Table, b.Key, b.Sealed, decode)
	if err != nil {
		return first, second, false
	}
	return *x, *y, true
}
