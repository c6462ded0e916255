package latchkey

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
)

// Check reads everything in the store, and yields everything that is wrong: damaged pages of the
// file, records that do not match their checksum, indexes that disagree with records, and broken
// rules. Each finding is an error that wraps [ErrCorrupt], or [ErrNewerFormat] for a record of a
// later version. If there is no finding, the store is sound. If a page cannot be read, Check goes
// on after it, and compares nothing with the page. Logins and writes go on meanwhile.
//
// If Check cannot go on to the end, the last element wraps [ErrClosed], [ErrInTransaction], ctx's
// error, or [ErrInterrupted] if the file has outgrown its map (see [Store.View]). Then call Check
// again.
func (s *Store) Check(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		if err := s.canWait(); err != nil {
			yield(wrapf(err, "check"))
			return
		}
		for err := range s.engineFindings(ctx) {
			if !yield(err) || !errors.Is(err, ErrCorrupt) {
				return
			}
		}
		// Not by View, because the body of the caller's loop may call the store.
		err := s.viewLong(ctx, func(tx *Tx) error {
			c := newChecker(ctx, tx, yield)
			return c.run()
		})
		if err != nil && err != errStopped {
			yield(wrapf(err, "check"))
		}
	}
}

// engineFindings yields the findings of the engine about itself, if the engine can check itself.
func (s *Store) engineFindings(ctx context.Context) iter.Seq[error] {
	if e, ok := s.engine.(EngineChecker); ok {
		return e.CheckEngine(ctx)
	}
	return func(func(error) bool) {}
}

// Repair makes again, in one transaction, everything that [Store.Check] finds wrong and that can be
// derived from the records: indexes, counts and the change index. It returns the number of repaired
// findings. A user or key whose record is older than its last change is disabled, because that
// change may have disabled or deleted it. A damaged record, and anything else that cannot be
// derived, stays as it is. [Store.Check] still yields it, and [Salvage] takes the whole records to
// a new file.
//
// Writers wait until Repair has ended. Before the transaction, Repair reads the pages of the file
// and can end with [ErrInterrupted], as [Store.Check] does.
//
// Repair returns [ErrCorrupt] and changes nothing if pages of the engine are damaged, because then
// it cannot find all records. Otherwise it returns an error of [Store.Update].
func (s *Store) Repair(ctx context.Context) (repaired int, err error) {
	for err := range s.engineFindings(ctx) {
		return 0, wrapf(err, "repair")
	}
	repaired, err = write(ctx, s, func(tx *Tx) (int, error) {
		c := newChecker(ctx, tx, func(error) bool { return true })
		c.repair = true
		if err := c.repairState(); err != nil {
			return 0, err
		}
		err := c.run()
		return c.repaired, err
	})
	s.cache.clear()
	return repaired, wrapf(err, "repair")
}

// errStopped means that the caller of Check has left the loop.
var errStopped = fmt.Errorf("stopped")

// checker is one run of Check or Repair. It lasts for one call, so it keeps the call's context.
type checker struct {
	ctx   context.Context
	yield func(error) bool
	tx    *Tx
	users uint64
	keys  uint64
	// previousName is the last entry of the index of names that was inspected, without its key ID.
	previousName []byte
	// later has the records that have a later change in the change index, and the sequence of that
	// change.
	later map[uuid.UUID]uint64
	// unreadable has the tables of which some entry could not be read.
	unreadable map[string]bool
	err        error

	// repair says that everything that can be derived is to be repaired.
	repair   bool
	repaired int
}

func newChecker(ctx context.Context, tx *Tx, yield func(error) bool) *checker {
	return &checker{ctx: ctx, tx: tx, yield: yield, later: map[uuid.UUID]uint64{}, unreadable: map[string]bool{}}
}

// report yields a finding.
func (c *checker) report(format string, args ...any) {
	c.reportError(fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...))
}

// reportDerived yields a finding about something that can be derived from records, and repairs it
// with fix if the checker repairs.
func (c *checker) reportDerived(fix func() error, format string, args ...any) {
	c.report(format, args...)
	if c.repair && c.err == nil {
		c.err = fix()
		c.repaired++
	}
}

func (c *checker) reportError(err error) {
	if c.err == nil && c.interrupted() {
		c.err = ErrInterrupted
	}
	if c.err == nil && !c.yield(err) {
		c.err = errStopped
	}
}

// interrupted reports whether the transaction was interrupted. Then a finding may come of that,
// because what could not be read looks like something that is not there.
func (c *checker) interrupted() bool {
	_, err := c.tx.etx.Get(tableMeta, nil)
	return errors.Is(err, ErrInterrupted)
}

func (c *checker) run() error {
	c.inspectDomain()
	c.each(tableChanges, c.inspectChange)
	c.each(tableUsers, c.inspectUser)
	c.each(tableIdentities, c.inspectIdentity)
	c.each(tableKeys, c.inspectKey)
	c.each(tableNames, c.inspectName)
	c.each(tableData, c.inspectData)
	if c.err != nil {
		return c.err
	}
	st, err := c.tx.readState()
	if err != nil {
		c.reportError(err)
		return c.err
	}
	if c.unreadable[tableUsers] {
		c.users = st.users
	}
	if c.unreadable[tableKeys] {
		c.keys = st.keys
	}
	if st.users != c.users || st.keys != c.keys {
		fix := func() error {
			st.users, st.keys, c.tx.dirty = c.users, c.keys, true
			return nil
		}
		c.reportDerived(fix, "the store counts %d users and %d keys, but has %d and %d", st.users, st.keys, c.users, c.keys)
	}
	return c.err
}

func (c *checker) inspectDomain() {
	d, err := readDomain(metaRecords(c.tx.etx))
	switch now := c.tx.store.domain; {
	case err != nil:
		c.reportError(err)
	case d == nil:
		c.reportError(errNoFormat)
	case d.id != now.id || d.replica != now.replica || !bytes.Equal(d.encode(), now.encode()):
		c.report("the domain is not the one that the store was opened with")
	}
}

// repairState makes the state again if it is lost, and makes sure that no sequence will be given
// twice.
func (c *checker) repairState() error {
	last := uint64(0)
	for e, err := range c.tx.etx.Scan(tableChanges, nil, nil) {
		if err == nil {
			err = c.ctx.Err()
		}
		if err != nil {
			return err
		}
		if len(e.Key) == 8 {
			last = binary.BigEndian.Uint64(e.Key)
		}
	}
	st, err := c.tx.readState()
	if errors.Is(err, ErrCorrupt) {
		st, err = &storeState{}, nil
		c.tx.state = st
	}
	if err == nil && st.sequence < last {
		st.sequence, c.tx.dirty = last, true
		c.repaired++
	}
	return err
}

// each calls inspect with every entry of a table that can be read, until an error ends the run.
func (c *checker) each(table string, inspect func(Entry)) {
	for from, more := []byte(nil), true; more; {
		more = false
		for e, err := range c.tx.etx.Scan(table, from, nil) {
			if c.err == nil {
				c.err = c.ctx.Err()
			}
			if c.err != nil {
				return
			}
			if err != nil {
				c.unreadable[table] = true
				c.failed(fmt.Errorf("table %s: %w", table, err))
				from = c.behind(table, from)
				more = from != nil
				break
			}
			from = e.Key
			inspect(e)
		}
	}
}

// failed yields err as a finding if it means damage. Any other error ends the run.
func (c *checker) failed(err error) {
	switch {
	case errors.Is(err, ErrCorrupt):
		c.reportError(err)
	case c.err == nil:
		c.err = err
	}
}

// behind returns the first key from which a table can be read again, when the entry that follows
// from cannot be read. It returns nil if there is no such key, or if the engine cannot tell.
func (c *checker) behind(table string, from []byte) (next []byte) {
	if tx, ok := c.tx.etx.(DamageSkipper); ok {
		return tx.NextReadable(table, from)
	}
	return nil
}

// id decodes a key or value of 16 bytes, and reports whether it is an ID. It yields a finding if
// not.
func (c *checker) id(table string, b []byte) (id uuid.UUID, ok bool) {
	id, err := decodeUUID(b)
	if err != nil {
		c.reportError(fmt.Errorf("table %s: %w", table, err))
		return id, false
	}
	return id, true
}

func (c *checker) inspectUser(e Entry) {
	id, ok := c.id(tableUsers, e.Key)
	if !ok {
		return
	}
	u, err := decodeUser(id, e.Value)
	if err != nil {
		c.unreadable[tableUsers] = true
		c.reportError(err)
		return
	}
	c.inspectSequence(userKind, id, u.sequence, func() error {
		later, found := c.later[id]
		if found && !u.deleted {
			u.set(true)
		}
		u.sequence = later
		if _, err := c.tx.nextChange(userKind, id, &u.sequence); err != nil {
			return err
		}
		return c.tx.putUser(&u)
	})
	if u.deleted {
		return
	}
	c.users++
	if len(u.identities) == 0 {
		c.report("user %s has no identity", id)
	}
	for _, i := range u.identities {
		switch owner, ok := c.get(tableIdentities, i.indexKey()); {
		case !ok, bytes.Equal(owner, id[:]):
		case c.hasIdentity(owner, i.indexKey()):
			c.report("identity (%s, %q) of user %s is also user %x's", i.Provider, i.Subject, id, owner)
		default:
			fix := func() error { return c.tx.put(tableIdentities, i.indexKey(), id[:]) }
			c.reportDerived(fix, "identity (%s, %q) of user %s is not in the index", i.Provider, i.Subject, id)
		}
	}
}

// hasIdentity reports whether a user exists and has the identity with this key in the index.
func (c *checker) hasIdentity(userID, identity []byte) bool {
	id, err := decodeUUID(userID)
	if err != nil {
		return false
	}
	u, err := c.tx.getUser(id)
	return err == nil && u != nil &&
		slices.ContainsFunc(u.identities, func(i identityRecord) bool { return bytes.Equal(i.indexKey(), identity) })
}

func (c *checker) inspectIdentity(e Entry) {
	id, err := decodeUUID(e.Value)
	if err == nil {
		if _, err := c.tx.getUser(id); err != nil {
			return // there is a finding about the user's record
		}
	}
	if !c.hasIdentity(e.Value, e.Key) {
		fix := func() error { return c.tx.delete(tableIdentities, e.Key) }
		c.reportDerived(fix, "the index of identities has %q for user %s, who has no such identity", e.Key, id)
	}
}

func (c *checker) inspectKey(e Entry) {
	id, ok := c.id(tableKeys, e.Key)
	if !ok {
		return
	}
	k, err := decodeKey(id, e.Value)
	if err != nil {
		c.unreadable[tableKeys] = true
		c.reportError(err)
		return
	}
	c.inspectSequence(keyKind, id, k.sequence, func() error {
		later, found := c.later[id]
		if found && !k.deleted {
			k.set(true)
		}
		k.sequence = later
		if _, err := c.tx.nextChange(keyKind, id, &k.sequence); err != nil {
			return err
		}
		return c.tx.putKey(&k)
	})
	if k.deleted {
		return
	}
	c.keys++
	if _, err := parseVerifier(k.verifier); err != nil {
		c.reportError(wrapRecord(err, "key", id))
	}
	if problem := names.Problem(names.Stored, k.name); problem != "" {
		c.report("key %s: its name %s %s", id, names.Quote(k.name), problem)
	}
	name := nameIndexKey(k.owner, k.name, id)
	if entry, ok := c.get(tableNames, name); ok && entry == nil {
		c.reportDerived(func() error { return c.tx.put(tableNames, name, nil) }, "key %s is not in the index of names", id)
	}
	if k.owner == ServerOwner {
		return
	}
	u, err := c.tx.getUser(k.owner)
	switch {
	case err != nil: // there is a finding about the user's record
	case u == nil || u.deleted:
		c.report("key %s belongs to user %s, who does not exist", id, k.owner)
	case u.anonymous():
		c.report("key %s belongs to user %s, who is anonymous", id, k.owner)
	}
}

func (c *checker) inspectName(e Entry) {
	fix := func() error { return c.tx.delete(tableNames, e.Key) }
	name, id, err := splitNameIndexKey(e.Key)
	if err != nil {
		c.reportDerived(fix, "the index of names has the entry %x", e.Key)
		return
	}
	ownerAndName := e.Key[:len(e.Key)-len(id)]
	if bytes.Equal(ownerAndName, c.previousName) {
		c.report("key %s has the name %q, like another key of its owner", id, name)
	}
	c.previousName = bytes.Clone(ownerAndName)
	k, err := c.tx.getKey(id)
	if err != nil {
		return // there is a finding about the key's record
	}
	if k == nil || k.deleted || k.name != name || !bytes.Equal(k.owner[:], e.Key[:16]) {
		c.reportDerived(fix, "the index of names has %q for key %s, which has another name or owner, or is gone", name, id)
	}
}

func (c *checker) inspectData(e Entry) {
	if _, err := openRecord(tableData, e.Key, e.Value); err != nil {
		c.reportError(err)
	}
}

func (c *checker) inspectChange(e Entry) {
	fix := func() error { return c.tx.delete(tableChanges, e.Key) }
	if len(e.Key) != 8 || len(e.Value) != 17 {
		c.reportDerived(fix, "bad entry %x in the change index", e.Key)
		return
	}
	sequence := binary.BigEndian.Uint64(e.Key)
	id := uuid.UUID(e.Value[1:])
	recorded, found, err := c.sequenceOf(recordKind(e.Value[0]), id)
	switch {
	case err != nil: // there will be a finding about the record
	case !found:
		c.reportDerived(fix, "the change index has %s at sequence %d, but there is no such record", id, sequence)
	case recorded < sequence:
		if earlier, ok := c.later[id]; ok {
			fix := func() error { return c.tx.delete(tableChanges, sequenceKey(earlier)) }
			c.reportDerived(fix, "the change index has %s at the sequences %d and %d", id, earlier, sequence)
		}
		c.later[id] = sequence
	case recorded > sequence:
		c.reportDerived(fix, "the change index has %s at sequence %d, but its record has %d", id, sequence, recorded)
	}
}

// sequenceOf returns the sequence in a record, and reports whether there is such a record.
func (c *checker) sequenceOf(kind recordKind, id uuid.UUID) (sequence uint64, found bool, err error) {
	switch kind {
	case userKind:
		u, err := c.tx.getUser(id)
		if err != nil || u == nil {
			return 0, false, err
		}
		return u.sequence, true, nil
	case keyKind:
		k, err := c.tx.getKey(id)
		if err != nil || k == nil {
			return 0, false, err
		}
		return k.sequence, true, nil
	}
	return 0, false, nil
}

// inspectSequence inspects the sequence of a record: the change index must have it, and the store
// must not be behind it. fix gives the record a new sequence. If the change index has a later
// change of the record, fix also disables the record, because the later change may have revoked it.
func (c *checker) inspectSequence(kind recordKind, id uuid.UUID, sequence uint64, fix func() error) {
	later, stale := c.later[id]
	switch v, ok := c.get(tableChanges, sequenceKey(sequence)); {
	case !ok:
	case stale:
		fix := func() error {
			if bytes.Equal(v, changeEntry(kind, id)) {
				if err := c.tx.delete(tableChanges, sequenceKey(sequence)); err != nil {
					return err
				}
			}
			return fix()
		}
		c.reportDerived(fix, "the record of %s has sequence %d, but the change index has a later change, %d", id, sequence, later)
	case !bytes.Equal(v, changeEntry(kind, id)):
		c.reportDerived(fix, "the last change of %s, with sequence %d, is not in the change index", id, sequence)
	}
	if st, err := c.tx.readState(); err == nil && sequence > st.sequence {
		fix := func() error {
			st.sequence, c.tx.dirty = sequence, true
			return nil
		}
		c.reportDerived(fix, "%s was changed at sequence %d, but the store is at %d", id, sequence, st.sequence)
	}
}

// get returns the value of an entry, and reports whether the entry could be read. It yields no
// finding if the entry could not be read, because each yields one for all entries in that place.
func (c *checker) get(table string, key []byte) (value []byte, ok bool) {
	value, err := c.tx.etx.Get(table, key)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		c.failed(err)
	}
	return value, err == nil
}
