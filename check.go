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
)

// Check reads everything in the store and yields what is wrong with it: pages of the file, records that do not match
// their checksum, indexes that disagree with records, rules that are broken. Each finding is an error that wraps
// [ErrCorrupt], or [ErrNewerFormat] for a record of a later version; without any, the store is sound. Behind a page that cannot
// be read it goes on; what it would have to compare with that page it does not judge. If reading itself ends early, the last
// element says why: [ErrClosed] or ctx's error. It runs in one read transaction, so a bbolt file cannot grow meanwhile;
// logins go on.
func (s *Store) Check(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		for err := range s.engineFindings(ctx) {
			if !yield(err) || !errors.Is(err, ErrCorrupt) {
				return
			}
		}
		err := s.View(ctx, func(tx *Tx) error {
			c := newChecker(ctx, tx, yield)
			return c.run()
		})
		if err != nil && err != errStopped {
			yield(wrapf(err, "check"))
		}
	}
}

// engineFindings yields what the engine finds wrong with itself, if it can tell.
func (s *Store) engineFindings(ctx context.Context) iter.Seq[error] {
	if e, ok := s.engine.(EngineChecker); ok {
		return e.CheckEngine(ctx)
	}
	return func(func(error) bool) {}
}

// Repair makes again, in one transaction, what [Store.Check] finds wrong and can be derived from the records: indexes,
// counts and the change index. It returns how many findings it has repaired. A user or key whose record is older than its
// last change is disabled, since the change may have been to disable or delete it. What cannot be derived, such as a
// damaged record, stays as it is: [Store.Check] shows it, and [Salvage] takes what is whole to a new file.
//
// It returns [ErrCorrupt] and changes nothing if the engine's own pages are damaged, so that records cannot be found where
// they are; or an error of [Store.Update].
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

// errStopped says that whoever ranges over the findings has had enough.
var errStopped = fmt.Errorf("stopped")

// checker is one run of Check. It lasts as long as one call, so it keeps the call's context.
type checker struct {
	ctx          context.Context
	yield        func(error) bool
	tx           *Tx
	users        uint64
	keys         uint64
	previousName []byte // the last entry of the index of names, without its key ID
	// later has the records of which the change index knows a later change than they have, and its sequence.
	later map[uuid.UUID]uint64
	// unreadable has the tables of which something could not be read.
	unreadable map[string]bool
	err        error

	repair   bool // what can be derived
	repaired int
}

func newChecker(ctx context.Context, tx *Tx, yield func(error) bool) *checker {
	return &checker{ctx: ctx, tx: tx, yield: yield, later: map[uuid.UUID]uint64{}, unreadable: map[string]bool{}}
}

// report yields a finding.
func (c *checker) report(format string, args ...any) {
	c.reportError(fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...))
}

// reportDerived yields a finding about what can be derived from records, and repairs it if that was asked for.
func (c *checker) reportDerived(fix func() error, format string, args ...any) {
	c.report(format, args...)
	if c.repair && c.err == nil {
		c.err = fix()
		c.repaired++
	}
}

func (c *checker) reportError(err error) {
	if c.err == nil && !c.yield(err) {
		c.err = errStopped
	}
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
		c.reportDerived(fix, "the store counts %d users and %d keys, and has %d and %d", st.users, st.keys, c.users, c.keys)
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
		c.report("the domain is another than when the store was opened")
	}
}

// repairState makes the state anew if it is lost, and sees to it that no sequence is given twice.
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

// each calls check with every entry of a table that can be read, until there is an error that is no finding.
func (c *checker) each(table string, check func(Entry)) {
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
			check(e)
		}
	}
}

// failed yields as a finding that something cannot be read because it is damaged; after any other error there is no going
// on.
func (c *checker) failed(err error) {
	switch {
	case errors.Is(err, ErrCorrupt):
		c.reportError(err)
	case c.err == nil:
		c.err = err
	}
}

// behind returns the first key from which a table can be read again, when what comes next after from cannot; or nil if
// there is none, or the engine cannot tell.
func (c *checker) behind(table string, from []byte) (next []byte) {
	if tx, ok := c.tx.etx.(DamageSkipper); ok {
		return tx.NextReadable(table, from)
	}
	return nil
}

// id reads a 16-byte key or value, or reports it.
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

// hasIdentity reports whether a user exists and has the identity with a key.
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
			return // the user's record was reported
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
	if !validText(k.name) {
		c.report("key %s has the name %q", id, k.name)
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
	case err != nil: // the user's record was reported
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
		return // the key's record was reported
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
	case err != nil: // the record is reported
	case !found:
		c.reportDerived(fix, "the change index has %s at sequence %d, and there is no such record", id, sequence)
	case recorded < sequence:
		if earlier, ok := c.later[id]; ok {
			fix := func() error { return c.tx.delete(tableChanges, sequenceKey(earlier)) }
			c.reportDerived(fix, "the change index has %s at the sequences %d and %d", id, earlier, sequence)
		}
		c.later[id] = sequence
	case recorded > sequence:
		c.reportDerived(fix, "the change index has %s at sequence %d, and its record has %d", id, sequence, recorded)
	}
}

// sequenceOf returns the sequence of a record's last change, if there is such a record.
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

// inspectSequence checks that a record's last change is in the change index, and not ahead of the store. fix gives the
// record another; if the index knows a later change, what was revoked by it must not return, so it disables the record.
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
		c.reportDerived(fix, "the record of %s has sequence %d, and the change index a later change, %d", id, sequence, later)
	case !bytes.Equal(v, changeEntry(kind, id)):
		c.reportDerived(fix, "the last change of %s, with sequence %d, is not in the change index", id, sequence)
	}
	if st, err := c.tx.readState(); err == nil && sequence > st.sequence {
		fix := func() error {
			st.sequence, c.tx.dirty = sequence, true
			return nil
		}
		c.reportDerived(fix, "%s was changed with sequence %d, and the store is at %d", id, sequence, st.sequence)
	}
}

// get is the transaction's Get. It is not ok if the entry cannot be read. It does not report that: the method each does,
// once for all entries in the same place.
func (c *checker) get(table string, key []byte) (value []byte, ok bool) {
	value, err := c.tx.etx.Get(table, key)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		c.failed(err)
	}
	return value, err == nil
}
