package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
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
// derived from the records: indexes, and the engine's numbering of its commits. It returns the
// number of repaired findings. A user, key or group with a record that is older than its last
// change is disabled, because that change may have disabled or deleted it. A damaged record, and
// anything else that cannot be derived, stays as it is. [Store.Check] still yields it, and
// [Salvage] takes the whole records to a new file.
//
// Writers wait until Repair has ended. Before the transaction, Repair reads the pages of the file
// and can end with [ErrInterrupted], as [Store.Check] does.
//
// Repair returns [ErrCorrupt] and changes nothing if pages of the engine are damaged, because then
// it cannot find all records. Otherwise it returns an error of [Store.Update].
func (s *Store) Repair(ctx context.Context) (repaired int, err error) {
	for err := range s.engineFindings(ctx) {
		if !errors.Is(err, ErrNumbering) {
			return 0, wrapf(err, "repair")
		}
	}
	repaired, err = write(ctx, s, func(tx *Tx) (int, error) {
		c := newChecker(ctx, tx, func(error) bool { return true })
		c.repair = true
		err := c.repairEngine()
		if err == nil {
			err = c.run()
		}
		return c.repaired, err
	})
	s.cache.Clear()
	return repaired, wrapf(err, "repair")
}

// repairEngine repairs the numbering of the engine, and disables what is of an earlier state.
func (c *checker) repairEngine() error {
	e, ok := c.tx.etx.(EngineRepairer)
	if !ok {
		return nil
	}
	repaired, stale, err := e.RepairEngine(c.ctx)
	c.repaired = repaired
	for _, entry := range stale {
		if err == nil {
			err = c.disable(entry.Table, entry.Key)
		}
	}
	return err
}

// disable disables the user, key or group of an entry. If the entry cannot be read, run yields a
// finding.
func (c *checker) disable(table string, key []byte) error {
	id, _ := uuid.FromBytes(key)
	switch table {
	case tableUsers:
		u, err := c.tx.getUser(id)
		if u != nil && c.tx.setDisabled(&u.Flag, true) {
			return c.tx.putUser(u)
		}
		return unlessCorrupt(err)
	case tableKeys:
		k, err := c.tx.getKey(id)
		if k != nil && c.tx.setDisabled(&k.Flag, true) {
			return c.tx.putKey(k)
		}
		return unlessCorrupt(err)
	case tableGroups:
		g, err := c.tx.getGroup(string(key))
		if g != nil && c.tx.setDisabled(&g.Flag, true) {
			return c.tx.putRecord(tableGroups, key, g.Encode())
		}
		return unlessCorrupt(err)
	}
	return nil
}

// unlessCorrupt returns nil for ErrCorrupt.
func unlessCorrupt(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}

// errStopped means that the caller of Check has left the loop.
var errStopped = fmt.Errorf("stopped")

// checker is one run of Check or Repair. It lasts for one call, so it keeps the call's context.
type checker struct {
	ctx   context.Context
	yield func(error) bool
	tx    *Tx
	// previousName is the last entry of the index of names that was inspected, without its key ID.
	previousName []byte
	err          error

	// repair says that everything that can be derived is to be repaired.
	repair   bool
	repaired int
}

func newChecker(ctx context.Context, tx *Tx, yield func(error) bool) *checker {
	return &checker{ctx: ctx, tx: tx, yield: yield}
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
	c.each(tableDeadUsers, c.inspectDeadUser)
	c.each(tableUsers, c.inspectUser)
	c.each(tableIdentities, c.inspectIdentity)
	c.each(tableDeadKeys, c.inspectDeadKey)
	c.each(tableKeys, c.inspectKey)
	c.each(tableNames, c.inspectName)
	c.each(tableGroups, c.inspectGroup)
	c.each(tableMembers, c.inspectMember)
	c.each(tableHashes, c.inspectHash)
	c.each(tableLastUse, c.inspectLastUse)
	c.each(tableData, c.inspectData)
	return c.err
}

func (c *checker) inspectDomain() {
	d, err := readDomain(metaRecords(c.tx.etx))
	switch now := c.tx.store.domain; {
	case err != nil:
		c.reportError(err)
	case d == nil:
		c.reportError(errNoFormat)
	case !maps.EqualFunc(d.records(), now.records(), bytes.Equal):
		c.report("the domain is not the one that the store was opened with")
	}
	if _, err := loadClock(c.tx.etx); err != nil {
		c.reportError(err)
	}
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
	id, err := record.DecodeID(b)
	if err != nil {
		c.reportError(fmt.Errorf("table %s: %w", table, recordError(err)))
		return id, false
	}
	return id, true
}

// inspectDeadUser inspects the tombstone of a user. Deletion wins over a record.
func (c *checker) inspectDeadUser(e Entry) {
	id, ok := c.id(tableDeadUsers, e.Key)
	if !ok {
		return
	}
	if _, err := record.Unseal(tableDeadUsers, id[:], e.Value, record.DecodeUserTombstone); err != nil {
		c.reportError(recordError(err))
		return
	}
	if value, ok := c.get(tableUsers, id[:]); ok && value != nil {
		c.reportDerived(func() error { return c.tx.delete(tableUsers, id[:]) }, "user %s has a record and a tombstone", id)
	}
}

func (c *checker) inspectUser(e Entry) {
	id, ok := c.id(tableUsers, e.Key)
	if !ok {
		return
	}
	u, err := record.Unseal(tableUsers, id[:], e.Value, record.DecodeUser)
	if err != nil {
		c.reportError(recordError(err))
		return
	}
	linked := u.Linked()
	if len(linked) == 0 && c.alone() {
		c.report("user %s has no identity", id)
	}
	for _, i := range linked {
		i := identityOf(i)
		switch owner, ok := c.get(tableIdentities, i.indexKey()); {
		case !ok, bytes.Equal(owner, id[:]):
		case c.hasIdentity(owner, i.indexKey()):
			if c.alone() {
				c.report("identity (%s, %q) of user %s is also user %x's", i.Provider, i.Subject, id, owner)
			}
		default:
			fix := func() error { return c.tx.put(tableIdentities, i.indexKey(), id[:]) }
			c.reportDerived(fix, "identity (%s, %q) of user %s is not in the index", i.Provider, i.Subject, id)
		}
	}
	c.inspectMembership(u.Groups.Now(), id)
}

// alone reports whether the store never had a replica. Merging replicas can make records that no
// call makes.
func (c *checker) alone() bool { return !c.tx.store.domain.replica.Shared }

// inspectMembership inspects whether a user or a key is in the index of members, if it has a group.
func (c *checker) inspectMembership(group string, id uuid.UUID) {
	if group == "" {
		return
	}
	member := record.MemberKey(group, id)
	if entry, ok := c.get(tableMembers, member); ok && entry == nil {
		c.reportDerived(func() error { return c.tx.put(tableMembers, member, nil) }, "%s is not in the index of members", id)
	}
}

// hasIdentity reports whether a user exists and has the identity with this key in the index.
func (c *checker) hasIdentity(userID, identity []byte) bool {
	id, err := record.DecodeID(userID)
	if err != nil {
		return false
	}
	u, err := c.tx.getUser(id)
	return err == nil && u != nil &&
		slices.ContainsFunc(u.Linked(), func(i record.Identity) bool { return bytes.Equal(identityOf(i).indexKey(), identity) })
}

func (c *checker) inspectIdentity(e Entry) {
	id, err := record.DecodeID(e.Value)
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

// inspectDeadKey inspects the tombstone of a key. Deletion wins over a record.
func (c *checker) inspectDeadKey(e Entry) {
	id, ok := c.id(tableDeadKeys, e.Key)
	if !ok {
		return
	}
	if _, err := record.Unseal(tableDeadKeys, id[:], e.Value, record.DecodeKeyTombstone); err != nil {
		c.reportError(recordError(err))
		return
	}
	if value, ok := c.get(tableKeys, id[:]); ok && value != nil {
		c.reportDerived(func() error { return c.tx.delete(tableKeys, id[:]) }, "key %s has a record and a tombstone", id)
	}
}

func (c *checker) inspectKey(e Entry) {
	id, ok := c.id(tableKeys, e.Key)
	if !ok {
		return
	}
	k, err := record.Unseal(tableKeys, id[:], e.Value, record.DecodeKey)
	if err != nil {
		c.reportError(recordError(err))
		return
	}
	for _, v := range k.Verifiers.All {
		if v.Retired {
			continue
		}
		if _, err := parseVerifier(v.PHC); err != nil {
			c.reportError(fmt.Errorf("key %s: %w", id, err))
		}
	}
	if len(k.Verifiers.All) == 0 && c.alone() {
		c.report("key %s has no verifier", id)
	}
	if problem := names.Problem(names.Stored, k.Name.Value); problem != "" {
		c.report("key %s: its name %s %s", id, names.Quote(k.Name.Value), problem)
	}
	name := record.NameKey(k.Owner, k.Name.Value, id)
	if entry, ok := c.get(tableNames, name); ok && entry == nil {
		c.reportDerived(func() error { return c.tx.put(tableNames, name, nil) }, "key %s is not in the index of names", id)
	}
	c.inspectMembership(k.Groups.Now(), id)
	if k.Owner == ServerOwner {
		return
	}
	u, err := c.tx.getUser(k.Owner)
	switch {
	case err != nil: // there is a finding about the user's record
	case u == nil:
		c.inspectOrphan(k)
	case isAnonymous(u) && c.alone():
		c.report("key %s belongs to user %s, who is anonymous", id, k.Owner)
	}
}

// inspectOrphan inspects a key whose user does not exist. A deleted user takes the keys along.
func (c *checker) inspectOrphan(k *record.Key) {
	dead, ok := c.get(tableDeadUsers, k.Owner[:])
	switch {
	case !ok || !c.alone():
	case dead != nil:
		c.reportDerived(func() error { return c.tx.DeleteKey(k.Owner, k.ID) }, "key %s belongs to user %s, who was deleted", k.ID, k.Owner)
	default:
		c.report("key %s belongs to user %s, who does not exist", k.ID, k.Owner)
	}
}

func (c *checker) inspectName(e Entry) {
	fix := func() error { return c.tx.delete(tableNames, e.Key) }
	name, id, err := record.SplitNameKey(e.Key)
	if err != nil {
		c.reportDerived(fix, "the index of names has the entry %x", e.Key)
		return
	}
	ownerAndName := e.Key[:len(e.Key)-len(id)]
	if bytes.Equal(ownerAndName, c.previousName) && c.alone() {
		c.report("key %s has the name %q, like another key of its owner", id, name)
	}
	c.previousName = bytes.Clone(ownerAndName)
	k, err := c.tx.getKey(id)
	if err != nil {
		return // there is a finding about the key's record
	}
	if k == nil || k.Name.Value != name || !bytes.Equal(k.Owner[:], e.Key[:16]) {
		c.reportDerived(fix, "the index of names has %q for key %s, which has another name or owner, or is gone", name, id)
	}
}

func (c *checker) inspectData(e Entry) {
	if _, err := openRecord(tableData, e.Key, e.Value); err != nil {
		c.reportError(err)
	}
}

func (c *checker) inspectGroup(e Entry) {
	if _, err := record.UnsealGroup(string(e.Key), e.Value); err != nil {
		c.reportError(recordError(err))
	}
}

func (c *checker) inspectMember(e Entry) {
	fix := func() error { return c.tx.delete(tableMembers, e.Key) }
	group, id, err := record.SplitMemberKey(e.Key)
	if err != nil {
		c.reportDerived(fix, "the index of members has the entry %x", e.Key)
		return
	}
	u, err := c.tx.getUser(id)
	if err != nil || u != nil && u.Groups.Now() == group {
		return // if it cannot be read, there is a finding about the record
	}
	k, err := c.tx.getKey(id)
	if err != nil || k != nil && k.Groups.Now() == group {
		return
	}
	c.reportDerived(fix, "the index of members has %s in group %q, but it is in another or is gone", id, group)
}

// inspectHash inspects a hash at the store's own cost. It can be made again by a login.
func (c *checker) inspectHash(e Entry) {
	fix := func() error { return c.tx.delete(tableHashes, e.Key) }
	phc, err := decodeHash(e.Key, e.Value)
	if err == nil {
		_, err = parseVerifier(phc)
	}
	if err != nil || len(e.Key) != len(hashID{}.tableKey()) {
		c.reportDerived(fix, "the hash %x cannot be read", e.Key)
		return
	}
	id := uuid.UUID(e.Key[:16])
	k, err := c.tx.getKey(id)
	if err != nil {
		return // there is a finding about the key's record
	}
	if k == nil {
		c.reportDerived(fix, "there is a hash of key %s, which is gone", id)
	}
}

// inspectLastUse inspects the last use of a token. A damaged one cannot be made again, but a use
// that is not known does no harm.
func (c *checker) inspectLastUse(e Entry) {
	fix := func() error { return c.tx.delete(tableLastUse, e.Key) }
	if _, err := decodeLastUse(e.Key, e.Value); err != nil || len(e.Key) != len(lastuse.ID{}) {
		c.reportDerived(fix, "the last use %x cannot be read", e.Key)
		return
	}
	id := lastuse.ID(e.Key).Key()
	if k, err := c.tx.getKey(id); err == nil && k == nil {
		c.reportDerived(fix, "there is a last use of key %s, which is gone", id)
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
